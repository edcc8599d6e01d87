"""What the statistics accept: finite float64 matrices with at least one row, and class indices."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lpft.data.examples import UNSEEN
from lpft.errors import InputError


def finite_matrix(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """The values as a finite float64 matrix of at least one row and one column.

    Raises:
        InputError: not two-dimensional, empty, or not finite somewhere; ``name`` says whose.
    """
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2:
        raise InputError(f"{name}: expected a matrix [rows, columns], found shape {matrix.shape}")
    if matrix.size == 0:
        raise InputError(
            f"{name}: expected at least one row and one column, found shape {matrix.shape}; "
            "leave an empty split out"
        )
    wrong = ~np.isfinite(matrix)
    if wrong.any():
        first = int(np.flatnonzero(wrong.any(axis=1))[0])
        raise InputError(
            f"{name}: expected finite numbers, found {int(wrong.sum())} NaN or infinite values "
            f"(first in row {first}); the model has diverged or its weights are damaged, "
            "so train again, with a lower learning rate"
        )
    return matrix


def logit_matrix(values: ArrayLike) -> NDArray[np.float64]:
    """Logits [N, C] as a finite float64 matrix of at least two classes.

    Raises:
        InputError: as :func:`finite_matrix`, or a single column.
    """
    logits = finite_matrix(values, "logits")
    if logits.shape[1] < 2:
        raise InputError(
            "logits: expected one column per class for at least 2 classes, found 1 column; "
            "turn a single binary logit z into the columns (-z/2, z/2)"
        )
    return logits


def class_indices(labels: ArrayLike, rows: int, classes: int | None = None) -> NDArray[np.int64]:
    """The labels as ``rows`` class indices, below ``classes`` where that is given.

    Raises:
        InputError: another number of labels, labels that are not integers, or out of range.
    """
    indices = np.asarray(labels)
    if indices.shape != (rows,):
        raise InputError(f"labels: expected shape ({rows},), found {indices.shape}")
    if not np.issubdtype(indices.dtype, np.integer):
        raise InputError(f"labels: expected integer class indices, found dtype {indices.dtype}")
    wrong = indices < 0 if classes is None else (indices < 0) | (indices >= classes)
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        expected = "0 or more" if classes is None else f"0 to {classes - 1}"
        raise InputError(
            f"labels: expected class indices of {expected}, found {int(indices[first])} in row "
            f"{first}; a hidden or unknown label cannot be scored"
        )
    return indices.astype(np.int64)


def labels_or_unseen(labels: ArrayLike, rows: int, classes: int) -> NDArray[np.int64]:
    """As :func:`class_indices`, where ``UNSEEN`` stands for a class that training lacks."""
    indices = np.asarray(labels)
    unseen = indices == UNSEEN if indices.shape == (rows,) else np.zeros(rows, dtype=bool)
    if unseen.any():
        checked = class_indices(np.where(unseen, 0, indices), rows, classes)
        return np.where(unseen, UNSEEN, checked)
    return class_indices(labels, rows, classes)
