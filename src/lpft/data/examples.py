"""Texts and their labels, as every other part of the package receives them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

Text = str | tuple[str, str]
"""A single text, or a pair that the tokenizer joins with its own separator."""

Label = str | int
"""A class name as the user gave it; in the Python API it may be a boolean, which is an integer."""

Rows = Sequence[int] | NDArray[np.int64]
"""Row numbers from 0."""

UNSEEN = -2
"""The label of a row whose class training lacks, which only out-of-distribution sets may have.

It is not -1, by which benchmarks hide a label: such rows cannot be scored at all.
"""

ANSWER_METRICS = ("answer_f1", "exact_match")
"""Metrics of groups in which every row is answered by itself."""


@dataclass(frozen=True)
class Groups:
    """The group (a question with its candidate answers) that each of N rows belongs to.

    Attributes:
        index: N group numbers; rows of one group share theirs.
        noun: what a group is (``question``), for notes and messages.
        credits: where one row of a group is chosen: what choosing each row earns, by metric, N
            numbers in [0, 1] each. Empty where every row is answered by itself.
        positive: index of the class that says that a row answers its question.
    """

    index: NDArray[np.int64]
    noun: str = "question"
    credits: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    positive: int = 1

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics that these groups give."""
        return tuple(self.credits) if self.credits else ANSWER_METRICS

    def select(self, rows: Rows) -> "Groups":
        """The groups of these rows, in this order."""
        index = np.asarray(rows, dtype=np.int64)
        credits = {name: earned[index] for name, earned in self.credits.items()}
        return Groups(self.index[index], self.noun, credits, self.positive)


@dataclass(frozen=True)
class Examples:
    """The rows of one split, in the order of their source.

    Attributes:
        labels: N class indices (int64) into :attr:`TextData.classes`; None where the source has no
            label column.
        groups: which rows answer one question together, where the task's metric asks for it.
        clusters: N numbers, equal for rows that are not independent, such as the sentences of one
            abstract: confidence intervals allow for it, metrics do not depend on it. None where
            nothing is known.
        weights: N weights of rows in training, above 0; None where each weighs 1.
        rows: N row numbers in the user's file or list, counted from 1 as every message and finding
            counts them (default: 1 to N). Rows that were made of one row share its number.
    """

    ids: list[str]
    texts: list[Text]
    labels: NDArray[np.int64] | None
    groups: Groups | None = None
    clusters: NDArray[np.int64] | None = None
    weights: NDArray[np.float64] | None = None
    rows: NDArray[np.int64] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.rows is None:
            object.__setattr__(self, "rows", np.arange(1, len(self.texts) + 1, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.texts)

    def class_counts(self, classes: int) -> list[int]:
        """Rows of each of the ``classes`` class indices; those of other classes do not count.

        Raises:
            ValueError: the rows have no labels.
        """
        if self.labels is None:
            raise ValueError("these examples have no labels")
        return np.bincount(self.labels[self.labels != UNSEEN], minlength=classes).tolist()

    def select(self, rows: Rows) -> "Examples":
        """These rows, in this order."""
        index = np.asarray(rows, dtype=np.int64)
        return Examples(
            ids=[self.ids[row] for row in rows],
            texts=[self.texts[row] for row in rows],
            labels=None if self.labels is None else self.labels[index],
            groups=None if self.groups is None else self.groups.select(rows),
            clusters=None if self.clusters is None else self.clusters[index],
            weights=None if self.weights is None else self.weights[index],
            rows=self.rows[index],
        )

    def join(self, other: "Examples") -> "Examples":
        """These rows and those of another part of the same labelled rows, by row number."""
        assert self.labels is not None
        assert other.labels is not None
        groups, clusters, weights = self.groups, self.clusters, self.weights
        if groups is not None and other.groups is not None:
            credits = {
                name: np.concatenate([earned, other.groups.credits[name]])
                for name, earned in groups.credits.items()
            }
            index = np.concatenate([groups.index, other.groups.index])
            groups = replace(groups, index=index, credits=credits)
        if clusters is not None and other.clusters is not None:
            clusters = np.concatenate([clusters, other.clusters])
        if weights is not None and other.weights is not None:
            weights = np.concatenate([weights, other.weights])
        rows = np.concatenate([self.rows, other.rows])
        both = Examples(
            ids=self.ids + other.ids,
            texts=self.texts + other.texts,
            labels=np.concatenate([self.labels, other.labels]),
            groups=groups,
            clusters=clusters,
            weights=weights,
            rows=rows,
        )
        return both.select(np.argsort(rows, kind="stable"))


@dataclass(frozen=True)
class TextData:
    """A classification problem: labelled splits of one distribution and named sets of others.

    Attributes:
        metric: chooses the best epoch on the validation split; a key of a split's metrics.
        held_out: whether the validation rows were taken from the training file by class, so that
            a method with few rows may use folds instead (:func:`lpft.data.splits.validation_kind`).
        text_columns: the columns of its files, or of a program's table, that hold the text; None
            where they have no names.
        limited: the splits of which a setting limits the number of rows.
        sources: where each split came from.
        notes: facts that a report must repeat.
    """

    name: str
    classes: tuple[Label, ...]
    train: Examples
    validation: Examples
    test: Examples | None = None
    ood: dict[str, Examples] = field(default_factory=dict)
    metric: str = "accuracy"
    protocol: str = "stratified"
    text_columns: tuple[str, ...] | None = None
    held_out: bool = False
    limited: tuple[str, ...] = ()
    sources: dict[str, str] = field(default_factory=dict)
    licence: str = "as the user's own data"
    notes: tuple[str, ...] = ()

    def splits(self) -> dict[str, Examples]:
        """Every split by the name that files and metrics use: train, validation, test, ood/NAME."""
        splits = {"train": self.train, "validation": self.validation}
        if self.test is not None:
            splits["test"] = self.test
        return splits | {f"ood/{name}": examples for name, examples in self.ood.items()}


def fingerprint(data: TextData) -> dict[str, str]:
    """SHA-256 (hex) of every split by its name: class names, then texts and labels in order.

    Groups count where rows have them, since their metrics choose the best epoch. Ids, row numbers,
    sources and notes do not count: they change nothing that is computed.
    """
    return {name: _digest(data.classes, examples) for name, examples in data.splits().items()}


def _digest(classes: tuple[Label, ...], examples: Examples) -> str:
    labels = [None] * len(examples) if examples.labels is None else examples.labels.tolist()
    digest = hashlib.sha256(json.dumps(classes).encode())
    for text, label in zip(examples.texts, labels, strict=True):
        # JSON keeps apart what plain joining would not: "ab" and the pair ("a", "b"), 1 and "1"
        digest.update(json.dumps([text, label]).encode() + b"\n")
    if examples.groups is not None:
        groups = examples.groups
        credits = {name: credit.tolist() for name, credit in groups.credits.items()}
        digest.update(json.dumps([groups.index.tolist(), credits, groups.positive]).encode())
    return digest.hexdigest()
