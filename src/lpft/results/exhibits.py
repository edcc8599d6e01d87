"""What an experiment shows, as data: tables, figures, verdicts, and ``experiment.json`` of them.

Recipes make these records, the report shows them; neither knows the other.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Discriminator, Tag

from lpft.results.folder import Located, UnreadFolder, folders_with, read_folders
from lpft.results.schema import UnusableRecord, Values, check_schema, read_json, validated

FigureKind = Literal["lines", "points", "scatter", "heat", "bars", "reliability"]
Format = Literal["number", "effect", "scientific", "ratio", "percent", "count", "rate"]
VerdictName = Literal["holds", "does not hold", "cannot tell"]

RECORD = "experiment.json"
SCHEMA = 1
OVERALL = "overall"
"""The comparison of a verdict on a claim as a whole, or at one choice of rates where it names one;
its effect has no value."""

MOST_POINTS = 240
"""Points of a line: more cannot be seen at the size of a panel."""

_UNRECORDED = {"recorded": False}
"""Of fields that say how something is shown, and are not written to ``experiment.json``."""


@dataclass(frozen=True)
class Estimate:
    """One number with what is known of its uncertainty and where it comes from.

    ``sd`` is the sample standard deviation over ``count`` seeds; ``low`` and ``high`` bound a 95 %
    interval; ``runs`` are the folders, relative to the experiment's, that it was computed from
    (none for a published number). ``remark`` is shown beside the number, or in place of one that
    is missing; ``shade`` colours the cell, from 0 to 1, below 0 for what is wrong.
    """

    value: float | None
    sd: float | None = None
    count: int | None = None
    low: float | None = None
    high: float | None = None
    runs: tuple[str, ...] = ()
    remark: str = field(default="", metadata=_UNRECORDED)
    shade: float | None = field(default=None, metadata=_UNRECORDED)

    @property
    def with_bounds(self) -> tuple[float, float, float] | None:
        """Value, low and high; a missing bound is the value itself. None without a value."""
        if self.value is None:
            return None
        low = self.value if self.low is None else self.low
        return self.value, low, self.value if self.high is None else self.high


@dataclass(frozen=True)
class Text:
    """Words in a cell, with the runs that they stand for; files have ``value`` in their place."""

    text: str
    value: str | None = None
    runs: tuple[str, ...] = ()


Cell = Estimate | Text | str | None


@dataclass(frozen=True)
class Column:
    """A column of a table.

    ``above`` is a heading shared with neighbours, ``digits`` the decimals that are shown (None:
    three significant digits), ``source`` who found its numbers. ``format`` is how numbers are
    written (an ``effect`` shows its interval, not its standard deviation), ``full`` the heading in
    files, and ``remark`` what must be known of all its numbers.
    """

    name: str
    above: str = ""
    digits: int | None = None
    source: Literal["ours", "published", "names"] = "ours"
    format: Format = field(default="number", metadata=_UNRECORDED)
    full: str = field(default="", metadata=_UNRECORDED)
    remark: str = field(default="", metadata=_UNRECORDED)


@dataclass(frozen=True)
class Table:
    """A table: each cell is an estimate, a text, or None where there is nothing.

    The first ``headers`` columns name the row. One without a name has no files. One that is
    ``folded`` is a detail, which a page shows when it is asked for.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    headers: int = 1
    folded: bool = False


@dataclass(frozen=True)
class Series:
    """One line or set of points; ``low`` and ``high`` are bands or error bars around ``y``.

    ``method`` gives it that method's colour, ``dashed`` sets a second series of it apart;
    ``texts`` label single points. ``marked`` are the positions of the points of a line that get a
    marker (None: all, or some of a dense line).
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
    marked: tuple[int, ...] | None = field(default=None, metadata=_UNRECORDED)


def thinned(count: int, most: int) -> NDArray[np.int64]:
    """Indices of at most ``most`` of ``count`` points, evenly spaced, with both ends."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


@dataclass(frozen=True)
class Panel:
    """One set of axes. ``ticks`` name the positions 0, 1, ... along x (``points``, ``bars``).

    A ``heat`` panel has ``matrix`` in place of series, with rows and columns sorted by class and
    ``bounds`` the (class name, first row) of each class. ``runs`` are those of the panel as a
    whole, where its series name none. Panels of one ``strip`` stand in one row. ``level`` is a
    line across, with its name; ``from_zero`` begins the axis of the values at 0.
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
    strip: str = field(default="", metadata=_UNRECORDED)
    level: tuple[float, str] | None = field(default=None, metadata=_UNRECORDED)
    from_zero: bool = field(default=False, metadata=_UNRECORDED)


@dataclass(frozen=True)
class Figure:
    """A figure of one or more panels of one kind; ``values_in`` says where its numbers are.

    One that is ``folded`` is a detail, which a page shows when it is asked for.
    """

    name: str
    title: str
    kind: FigureKind
    panels: tuple[Panel, ...]
    caption: str = ""
    folded: bool = False
    values_in: str = field(default=RECORD, metadata=_UNRECORDED)


@dataclass(frozen=True)
class Verdict:
    """What the results say of one claim of the paper, on one comparison.

    ``effect`` is in ``unit`` and positive in the claim's direction; its interval is a bootstrap
    over seeds and samples. ``detectable`` is the smallest effect that these seeds could show.
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


def _kind(exhibit: Any) -> str | None:
    """``table`` or ``figure``, as JSON says it beside an exhibit."""
    if isinstance(exhibit, Mapping):
        return exhibit.get("exhibit")
    return "table" if isinstance(exhibit, Table) else "figure"


Exhibit = Annotated[
    Annotated[Table, Tag("table")] | Annotated[Figure, Tag("figure")], Discriminator(_kind)
]


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
    exhibits: tuple[Exhibit, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    findings: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()
    failures: tuple[tuple[str, str], ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The record ready for JSON; an exhibit says whether it is a table or a figure."""
        record: dict[str, Any] = _recorded(self)
        record["schema"] = SCHEMA
        for exhibit, written in zip(self.exhibits, record["exhibits"], strict=True):
            written["exhibit"] = _kind(exhibit)
        return record


def _recorded(value: Any) -> Any:
    """Dataclasses as dictionaries, without what only says how they are shown."""
    if is_dataclass(value):
        return {
            part.name: _recorded(getattr(value, part.name))
            for part in fields(value)
            if part.metadata.get("recorded", True)
        }
    if isinstance(value, Mapping):
        return {key: _recorded(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_recorded(item) for item in value]
    return value


def read_experiment(content: Values) -> ExperimentRecord:
    """The experiment of a JSON object that :meth:`ExperimentRecord.as_json` made.

    Raises:
        UnusableRecord: it is damaged or of another schema.
    """
    check_schema(content, RECORD, SCHEMA, "lpft reproduce")
    record = validated(ExperimentRecord, content, RECORD)
    try:
        check_shapes(record)
    except ValueError as problem:
        raise UnusableRecord(f"{RECORD}: {problem}") from problem
    return record


def check_shapes(record: ExperimentRecord) -> None:
    """Check that every exhibit can be drawn.

    Raises:
        ValueError: it cannot; the message names the exhibit and says what does not agree.
    """
    for exhibit in record.exhibits:
        try:
            if isinstance(exhibit, Table):
                _check_table(exhibit)
            else:
                _check_figure(exhibit)
        except ValueError as problem:
            raise ValueError(f"exhibit {exhibit.name}: {problem}") from problem


def _check_table(table: Table) -> None:
    if not 1 <= table.headers <= len(table.columns):
        raise ValueError(f"{table.headers} of its {len(table.columns)} columns name the rows")
    for number, row in enumerate(table.rows):
        if len(row) != len(table.columns):
            raise ValueError(
                f"row {number} has {len(row)} cells, expected {len(table.columns)}, one per column"
            )
        if not all(isinstance(cell, str) for cell in row[: table.headers]):
            raise ValueError(f"row {number} has no name: its first cells must be texts")


def _check_figure(figure: Figure) -> None:
    for panel in figure.panels:
        try:
            if figure.kind == "heat":
                _check_matrix(panel)
            elif panel.matrix is not None:
                raise ValueError(f"a matrix in a figure of {figure.kind}")
            for series in panel.series:
                _check_series(series)
        except ValueError as problem:
            raise ValueError(f"panel {panel.title!r}: {problem}") from problem


def _check_matrix(panel: Panel) -> None:
    if not panel.matrix:
        raise ValueError("a heat map without a matrix")
    rows = len(panel.matrix)
    if any(len(row) != rows for row in panel.matrix):
        raise ValueError(f"a matrix that is not square, of {rows} rows")
    firsts = [first for _, first in panel.bounds]
    if firsts and not (firsts[0] == 0 and firsts == sorted(set(firsts)) and firsts[-1] < rows):
        raise ValueError(f"classes begin at rows {firsts}, expected 0 and then ascending")


def _check_series(series: Series) -> None:
    lengths = {"y": series.y, "low": series.low, "high": series.high}
    for name, values in lengths.items():
        if values is not None and len(values) != len(series.x):
            raise ValueError(f"{series.label}: {len(series.x)} x and {len(values)} {name}")
    if series.texts and len(series.texts) != len(series.x):
        raise ValueError(f"{series.label}: {len(series.x)} x and {len(series.texts)} texts")


def find_experiments(
    directory: Path,
) -> tuple[tuple[Located[ExperimentRecord], ...], tuple[UnreadFolder, ...]]:
    """Read every ``experiment.json`` at or below ``directory``, ordered by the experiments' names.

    What is of another schema, or damaged, comes back as :class:`UnreadFolder` with its reason.
    Hidden folders are not searched.
    """

    def read(folder: Path, name: str) -> Located[ExperimentRecord]:
        content = read_json(folder / RECORD, printable=True)
        return Located(folder, name, read_experiment(content))

    experiments, unread = read_folders(
        folders_with(RECORD, directory), directory, "experiment", read
    )
    return tuple(sorted(experiments, key=_order)), unread


def _order(experiment: Located[ExperimentRecord]) -> tuple[list[tuple[int, str]], str]:
    """By name, with figure2 before figure10."""
    parts = re.findall(r"\d+|\D+", experiment.record.name)
    return [(int(part) if part.isdecimal() else -1, part) for part in parts], experiment.name
