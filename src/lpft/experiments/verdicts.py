"""From comparisons to the verdict on a claim, at each choice of rates and overall.

Comparisons are judged as in :mod:`lpft.results.judging`. With fewer than five seeds, two more
things make a comparison undecided: a single data set, since no other could contradict it, and a
statistic whose spread so few values cannot show, because all seeds have the same value or because
it is bounded (two rank correlations of -1 have no spread at all and would look certain).

A claim has parts. Some must hold in every case: such a part holds if all its comparisons hold. It
does not hold if one of them fails with a p-value that allows for the number of comparisons of the
part at all rates (Bonferroni: p times their number is at most 0.05); by 95 % intervals alone, one
of forty true statements would look false. Other parts must hold in most cases: such a part holds
if more than half of its comparisons hold, and does not if half or more do not. Everything else is
undecided ("cannot tell").

At one choice of rates the claim holds if all parts hold, and does not if one does not. The overall
verdict combines the verdicts at all choices of rates in the same way.
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
from lpft.results.pairing import CHOICES, LP_START, SHARED
from lpft.results.quantities import DRAW_SEED

WITHOUT_RATES = ""


@dataclass(frozen=True)
class Part:
    """One statement within a claim, and in how many of its comparisons it must hold."""

    name: str
    needed: Literal["every", "most"] = "every"


@dataclass(frozen=True)
class Case:
    """A comparison before its verdict; ``part`` is None if the claim does not depend on it.

    ``unit`` is the effect's unit, ``evidence`` the numbers behind it in words, ``remark`` a
    limitation to show beside the verdict, ``missing`` the reason for a missing effect if runs are
    not the reason. ``also_at`` names other choices of rates at which the runs are the same.
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
        """Whether it counts at a choice of rates; a comparison without rates counts at all."""
        own = self.measured.rates
        return rates in (own, *self.also_at) or own == WITHOUT_RATES


class Outcome(NamedTuple):
    """A comparison with the verdict on it."""

    case: Case
    judgement: Judgement


@dataclass(frozen=True)
class PublishedQuestion:
    """A comparison of the paper's means, on every data set of ``tables`` with all the numbers.

    ``agrees`` takes the mean of each method's metrics in their order and says whether they point in
    the claim's direction. It makes no allowance for chance, since the paper prints no seeds.
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

    ``source`` says where the paper has its numbers, and ``questions`` compare them; without
    questions ``source`` is a full sentence. ``remark`` is a limitation of the verdict.
    """

    number: int
    statement: str
    parts: tuple[Part, ...]
    outcomes: Callable[[ExperimentRuns, np.random.Generator], list[Outcome]]
    source: str = ""
    questions: tuple[PublishedQuestion, ...] = ()
    remark: str = ""

    def verdicts(self, runs: ExperimentRuns) -> tuple[Verdict, ...]:
        """The verdict on the claim overall, at each choice of rates, and on each comparison."""
        outcomes = self.outcomes(runs, np.random.default_rng([DRAW_SEED, self.number]))
        return self.judge(outcomes)

    def judge(self, outcomes: Sequence[Outcome]) -> tuple[Verdict, ...]:
        """The same, from the verdicts on its comparisons."""
        by_part = {part: [one for one in outcomes if one.case.part == part] for part in self.parts}
        at_rates = {rates: _conclusion(by_part, rates) for rates in _choices(by_part)}
        if at_rates:
            verdict = _conjunction([one for one, _ in at_rates.values()])
            several = joined([f"{one} at {rates} rates" for rates, (one, _) in at_rates.items()])
            reason = f"overall: {several}"
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
        """For each question, on how many data sets the paper's means agree with the claim."""
        answers = {question.text: _agreement(question) for question in self.questions}
        answers = {text: sets for text, sets in answers.items() if sets}
        if not answers:
            return "" if self.questions else self.source
        sentences = []
        for text, sets in answers.items():
            against = [dataset for dataset, agrees in sets if not agrees]
            sentence = f"{text} on {len(sets) - len(against)} of {counted(len(sets), 'set')}"
            sentences.append(f"{sentence}, against: {joined(against)}" if against else sentence)
        all_required = all(part.needed == "every" for part in self.parts)
        contradicted = all_required and not all(
            agrees for sets in answers.values() for _, agrees in sets
        )
        rule = ". So the paper's own means do not agree in every case" if contradicted else ""
        return f"Published means ({self.source}): {'; '.join(sentences)}{rule}"


def _agreement(question: PublishedQuestion) -> list[tuple[str, bool]]:
    """Each data set with the question's numbers, and whether they agree with the claim."""
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
    """A published mean; the FT ratio is read from the rows of the kernel F."""
    if metric == "ft_ratio":
        row = published_kernels(dataset, method, FT)
        return None if row is None else row.ft_ratio
    value = published_value(table, dataset, method, metric)
    return None if value is None else value.mean


def _choices(by_part: Mapping[Part, Sequence[Outcome]]) -> tuple[str, ...]:
    """The choices of rates; empty if there is only one.

    What is compared at rates that are shared already counts at those of either method for both, and
    is a choice of its own only where nothing was compared at these.
    """
    cases = [case for outcomes in by_part.values() for case, _ in outcomes]
    shared = any(case.measured.rates == SHARED for case in cases)
    names = {
        name
        for case in cases
        if case.measured.rates not in (WITHOUT_RATES, SHARED)
        for name in (case.measured.rates, *case.also_at)
    }
    if shared and LP_START not in names:
        names.add(SHARED)
    return tuple(name for name in CHOICES if name in names) if len(names) > 1 else ()


def _conclusion(
    by_part: Mapping[Part, Sequence[Outcome]], rates: str | None
) -> tuple[VerdictName, str]:
    """The verdict on all parts and the reason; with ``rates``, at that choice of rates only."""
    parts = []
    for part, outcomes in by_part.items():
        at_rates = [one for one in outcomes if rates is None or one.case.is_at(rates)]
        parts.append(_judge_part(part, [one.judgement for one in at_rates], len(outcomes)))
    return _conjunction([verdict for verdict, _ in parts]), ". ".join(why for _, why in parts)


def _judge_part(
    part: Part, judgements: Sequence[Judgement], comparisons: int
) -> tuple[VerdictName, str]:
    """The verdict on a part, and the reason; ``comparisons`` counts the part's at all rates."""
    if not judgements:
        return "cannot tell", f"{part.name}: nothing to compare"
    counts = Counter(judgement.verdict for judgement in judgements)
    words: Mapping[VerdictName, str] = {
        "holds": "holds in",
        "does not hold": "does not hold in",
        "cannot tell": "is undecided in",
    }
    ways = [f"{word} {counts[verdict]}" for verdict, word in words.items() if counts[verdict]]
    needed = "every case" if part.needed == "every" else "most cases"
    reason = f"{part.name} (required in {needed}): {joined(ways)} of {len(judgements)}"
    verdict: VerdictName = "cannot tell"
    if part.needed == "every":
        if any(_refutes(judgement, comparisons) for judgement in judgements):
            verdict = "does not hold"
        elif counts["holds"] == len(judgements):
            verdict = "holds"
        elif counts["does not hold"]:
            reason += f"; among {comparisons} comparisons this may be chance"
    elif 2 * counts["holds"] > len(judgements):
        verdict = "holds"
    elif 2 * counts["does not hold"] >= len(judgements):
        verdict = "does not hold"
    return verdict, reason


def _refutes(judgement: Judgement, comparisons: int) -> bool:
    """Whether a comparison fails, allowing for how many comparisons there are."""
    if judgement.verdict != "does not hold":
        return False
    p_value = judgement.p_value
    return p_value is None or comparisons == 1 or p_value * comparisons <= LEVEL


def _conjunction(verdicts: Sequence[VerdictName]) -> VerdictName:
    if "does not hold" in verdicts:
        return "does not hold"
    return "cannot tell" if not verdicts or "cannot tell" in verdicts else "holds"


def judge_cases(cases: Sequence[Case], *, generator: np.random.Generator) -> list[Outcome]:
    """The verdict on each comparison, with a reason that begins with the numbers behind it."""
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
    """The judgement, or "cannot tell" if there are too few seeds for it."""
    seeds = len(measured.effects)
    if judgement.verdict == "cannot tell" or seeds >= FEW_SEEDS:
        return judgement
    sets = {
        other.task
        for other in others
        if other.effects and (other.subject, other.rates) == (measured.subject, measured.rates)
    }
    if len(sets) == 1:
        reason = " on a single data set"
    elif judgement.effect.sd == 0:
        reason = ", all with the same value: the spread is unknown"
    elif all(map(math.isfinite, measured.bounds)):
        reason = ": too few to show the spread of a bounded number"
    else:
        return judgement
    why = f"only {counted(seeds, 'seed')}{reason}"
    return replace(judgement, verdict="cannot tell", why=why)
