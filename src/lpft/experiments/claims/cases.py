"""The comparisons that a claim rests on, each with its verdict.

A verdict is that of :mod:`lpft.results.judging`. Below five seeds two things more take
it away: a single data set, which no other could contradict, and a statistic whose few values say
nothing of its spread, because all seeds have the same one or because it lies between bounds (two
rank correlations of -1 have no spread at all, and would be called certain).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lpft.report.numbers import counted
from lpft.results.judging import FEW_SEEDS, Judgement, Measured, judge

WITHOUT_RATES = ""

Needed = Literal["every", "most"]
EVERY: Needed = "every"
MOST: Needed = "most"


@dataclass(frozen=True)
class Part:
    """One statement within a claim, and of how many of its comparisons it is said."""

    name: str
    needed: Needed = EVERY


@dataclass(frozen=True)
class Case:
    """A comparison that a part of a claim is measured by, before any verdict on it.

    ``unit`` is that of the effect, ``told`` are the numbers behind it in words, ``remark`` a limit
    to be said beside the verdict, ``without`` why there is no effect where that is not for want of
    runs. ``also_at`` names other choices of rates that it belongs to, for
    runs that are the same at both.
    """

    part: Part
    measured: Measured
    unit: str
    told: str
    remark: str = ""
    without: str = ""
    also_at: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """A comparison with its verdict; ``part`` is None for what the claim does not rest on."""

    part: Part | None
    comparison: str
    rates: str
    unit: str
    judgement: Judgement
    remark: str = ""
    also_at: tuple[str, ...] = ()


def judge_cases(cases: Sequence[Case], *, generator: np.random.Generator) -> list[Outcome]:
    """The verdict on each comparison; its reason begins with the numbers behind it."""
    measured = [case.measured for case in cases]
    judgements = judge(measured, generator=generator)
    return [
        Outcome(
            part=case.part,
            comparison=f"{case.measured.task}: {case.measured.subject}",
            rates=case.measured.rates,
            unit=case.unit,
            judgement=_told(case, _if_few_can_tell(case.measured, judgement, measured)),
            remark=case.remark,
            also_at=case.also_at,
        )
        for case, judgement in zip(cases, judgements, strict=True)
    ]


def _if_few_can_tell(
    measured: Measured, judgement: Judgement, others: Sequence[Measured]
) -> Judgement:
    """The judgement, or that so few seeds cannot tell."""
    seeds = len(measured.effects)
    if judgement.verdict == "cannot tell" or seeds >= FEW_SEEDS:
        return judgement
    sets = {
        other.task
        for other in others
        if other.effects and (other.subject, other.rates) == (measured.subject, measured.rates)
    }
    if len(sets) == 1:
        reason = " on a single data set, which no other could contradict"
    elif judgement.effect.sd == 0:
        reason = ", which all have the same value: nothing is known of their spread"
    elif all(map(math.isfinite, measured.bounds)):
        reason = " of a number between bounds, whose spread so few cannot show"
    else:
        return judgement
    why = f"only {counted(seeds, 'seed')}{reason}"
    return replace(judgement, verdict="cannot tell", why=why)


def _told(case: Case, judgement: Judgement) -> Judgement:
    if not case.measured.effects:
        return replace(judgement, why=case.without) if case.without else judgement
    return replace(judgement, why=f"{case.told}; {judgement.why}")
