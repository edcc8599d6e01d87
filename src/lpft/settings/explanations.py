"""The settings of ``lpft explain``."""

from typing import Literal

from lpft.settings import Device
from lpft.settings.fields import Decides, Settings, setting
from lpft.settings.files import File

InfluenceScore = Literal["regression", "first-order"]


class ExplanationSettings(Settings):
    """How training rows are scored, and how many are shown."""

    heading = "explanations"
    commands = ("explain",)
    decides = Decides.NOTHING

    score: InfluenceScore = setting(
        "regression",
        "regression: what kernel regression on all training rows owes to each; first-order: how "
        "far one step on the row alone moves the prediction, which needs no kernel among them",
    )
    top: int = setting(
        5, "training rows shown that speak for each prediction, and that speak against it", ge=1
    )
    label_errors: int = setting(
        0, "also name so many training rows, those whose labels look wrong first; 0 for none", ge=0
    )
    max_rows: int | None = setting(
        None,
        "largest number of training rows, drawn with a fixed seed in proportion to the classes "
        "(default: all)",
        ge=2,
    )
    data_dir: File | None = setting(
        None, "folder of the task's official release files (default: as in training)"
    )
    memory: str | None = setting(
        None,
        "limit on the memory of the whole process, such as 6GB (default: half of the free memory)",
    )
    device: Device = setting("auto", "device to compute on; auto takes a GPU if there is one")
