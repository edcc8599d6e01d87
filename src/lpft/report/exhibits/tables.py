"""Exhibits and verdicts as tables for the page, files and terminals."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from lpft.paper import MODEL
from lpft.report.exhibits.cautions import Cautioned, cautions_of
from lpft.report.grid import Cell, Column, Origin, Table, from_columns, shown, text_cells
from lpft.report.numbers import ABSENT, counted, shared_digits, significant
from lpft.results.exhibits import (
    Column as ExhibitColumn,
)
from lpft.results.exhibits import (
    Estimate,
    ExperimentRecord,
    Verdict,
)
from lpft.results.exhibits import (
    Table as TableExhibit,
)
from lpft.results.groups import model_name

Trace = Callable[[Sequence[str]], tuple[Origin, ...]]
"""From the runs of an estimate to what the page can link."""

_LONG = 30  # letters: texts beyond break into lines in the page


def untraced(_runs: Sequence[str]) -> tuple[Origin, ...]:
    """No links, for files and terminals."""
    return ()


def exhibit_table(table: TableExhibit, model: str, slug: str, *, trace: Trace = untraced) -> Table:
    """A table exhibit, with its notes on seeds, intervals and published numbers.

    ``model`` is the experiment's, for headings that do not say whose numbers stand below them.
    """
    cautioned = cautions_of(table)
    most = max((_seeds(cell) for cell in _estimates(table, "ours")), default=0)
    compared = any(column.source == "published" for column in table.columns)
    columns = tuple(
        _column(table, place, model if compared else None, cautioned)
        for place in range(len(table.columns))
    )
    rows = []
    for place, row in enumerate(table.rows):
        cells = [
            _cell(cell, column, most, trace)
            for cell, column in zip(row, table.columns, strict=True)
        ]
        if place in cautioned.rows:
            remark = cautioned.rows[place].remark
            cells = [
                _remarked(cell, remark) if column.source == "published" else cell
                for cell, column in zip(cells, table.columns, strict=True)
            ]
        rows.append(tuple(cells))
    return Table(
        slug=slug,
        caption=table.title,
        columns=columns,
        rows=tuple(rows),
        note=_note(table, cautioned, most),
        headers=table.headers,
        spanning=table.headers > 1,
    )


def _column(table: TableExhibit, place: int, model: str | None, cautioned: Cautioned) -> Column:
    column = table.columns[place]
    cells = [row[place] for row in table.rows]
    texts = [cell for cell in cells if isinstance(cell, str)]
    is_number = column.source != "names" and place >= table.headers and not texts
    remarks = [_whose(column, model)] if is_number and model is not None else []
    if place in cautioned.columns:
        remarks.append(cautioned.columns[place].remark)
    return Column(
        name=column.name,
        above=column.above,
        numeric=is_number,
        wraps=any(len(text) > _LONG for text in texts),
        remark=", ".join(remark for remark in remarks if remark),
        published=column.source == "published",
    )


def _whose(column: ExhibitColumn, model: str) -> str:
    """Who found the numbers, as far as the heading does not say it already."""
    heading = f"{column.above} {column.name}".lower()
    words = ["published", MODEL] if column.source == "published" else [model_name(model)]
    return ", ".join(word for word in words if word.lower() not in heading)


def _cell(cell: Estimate | str | None, column: ExhibitColumn, most: int, trace: Trace) -> Cell:
    if cell is None:
        return Cell(ABSENT, None)
    if isinstance(cell, str):
        return Cell(cell, cell)
    return estimate_cell(cell, column.digits, most if column.source == "ours" else 0, trace)


def estimate_cell(
    estimate: Estimate, digits: int | None, most: int = 0, trace: Trace = untraced
) -> Cell:
    """A number with what is known of its uncertainty.

    That is its standard deviation, or where it has none its interval, and how many seeds it is
    of where these are fewer than ``most``. None for ``digits``: three significant ones in all.
    """
    interval = _interval(estimate)
    if digits is None:
        ends = (estimate.sd,) if interval is None or estimate.sd is not None else interval
        digits = shared_digits((estimate.value, *ends))
    asides = []
    if estimate.value is not None:
        if estimate.sd is not None:
            asides.append(f"± {shown(estimate.sd, digits)}")
        elif interval is not None:
            asides.append(interval_text(interval, digits))
        if estimate.count is not None and estimate.count < most:
            asides.append(f"({counted(estimate.count, 'seed')})")
    aside = " ".join(asides)
    return Cell(
        text=f"{shown(estimate.value, digits)} {aside}".rstrip(),
        value=estimate.value,
        sd=estimate.sd,
        aside=aside,
        interval=interval,
        seeds=estimate.count,
        origins=trace(estimate.runs),
    )


def interval_text(interval: tuple[float, float], digits: int | None = None) -> str:
    """``[low, high]``."""
    return f"[{shown(interval[0], digits)}, {shown(interval[1], digits)}]"


def _interval(estimate: Estimate) -> tuple[float, float] | None:
    if estimate.low is None or estimate.high is None:
        return None
    return estimate.low, estimate.high


def _remarked(cell: Cell, remark: str) -> Cell:
    if cell.value is None:
        return cell
    aside = f"{cell.aside} {remark}".strip()
    return replace(cell, text=f"{cell.main} {aside}", aside=aside)


def _estimates(table: TableExhibit, source: str) -> list[Estimate]:
    return [
        cell
        for row in table.rows
        for cell, column in zip(row, table.columns, strict=True)
        if isinstance(cell, Estimate) and column.source == source
    ]


def _seeds(estimate: Estimate) -> int:
    return 0 if estimate.count is None else estimate.count


def _note(table: TableExhibit, cautioned: Cautioned, most: int) -> str:
    ours, published = _estimates(table, "ours"), _estimates(table, "published")
    sentences = [table.note]
    if most == 1:
        sentences.append("One seed: nothing is known of the spread over seeds.")
    elif any(cell.sd is not None for cell in ours):
        fewer = any(0 < _seeds(cell) < most for cell in ours)
        over = f" over {counted(most, 'seed')}" if most else " over seeds"
        over += ", or over as many as stand beside it" if fewer else ""
        known = "standard deviation" in table.note
        sentences.append(f"Here{over}." if known else f"Mean ± standard deviation{over}.")
    bracketed = any(cell.sd is None and _interval(cell) is not None for cell in ours)
    if bracketed and "interval" not in table.note:
        sentences.append("In brackets: 95 % interval.")
    counts = sorted({_seeds(cell) for cell in published if cell.sd is not None} - {0})
    if counts:
        sentences.append(f"Published: over {' or '.join(map(str, counts))} seeds.")
    return " ".join([*(text for text in sentences if text), *cautioned.sentences])


def verdict_table(record: ExperimentRecord) -> Table:
    """Every verdict with its effect and reason, for files."""
    verdicts = record.verdicts
    columns: list[tuple[Column, Sequence[Cell]]] = [
        (Column("Claim", numeric=False), [Cell(str(v.claim), v.claim) for v in verdicts]),
        (_text("Statement"), text_cells([v.statement for v in verdicts])),
        (_text("Comparison"), text_cells([v.comparison for v in verdicts])),
        (_text("Rates"), text_cells([v.rates for v in verdicts])),
        (Column("Effect"), [effect_cell(v) for v in verdicts]),
        (_text("Unit"), text_cells([v.unit for v in verdicts])),
        (
            Column("Detectable"),
            [Cell(significant(v.detectable), v.detectable) for v in verdicts],
        ),
        (_text("Verdict"), text_cells([v.verdict for v in verdicts])),
        (_text("Remark"), text_cells([v.remark for v in verdicts])),
        (_text("Reason"), text_cells([v.reason for v in verdicts])),
    ]
    return from_columns(
        "verdicts", f"Verdicts: {record.title}", columns, note=VERDICT_NOTE, headers=3
    )


VERDICT_NOTE = (
    "Effects are positive in the claim's direction; in brackets their 95 % bootstrap interval over "
    "seeds and samples. Detectable: the smallest effect that so many seeds could show."
)


def effect_cell(verdict: Verdict, trace: Trace = untraced) -> Cell:
    """The effect with its interval; its standard deviation is not shown, but kept for files."""
    cell = estimate_cell(replace(verdict.effect, sd=None), None, trace=trace)
    return replace(cell, sd=verdict.effect.sd)


def _text(name: str) -> Column:
    return Column(name, numeric=False, wraps=True)
