"""The precision of fine-tuning: bfloat16 where that is faster and agrees with float32.

Products of bfloat16 have 8 significant bits and are added up in float32. Weights, the optimizer's
moments, the head and the loss stay float32, as ``torch.autocast`` does it; so do linear probing,
evaluation and the temperature.
"""

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lpft import distributed
from lpft.errors import one_line, out_of_memory
from lpft.files import write_json
from lpft.model.adapters import trained_head
from lpft.model.inference import resolve_device
from lpft.settings import Precision, TrainingSettings
from lpft.training.cache import SplitInputs

logger = logging.getLogger(__name__)

BOUND = 0.05
"""The largest relative difference of logits and of the gradient from those of float32.

Rounding to bfloat16 errs by up to 2^-9 = 0.2 %. Six layers of MiniLM come to 0.5 to 1 %, and since
independent errors add up as a square root does, 5 % leaves room for models of 100 layers. What
lies beyond it cancels, overflows or loses what small differences of features say. A gradient within
5 % has a cosine of at least 0.998 with that of float32 and adds at most 0.25 % to the variance
which drawing the batch has anyway."""

LEAST_WIDTH, LEAST_TOKENS = 256, 64
"""The width of features and the tokens of a batch from which bfloat16 is faster on a CPU.

Below them the conversions of weights and activations take what the products save: with AVX512-BF16
a step of two layers of width 128 gains 7 to 42 %, of width 32 it loses up to 24 %, and one of 8
tokens at width 384 loses 10 %. From both on every step measured gains at least 20 %."""

_FILE = "precision.json"


@dataclass(frozen=True)
class PrecisionChoice:
    """The precision that ``auto`` chose, and why.

    ``logit_difference`` and ``gradient_difference`` are ``||x_bf16 - x_f32|| / ||x_f32||`` of one
    batch's logits, centred over the classes, and of the gradient of its mean cross-entropy in all
    that trains; None where they decided nothing. ``units`` is what multiplies bfloat16 here.
    """

    used: Precision
    reason: str
    units: str | None = None
    logit_difference: float | None = None
    gradient_difference: float | None = None


def with_precision(
    model: nn.Module, train: SplitInputs, settings: TrainingSettings, folder: Path
) -> tuple[TrainingSettings, PrecisionChoice | None]:
    """``settings`` with a precision in place of ``auto``, and how it was chosen, if it was.

    The choice stays in ``folder``: a run has one for all its trainings, and one that is resumed
    repeats it, on any machine.

    Args:
        model: a classifier as fine-tuning starts from it.
        settings: resolved.
    """
    choice = distributed.agreed(lambda: _read(folder / _FILE))
    if choice is None:
        if settings.precision != "auto":
            return settings, None
        choice = distributed.agreed(lambda: choose_precision(model, train, settings))
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / _FILE, asdict(choice))
        # Where bfloat16 was no choice, float32 is what everybody expects.
        level = logging.DEBUG if choice.logit_difference is None else logging.INFO
        logger.log(level, "fine-tuning in %s", choice.reason)
    else:
        device = resolve_device(settings.device)
        if choice.used == "bfloat16" and bfloat16_units(device) is None:
            logger.warning(
                "the run began in bfloat16 on %s and goes on in it, which is slow here: this "
                "%s has no units for it",
                choice.units,
                device.type.upper(),
            )
    return settings.model_copy(update={"precision": choice.used}), choice


def _read(path: Path) -> PrecisionChoice | None:
    try:
        return PrecisionChoice(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        logger.warning("'%s' is damaged: the precision is chosen again", path)
        return None


def bfloat16_units(device: torch.device) -> str | None:
    """The name of the device's units that multiply bfloat16, or None where it is emulated.

    Of CPUs these are AMX-BF16 and AVX512-BF16, where oneDNN is there to use them.
    """
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return f"{torch.cuda.get_device_name(device)}'s tensor cores"
    elif device.type == "cpu" and torch.backends.mkldnn.is_available():
        capabilities = torch.cpu.get_capabilities()
        for name, units in (("amx_bf16", "AMX-BF16"), ("avx512_bf16", "AVX512-BF16")):
            if capabilities.get(name, False):
                return units
    return None


def choose_precision(
    model: nn.Module, train: SplitInputs, settings: TrainingSettings
) -> PrecisionChoice:
    """bfloat16 where there are units for it, it pays, and a batch agrees; otherwise float32.

    Nothing is timed, so that two runs on one machine choose the same however busy it is. The batch
    is of rows from all over the training set, without dropout.
    """
    assert settings.batch_size is not None, "settings must be resolved"
    device = resolve_device(settings.device)
    units = bfloat16_units(device)
    if units is None:
        return PrecisionChoice(
            "float32", f"float32: this {device.type.upper()} has no units for bfloat16"
        )
    rows = min(settings.batch_size, len(train.labels))
    width, tokens = trained_head(model).in_features, rows * train.tokens.lengths.mean()
    if width < LEAST_WIDTH or tokens < LEAST_TOKENS:
        return PrecisionChoice(
            "float32",
            f"float32: bfloat16 is faster from {LEAST_TOKENS} tokens in a batch and a width of "
            f"{LEAST_WIDTH} on, and here they are {tokens:.0f} and {width}",
            units,
        )
    model.to(device)
    while True:
        chosen = np.linspace(0, len(train.labels) - 1, rows).astype(int)
        try:
            logits, gradient = _differences(model, train.select(chosen), device)
        except Exception as error:
            if out_of_memory(error):
                if rows == 1:
                    return PrecisionChoice(
                        "float32", "float32: too little memory to compare it with bfloat16", units
                    )
                rows //= 2
                continue
            if not isinstance(error, RuntimeError):
                raise
            return PrecisionChoice(
                "float32", f"float32: the model fails in bfloat16 ({one_line(error)})", units
            )
        break
    agrees = logits <= BOUND and gradient <= BOUND  # not of NaN
    differs = (
        f"a batch of {rows} differs from float32 by {100 * logits:.2g} % in its logits and "
        f"{100 * gradient:.2g} % in its gradient; the limit is {100 * BOUND:g} %"
    )
    return PrecisionChoice(
        "bfloat16" if agrees else "float32",
        f"bfloat16 by {units}: {differs}" if agrees else f"float32, not bfloat16: {differs}",
        units,
        *(value if np.isfinite(value) else None for value in (logits, gradient)),
    )


def _differences(model: nn.Module, rows: SplitInputs, device: torch.device) -> tuple[float, float]:
    """How far bfloat16 is from float32 in these rows' logits and their gradient."""
    batch = {
        name: ids.to(device) for name, ids in rows.tokens.batch(range(len(rows.labels))).items()
    }
    labels = torch.tensor(rows.labels, device=device)
    trained = [value for value in model.parameters() if value.requires_grad]
    was_training = model.training
    model.eval()  # with dropout the two would lose different elements
    passes = []
    try:
        for in_bfloat16 in (False, True):
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=in_bfloat16):
                logits = model(**batch).logits.float()
            gradient = torch.autograd.grad(
                cross_entropy(logits, labels), trained, allow_unused=True
            )
            centred = logits.detach() - logits.detach().mean(1, keepdim=True)
            passes.append(([centred], [tensor for tensor in gradient if tensor is not None]))
    finally:
        model.train(was_training)
    return _relative(passes[0][0], passes[1][0]), _relative(passes[0][1], passes[1][1])


def _relative(exact: list[Tensor], rounded: list[Tensor]) -> float:
    """``||rounded - exact|| / ||exact||`` over all tensors; 0 where both are 0."""

    def norm(tensors: list[Tensor]) -> float:
        return float(
            torch.stack([torch.linalg.vector_norm(tensor.double()) for tensor in tensors]).norm()
        )

    difference = norm([b - a for a, b in zip(exact, rounded, strict=True)])
    return 0.0 if difference == 0 else difference / max(norm(exact), np.finfo(float).tiny)
