"""Cells of table exhibits: what the runs found over seeds beside what the paper published."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lpft.experiments.recipe import Found
from lpft.paper import MODEL, PublishedValue, published_value
from lpft.report.numbers import Spread
from lpft.results.exhibits import Column, Estimate, Table
from lpft.results.groups import Selector, method_name, model_name
from lpft.results.run import Run

PRETRAINED = "pretrained"


@dataclass(frozen=True)
class Measure:
    """One number of a run, and where the paper has its counterpart.

    ``value`` is multiplied by ``factor`` for showing; ``metric`` is its name in
    :func:`lpft.paper.published_value`; ``before`` takes it from a run before any training, for
    tables with a row of the pre-trained model. ``digits`` are decimals, None three significant.
    """

    name: str
    metric: str
    value: Callable[[str], Selector]
    before: Callable[[str], Selector] | None = None
    factor: float = 1.0
    digits: int | None = None


@dataclass(frozen=True)
class Place:
    """Where numbers are taken: a split of a task's runs, under the paper's name of that data."""

    task: str
    split: str
    dataset: str

    @property
    def label(self) -> str:
        return self.dataset if self.split == "test" else f"{self.task}: {self.dataset}"


def places(found: Found, *, ood: bool) -> tuple[Place, ...]:
    """The test split of each task, and with ``ood`` each OOD set that its runs were tested on."""
    listed = []
    for task in found.scope.tasks:
        listed.append(Place(task, "test", task))
        if ood:
            splits = dict.fromkeys(
                split
                for (_, name, _, _), run in found.runs.items()
                if name == task
                for split in run.ood_splits
            )
            listed += [Place(task, split, split.removeprefix("ood/")) for split in splits]
    return tuple(listed)


def over_seeds(runs: Mapping[int, Run], value: Selector, factor: float = 1.0) -> Estimate | None:
    """Mean and standard deviation over seeds of a run's number, None where no run has it."""
    return estimate({run.name: value(run) for run in runs.values()}, factor)


def estimate(numbers: Mapping[str, float | None], factor: float = 1.0) -> Estimate | None:
    """Mean and standard deviation of the seeds' numbers by the folder that each is from."""
    known = {name: number * factor for name, number in numbers.items() if number is not None}
    spread = Spread.of(known.values())
    if spread is None:
        return None
    return Estimate(spread.mean, sd=spread.sd, count=spread.count, runs=tuple(known))


def published_estimate(value: PublishedValue | None) -> Estimate | None:
    """A published number as a cell."""
    return None if value is None else Estimate(value.mean, sd=value.sd, count=value.seeds)


def beside_published(
    found: Found,
    *,
    name: str,
    title: str,
    variant: str,
    where: Sequence[Place],
    methods: Sequence[str],
    measures: Sequence[Measure],
    table: int | None,
    note: str,
) -> Table:
    """A row per data set and method; for each measure our number, and the paper's where it has one.

    ``table`` is the paper's, None where it has no counterpart. ``methods`` may begin with
    :data:`PRETRAINED`: the measures before any training.
    """
    rows = []
    compared = [
        measure
        for measure in measures
        if any(_published(table, place, method, measure) for place in where for method in methods)
    ]
    for place in where:
        for method in methods:
            cells: list[Estimate | None] = []
            for measure in measures:
                cells.append(_ours(found, variant, place, method, measure))
                if measure in compared:
                    cells.append(published_estimate(_published(table, place, method, measure)))
            if any(cell is not None for cell in cells):
                named = "pre-trained" if method == PRETRAINED else method_name(method)
                rows.append((place.label, named, *cells))
    columns = [Column("Data", source="names"), Column("Method", source="names")]
    ours, theirs = model_name(found.scope.model), f"{MODEL}, published"
    for measure in measures:
        columns.append(Column(ours, above=measure.name, digits=measure.digits))
        if measure in compared:
            columns.append(
                Column(theirs, above=measure.name, digits=measure.digits, source="published")
            )
    return Table(
        name=name, title=title, columns=tuple(columns), rows=tuple(rows), note=note, headers=2
    )


def _ours(
    found: Found, variant: str, place: Place, method: str, measure: Measure
) -> Estimate | None:
    if method != PRETRAINED:
        runs = found.seeds(variant, place.task, method)
        return over_seeds(runs, measure.value(place.split), measure.factor)
    if measure.before is None:
        return None
    for start in found.scope.methods:
        runs = found.seeds(variant, place.task, start)
        known = over_seeds(runs, measure.before(place.split), measure.factor)
        if known is not None:
            return known
    return None


def _published(
    table: int | None, place: Place, method: str, measure: Measure
) -> PublishedValue | None:
    if table is None:
        return None
    return published_value(table, place.dataset, method, measure.metric)
