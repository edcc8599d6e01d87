"""The data of kernel regression, kernels of training and test rows, and its models.

A matrix kernel is N x C x M x C with ``K[n, c, m, d] = <grad f_c(x_n), grad f_d(x_m)>``; a scalar
one, such as P, is N x M and stands for that matrix times I_C. Rows are the rows to predict, of
training and of test kernels. (LM-Kernel-FT has training rows first; the paper's code mixes both.)
"""

import warnings
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import KFold, StratifiedKFold

from lpft.analysis.inputs import class_indices, finite_matrix, short_repr
from lpft.errors import InputError
from lpft.ntk.statistics import MOST_ASYMMETRY, asymmetry, checked_kernel, kernel_matrix

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
Option = float | int | bool | str | None


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

    __repr__ = short_repr

    def __post_init__(self) -> None:
        for name in ("train", "test", "reverse_test"):
            kernel = getattr(self, name)
            if kernel is not None:
                object.__setattr__(self, name, checked_kernel(kernel, self.classes)[0])
        rows, ndim = len(self.train), self.train.ndim
        _check_form("training kernel", self.train, rows, rows, ndim)
        _check_form("test kernel", self.test, len(self.test), rows, ndim)
        if self.reverse_test is not None:
            _check_form("reversed test kernel", self.reverse_test, rows, len(self.test), ndim)

    def reversed(self) -> Array | None:
        """K(x_i, x) with training rows first: ``reverse_test``, or K^T of a symmetric kernel.

        None of an asymmetric kernel without ``reverse_test``: it is no function of K(x, x_i).
        """
        if self.reverse_test is not None:
            return self.reverse_test
        return reversed_kernel(self.test) if asymmetry(self.train) <= MOST_ASYMMETRY else None


@dataclass(frozen=True)
class TrainingSet:
    """A solver's training data: the kernel, N class indices and the logits f_0 [N, C].

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
        _check_form("training kernel", kernel, rows, rows, kernel.ndim)
        object.__setattr__(self, "kernel", kernel)
        if self.classes < 2:
            raise InputError(
                f"kernel: expected at least 2 logits, found {self.classes}; a binary logit z "
                "is the pair (-z/2, z/2), whose kernel is K_z times [[1, -1], [-1, 1]] / 4"
            )
        object.__setattr__(self, "labels", class_indices(self.labels, rows, self.classes))
        if self.f0 is not None:
            object.__setattr__(self, "f0", scaled_logits(self.f0, 1.0, rows, self.classes))

    @property
    def one_hot(self) -> Array:
        """The labels as rows of I_C, N x C."""
        return np.eye(self.classes)[self.labels]

    def take(self, rows: Labels) -> "TrainingSet":
        """The training set of some of its rows."""
        f0 = None if self.f0 is None else self.f0[rows]
        return TrainingSet(block(self.kernel, rows, rows), self.labels[rows], self.classes, f0)

    def offset(self, scale: float) -> Array:
        """``s f_0``, N x C; zeros for s = 0, where f_0 may be missing."""
        return scaled_logits(self.f0, scale, len(self.labels), self.classes)


@dataclass(frozen=True)
class ValidationSet:
    """Rows that choose the strength: ``kernel`` [V, C, N, C] or [V, N] to the training rows,
    V class indices and f_0 [V, C]."""

    kernel: Array
    labels: Labels
    f0: Array | None = None


@dataclass(frozen=True)
class Strength:
    """The regularisation strength lambda, and how it was chosen.

    ``value`` is in the units of the kernel; ``relative`` is value / mean diagonal of the training
    kernel, None where the candidates do not depend on the kernel. ``folds`` is 0 without
    cross-validation; ``at_edge``: the best candidate is the first or the last one.
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
    """

    solver: str
    coefficients: Array
    intercept: Array
    f0_scale: float = 0.0
    reverse_coefficients: Array | None = None
    strength: Strength | None = None
    converged: bool = True
    probabilistic: bool = False
    settings: dict[str, Option] = field(default_factory=dict)
    caveats: tuple[str, ...] = ()

    __repr__ = short_repr

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
        if table.shape[table.ndim // 2] != rows:
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
            reversed_table = reversed_kernel(checked_kernel(reverse, classes)[0])
            if reversed_table.shape != table.shape:
                raise InputError(
                    f"reversed kernel: expected that of the kernel's rows and columns exchanged, "
                    f"found {reversed_table.shape} for {table.shape} once turned"
                )
            logits = logits + apply_kernel(reversed_table, self.reverse_coefficients)
        return logits + scaled_logits(f0, self.f0_scale, len(logits), classes)

    def score(
        self,
        kernel: ArrayLike,
        labels: ArrayLike,
        f0: Array | None = None,
        reverse: ArrayLike | None = None,
    ) -> float:
        """The fraction of rows whose largest predicted logit (the first of equals) is the label's.

        ``labels`` [M] class indices; the rest as in :meth:`predict`.
        """
        logits = self.predict(kernel, f0, reverse)
        return float(np.mean(logits.argmax(axis=1) == class_indices(labels, *logits.shape)))


def require_two_classes(labels: Labels) -> None:
    """InputError for training rows of a single class."""
    present = np.unique(labels)
    if len(present) < 2:
        raise InputError(
            "kernel regression needs training rows of at least 2 classes, found only class "
            f"{int(present[0])}"
        )


def require_symmetric(kernel: Array, what: str) -> None:
    """InputError for a training kernel that is further from symmetric than rounding."""
    skew = asymmetry(kernel)
    if skew > MOST_ASYMMETRY:
        raise InputError(
            f"{what} needs a symmetric training kernel, found ||K - K^T|| / ||K|| = "
            f"{skew:.2g}; asymmetric SignGD kernels are for solver 'asymmetric'"
        )


def scaled_logits(f0: Array | None, scale: float, rows: int, classes: int) -> Array:
    """``s f_0``, or zeros for s = 0; InputError where f_0 is missing or s is not finite."""
    if scale == 0:
        return np.zeros((rows, classes))
    if f0 is None:
        raise InputError(
            f"f0_scale={scale:g} adds the logits f_0, which are missing: give f_0 of the "
            "training and the test rows, or f0_scale=0"
        )
    if not np.isfinite(scale):
        raise InputError(f"f0_scale: expected a finite number, found {scale}")
    logits = finite_matrix(f0, "f_0")
    if logits.shape != (rows, classes):
        raise InputError(
            f"f_0: expected shape ({rows}, {classes}), one row of logits per row of the kernel, "
            f"found {logits.shape}"
        )
    return scale * logits


def entry_matrix(kernel: Array, classes: int) -> Array:
    """The kernel between (row, logit) entries, NC x MC, the logit running fastest."""
    if kernel.ndim == 2:  # P ⊗ I_C
        return np.asarray(np.kron(kernel, np.eye(classes)), dtype=np.float64)
    return kernel_matrix(kernel)


def block(kernel: Array, rows: Labels, columns: Labels) -> Array:
    """The kernel between some of its rows and some of its columns."""
    return kernel[rows][:, columns] if kernel.ndim == 2 else kernel[rows][:, :, columns]


def apply_kernel(kernel: Array, coefficients: Array) -> Array:
    """``sum_i K(x, x_i) alpha_i``: an M x N (x C x C) kernel on N x C coefficients gives M x C."""
    if kernel.ndim == 2:
        return kernel @ coefficients
    # sum over i and d of K[n, c, i, d] alpha[i, d]
    return np.tensordot(kernel, coefficients, axes=2)


def reversed_kernel(kernel: Array) -> Array:
    """The same numbers with rows and columns exchanged: K(x_i, x) as K'(x, x_i)."""
    return kernel.T if kernel.ndim == 2 else kernel.transpose(2, 3, 0, 1)


def mean_diagonal(kernel: Array) -> float:
    """``trace(K) / (N C)`` of a training kernel, the scale of its entries; InputError for 0."""
    matrix = kernel_matrix(kernel)
    mean = float(np.trace(matrix)) / len(matrix)
    if mean <= 0:
        raise InputError(
            f"training kernel: expected a positive mean diagonal, found {mean:g}; a kernel that is "
            "zero on the training rows learns nothing (as F of a head whose weights are all 0)"
        )
    return mean


def stratified_folds(labels: Labels, folds: int) -> list[tuple[Labels, Labels]]:
    """Per fold the rows to fit on and those held out, in equal class shares and without a seed.

    scikit-learn's ``StratifiedKFold`` in the order of the rows. There are never more folds than the
    largest class has rows; where each class has a single row, they are ``KFold``'s. A class with
    fewer rows than folds is missing from some held-out parts, and one of a single row from one
    part that is fitted.
    """
    if folds < 2:
        raise InputError(f"folds: expected at least 2, found {folds}")
    # scikit-learn asks for features, of which it uses the number of rows.
    rows = np.zeros((len(labels), 1))
    most = int(np.bincount(labels).max())
    if most < 2:
        return list(KFold(min(folds, len(labels))).split(rows))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        return list(StratifiedKFold(min(folds, most)).split(rows, labels))


def _check_form(name: str, kernel: Array, rows: int, columns: int, ndim: int) -> None:
    """Refuse another number of rows or columns, or a scalar kernel where the other is a matrix."""
    shape = (kernel.shape[0], kernel.shape[kernel.ndim // 2])
    if kernel.ndim != ndim or shape != (rows, columns):
        form = "(rows, rows)" if ndim == 2 else "(rows, C, rows, C)"
        raise InputError(
            f"{name}: expected {rows} x {columns} rows in the form {form} of the training "
            f"kernel, found shape {kernel.shape}"
        )
