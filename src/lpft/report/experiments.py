"""An experiment on the page: verdicts on claims, tables and figures, where its numbers are from."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from lpft.paper import FDR_NOT_COMPARABLE, HALVED, MODEL, WORD_EMBEDDINGS
from lpft.report.page import (
    Block,
    Chapter,
    Claims,
    Details,
    Fold,
    Items,
    Note,
    Origins,
    Rows,
    Section,
    named_sections,
    relative_link,
)
from lpft.report.runs import facts
from lpft.report.table import (
    Columns,
    Origin,
    Trace,
    estimates,
    from_columns,
    interval_of,
    is_numeric,
)
from lpft.report.text import say
from lpft.results.exhibits import (
    OVERALL,
    RECORD,
    Column,
    Estimate,
    ExperimentRecord,
    Figure,
    Table,
    Verdict,
)
from lpft.results.formats import slug
from lpft.results.groups import model_name
from lpft.results.schema import plain

MOST_VERDICTS_OPEN = 40
"""Of an experiment with more, the summary has the claims, and the comparisons are folded away."""

_HALF = 50.0  # per cent: where 0 lies in the drawing of an effect
_REACH = 46.0  # per cent from there to the farthest end of a claim's intervals


@dataclass(frozen=True)
class JudgedClaim:
    """The verdicts on a claim: as a whole, at each choice of rates, and on its comparisons."""

    verdicts: tuple[Verdict, ...]

    @property
    def number(self) -> int:
        return self.verdicts[0].claim

    @property
    def statement(self) -> str:
        return self.verdicts[0].statement

    @property
    def whole(self) -> Verdict | None:
        return next((verdict for verdict in self.verdicts if verdict.is_whole), None)

    @property
    def by_rates(self) -> tuple[Verdict, ...]:
        """The verdicts at each choice of rates, where the whole takes several together."""
        return tuple(v for v in self.verdicts if v.comparison == OVERALL and v.rates)

    @property
    def comparisons(self) -> tuple[Verdict, ...]:
        return tuple(verdict for verdict in self.verdicts if verdict.comparison != OVERALL)

    def drawn(self, verdict: Verdict) -> tuple[float, float, float] | None:
        """Effect, low and high in per cent of a drawing, with 0 in the middle.

        Effects of one unit share their scale.
        """
        alike = (v.effect.with_bounds or () for v in self.verdicts if v.unit == verdict.unit)
        extent = max((abs(end) for ends in alike for end in ends), default=0.0)
        if verdict.effect.with_bounds is None or extent == 0:
            return None
        value, low, high = (_HALF + _REACH * end / extent for end in verdict.effect.with_bounds)
        return value, low, high


@dataclass(frozen=True)
class Place:
    """Where the page shows a folder: a heading that it shares with others, its name, a link.

    Under the heading the name may be a seed alone; ``folder`` is the folder's own.
    """

    heading: str
    name: str
    address: str | None
    folder: str


def tracer(base: Path, page_folder: Path, places: Mapping[Path, Place]) -> Trace:
    """From folders, absolute or relative to ``base``, to their places in the page.

    Other folders below ``base`` are linked as files; what is not there, or outside, has no link.
    """
    base = base.resolve()
    known = {plain(folder.resolve()): place for folder, place in places.items()}

    def find(run: str) -> Place:
        folder = Path(os.path.normpath(base / run))
        place = known.get(str(folder))
        if place is not None:
            return place
        if folder.is_relative_to(base) and folder.exists():
            return Place("files", run, relative_link(folder, page_folder), run)
        return Place("not found below this page", run, None, run)

    def trace(runs: Sequence[str]) -> tuple[Origin, ...]:
        by_heading: dict[str, list[Place]] = {}
        for run in dict.fromkeys(runs):
            place = find(run)
            by_heading.setdefault(place.heading, []).append(place)
        return tuple(
            Origin(
                heading,
                links=tuple((place.name, place.address) for place in found),
                folders=tuple(place.folder for place in found),
            )
            for heading, found in by_heading.items()
        )

    return trace


def experiment_chapter(
    record: ExperimentRecord, name: str, title: str, address: str, trace: Trace
) -> Chapter:
    """What the page shows of one experiment; ``name`` is its anchor, ``address`` its record's."""
    exhibits = tuple(_exhibit_sections(record, name))
    entries = tuple((each.title, f"#{each.anchor}", "") for each in exhibits)
    index = Items(entries, "inner") if len(exhibits) > 2 else None
    judged = judged_claims(record.verdicts)
    claims: Block | None = Claims(judged, False, verdict_table(record)) if judged else None
    if claims is not None and len(record.verdicts) > MOST_VERDICTS_OPEN:
        claims = Fold(say("every_comparison", number=len(record.verdicts)), (claims,))
    missing = _missing(record, trace) if record.failures else None
    return Chapter(
        kind="experiment",
        slug=name,
        title=title,
        data=record.name,
        model=model_name(record.model),
        summary=tuple(_summary(record, name, address)),
        sections=named_sections(
            name,
            (
                ("verdicts", "Verdicts on the paper’s claims", (claims,)),
                ("exhibits", "Tables and figures", (index, *exhibits)),
                ("missing", "What is missing, and why", (missing,)),
            ),
        ),
        tally=tally(record.verdicts),
        lead=record.findings[0] if record.findings else "",
        trace=trace,
    )


def _summary(record: ExperimentRecord, name: str, address: str) -> Iterator[Block]:
    if record.findings:
        yield Items(tuple(("", "", finding) for finding in record.findings), "findings")
    if record.verdicts:
        yield tally(record.verdicts)
        yield Claims(judged_claims(record.verdicts), True)
    rows: list[tuple[str, str, tuple[Block, ...]]] = []
    if record.differences:
        differences = Items(tuple(("", "", sentence) for sentence in record.differences))
        rows.append(("Differs from the paper", "", (differences,)))
    rows.append(("Protocol", "", (say("protocol", name=record.protocol),)))
    tables = [exhibit for exhibit in record.exhibits if isinstance(exhibit, Table)]
    if any(column.source == "published" for table in tables for column in table.columns):
        whose = say("whose_numbers", model=record.model, published=MODEL)
        rows.append(("Whose numbers", "", (whose,)))
    if record.failures:
        missing = Note(say("missing", failures=len(record.failures)), warns=True)
        rows.append(("Missing", f"#{name}-missing", (missing,)))
    written = Items(((RECORD, address, f" {say('record', time=timings(record))}"),), "plain")
    settings = (Details("Settings", (("", facts(record.settings)),)),) if record.settings else ()
    rows.append(("Record", "", (written, *settings)))
    yield Rows(tuple(rows))


def timings(record: ExperimentRecord) -> str:
    """How long the steps took, the longest first; empty where nothing was recorded."""
    longest = sorted(record.timings.items(), key=lambda step: -step[1])
    return say("timings", steps=[(name.replace("_", " "), time) for name, time in longest])


def tally(verdicts: Sequence[Verdict]) -> str:
    """How many verdicts went which way: those on claims as a whole, where there are such."""
    if not verdicts:
        return ""
    overall = [verdict for verdict in verdicts if verdict.is_whole]
    judged = overall if overall else verdicts
    counts = Counter(verdict.verdict for verdict in judged)
    return say(
        "tally",
        total=len(judged),
        noun="claim" if overall else "comparison",
        holds=counts["holds"],
        fails=counts["does not hold"],
        unclear=counts["cannot tell"],
    )


def _exhibit_sections(record: ExperimentRecord, prefix: str) -> Iterator[Section]:
    used = {"verdicts", "exhibits", "missing"}
    for exhibit in record.exhibits:
        short_name = exhibit.name.removeprefix(f"{record.name}-")
        name = slug("results" if exhibit.name == record.name else short_name, used)
        blocks: tuple[Block, ...]
        if isinstance(exhibit, Table):
            blocks = (replace(annotated(exhibit, record.model), name=name),)
        else:
            drawn_from = Origins(tuple(_drawn_from(exhibit)))
            blocks = (replace(exhibit, name=name), *([drawn_from] if drawn_from.runs else []))
        if exhibit.folded:
            blocks = (Fold(say("folded_numbers"), blocks),)
        yield Section(exhibit.title, blocks, f"{prefix}-{name}")


def _drawn_from(figure: Figure) -> Iterator[tuple[str, tuple[str, ...]]]:
    """For each panel and each series that names runs: its title or label, and these."""
    for panel in figure.panels:
        if panel.runs:
            yield panel.title, panel.runs
        for series in panel.series:
            if series.runs and any(value is not None for value in series.y):
                name = f"{panel.title}: {series.label}" if panel.title else series.label
                yield name, series.runs


def _missing(record: ExperimentRecord, trace: Trace) -> Items:
    entries = []
    for name, reason in record.failures:
        ((_, address),) = trace([name])[0].links
        entries.append((name, "" if address is None else address, f": {reason}"))
    return Items(tuple(entries), "reasons")


def judged_claims(verdicts: Sequence[Verdict]) -> tuple[JudgedClaim, ...]:
    """The claims in their order."""
    ordered = sorted(verdicts, key=lambda verdict: verdict.claim)
    by_claim = groupby(ordered, key=lambda verdict: verdict.claim)
    return tuple(JudgedClaim(tuple(of_claim)) for _, of_claim in by_claim)


def verdict_table(record: ExperimentRecord) -> Table:
    """Every verdict with its effect and reason, for files."""
    verdicts = record.verdicts
    columns: Columns = [
        (Column("Claim"), [str(verdict.claim) for verdict in verdicts]),
        *_words_of(verdicts, "statement", "comparison", "rates"),
        (Column("Effect", format="effect"), [replace(v.effect, runs=()) for v in verdicts]),
        (Column("Unit"), [verdict.unit for verdict in verdicts]),
        (Column("Detectable"), [verdict.detectable for verdict in verdicts]),
        *_words_of(verdicts, "verdict", "remark", "reason"),
    ]
    title = f"Verdicts: {record.title}"
    return from_columns("verdicts", title, columns, say("verdict_note"), headers=3)


def _words_of(verdicts: Sequence[Verdict], *names: str) -> Columns:
    return [(Column(n.capitalize()), [getattr(v, n) for v in verdicts]) for n in names]


@dataclass(frozen=True)
class Caution:
    """Words that name a quantity, and what is to be said of its published values.

    ``remark`` stands in the heading of their column, ``sentence`` below the table.
    """

    words: re.Pattern[str]
    remark: str
    sentence: str


CAUTIONS = tuple(
    Caution(re.compile(words, re.IGNORECASE), remark, sentence)
    for words, remark, sentence in (
        (r"\bFDR\b|fisher", "not comparable", FDR_NOT_COMPARABLE),
        (r"\bnorm\(c\)|\bhead norm|norm of the head", "halved for two classes", HALVED),
        (
            r"\brank of\b|^rank\b|frobenius|\bFN\b|\bFT ratio\b",
            "from faulty kernels",
            WORD_EMBEDDINGS,
        ),
    )
)


def annotated(table: Table, model: str) -> Table:
    """A table with what must be known of its numbers: whose they are, seeds, intervals, bugs.

    ``model`` is the experiment's, for headings that do not say whose numbers stand below them.
    """
    by_column, by_row = cautions_of(table)
    compared = any(column.source == "published" for column in table.columns)
    columns = []
    for place, column in enumerate(table.columns):
        whose = _whose(column, model) if compared and is_numeric(table, place) else ""
        warning = by_column[place].remark if place in by_column else ""
        remark = ", ".join(filter(None, (whose, warning)))
        columns.append(replace(column, remark=remark))
    rows = [list(row) for row in table.rows]
    for place, caution in by_row.items():
        for position, (cell, column) in enumerate(zip(rows[place], columns, strict=True)):
            if column.source != "published" or not isinstance(cell, Estimate):
                continue
            if cell.value is not None:
                rows[place][position] = replace(cell, remark=caution.remark)
    sentences = (caution.sentence for caution in (*by_column.values(), *by_row.values()))
    return replace(
        table,
        columns=tuple(columns),
        rows=tuple(map(tuple, rows)),
        note=" ".join(filter(None, (_note(table), *dict.fromkeys(sentences)))),
    )


def cautions_of(table: Table) -> tuple[dict[int, Caution], dict[int, Caution]]:
    """The cautions that bear on a table's published numbers, by place of a column and of a row.

    They are found by the columns' headings, else by the rows' names or the title. What is said of
    all published columns because of the title stands in each of them.
    """
    published = [
        place
        for place, column in enumerate(table.columns)
        if column.source == "published" and any(row[place] is not None for row in table.rows)
    ]
    headings = [f"{column.above} {column.name}".strip() for column in table.columns]
    columns: dict[int, Caution] = {}
    rows: dict[int, Caution] = {}
    for caution in CAUTIONS if published else ():
        headed = [place for place in published if caution.words.search(headings[place])]
        named = [
            place
            for place, row in enumerate(table.rows)
            if any(caution.words.search(str(name)) for name in row[: table.headers])
        ]
        if not headed and not named and caution.words.search(table.title):
            headed = published
        columns |= dict.fromkeys(headed, caution)
        rows |= dict.fromkeys([] if headed else named, caution)
    return columns, rows


def _whose(column: Column, model: str) -> str:
    """Whose numbers they are, as far as the heading does not say it already."""
    heading = f"{column.above} {column.name}".lower()
    words = ["published", MODEL] if column.source == "published" else [model_name(model)]
    return ", ".join(word for word in words if word.lower() not in heading)


def _note(table: Table) -> str:
    """The table's note, and what its standard deviations and intervals are of."""
    ours, published = estimates(table, "ours"), estimates(table, "published")
    seeds = [estimate.count or 0 for estimate in ours]
    most = max(seeds, default=0)
    with_sd = any(estimate.sd is not None for estimate in ours)
    bracketed = any(e.sd is None and interval_of(e) is not None for e in ours)
    counts = {e.count for e in published if e.sd is not None and e.count is not None} - {0}
    return say(
        "exhibit_note",
        note=table.note,
        one_seed=most == 1,
        seeds=most if with_sd else None,
        fewer=any(0 < count < most for count in seeds),
        known_sd="standard deviation" in table.note,
        bracketed=bracketed and "interval" not in table.note,
        published=sorted(counts),
    )
