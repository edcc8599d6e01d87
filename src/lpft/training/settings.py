"""The settings of one training: the only place of their names, types, defaults and help texts."""

import numbers
from dataclasses import dataclass, field, fields, replace
from os import PathLike
from typing import Any, get_args, get_type_hints

from lpft.choices import ClassWeight, Device, Pooling, Precision
from lpft.errors import InputError
from lpft.training.methods import METHODS, get_method


def setting(default: Any, help_text: str, choices: tuple[str, ...] | None = None) -> Any:
    """A dataclass field with the help and choices that the command line shows."""
    return field(default=default, metadata={"help": help_text, "choices": choices})


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is made and trained; None means the default that :func:`resolve` fills in."""

    model: str = setting("minilm", "Hub id, model folder, or 'minilm' for the packaged one")
    revision: str | None = setting(
        None, "branch, tag or commit of a Hub model (default: its main branch)"
    )
    pooling: Pooling | None = setting(
        None, "token or average that is the feature (default: by model)", get_args(Pooling)
    )
    head_bias: bool = setting(True, "give the linear head a bias")
    max_length: int = setting(128, "tokens after which a text is cut")
    method: str = setting("lp-ft", "see lpft methods", tuple(METHODS))
    seed: int = setting(0, "of the random head, the adapter, the dropout and the order of batches")
    epochs: float | None = setting(None, "passes over the training rows (default: 10)")
    batch_size: int | None = setting(None, "rows per step (default: by task and method)")
    learning_rate: float | None = setting(
        None, "AdamW's at the start, decaying linearly to 0 (default: by task and method)"
    )
    weight_decay: float | None = setting(None, "AdamW's decoupled decay (default: 0)")
    head_scale: float | None = setting(
        None, "multiplies the head's weight just before fine-tuning (default: 1)"
    )
    lora_rank: int | None = setting(None, "rank r of the adapter's factors (default: 8)")
    lora_alpha: float | None = setting(None, "the factors are scaled by alpha / r (default: 8)")
    class_weight: ClassWeight | None = setting(
        None,
        "weigh classes by inverse frequency, in probing and fine-tuning alike (default: not)",
        get_args(ClassWeight),
    )
    device: Device = setting("auto", "where to compute", get_args(Device))
    precision: Precision = setting(
        "float32",
        "of the products in fine-tuning; evaluation and prediction are in float32",
        get_args(Precision),
    )
    report_to: str = setting("none", "trackers of Trainer: none, tensorboard, wandb, mlflow, ...")


_FINE_TUNING = {
    "epochs": 10.0,
    "batch_size": 16,
    "learning_rate": 2e-5,
    "weight_decay": 0.0,
    "head_scale": 1.0,
}
_ADAPTER = {"lora_rank": 8, "lora_alpha": 8.0, "learning_rate": 5e-4}


def without_effect(method: str) -> tuple[str, ...]:
    """The settings that a method does not take: of fine-tuning, of an adapter, or of both.

    Raises:
        InputError: there is no such method.
    """
    chosen = get_method(method)
    fine_tuning = () if chosen.fine_tunes else (*_FINE_TUNING, "precision", "report_to")
    factors = () if chosen.adapter is not None else ("lora_rank", "lora_alpha")
    return (*fine_tuning, *factors)


def resolve(
    settings: TrainingSettings, published: dict[str, float] | None = None
) -> TrainingSettings:
    """Fill in every None from ``published`` (a task's hyperparameters) or else the defaults.

    FT and LP-FT share one default rate and batch size, and so do LoRA and LP-LoRA, so that a
    difference between them is a difference of their heads.

    Raises:
        InputError: a setting is of another type or outside its range, or has no effect with the
            chosen method.
    """
    _check_types(settings)
    method = get_method(settings.method)
    defaults: dict[str, Any] = {}
    if method.fine_tunes:
        defaults |= _FINE_TUNING
    if method.adapter is not None:
        defaults |= _ADAPTER
    if published is not None:
        defaults |= published
    for name in without_effect(method.name):
        if getattr(settings, name) != getattr(TrainingSettings, name):
            raise InputError(
                f"--{name.replace('_', '-')} has no effect with --method {method.name} "
                f"({method.summary}): leave it out or choose another method"
            )
    filled = {name: value for name, value in defaults.items() if getattr(settings, name) is None}
    resolved = replace(settings, **filled)
    _check_ranges(resolved)
    return resolved


def check_settings(settings: TrainingSettings) -> None:
    """Check every setting by itself, whatever the method takes.

    Raises:
        InputError: one is of another type or outside its range.
    """
    _check_types(settings)
    get_method(settings.method)
    _check_ranges(settings)


_KINDS: dict[type, tuple[Any, str]] = {
    bool: (bool, "True or False"),
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    str: ((str, PathLike), "text"),
}
"""What a setting of a type may be, and how messages call it."""


def _check_types(settings: TrainingSettings) -> None:
    hints = get_type_hints(TrainingSettings)
    for item in fields(settings):
        value, kinds = getattr(settings, item.name), get_args(hints[item.name])
        kinds = kinds if kinds else (hints[item.name],)
        if value is None and type(None) in kinds:
            continue
        # a choice (Literal) is text
        kind = next((kind for kind in (bool, int, float) if kind in kinds), str)
        accepted, expected = _KINDS[kind]
        if not isinstance(value, accepted) or (kind is not bool and isinstance(value, bool)):
            raise InputError(
                f"--{item.name.replace('_', '-')} {value!r} is of type {type(value).__name__}: "
                f"expected {expected}{' or None' if type(None) in kinds else ''}"
            )


def _check_ranges(settings: TrainingSettings) -> None:
    for item in fields(settings):
        value, choices = getattr(settings, item.name), item.metadata["choices"]
        if choices is not None and value is not None and value not in choices:
            raise InputError(
                f"--{item.name.replace('_', '-')} {value} is unknown: expected one of "
                f"{', '.join(choices)}"
            )
    positive = ("max_length", "epochs", "batch_size", "learning_rate", "lora_rank", "lora_alpha")
    for name in positive:
        value = getattr(settings, name)
        if value is not None and not 0 < value < float("inf"):
            raise InputError(f"--{name.replace('_', '-')} {value} must be a number above 0")
    for name in ("weight_decay", "head_scale", "seed"):
        value = getattr(settings, name)
        if value is not None and not 0 <= value < float("inf"):
            raise InputError(f"--{name.replace('_', '-')} {value} must be a number of at least 0")
    if settings.seed >= 2**32:
        raise InputError(f"--seed {settings.seed} must be below 2**32")
