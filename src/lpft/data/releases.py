"""Official release files of benchmarks: their layouts, and where they lie."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lpft.data.columns import require_column
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


def read_release(
    task: str, releases: tuple[Release, ...], data_dir: str | Path, licence: str
) -> RawData:
    """Every split of the first of a task's releases whose training file is found.

    Args:
        data_dir: the folder that holds the benchmarks' folders, a benchmark's, or the task's own.
            Folder names are matched in any case.
        licence: the task's, for messages.

    Raises:
        InputError: no release is found or a file of it is missing; the message gives the expected
            paths and where to get them. Or a file cannot be read, or lacks a column.
    """
    root = Path(data_dir)
    if not root.is_dir():
        raise InputError(
            f"{root} is not a folder: expected the one that holds the official files of {task}, "
            "or its benchmark's folder, or the folder of all benchmarks"
        )
    for release in releases:
        for folder in _candidates(root, release):
            if (folder / release.files["train"]).is_file():
                return _read_files(task, release, folder, licence)
    urls = " or ".join(dict.fromkeys(release.url for release in releases))
    raise InputError(
        f"no training file of {task} in {root}: expected {_expected(root, releases)}; "
        f"get it from {urls} (licence: {licence})"
    )


def _read_files(task: str, release: Release, folder: Path, licence: str) -> RawData:
    splits, notes = {}, [*release.notes]
    train = release.files["train"]
    for split, name in release.files.items():
        path = folder / name
        if split in release.optional and not path.is_file():
            notes.append(f"{split} is left out: the data's folder has no {name}")
            continue
        for needed in (path,) if release.beside is None else (path, release.beside(path)):
            if not needed.is_file():
                raise InputError(
                    f"{needed} does not exist: {task} in the layout {release.layout} needs it "
                    f"beside {train}; get it from {release.url} (licence: {licence})"
                )
        table = release.read(path)
        for column in release.columns:
            require_column(table, column, path)
        splits[split] = RawSplit(
            table.rename(columns=dict(release.columns)), release.labels, str(path)
        )
    return RawData(splits, tuple(notes))


def _candidates(root: Path, release: Release) -> list[Path]:
    """The folders in which a release's files may lie, the most specific place first."""
    within = [f"{benchmark}/{own}" for benchmark in release.benchmarks for own in release.folders]
    found = [_resolve(root, relative) for relative in (*within, *release.folders)]
    candidates = [folder for folder in found if folder is not None] + [root]
    # root may be the folder of the training file itself, which a release can have deeper down
    *inner, _ = Path(release.files["train"]).parts
    place = root.resolve()
    if inner and [part.lower() for part in place.parts[-len(inner) :]] == [
        part.lower() for part in inner
    ]:
        candidates.append(place.parents[len(inner) - 1])
    return candidates


def _resolve(root: Path, relative: str) -> Path | None:
    """The folder at a relative path, its parts matched in any case, exact spelling first."""
    folder = root
    for part in relative.split("/"):
        if not (folder / part).is_dir():
            similar = [
                child
                for child in sorted(folder.iterdir())
                if child.is_dir() and child.name.lower() == part.lower()
            ]
            if not similar:
                return None
            folder = similar[0]
        else:
            folder = folder / part
    return folder


def _expected(root: Path, releases: tuple[Release, ...]) -> str:
    """The exact paths of training files where the task's folder is there, or else relative ones."""
    exact = [
        f"{folder / release.files['train']} ({release.layout})"
        for release in releases
        for folder in _candidates(root, release)
        if folder != root or any((root / name).is_file() for name in release.files.values())
    ]
    if exact:
        return " or ".join(dict.fromkeys(exact))
    return "; or ".join(_relative_paths(release) for release in releases)


def _relative_paths(release: Release) -> str:
    own, file = release.folders[0], release.files["train"]
    return f"{release.benchmarks[0]}/{own}/{file}, {own}/{file} or {file} ({release.layout})"
