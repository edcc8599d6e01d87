"""Build the report of a folder: one page of experiments, runs and kernels, with files beside it."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from matplotlib.figure import Figure as Canvas

from lpft import __version__
from lpft.errors import InputError, named
from lpft.files import replace_when_written
from lpft.report.answer import answer
from lpft.report.drawing import SANS, SERIF, saved
from lpft.report.experiments import Place, experiment_chapter, tracer
from lpft.report.interpolation import interpolation_chapter, title_of
from lpft.report.kernels import kernel_chapter
from lpft.report.page import Chapter, Contents, relative_link, render_page
from lpft.report.panels import sheet
from lpft.report.runs import group_chapter, run_sections
from lpft.report.table import Trace, to_csv, to_latex, to_markdown
from lpft.results.differences import judge_groups
from lpft.results.exhibits import RECORD, ExperimentRecord, find_experiments
from lpft.results.folder import (
    Interpolation,
    Located,
    UnreadFolder,
    copies_in,
    find_interpolations,
    nothing_found,
)
from lpft.results.formats import slug, whole
from lpft.results.groups import Group, group_runs
from lpft.results.kernels import KernelRecord, find_kernels
from lpft.results.leaderboard import leaderboard
from lpft.results.run import RUNS_EXPECTED, Run, find_runs
from lpft.results.schema import InterpolationRecord, RunRecord
from lpft.settings import Venue

EXPECTED = (
    f"{RUNS_EXPECTED}, or with {KernelRecord.FILE}, as lpft ntk writes it, or with {RECORD}, as "
    f"lpft reproduce does, or with {InterpolationRecord.FILE}, as lpft interpolate does"
)
MARK = '<meta name="generator" content="lpft '
"""In the head of every page that :func:`build_report` writes."""
_HEAD_OF_PAGE = 4096  # bytes: the mark stands before any text from data
_UNFINISHED = (
    f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">{MARK}{__version__}">\n'
    "<title>Unfinished report</title></head>\n"
    "<body><p>This page was not finished: lpft report writes it anew.</p></body></html>\n"
)
"""What stands in a page's place while its tables and figures are written for the first time."""

Part = TypeVar("Part", Located[ExperimentRecord], Interpolation, KernelRecord)


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
    interpolations: tuple[Interpolation, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.page, *self.tables, *self.figures)


def build_report(
    directory: Path,
    output: Path | None = None,
    *,
    overwrite: bool = False,
    texts_in_report: bool = True,
    venue: Venue | None = None,
) -> ReportResult:
    """Write the report of every experiment, run, interpolation and kernel below ``directory``.

    ``output`` is the page, ``directory/report.html`` by default; without ``texts_in_report`` it
    names wrong texts by their rows only. ``venue`` gives the figures' files the width and the font
    of a venue's text or column. Beside a page ``report.html``:

    - ``report-tables/<experiment>-<exhibit>.csv``, ``.md``, ``.tex`` of every table exhibit, and
      ``<experiment>-verdicts``; ``report-figures/<experiment>-<exhibit>.png``, ``.pdf`` of every
      figure exhibit;
    - ``report-tables/<group>-<table>.csv``, ``.md``, ``.tex``: ``methods``, ``differences``,
      ``feature-change-own``, ``feature-change-shared``, ``calibration``, ``features``, ``head``;
    - ``report-figures/<group>-<figure>.png``, ``.pdf``: ``accuracy``, ``feature-change``,
      ``training``, ``norms``, ``reliability`` (of the chosen run), ``coverage``;
    - for each ``interpolation.json`` the table ``points`` and figures ``path``, ``id-ood``;
    - for each ``kernels.json`` tables ``statistics``, ``regression``, ``alignment``, ``shares``,
      ``certificate`` and figures ``spectra``, ``heat-maps``, ``shares``, as far as it has them.

    A group is one data set, model, pooling and split protocol; kernels have their data set, model
    and kind of kernel in place of it. A page ``x.html`` has
    ``x-tables/`` and ``x-figures/``. Each file is written beside its place and renamed, the page
    last. A page that carries our mark is replaced with its tables and figures; with ``overwrite``
    so are any files of the same names. Others are left alone.

    Raises :class:`~lpft.errors.InputError` where there is nothing of these,
    where the output is not a name for a page, and where a file is there already that is not our
    page or its own and ``overwrite`` is false.
    """
    page = directory / "report.html" if output is None else output
    results = _read(directory, texts_in_report=texts_in_report)
    _check_page(page)
    contents = _Layout(results, page.parent).contents(directory)
    tables, figures = (page.with_name(f"{page.stem}-{what}") for what in ("tables", "figures"))
    texts = dict(_table_files(contents.chapters, tables))
    images = dict(_figure_files(contents.chapters, figures, venue))
    if not overwrite and not is_own_page(page):
        _refuse_existing([page, *texts, *images])
    links = [
        relative_link(folder, page.parent) if files else ""
        for folder, files in ((tables, texts), (figures, images))
    ]
    html = render_page(contents, *links)
    if not page.exists():
        # Its mark says whose the files beside it are, should the process be killed among them.
        _write(page, _UNFINISHED.encode())
    for path, text in texts.items():
        _write(path, text.encode("utf-8"))
    for path, (canvas, kind) in images.items():
        _write(path, saved(canvas, kind, fonts=SANS if venue is None else SERIF))
    _write(page, html.encode("utf-8"))
    return ReportResult(
        page=page,
        tables=tuple(texts),
        figures=tuple(images),
        runs=tuple(run for group in results.groups for run in group.runs),
        kernels=results.kernels,
        unread=results.unread,
        experiments=tuple(experiment.record for experiment in results.experiments),
        interpolations=results.paths,
    )


@dataclass(frozen=True)
class _Results:
    """What lies below a folder, each result once; ``copies`` has the folders of the others."""

    experiments: tuple[Located[ExperimentRecord], ...]
    groups: tuple[Group, ...]
    paths: tuple[Interpolation, ...]
    kernels: tuple[KernelRecord, ...]
    unread: tuple[UnreadFolder, ...]
    copies: Mapping[Path, Path]


def _read(directory: Path, *, texts_in_report: bool) -> _Results:
    runs, unread_runs = find_runs(directory)
    kernels, unread_kernels = find_kernels(directory)
    experiments, unread_experiments = find_experiments(directory)
    paths, unread_paths = find_interpolations(directory)
    if not (runs or kernels or experiments or paths):
        unread = (*unread_experiments, *unread_runs, *unread_paths, *unread_kernels)
        raise InputError(nothing_found(directory, unread, EXPECTED))
    copies = copies_in((run.folder for run in runs), RunRecord.FILE)
    copies |= copies_in((record.folder for record in kernels), KernelRecord.FILE)
    copies |= copies_in((path.folder for path in paths), InterpolationRecord.FILE)
    originals = [run for run in runs if run.folder not in copies]
    if not texts_in_report:
        originals = [run.without_texts() for run in originals]
    groups, repeated = group_runs(originals)
    return _Results(
        experiments=experiments,
        groups=groups,
        paths=tuple(path for path in paths if path.folder not in copies),
        kernels=tuple(record for record in kernels if record.folder not in copies),
        unread=(*unread_experiments, *unread_runs, *repeated, *unread_paths, *unread_kernels),
        copies=copies,
    )


class _Layout:
    """Where all results stand in a page in ``folder``: their titles, anchors and chapters."""

    def __init__(self, results: _Results, folder: Path) -> None:
        self._results, self._folder = results, folder
        self._used = used = {group.slug for group in results.groups}
        kernels = _with_titles(results.kernels, [record.title for record in results.kernels])
        self._kernels = [(each, title, slug(f"kernels {title}", used)) for each, title in kernels]
        paths = _with_titles(results.paths, [title_of(path.record) for path in results.paths])
        self._paths = [(each, title, slug(f"between {title}", used)) for each, title in paths]
        runs = (run for group in results.groups for run in group.runs)
        self._runs = {run.name: slug(f"run {run.name}", used) for run in runs}
        self._unread = tuple(
            (skipped, slug(f"unread {skipped.name}", used), relative_link(skipped.folder, folder))
            for skipped in results.unread
        )

    def contents(self, directory: Path) -> Contents:
        """All chapters of what lies below ``directory``."""
        groups, places = self._results.groups, self._places()
        chapters = list(self._experiments(places))
        chapters += self._groups(tracer(directory, self._folder, places))
        for path, title, anchor in self._paths:
            chapters.append(interpolation_chapter(path, anchor, title, self._folder))
        for record, title, anchor in self._kernels:
            chapters.append(kernel_chapter(record, anchor, title, self._folder))
        runs, shared = run_sections(groups, self._runs, self._folder)
        return Contents(tuple(chapters), runs, shared, self._unread, len(self._results.copies))

    def _places(self) -> dict[Path, Place]:
        """By folder of a result its place in the page."""
        places: dict[Path, Place] = {}
        for skipped, anchor, _ in self._unread:
            heading = f"{skipped.state}, not in the numbers below"
            places[skipped.folder] = Place(heading, skipped.name, f"#{anchor}", skipped.name)
        for setting in (setting for group in self._results.groups for setting in group.settings):
            for run in setting.runs:
                heading = f"{run.data.name}, {setting.label}, seed"
                address = f"#{self._runs[run.name]}"
                places[run.folder] = Place(heading, str(run.seed), address, run.name)
        for record, _, anchor in self._kernels:
            heading, name = f"kernels of {record.data.name}", record.name
            if record.seed is not None:
                heading, name = f"{heading}, seed", whole(record.seed)
            places[record.folder] = Place(heading, name, f"#{anchor}", record.name)
        for path, _, anchor in self._paths:
            heading = f"points of {path.record.data.name}"
            places[path.folder] = Place(heading, path.name, f"#{anchor}", path.name)
        return places | {copy: places[first] for copy, first in self._results.copies.items()}

    def _experiments(self, places: Mapping[Path, Place]) -> Iterator[Chapter]:
        experiments = self._results.experiments
        for each, title in _with_titles(experiments, [each.record.title for each in experiments]):
            address = relative_link(each.folder / RECORD, self._folder)
            name = slug(each.record.name, self._used)
            trace = tracer(each.folder, self._folder, places)
            yield experiment_chapter(each.record, name, title, address, trace)

    def _groups(self, trace: Trace) -> Iterator[Chapter]:
        """The groups of runs; behind experiments without an answer of their own."""
        differences = judge_groups(self._results.groups)
        for group in self._results.groups:
            judged = differences[group.slug]
            board = None if self._results.experiments else leaderboard(group, judged)
            of_group = None if board is None else answer(board)
            yield group_chapter(group, judged, self._runs, trace, of_group)


def _with_titles(parts: Sequence[Part], titles: Sequence[str]) -> list[tuple[Part, str]]:
    """Each part with its title; equal titles with the names of the parts' folders."""
    times = Counter(titles)
    return [
        (part, title if times[title] == 1 else f"{title} · {part.name}")
        for part, title in zip(parts, titles, strict=True)
    ]


def _check_page(page: Path) -> None:
    """Check that a page can have this name."""
    if page.suffix.lower() not in (".html", ".htm"):
        raise InputError(
            f"{page}: the report is an HTML page; expected a file name that ends in .html"
        )
    if page.is_dir():
        raise InputError(f"{page} is a folder; expected the name of a file for the page")


def is_own_page(page: Path) -> bool:
    """Whether a file carries the mark of our pages, which says that it may be made anew."""
    try:
        with page.open("rb") as file:
            return MARK.encode() in file.read(_HEAD_OF_PAGE)
    except OSError:
        return False


def _refuse_existing(paths: Sequence[Path]) -> None:
    old = [path for path in paths if os.path.lexists(path)]
    if old:
        more = f" (with {len(old) - 1} more of its files)" if len(old) > 1 else ""
        raise InputError(
            f"{old[0]} exists already{more} and nothing was written; choose another output, or "
            f"replace it with {named('overwrite=True')}"
        )


def _table_files(chapters: Sequence[Chapter], folder: Path) -> Iterator[tuple[Path, str]]:
    for chapter in chapters:
        for table in chapter.tables():
            stem = f"{chapter.slug}-{table.name}"
            yield folder / f"{stem}.csv", to_csv(table, chapter.trace)
            yield folder / f"{stem}.md", to_markdown(table)
            yield folder / f"{stem}.tex", to_latex(table, stem)


def _figure_files(
    chapters: Sequence[Chapter], folder: Path, venue: Venue | None
) -> Iterator[tuple[Path, tuple[Canvas, str]]]:
    """Every figure with the kinds of files it is saved as."""
    for chapter in chapters:
        for figure in chapter.figures():
            canvas = sheet(figure, venue)
            if canvas is None:
                continue
            for kind in ("png", "pdf"):
                yield folder / f"{chapter.slug}-{figure.name}.{kind}", (canvas, kind)


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_when_written(path) as temporary:
            temporary.write_bytes(content)
    except OSError as problem:
        # A file in a folder's place "exists".
        reason = "Not a directory" if isinstance(problem, FileExistsError) else problem.strerror
        raise InputError(
            f"{path} cannot be written ({reason}): name another place with {named('output')}"
        ) from problem
