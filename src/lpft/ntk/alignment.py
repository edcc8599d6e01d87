"""Centred kernel alignment (CKA): how alike two kernels on the same samples are.

``CKA(K, L) = <K', L'>_F / (||K'||_F ||L'||_F)`` with kernels centred over samples, for each class
on its own: ``K' = (H ⊗ I_C) K (H ⊗ I_C)``, ``H = I - 1 1^T / N``. That is the kernel of the
gradients ``psi(n, c) - mean_m psi(m, c)``. P, N x N, stands for ``P ⊗ I_C``, so that two such
kernels have the CKA of the N x N matrices, and P compares with F by the sum over classes of F's
diagonal blocks. For positive semidefinite kernels the value is from 0 to 1, and 1 exactly where
one centred kernel is a multiple of the other. Which samples, and in which order, must agree: the
kernels may belong to different methods, or to checkpoints of one training.

Source: Cortes, Mohri and Rostamizadeh, JMLR 2012; Kornblith et al., ICML 2019, equation 3.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lpft.errors import InputError
from lpft.ntk.spectrum import checked_kernel


def centred_kernel(kernel: ArrayLike) -> NDArray[np.float64]:
    """``(H ⊗ I_C) K (H ⊗ I_C)``: the kernel after its gradients lose their mean over samples.

    ``kernel`` N x C x N x C, or N x N, for which this is ``H P H``; so is what comes back.

    Raises:
        InputError: not a finite kernel, or not of samples with themselves.
    """
    table, _ = checked_kernel(kernel, 1 if np.ndim(kernel) == 2 else None)
    columns = table.ndim // 2
    if table.shape[0] != table.shape[columns]:
        raise InputError(
            f"kernel: expected one of samples with themselves, found shape {table.shape}; "
            "alignment needs the kernel of one set of samples"
        )
    half = table - table.mean(axis=0, keepdims=True)
    return half - half.mean(axis=columns, keepdims=True)


def centred_kernel_alignment(first: ArrayLike, second: ArrayLike) -> float | None:
    """CKA of two kernels on the same samples in the same order.

    ``first``, ``second`` N x C x N x C or N x N, each. None where a centred kernel is 0, as for a
    single sample or for features that are all equal: it has no direction.

    Raises:
        InputError: not finite kernels of samples with themselves, or of different shapes.
    Source: Kornblith et al., ICML 2019, equation 3; the module says how classes are treated.
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
    _check_same_samples({name: table.shape for name, table in centred.items()})
    classes = max((table.shape[1] for table in centred.values() if table.ndim == 4), default=1)
    directions = [
        _direction(table, np.asarray(kernels[name]), classes) for name, table in centred.items()
    ]
    values = np.full((len(kernels), len(kernels)), np.nan)
    for i, row in enumerate(directions):
        for j, column in enumerate(directions[: i + 1]):
            if row is not None and column is not None:
                same = i == j
                values[i, j] = values[j, i] = 1.0 if same else _inner(row, column, classes)
    found = [[None if np.isnan(value) else float(value) for value in row] for row in values]
    return {"kernels": list(kernels), "values": found}


def _check_same_samples(shapes: Mapping[str, tuple[int, ...]]) -> None:
    samples = {shape[0] for shape in shapes.values()}
    classes = {shape[1] for shape in shapes.values() if len(shape) == 4}
    if len(samples) > 1 or len(classes) > 1:
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise InputError(
            f"alignment: expected kernels of one set of samples and classes, found {found}; "
            "compute them on the same texts in the same order"
        )


def _direction(
    centred: NDArray[np.float64], kernel: NDArray[Any], classes: int
) -> NDArray[np.float64] | None:
    """A centred kernel over its norm, None where centring leaves only rounding."""
    size = float(np.linalg.norm(centred))
    noise = np.finfo(np.float64).eps * len(centred) * float(np.linalg.norm(kernel.ravel()))
    if size <= noise:
        return None
    return centred / (size * (np.sqrt(classes) if centred.ndim == 2 else 1.0))


def _inner(first: NDArray[np.float64], second: NDArray[np.float64], classes: int) -> float:
    """``<K, L>_F`` of the NC x NC matrices."""
    if first.ndim == second.ndim:
        copies = classes if first.ndim == 2 else 1
        return float(copies * np.vdot(first, second))
    matrix, blocks = (first, second) if first.ndim == 2 else (second, first)
    return float(np.vdot(matrix, np.einsum("ncmc->nm", blocks)))
