"""What tables, figures and claims are made of: runs on a set of texts, and numbers over seeds.

A pair of methods that differ in the head's start is compared at each one's own rates and, where
these differ, at those of either for both: the plan and the runs at each are here too.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from lpft.analysis.metrics import metric_name
from lpft.experiments.plan import ExperimentRuns, Plan, Scope, planned_runs, planned_searches
from lpft.paper import MODEL, published_value
from lpft.results.exhibits import Column, Estimate, Series, Table
from lpft.results.formats import fixed, joined, rate
from lpft.results.groups import Spread, method_name, model_name
from lpft.results.pairing import LP_START, PAIRS, PUBLISHED, RANDOM_START, TUNED, pairs_in
from lpft.results.quantities import PER_CENT
from lpft.results.run import Run
from lpft.settings.methods import get_method

NOTE_ON_RATES = (
    "At each method's own rates a difference mixes the head's effect with that of learning rate "
    "and batch size. At LP-start rates both methods of a pair use the learning rate and batch size "
    "of the one that starts from linear probing, at random-start rates those of the other: only "
    "the head differs, but each choice favours the method that its rates were chosen for."
)
NOTE_ON_TUNED_RATES = (
    "At tuned rates each method has its own batch size and the learning rate that is best on "
    "validation, of rates that both methods of a pair try."
)


def note_on_rates(choices: Collection[str]) -> str:
    """What some choices of rates are."""
    return f"{NOTE_ON_RATES} {NOTE_ON_TUNED_RATES}" if TUNED in choices else NOTE_ON_RATES


UNTRAINED = "pretrained"
"""What the paper's tables call the model before any training."""

Row = TypeVar("Row")


@dataclass(frozen=True)
class Measure(Generic[Row]):
    """A number of each row of a table: ours, and in a column beside it the paper's.

    Without ``published`` there is no such column. ``digits`` are decimals, None three significant
    digits; ``column`` names our column where it is not the model's.
    """

    heading: str
    ours: Callable[[Row], Estimate | None]
    published: Callable[[Row], Estimate | None] | None = None
    digits: int | None = None
    column: str = ""


def measured_table(
    name: str,
    title: str,
    model: str,
    labels: Sequence[str],
    rows: Iterable[tuple[tuple[str, ...], Row]],
    measures: Sequence[Measure[Row]],
    note: str,
) -> Table:
    """A table with a line for each row that has a number; ``labels`` head the rows' names."""
    columns = [Column(label, source="names") for label in labels]
    for measure in measures:
        ours = measure.column if measure.column else model_name(model)
        columns.append(Column(ours, measure.heading, measure.digits))
        if measure.published is not None:
            published = f"{MODEL}, published"
            columns.append(Column(published, measure.heading, measure.digits, "published"))
    lines = []
    for names, row in rows:
        values: list[Estimate | None] = []
        for measure in measures:
            values.append(measure.ours(row))
            if measure.published is not None:
                values.append(measure.published(row))
        if any(value is not None for value in values):
            lines.append((*names, *values))
    return Table(name, title, tuple(columns), tuple(lines), note, headers=len(labels))


def estimate(numbers: Mapping[str, float | None], factor: float = 1.0) -> Estimate | None:
    """Mean and standard deviation of the seeds' numbers by the folder that each is from."""
    known = {name: number * factor for name, number in numbers.items() if number is not None}
    spread = Spread.of(known.values())
    if spread is None:
        return None
    return Estimate(spread.mean, sd=spread.sd, count=spread.count, runs=tuple(known))


BANDS = "Lines are means over seeds, bands one standard deviation to either side."


def mean_line(method: str, curves: Sequence[Mapping[float, float]], runs: Iterable[Run]) -> Series:
    """The mean of the seeds' curves, each by x, and one standard deviation around it."""
    xs = sorted({x for curve in curves for x in curve})
    spreads = [
        spread for x in xs if (spread := Spread.of(curve.get(x) for curve in curves)) is not None
    ]
    return Series(
        label=method_name(method),
        method=method,
        x=tuple(xs),
        y=tuple(spread.mean for spread in spreads),
        low=tuple(None if s.sd is None else s.mean - s.sd for s in spreads),
        high=tuple(None if s.sd is None else s.mean + s.sd for s in spreads),
        runs=tuple(run.name for run in runs),
    )


@dataclass(frozen=True)
class EvalSet:
    """A split of a task's runs, under the paper's name of that data."""

    task: str
    split: str
    dataset: str

    @property
    def label(self) -> str:
        return self.dataset if self.split == "test" else f"{self.task}: {self.dataset}"


def eval_sets(runs: ExperimentRuns, *, ood: bool) -> tuple[EvalSet, ...]:
    """The test split of each task, and with ``ood`` each OOD set that its runs were tested on."""
    sets = []
    for task in runs.scope.tasks:
        sets.append(EvalSet(task, "test", task))
        tested = [run for key, run in runs.runs.items() if key.task == task and ood]
        splits = dict.fromkeys(split for run in tested for split in run.ood_splits)
        sets += [EvalSet(task, split, split.removeprefix("ood/")) for split in splits]
    return tuple(sets)


@dataclass(frozen=True)
class RunRow:
    """The runs of a method by seed, where they are measured, and the paper's tables of that.

    The row of the untrained model has the runs of several methods: any of them may have recorded
    what was there before its training.
    """

    method: str
    where: EvalSet
    runs: tuple[Mapping[int, Run], ...]
    tables: tuple[int, ...]


def run_measure(
    heading: str,
    value: Callable[[Run, str], float | None],
    metric: str = "",
    *,
    before: Callable[[Run, str], float | None] | None = None,
    factor: float = 1.0,
    digits: int | None = None,
) -> Measure[RunRow]:
    """A number of a run's split, times ``factor``.

    ``metric`` is its name in :func:`lpft.paper.published_value`, empty where the paper has no such
    number; ``before`` takes it from a run before any training.
    """

    def ours(row: RunRow) -> Estimate | None:
        number = before if row.method == UNTRAINED else value
        if number is None:
            return None
        split = row.where.split
        estimates = (
            estimate({run.name: number(run, split) for run in runs.values()}, factor)
            for runs in row.runs
        )
        return next((each for each in estimates if each is not None), None)

    def published(row: RunRow) -> Estimate | None:
        for table in row.tables:
            known = published_value(table, row.where.dataset, row.method, metric)
            if known is not None:
                return Estimate(known.mean, sd=known.sd, count=known.seeds)
        return None

    return Measure(heading, ours, published if metric else None, digits)


def random_head_norm(run: Run) -> float | None:
    """``||V||_F`` of a run's random head; None where only another head's norm was recorded.

    Fine-tuning records the norm that it begins with, which is that of the LP solution after linear
    probing, and scaled where the head was.
    """
    method = get_method(run.method)
    begins_random = method.head_start == "random" and run.config.get("head_scale") == 1
    return run.head_norm("norm_at_start") if begins_random or not method.fine_tunes else None


FEATURE_CHANGE = run_measure(
    "Diff(F)", lambda run, split: run.feature(split, "feature_difference"), "feature_difference"
)
HEAD_NORM = run_measure(
    "Norm(C)",
    lambda run, _: run.head_norm("norm"),
    "head_norm",
    before=lambda run, _: random_head_norm(run),
)


def score_measure(heading: str) -> Measure[RunRow]:
    """The task's own metric, in per cent."""
    return run_measure(
        heading,
        lambda run, split: run.score(split, run.metric),
        "score",
        factor=PER_CENT,
        digits=2,
    )


def error_measure(heading: str, metric: str, *, calibrated: bool) -> Measure[RunRow]:
    """``ece`` or ``mce`` in per cent, with or without the run's temperature."""
    return run_measure(
        heading,
        lambda run, split: run.score(split, metric, calibrated=calibrated),
        f"calibrated_{metric}" if calibrated else metric,
        factor=PER_CENT,
        digits=2,
    )


def plan_at_every_rate(scope: Scope) -> Plan:
    """Every method at its own rates, those of a pair also at each other's, and at tuned ones.

    Where rates are the same, so is the folder, and nothing more is trained. Rates are tuned only
    where the scope says so.
    """
    paired = {method for pair in pairs_in(scope.methods) for method in pair}
    pairs = replace(scope, methods=tuple(name for name in scope.methods if name in paired))
    return Plan(
        {
            **planned_runs(scope),
            **planned_runs(pairs, rates=LP_START),
            **planned_runs(pairs, rates=RANDOM_START),
        },
        searches=planned_searches(pairs) if scope.tuned_rates else (),
    )


def at_rates(runs: ExperimentRuns, rates: str) -> ExperimentRuns:
    """The runs at one choice of rates of each task and pair that has others at its own rates."""

    def differ(task: str, method: str) -> bool:
        own = {run.name for run in runs.by_seed(PUBLISHED, task, method).values()}
        return any(run.name not in own for run in runs.by_seed(rates, task, method).values())

    differing = {
        (task, method)
        for task in runs.scope.tasks
        for pair in pairs_in(runs.scope.methods)
        if any(differ(task, method) for method in pair)
        for method in pair
    }
    chosen = {
        key: run
        for key, run in runs.runs.items()
        if key.variant == rates and (key.task, key.method) in differing
    }
    return replace(runs, runs=chosen)


def rates_in_words(rates: str, methods: Collection[str]) -> str:
    """Whose rates a choice is: ``LP-start rates (LP-FT's and LP-LoRA's, for both methods)``."""
    if rates == TUNED:
        return "tuned rates"
    owners = [pair[rates == LP_START] for pair in PAIRS if pair[1] in methods]
    names = joined([f"{method_name(owner)}'s" for owner in owners])
    return f"{rates} rates ({names}, for both methods)"


def tuned_rates_table(search: Mapping[str, Any]) -> Table:
    """What a search for rates tried and chose: ``search.json``, a row for each task and method."""
    rows = []
    for cell in search["cells"]:
        tried = {point["settings"]["learning_rate"]: point["score"] for point in cell["points"]}
        own, chosen = next(iter(tried)), (cell["chosen"] or {}).get("learning_rate")
        scores = ", ".join(
            f"{rate(value)}: {'failed' if score is None else fixed(PER_CENT * score, 1)}"
            for value, score in sorted(tried.items())
        )
        of_chosen = tried.get(chosen)
        rows.append(
            (
                cell["task"],
                method_name(cell["method"]),
                rate(own),
                "none" if chosen is None else rate(chosen),
                None if of_chosen is None else Estimate(PER_CENT * of_chosen),
                f"{scores} ({metric_name(cell['metric'])})" if cell["metric"] else scores,
            )
        )
    return Table(
        name="tuned-rates",
        title="Learning rates tuned on validation",
        columns=(
            *(Column(name, source="names") for name in ("Data", "Method", "own rate")),
            Column("tuned rate"),
            Column("validation", digits=1),
            Column("all that were tried"),
        ),
        rows=tuple(rows),
        note=(
            f"Each method of a pair tries the own rates of both, a third of each and three times "
            f"each, with seed {search['seed']} and its own batch size, and keeps the rate with the "
            "highest score on validation (in per cent); of equal ones its own, or the lowest."
        ),
        headers=3,
        folded=True,
    )
