"""How the methods of a group of runs differ: in their scores, and in how far features move.

A difference between two methods at their own rates need not come from the head; at the rates of
either for both only the head differs (:mod:`lpft.results.pairing`). Scores are compared between the
method that validation chooses and each other.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lpft.analysis.calibration import negative_log_likelihood
from lpft.analysis.comparison import Resampled, mean_of, without_samples
from lpft.analysis.selection import Candidate, Choice, Standing, choose
from lpft.errors import InputError
from lpft.results.groups import Group, Setting, Spread, key_of, method_name, score, setting_of
from lpft.results.judging import Judgement, Measured, judge
from lpft.results.pairing import (
    OWN,
    PAIRS,
    SHARED,
    MethodRuns,
    Pairing,
    Rates,
    published_rates,
)
from lpft.results.quantities import DRAW_SEED, ByRun, feature_change, task_score
from lpft.results.run import Run, has_feature_changes
from lpft.settings import default_value, unused_settings
from lpft.settings.methods import METHODS, with_lp_head

NO_DIFFERENCE = 0.01  # of the feature change: below it there is no difference to explain


@dataclass(frozen=True)
class Match:
    """Feature change with a random head and with an LP head: mean L2 distance on ``split``.

    ``judgement`` is on how much less features move from the LP head; None where none was made.
    """

    pairing: Pairing
    split: str
    judgement: Judgement | None = None

    @property
    def rates(self) -> tuple[Rates, Rates]:
        """The rates of either method; all its runs have the same."""
        random_head, lp_head = self.pairing.runs[0]
        return Rates.of(random_head), Rates.of(lp_head)

    @property
    def shared(self) -> bool:
        """Both methods at the same learning rate and batch size."""
        return self.rates[0] == self.rates[1]

    @property
    def by_seed(self) -> dict[int, tuple[float, float]]:
        """The change with the random head and with the LP head, where both were recorded."""
        pairs = {
            one.seed: [run.feature(self.split, "feature_difference") for run in (one, other)]
            for one, other in self.pairing.runs
        }
        return {seed: (a, b) for seed, (a, b) in pairs.items() if a is not None and b is not None}

    @property
    def changes(self) -> tuple[tuple[float, float], ...]:
        return tuple(self.by_seed.values())

    @property
    def change(self) -> tuple[Spread, Spread] | None:
        """Feature change of either method over the seeds; None where it was not recorded."""
        first, second = (Spread.of(pair[place] for pair in self.changes) for place in (0, 1))
        return None if first is None or second is None else (first, second)

    @property
    def difference(self) -> Spread | None:
        """The change with the random head minus that with the LP head."""
        return Spread.of(first - second for first, second in self.changes)

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
    """Feature change of one method with and without the LP head: at own rates, and at shared ones.

    ``own_because`` says how the own rates were chosen; empty where there was nothing to choose.
    """

    methods: tuple[str, str]
    own: Match | None
    own_because: str
    shared: tuple[Match, ...]

    @property
    def head_scale(self) -> float:
        """The factor on the LP head just before fine-tuning."""
        return _head_scale(self.matches[0].pairing.runs[0][1])[0]

    @property
    def matches(self) -> tuple[Match, ...]:
        """The match at own rates, then those at shared ones."""
        return self.shared if self.own is None else (self.own, *self.shared)

    def remaining(self, match: Match) -> float | None:
        """The part of the difference at own rates that a shared-rate match still shows.

        ``difference(shared) / difference(own)``, over the seeds that both have; None where there
        is no own match or where the LP head does not move features less at own rates.
        """
        if self.own is None:
            return None
        seeds = set(self.own.pairing.seeds) & set(match.pairing.seeds)
        own, shared = (replace(m, pairing=m.pairing.only(seeds)) for m in (self.own, match))
        if own.difference is None or shared.difference is None or not own.smaller:
            return None
        return shared.difference.mean / own.difference.mean


def compare(group: Group) -> tuple[Comparison, ...]:
    """All comparisons of a method with its LP start that the runs of a group allow.

    The runs of a pair have the same settings but for learning rate, batch size and those that one
    of the methods does not take, such as linear probing's. The factors on their heads may differ
    too, where each is the usual one of its method.
    """
    by_base: dict[tuple[str, ...], list[Match]] = defaultdict(list)
    for random_head in group.settings:
        partner = with_lp_head(random_head.method)
        if partner is None:
            continue
        base = _setting_of_pair(random_head)
        for lp_head in group.settings:
            if lp_head.method != partner:
                continue
            scales = [_head_scale(head.first) for head in (random_head, lp_head)]
            alike = scales[0][0] == scales[1][0] or all(usual for _, usual in scales)
            match = Match(_pairing(group.data, random_head, lp_head), group.feature_split)
            if match.pairing.seeds and alike and _setting_of_pair(lp_head) == base:
                by_base[random_head.method, base, str(scales)].append(match)
    comparisons = []
    for matches in by_base.values():
        own, because = _own([match for match in matches if not match.shared], group)
        shared = tuple(match for match in matches if match.shared)
        comparisons.append(Comparison(matches[0].pairing.methods, own, because, shared))
    return tuple(comparisons)


def _setting_of_pair(setting: Setting) -> str:
    # Settings that a method with a random head does not take do not separate it from its LP start.
    random_head = next((one for one, lp in PAIRS if lp == setting.method), setting.method)
    free = {"method", "learning_rate", "batch_size", "head_scale"}
    return key_of(setting_of(setting.first, free.union(unused_settings(random_head))))


def _head_scale(run: Run) -> tuple[float, bool]:
    """The factor on the head just before fine-tuning, and whether it is the method's usual one."""
    scale = float(run.config.get("head_scale", 1.0))
    return scale, scale == default_value("head_scale", run.method, run.model)


def _pairing(data: str, first: Setting, second: Setting) -> Pairing:
    rates = SHARED if Rates.of(first.first) == Rates.of(second.first) else OWN
    return Pairing(
        *(
            MethodRuns(data, setting.method, rates, {run.seed: run for run in setting.runs})
            for setting in (first, second)
        )
    )


def _own(unequal: Sequence[Match], group: Group) -> tuple[Match | None, str]:
    """Which of the pairs at different rates has each method at its own rate."""
    if not unequal:
        return None, ""
    task = str(unequal[0].pairing.runs[0][0].config.get("task"))
    published = tuple(published_rates(task, method) for method in unequal[0].pairing.methods)
    for match in unequal:
        if match.rates == published:
            return match, f"the published rates and batch sizes of {task}"
    if len(unequal) == 1:
        return unequal[0], ""

    def on_validation(match: Match) -> float:
        runs = match.pairing.paired_runs
        scores = Spread.of(run.score("validation", group.metric) for run in runs)
        return float("-inf") if scores is None else scores.mean

    # Rates are chosen on validation, as the paper chose its own.
    best = max(unequal, key=on_validation)
    return best, "of several pairs the one with the best validation scores"


@dataclass(frozen=True)
class ScoreContrast:
    """The task's metric of the chosen setting minus that of ``other``, on ``where``."""

    where: str
    other: Setting
    judgement: Judgement


@dataclass(frozen=True)
class Differences:
    """What the runs of a group differ in, judged beside those of other groups.

    ``best`` has the best setting of each method on validation, the chosen one first. Scores are
    compared between this one and each other: validation chooses, so that the set on which they are
    compared favours none of them. ``choice`` says how it did, None of one method alone or of
    methods without shared validation rows. ``problems`` say what could not be compared.
    """

    best: tuple[Setting, ...]
    choice: Choice | None
    scores: tuple[ScoreContrast, ...]
    comparisons: tuple[Comparison, ...]
    problems: tuple[str, ...]

    @property
    def chosen(self) -> Setting | None:
        """The setting that validation chooses; None where no run has a score there."""
        return self.best[0] if self.best else None


def judge_groups(groups: Sequence[Group]) -> dict[str, Differences]:
    """The differences within groups, by slug; with few seeds, all on one subject must agree."""
    generator = np.random.default_rng(DRAW_SEED)
    measurements = {group.slug: _Measurements(group, generator) for group in groups}
    measured = [
        comparison for of_group in measurements.values() for comparison in of_group.measured
    ]
    judgements = iter(judge(measured, generator=generator))
    return {slug: of_group.judged(judgements) for slug, of_group in measurements.items()}


class _Measurements:
    """How the runs of a group differ, before any verdict."""

    def __init__(self, group: Group, generator: np.random.Generator) -> None:
        self._group, self._generator = group, generator
        self._problems: list[str] = []
        self._best, self._choice = _chosen_first(_best_of_each_method(group), group)
        self._scores = self._score_differences() if len(self._best) > 1 else []
        self._comparisons = compare(group)
        self._changes = [
            self._change(comparison, match)
            for comparison in self._comparisons
            for match in comparison.matches
        ]

    @property
    def measured(self) -> list[Measured]:
        return [*(measured for *_, measured in self._scores), *self._changes]

    def judged(self, judgements: Iterator[Judgement]) -> Differences:
        """The differences, with the judgements on :attr:`measured` in its order."""
        scores = [ScoreContrast(where, other, next(judgements)) for where, other, _ in self._scores]
        comparisons = []
        for comparison in self._comparisons:
            matches = [replace(match, judgement=next(judgements)) for match in comparison.matches]
            own = None if comparison.own is None else matches.pop(0)
            comparisons.append(replace(comparison, own=own, shared=tuple(matches)))
        return Differences(
            best=tuple(self._best),
            choice=self._choice,
            scores=tuple(scores),
            comparisons=tuple(comparisons),
            problems=tuple(dict.fromkeys(self._problems)),
        )

    def _score_differences(self) -> list[tuple[str, Setting, Measured]]:
        """The chosen setting minus each other one, in distribution and on all OOD sets together."""
        group, ood = self._group, self._group.ood_splits
        evaluated: list[tuple[str, tuple[str, ...]]] = [(group.id_split, (group.id_split,))]
        if ood:
            evaluated.append((f"OOD, mean of {len(ood)} sets" if len(ood) > 1 else ood[0], ood))
        differences: list[tuple[str, Setting, Measured]] = []
        for where, splits in evaluated:
            try:
                by_run = self._scores_on(splits)
            except InputError as problem:
                self._problems.append(f"Methods are not compared on {where}: {problem}.")
                continue
            chosen, *others = self._best
            differences += [
                (where, other, self._score(chosen, other, where, by_run)) for other in others
            ]
        return differences

    def _scores_on(self, splits: Sequence[str]) -> ByRun:
        """The mean score of every run that has one on each split."""
        runs = [
            run
            for setting in self._best
            for run in setting.runs
            if all(run.score(split, run.metric) is not None for split in splits)
        ]
        by_split = [task_score().on_draws(runs, split, self._generator) for split in splits]
        return {run.folder: mean_of([scores[run.folder] for scores in by_split]) for run in runs}

    def _score(self, chosen: Setting, other: Setting, where: str, by_run: ByRun) -> Measured:
        # The chosen one is the second: a positive effect says that it is better.
        pairing = _pairing(self._group.data, other, chosen)
        pairing = pairing.only(
            [one.seed for one, two in pairing.runs if one.folder in by_run and two.folder in by_run]
        )
        names = pairing.second.name, pairing.first.name
        return Measured(
            task=f"{self._group.data}, {where}",
            subject=self._question(f"{names[0]} above {names[1]}"),
            reverse=self._question(f"{names[1]} above {names[0]}"),
            rates="",
            effects=tuple(best - one for one, best in pairing.statistics(by_run)),
            runs=tuple(run.name for one, best in pairing.runs for run in (best, one)),
        )

    def _change(self, comparison: Comparison, match: Match) -> Measured:
        """How much less features move from the LP head."""
        first, second = map(method_name, match.pairing.methods)
        at_random_heads = comparison.own is not None and match.rates[0] == comparison.own.rates[0]
        shared = f"{SHARED}, {first}'s own" if at_random_heads else SHARED
        try:
            effects = self._effects(match)
        except InputError as problem:
            effects = ()
            self._problems.append(f"Feature change is not compared: {problem}.")
        return Measured(
            task=self._group.data,
            subject=self._question(f"{second} below {first}"),
            rates=shared if match.shared else OWN,
            effects=effects,
            runs=match.pairing.only(match.by_seed).run_names,
        )

    def _effects(self, match: Match) -> tuple[Resampled, ...]:
        """By seed; texts are not resampled where a run did not record how far each moved."""
        pairing = match.pairing.only(match.by_seed)
        runs = pairing.paired_runs
        if not all(has_feature_changes(run.folder, match.split) for run in runs):
            return tuple(without_samples(first - second) for first, second in match.changes)
        by_run = feature_change().on_draws(runs, match.split, self._generator)
        return tuple(one - other for one, other in pairing.statistics(by_run))

    def _question(self, subject: str) -> str:
        """What is asked on every data set, of one model with one pooling and protocol."""
        group = self._group
        return " · ".join((subject, group.model, group.pooling, group.protocol))


def _best_of_each_method(group: Group) -> list[Setting]:
    """The setting of each method with the best validation score, the best of all first."""
    value = score("validation", group.metric)
    known = ((setting.spread(value), setting) for setting in group.settings)
    scored = [(spread.mean, setting) for spread, setting in known if spread is not None]
    best: dict[str, Setting] = {}
    for _, setting in sorted(scored, key=lambda pair: -pair[0]):
        best.setdefault(setting.method, setting)
    return list(best.values())


def _chosen_first(best: list[Setting], group: Group) -> tuple[list[Setting], Choice | None]:
    """The settings with the chosen one in front, and how it was chosen.

    What ``lpft train`` chose among these runs stays chosen. The rule is that of
    :mod:`lpft.analysis.selection`, on the validation rows that all methods share; without such
    rows, or with another metric than accuracy, the best score comes first.
    """
    if group.chosen_run is not None:
        return _recorded_choice(best, group, group.chosen_run)
    runs = [run for setting in best for run in setting.runs]
    without = any("validation" not in run.predictions for run in runs)
    unknown = any(setting.method not in METHODS for setting in best)
    if len(best) < 2 or group.metric != "accuracy" or without or unknown:
        return best, None
    ids = [set(run.predictions["validation"].ids.tolist()) for run in runs]
    shared = sorted(set.intersection(*ids))
    if not shared:
        return best, None
    choice = choose([_candidate(run, shared) for run in runs])
    chosen = next(standing.method for standing in choice.standings if standing.eligible)
    return sorted(best, key=lambda setting: setting.method != chosen), choice


def _recorded_choice(
    best: list[Setting], group: Group, chosen: Run
) -> tuple[list[Setting], Choice | None]:
    """As :func:`_chosen_first`, from the record of the run that was chosen from the candidates."""
    own = next(setting for setting in group.settings if any(run is chosen for run in setting.runs))
    ordered = [own, *(setting for setting in best if setting.method != own.method)]
    selection = chosen.selection
    assert selection is not None
    standings = tuple(
        Standing(s.method, s.score, s.difference, s.standard_error, s.eligible)
        for s in selection.standings
        if s.score is not None and s.difference is not None and s.standard_error is not None
    )
    folders = [candidate.folder for candidate in selection.candidates]
    eligible = any(s.eligible for s in standings)
    if len(standings) < 2 or not eligible or selection.chosen not in folders:
        return ordered, None
    place = folders.index(selection.chosen)
    first = max(standings, key=lambda s: s.difference)
    return ordered, Choice(place, first.method, standings)


def _candidate(run: Run, ids: Sequence[str]) -> Candidate:
    """A run on the validation rows with these ids, in their order."""
    predictions = run.predictions["validation"]
    place = {name: row for row, name in enumerate(predictions.ids.tolist())}
    rows = [place[name] for name in ids]
    logits, labels = predictions.logits[rows], predictions.labels[rows]
    nll = negative_log_likelihood(logits, labels, run.temperature)
    return Candidate(run.method, run.seed, logits.argmax(axis=1) == labels, nll)
