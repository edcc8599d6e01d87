"""The self-contained HTML page: chapters, sections and their blocks."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import quote

from jinja2 import Template

import lpft
from lpft.report.panels import draw
from lpft.report.table import Trace, bands, effect_text, is_numeric, row_groups, untraced, wraps
from lpft.report.text import environment, say
from lpft.results.exhibits import Figure, Table
from lpft.results.folder import Holds, UnreadFolder
from lpft.results.judging import RULE
from lpft.results.leaderboard import Entry, Leaderboard

MOST_RUNS_OPEN = 12
MOST_GROUPS_OPEN = 3
Facts = tuple[tuple[str, str], ...]
"""Names with a value each."""


@dataclass(frozen=True)
class Note:
    """A sentence beside the numbers, or a warning."""

    text: str
    warns: bool = False


@dataclass(frozen=True)
class Items:
    """A list, each item with a link in front of it where it has one."""

    items: tuple[tuple[str, str, str], ...]  # text of the link, address, text after it
    look: str = ""


@dataclass(frozen=True)
class Rows:
    """The rows of a summary: a name, the address that it leads to, and what is said."""

    rows: tuple[tuple[str, str, tuple["Block", ...]], ...]


@dataclass(frozen=True)
class Details:
    """Facts under headings, folded away behind ``summary``."""

    summary: str
    sections: tuple[tuple[str, Facts], ...]


@dataclass(frozen=True)
class Origins:
    """What each series of a figure was drawn from: its name and the runs."""

    runs: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Folder:
    """The way to a folder and to its records; ``lead`` is a link with text after it."""

    address: str
    records: tuple[str, ...]
    lead: tuple[str, str, str] | None = None


@dataclass(frozen=True)
class Tables:
    """Small tables side by side."""

    tables: tuple[Table, ...]


@dataclass(frozen=True)
class Claims:
    """The verdicts on an experiment's claims: as a list, or with every comparison."""

    claims: tuple[Any, ...]
    short: bool
    verdicts: Table | None = None


@dataclass(frozen=True)
class Cases:
    """Wrong texts by pair of classes: label, prediction, count, rows of confidence, text, row.

    ``shown`` of ``total`` are here.
    """

    pairs: tuple[tuple[str, str, int, tuple[tuple[str, str, str], ...]], ...]
    shown: int
    total: int


@dataclass(frozen=True)
class Command:
    line: str


@dataclass(frozen=True)
class Fold:
    """Blocks that are folded away behind ``summary``."""

    summary: str
    blocks: tuple["Block", ...]


@dataclass(frozen=True)
class Section:
    """A heading and its blocks; ``anchor`` is its id in the page, if any."""

    title: str
    blocks: tuple["Block", ...]
    anchor: str = ""
    look: str = ""


Block = (
    str
    | Note
    | Items
    | Rows
    | Details
    | Origins
    | Folder
    | Table
    | Tables
    | Figure
    | Claims
    | Cases
    | Command
    | Fold
    | Section
)


def named_sections(
    slug: str, sections: Iterable[tuple[str, str, tuple[Block | None, ...]]]
) -> tuple[Section, ...]:
    """Sections of a chapter from anchors, titles and blocks; none where all blocks are missing."""
    filled = (
        (title, tuple(block for block in blocks if block is not None), f"{slug}-{anchor}")
        for anchor, title, blocks in sections
    )
    return tuple(Section(*section) for section in filled if section[1])


State = Literal["good", "doubtful", "bad", "unknown"]
"""Of a tile or of a row of the leaderboard; words beside it say the same."""


@dataclass(frozen=True)
class Tile:
    """One question with its answer in words, the number that says most, and what it means."""

    question: str
    state: State
    answer: str
    number: str
    text: str
    address: str


@dataclass(frozen=True)
class Row:
    """A row of the leaderboard, and the verdict on it; ``state`` is the look of its chip."""

    entry: Entry
    state: State
    verdict: str
    why: str


@dataclass(frozen=True)
class Answer:
    """What the page says of a group before anything else.

    ``scale`` has the least and the largest accuracy that the strips of the leaderboard show.
    """

    title: str
    subtitle: str
    warnings: tuple[str, ...]
    lead: str
    explained: str
    verdict: str
    tiles: tuple[Tile, ...]
    board: Leaderboard
    rows: tuple[Row, ...]
    scale: tuple[float, float]
    note: str
    sections: tuple[Section, ...]

    def drawn(self, entry: Entry) -> tuple[float, float, float] | None:
        """Accuracy, low and high in per cent of a strip; None if they are of another split."""
        if entry.accuracy.with_bounds is None or entry.split != self.board.chosen.split:
            return None
        least, most = self.scale
        value, low, high = (
            100 * (end - least) / (most - least) for end in entry.accuracy.with_bounds
        )
        return value, low, high


@dataclass(frozen=True)
class Chapter:
    """An experiment, a group of runs, the points between two classifiers, or a record of kernels.

    ``slug`` is its anchor and begins the names of its files, ``summary`` stands at its top (of what
    is alone at the top of the page), and ``trace`` leads from the runs of a
    number to their places in the page. Runs have an ``answer`` before it, except behind experiments
    and where nothing can be said. ``tally`` and ``lead`` say what matters most of an experiment
    among several: its verdicts counted, and its first finding.
    """

    kind: Literal["experiment", "runs", "interpolation", "kernels"]
    slug: str
    title: str
    summary: tuple[Block, ...]
    sections: tuple[Section, ...]
    data: str = ""
    model: str = ""
    notes: tuple[Note, ...] = ()
    runs: int = 0
    tally: str = ""
    lead: str = ""
    trace: Trace = untraced
    bugs: tuple[str, ...] = ()
    answer: Answer | None = None

    def tables(self) -> Iterator[Table]:
        """The tables that have files."""
        return (table for table in _all_of(Table, self._blocks()) if table.name)

    def figures(self) -> Iterator[Figure]:
        return _all_of(Figure, self._blocks())

    def _blocks(self) -> tuple[Section, ...]:
        return (*(() if self.answer is None else self.answer.sections), *self.sections)


Kind = TypeVar("Kind", Table, Figure)


def _all_of(kind: type[Kind], blocks: Sequence[Block]) -> Iterator[Kind]:
    for block in blocks:
        if isinstance(block, kind):
            yield block
        elif isinstance(block, Section | Fold):
            yield from _all_of(kind, block.blocks)
        elif isinstance(block, Claims) and block.verdicts is not None:
            yield from _all_of(kind, (block.verdicts,))


@dataclass(frozen=True)
class Contents:
    """Everything on the page, in its order.

    ``shared`` is what all runs have in common, ``unread`` the folders that are not in the numbers,
    with their anchors and addresses, ``copies`` how many folders hold what another does.
    """

    chapters: tuple[Chapter, ...]
    runs: tuple[Section, ...]
    shared: tuple[tuple[str, Facts], ...]
    unread: tuple[tuple[UnreadFolder, str, str], ...]
    copies: int

    def of(self, kind: str) -> tuple[Chapter, ...]:
        """The chapters of one kind."""
        return tuple(chapter for chapter in self.chapters if chapter.kind == kind)

    @property
    def alone(self) -> Chapter | None:
        """The one group of runs that the page is about; kernels may be beside it."""
        groups = self.of("runs")
        return groups[0] if len(groups) == 1 and not self.of("experiment") else None

    @property
    def folds_chapters(self) -> bool:
        """Whether what was measured is folded away: behind experiments, or of many groups."""
        return bool(self.of("experiment")) or len(self.of("runs")) > MOST_GROUPS_OPEN

    @property
    def folds_runs(self) -> bool:
        """Whether how each run was made is folded away."""
        return bool(self.of("experiment")) or len(self.runs) > MOST_RUNS_OPEN


def relative_link(target: Path, page_folder: Path) -> str:
    """A URL from the page to a file or folder; any byte that a file name may have is quoted."""
    relative = os.path.relpath(target.resolve(), page_folder.resolve())
    return quote(os.fsencode(relative.replace(os.sep, "/")))


def render_page(contents: Contents, tables_href: str, figures_href: str) -> str:
    """The page as HTML, with links to the folders of tables and figures beside it."""
    experiments = contents.of("experiment")
    return _template().render(
        contents=contents,
        experiments=experiments,
        groups=contents.of("runs"),
        paths=contents.of("interpolation"),
        kernels=contents.of("kernels"),
        title=_title(contents),
        unread_counts=_unread_counts(contents),
        navigation=_navigation(contents),
        bugs=list(dict.fromkeys(bug for chapter in contents.chapters for bug in chapter.bugs)),
        rule=RULE,
        tables_href=tables_href,
        figures_href=figures_href,
        version=lpft.__version__,
    )


@cache
def _template() -> Template:
    page = environment(is_page=True)  # class names, file names and texts come from data
    page.filters["kind"] = lambda block: type(block).__name__
    functions: Mapping[str, Callable[..., Any]] = {
        function.__name__: function
        for function in (draw, bands, row_groups, is_numeric, wraps, sections_of, effect_text)
    }
    page.globals.update(functions)
    return page.get_template("report.html.j2")


def _title(contents: Contents) -> str:
    """What the page is about: the one thing that it has, or what there is."""
    experiments, groups = contents.of("experiment"), contents.of("runs")
    paths, kernels = contents.of("interpolation"), contents.of("kernels")
    if contents.alone is not None and contents.alone.answer is not None:
        return contents.alone.answer.title
    if len(experiments) == 1:
        return experiments[0].title
    if paths and not (experiments or groups):
        return say("between_title", titles=[chapter.title for chapter in paths])
    about = groups or kernels
    return say(
        "page_title",
        experiments=len(experiments),
        runs=len(contents.runs),
        data=list(dict.fromkeys(chapter.data for chapter in about)),
        models=list(dict.fromkeys(chapter.model for chapter in about)),
    )


def _navigation(contents: Contents) -> tuple[tuple[str, str], ...]:
    """Anchors and names: the parts of what is alone, the chapters of what is not."""
    experiments, groups = contents.of("experiment"), contents.of("runs")
    others = (*contents.of("interpolation"), *contents.of("kernels"))
    links = [("summary", "Summary" if contents.alone is None else "Answer")]
    if experiments:
        alone = len(experiments) == 1
        links += sections_of(experiments[0]) if alone else [(c.slug, c.slug) for c in experiments]
        links += [("behind", "Runs and kernels")] if groups or others else []
        return (*links, ("notes", "Notes"))
    if not groups:
        alone = len(others) == 1
        links += sections_of(others[0]) if alone else [(c.slug, c.title) for c in others]
        return (*links, ("notes", "Notes"))
    if contents.alone is None:
        for chapter in groups:
            anchor = chapter.slug if chapter.answer is None else f"{chapter.slug}-answer"
            links.append((anchor, f"{chapter.data} · {chapter.model}"))
    elif groups[0].answer is not None:
        links += [(section.anchor, section.title) for section in groups[0].answer.sections]
    paths = contents.of("interpolation")
    if len(paths) == 1:
        links.append((paths[0].slug, "Between LP and fine-tuning"))
    else:
        links += [(chapter.slug, f"Between: {chapter.title}") for chapter in paths]
    return (*links, ("research", "For researchers"))


_SHORT = {
    "results": "Results",
    "change": "Feature change",
    "calibration": "Calibration",
    "features": "Features",
    "confusion": "Confusion",
    "statistics": "Statistics",
    "regression": "Kernel regression",
    "alignment": "Alignment",
    "dynamics": "Training and the kernel",
    "curves": "Along the path",
    "made": "How they were made",
    "verdicts": "Verdicts",
    "missing": "Missing",
}
"""Short titles of sections."""


def sections_of(chapter: Chapter) -> list[tuple[str, str]]:
    """Anchors and short titles of the sections of a chapter."""
    return [
        (section.anchor, _SHORT.get(section.anchor.removeprefix(f"{chapter.slug}-"), section.title))
        for section in chapter.sections
    ]


def _unread_counts(contents: Contents) -> str:
    counts = Counter(folder.holds for folder, *_ in contents.unread)
    kinds: tuple[Holds, ...] = ("experiment", "run", "interpolation", "kernels")
    named = [(f"{kind.removesuffix('s')} folder", counts[kind]) for kind in kinds]
    return say("unread_counts", counts=named)
