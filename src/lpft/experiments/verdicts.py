"""From comparisons to the verdict on a claim, at each choice of rates and as a whole.

A comparison's verdict is that of :mod:`lpft.results.judging`. Below five seeds two
things more take it away: a single data set, which no other could contradict, and a statistic whose
few values say nothing of its spread, because all seeds have the same one or because it lies between
bounds (two rank correlations of -1 have no spread at all, and would be called certain).

A claim has parts. A part that is said of every case holds where all its comparisons hold. It does
not hold where one of them does not, by a p-value that allows for how many comparisons the part has
at all rates (Bonferroni: p times their number is at most 0.05): of forty true statements one would
look false by its 95 % interval alone. A part that is said of most cases holds where more than half
hold and does not where half or more do not. Everything else cannot tell.

At one choice of rates the claim holds where all parts hold, and does not where one does not. The
verdict on the claim as a whole takes those at all choices together in the same way.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from lpft.analysis.comparison import LEVEL
from lpft.experiments.plan import ExperimentRuns
from lpft.paper import published_datasets, published_kernels, published_value
from lpft.results.exhibits import OVERALL, Estimate, Verdict, VerdictName
from lpft.results.formats import counted, joined
from lpft.results.judging import FEW_SEEDS, Judgement, Measured, judge
from lpft.results.kernels import FT
from lpft.results.quantities import DRAW_SEED

WITHOUT_RATES = ""


@dataclass(frozen=True)
class Part:
    """One statement within a claim, and of how many of its comparisons it is said."""

    name: str
    needed: Literal["every", "most"] = "every"


@dataclass(frozen=True)
class Case:
    """A comparison, before any verdict on it; ``part`` is None where the claim does not rest on it.

    ``unit`` is that of the effect, ``evidence`` are the numbers behind it in words, ``remark`` a
    limit to be said beside the verdict, ``missing`` why there is no effect where that is not for
    want of runs. ``also_at`` names other choices of rates that it belongs to, for runs that are
    the same at both.
    """

    part: Part | None
    measured: Measured
    unit: str
    evidence: str = ""
    remark: str = ""
    missing: str = ""
    also_at: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return ": ".join(filter(None, (self.measured.task, self.measured.subject)))

    def is_at(self, rates: str) -> bool:
        """Whether it counts at a choice of rates, as one without any does at all of them."""
        own = self.measured.rates
        return rates in (own, *self.also_at) or own == WITHOUT_RATES


class Outcome(NamedTuple):
    """A comparison with the verdict on it."""

    case: Case
    judgement: Judgement


@dataclass(frozen=True)
class PublishedQuestion:
    """A comparison in the paper's means, on every set of ``tables`` that has all its numbers.

    ``agrees`` takes the mean of each method's metrics in their order, and says whether the claim's
    direction is there, without any allowance for chance: the paper prints no seeds.
    """

    text: str
    tables: tuple[int, ...]
    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    agrees: Callable[..., bool]
    on: Callable[[str], bool] = lambda _: True


@dataclass(frozen=True)
class Claim:
    """A claim of the paper: its parts, and how its comparisons are measured and judged.

    ``source`` is where the paper has its own numbers, ``questions`` ask them; without questions it
    is a sentence of its own. ``remark`` is what limits the verdict.
    """

    number: int
    statement: str
    parts: tuple[Part, ...]
    outcomes: Callable[[ExperimentRuns, np.random.Generator], list[Outcome]]
    source: str = ""
    questions: tuple[PublishedQuestion, ...] = ()
    remark: str = ""

    def verdicts(self, runs: ExperimentRuns) -> tuple[Verdict, ...]:
        """The verdict on the whole claim, at each of several rates, and on each comparison."""
        outcomes = self.outcomes(runs, np.random.default_rng([DRAW_SEED, self.number]))
        return self.judge(outcomes)

    def judge(self, outcomes: Sequence[Outcome]) -> tuple[Verdict, ...]:
        """The same from the verdicts on its comparisons."""
        by_part = {part: [one for one in outcomes if one.case.part == part] for part in self.parts}
        at_rates = {rates: _conclusion(by_part, rates) for rates in _choices(by_part)}
        if at_rates:
            verdict = _conjunction([one for one, _ in at_rates.values()])
            several = joined([f"{one} at {rates} rates" for rates, (one, _) in at_rates.items()])
            reason = f"taken together: {several}"
        else:
            verdict, reason = _conclusion(by_part, None)
        published = self.published()
        reason = f"{reason}. {published}" if published else reason

        def overall(rates: str, verdict: VerdictName, reason: str, remark: str = "") -> Verdict:
            judgement = Judgement(Estimate(None), verdict, reason)
            return self._verdict(OVERALL, rates, judgement, remark=remark)

        return (
            overall(WITHOUT_RATES, verdict, reason, self.remark),
            *(overall(rates, *conclusion) for rates, conclusion in at_rates.items()),
            *(
                self._verdict(case.name, case.measured.rates, judgement, case.unit, case.remark)
                for case, judgement in outcomes
            ),
        )

    def _verdict(
        self, comparison: str, rates: str, judgement: Judgement, unit: str = "", remark: str = ""
    ) -> Verdict:
        return Verdict(
            claim=self.number,
            statement=self.statement,
            comparison=comparison,
            rates=rates,
            effect=judgement.effect,
            unit=unit,
            verdict=judgement.verdict,
            reason=judgement.why,
            detectable=judgement.detectable,
            remark=remark,
        )

    def published(self) -> str:
        """What the paper's means say to each question: on how many sets they agree."""
        answers = {question.text: _agreement(question) for question in self.questions}
        answers = {text: sets for text, sets in answers.items() if sets}
        if not answers:
            return "" if self.questions else self.source
        told = []
        for text, sets in answers.items():
            against = [dataset for dataset, agrees in sets if not agrees]
            sentence = f"{text} on {len(sets) - len(against)} of {counted(len(sets), 'set')}"
            told.append(f"{sentence}, against: {joined(against)}" if against else sentence)
        every = all(part.needed == "every" for part in self.parts)
        broken = every and not all(agrees for sets in answers.values() for _, agrees in sets)
        rule = ". So the paper's own means do not agree in every case" if broken else ""
        return f"Published means ({self.source}): {'; '.join(told)}{rule}"


def _agreement(question: PublishedQuestion) -> list[tuple[str, bool]]:
    """Each set that has the question's numbers, and whether these agree with the claim."""
    answers = []
    for table in question.tables:
        for dataset in filter(question.on, published_datasets(table)):
            means = [
                published_mean(table, dataset, method, metric)
                for method in question.methods
                for metric in question.metrics
            ]
            if None not in means:
                answers.append((dataset, question.agrees(*means)))
    return answers


def published_mean(table: int, dataset: str, method: str, metric: str) -> float | None:
    """A published mean; the FT ratio is one of the kernel F."""
    if metric == "ft_ratio":
        row = published_kernels(dataset, method, FT)
        return None if row is None else row.ft_ratio
    value = published_value(table, dataset, method, metric)
    return None if value is None else value.mean


def _choices(by_part: Mapping[Part, Sequence[Outcome]]) -> tuple[str, ...]:
    """The choices of rates, where there are several."""
    cases = [case for outcomes in by_part.values() for case, _ in outcomes]
    names = dict.fromkeys(case.measured.rates for case in cases if case.measured.rates)
    return tuple(names) if len(names) > 1 else ()


def _conclusion(
    by_part: Mapping[Part, Sequence[Outcome]], rates: str | None
) -> tuple[VerdictName, str]:
    """The verdict on all parts, at one choice of rates where it is named, and the reason."""
    parts = []
    for part, outcomes in by_part.items():
        at_rates = [one for one in outcomes if rates is None or one.case.is_at(rates)]
        parts.append(_judge_part(part, [one.judgement for one in at_rates], len(outcomes)))
    return _conjunction([verdict for verdict, _ in parts]), ". ".join(why for _, why in parts)


def _judge_part(
    part: Part, judgements: Sequence[Judgement], comparisons: int
) -> tuple[VerdictName, str]:
    """The verdict on a part, and how many of its comparisons came out how.

    ``comparisons`` is how many the part has at all rates.
    """
    if not judgements:
        return "cannot tell", f"{part.name}: nothing to compare"
    counts = Counter(judgement.verdict for judgement in judgements)
    words: Mapping[VerdictName, str] = {
        "holds": "holds in",
        "does not hold": "does not hold in",
        "cannot tell": "cannot tell in",
    }
    ways = [f"{word} {counts[verdict]}" for verdict, word in words.items() if counts[verdict]]
    asked = "every case" if part.needed == "every" else "most cases"
    reason = f"{part.name} (required in {asked}): {joined(ways)} of {len(judgements)}"
    verdict: VerdictName = "cannot tell"
    if part.needed == "every":
        if any(_refutes(judgement, comparisons) for judgement in judgements):
            verdict = "does not hold"
        elif counts["holds"] == len(judgements):
            verdict = "holds"
        elif counts["does not hold"]:
            reason += (
                f"; allowing for {comparisons} comparisons, none of them is more than chance would "
                "give"
            )
    elif 2 * counts["holds"] > len(judgements):
        verdict = "holds"
    elif 2 * counts["does not hold"] >= len(judgements):
        verdict = "does not hold"
    return verdict, reason


def _refutes(judgement: Judgement, comparisons: int) -> bool:
    """Whether one of several comparisons does not hold, allowing for how many there are."""
    if judgement.verdict != "does not hold":
        return False
    p_value = judgement.p_value
    return p_value is None or comparisons == 1 or p_value * comparisons <= LEVEL


def _conjunction(verdicts: Sequence[VerdictName]) -> VerdictName:
    if "does not hold" in verdicts:
        return "does not hold"
    return "cannot tell" if not verdicts or "cannot tell" in verdicts else "holds"


def judge_cases(cases: Sequence[Case], *, generator: np.random.Generator) -> list[Outcome]:
    """The verdict on each comparison; its reason begins with the numbers behind it."""
    measured = [case.measured for case in cases]
    outcomes = []
    for case, judgement in zip(cases, judge(measured, generator=generator), strict=True):
        if case.measured.effects:
            judgement = _if_few_can_tell(case.measured, judgement, measured)
            judgement = replace(judgement, why=f"{case.evidence}; {judgement.why}")
        elif case.missing:
            judgement = replace(judgement, why=case.missing)
        outcomes.append(Outcome(case, judgement))
    return outcomes


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
