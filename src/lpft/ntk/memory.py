"""How much memory there is, how much a plan takes, and the cheapest plan that fits.

Memory is counted in numbers of the kernel's dtype, as a sum over what is alive at the worst moment.
"""

import ctypes
import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cached_property
from pathlib import Path

import numpy as np
import psutil
import torch

from lpft.errors import InputError, named
from lpft.files import readable_size
from lpft.model.inference import resolve_device
from lpft.ntk.contract import parts_of_columns
from lpft.ntk.plan import Plan, Stages, Workload, most_stages, stages_of_units, widest
from lpft.ntk.storage import Layout, Pair, Place
from lpft.ntk.structure import Structure
from lpft.ntk.tiles import Tiler, Tiling

LARGEST = 1 << 60
"""Bytes: no machine has more."""
_CONTROL_GROUP_FILES = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Files of versions 2 and 1: the limit, the memory in use, and the file cache within it."""
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
"""Tensors of T x T per text from which an attention mask is built."""
_ROUNDING = 10**8
"""Bytes to which the least memory is rounded up, so that the size in a message is enough."""
_HALVINGS = 12
"""Steps of the bisection for the number of texts that fit."""
_STEPS_PER_WORKER = 8
_USUAL_TILES = 64
"""More tiles are tried where nothing else fits, but no message recommends a kernel of more."""


@dataclass(frozen=True)
class Portions:
    """How much work a type of device gets at a time.

    Attributes:
        batch_tokens: padded tokens of a batch at most.
        least_workspace: bytes of the workspace at least, ``most_workspace`` at most.
        overflow: where hidden states are kept that do not fit into its memory.
        share_of_free: the fraction of the free memory that is used by default.
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


def kernel_device(name: str | torch.device) -> torch.device:
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
    if parsed > LARGEST:
        raise InputError("the memory is more than any machine has: expected one such as 6GB")
    if parsed < 1:
        raise InputError(f"the memory '{size}' is not a size: expected one such as 6GB or 500MB")
    return parsed


def memory_in_use(device: torch.device) -> int:
    """Bytes that this process holds on the device already."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return psutil.Process().memory_info().rss


def default_budget(device: torch.device, processes: int = 1) -> int:
    """Bytes in use plus a safe share of the free ones; with several processes, for each of them."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = psutil.virtual_memory().available
        below = free_below_limits()
        free = free if below is None else min(free, below)
    return memory_in_use(device) + int(PORTIONS[device.type].share_of_free * free / processes)


def free_below_limits(
    groups_file: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Bytes that are free below the nearest limit of the process's control groups.

    Containers and queues set such limits on Linux; None where none can be read. ``groups_file``
    lists the groups of this process, whose own files lie below ``root``.
    """
    # Each line is "number:controllers:path"; version 2 has one line without controllers.
    free = []
    try:
        lines = groups_file.read_text().splitlines()
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
                    below_limit = int((folder / limit).read_text()) - int(
                        (folder / used).read_text()
                    )
                    statistics = (folder / "memory.stat").read_text().splitlines()
                    below_limit += int(dict(line.split() for line in statistics)[cached])
                except (OSError, ValueError, KeyError):  # no such group, or no limit ("max")
                    continue
                free.append(max(0, below_limit))
    return min(free, default=None)


def give_back_free_memory() -> None:
    """Return to the system the freed memory that the C library holds between blocks in use.

    By itself glibc returns only what lies above the last block in use. Other C libraries: nothing.
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
    copied: int,
    layout: Layout | None = None,
    workers: int = 1,
) -> Plan:
    """The cheapest plan within the budget, or the plan of a layout that was begun before.

    Where the shares of all samples do not fit at once, samples are tiled, or a unit's parameters
    are held in stages, or both.

    Args:
        budget: limit in bytes, of which ``used`` are taken before anything starts.
        checked: numbers of a gradient that plain autograd holds at once, 0 without a check.
        copied: numbers of the second copy of the model, on which the kernel is checked.
        workers: processes that share the work; with a single tile there is nothing to share.
    """
    portions = PORTIONS[device.type]
    if layout is not None and layout.between_blocks not in ("memory", portions.overflow):
        raise InputError(
            f"the unfinished kernel was started on another kind of device than {device.type}: "
            "continue there, or delete its folder"
        )

    chooser = _LayoutChooser(
        structure, workload, device, dtype, budget, used, checked, copied, workers
    )
    if layout is None:
        if used + chooser.bytes_of_kernels(1) > budget:
            raise _too_small(chooser)
        plan = chooser.cheapest()
        if plan is None:
            raise _too_small(chooser)
        return plan
    plan = chooser.plan(layout)
    if plan.memory > budget:
        raise InputError(
            f"the unfinished kernel was started with more memory: it needs "
            f"{_rounded_up(plan.memory)}, but may only take {readable_size(budget)}; allow as "
            "much, or delete its folder"
        )
    return plan


@dataclass
class _LayoutChooser:
    """Chooses among the layouts of one workload; what they have in common is computed once."""

    structure: Structure
    workload: Workload
    device: torch.device
    dtype: torch.dtype
    budget: int
    used: int
    checked: int
    copied: int
    workers: int = 1
    _per_token: dict[int, int] = field(default_factory=dict)

    def cheapest(self) -> Plan | None:
        """The cheapest plan that fits, None where none does.

        For each number of stages take the first layout that fits, as they go from the fastest to
        the thriftiest; more stages may need fewer tiles. The cheapest of these is the plan. Several
        workers may be faster with more tiles, whose pairs they can share more evenly.
        """
        fitting: list[Plan] = []
        # Time grows with both tiles and stages, memory falls: no layout is best for all models.
        for layouts in self._layouts():
            first: Plan | None = None  # the fastest of these layouts that fits
            for plan in map(self.plan, layouts):
                if plan.memory <= self.budget:
                    first = plan if first is None else first
                    fitting.append(plan)
                if first is not None and plan.layout.tiles >= self._enough_tiles:
                    break
            if first is not None and first.layout.tiles == 1:
                break  # more stages would only repeat passes
        return min(fitting, key=lambda plan: plan.cost, default=None)

    @property
    def _enough_tiles(self) -> int:
        """The number of tiles from which on the workers' shares of the pairs are about equal."""
        return 1 if self.workers == 1 else math.ceil((2 * _STEPS_PER_WORKER * self.workers) ** 0.5)

    def fits(self) -> bool:
        """Whether some layout fits that does not repeat its passes too often to be practical."""
        if self.used + self.bytes_of_kernels(1) > self.budget:
            return False
        place = PORTIONS[self.device.type].overflow
        workspace = _workspace(self.device, self.dtype, self.budget)
        tiles = min(_USUAL_TILES, int(np.bincount(self.workload.groups).max()))
        return any(
            self.plan(Layout(tiles, place, workspace, stages)).memory <= self.budget
            for stages in {1, most_stages(self.structure)}
        )

    def least(self) -> int:
        """The bytes that the thriftiest layout takes."""
        return min(self.plan(layout).memory for layouts in self._layouts() for layout in layouts)

    def plan(self, layout: Layout) -> Plan:
        """The plan of a layout, with what it takes."""
        tiling, stages = self._tiler.cut(layout.tiles), self._stages(layout.stages)
        # The sweep's peak is at most the sum of: the workspace, products, shares that are held,
        # hidden states that wait, and a batch that passes. The check by autograd comes when these
        # are freed, so that the larger of the two counts.
        passing = self._numbers_of_passing(tiling)
        between = self._numbers_between_passes(layout, tiling)
        of_sweep = self._numbers_of_products(layout, tiling) + between + passing
        numbers = max(layout.workspace + of_sweep, self._numbers_of_check)
        kernels = self.bytes_of_kernels(layout.stages)
        return Plan(
            self.structure,
            self.workload,
            layout,
            tiling,
            stages,
            self.device,
            self.dtype,
            self.budget,
            memory=self.used + kernels + self.dtype.itemsize * (_SLACK + numbers),
            memory_of_pass=self.dtype.itemsize * passing,
            workers=self.workers,
        )

    def _layouts(self) -> Iterator[Iterator[Layout]]:
        """The layouts to try, for each number of stages."""
        for stages in range(1, most_stages(self.structure) + 1):
            yield _layouts(self.workload, self.device, self.dtype, self.budget, stages)

    def _stages(self, count: int) -> tuple[Stages, ...]:
        if count not in self._stages_of:
            cotangents = self.workload.cotangents
            self._stages_of[count] = stages_of_units(self.structure, count, cotangents)
        return self._stages_of[count]

    @cached_property
    def _stages_of(self) -> dict[int, tuple[Stages, ...]]:
        return {}

    @cached_property
    def _tiler(self) -> Tiler:
        return Tiler(
            self.workload.lengths,
            self.workload.groups,
            batched=self.structure.batched,
            batch_tokens=PORTIONS[self.device.type].batch_tokens,
        )

    def bytes_of_kernels(self, stages: int) -> int:
        """The sums of all pairs and the kernels made of them, in float64."""
        # With stages, the sums of the unit in progress are kept beside those of all units.
        return self._kernels if stages == 1 else 3 * self._kernels // 2

    @cached_property
    def _kernels(self) -> int:
        workload = self.workload
        counts = np.bincount(workload.groups)
        parts = self.structure.parts(workload.granularity)
        entries = sum(
            int(counts[i]) * int(counts[j]) * (2 + (parts if (i, j) in workload.detailed else 0))
            for i, j in workload.blocks
        )
        heads = [workload.heads[request.head] for request in workload.requests]
        # F of each request, and before it F_Q in the basis of the head's rows.
        return 8 * entries * sum(head.classes**2 + head.rank**2 for head in heads)

    def _numbers_between_passes(self, layout: Layout, tiling: Tiling) -> int:
        """Numbers held at the worst moment: shares, and the states stored between the blocks."""
        structure, cotangents = self.structure, self.workload.cotangents
        # The largest tiles may be held at once.
        held = len(tiling) if layout.hold_all else 2
        tokens, samples = (np.sort(of)[-held:] for of in (tiling.padded_tokens, tiling.samples))
        shares = int(tokens.sum()) * self._numbers_per_token(layout.stages)
        shares += int(samples.sum()) * self._numbers_per_sample
        between = 0
        if structure.chain is not None:
            rows, lengths = tiling.batch_rows, tiling.batch_lengths
            between = int((rows * lengths**2).sum())  # masks of attention, n x T x T
            if layout.between_blocks == "memory":
                # Hidden states at every block's input and output, and the running gradients.
                waiting = structure.hidden * (len(structure.chain) + 1 + cotangents)
                between += int(tiling.padded_tokens.sum()) * waiting
                between += len(rows) * cotangents * structure.extras
        return shares + between

    def _numbers_per_token(self, stages: int) -> int:
        """Numbers of one token in the widest unit's inputs and gradients."""
        if stages not in self._per_token:
            structure, cotangents = self.structure, self.workload.cotangents
            self._per_token[stages] = max(
                min(
                    # Weights that share inputs count them once here, and several times in stages.
                    sum(structure.widths[p][0] + cotangents * structure.widths[p][1] for p in unit),
                    widest(of_unit, cotangents) if len(of_unit) > 1 else sys.maxsize,
                )
                for unit, of_unit in zip(structure.units, self._stages(stages), strict=True)
            )
        return self._per_token[stages]

    @cached_property
    def _numbers_per_sample(self) -> int:
        """Numbers of one sample in the vectors of a unit."""
        units = range(len(self.structure.units))
        return self.workload.cotangents * max(_vector_numbers(self.structure, u) for u in units)

    def _numbers_of_passing(self, tiling: Tiling) -> int:
        """Numbers that one batch takes while it passes."""
        structure = self.structure
        width = max(inputs + gradients for inputs, gradients in structure.widths)
        # Without a chain the encoder passes as a whole: all layers keep their attention weights.
        attending = _attention(structure, 1 if structure.chain is not None else structure.layers)
        rows, lengths = tiling.batch_rows, tiling.batch_lengths
        per_token = _TRANSIENT_COPIES * width + 8 * structure.hidden + attending * lengths
        return int((rows * lengths * per_token).max())

    def _numbers_of_products(self, layout: Layout, tiling: Tiling) -> int:
        """Numbers in the largest product of whole gradients, before it is added to the sums."""
        ranks = [head.rank for head in self.workload.heads]
        of_tile = max(1, int(tiling.samples.max()) * max(ranks, default=0))
        return parts_of_columns(of_tile, layout.workspace // of_tile) * of_tile**2

    @cached_property
    def _numbers_of_check(self) -> int:
        """The copy, gradients of ``checked`` numbers, and the activations of one text.

        A product of rows with themselves holds the sum of gradients and one to add to it, a product
        with columns of their own the sums of both.
        """
        if self.checked == 0:
            return self.copied
        structure, length = self.structure, int(self.workload.lengths.max())
        activations = sum(a + b for a, b in structure.widths)
        attending = _attention(structure, structure.layers)
        gradients = 3 if any(i != j for i, j in self.workload.detailed) else 2
        return self.copied + gradients * self.checked + length * activations + length**2 * attending


def _too_small(chooser: _LayoutChooser) -> InputError:
    """Why nothing fits, and what would: more memory for these texts, or fewer texts."""
    return _refusal(
        chooser.budget,
        chooser.used,
        chooser.least(),
        chooser.bytes_of_kernels(1),
        len(chooser.workload.lengths),
        _most_texts(chooser),
    )


def refuse_large_kernels(
    counts: Sequence[int], blocks: Sequence[Pair], outputs: Sequence[int], *, budget: int, used: int
) -> None:
    """Refuse kernels whose entries alone are too many, before any text is read.

    ``counts`` are the texts of each group, at least, and ``outputs`` the C of each kernel.
    """
    entries = sum(counts[i] * counts[j] for i, j in blocks) * sum(c * c for c in outputs)
    kernels = 2 * 8 * entries  # sums of pairs of tiles, and the kernel made of them
    if used + kernels > budget:
        texts = sum(counts)
        fewer = int(texts * math.sqrt(max(0, budget - used) / kernels))
        raise _refusal(budget, used, used + kernels, kernels, texts, _two_digits(fewer))


def _refusal(
    budget: int, used: int, least: int, kernels: int, texts: int, fewer: int
) -> InputError:
    alone = f", {readable_size(kernels)} for the kernel alone" if 2 * kernels > least else ""
    options = ["give more memory", "a shorter maximum length"]
    if fewer:
        options.insert(1, f"at most {fewer:,} of these texts")
    if alone:
        options.append("lpft.ntk.NTKOperator, which does not form the kernel")
    return InputError(
        f"a memory of {readable_size(budget)} is too small: {readable_size(used)} are in use "
        f"before it starts and at least {_rounded_up(least)} are needed in total for {texts:,} "
        f"texts{alone}; {', '.join(options[:-1])} or {options[-1]}"
    )


def _most_texts(chooser: _LayoutChooser) -> int:
    """How many of the texts fit, spread over their lengths, to two digits; 0 if none does."""
    workload = chooser.workload
    order = np.lexsort((-workload.lengths, workload.groups))
    counts = np.bincount(workload.groups)
    firsts = np.concatenate([[0], np.cumsum(counts)[:-1]])

    def fits(share: float) -> bool:
        positions = np.concatenate(
            [
                # Evenly spaced over the lengths; the longest of a group is among them.
                first + np.unique(np.linspace(0, n - 1, max(1, int(share * n))).astype(np.int64))
                for first, n in zip(firsts, counts, strict=True)
                if n
            ]
        )
        rows = order[positions]
        subset = replace(workload, lengths=workload.lengths[rows], groups=workload.groups[rows])
        return replace(chooser, workload=subset, _per_token=dict(chooser._per_token)).fits()

    # Bisection over the share of the texts: by eighths down to a share that fits, from then on by
    # the geometric mean of one that fits and one that does not.
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5 if low else high / 8
        low, high = (middle, high) if fits(middle) else (low, middle)
        if high * len(order) < 1:
            return 0
    return _two_digits(int(low * len(order)))


def _two_digits(number: int) -> int:
    """The number rounded down to two digits."""
    return number - number % 10 ** max(0, len(str(number)) - 2)


def _rounded_up(size: int) -> str:
    return readable_size(-(-size // _ROUNDING) * _ROUNDING)


def _layouts(
    workload: Workload, device: torch.device, dtype: torch.dtype, budget: int, stages: int
) -> Iterator[Layout]:
    """The layouts with this number of stages, from the fastest to the one of least memory."""
    places: tuple[Place, ...] = ("memory", PORTIONS[device.type].overflow)
    workspace = _workspace(device, dtype, budget)
    largest = int(np.bincount(workload.groups).max())
    # More tiles by about a third each time: few layouts to compare, and close to what fits.
    count = 1
    while True:
        for place in places:
            yield Layout(count, place, workspace, stages)
        if count >= largest:
            return
        # Two tiles are held at once, so that cutting into only two would save nothing.
        count = min(largest, max(count + 1, int(count * 1.3), 3))


def _workspace(device: torch.device, dtype: torch.dtype, budget: int) -> int:
    """Numbers of the workspace."""
    portions = PORTIONS[device.type]
    size = max(_WORKSPACE_SHARE * budget, portions.least_workspace)
    return int(min(size, portions.most_workspace)) // dtype.itemsize


def _vector_numbers(structure: Structure, unit: int) -> int:
    """Numbers per sample and cotangent in a unit's vectors; joining a tile's texts copies one."""
    vectors = [p for p in structure.of_unit(unit) if p.form == "vector"]
    joined = max((p.sizes[1] for p in vectors if p.large or p.name in structure.direct), default=0)
    return sum(p.sizes[1] for p in vectors) + joined


def _attention(structure: Structure, layers: int) -> int:
    """Numbers per pair of tokens that plain attention holds while ``layers`` keep theirs."""
    return structure.heads * (_ATTENTION_COPIES + layers) + _MASKS


def activations_per_token(structure: Structure, length: int) -> int:
    """Numbers per token that autograd holds for the backward pass of the whole module."""
    width = sum(inputs + gradients for inputs, gradients in structure.widths)
    return _TRANSIENT_COPIES * width + length * _attention(structure, structure.layers)
