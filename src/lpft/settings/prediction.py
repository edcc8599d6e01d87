"""Settings of ``lpft predict``: what becomes of the rows and columns of its input."""

from typing import Literal

from lpft.settings.fields import Decides, Settings, setting

InvalidRows = Literal["error", "mark", "skip"]


class PredictionSettings(Settings):
    """Which rows and columns of a file the output has beside its predictions."""

    heading = "what the output has"
    commands = ("predict",)
    decides = Decides.NOTHING

    invalid_rows: InvalidRows = setting(
        "error",
        "rows without a text: error names them before any prediction; mark keeps them in their "
        "place, without a label and with the reason; skip leaves them out and gives the others "
        "the number of their row",
    )
    keep_columns: tuple[str, ...] | None = setting(
        None,
        "columns of the file that the output has too: all, none, or names separated by commas; "
        "those with the name of one of ours become input_NAME (default: all with --invalid-rows "
        "mark or skip, otherwise none)",
    )
    top_k: int | None = setting(
        None, "give the K most probable classes alone, the first first (default: all classes)", ge=1
    )

    @property
    def keeps(self) -> tuple[str, ...] | Literal["all"]:
        """The names of the columns to keep, or all."""
        if self.keep_columns is None:
            return () if self.invalid_rows == "error" else "all"
        if self.keep_columns == ("all",):
            return "all"
        return () if self.keep_columns == ("none",) else self.keep_columns
