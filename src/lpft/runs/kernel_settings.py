"""The settings of ``lpft ntk``: the only place of their names, types, defaults and help texts."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from lpft.choices import Granularity, KernelKind, LinearMethod, Products, Solver
from lpft.errors import InputError
from lpft.runs.config import (
    DataSettings,
    RunConfig,
    convert,
    make_config,
    plain,
    setting_fields,
)
from lpft.runs.kernel_regression_settings import RegressionSettings, check_regression
from lpft.training.methods import get_method
from lpft.training.settings import TrainingSettings, setting

MODEL_SETTINGS = (
    "model",
    "revision",
    "pooling",
    "head_bias",
    "max_length",
    "seed",
    "head_scale",
    "lora_rank",
    "lora_alpha",
    "class_weight",
    "device",
)
"""The settings of a training that decide the kernel at its start."""

DATA_SETTINGS = tuple(name for name in setting_fields((DataSettings,)) if name != "ood")


@dataclass(frozen=True)
class KernelSettings:
    """Which kernels are computed, how, and what is predicted from them."""

    methods: tuple[str, ...] = setting(
        ("ft", "lora", "lp-ft", "lp-lora"),
        "methods of lpft methods, with commas, whose kernels at the start are computed",
    )
    max_samples: int = setting(
        250, "texts of a split at most, drawn with a fixed seed, each class in proportion"
    )
    kernel: KernelKind = setting(
        "sgd",
        "sgd: the NTK; signgd and asymmetric: with signs of gradients on both sides or one",
        get_args(KernelKind),
    )
    solver: tuple[str, ...] = setting(
        ("paper", "klr"),
        f"of kernel regression, with commas, of {', '.join(get_args(Solver))}; or none",
    )
    granularity: tuple[str, ...] = setting(
        ("layer", "kind"), "parts of F that are kept, with commas: layer, kind; or none"
    )
    linear_method: LinearMethod = setting(
        "auto",
        "how linear weights are contracted; auto takes the cheapest way for each",
        get_args(LinearMethod),
    )
    products: Products = setting(
        "exact",
        "precision of gradients' products; tf32 and bfloat16 are faster and report their error",
        get_args(Products),
    )
    dtype: Literal["float32", "float64"] = setting(
        "float32", "number format of passes and products; sums are float64", ("float32", "float64")
    )
    with_start: bool = setting(
        False, "of a trained run: also the kernel at the start of its training, and their alignment"
    )
    dynamics: int = setting(
        0,
        "training texts on which one step and some tens of steps of gradient descent are made, "
        "beside what the first-order change and the kernel's linear model predict; 0 for none",
    )
    memory: str | None = setting(
        None, "that the process may take in all, such as 6GB (default: half of what is free)"
    )


_OWN = (KernelSettings, RegressionSettings)

KERNEL_OPTIONS = (*DATA_SETTINGS, *MODEL_SETTINGS, *setting_fields(_OWN))
"""The settings that ``lpft ntk`` takes."""

OWNERS = (DataSettings, TrainingSettings, *_OWN)


@dataclass(frozen=True)
class KernelConfig:
    """Everything that decides the kernels of ``lpft ntk``, with the folder that they go to."""

    run: RunConfig
    kernels: KernelSettings
    regression: RegressionSettings
    output_dir: Path

    @property
    def wants_validation(self) -> bool:
        """Whether kernel regression chooses a strength on validation texts."""
        return self.regression.wants_validation(self.kernels.solver)

    def flat(self) -> dict[str, Any]:
        """All settings by their option's name, ready for JSON."""
        given = self.run.flat()
        names = (*DATA_SETTINGS, *MODEL_SETTINGS)
        own = asdict(self.kernels) | asdict(self.regression)
        return {name: given[name] for name in names} | plain(own)


def make_kernel_config(values: Mapping[str, Any], output_dir: Path | None = None) -> KernelConfig:
    """A resolved configuration from settings by name.

    Raises:
        InputError: as :func:`~lpft.runs.config.make_config`, an unknown method, solver or part, or
            an option of kernel regression that no chosen solver takes.
    """
    known = setting_fields(_OWN)
    own: dict[type, dict[str, Any]] = {owner: {} for owner in _OWN}
    for name, value in values.items():
        if name in known:
            own[known[name][0]][name] = convert(name, value, known[name][2])
    kernels = _check(KernelSettings(**own[KernelSettings]))
    regression = RegressionSettings(**own[RegressionSettings])
    check_regression(regression, kernels.solver, kernels.kernel)
    others = {name: value for name, value in values.items() if name not in known}
    # The settings of every method's start at once: a scaled head, and an adapter's factors.
    run = make_config({**others, "method": "lp-lora"})
    if output_dir is None:
        name = run.output_dir.name.replace("-lp-lora-seed", "-seed")
        output_dir = Path("kernels") / name
    return KernelConfig(run, kernels, regression, output_dir)


def _check(settings: KernelSettings) -> KernelSettings:
    for method in settings.methods:
        get_method(method)
    if len(set(settings.methods)) < len(settings.methods):
        raise InputError(f"--methods {','.join(settings.methods)} names one twice")
    if settings.max_samples < 2:
        raise InputError(f"--max-samples {settings.max_samples} must be at least 2")
    if settings.dynamics < 0:
        raise InputError(f"--dynamics {settings.dynamics} must be a number of texts, 0 or more")
    if settings.dynamics > 0 and settings.kernel != "sgd":
        raise InputError(
            f"--dynamics are those of gradient descent, not of --kernel {settings.kernel}: leave "
            "one of them out"
        )
    return replace(
        settings,
        solver=_some_of("solver", settings.solver, get_args(Solver)),
        granularity=_some_of("granularity", settings.granularity, get_args(Granularity)),
    )


def _some_of(name: str, given: tuple[str, ...], known: tuple[str, ...]) -> tuple[str, ...]:
    if given == ("none",):
        return ()
    for part in given:
        if part not in known:
            raise InputError(
                f"--{name} {part} is unknown: expected some of {', '.join(known)}, or none"
            )
    return given
