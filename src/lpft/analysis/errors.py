"""Which rows a classifier gets wrong, how sure it was of them, and which classes it confuses."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax

from lpft.analysis.inputs import labels_or_unseen, logit_matrix
from lpft.data.examples import UNSEEN


@dataclass(frozen=True)
class Errors:
    """The E wrong rows of a split, the most confident first; of equal ones the earlier first.

    ``rows`` are their places in the split, from 0; ``labels`` their class indices, ``UNSEEN`` for a
    class that training lacks; ``predicted`` those that were predicted; ``confidence`` is the
    largest probability and ``probability`` that of the label, NaN for an unseen class. All are [E].
    """

    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float64]
    probability: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class ConfusedPair:
    """Two classes that are confused: ``rows`` of class ``label`` called ``predicted``, as places
    in :attr:`Errors.rows`' split, the most confident first.
    """

    label: int
    predicted: int
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)


def find_errors(logits: ArrayLike, labels: ArrayLike, temperature: float = 1.0) -> Errors:
    """The rows whose largest logit is not their label's, by ``softmax(f / T)``.

    ``logits`` [N, C] before the temperature T; ``labels`` [N] class indices, or ``UNSEEN`` where
    training lacks the class: such rows are always wrong. Of equal logits the first class is the
    prediction, as in :func:`lpft.analysis.split_metrics`.

    Raises:
        InputError: logits that are not finite, an empty split, wrong labels.
    """
    table = logit_matrix(logits)
    indices = labels_or_unseen(labels, *table.shape)
    predicted = table.argmax(axis=1)
    probabilities = softmax(table / temperature, axis=1)
    wrong = np.flatnonzero(predicted != indices)
    confidence = probabilities.max(axis=1)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
    of_label = probabilities[wrong, indices[wrong]]
    of_label[indices[wrong] == UNSEEN] = np.nan
    return Errors(wrong, indices[wrong], predicted[wrong], confidence[wrong], of_label)


def confused_pairs(errors: Errors) -> list[ConfusedPair]:
    """The errors by pair of label and prediction, the most frequent pair first.

    Of equally frequent pairs the one with the most confident error comes first.
    """
    pairs: dict[tuple[int, int], list[int]] = {}
    for row, label, predicted in zip(
        errors.rows.tolist(), errors.labels.tolist(), errors.predicted.tolist(), strict=True
    ):
        pairs.setdefault((label, predicted), []).append(row)
    ordered = sorted(pairs.items(), key=lambda item: -len(item[1]))
    return [ConfusedPair(*pair, np.array(rows, dtype=np.int64)) for pair, rows in ordered]
