"""Every number that one split's logits and labels give, as ``metrics.json`` stores them.

Where rows answer a question together, there are metrics of groups too: of sets of answers, and of
a choice of one (:class:`lpft.data.examples.Groups`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp, softmax
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from lpft.analysis.calibration import (
    expected_calibration_error,
    maximum_calibration_error,
    negative_log_likelihood,
)
from lpft.analysis.comparison import wilson
from lpft.analysis.inputs import labels_or_unseen, logit_matrix
from lpft.analysis.trust import accepted_metrics, area_under_risk_coverage
from lpft.data.examples import UNSEEN, Groups, Label
from lpft.errors import InputError

TEMPERED_METRICS = ("nll", "brier", "brier_mean", "ece", "mce", "confidence", "aurc")
"""Those of probabilities, without the temperature and, as ``calibrated``, with it."""

ORDINARY_METRICS = (
    "rows",
    "accuracy",
    "accuracy_interval",
    "majority_accuracy",
    "macro_f1",
    "matthews_correlation",
    "per_class",
    *TEMPERED_METRICS,
    "logit_norm_l1",
    "logit_norm_l2",
    "logit_mean",
    "calibrated",
)
"""What every split has; a split with groups has their metrics beside these."""

METRIC_NAMES = {
    "macro_f1": "macro F1",
    "matthews_correlation": "Matthews correlation",
    "answer_f1": "answer F1",
    "token_f1": "token F1",
    "nll": "NLL",
    "brier": "Brier",
    "ece": "ECE",
    "mce": "MCE",
}
"""What readers call metrics whose key is not their name; see :func:`metric_name`."""

CONDITIONAL_METRICS = ("coverage", "accepted_accuracy", "confidence_auroc", "unseen")
"""What splits have at a threshold to abstain below, and what OOD sets have."""


def metric_name(metric: str) -> str:
    """A metric of ``metrics.json`` as readers call it."""
    return METRIC_NAMES.get(metric, metric.replace("_", " "))


def split_metrics(
    logits: ArrayLike,
    labels: ArrayLike,
    temperature: float = 1.0,
    groups: Groups | None = None,
    *,
    classes: Sequence[Label] | None = None,
    abstain_below: float | None = None,
) -> dict[str, Any]:
    """Accuracy, calibration and logit sizes of one split, ready for JSON; fractions, not per cent.

    With ``p = softmax(f)`` and ``e_y`` the one-hot label:

    - ``accuracy``, ``macro_f1``, ``matthews_correlation`` of ``argmax_c f_c`` (the first of equal
      ones), by scikit-learn. ``macro_f1`` is the mean over the classes that occur here among
      labels or predictions, as scikit-learn defines it: a class with neither has no F1 (0/0).
      ``matthews_correlation`` is 0 where labels or predictions are of one class.
    - ``accuracy_interval``: its 95 % Wilson interval, :func:`lpft.analysis.comparison.wilson`;
      ``majority_accuracy``: the share of the most common class here, which is what the best
      constant answer gets.
    - ``per_class``: by class, ``precision``, ``recall``, ``f1`` and ``support`` (rows of the
      class), as scikit-learn has them; None where it is 0/0, such as the precision of a class that
      is never predicted.
    - ``nll``: mean of ``-log p_y``, in nats. ``brier``: mean of ``||p - e_y||^2``, in [0, 2];
      ``brier_mean``: the same divided by C.
    - ``ece``, ``mce``: 15 bins, see :mod:`lpft.analysis.calibration`; ``confidence``: mean of
      ``max_c p_c``.
    - ``aurc``: area under the risk-coverage curve, in [0, 1], 0 best:
      :func:`lpft.analysis.trust.area_under_risk_coverage`.
    - ``logit_norm_l1``, ``logit_norm_l2``: mean norms of the raw f; ``logit_mean``: mean of all
      its N C entries.
    - ``calibrated``: nll, brier, brier_mean, ece, mce, confidence, aurc with ``p = softmax(f/T)``.
    - with ``abstain_below``, ``coverage`` and ``accepted_accuracy``: the share of rows with a
      calibrated confidence of that or more, and the accuracy of these (None if there are none).
    - with ``groups``, their metrics beside these: :func:`grouped_metrics`.

    Rows of classes that training lacks (``UNSEEN``, in OOD sets) count nowhere here; without any
    other row, ``rows`` is 0 and every other value None or empty.

    ``logits`` [N, C] raw; ``labels`` [N] class indices; ``temperature`` T above 0; ``classes`` the
    C names that ``per_class`` has (default: the indices).

    Raises:
        InputError: logits that are not finite, an empty split, wrong labels, wrong temperature.
    Source: Tomihari and Sato, NeurIPS 2024; Brier 1950; Guo et al., ICML 2017.
    """
    table = logit_matrix(logits)
    indices = labels_or_unseen(labels, *table.shape)
    known_rows = np.flatnonzero(indices != UNSEEN)
    if len(known_rows) < len(table):
        table, indices = table[known_rows], indices[known_rows]
        groups = None if groups is None else groups.select(known_rows)
    if not len(known_rows):
        return _without_rows(abstain_below)
    rows, count = table.shape
    names = range(count) if classes is None else classes
    predictions = table.argmax(axis=1)
    accuracy = float(accuracy_score(indices, predictions))
    abstaining: dict[str, float | None] = {}
    if abstain_below is not None:
        abstaining = accepted_metrics(table, indices, temperature, abstain_below)
    return {
        "rows": rows,
        "accuracy": accuracy,
        "accuracy_interval": list(wilson(accuracy, rows)),
        "majority_accuracy": float(np.bincount(indices).max() / rows),
        "macro_f1": float(f1_score(indices, predictions, average="macro", zero_division=0)),
        "matthews_correlation": matthews_correlation(indices, predictions),
        "per_class": per_class(indices, predictions, [str(name) for name in names]),
        **({} if groups is None else grouped_metrics(table, indices, groups)),
        **_probability_metrics(table, indices, 1.0),
        "logit_norm_l1": float(np.abs(table).sum(axis=1).mean()),
        "logit_norm_l2": float(np.linalg.norm(table, axis=1).mean()),
        "logit_mean": float(table.mean()),
        "calibrated": _probability_metrics(table, indices, temperature),
        **abstaining,
    }


def _without_rows(abstain_below: float | None) -> dict[str, Any]:
    """The metrics of a split in which training knows no class."""
    abstaining = () if abstain_below is None else ("coverage", "accepted_accuracy")
    return dict.fromkeys((*ORDINARY_METRICS, *abstaining)) | {
        "rows": 0,
        "per_class": {},
        "calibrated": dict.fromkeys(TEMPERED_METRICS),
    }


def per_class(
    labels: NDArray[np.int64], predictions: NDArray[np.int64], names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Precision, recall, F1 and support by class, as :func:`split_metrics` has them."""
    columns = precision_recall_fscore_support(
        labels, predictions, labels=range(len(names)), zero_division=np.nan
    )
    return {
        name: {
            "precision": None if np.isnan(precision) else float(precision),
            "recall": None if np.isnan(recall) else float(recall),
            "f1": None if np.isnan(f1) else float(f1),
            "support": int(support),
        }
        for name, precision, recall, f1, support in zip(names, *columns, strict=True)
    }


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
        "aurc": area_under_risk_coverage(
            probabilities.max(axis=1), logits.argmax(axis=1) == labels
        ),
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


def grouped_metrics(
    logits: NDArray[np.float64], labels: NDArray[np.int64], groups: Groups
) -> dict[str, float]:
    """The metrics of :attr:`lpft.data.examples.Groups.metrics`, fractions.

    Where every row is answered by itself, by ``argmax_c f_c``, ``answer_f1`` is :func:`answer_f1`;
    all others are means of :func:`scores_of_groups`.

    ``logits`` N x C, before any temperature, which changes none of these; ``labels`` N class
    indices.

    Raises:
        InputError: there is another number of rows than of group numbers.
    """
    means = {
        name: float(scores.mean())
        for name, scores in scores_of_groups(logits, labels, groups).items()
    }
    if groups.credits:
        return means
    called = logits.argmax(axis=1) == groups.positive
    return {"answer_f1": answer_f1(called, labels == groups.positive), **means}


def scores_of_groups(
    logits: NDArray[np.float64], labels: NDArray[np.int64], groups: Groups
) -> dict[str, NDArray[np.float64]]:
    """What each of G groups scores, in the order of their numbers, by metric.

    Where one row per group is chosen, it is the one with the largest log-odds of the positive
    class, and scores what it earns. (The reference code of arXiv 2405.16747 takes the largest
    ``f_1``, which is not the order of the probabilities.) Rows with equal log-odds share: each is
    chosen equally often, so that a classifier that gives one answer to everything earns what chance
    does, wherever the right rows stand. Otherwise ``exact_match`` is 1 of a group without error.

    Takes and raises what :func:`grouped_metrics` does.

    Source: Roemmele et al., 2011 (COPA); Zhang et al., 2018 (ReCoRD's exact match and F1);
    Khashabi et al., NAACL 2018 (MultiRC's EM0).
    """
    if len(groups.index) != len(labels):
        raise InputError(
            f"there are {len(labels)} labels but {len(groups.index)} group numbers: expected one "
            "for each row"
        )
    names, members = np.unique(groups.index, return_inverse=True)
    if not groups.credits:
        errors = np.bincount(members, weights=logits.argmax(axis=1) != labels)
        return {"exact_match": np.asarray(errors == 0, dtype=np.float64)}
    odds = log_odds(logits, groups.positive)
    largest = np.full(len(names), -np.inf)
    np.maximum.at(largest, members, odds)
    chosen = odds == largest[members]
    shares = chosen / np.bincount(members, weights=chosen)[members]
    return {
        name: np.asarray(np.bincount(members, weights=shares * earned), dtype=np.float64)
        for name, earned in groups.credits.items()
    }


def answer_f1(called: NDArray[np.bool_], positive: NDArray[np.bool_]) -> float:
    """``2 TP / (2 TP + FP + FN)`` over rows [N] that are called positive and that are so.

    0 where no row is or is called positive.

    Source: Khashabi et al., NAACL 2018 (MultiRC's F1a); Wang et al., NeurIPS 2019.
    """
    either = int(called.sum() + positive.sum())
    return 2 * int((called & positive).sum()) / either if either else 0.0


def log_odds(logits: NDArray[np.float64], positive: int) -> NDArray[np.float64]:
    """``f_p - log sum_{c != p} exp(f_c)`` of N x C logits (N), which no large logit saturates."""
    others = np.delete(logits, positive, axis=1)
    return logits[:, positive] - logsumexp(others, axis=1)
