"""Pairs of methods with runs on the same seeds, and the learning rates at which they are compared.

A method's published learning rate and batch size are part of what moves its features, so a
difference between two methods at their own rates need not come from the head. At the rates of
either method for both only the head differs, but these were chosen for one of the two. Runs are
paired only where model, data, seed and every other setting agree, and each pair says at which rates
it is.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from lpft.analysis.comparison import Resampled
from lpft.paper import published_hyperparameters
from lpft.results.groups import method_name
from lpft.results.quantities import ByRun
from lpft.results.run import Run
from lpft.settings.methods import METHODS, with_lp_head

PAIRS = tuple((name, lp) for name in METHODS if (lp := with_lp_head(name)) is not None)
"""Methods that train the same from a random head and from the LP solution."""

PUBLISHED, OWN, SHARED = "published", "own", "shared"
"""Each method's own rates: the paper's for the task; other ones; or any, the paper's or not,
that are equal for both methods of a pair."""

LP_START, RANDOM_START, TUNED = "LP-start", "random-start", "tuned"
"""Choices of rates beside these: learning rate and batch size of the pair's method with the LP head
for both methods; those of the method with the random head for both; or of each method the learning
rate that is best on validation."""

CHOICES = (PUBLISHED, OWN, LP_START, RANDOM_START, SHARED, TUNED)
"""All of these, in the order in which a reader sees them."""


@dataclass(frozen=True)
class Rates:
    """Learning rate and batch size of one run."""

    learning_rate: float | None
    batch_size: float | None

    @classmethod
    def of(cls, run: Run) -> "Rates":
        return cls(run.learning_rate, run.batch_size)


@dataclass(frozen=True)
class MethodRuns:
    """One method on one task at one choice of rates, with its finished runs by seed.

    ``also_at`` names other choices of rates at which the method has the same runs.
    """

    task: str
    method: str
    rates: str
    runs: Mapping[int, Run]
    also_at: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return method_name(self.method)

    @property
    def run_names(self) -> tuple[str, ...]:
        return tuple(run.name for run in self.runs.values())


@dataclass(frozen=True)
class Pairing:
    """Two methods on one task, paired by seed; the claim is that the second is better.

    ``also_at`` names other choices of rates at which both have the same runs.
    """

    first: MethodRuns
    second: MethodRuns
    also_at: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    def task(self) -> str:
        return self.second.task

    @property
    def methods(self) -> tuple[str, str]:
        return self.first.method, self.second.method

    @property
    def rates(self) -> str:
        return self.second.rates

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that both have finished."""
        return tuple(seed for seed in self.second.runs if seed in self.first.runs)

    @property
    def runs(self) -> tuple[tuple[Run, Run], ...]:
        """Both runs of each seed."""
        return tuple((self.first.runs[seed], self.second.runs[seed]) for seed in self.seeds)

    @property
    def paired_runs(self) -> tuple[Run, ...]:
        """The runs of both methods, in pairs one after the other."""
        return tuple(run for pair in self.runs for run in pair)

    @property
    def run_names(self) -> tuple[str, ...]:
        return tuple(run.name for run in self.paired_runs)

    def only(self, seeds: Collection[int]) -> "Pairing":
        """The pairing of some of its seeds alone."""
        first, second = (
            replace(group, runs={seed: run for seed, run in group.runs.items() if seed in seeds})
            for group in (self.first, self.second)
        )
        return Pairing(first, second, also_at=self.also_at)

    def statistics(self, by_run: ByRun) -> tuple[tuple[Resampled, Resampled], ...]:
        """For each seed the statistic of the first method's run and of the second's."""
        return tuple((by_run[one.folder], by_run[other.folder]) for one, other in self.runs)


class RunsByPart(Protocol):
    """The finished runs of an experiment, by variant, task, method and seed."""

    @property
    def rates(self) -> tuple[str, ...]:
        """The choices of rates at which pairs were planned, beside each method's own."""
        ...

    def by_seed(self, variant: str, task: str, method: str) -> Mapping[int, Run]:
        """The runs of one variant by seed."""
        ...


def pairs_in(methods: Collection[str]) -> tuple[tuple[str, str], ...]:
    """The pairs of :data:`PAIRS` with both methods among these."""
    return tuple(pair for pair in PAIRS if set(pair) <= set(methods))


def partner_at(rates: str, method: str) -> str | None:
    """The partner whose rates ``method`` takes at this choice of rates, if any."""
    partners = {LP_START: PAIRS, RANDOM_START: [pair[::-1] for pair in PAIRS]}
    return dict(partners.get(rates, ())).get(method)


def pairings(runs: RunsByPart, task: str, pair: tuple[str, str]) -> tuple[Pairing, ...]:
    """The pair at each method's own rates, and at every other choice of rates that was planned.

    Choices that have the same runs are one pairing. Where own rates are shared already, taking one
    method's rates for both changes nothing.
    """
    own = at_own_rates(runs, task, pair)
    if own.rates == SHARED:
        own = replace(own, also_at=(PUBLISHED, OWN, LP_START, RANDOM_START))
    distinct = [own]
    for rates in runs.rates:
        if rates in own.also_at:
            continue
        groups = (MethodRuns(task, name, rates, runs.by_seed(rates, task, name)) for name in pair)
        pairing = Pairing(*groups)
        # Two choices of rates may mean the same rates, and then they share their runs' folders.
        same = next((each for each in distinct if _same_runs(each, pairing)), None)
        if same is None:
            distinct.append(pairing)
        else:
            together = replace(same, also_at=(*same.also_at, rates))
            distinct[distinct.index(same)] = together
    return tuple(distinct)


def _same_runs(pairing: Pairing, other: Pairing) -> bool:
    """Whether each method has seeds in both pairings, and the same run at each of these seeds."""
    for runs, other_runs in ((pairing.first, other.first), (pairing.second, other.second)):
        common = [seed for seed in runs.runs if seed in other_runs.runs]
        if not common or any(runs.runs[s].folder != other_runs.runs[s].folder for s in common):
            return False
    return True


def at_own_rates(runs: RunsByPart, task: str, methods: tuple[str, str]) -> Pairing:
    """Two methods at their own rates."""
    by_method = {method: runs.by_seed(PUBLISHED, task, method) for method in methods}
    rates = rates_name(task, by_method)
    return Pairing(*(MethodRuns(task, method, rates, by_method[method]) for method in methods))


def methods_at_rates(
    runs: RunsByPart, task: str, methods: Collection[str]
) -> tuple[MethodRuns, ...]:
    """Every method of the pairs at its own rates, and at others where it has other runs."""
    listed: list[MethodRuns] = []
    for pair in pairs_in(methods):
        by_runs: dict[tuple[str, frozenset[tuple[int, Path]]], MethodRuns] = {}
        for pairing in pairings(runs, task, pair):
            for group in (pairing.first, pairing.second):
                key = group.method, frozenset((s, run.folder) for s, run in group.runs.items())
                if key in by_runs:
                    same = by_runs[key]
                    also_at = (*same.also_at, pairing.rates, *pairing.also_at)
                    by_runs[key] = replace(same, also_at=also_at)
                else:
                    by_runs[key] = replace(group, also_at=pairing.also_at)
        listed += by_runs.values()
    return tuple(listed)


def all_runs(compared: Iterable[Pairing]) -> list[Run]:
    """Every run of some pairings; a run that is in two of them comes twice."""
    both = [group for pairing in compared for group in (pairing.first, pairing.second)]
    return [run for group in both for run in group.runs.values()]


def rates_name(task: str, by_method: Mapping[str, Mapping[int, Run]]) -> str:
    """Whether the rates of some methods' runs are shared, published for the task, or their own."""
    by_name = {method: set(map(Rates.of, runs.values())) for method, runs in by_method.items()}
    first, *others = by_name.values()
    if others and len(first) == 1 and all(rates == first for rates in others):
        return SHARED
    published = all(rates <= {published_rates(task, method)} for method, rates in by_name.items())
    return PUBLISHED if published else OWN


def published_rates(task: str, method: str) -> Rates | None:
    """The paper's learning rate and batch size of a task and method, None where it has none."""
    known = published_hyperparameters(task, method)
    return None if known is None else Rates(known["learning_rate"], known["batch_size"])
