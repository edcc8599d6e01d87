"""The cheapest plan that keeps to a budget of memory."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from lpft.errors import InputError
from lpft.ntk.devices import PORTIONS
from lpft.ntk.layout import Layout, split, tile_pairs
from lpft.ntk.matrix_products import parts_of_columns
from lpft.ntk.memory import readable_size
from lpft.ntk.plan import Demand, Plan
from lpft.ntk.stages import most_stages, widest
from lpft.ntk.stash import Place
from lpft.ntk.structure import Structure

_WORKSPACE_SHARE = 0.06
"""Of the budget, and not of what is free of it: that differs a little from process to process, and
the workspace decides how sums round."""
_SLACK = 32 << 20
"""Numbers: what the allocator keeps of memory that was given back, in pieces of no use."""
_TRANSIENT_COPIES = 3
_ATTENTION_COPIES = 4
"""Tensors of T x T per head that come and go in one layer, beside its weights that are kept."""
_MASKS = 4
"""Tensors of T x T per text that a mask of attention is made of."""
_SHOWN = 10**8
"""Bytes to which the least memory is rounded up, so that what a message names is enough."""


@dataclass(frozen=True)
class Sizes:
    """Of an encoder: its width, heads of attention, and layers."""

    hidden: int
    heads: int
    layers: int


def make_plan(
    structure: Structure,
    demand: Demand,
    *,
    sizes: Sizes,
    dtype: torch.dtype,
    device: torch.device,
    budget: int,
    used: int,
    accumulators: int,
    checked: int,
    layout: Layout | None = None,
) -> Plan:
    """The cheapest plan that keeps to the budget, or that of a layout begun before.

    Where the shares of all samples do not fit, samples are tiled, or parameters held in stages, or
    both.

    Args:
        budget: bytes in all; ``used`` those that are taken before anything starts.
        accumulators: bytes of the kernels that are summed up and returned.
        checked: numbers of a gradient that the check of entries holds at once, 0 without one.

    Raises:
        InputError: not even single texts fit, or the layout begun before does not, or is of another
            kind of device.
    """
    portions = PORTIONS[device.type]
    if layout is not None and layout.stash not in ("memory", portions.overflow):
        raise InputError(
            f"the unfinished kernel was begun on another kind of device than {device.type}: go on "
            "there, or delete its folder"
        )

    def planned(candidate: Layout) -> Plan:
        tiles = split(
            demand.lengths,
            demand.groups,
            candidate.tiles,
            batched=structure.batched,
            batch_tokens=portions.batch_tokens,
        )
        pairs = tile_pairs(tiles, demand.blocks, halved=demand.kernel != "asymmetric")
        plan = Plan(structure, demand, candidate, tiles, pairs, 0, 0, budget, device, dtype)
        passing = _numbers_of_passing(plan, sizes)
        of_sweep = _numbers_of_products(plan) + _numbers_between_passes(plan, sizes) + passing
        numbers = max(candidate.workspace + of_sweep, _numbers_of_check(plan, sizes, checked))
        sums = accumulators if candidate.stages == 1 else 3 * accumulators // 2  # those of a unit
        memory = used + sums + dtype.itemsize * (_SLACK + numbers)
        return replace(plan, memory=memory, memory_of_pass=dtype.itemsize * passing)

    needed: list[int] = []
    fitting: list[Plan] = []
    stages_tried = range(1, most_stages(structure) + 1) if layout is None else [layout.stages]
    for stages in stages_tried:
        layouts = _layouts(demand, device, dtype, budget, stages) if layout is None else [layout]
        for candidate in layouts:
            plan = planned(candidate)
            needed.append(plan.memory)
            if plan.memory <= budget:
                fitting.append(plan)
                break
        if fitting and fitting[-1].layout.tiles == 1:
            break
    if fitting:
        return min(fitting, key=lambda plan: plan.cost)
    least = readable_size(-(-min(needed) // _SHOWN) * _SHOWN)
    if layout is not None:
        raise InputError(
            f"the unfinished kernel was begun with more memory: it needs {least}, now "
            f"{readable_size(budget)} are given; give as much, or delete its folder"
        )
    raise InputError(
        f"a memory of {readable_size(budget)} is too small: {readable_size(used)} are in use "
        f"before it starts and at least {least} are needed in all; give more memory, fewer texts "
        "or a shorter maximum length"
    )


def _layouts(
    demand: Demand, device: torch.device, dtype: torch.dtype, budget: int, stages: int
) -> Iterator[Layout]:
    """Layouts of so many stages, from the fastest to the thriftiest."""
    portions = PORTIONS[device.type]
    wished = max(_WORKSPACE_SHARE * budget, portions.least_workspace)
    workspace = int(min(wished, portions.most_workspace)) // dtype.itemsize
    places: tuple[Place, ...] = ("memory", portions.overflow)
    largest = int(np.bincount(demand.groups).max())
    count = 1
    while True:
        for place in places:
            yield Layout(count, place, workspace, stages)
        if count >= largest:
            return
        # Two tiles of three or more are held at once: two alone would save nothing.
        count = min(largest, max(count + 1, int(count * 1.3), 3))


def _numbers_between_passes(plan: Plan, sizes: Sizes) -> int:
    """What is held at the worst moment: shares, and what lies between blocks."""
    structure, demand = plan.structure, plan.demand
    of_tiles = _batches_of_tiles(plan)
    batches = [batch for of_tile in of_tiles for batch in of_tile]
    tokens = [sum(rows * length for rows, length in of_tile) for of_tile in of_tiles]
    samples = [sum(rows for rows, _ in of_tile) for of_tile in of_tiles]
    held = len(plan.tiles) if plan.layout.hold_all else 2
    per_token = max(
        min(
            # Weights that share inputs count them once here.
            sum(structure.widths[p][0] + demand.seeds * structure.widths[p][1] for p in unit),
            widest(stages, demand.seeds) if len(stages) > 1 else sys.maxsize,
        )
        for unit, stages in zip(structure.units, plan.stages, strict=True)
    )
    per_sample = demand.seeds * max(
        _vector_numbers(structure, unit) for unit in range(len(structure.units))
    )
    shares = sum(sorted(tokens)[-held:]) * per_token + sum(sorted(samples)[-held:]) * per_sample
    between = 0
    if structure.chain is not None:
        between = sum(rows * length**2 for rows, length in batches)  # masks of attention
        if plan.layout.stash == "memory":
            between += sum(tokens) * sizes.hidden * (len(structure.chain) + 1 + demand.seeds)
            between += len(batches) * demand.seeds * structure.extras
    return shares + between


def _numbers_of_passing(plan: Plan, sizes: Sizes) -> int:
    """What one batch takes while it passes."""
    width = max(a + b for a, b in plan.structure.widths)
    # Passed whole, all layers keep their weights of attention at once.
    attending = _attention(sizes, 1 if plan.structure.chain is not None else sizes.layers)
    return max(
        rows * length * (_TRANSIENT_COPIES * width + 8 * sizes.hidden + attending * length)
        for of_tile in _batches_of_tiles(plan)
        for rows, length in of_tile
    )


def _batches_of_tiles(plan: Plan) -> list[list[tuple[int, int]]]:
    """The texts of every batch of each tile, and the tokens that they are padded to."""
    return [
        [(len(rows), int(plan.demand.lengths[rows].max())) for _, rows in tile.batches]
        for tile in plan.tiles
    ]


def _attention(sizes: Sizes, layers: int) -> int:
    """Numbers per pair of tokens that plain attention holds while ``layers`` keep theirs."""
    return sizes.heads * (_ATTENTION_COPIES + layers) + _MASKS


def _numbers_of_products(plan: Plan) -> int:
    """What products of whole gradients return at most, before it is added to the sums."""
    of_tile = max(len(tile.rows) for tile in plan.tiles) * max(plan.demand.ranks, default=0)
    columns = plan.layout.workspace // max(1, of_tile)
    return parts_of_columns(max(1, of_tile), columns) * of_tile**2


def _numbers_of_check(plan: Plan, sizes: Sizes, checked: int) -> int:
    """Two gradients of ``checked`` numbers, and the activations of one text."""
    if checked == 0:
        return 0
    activations = sum(a + b for a, b in plan.structure.widths)
    length = int(plan.demand.lengths.max())
    attending = _attention(sizes, sizes.layers)
    return 2 * checked + length * activations + length**2 * attending


def _vector_numbers(structure: Structure, unit: int) -> int:
    """Numbers per sample and seed in a unit's vectors; joining the texts of a tile copies one."""
    vectors = {p.name: p.sizes[1] for p in structure.of_unit(unit) if p.form == "vector"}
    joined = max((vectors[name] for name in structure.direct if name in vectors), default=0)
    return sum(vectors.values()) + joined
