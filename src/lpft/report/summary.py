"""What the report knows of one finished run: its settings, numbers and predictions."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from lpft.data.groups import Groups
from lpft.report.numbers import number, plain
from lpft.report.records import Record


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
