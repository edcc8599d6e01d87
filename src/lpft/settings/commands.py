"""Settings of commands other than train: predict, explain, interpolate, serve, reproduce."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, model_validator

from lpft.errors import InputError, named
from lpft.paper import KERNEL_SAMPLES, MODEL, SEEDS
from lpft.settings import Device
from lpft.settings.fields import Decides, Settings, setting
from lpft.settings.kernels import check_distinct
from lpft.settings.values import File

InvalidRows = Literal["error", "mark", "skip"]


class PredictionSettings(Settings):
    """Which rows and columns of a file appear in the output."""

    heading = "output"
    commands = ("predict",)
    decides = Decides.NOTHING

    invalid_rows: InvalidRows = setting(
        "error",
        "what to do about rows without a text; error: name them before any prediction and stop; "
        "mark: keep them in their place, with the reason instead of a label; skip: leave them "
        "out, and give the others their row numbers",
    )
    keep_columns: tuple[str, ...] | None = setting(
        None,
        "columns of the file to copy to the output: all, none, or names separated by commas; "
        "those named like a column of the predictions become input_NAME (default: all with "
        "--invalid-rows mark or skip, otherwise none)",
    )
    top_k: int | None = setting(
        None,
        "output the K most probable classes only, the most probable first (default: all classes)",
        ge=1,
    )

    @property
    def copied_columns(self) -> tuple[str, ...] | Literal["all"]:
        """The names of the columns to copy, or all."""
        if self.keep_columns is None:
            return () if self.invalid_rows == "error" else "all"
        if self.keep_columns == ("all",):
            return "all"
        return () if self.keep_columns == ("none",) else self.keep_columns


InfluenceScore = Literal["regression", "first-order"]


class ExplanationSettings(Settings):
    """How training rows are scored, and how many are shown."""

    heading = "explanations"
    commands = ("explain",)
    decides = Decides.NOTHING

    score: InfluenceScore = setting(
        "regression",
        "how training rows are scored; regression: by their contributions to kernel regression on "
        "all of them; first-order: by how far one step on the row alone moves the prediction, "
        "which needs no kernel between training rows",
    )
    top: int = setting(
        5,
        "number of training rows to show that support each prediction, and of those that oppose it",
        ge=1,
    )
    label_errors: int = setting(
        0,
        "also list this many training rows by how wrong their labels look, the most doubtful "
        "first; 0: none",
        ge=0,
    )
    max_rows: int | None = setting(
        None,
        "use at most this many training rows, drawn in proportion to the classes with a fixed "
        "seed (default: all)",
        ge=2,
    )
    data_dir: File | None = setting(
        None, "folder of the task's official release files (default: as in training)"
    )
    memory: str | None = setting(
        None,
        "limit on the memory of the whole process, such as 6GB (default: half of the free memory)",
    )
    device: Device = setting("auto", "device to compute on; auto uses a GPU if there is one")


def _alphas(value: Any) -> tuple[float, ...]:
    """Numbers from 0 to 1 in ascending order, with 0 and 1 among them."""
    try:
        numbers = tuple(float(number) for number in value)
    except (TypeError, ValueError):
        numbers = (math.nan,)
    if not all(0 <= number <= 1 for number in numbers):
        values = ",".join(map(str, value)) if isinstance(value, tuple) else value
        raise InputError(
            f"{named('alphas')} {values} must be numbers from 0 to 1, separated by commas"
        )
    return tuple(sorted({0.0, 1.0, *numbers}))


class InterpolationSettings(Settings):
    """Which points between linear probing and fine-tuning are evaluated, and on what."""

    heading = "interpolation"
    commands = ("interpolate",)
    decides = Decides.NOTHING

    alphas: Annotated[tuple[float, ...], BeforeValidator(_alphas)] = setting(
        tuple(tenth / 10 for tenth in range(11)),
        "points to evaluate, separated by commas: 0 is where fine-tuning started, 1 the trained "
        "run; both are always evaluated (default: 0,0.1,...,1)",
    )
    validation_file: File | None = setting(
        None,
        "labelled texts like those of training, but not among them, that choose the point and fit "
        "the temperatures (default: the validation rows of the run)",
    )
    ood: dict[str, File] = setting(
        {},
        "more labelled texts from another distribution, under a name of your choice; may be "
        "repeated (default: the OOD sets of the run only)",
        form="NAME=FILE",
    )
    data_dir: File | None = setting(
        None, "folder of the task's official release files (default: as in training)"
    )
    device: Device = setting("auto", "device to compute on; auto uses a GPU if there is one")


class ServingSettings(Settings):
    """Where the service listens, and the limits that keep one client from starving the others."""

    heading = "service"
    commands = ("serve",)
    decides = Decides.NOTHING

    host: str = setting(
        "127.0.0.1",
        "address to listen on; 0.0.0.0: all addresses of this machine, without authentication",
    )
    port: int = setting(8000, "port to listen on; 0: any free port", ge=0, le=65535)
    batch_texts: int = setting(
        64, "largest number of texts from concurrent requests that are computed together", ge=1
    )
    batch_wait: float = setting(
        2.0,
        "milliseconds that a request waits for others to share its batch, while the model is idle",
        ge=0,
        le=1000,
    )
    max_texts: int = setting(256, "largest number of texts per request", ge=1)
    max_characters: int = setting(100_000, "largest number of characters per text", ge=1)
    max_bytes: int = setting(10_000_000, "largest number of bytes in the body of a request", ge=1)
    max_queue: int = setting(
        2048,
        "largest number of texts that wait for the model; requests beyond it are answered with 503",
        ge=1,
    )


def _seeds(value: Any) -> Any:
    """``3`` means seeds 0, 1 and 2; ``3,7`` these two; ``3,`` seed 3 alone."""
    if not isinstance(value, tuple):
        return value
    names = value[:-1] if value and value[-1] == "" else value
    values = ",".join(map(str, value))
    try:
        numbers = tuple(int(name) for name in names)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{named('seeds')} {values} must be a number of seeds, or seeds separated by commas"
        ) from error
    if len(value) == 1:
        if numbers[0] < 1:
            raise InputError(f"{named('seeds')} {numbers[0]}: expected at least one seed")
        return tuple(range(numbers[0]))
    if not all(0 <= number < 2**32 for number in numbers):
        raise InputError(f"{named('seeds')} {values}: expected seeds from 0 to 2**32 - 1")
    if len(set(numbers)) < len(numbers):
        raise InputError(f"{named('seeds')} {values} has duplicates: give each seed once")
    return numbers


class ExperimentSettings(Settings):
    """How much of the paper's experiment to run; None means as in the paper."""

    heading = "experiment"
    commands = ("reproduce",)
    decides = Decides.NOTHING

    model: str = setting(MODEL, "Hub id, model folder, or 'minilm' for the packaged model")
    tasks: tuple[str, ...] | None = setting(
        None, "names of tasks, separated by commas (default: the paper's)"
    )
    methods: tuple[str, ...] | None = setting(
        None, "names of methods, separated by commas (default: the paper's)"
    )
    seeds: Annotated[tuple[int, ...], BeforeValidator(_seeds)] = setting(
        tuple(range(SEEDS)),
        "number of seeds (0, 1, ...), or the seeds themselves, separated by commas "
        f"(default: {SEEDS})",
    )
    kernel_samples: int | None = setting(
        None,
        "compute kernels of at most this many texts per split "
        f"(default: by experiment, usually {KERNEL_SAMPLES})",
        ge=2,
    )
    tuned_rates: bool = setting(
        False,
        "also compare methods at learning rates tuned for each of them on validation, which "
        "trains several times as many runs",
    )
    save_model: bool = setting(False, "save the trained weights of every run")

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for name in ("tasks", "methods"):
            if getattr(self, name) is not None:
                check_distinct(name, getattr(self, name))
        return self
