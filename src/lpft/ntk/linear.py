"""The three exact ways to a linear weight's share of the kernel.

With inputs x (T x a) and gradients g (T x b) of a sample, the gradient of the weight is
``J = g^T x``. Either J is formed (``materialize``), or its products are taken without it:
``sum over t, s of (x_t . x'_s) (g_t . g'_s)`` (``token_gram``), or ``<g, (x x'^T) g'>``
(``sandwich``).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lpft.ntk.capture import Outer
from lpft.ntk.contraction import Contraction, Sums, Workspace, add_products, zero_sums
from lpft.ntk.cost import Method
from lpft.ntk.layout import Pair

_GROUP_ELEMENTS = 1 << 24
"""Numbers in the products of batches that are joined: larger products gain nothing by it."""
_STRIPS = 6
"""In which samples meet themselves: each meets those from its own on, and is mirrored."""


def contract_outer(
    shares: Mapping[int, Sequence[Outer]],
    pairs: Sequence[Pair],
    among: Sequence[int],
    method: Method,
    contraction: Contraction,
) -> Sums:
    """A linear weight's share of the kernel.

    Args:
        shares: per tile, the batches' inputs and gradients, in the order of its samples.
        pairs: of tiles; ``(i, i)`` is computed by half, unless the kernel is asymmetric.
        among: numbers of the heads that are asked for.
    """
    counts = {tile: _samples(outers) for tile, outers in shares.items()}
    sums = zero_sums(counts, pairs, among, contraction)
    if method == "materialize":
        _materialize(sums, shares, pairs, among, contraction)
    else:
        grouped = {tile: list(_equal_lengths(outers)) for tile, outers in shares.items()}
        for i, j in pairs:
            target = _Target({head: sums[(i, j), head] for head in among}, (counts[i], counts[j]))
            _by_products(target, (grouped[i], grouped[j]), _WAYS[method], contraction)
    return sums


def _materialize(
    sums: Sums,
    shares: Mapping[int, Sequence[Outer]],
    pairs: Sequence[Pair],
    among: Sequence[int],
    contraction: Contraction,
) -> None:
    """Form J chunk by chunk of the weight's longer side, and multiply it by itself."""
    first = next(iter(shares.values()))[0]
    a, b = first.inputs.shape[-1], first.gradients[0].shape[-1]
    counts = {tile: _samples(outers) for tile, outers in shares.items()}
    heads = {head: contraction.heads[head] for head in among}
    used = sorted({seed for s in heads.values() for seed in range(s.start, s.stop)})
    places = {
        head: slice(used.index(seeds.start), used.index(seeds.stop - 1) + 1)
        for head, seeds in heads.items()
    }
    longer, shorter = max(a, b), min(a, b)
    step = max(1, contraction.columns(len(used) * sum(counts.values())) // shorter)
    for start in range(0, longer, step):
        stop = min(start + step, longer)
        chunks = contraction.workspace.split(
            {tile: (len(used), counts[tile], (stop - start) * shorter) for tile in shares}
        )
        for tile, outers in shares.items():
            for place, seed in enumerate(used):
                done = 0
                for outer in outers:
                    n = outer.inputs.shape[0]
                    left, right = outer.gradients[seed], outer.inputs
                    if a > b:
                        left, right = right, left
                    torch.bmm(
                        left[:, :, start:stop].transpose(1, 2),
                        right,
                        out=chunks[tile][place, done : done + n].view(n, stop - start, shorter),
                    )
                    done += n
        add_products(sums, chunks, pairs, places, contraction)


@dataclass(frozen=True)
class _Target:
    """Where the blocks of a pair of tiles go: the heads' sums, and the samples of both tiles."""

    sums: Mapping[int, Tensor]
    counts: tuple[int, int]

    def add(self, head: int, block: Tensor, starts: tuple[int, int], *, mirrored: bool) -> None:
        """Add a block (r x n x r x m) of samples from ``starts`` on; its transpose if mirrored."""
        rank, n, _, m = block.shape
        view = self.sums[head].view(rank, self.counts[0], rank, self.counts[1])
        (row, column), block = starts, block.to(view)
        view[:, row : row + n, :, column : column + m] += block
        if mirrored:
            view[:, column : column + m, :, row : row + n] += block.permute(2, 3, 0, 1)


@dataclass(frozen=True)
class _Way:
    """A way to the blocks (r x n x r x m) of each head without J.

    ``held`` is how many numbers of the workspace it takes per sample of the left batch.
    """

    blocks: Callable[[Outer, Outer, Sequence[slice], Workspace], Iterator[Tensor]]
    held: Callable[[Outer, Outer], int]


_Grouped = Sequence[tuple[int, Sequence[Outer]]]


def _by_products(
    target: _Target, grouped: tuple[_Grouped, _Grouped], way: _Way, contraction: Contraction
) -> None:
    """Add all blocks of a pair of tiles; of a tile with itself those from the diagonal on."""
    same = grouped[0] is grouped[1]
    heads = [contraction.heads[head] for head in target.sums]
    for left_start, batches in grouped[0]:
        left = _joined(batches)
        n = left.inputs.shape[0]
        for right_start, others in grouped[1]:
            if same and right_start < left_start:
                continue
            diagonal = same and right_start == left_start
            right = left if diagonal else _joined(others)
            rows = max(1, contraction.workspace.size // way.held(left, right))
            if diagonal:
                rows = min(rows, -(-n // _STRIPS))
            for start in range(0, n, rows):
                stop = min(start + rows, n)
                first = start if diagonal else 0
                parts = _rows(left, start, stop), _rows(right, first, right.inputs.shape[0])
                blocks = way.blocks(*parts, heads, contraction.workspace)
                width = stop - start if diagonal else 0
                row, column = left_start + start, right_start + first
                for head, block in zip(target.sums, blocks, strict=True):
                    target.add(head, block[..., :width], (row, column), mirrored=False)
                    target.add(head, block[..., width:], (row, column + width), mirrored=same)


def _token_gram(
    left: Outer, right: Outer, heads: Sequence[slice], workspace: Workspace
) -> Iterator[Tensor]:
    """``sum over t, s of (x_t . x'_s) (g_t . g'_s)``."""
    n, t = left.inputs.shape[:2]
    m, s = right.inputs.shape[:2]
    buffers = workspace.split({0: (n * t, m * s), 1: (n * t, m * s)})
    inputs = _token_products(left.inputs, right.inputs, buffers[0])
    for seeds in heads:
        block = [
            [
                _token_products(g, h, buffers[1])
                .mul_(inputs)
                .view(n * t, m, s)
                .sum(2)
                .view(n, t, m)
                .sum(1)
                for h in right.gradients[seeds]
            ]
            for g in left.gradients[seeds]
        ]
        yield torch.stack([torch.stack(row, 1) for row in block])


def _held_by_token_gram(left: Outer, right: Outer) -> int:
    m, s = right.inputs.shape[:2]
    return 2 * left.inputs.shape[1] * m * s


def _sandwich(
    left: Outer, right: Outer, heads: Sequence[slice], workspace: Workspace
) -> Iterator[Tensor]:
    """``<g, (x x'^T) g'>``, the right gradients moved by the inputs' products first."""
    n, t = left.inputs.shape[:2]
    m, s, b = right.gradients[0].shape
    buffers = workspace.split({0: (m * s, n * t), 1: (m, n * t, b)})
    inputs = _token_products(right.inputs, left.inputs, buffers[0]).view(m, s, n * t)
    for seeds in heads:
        gradients = torch.stack([g.reshape(n, t * b) for g in left.gradients[seeds]], 1)
        block = []
        for other in right.gradients[seeds]:
            moved = torch.bmm(inputs.transpose(1, 2), other, out=buffers[1]).view(m, n, t * b)
            block.append(torch.bmm(gradients, moved.permute(1, 2, 0)))
        yield torch.stack(block, 2).permute(1, 0, 2, 3)


def _held_by_sandwich(left: Outer, right: Outer) -> int:
    m, s, b = right.gradients[0].shape
    return left.inputs.shape[1] * m * (s + b)


def _token_products(left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    """The inner products of all tokens, n T x m T'."""
    return torch.mm(left.flatten(0, 1), right.flatten(0, 1).T, out=out)


_WAYS: dict[Method, _Way] = {
    "token_gram": _Way(_token_gram, _held_by_token_gram),
    "sandwich": _Way(_sandwich, _held_by_sandwich),
}


def _equal_lengths(outers: Sequence[Outer]) -> Iterator[tuple[int, list[Outer]]]:
    """Neighbouring batches of equally many tokens, up to a size, with their first sample."""
    group: list[Outer] = []
    start = samples = 0
    for outer in outers:
        n, t, a = outer.inputs.shape
        rows, widest = samples + n, max(a, outer.gradients[0].shape[-1])
        small = (rows * t) ** 2 <= _GROUP_ELEMENTS and rows**2 * t * widest <= 4 * _GROUP_ELEMENTS
        if group and not (small and group[0].inputs.shape[1] == t):
            yield start, group
            start, samples, group = start + samples, 0, []
        group, samples = [*group, outer], samples + n
    if group:
        yield start, group


def _joined(batches: Sequence[Outer]) -> Outer:
    """Batches of equally many tokens as one."""
    if len(batches) == 1:
        return batches[0]
    return Outer(
        torch.cat([batch.inputs for batch in batches]),
        [torch.cat(g) for g in zip(*(batch.gradients for batch in batches), strict=True)],
    )


def _rows(outer: Outer, start: int, stop: int) -> Outer:
    """Some samples of a batch."""
    return Outer(outer.inputs[start:stop], [g[start:stop] for g in outer.gradients])


def _samples(outers: Sequence[Outer]) -> int:
    return sum(outer.inputs.shape[0] for outer in outers)
