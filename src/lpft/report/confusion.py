"""Confusion matrices of the ID split, as tables a browser can shade."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lpft.results.groups import Group, Setting

MOST_CLASSES = 12  # in a matrix; of more classes the commonest confusions are listed instead
MOST_PAIRS = 15


@dataclass(frozen=True)
class Confusion:
    """Counts [C, C] of one setting, rows true and columns predicted, all seeds together."""

    label: str
    split: str
    seeds: int
    classes: tuple[str, ...]
    counts: NDArray[np.int64]

    @property
    def as_matrix(self) -> bool:
        return len(self.classes) <= MOST_CLASSES

    @property
    def lines(self) -> tuple[tuple[str, tuple[tuple[int, float, bool], ...], float | None], ...]:
        """Per true class: its name; (count, part of the row, right) per prediction; its recall."""
        lines = []
        for index, (name, row) in enumerate(zip(self.classes, self.counts, strict=True)):
            total = int(row.sum())
            cells = tuple(
                (int(count), count / total if total else 0.0, column == index)
                for column, count in enumerate(row)
            )
            lines.append((name, cells, int(row[index]) / total if total else None))
        return tuple(lines)

    @property
    def pairs(self) -> tuple[tuple[str, str, int], ...]:
        """The commonest confusions: true class, predicted class, rows."""
        wrong = self.counts.copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_PAIRS]
        found = (divmod(int(place), len(self.classes)) for place in order)
        return tuple(
            (self.classes[true], self.classes[predicted], int(wrong[true, predicted]))
            for true, predicted in found
            if wrong[true, predicted]
        )


def confusion(setting: Setting, group: Group) -> Confusion:
    """The confusion matrix of a setting on the group's ID split."""
    split, classes = group.id_split, setting.first.classes
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    runs = [run for run in setting.runs if split in run.predictions]
    for run in runs:
        found = run.predictions[split]
        np.add.at(counts, (found.labels, found.logits.argmax(axis=1)), 1)
    return Confusion(setting.label, split, len(runs), classes, counts)
