"""The model card of a run: its README.md, made from its records."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from lpft.data.examples import TextData
from lpft.training.methods import METHODS

_LIBRARY_NAME = "lpft"


def model_card(
    config: dict[str, Any], data: TextData, metrics: dict[str, Any], reason: str | None
) -> str:
    """Markdown with the data, the method, ID beside OOD, calibration, use and limits.

    ``reason`` says why the temperature stayed 1, if it did.
    """
    environment = Environment(
        loader=PackageLoader("lpft.runs"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters["cell"] = _markdown_cell
    return environment.get_template("card.md.j2").render(
        config=config,
        data=data,
        metrics=metrics,
        method=METHODS[config["method"]],
        paired=isinstance(data.train.texts[0], tuple),
        reason=reason,
        library=_LIBRARY_NAME,
    )


def _markdown_cell(value: Any) -> str:
    """Text that neither ends a table cell nor becomes Markdown or HTML."""
    escaped = " ".join(str(value).split())
    for character in "\\`*_[]|#":
        escaped = escaped.replace(character, "\\" + character)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
