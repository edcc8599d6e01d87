"""A table as files and as text for a terminal: CSV, Markdown, LaTeX."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import replace

from lpft.report.grid import Cell, CellValue, Column, Table

TERMINAL_WIDTH = 100  # letters in a line
# What a cell knows beside its value: the name of its column in CSV, and how to get it.
_BESIDE: tuple[tuple[str, Callable[[Cell], CellValue]], ...] = (
    ("sd", lambda cell: cell.sd),
    ("low", lambda cell: None if cell.interval is None else cell.interval[0]),
    ("high", lambda cell: None if cell.interval is None else cell.interval[1]),
    ("seeds", lambda cell: cell.seeds),
    ("from", lambda cell: _sources(cell)),
)


def to_csv(table: Table) -> str:
    """Every value with all its digits; what is known beside a value has columns of its own."""
    columns: list[tuple[str, int, Callable[[Cell], CellValue]]] = []
    for place, column in enumerate(table.columns):
        columns.append((column.flat, place, lambda cell: cell.value))
        for name, value in _BESIDE:
            if any(value(row[place]) is not None for row in table.rows):
                columns.append((f"{column.flat} {name}", place, value))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([name for name, _, _ in columns])
    for row in table.rows:
        writer.writerow([value(row[place]) for _, place, value in columns])
    return out.getvalue()


def _sources(cell: Cell) -> str | None:
    """The runs that a value was computed from, with semicolons; None where none are known."""
    folders = [text for origin in cell.origins for text, _ in origin.links]
    return "; ".join(dict.fromkeys(folders)) or None


def to_text(table: Table, width: int | None = None) -> str:
    """Aligned text for a terminal: upper headings over their columns, equal first cells once.

    A table of more than ``width`` letters is cut into several, each with the rows' names.
    """
    if width is None:
        return _aligned(table)
    parts: list[Table] = []
    first, last = table.headers, len(table.columns)
    while first < last or not parts:
        end = min(last, _most_columns(table, first, width))
        parts.append(_part(table, first, end))
        first = end
    return "\n\n".join(map(_aligned, parts))


def _most_columns(table: Table, first: int, width: int) -> int:
    """Where a part that begins at column ``first`` ends: before columns of a heading, if it can."""
    last = len(table.columns)
    fitting = [e for e in range(first + 1, last + 1) if _width(_part(table, first, e)) <= width]
    end = max(fitting, default=first + 1)
    if end == last:
        return end
    begins = end
    while begins > first and table.columns[begins - 1].above == table.columns[end].above:
        begins -= 1
    ends = end
    while ends < last and table.columns[ends].above == table.columns[end].above:
        ends += 1
    whole = begins > first and _width(_part(table, begins, ends)) <= width
    return begins if whole else end


def _part(table: Table, first: int, end: int) -> Table:
    places = [*range(table.headers), *range(first, end)]
    return replace(
        table,
        columns=tuple(table.columns[place] for place in places),
        rows=tuple(tuple(row[place] for place in places) for row in table.rows),
    )


def _width(table: Table) -> int:
    return max(map(len, _aligned(table).splitlines()))


def _aligned(table: Table) -> str:
    columns = [
        [_heading(column), *(row[place].text for row in table.rows)]
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
    return ["" if place and name == names[place - 1] else name for place, name in enumerate(names)]


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
    return "".join(f"\\{c}" if c in "\\|`*_[]$~" else c for c in " ".join(text.split()))


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
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
    "∓": r"$\mp$",
    "\u00a0": "~",
    "⁺": r"$^{+}$",
    **{character: f"\\{character}" for character in "&%$#_"},
}


_MOST_LATEX_COLUMNS = 8
_WRAPPING_SHARE = 0.8
"""Of the text's width, for all columns together whose lines may break."""


def to_latex(table: Table) -> str:
    """A ``table`` environment with booktabs rules, no wider than the text.

    It needs ``\\usepackage{booktabs}``, and ``\\usepackage{graphicx}`` where columns are many.
    Names in scripts other than Latin need LuaLaTeX or XeLaTeX and a font that has them.
    """
    wrapping = sum(column.wraps for column in table.columns)
    layout = "".join(_alignment(column, wrapping) for column in table.columns)
    wide = len(table.columns) > _MOST_LATEX_COLUMNS
    bands = []
    if table.bands:
        names = " & ".join(rf"\multicolumn{{{n}}}{{c}}{{{_latex(a)}}}" for a, n in table.bands)
        bands = [rf"{names} \\", _rules_under(table)]
    heading = _latex_row([_heading(column) for column in table.columns])
    rows = [_latex_row([cell.text for cell in row]) for row in table.rows]
    note = [r"\par\smallskip{\footnotesize " + _latex(table.note) + "}"] if table.note else []
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex(table.caption)}}}",
        rf"\label{{tab:{table.slug}}}",
        *([r"\resizebox{\linewidth}{!}{%"] if wide else []),
        rf"\begin{{tabular}}{{{layout}}}",
        r"\toprule",
        *bands,
        rf"{heading} \\",
        r"\midrule",
        *(rf"{row} \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}" + ("}" if wide else ""),
        *note,
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _heading(column: Column) -> str:
    return f"{column.name} ({column.remark})" if column.remark else column.name


def _rules_under(table: Table) -> str:
    """A rule under every upper heading that is not empty."""
    rules, first = [], 1
    for above, count in table.bands:
        if above:
            rules.append(rf"\cmidrule(lr){{{first}-{first + count - 1}}}")
        first += count
    return " ".join(rules)


def _alignment(column: Column, wrapping: int) -> str:
    if column.wraps:
        return rf"p{{{_WRAPPING_SHARE / wrapping:.2f}\linewidth}}"
    return "r" if column.numeric else "l"


def _latex_row(texts: Sequence[str]) -> str:
    """Cells of a row; the rule or row above must not take a first ``[`` or ``*`` for its option."""
    row = " & ".join(map(_latex, texts))
    return f"{{}}{row}" if row.startswith(("[", "*")) else row


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
