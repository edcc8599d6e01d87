"""The engine: sweep down the encoder once, contract what each unit of it leaves, keep the sums."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from lpft.data.tokens import Tokens
from lpft.model.classifier import LinearHeadClassifier
from lpft.ntk.capture import Contribution, Outer, Rows, active_tokens, merge_uses
from lpft.ntk.heads import HeadRows
from lpft.ntk.passes import Passes
from lpft.ntk.plan import Plan, Tile
from lpft.ntk.precision import computed_in
from lpft.ntk.products import (
    Contraction,
    Pair,
    Shape,
    Sums,
    Workspace,
    cheapest_method,
    contract_outer,
    contract_rows,
    contract_vectors,
    method_cost,
)
from lpft.ntk.stash import Stash
from lpft.ntk.structure import Parameter, only_these_require_gradients
from lpft.ntk.tiles import TileStore
from lpft.progress import progress

TOTAL = "total"
Granularity = Sequence[str]
Shares = dict[str, list[Contribution]]
"""By parameter: a tile's shares, one per batch."""


@dataclass(frozen=True)
class Request:
    """A kernel to compute: for which head, and over which of the encoder's parameters."""

    name: str
    head: HeadRows
    parameters: frozenset[str]


@dataclass
class Sweep:
    """What a sweep computes: features (N x h), and sums by (request, part), by pair of tiles.

    A part is ``total``, ``layer:...`` or ``kind:...``; its sums are (r n) x (r m) for the r seeds
    of the request's head. ``seconds`` are those of the passes and of the contractions.
    """

    features: Tensor
    sums: dict[tuple[str, str], dict[Pair, Tensor]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: {"passes": 0.0, "contractions": 0.0})


def distinct_heads(requests: Sequence[Request]) -> list[HeadRows]:
    """The heads of the requests, each once."""
    return list({id(request.head): request.head for request in requests}.values())


def sweep(
    classifier: LinearHeadClassifier,
    tokens: Tokens,
    plan: Plan,
    requests: Sequence[Request],
    *,
    granularity: Granularity,
    products: str,
    dtype: torch.dtype,
    store: TileStore | None,
    folder: Path | None,
) -> Sweep:
    """Carry out ``plan``; pieces that ``store`` has are taken from there, others added to it."""
    with ExitStack() as stack:
        stack.enter_context(computed_in(dtype, tf32=products == "tf32"))
        stash = Stash(plan.layout.stash, folder)
        stack.callback(stash.close)
        bar = stack.enter_context(
            progress(
                description="computing the kernel",
                total=round(sum(plan.flops[p] for p in ("passes", "forming", "contracting")) / 1e9),
                unit="GFLOP",
            )
        )
        return _Sweeper(
            classifier, tokens, plan, requests, granularity, products, dtype, store, stash, bar
        ).run()


class _Sweeper:
    """The state of one sweep."""

    def __init__(
        self,
        classifier: LinearHeadClassifier,
        tokens: Tokens,
        plan: Plan,
        requests: Sequence[Request],
        granularity: Granularity,
        products: str,
        dtype: torch.dtype,
        store: TileStore | None,
        stash: Stash,
        bar: tqdm,
    ) -> None:
        heads = distinct_heads(requests)
        seeds = torch.cat([head.seeds for head in heads]).to(dtype).to(plan.device)
        ends = torch.tensor([head.rank for head in heads]).cumsum(0).tolist()
        by_name = dict(classifier.encoder.named_parameters())
        self._direct = {name: by_name[name] for name in plan.structure.direct}
        self._classifier = classifier
        self._tokens = tokens
        self._plan = plan
        self._requests = requests
        self._head_numbers = {id(head): number for number, head in enumerate(heads)}
        self._granularity = granularity
        self._contraction = Contraction(
            heads=tuple(slice(end - head.rank, end) for head, end in zip(heads, ends, strict=True)),
            kernel=plan.demand.kernel,
            products=torch.bfloat16 if products == "bfloat16" else dtype,
            workspace=Workspace(plan.layout.workspace, dtype, plan.device),
        )
        self._passes = Passes(
            classifier, plan.structure.chain, plan.structure.modules, self._direct, seeds, stash
        )
        self._store = store
        self._bar = bar
        self._flops_done = 0.0
        self._result = Sweep(torch.empty(0))

    def run(self) -> Sweep:
        plan = self._plan
        pieces: dict[tuple[int, Pair], dict[str, Tensor]] = {}
        if self._store is not None:
            for unit in range(len(plan.structure.units)):
                for pair in plan.pairs:
                    piece = self._store.load(unit, pair)
                    if piece is not None:
                        pieces[unit, pair] = piece
        encoder = self._classifier.encoder
        with only_these_require_gradients(encoder, list(self._direct.values())):
            self._forward()
            last = max(
                (
                    unit
                    for unit in range(len(plan.structure.units))
                    if any((unit, pair) not in pieces for pair in plan.pairs)
                    and self._parameters(unit)
                ),
                default=-1,
            )
            for unit in range(len(plan.structure.units)):
                todo = [pair for pair in plan.pairs if (unit, pair) not in pieces]
                if unit <= last:
                    for pair, sums in self._unit(unit, todo):
                        if self._store is not None:
                            self._store.save(unit, pair, sums)
                        pieces[unit, pair] = sums
                for pair in plan.pairs:
                    for name, tensor in pieces.pop((unit, pair), {}).items():
                        request, _, part = name.partition("|")
                        of_part = self._result.sums.setdefault((request, part), {})
                        of_part[pair] = of_part[pair] + tensor if pair in of_part else tensor
        return self._result

    def _forward(self) -> None:
        started = perf_counter()
        features: Tensor | None = None
        for tile in self._plan.tiles:
            for number, rows in tile.batches:
                found = self._passes.forward(number, self._batch(rows))
                if features is None:
                    features = found.new_empty(len(self._tokens), found.shape[1])
                features[torch.from_numpy(rows).to(found.device)] = found
                self._done(self._forward_flops(rows))
        assert features is not None
        self._result.features = features.double().cpu()
        self._result.seconds["passes"] += perf_counter() - started

    def _unit(self, unit: int, pairs: Sequence[Pair]) -> Iterator[tuple[Pair, dict[str, Tensor]]]:
        """The sums of one unit for the given pairs; hands gradients on for every tile."""
        wanted = self._parameters(unit)
        steps = list(self._plan.steps(pairs)) if wanted else []
        needed = [tile for step in steps for tile in step.tiles]
        for tile in sorted(set(range(len(self._plan.tiles))) - set(needed)):
            self._pass(unit, tile, record=False, final=True)
        held: dict[int, Shares] = {}
        for place, step in enumerate(steps):
            later = {tile for after in steps[place + 1 :] for tile in after.tiles}
            held = {tile: shares for tile, shares in held.items() if tile in step.tiles}
            for tile in step.tiles:
                if tile not in held:
                    held[tile] = self._pass(unit, tile, record=True, final=tile not in later)
            sums = self._contract(wanted, held, step.pairs, consume=not later & set(step.tiles))
            for pair in step.pairs:
                yield pair, {name: by_pair[pair] for name, by_pair in sums.items()}

    def _pass(self, unit: int, tile: int, *, record: bool, final: bool) -> Shares:
        """Pull the gradients of a tile through a unit; its shares, where they are recorded."""
        started = perf_counter()
        positions = self._plan.structure.units[unit]
        batches = self._plan.tiles[tile].batches
        shares: Shares = {}
        for number, rows in batches:
            batch = self._batch(rows)
            found: dict[str, list[Contribution]] = {}
            for position in reversed(positions):
                at_position = self._passes.backward(position, number, batch, record=record)
                for name, share in at_position.items():
                    found.setdefault(name, []).append(share)
                if final:
                    self._passes.finish(position, number)
            part = (1 + self._plan.demand.seeds) * len(positions) / self._passes.positions
            self._done(self._forward_flops(rows) * part)
            for name, uses in found.items():
                share = merge_uses(uses)
                if isinstance(share, Outer):
                    active = active_tokens(share)
                    share = _no_tokens(share) if active is None else active
                shares.setdefault(name, []).append(share)
        self._result.seconds["passes"] += perf_counter() - started
        return shares

    def _contract(
        self,
        wanted: Sequence[Parameter],
        held: Mapping[int, Shares],
        pairs: Sequence[Pair],
        *,
        consume: bool,
    ) -> dict[str, dict[Pair, Tensor]]:
        """The sums of the wanted parameters by ``request|part`` and pair."""
        started = perf_counter()
        total: dict[str, dict[Pair, Tensor]] = {}
        for request in self._requests:
            of_request = [p for p in wanted if p.name in request.parameters]
            for part in [TOTAL, *(part for p in of_request for part in self._parts(p))]:
                rank = request.head.rank
                total[f"{request.name}|{part}"] = {
                    (i, j): torch.zeros(
                        rank * len(self._plan.tiles[i].rows),
                        rank * len(self._plan.tiles[j].rows),
                        dtype=torch.float64,
                    )
                    for i, j in pairs
                }
        tiles = sorted({tile for pair in pairs for tile in pair})
        for parameters in _grouped(wanted, self._requests):
            parameter = parameters[0]
            shares = {
                tile: [
                    self._of_tile(held[tile].get(member.name, []), self._plan.tiles[tile])
                    for member in parameters
                ]
                for tile in tiles
            }
            if consume:
                for tile in tiles:
                    for member in parameters:
                        held[tile].pop(member.name, None)
            sums = self._contract_group(parameters, shares, pairs)
            for request in self._requests:
                if parameter.name in request.parameters:
                    head = self._head_numbers[id(request.head)]
                    for part in [TOTAL, *self._parts(parameter)]:
                        of_part = total[f"{request.name}|{part}"]
                        for pair in pairs:
                            if (pair, head) in sums:
                                of_part[pair] += sums[pair, head].cpu()
        self._result.seconds["contractions"] += perf_counter() - started
        return total

    def _contract_group(
        self,
        parameters: Sequence[Parameter],
        shares: Mapping[int, Sequence["list[Outer] | Rows | Tensor | None"]],
        pairs: Sequence[Pair],
    ) -> Sums:
        """One linear weight, one embedding, or several vectors side by side."""
        among = self._plan.demand.heads_of[parameters[0].name]
        counts = {tile: len(self._plan.tiles[tile].rows) for tile in shares}
        present = {tile: [s for s in of_tile if s is not None] for tile, of_tile in shares.items()}
        live = [pair for pair in pairs if present[pair[0]] and present[pair[1]]]
        if not live:
            return {}
        used = {tile for pair in live for tile in pair}
        first = present[live[0][0]][0]
        if isinstance(first, Rows):
            rows = {tile: present[tile][0] for tile in used}
            return contract_rows(rows, counts, live, among, self._contraction)  # type: ignore[arg-type]
        if isinstance(first, Tensor):
            vectors = {tile: torch.cat(present[tile], 2) for tile in used}  # type: ignore[arg-type]
            return contract_vectors(vectors, live, among, self._contraction)
        outers: dict[int, list[Outer]] = {tile: present[tile][0] for tile in used}  # type: ignore[misc]
        shapes = {
            tile: Shape(
                counts[tile],
                sum(o.inputs.shape[0] * o.inputs.shape[1] for o in of_tile) / counts[tile],
            )
            for tile, of_tile in outers.items()
        }
        sizes, ranks = parameters[0].sizes, self._contraction.ranks(among)
        method = self._plan.demand.method
        if method is None:
            method = cheapest_method(sizes, shapes, live, ranks, self._contraction.kernel)
        sums = contract_outer(outers, live, among, method, self._contraction)
        self._done(sum(method_cost(method, sizes, shapes, live, ranks)))
        return sums

    def _of_tile(
        self, shares: Sequence[Contribution], tile: Tile
    ) -> "list[Outer] | Rows | Tensor | None":
        """A tile's shares in one parameter, in the order of its samples; None where it has none."""
        if not shares:
            return None
        if isinstance(shares[0], Outer):
            return [share for share in shares if isinstance(share, Outer)]
        if isinstance(shares[0], Rows):
            starts = torch.tensor([0, *(len(rows) for _, rows in tile.batches)]).cumsum(0).tolist()
            rows = [share for share in shares if isinstance(share, Rows)]
            return Rows(
                torch.cat([share.ids for share in rows]),
                torch.cat([s.samples + start for s, start in zip(rows, starts, strict=False)]),
                torch.cat([share.vectors for share in rows], 1),
            )
        return torch.cat([share for share in shares if isinstance(share, Tensor)], 1)

    def _parameters(self, unit: int) -> list[Parameter]:
        positions = self._plan.structure.units[unit]
        return [p for p in self._plan.structure.parameters if p.positions[0] in positions]

    def _parts(self, parameter: Parameter) -> list[str]:
        names = {"layer": parameter.layer, "kind": parameter.kind}
        return [f"{by}:{names[by]}" for by in self._granularity]

    def _batch(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        return {name: ids.to(self._plan.device) for name, ids in self._tokens.batch(rows).items()}

    def _forward_flops(self, rows: NDArray[np.int64]) -> float:
        return float(self._plan.demand.lengths[rows].sum()) * self._plan.structure.forward_flops

    def _done(self, flops: float) -> None:
        before = round(self._flops_done / 1e9)
        self._flops_done += flops
        self._bar.update(round(self._flops_done / 1e9) - before)


def _grouped(wanted: Sequence[Parameter], requests: Sequence[Request]) -> Iterator[list[Parameter]]:
    """Linear weights and embeddings alone; vectors that count for the same parts together."""
    vectors: dict[object, list[Parameter]] = {}
    for parameter in wanted:
        if parameter.form == "vector" and not parameter.fallback:
            asking = tuple(r.name for r in requests if parameter.name in r.parameters)
            vectors.setdefault((asking, parameter.layer, parameter.kind), []).append(parameter)
        else:
            yield [parameter]
    yield from vectors.values()


def _no_tokens(share: Outer) -> Outer:
    """The share of samples that no gradient reaches, of one token that counts for nothing."""
    return Outer(share.inputs[:, :1], [gradient[:, :1] for gradient in share.gradients])
