"""From effects of seeds to verdicts on single comparisons.

A comparison is one task, one pair of methods (or one method) and one choice of rates. From five
seeds up its verdict is read off the 95 % interval: above 0 it holds, below 0 it does not, and an
interval around 0 cannot tell. Fewer seeds tell only where, besides, every seed of every task has
the same sign; a single seed never does. Reports, tables of differences and claims have no other
rule.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lpft.analysis.comparison import COVERAGE, Resampled, effect_over_seeds
from lpft.results.exhibits import Estimate, VerdictName
from lpft.results.formats import counted

FEW_SEEDS = 5
"""Below this many a verdict needs all seeds of all tasks to agree."""

RULE = (
    "Reading: the interval's side of zero; below five seeds every seed on every data set must have "
    "the same sign as well, and one seed never tells."
)
"""The same for readers."""


@dataclass(frozen=True)
class Measured:
    """A comparison's effect, positive in the direction that is asked for, before any verdict.

    ``effects`` has a statistic for each seed that could be compared, ``runs`` the names of what
    they were computed from; ``subject`` says what is compared, the same on every task, and
    ``reverse`` is the subject of those that ask the same the other way round. ``bounds`` are those
    of the effect.
    """

    task: str
    subject: str
    rates: str
    effects: tuple[Resampled, ...]
    runs: tuple[str, ...]
    bounds: tuple[float, float] = (-math.inf, math.inf)
    reverse: str = ""

    def signs(self, other: "Measured") -> set[float]:
        """Those of another comparison's effects, in this one's direction; none of another subject.

        1, -1, or 0 where a seed has no effect.
        """
        if self.rates != other.rates or other.subject not in (self.subject, self.reverse):
            return set()
        direction = 1.0 if other.subject == self.subject else -1.0
        return {direction * float(np.sign(seed.value)) for seed in other.effects}


@dataclass(frozen=True)
class Judgement:
    """The verdict on a comparison, and what it rests on.

    ``p_value`` is None where no seed could be compared, or nothing is left to chance.
    """

    effect: Estimate
    verdict: VerdictName
    why: str
    p_value: float | None = None
    detectable: float | None = None


def judge(measured: Sequence[Measured], *, generator: np.random.Generator) -> list[Judgement]:
    """A verdict on each comparison; few seeds also need those of the same subject to agree."""
    return [
        _judge_one(one, {sign for other in measured for sign in one.signs(other)}, generator)
        for one in measured
    ]


def chance_note(comparisons: int) -> str:
    """How many of several comparisons chance alone would decide; empty for one and for none.

    A table's intervals are of 95 % each, so that of many some leave 0 out whatever is compared.
    """
    if comparisons < 2:
        return ""
    expected = (1 - COVERAGE) * comparisons
    return (
        f"These are {comparisons} comparisons at 95 % each: if nothing differed, about "
        f"{expected:.{1 if expected < 10 else 0}f} of them would leave 0 out by chance alone."
    )


def _judge_one(measured: Measured, signs: set[float], generator: np.random.Generator) -> Judgement:
    if not measured.effects:
        return Judgement(
            effect=Estimate(None, count=0),
            verdict="cannot tell",
            why="no seed has all the finished runs that this takes",
        )
    effect = effect_over_seeds(measured.effects, generator=generator, bounds=measured.bounds)
    verdict, why = _decide(effect.low, effect.high, effect.seeds, signs)
    return Judgement(
        effect=Estimate(
            effect.mean, effect.sd, effect.seeds, effect.low, effect.high, runs=measured.runs
        ),
        verdict=verdict,
        why=why,
        p_value=effect.p_value,
        detectable=effect.detectable,
    )


def _decide(low: float, high: float, seeds: int, signs: set[float]) -> tuple[VerdictName, str]:
    reason, verdict = _by_interval(low, high)
    if seeds >= FEW_SEEDS:
        return verdict, reason
    if seeds == 1:
        return "cannot tell", "one seed cannot tell"
    few = f"only {counted(seeds, 'seed')}"
    if len(signs) > 1 or 0 in signs:
        return "cannot tell", f"{few}, and not all seeds of all tasks agree"
    return verdict, f"{few}, though all seeds of all tasks agree; {reason}"


def _by_interval(low: float, high: float) -> tuple[str, VerdictName]:
    if low > 0:
        return "the interval lies above 0", "holds"
    if high < 0:
        return "the interval lies below 0", "does not hold"
    return "the interval holds 0", "cannot tell"
