"""The engine: sweep down the encoder once, contract what each unit of it leaves, keep the sums."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lpft.data.tokens import Tokens
from lpft.errors import InputError
from lpft.model.classifier import LinearHeadClassifier
from lpft.ntk.capture import Contribution, NotBatched, Outer, active_tokens, merge_uses
from lpft.ntk.contraction import Contraction, Workspace
from lpft.ntk.layout import Pair, Step
from lpft.ntk.memory import give_back_free_memory, memory_in_use
from lpft.ntk.modes import only_these_require_gradients
from lpft.ntk.options import Options
from lpft.ntk.passes import Batch, Passes
from lpft.ntk.plan import Plan
from lpft.ntk.stash import Stash
from lpft.ntk.structure import Parameter
from lpft.ntk.sums import Contractor, Request, Shares, distinct_heads
from lpft.ntk.tiles import TileStore
from lpft.ntk.work import Meter, Work, metered

Piece = Mapping[str, Tensor]
"""Sums of one unit for one pair of tiles, by ``request|part``."""


@dataclass
class Sweep:
    """What a sweep computes: features (N x h), and sums by (request, part), by pair of tiles.

    A part is ``total``, ``layer:...`` or ``kind:...``; its sums are (r n) x (r m) for the r seeds
    of the request's head. ``seconds`` are those of the passes and of the contractions.
    """

    features: Tensor
    sums: dict[tuple[str, str], dict[Pair, Tensor]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: {"passes": 0.0, "contractions": 0.0})

    def add(self, pair: Pair, piece: Piece) -> None:
        """Add the sums of one more unit."""
        for name, tensor in piece.items():
            request, _, part = name.rpartition("|")
            of_part = self.sums.setdefault((request, part), {})
            of_part[pair] = of_part[pair] + tensor if pair in of_part else tensor


def sweep(
    classifier: LinearHeadClassifier,
    tokens: Tokens,
    plan: Plan,
    requests: Sequence[Request],
    options: Options,
    store: TileStore | None,
    detailed: Collection[Pair],
) -> Sweep:
    """Carry out ``plan``; pieces that ``store`` has are taken from there, others added to it.

    ``detailed`` are the blocks of groups that are split into parts.

    Raises:
        InputError: a piece is damaged or of another kernel, or which parameters a text reaches
            depends on the text.
    """
    heads = distinct_heads(requests)
    seeds = torch.cat([head.seeds for head in heads]).to(options.dtype).to(plan.device)
    ends = np.cumsum([head.rank for head in heads]).tolist()
    by_name = dict(classifier.encoder.named_parameters())
    direct = {name: by_name[name] for name in plan.structure.direct}
    contraction = Contraction(
        heads=tuple(slice(end - head.rank, end) for head, end in zip(heads, ends, strict=True)),
        kernel=options.kernel,
        products=options.products,
        workspace=Workspace(plan.layout.workspace, options.dtype, plan.device),
    )
    work = Work.left(plan, store)
    folder = None if options.cache_dir is None else Path(options.cache_dir)
    with ExitStack() as stack:
        stash = stack.enter_context(closing(Stash(plan.layout.stash, folder)))
        meter = stack.enter_context(metered(work.flops))
        stack.enter_context(only_these_require_gradients(classifier.encoder, list(direct.values())))
        passes = Passes(
            classifier, plan.structure.chain, plan.structure.modules, direct, seeds, stash
        )
        contractor = Contractor(
            plan, requests, options.granularity, detailed, contraction, meter.add
        )
        return _Sweeper(plan, tokens, passes, contractor, meter, work, store).run()


class _Sweeper:
    """One sweep over all units."""

    def __init__(
        self,
        plan: Plan,
        tokens: Tokens,
        passes: Passes,
        contractor: Contractor,
        meter: Meter,
        work: Work,
        store: TileStore | None,
    ) -> None:
        self._plan = plan
        self._tokens = tokens
        self._passes = passes
        self._contractor = contractor
        self._meter = meter
        self._work = work
        self._store = store
        self._known = {parameter.name for parameter in plan.structure.parameters}
        self._result = Sweep(torch.empty(0))

    def run(self) -> Sweep:
        self._forward()
        for unit in range(len(self._plan.structure.units)):
            for pair, piece in self._unit(unit) if unit <= self._work.last else ():
                if (unit, pair) not in self._work.finished:
                    if self._store is not None:
                        self._store.save(unit, pair, piece)
                    self._result.add(pair, piece)
            for pair in self._plan.pairs:
                if self._store is not None and (unit, pair) in self._work.finished:
                    kept = self._store.load(unit, pair)
                    assert kept is not None, "nothing removes a piece while its kernel is computed"
                    self._result.add(pair, kept)
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
                self._meter.add(self._forward_flops(rows))
        assert features is not None, "tokenize refuses an empty list of texts"
        self._result.features = features.double().cpu()
        self._result.seconds["passes"] += perf_counter() - started

    def _unit(self, unit: int) -> Iterator[tuple[Pair, Piece]]:
        """The sums of one unit; hands gradients on for every tile."""
        steps = self._work.steps(unit)
        loads = _last_loads(steps)
        for tile in range(len(self._plan.tiles)):
            if tile not in loads:
                self._pass(unit, tile, keep=(), final=True)
        *others, last = self._plan.stages[unit] or ((),)
        before: dict[Pair, Piece] = {}
        for stage in others:
            for pair, piece in self._stage(unit, stage, steps, {}):
                before[pair] = _sum_of(before[pair], piece) if pair in before else piece
        for pair, piece in self._stage(unit, last, steps, loads):
            yield pair, _sum_of(before.pop(pair), piece) if others else piece

    def _stage(
        self, unit: int, stage: Sequence[Parameter], steps: Sequence[Step], loads: dict[int, int]
    ) -> Iterator[tuple[Pair, Piece]]:
        """The sums of some parameters of a unit; ``loads`` say for which steps tiles pass last."""
        names = frozenset(parameter.name for parameter in stage)
        held: dict[int, Shares] = {}
        for place, step in enumerate(steps):
            held = {tile: shares for tile, shares in held.items() if tile in step.tiles}
            for tile in step.tiles:
                if tile not in held:
                    final = loads.get(tile) == place
                    held[tile] = self._pass(unit, tile, keep=names, final=final)
            following = steps[place + 1].tiles if place + 1 < len(steps) else ()
            started = perf_counter()
            sums = self._contractor.sums(
                stage,
                held,
                step.pairs,
                consume=not set(step.tiles) & set(following),
            )
            self._result.seconds["contractions"] += perf_counter() - started
            yield from sums.items()

    def _pass(self, unit: int, tile: int, *, keep: Collection[str], final: bool) -> Shares:
        """Pull the gradients of a tile through a unit; its shares in the parameters to keep."""
        started = perf_counter()
        structure = self._plan.structure
        positions, batches = structure.units[unit], self._plan.tiles[tile].batches
        part = (1 + self._plan.demand.seeds) * len(positions) / self._passes.positions
        shares: Shares = {}
        for place, (number, rows) in enumerate(batches):
            batch = self._batch(rows)
            found: dict[str, list[Contribution]] = {}
            for position in reversed(positions):
                only = None if structure.unreached else keep
                for name, share in self._backward(position, number, batch, only).items():
                    found.setdefault(name, []).append(share)
                if final:
                    self._passes.finish(position, number)
            self._meter.add(self._forward_flops(rows) * part)
            for name, uses in found.items():
                if name in keep:
                    of_tile = shares.setdefault(name, [None] * len(batches))
                    of_tile[place] = _active(merge_uses(uses))
            self._keep_to_plan()
        self._result.seconds["passes"] += perf_counter() - started
        return shares

    def _backward(
        self, position: int, number: int, batch: Batch, only: Collection[str] | None
    ) -> dict[str, Contribution]:
        """The shares of a position; refuses parameters that the trial did not see."""
        try:
            found = self._passes.backward(position, number, batch, only=only)
        except NotBatched as module:
            raise InputError(_depends_on_text(str(module))) from module
        unknown = sorted(set(found) - self._known)
        if unknown:
            raise InputError(_depends_on_text(unknown[0]))
        return found

    def _keep_to_plan(self) -> None:
        """Leave the next batch its room: memory beyond the plan's was freed and not given back."""
        plan = self._plan
        between_passes = plan.memory - plan.memory_of_pass
        if plan.device.type == "cpu" and memory_in_use(plan.device) > between_passes:
            give_back_free_memory()

    def _batch(self, rows: NDArray[np.int64]) -> Batch:
        return {name: ids.to(self._plan.device) for name, ids in self._tokens.batch(rows).items()}

    def _forward_flops(self, rows: NDArray[np.int64]) -> float:
        return float(self._plan.demand.lengths[rows].sum()) * self._plan.structure.forward_flops


def _sum_of(first: Piece, second: Piece) -> Piece:
    """The sums of both; a part may be in one alone."""
    total = dict(first)
    for name, tensor in second.items():
        total[name] = total[name] + tensor if name in total else tensor
    return total


def _last_loads(steps: Sequence[Step]) -> dict[int, int]:
    """The step for which each tile passes the last time; it stays held up to those that follow."""
    loads: dict[int, int] = {}
    held: tuple[int, ...] = ()
    for place, step in enumerate(steps):
        loads |= {tile: place for tile in step.tiles if tile not in held}
        held = step.tiles
    return loads


def _active(share: Contribution) -> Contribution | None:
    """The share without tokens that no gradient reaches; None where it reaches none."""
    return active_tokens(share) if isinstance(share, Outer) else share


def _depends_on_text(name: str) -> str:
    return (
        f"some texts reach '{name}' and short ones do not: kernels of models that choose their "
        "parameters by the text are not supported"
    )
