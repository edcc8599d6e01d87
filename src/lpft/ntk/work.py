"""The work that is left of a plan, and the bar on which it is counted while it is done."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from tqdm import tqdm

from lpft.ntk.layout import Pair, Step
from lpft.ntk.plan import Plan
from lpft.ntk.tiles import TileStore
from lpft.progress import progress


@dataclass(frozen=True)
class Work:
    """What is left to do of a plan, some of whose pieces (unit, pair) are finished."""

    plan: Plan
    finished: frozenset[tuple[int, Pair]]

    @classmethod
    def left(cls, plan: Plan, store: TileStore | None) -> "Work":
        """What remains of ``plan`` beside the pieces that ``store`` has.

        Raises:
            InputError: a piece is damaged or of another kernel.
        """
        pieces = [(unit, pair) for unit in range(len(plan.structure.units)) for pair in plan.pairs]
        if store is None:
            return cls(plan, frozenset())
        return cls(plan, frozenset(piece for piece in pieces if store.load(*piece) is not None))

    def steps(self, unit: int) -> list[Step]:
        """The steps of a unit that lack a piece.

        They are contracted whole: what was finished before has no part in how sums are rounded.
        """
        if not self.plan.structure.of_unit(unit):
            return []
        return [
            step
            for step in self.plan.steps
            if any((unit, pair) not in self.finished for pair in step.pairs)
        ]

    @cached_property
    def last(self) -> int:
        """The last unit that gradients must reach, or -1.

        Where a trial's texts did not reach all parameters, it is looked for them everywhere.
        """
        units = range(len(self.plan.structure.units))
        lacking = [unit for unit in units if self.steps(unit)]
        if self.plan.structure.unreached and (lacking or not self.finished):
            return units[-1]
        return max(lacking, default=-1)

    @property
    def flops(self) -> float:
        """The expected flops."""
        plan = self.plan
        total = plan.structure.forward_flops * float(plan.demand.lengths.sum())
        for unit in range(self.last + 1):
            steps = self.steps(unit)
            total += plan.pass_flops(unit, steps)
            total += sum(plan.contraction_flops(plan.structure.of_unit(unit), steps))
        return total


class Meter:
    """Counts flops on a bar of GFLOP."""

    def __init__(self, bar: tqdm) -> None:
        self._bar = bar
        self._flops = 0.0

    def add(self, flops: float) -> None:
        """Count flops that were done."""
        before = round(self._flops / 1e9)
        self._flops += flops
        self._bar.update(round(self._flops / 1e9) - before)


@contextmanager
def metered(flops: float) -> Iterator[Meter]:
    """A meter whose bar is full after ``flops``."""
    total = round(flops / 1e9)
    with progress(description="computing the kernel", total=total, unit="GFLOP") as bar:
        yield Meter(bar)
