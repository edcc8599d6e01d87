"""Matrix products that meet whole gradients, and the symmetric one by half its work."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]
from torch import Tensor

from lpft.settings import Products

_STRIPS = 6
_LEAST_WORK = 1 << 26
"""Multiplications that are worth threads of their own."""


def product(left: Tensor, right: Tensor) -> Tensor:
    """``left right^T``, of bfloat16 numbers in float32."""
    if left.dtype == torch.bfloat16:
        return torch.mm(left, right.T, out_dtype=torch.float32)
    return left @ right.T


def symmetric_product(rows: Tensor, products: Products) -> Tensor:
    """``rows rows^T``, of bfloat16 numbers in float32; half of it is computed.

    NumPy calls the symmetric routine of its BLAS for a matrix times its own transpose; PyTorch has
    none, so elsewhere, and where PyTorch alone knows units for bfloat16, strips up to the diagonal
    are multiplied and mirrored.
    """
    if rows.device.type == "cpu" and products != "bfloat16":
        return _by_blas(rows.numpy())
    return _by_strips(rows)


def parts_of_columns(rows: int, columns: int) -> int:
    """In how many parts of columns the CPU's product of ``rows x columns`` numbers is taken.

    One per thread, if it is large; never so many that the parts' products (n x n each) are
    together larger than what they are products of.
    """
    large = rows**2 * columns >= _LEAST_WORK
    return max(1, min(torch.get_num_threads(), columns // rows)) if large else 1


def _by_blas(numbers: NDArray[np.floating]) -> Tensor:
    """A BLAS shares the columns less well among its threads than columns are shared here.

    Its threads also wait at full speed for more, and slow down those of PyTorch that follow.
    """
    parts = parts_of_columns(*numbers.shape)
    if parts == 1:
        return _with_its_transpose(numbers)
    with _blas().limit(limits=1), ThreadPoolExecutor(parts) as pool:
        first, *others = pool.map(_with_its_transpose, np.array_split(numbers, parts, axis=1))
    for other in others:
        first.add_(other)
    return first


def _with_its_transpose(numbers: NDArray[np.floating]) -> Tensor:
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused later
        return torch.from_numpy(np.matmul(numbers, numbers.T))


@cache
def _blas() -> ThreadpoolController:
    """The BLAS libraries that are loaded, NumPy's among them."""
    return ThreadpoolController().select(user_api="blas")


def _by_strips(rows: Tensor) -> Tensor:
    n = rows.shape[0]
    dtype = torch.float32 if rows.dtype == torch.bfloat16 else rows.dtype
    result = torch.empty(n, n, dtype=dtype, device=rows.device)
    step = -(-n // _STRIPS)
    for start in range(0, n, step):
        stop = min(start + step, n)
        strip = product(rows[start:stop], rows[:stop])
        before, corner = strip[:, :start], strip[:, start:]
        result[start:stop, :start] = before
        result[:start, start:stop] = before.T
        result[start:stop, start:stop] = corner.tril() + corner.tril(-1).T
    return result
