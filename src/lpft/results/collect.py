"""Find and read the run folders below a directory; what cannot be used, with the reason."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lpft.errors import InputError
from lpft.results.schema import (
    Predictions,
    Record,
    Run,
    UnusableRecord,
    clusters_of,
    groups_of,
    number,
    numbers,
    parsed,
    plain,
    read_record,
    read_text,
    section,
    text,
    texts,
)

Holds = Literal["run", "kernels", "experiment"]
Found = TypeVar("Found")

RUN_RECORD = "run.json"
SEARCH_RECORD = "search.json"
RUN_FILES = (RUN_RECORD, "metrics.json", "features.json", "history.jsonl")
UNFINISHED = ("running", "failed", "interrupted")
RUNS_EXPECTED = (
    f"expected folders with {', '.join(RUN_FILES)} and predictions/*.parquet, as lpft train writes "
    "them"
)


@dataclass(frozen=True)
class UnreadFolder:
    """A folder of a run, kernels or an experiment that is not in the report, and why."""

    folder: Path
    name: str
    state: str
    reason: str
    holds: Holds = "run"


@dataclass(frozen=True)
class Collection:
    """Everything found below one directory."""

    directory: Path
    runs: tuple[Run, ...]
    unread: tuple[UnreadFolder, ...]


def collect_runs(directory: Path) -> Collection:
    """Read every run at or below ``directory``, as :func:`find_runs` does.

    Raises :class:`~lpft.errors.InputError` where there is no folder or no finished run in it.
    """
    collection = find_runs(directory)
    if not collection.runs:
        raise InputError(nothing_found(directory, collection.unread, RUNS_EXPECTED))
    return collection


def find_runs(directory: Path) -> Collection:
    """Read every run at or below ``directory``; a run is a folder that holds ``run.json``.

    Damaged and unfinished runs come back as :class:`UnreadFolder`, with their reason. Hidden
    folders, folders inside a run, and those of a sweep's search for its settings are not searched.

    Raises :class:`~lpft.errors.InputError` where there is no folder.
    """
    if not directory.is_dir():
        raise InputError(f"{directory} is not a folder; expected one that holds runs of lpft train")
    found, unread = read_folders(_run_folders(directory), directory, "run", _read_run)
    return Collection(directory, found, unread)


def _run_folders(directory: Path) -> list[Path]:
    found = []
    for parent, folders, files in os.walk(directory):
        if RUN_RECORD in files:
            found.append(Path(parent))
            folders.clear()
        elif SEARCH_RECORD in files and Path(parent) != directory:
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
    return found


def nothing_found(directory: Path, unread: Sequence[UnreadFolder], expected: str) -> str:
    """What is wrong with a folder that has nothing to report."""
    if not unread:
        return f"no runs below {directory}; {expected}"
    first = unread[0]
    return (
        f"no finished run below {directory}; {expected}; found {len(unread)} that cannot be "
        f"used, the first {first.name} ({first.state}: {first.reason})"
    )


def _why_unfinished(record: Record) -> str:
    reason = record.get("error", record.get("reason"))
    if reason is not None:
        return plain(reason)
    if record["status"] == "running":
        return "run.json says that it is running: still at work, or killed"
    return "run.json gives no reason"


def _read_run(folder: Path, name: str) -> Run:
    record = read_record(folder / RUN_RECORD)
    status = record.get("status")
    if status in UNFINISHED:
        raise UnusableRecord(_why_unfinished(record), str(status))
    if status != "finished":
        raise UnusableRecord(f"run.json: status is {status!r}, not a state of a run")
    config = section(record, "config", RUN_RECORD, required=("method", "model", "seed"))
    if number(config["seed"]) is None:
        raise UnusableRecord(f"run.json: seed is {config['seed']!r}, expected an integer")
    data = section(record, "data", RUN_RECORD, required=("name", "classes"))
    metrics = read_record(folder / "metrics.json")
    features = read_record(folder / "features.json")
    splits = _sections(metrics, "splits", "metrics.json")
    if not splits:
        raise UnusableRecord("metrics.json: no splits")
    classes = texts(data, "classes", RUN_RECORD)
    predictions = {
        plain(split): _read_predictions(folder, split, scores, len(classes))
        for split, scores in splits.items()
    }
    calibration = section(record, "calibration", RUN_RECORD)
    temperature = number(metrics.get("temperature", calibration.get("temperature", 1.0)))
    if temperature is None or temperature <= 0:
        raise UnusableRecord("metrics.json: temperature is not a positive number")
    return Run(
        folder=folder,
        name=name,
        config=config,
        config_hash=text(record, "config_hash"),
        data_name=plain(data["name"]),
        classes=classes,
        rows={k: int(v) for k, v in numbers(data, "rows", RUN_RECORD).items()},
        data_sources=section(data, "sources", RUN_RECORD),
        data_notes=texts(data, "notes", RUN_RECORD),
        licence=text(data, "licence"),
        metric=plain(record.get("metric", "accuracy")),
        temperature=temperature,
        temperature_reason=text(calibration, "reason"),
        metrics=_shown(splits),
        features=_shown(_sections(features, "splits", "features.json")),
        head=section(features, "head", "features.json"),
        history=_history(folder / "history.jsonl"),
        predictions=predictions,
        versions={plain(k): plain(v) for k, v in section(record, "versions", RUN_RECORD).items()},
        commit=text(record, "commit"),
        device=text(record, "device"),
        fingerprints=_fingerprints(record),
        probe=section(record, "probe", RUN_RECORD),
        timings=numbers(record, "timings", RUN_RECORD),
    )


def _read_predictions(folder: Path, split: str, scores: Record, classes: int) -> Predictions:
    path = folder / "predictions" / f"{split.replace('/', '-')}.parquet"
    where = f"predictions/{path.name}"
    if not path.is_file():
        raise UnusableRecord(f"{where} is not there, though metrics.json has {split}")
    try:
        table = pq.read_table(path)
        ids = np.asarray(table["id"].to_pylist(), dtype=np.str_)
        labels = np.asarray(table["label"].to_pylist(), dtype=np.int64)
        logits = np.asarray(table["logits"].to_pylist(), dtype=np.float64)
        groups, clusters = groups_of(table), clusters_of(table)
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as problem:
        raise UnusableRecord(f"{where} cannot be read: {problem}") from problem
    if logits.shape != (len(labels), classes) or not len(labels):
        raise UnusableRecord(
            f"{where}: logits of shape {logits.shape}, expected {(len(labels), classes)}"
        )
    if not np.isfinite(logits).all() or labels.min() < 0 or labels.max() >= classes:
        raise UnusableRecord(f"{where}: logits that are not finite, or labels outside the classes")
    recorded, found = number(scores.get("accuracy")), float(np.mean(logits.argmax(1) == labels))
    if recorded is not None and abs(recorded - found) > 1e-6:
        raise UnusableRecord(
            f"metrics.json: accuracy of {split} is {recorded:.6f}, but {where} gives {found:.6f}"
        )
    return Predictions(ids, labels, logits, groups, clusters)


def _history(path: Path) -> tuple[Record, ...]:
    rows = []
    for position, line in enumerate(read_text(path).splitlines(), start=1):
        if line.strip():
            rows.append(parsed(line, f"{path.name} line {position}"))
    return tuple(rows)


def _sections(record: Record, key: str, where: str) -> dict[str, Record]:
    outer = section(record, key, where)
    inner = {name: section(outer, name, where) for name in outer}
    for found in inner.values():
        for part in ("calibrated", "pretrained"):
            if not isinstance(found.get(part, {}), Mapping):
                raise UnusableRecord(f"{where}: {part} is not an object")
    return inner


def _shown(sections: dict[str, Record]) -> dict[str, Record]:
    return {plain(name): section for name, section in sections.items()}


def _fingerprints(record: Record) -> dict[str, str]:
    """Hashes of the encoder's weights and of every split of the data, as ``data/<split>``."""
    found = section(record, "fingerprints", RUN_RECORD)
    data = section(found, "data", RUN_RECORD)
    encoder = {} if found.get("encoder") is None else {"encoder": plain(found["encoder"])}
    return encoder | {f"data/{plain(split)}": plain(value) for split, value in data.items()}


def read_folders(
    folders: Iterable[Path], directory: Path, holds: Holds, read: Callable[[Path, str], Found]
) -> tuple[tuple[Found, ...], tuple[UnreadFolder, ...]]:
    """``read(folder, name)`` of every folder, and those whose records cannot be used.

    A name is the folder's path below ``directory``.
    """
    found: list[Found] = []
    unread: list[UnreadFolder] = []
    for folder in folders:
        name = display_name(folder, directory)
        try:
            found.append(read(folder, name))
        except UnusableRecord as problem:
            unread.append(UnreadFolder(folder, name, problem.state, plain(problem), holds))
    return tuple(found), tuple(unread)


class InFolder(Protocol):
    """What was read from a folder."""

    @property
    def folder(self) -> Path: ...


Kept = TypeVar("Kept", bound=InFolder)


def without_copies(found: Iterable[Kept], record: str) -> tuple[tuple[Kept, ...], dict[Path, Path]]:
    """Each result once, and for each folder that holds a copy of it the one that is kept.

    Copies have the same bytes in their file ``record``, times included.
    """
    firsts: dict[bytes, Kept] = {}
    copies: dict[Path, Path] = {}
    for result in found:
        first = firsts.setdefault((result.folder / record).read_bytes(), result)
        if first is not result:
            copies[result.folder] = first.folder
    return tuple(firsts.values()), copies


def folders_with(record: str, directory: Path) -> list[Path]:
    """The folders at or below ``directory`` that hold a file ``record``, but no hidden ones."""
    found = []
    for parent, folders, files in os.walk(directory):
        if record in files:
            found.append(Path(parent))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
    return found


def display_name(folder: Path, directory: Path) -> str:
    """A folder's path below the report's, printable."""
    relative = folder.resolve().name if folder == directory else folder.relative_to(directory)
    # A file name need not be text: bytes that are not UTF-8 are shown as replacement characters.
    return plain(os.fsencode(str(relative)).decode("utf-8", "replace")).replace(os.sep, "/")
