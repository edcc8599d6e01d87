"""Curves of several seeds as one line with its band."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lpft.report.numbers import Spread
from lpft.results.exhibits import Series
from lpft.results.groups import method_name

BANDS = "Lines are means over seeds, bands one standard deviation to either side."


@dataclass(frozen=True)
class SeedCurve:
    """One seed's values by their place along x, and the names of the runs that they are of."""

    points: Mapping[float, float]
    runs: tuple[str, ...]


def mean_line(method: str, curves: Sequence[SeedCurve]) -> Series:
    """The mean over the seeds that have a value, and one standard deviation around it."""
    places = sorted({place for curve in curves for place in curve.points})
    spreads = []
    for place in places:
        spread = Spread.of(curve.points.get(place) for curve in curves)
        assert spread is not None, "every place is some curve's"
        spreads.append(spread)
    return Series(
        label=method_name(method),
        method=method,
        x=tuple(places),
        y=tuple(spread.mean for spread in spreads),
        low=tuple(None if s.sd is None else s.mean - s.sd for s in spreads),
        high=tuple(None if s.sd is None else s.mean + s.sd for s in spreads),
        runs=tuple(name for curve in curves for name in curve.runs),
    )
