"""The sweep of one kernel: down the encoder once, contracting what each unit leaves, and adding up.

It has nothing to do with ``lpft sweep``, which trains many runs.

A unit is a run of positions that share parameters, usually one block. For each, every tile of
samples passes the unit, which leaves the tile's shares and hands its gradients on to the unit
below; pairs of tiles are contracted; their sums are a finished piece, written to disk if asked.

    for unit in units, from the last to the first:
        for stage in the unit's groups of parameters:
            for step in steps:                   # two tiles, or all of them
                for tile not held yet: pass the unit, keep the shares of the stage
                for pair of the step: F[pair] += <J_i, J_j> of the stage
        write and add up the unit's pieces

Units are the outer loop, as gradients come from the unit above: tiles inside would need every
unit's gradients at once. Stages are outside the steps: each has shares that fit the memory.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lpft.errors import InputError, named
from lpft.ntk.capture import (
    NotBatched,
    Outer,
    Rows,
    RuleFailed,
    Share,
    active_share,
    merge_uses,
    share_parts,
)
from lpft.ntk.contract import (
    Contraction,
    Sums,
    Workspace,
    contract_outer,
    contract_rows,
    contract_tied,
    contract_vectors,
)
from lpft.ntk.memory import give_back_free_memory, memory_in_use
from lpft.ntk.network import Inputs, Network, batch_to
from lpft.ntk.outputs import Batch
from lpft.ntk.passes import OtherPath, Passes, only_these_require_gradients
from lpft.ntk.plan import Piece, Plan, RemainingWork, cheapest_method, method_cost
from lpft.ntk.storage import ActivationStore, Pair, TileStore
from lpft.ntk.structure import Parameter, reading
from lpft.ntk.tiles import PairCounts, Shape, Step, Tile, count_pairs
from lpft.progress import progress, timed
from lpft.settings.kernels import Products

TOTAL = "total"
PieceSums = Mapping[str, Tensor]
"""Sums of one unit for one pair of tiles, by ``request|part``: (r n) x (r m), float64, for the
rank r of the request's head. A part is ``total``, ``layer:...`` or ``kind:...``."""
BatchShares = Sequence[Share | None]
"""A parameter's shares by batch of a tile; None where no gradient reaches it."""
TileShares = dict[str, list[Share | None]]
"""A tile's shares by parameter."""


class PathsDiffer(InputError):
    """Some inputs take another way through the modules than those on which they were examined."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"{reason}: such a model is computed by autograd in one go; leave {named('cache_dir')} "
            f"and {named('workers')} out"
        )
        self.reason = reason


@dataclass
class Sweep:
    """The result of a sweep: features (N x h), and sums by pair of tiles and ``request|part``.

    ``seconds`` are those of the passes and of the contractions.
    """

    features: Tensor
    sums: dict[Pair, dict[str, Tensor]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: {"passes": 0.0, "contractions": 0.0})

    def of_request(self, name: str) -> dict[str, dict[Pair, Tensor]]:
        """The sums of a request by part and pair of tiles."""
        parts: dict[str, dict[Pair, Tensor]] = {}
        for pair, piece in self.sums.items():
            for key, sums in piece.items():
                request, _, part = key.rpartition("|")
                if request == name:
                    parts.setdefault(part, {})[pair] = sums
        return parts


def sweep(
    network: Network,
    inputs: Inputs,
    plan: Plan,
    *,
    products: Products,
    store: TileStore | None,
    folder: Path | None,
    assigned: tuple[Step, ...] | None = None,
) -> Sweep:
    """Carry out ``plan``; pieces that ``store`` has are read from there, others written to it.

    The steps ``assigned`` to a worker go to the store alone: the result is empty.

    Args:
        folder: for hidden states that wait in files.
    """
    structure, heads = plan.structure, plan.workload.heads
    cotangents = torch.cat([head.cotangents for head in heads]).to(plan.dtype).to(plan.device)
    # All heads' rows are pulled back together (S x h); each head has a slice of them.
    ends = accumulate(head.rank for head in heads)
    contraction = Contraction(
        heads=tuple(slice(end - head.rank, end) for head, end in zip(heads, ends, strict=True)),
        update=plan.workload.update,
        products=products,
        workspace=Workspace(plan.layout.workspace, plan.dtype, plan.device),
    )
    remaining = RemainingWork(plan, assigned=assigned)
    if store is not None:
        remaining = replace(remaining, finished=finished_pieces(remaining, store))
    if not remaining.tiles:
        return Sweep(torch.empty(0))  # another worker finished this share
    by_name = network.named_parameters()
    direct = {name: by_name[name] for name in structure.direct}
    with ExitStack() as stack:
        activations = ActivationStore(plan.layout.between_blocks, folder)
        stack.enter_context(closing(activations))
        count = stack.enter_context(metered(sum(remaining.flops.values())))
        stack.enter_context(only_these_require_gradients(network.root, list(direct.values())))
        passes = Passes(
            network, structure.chain, structure.modules, direct, cotangents, activations
        )
        return _Sweeper(network, inputs, passes, contraction, remaining, store, count).run()


def finished_pieces(remaining: RemainingWork, store: TileStore) -> frozenset[Piece]:
    """The pieces that the store has, each read and checked."""
    units = range(len(remaining.plan.structure.units))
    pieces = [(unit, pair) for unit in units for pair in remaining.pairs]
    return frozenset(piece for piece in pieces if store.load(*piece) is not None)


@contextmanager
def metered(flops: float) -> Iterator[Callable[[float], None]]:
    """A function that counts flops on a bar of GFLOP.

    ``flops`` are an estimate: where there are more, the bar stays at 99 % until the end, as tqdm
    would begin again at 0 % beyond it.
    """
    done = 0.0
    total = round(flops / 1e9)
    with progress(description="computing the kernel", total=total, unit="GFLOP") as bar:

        def count(more: float) -> None:
            nonlocal done
            done += more
            bar.update(max(0, min(round(done / 1e9), int(0.99 * total)) - bar.n))

        yield count
        bar.update(total - bar.n)


@dataclass
class _Sweeper:
    """One sweep over all units."""

    network: Network
    inputs: Inputs
    passes: Passes
    contraction: Contraction
    remaining: RemainingWork
    store: TileStore | None
    count: Callable[[float], None]
    result: Sweep = field(default_factory=lambda: Sweep(torch.empty(0)))

    def __post_init__(self) -> None:
        self.plan = self.remaining.plan
        self._checked = {parameter.name for parameter in self.plan.structure.parameters}

    def run(self) -> Sweep:
        joins = self.remaining.assigned is None  # or else another process joins the pieces
        with timed(self.result.seconds, "passes"):
            self._forward()
        for unit in range(len(self.plan.structure.units)):
            finished = {
                pair for pair in self.remaining.pairs if (unit, pair) in self.remaining.finished
            }
            # Below the last unit that lacks a piece nothing passes: the store has all pieces there.
            for pair, piece in self._unit(unit) if unit <= self.remaining.last_unit else ():
                # A step is contracted whole, also where some of its pairs were finished before.
                if pair not in finished:
                    if self.store is not None:
                        self.store.save(unit, pair, piece)
                    if joins:
                        _add(self.result.sums, pair, piece)
            for pair in self.plan.pairs if joins else ():
                if self.store is not None and pair in finished:
                    stored = self.store.load(unit, pair)
                    assert stored is not None, (
                        "nothing removes a piece while its kernel is computed"
                    )
                    _add(self.result.sums, pair, stored)
        return self.result

    def _forward(self) -> None:
        features = []
        tiles = [self.plan.tiles[number] for number in self.remaining.tiles]
        groups = self.plan.workload.groups
        for tile in tiles:
            for number, rows in tile.batches:
                with self._same_path(), reading(self.network, self.inputs, rows, groups):
                    features.append(self.passes.forward(number, self._batch(rows)))
                self.count(self.plan.forward_flops(rows))
        # Tiles are in the order of lengths; the features go back to that of the texts.
        rows_passed = np.concatenate([tile.rows for tile in tiles])
        self.result.features = torch.cat(features).double().cpu()[np.argsort(rows_passed)]

    def _unit(self, unit: int) -> Iterator[tuple[Pair, PieceSums]]:
        """The sums of one unit; hands the gradients of every tile on to the next unit."""
        steps = self.remaining.steps(unit)
        last_loads = _last_loads(steps)
        for tile in self.remaining.tiles:
            # Nothing of this tile is left to contract here, but the units below need its gradients.
            if tile not in last_loads:
                self._pass(unit, tile, keep=(), final=True)
        # Each stage passes the unit again for some of its parameters. Until the last one, stored
        # hidden states and gradients must stay: only then a pass may be a tile's final one.
        *stages, last_stage = self.plan.stages[unit] or ((),)
        sums: dict[Pair, dict[str, Tensor]] = {}
        for stage in stages:
            for pair, piece in self._stage(unit, stage, steps, {}):
                _add(sums, pair, piece)
        for pair, piece in self._stage(unit, last_stage, steps, last_loads):
            _add(sums, pair, piece)
            yield pair, sums.pop(pair)

    def _stage(
        self,
        unit: int,
        stage: Sequence[Parameter],
        steps: Sequence[Step],
        last_loads: Mapping[int, int],
    ) -> Iterator[tuple[Pair, PieceSums]]:
        """The sums of some parameters of a unit, step by step."""
        names = frozenset(parameter.name for parameter in stage)
        held: dict[int, TileShares] = {}
        for number, step in enumerate(steps):
            # Free what this step does not need before the next tile passes.
            held = {tile: shares for tile, shares in held.items() if tile in step.tiles}
            for tile in step.tiles:
                if tile not in held:
                    final = last_loads.get(tile) == number
                    held[tile] = self._pass(unit, tile, keep=names, final=final)
            following = steps[number + 1].tiles if number + 1 < len(steps) else ()
            # Shares that the next step does not need are freed one by one as they are contracted.
            consume = not set(step.tiles) & set(following)
            with timed(self.result.seconds, "contractions"):
                sums = self._contract(stage, held, step.pairs, consume=consume)
            yield from sums.items()

    def _pass(self, unit: int, tile: int, *, keep: Collection[str], final: bool) -> TileShares:
        """Pull the gradients of a tile through a unit; its shares in the parameters to keep."""
        with timed(self.result.seconds, "passes"):
            structure = self.plan.structure
            positions, batches = structure.units[unit], self.plan.tiles[tile].batches
            cost = (1 + self.plan.workload.cotangents) * len(positions) / self.passes.positions
            cost *= structure.passes_of_unit(unit)
            # Batch by batch through all positions of the unit, last first: a parameter's uses at
            # several positions are merged before they are contracted.
            shares: TileShares = {}
            for index, (number, rows) in enumerate(batches):
                batch = self._batch(rows)
                uses: dict[str, list[Share]] = {}
                for position in reversed(positions):
                    # Parameters that the check did not reach are looked for among all of them.
                    only = None if structure.unreached else keep
                    for name, share in self._backward(position, number, batch, only).items():
                        uses.setdefault(name, []).append(share)
                    if final:
                        self.passes.finish(position, number)
                self.count(self.plan.forward_flops(rows) * cost)
                for name, of_name in uses.items():
                    if name in keep:
                        of_tile = shares.setdefault(name, [None] * len(batches))
                        of_tile[index] = active_share(merge_uses(of_name))
                self._keep_to_plan()
        return shares

    def _backward(
        self, position: int, number: int, batch: Batch, only: Collection[str] | None
    ) -> dict[str, Share]:
        """The shares of a position; refuses parameters that the gradient check did not see."""
        with self._same_path():
            shares = self.passes.backward(position, number, batch, only=only)
        unknown = sorted(set(shares) - self._checked)
        if unknown:
            raise PathsDiffer(f"some inputs reach '{unknown[0]}' and others do not")
        return shares

    @contextmanager
    def _same_path(self) -> Iterator[None]:
        """Within this context inputs take the way through the modules that was examined.

        Raises:
            PathsDiffer: they do not.
        """
        try:
            yield
        except (NotBatched, RuleFailed, OtherPath) as error:
            reason = f"inputs pass the model's parts in different ways ({error})"
            raise PathsDiffer(reason) from error

    def _keep_to_plan(self) -> None:
        """Return freed memory beyond the plan's to the system, to make room for the next batch."""
        plan = self.plan
        between_passes = plan.memory - plan.memory_of_pass
        if plan.device.type == "cpu" and memory_in_use(plan.device) > between_passes:
            give_back_free_memory()

    def _batch(self, rows: NDArray) -> Batch:
        return batch_to(self.inputs.batch(rows), self.plan.device, self.plan.dtype)

    def _contract(
        self,
        stage: Sequence[Parameter],
        held: Mapping[int, TileShares],
        pairs: Sequence[Pair],
        *,
        consume: bool,
    ) -> dict[Pair, PieceSums]:
        """The sums of a stage's parameters, by pair of tiles, for all requests at once.

        ``held`` are the shares by tile; contracted ones are forgotten if they may be consumed.
        """
        requests = self.plan.workload.requests
        pieces = {pair: self._zero_sums(stage, pair) for pair in pairs}
        for group in self._groups(stage):
            sums = self._contract_group(group, held, pairs, consume=consume)
            for request in requests:
                if group[0].name not in request.parameters:
                    continue
                for pair in pairs:
                    if (pair, request.head) in sums:
                        for part in [TOTAL, *self._parts(group[0], pair)]:
                            pieces[pair][f"{request.name}|{part}"] += sums[pair, request.head]
        # From an accelerator once for all of the parameters.
        return {
            pair: {name: sums.cpu() for name, sums in piece.items()}
            for pair, piece in pieces.items()
        }

    def _zero_sums(self, stage: Sequence[Parameter], pair: Pair) -> dict[str, Tensor]:
        workload = self.plan.workload
        rows, columns = (len(self.plan.tiles[tile].rows) for tile in pair)
        zeros: dict[str, Tensor] = {}
        for request in workload.requests:
            rank = workload.heads[request.head].rank
            of_request = [p for p in stage if p.name in request.parameters]
            for part in [TOTAL, *(part for p in of_request for part in self._parts(p, pair))]:
                zeros[f"{request.name}|{part}"] = torch.zeros(
                    rank * rows, rank * columns, dtype=torch.float64, device=self.plan.device
                )
        return zeros

    def _parts(self, parameter: Parameter, pair: Pair) -> list[str]:
        """The parts of a pair of tiles that a parameter counts for, beside the total."""
        rows, columns = (self.plan.tiles[tile].group for tile in pair)
        if (rows, columns) not in self.plan.workload.detailed:
            return []
        names = {"layer": parameter.layer, "kind": parameter.kind}
        return [f"{by}:{names[by]}" for by in self.plan.workload.granularity]

    def _groups(self, stage: Sequence[Parameter]) -> Iterator[list[Parameter]]:
        """Parameters contracted at once: vectors that count for the same parts, all else alone.

        A product of many small vectors side by side is much faster than one product for each.
        """
        vectors: dict[object, list[Parameter]] = {}
        for parameter in stage:
            if parameter.form == "vector" and not parameter.large:
                requests = self.plan.workload.requests
                owners = tuple(r.name for r in requests if parameter.name in r.parameters)
                key = (owners, parameter.layer, parameter.kind)
                vectors.setdefault(key, []).append(parameter)
            else:
                yield [parameter]
        yield from vectors.values()

    def _contract_group(
        self,
        group: Sequence[Parameter],
        held: Mapping[int, TileShares],
        pairs: Sequence[Pair],
        *,
        consume: bool,
    ) -> Sums:
        """The sums of one linear weight, one embedding, or several vectors side by side.

        Vectors are biases, weights of normalisations, and whatever autograd itself treats.
        """
        first = group[0]
        heads = self.plan.workload.heads_of[first.name]
        live = _reached_pairs(group, held, pairs)
        if not live or not heads:
            return {}
        tiles = {tile: self.plan.tiles[tile] for pair in live for tile in pair}
        nothing = {number: [None] * len(tile.batches) for number, tile in tiles.items()}
        take = dict.pop if consume else dict.get
        shares = {
            number: [take(held[number], p.name, nothing[number]) for p in group] for number in tiles
        }
        samples = {number: len(tile.rows) for number, tile in tiles.items()}
        sums = self.contraction.zero_sums(samples, live, heads)
        # Where shares are joined they are popped, so that each tile's are freed at once.
        if first.form == "outer":
            outers = {n: _tile_outers(tile, shares[n][0]) for n, tile in tiles.items()}
            # The plan's method was for expected tokens: choose again by those the texts have.
            counts, ranks = self._count_pairs(outers, live), self.contraction.ranks(heads)
            method = self.plan.workload.method
            if method is None:
                method = cheapest_method(first.sizes, counts, ranks, self.contraction.update)
            contract_outer(sums, outers, method, self.contraction)
            self.count(sum(method_cost(method, first.sizes, counts, ranks)))
        elif first.form == "tied":
            tied_shares = {
                n: _tile_tied(tile, shares.pop(n)[0], first) for n, tile in tiles.items()
            }
            contract_tied(sums, tied_shares, self.contraction)
            counts = self._count_pairs({n: outers for n, (outers, _) in tied_shares.items()}, live)
            ranks = self.contraction.ranks(heads)
            self.count(sum(method_cost("materialize", first.sizes, counts, ranks)))
        elif first.form == "rows":
            rows = {n: _tile_rows(tile, shares.pop(n)[0]) for n, tile in tiles.items()}
            contract_rows(sums, rows, self.contraction)
        else:
            sizes = [parameter.sizes[1] for parameter in group]
            vectors = {n: _tile_jacobian(tile, shares.pop(n), sizes) for n, tile in tiles.items()}
            contract_vectors(sums, vectors, self.contraction)
        return sums

    def _count_pairs(
        self, outers: Mapping[int, Sequence[Outer]], pairs: Sequence[Pair]
    ) -> PairCounts:
        """The pairs of samples and of tokens that a linear weight sees in these pairs of tiles."""
        shapes = {number: _shape(batches) for number, batches in outers.items()}
        return count_pairs(shapes, pairs, asymmetric=self.contraction.update == "asymmetric")


def _reached_pairs(
    group: Sequence[Parameter], held: Mapping[int, TileShares], pairs: Sequence[Pair]
) -> list[Pair]:
    """The pairs of tiles that both have a gradient; J of others is 0, and adds nothing."""
    reached = {
        tile
        for tile, shares in held.items()
        if any(share is not None for p in group for share in shares.get(p.name, ()))
    }
    return [pair for pair in pairs if set(pair) <= reached]


def _shape(batches: Sequence[Outer]) -> Shape:
    samples = sum(outer.inputs.shape[0] for outer in batches)
    tokens = sum(outer.inputs.shape[0] * outer.inputs.shape[1] for outer in batches)
    return Shape(samples, tokens / samples)


def _last_loads(steps: Sequence[Step]) -> dict[int, int]:
    """The step for which each tile passes the last time; it stays held up to those that follow."""
    last_load: dict[int, int] = {}
    held: tuple[int, ...] = ()
    for number, step in enumerate(steps):
        last_load |= {tile: number for tile in step.tiles if tile not in held}
        held = step.tiles
    return last_load


def _add(sums: dict[Pair, dict[str, Tensor]], pair: Pair, piece: PieceSums) -> None:
    """Add a piece's sums to those of its pair; a part may be in one alone."""
    of_pair = sums.setdefault(pair, {})
    for name, tensor in piece.items():
        of_pair[name] = of_pair[name] + tensor if name in of_pair else tensor


def _tile_outers(tile: Tile, shares: BatchShares) -> list[Outer]:
    """A linear weight's inputs and gradients, batch by batch.

    Samples that no gradient reaches have one token that counts for nothing.
    """
    like = next(share for share in shares if isinstance(share, Outer))

    def zeros(samples: int) -> Outer:
        return Outer(
            like.inputs.new_zeros(samples, 1, like.inputs.shape[-1]),
            [gradient.new_zeros(samples, 1, gradient.shape[-1]) for gradient in like.gradients],
        )

    return [
        share if isinstance(share, Outer) else zeros(len(rows))
        for share, (_, rows) in zip(shares, tile.batches, strict=True)
    ]


def _tile_rows(tile: Tile, shares: BatchShares) -> Rows:
    """An embedding's rows, of all samples of the tile."""
    offsets = accumulate((len(rows) for _, rows in tile.batches), initial=0)
    present = [
        (offset, s) for offset, s in zip(offsets, shares, strict=False) if isinstance(s, Rows)
    ]
    return Rows(
        torch.cat([share.ids for _, share in present]),
        torch.cat([share.samples + offset for offset, share in present]),
        torch.cat([share.vectors for _, share in present], 1),
    )


def _tile_tied(tile: Tile, shares: BatchShares, parameter: Parameter) -> tuple[list[Outer], Rows]:
    """The two shares of an embedding that is a linear weight as well, batch by batch.

    Some batches may have only one of the two uses.
    """
    parts_by_batch = [() if share is None else share_parts(share) for share in shares]
    outers = [next((p for p in parts if isinstance(p, Outer)), None) for parts in parts_by_batch]
    rows = [next((p for p in parts if isinstance(p, Rows)), None) for parts in parts_by_batch]
    (a, b), like = parameter.sizes, next(part for parts in parts_by_batch for part in parts)
    if not any(outers):
        assert isinstance(like, Rows)
        zeros = [like.vectors.new_zeros(len(tile.batches[0][1]), 1, b) for _ in like.vectors]
        outers[0] = Outer(like.vectors.new_zeros(len(tile.batches[0][1]), 1, a), zeros)
    if not any(rows):
        assert isinstance(like, Outer)
        no_ids = torch.zeros(0, dtype=torch.long, device=like.inputs.device)
        rows[0] = Rows(no_ids, no_ids, like.inputs.new_zeros(len(like.gradients), 0, a))
    return _tile_outers(tile, outers), _tile_rows(tile, rows)


def _tile_jacobian(tile: Tile, shares: Sequence[BatchShares], sizes: Sequence[int]) -> Tensor:
    """J of parameters side by side, S x n x d, zero for samples that no gradient reaches."""
    like = next(s for of_parameter in shares for s in of_parameter if isinstance(s, Tensor))
    blocks = [
        torch.cat(
            [
                share
                if isinstance(share, Tensor)
                else like.new_zeros(like.shape[0], len(rows), size)
                for share, (_, rows) in zip(of_parameter, tile.batches, strict=True)
            ],
            1,
        )
        for of_parameter, size in zip(shares, sizes, strict=True)
    ]
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, 2)
