"""The numbers behind the verdicts: each method at its own and at shared rates, and published."""

from collections.abc import Sequence
from dataclasses import dataclass

from lpft.experiments.recipe import Found
from lpft.experiments.recipes.cells import (
    Measure,
    Place,
    over_seeds,
    places,
    published_estimate,
)
from lpft.paper import MODEL, published_tables, published_value
from lpft.results.exhibits import Column, Estimate, Table
from lpft.results.groups import feature, head, model_name, score
from lpft.results.pairing import sides
from lpft.results.quantities import PER_CENT


@dataclass(frozen=True)
class SideTable:
    """A table with a row for each data set, method and choice of rates.

    ``published`` are the paper's tables that may have the numbers, the first of them that has a
    data set counts; ``ood`` adds the out-of-distribution sets.
    """

    name: str
    title: str
    measures: tuple[Measure, ...]
    published: tuple[int, ...]
    note: str
    ood: bool = False


SIDE_TABLES = (
    SideTable(
        name="feature-change",
        title="Feature change of the test samples",
        measures=(
            Measure(
                "Diff(F)", "feature_difference", lambda split: feature(split, "feature_difference")
            ),
        ),
        published=(12,),
        note="Mean L2 distance of the features from their pre-trained values.",
    ),
    SideTable(
        name="head-norm",
        title="Norm of the head before and after fine-tuning",
        measures=(
            Measure("at the start of fine-tuning", "", lambda _: head("norm_at_start")),
            Measure("Norm(C) at the end", "head_norm", lambda _: head("norm")),
        ),
        published=(13,),
        note="Frobenius norm of the head's weights.",
    ),
    SideTable(
        name="calibration",
        title="Calibration error without and with temperature",
        measures=(
            Measure(
                "ECE without T", "ece", lambda split: score(split, "ece"), factor=PER_CENT, digits=2
            ),
            Measure(
                "ECE with T",
                "calibrated_ece",
                lambda split: score(split, "ece", calibrated=True),
                factor=PER_CENT,
                digits=2,
            ),
        ),
        published=(3,),
        note="Per cent, 15 equal-width bins of the top probability; T is fitted on validation.",
    ),
    SideTable(
        name="scores",
        title="Scores in and out of distribution",
        measures=(
            Measure(
                "score",
                "score",
                lambda split: lambda run: run.score(split, run.metric),
                factor=PER_CENT,
                digits=2,
            ),
        ),
        published=(8, 10, 16),
        note="The task's own metric, per cent.",
        ood=True,
    ),
)


def side_table(found: Found, table: SideTable) -> Table | None:
    """The table of what is there; None where no run has finished."""
    rows = [row for place in places(found, ood=table.ood) for row in _rows(found, place, table)]
    if not rows:
        return None
    ours, theirs = model_name(found.scope.model), f"{MODEL}, published"
    return Table(
        name=table.name,
        title=table.title,
        columns=(
            *(Column(name, source="names") for name in ("Data", "Method", "Rates")),
            *(
                column
                for measure in table.measures
                for column in (
                    Column(ours, above=measure.name, digits=measure.digits),
                    Column(theirs, above=measure.name, digits=measure.digits, source="published"),
                )
                if measure.metric or column.source == "ours"
            ),
        ),
        rows=tuple(rows),
        note=(
            f"{table.note} Shared rates: the learning rate and batch size of the method that "
            "starts from linear probing, for the one with the random head too. Published numbers "
            "are at the paper's own rates. Mean ± standard deviation over seeds."
        ),
        headers=3,
    )


def _rows(
    found: Found, place: Place, table: SideTable
) -> Sequence[tuple[Estimate | str | None, ...]]:
    """A row for each side with numbers; the paper's stand in the first row of a method."""
    rows: list[tuple[Estimate | str | None, ...]] = []
    seen: set[str] = set()
    for side in sides(found, place.task, found.scope.methods):
        ours = [over_seeds(side.runs, m.value(place.split), m.factor) for m in table.measures]
        if not any(ours):
            continue
        cells: list[Estimate | None] = []
        for measure, our in zip(table.measures, ours, strict=True):
            cells.append(our)
            if measure.metric:
                known = side.method not in seen
                cells.append(_published(place, side.method, measure, table) if known else None)
        seen.add(side.method)
        rows.append((place.label, side.name, side.rates, *cells))
    return rows


def _published(place: Place, method: str, measure: Measure, table: SideTable) -> Estimate | None:
    known = [number for number in table.published if number in published_tables(place.dataset)]
    if not known:
        return None
    return published_estimate(published_value(known[0], place.dataset, method, measure.metric))
