"""Labels that are probably wrong, found by confident learning.

Source: Northcutt, Jiang and Chuang, Journal of Artificial Intelligence Research, 2021.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lpft.analysis.calibration import fit_temperature

FEWEST_ROWS = 50
"""With fewer rows nothing is said."""

LEAST_AGREEMENT = 0.6
"""Below this kappa the predictions say too little about labels: with pairs of sentences at 0.5, one
in five of the first rows named was wrong."""


@dataclass(frozen=True)
class LabelErrors:
    """Rows whose label is probably wrong, the most probable first, and the labels that fit better.

    ``rows`` are K indices, ``suggested`` K class indices; ``agreement`` is Cohen's kappa of labels
    and predictions, which says how far the predictions can be trusted.
    """

    rows: NDArray[np.int64]
    suggested: NDArray[np.int64]
    agreement: float


def find_label_errors(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> LabelErrors:
    """The labels that models which did not see them are confident to be others.

    A label is suspect where the probability of another class is above the mean probability of that
    class over its own rows (cleanlab's ``confident_learning``); suspects are ranked by the
    probability of the given label. Probabilities are ``softmax(logits / T)`` with the temperature
    fitted to the labels. Classes without rows are left out.

    Args:
        logits: N x C, each row by a model that was not trained on it.
        labels: N class indices.
    """
    from cleanlab.filter import find_label_issues
    from scipy.special import softmax
    from sklearn.metrics import cohen_kappa_score

    present, given = np.unique(labels, return_inverse=True)
    own = np.asarray(logits, dtype=np.float64)[:, present]
    none = np.zeros(0, dtype=np.int64)
    agreement = float(cohen_kappa_score(given, own.argmax(axis=1))) if len(present) > 1 else 0.0
    if len(given) < FEWEST_ROWS or not agreement >= LEAST_AGREEMENT:
        return LabelErrors(none, none, agreement)
    probabilities = softmax(own / fit_temperature(own, given).temperature, axis=1)
    rows = find_label_issues(
        given,
        probabilities,
        filter_by="confident_learning",
        return_indices_ranked_by="self_confidence",
        n_jobs=1,
    )
    return LabelErrors(rows, present[probabilities[rows].argmax(axis=1)], agreement)
