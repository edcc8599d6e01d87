"""Tables 8, 10 and 16: scores in and out of distribution."""

from collections.abc import Mapping
from functools import partial

from lpft.data import find_task
from lpft.errors import InputError
from lpft.experiments.planning import planned_runs
from lpft.experiments.recipe import PUBLISHED, Found, Plan, Recipe, Scope, Shown
from lpft.experiments.recipes.cells import Measure, beside_published, places
from lpft.experiments.recipes.contrasts import contrast_table
from lpft.report.comparisons.quantities import PER_CENT, accuracy, task_score
from lpft.report.numbers import joined
from lpft.report.values import metric_name, score

METHODS = ("lp", "ft", "lp-ft", "lora", "lp-lora")
EIGHT_SETS = ("cb", "rte", "boolq", "wic", "wsc", "cola", "sst2", "mrpc")

_NOTE = "In per cent. Here LP does not depend on the seed; the paper's does."


def _plan(scope: Scope) -> Plan:
    return Plan(runs=planned_runs(scope))


def _plan_with_ood(scope: Scope) -> Plan:
    without = [task for task in scope.tasks if not find_task(task).ood]
    if without:
        raise InputError(
            f"this experiment needs out-of-distribution sets, which {joined(without)} has not: "
            "name tasks that have some with --tasks, such as amazon or cola (see lpft tasks)"
        )
    return _plan(scope)


def _show_scores(found: Found, *, name: str, title: str, table: int) -> Shown:
    """The test score of each task by its own metric."""
    where = places(found, ood=False)
    metrics = _metrics(found)
    measure = Measure(
        "score",
        "score",
        lambda split: lambda run: run.score(split, run.metric),
        factor=PER_CENT,
        digits=2,
    )
    named = [f"{metric_name(metric)} on {joined(tasks)}" for metric, tasks in metrics.items()]
    main = beside_published(
        found,
        name=name,
        title=title,
        variant=PUBLISHED,
        where=where,
        methods=found.scope.methods,
        measures=(measure,),
        table=table,
        note=f"Test score: {'; '.join(named)}. {_NOTE}",
    )
    contrasts, findings = contrast_table(
        found, task_score(), name=f"{name}-differences", where=where
    )
    return Shown((main, *([] if contrasts is None else [contrasts])), findings=findings)


def _metrics(found: Found) -> Mapping[str, list[str]]:
    """The tasks that each metric judges, in their order."""
    by_metric: dict[str, list[str]] = {}
    for task in found.scope.tasks:
        metric = next((run.metric for key, run in found.runs.items() if key[1] == task), None)
        if metric is not None:
            by_metric.setdefault(metric, []).append(task)
    return by_metric


def _show_ood(found: Found) -> Shown:
    """Accuracy on each task's test split and OOD sets."""
    where = places(found, ood=True)
    main = beside_published(
        found,
        name="table10",
        title="Accuracy in and out of distribution",
        variant=PUBLISHED,
        where=where,
        methods=found.scope.methods,
        measures=(
            Measure(
                "accuracy",
                "score",
                lambda split: score(split, "accuracy"),
                factor=PER_CENT,
                digits=2,
            ),
        ),
        table=10,
        note=f"The task's name: its test split; task: set is an OOD set. {_NOTE}",
    )
    contrasts, findings = contrast_table(found, accuracy(), name="table10-differences", where=where)
    return Shown((main, *([] if contrasts is None else [contrasts])), findings=findings)


RECIPES = (
    Recipe(
        name="table8",
        title="Test score of five methods on eight sets",
        source="Table 8",
        tasks=EIGHT_SETS,
        methods=METHODS,
        plan=_plan,
        show=partial(_show_scores, name="table8", title="Test score", table=8),
    ),
    Recipe(
        name="table10",
        title="Accuracy in and out of distribution on BOSS sentiment",
        source="Table 10",
        tasks=("amazon",),
        methods=METHODS,
        plan=_plan_with_ood,
        show=_show_ood,
    ),
    Recipe(
        name="table16",
        title="Accuracy on PubMed 20k RCT",
        source="Table 16",
        tasks=("pubmed",),
        methods=METHODS,
        plan=_plan,
        show=partial(_show_scores, name="table16", title="Accuracy on PubMed 20k RCT", table=16),
    ),
)
