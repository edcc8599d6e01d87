"""Texts and their labels, as every other part of the package receives them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lpft.data.groups import Groups

Text = str | tuple[str, str]
"""A single text, or a pair that the tokenizer joins with its own separator."""

Label = str | int
"""A class name as the user gave it; in the Python API it may be a boolean, which is an integer."""


@dataclass(frozen=True)
class Examples:
    """The rows of one split, in the order of their source.

    ``labels`` holds N class indices (int64) into :attr:`TextData.classes`; ``None`` where the
    source has no label column. ``groups`` says which rows answer one question together, where the
    task's metric asks for it. ``clusters`` (N numbers, None where nothing is known) are equal for
    rows that are not independent, such as the sentences of one abstract: intervals allow for it,
    metrics do not depend on it.
    """

    ids: list[str]
    texts: list[Text]
    labels: NDArray[np.int64] | None
    groups: Groups | None = None
    clusters: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def class_counts(self, classes: int) -> list[int]:
        """Rows of each of the ``classes`` class indices.

        Raises:
            ValueError: the rows have no labels.
        """
        if self.labels is None:
            raise ValueError("these examples have no labels")
        return np.bincount(self.labels, minlength=classes).tolist()

    def select(self, rows: Sequence[int] | NDArray[np.int64]) -> "Examples":
        """The given rows, in the given order."""
        chosen = np.asarray(rows, dtype=np.int64)
        return Examples(
            ids=[self.ids[row] for row in rows],
            texts=[self.texts[row] for row in rows],
            labels=None if self.labels is None else self.labels[chosen],
            groups=None if self.groups is None else self.groups.select(rows),
            clusters=None if self.clusters is None else self.clusters[chosen],
        )


@dataclass(frozen=True)
class TextData:
    """A classification problem: labelled splits of one distribution and named sets of others.

    ``metric`` (a key of a split's metrics) chooses the best epoch on the validation split.
    ``sources`` maps a split to where it came from; ``notes`` are facts that a report must repeat.
    """

    name: str
    classes: tuple[Label, ...]
    train: Examples
    validation: Examples
    test: Examples | None = None
    ood: dict[str, Examples] = field(default_factory=dict)
    metric: str = "accuracy"
    protocol: str = "stratified"
    sources: dict[str, str] = field(default_factory=dict)
    licence: str = "as the user's own data"
    notes: tuple[str, ...] = ()

    def splits(self) -> dict[str, Examples]:
        """Every split by the name that files and metrics use: train, validation, test, ood/NAME."""
        named = {"train": self.train, "validation": self.validation}
        if self.test is not None:
            named["test"] = self.test
        return named | {f"ood/{name}": examples for name, examples in self.ood.items()}
