"""Tables 1, 3, 8 and 10 to 16: scores, calibration, features and head norms of each method.

A recipe is a row of :data:`RECIPES`. It names the sections of its page: a table of our numbers
beside the paper's, the same at shared rates where a pair's own rates differ, and tables of the
differences between methods with and without the LP start.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from lpft.data import TextData, find_task
from lpft.errors import InputError
from lpft.experiments.measures import (
    FEATURE_CHANGE,
    HEAD_NORM,
    NOTE_ON_RATES,
    UNTRAINED,
    EvalSet,
    Measure,
    RunRow,
    at_shared_rates,
    error_measure,
    eval_sets,
    measured_table,
    plan_at_both_rates,
    run_measure,
    score_measure,
    shared_rates,
)
from lpft.experiments.plan import ExperimentRuns, Plan, Recipe, Results, Scope
from lpft.paper import published_size, published_value
from lpft.results.exhibits import Column, Estimate, Table
from lpft.results.formats import counted, joined
from lpft.results.groups import method_name, metric_name
from lpft.results.judging import RULE, Judgement, Measured, chance_note, judge
from lpft.results.pairing import (
    OWN,
    PUBLISHED,
    SHARED,
    Pairing,
    Rates,
    all_runs,
    pairings,
    pairs_in,
    published_rates,
)
from lpft.results.quantities import (
    DRAW_SEED,
    PER_CENT,
    Quantity,
    calibration_error,
    feature_change,
    task_score,
)
from lpft.results.run import Run
from lpft.settings import get_method

METHODS = ("lp", "ft", "lp-ft", "lora", "lp-lora")
EIGHT_SETS = ("cb", "rte", "boolq", "wic", "wsc", "cola", "sst2", "mrpc")

_FEATURES = (
    run_measure(
        "CS(F)",
        lambda run, split: run.feature(split, "cosine_similarity"),
        "cosine_similarity",
        before=lambda run, split: run.feature(split, "cosine_similarity", pretrained=True),
        digits=3,
    ),
    FEATURE_CHANGE,
    run_measure(
        "FDR(F)",
        lambda run, split: run.feature(split, "fisher_ratio"),
        "fisher_ratio",
        before=lambda run, split: run.feature(split, "fisher_ratio", pretrained=True),
    ),
    HEAD_NORM,
)


@dataclass(frozen=True)
class _Section:
    """A table of each method's numbers, and tables of the differences that the LP start makes.

    ``tables`` are the paper's; ``of_published`` ends the note where published numbers stand. With
    ``untrained`` the model before any training has the first row. ``differences`` are the
    quantities that pairs of methods are compared by, under the names of their tables. With
    ``temperature`` it says where no temperature could be fitted.
    """

    name: str
    title: str
    measures: tuple[Measure[RunRow], ...]
    tables: tuple[int, ...]
    note: str
    of_published: str = ""
    untrained: bool = False
    differences: tuple[tuple[str, Quantity], ...] = ()
    temperature: bool = False


def _scores(runs: ExperimentRuns, table: int) -> list[_Section]:
    """The test score of each task by its own metric."""
    return [
        _Section(
            name=f"table{table}",
            title=_score_title(runs, of_several="Test score"),
            measures=(score_measure("score"),),
            tables=(table,),
            note=f"Test score: {_score_note(runs)}",
            differences=((f"table{table}-differences", task_score()),),
        )
    ]


def _scores_and_calibration(runs: ExperimentRuns) -> list[_Section]:
    """Score and calibration error on each task's test split and OOD sets."""
    metrics = list(_metrics(runs))
    on_sets = "The task's name: its test split; task: set is an OOD set."
    return [
        _Section(
            name="table10",
            title=f"{_score_title(runs, of_several='Score')}, in and out of distribution",
            measures=(score_measure(metric_name(metrics[0]) if len(metrics) == 1 else "score"),),
            tables=(10,),
            note=f"{on_sets} Score: {_score_note(runs)}",
            differences=(("table10-differences", replace(task_score(), name="score")),),
        ),
        _Section(
            name="table10-ece",
            title=f"ECE with and without temperature on {joined(runs.scope.tasks)}, in and out of "
            "distribution",
            measures=_calibration_measures("ece"),
            tables=(),
            note=f"{on_sets} Per cent, 15 equal-width bins of the top probability. T: one "
            "temperature per run, fitted on the in-distribution validation split and on no other. "
            "Improvement: without minus with T.",
            differences=_calibration_differences("table10-ece"),
            temperature=True,
        ),
    ]


def _calibration(_runs: ExperimentRuns) -> list[_Section]:
    """ECE and MCE on the test splits."""
    ece, mce = (
        _Section(
            name=f"table3-{metric}",
            title=f"{metric.upper()} with and without temperature",
            measures=_calibration_measures(metric),
            tables=(3,),
            note="Per cent, 15 equal-width bins of the top probability, on the test split. T: one "
            "temperature per run, fitted on validation. Improvement: without minus with T.",
        )
        for metric in ("ece", "mce")
    )
    return [ece, replace(mce, differences=_calibration_differences("table3"), temperature=True)]


def _features(_runs: ExperimentRuns, table: int) -> list[_Section]:
    """CS, Diff, FDR and Norm of each method, with the pre-trained model before any."""
    return [
        _Section(
            name=f"table{table}",
            title="Features and head norm",
            measures=_FEATURES,
            tables=(table,),
            note="Of the test split's and OOD sets' texts. CS: mean cosine similarity of pairs of "
            "texts. Diff: mean L2 distance from the pre-trained features. FDR: Fisher's "
            "discriminant ratio. Norm: Frobenius norm of the head.",
            untrained=True,
            differences=((f"table{table}-differences", feature_change()),),
        )
    ]


def _feature_change(_runs: ExperimentRuns) -> list[_Section]:
    """Diff(F) of every method that fine-tunes, on test splits and OOD sets."""
    return [
        _Section(
            name="table12",
            title="Feature change",
            measures=(FEATURE_CHANGE,),
            tables=(12,),
            note="Diff(F): mean L2 distance of the features of the test split's and OOD sets' "
            "texts from the pre-trained ones.",
            differences=(("table12-differences", feature_change()),),
        )
    ]


def _head_norms(runs: ExperimentRuns) -> list[_Section]:
    """The head's norm before training, after LP and after fine-tuning."""
    halved = []
    for task in runs.scope.tasks:
        size, probed = published_size(task), published_value(13, task, "lp", "head_norm")
        if probed is not None and size is not None and size.classes == 2:
            halved.append(task)
    told = f"Of two classes, so that published norms after LP are halved: {joined(halved)}."
    return [
        _Section(
            name="table13",
            title="Norm of the head",
            measures=(HEAD_NORM,),
            tables=(13,),
            note="Frobenius norm of the head's weights; pre-trained: its random start.",
            of_published=told if halved else "",
            untrained=True,
        )
    ]


def _calibration_measures(metric: str) -> tuple[Measure[RunRow], ...]:
    """``ece`` or ``mce`` in per cent without T and with T, and the first minus the second."""

    def improvement(run: Run, split: str) -> float | None:
        before, after = run.score(split, metric), run.score(split, metric, calibrated=True)
        return None if before is None or after is None else before - after

    return (
        error_measure("without T", metric, calibrated=False),
        error_measure("with T", metric, calibrated=True),
        run_measure("improvement", improvement, f"{metric}_improvement", factor=PER_CENT, digits=2),
    )


def _calibration_differences(name: str) -> tuple[tuple[str, Quantity], ...]:
    return tuple(
        (f"{name}-differences-{how}-temperature", calibration_error(calibrated=calibrated))
        for calibrated, how in ((False, "without"), (True, "with"))
    )


def _score_title(runs: ExperimentRuns, *, of_several: str) -> str:
    """``Accuracy on cb and rte``; several metrics have one name together."""
    metrics = list(_metrics(runs))
    name = metric_name(metrics[0]) if len(metrics) == 1 else of_several
    return f"{name[0].upper()}{name[1:]} on {joined(runs.scope.tasks)}"


def _score_note(runs: ExperimentRuns) -> str:
    """Which metric judges which tasks."""
    names = [f"{metric_name(name)} on {joined(tasks)}" for name, tasks in _metrics(runs).items()]
    return (
        f"{'; '.join(names)}. In per cent. Here LP does not depend on the seed; the paper's does."
    )


def _metrics(runs: ExperimentRuns) -> Mapping[str, list[str]]:
    """The tasks that each metric judges, in their order."""
    by_metric: dict[str, list[str]] = {}
    for task in runs.scope.tasks:
        metric = next((run.metric for key, run in runs.runs.items() if key[1] == task), None)
        if metric is not None:
            by_metric.setdefault(metric, []).append(task)
    return by_metric


def _show(
    runs: ExperimentRuns,
    sections: Callable[[ExperimentRuns], Sequence[_Section]],
    *,
    ood: bool,
) -> Results:
    sets = eval_sets(runs, ood=ood)
    tables: list[Table] = []
    findings: list[str] = []
    for section in sections(runs):
        tables += _at_both_rates(runs, sets, section)
        if section.temperature:
            findings += _without_temperature(runs)
        for name, quantity in section.differences:
            table, sentences = difference_table(runs, quantity, name=name, sets=sets)
            tables += [] if table is None else [table]
            findings += sentences
    return Results(tuple(tables), findings=tuple(findings))


def _at_both_rates(runs: ExperimentRuns, sets: Sequence[EvalSet], section: _Section) -> list[Table]:
    """The paper's table, and, if shared rates differ, the same at these, without its numbers."""
    shared = at_shared_rates(runs)
    note = f"{section.note} {section.of_published}".rstrip()
    if not shared.runs:
        return [_section_table(runs, PUBLISHED, sets, replace(section, note=note))]
    published = all(
        Rates.of(run) == published_rates(task, method)
        for (variant, task, method, _), run in runs.runs.items()
        if variant == PUBLISHED and get_method(method).fine_tunes
    )
    own = PUBLISHED if published else OWN
    at_own = replace(section, title=f"{section.title}, each method at its {own} rates", note=note)
    at_shared = replace(
        section,
        name=f"{section.name}-shared",
        title=f"{section.title}, at {shared_rates({key[2] for key in shared.runs})}",
        tables=(),
        note=f"{NOTE_ON_RATES} {section.note}",
        untrained=False,
    )
    return [
        _section_table(runs, PUBLISHED, sets, at_own),
        _section_table(shared, SHARED, sets, at_shared),
    ]


def _section_table(
    runs: ExperimentRuns, variant: str, sets: Sequence[EvalSet], section: _Section
) -> Table:
    rows: list[tuple[tuple[str, str], RunRow]] = []
    for where in sets:
        by_method = {
            method: runs.by_seed(variant, where.task, method) for method in runs.scope.methods
        }
        if section.untrained:
            starts = tuple(by_method.values())
            untrained = RunRow(UNTRAINED, where, starts, section.tables)
            rows.append(((where.label, "pre-trained"), untrained))
        rows += [
            ((where.label, method_name(method)), RunRow(method, where, (own,), section.tables))
            for method, own in by_method.items()
        ]
    # A column of published numbers stands only where there is one.
    measures = [
        measure
        if measure.published is not None and any(measure.published(row) for _, row in rows)
        else replace(measure, published=None)
        for measure in section.measures
    ]
    return measured_table(
        section.name,
        section.title,
        runs.scope.model,
        ("Data", "Method"),
        rows,
        measures,
        section.note,
    )


def _without_temperature(runs: ExperimentRuns) -> list[str]:
    """Where no temperature could be fitted, and why."""
    reasons: dict[str, dict[str, None]] = {}
    for run in runs.runs.values():
        if run.record.calibration.reason is not None:
            reasons.setdefault(run.record.calibration.reason, {}).setdefault(run.name)
    return [
        f"The temperature stayed 1 in {counted(len(names), 'run')} ({next(iter(names))}"
        f"{' and others' if len(names) > 1 else ''}): {reason}."
        for reason, names in reasons.items()
    ]


_READINGS = {"holds": "higher", "does not hold": "lower", "cannot tell": "cannot tell"}

_NOTE_ON_DIFFERENCES = (
    "Difference: mean over seeds of the method with the LP start minus the one with a "
    "random head, paired by seed and sample, with a 95 % interval of a bootstrap over both. "
    "Detectable: the smallest true difference that a paired t-test at 5 % finds with 80 % power "
    f"with so many seeds of this spread. {RULE}"
)


def difference_table(
    runs: ExperimentRuns, quantity: Quantity, *, name: str, sets: Sequence[EvalSet]
) -> tuple[Table | None, list[str]]:
    """A row per data set, pair of methods and choice of rates; one sentence per pair and rates.

    None where no two methods of a pair have a seed in common.

    Raises:
        InputError: two runs were tested on different samples.
    """
    generator = np.random.default_rng(DRAW_SEED)
    measured = [one for where in sets for one in _differences(runs, quantity, where, generator)]
    judged = list(zip(measured, judge(measured, generator=generator), strict=True))
    if not judged:
        return None, []
    notes = [_NOTE_ON_DIFFERENCES]
    if len({one.rates.startswith(SHARED) for one in measured}) > 1:
        notes.append(NOTE_ON_RATES)
    notes += filter(None, [chance_note(sum(bool(one.effects) for one in measured))])
    table = Table(
        name=name,
        title=f"With and without the LP start: {quantity.name}",
        columns=(
            *(Column(heading, source="names") for heading in ("Data", "Pair", "Rates")),
            Column("Difference", digits=quantity.digits),
            Column("Detectable", digits=quantity.digits),
            Column("Reading"),
        ),
        rows=tuple(
            (
                one.task,
                one.subject,
                one.rates,
                replace(judgement.effect, sd=None),
                _detectable(judgement),
                _READINGS[judgement.verdict],
            )
            for one, judgement in judged
        ),
        note=" ".join(notes),
        headers=3,
    )
    by_subject: dict[tuple[str, str], dict[str, list[str]]] = {}
    for one, judgement in judged:
        readings = by_subject.setdefault((one.subject, one.rates), {})
        readings.setdefault(_READINGS[judgement.verdict], []).append(one.task)
    quantity_name = f"{quantity.name[0].upper()}{quantity.name[1:]}"
    sentences = []
    for (subject, rates), readings in by_subject.items():
        told = "; ".join(f"{reading} on {joined(tasks)}" for reading, tasks in readings.items())
        sentences.append(f"{quantity_name}, {subject} at {rates} rates: {told}.")
    return table, sentences


def _differences(
    runs: ExperimentRuns, quantity: Quantity, where: EvalSet, generator: np.random.Generator
) -> list[Measured]:
    """Every pair of methods at every choice of rates, on one set."""
    compared = [
        pairing
        for pair in pairs_in(runs.scope.methods)
        for pairing in pairings(runs, where.task, pair)
        if pairing.seeds
    ]
    by_run = quantity.on_draws(all_runs(compared), where.split, generator)
    return [
        Measured(
            task=where.label,
            subject=f"{pairing.second.name} against {pairing.first.name}",
            rates=_rates_name(pairing),
            effects=tuple(
                (after - before) * quantity.factor for before, after in pairing.statistics(by_run)
            ),
            runs=pairing.run_names,
        )
        for pairing in compared
    ]


def _rates_name(pairing: Pairing) -> str:
    """``published``, ``own``, or whose rates are shared: ``shared (LP-FT's)``."""
    shared = pairing.rates == SHARED
    return f"{SHARED} ({pairing.second.name}'s)" if shared else pairing.rates


def _detectable(judgement: Judgement) -> Estimate | None:
    if judgement.detectable is None:
        return None
    effect = judgement.effect
    return Estimate(judgement.detectable, count=effect.count, runs=effect.runs)


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
    for task, texts in data.items():
        if not texts.ood:
            raise InputError(
                f"this experiment needs out-of-distribution sets, and {task} as it was read has "
                f"none ({texts.sources.get('train', 'source unknown')}): give the release with "
                f"{joined(find_task(task).ood)} (see lpft tasks {task}), or other --tasks"
            )


def _recipe(
    name: str,
    title: str,
    tasks: tuple[str, ...],
    sections: Callable[[ExperimentRuns], Sequence[_Section]],
    methods: tuple[str, ...] = METHODS,
    *,
    ood: bool = False,
    **others: Any,
) -> Recipe:
    usual: dict[str, Any] = {
        "source": name.replace("table", "Table "),
        "plan": plan_at_both_rates,
        "show": partial(_show, sections=sections, ood=ood),
    }
    return Recipe(name=name, title=title, tasks=tasks, methods=methods, **(usual | others))


RECIPES = (
    _recipe(
        "table1",
        "Features and head norm of each method",
        ("cb", "rte"),
        partial(_features, table=1),
    ),
    _recipe(
        "table3",
        "Calibration error with and without temperature scaling",
        EIGHT_SETS,
        _calibration,
        ("ft", "lp-ft", "lora", "lp-lora"),
        source="Tables 3, 14 and 15",
    ),
    _recipe("table8", "Test score of each method", EIGHT_SETS, partial(_scores, table=8)),
    _recipe(
        "table10",
        "Score and calibration in and out of distribution",
        ("amazon",),
        _scores_and_calibration,
        ood=True,
        plan=_plan_with_ood,
        check=_check_ood,
    ),
    _recipe(
        "table11",
        "Features and head norm of each method, in and out of distribution",
        ("amazon",),
        partial(_features, table=11),
        ood=True,
    ),
    _recipe(
        "table12",
        "How far features move",
        (*EIGHT_SETS, "amazon"),
        _feature_change,
        ("ft", "lora", "lp-ft", "lp-lora"),
        ood=True,
    ),
    _recipe(
        "table13",
        "Norm of the head before and after training",
        (*EIGHT_SETS, "amazon"),
        _head_norms,
        ("ft", "lora", "lp", "lp-ft", "lp-lora"),
    ),
    _recipe("table16", "Test score of each method", ("pubmed",), partial(_scores, table=16)),
)
