"""From measured effects to verdicts: one for each comparison, and one for the whole claim.

A comparison is one task, one pair of methods (or one method) and one choice of rates. From five
seeds up its verdict is read off the 95 % interval: above 0 it holds, below 0 it does not, and an
interval around 0 cannot tell. Fewer seeds tell only where, besides, every seed of every task has
the same sign; a single seed never does. The intervals are not adjusted for how many there are.

A claim has parts. A part that is said of every case holds where all its comparisons hold and does
not where one does not; a part that is said of most cases holds where more than half hold and does
not where half or more do not. The claim holds where all parts hold, and does not where one does
not. Everything else cannot tell.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lpft.analysis.comparison import effect_over_seeds
from lpft.analysis.resampling import Resampled
from lpft.report.exhibits.record import OVERALL, Estimate, Verdict, VerdictName
from lpft.report.numbers import counted, joined
from lpft.report.reading import FEW_SEEDS

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
class Measured:
    """A comparison's effect, positive in the claim's direction, before any verdict on it.

    ``effects`` has a statistic for each seed that could be compared, ``told`` the numbers behind
    it in words; ``subject`` says what is compared, the same on every task. ``bounds`` are those
    of the effect, which an interval over few seeds could otherwise pass.
    """

    part: Part
    task: str
    subject: str
    rates: str
    unit: str
    effects: tuple[Resampled, ...]
    runs: tuple[str, ...]
    told: str
    bounds: tuple[float, float] = (-math.inf, math.inf)


@dataclass(frozen=True)
class Outcome:
    """A comparison with its verdict; ``part`` is None for what the claim does not rest on."""

    part: Part | None
    comparison: str
    rates: str
    effect: Estimate
    unit: str
    verdict: VerdictName
    reason: str
    detectable: float | None = None


def judge(measured: Sequence[Measured], *, generator: np.random.Generator) -> list[Outcome]:
    """A verdict on each comparison; few seeds also need those of the same subject to agree."""
    return [
        _judge_one(one, [other for other in measured if _same_question(one, other)], generator)
        for one in measured
    ]


def claim_verdicts(
    number: int, statement: str, parts: Sequence[Part], outcomes: Sequence[Outcome]
) -> tuple[Verdict, ...]:
    """The verdict on a claim as a whole, then those on its comparisons."""
    by_part = {part: [outcome for outcome in outcomes if outcome.part == part] for part in parts}
    whole = Verdict(
        claim=number,
        statement=statement,
        comparison=OVERALL,
        rates=WITHOUT_RATES,
        effect=Estimate(None),
        unit="",
        verdict=_conjunction([_part_verdict(part, found) for part, found in by_part.items()]),
        reason=_counts(by_part),
    )
    single = (
        Verdict(
            claim=number,
            statement=statement,
            comparison=outcome.comparison,
            rates=outcome.rates,
            effect=outcome.effect,
            unit=outcome.unit,
            verdict=outcome.verdict,
            reason=outcome.reason,
            detectable=outcome.detectable,
        )
        for outcome in outcomes
    )
    return (whole, *single)


def _same_question(one: Measured, other: Measured) -> bool:
    return (one.part, one.subject, one.rates) == (other.part, other.subject, other.rates)


def _judge_one(
    measured: Measured, kindred: Sequence[Measured], generator: np.random.Generator
) -> Outcome:
    comparison = f"{measured.task}: {measured.subject}"
    if not measured.effects:
        return Outcome(
            part=measured.part,
            comparison=comparison,
            rates=measured.rates,
            effect=Estimate(None, count=0),
            unit=measured.unit,
            verdict="cannot tell",
            reason="no seed has all the finished runs that this takes",
        )
    effect = effect_over_seeds(measured.effects, generator=generator)
    lowest, highest = measured.bounds
    low, high = max(effect.low, lowest), min(effect.high, highest)
    verdict, why = _decide(low, high, effect.seeds, kindred)
    return Outcome(
        part=measured.part,
        comparison=comparison,
        rates=measured.rates,
        effect=Estimate(effect.mean, effect.sd, effect.seeds, low, high, runs=measured.runs),
        unit=measured.unit,
        verdict=verdict,
        reason=f"{measured.told}; {why}",
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


def _part_verdict(part: Part, outcomes: Sequence[Outcome]) -> VerdictName:
    counts = Counter(outcome.verdict for outcome in outcomes)
    if part.needed == EVERY:
        return _conjunction([outcome.verdict for outcome in outcomes])
    if 2 * counts["holds"] > len(outcomes):
        return "holds"
    if outcomes and 2 * counts["does not hold"] >= len(outcomes):
        return "does not hold"
    return "cannot tell"


def _conjunction(verdicts: Sequence[VerdictName]) -> VerdictName:
    if "does not hold" in verdicts:
        return "does not hold"
    return "cannot tell" if not verdicts or "cannot tell" in verdicts else "holds"


def _counts(by_part: Mapping[Part, Sequence[Outcome]]) -> str:
    """Each part with how many of its comparisons came out how, by rates where there are several."""
    sentences = []
    for part, outcomes in by_part.items():
        if not outcomes:
            sentences.append(f"{part.name}: nothing to compare")
            continue
        rates = dict.fromkeys(outcome.rates for outcome in outcomes)
        told = [
            (f"at {name} rates " if name else "")
            + _counted([outcome for outcome in outcomes if outcome.rates == name])
            for name in rates
        ]
        sentences.append(f"{part.name}: {'; '.join(told)}")
    return ". ".join(sentences)


def _counted(outcomes: Sequence[Outcome]) -> str:
    counts = Counter(outcome.verdict for outcome in outcomes)
    words: dict[VerdictName, str] = {
        "holds": "holds in",
        "does not hold": "does not hold in",
        "cannot tell": "cannot tell in",
    }
    told = [f"{word} {counts[verdict]}" for verdict, word in words.items() if counts[verdict]]
    return f"{joined(told)} of {len(outcomes)}"
