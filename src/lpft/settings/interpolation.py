"""The settings of ``lpft interpolate``."""

import math
from typing import Annotated, Any

from pydantic import BeforeValidator

from lpft.errors import InputError, named
from lpft.settings import Device
from lpft.settings.fields import Decides, Settings, setting
from lpft.settings.files import File


def _alphas(value: Any) -> tuple[float, ...]:
    """Numbers from 0 to 1 in ascending order, with 0 and 1 among them."""
    try:
        numbers = tuple(float(number) for number in value)
    except (TypeError, ValueError):
        numbers = (math.nan,)
    if not all(0 <= number <= 1 for number in numbers):
        listed = ",".join(map(str, value)) if isinstance(value, tuple) else value
        raise InputError(
            f"{named('alphas')} {listed} must be numbers from 0 to 1, separated by commas"
        )
    return tuple(sorted({0.0, 1.0, *numbers}))


class InterpolationSettings(Settings):
    """Which points between linear probing and fine-tuning are evaluated, and on what."""

    heading = "interpolation"
    commands = ("interpolate",)
    decides = Decides.NOTHING

    alphas: Annotated[tuple[float, ...], BeforeValidator(_alphas)] = setting(
        tuple(tenth / 10 for tenth in range(11)),
        "points, separated by commas: 0 is the start from linear probing, 1 the trained run; both "
        "are always evaluated (default: 0,0.1,...,1)",
    )
    validation_file: File | None = setting(
        None,
        "labelled texts like those of training, and none of them, that choose the point and fit "
        "the temperatures (default: the validation rows of the run)",
    )
    ood: dict[str, File] = setting(
        {},
        "more labelled texts from another distribution, with a name for them; may be repeated "
        "(default: the OOD sets of the run)",
        form="NAME=FILE",
    )
    data_dir: File | None = setting(
        None, "folder of the task's official release files (default: as in training)"
    )
    device: Device = setting("auto", "device to compute on; auto takes a GPU if there is one")
