"""How much memory there is, how much a plan takes, and the cheapest plan that fits."""

import ctypes
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import psutil
import torch

from lpft.errors import InputError, named
from lpft.model.inference import resolve_device
from lpft.ntk.contract import parts_of_columns
from lpft.ntk.plan import Plan, Workload, make_tiles, most_stages, tile_pairs, widest
from lpft.ntk.storage import Layout, Place
from lpft.ntk.structure import Structure
from lpft.settings import Device

_LARGEST = 1 << 60
"""Bytes: no machine has more."""
_CONTROL_GROUP_FILES = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Of versions 2 and 1: the limit, what is used, and what of that is cached files that may go."""
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_WORKSPACE_SHARE = 0.06
"""Of the budget, and not of what is free of it: free memory differs from process to process, and
the workspace decides how sums round."""
_SLACK = 32 << 20
"""Numbers: freed memory that the allocator holds back in unusable fragments."""
_TRANSIENT_COPIES = 3
_ATTENTION_COPIES = 4
"""Tensors of T x T per head that come and go in one layer, beside the weights that it keeps."""
_MASKS = 4
"""Tensors of T x T per text that a mask of attention is made of."""
_SHOWN = 10**8
"""Bytes to which the least memory is rounded up, so that what a message names is enough."""


@dataclass(frozen=True)
class Portions:
    """What a kind of device takes at a time.

    Attributes:
        batch_tokens: padded tokens of a batch at most.
        least_workspace: bytes of the workspace at least, ``most_workspace`` at most.
        overflow: where hidden states wait that do not fit into its memory.
        share_of_free: of the free memory, used by default.
    """

    batch_tokens: int
    least_workspace: int
    most_workspace: int
    overflow: Place
    share_of_free: float


PORTIONS = {
    "cpu": Portions(2048, 64 << 20, 512 << 20, "files", 0.5),
    "cuda": Portions(32768, 64 << 20, 8 << 30, "host", 0.85),
}
"""By type of device: those that have float64, in which kernels are summed up."""


def kernel_device(name: Device) -> torch.device:
    """The device for kernels; ``auto`` is CUDA's where there is one, and the CPU otherwise."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = resolve_device(name)
    if device.type not in PORTIONS:
        raise InputError(
            f"{named('device')} {name} has no float64, in which kernels are summed up: use "
            f"{', '.join(PORTIONS)} or auto"
        )
    return device


def parse_size(size: str | int) -> int:
    """Bytes of a number of bytes or a text like ``6GB``, ``500 MB`` or ``2.5GiB``."""
    match = re.fullmatch(
        r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?\s*", str(size).upper(), flags=re.ASCII
    )
    base = 1024 if match is not None and match[3] else 1000
    parsed = 0 if match is None else int(Decimal(match[1]) * base ** _POWERS[match[2]])
    if parsed > _LARGEST:
        raise InputError("the memory is more than any machine has: expected one such as 6GB")
    if parsed < 1:
        raise InputError(f"the memory '{size}' is not a size: expected one such as 6GB or 500MB")
    return parsed


def readable_size(size: int) -> str:
    """Bytes as people write them, in decimal units."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def memory_in_use(device: torch.device) -> int:
    """Bytes that this process holds on the device already."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return psutil.Process().memory_info().rss


def default_budget(device: torch.device) -> int:
    """What is in use and a safe share of what is free, in bytes."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = psutil.virtual_memory().available
        below = free_below_limits()
        free = free if below is None else min(free, below)
    return memory_in_use(device) + int(PORTIONS[device.type].share_of_free * free)


def free_below_limits(
    own: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Bytes that are free below the nearest limit of the process's control groups.

    Containers and queues set such limits on Linux; None where none can be read. ``own`` lists the
    groups of this process, whose files lie below ``root``.
    """
    free = []
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        version = "memory" if "memory" in controllers.split(",") else controllers
        if version in _CONTROL_GROUP_FILES:
            limit, used, cached = _CONTROL_GROUP_FILES[version]
            inner = Path(path.lstrip("/"))
            # A container sees its own group as the topmost, whatever its path outside.
            for group in (inner, *inner.parents):
                folder = root / version / group
                try:
                    left = int((folder / limit).read_text()) - int((folder / used).read_text())
                    statistics = (folder / "memory.stat").read_text().splitlines()
                    left += int(dict(line.split() for line in statistics)[cached])
                except (OSError, ValueError, KeyError):  # no such group, or no limit ("max")
                    continue
                free.append(max(0, left))
    return min(free, default=None)


def give_back_free_memory() -> None:
    """Give the system what the C library keeps of freed memory, between pieces still in use.

    glibc gives back only what no piece in use lies above; other C libraries are left alone.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return
    trim(0)


def make_plan(
    structure: Structure,
    workload: Workload,
    *,
    device: torch.device,
    dtype: torch.dtype,
    budget: int,
    used: int,
    checked: int,
    layout: Layout | None = None,
) -> Plan:
    """The cheapest plan that keeps to the budget, or that of a layout begun before.

    Where the shares of all samples do not fit at once, samples are tiled, or a unit's parameters
    are held in stages, or both.

    Args:
        budget: limit in bytes; ``used`` is in use before anything starts.
        checked: numbers of a gradient that the check of entries holds at once, 0 without one.
    """
    portions = PORTIONS[device.type]
    if layout is not None and layout.between_blocks not in ("memory", portions.overflow):
        raise InputError(
            f"the unfinished kernel was started on another kind of device than {device.type}: "
            "continue there, or delete its folder"
        )

    def planned(candidate: Layout) -> Plan:
        tiles = make_tiles(
            workload.lengths,
            workload.groups,
            candidate.tiles,
            batched=structure.batched,
            batch_tokens=portions.batch_tokens,
        )
        pairs = tile_pairs(tiles, workload.blocks, halved=workload.kernel != "asymmetric")
        plan = Plan(structure, workload, candidate, tiles, pairs, device, dtype, budget)
        passing = _numbers_of_passing(plan)
        of_sweep = _numbers_of_products(plan) + _numbers_between_passes(plan) + passing
        numbers = max(candidate.workspace + of_sweep, _numbers_of_check(plan, checked))
        memory = used + _bytes_of_kernels(plan) + dtype.itemsize * (_SLACK + numbers)
        return replace(plan, memory=memory, memory_of_pass=dtype.itemsize * passing)

    # For each number of stages take the first layout that fits, as they go from the fastest to the
    # thriftiest; more stages may need fewer tiles. The cheapest of these is the plan.
    needed: list[int] = []
    fitting: list[Plan] = []
    stages_tried = range(1, most_stages(structure) + 1) if layout is None else [layout.stages]
    for stages in stages_tried:
        layouts = _layouts(workload, device, dtype, budget, stages) if layout is None else [layout]
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
            f"the unfinished kernel was started with more memory: it needs {least}, but "
            f"may only take {readable_size(budget)}; allow as much, or delete its folder"
        )
    raise InputError(
        f"a memory of {readable_size(budget)} is too small: {readable_size(used)} are in use "
        f"before it starts and at least {least} are needed in total; give more memory, fewer texts "
        "or a shorter maximum length"
    )


def _layouts(
    workload: Workload, device: torch.device, dtype: torch.dtype, budget: int, stages: int
) -> Iterator[Layout]:
    """Layouts of so many stages, from the fastest to the thriftiest."""
    portions = PORTIONS[device.type]
    wished = max(_WORKSPACE_SHARE * budget, portions.least_workspace)
    workspace = int(min(wished, portions.most_workspace)) // dtype.itemsize
    places: tuple[Place, ...] = ("memory", portions.overflow)
    largest = int(np.bincount(workload.groups).max())
    count = 1
    while True:
        for place in places:
            yield Layout(count, place, workspace, stages)
        if count >= largest:
            return
        # Two tiles of three or more are held at once: two alone would save nothing.
        count = min(largest, max(count + 1, int(count * 1.3), 3))


def _bytes_of_kernels(plan: Plan) -> int:
    """The sums of all pairs and the kernels made of them, in float64."""
    workload = plan.workload
    counts = np.bincount(workload.groups)
    parts = plan.structure.parts(workload.granularity)
    entries = sum(
        int(counts[i]) * int(counts[j]) * (2 + (parts if (i, j) in workload.detailed else 0))
        for i, j in workload.blocks
    )
    heads = [workload.heads[request.head] for request in workload.requests]
    sums = 8 * entries * sum(head.classes**2 + head.rank**2 for head in heads)
    return sums if plan.layout.stages == 1 else 3 * sums // 2  # stages keep those of a unit beside


def _numbers_between_passes(plan: Plan) -> int:
    """What is held at the worst moment: shares, and what waits between blocks."""
    structure, cotangents = plan.structure, plan.workload.cotangents
    of_tiles = _batches_of_tiles(plan)
    batches = [batch for of_tile in of_tiles for batch in of_tile]
    tokens = [sum(rows * length for rows, length in of_tile) for of_tile in of_tiles]
    samples = [sum(rows for rows, _ in of_tile) for of_tile in of_tiles]
    held = len(plan.tiles) if plan.layout.hold_all else 2
    per_token = max(
        min(
            # Weights that share inputs count them once here, and several times in stages.
            sum(structure.widths[p][0] + cotangents * structure.widths[p][1] for p in unit),
            widest(stages, cotangents) if len(stages) > 1 else sys.maxsize,
        )
        for unit, stages in zip(structure.units, plan.stages, strict=True)
    )
    per_sample = cotangents * max(
        _vector_numbers(structure, unit) for unit in range(len(structure.units))
    )
    shares = sum(sorted(tokens)[-held:]) * per_token + sum(sorted(samples)[-held:]) * per_sample
    between = 0
    if structure.chain is not None:
        between = sum(rows * length**2 for rows, length in batches)  # masks of attention
        if plan.layout.between_blocks == "memory":
            between += sum(tokens) * structure.hidden * (len(structure.chain) + 1 + cotangents)
            between += len(batches) * cotangents * structure.extras
    return shares + between


def _vector_numbers(structure: Structure, unit: int) -> int:
    """Numbers per sample and cotangent in a unit's vectors; joining a tile's texts copies one."""
    vectors = [p for p in structure.of_unit(unit) if p.form == "vector"]
    joined = max((p.sizes[1] for p in vectors if p.large or p.name in structure.direct), default=0)
    return sum(p.sizes[1] for p in vectors) + joined


def _numbers_of_passing(plan: Plan) -> int:
    """What one batch takes while it passes."""
    structure = plan.structure
    width = max(a + b for a, b in structure.widths)
    # Passed whole, all layers keep their weights of attention at once.
    attending = _attention(structure, 1 if structure.chain is not None else structure.layers)
    return max(
        rows * length * (_TRANSIENT_COPIES * width + 8 * structure.hidden + attending * length)
        for of_tile in _batches_of_tiles(plan)
        for rows, length in of_tile
    )


def _batches_of_tiles(plan: Plan) -> list[list[tuple[int, int]]]:
    """The texts of every batch of each tile, and the tokens that they are padded to."""
    return [
        [(len(rows), int(plan.workload.lengths[rows].max())) for _, rows in tile.batches]
        for tile in plan.tiles
    ]


def _attention(structure: Structure, layers: int) -> int:
    """Numbers per pair of tokens that plain attention holds while ``layers`` keep theirs."""
    return structure.heads * (_ATTENTION_COPIES + layers) + _MASKS


def _numbers_of_products(plan: Plan) -> int:
    """What products of whole gradients return at most, before it is added to the sums."""
    ranks = [head.rank for head in plan.workload.heads]
    of_tile = max(1, max(len(tile.rows) for tile in plan.tiles) * max(ranks, default=0))
    return parts_of_columns(of_tile, plan.layout.workspace // of_tile) * of_tile**2


def _numbers_of_check(plan: Plan, checked: int) -> int:
    """Two gradients of ``checked`` numbers, and the activations of one text."""
    if checked == 0:
        return 0
    structure, length = plan.structure, int(plan.workload.lengths.max())
    activations = sum(a + b for a, b in structure.widths)
    attending = _attention(structure, structure.layers)
    return 2 * checked + length * activations + length**2 * attending
