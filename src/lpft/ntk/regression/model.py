"""What every solver returns: a function of kernels that gives logits."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from lpft.analysis.inputs import class_indices
from lpft.errors import InputError
from lpft.ntk.regression.kernels import Array, apply_kernel, reversed_kernel, scaled_logits
from lpft.ntk.statistics import checked_kernel

Setting = float | int | bool | str | None


@dataclass(frozen=True)
class Strength:
    """The regularisation strength lambda, and how it was found.

    ``value`` is in the units of the kernel; ``relative`` is value / mean diagonal of the training
    kernel, None where the grid does not depend on the kernel. ``folds`` is 0 where no folds were
    cut; ``at_edge``: the best of the grid is its first or last one.
    """

    value: float
    relative: float | None = None
    folds: int = 0
    at_edge: bool = False


@dataclass(frozen=True)
class KernelModel:
    """``f(x) = s f_0(x) + sum_i K(x, x_i) alpha_i + b`` (with ``+ sum_i K(x_i, x)^T beta_i``).

    ``coefficients`` alpha [N, C]; ``intercept`` b [C]; ``f0_scale`` s; ``reverse_coefficients``
    beta [N, C] of the asymmetric solver only. ``probabilistic``: softmax(f) is what the solver
    fitted. ``settings`` are the options as used; ``caveats`` what a reader must know.

    Rows of a kernel are the rows to predict, of training and of test kernels, in :meth:`predict`
    and in :meth:`score`. (LM-Kernel-FT has training rows first; the paper's code mixes both.)
    """

    solver: str
    coefficients: Array
    intercept: Array
    f0_scale: float = 0.0
    reverse_coefficients: Array | None = None
    strength: Strength | None = None
    converged: bool = True
    probabilistic: bool = False
    settings: dict[str, Setting] = field(default_factory=dict)
    caveats: tuple[str, ...] = ()

    def predict(
        self, kernel: ArrayLike, f0: Array | None = None, reverse: ArrayLike | None = None
    ) -> Array:
        """The logits of M rows, M x C.

        ``kernel`` [M, C, N, C] (or [M, N]) between these rows and the N training rows; ``f0``
        [M, C]; ``reverse`` [N, C, M, C] (or [N, M]), needed where ``reverse_coefficients`` are.

        Raises:
            InputError: another shape, entries that are not finite, or an input is missing.
        """
        rows, classes = self.coefficients.shape
        table, _ = checked_kernel(kernel, classes)
        if (table.shape[1] if table.ndim == 2 else table.shape[2]) != rows:
            raise InputError(
                f"kernel: expected {rows} columns, one per training row, found shape {table.shape}"
            )
        logits = apply_kernel(table, self.coefficients) + self.intercept
        if self.reverse_coefficients is not None:
            if reverse is None:
                raise InputError(
                    "this asymmetric model needs the reversed kernel K(x_i, x) beside K(x, x_i): "
                    "compute it with training rows first, or fit with mix=1"
                )
            turned = reversed_kernel(checked_kernel(reverse, classes)[0])
            if turned.shape != table.shape:
                raise InputError(
                    f"reversed kernel: expected that of the kernel's rows and columns exchanged, "
                    f"found {turned.shape} for {table.shape} once turned"
                )
            logits = logits + apply_kernel(turned, self.reverse_coefficients)
        return logits + scaled_logits(f0, self.f0_scale, len(logits), classes)

    def score(
        self,
        kernel: ArrayLike,
        labels: ArrayLike,
        f0: Array | None = None,
        reverse: ArrayLike | None = None,
    ) -> float:
        """The fraction of rows whose largest predicted logit is the label's.

        ``labels`` [M] class indices; the rest as in :meth:`predict`.
        """
        logits = self.predict(kernel, f0, reverse)
        return accuracy(logits, class_indices(labels, *logits.shape))


def accuracy(logits: Array, labels: ArrayLike) -> float:
    """The fraction of rows whose largest logit (the first of equal ones) is the label's."""
    return float(np.mean(logits.argmax(axis=1) == labels))
