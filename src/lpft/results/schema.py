"""The records of a run, as they lie in its folder, and how JSON records are read."""

import json
import math
import platform
import subprocess
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.special import softmax
from torch import nn

from lpft.data.examples import Examples, Groups
from lpft.errors import InputError

Record = Mapping[str, Any]

_PACKAGES = ("lpft", "torch", "transformers", "peft", "accelerate", "scikit-learn", "numpy")


@dataclass(frozen=True)
class Predictions:
    """One split's ids [N], labels [N] (class indices) and logits [N, C] before temperature.

    ``groups`` says which rows answer one question together; rows that are not independent share a
    number of ``clusters`` [N]. Both are None where the run kept none.
    """

    ids: NDArray[np.str_]
    labels: NDArray[np.int64]
    logits: NDArray[np.float64]
    groups: Groups | None = None
    clusters: NDArray[np.int64] | None = None

    def probabilities(self, temperature: float = 1.0) -> NDArray[np.float64]:
        """softmax(logits / temperature), N x C."""
        return np.asarray(softmax(self.logits / temperature, axis=1), dtype=np.float64)


@dataclass(frozen=True)
class Run:
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


class UnusableRecord(Exception):
    """A record cannot be used; the message says what is wrong with which file.

    ``state`` says it in a word: ``damaged``, ``foreign``, or how far an unfinished run got.
    """

    def __init__(self, reason: str, state: str = "damaged") -> None:
        super().__init__(reason)
        self.state = state


def check_schema(record: Record, where: str, schema: int, writer: str) -> None:
    """Refuse a record of another schema; ``writer`` is the command whose records these are."""
    found = record.get("schema")
    if found != schema:
        reason = f"{where}: schema is {found!r}, expected {schema}, which {writer} writes"
        raise UnusableRecord(reason, "foreign")


def read_record(path: Path) -> Record:
    """The JSON object in a file."""
    return parsed(read_text(path), path.name)


def read_text(path: Path) -> str:
    """The text of a file in UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as problem:
        raise UnusableRecord(f"{path.name} is not there") from problem
    except (OSError, UnicodeDecodeError) as problem:
        raise UnusableRecord(f"{path.name} cannot be read: {problem}") from problem


def parsed(text: str, where: str) -> Record:
    """A JSON object from its text; ``where`` names its place in messages."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise UnusableRecord(f"{where} is not JSON: {problem}") from problem
    if not isinstance(record, dict):
        raise UnusableRecord(f"{where} is not a JSON object")
    return record


def section(record: Record, key: str, where: str, required: tuple[str, ...] = ()) -> Record:
    """An object inside a record, empty where it is absent or null."""
    found = record.get(key, {})
    if found is None:
        found = {}
    if not isinstance(found, Mapping):
        raise UnusableRecord(f"{where}: {key} is not an object")
    for name in required:
        if found.get(name) is None:
            raise UnusableRecord(f"{where}: {key} has no {name}")
    return found


def texts(record: Record, key: str, where: str) -> tuple[str, ...]:
    """A list of a record as printable texts."""
    values = record.get(key, [])
    if not isinstance(values, list):
        raise UnusableRecord(f"{where}: {key} is not a list")
    return tuple(plain(value) for value in values)


def numbers(record: Record, key: str, where: str) -> dict[str, float]:
    """The finite numbers of an object inside a record."""
    pairs = ((plain(k), number(v)) for k, v in section(record, key, where).items())
    return {name: value for name, value in pairs if value is not None}


def text(record: Record, key: str) -> str | None:
    """A printable text, None where it is absent or null."""
    value = record.get(key)
    return None if value is None else plain(value)


def number(value: object) -> float | None:
    """A finite number as float; None for anything else, so that a gap stays a gap."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        real = float(value)
    except OverflowError:
        return None
    return real if math.isfinite(real) else None


def plain(text: object) -> str:
    """Text from data with control characters and lone surrogates replaced.

    They are not allowed in XML (the figures) or cannot be written as UTF-8.
    """
    return "".join("\N{REPLACEMENT CHARACTER}" if _unprintable(c) else c for c in str(text))


def _unprintable(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs", "Cn") or character in "\u2028\u2029"


GROUP, POSITIVE, CREDIT, CLUSTER = "group", "positive", "credit_", "cluster"
"""Columns of ``predictions/<split>.parquet`` beside id, label and logits, where data has them."""


def predictions_frame(examples: Examples, logits: np.ndarray) -> pd.DataFrame:
    """Columns id, label (the class index) and logits (C float32, before the temperature).

    Rows that answer a question together have their ``group`` too, the class index ``positive`` that
    says that a row answers, and what choosing a row earns by a metric as ``credit_<metric>``. Rows
    that are not independent share a ``cluster``.
    """
    columns: dict[str, Any] = {
        "id": examples.ids,
        "label": examples.labels,
        "logits": list(np.asarray(logits, dtype=np.float32)),
    }
    if examples.groups is not None:
        columns[GROUP] = examples.groups.index
        columns[POSITIVE] = examples.groups.positive
        columns |= {f"{CREDIT}{name}": credit for name, credit in examples.groups.credits.items()}
    if examples.clusters is not None:
        columns[CLUSTER] = examples.clusters
    return pd.DataFrame(columns)


def groups_of(table: pa.Table) -> Groups | None:
    """Which of a table's rows answer one question together, None where it does not say."""
    if not {GROUP, POSITIVE} <= set(table.column_names) or not len(table):
        return None
    return Groups(
        index=_integers(table, GROUP),
        credits={
            name.removeprefix(CREDIT): np.asarray(table[name], dtype=np.float64)
            for name in table.column_names
            if name.startswith(CREDIT)
        },
        positive=int(_integers(table, POSITIVE)[0]),
    )


def clusters_of(table: pa.Table) -> NDArray[np.int64] | None:
    """Numbers that rows share where they are not independent: a cluster's, or else a group's."""
    for name in (CLUSTER, GROUP):
        if name in table.column_names:
            return _integers(table, name)
    return None


def _integers(table: pa.Table, name: str) -> NDArray[np.int64]:
    return np.asarray(table[name], dtype=np.int64)


FEATURES = "features"
_COLUMNS = ("id", "feature_difference")


@dataclass(frozen=True)
class SplitFeatures:
    """phi and phi_0 of a split's texts in their order: N x h, float32."""

    features: NDArray[np.float32]
    pretrained: NDArray[np.float32]


def split_file(split: str, ending: str) -> str:
    """The name of a split's file: ``ood/far`` is in ``ood-far.parquet``."""
    return f"{split.replace('/', '-')}.{ending}"


def write_feature_changes(
    folder: Path, split: str, ids: Sequence[str], differences: NDArray[np.float64]
) -> None:
    """``features/<split>.parquet`` below a run's folder: each text's id and ``||phi - phi_0||``."""
    (folder / FEATURES).mkdir(exist_ok=True)
    frame = pd.DataFrame(dict(zip(_COLUMNS, (ids, differences), strict=True)))
    frame.to_parquet(folder / FEATURES / split_file(split, "parquet"), index=False)


def write_features(folder: Path, split: str, features: SplitFeatures) -> None:
    """``features/<split>.safetensors`` below a run's folder."""
    (folder / FEATURES).mkdir(exist_ok=True)
    save_file(
        {
            name: np.ascontiguousarray(getattr(features, name), dtype=np.float32)
            for name in ("features", "pretrained")
        },
        folder / FEATURES / split_file(split, "safetensors"),
    )


def read_feature_changes(folder: Path, split: str) -> pd.DataFrame:
    """Columns ``id`` and ``feature_difference`` of a run's split, one row for each text.

    The difference is ``||phi(x) - phi_0(x)||_2``; its mean is Diff(F) of ``features.json``.
    Splits are ``train``, ``test`` and ``ood/<name>``.

    Raises:
        InputError: the file is missing or damaged.
    """
    path = folder / FEATURES / split_file(split, "parquet")
    try:
        return pd.read_parquet(path, columns=list(_COLUMNS))
    except FileNotFoundError as error:
        raise InputError(
            f"'{path}' is not there: expected a finished run with a {split} split; name another, "
            "or train it again"
        ) from error
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"'{path}' cannot be read ({error}): train the run again") from error


def keeps_feature_changes(folder: Path, split: str) -> bool:
    """Whether a run kept how far each text of a split moved, for :func:`read_feature_changes`."""
    return (folder / FEATURES / split_file(split, "parquet")).is_file()


def read_features(folder: Path, split: str) -> SplitFeatures:
    """phi and phi_0 of every text of a split, of a run that kept them (``--save-features``).

    Raises:
        InputError: the file is missing or damaged.
    """
    names = ("features", "pretrained")
    return SplitFeatures(*read_kept(folder, split_file(split, "safetensors"), names))


def read_kept(folder: Path, file: str, names: Sequence[str]) -> list[NDArray[np.float32]]:
    """The named tensors of a file below ``features/``, of a run that kept its features.

    Raises:
        InputError: the file is missing or damaged.
    """
    path = folder / FEATURES / file
    try:
        tensors = load_file(path)
        return [tensors[name] for name in names]
    except FileNotFoundError as error:
        raise InputError(
            f"'{path}' is not there: expected a finished run of which the features were kept; "
            "train it again with --save-features"
        ) from error
    except (OSError, SafetensorError, KeyError) as error:
        raise InputError(f"'{path}' cannot be read ({error}): train the run again") from error


_HEAD_FILE = "head.safetensors"


def write_head(folder: Path, head: nn.Linear) -> None:
    """``features/head.safetensors`` below a run's folder: ``weight`` (C x h), ``bias`` (C)."""
    tensors = {
        name: parameter.detach().float().cpu().numpy()
        for name, parameter in head.named_parameters()
    }
    save_file(tensors, folder / FEATURES / _HEAD_FILE)


def read_head_rows(folder: Path) -> NDArray[np.float32]:
    """V (C x h) of a run that kept its features.

    Raises:
        InputError: the file is missing or damaged.
    """
    return read_kept(folder, _HEAD_FILE, ["weight"])[0]


def environment(device: torch.device) -> dict[str, Any]:
    """Package versions, the commit of a source checkout, the device and the thread count."""
    return {
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in _PACKAGES},
        "commit": source_commit(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "machine": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
    }


def source_commit() -> str | None:
    """The commit that the package runs from, ``-dirty`` if changed; None when installed."""
    folder = Path(__file__).resolve().parent
    try:
        inside = _git(folder, "ls-files", "--error-unmatch", Path(__file__).name)
        commit = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    assert inside
    return f"{commit}-dirty" if changed else commit


def _git(folder: Path, *arguments: str) -> str:
    result = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    )
    return result.stdout.strip()
