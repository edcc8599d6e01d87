"""From judged comparisons to the verdict on a claim as a whole.

A claim has parts. A part that is said of every case holds where all its comparisons hold. It does
not hold where one of them does not, by a p-value that allows for how many comparisons the part has
(Bonferroni: p times their number is at most 0.05): of forty true statements one would look false by
its 95 % interval alone. A part that is said of most cases holds where more than half hold and does
not where half or more do not. The claim holds where all parts hold, and does not where one does
not. Everything else cannot tell.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lpft.analysis.power import LEVEL
from lpft.report.comparisons.judging import Judgement, Measured, judge
from lpft.report.exhibits.record import OVERALL, Estimate, Verdict, VerdictName
from lpft.report.numbers import joined

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

    ``unit`` is that of the effect, ``told`` are the numbers behind it in words.
    """

    part: Part
    measured: Measured
    unit: str
    told: str


@dataclass(frozen=True)
class Outcome:
    """A comparison with its verdict; ``part`` is None for what the claim does not rest on."""

    part: Part | None
    comparison: str
    rates: str
    unit: str
    judgement: Judgement


def judge_cases(cases: Sequence[Case], *, generator: np.random.Generator) -> list[Outcome]:
    """The verdict on each comparison; its reason begins with the numbers behind it."""
    judgements = judge([case.measured for case in cases], generator=generator)
    return [
        Outcome(
            part=case.part,
            comparison=f"{case.measured.task}: {case.measured.subject}",
            rates=case.measured.rates,
            unit=case.unit,
            judgement=replace(
                judgement,
                why=f"{case.told}; {judgement.why}" if case.measured.effects else judgement.why,
            ),
        )
        for case, judgement in zip(cases, judgements, strict=True)
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
        reason=". ".join(_counts(part, found) for part, found in by_part.items()),
    )
    single = (
        Verdict(
            claim=number,
            statement=statement,
            comparison=outcome.comparison,
            rates=outcome.rates,
            effect=outcome.judgement.effect,
            unit=outcome.unit,
            verdict=outcome.judgement.verdict,
            reason=outcome.judgement.why,
            detectable=outcome.judgement.detectable,
        )
        for outcome in outcomes
    )
    return (whole, *single)


def _part_verdict(part: Part, outcomes: Sequence[Outcome]) -> VerdictName:
    counts = Counter(outcome.judgement.verdict for outcome in outcomes)
    if part.needed == EVERY:
        if _refuted(outcomes):
            return "does not hold"
        return "holds" if outcomes and counts["holds"] == len(outcomes) else "cannot tell"
    if 2 * counts["holds"] > len(outcomes):
        return "holds"
    if outcomes and 2 * counts["does not hold"] >= len(outcomes):
        return "does not hold"
    return "cannot tell"


def _refuted(outcomes: Sequence[Outcome]) -> bool:
    """Whether one of several comparisons does not hold, allowing for how many there are."""
    return any(
        judgement.verdict == "does not hold"
        and (
            judgement.p_value is None
            or len(outcomes) == 1
            or judgement.p_value * len(outcomes) <= LEVEL
        )
        for judgement in (outcome.judgement for outcome in outcomes)
    )


def _conjunction(verdicts: Sequence[VerdictName]) -> VerdictName:
    if "does not hold" in verdicts:
        return "does not hold"
    return "cannot tell" if not verdicts or "cannot tell" in verdicts else "holds"


def _counts(part: Part, outcomes: Sequence[Outcome]) -> str:
    """How many comparisons of a part came out how, by rates where there are several."""
    if not outcomes:
        return f"{part.name}: nothing to compare"
    rates = dict.fromkeys(outcome.rates for outcome in outcomes)
    told = [
        (f"at {name} rates " if name else "")
        + _counted([outcome for outcome in outcomes if outcome.rates == name])
        for name in rates
    ]
    sentence = f"{part.name}: {'; '.join(told)}"
    failed = any(outcome.judgement.verdict == "does not hold" for outcome in outcomes)
    if part.needed == EVERY and failed and not _refuted(outcomes):
        sentence += f"; allowing for {len(outcomes)} comparisons, none of them is beyond chance"
    return sentence


def _counted(outcomes: Sequence[Outcome]) -> str:
    counts = Counter(outcome.judgement.verdict for outcome in outcomes)
    words: Mapping[VerdictName, str] = {
        "holds": "holds in",
        "does not hold": "does not hold in",
        "cannot tell": "cannot tell in",
    }
    told = [f"{word} {counts[verdict]}" for verdict, word in words.items() if counts[verdict]]
    return f"{joined(told)} of {len(outcomes)}"
