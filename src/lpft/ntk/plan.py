"""What will be computed, in which tiles, by which method, in how much memory and time."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from lpft.choices import KernelKind
from lpft.data.tokens import length_batches
from lpft.errors import InputError
from lpft.files import write_json
from lpft.ntk.memory import readable_size
from lpft.ntk.products import Method, Pair, Shape, cheapest_method, method_cost
from lpft.ntk.stash import Place
from lpft.ntk.structure import Parameter, Structure

_BATCH_TOKENS = {"cpu": 2048, "cuda": 32768, "mps": 8192}
_WORKSPACE_BYTES = {"cpu": (64 << 20, 512 << 20), "cuda": (64 << 20, 8 << 30)}
_WORKSPACE_SHARE = 0.08
_LAYOUT = "layout.json"
_SLACK_BYTES = 128 << 20
_WORKSPACE_ITEM = 4
_TRANSIENT_COPIES = 3
_EFFICIENCY = {"passes": 0.55, "forming": 0.7, "contracting": 0.8}
"""Shares of the machine's matrix-product rate that the parts reached where they were measured."""


@dataclass(frozen=True)
class Tile:
    """Samples that are held together: their rows, and the batches in which they pass.

    ``group`` is 0 for the kernel's rows (train), 1 for further texts (columns or test); ``batches``
    are (number, rows) with numbers that no other tile's batches have.
    """

    group: int
    batches: tuple[tuple[int, NDArray[np.int64]], ...]

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        return np.concatenate([rows for _, rows in self.batches])


@dataclass(frozen=True)
class Step:
    """Tiles to hold at once, and the pairs to contract among them."""

    tiles: tuple[int, ...]
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Layout:
    """What decides the order of all sums: resumed kernels keep it, so that they end the same."""

    tiles: int
    stash: Place
    workspace: int

    @classmethod
    def read(cls, folder: Path) -> "Layout | None":
        """The layout that was begun in ``folder``; None where nothing was.

        Raises:
            InputError: the file that holds it is damaged.
        """
        path = folder / _LAYOUT
        if not path.is_file():
            return None
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            layout = cls(int(kept["tiles"]), kept["stash"], int(kept["workspace"]))
            if layout.tiles < 1 or layout.workspace < 1 or layout.stash not in get_args(Place):
                raise ValueError(layout)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"'{path}' is damaged: delete the folder '{folder}', and the kernel is computed "
                "from the start"
            ) from error
        return layout

    def write(self, folder: Path) -> None:
        """Keep it in ``folder``."""
        write_json(folder / _LAYOUT, asdict(self))


@dataclass(frozen=True)
class Demand:
    """What is asked for: texts, pairs of their groups, heads, and who needs which parameter.

    ``lengths`` are the tokens of all texts, ``groups`` their groups, ``blocks`` the pairs of groups
    whose kernel is wanted, ``ranks`` the heads' ranks, and ``heads_of`` for each parameter the
    numbers of the heads that it is contracted for.
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
class Plan:
    """How the demand will be met, and what that is expected to take."""

    structure: Structure
    demand: Demand
    layout: Layout
    tiles: tuple[Tile, ...]
    pairs: tuple[Pair, ...]
    memory: int
    budget: int
    rate: float
    device: torch.device

    @property
    def hold_all(self) -> bool:
        """Whether all tiles are held at once; otherwise two are."""
        return self.layout.tiles == 1

    def steps(self, pairs: Sequence[Pair]) -> Iterator[Step]:
        """The given pairs in an order that holds two tiles at once, or all."""
        if self.hold_all:
            if pairs:
                yield Step(tuple(sorted({tile for pair in pairs for tile in pair})), tuple(pairs))
            return
        todo = set(pairs)
        held: tuple[int, ...] = ()
        while todo:
            # Prefer a pair that shares a tile with those held: it costs one tile less to pass.
            pair = max(todo, key=lambda p: (len(set(p) & set(held)), -p[0], -p[1]))
            held = tuple(sorted(set(pair)))
            among = tuple(sorted(p for p in todo if set(p) <= set(held)))
            yield Step(held, among)
            todo -= set(among)

    def shape(self, parameter: Parameter, tile: int) -> Shape:
        """The samples of a tile and the tokens of each that the parameter is expected to see."""
        rows = self.tiles[tile].rows
        mean = float(self.demand.lengths[rows].mean())
        tokens = 1.0 if parameter.pooled else parameter.tokens_per_token * mean
        return Shape(len(rows), tokens)

    def method(self, parameter: Parameter) -> Method:
        """The expected method of a linear weight."""
        if self.demand.method is not None:
            return self.demand.method
        return cheapest_method(
            parameter.sizes,
            {tile: self.shape(parameter, tile) for tile in range(len(self.tiles))},
            self.pairs,
            self.ranks_of(parameter),
            self.demand.kernel,
        )

    def ranks_of(self, parameter: Parameter) -> list[int]:
        return [self.demand.ranks[head] for head in self.demand.heads_of[parameter.name]]

    @cached_property
    def flops(self) -> dict[str, float]:
        """Flops by part; ``model`` is the least: no recomputation, the symmetric product once."""
        structure, demand = self.structure, self.demand
        tokens = float(demand.lengths.sum())
        loads = self._loads()
        carried = sum(
            count * float(demand.lengths[tile.rows].sum())
            for count, tile in zip(loads, self.tiles, strict=True)
        )
        forming = contracting = least_forming = 0.0
        shares = list(range(len(self.tiles)))
        for parameter in structure.parameters:
            if parameter.form != "outer":
                continue
            shapes = {tile: self.shape(parameter, tile) for tile in shares}
            ranks, method = self.ranks_of(parameter), self.method(parameter)
            once, product = method_cost(method, parameter.sizes, shapes, self.pairs, ranks)
            contracting += product
            least_forming += once
            for step in self.steps(self.pairs):
                forming += method_cost(method, parameter.sizes, shapes, step.pairs, ranks)[0]
        forward = structure.forward_flops
        return {
            "passes": forward * (tokens + (1 + demand.seeds) * carried),
            "forming": forming,
            "contracting": contracting,
            "model": forward * tokens * (1 + demand.seeds) + least_forming + contracting,
        }

    @property
    def seconds(self) -> float:
        """Expected seconds, from the machine's rate of matrix products."""
        return sum(self.flops[part] / (share * self.rate) for part, share in _EFFICIENCY.items())

    def _loads(self) -> list[int]:
        """How often each tile passes backward through a unit."""
        loads = [0] * len(self.tiles)
        held: set[int] = set()
        for step in self.steps(self.pairs):
            for tile in set(step.tiles) - held:
                loads[tile] += 1
            held = set(step.tiles)
        return loads

    def as_record(self) -> dict[str, Any]:
        """The plan as JSON."""
        methods: dict[str, int] = {}
        for parameter in self.structure.parameters:
            if parameter.form == "outer":
                methods[self.method(parameter)] = methods.get(self.method(parameter), 0) + 1
        return {
            "device": str(self.device),
            "texts": len(self.demand.lengths),
            "tokens": int(self.demand.lengths.sum()),
            "tiles": len(self.tiles),
            "tiles_held": len(self.tiles) if self.hold_all else 2,
            "batches_of_several_texts": self.structure.batched,
            "blocks": 0 if self.structure.chain is None else len(self.structure.chain),
            "between_blocks": self.layout.stash,
            "backward_passes": self.demand.seeds,
            "methods": methods,
            "fallback": list(self.structure.fallback),
            "flops": self.flops,
            "matmul_gflops": self.rate / 1e9,
            "expected_seconds": self.seconds,
            "expected_memory": self.memory,
            "memory_budget": self.budget,
        }

    def rows(self) -> list[list[object]]:
        """One row per linear weight: layer, weight, b x a, tokens, method, GFLOP."""
        listed: list[list[object]] = []
        for parameter in self.structure.parameters:
            if parameter.form == "outer":
                shapes = {tile: self.shape(parameter, tile) for tile in range(len(self.tiles))}
                method = self.method(parameter)
                cost = sum(
                    method_cost(
                        method, parameter.sizes, shapes, self.pairs, self.ranks_of(parameter)
                    )
                )
                size = f"{parameter.sizes[1]} x {parameter.sizes[0]}"
                tokens = f"{shapes[0].tokens:.0f}"
                listed.append(
                    [parameter.layer, parameter.name, size, tokens, method, f"{cost / 1e9:.1f}"]
                )
        return listed


def make_plan(
    structure: Structure,
    demand: Demand,
    *,
    hidden_size: int,
    dtype: torch.dtype,
    device: torch.device,
    budget: int,
    used: int,
    accumulators: int,
    layout: Layout | None = None,
) -> Plan:
    """The plan of fewest tiles that keeps to the budget, or that of a layout begun before.

    Args:
        budget: bytes in all; ``used`` those that are taken before anything starts.
        accumulators: bytes of the kernels that are summed up and returned.

    Raises:
        InputError: not even single texts fit, or the layout begun before does not.
    """
    rate = matmul_rate(device, dtype)
    least = 0
    for candidate in _layouts(demand, device, budget - used) if layout is None else [layout]:
        tiles = _split(demand, candidate.tiles, structure.batched, device)
        memory = (
            used
            + accumulators
            + candidate.workspace * dtype.itemsize
            + _SLACK_BYTES
            + _held_bytes(structure, demand, tiles, candidate, hidden_size, dtype)
        )
        least = memory if least == 0 else min(least, memory)
        if memory <= budget:
            pairs = _tile_pairs(demand, tiles)
            return Plan(structure, demand, candidate, tiles, pairs, memory, budget, rate, device)
    if layout is not None:
        raise InputError(
            f"the unfinished kernel was begun with more memory: it needs {readable_size(least)}, "
            f"now {readable_size(budget)} are given; give as much, or delete its folder"
        )
    raise InputError(
        f"a memory of {readable_size(budget)} is too small: {readable_size(used)} are in use "
        f"before it starts and at least {readable_size(least)} are needed in all; give more "
        "memory, fewer texts or a shorter maximum length"
    )


def _layouts(demand: Demand, device: torch.device, free: int) -> Iterator[Layout]:
    """Layouts from the fastest to the thriftiest."""
    low, high = _WORKSPACE_BYTES.get(device.type, _WORKSPACE_BYTES["cpu"])
    workspace = int(min(max(_WORKSPACE_SHARE * free, low), high)) // _WORKSPACE_ITEM
    places: tuple[Place, ...] = ("memory", "files" if device.type == "cpu" else "host")
    largest = int(np.bincount(demand.groups).max())
    count = 1
    while True:
        for place in places:
            yield Layout(count, place, workspace)
        if count >= largest:
            return
        # Two tiles of three or more are held at once: two alone would save nothing.
        count = min(largest, max(count + 1, int(count * 1.3), 3))


@cache
def matmul_rate(device: torch.device, dtype: torch.dtype, size: int = 1024) -> float:
    """Flops per second of a square matrix product on this device, measured once in a process."""
    left = torch.linspace(-1, 1, size * size, dtype=dtype, device=device).view(size, size)
    times = []
    for _ in range(4):
        started = perf_counter()
        float((left @ left)[0, 0])
        times.append(perf_counter() - started)
    return 2 * size**3 / median(times[1:])


def _split(demand: Demand, count: int, batched: bool, device: torch.device) -> tuple[Tile, ...]:
    """``count`` tiles of about equally many tokens from the largest group, others alike."""
    tiles = []
    number = 0
    total = demand.lengths[demand.groups == 0].sum()
    for group in sorted(set(demand.groups.tolist())):
        rows = np.flatnonzero(demand.groups == group)
        rows = rows[np.argsort(-demand.lengths[rows], kind="stable")]
        tokens = demand.lengths[rows]
        parts = min(len(rows), max(1, round(count * float(tokens.sum()) / max(1, int(total)))))
        if count == 1:
            parts = 1
        bounds = np.searchsorted(
            np.cumsum(tokens), np.linspace(0, tokens.sum(), parts + 1)[1:-1], "right"
        )
        for part in np.split(rows, np.unique(np.clip(bounds, 1, len(rows) - 1))):
            if len(part) == 0:
                continue
            batches = []
            for places in length_batches(
                demand.lengths[part],
                max_rows=len(part) if batched else 1,
                max_tokens=_BATCH_TOKENS[device.type],
            ):
                batches.append((number, part[places]))
                number += 1
            tiles.append(Tile(group, tuple(batches)))
    return tuple(tiles)


def _tile_pairs(demand: Demand, tiles: Sequence[Tile]) -> tuple[Pair, ...]:
    """The pairs of tiles to contract: half of them within a group, where the kernel allows."""
    both_ways = demand.kernel == "asymmetric"
    return tuple(
        (i, j)
        for i, left in enumerate(tiles)
        for j, right in enumerate(tiles)
        if (left.group, right.group) in demand.blocks
        and (left.group != right.group or both_ways or i <= j)
    )


def _held_bytes(
    structure: Structure,
    demand: Demand,
    tiles: Sequence[Tile],
    layout: Layout,
    hidden_size: int,
    dtype: torch.dtype,
) -> int:
    """Bytes of what is held at the worst moment: shares, what lies between blocks, one batch."""
    size, seeds = dtype.itemsize, demand.seeds
    tokens = sorted(
        (sum(len(r) * int(demand.lengths[r].max()) for _, r in tile.batches) for tile in tiles),
        reverse=True,
    )
    samples = sorted((len(tile.rows) for tile in tiles), reverse=True)
    held = len(tiles) if layout.tiles == 1 else 2
    vectors = max(
        sum(p.sizes[1] for p in structure.parameters if p.form == "vector" and p.positions[0] in u)
        for u in structure.units
    )
    per_token = max(
        sum(structure.widths[p][0] + seeds * structure.widths[p][1] for p in unit)
        for unit in structure.units
    )
    shares = sum(tokens[:held]) * per_token + sum(samples[:held]) * seeds * vectors
    between = 0
    if layout.stash == "memory" and structure.chain is not None:
        between = sum(tokens) * hidden_size * (len(structure.chain) + 1 + seeds)
    batch = max(
        len(rows) * int(demand.lengths[rows].max()) for tile in tiles for _, rows in tile.batches
    )
    widest = max(a + b for a, b in structure.widths)
    transient = batch * (
        _TRANSIENT_COPIES * widest + 8 * hidden_size + 8 * int(demand.lengths.max())
    )
    return int(size * (shares + between + transient))
