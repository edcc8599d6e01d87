"""From judged comparisons to the verdict on a claim, at each choice of rates and as a whole.

A claim has parts. A part that is said of every case holds where all its comparisons hold. It does
not hold where one of them does not, by a p-value that allows for how many comparisons the part has
at all rates (Bonferroni: p times their number is at most 0.05): of forty true statements one would
look false by its 95 % interval alone. A part that is said of most cases holds where more than half
hold and does not where half or more do not. Everything else cannot tell.

At one choice of rates the claim holds where all parts hold, and does not where one does not. The
verdict on the claim as a whole takes those at all choices together in the same way.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from lpft.analysis.comparison import LEVEL
from lpft.experiments.claims.cases import EVERY, WITHOUT_RATES, Outcome, Part
from lpft.report.numbers import joined
from lpft.results.exhibits import OVERALL, Estimate, Verdict, VerdictName

_ByPart = Mapping[Part, Sequence[Outcome]]


def claim_verdicts(
    number: int,
    statement: str,
    parts: Sequence[Part],
    outcomes: Sequence[Outcome],
    *,
    published: str = "",
    remark: str = "",
) -> tuple[Verdict, ...]:
    """The verdict on a claim as a whole, then at each of several rates, then on each comparison.

    ``published`` is a sentence on the paper's means, for the reason of the whole; ``remark`` stands
    beside its verdict.
    """
    by_part = {part: [outcome for outcome in outcomes if outcome.part == part] for part in parts}
    at_rates = {name: _at(name, by_part) for name in _choices(by_part)}
    by_rates = {name: _verdict(found, by_part) for name, found in at_rates.items()}
    if by_rates:
        verdict = _conjunction(list(by_rates.values()))
        told = (
            f"taken together: {joined([f'{by_rates[name]} at {name} rates' for name in by_rates])}"
        )
    else:
        verdict = _verdict(by_part, by_part)
        told = _reason(by_part, by_part)

    def overall(rates: str, verdict: VerdictName, reason: str, remark: str) -> Verdict:
        return Verdict(
            claim=number,
            statement=statement,
            comparison=OVERALL,
            rates=rates,
            effect=Estimate(None),
            unit="",
            verdict=verdict,
            reason=reason,
            remark=remark,
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
            remark=outcome.remark,
        )
        for outcome in outcomes
    )
    return (
        overall(WITHOUT_RATES, verdict, ". ".join([told, *[published] * bool(published)]), remark),
        *(
            overall(name, by_rates[name], _reason(found, by_part), "")
            for name, found in at_rates.items()
        ),
        *single,
    )


def _choices(by_part: _ByPart) -> tuple[str, ...]:
    """The choices of rates, where there are several."""
    names = dict.fromkeys(
        outcome.rates for outcomes in by_part.values() for outcome in outcomes if outcome.rates
    )
    return tuple(names) if len(names) > 1 else ()


def _at(rates: str, by_part: _ByPart) -> _ByPart:
    """The comparisons of each part that belong to a choice of rates."""
    return {
        part: [
            outcome
            for outcome in outcomes
            if rates in (outcome.rates, *outcome.also_at) or outcome.rates == WITHOUT_RATES
        ]
        for part, outcomes in by_part.items()
    }


def _verdict(found: _ByPart, at_all_rates: _ByPart) -> VerdictName:
    return _conjunction(
        [_part_verdict(part, outcomes, len(at_all_rates[part])) for part, outcomes in found.items()]
    )


def _reason(found: _ByPart, at_all_rates: _ByPart) -> str:
    return ". ".join(
        _counts(part, outcomes, len(at_all_rates[part])) for part, outcomes in found.items()
    )


def _part_verdict(part: Part, outcomes: Sequence[Outcome], comparisons: int) -> VerdictName:
    counts = Counter(outcome.judgement.verdict for outcome in outcomes)
    if part.needed == EVERY:
        if _refuted(outcomes, comparisons):
            return "does not hold"
        return "holds" if outcomes and counts["holds"] == len(outcomes) else "cannot tell"
    if 2 * counts["holds"] > len(outcomes):
        return "holds"
    if outcomes and 2 * counts["does not hold"] >= len(outcomes):
        return "does not hold"
    return "cannot tell"


def _refuted(outcomes: Sequence[Outcome], comparisons: int) -> bool:
    """Whether one of several comparisons does not hold, allowing for how many there are."""
    return any(
        judgement.verdict == "does not hold"
        and (
            judgement.p_value is None
            or comparisons == 1
            or judgement.p_value * comparisons <= LEVEL
        )
        for judgement in (outcome.judgement for outcome in outcomes)
    )


def _conjunction(verdicts: Sequence[VerdictName]) -> VerdictName:
    if "does not hold" in verdicts:
        return "does not hold"
    return "cannot tell" if not verdicts or "cannot tell" in verdicts else "holds"


def _counts(part: Part, outcomes: Sequence[Outcome], comparisons: int) -> str:
    """How many comparisons of a part came out how."""
    if not outcomes:
        return f"{part.name}: nothing to compare"
    counts = Counter(outcome.judgement.verdict for outcome in outcomes)
    words: Mapping[VerdictName, str] = {
        "holds": "holds in",
        "does not hold": "does not hold in",
        "cannot tell": "cannot tell in",
    }
    told = [f"{word} {counts[verdict]}" for verdict, word in words.items() if counts[verdict]]
    asked = "every case" if part.needed == EVERY else "most cases"
    sentence = f"{part.name} (asked of {asked}): {joined(told)} of {len(outcomes)}"
    if part.needed == EVERY and counts["does not hold"] and not _refuted(outcomes, comparisons):
        sentence += f"; allowing for {comparisons} comparisons, none of them is beyond chance"
    return sentence
