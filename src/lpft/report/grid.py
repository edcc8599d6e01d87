"""A table once, for every place that shows it: the page, CSV, Markdown and LaTeX."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from lpft.report.numbers import ABSENT, Spread, fixed, significant, with_sd

CellValue = str | float | int | None


@dataclass(frozen=True)
class Column:
    """A column's heading, with a heading above it that it may share with its neighbours.

    ``full`` is the heading in files, ``wraps`` allows lines to break in the page.
    """

    name: str
    above: str = ""
    numeric: bool = True
    full: str = ""
    wraps: bool = False

    @property
    def flat(self) -> str:
        """The heading in one line, for files."""
        if self.full:
            return self.full
        return f"{self.above}: {self.name}" if self.above else self.name


@dataclass(frozen=True)
class Cell:
    """What is shown, the value behind it with its standard deviation, and links in the page.

    ``shade`` is how strongly the page colours the cell, from 0 to 1.
    """

    text: str
    value: CellValue
    sd: float | None = None
    links: tuple[tuple[str, str], ...] = ()
    shade: float | None = None


@dataclass(frozen=True)
class Table:
    """Rows of cells under columns; the first ``headers`` cells of a row name it.

    Where ``spanning`` is true, equal first cells of consecutive rows are one group of rows.
    """

    slug: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    headers: int = 1
    spanning: bool = False

    @property
    def bands(self) -> tuple[tuple[str, int], ...]:
        """The upper headings with the number of columns under each; empty where there are none."""
        if not any(column.above for column in self.columns):
            return ()
        bands = groupby(self.columns, key=lambda column: column.above)
        return tuple((above, len(list(columns))) for above, columns in bands)

    @property
    def row_groups(self) -> tuple[tuple[tuple[Cell, ...], ...], ...]:
        """Rows that belong together."""
        if not self.spanning:
            return (self.rows,)
        groups = groupby(self.rows, key=lambda row: row[0].text)
        return tuple(tuple(rows) for _, rows in groups)


def text_cells(values: Sequence[str]) -> list[Cell]:
    """Cells of words."""
    return [Cell(value, value) for value in values]


def number_cells(spreads: Sequence[Spread | None], digits: int | None = 3) -> list[Cell]:
    """Cells of means, with their standard deviation where there is one.

    ``digits`` is the number of decimals; None means three significant digits.
    """
    cells = []
    for spread in spreads:
        if spread is None:
            cells.append(Cell(ABSENT, None))
        elif digits is None:
            sd = "" if spread.sd is None else f" ± {significant(spread.sd)}"
            cells.append(Cell(f"{significant(spread.mean)}{sd}", spread.mean, spread.sd))
        else:
            cells.append(Cell(with_sd(spread, digits), spread.mean, spread.sd))
    return cells


def ratio_cells(values: Sequence[float | None]) -> list[Cell]:
    """Cells of plain numbers with two decimals."""
    return [Cell(fixed(value, 2), value) for value in values]


def from_columns(
    slug: str,
    caption: str,
    columns: Sequence[tuple[Column, Sequence[Cell]]],
    *,
    note: str = "",
    headers: int = 1,
    spanning: bool = False,
) -> Table:
    """A table from its columns; all hold the same number of cells."""
    rows = tuple(zip(*(cells for _, cells in columns), strict=True))
    headings = tuple(column for column, _ in columns)
    return Table(slug, caption, headings, rows, note, headers, spanning)


def to_csv(table: Table) -> str:
    """Every value with all its digits; a standard deviation has a column of its own."""
    spread = [any(row[i].sd is not None for row in table.rows) for i in range(len(table.columns))]
    names: list[str] = []
    for column, wide in zip(table.columns, spread, strict=True):
        names += [column.flat, f"{column.flat} sd"] if wide else [column.flat]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for row in table.rows:
        line: list[CellValue] = []
        for cell, wide in zip(row, spread, strict=True):
            line += [cell.value, cell.sd] if wide else [cell.value]
        writer.writerow(line)
    return out.getvalue()


def to_text(table: Table) -> str:
    """Aligned text for a terminal: upper headings over their columns, equal first cells once."""
    columns = [
        [column.name, *(row[place].text for row in table.rows)]
        for place, column in enumerate(table.columns)
    ]
    if table.spanning:
        columns[0][1:] = _without_repetitions(columns[0][1:])
    widths = [max(map(len, cells)) for cells in columns]
    place = 0
    for above, count in table.bands:
        # The last column of a band makes room for a heading that is longer than its columns.
        missing = len(above) - sum(widths[place : place + count]) - 2 * (count - 1)
        widths[place + count - 1] += max(0, missing)
        place += count
    lines = [
        "  ".join(
            f"{text:{'>' if column.numeric else '<'}{width}}"
            for text, column, width in zip(cells, table.columns, widths, strict=True)
        ).rstrip()
        for cells in zip(*columns, strict=True)
    ]
    bands, place = [], 0
    for above, count in table.bands:
        bands.append(f"{above:>{sum(widths[place : place + count]) + 2 * (count - 1)}}")
        place += count
    heading = ["  ".join(bands).rstrip()] if bands else []
    return "\n".join([*heading, lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _without_repetitions(names: Sequence[str]) -> list[str]:
    before = ["", *names[:-1]]
    return ["" if name == last else name for name, last in zip(names, before, strict=True)]


def to_markdown(table: Table) -> str:
    """A GitHub-flavoured table with its caption above and its note below."""
    rules = ["---:" if column.numeric else ":---" for column in table.columns]
    lines = [[_markdown(column.flat) for column in table.columns], rules]
    lines += [[_markdown(cell.text) for cell in row] for row in table.rows]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    note = f"\n{_markdown(table.note)}\n" if table.note else ""
    return f"{_markdown(table.caption)}\n\n{body}\n{note}"


def _markdown(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "\\|`*_[]" else c for c in " ".join(text.split()))


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "–": "--",
    "·": r"$\cdot$",
    "⁺": r"$^{+}$",
    **{character: f"\\{character}" for character in "&%$#_"},
}


def to_latex(table: Table) -> str:
    """A ``table`` environment with booktabs rules; it needs ``\\usepackage{booktabs}``."""
    layout = "".join("r" if column.numeric else "l" for column in table.columns)
    bands = []
    if table.bands:
        bands = [" & ".join(rf"\multicolumn{{{n}}}{{c}}{{{_latex(a)}}}" for a, n in table.bands)]
    heading = " & ".join(_latex(column.name) for column in table.columns)
    rows = [" & ".join(_latex(cell.text) for cell in row) for row in table.rows]
    note = [r"\par\smallskip{\footnotesize " + _latex(table.note) + "}"] if table.note else []
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex(table.caption)}}}",
        rf"\begin{{tabular}}{{{layout}}}",
        r"\toprule",
        *(rf"{line} \\" for line in [*bands, heading]),
        r"\midrule",
        *(rf"{row} \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        *note,
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
