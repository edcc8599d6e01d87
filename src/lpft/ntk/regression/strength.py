"""The choice of lambda on a grid that scales with the kernel, by folds or validation rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lpft.analysis.calibration import negative_log_likelihood
from lpft.analysis.inputs import class_indices
from lpft.errors import InputError
from lpft.ntk.regression.folds import stratified_folds
from lpft.ntk.regression.kernels import (
    Array,
    Labels,
    TrainingSet,
    apply_kernel,
    block,
    mean_diagonal,
    scaled_logits,
)
from lpft.ntk.regression.model import Strength
from lpft.ntk.statistics import checked_kernel

RELATIVE_STRENGTHS = tuple(10.0**exponent for exponent in range(3, -7, -1))
"""The grid, times the mean diagonal of the training kernel: from a constant fit to a near exact."""

FOLDS = 5

Path = Callable[[TrainingSet, Sequence[float], bool], tuple[list[Array], bool]]
"""(training rows, strengths from strong to weak, whether for good) -> alphas, all converged."""

HeldOutLoss = Callable[[Array, Labels], float]
"""(logits [M, C], labels [M]) -> mean loss per row."""


@dataclass(frozen=True)
class ValidationSet:
    """Rows that choose the strength: ``kernel`` [V, C, N, C] or [V, N] to the training rows,
    V class indices and f_0 [V, C]."""

    kernel: Array
    labels: Labels
    f0: Array | None = None


def solve(
    train: TrainingSet,
    path: Path,
    loss: HeldOutLoss,
    *,
    f0_scale: float,
    strength: float | None,
    folds: int,
    validation: ValidationSet | None,
) -> tuple[Array, Strength, bool]:
    """alpha [N, C] of all training rows at the given strength, or at the one of lowest loss.

    Without ``strength``, each of ``RELATIVE_STRENGTHS`` times the mean diagonal is tried: on the
    validation rows where they are given, otherwise on stratified folds of whole samples, whose
    losses are summed over all samples. Of equal losses the stronger regularisation is taken.

    Raises:
        InputError: a strength that is not above 0, one beside validation rows, or a wrong
            validation set.
    """
    scale = mean_diagonal(train.kernel, train.classes)
    if strength is not None:
        if not (np.isfinite(strength) and strength > 0):
            raise InputError(f"strength: expected a finite number above 0, found {strength}")
        if validation is not None:
            raise InputError(
                "strength and validation exclude each other: leave strength out to choose it on "
                "the validation rows"
            )
        found, searched = Strength(strength, strength / scale), True
    else:
        grid = [relative * scale for relative in RELATIVE_STRENGTHS]
        if validation is None:
            parts = stratified_folds(train.labels, folds)
            losses, searched = _losses_of_folds(train, path, loss, f0_scale, grid, parts)
        else:
            parts = []
            losses, searched = _losses_of_validation(train, path, loss, f0_scale, grid, validation)
        best = int(np.argmin(losses))
        found = Strength(
            grid[best], RELATIVE_STRENGTHS[best], len(parts), best in (0, len(grid) - 1)
        )
    alphas, converged = path(train, [found.value], True)
    return alphas[0], found, converged and searched


def held_out_nll(logits: Array, labels: Labels) -> float:
    """Mean cross-entropy of softmax(f), in nats."""
    return negative_log_likelihood(logits, labels)


def held_out_squares(logits: Array, labels: Labels) -> float:
    """Mean of ``||f - onehot(y)||^2`` over rows."""
    return float(np.sum((logits - np.eye(logits.shape[1])[labels]) ** 2, axis=1).mean())


def _losses_of_folds(
    train: TrainingSet,
    path: Path,
    loss: HeldOutLoss,
    f0_scale: float,
    grid: Sequence[float],
    parts: Sequence[tuple[Labels, Labels]],
) -> tuple[Array, bool]:
    """The summed held-out loss of each strength, and whether every fit converged."""
    total, converged = np.zeros(len(grid)), True
    offset = train.offset(f0_scale)
    for fitted, held in parts:
        part = train.take(fitted)
        alphas, met = path(part, grid, False)
        converged &= met
        kernel = block(train.kernel, held, fitted)
        for place, alpha in enumerate(alphas):
            logits = offset[held] + apply_kernel(kernel, alpha)
            total[place] += len(held) * loss(logits, train.labels[held])
    return total, converged


def _losses_of_validation(
    train: TrainingSet,
    path: Path,
    loss: HeldOutLoss,
    f0_scale: float,
    grid: Sequence[float],
    validation: ValidationSet,
) -> tuple[Array, bool]:
    """The mean loss of each strength on the validation rows, and whether every fit converged."""
    kernel, _ = checked_kernel(validation.kernel, train.classes)
    columns = kernel.shape[1] if kernel.ndim == 2 else kernel.shape[2]
    if kernel.ndim != train.kernel.ndim or columns != len(train.labels):
        raise InputError(
            f"validation kernel: expected {len(train.labels)} columns, one per training row, in "
            f"the form of the training kernel {train.kernel.shape}, found shape {kernel.shape}"
        )
    labels = class_indices(validation.labels, len(kernel), train.classes)
    offset = scaled_logits(validation.f0, f0_scale, len(kernel), train.classes)
    alphas, converged = path(train, grid, False)
    losses = [loss(offset + apply_kernel(kernel, alpha), labels) for alpha in alphas]
    return np.array(losses), converged
