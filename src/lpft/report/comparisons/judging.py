"""From effects of seeds to verdicts on single comparisons.

A comparison is one task, one pair of methods (or one method) and one choice of rates. From five
seeds up its verdict is read off the 95 % interval: above 0 it holds, below 0 it does not, and an
interval around 0 cannot tell. Fewer seeds tell only where, besides, every seed of every task has
the same sign; a single seed never does.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lpft.analysis.comparison import effect_over_seeds
from lpft.analysis.resampling import Resampled
from lpft.report.exhibits.record import Estimate, VerdictName
from lpft.report.numbers import counted
from lpft.report.reading import FEW_SEEDS


@dataclass(frozen=True)
class Measured:
    """A comparison's effect, positive in the direction that is asked for, before any verdict.

    ``effects`` has a statistic for each seed that could be compared, ``runs`` the names of what
    they were computed from; ``subject`` says what is compared, the same on every task. ``bounds``
    are those of the effect.
    """

    task: str
    subject: str
    rates: str
    effects: tuple[Resampled, ...]
    runs: tuple[str, ...]
    bounds: tuple[float, float] = (-math.inf, math.inf)


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
        _judge_one(one, [other for other in measured if _same_question(one, other)], generator)
        for one in measured
    ]


def _same_question(one: Measured, other: Measured) -> bool:
    return (one.subject, one.rates) == (other.subject, other.rates)


def _judge_one(
    measured: Measured, kindred: Sequence[Measured], generator: np.random.Generator
) -> Judgement:
    if not measured.effects:
        return Judgement(
            effect=Estimate(None, count=0),
            verdict="cannot tell",
            why="no seed has all the finished runs that this takes",
        )
    effect = effect_over_seeds(measured.effects, generator=generator, bounds=measured.bounds)
    verdict, why = _decide(effect.low, effect.high, effect.seeds, kindred)
    return Judgement(
        effect=Estimate(
            effect.mean, effect.sd, effect.seeds, effect.low, effect.high, runs=measured.runs
        ),
        verdict=verdict,
        why=why,
        p_value=effect.p_value,
        detectable=effect.detectable,
    )


def _decide(
    low: float, high: float, seeds: int, kindred: Sequence[Measured]
) -> tuple[VerdictName, str]:
    told, verdict = _by_interval(low, high)
    if seeds >= FEW_SEEDS:
        return verdict, told
    if seeds == 1:
        return "cannot tell", "one seed cannot tell"
    signs = {np.sign(seed.value) for other in kindred for seed in other.effects}
    few = f"only {counted(seeds, 'seed')}"
    if len(signs) > 1 or 0 in signs:
        return "cannot tell", f"{few}, and not all seeds of all tasks agree"
    return verdict, f"{few}, though all seeds of all tasks agree; {told}"


def _by_interval(low: float, high: float) -> tuple[str, VerdictName]:
    if low > 0:
        return "the interval lies above 0", "holds"
    if high < 0:
        return "the interval lies below 0", "does not hold"
    return "the interval holds 0", "cannot tell"
