"""Claim 6: LP-FT is at least as good as FT in distribution, and better out of it in most cases."""

import numpy as np

from lpft.experiments.claims.verdicts import MOST, Case, Outcome, Part, judge_cases
from lpft.experiments.comparisons.sides import Pairing, all_runs, pairings, pairs_in, spread_of
from lpft.experiments.recipe import Found
from lpft.report.comparisons.judging import Measured
from lpft.report.comparisons.quantities import PER_CENT, task_score
from lpft.report.comparisons.samples import ByRun, judged_split
from lpft.report.numbers import with_sd
from lpft.report.values import metric_name

STATEMENT = (
    "LP-FT is at least as good as FT in distribution, and better out of distribution in most cases."
)
MARGIN = 1.0
"""Points by which LP-FT may stay behind FT and still count as at least as good."""

AT_LEAST = Part("at least FT in distribution")
BETTER = Part("above FT out of distribution", MOST)
PARTS = (AT_LEAST, BETTER)
_PAIR = ("ft", "lp-ft")


def score_outcomes(found: Found, generator: np.random.Generator) -> list[Outcome]:
    """The task's metric of LP-FT less that of FT, in points; in distribution plus the margin."""
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
    return judge_cases(cases, generator=generator)


def _ood_name(task: str, split: str) -> str:
    return f"{task}, {split.removeprefix('ood/')}"


def _case(pairing: Pairing, by_run: ByRun, data: str) -> Case:
    in_distribution = data == pairing.task
    scores = [(first * PER_CENT, second * PER_CENT) for first, second in pairing.statistics(by_run)]
    margin = MARGIN if in_distribution else 0.0
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
            effects=tuple(second - first + margin for first, second in scores),
            runs=pairing.run_names,
        ),
        unit=f"points, beyond a lag of {MARGIN:g}" if in_distribution else "points",
        told=f"{metric} {', '.join(told)}",
    )
