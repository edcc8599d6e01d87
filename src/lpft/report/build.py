"""Build the report of a folder: one page of experiments, runs and kernels, with files beside it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from lpft.errors import InputError
from lpft.report.curves import curve_sheet
from lpft.report.exhibits.collect import find_experiments
from lpft.report.exhibits.origins import page_places
from lpft.report.exhibits.views import experiment_figures, view_experiments
from lpft.report.figures import accuracy_figure, feature_change_figure
from lpft.report.kernels.views import kernel_figures, view_kernels
from lpft.report.outputs import (
    check_page,
    figure_files,
    figures_folder,
    refuse_existing,
    relative_link,
    table_files,
    tables_folder,
    write_files,
)
from lpft.report.page import FilesBeside, PageParts, render_page
from lpft.report.palette import styles
from lpft.report.reliability import reliability_sheet
from lpft.report.run_views import view_runs, view_unread
from lpft.report.views import view_group
from lpft.results.exhibits import RECORD, ExperimentRecord
from lpft.results.folder import UnreadFolder, nothing_found, without_copies
from lpft.results.groups import Group, group_runs
from lpft.results.kernels import KernelRecord, find_kernels
from lpft.results.pairing import compare, judge_groups
from lpft.results.run import RUNS_EXPECTED, Run, find_runs
from lpft.results.schema import RunRecord

EXPECTED = (
    f"{RUNS_EXPECTED}, or with {KernelRecord.FILE}, as lpft ntk writes it, or with {RECORD}, as "
    "lpft reproduce does"
)


@dataclass(frozen=True)
class ReportResult:
    """The files of a report, and the experiments, runs and kernels in it.

    ``runs`` and ``kernels`` are those whose numbers are shown; ``unread`` the folders that are
    only listed, with the reason (unfinished, damaged, foreign, or repeating another run's setting
    and seed). A folder that is a copy of another is in neither: its numbers lead to that one.
    """

    page: Path
    tables: tuple[Path, ...]
    figures: tuple[Path, ...]
    runs: tuple[Run, ...]
    kernels: tuple[KernelRecord, ...]
    unread: tuple[UnreadFolder, ...]
    experiments: tuple[ExperimentRecord, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.page, *self.tables, *self.figures)


def build_report(
    directory: Path, output: Path | None = None, *, overwrite: bool = False
) -> ReportResult:
    """Write the report of every experiment, finished run and all kernels below ``directory``.

    ``output`` is the page, ``directory/report.html`` by default. Beside a page ``report.html``:

    - ``report-tables/<experiment>-<exhibit>.csv``, ``.md``, ``.tex`` of every table exhibit, and
      ``<experiment>-verdicts``; ``report-figures/<experiment>-<exhibit>.png``, ``.pdf`` of every
      figure exhibit;
    - ``report-tables/<group>-<table>.csv``, ``.md``, ``.tex``: ``methods``, ``differences``,
      ``feature-change-own``, ``feature-change-shared``, ``calibration``, ``features``, ``head``;
    - ``report-figures/<group>-<figure>.png``, ``.pdf``: ``accuracy``, ``feature-change``,
      ``training``, ``reliability-<method>``;
    - for each ``kernels.json`` tables ``statistics``, ``regression``, ``alignment``, ``shares``,
      ``certificate`` and figures ``spectra``, ``heat-maps``, ``shares``, as far as it has them.

    A group is one data set, model, pooling and split protocol; kernels have their data set, model
    and kind of kernel in place of it. A page ``x.html`` has
    ``x-tables/`` and ``x-figures/``. Each file is written beside its place and renamed, the page
    last; with ``overwrite`` files of the same names are replaced and others left alone.

    Raises :class:`~lpft.errors.InputError` where there is no experiment, finished run or kernel,
    where the output is not a name for a page, and where a file is there already and ``overwrite``
    is false.
    """
    page = directory / "report.html" if output is None else output
    runs, unread_runs = find_runs(directory)
    kernels, unread_kernels = find_kernels(directory)
    experiments, unread_experiments = find_experiments(directory)
    unread = (*unread_experiments, *unread_runs, *unread_kernels)
    if not runs and not kernels and not experiments:
        raise InputError(nothing_found(directory, unread, EXPECTED))
    check_page(page)
    runs, copied_runs = without_copies(runs, RunRecord.FILE)
    kernels, copied_kernels = without_copies(kernels, KernelRecord.FILE)
    copies = copied_runs | copied_kernels
    groups, repeated = group_runs(runs)
    unread = (*unread_experiments, *unread_runs, *repeated, *unread_kernels)

    anchors = {group.slug for group in groups}
    differences = judge_groups(groups)
    group_views = [view_group(group, differences[group.slug]) for group in groups]
    kernel_views = view_kernels(kernels, page.parent, anchors)
    run_views, shared = view_runs(groups, page.parent, anchors)
    unread_views = view_unread(unread, page.parent, anchors)
    places = page_places(run_views, kernel_views, unread_views, copies)
    experiment_views = view_experiments(experiments, page.parent, places, anchors)

    tables = [
        *((view.slug, view.tables) for view in experiment_views),
        *((view.group.slug, view.tables) for view in group_views),
        *((view.slug, view.tables) for view in kernel_views),
    ]
    figures = [
        *(figure for view in experiment_views for figure in experiment_figures(view)),
        *(figure for group in groups for figure in _figures(group)),
        *(figure for view in kernel_views for figure in kernel_figures(view)),
    ]
    texts = dict(table_files(tables, tables_folder(page)))
    images = dict(figure_files(figures, figures_folder(page)))
    if not overwrite:
        refuse_existing([page, *texts, *images])
    html = render_page(
        PageParts(
            experiment_views,
            group_views,
            run_views,
            shared,
            kernel_views,
            unread_views,
            len(copies),
        ),
        FilesBeside(
            tables_href=relative_link(tables_folder(page), page.parent),
            figures_href=relative_link(figures_folder(page), page.parent),
            has_tables=bool(texts),
            has_figures=bool(images),
        ),
    )
    write_files(texts, images, page, html)
    return ReportResult(
        page=page,
        tables=tuple(texts),
        figures=tuple(images),
        runs=tuple(run for group in groups for run in group.runs),
        kernels=kernels,
        unread=unread,
        experiments=tuple(found.record for found in experiments),
    )


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
