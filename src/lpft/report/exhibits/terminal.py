"""An experiment's findings, tables and verdicts as plain text for a terminal."""

from collections.abc import Iterator, Sequence
from textwrap import fill, indent

from lpft.report.exhibits.reading import MARKS, read_protocol, read_tally, read_time
from lpft.report.exhibits.tables import VERDICT_NOTE, exhibit_table, untraced
from lpft.report.exhibits.verdicts import ClaimView, VerdictRow, view_claims
from lpft.report.grid import Column, from_columns, text_cells
from lpft.report.writers import TERMINAL_WIDTH, to_text
from lpft.results.exhibits import ExperimentRecord, Verdict
from lpft.results.exhibits import Figure as FigureExhibit
from lpft.results.exhibits import Table as TableExhibit
from lpft.results.groups import model_name

_UNDER = "    "  # what belongs to the line above


def format_experiment(record: ExperimentRecord) -> str:
    """Findings, tables and verdicts of an experiment, with what its numbers are of.

    Figures are named only. Tables that are wider than a terminal are cut into several.
    """
    tables = [exhibit for exhibit in record.exhibits if isinstance(exhibit, TableExhibit)]
    figures = [exhibit.title for exhibit in record.exhibits if isinstance(exhibit, FigureExhibit)]
    missing = [f"{name}: {reason}" for name, reason in record.failures]
    parts = [
        _wrapped(f"{record.title} ({record.name}, {model_name(record.model)})"),
        _listed("", record.findings),
        *(_table(table, record.model) for table in tables),
        *_verdicts(record.verdicts),
        _listed("In the page, figures:", figures),
        _wrapped(f"Protocol {read_protocol(record)}"),
        _listed("How it differs from the paper's experiment:", record.differences),
        _listed("Missing:", missing),
        f"Time: {read_time(record)}." if record.timings else "",
    ]
    return "\n\n".join(part for part in parts if part)


def _wrapped(text: str) -> str:
    return fill(text, TERMINAL_WIDTH, break_on_hyphens=False)


def _listed(heading: str, sentences: Sequence[str]) -> str:
    lines = [
        fill(f"- {sentence}", TERMINAL_WIDTH, subsequent_indent="  ", break_on_hyphens=False)
        for sentence in sentences
    ]
    return "\n".join([heading] * bool(heading and lines) + lines)


def _table(table: TableExhibit, model: str) -> str:
    shown = exhibit_table(table, model, table.name)
    note = [_wrapped(shown.note)] if shown.note else []
    return "\n\n".join([shown.caption, to_text(shown, TERMINAL_WIDTH), *note])


def _verdicts(verdicts: Sequence[Verdict]) -> Iterator[str]:
    if not verdicts:
        return
    yield f"Verdicts: {read_tally(verdicts)}"
    for claim in view_claims(verdicts, untraced):
        yield _claim(claim)
    yield _wrapped(VERDICT_NOTE)


def _claim(claim: ClaimView) -> str:
    """The claim, then a line for each comparison with its reason below it."""
    parts = [_wrapped(f"{claim.number}. {claim.statement}")]
    if claim.whole is not None:
        parts.append(_under(f"{_marked(claim.whole)}: {_told(claim.whole)}"))
    parts += [
        _under(f"{_marked(row)} at {row.rates} rates: {_told(row)}") for row in claim.by_rates
    ]
    if claim.rows:
        parts.append(_comparisons(claim.rows))
    return "\n".join(parts)


def _comparisons(rows: Sequence[VerdictRow]) -> str:
    columns = (
        ("Comparison", [row.comparison for row in rows]),
        ("Rates", [row.rates for row in rows]),
        ("Effect", [row.effect.text for row in rows]),
        ("Unit", [row.unit for row in rows]),
        ("Detectable", [row.detectable for row in rows]),
        ("Verdict", [_marked(row) for row in rows]),
    )
    table = from_columns(
        "", "", [(Column(name, numeric=False), text_cells(cells)) for name, cells in columns]
    )
    heading, rule, *lines = to_text(table).splitlines()
    told = (
        text
        for line, row in zip(lines, rows, strict=True)
        for text in (line, *([_under(_told(row))] if _told(row) else []))
    )
    return indent("\n".join([heading, rule, *told]), _UNDER)


def _marked(row: VerdictRow) -> str:
    return f"{MARKS[row.verdict]} {row.verdict}"


def _told(row: VerdictRow) -> str:
    """The reason, and the remark in brackets."""
    return " ".join([row.reason] * bool(row.reason) + [f"({row.remark})"] * bool(row.remark))


def _under(text: str) -> str:
    return fill(
        text,
        TERMINAL_WIDTH - len(_UNDER),
        initial_indent=_UNDER,
        subsequent_indent=_UNDER,
        break_on_hyphens=False,
    )
