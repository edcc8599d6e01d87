"""Build the report of a folder of runs: one page, tables and figures beside it."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from lpft.errors import InputError
from lpft.files import replace_when_written
from lpft.report.collect import RUNS_EXPECTED, RunSummary, find_runs, nothing_found
from lpft.report.curves import curve_sheet
from lpft.report.drawing import saved
from lpft.report.figures import accuracy_figure, feature_change_figure
from lpft.report.grid import Table, to_csv, to_latex, to_markdown
from lpft.report.kernels.collect import KERNEL_RECORD, find_kernels
from lpft.report.kernels.summary import KernelSummary
from lpft.report.kernels.views import KernelView, kernel_figures, view_kernels
from lpft.report.numbers import slug
from lpft.report.page import render_page
from lpft.report.pairs import compare
from lpft.report.palette import styles
from lpft.report.records import UnreadFolder
from lpft.report.reliability import reliability_sheet
from lpft.report.settings import Group, group_runs
from lpft.report.views import GroupView, relative_link, view_group, view_run

TABLE_WRITERS = {"csv": to_csv, "md": to_markdown, "tex": to_latex}
FIGURE_KINDS = ("png", "pdf")
EXPECTED = f"{RUNS_EXPECTED}, or with {KERNEL_RECORD}, as lpft ntk writes it"


@dataclass(frozen=True)
class ReportResult:
    """The files of a report, and the runs and kernels in it.

    ``runs`` and ``kernels`` are those whose numbers are shown; ``unread`` the folders that are
    only listed, with the reason (unfinished, damaged, foreign, or repeating another run's setting
    and seed).
    """

    page: Path
    tables: tuple[Path, ...]
    figures: tuple[Path, ...]
    runs: tuple[RunSummary, ...]
    kernels: tuple[KernelSummary, ...]
    unread: tuple[UnreadFolder, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.page, *self.tables, *self.figures)


def build_report(
    directory: Path, output: Path | None = None, *, overwrite: bool = False
) -> ReportResult:
    """Write the report of every finished run and all kernels at or below ``directory``.

    ``output`` is the page, ``directory/report.html`` by default. Beside a page ``report.html``:

    - ``report-tables/<group>-<table>.csv``, ``.md``, ``.tex``: ``methods``,
      ``feature-change-own``, ``feature-change-shared``, ``calibration``, ``features``, ``head``;
    - ``report-figures/<group>-<figure>.png``, ``.pdf``: ``accuracy``, ``feature-change``,
      ``training``, ``reliability-<method>``;
    - for each ``kernels.json`` tables ``statistics``, ``regression``, ``alignment``, ``shares``,
      ``certificate`` and figures ``spectra``, ``heat-maps``, ``shares``, as far as it has them.

    A group is one data set, model, pooling and split protocol; kernels have their data set, model
    and kind of kernel in place of it. A page ``x.html`` has
    ``x-tables/`` and ``x-figures/``. Each file is written beside its place and renamed, the page
    last; with ``overwrite`` files of the same names are replaced and others left alone.

    Raises :class:`~lpft.errors.InputError` where there is neither a finished run nor a kernel,
    where the output is not a name for a page, and where a file is there already and ``overwrite``
    is false.
    """
    page = directory / "report.html" if output is None else output
    collection = find_runs(directory)
    kernels, unread_kernels = find_kernels(directory)
    if not collection.runs and not kernels:
        unread = (*collection.unread, *unread_kernels)
        raise InputError(nothing_found(directory, unread, EXPECTED))
    _check_output(page)
    groups, repeated = group_runs(collection.runs)
    unread = (*collection.unread, *repeated, *unread_kernels)
    views = [view_group(group) for group in groups]
    kernel_views = view_kernels(kernels, page.parent, {group.slug for group in groups})
    tables_folder = page.with_name(f"{page.stem}-tables")
    figures_folder = page.with_name(f"{page.stem}-figures")
    tables = [*_tables(views), *_kernel_tables(kernel_views)]
    texts = {tables_folder / name: text for name, text in tables}
    figures = [
        *(figure for group in groups for figure in _figures(group)),
        *(figure for view in kernel_views for figure in kernel_figures(view)),
    ]
    drawings = {figures_folder / name: figure for name, figure in figures}
    images = {
        path.with_name(f"{path.name}.{kind}"): (figure, kind)
        for path, figure in drawings.items()
        for kind in FIGURE_KINDS
    }
    if not overwrite:
        _refuse_existing([page, *texts, *images])

    html = _page(views, kernel_views, unread, page)
    for path, text in texts.items():
        _write(path, text.encode("utf-8"))
    for path, (figure, kind) in images.items():
        _write(path, saved(figure, kind))
    _write(page, html.encode("utf-8"))
    shown = tuple(run for group in groups for run in group.runs)
    return ReportResult(page, tuple(texts), tuple(images), shown, kernels, unread)


def _check_output(page: Path) -> None:
    if page.suffix.lower() not in (".html", ".htm"):
        raise InputError(
            f"{page}: the report is an HTML page; expected a file name that ends in .html"
        )
    if page.is_dir():
        raise InputError(f"{page} is a folder; expected the name of a file for the page")


def _refuse_existing(paths: Sequence[Path]) -> None:
    there = [path for path in paths if os.path.lexists(path)]
    if there:
        more = f" (with {len(there) - 1} more of its files)" if len(there) > 1 else ""
        raise InputError(
            f"{there[0]} exists already{more} and nothing was written; choose another output, or "
            "replace it with --overwrite (overwrite=True in Python)"
        )


def _tables(views: Sequence[GroupView]) -> Iterator[tuple[str, str]]:
    for view in views:
        yield from _written(view.group.slug, view.tables)


def _kernel_tables(views: Sequence[KernelView]) -> Iterator[tuple[str, str]]:
    for view in views:
        yield from _written(view.slug, view.tables)


def _written(prefix: str, tables: Sequence[Table]) -> Iterator[tuple[str, str]]:
    for table in tables:
        for ending, writer in TABLE_WRITERS.items():
            yield f"{prefix}-{table.slug}.{ending}", writer(table)


def _figures(group: Group) -> Iterator[tuple[str, Figure]]:
    yield f"{group.slug}-accuracy", accuracy_figure(group, with_legend=True)
    change = feature_change_figure(compare(group), group)
    if change is not None:
        yield f"{group.slug}-feature-change", change
    training = curve_sheet(group)
    if training is not None:
        yield f"{group.slug}-training", training
    looks = styles(group.settings)
    for setting in group.settings:
        figure = reliability_sheet(setting, group, looks[setting.label])
        yield f"{group.slug}-reliability-{setting.slug}", figure


def _page(
    views: Sequence[GroupView],
    kernels: Sequence[KernelView],
    unread: Sequence[UnreadFolder],
    page: Path,
) -> str:
    taken: set[str] = set()
    runs = [
        view_run(run, "run-" + slug(run.name, taken), view.group, page.parent)
        for view in views
        for run in view.group.runs
    ]
    return render_page(
        views,
        runs,
        kernels,
        [(found, relative_link(found.folder, page.parent)) for found in unread],
        title="LP-FT report",
        tables_href=relative_link(page.with_name(f"{page.stem}-tables"), page.parent),
        figures_href=relative_link(page.with_name(f"{page.stem}-figures"), page.parent),
    )


def _write(path: Path, content: bytes) -> None:
    """Make the folder and write the file, whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_when_written(path) as temporary:
            temporary.write_bytes(content)
    except OSError as problem:
        raise InputError(f"{path} cannot be written: {problem.strerror}") from problem
