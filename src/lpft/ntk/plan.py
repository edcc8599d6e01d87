"""What will be computed, by which method, in how much work, memory and time."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lpft.ntk.cost import Method, Shape, cheapest_method, method_cost
from lpft.ntk.layout import Layout, Pair, Step, Tile, steps
from lpft.ntk.stages import Stages, stages_of_units
from lpft.ntk.structure import Parameter, Structure
from lpft.settings import KernelKind

_EFFICIENCY = {"passes": 0.6, "forming": 0.7, "contracting": 0.8}
"""Shares of the machine's matrix-product rate that the parts reached where they were measured."""

_RATE_SIZES = {"cpu": 1024, "cuda": 8192}
"""Rows of the square product whose rate is measured: a GPU does not fill itself with less."""


@dataclass(frozen=True)
class Demand:
    """What is asked for: texts, pairs of their groups, heads, and who needs which parameter.

    ``lengths`` are the tokens of all texts, ``groups`` their groups, ``blocks`` the pairs of groups
    whose kernel is wanted, ``ranks`` the heads' ranks, and ``heads_of`` for each parameter the
    numbers of the heads that it is contracted for. ``method`` is that of linear weights, None for
    the cheapest of each.
    """

    lengths: NDArray[np.int64]
    groups: NDArray[np.int64]
    blocks: tuple[Pair, ...]
    ranks: tuple[int, ...]
    heads_of: Mapping[str, tuple[int, ...]]
    kernel: KernelKind
    method: Method | None

    @property
    def seeds(self) -> int:
        return sum(self.ranks)


@dataclass(frozen=True)
class _Weight:
    """What the cost of a linear weight depends on: equal ones are planned once."""

    sizes: tuple[int, int]
    tokens_per_token: float
    pooled: bool
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """How the demand will be met, and what that is expected to take.

    ``memory`` is the most that the process is expected to take, ``memory_of_pass`` the part of it
    that one batch takes while it passes, and ``budget`` what the process may take, in bytes.
    """

    structure: Structure
    demand: Demand
    layout: Layout
    tiles: tuple[Tile, ...]
    pairs: tuple[Pair, ...]
    memory: int
    memory_of_pass: int
    budget: int
    device: torch.device
    dtype: torch.dtype
    _methods: dict[_Weight, Method] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def stages(self) -> tuple[Stages, ...]:
        """Per unit its parameters, in stages that are held one after the other."""
        return stages_of_units(self.structure, self.layout.stages, self.demand.seeds)

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The pairs in the order in which they are contracted, the same for every unit."""
        return steps(self.pairs, hold_all=self.layout.hold_all)

    def method(self, parameter: Parameter) -> Method:
        """The expected method of a linear weight."""
        return self._method(self._weight(parameter))

    def pass_flops(self, unit: int, of_unit: Sequence[Step]) -> float:
        """Flops to pull the gradients of all tiles through a unit, for contractions ``of_unit``."""
        loads = [0] * len(self.tiles)
        held: set[int] = set()
        for step in of_unit:
            for tile in set(step.tiles) - held:
                loads[tile] += 1
            held = set(step.tiles)
        passes = len(self.stages[unit])
        tokens = sum(
            max(1, passes * count) * len(tile.rows) * length
            for count, tile, length in zip(loads, self.tiles, self._lengths, strict=True)
        )
        units = self.structure.units
        share = len(units[unit]) / sum(map(len, units))
        return self.structure.forward_flops * (1 + self.demand.seeds) * share * tokens

    def contraction_flops(
        self, parameters: Sequence[Parameter], of_unit: Sequence[Step]
    ) -> tuple[float, float]:
        """Flops to form gradients, and to contract them, of the linear weights among these."""
        forming = contracting = 0.0
        weights = Counter(self._weight(p) for p in parameters if p.form == "outer")
        for weight, count in weights.items():
            shapes, method = self._shapes(weight), self._method(weight)
            for step in of_unit:
                formed, contracted = self._cost(method, weight, shapes, step.pairs)
                forming += count * formed
                contracting += count * contracted
        return forming, contracting

    @cached_property
    def flops(self) -> dict[str, float]:
        """Flops by part; ``model`` is the least: no recomputation, the symmetric product once."""
        structure, demand = self.structure, self.demand
        forward = structure.forward_flops * float(demand.lengths.sum())
        needed = [unit for unit in range(len(structure.units)) if structure.of_unit(unit)]
        passes = sum(
            self.pass_flops(unit, self.steps if unit in needed else ())
            for unit in range(max(needed, default=-1) + 1)
        )
        forming, contracting = self.contraction_flops(structure.parameters, self.steps)
        whole = Step(tuple(range(len(self.tiles))), self.pairs)
        least = sum(self.contraction_flops(structure.parameters, [whole]))
        return {
            "passes": forward + passes,
            "forming": forming,
            "contracting": contracting,
            "model": forward * (1 + demand.seeds) + least,
        }

    @cached_property
    def rate(self) -> float:
        """Flops per second of the machine's matrix products, measured when it is first asked."""
        return matmul_rate(self.device, self.dtype)

    @property
    def cost(self) -> float:
        """The flops as if all ran at the machine's rate of matrix products."""
        return sum(self.flops[part] / share for part, share in _EFFICIENCY.items())

    @property
    def seconds(self) -> float:
        """Expected seconds, from the machine's rate of matrix products."""
        return self.cost / self.rate

    def as_record(self) -> dict[str, Any]:
        """The plan as JSON."""
        structure = self.structure
        return {
            "device": str(self.device),
            "texts": len(self.demand.lengths),
            "tokens": int(self.demand.lengths.sum()),
            "tiles": len(self.tiles),
            "tiles_held": max(len(step.tiles) for step in self.steps),
            "stages": max(map(len, self.stages)),
            "batches_of_several_texts": structure.batched,
            "blocks": 0 if structure.chain is None else len(structure.chain),
            "between_blocks": self.layout.stash,
            "backward_passes": self.demand.seeds,
            "methods": dict(Counter(self.method(p) for p in self._linear())),
            "fallback": list(structure.fallback),
            "by_autograd": list(structure.direct),
            "flops": self.flops,
            "expected_memory": self.memory,
            "memory_budget": self.budget,
        }

    def timed_record(self) -> dict[str, Any]:
        """The plan as JSON with the time that it is expected to take on this machine."""
        return {
            **self.as_record(),
            "matmul_gflops": self.rate / 1e9,
            "expected_seconds": self.seconds,
        }

    def rows(self) -> list[list[object]]:
        """One row per linear weight: layer, weight, b x a, tokens, method, GFLOP."""
        listed: list[list[object]] = []
        for parameter in self._linear():
            weight = self._weight(parameter)
            method, shapes = self._method(weight), self._shapes(weight)
            cost = sum(self._cost(method, weight, shapes, self.pairs))
            size = f"{parameter.sizes[1]} x {parameter.sizes[0]}"
            tokens = f"{shapes[0].tokens:.0f}"
            listed.append(
                [parameter.layer, parameter.name, size, tokens, method, f"{cost / 1e9:.1f}"]
            )
        return listed

    def _linear(self) -> list[Parameter]:
        return [p for p in self.structure.parameters if p.form == "outer"]

    def _weight(self, parameter: Parameter) -> _Weight:
        ranks = tuple(self.demand.ranks[head] for head in self.demand.heads_of[parameter.name])
        return _Weight(parameter.sizes, parameter.tokens_per_token, parameter.pooled, ranks)

    def _method(self, weight: _Weight) -> Method:
        if self.demand.method is not None:
            return self.demand.method
        if weight not in self._methods:
            self._methods[weight] = cheapest_method(
                weight.sizes, self._shapes(weight), self.pairs, weight.ranks, self.demand.kernel
            )
        return self._methods[weight]

    def _cost(
        self, method: Method, weight: _Weight, shapes: Mapping[int, Shape], pairs: Sequence[Pair]
    ) -> tuple[float, float]:
        return method_cost(method, weight.sizes, shapes, pairs, weight.ranks, self.demand.kernel)

    def _shapes(self, weight: _Weight) -> dict[int, Shape]:
        """The samples of each tile, and the tokens of each that the weight is expected to see."""
        return {
            number: Shape(
                len(tile.rows), 1.0 if weight.pooled else weight.tokens_per_token * length
            )
            for number, (tile, length) in enumerate(zip(self.tiles, self._lengths, strict=True))
        }

    @cached_property
    def _lengths(self) -> list[float]:
        """The mean tokens of each tile's texts."""
        return [float(self.demand.lengths[tile.rows].mean()) for tile in self.tiles]


@cache
def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Flops per second of a square matrix product on this device, measured once in a process."""
    size = _RATE_SIZES[device.type]
    left = torch.linspace(-1, 1, size * size, dtype=dtype, device=device).view(size, size)
    times = []
    for _ in range(4):
        started = perf_counter()
        float((left @ left)[0, 0])
        times.append(perf_counter() - started)
    return 2 * size**3 / median(times[1:])
