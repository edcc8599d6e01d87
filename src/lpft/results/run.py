"""A finished run: its records, with the predictions and features in the files beside them."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.special import softmax

from lpft.data.examples import UNSEEN, Examples, Groups
from lpft.errors import InputError, named
from lpft.results.folder import SEARCH_RECORD, UnreadFolder, folders_with, read_folders
from lpft.results.schema import (
    HISTORY,
    DataRecord,
    ErrorRow,
    FindingRecord,
    RunFeatures,
    RunMetrics,
    RunRecord,
    Selection,
    UnusableRecord,
    Values,
    number,
    read_errors,
    read_history,
)
from lpft.settings.configs import CANDIDATES

if TYPE_CHECKING:
    from torch import nn

PREDICTIONS, FEATURES = "predictions", "features"
"""Folders of files by split."""
LP_HEAD = "lp/head.safetensors"
"""V (``weight``, C x h) and b (``bias``, C) of linear probing, in float64, before any scaling."""
RUNS_EXPECTED = (
    f"expected folders with {RunRecord.FILE}, {RunMetrics.FILE}, {RunFeatures.FILE}, {HISTORY} and "
    f"{PREDICTIONS}/*.parquet, as lpft train writes them"
)
_GROUP, _POSITIVE, _CREDIT, _CLUSTER = "group", "positive", "credit_", "cluster"
_CHANGES = ("id", "feature_difference")
_FEATURES = ("features", "pretrained")
_HEAD = "head.safetensors"
_ROUNDING = 1e-6  # between an accuracy and the one that predictions give
_MOST_OF_CURVE = 150  # points

CURVES = (
    ("loss", "training", "Training loss (nats)"),
    ("validation_loss", "evaluation", "Validation loss (nats)"),
    ("validation_accuracy", "evaluation", "Validation accuracy"),
    ("feature_difference", "evaluation", "Feature change"),
    ("head_norm", "evaluation", "Head norm"),
    ("bias_norm", "evaluation", "Bias norm"),
    ("logit_norm", "evaluation", "Logit norm"),
)
"""What ``history.jsonl`` records, the event that records it, and its name with unit."""


@dataclass(frozen=True)
class Predictions:
    """``predictions/<split>.parquet``: ids [N], class indices [N], logits [N, C] without T.

    The index is ``UNSEEN`` of a class that training lacks, which OOD sets may have: such rows enter
    no metric of classes (:meth:`known`). ``groups`` says which rows answer one question together;
    rows that are not independent share a number of ``clusters`` [N]. Both are None where the data
    has none.
    """

    ids: NDArray[np.str_]
    labels: NDArray[np.int64]
    logits: NDArray[np.float64]
    groups: Groups | None = None
    clusters: NDArray[np.int64] | None = None

    def known(self) -> "Predictions":
        """The rows of classes that training has."""
        rows = np.flatnonzero(self.labels != UNSEEN)
        if len(rows) == len(self.labels):
            return self
        return Predictions(
            self.ids[rows],
            self.labels[rows],
            self.logits[rows],
            None if self.groups is None else self.groups.select(rows),
            None if self.clusters is None else self.clusters[rows],
        )

    def probabilities(self, temperature: float = 1.0) -> NDArray[np.float64]:
        """softmax(logits / temperature), N x C."""
        return np.asarray(softmax(self.logits / temperature, axis=1), dtype=np.float64)

    @staticmethod
    def write(
        folder: Path, split: str, examples: Examples, logits: NDArray[np.floating[Any]]
    ) -> None:
        """Columns ``id``, ``label`` and ``logits`` (float32), with groups and clusters if any.

        ``label`` is null of a class that training lacks. Rows that answer a question together have
        their ``group`` too, the class index ``positive`` that says that a row answers, and what
        choosing a row earns by a metric as ``credit_<metric>``.
        """
        columns: dict[str, Any] = {
            "id": examples.ids,
            "label": _null_where_unseen(examples.labels),
            "logits": list(np.asarray(logits, dtype=np.float32)),
        }
        if examples.groups is not None:
            columns[_GROUP] = examples.groups.index
            columns[_POSITIVE] = examples.groups.positive
            columns |= {f"{_CREDIT}{name}": c for name, c in examples.groups.credits.items()}
        if examples.clusters is not None:
            columns[_CLUSTER] = examples.clusters
        path = _new_file(split_path(folder, PREDICTIONS, split, "parquet"))
        pd.DataFrame(columns).to_parquet(path, index=False)

    @classmethod
    def read(cls, folder: Path, split: str, classes: int) -> "Predictions":
        """The predictions of a run on a split; ``classes`` is their number.

        Raises:
            UnusableRecord: the file is missing or damaged.
        """
        path = split_path(folder, PREDICTIONS, split, "parquet")
        where = f"{PREDICTIONS}/{path.name}"
        if not path.is_file():
            raise UnusableRecord(f"{where} does not exist")
        try:
            table = pq.read_table(path)
            ids = np.asarray(table["id"].to_pylist(), dtype=np.str_)
            labels = np.asarray(table["label"].fill_null(UNSEEN), dtype=np.int64)
            logits = _matrix(table["logits"])
            groups, clusters = _groups(table), _clusters(table)
        except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as problem:
            raise UnusableRecord(f"{where} cannot be read: {problem}") from problem
        if logits.shape != (len(labels), classes) or not len(labels):
            raise UnusableRecord(
                f"{where}: logits of shape {logits.shape}, expected {(len(labels), classes)}"
            )
        known = (labels >= 0) | (labels == UNSEEN)
        if not np.isfinite(logits).all() or not known.all() or labels.max() >= classes:
            raise UnusableRecord(
                f"{where}: logits that are not finite, or labels outside the classes"
            )
        return cls(ids, labels, logits, groups, clusters)


def _matrix(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """Lists of one length as a matrix, without a Python object for each number."""
    lists = column.combine_chunks()
    lengths = np.unique(np.asarray(pc.list_value_length(lists)))
    if len(lengths) != 1:
        raise ValueError("its logits differ in number")
    return np.asarray(lists.flatten(), dtype=np.float64).reshape(len(lists), int(lengths[0]))


def _null_where_unseen(labels: NDArray[np.int64] | None) -> Any:
    if labels is None or not (labels == UNSEEN).any():
        return labels
    return pd.arrays.IntegerArray(labels, labels == UNSEEN)


def _groups(table: pa.Table) -> Groups | None:
    if not {_GROUP, _POSITIVE} <= set(table.column_names) or not len(table):
        return None
    return Groups(
        index=np.asarray(table[_GROUP], dtype=np.int64),
        credits={
            name.removeprefix(_CREDIT): np.asarray(table[name], dtype=np.float64)
            for name in table.column_names
            if name.startswith(_CREDIT)
        },
        positive=table[_POSITIVE][0].as_py(),
    )


def _clusters(table: pa.Table) -> NDArray[np.int64] | None:
    """The numbers of clusters, or else of groups, whose rows are not independent either."""
    for name in (_CLUSTER, _GROUP):
        if name in table.column_names:
            return np.asarray(table[name], dtype=np.int64)
    return None


@dataclass(frozen=True)
class Run:
    """All records of one finished run; ``name`` is its folder below that of a report.

    ``metrics`` and ``features`` are by split; what a run did not record is absent. ``selection`` is
    that of the run above a candidate.
    """

    folder: Path
    name: str
    record: RunRecord
    temperature: float
    metrics: Mapping[str, Values]
    features: Mapping[str, Values]
    head: Mapping[str, float | None]
    history: tuple[Values, ...]
    predictions: Mapping[str, Predictions]
    abstention: Values | None = None
    errors: tuple[ErrorRow, ...] = ()
    selection: Selection | None = None

    @classmethod
    def read(cls, folder: Path, name: str) -> "Run":
        """The run in ``folder``, with texts that can be printed.

        Raises:
            UnusableRecord: it is unfinished or damaged.
        """
        record = RunRecord.read(folder, printable=True)
        if record.status != "finished":
            killed = "run.json says that it is running: still at work, or killed"
            reason = killed if record.status == "running" else "run.json gives no reason"
            raise UnusableRecord(record.reason or reason, record.status)
        for section, values, required in (
            ("config", record.config, ("method", "model", "seed")),
            ("data", dict(record.data), ("name", "classes")),
        ):
            missing = [key for key in required if values.get(key) in (None, [], "")]
            if missing:
                raise UnusableRecord(f"{record.FILE}: {section} has no {missing[0]}")
        if number(record.config["seed"]) is None:
            raise UnusableRecord(
                f"{record.FILE}: seed is {record.config['seed']!r}, expected an integer"
            )
        metrics = RunMetrics.read(folder, printable=True)
        features = RunFeatures.read(folder, printable=True)
        _check_sections(metrics.splits, metrics.FILE, "calibrated")
        _check_sections(features.splits, features.FILE, "pretrained")
        if not metrics.splits:
            raise UnusableRecord(f"{metrics.FILE}: no splits")
        # A split's file has its name as it is, whether or not that can be printed.
        names = zip(metrics.splits, RunMetrics.read(folder).splits, strict=True)
        predictions = {
            split: Predictions.read(folder, as_written, len(record.data.classes))
            for split, as_written in names
        }
        for split, scores in metrics.splits.items():
            recorded, predicted = number(scores.get("accuracy")), predictions[split].known()
            if not len(predicted.labels):
                continue
            accuracy = float(np.mean(predicted.logits.argmax(1) == predicted.labels))
            if recorded is not None and abs(recorded - accuracy) > _ROUNDING:
                raise UnusableRecord(
                    f"{metrics.FILE}: accuracy of {split} is {recorded:.6f}, but its predictions "
                    f"give {accuracy:.6f}"
                )
        return cls(
            folder=folder,
            name=name,
            record=record,
            temperature=metrics.temperature,
            metrics=metrics.splits,
            features=features.splits,
            head=features.head,
            history=read_history(folder),
            predictions=predictions,
            abstention=metrics.abstention,
            errors=read_errors(folder),
            selection=_selection_above(folder.resolve()),
        )

    def without_texts(self) -> "Run":
        """The run with errors that are known by their rows only."""
        return replace(self, errors=tuple(e.model_copy(update={"text": None}) for e in self.errors))

    @property
    def config(self) -> Values:
        return self.record.config

    @property
    def data(self) -> DataRecord:
        return self.record.data

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(map(str, self.data.classes))

    @property
    def metric(self) -> str:
        """The task's own metric."""
        return self.record.metric

    @property
    def findings(self) -> tuple[FindingRecord, ...] | None:
        """What was found in the data; None of a run from before data was checked."""
        recorded = "findings" in self.record.model_fields_set
        return tuple(self.record.findings) if recorded else None

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """The values of :attr:`Fingerprints.flat`; none where none were recorded."""
        return {} if self.record.fingerprints is None else self.record.fingerprints.flat

    @property
    def method(self) -> str:
        return str(self.config["method"])

    @property
    def model(self) -> str:
        return str(self.config["model"])

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
        scores = self.metrics.get(split, {})
        return number((scores.get("calibrated", {}) if calibrated else scores).get(metric))

    def feature(self, split: str, statistic: str, *, pretrained: bool = False) -> float | None:
        """A statistic of ``features.json``, of the pre-trained features where asked for."""
        statistics = self.features.get(split, {})
        if pretrained:
            statistics = statistics.get("pretrained", {})
        return number(statistics.get(statistic))

    def head_norm(self, name: str) -> float | None:
        """``norm``, ``bias_norm`` or ``norm_at_start`` of the head."""
        return self.head.get(name)

    def curve(self, quantity: str) -> list[tuple[float, float]]:
        """(epoch, value) of one of :data:`CURVES`; long records are averaged over stretches."""
        event = next(event for name, event, _ in CURVES if name == quantity)
        points = []
        for row in self.history:
            epoch, value = number(row.get("epoch")), number(row.get(quantity))
            if row.get("event") == event and epoch is not None and value is not None:
                points.append((epoch, value))
        if len(points) <= _MOST_OF_CURVE:
            return points
        stretches = np.array_split(np.array(points), _MOST_OF_CURVE)
        return [(float(part[:, 0].mean()), float(part[:, 1].mean())) for part in stretches]


def _check_sections(splits: Mapping[str, Values], where: str, part: str) -> None:
    for split, values in splits.items():
        if not isinstance(values.get(part, {}), Mapping):
            raise UnusableRecord(f"{where}: {part} of {split} is not an object")


def find_runs(directory: Path) -> tuple[tuple[Run, ...], tuple[UnreadFolder, ...]]:
    """Every finished run at or below ``directory``, and the damaged and unfinished ones.

    Hidden folders, folders inside a run, and those of a sweep's search are not searched. A run that
    was chosen among several stands for those: they are given in its place.

    Raises:
        InputError: there is no folder.
    """
    if not directory.is_dir():
        raise InputError(f"{directory} is not a folder; expected one that holds runs of lpft train")
    folders = folders_with(RunRecord.FILE, directory, inside=False, without=SEARCH_RECORD)
    candidates_and_chosen = [run for folder in folders for run in (*candidates_in(folder), folder)]
    # The chosen run is one of its candidates: only where these are gone, or unfinished, is it read.
    copies = {folder for folder in folders if _has_its_original(folder)}
    return read_folders(
        [run for run in candidates_and_chosen if run not in copies], directory, "run", Run.read
    )


def candidates_in(folder: Path) -> list[Path]:
    """The folders of the runs among which the one in ``folder`` was, or is to be, chosen."""
    parent = folder / CANDIDATES
    return folders_with(RunRecord.FILE, parent, inside=False) if parent.is_dir() else []


def _selection_above(candidate: Path) -> Selection | None:
    """How a run was chosen among this one and others; None where this is no candidate."""
    if candidate.parent.name == CANDIDATES:
        with suppress(UnusableRecord):
            return RunRecord.read(candidate.parent.parent).selection
    return None


def _has_its_original(folder: Path) -> bool:
    """Whether a finished run is a copy of one of its candidates that is still there."""
    try:
        record = RunRecord.read(folder)
        selection = record.selection
        if record.status != "finished" or selection is None or selection.chosen is None:
            return False
        return RunRecord.read(folder / selection.chosen).status == "finished"
    except UnusableRecord:
        return False


@dataclass(frozen=True)
class SplitFeatures:
    """phi and phi_0 of a split's texts in their order: N x h, float32."""

    features: NDArray[np.float32]
    pretrained: NDArray[np.float32]


def split_path(folder: Path, kind: str, split: str, ending: str) -> Path:
    """A run's file of one split: ``ood/far`` is in ``<kind>/ood-far.parquet``."""
    return folder / kind / f"{split.replace('/', '-')}.{ending}"


def _new_file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def write_feature_changes(
    folder: Path, split: str, ids: Sequence[str], differences: Sequence[float] | NDArray[np.float64]
) -> None:
    """``features/<split>.parquet`` below a run's folder: each text's id and ``||phi - phi_0||``."""
    frame = pd.DataFrame(dict(zip(_CHANGES, (ids, differences), strict=True)))
    frame.to_parquet(_new_file(split_path(folder, FEATURES, split, "parquet")), index=False)


def read_feature_changes(folder: Path, split: str) -> pd.DataFrame:
    """Columns ``id`` and ``feature_difference`` of a run's split, one row for each text.

    The difference is ``||phi(x) - phi_0(x)||_2``; its mean is Diff(F) of ``features.json``.
    Splits are ``train``, ``test`` and ``ood/<name>``.

    Raises:
        InputError: the file is missing or damaged.
    """
    path = split_path(folder, FEATURES, split, "parquet")
    try:
        return pd.read_parquet(path, columns=list(_CHANGES))
    except FileNotFoundError as error:
        raise InputError(
            f"'{path}' does not exist: expected a finished run with a {split} split; name another, "
            "or train it again"
        ) from error
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"'{path}' cannot be read ({error}): train the run again") from error


def has_feature_changes(folder: Path, split: str) -> bool:
    """Whether a run has how far each text of a split moved, for :func:`read_feature_changes`."""
    return split_path(folder, FEATURES, split, "parquet").is_file()


def write_features(folder: Path, split: str, features: SplitFeatures) -> None:
    """``features/<split>.safetensors`` below a run's folder."""
    tensors = {
        name: np.ascontiguousarray(getattr(features, name), dtype=np.float32) for name in _FEATURES
    }
    save_file(tensors, _new_file(split_path(folder, FEATURES, split, "safetensors")))


def read_features(folder: Path, split: str) -> SplitFeatures:
    """phi and phi_0 of every text of a split, of a run with ``--save-features``.

    Raises:
        InputError: the file is missing or damaged.
    """
    return SplitFeatures(*_tensors(split_path(folder, FEATURES, split, "safetensors"), _FEATURES))


def write_head(folder: Path, head: "nn.Linear") -> None:
    """``features/head.safetensors`` below a run's folder: ``weight`` (C x h), ``bias`` (C)."""
    tensors = {
        name: parameter.detach().float().cpu().numpy()
        for name, parameter in head.named_parameters()
    }
    save_file(tensors, _new_file(folder / FEATURES / _HEAD))


def read_head_rows(folder: Path) -> NDArray[np.float32]:
    """V (C x h) of a run with saved features.

    Raises:
        InputError: the file is missing or damaged.
    """
    return _tensors(folder / FEATURES / _HEAD, ["weight"])[0]


def _tensors(path: Path, names: Iterable[str]) -> list[NDArray[np.float32]]:
    try:
        tensors = load_file(path)
        return [tensors[name] for name in names]
    except FileNotFoundError as error:
        raise InputError(
            f"'{path}' does not exist: expected a finished run with saved features; "
            f"train it again with {named('save_features=True')}"
        ) from error
    except (OSError, SafetensorError, KeyError) as error:
        raise InputError(f"'{path}' cannot be read ({error}): train the run again") from error
