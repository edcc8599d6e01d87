"""What the page's template shows of an experiment, computed before it is rendered."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from matplotlib.figure import Figure

from lpft.report.drawing import swatch
from lpft.report.exhibits.collect import FoundExperiment
from lpft.report.exhibits.figures import (
    drawn_panels,
    exhibit_panels,
    exhibit_sheet,
    has_small_panels,
    heat_maps_of,
    leaves_points_out,
    legend_styles,
    undrawn,
)
from lpft.report.exhibits.origins import Place, Tracer
from lpft.report.exhibits.reading import (
    read_protocol,
    read_source,
    read_tally,
    read_time,
)
from lpft.report.exhibits.tables import VERDICT_NOTE, exhibit_table, verdict_table
from lpft.report.exhibits.verdicts import ClaimView, view_claims
from lpft.report.facts import facts
from lpft.report.grid import Origin, Table
from lpft.report.numbers import slug
from lpft.report.outputs import relative_link
from lpft.report.svg import inline_svg
from lpft.report.views import Legend
from lpft.results.exhibits import (
    RECORD,
    ExperimentRecord,
)
from lpft.results.exhibits import (
    Figure as FigureExhibit,
)
from lpft.results.exhibits import (
    Table as TableExhibit,
)


@dataclass(frozen=True)
class ExhibitView:
    """A table, or the drawings of a figure with their legend.

    ``stem`` begins the names of its files, ``layout`` is how the page arranges the drawings,
    ``pooled`` how many samples a side are one pixel of a heat map. ``undrawn`` names the panels
    without numbers, ``off_axes`` says that logarithmic axes leave some out, and ``origins`` pairs
    each series with what it was computed from.
    """

    anchor: str
    stem: str
    title: str
    table: Table | None = None
    figure: FigureExhibit | None = None
    panels: tuple[Markup, ...] = ()
    legend: Legend = ()
    layout: str = ""
    pooled: int = 1
    undrawn: tuple[str, ...] = ()
    off_axes: bool = False
    origins: tuple[tuple[str, tuple[Origin, ...]], ...] = ()


@dataclass(frozen=True)
class Failure:
    """What is missing and why; ``origins`` has the way to its folder, where there is one."""

    name: str
    reason: str
    origins: tuple[Origin, ...]


@dataclass(frozen=True)
class ExperimentView:
    """One experiment with its sentences, verdicts, tables and drawings."""

    record: ExperimentRecord
    slug: str
    title: str
    href: str
    protocol: str
    source: str
    tally_sentence: str
    claims: tuple[ClaimView, ...]
    verdicts: Table | None
    verdict_note: str
    exhibits: tuple[ExhibitView, ...]
    failures: tuple[Failure, ...]
    settings: tuple[tuple[str, str], ...]
    time: str

    @property
    def tables(self) -> tuple[Table, ...]:
        """All tables, for files."""
        tables = (exhibit.table for exhibit in self.exhibits)
        return tuple(table for table in (*tables, self.verdicts) if table is not None)

    @property
    def sections(self) -> tuple[tuple[str, str], ...]:
        """Anchors and names of the parts that are there."""
        parts = (
            ("verdicts", "Verdicts", bool(self.claims)),
            ("exhibits", "Tables and figures", bool(self.exhibits)),
            ("missing", "Missing", bool(self.failures)),
        )
        return tuple((f"{self.slug}-{name}", title) for name, title, there in parts if there)


def view_experiments(
    experiments: Sequence[FoundExperiment],
    page_folder: Path,
    places: dict[Path, Place],
    taken: set[str],
) -> tuple[ExperimentView, ...]:
    """Everything the page shows of each; equal titles are told apart by their folders.

    ``places`` has the folders that the page shows, ``taken`` its anchors, to which these are added.
    """
    times = Counter(found.record.title for found in experiments)
    views = []
    for found in experiments:
        record = found.record
        title = record.title if times[record.title] == 1 else f"{record.title} · {found.name}"
        tracer = Tracer(found.folder, page_folder, places)
        views.append(_view(found, title, slug(record.name, taken), tracer, page_folder))
    return tuple(views)


def experiment_figures(view: ExperimentView) -> Iterator[tuple[str, Figure]]:
    """The figures of one experiment for files, by name."""
    for exhibit in view.exhibits:
        sheet = None if exhibit.figure is None else exhibit_sheet(exhibit.figure)
        if sheet is not None:
            yield exhibit.stem, sheet


def _view(
    found: FoundExperiment, title: str, anchor: str, tracer: Tracer, page_folder: Path
) -> ExperimentView:
    record = found.record
    taken = {"verdicts", "exhibits", "missing"}
    return ExperimentView(
        record=record,
        slug=anchor,
        title=title,
        href=relative_link(found.folder / RECORD, page_folder),
        protocol=read_protocol(record),
        source=read_source(record),
        tally_sentence=read_tally(record.verdicts) if record.verdicts else "",
        claims=view_claims(record.verdicts, tracer),
        verdicts=verdict_table(record) if record.verdicts else None,
        verdict_note=VERDICT_NOTE,
        exhibits=tuple(
            _exhibit(exhibit, record, anchor, _own_name(exhibit.name, record, taken), tracer)
            for exhibit in record.exhibits
        ),
        failures=tuple(Failure(name, reason, tracer([name])) for name, reason in record.failures),
        settings=facts(record.settings),
        time=read_time(record),
    )


def _own_name(name: str, record: ExperimentRecord, taken: set[str]) -> str:
    """The exhibit's name for anchors and files, without the experiment's in front of it."""
    if name == record.name:
        return slug("results", taken)
    return slug(name.removeprefix(f"{record.name}-"), taken)


def _exhibit(
    exhibit: TableExhibit | FigureExhibit,
    record: ExperimentRecord,
    prefix: str,
    name: str,
    tracer: Tracer,
) -> ExhibitView:
    anchor = f"{prefix}-{name}"
    if isinstance(exhibit, TableExhibit):
        table = exhibit_table(exhibit, record.model, name, trace=tracer)
        return ExhibitView(anchor, anchor, exhibit.title, table)
    maps = heat_maps_of(exhibit) if exhibit.kind == "heat" else ()
    return ExhibitView(
        anchor=anchor,
        stem=anchor,
        title=exhibit.title,
        figure=exhibit,
        panels=_panels(exhibit, anchor),
        legend=tuple(
            (label, inline_svg(swatch(style), f"{anchor}-key-{place}"))
            for place, (label, style) in enumerate(legend_styles(exhibit).items())
        ),
        layout=_layout(exhibit),
        pooled=max((found.pooled for found in maps), default=1),
        undrawn=undrawn(exhibit),
        off_axes=leaves_points_out(exhibit),
        origins=_origins(exhibit, tracer),
    )


def _layout(figure: FigureExhibit) -> str:
    """The class of the grid that holds the drawings."""
    if has_small_panels(figure):
        return "panels"
    by_count = {1: "single", 3: "three"}
    return f"panels {by_count.get(len(drawn_panels(figure)), 'pair')}"


def _panels(figure: FigureExhibit, anchor: str) -> tuple[Markup, ...]:
    drawn = zip(drawn_panels(figure), exhibit_panels(figure), strict=True)
    return tuple(
        inline_svg(
            drawing,
            f"{anchor}-panel-{place}",
            f"{figure.title}: {panel.title}" if panel.title else figure.title,
            f"{panel.y} against {panel.x}; the values are in {RECORD}.",
        )
        for place, (panel, drawing) in enumerate(drawn)
    )


def _origins(figure: FigureExhibit, tracer: Tracer) -> tuple[tuple[str, tuple[Origin, ...]], ...]:
    """For each panel and each series that names runs: its title or label, and these."""
    found = []
    for panel in drawn_panels(figure):
        if panel.runs:
            found.append((panel.title, tracer(panel.runs)))
        for series in panel.series:
            if series.runs:
                name = f"{panel.title}: {series.label}" if panel.title else series.label
                found.append((name, tracer(series.runs)))
    return tuple(found)
