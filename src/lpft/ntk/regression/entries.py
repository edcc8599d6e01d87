"""The scalar problem that LM-Kernel-FT's solvers see: one row per (sample, logit) entry.

Its code flattens the N x C x N x C kernel to NC x NC and the one-hot labels to NC targets, so a
problem of several classes becomes a single binary one, all logits against all one-hot entries,
with one intercept for all of them. For two classes it may instead take the single logit
``z = f_1 - f_0`` (its option ``binary_classification``): N rows, the kernel
``e^T K(x, x') e`` with e = (-1, 1), and targets -1 and 1.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lpft.errors import InputError
from lpft.ntk.regression.kernels import (
    Array,
    Labels,
    TrainingSet,
    entry_matrix,
    require_two_classes,
)
from lpft.ntk.regression.model import Setting

_SINGLE = np.array([-1.0, 1.0])


@dataclass(frozen=True)
class Entries:
    """``matrix`` [n, n]; ``positive`` [n], whether an entry is the label's; ``offset`` [n], s f_0.

    n is N C, or N for the single logit of two classes. The matrix has
    ``regularization * ||K||_2`` on its diagonal. ``f0_scale``, ``regularization`` and
    ``single_logit`` are the options that it was made with.
    """

    matrix: Array
    positive: NDArray[np.bool_]
    offset: Array
    classes: int
    f0_scale: float
    regularization: float
    single_logit: bool

    @property
    def settings(self) -> dict[str, Setting]:
        """Its options by name."""
        names = ("f0_scale", "regularization", "single_logit")
        return {name: getattr(self, name) for name in names}

    @property
    def labels(self) -> Labels:
        """0 and 1."""
        return self.positive.astype(np.int64)

    @property
    def targets(self) -> Array:
        """The reference's: 0 and 1 for entries of several logits, -1 and 1 for a single one."""
        return self.signs if self.single_logit else self.positive.astype(np.float64)

    @property
    def signs(self) -> Array:
        """-1 and 1."""
        return np.where(self.positive, 1.0, -1.0)

    def coefficients(self, values: Array) -> Array:
        """Numbers per entry as coefficients of the N x C x N x C kernel, N x C.

        A single logit's alpha_i becomes alpha_i e, which gives z as the difference of two logits.
        """
        if self.single_logit:
            return values[:, None] * _SINGLE
        return values.reshape(-1, self.classes)

    def intercept(self, value: float) -> Array:
        """An intercept of the scalar problem as one of the C logits; of z as (-b/2, b/2)."""
        return value * _SINGLE / 2 if self.single_logit else np.full(self.classes, value)


def entry_problem(
    train: TrainingSet,
    *,
    f0_scale: float = 0.0,
    regularization: float = 0.0,
    single_logit: bool = False,
) -> Entries:
    """The scalar problem of a training set.

    Args:
        f0_scale: s; 1 / s is LM-Kernel-FT's ``f0_scaling``, and 0 stands for its default, without
            ``adjust_for_init``.
        regularization: added to the diagonal of the training kernel (never the test kernel), as a
            share of the kernel's largest singular value; LM-Kernel-FT's ``kernel_regularization``.
        single_logit: of two classes the difference of the logits. Not for SignGD kernels, whose
            single-logit kernel is none of these four numbers' combinations.

    Raises:
        InputError: a negative regularization, or a single logit of other than two classes or of
            training rows of one class.
    """
    if not (np.isfinite(regularization) and regularization >= 0):
        raise InputError(f"regularization: expected 0 or more, found {regularization}")
    offset = train.offset(f0_scale)
    if single_logit:
        if train.classes != 2:
            raise InputError(
                f"single_logit takes the difference of 2 logits, found {train.classes} classes; "
                "leave it out"
            )
        require_two_classes(train.labels)
        if train.kernel.ndim == 2:
            matrix = 2 * train.kernel
        else:
            matrix = np.einsum("c,ncmd,d->nm", _SINGLE, train.kernel, _SINGLE)
        positive, flat = train.labels == 1, offset @ _SINGLE
    else:
        matrix = entry_matrix(train.kernel, train.classes)
        positive, flat = train.one_hot.ravel() == 1, offset.ravel()
    if regularization > 0:
        matrix = matrix + regularization * np.linalg.norm(matrix, 2) * np.eye(len(matrix))
    return Entries(matrix, positive, flat, train.classes, f0_scale, regularization, single_logit)
