"""A table once, for every place that shows it: the page, CSV, Markdown and LaTeX."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from lpft.report.numbers import ABSENT, Spread, fixed, significant

CellValue = str | float | int | None


@dataclass(frozen=True)
class Column:
    """A column's heading, with a heading above it that it may share with its neighbours.

    ``full`` is the heading in files, ``wraps`` allows lines to break in the page. ``remark`` is
    what must be known of all its numbers, ``published`` whether they are not ours.
    """

    name: str
    above: str = ""
    numeric: bool = True
    full: str = ""
    wraps: bool = False
    remark: str = ""
    published: bool = False

    @property
    def flat(self) -> str:
        """The heading in one line, for files."""
        if self.full:
            return self.full
        name = f"{self.above}: {self.name}" if self.above else self.name
        return f"{name} ({self.remark})" if self.remark else name


@dataclass(frozen=True)
class Origin:
    """Folders of one kind that a number was computed from, as (text, address in the page).

    What the page does not show has no address.
    """

    name: str
    links: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True)
class Cell:
    """What is shown, the value behind it with its uncertainty, and links in the page.

    ``links`` are (text, name of a run); where they are ``folded``, the page shows them behind the
    text. ``aside`` is the end of ``text`` that the page shows smaller. ``interval`` is a 95 %
    interval, ``seeds`` how many were averaged, ``origins`` what the value was computed from.
    ``shade`` is how strongly the page colours the cell, from 0 to 1.
    """

    text: str
    value: CellValue
    sd: float | None = None
    links: tuple[tuple[str, str], ...] = ()
    folded: bool = False
    shade: float | None = None
    aside: str = ""
    interval: tuple[float, float] | None = None
    seeds: int | None = None
    origins: tuple[Origin, ...] = ()

    @property
    def main(self) -> str:
        """The text without ``aside``."""
        return self.text.removesuffix(self.aside).rstrip()


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
            continue
        sd = "" if spread.sd is None else f"± {shown(spread.sd, digits)}"
        text = f"{shown(spread.mean, digits)} {sd}".rstrip()
        cells.append(Cell(text, spread.mean, spread.sd, aside=sd))
    return cells


def shown(value: float | None, digits: int | None) -> str:
    """A number with ``digits`` decimals; None means three significant digits."""
    return significant(value) if digits is None else fixed(value, digits)


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
