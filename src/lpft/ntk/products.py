"""The three exact ways to a linear weight's share of the kernel, and those of rows and vectors.

For tiles i and j of samples each gives ``F[(p, n), (q, m)] = <J_i[p, n], J_j[q, m]>`` for the seeds
p, q of one head, in float64, seeds before samples. Sums over long axes are made in the products'
precision chunk by chunk and added up in float64.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from lpft.choices import KernelKind
from lpft.ntk.capture import Outer, Rows

Method = Literal["materialize", "token_gram", "sandwich"]
METHODS: tuple[Method, ...] = get_args(Method)
Pair = tuple[int, int]
Sums = dict[tuple[Pair, int], Tensor]
"""By pair of tiles and number of the head: (r n) x (r m), float64."""

_ELEMENTWISE_FLOPS = 12
"""What an elementwise product and sum costs, in flops of a matrix product that take as long."""
_GROUP_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class Shape:
    """Samples n of a tile and the tokens T of each that a weight sees."""

    samples: int
    tokens: float


class Workspace:
    """Buffers that are formed once and used again: fresh memory fills ten times slower."""

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self.size = size
        self.dtype = dtype
        self.device = device
        self._buffers: dict[object, Tensor] = {}

    def take(self, name: object, *shape: int) -> Tensor:
        """A contiguous tensor of this shape whose contents are undefined."""
        numbers = int(np.prod(shape))
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < numbers:
            buffer = torch.empty(numbers, dtype=self.dtype, device=self.device)
            self._buffers[name] = buffer
        return buffer[:numbers].view(shape)


@dataclass(frozen=True)
class Contraction:
    """How the shares of tiles are contracted.

    ``heads`` are slices of the seeds; ``kernel`` the signs to take; ``products`` the precision of
    the matrix products that meet the whole gradients.
    """

    heads: tuple[slice, ...]
    kernel: KernelKind
    products: torch.dtype
    workspace: Workspace

    def ranks(self, among: Sequence[int]) -> list[int]:
        return [self.heads[head].stop - self.heads[head].start for head in among]


def method_cost(
    method: Method,
    sizes: tuple[int, int],
    tiles: Mapping[int, Shape],
    pairs: Sequence[Pair],
    ranks: Sequence[int],
) -> tuple[float, float]:
    """Flops to form J, and flops (or their equivalent) to contract, of one linear weight.

    Materialising costs ``2 N S T a b`` and ``N^2 r^2 a b`` (symmetric) or twice that; the token
    Gram ``2 N T M T' (a + r^2 b)``; the sandwich ``2 N M (T T' a + r T T' b + r^2 T b)``.
    """
    a, b = sizes
    seeds, squares = sum(ranks), sum(rank**2 for rank in ranks)
    forming = contracting = 0.0
    if method == "materialize":
        for tile in {tile for pair in pairs for tile in pair}:
            forming += 2 * seeds * tiles[tile].samples * tiles[tile].tokens * a * b
    for i, j in pairs:
        n, m = tiles[i].samples, tiles[j].samples
        t, s = tiles[i].tokens, tiles[j].tokens
        share = 1 if i == j else 2
        if method == "materialize":
            contracting += share * n * m * squares * a * b
        elif method == "token_gram":
            elementwise = _ELEMENTWISE_FLOPS * squares / 2
            contracting += share * n * t * m * s * (a + squares * b + elementwise)
        else:
            contracting += share * n * m * t * (s * a + seeds * s * b + squares * b)
            contracting += share * n * m * t * (s + seeds * b) * _ELEMENTWISE_FLOPS / 2
    return forming, contracting


def cheapest_method(
    sizes: tuple[int, int],
    tiles: Mapping[int, Shape],
    pairs: Sequence[Pair],
    ranks: Sequence[int],
    kernel: KernelKind = "sgd",
) -> Method:
    """The method of least cost; kernels of signs need the whole gradient."""
    if kernel != "sgd":
        return "materialize"
    return min(METHODS, key=lambda method: sum(method_cost(method, sizes, tiles, pairs, ranks)))


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
        pairs: of tiles; ``(i, i)`` is computed by half.
        among: numbers of the heads that are asked for.
    """
    if method == "materialize":
        return _materialize(shares, pairs, among, contraction)
    grouped = {tile: _merge_equal_lengths(outers) for tile, outers in shares.items()}
    counts = {tile: _samples(outers) for tile, outers in shares.items()}
    sums = _zeros(counts, pairs, among, contraction)
    inner = _token_gram if method == "token_gram" else _sandwich
    for i, j in pairs:
        for left_start, left in grouped[i]:
            for right_start, right in grouped[j]:
                if i == j and right_start < left_start:
                    continue
                blocks = inner(left, right, among, contraction)
                for head, block in zip(among, blocks, strict=True):
                    _add_block(
                        sums[(i, j), head],
                        block,
                        (counts[i], counts[j]),
                        (left_start, right_start),
                        mirrored=i == j and right_start > left_start,
                    )
    return sums


def contract_vectors(
    shares: Mapping[int, Tensor],
    pairs: Sequence[Pair],
    among: Sequence[int],
    contraction: Contraction,
) -> Sums:
    """The share of parameters whose J is at hand: per tile S x n x d."""
    counts = {tile: vectors.shape[1] for tile, vectors in shares.items()}
    sums = _zeros(counts, pairs, among, contraction)
    length = next(iter(shares.values())).shape[2]
    step = max(
        1, contraction.workspace.size // max(v.shape[0] * v.shape[1] for v in shares.values())
    )
    for start in range(0, length, step):
        chunks = {tile: v[:, :, start : start + step] for tile, v in shares.items()}
        _add_products(sums, chunks, pairs, among, contraction)
    return sums


def contract_rows(
    shares: Mapping[int, Rows],
    counts: Mapping[int, int],
    pairs: Sequence[Pair],
    among: Sequence[int],
    contraction: Contraction,
) -> Sums:
    """An embedding's share: rows meet only where their ids are equal, however large it is."""
    sums = _zeros(counts, pairs, among, contraction)
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
                one, other = _signed(rows_i[:, a:b], rows_j[:, c:d], contraction.kernel)
                block = (one.reshape(-1, one.shape[-1]) @ other.reshape(-1, other.shape[-1]).T).to(
                    total
                )
                place = (
                    slice(None),
                    left.samples[a:b].reshape(-1, 1, 1),
                    torch.arange(rank, device=total.device).reshape(1, -1, 1),
                    right.samples[c:d].reshape(1, 1, -1),
                )
                total[place] += block.view(rank, b - a, rank, d - c)
    return sums


def _materialize(
    shares: Mapping[int, Sequence[Outer]],
    pairs: Sequence[Pair],
    among: Sequence[int],
    contraction: Contraction,
) -> Sums:
    """Form J chunk by chunk of the weight's longer side, and multiply it by itself."""
    first = next(iter(shares.values()))[0]
    a, b = first.inputs.shape[-1], first.gradients[0].shape[-1]
    counts = {tile: _samples(outers) for tile, outers in shares.items()}
    sums = _zeros(counts, pairs, among, contraction)
    seeds = len(first.gradients)
    used = sorted({seed for head in among for seed in range(seeds)[contraction.heads[head]]})
    longer, shorter = max(a, b), min(a, b)
    columns = contraction.workspace.size // (len(used) * sum(counts.values()))
    step = max(1, columns // shorter)
    for start in range(0, longer, step):
        stop = min(start + step, longer)
        chunks = {}
        for tile, outers in shares.items():
            buffer = contraction.workspace.take(tile, seeds, counts[tile], (stop - start) * shorter)
            for seed in used:
                done = 0
                for outer in outers:
                    n = outer.inputs.shape[0]
                    left, right = outer.gradients[seed], outer.inputs
                    if a > b:
                        left, right = right, left
                    torch.bmm(
                        left[:, :, start:stop].transpose(1, 2),
                        right,
                        out=buffer[seed, done : done + n].view(n, stop - start, shorter),
                    )
                    done += n
            chunks[tile] = buffer
        _add_products(sums, chunks, pairs, among, contraction)
    return sums


def _add_products(
    sums: Sums,
    chunks: Mapping[int, Tensor],
    pairs: Sequence[Pair],
    among: Sequence[int],
    contraction: Contraction,
) -> None:
    """Add the products of some columns of J (per tile S x n x columns) to the sums."""
    for head in among:
        seeds = contraction.heads[head]
        for i, j in pairs:
            left = chunks[i][seeds].reshape(-1, chunks[i].shape[-1])
            right = chunks[j][seeds].reshape(-1, chunks[j].shape[-1])
            if contraction.kernel == "asymmetric":
                product = _product(left, right.sign(), contraction.products)
            else:
                if contraction.kernel == "signgd":
                    left, right = left.sign(), left.sign() if i == j else right.sign()
                product = (
                    _gram(left, contraction.products)
                    if i == j
                    else _product(left, right, contraction.products)
                )
            sums[(i, j), head] += product.to(sums[(i, j), head].device)


def _gram(rows: Tensor, precision: torch.dtype) -> Tensor:
    """``rows rows^T``, half of it computed.

    NumPy calls the symmetric routine of its BLAS for a matrix times its own transpose; PyTorch has
    none, so elsewhere strips up to the diagonal are multiplied and mirrored.
    """
    if rows.device.type == "cpu" and precision == rows.dtype:
        numbers = rows.contiguous().numpy()
        return torch.from_numpy(np.dot(numbers, numbers.T))
    rows = rows.to(precision)
    result = torch.zeros(rows.shape[0], rows.shape[0], dtype=rows.dtype, device=rows.device)
    step = -(-rows.shape[0] // 6)
    for start in range(0, rows.shape[0], step):
        stop = min(start + step, rows.shape[0])
        result[start:stop, :stop] = rows[start:stop] @ rows[:stop].T
    lower = result.tril(-1)
    return lower + lower.T + torch.diag(result.diagonal())


def _product(left: Tensor, right: Tensor, precision: torch.dtype) -> Tensor:
    return left.to(precision) @ right.to(precision).T


def _token_gram(
    left: Outer, right: Outer, among: Sequence[int], contraction: Contraction
) -> list[Tensor]:
    """``sum over t, s of (x_t . x'_s) (g_t . g'_s)``, per head r x n x r x m."""
    n, t = left.inputs.shape[:2]
    m, s = right.inputs.shape[:2]
    inputs = left.inputs.reshape(n * t, -1) @ right.inputs.reshape(m * s, -1).T
    blocks = []
    for head in among:
        seeds = contraction.heads[head]
        block = [
            [
                ((g.reshape(n * t, -1) @ h.reshape(m * s, -1).T).mul_(inputs))
                .view(n, t, m, s)
                .sum((1, 3))
                for h in right.gradients[seeds]
            ]
            for g in left.gradients[seeds]
        ]
        blocks.append(torch.stack([torch.stack(row, 1) for row in block]))
    return blocks


def _sandwich(
    left: Outer, right: Outer, among: Sequence[int], contraction: Contraction
) -> list[Tensor]:
    """``<g, (x x'^T) g'>``, per head r x n x r x m."""
    n, t, a = left.inputs.shape
    m, s = right.inputs.shape[:2]
    inputs = (left.inputs.reshape(n * t, a) @ right.inputs.reshape(m * s, a).T).view(n, t, m, s)
    inputs = inputs.permute(0, 2, 1, 3).contiguous()
    blocks = []
    for head in among:
        seeds = contraction.heads[head]
        gradients = torch.stack([g.reshape(n, -1) for g in left.gradients[seeds]], 1)
        block = []
        for other in right.gradients[seeds]:
            moved = torch.matmul(inputs, other.unsqueeze(0)).view(n, m, -1)
            block.append(torch.bmm(gradients, moved.transpose(1, 2)))
        blocks.append(torch.stack(block, 2).permute(1, 0, 2, 3))
    return blocks


def _merge_equal_lengths(outers: Sequence[Outer]) -> list[tuple[int, Outer]]:
    """Neighbouring batches of equally many tokens joined, up to a size, with their first sample."""
    groups: list[tuple[int, list[Outer]]] = []
    start = 0
    for outer in outers:
        n, t, a = outer.inputs.shape
        last = groups[-1][1] if groups else []
        rows = sum(batch.inputs.shape[0] for batch in last) + n
        widest = max(a, outer.gradients[0].shape[-1])
        small = (rows * t) ** 2 <= _GROUP_ELEMENTS and rows**2 * t * widest <= 4 * _GROUP_ELEMENTS
        if last and last[0].inputs.shape[1] == t and small:
            last.append(outer)
        else:
            groups.append((start, [outer]))
        start += n
    return [
        (
            first,
            Outer(
                torch.cat([batch.inputs for batch in group]),
                [torch.cat(g) for g in zip(*(batch.gradients for batch in group), strict=True)],
            ),
        )
        for first, group in groups
    ]


def _add_block(
    total: Tensor,
    block: Tensor,
    counts: tuple[int, int],
    starts: tuple[int, int],
    *,
    mirrored: bool,
) -> None:
    """Add a block (r x n x r x m) of samples from ``starts`` on, and its transpose if mirrored."""
    rank, n, _, m = block.shape
    view = total.view(rank, counts[0], rank, counts[1])
    view[:, starts[0] : starts[0] + n, :, starts[1] : starts[1] + m] += block.to(view)
    if mirrored:
        view[:, starts[1] : starts[1] + m, :, starts[0] : starts[0] + n] += block.permute(
            2, 3, 0, 1
        ).to(view)


def _add_single_ids(
    total: Tensor,
    left: tuple[Tensor, Tensor],
    right: tuple[Tensor, Tensor],
    kernel: KernelKind,
) -> None:
    """Add the ids that one sample of each tile has, all at once."""
    one, other = _signed(left[0], right[0], kernel)
    blocks = torch.einsum("puh,quh->upq", one, other)
    total.permute(1, 3, 0, 2).index_put_((left[1], right[1]), blocks.to(total), accumulate=True)


def _signed(left: Tensor, right: Tensor, kernel: KernelKind) -> tuple[Tensor, Tensor]:
    """The two factors of a kernel of signs; those of the ordinary kernel are unchanged."""
    if kernel == "sgd":
        return left, right
    return (left.sign() if kernel == "signgd" else left), right.sign()


def _by_id(rows: Rows) -> Rows:
    order = torch.argsort(rows.ids, stable=True)
    return Rows(rows.ids[order], rows.samples[order], rows.vectors[:, order])


def _shared_ids(left: Tensor, right: Tensor) -> tuple[np.ndarray, ...]:
    """Where the rows of each id begin and end in two sorted lists, for ids in both."""
    mine, theirs = left.cpu().numpy(), right.cpu().numpy()
    shared = np.intersect1d(mine, theirs)
    return (
        np.searchsorted(mine, shared, "left"),
        np.searchsorted(mine, shared, "right"),
        np.searchsorted(theirs, shared, "left"),
        np.searchsorted(theirs, shared, "right"),
    )


def _zeros(
    counts: Mapping[int, int],
    pairs: Sequence[Pair],
    among: Sequence[int],
    contraction: Contraction,
) -> Sums:
    device = contraction.workspace.device
    place = torch.device("cpu") if device.type == "mps" else device
    return {
        (pair, head): torch.zeros(
            rank * counts[pair[0]], rank * counts[pair[1]], dtype=torch.float64, device=place
        )
        for pair in pairs
        for head, rank in zip(among, contraction.ranks(among), strict=True)
    }


def _samples(outers: Sequence[Outer]) -> int:
    return sum(outer.inputs.shape[0] for outer in outers)
