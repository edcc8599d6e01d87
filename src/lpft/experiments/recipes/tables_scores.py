"""Tables 8 and 16: test scores; table 10: scores and calibration in and out of distribution."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from lpft.data import TextData, find_task
from lpft.errors import InputError
from lpft.experiments.recipe import Found, Plan, Recipe, Scope, Shown
from lpft.experiments.recipes.both_rates import at_both_rates, plan_at_both_rates
from lpft.experiments.recipes.calibration import (
    calibration_differences,
    calibration_measures,
    kept_at_one,
)
from lpft.experiments.recipes.cells import Measure, places
from lpft.experiments.recipes.contrasts import contrast_table
from lpft.report.numbers import joined
from lpft.results.groups import metric_name
from lpft.results.quantities import PER_CENT, task_score

METHODS = ("lp", "ft", "lp-ft", "lora", "lp-lora")
EIGHT_SETS = ("cb", "rte", "boolq", "wic", "wsc", "cola", "sst2", "mrpc")

_NOTE = "In per cent. Here LP does not depend on the seed; the paper's does."


def _show_scores(found: Found, *, table: int) -> Shown:
    """The test score of each task by its own metric."""
    where = places(found, ood=False)
    name, metrics = f"table{table}", _metrics(found)
    tables = at_both_rates(
        found,
        where,
        name=name,
        title=_title(found, metrics, of_several="Test score"),
        methods=found.scope.methods,
        measures=(_score("score"),),
        table=table,
        note=f"Test score: {_named(metrics)}. {_NOTE}",
    )
    contrasts, findings = contrast_table(
        found, task_score(), name=f"{name}-differences", where=where
    )
    return Shown((*tables, *([] if contrasts is None else [contrasts])), findings=findings)


def _plan_with_ood(scope: Scope) -> Plan:
    without = [task for task in scope.tasks if not find_task(task).ood]
    if without:
        raise InputError(
            f"this experiment needs out-of-distribution sets, which {joined(without)} has not: "
            "name tasks that have some with --tasks, such as amazon or cola (see lpft tasks)"
        )
    return plan_at_both_rates(scope)


def _check_ood(data: Mapping[str, TextData]) -> None:
    """Refuse a release of a task that comes without the task's OOD sets."""
    for task, found in data.items():
        if not found.ood:
            raise InputError(
                f"this experiment needs out-of-distribution sets, and {task} as it was read has "
                f"none ({found.sources.get('train', 'source unknown')}): give the release with "
                f"{joined(find_task(task).ood)} (see lpft tasks {task}), or other --tasks"
            )


def _show_ood(found: Found) -> Shown:
    """Score and calibration error on each task's test split and OOD sets."""
    where = places(found, ood=True)
    metrics = _metrics(found)
    score = metric_name(next(iter(metrics))) if len(metrics) == 1 else "score"
    on_sets = "The task's name: its test split; task: set is an OOD set."
    scores = at_both_rates(
        found,
        where,
        name="table10",
        title=f"{_title(found, metrics, of_several='Score')}, in and out of distribution",
        methods=found.scope.methods,
        measures=(_score(score),),
        table=10,
        note=f"{on_sets} Score: {_named(metrics)}. {_NOTE}",
    )
    calibration = at_both_rates(
        found,
        where,
        name="table10-ece",
        title=f"ECE with and without temperature on {_tasks(found)}, in and out of distribution",
        methods=found.scope.methods,
        measures=calibration_measures("ece"),
        table=None,
        note=f"{on_sets} Per cent, 15 equal-width bins of the top probability. T: one temperature "
        "per run, fitted on the in-distribution validation split and on no other. Improvement: "
        "without minus with T.",
    )
    contrasts, findings = contrast_table(
        found, replace(task_score(), name="score"), name="table10-differences", where=where
    )
    differences, read = calibration_differences(found, where, name="table10-ece")
    return Shown(
        (*scores, *([] if contrasts is None else [contrasts]), *calibration, *differences),
        findings=(*findings, *kept_at_one(found), *read),
    )


def _score(name: str) -> Measure:
    """The task's own metric, in per cent."""
    return Measure(
        name,
        "score",
        lambda split: lambda run: run.score(split, run.metric),
        factor=PER_CENT,
        digits=2,
    )


def _metrics(found: Found) -> Mapping[str, list[str]]:
    """The tasks that each metric judges, in their order."""
    by_metric: dict[str, list[str]] = {}
    for task in found.scope.tasks:
        metric = next((run.metric for key, run in found.runs.items() if key[1] == task), None)
        if metric is not None:
            by_metric.setdefault(metric, []).append(task)
    return by_metric


def _named(metrics: Mapping[str, list[str]]) -> str:
    return "; ".join(
        f"{metric_name(metric)} on {joined(tasks)}" for metric, tasks in metrics.items()
    )


def _title(found: Found, metrics: Mapping[str, list[str]], *, of_several: str) -> str:
    """``Accuracy on cb and rte``; several metrics have one name together."""
    name = metric_name(next(iter(metrics))) if len(metrics) == 1 else of_several
    return f"{name[0].upper()}{name[1:]} on {_tasks(found)}"


def _tasks(found: Found) -> str:
    return joined(found.scope.tasks)


RECIPES = (
    Recipe(
        name="table8",
        title="Test score of each method",
        source="Table 8",
        tasks=EIGHT_SETS,
        methods=METHODS,
        plan=plan_at_both_rates,
        show=partial(_show_scores, table=8),
    ),
    Recipe(
        name="table10",
        title="Score and calibration in and out of distribution",
        source="Table 10",
        tasks=("amazon",),
        methods=METHODS,
        plan=_plan_with_ood,
        show=_show_ood,
        check=_check_ood,
    ),
    Recipe(
        name="table16",
        title="Test score of each method",
        source="Table 16",
        tasks=("pubmed",),
        methods=METHODS,
        plan=plan_at_both_rates,
        show=partial(_show_scores, table=16),
    ),
)
