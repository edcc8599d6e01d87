"""The arrays that kernel regression works on: one kernel with its train and test blocks.

A matrix kernel is N x C x M x C with ``K[n, c, m, d] = <grad f_c(x_n), grad f_d(x_m)>``; a scalar
one, such as P, is N x M and stands for that matrix times I_C.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lpft.analysis.inputs import class_indices, finite_matrix
from lpft.errors import InputError
from lpft.ntk.statistics import MOST_ASYMMETRY, asymmetry, checked_kernel

Array = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class KernelPair:
    """One kernel between the N training rows and themselves, and between M test rows and them.

    ``train`` [N, C, N, C] and ``test`` [M, C, N, C], or [N, N] and [M, N] for a scalar kernel;
    ``classes`` C. An asymmetric kernel may have ``reverse_test`` [N, C, M, C] as well, with
    training rows first; that of a symmetric one is its transpose.

    Raises:
        InputError: shapes that do not fit together, or entries that are not finite.
    """

    train: Array
    test: Array
    classes: int
    reverse_test: Array | None = None

    def __post_init__(self) -> None:
        for name in ("train", "test", "reverse_test"):
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, checked_kernel(given, self.classes)[0])
        rows, form = len(self.train), self.train.ndim
        _expect("training kernel", self.train, rows, rows, form)
        _expect("test kernel", self.test, len(self.test), rows, form)
        if self.reverse_test is not None:
            _expect("reversed test kernel", self.reverse_test, rows, len(self.test), form)

    def reversed(self) -> Array | None:
        """K(x_i, x) with training rows first: as it was given, or of a symmetric kernel K^T.

        None of an asymmetric kernel where it was not given: it is no function of K(x, x_i).
        """
        if self.reverse_test is not None:
            return self.reverse_test
        return reversed_kernel(self.test) if asymmetry(self.train) <= MOST_ASYMMETRY else None


@dataclass(frozen=True)
class TrainingSet:
    """What a solver learns from: the training kernel, N class indices and the logits f_0 [N, C].

    Raises:
        InputError: shapes that do not fit together, fewer than 2 classes, or labels out of range.
    """

    kernel: Array
    labels: Labels
    classes: int
    f0: Array | None = None

    def __post_init__(self) -> None:
        kernel, _ = checked_kernel(self.kernel, self.classes)
        rows = len(kernel)
        _expect("training kernel", kernel, rows, rows, kernel.ndim)
        object.__setattr__(self, "kernel", kernel)
        if self.classes < 2:
            raise InputError(
                f"kernel: expected at least 2 logits, found {self.classes}; a binary logit z "
                "is the pair (-z/2, z/2), whose kernel is K_z times [[1, -1], [-1, 1]] / 4"
            )
        object.__setattr__(self, "labels", class_indices(self.labels, rows, self.classes))
        if self.f0 is not None:
            object.__setattr__(self, "f0", checked_logits(self.f0, rows, self.classes))

    @property
    def one_hot(self) -> Array:
        """The labels as rows of I_C, N x C."""
        return np.eye(self.classes)[self.labels]

    def take(self, rows: Labels) -> "TrainingSet":
        """Some of the rows, with the kernel among them."""
        f0 = None if self.f0 is None else self.f0[rows]
        return TrainingSet(block(self.kernel, rows, rows), self.labels[rows], self.classes, f0)

    def offset(self, scale: float) -> Array:
        """``s f_0``, N x C; zeros for s = 0, where f_0 may be missing."""
        return scaled_logits(self.f0, scale, len(self.labels), self.classes)


def require_two_classes(labels: Labels) -> None:
    """Refuse training rows of a single class.

    Raises:
        InputError: fewer than two classes among the labels.
    """
    present = np.unique(labels)
    if len(present) < 2:
        raise InputError(
            "kernel regression needs training rows of at least 2 classes, found only class "
            f"{int(present[0])}"
        )


def checked_logits(logits: ArrayLike, rows: int, classes: int) -> Array:
    """f_0 as finite float64 of the expected shape.

    Raises:
        InputError: another shape, or entries that are not finite.
    """
    table = finite_matrix(logits, "f_0")
    if table.shape != (rows, classes):
        raise InputError(
            f"f_0: expected shape ({rows}, {classes}), one row of logits per row of the kernel, "
            f"found {table.shape}"
        )
    return table


def scaled_logits(f0: Array | None, scale: float, rows: int, classes: int) -> Array:
    """``s f_0``, or zeros for s = 0.

    Raises:
        InputError: f_0 is missing and s is not 0, or s is not finite.
    """
    if scale == 0:
        return np.zeros((rows, classes))
    if f0 is None:
        raise InputError(
            f"f0_scale={scale:g} adds the logits f_0, which were not given: give f_0 of the "
            "training and the test rows, or f0_scale=0"
        )
    if not np.isfinite(scale):
        raise InputError(f"f0_scale: expected a finite number, found {scale}")
    return scale * checked_logits(f0, rows, classes)


def entry_matrix(kernel: Array, classes: int) -> Array:
    """The kernel between (row, logit) entries, NC x MC, the logit running fastest."""
    if kernel.ndim == 2:
        return np.asarray(np.kron(kernel, np.eye(classes)), dtype=np.float64)
    rows, _, columns, _ = kernel.shape
    return kernel.reshape(rows * classes, columns * classes)


def block(kernel: Array, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Array:
    """The kernel between some of its rows and some of its columns."""
    return kernel[rows][:, columns] if kernel.ndim == 2 else kernel[rows][:, :, columns]


def apply_kernel(kernel: Array, coefficients: Array) -> Array:
    """``sum_i K(x, x_i) alpha_i``: an M x N (x C x C) kernel on N x C coefficients gives M x C."""
    if kernel.ndim == 2:
        return kernel @ coefficients
    return np.tensordot(kernel, coefficients, axes=2)


def reversed_kernel(kernel: Array) -> Array:
    """The same numbers with rows and columns exchanged: K(x_i, x) as K'(x, x_i)."""
    return kernel.T if kernel.ndim == 2 else kernel.transpose(2, 3, 0, 1)


def mean_diagonal(kernel: Array, classes: int) -> float:
    """``trace(K) / (N C)`` of a training kernel: the scale of its entries.

    Raises:
        InputError: the kernel is zero on the training rows.
    """
    matrix = kernel if kernel.ndim == 2 else entry_matrix(kernel, classes)
    mean = float(np.trace(matrix)) / len(matrix)
    if mean <= 0:
        raise InputError(
            f"training kernel: expected a positive mean diagonal, found {mean:g}; a kernel that is "
            "zero on the training rows learns nothing (as F of a head whose weights are all 0)"
        )
    return mean


def require_symmetric(kernel: Array, solver: str) -> None:
    """Refuse a training kernel that is further from symmetric than rounding.

    Raises:
        InputError: ``||K - K^T|| / ||K||`` above 1e-3.
    """
    skew = asymmetry(kernel)
    if skew > MOST_ASYMMETRY:
        raise InputError(
            f"solver '{solver}' needs a symmetric training kernel, found ||K - K^T|| / ||K|| = "
            f"{skew:.2g}; asymmetric SignGD kernels are for solver 'asymmetric'"
        )


def _expect(name: str, kernel: Array, rows: int, columns: int, form: int) -> None:
    """Refuse another number of rows or columns, or a scalar kernel where the other is a matrix."""
    found = kernel.shape if kernel.ndim == 2 else (kernel.shape[0], kernel.shape[2])
    if kernel.ndim != form or found != (rows, columns):
        form_name = "(rows, rows)" if form == 2 else "(rows, C, rows, C)"
        raise InputError(
            f"{name}: expected {rows} x {columns} rows in the form {form_name} of the training "
            f"kernel, found shape {kernel.shape}"
        )
