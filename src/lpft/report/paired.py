"""Methods of a report paired by seed and sample: scores, and feature change with the LP start.

Scores are compared between the setting that validation chooses and the best one of each other
method. Validation chooses, so that the set on which they are compared favours none of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lpft.analysis.resampling import Resampled, mean_of, without_samples
from lpft.errors import InputError
from lpft.report.comparisons.judging import Judgement, Measured, judge
from lpft.report.comparisons.quantities import feature_change, task_score
from lpft.report.comparisons.samples import DRAW_SEED, ByRun
from lpft.report.numbers import counted
from lpft.report.pairs import Comparison, Match, compare
from lpft.results.groups import Group, Setting, method_name, score
from lpft.results.schema import keeps_feature_changes


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
    ``comparisons`` are those of :func:`~lpft.report.pairs.compare`, judged. ``problems`` say what
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
    if not all(keeps_feature_changes(run.folder, match.split) for run in runs):
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
