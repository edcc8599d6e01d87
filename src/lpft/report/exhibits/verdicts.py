"""Verdicts as the page shows them: by claim, with a drawing of each effect and its interval."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from lpft.report.exhibits.reading import MARKS
from lpft.report.exhibits.tables import Trace, effect_cell
from lpft.report.grid import Cell
from lpft.report.numbers import significant
from lpft.results.exhibits import OVERALL, Verdict, VerdictName

_HALF = 50.0  # per cent: where 0 lies
_REACH = 46.0  # per cent from there to the farthest end of a claim's intervals


@dataclass(frozen=True)
class Stretch:
    """An effect and its interval as per cent of a drawing's width, with 0 in the middle."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class VerdictRow:
    """One comparison; ``detectable`` is the smallest effect that so many seeds could show.

    ``remark`` stands beside the verdict: a limit, or that it is no estimate.
    """

    comparison: str
    rates: str
    effect: Cell
    unit: str
    stretch: Stretch | None
    detectable: str
    verdict: VerdictName
    mark: str
    reason: str
    remark: str


@dataclass(frozen=True)
class ClaimView:
    """A claim with the verdict on it as a whole, where there is one, and its comparisons.

    ``by_rates`` are the verdicts at each choice of rates, where the whole takes several together.
    """

    number: int
    statement: str
    whole: VerdictRow | None
    by_rates: tuple[VerdictRow, ...]
    rows: tuple[VerdictRow, ...]


def view_claims(verdicts: Sequence[Verdict], trace: Trace) -> tuple[ClaimView, ...]:
    """The claims in their order."""
    ordered = sorted(verdicts, key=lambda verdict: verdict.claim)
    return tuple(
        _claim(number, list(found), trace)
        for number, found in groupby(ordered, key=lambda verdict: verdict.claim)
    )


def _claim(number: int, verdicts: Sequence[Verdict], trace: Trace) -> ClaimView:
    extents: dict[str, float] = {}
    for verdict in verdicts:
        effect = verdict.effect
        ends = [abs(end) for end in (effect.value, effect.low, effect.high) if end is not None]
        extents[verdict.unit] = max([extents.get(verdict.unit, 0.0), *ends])
    rows = [_row(verdict, extents[verdict.unit], trace) for verdict in verdicts]
    whole = [row for row, verdict in zip(rows, verdicts, strict=True) if verdict.is_whole]
    overall = [row for row in rows if row.comparison == OVERALL]
    return ClaimView(
        number=number,
        statement=verdicts[0].statement,
        whole=whole[0] if whole else None,
        by_rates=tuple(row for row in overall if row.rates),
        rows=tuple(row for row in rows if row.comparison != OVERALL),
    )


def _row(verdict: Verdict, extent: float, trace: Trace) -> VerdictRow:
    return VerdictRow(
        comparison=verdict.comparison,
        rates=verdict.rates,
        effect=effect_cell(verdict, trace),
        unit=verdict.unit,
        stretch=_stretch(verdict, extent),
        detectable=significant(verdict.detectable),
        verdict=verdict.verdict,
        mark=MARKS[verdict.verdict],
        reason=verdict.reason,
        remark=verdict.remark,
    )


def _stretch(verdict: Verdict, extent: float) -> Stretch | None:
    """Effects of one claim and unit share their scale."""
    effect = verdict.effect
    if effect.value is None or extent == 0:
        return None
    low = effect.value if effect.low is None else effect.low
    high = effect.value if effect.high is None else effect.high
    value, low, high = (_HALF + _REACH * end / extent for end in (effect.value, low, high))
    return Stretch(value, low, high)
