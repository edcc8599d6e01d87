"""Products of Jacobians: from the shares of two tiles to their block of the kernel.

For tiles i and j of samples each contraction gives ``F[(p, n), (q, m)] = <J_i[p, n], J_j[q, m]>``
for the cotangents p, q of one head, in float64, cotangents before samples. Sums over long axes are
made in the products' precision (float32 for bfloat16 numbers) chunk by chunk and added up in
float64.

With inputs x (T x a) and gradients g (T x b) of a sample, the gradient of a linear weight is
``J = g^T x``. Either J is formed (``materialize``), or its products are taken without it:
``sum over t, s of (x_t . x'_s) (g_t . g'_s)`` (``token_gram``), or ``<g, (x x'^T) g'>``
(``sandwich``).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]
from torch import Tensor

from lpft.ntk.capture import Outer, Rows
from lpft.ntk.passes import products_in
from lpft.ntk.plan import Method
from lpft.ntk.storage import Pair
from lpft.settings.kernels import KernelKind, Products

Sums = dict[tuple[Pair, int], Tensor]
"""Blocks of F to add into, by pair of tiles and number of the head: (r n) x (r m), float64."""

_ALIGNMENT = 16
"""Numbers: each tensor of the workspace begins at a multiple of it, as vector units like it."""
_ROUNDED = 1 << 20
"""Numbers that are rounded at a time, to need little room."""
_JOINED = 1 << 24
"""Numbers in the products of batches that are joined: larger products gain nothing by it."""
_STRIPS = 6
"""In which a symmetric product is taken: each meets those from its own on, and is mirrored."""
_LEAST_WORK = 1 << 26
"""Multiplications that are worth threads of their own."""


class Workspace:
    """One buffer of about ``size`` numbers, formed once and used again by every contraction.

    Fresh memory fills many times more slowly than memory that is in use.
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
        sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
        aligned = [-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes.values()]  # rounded up
        offsets = [sum(aligned[:index]) for index in range(len(aligned))]
        if sum(aligned) > self._buffer.numel():
            # The old buffer goes first, so that both are never there at once.
            self._buffer = torch.empty(0, dtype=self.dtype, device=self.device)
            self._buffer = torch.empty(sum(aligned), dtype=self.dtype, device=self.device)
        return {
            name: self._buffer[offset : offset + sizes[name]].view(shape)
            for offset, (name, shape) in zip(offsets, shapes.items(), strict=True)
        }


@dataclass(frozen=True)
class Contraction:
    """How the shares of tiles are contracted.

    ``heads`` are slices of the cotangents; ``update`` the signs to take; ``products`` the precision
    of the matrix products of whole gradients.
    """

    heads: tuple[slice, ...]
    update: KernelKind
    products: Products
    workspace: Workspace

    def ranks(self, heads: Sequence[int]) -> list[int]:
        return [self.heads[head].stop - self.heads[head].start for head in heads]

    def columns(self, rows: int) -> int:
        """How many columns of J fit into the workspace beside the copies that products need."""
        bfloat16 = self.products == "bfloat16" and self.workspace.device.type == "cuda"
        copies = 2 if bfloat16 or self.update == "asymmetric" else 1
        return max(1, self.workspace.size // (copies * rows))

    @property
    def overwrites(self) -> bool:
        """Whether products overwrite their factors, with signs or with rounded numbers."""
        return self.update == "signgd" or self.products == "bfloat16"

    def zero_sums(
        self, counts: Mapping[int, int], pairs: Sequence[Pair], heads: Sequence[int]
    ) -> Sums:
        """Sums to contract into, of these pairs and heads; ``counts`` are the tiles' samples."""
        device, ranks = self.workspace.device, self.ranks(heads)
        return {
            (pair, head): torch.zeros(
                rank * counts[pair[0]], rank * counts[pair[1]], dtype=torch.float64, device=device
            )
            for pair in pairs
            for head, rank in zip(heads, ranks, strict=True)
        }


def contract_outer(
    sums: Sums, shares: Mapping[int, Sequence[Outer]], method: Method, contraction: Contraction
) -> None:
    """Add a linear weight's share of the kernel.

    ``shares`` are per tile the batches' inputs and gradients, in the order of its samples. A tile
    with itself takes half the work, unless the kernel is asymmetric.
    """
    if method == "materialize":
        _materialize(sums, shares, contraction)
        return
    grouped = {tile: list(_equal_lengths(outers)) for tile, outers in shares.items()}
    for (i, j), heads in _heads_by_pair(sums).items():
        targets = [_as_blocks(sums, ((i, j), head), contraction) for head in heads]
        rows = [contraction.heads[head] for head in heads]
        _by_tokens(targets, rows, grouped[i], grouped[j], method, contraction.workspace)


def contract_vectors(sums: Sums, shares: Mapping[int, Tensor], contraction: Contraction) -> None:
    """Add the share of parameters whose J is formed whole: S x n x d per tile.

    Such are biases, the weights of normalisations, and all parameters left to autograd.
    """
    # F = sum over chunks of columns of J of (chunk)(chunk')^T.
    length = next(iter(shares.values())).shape[2]
    step = contraction.columns(sum(v.shape[0] * v.shape[1] for v in shares.values()))
    for start in range(0, length, step):
        chunks = dict(shares)
        # A slice of columns is not contiguous, and shares may be needed by later steps: where J is
        # cut or would be overwritten, the products are of a copy in the workspace.
        if step < length or contraction.overwrites:
            slices = {tile: v[:, :, start : start + step] for tile, v in shares.items()}
            chunks = contraction.workspace.split({t: tuple(s.shape) for t, s in slices.items()})
            for tile, columns in slices.items():
                chunks[tile].copy_(columns)
        _add_products(sums, chunks, dict(enumerate(contraction.heads)), contraction)


def contract_rows(sums: Sums, shares: Mapping[int, Rows], contraction: Contraction) -> None:
    """Add an embedding's share: rows meet only where their ids are equal.

    ``sum over t, s of [id_t = id_s] <g_t, g_s>``, exactly, however large the table is. ``shares``
    are per tile the rows of all of its samples.
    """
    ordered = {tile: _sorted_by_id(rows) for tile, rows in shares.items()}
    for (i, j), heads in _heads_by_pair(sums).items():
        left, right = ordered[i], ordered[j]
        bounds = _shared_ids(left.ids, right.ids)
        single = (bounds[:, 1] - bounds[:, 0] == 1) & (bounds[:, 3] - bounds[:, 2] == 1)
        once_i, once_j = bounds[single, 0], bounds[single, 2]
        for head in heads:
            rows_i, rows_j = (rows.vectors[contraction.heads[head]] for rows in (left, right))
            total = _as_blocks(sums, ((i, j), head), contraction)
            rank = len(total)
            # Most ids are in one sample of each tile: these are added all at once. The block of an
            # id u, <g_p, g_q> (r x r), goes to the entries of its two samples (n_u, m_u).
            g, h = signed(rows_i[:, once_i], rows_j[:, once_j], contraction.update)
            blocks = torch.einsum("puh,quh->upq", g, h)
            total.permute(1, 3, 0, 2).index_put_(
                (left.samples[once_i], right.samples[once_j]), blocks.to(total), accumulate=True
            )
            # Others, such as <cls> and frequent words, are in several samples: rows a to b of one
            # tile meet rows c to d of the other, in a product of r (b - a) x r (d - c) for each.
            for a, b, c, d in bounds[~single]:
                g, h = signed(rows_i[:, a:b], rows_j[:, c:d], contraction.update)
                block = g.reshape(-1, g.shape[-1]) @ h.reshape(-1, h.shape[-1]).T
                # Within an id a sample occurs once, so no entry is named twice and += is safe.
                entries = (
                    slice(None),
                    left.samples[a:b].reshape(-1, 1, 1),
                    torch.arange(rank, device=total.device).reshape(1, -1, 1),
                    right.samples[c:d].reshape(1, 1, -1),
                )
                total[entries] += block.to(total).view(rank, b - a, rank, d - c)


def contract_tied(
    sums: Sums,
    shares: Mapping[int, tuple[Sequence[Outer], Rows]],
    contraction: Contraction,
) -> None:
    """Add the share of an embedding that is a linear weight as well.

    Its J is the sum of both shares, formed for some words at a time, however large the table is.
    """
    outers = {tile: batches for tile, (batches, _) in shares.items()}
    _materialize(sums, outers, contraction, {tile: rows for tile, (_, rows) in shares.items()})


def takes_signs(update: KernelKind) -> tuple[bool, bool]:
    """Whether the gradients of a kernel's rows count by their signs, and those of its columns.

    ``<sign g, sign g'>`` is SignGD's kernel, ``<g, sign g'>`` the asymmetric one.
    """
    return update == "signgd", update != "sgd"


def signed(rows: Tensor, columns: Tensor, update: KernelKind) -> tuple[Tensor, Tensor]:
    """The gradients of rows and columns as the kernel counts them."""
    of_rows, of_columns = takes_signs(update)
    return rows.sign() if of_rows else rows, columns.sign() if of_columns else columns


def _heads_by_pair(sums: Sums) -> dict[Pair, list[int]]:
    heads: dict[Pair, list[int]] = {}
    for pair, head in sums:
        heads.setdefault(pair, []).append(head)
    return heads


def _as_blocks(sums: Sums, key: tuple[Pair, int], contraction: Contraction) -> Tensor:
    """The sums of a pair and head as r x n x r x m."""
    (rank,) = contraction.ranks([key[1]])
    return sums[key].unflatten(1, (rank, -1)).unflatten(0, (rank, -1))


def _sorted_by_id(rows: Rows) -> Rows:
    order = torch.argsort(rows.ids, stable=True)
    return Rows(rows.ids[order], rows.samples[order], rows.vectors[:, order])


def _shared_ids(left: Tensor, right: Tensor) -> NDArray[np.int64]:
    """For each id in both sorted lists where its rows begin and end in the left and the right."""
    left_ids, right_ids = left.cpu().numpy(), right.cpu().numpy()
    shared = np.intersect1d(left_ids, right_ids)
    return np.stack(
        [
            np.searchsorted(ids, shared, side)
            for ids in (left_ids, right_ids)
            for side in ("left", "right")
        ],
        axis=1,
    )


def _materialize(
    sums: Sums,
    shares: Mapping[int, Sequence[Outer]],
    contraction: Contraction,
    looked_up: Mapping[int, Rows] | None = None,
) -> None:
    """Form J chunk by chunk of the weight's longer side, and multiply it by itself.

    Where the weight is an embedding as well, whose rows were ``looked_up``, chunks are of rows.
    """
    counts = {tile: sum(len(outer.inputs) for outer in outers) for tile, outers in shares.items()}
    first = next(iter(shares.values()))[0]
    a, b = first.inputs.shape[-1], first.gradients[0].shape[-1]
    heads = {head: contraction.heads[head] for _, head in sums}
    cotangents = sorted({row for s in heads.values() for row in range(s.start, s.stop)})
    # Only the cotangents in use are formed; ``rows_of`` are each head's rows among these.
    rows_of = {
        head: slice(cotangents.index(rows.start), cotangents.index(rows.stop - 1) + 1)
        for head, rows in heads.items()
    }
    # J of a sample is b x a. Chunks of its longer side are contiguous blocks ``chunk x shorter`` of
    # the workspace, as wide as it has room for; a table's rows are looked up along b.
    by_inputs = a > b and looked_up is None
    longer, shorter = (a, b) if by_inputs else (b, a)
    step = max(1, contraction.columns(len(cotangents) * sum(counts.values())) // shorter)
    for start in range(0, longer, step):
        stop = min(start + step, longer)
        chunks = contraction.workspace.split(
            {tile: (len(cotangents), counts[tile], (stop - start) * shorter) for tile in shares}
        )
        for tile, outers in shares.items():
            for index, row in enumerate(cotangents):
                done = 0
                for outer in outers:
                    n = outer.inputs.shape[0]
                    left, right = outer.gradients[row], outer.inputs
                    if by_inputs:
                        left, right = right, left
                    # n x (stop - start) x T times n x T x shorter, into place: rows of g^T x, or of
                    # its transpose x^T g ``by_inputs``.
                    torch.bmm(
                        left[:, :, start:stop].transpose(1, 2),
                        right,
                        out=chunks[tile][index, done : done + n].view(n, stop - start, shorter),
                    )
                    done += n
        for tile, rows in ({} if looked_up is None else looked_up).items():
            # J = g^T x + the rows looked up: += is safe, as within a sample an id occurs once.
            within = (rows.ids >= start) & (rows.ids < stop)
            chunk = chunks[tile].unflatten(2, (stop - start, shorter))
            chunk[:, rows.samples[within], rows.ids[within] - start] += rows.vectors[cotangents][
                :, within
            ]
        _add_products(sums, chunks, rows_of, contraction)


def _add_products(
    sums: Sums,
    chunks: Mapping[int, Tensor],
    rows_of: Mapping[int, slice],
    contraction: Contraction,
) -> None:
    """Add the products of some columns of J to the sums.

    ``chunks`` are those columns per tile, cotangents x n x columns, contiguous, which are
    overwritten if the contraction does so; ``rows_of`` each head's cotangents among them.
    """
    rows, columns = _factors(chunks, contraction)
    with products_in(contraction.products):
        for ((i, j), head), total in sums.items():
            # (r n) x columns: cotangents before samples, as in the sums.
            left = rows[i][rows_of[head]].flatten(0, 1)
            if i == j and contraction.update != "asymmetric":
                total += symmetric_product(left, contraction.products)
            else:
                total += product(left, columns[j][rows_of[head]].flatten(0, 1))


def _factors(
    chunks: Mapping[int, Tensor], contraction: Contraction
) -> tuple[Mapping[int, Tensor], Mapping[int, Tensor]]:
    """J with the signs that the kernel takes of its rows, and of its columns."""
    rows = chunks
    if contraction.products == "bfloat16":
        rows = {tile: _rounded(chunk) for tile, chunk in chunks.items()}
    of_rows, of_columns = takes_signs(contraction.update)
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
        return _symmetric_by_blas(rows.numpy())
    return _symmetric_by_strips(rows)


def parts_of_columns(rows: int, columns: int) -> int:
    """In how many parts of columns the CPU's product of ``rows x columns`` numbers is taken.

    One per thread, if it is large; never so many that the parts' products (n x n each) are
    together larger than what they are products of.
    """
    large = rows**2 * columns >= _LEAST_WORK
    return max(1, min(torch.get_num_threads(), columns // rows)) if large else 1


def _symmetric_by_blas(numbers: NDArray[np.floating]) -> Tensor:
    """The symmetric product in parts of columns, one thread each, and the sum of the parts.

    ``R R^T = sum over parts p of R_p R_p^T``, which are equally large. A BLAS left to itself
    divides the work among its threads less evenly; those would also go on waiting at full speed for
    more, and slow down the threads of PyTorch that follow. So the BLAS has one thread per part.
    """
    parts = parts_of_columns(*numbers.shape)
    if parts == 1:
        return _with_its_transpose(numbers)
    with _blas_libraries().limit(limits=1), ThreadPoolExecutor(parts) as pool:
        # Added up in the order of the parts, so that the sum rounds the same at every call.
        total, *others = pool.map(_with_its_transpose, np.array_split(numbers, parts, axis=1))
    for partial in others:
        total.add_(partial)
    return total


def _with_its_transpose(numbers: NDArray[np.floating]) -> Tensor:
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused later
        return torch.from_numpy(np.matmul(numbers, numbers.T))


@cache
def _blas_libraries() -> ThreadpoolController:
    """The BLAS libraries that are loaded, NumPy's among them."""
    return ThreadpoolController().select(user_api="blas")


def _symmetric_by_strips(rows: Tensor) -> Tensor:
    n = rows.shape[0]
    dtype = torch.float32 if rows.dtype == torch.bfloat16 else rows.dtype
    result = torch.empty(n, n, dtype=dtype, device=rows.device)
    step = -(-n // _STRIPS)
    for start in range(0, n, step):
        stop = min(start + step, n)
        # Rows of this strip with all rows up to its end: what is left of the diagonal block is
        # mirrored above it, and the block itself is made exactly symmetric.
        strip = product(rows[start:stop], rows[:stop])
        before, corner = strip[:, :start], strip[:, start:]
        result[start:stop, :start] = before
        result[:start, start:stop] = before.T
        result[start:stop, start:stop] = corner.tril() + corner.tril(-1).T
    return result


_Grouped = Sequence[tuple[int, Sequence[Outer]]]


def _by_tokens(
    targets: Sequence[Tensor],
    heads: Sequence[slice],
    rows: _Grouped,
    columns: _Grouped,
    method: Method,
    workspace: Workspace,
) -> None:
    """Contract a pair of tiles by products of tokens, without J.

    ``targets`` are the sums of each head, r x n x r x m. Of a tile with itself only batches and
    strips from the diagonal on are taken, and mirrored.
    """
    blocks_of, numbers_of = _TOKEN_CONTRACTIONS[method]
    own_pair = rows is columns  # a tile with itself
    for row, batches in rows:
        left = _joined(batches)
        n = left.inputs.shape[0]
        for column, column_batches in columns:
            if own_pair and column < row:  # the mirror image of one that was taken
                continue
            diagonal = own_pair and column == row
            right = left if diagonal else _joined(column_batches)
            # As many samples at a time as the workspace has room for.
            step = max(1, workspace.size // numbers_of(left, right))
            if diagonal:
                step = min(step, -(-n // _STRIPS))
            for start in range(0, n, step):
                stop = min(start + step, n)
                # On the diagonal a strip meets the samples from its own first on. Its square with
                # itself has both halves; what lies right of the square is mirrored below.
                first = start if diagonal else 0
                strip = _samples(left, start, stop), _samples(right, first, None)
                square = stop - start if diagonal else 0  # columns of the strip with itself
                for target, block in zip(targets, blocks_of(*strip, heads, workspace), strict=True):
                    at_row, at_column = row + start, column + first
                    _add_block(target, block[..., :square], at_row, at_column)
                    _add_block(target, block[..., square:], at_row, at_column + square)
                    if own_pair:
                        mirror = block[..., square:].permute(2, 3, 0, 1)
                        _add_block(target, mirror, at_column + square, at_row)


def _add_block(target: Tensor, block: Tensor, row: int, column: int) -> None:
    _, n, _, m = block.shape
    target[:, row : row + n, :, column : column + m] += block.to(target)


def _token_gram(
    left: Outer, right: Outer, heads: Sequence[slice], workspace: Workspace
) -> Iterator[Tensor]:
    """Per head r x n x r x m: ``sum over t, s of (x_t . x'_s) (g_t . g'_s)``."""
    n, t = left.inputs.shape[:2]
    m, s = right.inputs.shape[:2]
    buffers = workspace.split({0: (n * t, m * s), 1: (n * t, m * s)})
    # The Gram matrix of all tokens' inputs, n T x m T', serves every pair of cotangents.
    inputs = _token_products(left.inputs, right.inputs, buffers[0])

    def summed(g: Tensor, h: Tensor) -> Tensor:
        """Of one pair of cotangents, n x m: the two Gram matrices multiplied entry by entry."""
        weighted = _token_products(g, h, buffers[1]).mul_(inputs)
        return weighted.view(n * t, m, s).sum(2).view(n, t, m).sum(1)

    for rows in heads:
        block = [[summed(g, h) for h in right.gradients[rows]] for g in left.gradients[rows]]
        yield torch.stack([torch.stack(row, 1) for row in block])


def _token_gram_numbers(left: Outer, right: Outer) -> int:
    """Numbers of the workspace per sample of the left batch."""
    m, s = right.inputs.shape[:2]
    return 2 * left.inputs.shape[1] * m * s


def _sandwich(
    left: Outer, right: Outer, heads: Sequence[slice], workspace: Workspace
) -> Iterator[Tensor]:
    """Per head r x n x r x m: ``<g, (x x'^T) g'>``, with ``(x x'^T) g'`` formed first."""
    n, t = left.inputs.shape[:2]
    m, s, b = right.gradients[0].shape
    buffers = workspace.split({0: (m * s, n * t), 1: (m, n * t, b)})
    inputs = _token_products(right.inputs, left.inputs, buffers[0]).view(m, s, n * t)
    for rows in heads:
        gradients = torch.stack(
            [g.reshape(n, t * b) for g in left.gradients[rows]], 1
        )  # n x r x Tb
        block = []
        for h in right.gradients[rows]:
            # (x x'^T) g' for every pair of samples: m x (n T) x b, then its inner products with g.
            weighted = torch.bmm(inputs.transpose(1, 2), h, out=buffers[1]).view(m, n, t * b)
            block.append(torch.bmm(gradients, weighted.permute(1, 2, 0)))  # n x r x m
        yield torch.stack(block, 2).permute(1, 0, 2, 3)


def _sandwich_numbers(left: Outer, right: Outer) -> int:
    """Numbers of the workspace per sample of the left batch."""
    m, s, b = right.gradients[0].shape
    return left.inputs.shape[1] * m * (s + b)


_BlocksByHead = Callable[[Outer, Outer, Sequence[slice], Workspace], Iterator[Tensor]]
_TOKEN_CONTRACTIONS: dict[Method, tuple[_BlocksByHead, Callable[[Outer, Outer], int]]] = {
    "token_gram": (_token_gram, _token_gram_numbers),
    "sandwich": (_sandwich, _sandwich_numbers),
}


def _token_products(left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    """The inner products of all tokens, n T x m T'."""
    return torch.mm(left.flatten(0, 1), right.flatten(0, 1).T, out=out)


def _equal_lengths(outers: Sequence[Outer]) -> Iterator[tuple[int, list[Outer]]]:
    """Neighbouring batches of equally many tokens, up to a size, with their first sample."""
    group: list[Outer] = []
    start = samples = 0
    for outer in outers:
        n, t, a = outer.inputs.shape
        rows, widest = samples + n, max(a, outer.gradients[0].shape[-1])
        small = (rows * t) ** 2 <= _JOINED and rows**2 * t * widest <= 4 * _JOINED
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


def _samples(outer: Outer, start: int, stop: int | None) -> Outer:
    return Outer(outer.inputs[start:stop], [g[start:stop] for g in outer.gradients])
