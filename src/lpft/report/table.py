"""Show a table: its cells as text for the page and a terminal, and as CSV, Markdown and LaTeX."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, NamedTuple

import pandas as pd

from lpft.results import formats
from lpft.results.exhibits import Cell, Column, Estimate, Format, Table, Text
from lpft.results.groups import Spread

TERMINAL_WIDTH = 100  # letters in a line
_LONG = 30  # letters: texts beyond break into lines in the page and in LaTeX


@dataclass(frozen=True)
class Origin:
    """Folders of one kind that a number was computed from, as (text, address in the page).

    What the page does not show has no address. The text may be a seed alone, under the kind's name;
    ``folders`` are the names of the folders themselves, for files that have no links.
    """

    name: str
    links: tuple[tuple[str, str | None], ...]
    folders: tuple[str, ...]


Trace = Callable[[Sequence[str]], tuple[Origin, ...]]
"""From the runs of a number to what the page can link."""


Columns = list[tuple[Column, Sequence[Cell | Spread | float]]]
"""The columns of a table with their cells, from the top down."""


def from_columns(name: str, title: str, columns: Columns, note: str, *, headers: int = 1) -> Table:
    """A table from its columns, which hold the same number of cells each."""
    rows = zip(*(map(_cell, cells) for _, cells in columns), strict=True)
    return Table(name, title, tuple(column for column, _ in columns), tuple(rows), note, headers)


def _cell(value: Cell | Spread | float) -> Cell:
    if isinstance(value, Spread):
        return Estimate(value.mean, value.sd)
    return Estimate(value) if isinstance(value, float | int) else value


class CellText(NamedTuple):
    """A cell as text; ``aside``, its uncertainty and remarks, is smaller in the page."""

    main: str
    aside: str = ""
    runs: tuple[str, ...] = ()
    shade: float | None = None

    @property
    def text(self) -> str:
        return f"{self.main} {self.aside}".rstrip()


def untraced(_runs: Sequence[str]) -> tuple[Origin, ...]:
    """No links, for a terminal."""
    return ()


def text_rows(table: Table) -> tuple[tuple[CellText, ...], ...]:
    """All cells as text; a cell with fewer seeds than others says how many."""
    most = max((estimate.count or 0 for estimate in estimates(table, "ours")), default=0)
    return tuple(
        tuple(
            _cell_text(cell, column, most if column.source == "ours" else 0)
            for cell, column in zip(row, table.columns, strict=True)
        )
        for row in table.rows
    )


def estimates(table: Table, source: str) -> list[Estimate]:
    """The numbers of one source."""
    return [
        cell
        for row in table.rows
        for cell, column in zip(row, table.columns, strict=True)
        if isinstance(cell, Estimate) and column.source == source
    ]


def interval_of(estimate: Estimate) -> tuple[float, float] | None:
    """The bounds of a number that has both."""
    if estimate.low is None or estimate.high is None:
        return None
    return estimate.low, estimate.high


def _cell_text(cell: Cell, column: Column, most: int) -> CellText:
    if isinstance(cell, Text):
        return CellText(cell.text, runs=cell.runs)
    if not isinstance(cell, Estimate):
        return CellText(formats.ABSENT if cell is None else cell)
    if cell.value is None:
        return CellText(cell.remark if cell.remark else formats.ABSENT)
    main, uncertainty = _with_uncertainty(cell, cell.value, column)
    fewer = cell.count is not None and cell.count < most
    seeds = f"({formats.counted(cell.count, 'seed')})" if fewer and cell.count is not None else ""
    aside = " ".join(filter(None, (uncertainty, seeds, cell.remark)))
    return CellText(main, aside, cell.runs, cell.shade)


def _with_uncertainty(cell: Estimate, value: float, column: Column) -> tuple[str, str]:
    """A number, and its ± or its interval with as many decimals; effects have no ±."""
    sd = None if column.format == "effect" else cell.sd
    interval = interval_of(cell)
    ends = (sd,) if sd is not None else () if interval is None else interval
    digits = column.digits
    bare_zero = value == 0 and not ends
    if digits is None and column.format in ("number", "effect") and not bare_zero:
        digits = formats.shared_digits((value, *ends))
    texts = [written(end, column.format, digits) for end in ends]
    if sd is None:
        aside = f"[{', '.join(texts)}]" if texts else ""
    else:
        aside = f"± {texts[0]}" if texts[0].strip("0. %") else ""
    return written(value, column.format, digits), aside


def effect_text(effect: Estimate) -> CellText:
    """An effect with its interval, as text."""
    return _cell_text(effect, Column("", format="effect"), 0)


def written(value: float, form: Format, digits: int | None = None) -> str:
    """A number in one of the formats of columns."""
    match form:
        case "scientific":
            return formats.scientific(value, 2 if digits is None else digits)
        case "ratio":
            return formats.ratio_text(value)
        case "percent":
            return f"{formats.fixed(100 * value, 1 if digits is None else digits)} %"
        case "count":
            return formats.whole(value)
        case "rate":
            return formats.rate(value)
        case _:
            return formats.significant(value) if digits is None else formats.fixed(value, digits)


def is_numeric(table: Table, place: int) -> bool:
    """Whether a column has numbers, and no words."""
    if table.columns[place].source == "names" or place < table.headers:
        return False
    return not any(isinstance(row[place], str | Text) for row in table.rows)


def wraps(table: Table, place: int) -> bool:
    """Whether a column has texts so long that their lines must break."""
    cells = (row[place] for row in table.rows)
    return any(len(_words(cell)) > _LONG for cell in cells)


def _words(cell: Cell) -> str:
    if isinstance(cell, Text):
        return cell.text
    return cell if isinstance(cell, str) else ""


def bands(table: Table) -> tuple[tuple[str, int], ...]:
    """The upper headings with the number of columns under each; empty where there are none."""
    if not any(column.above for column in table.columns):
        return ()
    runs = groupby(table.columns, key=lambda column: column.above)
    return tuple((above, len(list(columns))) for above, columns in runs)


def row_groups(table: Table) -> tuple[tuple[tuple[CellText, ...], ...], ...]:
    """Rows that belong together: of one first name, where several columns name the row."""
    rows = text_rows(table)
    if table.headers < 2:
        return (rows,)
    return tuple(tuple(group) for _, group in groupby(rows, key=lambda row: row[0].text))


def one_line_heading(column: Column) -> str:
    """A column's heading with the one above it, for files."""
    if column.full:
        return column.full
    name = f"{column.above}: {column.name}" if column.above else column.name
    return f"{name} ({column.remark})" if column.remark else name


def to_csv(table: Table, trace: Trace = untraced) -> str:
    """Every value with all its digits; what is known beside a value has columns of its own."""
    columns: list[tuple[str, Sequence[Any]]] = []
    for place, column in enumerate(table.columns):
        name = one_line_heading(column)
        cells = [row[place] for row in table.rows]
        columns.append((name, [_value(cell, column) for cell in cells]))
        details = zip(*(_details(cell, trace) for cell in cells), strict=True)
        columns += [
            (f"{name} {what}", values)
            for what, values in zip(_DETAILS, details, strict=False)  # a table may have no rows
            if any(value is not None for value in values)
        ]
    rows = list(zip(*(values for _, values in columns), strict=True))
    frame = pd.DataFrame(rows, columns=[name for name, _ in columns], dtype=object)
    return str(frame.to_csv(index=False, lineterminator="\n"))


_DETAILS = ("sd", "low", "high", "seeds", "from")


def _details(cell: Cell, trace: Trace) -> tuple[Any, ...]:
    """What is known beside a number, in the order of :data:`_DETAILS`."""
    if not isinstance(cell, Estimate):
        return (None,) * len(_DETAILS)
    interval = interval_of(cell)
    low, high = (None, None) if interval is None else interval
    return cell.sd, low, high, cell.count, _sources(trace(cell.runs))


def _value(cell: Cell, column: Column) -> str | float | int | None:
    if isinstance(cell, Text):
        return cell.text if cell.value is None else cell.value
    if not isinstance(cell, Estimate):
        return cell
    if cell.value is not None and column.format == "count":
        return int(cell.value)
    return cell.value


def _sources(origins: Sequence[Origin]) -> str | None:
    """The folders that a value was computed from, with semicolons; None where none is known."""
    names = [name for origin in origins for name in origin.folders]
    return "; ".join(dict.fromkeys(names)) or None


def to_text(table: Table, width: int | None = None) -> str:
    """Aligned text for a terminal: upper headings over their columns, equal first names once.

    A table of more than ``width`` letters is cut into several, each with the rows' names.
    """
    if width is None:
        return _text(table)
    parts: list[Table] = []
    first, last = table.headers, len(table.columns)
    while first < last or not parts:
        end = min(last, _end_of_part(table, first, width))
        parts.append(_part(table, first, end))
        first = end
    return "\n\n".join(map(_text, parts))


def _end_of_part(table: Table, first: int, width: int) -> int:
    """Where a part that begins at column ``first`` ends: before columns of a heading, if it can."""
    last = len(table.columns)

    def fits(begin: int, end: int) -> bool:
        return max(map(len, _text(_part(table, begin, end)).splitlines())) <= width

    end = max((e for e in range(first + 1, last + 1) if fits(first, e)), default=first + 1)
    if end == last:
        return end
    above = [column.above for column in table.columns]
    begins, ends = end, end
    while begins > first and above[begins - 1] == above[end]:
        begins -= 1
    while ends < last and above[ends] == above[end]:
        ends += 1
    return begins if begins > first and fits(begins, ends) else end


def _part(table: Table, first: int, end: int) -> Table:
    indices = [*range(table.headers), *range(first, end)]
    return replace(
        table,
        columns=tuple(table.columns[index] for index in indices),
        rows=tuple(tuple(row[index] for index in indices) for row in table.rows),
    )


def _text(table: Table) -> str:
    rows = [[cell.text for cell in row] for row in text_rows(table)]
    if table.headers > 1:
        names = [row[0] for row in rows]
        for above, name, row in zip(names, names[1:], rows[1:], strict=False):
            row[0] = "" if name == above else name
    return "\n".join(
        formats.aligned(
            [_heading(column) for column in table.columns],
            rows,
            [is_numeric(table, place) for place in range(len(table.columns))],
            bands(table),
            ruled=True,
        )
    )


def _heading(column: Column) -> str:
    return f"{column.name} ({column.remark})" if column.remark else column.name


def to_markdown(table: Table) -> str:
    """A GitHub-flavoured table with its title above and its note below."""
    indices = range(len(table.columns))
    lines = [
        [_markdown(one_line_heading(column)) for column in table.columns],
        ["---:" if is_numeric(table, index) else ":---" for index in indices],
        *([_markdown(cell.text) for cell in row] for row in text_rows(table)),
    ]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    note = f"\n{_markdown(table.note)}\n" if table.note else ""
    return f"{_markdown(table.title)}\n\n{body}\n{note}"


def _markdown(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "\\|`*_[]$~" else c for c in " ".join(text.split()))


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "|": r"\textbar{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "±": r"$\pm$",
        "−": r"$-$",
        "–": "--",
        "·": r"$\cdot$",
        "×": r"$\times$",
        "≥": r"$\geq$",
        "≤": r"$\leq$",
        "≈": r"$\approx$",
        "⊗": r"$\otimes$",
        "∓": r"$\mp$",
        "\u00a0": "~",
        "⁺": r"$^{+}$",
        **{character: f"\\{character}" for character in "&%$#_{}"},
    }
)
_LATEX_ROWS = 40  # on a page, with caption and note
_LATEX_LETTERS = 80  # in a line of text; a table that needs more is shrunk
_WRAPPING_SHARES = (0.3, 0.8)
"""Least and largest share of the text's width, for all columns together whose lines may break."""


def to_latex(table: Table, label: str | None = None) -> str:
    """A ``table`` environment with booktabs rules, no wider than the text.

    It needs ``\\usepackage{booktabs}``, and ``\\usepackage{graphicx}`` where it is shrunk to the
    width. Rows that one page does not hold are in further environments: ``longtable`` would not
    work in two columns. Names in scripts other than Latin need LuaLaTeX or XeLaTeX and a font that
    has them. The label is ``tab:`` with ``label``, by default the table's name: LaTeX refers to
    the wrong table where two have the same.
    """
    name = table.name if label is None else label
    count = max(1, math.ceil(len(table.rows) / _LATEX_ROWS))
    rows = text_rows(table)
    parts = [
        _latex_part(
            table,
            rows[part * _LATEX_ROWS : (part + 1) * _LATEX_ROWS],
            table.title if count == 1 else f"{table.title} (part {part + 1} of {count})",
            f"tab:{name}" + (f"-{part + 1}" if part else ""),
        )
        for part in range(count)
    ]
    return "\n".join(parts)


def _latex_part(table: Table, rows: Sequence[Sequence[CellText]], title: str, label: str) -> str:
    indices = range(len(table.columns))
    broken = [wraps(table, index) for index in indices]
    names = [_latex(_heading(column)) for column in table.columns]
    above = [_latex(column.above) for column in table.columns]
    # The width of what does not break, in letters, with two between columns.
    letters = sum(
        2 + max([len(_heading(table.columns[index])), *(len(row[index].text) for row in rows)])
        for index in indices
        if not broken[index]
    )
    least, most = _WRAPPING_SHARES
    share = min(most, max(least, 1 - letters / _LATEX_LETTERS)) if any(broken) else 0.0
    paragraph = rf"p{{{share / max(1, sum(broken)):.2f}\linewidth}}"
    frame = pd.DataFrame(
        [[_latex(cell.text) for cell in row] for row in rows],
        columns=pd.MultiIndex.from_arrays([above, names]) if any(above) else names,
    )
    text = frame.style.hide(axis="index").to_latex(
        column_format="".join(
            paragraph if broken[index] else "r" if is_numeric(table, index) else "l"
            for index in indices
        ),
        hrules=True,
        position_float="centering",
        multicol_align="c",
        caption=_latex(title),
        label=label,
    )
    if any(above):
        text = text.replace("\\\\\n", f"\\\\\n{_rules_under(bands(table))}\n", 1)
    if letters + share * _LATEX_LETTERS > _LATEX_LETTERS:
        text = text.replace(r"\begin{tabular}", r"\resizebox{\linewidth}{!}{\begin{tabular}")
        text = text.replace(r"\end{tabular}", r"\end{tabular}}")
    if table.note:
        note = rf"\par\smallskip{{\footnotesize {_latex(table.note)}}}"
        text = text.replace(r"\end{table}", f"{note}\n" + r"\end{table}")
    return str(text)


def _rules_under(above: Sequence[tuple[str, int]]) -> str:
    """A rule under every upper heading that is not empty."""
    rules, first = [], 1
    for name, count in above:
        if name:
            rules.append(rf"\cmidrule(lr){{{first}-{first + count - 1}}}")
        first += count
    return " ".join(rules)


def _latex(text: str) -> str:
    """Text for LaTeX; the end of the row above must not take a first ``[`` or ``*`` for its own."""
    escaped = text.translate(_LATEX)
    return f"{{}}{escaped}" if escaped.startswith(("[", "*")) else escaped
