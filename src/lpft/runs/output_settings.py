"""What a run keeps in its folder beside its numbers; neither setting changes a result."""

from dataclasses import dataclass

from lpft.training.settings import setting


@dataclass(frozen=True)
class OutputSettings:
    """Which large files a run keeps."""

    save_model: bool = setting(True, "keep the trained weights in the run's folder")
    save_features: bool = setting(
        False, "keep every text's features before and after training, and the trained head"
    )
