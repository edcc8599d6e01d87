"""The plan of a computation: its parts, their order, and their flops.

Texts are split into tiles, tiles are paired, and pairs are contracted in steps that hold two tiles
at once, or all (:mod:`lpft.ntk.tiles`). A unit's parameters are held in stages, each with passes of
its own. :mod:`lpft.ntk.memory` chooses the number of tiles and stages, by the costs counted here.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, reduce
from statistics import median
from time import perf_counter
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lpft.ntk.storage import Layout, Pair
from lpft.ntk.structure import Parameter, Structure
from lpft.ntk.tiles import (
    PairCounts,
    Schedule,
    Shape,
    Step,
    Tile,
    Tiling,
    count_pairs,
    make_steps,
    tile_pairs,
)
from lpft.settings.kernels import Granularity, KernelKind

Method = Literal["materialize", "token_gram", "sandwich"]
METHODS: tuple[Method, ...] = get_args(Method)
"""Ways to contract a linear weight; those of training are :data:`lpft.settings.methods.METHODS`."""

_ELEMENTWISE_FLOPS = 50
"""Flops of a matrix product that take as long as forming, reading and summing one element."""
_EFFICIENCY = {"passes": 0.6, "forming": 0.7, "contracting": 0.8}
"""Fractions of the machine's matrix-product rate that the parts reached when measured."""
_RATE_SIZES = {"cpu": 1024, "cuda": 8192}
"""Rows of the square product whose rate is measured: less does not fill a GPU."""
_MOST_TILES_LISTED = 64
"""Up to this many tiles the workers' shares are listed to find the costliest; with more tiles
all shares cost about the same."""
_MOST_STAGES = 8
"""More stages would pass a block about once per weight and save little memory."""


@dataclass(frozen=True)
class Head:
    """``V = R Q``: ``mixing`` R (C x r) and ``cotangents`` Q (r x h), both float64 on the CPU.

    The kernel of the outputs Q phi gives that of the logits: ``F = R F_Q R^T``. So as many backward
    passes are needed as the rank of the head.
    """

    mixing: Tensor
    cotangents: Tensor

    @classmethod
    def of(cls, weight: Tensor, update: KernelKind, dtype: torch.dtype) -> "Head":
        """Orthonormal rows Q of V's row space by its singular value decomposition.

        A singular value counts as zero only below ``4 eps(dtype)`` of the largest. The multinomial
        logistic regression of linear probing leaves rows that sum to zero, so r = C - 1 there.
        Signs do not commute with a change of basis: their kernels take ``V = I V``.
        """
        weight = weight.detach().cpu().double()
        if update != "sgd":
            return cls(torch.eye(weight.shape[0], dtype=torch.float64), weight)
        # V = L S Q: R = L S, C x r, and Q, r x h.
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        nonzero = values > 4 * torch.finfo(dtype).eps * values.max()
        return cls(left[:, nonzero] * values[nonzero], right[nonzero])

    @property
    def rank(self) -> int:
        return self.cotangents.shape[0]

    @property
    def classes(self) -> int:
        return self.mixing.shape[0]


class PlannedKernel(NamedTuple):
    """A kernel to compute: for the head of this number, over these parameters of the encoder."""

    name: str
    head: int
    parameters: frozenset[str]


@dataclass(frozen=True)
class Workload:
    """The kernels to compute.

    ``lengths`` are the tokens of all texts, ``groups`` their groups, ``blocks`` the pairs of groups
    whose kernel is wanted. In ``detailed`` blocks F is also split by ``granularity``. ``method`` is
    that of linear weights, None for the cheapest of each.
    """

    lengths: NDArray[np.int64]
    groups: NDArray[np.int64]
    blocks: tuple[Pair, ...]
    heads: tuple[Head, ...]
    requests: tuple[PlannedKernel, ...]
    update: KernelKind = "sgd"
    method: Method | None = None
    granularity: tuple[Granularity, ...] = ()
    detailed: frozenset[Pair] = frozenset()

    @property
    def cotangents(self) -> int:
        """S, how many cotangents are pulled back: the rows of all heads."""
        return sum(head.rank for head in self.heads)

    @cached_property
    def heads_of(self) -> dict[str, tuple[int, ...]]:
        """Per parameter the heads it is contracted for; a head of zeros needs no contraction."""
        return {
            name: tuple(
                number
                for number, head in enumerate(self.heads)
                if head.rank > 0
                and any(r.head == number and name in r.parameters for r in self.requests)
            )
            for name in frozenset().union(*(request.parameters for request in self.requests))
        }


class _Weight(NamedTuple):
    """All that a linear weight's cost depends on, so that equal weights are planned once."""

    sizes: tuple[int, int]
    tokens_per_token: float
    pooled: bool
    ranks: tuple[int, ...]
    tied: bool


Stages = tuple[tuple[Parameter, ...], ...]
Piece = tuple[int, Pair]
"""The smallest part that is finished on its own: a unit and a pair of tiles."""


@dataclass(frozen=True)
class Plan:
    """How a workload is computed, and what that is expected to take.

    ``stages`` are, per unit, those of its parameters that are held one after the other.
    ``memory`` is the most that the process is expected to take, ``memory_of_pass`` the part of it
    that one batch takes while it passes, and ``budget`` what the process may take, in bytes: each
    of the ``workers`` among which the steps are shared, if there are several.
    """

    structure: Structure
    workload: Workload
    layout: Layout
    tiling: Tiling
    stages: tuple[Stages, ...]
    device: torch.device
    dtype: torch.dtype
    budget: int
    memory: int = 0
    memory_of_pass: int = 0
    workers: int = 1
    _methods: dict[_Weight, Method] = field(default_factory=dict, init=False, repr=False)

    @property
    def tiles(self) -> tuple[Tile, ...]:
        return self.tiling.tiles

    @cached_property
    def schedule(self) -> Schedule:
        """The pairs and steps, counted: they are listed only where a kernel is computed."""
        halved = self.workload.update != "asymmetric"
        blocks = frozenset(self.workload.blocks)
        return Schedule(self.tiling, blocks, halved=halved, hold_all=self.layout.hold_all)

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """The pairs of tiles to contract."""
        schedule = self.schedule
        groups = self.tiling.groups.tolist()
        return tuple(tile_pairs(groups, schedule.blocks, halved=schedule.halved))

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The pairs in the order in which they are contracted, the same for every unit."""
        return make_steps(self.pairs, hold_all=self.layout.hold_all)

    def divide(self, steps: Sequence[Step]) -> tuple[tuple[Step, ...], ...]:
        """``steps`` among the workers: runs of about equal cost, at most one for each worker.

        Neighbouring steps share a tile, and steps are never divided: so a worker passes few tiles
        again, and rounds its sums as a single process does.
        """
        shapes, asymmetric = self._shapes, not self.schedule.halved
        counts = [count_pairs(shapes, step.pairs, asymmetric=asymmetric) for step in steps]
        # The flops of products are linear in the counts: the cost of one of each kind is enough.
        costs = np.array(counts) @ [
            self._cost_of_products(PairCounts(*unit)) for unit in np.eye(len(PairCounts._fields))
        ]
        # Every step passes one tile again, or two.
        costs += self.flops["passes"] / _EFFICIENCY["passes"] / len(steps)
        # A step belongs to the worker in whose equal part of the total cost its middle lies.
        middles = np.cumsum(costs) - costs / 2
        owners = np.minimum(middles * (self.workers / costs.sum()), self.workers - 1).astype(int)
        return tuple(
            tuple(
                step for step, owner in zip(steps, owners.tolist(), strict=True) if owner == worker
            )
            for worker in sorted(set(owners.tolist()))
        )

    def _cost_of_products(self, counts: PairCounts) -> float:
        forming, contracting = self.contraction_flops(self.structure.parameters, counts)
        return forming / _EFFICIENCY["forming"] + contracting / _EFFICIENCY["contracting"]

    def forward_flops(self, rows: NDArray[np.int64] | slice = slice(None)) -> float:
        """Flops of a forward pass of these texts."""
        return self.structure.forward_flops * float(self.workload.lengths[rows].sum())

    def pass_flops(
        self,
        unit: int,
        steps: Sequence[Step] | None = None,
        tiles: Sequence[int] | slice = slice(None),
    ) -> float:
        """Flops to pull the gradients of ``tiles`` through a unit for these steps; default: of all.

        A tile that no step loads is still passed once, for the gradients of the units below.
        """
        loads = self.schedule.loads_of_tiles if steps is None else _loads(steps, len(self.tiling))
        # Every stage passes all loads again. A pass rebuilds the unit forward once and pulls S
        # cotangents back, each of which takes about the time of a forward pass.
        times = len(self.stages[unit]) * loads
        times[tiles] = np.maximum(1, times[tiles])
        units = self.structure.units
        share = len(units[unit]) / sum(map(len, units))
        passes = share * self.structure.passes_of_unit(unit) * float(times @ self.tiling.tokens)
        return self.structure.forward_flops * (1 + self.workload.cotangents) * passes

    def contraction_flops(
        self, parameters: Iterable[Parameter], counts: PairCounts
    ) -> tuple[float, float]:
        """Flops to form gradients, and to contract them, of the linear weights among these."""
        # Layers are alike: weights of one size, head and number of tokens cost the same.
        forming = contracting = 0.0
        weights = Counter(self._weight(p) for p in parameters if p.linear)
        for weight, count in weights.items():
            formed, contracted = self._cost(weight, counts)
            forming += count * formed
            contracting += count * contracted
        return forming, contracting

    def counts_of_steps(self, steps: Sequence[Step] | None = None) -> PairCounts:
        """The pairs of texts and tokens in these steps, by default in all."""
        if steps is None:
            return self.schedule.counts
        shapes, asymmetric = self._shapes, not self.schedule.halved
        parts = (count_pairs(shapes, step.pairs, asymmetric=asymmetric) for step in steps)
        return reduce(PairCounts.plus, parts, PairCounts(0, 0, 0, 0, 0))

    @property
    def _shapes(self) -> dict[int, Shape]:
        """The tiles' shapes by number."""
        samples, tokens = self.tiling.samples.tolist(), self.tiling.mean_tokens.tolist()
        return dict(enumerate(map(Shape, samples, tokens)))

    @cached_property
    def flops(self) -> dict[str, float]:
        """Flops by part; ``model`` is the least: no recomputation, the symmetric product once."""
        least = sum(self.contraction_flops(self.structure.parameters, self.schedule.least_counts))
        forward = self.forward_flops() * (1 + self.workload.cotangents)
        return {**RemainingWork(self).flops, "model": forward + least}

    @property
    def autograd(self) -> dict[str, Any]:
        """The parameters left to autograd, out of all, and the flops of their passes text by text.

        Where texts pass together for the other parameters, these passes come on top.
        """
        structure = self.structure
        treated = {unit for unit in range(len(structure.units)) if structure.left_to_autograd(unit)}
        flops = sum(self.pass_flops(unit) / structure.passes_of_unit(unit) for unit in treated)
        return {
            "parameters": len(structure.direct),
            "of": len(structure.parameters),
            "flops": flops,
        }

    @cached_property
    def cost(self) -> float:
        """The flops as if all ran at the machine's rate of matrix products.

        With several workers: those of the slowest one, plus those of the process that joins what
        they leave, which needs the features of all texts.
        """
        if self.workers == 1:
            return _total_cost(self.flops)
        joining = self.forward_flops() / _EFFICIENCY["passes"]
        if len(self.tiling) > _MOST_TILES_LISTED:
            return joining + _total_cost(self.flops) / self.workers
        return joining + max(
            _total_cost(RemainingWork(self, assigned=part).flops)
            for part in self.divide(self.steps)
        )

    @cached_property
    def rate(self) -> float:
        """Flops per second of the machine's matrix products, measured at first use."""
        return matmul_rate(self.device, self.dtype)

    @property
    def seconds(self) -> float:
        """Expected seconds, from the machine's rate of matrix products."""
        return self.cost / self.rate

    def as_record(self) -> dict[str, Any]:
        """The plan as JSON."""
        structure = self.structure
        return {
            "device": str(self.device),
            "texts": len(self.workload.lengths),
            "tokens": int(self.workload.lengths.sum()),
            "tiles": len(self.tiling),
            "tiles_held": self.schedule.most_held,
            "stages": max(map(len, self.stages)),
            "batches_of_several_texts": structure.batched,
            "blocks": 0 if structure.chain is None else len(structure.chain),
            "between_blocks": self.layout.between_blocks,
            "backward_passes": self.workload.cotangents,
            "methods": dict(Counter(self._method(self._weight(p)) for p in self._linear())),
            "fallback": list(structure.fallback),
            "by_autograd": list(structure.direct),
            "autograd": self.autograd,
            "flops": self.flops,
            "expected_memory": self.memory,
            "memory_budget": self.budget,
            "steps": self.schedule.step_count,
            "workers": self.workers,
        }

    def timed_record(self) -> dict[str, Any]:
        """The plan as JSON with the time that it is expected to take on this machine."""
        return {
            **self.as_record(),
            "matmul_gflops": self.rate / 1e9,
            "expected_seconds": self.seconds,
        }

    def rows(self) -> list[list[object]]:
        """Linear weights, alike ones in one row: layers, weights, count, b x a, tokens, method,
        GFLOP of all of them.

        Alike are weights that have the same size, number of tokens and method of contraction.
        """
        # Weights of one size, head and number of tokens are one row.
        alike: dict[_Weight, list[Parameter]] = {}
        for parameter in self._linear():
            alike.setdefault(self._weight(parameter), []).append(parameter)
        listed: list[list[object]] = []
        for weight, parameters in alike.items():
            (a, b), mean = weight.sizes, float(self.tiling.mean_tokens[0])
            tokens = 1.0 if weight.pooled else weight.tokens_per_token * mean
            flops = len(parameters) * sum(self._cost(weight, self.schedule.least_counts))
            row = [_layers(parameters), _names(parameters), len(parameters), f"{b} x {a}"]
            listed.append([*row, f"{tokens:.0f}", self._method(weight), f"{flops / 1e9:.1f}"])
        return listed

    def _linear(self) -> list[Parameter]:
        return [p for p in self.structure.parameters if p.linear]

    def _weight(self, parameter: Parameter) -> _Weight:
        ranks = tuple(self.workload.heads[n].rank for n in self.workload.heads_of[parameter.name])
        tied = parameter.form == "tied"
        return _Weight(parameter.sizes, parameter.tokens_per_token, parameter.pooled, ranks, tied)

    def _method(self, weight: _Weight) -> Method:
        """The expected method of a linear weight; a tied one is always materialized."""
        if weight.tied:
            return "materialize"
        if self.workload.method is not None:
            return self.workload.method
        if weight not in self._methods:
            counts = self._seen(weight, self.schedule.least_counts)
            self._methods[weight] = cheapest_method(
                weight.sizes, counts, weight.ranks, self.workload.update
            )
        return self._methods[weight]

    def _cost(self, weight: _Weight, counts: PairCounts) -> tuple[float, float]:
        seen = self._seen(weight, counts)
        return method_cost(self._method(weight), weight.sizes, seen, weight.ranks)

    def _seen(self, weight: _Weight, counts: PairCounts) -> PairCounts:
        """The counts with the tokens that the weight is expected to see."""
        return counts.seen_by_weight(weight.tokens_per_token, pooled=weight.pooled)


def _layers(parameters: Sequence[Parameter]) -> str:
    """The layers of these parameters, of numbered ones the first and the last."""
    names = dict.fromkeys(parameter.layer for parameter in parameters)
    numbers = [int(name.split()[1]) for name in names if re.fullmatch(r"layer \d+", name)]
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    spans = [str(first) if first == last else f"{first}-{last}" for first, last in ranges]
    numbered = f"layer{'s' if len(numbers) > 1 else ''} {', '.join(spans)}"
    return ", ".join(
        [*([numbered] if numbers else []), *(n for n in names if not re.fullmatch(r"layer \d+", n))]
    )


def _names(parameters: Sequence[Parameter]) -> str:
    """Names without their layer's number and what comes before it, each once."""
    short = (re.sub(r"^(?:.*?\.)?\d+\.|\.weight$|\.base_layer", "", p.name) for p in parameters)
    return ", ".join(dict.fromkeys(short))


def _loads(steps: Sequence[Step], tiles: int) -> NDArray[np.int64]:
    """How many of these steps pass each tile again because the step before did not hold it."""
    loads = np.zeros(tiles, dtype=np.int64)
    held: set[int] = set()
    for step in steps:
        for tile in set(step.tiles) - held:
            loads[tile] += 1
        held = set(step.tiles)
    return loads


def _total_cost(flops: Mapping[str, float]) -> float:
    return sum(flops[part] / efficiency for part, efficiency in _EFFICIENCY.items())


@dataclass(frozen=True)
class RemainingWork:
    """The unfinished part of a plan, or of the steps ``assigned`` to one of its workers.

    Pieces that are ``finished`` are in the store already.
    """

    plan: Plan
    finished: Collection[Piece] = frozenset()
    assigned: tuple[Step, ...] | None = None

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The pairs of tiles, finished or not."""
        if self.assigned is None:
            return self.plan.pairs
        return tuple(pair for step in self.assigned for pair in step.pairs)

    @cached_property
    def tiles(self) -> tuple[int, ...]:
        """The tiles that pass: all, or of a worker those of its unfinished steps."""
        if self.assigned is None:
            return tuple(range(len(self.plan.tiling)))
        return tuple(sorted({tile for step in self.steps_of_any_unit for tile in step.tiles}))

    @property
    def steps_of_any_unit(self) -> tuple[Step, ...]:
        """The steps that lack a piece, in their order."""
        units = range(len(self.plan.structure.units))
        unfinished = {step for unit in units for step in self.steps(unit)}
        return tuple(step for step in self._steps if step in unfinished)

    @property
    def _steps(self) -> tuple[Step, ...]:
        return self.plan.steps if self.assigned is None else self.assigned

    def steps(self, unit: int) -> tuple[Step, ...]:
        """The steps of a unit that lack a piece.

        They are contracted whole, so that finished pieces do not change how the sums are rounded.
        """
        if not self.plan.structure.of_unit(unit):
            return ()
        return tuple(
            step
            for step in self._steps
            if any((unit, pair) not in self.finished for pair in step.pairs)
        )

    @cached_property
    def last_unit(self) -> int:
        """The last unit that gradients must reach, or -1.

        Parameters that the texts of the gradient check did not reach are looked for everywhere.
        """
        units = range(len(self.plan.structure.units))
        if self.finished:
            unfinished = [unit for unit in units if self.steps(unit)]
        else:  # the same without listing the steps
            unfinished = [unit for unit in units if self.plan.structure.of_unit(unit)]
        if self.plan.structure.unreached and (unfinished or not self.finished):
            return units[-1]
        return max(unfinished, default=-1)

    @property
    def flops(self) -> dict[str, float]:
        """The expected flops of passes, of forming gradients, and of contracting them."""
        plan, passes = self.plan, 0.0
        tiles: Any = slice(None) if self.assigned is None else list(self.tiles)
        rows: Any = slice(None)
        if self.assigned is not None:
            empty = [np.zeros(0, dtype=np.int64)]
            rows = np.concatenate(empty + [plan.tiles[tile].rows for tile in self.tiles])
        by_steps: dict[tuple[Step, ...] | None, list[Parameter]] = {}
        for unit in range(self.last_unit + 1):
            parameters = plan.structure.of_unit(unit)
            # None stands for all steps, which need not be listed.
            listed = bool(self.finished) or self.assigned is not None or not parameters
            steps = self.steps(unit) if listed else None
            passes += plan.pass_flops(unit, steps, tiles)
            by_steps.setdefault(steps, []).extend(parameters)
        costs = [
            plan.contraction_flops(parameters, plan.counts_of_steps(steps))
            for steps, parameters in by_steps.items()
        ]
        return {
            "passes": plan.forward_flops(rows) + passes,
            "forming": sum(forming for forming, _ in costs),
            "contracting": sum(contracting for _, contracting in costs),
        }


def most_stages(structure: Structure) -> int:
    """How many stages are worth a try.

    Without a chain a pass is one of the whole encoder; parameters that have not been reached yet
    are looked for in every pass.
    """
    if structure.chain is None or structure.unreached:
        return 1
    units = [structure.of_unit(unit) for unit in range(len(structure.units))]
    return min(_MOST_STAGES, max(sum(p.form != "vector" for p in unit) for unit in units) or 1)


def stages_of_units(structure: Structure, count: int, cotangents: int) -> tuple[Stages, ...]:
    """Per unit the stages of its parameters.

    The widest unit has ``count`` stages; others have the fewest that are no wider than that. Stages
    repeat passes, whereas tiles of samples repeat the forming of gradients for every pair.
    """
    units = [structure.of_unit(unit) for unit in range(len(structure.units))]
    most = max(widest(_stages(unit, count, cotangents), cotangents) for unit in units)

    def fewest(unit: Sequence[Parameter]) -> Stages:
        candidates = (_stages(unit, fewer, cotangents) for fewer in range(1, count + 1))
        return next(stages for stages in candidates if widest(stages, cotangents) <= most)

    return tuple(map(fewest, units))


def widest(stages: Stages, cotangents: int) -> int:
    """The numbers that one token leaves in the widest stage."""
    widths = (sum(p.numbers_per_token(cotangents) for p in stage) for stage in stages)
    return max(widths, default=0)


def _stages(unit: Sequence[Parameter], count: int, cotangents: int) -> Stages:
    """At most ``count`` stages: widest parameter first, each into the narrowest stage so far."""
    # The greedy rule for equal loads: the widest first, into the narrowest stage.
    widths = [0] * count
    stage_of: dict[str, int] = {}
    for parameter in sorted(unit, key=lambda p: -p.numbers_per_token(cotangents)):
        narrowest = widths.index(min(widths))
        stage_of[parameter.name] = narrowest
        widths[narrowest] += parameter.numbers_per_token(cotangents)
    stages = (tuple(p for p in unit if stage_of[p.name] == stage) for stage in range(count))
    return tuple(stage for stage in stages if stage)


def method_cost(
    method: Method, sizes: tuple[int, int], counts: PairCounts, ranks: Sequence[int]
) -> tuple[float, float]:
    """Flops to form J, and flops (or their equivalent) to contract, of one linear weight (a, b).

    Materialising costs ``2 N S T a b`` and ``2 N M r^2 a b``; the token Gram
    ``2 N T M T' (a + r^2 b)``; the sandwich ``2 N M (T T' a + S T T' b + r^2 T b)``, for heads of
    ``ranks`` r with S rows in all. A tile with itself takes half, unless the kernel is asymmetric.
    """
    a, b = sizes
    rows, squares = sum(ranks), sum(rank**2 for rank in ranks)
    if method == "materialize":
        # text_pairs has the factor 2 (a multiplication and an addition) in it already.
        return 2 * rows * counts.formed_tokens * a * b, counts.text_pairs * squares * a * b
    if method == "token_gram":
        # r^2 times two Gram matrices are multiplied entry by entry.
        elementwise = _ELEMENTWISE_FLOPS * squares / 2
        return 0.0, counts.token_pairs * (a + squares * b + elementwise)
    return 0.0, (
        counts.token_pairs * (a + rows * b + _ELEMENTWISE_FLOPS / 2)
        + counts.token_text_pairs * (squares * b + rows * b * _ELEMENTWISE_FLOPS / 2)
    )


def cheapest_method(
    sizes: tuple[int, int], counts: PairCounts, ranks: Sequence[int], update: KernelKind = "sgd"
) -> Method:
    """The method of least cost; kernels of signs need the whole gradient."""
    if update != "sgd":
        return "materialize"
    return min(METHODS, key=lambda method: sum(method_cost(method, sizes, counts, ranks)))


@cache
def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Flops per second of a square matrix product on this device, measured once in a process."""
    size = _RATE_SIZES[device.type]
    left = torch.linspace(-1, 1, size * size, dtype=dtype, device=device).view(size, size)
    times = []
    for _ in range(4):  # the first one is slow, and left out
        started = perf_counter()
        float((left @ left)[0, 0])  # waits until an accelerator is done
        times.append(perf_counter() - started)
    return 2 * size**3 / median(times[1:])
