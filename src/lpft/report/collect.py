"""Read run folders: the only file of the report that knows how a run lies on disk."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.special import softmax

from lpft.errors import InputError
from lpft.report.numbers import number, plain

RUN_RECORD = "run.json"
RUN_FILES = (RUN_RECORD, "metrics.json", "features.json", "history.jsonl")
UNFINISHED = ("running", "failed", "interrupted")

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Predictions:
    """One split's labels [N] (class indices) and logits [N, C] before temperature."""

    labels: NDArray[np.int64]
    logits: NDArray[np.float64]

    def probabilities(self, temperature: float = 1.0) -> NDArray[np.float64]:
        """softmax(logits / temperature), N x C."""
        return np.asarray(softmax(self.logits / temperature, axis=1), dtype=np.float64)


@dataclass(frozen=True)
class RunSummary:
    """One finished run as the report needs it; keys that a run did not record are absent."""

    folder: Path
    name: str
    config: Record
    config_hash: str | None
    data_name: str
    classes: tuple[str, ...]
    rows: Mapping[str, int]
    data_sources: Record
    data_notes: tuple[str, ...]
    licence: str | None
    metric: str
    temperature: float
    temperature_reason: str | None
    metrics: Mapping[str, Record]
    features: Mapping[str, Record]
    head: Record
    history: tuple[Record, ...]
    predictions: Mapping[str, Predictions]
    versions: Mapping[str, str]
    commit: str | None
    device: str | None
    fingerprints: Mapping[str, str]
    probe: Record
    timings: Mapping[str, float]

    @property
    def method(self) -> str:
        return plain(self.config["method"])

    @property
    def model(self) -> str:
        return plain(self.config["model"])

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def learning_rate(self) -> float | None:
        return number(self.config.get("learning_rate"))

    @property
    def batch_size(self) -> float | None:
        return number(self.config.get("batch_size"))

    @property
    def ood_splits(self) -> tuple[str, ...]:
        return tuple(split for split in self.metrics if split.startswith("ood/"))

    def score(self, split: str, metric: str, *, calibrated: bool = False) -> float | None:
        """A metric of ``metrics.json``, with temperature where ``calibrated``."""
        record = self.metrics.get(split, {})
        if calibrated:
            record = record.get("calibrated", {})
        return number(record.get(metric))

    def feature(self, split: str, statistic: str, *, pretrained: bool = False) -> float | None:
        """A statistic of ``features.json``, of the pre-trained features where asked for."""
        record = self.features.get(split, {})
        if pretrained:
            record = record.get("pretrained", {})
        return number(record.get(statistic))

    def head_norm(self, name: str) -> float | None:
        """``norm``, ``bias_norm`` or ``norm_at_start`` of the head."""
        return number(self.head.get(name))


@dataclass(frozen=True)
class UnreadRun:
    """A run folder whose numbers are not in the report, and why."""

    folder: Path
    name: str
    state: str
    reason: str


@dataclass(frozen=True)
class Collection:
    """Everything found below one directory."""

    directory: Path
    runs: tuple[RunSummary, ...]
    unread: tuple[UnreadRun, ...]


class _DamagedRun(Exception):
    """A run folder cannot be used; the message says what is wrong with which file."""


def collect_runs(directory: Path) -> Collection:
    """Read every run at or below ``directory``; a run is a folder that holds ``run.json``.

    Damaged and unfinished runs come back as :class:`UnreadRun`, with their reason. Hidden folders
    and folders inside a run are not searched.

    Raises :class:`~lpft.errors.InputError` where there is no folder or no finished run in it.
    """
    if not directory.is_dir():
        raise InputError(f"{directory} is not a folder; expected one that holds runs of lpft train")
    runs: list[RunSummary] = []
    unread: list[UnreadRun] = []
    for folder in _run_folders(directory):
        name = _display_name(folder, directory)
        try:
            record = _json(folder / RUN_RECORD)
            status = record.get("status")
            if status in UNFINISHED:
                unread.append(UnreadRun(folder, name, str(status), _why_unfinished(record)))
                continue
            if status != "finished":
                raise _DamagedRun(f"run.json: status is {status!r}, not a state of a run")
            runs.append(_read_run(folder, name, record))
        except _DamagedRun as problem:
            unread.append(UnreadRun(folder, name, "damaged", plain(problem)))
    if not runs:
        raise InputError(_nothing_found(directory, unread))
    return Collection(directory, tuple(runs), tuple(unread))


def _run_folders(directory: Path) -> list[Path]:
    found = []
    for parent, folders, files in os.walk(directory):
        if RUN_RECORD in files:
            found.append(Path(parent))
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
    return found


def _display_name(folder: Path, directory: Path) -> str:
    relative = folder.resolve().name if folder == directory else folder.relative_to(directory)
    # A file name need not be text: bytes that are not UTF-8 are shown as replacement characters.
    return plain(os.fsencode(str(relative)).decode("utf-8", "replace")).replace(os.sep, "/")


def _nothing_found(directory: Path, unread: list[UnreadRun]) -> str:
    expected = f"expected folders with {', '.join(RUN_FILES)} and predictions/*.parquet"
    if not unread:
        return f"no runs below {directory}; {expected}, as lpft train writes them"
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


def _read_run(folder: Path, name: str, record: Record) -> RunSummary:
    config = _section(record, "config", RUN_RECORD, required=("method", "model", "seed"))
    if number(config["seed"]) is None:
        raise _DamagedRun(f"run.json: seed is {config['seed']!r}, expected an integer")
    data = _section(record, "data", RUN_RECORD, required=("name", "classes"))
    metrics = _json(folder / "metrics.json")
    features = _json(folder / "features.json")
    splits = _sections(metrics, "splits", "metrics.json")
    if not splits:
        raise _DamagedRun("metrics.json: no splits")
    classes = _texts(data, "classes")
    predictions = {
        plain(split): _read_predictions(folder, split, scores, len(classes))
        for split, scores in splits.items()
    }
    calibration = _section(record, "calibration", RUN_RECORD)
    temperature = number(metrics.get("temperature", calibration.get("temperature", 1.0)))
    if temperature is None or temperature <= 0:
        raise _DamagedRun("metrics.json: temperature is not a positive number")
    return RunSummary(
        folder=folder,
        name=name,
        config=config,
        config_hash=_text(record, "config_hash"),
        data_name=plain(data["name"]),
        classes=classes,
        rows={k: int(v) for k, v in _numbers(data, "rows").items()},
        data_sources=_section(data, "sources", RUN_RECORD),
        data_notes=_texts(data, "notes"),
        licence=_text(data, "licence"),
        metric=plain(record.get("metric", "accuracy")),
        temperature=temperature,
        temperature_reason=_text(calibration, "reason"),
        metrics=_shown(splits),
        features=_shown(_sections(features, "splits", "features.json")),
        head=_section(features, "head", "features.json"),
        history=_history(folder / "history.jsonl"),
        predictions=predictions,
        versions={plain(k): plain(v) for k, v in _section(record, "versions", RUN_RECORD).items()},
        commit=_text(record, "commit"),
        device=_text(record, "device"),
        fingerprints=_fingerprints(record),
        probe=_section(record, "probe", RUN_RECORD),
        timings=_numbers(record, "timings"),
    )


def _read_predictions(folder: Path, split: str, scores: Record, classes: int) -> Predictions:
    path = folder / "predictions" / f"{split.replace('/', '-')}.parquet"
    where = f"predictions/{path.name}"
    if not path.is_file():
        raise _DamagedRun(f"{where} is not there, though metrics.json has {split}")
    try:
        table = pq.read_table(path, columns=["label", "logits"])
        labels = np.asarray(table["label"].to_pylist(), dtype=np.int64)
        logits = np.asarray(table["logits"].to_pylist(), dtype=np.float64)
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as problem:
        raise _DamagedRun(f"{where} cannot be read: {problem}") from problem
    if logits.shape != (len(labels), classes) or not len(labels):
        raise _DamagedRun(
            f"{where}: logits of shape {logits.shape}, expected {(len(labels), classes)}"
        )
    if not np.isfinite(logits).all() or labels.min() < 0 or labels.max() >= classes:
        raise _DamagedRun(f"{where}: logits that are not finite, or labels outside the classes")
    recorded, found = number(scores.get("accuracy")), float(np.mean(logits.argmax(1) == labels))
    if recorded is not None and abs(recorded - found) > 1e-6:
        raise _DamagedRun(
            f"metrics.json: accuracy of {split} is {recorded:.6f}, but {where} gives {found:.6f}"
        )
    return Predictions(labels, logits)


def _history(path: Path) -> tuple[Record, ...]:
    rows = []
    for position, line in enumerate(_read_text(path).splitlines(), start=1):
        if line.strip():
            rows.append(_parsed(line, f"{path.name} line {position}"))
    return tuple(rows)


def _json(path: Path) -> Record:
    return _parsed(_read_text(path), path.name)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as problem:
        raise _DamagedRun(f"{path.name} is not there") from problem
    except (OSError, UnicodeDecodeError) as problem:
        raise _DamagedRun(f"{path.name} cannot be read: {problem}") from problem


def _parsed(text: str, where: str) -> Record:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise _DamagedRun(f"{where} is not JSON: {problem}") from problem
    if not isinstance(record, dict):
        raise _DamagedRun(f"{where} is not a JSON object")
    return record


def _section(record: Record, key: str, where: str, required: tuple[str, ...] = ()) -> Record:
    section = record.get(key, {})
    if section is None:
        section = {}
    if not isinstance(section, Mapping):
        raise _DamagedRun(f"{where}: {key} is not an object")
    for name in required:
        if section.get(name) is None:
            raise _DamagedRun(f"{where}: {key} has no {name}")
    return section


def _sections(record: Record, key: str, where: str) -> dict[str, Record]:
    outer = _section(record, key, where)
    inner = {name: _section(outer, name, where) for name in outer}
    for section in inner.values():
        for part in ("calibrated", "pretrained"):
            if not isinstance(section.get(part, {}), Mapping):
                raise _DamagedRun(f"{where}: {part} is not an object")
    return inner


def _shown(sections: dict[str, Record]) -> dict[str, Record]:
    return {plain(name): section for name, section in sections.items()}


def _texts(record: Record, key: str) -> tuple[str, ...]:
    values = record.get(key, [])
    if not isinstance(values, list):
        raise _DamagedRun(f"{RUN_RECORD}: {key} is not a list")
    return tuple(plain(value) for value in values)


def _numbers(record: Record, key: str) -> dict[str, float]:
    pairs = ((plain(k), number(v)) for k, v in _section(record, key, RUN_RECORD).items())
    return {name: value for name, value in pairs if value is not None}


def _fingerprints(record: Record) -> dict[str, str]:
    """Hashes of the encoder's weights and of every split of the data, as ``data/<split>``."""
    found = _section(record, "fingerprints", RUN_RECORD)
    data = _section(found, "data", RUN_RECORD)
    encoder = {} if found.get("encoder") is None else {"encoder": plain(found["encoder"])}
    return encoder | {f"data/{plain(split)}": plain(value) for split, value in data.items()}


def _text(record: Record, key: str) -> str | None:
    value = record.get(key)
    return None if value is None else plain(value)
