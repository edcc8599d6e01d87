"""What the types of a record do not say: lengths that must agree, matrices that must be square."""

from lpft.results.exhibits import ExperimentRecord, Figure, Panel, Series, Table


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
    for place, row in enumerate(table.rows):
        if len(row) != len(table.columns):
            raise ValueError(
                f"row {place} has {len(row)} cells, expected {len(table.columns)}, one per column"
            )
        if not all(isinstance(cell, str) for cell in row[: table.headers]):
            raise ValueError(f"row {place} has no name: its first cells must be texts")


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
