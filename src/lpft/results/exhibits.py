"""What an experiment shows, as data: tables, figures, verdicts, and ``experiment.json`` of them.

Recipes make these records, the report shows them; neither knows the other.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter

FigureKind = Literal["lines", "points", "scatter", "heat"]
VerdictName = Literal["holds", "does not hold", "cannot tell"]

RECORD = "experiment.json"
SCHEMA = 1
OVERALL = "overall"
"""The comparison of a verdict on a claim as a whole, or at one choice of rates where it names one;
its effect has no value."""


@dataclass(frozen=True)
class Estimate:
    """One number with what is known of its uncertainty and where it comes from.

    ``sd`` is the sample standard deviation over ``count`` seeds; ``low`` and ``high`` bound a 95 %
    interval; ``runs`` are the folders, relative to the experiment's, that it was computed from
    (none for a published number).
    """

    value: float | None
    sd: float | None = None
    count: int | None = None
    low: float | None = None
    high: float | None = None
    runs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """A column of a table.

    ``above`` is a heading shared with neighbours, ``digits`` the decimals that are shown (None:
    three significant digits), ``source`` who found its numbers.
    """

    name: str
    above: str = ""
    digits: int | None = None
    source: Literal["ours", "published", "names"] = "ours"


@dataclass(frozen=True)
class Table:
    """A table: each cell is an estimate, a text, or None where there is nothing.

    The first ``headers`` columns name the row.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Estimate | str | None, ...], ...]
    note: str = ""
    headers: int = 1


@dataclass(frozen=True)
class Series:
    """One line or set of points; ``low`` and ``high`` are bands or error bars around ``y``.

    ``method`` gives it that method's colour, ``dashed`` sets a second series of it apart;
    ``texts`` label single points.
    """

    label: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    method: str | None = None
    low: tuple[float | None, ...] | None = None
    high: tuple[float | None, ...] | None = None
    dashed: bool = False
    texts: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Panel:
    """One set of axes. ``ticks`` name the positions 0, 1, ... along x (``points``).

    A ``heat`` panel has ``matrix`` in place of series, with rows and columns sorted by class and
    ``bounds`` the (class name, first row) of each class. ``runs`` are those of the panel as a
    whole, where its series name none.
    """

    title: str
    x: str
    y: str
    series: tuple[Series, ...] = ()
    x_scale: Literal["linear", "log"] = "linear"
    y_scale: Literal["linear", "log"] = "linear"
    ticks: tuple[str, ...] = ()
    matrix: tuple[tuple[float, ...], ...] | None = None
    bounds: tuple[tuple[str, int], ...] = ()
    runs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figure:
    """A figure of one or more panels of one kind."""

    name: str
    title: str
    kind: FigureKind
    panels: tuple[Panel, ...]
    caption: str = ""


@dataclass(frozen=True)
class Verdict:
    """What the results say of one claim of the paper, on one comparison.

    ``effect`` is in ``unit`` and positive in the claim's direction; its interval is a bootstrap
    over seeds and samples. ``detectable`` is the smallest effect that so many seeds could show.
    ``remark`` is what must be known beside the verdict itself: a limit, or that it is no estimate.
    """

    claim: int
    statement: str
    comparison: str
    rates: str
    effect: Estimate
    unit: str
    verdict: VerdictName
    reason: str
    detectable: float | None = None
    remark: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether it is on the claim as a whole, over all rates."""
        return self.comparison == OVERALL and not self.rates


@dataclass(frozen=True)
class ExperimentRecord:
    """Everything that an experiment's page shows.

    ``differences`` are sentences on how this differs from the paper's experiment (model, rows,
    epochs, seeds, data that stands in); ``findings`` are sentences computed from the results;
    ``failures`` pair a run or step with the reason why its numbers are missing.
    """

    name: str
    title: str
    protocol: str
    model: str
    settings: Mapping[str, Any]
    exhibits: tuple[Table | Figure, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    findings: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()
    failures: tuple[tuple[str, str], ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The record ready for JSON; an exhibit says whether it is a table or a figure."""
        record = asdict(self)
        record["schema"] = SCHEMA
        kinds = {kind: name for name, kind in _EXHIBITS.items()}
        for exhibit, written in zip(self.exhibits, record["exhibits"], strict=True):
            written["exhibit"] = kinds[type(exhibit)]
        return record


_EXHIBITS: dict[str, type[Table | Figure]] = {
    "table": Table,
    "figure": Figure,
}


def read_experiment(record: Mapping[str, Any]) -> ExperimentRecord:
    """The experiment of a JSON object that :meth:`ExperimentRecord.as_json` made.

    Raises:
        KeyError, TypeError, ValueError: it is not one, or of another schema.
    """
    if record["schema"] != SCHEMA:
        raise ValueError(f"schema is {record['schema']!r}, expected {SCHEMA}")
    values = {name: value for name, value in record.items() if name != "schema"}
    values["exhibits"] = [_exhibit(exhibit) for exhibit in record["exhibits"]]
    return TypeAdapter(ExperimentRecord).validate_python(values)


def _exhibit(record: Mapping[str, Any]) -> Table | Figure:
    kind = record["exhibit"]
    if kind not in _EXHIBITS:
        raise ValueError(f"an exhibit is {kind!r}, expected one of {', '.join(_EXHIBITS)}")
    values = {name: value for name, value in record.items() if name != "exhibit"}
    exhibit: Table | Figure = TypeAdapter(_EXHIBITS[kind]).validate_python(values)
    return exhibit
