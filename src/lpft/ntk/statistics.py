"""Statistics of kernels: spectrum and rank, norms, FT ratio, heat map, alignment, and drift.

A kernel is F or P + F, an array N x C x M x C, or P, an array N x M that stands for the NC x MC
matrix ``P ⊗ I_C``; its statistics are those of that matrix. Rows of a matrix are (sample, class)
with the class running fastest. Everything is computed in float64. Arrays, tensors and lists are
taken alike, and an ``EmpiricalNTK`` as its total.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax

from lpft.analysis.inputs import as_array, class_indices, logit_matrix, short_repr
from lpft.errors import InputError

Array = NDArray[np.float64]

MOST_DRIFT = 0.1
"""Drift of the kernel up to which its training counts as one of a fixed kernel."""
MOST_ERROR = 0.1
"""Relative error of the linear model's change of logits up to which it stands for the real one."""

Answer = Literal["yes", "no", "unknown"]

FLOAT32_EPSILON = float(np.finfo(np.float32).eps)

MOST_ASYMMETRY = 1e-3
"""Of a kernel that is symmetric up to rounding in any precision; asymmetric SignGD is far above."""

_SAME_FEATURES = 1e-3
"""Relative difference of features up to which it is rounding in any precision."""


@dataclass(frozen=True)
class Spectrum:
    """The spectrum of one NC x MC kernel matrix.

    ``singular_values`` [min(NC, MC)] are in descending order; ``eigenvalues`` [NC] in ascending
    order, None where the matrix is not symmetric; ``shape`` is (NC, MC).
    """

    singular_values: Array
    eigenvalues: Array | None
    shape: tuple[int, int]

    __repr__ = short_repr

    @property
    def largest(self) -> float:
        """sigma_max, the spectral norm."""
        return float(self.singular_values[0])

    @property
    def normalised(self) -> Array:
        """``sigma_k / sigma_max`` [min(NC, MC)], all 0 for the zero matrix."""
        return self.singular_values / self.largest if self.largest > 0 else self.singular_values

    @property
    def rank_tolerance(self) -> float:
        """``max(NC, MC) * eps * sigma_max`` with the eps of float32, whatever the dtype."""
        return max(self.shape) * FLOAT32_EPSILON * self.largest

    @property
    def rank(self) -> int:
        """The number of singular values above :attr:`rank_tolerance`.

        ``numpy.linalg.matrix_rank`` of a float32 matrix counts the same way. Source: Tomihari and
        Sato, NeurIPS 2024, Table 2.
        """
        return int(np.count_nonzero(self.singular_values > self.rank_tolerance))

    @property
    def smallest_eigenvalue(self) -> float | None:
        return None if self.eigenvalues is None else float(self.eigenvalues[0])

    @property
    def largest_eigenvalue(self) -> float | None:
        return None if self.eigenvalues is None else float(self.eigenvalues[-1])


def kernel_spectrum(
    kernel: ArrayLike, classes: int | None = None, *, symmetric: bool | None = None
) -> Spectrum:
    """Singular values of a kernel, and its eigenvalues where it is symmetric.

    Symmetric kernels go through ``eigvalsh`` of ``(K + K^T) / 2``, with ``sigma = |lambda|``,
    others through an SVD. By default a square kernel counts as symmetric where :func:`asymmetry`
    is at most the eps of float32: by Weyl's inequality the symmetric part's singular values then
    differ from the kernel's by less than the rank tolerance.

    Args:
        kernel: N x C x M x C, or N x M with ``classes``.
        classes: C, needed for N x M.
        symmetric: treat the kernel as symmetric, or not, instead of measuring its asymmetry.

    Raises:
        InputError: not a finite kernel, or ``symmetric`` of one that is not square.
    """
    table, classes = checked_kernel(kernel, classes)
    matrix = kernel_matrix(table)
    square = matrix.shape[0] == matrix.shape[1]
    if symmetric is None:
        symmetric = square and asymmetry(table) <= FLOAT32_EPSILON
    elif symmetric and not square:
        raise InputError(
            f"kernel: expected a square one where symmetric is true, found shape {table.shape}; "
            "leave symmetric out for a kernel between two sets of samples"
        )
    # P ⊗ I_C has each eigenvalue and singular value of P C times: no NC x NC matrix is formed.
    copies = classes if table.ndim == 2 else 1
    eigenvalues: Array | None = None
    if symmetric:
        eigenvalues = np.repeat(np.linalg.eigvalsh((matrix + matrix.T) / 2), copies)
        values = np.sort(np.abs(eigenvalues))[::-1]
    else:
        values = np.repeat(np.linalg.svd(matrix, compute_uv=False), copies)
    return Spectrum(values, eigenvalues, (copies * matrix.shape[0], copies * matrix.shape[1]))


def asymmetry(kernel: ArrayLike) -> float:
    """How far a kernel of samples with themselves is from symmetric.

    ``||K - K^T||_F / ||K||_F``, from 0 (symmetric) to 2 (``K^T = -K``); 0 for the zero matrix.

    ``kernel`` N x C x N x C, or N x N (the value for ``P ⊗ I_C`` is that of P).

    Raises:
        InputError: not a finite kernel, or not of samples with themselves.
    """
    table, _ = _own_kernel(kernel, "only a square kernel can be symmetric")
    matrix = kernel_matrix(table)
    size = float(np.linalg.norm(matrix))
    return float(np.linalg.norm(matrix - matrix.T)) / size if size > 0 else 0.0


def frobenius_norm(kernel: ArrayLike, classes: int | None = None) -> float:
    """FN: ``||K||_F``, which is ``sqrt(C) ||P||_F`` for P.

    ``kernel`` N x C x M x C, or N x M with ``classes``.

    Raises:
        InputError: not a finite kernel.
    Source: Tomihari and Sato, NeurIPS 2024, Table 2.
    """
    table, classes = checked_kernel(kernel, classes)
    copies = classes if table.ndim == 2 else 1
    return float(np.sqrt(copies) * np.linalg.norm(kernel_matrix(table)))


def kernel_trace(kernel: ArrayLike, classes: int | None = None) -> float:
    """``trace K``, the sum over samples and classes of the diagonal; ``C trace P`` for P.

    ``kernel`` N x C x N x C, or N x N with ``classes``.

    Raises:
        InputError: not a finite kernel, or not of samples with themselves.
    """
    table, classes = checked_kernel(kernel, classes)
    _own_kernel(table, "a kernel between two sets of samples has no trace")
    return float((classes if table.ndim == 2 else 1) * np.trace(kernel_matrix(table)))


def kernel_statistics(
    kernel: ArrayLike, classes: int | None = None, *, spectrum: Spectrum | None = None
) -> dict[str, Any]:
    """The statistics of one kernel of samples with themselves, as ``kernels.json`` stores them.

    ``rank`` with ``rank_tolerance``, ``frobenius_norm``, ``trace``, ``largest_singular_value`` and
    ``singular_values`` (descending, divided by the largest).

    ``kernel`` N x C x N x C, or N x N with ``classes``; ``spectrum`` its own, where it is known.

    Raises:
        InputError: not a finite kernel, or not of samples with themselves.
    """
    if spectrum is None:
        spectrum = kernel_spectrum(kernel, classes)
    return {
        "rank": spectrum.rank,
        "rank_tolerance": spectrum.rank_tolerance,
        "frobenius_norm": frobenius_norm(kernel, classes),
        "trace": kernel_trace(kernel, classes),
        "largest_singular_value": spectrum.largest,
        "singular_values": spectrum.normalised.tolist(),
    }


@dataclass(frozen=True)
class FTRatio:
    """The part of the first step's change of logits that goes through the features.

    ``numerator`` and ``denominator`` [N] are the norms for each x; ``ratio`` is the mean of their
    quotients, None where some denominator is 0, as with a training set that is fitted exactly.
    """

    numerator: Array
    denominator: Array

    __repr__ = short_repr

    @property
    def ratio(self) -> float | None:
        if (self.denominator == 0).any():
            return None
        return float(np.mean(self.numerator / self.denominator))


def ft_ratio(
    pretrain_effective: ArrayLike, ft_effective: ArrayLike, labels: ArrayLike, logits: ArrayLike
) -> FTRatio:
    """FT ratio: the share of the FT-effective part in the first step's change of logits.

    ``mean over x of ||sum_i F(x, x_i) delta_i|| / ||sum_i (P + F)(x, x_i) delta_i||`` with the
    :func:`residuals` delta of the M training samples x_i.

    ``pretrain_effective`` N x M; ``ft_effective`` N x C x M x C; rows are x, the training samples
    themselves in the paper. ``labels`` [M] and ``logits`` [M, C] are those of x_i at the start.

    Raises:
        InputError: shapes that do not belong together, or values that are not finite.
    Source: Tomihari and Sato, NeurIPS 2024, Table 2.
    """
    delta = residuals(labels, logits)
    train, classes = delta.shape
    features, _ = checked_kernel(ft_effective)
    heads, _ = checked_kernel(pretrain_effective, classes)
    rows = len(features)
    if features.shape != (rows, classes, train, classes) or heads.shape != (rows, train):
        raise InputError(
            f"FT ratio: expected F of shape (N, {classes}, {train}, {classes}) and P of shape "
            f"(N, {train}), to match labels and logits, found {features.shape} and "
            f"{heads.shape}; take all four from the same training samples"
        )
    # N C numbers, the class running fastest as in the matrix's columns.
    through_features = (kernel_matrix(features) @ delta.ravel()).reshape(rows, classes)
    total = through_features + heads @ delta
    return FTRatio(np.linalg.norm(through_features, axis=1), np.linalg.norm(total, axis=1))


def residuals(labels: ArrayLike, logits: ArrayLike) -> Array:
    """``delta_i = onehot(y_i) - softmax(f_0(x_i))`` [N, C], minus the gradient of cross-entropy.

    ``labels`` [N] class indices; ``logits`` [N, C], before temperature.

    Raises:
        InputError: logits that are not a finite matrix of two columns or more, or wrong labels.
    Source: Tomihari and Sato, NeurIPS 2024, Proposition 4.1.
    """
    outputs = logit_matrix(logits)
    indices = class_indices(labels, *outputs.shape)
    return np.eye(outputs.shape[1])[indices] - np.asarray(softmax(outputs, axis=1))


def heat_map(kernel: ArrayLike, classes: int | None = None) -> Array:
    """Trace norm of every C x C block K(x_i, x_j), N x M, in the order of the samples.

    ``||K(x_i, x_j)||_* = sum_k sigma_k``, which is ``C |P(x_i, x_j)|`` for P. Sort it with
    :func:`class_order`.

    ``kernel`` N x C x M x C, or N x M with ``classes``.

    Raises:
        InputError: not a finite kernel.
    Source: Tomihari and Sato, NeurIPS 2024, Figure 8.
    """
    table, classes = checked_kernel(kernel, classes)
    if table.ndim == 2:
        return classes * np.abs(table)
    # A row of M blocks, C x C, at a time: the SVD of all at once would copy the kernel.
    norms = np.empty((table.shape[0], table.shape[2]))
    for row, blocks in zip(norms, table.transpose(0, 2, 1, 3), strict=True):
        row[:] = np.linalg.svd(blocks, compute_uv=False).sum(axis=1)
    return norms


@dataclass(frozen=True)
class ClassOrder:
    """Samples sorted by class; within a class they keep their order.

    ``order`` [N] lists the samples; class ``classes[k]`` has the positions ``boundaries[k]`` up to
    ``boundaries[k + 1]``. Classes without samples are left out.
    """

    order: NDArray[np.int64]
    classes: tuple[int, ...]
    boundaries: tuple[int, ...]

    __repr__ = short_repr

    def sort(self, values: ArrayLike) -> Array:
        """Rows and columns of a heat map [N, N] in this order."""
        return as_array(values, "values", np.float64)[np.ix_(self.order, self.order)]


def class_order(labels: ArrayLike) -> ClassOrder:
    """The order that sorts samples by class, with the boundaries between classes.

    ``labels`` [N] class indices.

    Raises:
        InputError: not class indices, or none.
    """
    count = np.size(labels)
    indices = class_indices(labels, count)
    if count == 0:
        raise InputError("labels: expected at least one, found none; leave an empty split out")
    order = np.argsort(indices, kind="stable")
    classes, first = np.unique(indices[order], return_index=True)
    return ClassOrder(order, tuple(classes.tolist()), (*first.tolist(), count))


def centred_kernel_alignment(first: ArrayLike, second: ArrayLike) -> float | None:
    """CKA: how alike two kernels on the same samples in the same order are.

    ``CKA(K, L) = <K', L'>_F / (||K'||_F ||L'||_F)`` of the :func:`centred_kernel` K' and L'. For
    positive semidefinite kernels it is from 0 to 1, and 1 exactly where one centred kernel is a
    multiple of the other. The kernels may belong to different methods, or to checkpoints of one
    training. P compares with F by the sum over classes of F's diagonal blocks.

    ``first``, ``second`` N x C x N x C or N x N, each. None where a centred kernel is 0, as for a
    single sample or for features that are all equal: it has no direction.

    Raises:
        InputError: not finite kernels of samples with themselves, or of different shapes.
    Source: Cortes, Mohri and Rostamizadeh, JMLR 2012; Kornblith et al., ICML 2019, equation 3.
    """
    value: float | None = alignment_matrix({"first": first, "second": second})["values"][0][1]
    return value


def alignment_matrix(kernels: Mapping[str, ArrayLike]) -> dict[str, Any]:
    """CKA of every pair of kernels, as ``kernels.json`` stores it.

    Returns ``{"kernels": names, "values": [[CKA]]}``, a symmetric matrix with 1 on its diagonal
    and None where :func:`centred_kernel_alignment` is None.

    ``kernels`` by name, each N x C x N x C or N x N, on the same samples in the same order.

    Raises:
        InputError: no kernel, or kernels that are not of one set of samples and classes.
    """
    if not kernels:
        raise InputError("alignment: expected at least one kernel, found none")
    centred = {name: centred_kernel(kernel) for name, kernel in kernels.items()}
    samples = {len(table) for table in centred.values()}
    classes = {table.shape[1] for table in centred.values() if table.ndim == 4}
    if len(samples) > 1 or len(classes) > 1:
        shapes = ", ".join(f"{name} {table.shape}" for name, table in centred.items())
        raise InputError(
            f"alignment: expected kernels of one set of samples and classes, found {shapes}; "
            "compute them on the same texts in the same order"
        )
    copies = max(classes, default=1)
    # Inner products of kernels of norm 1 are the alignments: each is centred once, not per pair.
    directions = [
        _direction(table, _table(kernels[name]), copies) for name, table in centred.items()
    ]
    values: list[list[float | None]] = [[None] * len(kernels) for _ in kernels]
    for i, row in enumerate(directions):
        for j, column in enumerate(directions[: i + 1]):
            if row is not None and column is not None:
                values[i][j] = values[j][i] = 1.0 if i == j else _inner(row, column, copies)
    return {"kernels": list(kernels), "values": values}


def centred_kernel(kernel: ArrayLike) -> Array:
    """``(H ⊗ I_C) K (H ⊗ I_C)`` with ``H = I - 1 1^T / N``: centred over samples, class by class.

    It is the kernel of the gradients less their mean, ``psi(n, c) - mean_m psi(m, c)``.

    ``kernel`` N x C x N x C, or N x N, for which this is ``H P H``; the result has its shape.

    Raises:
        InputError: not a finite kernel, or not of samples with themselves.
    """
    table, columns = _own_kernel(kernel, "alignment needs the kernel of one set of samples")
    row_centred = table - table.mean(axis=0, keepdims=True)
    return row_centred - row_centred.mean(axis=columns, keepdims=True)


def _direction(centred: Array, kernel: NDArray[Any], classes: int) -> Array | None:
    """A centred kernel over its norm, None where centring leaves only rounding."""
    size = float(np.linalg.norm(centred))
    # What centring rounds off, relative to the kernel before it.
    noise = np.finfo(np.float64).eps * len(centred) * float(np.linalg.norm(kernel.ravel()))
    if size <= noise:
        return None
    return centred / (size * (np.sqrt(classes) if centred.ndim == 2 else 1.0))


def _inner(first: Array, second: Array, classes: int) -> float:
    """``<K, L>_F`` of the NC x NC matrices."""
    if first.ndim == second.ndim:
        copies = classes if first.ndim == 2 else 1
        return float(copies * np.vdot(first, second))
    # <P ⊗ I_C, K> reads only the diagonals of K's C x C blocks: sum_nm P_nm trace(K_nm).
    matrix, blocks = (first, second) if first.ndim == 2 else (second, first)
    return float(np.vdot(matrix, np.einsum("ncmc->nm", blocks)))


# --- kernels along a training
#
# In the kernel regime a network trains as the model that is linear in its parameters, whose kernel
# is that of the start: it fits a fixed kernel and learns no features (Jacot et al., NeurIPS 2018;
# Lee et al., NeurIPS 2019). Fine-tuning may or may not stay in it: Malladi et al. (ICML 2023) ask
# for linearisation and for fixed features, and Fort et al. (NeurIPS 2020) measure how soon kernels
# move.


def drift(kernel: ArrayLike, start: ArrayLike) -> float | None:
    """How far a kernel is from that of the start: ``||Theta_t - Theta_0||_F / ||Theta_0||_F``.

    Unlike an alignment it counts a kernel that only grows as well. None where that of the start is
    zero.

    ``kernel``, ``start`` of one shape, of the same samples in the same order.

    Raises:
        InputError: the shapes differ.
    Source: Malladi et al., ICML 2023 (fixed features).
    """
    after, before = (as_array(table, "kernel", np.float64) for table in (kernel, start))
    if after.shape != before.shape:
        raise InputError(
            f"drift: expected kernels of one shape, found {after.shape} and {before.shape}; "
            "compute them on the same samples"
        )
    size = float(np.linalg.norm(before.ravel()))
    return None if size == 0 else float(np.linalg.norm((after - before).ravel())) / size


def label_kernel(labels: ArrayLike) -> NDArray[np.float64]:
    """The kernel that labels themselves have, N x N: 1 for two samples of one class, otherwise 0.

    It is ``Y Y^T`` of the one-hot labels Y; a kernel that is aligned with it tells classes apart.

    Source: Cortes, Mohri and Rostamizadeh, JMLR 2012.
    """
    classes = as_array(labels, "labels")
    return np.asarray(classes[:, None] == classes[None, :], dtype=np.float64)


@dataclass(frozen=True)
class Regime:
    """Whether a training stayed in the kernel regime.

    ``until`` is the last epoch up to which it did; ``drift`` and ``error`` are the largest over all
    epochs.
    """

    answer: Answer
    until: float
    drift: float | None
    error: float | None


def kernel_regime(
    epochs: Sequence[float],
    drifts: Sequence[float | None],
    errors: Mapping[str, Sequence[float | None]],
) -> Regime:
    """Whether a training stayed in the kernel regime, from its start to its last epoch.

    It did where at every epoch both hold:

    - fixed features: the :func:`drift` of the kernel P + F is at most 0.1. With the kernel of the
      start in ``df/dt = Theta_t r`` the velocity of the logits is wrong by at most
      ``||Theta_t - Theta_0||_2 ||r|| <= 0.1 ||Theta_0||_F ||r||``: a tenth of what the kernel can
      move at all;
    - linearisation: the change of logits that the linear model predicts at the trained weights,
      ``J_0 (theta_t - theta_0)``, has a relative error of at most 0.1, so that its squared error is
      1 % of the squared change (R^2 above 0.99).

    Neither implies the other. The kernel may turn in directions in which no weight moved, and a
    change that is quadratic may cancel in the kernel's norm. To the leading order an error e of the
    outputs goes with a change of 2 e of the Jacobian along the path, so up to 4 e of the kernel:
    the drift is usually the first to fail. Both limits are conventions of one size; the numbers are
    reported beside them.

    Args:
        epochs: those of the checkpoints, beginning with the start.
        drifts: at each epoch; None where the kernel of the start is zero.
        errors: by set of texts, at each epoch; None where nothing changed. The largest decides.

    Returns:
        ``unknown`` where some number is missing after the start and no other one is above its
        limit.
    """
    # Of several sets of texts the largest error counts; the start itself has nothing to fail.
    worst = [_largest([errors[name][index] for name in errors]) for index in range(len(epochs))]
    later = range(1, len(epochs))
    failed = [index for index in later if _above(drifts[index], MOST_DRIFT)]
    failed += [index for index in later if _above(worst[index], MOST_ERROR)]
    measured = [drifts[index] is not None and worst[index] is not None for index in later]
    answer: Answer = "no" if failed else "yes" if measured and all(measured) else "unknown"
    until = epochs[min(failed) - 1] if failed else epochs[-1]
    return Regime(answer, until, _largest(drifts[1:]), _largest(worst[1:]))


def _largest(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _above(value: float | None, limit: float) -> bool:
    return value is not None and not value <= limit


# --- what all of them take


def checked_kernel(kernel: ArrayLike, classes: int | None = None) -> tuple[Array, int]:
    """The kernel as a finite float64 array of 4 or 2 axes, and its number of classes C.

    ``kernel`` N x C x M x C, or N x M with ``classes``.

    Raises:
        InputError: another shape, no entries, entries that are not finite, or no number of
            classes for a kernel N x M.
    """
    table = _table(kernel)
    if table.ndim == 4 and table.shape[1] == table.shape[3]:
        if classes is not None and classes != table.shape[1]:
            raise InputError(
                f"kernel: expected {classes} classes, found shape {table.shape}; give the number "
                "of classes of this kernel, or leave it out"
            )
        classes = table.shape[1]
    elif table.ndim != 2:
        raise InputError(
            f"kernel: expected shape (N, C, M, C), or (N, M) for P, found {table.shape}; "
            "reshape an NC x MC matrix to (N, C, M, C)"
        )
    elif classes is None or classes < 1:
        raise InputError(
            f"kernel of shape {table.shape}: expected a number of classes, found {classes}; give "
            "classes=C, because N x M stands for that matrix times the identity of C classes"
        )
    if table.size == 0:
        raise InputError(f"kernel: expected at least one sample, found shape {table.shape}")
    if not np.isfinite(table).all():
        wrong = int(np.count_nonzero(~np.isfinite(table)))
        raise InputError(
            f"kernel: expected finite numbers, found {wrong} NaN or infinite entries; compute it "
            "in float32 or float64 from a model whose weights are finite"
        )
    return table, classes


def _table(kernel: Any) -> Array:
    """The numbers of an array, a tensor, or an ``EmpiricalNTK``, which stands for its total."""
    return as_array(kernel.total() if hasattr(kernel, "total") else kernel, "kernel", np.float64)


def kernel_matrix(kernel: Array) -> Array:
    """An N x C x M x C kernel as its NC x MC matrix; an N x M kernel as it is."""
    if kernel.ndim == 2:
        return kernel
    rows, classes, columns, _ = kernel.shape
    return kernel.reshape(rows * classes, columns * classes)


def same_features(first: Any, second: Any) -> bool:
    """Whether features [N, h] are those of the same samples in the same order, but for rounding."""
    a, b = (as_array(features, "features", np.float64) for features in (first, second))
    if a.shape != b.shape:
        return False
    return float(np.linalg.norm(a - b)) <= _SAME_FEATURES * float(np.linalg.norm(b))


def _own_kernel(kernel: ArrayLike, why: str) -> tuple[Array, int]:
    """A kernel of samples with themselves, and the axis of its columns; ``why`` it must be one."""
    if not getattr(kernel, "is_own", True):  # an EmpiricalNTK knows, whatever its shape
        raise InputError(
            "kernel: expected one of samples with themselves, found one between two sets of "
            f"inputs; {why}"
        )
    table = _table(kernel)
    table, _ = checked_kernel(table, 1 if table.ndim == 2 else None)
    columns = table.ndim // 2
    if table.shape[0] != table.shape[columns]:
        raise InputError(
            f"kernel: expected one of samples with themselves, found shape {table.shape}; {why}"
        )
    return table, columns
