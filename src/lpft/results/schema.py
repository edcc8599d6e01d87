"""The records of a run, as they lie in its folder, and how JSON records are read."""

import json
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from lpft.data.groups import Groups

Record = Mapping[str, Any]


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
