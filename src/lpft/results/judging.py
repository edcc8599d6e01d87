"""From the effects of single seeds to the verdict on a comparison.

A comparison is one task, one pair of methods (or one method) and one choice of rates. With five or
more seeds its 95 % interval decides: the comparison holds if the interval lies above 0, does not
hold if it lies below 0, and is undecided if it contains 0. With fewer seeds every seed of every
task must also have the same sign, and one seed never decides. Reports, tables of differences and
claims all use this rule.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lpft.analysis.comparison import COVERAGE, Resampled, effect_over_seeds
from lpft.results.exhibits import Estimate, VerdictName
from lpft.results.formats import counted
from lpft.results.groups import Spread

FEW_SEEDS = 5
"""With fewer seeds than this, a verdict needs all seeds of all tasks to agree."""

RULE = (
    "A difference is called higher or lower only if its interval excludes 0; with fewer than five "
    "seeds every seed on every data set must also have the same sign, and one seed is never enough."
)
"""The rule in words, for readers of a report."""


@dataclass(frozen=True)
class Measured:
    """A comparison's effect before any verdict, positive in the direction of its subject.

    ``effects`` has a statistic for each seed that could be compared, ``runs`` the names of the runs
    behind them. ``subject`` says what is compared, in the same words on every task; ``reverse`` is
    the subject of the same comparison in the other direction. ``bounds`` limit the effect.
    """

    task: str
    subject: str
    rates: str
    effects: tuple[Resampled, ...]
    runs: tuple[str, ...]
    bounds: tuple[float, float] = (-math.inf, math.inf)
    reverse: str = ""

    def signs(self, other: "Measured") -> set[float]:
        """The signs (1, -1, 0) of another comparison's effects, in this one's direction.

        Empty for a comparison of another subject.
        """
        if self.rates != other.rates or other.subject not in (self.subject, self.reverse):
            return set()
        direction = 1.0 if other.subject == self.subject else -1.0
        return {direction * float(np.sign(seed.value)) for seed in other.effects}


@dataclass(frozen=True)
class Judgement:
    """The verdict on a comparison, and the numbers behind it.

    ``p_value`` is None if no seed could be compared, or if chance plays no part. ``detectable`` is
    None where the seeds do not differ: they say nothing about how much others would.
    """

    effect: Estimate
    verdict: VerdictName
    why: str
    p_value: float | None = None
    detectable: float | None = None


def judge(measured: Sequence[Measured], *, generator: np.random.Generator) -> list[Judgement]:
    """The verdict on each comparison; with few seeds all of the same subject must agree."""
    return [
        _judge_one(one, {sign for other in measured for sign in one.signs(other)}, generator)
        for one in measured
    ]


def chance_note(comparisons: int) -> str:
    """How many of several 95 % intervals would exclude 0 by chance; empty for one or none."""
    if comparisons < 2:
        return ""
    expected = (1 - COVERAGE) * comparisons
    return (
        f"These are {comparisons} comparisons at 95 % each: if nothing differed, about "
        f"{expected:.{1 if expected < 10 else 0}f} of the intervals would exclude 0 by chance."
    )


def _judge_one(measured: Measured, signs: set[float], generator: np.random.Generator) -> Judgement:
    if not measured.effects:
        return Judgement(
            effect=Estimate(None, count=0),
            verdict="cannot tell",
            why="no seed has all the finished runs that this needs",
        )
    effect = effect_over_seeds(measured.effects, generator=generator, bounds=measured.bounds)
    verdict, why = _decide(effect.low, effect.high, effect.seeds, signs)
    spread = Spread.of(seed.value for seed in measured.effects)
    return Judgement(
        effect=Estimate(
            effect.mean, effect.sd, effect.seeds, effect.low, effect.high, runs=measured.runs
        ),
        verdict=verdict,
        why=why,
        p_value=effect.p_value,
        detectable=effect.detectable if spread is not None and spread.sd else None,
    )


def _decide(low: float, high: float, seeds: int, signs: set[float]) -> tuple[VerdictName, str]:
    verdict: VerdictName
    if low > 0:
        verdict, reason = "holds", "the interval lies above 0"
    elif high < 0:
        verdict, reason = "does not hold", "the interval lies below 0"
    else:
        verdict, reason = "cannot tell", "the interval contains 0"
    if seeds >= FEW_SEEDS:
        return verdict, reason
    if seeds == 1:
        return "cannot tell", "one seed is not enough"
    few = f"only {counted(seeds, 'seed')}"
    if len(signs) > 1 or 0 in signs:
        return "cannot tell", f"{few}, and not all seeds of all tasks agree"
    return verdict, f"{few}, though all seeds of all tasks agree; {reason}"
