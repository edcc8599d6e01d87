"""The squared loss in closed form: training in time, regression, and Gaussian processes.

With the kernel K of the start throughout, gradient descent at a small rate eta on
``1/2 sum_i ||f(x_i) - y_i||^2`` is the flow ``df/dt = -eta K (f - y)``, which an eigendecomposition
of K solves for all times. For the cross-entropy, which has no closed form, see
:func:`lpft.ntk.dynamics.linearized_training`.

Every method is a filter g of K's spectrum: with ``K = V diag(lambda) V^T``, ``V g(lambda) V^T
(y - f_0)`` is the change of the training samples' outputs, or the coefficients by which ``K_*``
gives that of other samples.

Kernels are N x C x M x C, or N x M for ``K ⊗ I_C``; arrays, tensors, or an ``EmpiricalNTK``, which
stands for its total and whose features show whether it is one of the same samples. Results are
NumPy's.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lpft.analysis.inputs import finite_matrix, short_repr
from lpft.errors import InputError
from lpft.ntk.regression.kernels import require_symmetric
from lpft.ntk.regression.multiclass import positive_part
from lpft.ntk.statistics import checked_kernel, kernel_matrix, same_features

Array = NDArray[np.float64]


@dataclass(frozen=True)
class GaussianPrediction:
    """A Gaussian over the outputs of M samples.

    ``mean`` [M, C]; ``covariance`` in the form of the kernel: [M, C, M, C], or [M, M] for the same
    one of each output.
    """

    mean: Array
    covariance: Array

    __repr__ = short_repr

    @property
    def standard_deviation(self) -> Array:
        """Of each output [M, C]; rounding below zero counts as zero."""
        if self.covariance.ndim == 2:
            variances = np.repeat(np.diag(self.covariance)[:, None], self.mean.shape[1], axis=1)
        else:
            variances = np.einsum("ncnc->nc", self.covariance)
        return np.sqrt(np.maximum(variances, 0))


class SquaredLoss:
    """Training of N samples on the squared loss in the kernel's linear model.

    K is decomposed once, for all methods. Directions in which its eigenvalues are rounding do not
    train: where K is singular, inverses are pseudo-inverses.

    Args:
        kernel: K of the training samples with themselves.
        targets: y [N, C], such as ``np.eye(C)[labels]``.
        start: outputs f_0 [N, C] before training; 0 by default.

    Raises:
        InputError: shapes that do not belong together, values that are not finite, or a kernel
            that is not symmetric and positive semidefinite.
    """

    def __init__(
        self, kernel: ArrayLike, targets: ArrayLike, start: ArrayLike | None = None
    ) -> None:
        self._targets = finite_matrix(targets, "targets")
        rows, self._outputs = self._targets.shape
        self._kernel = self._checked("training kernel", kernel, rows, rows)
        require_symmetric(self._kernel, "the squared loss")
        self._training = kernel
        # K = V diag(lambda) V^T on the directions above rounding: all that is needed at any time t.
        self._values, self._vectors = positive_part(kernel_matrix(self._kernel), "the squared loss")
        self._start = self._start_outputs("start", start, rows)
        self._error = self._as_columns(self._targets - self._start)

    def train_outputs(self, time: float) -> Array:
        """Outputs of the training samples, ``f_t = y + exp(-K t) (f_0 - y)`` [N, C].

        ``time`` is t = eta times the steps of gradient descent; ``math.inf`` is the end.
        """
        change = self._apply_filter(_trained_fraction(_checked_time(time)), self._error)
        return self._start + change.reshape(self._targets.shape)

    def outputs(self, time: float, kernel: ArrayLike, start: ArrayLike | None = None) -> Array:
        """Outputs of M other samples, ``f_0 + K_* K^-1 (I - exp(-K t)) (y - f_0(X))`` [M, C].

        ``kernel`` K_* is that of the others with the training samples; ``start`` their f_0 [M, C].

        Source: Lee et al., NeurIPS 2019, equations 10 and 11.
        """
        return self._predicted(kernel, start, _trained_inverse(_checked_time(time)))

    def mean(
        self, kernel: ArrayLike, start: ArrayLike | None = None, *, strength: float = 0.0
    ) -> Array:
        """Kernel ridge regression, ``f_0 + K_* (K + lambda I)^-1 (y - f_0(X))`` [M, C].

        It is the mean of :meth:`posterior`, and for ``strength`` lambda = 0 the end of training.
        """
        return self._predicted(kernel, start, _ridge_inverse(_checked_strength(strength)))

    def posterior(
        self,
        kernel: ArrayLike,
        kernel_own: ArrayLike,
        start: ArrayLike | None = None,
        *,
        noise: float = 0.0,
    ) -> GaussianPrediction:
        """The Gaussian process with prior mean f_0 and prior covariance K, given the targets.

        Its mean is :meth:`mean` with lambda the ``noise`` variance of the targets, its covariance
        ``K_** - K_* (K + lambda I)^-1 K_*^T``, without the noise of new targets. ``kernel_own``
        K_** is that of the M samples with themselves. The covariance is that of functions drawn
        from the kernel's prior, not of trained networks: for those see :meth:`ensemble`.

        Source: Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, section 2.2.
        """
        spectral_filter = _ridge_inverse(_checked_strength(noise, "noise"))
        mean = self._predicted(kernel, start, spectral_filter)
        own_kernel = self._checked("kernel_own", kernel_own, len(mean), len(mean))
        _require_columns("kernel_own", kernel_own, kernel)
        cross = kernel_matrix(self._cross(kernel))
        covariance = kernel_matrix(own_kernel) - cross @ self._apply_filter(
            spectral_filter, cross.T
        )
        return GaussianPrediction(mean, _symmetric(covariance).reshape(own_kernel.shape))

    def ensemble(
        self,
        time: float,
        kernel: ArrayLike,
        *,
        prior_train: ArrayLike,
        prior: ArrayLike,
        prior_own: ArrayLike,
        start: ArrayLike | None = None,
    ) -> GaussianPrediction:
        """Networks that train from random starts, all with this kernel: the NTK-GP.

        If the outputs at the start are Gaussian with means f_0 and covariance S (the NNGP kernel),
        then they stay Gaussian. With ``A = K_* K^-1 (I - exp(-K t))`` the mean is
        ``f_0 + A (y - f_0(X))`` and the covariance ``S_** + A S A^T - (A S_*^T + S_* A^T)``.

        A random last layer with weights of variance s_w^2 and biases of variance s_b^2 has
        ``S = (s_w^2 Phi Phi^T + s_b^2) ⊗ I_C`` on its features Phi.

        Args:
            prior_train: S of the training samples, in the form of the kernel; ``prior`` S_* of the
                M samples with the training samples; ``prior_own`` S_** of the M with themselves.

        Source: Lee et al., NeurIPS 2019, equations 14 and 15.
        """
        spectral_filter = _trained_inverse(_checked_time(time))
        mean = self._predicted(kernel, start, spectral_filter)
        rows = len(self._targets)
        train_prior = kernel_matrix(self._checked("prior_train", prior_train, rows, rows))
        cross_prior = kernel_matrix(self._checked("prior", prior, len(mean), rows))
        own_prior = self._checked("prior_own", prior_own, len(mean), len(mean))
        weights = self._apply_filter(spectral_filter, kernel_matrix(self._cross(kernel)).T).T  # A
        mixed = weights @ cross_prior.T
        # Cov(f_t) with f_t = f_0 + A (y - f_0(X)), which is linear in the Gaussian f_0.
        covariance = kernel_matrix(own_prior) + weights @ train_prior @ weights.T - mixed - mixed.T
        return GaussianPrediction(mean, _symmetric(covariance).reshape(own_prior.shape))

    def _predicted(
        self, kernel: ArrayLike, start: ArrayLike | None, spectral_filter: Callable[[Array], Array]
    ) -> Array:
        cross = self._cross(kernel)
        offset = self._start_outputs("start", start, len(cross))
        return offset + (
            kernel_matrix(cross) @ self._apply_filter(spectral_filter, self._error)
        ).reshape(offset.shape)

    def _apply_filter(self, spectral_filter: Callable[[Array], Array], columns: Array) -> Array:
        """``V g(lambda) V^T`` times columns, for the eigenvectors V of K."""
        weights = spectral_filter(self._values)[:, None]
        return np.asarray(self._vectors @ (weights * (self._vectors.T @ columns)))

    def _as_columns(self, table: Array) -> Array:
        """Numbers [N, C] as what a matrix of the kernel multiplies: one column, or C of N x N."""
        return table if self._kernel.ndim == 2 else table.reshape(-1, 1)

    def _cross(self, kernel: ArrayLike) -> Array:
        table, _ = checked_kernel(kernel, self._outputs)
        table = self._checked("kernel", table, len(table), len(self._targets))
        _require_columns("kernel", kernel, self._training)
        return table

    def _checked(self, name: str, kernel: ArrayLike, rows: int, columns: int) -> Array:
        """A kernel of ``rows`` x ``columns`` samples, in the form of the training kernel."""
        table, _ = checked_kernel(kernel, self._outputs)
        form = table.ndim if name == "training kernel" else self._kernel.ndim
        outputs = self._outputs
        shape = (rows, columns) if form == 2 else (rows, outputs, columns, outputs)
        if table.shape != shape:
            raise InputError(
                f"{name}: expected shape {shape}, to match targets and training kernel, found "
                f"{table.shape}; its columns are the training samples, or the same as its rows"
            )
        return table

    def _start_outputs(self, name: str, start: ArrayLike | None, rows: int) -> Array:
        if start is None:
            return np.zeros((rows, self._outputs))
        offset = finite_matrix(start, name)
        if offset.shape != (rows, self._outputs):
            raise InputError(
                f"{name}: expected shape {(rows, self._outputs)}, found {offset.shape}; it holds "
                "the outputs of these samples before training"
            )
        return offset


def _require_columns(name: str, kernel: Any, rows_of: Any) -> None:
    """Refuse an NTK whose columns are not the samples of another's rows.

    Arrays do not say of which samples they are.
    """
    found = getattr(kernel, "column_features", None)
    expected = getattr(rows_of, "row_features", None)
    if found is not None and expected is not None and not same_features(found, expected):
        raise InputError(
            f"{name}: its columns are other samples than those it belongs to, or of another model, "
            "as their features differ; expected empirical_ntk(model, others, training) for the "
            "kernel of others with the training samples, empirical_ntk(model, others) for their own"
        )


def _trained_inverse(time: float) -> Callable[[Array], Array]:
    """``(1 - exp(-lambda t)) / lambda``: ``K^-1 (I - exp(-K t))``, for other samples."""
    return lambda values: -np.expm1(-values * time) / values


def _trained_fraction(time: float) -> Callable[[Array], Array]:
    """``1 - exp(-lambda t)``: how much of the error training has removed by the time t."""
    return lambda values: -np.expm1(-values * time)


def _ridge_inverse(strength: float) -> Callable[[Array], Array]:
    """``1 / (lambda + strength)``: ``(K + strength I)^-1``."""
    return lambda values: 1 / (values + strength)


def _symmetric(matrix: Array) -> Array:
    return (matrix + matrix.T) / 2


def _checked_time(time: float) -> float:
    if not time >= 0:
        raise InputError(
            f"time: expected 0 or more (eta times the number of steps, or math.inf), found {time}"
        )
    return float(time)


def _checked_strength(strength: float, name: str = "strength") -> float:
    if not (math.isfinite(strength) and strength >= 0):
        raise InputError(f"{name}: expected a finite number of 0 or more, found {strength}")
    return float(strength)
