"""An embedding's share of the kernel: its rows meet only where their ids are equal."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lpft.ntk.capture import Rows
from lpft.ntk.contraction import Contraction, Sums, zero_sums
from lpft.ntk.layout import Pair
from lpft.ntk.signs import signed
from lpft.settings import KernelKind


def contract_rows(
    shares: Mapping[int, Rows],
    counts: Mapping[int, int],
    pairs: Sequence[Pair],
    among: Sequence[int],
    contraction: Contraction,
) -> Sums:
    """``sum over t, s of [id_t = id_s] <g_t, g_s>``, exactly, however large the table is.

    Args:
        shares: per tile, the rows of all of its samples; ``counts`` how many samples that are.
        pairs: of tiles.
        among: numbers of the heads that are asked for.
    """
    sums = zero_sums(counts, pairs, among, contraction)
    ordered = {tile: _by_id(rows) for tile, rows in shares.items()}
    for i, j in pairs:
        left, right = ordered[i], ordered[j]
        starts_i, ends_i, starts_j, ends_j = _shared_ids(left.ids, right.ids)
        single = (ends_i - starts_i == 1) & (ends_j - starts_j == 1)
        for head in among:
            seeds = contraction.heads[head]
            rank = seeds.stop - seeds.start
            total = sums[(i, j), head].view(rank, counts[i], rank, counts[j])
            rows_i, rows_j = left.vectors[seeds], right.vectors[seeds]
            _add_single_ids(
                total,
                (rows_i[:, starts_i[single]], left.samples[starts_i[single]]),
                (rows_j[:, starts_j[single]], right.samples[starts_j[single]]),
                contraction.kernel,
            )
            for a, b, c, d in np.stack([starts_i, ends_i, starts_j, ends_j], 1)[~single]:
                one, other = signed(rows_i[:, a:b], rows_j[:, c:d], contraction.kernel)
                block = one.reshape(-1, one.shape[-1]) @ other.reshape(-1, other.shape[-1]).T
                place = (
                    slice(None),
                    left.samples[a:b].reshape(-1, 1, 1),
                    torch.arange(rank, device=total.device).reshape(1, -1, 1),
                    right.samples[c:d].reshape(1, 1, -1),
                )
                total[place] += block.to(total).view(rank, b - a, rank, d - c)
    return sums


def _add_single_ids(
    total: Tensor,
    left: tuple[Tensor, Tensor],
    right: tuple[Tensor, Tensor],
    kernel: KernelKind,
) -> None:
    """Add the ids that one sample of each tile has, all at once."""
    one, other = signed(left[0], right[0], kernel)
    blocks = torch.einsum("puh,quh->upq", one, other)
    total.permute(1, 3, 0, 2).index_put_((left[1], right[1]), blocks.to(total), accumulate=True)


def _by_id(rows: Rows) -> Rows:
    order = torch.argsort(rows.ids, stable=True)
    return Rows(rows.ids[order], rows.samples[order], rows.vectors[:, order])


def _shared_ids(left: Tensor, right: Tensor) -> tuple[NDArray[np.int64], ...]:
    """Where the rows of each id begin and end in two sorted lists, for ids in both."""
    mine, theirs = left.cpu().numpy(), right.cpu().numpy()
    shared = np.intersect1d(mine, theirs)
    return (
        np.searchsorted(mine, shared, "left"),
        np.searchsorted(mine, shared, "right"),
        np.searchsorted(theirs, shared, "left"),
        np.searchsorted(theirs, shared, "right"),
    )
