"""A tile's shares in one parameter, from those of its batches, in the order of its samples.

A batch whose texts reach the parameter by no gradient has the share None: its samples count zero.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from lpft.ntk.capture import Contribution, Outer, Rows
from lpft.ntk.layout import Tile

BatchShares = Sequence[Contribution | None]


def outers_of_tile(tile: Tile, shares: BatchShares) -> list[Outer]:
    """A linear weight's inputs and gradients, batch by batch."""
    found = [share for share in shares if isinstance(share, Outer)]
    return [
        share if isinstance(share, Outer) else _without_gradient(found[0], len(rows))
        for share, (_, rows) in zip(shares, tile.batches, strict=True)
    ]


def rows_of_tile(tile: Tile, shares: BatchShares) -> Rows:
    """An embedding's rows, of all samples of the tile."""
    starts = accumulate((len(rows) for _, rows in tile.batches), initial=0)
    found = [
        (start, share)
        for start, share in zip(starts, shares, strict=False)
        if isinstance(share, Rows)
    ]
    return Rows(
        torch.cat([share.ids for _, share in found]),
        torch.cat([share.samples + start for start, share in found]),
        torch.cat([share.vectors for _, share in found], 1),
    )


def vectors_of_tile(tile: Tile, members: Sequence[tuple[BatchShares, int]]) -> Tensor:
    """J of parameters side by side, S x n x d; ``members`` are their shares and numbers."""
    like = next(share for shares, _ in members for share in shares if isinstance(share, Tensor))
    joined = [
        torch.cat(
            [
                share
                if isinstance(share, Tensor)
                else like.new_zeros(like.shape[0], len(rows), numbers)
                for share, (_, rows) in zip(shares, tile.batches, strict=True)
            ],
            1,
        )
        for shares, numbers in members
    ]
    return joined[0] if len(joined) == 1 else torch.cat(joined, 2)


def _without_gradient(like: Outer, samples: int) -> Outer:
    """The share of samples that no gradient reaches: one token that counts for nothing."""
    return Outer(
        like.inputs.new_zeros(samples, 1, like.inputs.shape[-1]),
        [gradient.new_zeros(samples, 1, gradient.shape[-1]) for gradient in like.gradients],
    )
