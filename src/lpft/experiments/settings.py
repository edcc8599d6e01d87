"""The settings of ``lpft reproduce``: the only place of their names, defaults and help texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lpft.errors import InputError
from lpft.paper import KERNEL_SAMPLES, MODEL, SEEDS
from lpft.runs.config import DataSettings, convert, setting_fields
from lpft.runs.options import GROUPS
from lpft.training.settings import TrainingSettings, setting

MOST_SEED = 2**32


@dataclass(frozen=True)
class ExperimentSettings:
    """How much of the paper's experiment is done; None means what the paper did."""

    model: str = setting(MODEL, "Hub id, model folder, or 'minilm' for the packaged one")
    tasks: tuple[str, ...] | None = setting(
        None, "tasks of lpft tasks, with commas (default: the paper's)"
    )
    methods: tuple[str, ...] | None = setting(
        None, "methods of lpft methods, with commas (default: the paper's)"
    )
    seeds: tuple[str, ...] = setting(
        (str(SEEDS),), "how many seeds (0, 1, ...), or the seeds themselves with commas"
    )
    kernel_samples: int | None = setting(
        None,
        "texts of a split at most whose kernel is computed "
        f"(default: by experiment, mostly {KERNEL_SAMPLES})",
    )
    save_model: bool = setting(False, "keep the trained weights of every run")


RUN_OPTIONS = (
    "revision",
    "data_dir",
    "template",
    "split_protocol",
    "max_train_samples",
    "max_validation_samples",
    "pooling",
    "head_bias",
    "max_length",
    "epochs",
    "batch_size",
    "learning_rate",
    "weight_decay",
    "lora_rank",
    "lora_alpha",
    "class_weight",
    "device",
    "precision",
)
"""The settings of ``lpft train`` that ``lpft reproduce`` hands to every run."""

EXPERIMENT_OPTIONS = (*setting_fields((ExperimentSettings,)), *RUN_OPTIONS)
"""The settings that ``lpft reproduce`` takes."""

EXPERIMENT_OWNERS = (DataSettings, TrainingSettings, ExperimentSettings)

EXPERIMENT_GROUPS = {**GROUPS, ExperimentSettings: "experiment"}


def experiment_settings(given: Mapping[str, Any]) -> ExperimentSettings:
    """The experiment's own settings among those that are given by name.

    Raises:
        InputError: a value of a wrong type, a name twice, or fewer than 2 texts of a kernel.
    """
    known = setting_fields((ExperimentSettings,))
    own = {
        name: convert(name, value, known[name][2]) for name, value in given.items() if name in known
    }
    settings = ExperimentSettings(**own)
    for option in ("tasks", "methods", "seeds"):
        _check_names(option, getattr(settings, option))
    if settings.kernel_samples is not None and settings.kernel_samples < 2:
        raise InputError(f"--kernel-samples {settings.kernel_samples} must be at least 2")
    return settings


def chosen_seeds(given: Sequence[str]) -> tuple[int, ...]:
    """``("3",)`` is the seeds 0, 1 and 2; ``("3", "7")`` these two; ``("3", "")`` the seed 3 alone.

    Raises:
        InputError: no seed, something that is no whole number, one outside 0 to 2^32 - 1, or one
            twice.
    """
    listed = ",".join(given)
    names = given[:-1] if given and not given[-1] else given
    try:
        numbers = tuple(int(name) for name in names)
    except ValueError as error:
        raise InputError(
            f"--seeds {listed} must be a number of seeds, or seeds with commas"
        ) from error
    if len(given) == 1:
        if numbers[0] < 1:
            raise InputError(f"--seeds {numbers[0]}: expected at least one seed")
        return tuple(range(numbers[0]))
    if not all(0 <= number < MOST_SEED for number in numbers):
        raise InputError(f"--seeds {listed}: expected seeds from 0 to 2**32 - 1")
    if len(set(numbers)) < len(numbers):
        raise InputError(f"--seeds {listed} names one twice")
    return numbers


def _check_names(option: str, names: Sequence[str] | None) -> None:
    if names is None:
        return
    listed = ",".join(names)
    if not any(names):
        raise InputError(f"--{option} '{listed}' names nothing: leave it out, or name some")
    if len(set(names)) < len(names):
        raise InputError(f"--{option} {listed} names one twice")


def default_folder(name: str, model: str | None, *, tiny: bool) -> Path:
    """``experiments/<name>-<model>``; of a tiny model that is not named, ``<name>-tiny``."""
    if model is None:
        model = "tiny" if tiny else ExperimentSettings.model
    return Path("experiments") / f"{name}-{model.rstrip('/').rpartition('/')[2]}"
