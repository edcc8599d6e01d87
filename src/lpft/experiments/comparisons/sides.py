"""Which runs are compared: each method at its own rates, and at those of its LP partner."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from lpft.analysis.resampling import Resampled
from lpft.experiments.planning import probed_partner
from lpft.experiments.recipe import PUBLISHED, SHARED, Found
from lpft.report.comparisons.samples import ByRun
from lpft.report.numbers import Spread
from lpft.report.pairs import Rates, published_rates
from lpft.results.groups import method_name
from lpft.results.schema import Run
from lpft.settings import METHODS

PAIRS = tuple((name, partner) for name in METHODS if (partner := probed_partner(name)) is not None)
"""Methods that train the same from a random head and from the LP solution."""

OWN = "own"
"""Rates that each method has for itself, where they are not the paper's for the task."""


@dataclass(frozen=True)
class Side:
    """One method on one task at one choice of rates, with its finished runs by seed."""

    task: str
    method: str
    rates: str
    runs: Mapping[int, Run]

    @property
    def name(self) -> str:
        return method_name(self.method)

    @property
    def run_names(self) -> tuple[str, ...]:
        return tuple(run.name for run in self.runs.values())


@dataclass(frozen=True)
class Pairing:
    """Two sides of one task at the same choice of rates: the second is said to be better."""

    first: Side
    second: Side

    @property
    def task(self) -> str:
        return self.second.task

    @property
    def rates(self) -> str:
        return self.second.rates

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that both have finished."""
        return tuple(seed for seed in self.second.runs if seed in self.first.runs)

    @property
    def run_names(self) -> tuple[str, ...]:
        return tuple(
            side.runs[seed].name for seed in self.seeds for side in (self.first, self.second)
        )

    def statistics(self, by_run: ByRun) -> tuple[tuple[Resampled, Resampled], ...]:
        """Of each seed the statistic of the first side and of the second."""
        return tuple(
            (by_run[self.first.runs[seed].folder], by_run[self.second.runs[seed].folder])
            for seed in self.seeds
        )


def spread_of(statistics: Iterable[Resampled]) -> Spread | None:
    """Mean and standard deviation over seeds."""
    return Spread.of(statistic.value for statistic in statistics)


def pairs_in(methods: Collection[str]) -> tuple[tuple[str, str], ...]:
    """Those of :data:`PAIRS` that have both methods."""
    return tuple(pair for pair in PAIRS if set(pair) <= set(methods))


def pairings(found: Found, task: str, pair: tuple[str, str]) -> tuple[Pairing, ...]:
    """The pair at each method's own rates, and at the LP partner's for both.

    Where a task's own rates are shared already there is one pairing, at shared rates.
    """
    at_own = at_own_rates(found, task, pair)
    shared = (Side(task, method, SHARED, found.seeds(SHARED, task, method)) for method in pair)
    at_shared = Pairing(*shared)
    if _same_runs(at_own.first.runs, at_shared.first.runs):
        return (at_shared,)
    if at_own.rates == SHARED:
        return (at_own,)
    return at_own, at_shared


def at_own_rates(found: Found, task: str, methods: tuple[str, str]) -> Pairing:
    """Two methods at their own rates."""
    runs = {method: found.seeds(PUBLISHED, task, method) for method in methods}
    rates = rates_name(task, runs)
    return Pairing(*(Side(task, method, rates, runs[method]) for method in methods))


def sides(found: Found, task: str) -> tuple[Side, ...]:
    """Every method of the scope's pairs at its own rates, and random heads at shared ones too."""
    listed: list[Side] = []
    for pair in pairs_in(found.scope.methods):
        first, *others = pairings(found, task, pair)
        listed += [first.first, first.second, *(pairing.first for pairing in others)]
    return tuple(listed)


def all_runs(compared: Iterable[Pairing]) -> list[Run]:
    """Every run of some pairings, one that plays two parts twice."""
    return [
        run
        for pairing in compared
        for side in (pairing.first, pairing.second)
        for run in side.runs.values()
    ]


def rates_name(task: str, by_method: Mapping[str, Mapping[int, Run]]) -> str:
    """What the rates of some methods' runs are: shared, each the paper's for the task, or own."""
    found = {
        method: {Rates(run.learning_rate, run.batch_size) for run in runs.values()}
        for method, runs in by_method.items()
    }
    first, *others = found.values()
    if others and len(first) == 1 and all(rates == first for rates in others):
        return SHARED
    published = all(rates <= {published_rates(task, method)} for method, rates in found.items())
    return PUBLISHED if published else OWN


def _same_runs(one: Mapping[int, Run], other: Mapping[int, Run]) -> bool:
    both = [seed for seed in one if seed in other]
    return bool(both) and all(one[seed].folder == other[seed].folder for seed in both)
