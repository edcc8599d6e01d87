"""The error of fast products: a sample of the kernel's entries against exact ones."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lpft.ntk.layout import Pair
from lpft.ntk.result import EmpiricalNTK

_TEXTS = 6


def sampled_places(groups: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Of each group of texts the places within it of a few, evenly spread."""
    counts = np.bincount(groups)
    return [np.unique(np.linspace(0, n - 1, _TEXTS).round().astype(np.int64)) for n in counts]


def products_error(
    kernels: Mapping[str, Mapping[Pair, EmpiricalNTK]],
    exact: Mapping[str, Mapping[Pair, EmpiricalNTK]],
    places: Sequence[NDArray[np.int64]],
) -> float:
    """The largest relative error (Frobenius norm) of F on sampled texts, over requests and blocks.

    Args:
        kernels: of all texts, by request and block of groups, each F N x C x M x C.
        exact: the same of the texts at ``places`` of their groups, by exact products.
    """
    return max(
        _relative_difference(
            kernel.ft_effective[places[block[0]]][:, :, places[block[1]]],
            exact[name][block].ft_effective,
        )
        for name, found in kernels.items()
        for block, kernel in found.items()
    )


def _relative_difference(found: Tensor, exact: Tensor) -> float:
    scale = float(torch.linalg.vector_norm(exact))
    return float(torch.linalg.vector_norm(found - exact)) / scale if scale > 0 else 0.0
