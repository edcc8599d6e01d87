"""Official release files of benchmarks: their layouts, and how they are read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lpft.data.columns import require_column
from lpft.data.places import expected_folder, folders_below, is_named, packed
from lpft.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class RawSplit:
    """One split as its source has it: a table, how it writes the classes, and where it is from.

    ``labels`` maps the source's way of writing a class (as text, ``"0"``) to the class name; it is
    empty where the source writes the names themselves.
    """

    table: "pd.DataFrame"
    labels: Mapping[str, str]
    source: str


@dataclass(frozen=True)
class RawData:
    """Every split of a source by name, and facts about it that a report must repeat."""

    splits: dict[str, RawSplit]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Release:
    """One layout in which a task's official files are handed out.

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
        beside: the path of a second file that ``read`` takes with each one.
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
    def places(self) -> tuple[str, ...]:
        """Relative paths of the task's folder, with the benchmark's folder first."""
        within = (f"{benchmark}/{own}" for benchmark in self.benchmarks for own in self.folders)
        return (*within, *self.folders)


def read_release(
    task: str,
    releases: tuple[Release, ...],
    data_dir: str | Path,
    licence: str,
    others: Mapping[str, str],
) -> RawData:
    """Every split of the first of a task's releases whose training file is found.

    Args:
        data_dir: the folder that holds the benchmarks' folders, a benchmark's, or the task's own.
            Folder names are matched in any case.
        licence: the task's, for messages.
        others: other tasks by the names of their folders, which may hold files of the same names.

    Raises:
        InputError: no release is found or a file of it is missing; the message gives the expected
            paths and where to get them. Or the folder is another task's, or a file cannot be read,
            or lacks a column.
    """
    root = Path(data_dir).absolute()
    if not root.is_dir():
        raise InputError(
            f"{root} is not a folder: expected the one that holds the official files of {task}, "
            "or its benchmark's folder, or the folder of all benchmarks"
        )
    owner = next((name for folder, name in others.items() if is_named(root, folder)), None)
    own = tuple(
        release
        for release in releases
        if owner is None or any(is_named(root, folder) for folder in release.folders)
    )
    for release in releases:
        train = release.files["train"]
        for folder in folders_below(root, release.places, train):
            if (folder != root or release in own) and (folder / train).is_file():
                return _read_files(task, release, folder, licence)
    if not own:
        names = " or ".join(dict.fromkeys(release.folders[0] for release in releases))
        raise InputError(
            f"{root} is the folder of {owner}, not of {task}: expected {names}, its benchmark's "
            "folder, or the folder of all benchmarks"
        )
    also = "" if owner is None else f"; {root.name} is also the folder of {owner}"
    raise InputError(f"{_missing(task, own, root, licence)}{also}")


def _missing(task: str, releases: tuple[Release, ...], root: Path, licence: str) -> str:
    """What is expected where, in the layouts of whose folders most is there."""
    looked = [
        (*expected_folder(root, release.places, list(release.files.values())), release)
        for release in releases
    ]
    deepest = max(depth for depth, _, _ in looked)
    nearest = [(folder, release) for depth, folder, release in looked if depth == deepest]
    for folder, release in nearest:
        path = folder / release.files["train"]
        archive = packed(path)
        if archive is not None:
            return f"{archive} is packed: unpack it, so that {path} is there"
    paths = " or ".join(
        f"{folder / release.files['train']} ({release.layout})" for folder, release in nearest
    )
    urls = " or ".join(dict.fromkeys(release.url for _, release in nearest))
    return (
        f"no training file of {task} in {root}: expected {paths}; get it from {urls} "
        f"(licence: {licence})"
    )


def _read_files(task: str, release: Release, folder: Path, licence: str) -> RawData:
    splits, notes = {}, [*release.notes]
    train = release.files["train"]
    origin = f"get it from {release.url} (licence: {licence})"
    for split, name in release.files.items():
        path = folder / name
        if split in release.optional and not path.is_file():
            notes.append(f"{split} is left out: {path} does not exist; {origin}")
            continue
        for needed in (path,) if release.beside is None else (path, release.beside(path)):
            if not needed.is_file():
                raise InputError(
                    f"{needed} does not exist: {task} in the layout {release.layout} needs it "
                    f"beside {train}; {origin}"
                )
        table = release.read(path)
        for column in release.columns:
            require_column(table, column, path)
        splits[split] = RawSplit(
            table.rename(columns=dict(release.columns)), release.labels, str(path)
        )
    return RawData(splits, tuple(notes))
