"""Pair runs with a random head (FT, LoRA) with runs from an LP head (LP-FT, LP-LoRA).

A method's published rate and batch size are part of what moves its features, so a difference
between two methods at their own rates is not yet a difference made by the head. Runs are paired
only where model, data, seed and every other option agree, and each pair knows whether rate and
batch size agree too.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from lpft.analysis.comparison import Resampled, mean_of, without_samples
from lpft.errors import InputError
from lpft.paper import published_hyperparameters
from lpft.results.groups import (
    Group,
    Setting,
    Spread,
    counted,
    key_of,
    method_name,
    score,
    setting_of,
)
from lpft.results.judging import Judgement, Measured, judge
from lpft.results.quantities import DRAW_SEED, ByRun, feature_change, task_score
from lpft.results.run import Run, has_feature_changes
from lpft.settings import METHODS, with_lp_head

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


PAIRS = tuple((name, partner) for name in METHODS if (partner := with_lp_head(name)) is not None)
"""Methods that train the same from a random head and from the LP solution."""

PUBLISHED, SHARED = "published", "shared"
"""Rates: each method's own published learning rate and batch size, or those of the pair's method
that starts from linear probing, for both of the pair."""

OWN = "own"
"""Rates that each method has for itself, where they are not the paper's for the task."""


class RunsByPart(Protocol):
    """The finished runs of an experiment, by the part that they play in it."""

    def by_seed(self, variant: str, task: str, method: str) -> Mapping[int, Run]:
        """The runs of one variant by seed."""
        ...


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


def pairings(found: RunsByPart, task: str, pair: tuple[str, str]) -> tuple[Pairing, ...]:
    """The pair at each method's own rates, and at the LP partner's for both.

    Where a task's own rates are shared already there is one pairing, at shared rates.
    """
    at_own = at_own_rates(found, task, pair)
    shared = (Side(task, method, SHARED, found.by_seed(SHARED, task, method)) for method in pair)
    at_shared = Pairing(*shared)
    if _same_runs(at_own.first.runs, at_shared.first.runs):
        return (at_shared,)
    if at_own.rates == SHARED:
        return (at_own,)
    return at_own, at_shared


def at_own_rates(found: RunsByPart, task: str, methods: tuple[str, str]) -> Pairing:
    """Two methods at their own rates."""
    runs = {method: found.by_seed(PUBLISHED, task, method) for method in methods}
    rates = rates_name(task, runs)
    return Pairing(*(Side(task, method, rates, runs[method]) for method in methods))


def sides(found: RunsByPart, task: str, methods: Collection[str]) -> tuple[Side, ...]:
    """Every method of the pairs at its own rates, and random heads at shared ones too."""
    listed: list[Side] = []
    for pair in pairs_in(methods):
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


@dataclass(frozen=True)
class ScoreContrast:
    """The task's metric of the chosen setting minus that of ``other``, on ``where``."""

    where: str
    other: Setting
    judgement: Judgement


@dataclass(frozen=True)
class Differences:
    """What the runs of a group differ in, judged beside those of other groups.

    ``chosen`` has the best validation score, None where there are no two methods to compare;
    ``comparisons`` are those of :func:`compare`, judged. ``problems`` say what
    could not be compared.
    """

    chosen: Setting | None
    scores: tuple[ScoreContrast, ...]
    comparisons: tuple[Comparison, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class _Measurements:
    """The same before any verdict; ``changes`` are of the comparisons' matches in their order."""

    chosen: Setting | None
    scores: tuple[tuple[str, Setting, Measured], ...]
    comparisons: tuple[Comparison, ...]
    changes: tuple[Measured, ...]
    problems: tuple[str, ...]

    @property
    def measured(self) -> tuple[Measured, ...]:
        return (*(measured for *_, measured in self.scores), *self.changes)

    def judged(self, judgements: Iterator[Judgement]) -> Differences:
        """With the judgements on :attr:`measured`, taken in its order."""
        return Differences(
            chosen=self.chosen,
            scores=tuple(
                ScoreContrast(where, other, next(judgements)) for where, other, _ in self.scores
            ),
            comparisons=tuple(
                replace(
                    comparison,
                    own=None if comparison.own is None else _judged(comparison.own, judgements),
                    shared=tuple(_judged(match, judgements) for match in comparison.shared),
                )
                for comparison in self.comparisons
            ),
            problems=self.problems,
        )


def judge_groups(groups: Sequence[Group]) -> dict[str, Differences]:
    """By the slugs of groups what differs in them; few seeds need those of all groups to agree."""
    generator = np.random.default_rng(DRAW_SEED)
    found = {group.slug: _measure(group, generator) for group in groups}
    measured = [one for measurements in found.values() for one in measurements.measured]
    judgements = iter(judge(measured, generator=generator))
    return {slug: measurements.judged(judgements) for slug, measurements in found.items()}


def _judged(match: Match, judgements: Iterator[Judgement]) -> Match:
    return replace(match, judgement=next(judgements))


def _measure(group: Group, generator: np.random.Generator) -> _Measurements:
    scores: list[tuple[str, Setting, Measured]] = []
    problems: list[str] = []
    best = _best_of_each_method(group)
    if len(best) > 1:
        for where, splits in _places(group):
            try:
                scores += _scores(group, best, where, splits, generator)
            except InputError as problem:
                problems.append(f"Methods are not compared on {where}: {problem}.")
    comparisons = compare(group)
    changes = []
    for comparison in comparisons:
        for match in _matches(comparison):
            try:
                effects = _changes(match, generator)
            except InputError as problem:
                effects = ()
                problems.append(f"Feature change is not compared: {problem}.")
            changes.append(_change(group, comparison, match, effects))
    return _Measurements(
        chosen=best[0] if len(best) > 1 else None,
        scores=tuple(scores),
        comparisons=comparisons,
        changes=tuple(changes),
        problems=tuple(dict.fromkeys(problems)),
    )


def _best_of_each_method(group: Group) -> list[Setting]:
    """Of each method the setting with the best validation score, the best of all first."""
    value = score("validation", group.metric)
    known = ((setting.spread(value), setting) for setting in group.settings)
    scored = [(spread.mean, setting) for spread, setting in known if spread is not None]
    best: dict[str, Setting] = {}
    for _, setting in sorted(scored, key=lambda pair: -pair[0]):
        best.setdefault(setting.method, setting)
    return list(best.values())


def _places(group: Group) -> list[tuple[str, tuple[str, ...]]]:
    """The set in distribution, and all those out of it together, with what they are called."""
    places: list[tuple[str, tuple[str, ...]]] = [(group.id_split, (group.id_split,))]
    if group.ood_splits:
        sets = counted(len(group.ood_splits), "set")
        name = f"OOD, mean of {sets}" if len(group.ood_splits) > 1 else group.ood_splits[0]
        places.append((name, group.ood_splits))
    return places


def _scores(
    group: Group,
    best: Sequence[Setting],
    where: str,
    splits: tuple[str, ...],
    generator: np.random.Generator,
) -> list[tuple[str, Setting, Measured]]:
    """The first setting less each other one, by the task's metric."""
    chosen, *others = best
    runs = [
        run
        for setting in best
        for run in setting.runs
        if all(run.score(split, run.metric) is not None for split in splits)
    ]
    by_split = [task_score().on_draws(runs, split, generator) for split in splits]
    by_run = {run.folder: mean_of([found[run.folder] for found in by_split]) for run in runs}
    return [(where, other, _score(group, chosen, other, where, by_run)) for other in others]


def _score(group: Group, chosen: Setting, other: Setting, where: str, by_run: ByRun) -> Measured:
    theirs = {run.seed: run for run in other.runs if run.folder in by_run}
    pairs = [
        (run, theirs[run.seed])
        for run in chosen.runs
        if run.seed in theirs and run.folder in by_run
    ]
    names = method_name(chosen.method), method_name(other.method)
    return Measured(
        task=f"{group.data}, {where}",
        subject=_question(group, f"{names[0]} above {names[1]}"),
        reverse=_question(group, f"{names[1]} above {names[0]}"),
        rates="",
        effects=tuple(by_run[one.folder] - by_run[another.folder] for one, another in pairs),
        runs=tuple(run.name for pair in pairs for run in pair),
    )


def _matches(comparison: Comparison) -> tuple[Match, ...]:
    return (*([] if comparison.own is None else [comparison.own]), *comparison.shared)


def _changes(match: Match, generator: np.random.Generator) -> tuple[Resampled, ...]:
    """How much less features move from the LP head, over seeds alone where no texts' were kept."""
    runs = [run for pair in match.recorded for run in pair]
    if not all(has_feature_changes(run.folder, match.split) for run in runs):
        return tuple(without_samples(difference) for difference in match.differences)
    by_run = feature_change().on_draws(runs, match.split, generator)
    return tuple(
        by_run[random_head.folder] - by_run[lp_head.folder]
        for random_head, lp_head in match.recorded
    )


def _change(
    group: Group, comparison: Comparison, match: Match, effects: tuple[Resampled, ...]
) -> Measured:
    first, second = (method_name(method) for method in match.methods)
    at_random_heads = comparison.own is not None and match.rates[0] == comparison.own.rates[0]
    shared = f"shared, {first}'s own" if at_random_heads else "shared"
    return Measured(
        task=group.data,
        subject=_question(group, f"{second} below {first}"),
        rates=shared if match.shared else "own",
        effects=effects,
        runs=tuple(run.name for pair in match.recorded for run in pair),
    )


def _question(group: Group, subject: str) -> str:
    """What is asked on every data set, of one model with one pooling and protocol."""
    return " · ".join((subject, group.model, group.pooling, group.protocol))
