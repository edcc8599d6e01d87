"""Every number that one split's logits and labels give, as ``metrics.json`` stores them."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from sklearn.metrics import accuracy_score, f1_score

from lpft.analysis.calibration import (
    expected_calibration_error,
    maximum_calibration_error,
    negative_log_likelihood,
)
from lpft.analysis.grouped import grouped_metrics
from lpft.analysis.inputs import class_indices, logit_matrix
from lpft.data.examples import Groups

ORDINARY_METRICS = (
    "rows",
    "accuracy",
    "macro_f1",
    "matthews_correlation",
    "nll",
    "brier",
    "brier_mean",
    "ece",
    "mce",
    "confidence",
    "logit_norm_l1",
    "logit_norm_l2",
    "logit_mean",
    "calibrated",
)
"""What every split has; a split with groups has their metrics beside these."""


def split_metrics(
    logits: ArrayLike,
    labels: ArrayLike,
    temperature: float = 1.0,
    groups: Groups | None = None,
) -> dict[str, Any]:
    """Accuracy, calibration and logit sizes of one split, ready for JSON; fractions, not per cent.

    With ``p = softmax(f)`` and ``e_y`` the one-hot label:

    - ``accuracy``, ``macro_f1``, ``matthews_correlation`` of ``argmax_c f_c`` (the first of equal
      ones), by scikit-learn. ``macro_f1`` is the mean over the classes that occur here among
      labels or predictions, as scikit-learn defines it: a class with neither has no F1 (0/0).
      ``matthews_correlation`` is 0 where labels or predictions are of one class.
    - ``nll``: mean of ``-log p_y``, in nats. ``brier``: mean of ``||p - e_y||^2``, in [0, 2];
      ``brier_mean``: the same divided by C.
    - ``ece``, ``mce``: 15 bins, see :mod:`lpft.analysis.calibration`; ``confidence``: mean of
      ``max_c p_c``.
    - ``logit_norm_l1``, ``logit_norm_l2``: mean norms of the raw f; ``logit_mean``: mean of all
      its N C entries.
    - ``calibrated``: nll, brier, brier_mean, ece, mce, confidence with ``p = softmax(f / T)``.
    - with ``groups``, their metrics beside these: :func:`lpft.analysis.grouped.grouped_metrics`.

    ``logits`` [N, C] raw; ``labels`` [N] class indices; ``temperature`` T above 0.

    Raises:
        InputError: logits that are not finite, an empty split, wrong labels, wrong temperature.
    Source: Tomihari and Sato, NeurIPS 2024; Brier 1950; Guo et al., ICML 2017.
    """
    table = logit_matrix(logits)
    rows, classes = table.shape
    indices = class_indices(labels, rows, classes)
    predictions = table.argmax(axis=1)
    return {
        "rows": rows,
        "accuracy": float(accuracy_score(indices, predictions)),
        "macro_f1": float(f1_score(indices, predictions, average="macro", zero_division=0)),
        "matthews_correlation": matthews_correlation(indices, predictions),
        **({} if groups is None else grouped_metrics(table, indices, groups)),
        **_probability_metrics(table, indices, 1.0),
        "logit_norm_l1": float(np.abs(table).sum(axis=1).mean()),
        "logit_norm_l2": float(np.linalg.norm(table, axis=1).mean()),
        "logit_mean": float(table.mean()),
        "calibrated": _probability_metrics(table, indices, temperature),
    }


def matthews_correlation(labels: NDArray[np.int64], predictions: NDArray[np.int64]) -> float:
    """Matthews correlation of class indices [N], 0 where labels or predictions are of one class.

    With n_kl rows of class k that are called l, and ``t_k``, ``p_k`` its sums over l and over k,

        ``(N sum_k n_kk - sum_k t_k p_k) / sqrt((N^2 - sum_k t_k^2) (N^2 - sum_k p_k^2))``.

    scikit-learn's ``matthews_corrcoef``, fifty times as fast: bootstraps ask for it on every draw.

    Source: Gorodkin, Computational Biology and Chemistry, 2004.
    """
    classes = int(max(labels.max(), predictions.max())) + 1
    counts = np.bincount(labels * classes + predictions, minlength=classes**2)
    counts = counts.reshape(classes, classes)
    rows, labelled, called = len(labels), counts.sum(axis=1), counts.sum(axis=0)
    of_labels, of_predictions = rows**2 - labelled @ labelled, rows**2 - called @ called
    if of_labels == 0 or of_predictions == 0:
        return 0.0
    shared = rows * np.trace(counts) - labelled @ called
    return float(shared / np.sqrt(float(of_labels) * float(of_predictions)))


def _probability_metrics(
    logits: NDArray[np.float64], labels: NDArray[np.int64], temperature: float
) -> dict[str, float]:
    """The metrics that depend on the temperature."""
    nll = negative_log_likelihood(logits, labels, temperature)
    probabilities = softmax(logits / temperature, axis=1)
    rows, classes = logits.shape
    error = probabilities.copy()
    error[np.arange(rows), labels] -= 1
    brier = float(np.sum(error**2, axis=1).mean())
    return {
        "nll": nll,
        "brier": brier,
        "brier_mean": brier / classes,
        "ece": expected_calibration_error(probabilities, labels),
        "mce": maximum_calibration_error(probabilities, labels),
        "confidence": float(probabilities.max(axis=1).mean()),
    }
