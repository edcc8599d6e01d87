"""Tables 1, 3, 8 and 10 to 16: scores, calibration, features and head norms of each method.

A recipe is a row of :data:`RECIPES`. It names the sections of its page: a table of our numbers
beside the paper's, the same at other choices of rates where a pair's own rates differ, and tables
of the differences between methods with and without the LP start.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from lpft.analysis.metrics import metric_name
from lpft.data import TextData, find_task
from lpft.errors import InputError
from lpft.experiments.catalogue import EXPERIMENTS
from lpft.experiments.measures import (
    FEATURE_CHANGE,
    HEAD_NORM,
    UNTRAINED,
    EvalSet,
    Measure,
    RunRow,
    at_rates,
    error_measure,
    eval_sets,
    measured_table,
    note_on_rates,
    plan_at_every_rate,
    rates_in_words,
    run_measure,
    score_measure,
)
from lpft.experiments.plan import ExperimentRuns, Plan, Recipe, Results, Scope
from lpft.paper import published_size, published_value
from lpft.results.exhibits import Column, Estimate, Table
from lpft.results.formats import counted, joined
from lpft.results.groups import method_name
from lpft.results.judging import RULE, Judgement, Measured, chance_note, judge
from lpft.results.pairing import (
    LP_START,
    OWN,
    PUBLISHED,
    RANDOM_START,
    SHARED,
    TUNED,
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
from lpft.settings.methods import get_method

_NOTE_ON_SCORES = "In per cent. Here LP does not depend on the seed; the paper's does."
_NOTE_ON_SETS = "The task's name: its test split; task: set is an OOD set."
_NOTE_ON_BINS = "15 equal-width bins of the top probability"


@dataclass(frozen=True)
class _Section:
    """A table of each method's numbers, and tables of the differences that the LP start makes.

    ``table`` is the paper's; ``of_published`` ends the note where published numbers stand. With
    ``untrained`` the model before any training has the first row. ``differences`` are the
    quantities that pairs of methods are compared by, under the names of their tables. With
    ``temperature`` it says where no temperature could be fitted. Title, headings and notes are
    filled with :func:`_words`.
    """

    name: str
    title: str
    measures: tuple[Measure[RunRow], ...]
    table: int | None
    note: str
    of_published: str = ""
    untrained: bool = False
    differences: tuple[tuple[str, Quantity], ...] = ()
    temperature: bool = False


def _words(runs: ExperimentRuns) -> dict[str, str]:
    """What sections are filled with: tasks, the metrics that judge them, and halved heads."""
    by_metric: dict[str, list[str]] = {}
    for task in runs.scope.tasks:
        metric = next((run.metric for key, run in runs.runs.items() if key.task == task), None)
        if metric is not None:
            by_metric.setdefault(metric_name(metric), []).append(task)
    only = next(iter(by_metric)) if len(by_metric) == 1 else None
    halved = [task for task in runs.scope.tasks if _publishes_half_a_head(task)]
    return {
        "tasks": joined(runs.scope.tasks),
        "metrics": "; ".join(f"{name} on {joined(tasks)}" for name, tasks in by_metric.items()),
        "score": "score" if only is None else only,
        "test_score": "test score" if only is None else only,
        "halved": f"Two classes, so that published norms after LP are halved: {joined(halved)}."
        if halved
        else "",
    }


def _publishes_half_a_head(task: str) -> bool:
    """Whether the paper has the norm of an LP head of two classes."""
    size, probed = published_size(task), published_value(13, task, "lp", "head_norm")
    return probed is not None and size is not None and size.classes == 2


def _scores(number: int) -> _Section:
    """The test score of each task by its own metric."""
    return _Section(
        f"table{number}",
        "{test_score} on {tasks}",
        (score_measure("score"),),
        number,
        f"Test score: {{metrics}}. {_NOTE_ON_SCORES}",
        differences=((f"table{number}-differences", task_score()),),
    )


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
    return (
        (f"{name}-differences-without-temperature", calibration_error(calibrated=False)),
        (f"{name}-differences-with-temperature", calibration_error(calibrated=True)),
    )


_SCORES_AND_CALIBRATION = (
    _Section(
        "table10",
        "{score} on {tasks}, in and out of distribution",
        (score_measure("{score}"),),
        10,
        f"{_NOTE_ON_SETS} Score: {{metrics}}. {_NOTE_ON_SCORES}",
        differences=(("table10-differences", replace(task_score(), name="score")),),
    ),
    _Section(
        "table10-ece",
        "ECE with and without temperature on {tasks}, in and out of distribution",
        _calibration_measures("ece"),
        None,
        f"{_NOTE_ON_SETS} Per cent, {_NOTE_ON_BINS}. T: one temperature per run, fitted on the "
        "in-distribution validation split and on no other. Improvement: without minus with T.",
        differences=_calibration_differences("table10-ece"),
        temperature=True,
    ),
)


def _calibration(metric: str, **last: Any) -> _Section:
    """ECE or MCE on the test splits."""
    return _Section(
        f"table3-{metric}",
        f"{metric.upper()} with and without temperature",
        _calibration_measures(metric),
        3,
        f"Per cent, {_NOTE_ON_BINS}, on the test split. T: one temperature per run, fitted on "
        "validation. Improvement: without minus with T.",
        **last,
    )


def _feature_statistic(heading: str, name: str, digits: int | None = None) -> Measure[RunRow]:
    return run_measure(
        heading,
        lambda run, split: run.feature(split, name),
        name,
        before=lambda run, split: run.feature(split, name, pretrained=True),
        digits=digits,
    )


def _features(number: int) -> _Section:
    """CS, Diff, FDR and Norm of each method, with the pre-trained model before any."""
    return _Section(
        f"table{number}",
        "Features and head norm",
        (
            _feature_statistic("CS(F)", "cosine_similarity", digits=3),
            FEATURE_CHANGE,
            _feature_statistic("FDR(F)", "fisher_ratio"),
            HEAD_NORM,
        ),
        number,
        "Of the test split's and OOD sets' texts. CS: mean cosine similarity of pairs of texts. "
        "Diff: mean L2 distance from the pre-trained features. FDR: Fisher's discriminant ratio. "
        "Norm: Frobenius norm of the head.",
        untrained=True,
        differences=((f"table{number}-differences", feature_change()),),
    )


_FEATURE_CHANGE = _Section(
    "table12",
    "Feature change",
    (FEATURE_CHANGE,),
    12,
    "Diff(F): mean L2 distance of the features of the test split's and OOD sets' texts from the "
    "pre-trained ones.",
    differences=(("table12-differences", feature_change()),),
)
_HEAD_NORMS = _Section(
    "table13",
    "Norm of the head",
    (HEAD_NORM,),
    13,
    "Frobenius norm of the head's weights; pre-trained: its random start.",
    of_published="{halved}",
    untrained=True,
)


def _show(runs: ExperimentRuns, sections: Sequence[_Section], *, ood: bool) -> Results:
    words, sets = _words(runs), eval_sets(runs, ood=ood)
    tables: list[Table] = []
    findings: list[str] = []
    for section in sections:
        title = section.title.format(**words)
        measures = (replace(m, heading=m.heading.format(**words)) for m in section.measures)
        filled = replace(
            section,
            title=f"{title[0].upper()}{title[1:]}",
            measures=tuple(measures),
            note=section.note.format(**words),
            of_published=section.of_published.format(**words),
        )
        tables += _at_every_rate(runs, sets, filled)
        for name, quantity in section.differences:
            table, sentences = difference_table(runs, quantity, name=name, sets=sets)
            tables += [] if table is None else [table]
            findings += sentences
        if section.temperature:
            findings += _without_temperature(runs)
    return Results(tuple(tables), findings=tuple(findings))


def _at_every_rate(runs: ExperimentRuns, sets: Sequence[EvalSet], section: _Section) -> list[Table]:
    """The paper's table, and where others differ the same at these, without its numbers."""
    others = {rates: at_rates(runs, rates) for rates in runs.rates}
    others = {rates: chosen for rates, chosen in others.items() if chosen.runs}
    note = f"{section.note} {section.of_published}".rstrip()
    if not others:
        return [_section_table(runs, PUBLISHED, sets, replace(section, note=note))]
    published = all(
        Rates.of(run) == published_rates(task, method)
        for (variant, task, method, _), run in runs.runs.items()
        if variant == PUBLISHED and get_method(method).fine_tunes
    )
    own = PUBLISHED if published else OWN
    at_own = replace(section, title=f"{section.title}, each method at its {own} rates", note=note)
    tables = [_section_table(runs, PUBLISHED, sets, at_own)]
    for rates, chosen in others.items():
        words = rates_in_words(rates, {key.method for key in chosen.runs})
        at_rates_section = replace(
            section,
            name=f"{section.name}-{rates.lower()}",
            title=f"{section.title}, at {words}",
            table=None,
            note=f"{note_on_rates((rates,))} {section.note}",
            untrained=False,
        )
        tables.append(replace(_section_table(chosen, rates, sets, at_rates_section), folded=True))
    return tables


def _section_table(
    runs: ExperimentRuns, variant: str, sets: Sequence[EvalSet], section: _Section
) -> Table:
    rows: list[tuple[tuple[str, str], RunRow]] = []
    published = () if section.table is None else (section.table,)
    for where in sets:
        by_method = {
            method: runs.by_seed(variant, where.task, method) for method in runs.scope.methods
        }
        if section.untrained:
            of_all_methods = tuple(by_method.values())
            untrained = RunRow(UNTRAINED, where, of_all_methods, published)
            rows.append(((where.label, "pre-trained"), untrained))
        rows += [
            ((where.label, method_name(method)), RunRow(method, where, (own,), published))
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
        f"{' and others' if len(names) > 1 else ''}): {reason.rstrip('.')}."
        for reason, names in reasons.items()
    ]


READINGS = {"holds": "higher", "does not hold": "lower", "cannot tell": "cannot tell"}

_NOTE_ON_DIFFERENCES = (
    "Difference: mean over seeds of the method with the LP start minus the one with a "
    "random head, paired by seed and sample, with a 95 % interval of a bootstrap over both. "
    "Detectable: the smallest true difference that a paired t-test at 5 % finds with 80 % power, "
    f"given this number of seeds and their spread; empty where they have none. {RULE}"
)


def difference_table(
    runs: ExperimentRuns, quantity: Quantity, *, name: str, sets: Sequence[EvalSet]
) -> tuple[Table | None, list[str]]:
    """A row per data set, pair of methods and choice of rates; one sentence per pair.

    None where no two methods of a pair have a seed in common.

    Raises:
        InputError: two runs were tested on different samples.
    """
    generator = np.random.default_rng(DRAW_SEED)
    compared = [each for where in sets for each in _differences(runs, quantity, where, generator)]
    measured = [effect for _, effect in compared]
    if not measured:
        return None, []
    judged = list(zip(compared, judge(measured, generator=generator), strict=True))
    choices = {name for pairing, _ in compared for name in (pairing.rates, *pairing.also_at)}
    several = len({effect.rates for effect in measured}) > 1
    chance = chance_note(sum(bool(effect.effects) for effect in measured))
    notes = (_NOTE_ON_DIFFERENCES, note_on_rates(choices) if several else "", chance)
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
                effect.task,
                effect.subject,
                _rates_name(pairing),
                replace(judgement.effect, sd=None),
                _detectable(judgement),
                READINGS[judgement.verdict],
            )
            for (pairing, effect), judgement in judged
        ),
        note=" ".join(filter(None, notes)),
        headers=3,
    )
    readings: dict[str, dict[str, dict[str, str]]] = {}
    for (pairing, effect), judgement in judged:
        of_set = readings.setdefault(effect.subject, {}).setdefault(effect.task, {})
        of_set |= dict.fromkeys(_choices_of(pairing), READINGS[judgement.verdict])
    quantity_name = f"{quantity.name[0].upper()}{quantity.name[1:]}"
    return table, [
        f"{quantity_name}, {subject}: {by_rates(of_subject)}."
        for subject, of_subject in readings.items()
    ]


def by_rates(readings: Mapping[str, Mapping[str, str]]) -> str:
    """How readings, by data set and choice of rates, depend on that choice, in words."""
    alike: dict[str, list[str]] = {}
    parts: list[str] = []
    for data, by_choice in readings.items():
        first = next(iter(by_choice.values()))
        if set(by_choice.values()) == {first}:
            which = "any" if first == READINGS["cannot tell"] else "every"
            several = len(by_choice) > 1
            choices = (
                f"at {which} choice of rates" if several else f"at {next(iter(by_choice))} rates"
            )
            alike.setdefault(f"{first} {choices}", []).append(data)
            continue
        by_reading: dict[str, list[str]] = {}
        for rates, reading in by_choice.items():
            by_reading.setdefault(reading, []).append(rates)
        ways = ", ".join(f"{reading} at {joined(at)} rates" for reading, at in by_reading.items())
        parts.append(f"on {data} it depends on the rates: {ways}")
    return "; ".join([*(f"{reading} on {joined(sets)}" for reading, sets in alike.items()), *parts])


def _differences(
    runs: ExperimentRuns, quantity: Quantity, where: EvalSet, generator: np.random.Generator
) -> list[tuple[Pairing, Measured]]:
    """Every pair of methods at every choice of rates, on one set."""
    compared = [
        pairing
        for pair in pairs_in(runs.scope.methods)
        for pairing in pairings(runs, where.task, pair)
        if pairing.seeds
    ]
    by_run = quantity.on_draws(all_runs(compared), where.split, generator)
    return [
        (
            pairing,
            Measured(
                task=where.label,
                subject=f"{pairing.second.name} against {pairing.first.name}",
                rates=pairing.rates,
                effects=tuple(
                    (after - before) * quantity.factor
                    for before, after in pairing.statistics(by_run)
                ),
                runs=pairing.run_names,
            ),
        )
        for pairing in compared
    ]


def _choices_of(pairing: Pairing) -> tuple[str, ...]:
    """The choices of rates that have these runs; of shared own rates this one alone stands."""
    if pairing.rates == SHARED:
        return (SHARED, *(name for name in pairing.also_at if name == TUNED))
    return (pairing.rates, *pairing.also_at)


def _rates_name(pairing: Pairing) -> str:
    """``published``, or with whose rates they are: ``LP-start (LP-FT's)``."""
    owners = {LP_START: pairing.second.name, RANDOM_START: pairing.first.name}
    return joined(
        [f"{name} ({owners[name]}'s)" if name in owners else name for name in _choices_of(pairing)]
    )


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
    return plan_at_every_rate(scope)


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
    *sections: _Section,
    ood: bool = False,
    plan: Callable[[Scope], Plan] = plan_at_every_rate,
    check: Callable[[Mapping[str, TextData]], None] | None = None,
) -> Recipe:
    show = partial(_show, sections=sections, ood=ood)
    return Recipe(EXPERIMENTS[name], plan, show, check)


RECIPES = {
    recipe.entry.name: recipe
    for recipe in (
        _recipe("table1", _features(1)),
        _recipe(
            "table3",
            _calibration("ece"),
            _calibration("mce", differences=_calibration_differences("table3"), temperature=True),
        ),
        _recipe("table8", _scores(8)),
        _recipe(
            "table10",
            *_SCORES_AND_CALIBRATION,
            ood=True,
            plan=_plan_with_ood,
            check=_check_ood,
        ),
        _recipe("table11", _features(11), ood=True),
        _recipe("table12", _FEATURE_CHANGE, ood=True),
        _recipe("table13", _HEAD_NORMS),
        _recipe("table16", _scores(16)),
    )
}
