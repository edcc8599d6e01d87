"""Claim 6: LP-FT is at least as good as FT in distribution, and better out of it in most cases.

"In most cases" is read over both halves of the sentence: of every case the paper's own means would
not allow the first.
"""

from copy import deepcopy
from dataclasses import replace

import numpy as np

from lpft.data import TASKS
from lpft.experiments.claims.cases import MOST, Case, Outcome, Part, judge_cases
from lpft.experiments.claims.published import PublishedCase, published_means, published_sentence
from lpft.experiments.recipe import Found
from lpft.paper import published_datasets
from lpft.report.numbers import MINUS, with_sd
from lpft.results.groups import metric_name
from lpft.results.judging import Measured
from lpft.results.pairing import Pairing, all_runs, pairings, pairs_in, spread_of
from lpft.results.quantities import PER_CENT, ByRun, judged_split, task_score

STATEMENT = (
    "LP-FT is at least as good as FT in distribution, and better out of distribution in most cases."
)
MARGIN = 1.0
"""In points. An interval around 0 is "at least as good" where all of it lies above minus so many;
one below 0 is worse, by however little."""

AT_LEAST = Part("at least FT in distribution", MOST)
BETTER = Part("above FT out of distribution", MOST)
PARTS = (AT_LEAST, BETTER)
_PAIR = ("ft", "lp-ft")
_TABLES = (8, 10, 16)
_INSIDE, _OUTSIDE = "LP-FT at least FT", "LP-FT above FT out of distribution"


def score_outcomes(found: Found, generator: np.random.Generator) -> list[Outcome]:
    """The task's metric of LP-FT less that of FT, in points."""
    if _PAIR not in pairs_in(found.scope.methods):
        return []
    cases: list[Case] = []
    for task in found.scope.tasks:
        compared = pairings(found, task, _PAIR)
        runs = all_runs(compared)
        tested = judged_split(runs)
        for split in dict.fromkeys((tested, *(name for run in runs for name in run.ood_splits))):
            by_run = task_score().on_draws(runs, split, generator)
            cases += [
                _case(pairing, by_run, task if split == tested else _ood_name(task, split))
                for pairing in compared
            ]
    same = deepcopy(generator)
    outcomes = judge_cases(cases, generator=generator)
    with_margin = judge_cases([_ahead_by_margin(case) for case in cases], generator=same)
    return [
        _at_least(outcome, shifted) if outcome.part == AT_LEAST else outcome
        for outcome, shifted in zip(outcomes, with_margin, strict=True)
    ]


def published_scores() -> str:
    """On how many of the paper's sets LP-FT is at least FT, and above it out of distribution."""
    ood = {
        name
        for table in _TABLES
        for task in published_datasets(table)
        if task in TASKS
        for name in TASKS[task].ood
    }
    inside: list[PublishedCase] = []
    outside: list[PublishedCase] = []
    for table in _TABLES:
        for dataset in published_datasets(table):
            means = published_means(table, dataset, _PAIR, "score")
            if means is None:
                continue
            random, probed = means
            if dataset in ood:
                outside.append(PublishedCase(_OUTSIDE, dataset, probed > random))
            else:
                inside.append(PublishedCase(_INSIDE, dataset, probed >= random))
    return published_sentence("Tables 8, 10 and 16", [*inside, *outside], every=False)


def _ahead_by_margin(case: Case) -> Case:
    effects = tuple(effect + MARGIN for effect in case.measured.effects)
    return replace(case, measured=replace(case.measured, effects=effects))


def _at_least(outcome: Outcome, shifted: Outcome) -> Outcome:
    """What the difference itself says, and what the margin says where its interval holds 0.

    ``shifted`` is the outcome on the same draws of a difference larger by the margin.
    """
    judgement, effect = outcome.judgement, outcome.judgement.effect
    if effect.low is None or effect.high is None:
        return outcome
    if effect.high < 0:
        if judgement.verdict == "cannot tell":
            return outcome
        worse = f"worse, by less than {MARGIN:g} point" if effect.low > -MARGIN else "worse"
        return replace(outcome, judgement=replace(judgement, why=f"{judgement.why}: {worse}"))
    if judgement.verdict == "cannot tell" and shifted.judgement.verdict == "holds":
        why = (
            f"{judgement.why}; all of it lies above {MINUS}{MARGIN:g}: at least as good within "
            f"{MARGIN:g} point"
        )
        return replace(outcome, judgement=replace(judgement, verdict="holds", why=why))
    return outcome


def _ood_name(task: str, split: str) -> str:
    return f"{task}, {split.removeprefix('ood/')}"


def _case(pairing: Pairing, by_run: ByRun, data: str) -> Case:
    in_distribution = data == pairing.task
    scores = [(first * PER_CENT, second * PER_CENT) for first, second in pairing.statistics(by_run)]
    names = (pairing.first.name, pairing.second.name)
    told = [
        f"{with_sd(spread_of(pair[place] for pair in scores), 1)} under {name}"
        for place, name in enumerate(names)
    ]
    metrics = dict.fromkeys(metric_name(run.metric) for run in pairing.second.runs.values())
    metric = next(iter(metrics), "score")
    return Case(
        part=AT_LEAST if in_distribution else BETTER,
        measured=Measured(
            task=data,
            subject=f"{names[1]} at least {names[0]}, within {MARGIN:g} point"
            if in_distribution
            else f"{names[1]} above {names[0]}",
            rates=pairing.rates,
            effects=tuple(second - first for first, second in scores),
            runs=pairing.run_names,
        ),
        unit="points",
        told=f"{metric} {', '.join(told)}",
    )
