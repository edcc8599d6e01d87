"""What the statistics accept: finite float64 matrices with at least one row, and class indices;
and how results that hold arrays print.

Tensors of PyTorch are arrays here, wherever they lie, in any precision and with their gradients.
"""

from collections.abc import Collection
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lpft.data.examples import UNSEEN
from lpft.errors import InputError, one_line

SUM_TOLERANCE = 1e-4
"""How far the probabilities of a row may be from the sum 1: a float32 softmax over thousands of
classes stays well inside."""

_MOST_SHOWN = 4
"""Items of a collection in the line of a result."""

_ROUNDINGS = 3
"""Of a softmax computed in half precision: of its exponentials, its quotient and its sum."""


def as_array(values: Any, name: str, dtype: Any = None) -> NDArray[Any]:
    """Arrays, tensors of any kind, and lists of them as a NumPy array.

    Raises:
        InputError: they are not numbers in the shape of an array; ``name`` says whose.
    """
    try:
        if isinstance(values, list | tuple) and any(hasattr(value, "detach") for value in values):
            return np.asarray([as_array(value, name, dtype) for value in values], dtype)
        if hasattr(values, "detach"):
            values = values.detach().cpu()
            if "bfloat16" in str(values.dtype):  # NumPy has no such type
                values = values.float()
            values = values.numpy()
        return np.asarray(values, dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name}: expected numbers in an array or tensor, found {type(values).__name__} "
            f"({one_line(error)})"
        ) from error


def short_repr(result: Any) -> str:
    """A dataclass on one line, such as ``LowRank(rows=48 x 3, ...)``: of arrays their shapes."""
    parts = (f"{field.name}={_short(getattr(result, field.name))}" for field in fields(result))
    return f"{type(result).__name__}({', '.join(parts)})"


def _short(value: Any) -> str:
    if getattr(value, "shape", ()):
        return " x ".join(map(str, value.shape))
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Collection) and not isinstance(value, str) and len(value) > _MOST_SHOWN:
        return f"{len(value)} items"
    return repr(value)


def probability_matrix(values: ArrayLike) -> NDArray[np.float64]:
    """Probabilities [N, C] as a finite float64 matrix, whose rows sum to 1 within 1e-4.

    Probabilities that were rounded to half precision (float16 or bfloat16, whatever their type is
    by now) are divided by their sum, which their rounding moves from 1.

    Raises:
        InputError: as :func:`finite_matrix`, or rows that are no distribution.
    """
    table = finite_matrix(values, "probabilities")
    if (table < 0).any() or (table > 1 + SUM_TOLERANCE).any():
        raise InputError(
            "probabilities: expected numbers in [0, 1], found "
            f"{table.min():.3g} to {table.max():.3g}; turn logits into probabilities with a softmax"
        )
    sums = table.sum(axis=1, keepdims=True)
    largest = float(np.abs(sums - 1).max())
    if largest <= SUM_TOLERANCE:
        return table
    if largest <= _ROUNDINGS * _unit_roundoff(table):
        return table / sums
    raise InputError(
        f"probabilities: expected rows that sum to 1, found sums from {sums.min():.4g} to "
        f"{sums.max():.4g}; divide each row by its sum if rounding is the reason, and leave no "
        "class out"
    )


def _unit_roundoff(table: NDArray[np.float64]) -> float:
    """That of the coarser half precision in which the numbers are written, 0 of other numbers."""
    single = table.astype(np.float32)
    if (single != table).any():
        return 0.0
    if not (single.view(np.uint32) & 0xFFFF).any():  # bfloat16 is the upper half of float32
        return 2.0**-8
    return 2.0**-11 if (single.astype(np.float16) == single).all() else 0.0


def finite_matrix(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """The values as a finite float64 matrix of at least one row and one column.

    Raises:
        InputError: not two-dimensional, empty, or not finite somewhere; ``name`` says whose.
    """
    matrix = as_array(values, name, np.float64)
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
            "so train again, with a lower learning rate; or half precision overflowed"
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
    indices = as_array(labels, "labels")
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
    indices = as_array(labels, "labels")
    unseen = indices == UNSEEN if indices.shape == (rows,) else np.zeros(rows, dtype=bool)
    if unseen.any():
        checked = class_indices(np.where(unseen, 0, indices), rows, classes)
        return np.where(unseen, UNSEEN, checked)
    return class_indices(labels, rows, classes)
