"""Singular values, eigenvalues and numerical rank of kernels, in float64.

A kernel is F or P + F, an array N x C x M x C, or P, an array N x M that stands for the
NC x MC matrix ``P ⊗ I_C``. Rows of a matrix are (sample, class) with the class running fastest.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lpft.errors import InputError

FLOAT32_EPSILON = float(np.finfo(np.float32).eps)

MOST_ASYMMETRY = 1e-3
"""Of a kernel that is symmetric up to rounding in any precision; asymmetric SignGD is far above."""


@dataclass(frozen=True)
class Spectrum:
    """The spectrum of one NC x MC kernel matrix.

    ``singular_values`` [min(NC, MC)] are in descending order; ``eigenvalues`` [NC] in ascending
    order, None where the matrix is not symmetric; ``shape`` is (NC, MC).
    """

    singular_values: NDArray[np.float64]
    eigenvalues: NDArray[np.float64] | None
    shape: tuple[int, int]

    @property
    def largest(self) -> float:
        """sigma_max, the spectral norm."""
        return float(self.singular_values[0])

    @property
    def normalised(self) -> NDArray[np.float64]:
        """``sigma_k / sigma_max`` [min(NC, MC)], all 0 for the zero matrix."""
        return self.singular_values / self.largest if self.largest > 0 else self.singular_values

    @property
    def rank_tolerance(self) -> float:
        """``max(NC, MC) * eps * sigma_max`` with the eps of float32, whatever the dtype."""
        return max(self.shape) * FLOAT32_EPSILON * self.largest

    @property
    def rank(self) -> int:
        """How many singular values are above :attr:`rank_tolerance`.

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


def checked_kernel(
    kernel: ArrayLike, classes: int | None = None
) -> tuple[NDArray[np.float64], int]:
    """The kernel as a finite float64 array of 4 or 2 axes, and its number of classes C.

    ``kernel`` N x C x M x C, or N x M with ``classes`` given.

    Raises:
        InputError: another shape, no entries, entries that are not finite, or no number of
            classes for a kernel N x M.
    """
    table = np.asarray(kernel, dtype=np.float64)
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


def kernel_matrix(kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """An N x C x M x C kernel as its NC x MC matrix; an N x M kernel as it is."""
    if kernel.ndim == 2:
        return kernel
    rows, classes, columns, _ = kernel.shape
    return kernel.reshape(rows * classes, columns * classes)


def asymmetry(kernel: ArrayLike) -> float:
    """How far a kernel of samples with themselves is from symmetric.

    ``||K - K^T||_F / ||K||_F``, from 0 (symmetric) to 2 (``K^T = -K``); 0 for the zero matrix.

    ``kernel`` N x C x N x C, or N x N (the value for ``P ⊗ I_C`` is that of P).

    Raises:
        InputError: not a finite kernel, or not of samples with themselves.
    """
    table, _ = checked_kernel(kernel, 1 if np.ndim(kernel) == 2 else None)
    matrix = kernel_matrix(table)
    if matrix.shape[0] != matrix.shape[1]:
        raise InputError(
            f"kernel: expected one of samples with themselves, found shape {table.shape}; only a "
            "square kernel can be symmetric"
        )
    size = float(np.linalg.norm(matrix))
    return float(np.linalg.norm(matrix - matrix.T)) / size if size > 0 else 0.0


def kernel_spectrum(
    kernel: ArrayLike, classes: int | None = None, *, symmetric: bool | None = None
) -> Spectrum:
    """Singular values of a kernel, and its eigenvalues where it is symmetric.

    Symmetric kernels go through ``eigvalsh`` of ``(K + K^T) / 2``, with
    ``sigma = |lambda|``, others through an SVD. By default a square kernel counts as symmetric
    where :func:`asymmetry` is at most the eps of float32: by Weyl's inequality the symmetric
    part's singular values then differ from the kernel's by less than the rank tolerance.
    Of P only the N x M matrix is decomposed: ``P ⊗ I_C`` has each of its values C times.

    Args:
        kernel: N x C x M x C, or N x M with ``classes``.
        classes: C, needed for N x M.
        symmetric: take the kernel for symmetric, or not, whatever is found.

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
    copies = classes if table.ndim == 2 else 1
    eigenvalues: NDArray[np.float64] | None = None
    if symmetric:
        eigenvalues = np.repeat(np.linalg.eigvalsh((matrix + matrix.T) / 2), copies)
        values = np.sort(np.abs(eigenvalues))[::-1]
    else:
        values = np.repeat(np.linalg.svd(matrix, compute_uv=False), copies)
    return Spectrum(values, eigenvalues, (copies * matrix.shape[0], copies * matrix.shape[1]))
