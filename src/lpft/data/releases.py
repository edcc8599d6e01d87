"""Official release files of benchmarks: their layouts, where they lie, and their readers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lpft.data.lines import named_rows, read_lines, split_fields
from lpft.data.tables import read_table
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
class Release:
    """One layout in which a task's official files are handed out.

    Attributes:
        layout: its name in messages and records.
        url: where to get the files.
        benchmarks: folder names of the benchmark, as they are unpacked.
        folders: names of the task's own folder within it.
        files: paths within the task's folder by split: ``train``, ``test``, and where the release
            has its own ones ``validation`` and ``ood/NAME``.
        read: the reader of one such file; it gives one row per example.
        columns: the release's column names for the task's fields where they differ.
        labels: as in :class:`RawSplit`.
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
    notes: tuple[str, ...] = ()


def read_jsonl(path: Path) -> "pd.DataFrame":
    """SuperGLUE's files: one JSON object per line."""
    return read_table(path)


def read_tsv(path: Path) -> "pd.DataFrame":
    """GLUE's files: a header, then tab-separated fields in which quotes are ordinary characters."""
    import pandas as pd

    records = (fields for _, fields in split_fields(path, read_lines(path)))
    header = next(records, None)
    if header is None:
        raise InputError(f"{path} is empty: expected a header line and rows")
    return pd.DataFrame(list(named_rows(path, header, records)), dtype=object)


def read_cola(path: Path) -> "pd.DataFrame":
    """CoLA's files: four columns without a header, in its own release and in GLUE's alike."""
    import pandas as pd

    columns = ["source", "label", "annotation", "sentence"]
    rows = []
    for line, fields in split_fields(path, read_lines(path)):
        if len(fields) != len(columns):
            raise InputError(
                f"{path}, line {line}: found {len(fields)} tab-separated fields, expected CoLA's "
                f"{len(columns)} ({', '.join(columns)}, no header)"
            )
        rows.append(fields)
    return pd.DataFrame(rows, columns=columns, dtype=object)


def superglue(folder: str) -> Release:
    """A task in SuperGLUE's own layout; its test file has no labels, so val.jsonl is test."""
    return Release(
        layout="SuperGLUE jsonl",
        url=f"https://dl.fbaipublicfiles.com/glue/superglue/data/v2/{folder}.zip",
        benchmarks=("superglue", "super_glue"),
        folders=(folder,),
        files={"train": "train.jsonl", "test": "val.jsonl"},
        read=read_jsonl,
    )


def glue(
    folder: str,
    *,
    read: "Callable[[Path], pd.DataFrame]" = read_tsv,
    columns: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Release:
    """A task in GLUE's own layout; its test file has no labels, so dev.tsv is test."""
    return Release(
        layout="GLUE tsv",
        url=f"https://dl.fbaipublicfiles.com/glue/data/{folder}.zip",
        benchmarks=("glue", "glue_data"),
        folders=(folder,),
        files={"train": "train.tsv", "test": "dev.tsv"},
        read=read,
        columns={} if columns is None else columns,
        labels={} if labels is None else labels,
    )


def read_release(
    task: str, releases: tuple[Release, ...], data_dir: str | Path, licence: str
) -> tuple[Release, dict[str, RawSplit]]:
    """Every split of the first of a task's releases whose training file is found.

    Args:
        data_dir: the folder that holds the benchmarks' folders, a benchmark's, or the task's own.
            Folder names are matched in any case.
        licence: the task's, for messages.

    Raises:
        InputError: no release is found or a file of it is missing; the message gives the expected
            paths and where to get them. Or a file cannot be read.
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
                return release, _read_files(task, release, folder, licence)
    expected = "; or ".join(_expected_paths(release) for release in releases)
    urls = " or ".join(dict.fromkeys(release.url for release in releases))
    raise InputError(
        f"no training file of {task} in {root}: expected {expected}; "
        f"get it from {urls} (licence: {licence})"
    )


def _read_files(task: str, release: Release, folder: Path, licence: str) -> dict[str, RawSplit]:
    splits = {}
    for split, name in release.files.items():
        path = folder / name
        if not path.is_file():
            raise InputError(
                f"{path} does not exist: {task} in the layout {release.layout} needs it beside "
                f"{release.files['train']}; get it from {release.url} (licence: {licence})"
            )
        table = release.read(path).rename(columns=dict(release.columns))
        splits[split] = RawSplit(table, release.labels, str(path))
    return splits


def _candidates(root: Path, release: Release) -> list[Path]:
    within = [f"{benchmark}/{own}" for benchmark in release.benchmarks for own in release.folders]
    found = [_resolve(root, relative) for relative in (*within, *release.folders)]
    return [folder for folder in found if folder is not None] + [root]


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


def _expected_paths(release: Release) -> str:
    own, file = release.folders[0], release.files["train"]
    return f"{release.benchmarks[0]}/{own}/{file}, {own}/{file} or {file} ({release.layout})"
