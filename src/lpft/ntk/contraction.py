"""Products of whole gradients: J of two tiles, chunk by chunk, to a block of the kernel.

For tiles i and j of samples each contraction gives ``F[(p, n), (q, m)] = <J_i[p, n], J_j[q, m]>``
for the seeds p, q of one head, in float64, seeds before samples. Sums over long axes are made in
the products' precision (float32 for bfloat16 numbers) chunk by chunk and added up in float64.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lpft.ntk.layout import Pair
from lpft.ntk.matrix_products import product, symmetric_product
from lpft.ntk.precision import products_in
from lpft.ntk.signs import takes_signs
from lpft.settings import KernelKind, Products

Sums = dict[tuple[Pair, int], Tensor]
"""By pair of tiles and number of the head: (r n) x (r m), float64."""

_ALIGNMENT = 16
"""Numbers: each tensor of the workspace begins at a multiple of it, as vector units like it."""
_ROUNDED = 1 << 20
"""Numbers that are rounded at a time, for want of room."""


class Workspace:
    """One buffer that is formed once and used again by every contraction.

    ``size`` is how many numbers it should hold.
    """

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self.size = size
        self.dtype = dtype
        self.device = device
        self._buffer = torch.empty(0, dtype=dtype, device=device)

    def split(self, shapes: Mapping[int, tuple[int, ...]]) -> dict[int, Tensor]:
        """Contiguous tensors of these shapes side by side; their contents are undefined.

        What an earlier call gave is overwritten.
        """
        numbers = {name: int(np.prod(shape)) for name, shape in shapes.items()}
        steps = [-(-count // _ALIGNMENT) * _ALIGNMENT for count in numbers.values()]
        starts = [sum(steps[:place]) for place in range(len(steps))]
        if sum(steps) > self._buffer.numel():
            self._buffer = torch.empty(0, dtype=self.dtype, device=self.device)
            self._buffer = torch.empty(sum(steps), dtype=self.dtype, device=self.device)
        return {
            name: self._buffer[start : start + numbers[name]].view(shape)
            for start, (name, shape) in zip(starts, shapes.items(), strict=True)
        }


@dataclass(frozen=True)
class Contraction:
    """How the shares of tiles are contracted.

    ``heads`` are slices of the seeds; ``kernel`` the signs to take; ``products`` the precision of
    the matrix products that meet the whole gradients.
    """

    heads: tuple[slice, ...]
    kernel: KernelKind
    products: Products
    workspace: Workspace

    def ranks(self, among: Sequence[int]) -> list[int]:
        return [self.heads[head].stop - self.heads[head].start for head in among]

    def columns(self, rows: int) -> int:
        """How many columns of J fit into the workspace beside the copies that products need."""
        bfloat16 = self.products == "bfloat16" and self.workspace.device.type == "cuda"
        copies = 2 if bfloat16 or self.kernel == "asymmetric" else 1
        return max(1, self.workspace.size // (copies * rows))

    @property
    def overwrites(self) -> bool:
        """Whether products overwrite what they are made of: by its signs, or rounded."""
        return self.kernel == "signgd" or self.products == "bfloat16"


def zero_sums(
    counts: Mapping[int, int],
    pairs: Sequence[Pair],
    among: Sequence[int],
    contraction: Contraction,
) -> Sums:
    """Zeros for every pair and head; ``counts`` are the samples of the tiles."""
    return {
        (pair, head): torch.zeros(
            rank * counts[pair[0]],
            rank * counts[pair[1]],
            dtype=torch.float64,
            device=contraction.workspace.device,
        )
        for pair in pairs
        for head, rank in zip(among, contraction.ranks(among), strict=True)
    }


def contract_vectors(
    shares: Mapping[int, Tensor],
    pairs: Sequence[Pair],
    among: Sequence[int],
    contraction: Contraction,
) -> Sums:
    """The share of parameters whose J is at hand: per tile S x n x d."""
    counts = {tile: vectors.shape[1] for tile, vectors in shares.items()}
    sums = zero_sums(counts, pairs, among, contraction)
    length = next(iter(shares.values())).shape[2]
    step = contraction.columns(sum(v.shape[0] * v.shape[1] for v in shares.values()))
    for start in range(0, length, step):
        chunks = dict(shares)
        if step < length or contraction.overwrites:
            parts = {tile: v[:, :, start : start + step] for tile, v in shares.items()}
            chunks = contraction.workspace.split({t: tuple(p.shape) for t, p in parts.items()})
            for tile, part in parts.items():
                chunks[tile].copy_(part)
        places = {head: contraction.heads[head] for head in among}
        add_products(sums, chunks, pairs, places, contraction)
    return sums


def add_products(
    sums: Sums,
    chunks: Mapping[int, Tensor],
    pairs: Sequence[Pair],
    places: Mapping[int, slice],
    contraction: Contraction,
) -> None:
    """Add the products of some columns of J to the sums.

    ``chunks`` are those columns per tile, seeds x n x columns, contiguous, which are overwritten
    if the contraction does so; ``places`` the seeds of each head among them.
    """
    rows, columns = _factors(chunks, contraction)
    with products_in(contraction.products):
        for head, seeds in places.items():
            for i, j in pairs:
                left = rows[i][seeds].reshape(-1, rows[i].shape[-1])
                if i == j and contraction.kernel != "asymmetric":
                    block = symmetric_product(left, contraction.products)
                else:
                    block = product(left, columns[j][seeds].reshape(-1, columns[j].shape[-1]))
                sums[(i, j), head] += block


def _factors(
    chunks: Mapping[int, Tensor], contraction: Contraction
) -> tuple[Mapping[int, Tensor], Mapping[int, Tensor]]:
    """J as the rows of the kernel take it, and as its columns do."""
    rows = chunks
    if contraction.products == "bfloat16":
        rows = {tile: _rounded(chunk) for tile, chunk in chunks.items()}
    of_rows, of_columns = takes_signs(contraction.kernel)
    if of_rows:
        for chunk in rows.values():
            chunk.sign_()
    if of_rows == of_columns:
        return rows, rows
    return rows, {tile: chunk.sign() for tile, chunk in rows.items()}


def _rounded(chunk: Tensor) -> Tensor:
    """The chunk in bfloat16's precision.

    A CPU multiplies bfloat16 tensors to bfloat16 only, and without units for them slowly: there
    the numbers are rounded in place and stay of their type.
    """
    if chunk.device.type != "cpu":
        return chunk.to(torch.bfloat16)
    for part in chunk.view(-1).split(_ROUNDED):
        part.copy_(part.to(torch.bfloat16))
    return chunk
