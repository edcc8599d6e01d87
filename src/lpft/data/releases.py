"""Published tasks: how one is described, and its data, from release files or the Hub."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpft.data.examples import Text, TextData
from lpft.data.reading import Row
from lpft.data.tables import require_column
from lpft.errors import InputError, named

if TYPE_CHECKING:
    import pandas as pd

_PACKED = (".7z", ".zip", ".gz", ".tar.gz")


@dataclass(frozen=True)
class RawSplit:
    """One split as its source has it.

    ``labels`` maps the source's way of writing a class (as text, ``"0"``) to the class name; it is
    empty where the source writes the names themselves.
    """

    table: "pd.DataFrame"
    labels: Mapping[str, str]
    source: str


RawData = tuple[dict[str, RawSplit], tuple[str, ...]]
"""Every split of a source by name, and facts about it that a report must repeat."""


@dataclass(frozen=True)
class Release:
    """One layout in which a task's official files are published.

    Attributes:
        layout: its name in messages and records.
        url: where to get the files.
        benchmarks: folder names of the benchmark, as they are unpacked.
        folders: names of the task's own folder within it.
        files: paths within the task's folder by split: ``train``, ``test``, and where the release
            has its own ones ``validation`` and ``ood/NAME``.
        read: the reader of one such file; it gives one row per example or per question.
        columns: the release's column names for the task's fields where they differ.
        labels: as in :class:`RawSplit`.
        optional: splits whose files may be missing.
        beside: the path of a second file that ``read`` needs beside each file.
        notes: facts about this layout that a report must repeat.
    """

    layout: str
    url: str
    benchmarks: tuple[str, ...]
    folders: tuple[str, ...]
    files: Mapping[str, str]
    read: "Callable[[Path], pd.DataFrame]"
    columns: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    optional: tuple[str, ...] = ()
    beside: Callable[[Path], Path] | None = None
    notes: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """Relative paths of the task's folder, with the benchmark's folder first."""
        within = (f"{benchmark}/{own}" for benchmark in self.benchmarks for own in self.folders)
        return (*within, *self.folders)


@dataclass(frozen=True)
class HubSource:
    """Where the Hub keeps a task: dataset, configuration, pinned commit and splits.

    Attributes:
        splits: our splits (``train``, ``test``, and where there are such, ``validation`` and
            ``ood/NAME``) to the Hub's.
        labels: as in :class:`RawSplit`, where the dataset gives its labels no names of its own.
        read: turns the dataset's rows (and the source's name, for messages) into the task's.
        notes: facts about this source that a report must repeat.
    """

    id: str
    config: str
    revision: str
    splits: Mapping[str, str] = field(
        default_factory=lambda: {"train": "train", "test": "validation"}
    )
    labels: Mapping[str, str] = field(default_factory=dict)
    read: "Callable[[pd.DataFrame, str], pd.DataFrame] | None" = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Template:
    """One way to make the classifier's input from a row."""

    description: str
    build: Callable[[Mapping[str, Any]], Text]


@dataclass(frozen=True)
class Grouping:
    """How a task's rows answer questions together.

    Attributes:
        noun: what a group is (``question``).
        unfold: from a row of the source, the source's way of writing the classes and its name for
            messages to a row for each candidate answer, with the class's name as ``label`` and the
            columns ``group`` and ``id`` and those of ``credits``.
        credits: where one row of a group is chosen: columns with what choosing each row earns,
            which are named as the metrics that they give.
    """

    noun: str
    unfold: Callable[[Row, Mapping[str, str], str], Iterator[Row]]
    credits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """A published classification task.

    Attributes:
        name: what users call it.
        title: its full name and the question that it asks.
        benchmark: the collection that it is part of.
        classes: class names in the dataset's official order.
        fields: the columns with its text, which releases may call otherwise.
        templates: the inputs that can be made of a row, the first by default; where there are none,
            the field, or the two fields as a pair.
        licence: of the data, as its owners state it.
        url: its page.
        metric: the published one, a key of a split's metrics.
        releases: layouts of its official files; the first whose training file exists is read.
        hub: where the Hugging Face Hub keeps it.
        ood: the out-of-distribution sets that some source of it has.
        grouping: where its rows answer questions together.
        cluster: the column that is equal for rows that are not independent, such as questions on
            one passage; None where rows are, but for those of a group.
        incomplete: its files are known to have rows without text or label, which are left out and
            counted; otherwise such a row is an error.
        embedded: loads it from within this package.
        notes: facts that a report must repeat.
    """

    name: str
    title: str
    benchmark: str
    classes: tuple[str, ...]
    fields: tuple[str, ...]
    licence: str
    url: str
    templates: tuple[Template, ...] = ()
    metric: str = "accuracy"
    releases: tuple[Release, ...] = ()
    hub: HubSource | None = None
    ood: tuple[str, ...] = ()
    grouping: Grouping | None = None
    cluster: str | None = None
    incomplete: bool = False
    embedded: Callable[[], TextData] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.templates:
            template = single(*self.fields) if len(self.fields) == 1 else pair(*self.fields)
            object.__setattr__(self, "templates", (template,))


def single(field: str) -> Template:
    """One field as a single text."""
    return Template(field, lambda row: row[field])


def pair(first: str, second: str) -> Template:
    """Two fields as a pair of texts."""
    return Template(f"pair: {first}, {second}", lambda row: (row[first], row[second]))


def read_release(task: Task, data_dir: str | Path, folder_owners: Mapping[str, str]) -> RawData:
    """Every split of the first of a task's releases whose training file is there.

    ``data_dir`` holds the benchmarks' folders, or is a benchmark's, or the task's own; names are
    matched in any case. ``folder_owners`` are other tasks by the names of their folders, which may
    hold files of the same names. Where a file is missing, the message gives the expected paths and
    where to get them.
    """
    root = Path(data_dir).absolute()
    if not root.is_dir():
        raise InputError(
            f"{root} is not a folder: expected the one that holds the official files of "
            f"{task.name}, or its benchmark's folder, or the folder of all benchmarks"
        )
    owner = next((name for folder, name in folder_owners.items() if _is_named(root, folder)), None)
    candidates = tuple(
        release
        for release in task.releases
        if owner is None or any(_is_named(root, folder) for folder in release.folders)
    )
    for release in task.releases:
        train = release.files["train"]
        for folder in _possible_folders(root, release.paths, train):
            if (folder != root or release in candidates) and (folder / train).is_file():
                return _read_files(task, release, folder)
    if not candidates:
        names = " or ".join(dict.fromkeys(release.folders[0] for release in task.releases))
        raise InputError(
            f"{root} is the folder of {owner}, not of {task.name}: expected {names}, its "
            "benchmark's folder, or the folder of all benchmarks"
        )
    also = "" if owner is None else f"; {root.name} is also the folder of {owner}"
    raise InputError(f"{_missing(task, candidates, root)}{also}")


def _read_files(task: Task, release: Release, folder: Path) -> RawData:
    splits, notes = {}, [*release.notes]
    train = release.files["train"]
    origin = f"get it from {release.url} (licence: {task.licence})"
    for split, name in release.files.items():
        path = folder / name
        if split in release.optional and not path.is_file():
            notes.append(f"{split} is left out: {path} does not exist; {origin}")
            continue
        for needed in (path,) if release.beside is None else (path, release.beside(path)):
            if not needed.is_file():
                raise InputError(
                    f"{needed} does not exist: {task.name} in the layout {release.layout} needs it "
                    f"beside {train}; {origin}"
                )
        table = release.read(path)
        for column in release.columns:
            require_column(table, column, path)
        table = table.rename(columns=dict(release.columns))
        splits[split] = RawSplit(table, release.labels, str(path))
    return splits, tuple(notes)


def _missing(task: Task, releases: tuple[Release, ...], root: Path) -> str:
    """The message about a missing training file: the expected paths in the likeliest layouts."""
    expected = [(*_expected_folder(root, release), release) for release in releases]
    most = max(depth for depth, _, _ in expected)
    nearest = [(folder, release) for depth, folder, release in expected if depth == most]
    for folder, release in nearest:
        path = folder / release.files["train"]
        archive = _archive_of(path)
        if archive is not None:
            return f"{archive} is packed: unpack it, so that {path} is there"
    paths = " or ".join(
        f"{folder / release.files['train']} ({release.layout})" for folder, release in nearest
    )
    urls = " or ".join(dict.fromkeys(release.url for _, release in nearest))
    return (
        f"no training file of {task.name} in {root}: expected {paths}; get it from {urls} "
        f"(licence: {task.licence})"
    )


def _possible_folders(root: Path, paths: Sequence[str], file: str) -> Iterator[Path]:
    """The folders in which a release's files may lie, the most specific path first.

    ``root`` may be a folder on the way to the release's (``cola_public`` of ``cola_public/raw``),
    that folder itself, or the folder within it that a file has of its own
    (``train/train.data.txt``).
    """
    yield from (folder for _, folder, missing in _walks(root, paths) if not missing)
    yield root
    inner = Path(file).parts[:-1]
    if inner and _is_named(root, "/".join(inner)):
        yield root.parents[len(inner) - 1]


def _expected_folder(root: Path, release: Release) -> tuple[int, Path]:
    """How many folders of a release's path are there, and where its folder should be below them."""
    if any((root / file).is_file() for file in release.files.values()):
        return max(path.count("/") for path in release.paths) + 2, root
    # of equally deep ones, a folder that is there at all
    depth, folder, missing = max(
        _walks(root, release.paths), key=lambda walk: (walk[0], not walk[2])
    )
    return depth, folder.joinpath(*missing)


def _walks(root: Path, paths: Sequence[str]) -> Iterator[tuple[int, Path, Sequence[str]]]:
    """Every way to go along a path from ``root``, which may itself be one of its folders.

    How many of the path's folders are there, the deepest of them, and the names that are missing.
    """
    split = [path.split("/") for path in paths]
    for known in range(max(map(len, split)) + 1):
        for parts in split:
            if known <= len(parts) and (known == 0 or _is_named(root, "/".join(parts[:known]))):
                folder, missing = _walk(root, parts[known:])
                yield len(parts) - len(missing), folder, missing


def _is_named(folder: Path, path: str) -> bool:
    """Whether a folder, or what it links to, ends with this relative path."""
    names = path.lower().split("/")
    return any(
        [name.lower() for name in absolute.parts[-len(names) :]] == names
        for absolute in (folder, folder.resolve())
    )


def _walk(root: Path, parts: Sequence[str]) -> tuple[Path, Sequence[str]]:
    """The deepest folder on a path that is there, and the parts below it that are not."""
    folder = root
    for number, part in enumerate(parts):
        below = folder / part
        if not below.is_dir():
            similar = [
                child
                for child in sorted(folder.iterdir())
                if child.is_dir() and child.name.lower() == part.lower()
            ]
            if not similar:
                return folder, parts[number:]
            below = similar[0]
        folder = below
    return folder, []


def _archive_of(path: Path) -> Path | None:
    """The archive that has a missing file's or its folder's name, if there is one."""
    for missing in (path.with_suffix(""), path, path.parent):
        for ending in _PACKED:
            archive = missing.with_name(missing.name + ending)
            if archive.is_file():
                return archive
    return None


def read_hub(task: Task, revision: str | None = None) -> RawData:
    """Every split of a task, of a ``revision`` (commit, tag or branch) or the pinned commit.

    Labels are read by the names that the dataset gives its indices.
    """
    import datasets
    import pandas as pd

    hub = task.hub
    assert hub is not None
    revision = hub.revision if revision is None else revision
    source = f"{hub.id} ({hub.config}) at {revision} on the Hugging Face Hub"
    try:
        with _progress_on_terminals_only():
            dataset = datasets.load_dataset(hub.id, hub.config, revision=revision)
    # the Hub's client raises some twenty kinds of exceptions for one fact: there is no data
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{task.name} could not be loaded from {source} ({type(error).__name__}: {reason}); "
            "check the network and the revision, or give the official files with "
            f"{named('data_dir')}"
        ) from error
    splits = {}
    for split, name in hub.splits.items():
        if name not in dataset:
            raise InputError(
                f"{source} has the splits {', '.join(dataset)}, expected '{name}': "
                f"take another revision, or give the official files with {named('data_dir')}"
            )
        where = f"{source}, split {name}"
        names = getattr(dataset[name].features.get("label"), "names", None)
        table = pd.DataFrame(dataset[name].to_dict(), dtype=object)
        splits[split] = RawSplit(
            table=table if hub.read is None else hub.read(table, where),
            # str: YAML reads an unquoted class name "no" in a dataset card as False
            labels=hub.labels if names is None else {str(i): str(n) for i, n in enumerate(names)},
            source=where,
        )
    return splits, hub.notes


@contextmanager
def _progress_on_terminals_only() -> Iterator[None]:
    import datasets

    quiet = not sys.stderr.isatty() and not datasets.are_progress_bars_disabled()
    if quiet:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if quiet:
            datasets.enable_progress_bars()
