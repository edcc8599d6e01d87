"""Kernels in the order of their texts, from the sums over pairs of tiles."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lpft.ntk.heads import HeadRows
from lpft.ntk.layout import Pair, Tile
from lpft.ntk.requests import KernelRequest
from lpft.ntk.signs import signed
from lpft.settings import KernelKind


def pretrain_effective(
    request: KernelRequest, rows: Tensor, columns: Tensor, kernel: KernelKind
) -> Tensor:
    """P, N x M, from the features of rows (N x h) and columns (M x h).

    A head's gradient is the feature, and 1 for the bias; kernels of signs take its sign alike.
    """
    rows, columns = signed(rows, columns, kernel)
    inner = rows @ columns.T if request.head_trains else rows.new_zeros(len(rows), len(columns))
    return inner + 1 if request.bias_trains else inner


def ft_effective(
    head: HeadRows,
    sums: Mapping[Pair, Tensor],
    tiles: Sequence[Tile],
    groups: NDArray[np.int64],
    block: Pair,
    *,
    halved: bool,
) -> Tensor:
    """F of one block of groups, N x C x M x C.

    Args:
        sums: by pair of tiles, (r n) x (r m); pairs of other blocks are passed over.
        groups: the group of every text.
        halved: whether pairs within a group stand for their mirror images too.
    """
    counts = np.bincount(groups)
    places = np.empty(len(groups), dtype=np.int64)
    for group, count in enumerate(counts):
        places[groups == group] = np.arange(count)
    rank = head.rank
    whole = torch.zeros(
        rank, int(counts[block[0]]), rank, int(counts[block[1]]), dtype=torch.float64
    )
    seeds = torch.arange(rank)
    for (i, j), values in sums.items():
        left, right = tiles[i], tiles[j]
        if (left.group, right.group) != block:
            continue
        rows, columns = (torch.from_numpy(places[tile.rows]) for tile in (left, right))
        tile_values = values.view(rank, len(rows), rank, len(columns))
        whole[torch.meshgrid(seeds, rows, seeds, columns, indexing="ij")] = tile_values
        if halved and i != j and left.group == right.group:
            mirror = torch.meshgrid(seeds, columns, seeds, rows, indexing="ij")
            whole[mirror] = tile_values.permute(2, 3, 0, 1)
    return torch.einsum("cp,pnqm,dq->ncmd", head.mixing, whole, head.mixing)
