"""Pair runs with a random head (FT, LoRA) with runs from an LP head (LP-FT, LP-LoRA).

A method's published rate and batch size are part of what moves its features, so a difference
between two methods at their own rates is not yet a difference made by the head. Runs are paired
only where model, data, seed and every other option agree, and each pair knows whether rate and
batch size agree too.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lpft.paper import published_hyperparameters
from lpft.report.comparisons.judging import Judgement
from lpft.report.numbers import Spread
from lpft.results.groups import Group, key_of, setting_of
from lpft.results.schema import Run
from lpft.settings import with_lp_head

NO_DIFFERENCE = 0.01  # of the feature change: below it there is nothing to divide up


@dataclass(frozen=True)
class Rates:
    """Learning rate and batch size of one run."""

    learning_rate: float | None
    batch_size: float | None


@dataclass(frozen=True)
class Match:
    """Pairs of runs, one per seed, at one choice of rates for either method.

    ``changes`` holds (random head, LP head) feature changes, the mean L2 distance of the features
    of ``split`` from their pre-trained values. ``judgement`` is on how much less the features move
    from the LP head, None where nobody judged.
    """

    methods: tuple[str, str]
    rates: tuple[Rates, Rates]
    split: str
    runs: tuple[tuple[Run, Run], ...]
    judgement: Judgement | None = None

    @property
    def shared(self) -> bool:
        """Both methods at the same learning rate and batch size."""
        return self.rates[0] == self.rates[1]

    @property
    def recorded(self) -> tuple[tuple[Run, Run], ...]:
        """The pairs of which both runs have a feature change."""
        return tuple(pair for pair, _ in self._recorded())

    @property
    def changes(self) -> tuple[tuple[float, float], ...]:
        return tuple(changes for _, changes in self._recorded())

    def _recorded(self) -> Iterator[tuple[tuple[Run, Run], tuple[float, float]]]:
        for pair in self.runs:
            random_head, lp_head = (run.feature(self.split, "feature_difference") for run in pair)
            if random_head is not None and lp_head is not None:
                yield pair, (random_head, lp_head)

    @property
    def change(self) -> tuple[Spread, Spread] | None:
        """Feature change of either method over the seeds; None where it was not recorded."""
        first = Spread.of(pair[0] for pair in self.changes)
        second = Spread.of(pair[1] for pair in self.changes)
        return None if first is None or second is None else (first, second)

    @property
    def differences(self) -> tuple[float, ...]:
        """Feature change with the random head minus with the LP head, seed by seed."""
        return tuple(first - second for first, second in self.changes)

    @property
    def difference(self) -> Spread | None:
        """Mean and standard deviation of the differences."""
        return Spread.of(self.differences)

    @property
    def smaller(self) -> bool:
        """Whether features move less from the LP head, by more than :data:`NO_DIFFERENCE`."""
        if self.change is None or self.difference is None:
            return False
        return self.difference.mean > NO_DIFFERENCE * self.change[0].mean

    @property
    def ratio(self) -> float | None:
        """Mean feature change from the LP head over that from the random head."""
        if self.change is None or self.change[0].mean == 0:
            return None
        return self.change[1].mean / self.change[0].mean


@dataclass(frozen=True)
class Comparison:
    """One method with and without the LP start: at own rates, and at shared ones.

    ``own_because`` says how the own rates were chosen; empty where there was nothing to choose.
    """

    methods: tuple[str, str]
    own: Match | None
    own_because: str
    shared: tuple[Match, ...]

    def remaining(self, match: Match) -> float | None:
        """The part of the difference at own rates that a shared-rate match still shows.

        ``difference(shared) / difference(own)``, over the seeds that both have; None where there
        is no own match or where the LP start does not move features less at own rates.
        """
        if self.own is None:
            return None
        seeds = _seeds(self.own) & _seeds(match)
        own, shared = (only_seeds(m, seeds) for m in (self.own, match))
        if own.difference is None or shared.difference is None or not own.smaller:
            return None
        return shared.difference.mean / own.difference.mean


def only_seeds(match: Match, seeds: set[int]) -> Match:
    """The same match with some of its seeds."""
    runs = tuple(pair for pair in match.runs if pair[0].seed in seeds)
    return Match(match.methods, match.rates, match.split, runs)


def _seeds(match: Match) -> set[int]:
    return {pair[0].seed for pair in match.runs}


def compare(group: Group) -> tuple[Comparison, ...]:
    """All comparisons of a method with its LP start that the runs of a group allow."""
    by_base: dict[tuple[str, str], list[Match]] = defaultdict(list)
    methods = {setting.method for setting in group.settings}
    free = {"method", "learning_rate", "batch_size"}
    for random_head in group.settings:
        partner = with_lp_head(random_head.method)
        if partner is None or partner not in methods:
            continue
        base = key_of(setting_of(random_head.first, free))
        for lp_head in group.settings:
            if lp_head.method != partner or key_of(setting_of(lp_head.first, free)) != base:
                continue
            partners = {run.seed: run for run in lp_head.runs}
            runs = tuple((r, partners[r.seed]) for r in random_head.runs if r.seed in partners)
            if runs:
                rates = (_rates(random_head.first), _rates(lp_head.first))
                pair = (random_head.method, partner)
                by_base[random_head.method, base].append(
                    Match(pair, rates, group.feature_split, runs)
                )
    return tuple(_comparison(matches, group) for matches in by_base.values())


def _rates(run: Run) -> Rates:
    return Rates(run.learning_rate, run.batch_size)


def _comparison(matches: Sequence[Match], group: Group) -> Comparison:
    shared = tuple(match for match in matches if match.shared)
    unequal = [match for match in matches if not match.shared]
    own, because = _own(unequal, group)
    return Comparison(matches[0].methods, own, because, shared)


def _own(unequal: Sequence[Match], group: Group) -> tuple[Match | None, str]:
    """Which of the pairs at different rates has each method at its own rate."""
    if not unequal:
        return None, ""
    task = str(unequal[0].runs[0][0].config.get("task"))
    wanted = tuple(published_rates(task, method) for method in unequal[0].methods)
    for match in unequal:
        if match.rates == wanted:
            return match, f"the published rates and batch sizes of {task}"
    if len(unequal) == 1:
        return unequal[0], ""
    # Rates are chosen on validation, as the paper chose its own.
    best = max(unequal, key=lambda match: _validation(match, group.metric))
    return best, "of several pairs the one with the best validation scores"


def _validation(match: Match, metric: str) -> float:
    scores = Spread.of(run.score("validation", metric) for pair in match.runs for run in pair)
    return float("-inf") if scores is None else scores.mean


def published_rates(task: str, method: str) -> Rates | None:
    """The paper's learning rate and batch size of a task and method, None where it has none."""
    found = published_hyperparameters(task, method)
    return None if found is None else Rates(found["learning_rate"], found["batch_size"])
