"""The paper's statistics of kernels: norms, rank, FT ratio, heat map.

``P`` is N x M and stands for the NC x MC matrix ``P ⊗ I_C``, whose numbers are given; ``F`` and
``P + F`` are N x C x M x C. Everything is computed in float64.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax

from lpft.analysis.inputs import class_indices, logit_matrix
from lpft.errors import InputError
from lpft.ntk.spectrum import Spectrum, checked_kernel, kernel_matrix, kernel_spectrum


@dataclass(frozen=True)
class FTRatio:
    """How much of the first step's change of logits goes through the features.

    ``numerator`` and ``denominator`` [N] are the norms for each x; ``ratio`` is the mean of their
    quotients, None where some denominator is 0, as with a training set that is fitted exactly.
    """

    numerator: NDArray[np.float64]
    denominator: NDArray[np.float64]

    @property
    def ratio(self) -> float | None:
        if (self.denominator == 0).any():
            return None
        return float(np.mean(self.numerator / self.denominator))


@dataclass(frozen=True)
class ClassOrder:
    """Samples in the order of their classes, and in their own order within a class.

    ``order`` [N] lists the samples; class ``classes[k]`` has the places ``boundaries[k]`` up to
    ``boundaries[k + 1]``. Classes without samples are left out.
    """

    order: NDArray[np.int64]
    classes: tuple[int, ...]
    boundaries: tuple[int, ...]

    def sort(self, values: ArrayLike) -> NDArray[np.float64]:
        """Rows and columns of a heat map [N, N] in this order."""
        return np.asarray(values, dtype=np.float64)[np.ix_(self.order, self.order)]


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
    matrix = kernel_matrix(table)
    if matrix.shape[0] != matrix.shape[1]:
        raise InputError(
            f"kernel: expected one of samples with themselves, found shape {table.shape}; a kernel "
            "between two sets of samples has no trace"
        )
    return float((classes if table.ndim == 2 else 1) * np.trace(matrix))


def residuals(labels: ArrayLike, logits: ArrayLike) -> NDArray[np.float64]:
    """``delta_i = onehot(y_i) - softmax(f_0(x_i))`` [N, C], minus the gradient of cross-entropy.

    ``labels`` [N] class indices; ``logits`` [N, C], before temperature.

    Raises:
        InputError: logits that are not a finite matrix of two columns or more, or wrong labels.
    Source: Tomihari and Sato, NeurIPS 2024, Proposition 4.1.
    """
    outputs = logit_matrix(logits)
    indices = class_indices(labels, *outputs.shape)
    return np.eye(outputs.shape[1])[indices] - np.asarray(softmax(outputs, axis=1))


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
            f"(N, {train}), as labels and logits have it, found {features.shape} and "
            f"{heads.shape}; take all four from the same training samples"
        )
    through_features = (kernel_matrix(features) @ delta.ravel()).reshape(rows, classes)
    whole = through_features + heads @ delta
    return FTRatio(np.linalg.norm(through_features, axis=1), np.linalg.norm(whole, axis=1))


def heat_map(kernel: ArrayLike, classes: int | None = None) -> NDArray[np.float64]:
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
    norms = np.empty((table.shape[0], table.shape[2]))
    for row, blocks in zip(norms, table.transpose(0, 2, 1, 3), strict=True):
        row[:] = np.linalg.svd(blocks, compute_uv=False).sum(axis=1)
    return norms


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
    present, starts = np.unique(indices[order], return_index=True)
    boundaries = (*(int(start) for start in starts), count)
    return ClassOrder(order, tuple(int(label) for label in present), boundaries)


def kernel_statistics(
    kernel: ArrayLike,
    classes: int | None = None,
    *,
    spectrum: Spectrum | None = None,
) -> dict[str, Any]:
    """The statistics of one kernel of samples with themselves, as ``kernels.json`` stores them.

    ``rank`` with ``rank_tolerance``, ``frobenius_norm``, ``trace``, ``largest_singular_value`` and
    ``singular_values`` (descending, divided by the largest).

    ``kernel`` N x C x N x C, or N x N with ``classes``; ``spectrum`` its own, where it is known,
    else :func:`~lpft.ntk.spectrum.kernel_spectrum` of it.

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
