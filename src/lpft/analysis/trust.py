"""Which predictions to trust: accuracy over confidence, thresholds to abstain below, unseen data.

The confidence of a row is its largest probability ``max_c p_c`` with ``p = softmax(f / T)``. A
classifier that abstains below a threshold t accepts the rows with a confidence of t or more; the
share of rows that it accepts is its coverage, the share of errors among them its risk.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from scipy.stats import beta
from sklearn.metrics import roc_auc_score

from lpft.analysis.inputs import as_array, class_indices, labels_or_unseen, logit_matrix
from lpft.data.examples import UNSEEN
from lpft.errors import InputError, named

ASSURANCE = 0.95
"""How sure a promised accuracy is: the level of its one-sided lower bound."""


def confidence(logits: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    """``max_c softmax(f / T)_c`` [N] of logits [N, C] before the temperature T.

    Raises:
        InputError: logits that are empty or not finite.
    """
    return np.asarray(softmax(logit_matrix(logits) / temperature, axis=1).max(axis=1))


@dataclass(frozen=True)
class RiskCoverage:
    """Accuracy and coverage of the rows accepted at each of K thresholds, the highest first.

    ``thresholds`` are the K different confidences; at each, ``coverage`` is the share of rows with
    that confidence or more and ``accuracy`` the share of right ones among them (risk is 1 less
    accuracy); ``rows`` and ``right`` are the counts behind them. All are [K]. ``area`` is
    :func:`area_under_risk_coverage`.
    """

    thresholds: NDArray[np.float64]
    rows: NDArray[np.int64]
    right: NDArray[np.int64]
    area: float

    @property
    def coverage(self) -> NDArray[np.float64]:
        return self.rows / self.rows[-1]

    @property
    def accuracy(self) -> NDArray[np.float64]:
        return self.right / self.rows


def risk_coverage(confidences: ArrayLike, right: ArrayLike) -> RiskCoverage:
    """What abstaining costs and gains, at every threshold that makes a difference.

    ``confidences`` [N]; ``right`` [N], whether each row is classified right. Rows of equal
    confidence are accepted together.

    Raises:
        InputError: no rows, another number of confidences, or one that is not finite.
    Source: El-Yaniv and Wiener, JMLR 2010; Geifman and El-Yaniv, NeurIPS 2017.
    """
    values, hits = _checked(confidences, right)
    order = np.argsort(-values, kind="stable")
    values = values[order]
    last = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)  # of each run of equal ones
    rows, hit = last + 1, np.cumsum(hits[order])[last]
    return RiskCoverage(values[last], rows, hit, _area(rows, rows - hit))


def area_under_risk_coverage(confidences: ArrayLike, right: ArrayLike) -> float:
    """AURC: the mean over n = 1 to N of the risk among the n most confident rows, in [0, 1].

        ``AURC = (1/N) sum_n (errors among the n most confident rows) / n``

    0 is best; a confidence that says nothing has the error rate in expectation. Rows of equal
    confidence have no order, so the value is the mean over all their orders: in a block of m tied
    rows with e errors after a rows with b errors, the expected errors among the first ``a + j``
    rows are ``b + j e / m``.

    Takes and raises what :func:`risk_coverage` does.

    Source: Geifman, Uziel and El-Yaniv, ICLR 2019.
    """
    return risk_coverage(confidences, right).area


def _area(rows: NDArray[np.int64], errors: NDArray[np.int64]) -> float:
    """AURC from the cumulated rows and errors at the end of each block of equal confidences."""
    count = np.arange(1, rows[-1] + 1)
    expected = np.interp(count, np.append(0, rows), np.append(0, errors))
    return float(np.mean(expected / count))


def _checked(
    confidences: ArrayLike, right: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    values, hits = as_array(confidences, "confidences", np.float64), as_array(right, "right", bool)
    if values.ndim != 1 or values.shape != hits.shape or not len(values):
        raise InputError(
            "expected a confidence for each of at least one row, found shapes "
            f"{values.shape} and {hits.shape}"
        )
    if not np.isfinite(values).all():
        raise InputError("confidences: expected finite numbers, found NaN or infinite values")
    return values, hits


@dataclass(frozen=True)
class Abstention:
    """A threshold, the wish that it was chosen for, and what it gives on the rows that chose it.

    ``abstain_below`` is None where the wish cannot be met; ``reason`` then says why and what can.
    ``rows`` is how many validation rows chose it, of which the share ``coverage`` is accepted, with
    ``accuracy``, which is at least ``accuracy_bound`` with 95 % confidence (Clopper and Pearson,
    one-sided); these are None where nothing is accepted or no rows are known.
    """

    abstain_below: float | None
    target_accuracy: float | None = None
    target_coverage: float | None = None
    rows: int | None = None
    coverage: float | None = None
    accuracy: float | None = None
    accuracy_bound: float | None = None
    reason: str | None = None

    def as_json(self) -> dict[str, Any]:
        """``abstention`` of ``metrics.json``."""
        return asdict(self)


def choose_threshold(
    logits: ArrayLike,
    labels: ArrayLike,
    temperature: float = 1.0,
    *,
    target_accuracy: float | None = None,
    target_coverage: float | None = None,
    abstain_below: float | None = None,
) -> Abstention:
    """The threshold for a wanted accuracy or coverage, or what a given one does, by N rows.

    **Accuracy** A: the smallest threshold at which the accepted rows show an accuracy of A, which
    is where its lower bound reaches A: with k of n accepted rows right, the bound is the 5 % point
    of Beta(k, n - k + 1) (Clopper and Pearson, one-sided). New texts like these rows are then right
    A of the time or more where they are accepted, with 95 % confidence for a threshold by itself.
    Taking the smallest of many is slightly optimistic: in simulations with calibrated confidences
    accuracy fell short in 4 to 6 % of draws instead of 5; where confidence says nothing and
    accuracy is one point below A, in 8 %. The bound needs rows: at A = 0.95 at least 59 accepted
    ones, all right. If no threshold has it, ``reason`` names the most that can be promised.

    **Coverage** K: the confidence of row ``ceil(K (N + 1))`` in descending order. A new text like
    these rows is then accepted with a probability of at least K (split conformal prediction); with
    too few rows for that, every text is accepted.

    Rows that also chose the epoch or fitted the temperature look better than new ones: both
    statements are about the rows, as far as new texts are like them.

    ``logits`` [N, C] before the temperature T, ``labels`` [N] class indices: of validation rows, or
    out of fold; exactly one of the three keywords.

    Raises:
        InputError: not exactly one keyword, or logits and labels as for
            :func:`lpft.analysis.split_metrics`.
    Source: Clopper and Pearson, Biometrika, 1934; Geifman and El-Yaniv, NeurIPS 2017; Vovk,
    Gammerman and Shafer, Algorithmic Learning in a Random World, 2005.
    """
    wishes = (target_accuracy, target_coverage, abstain_below)
    if sum(wish is not None for wish in wishes) != 1:
        raise InputError(
            f"expected one of {named('target_accuracy')}, {named('target_coverage')} and "
            f"{named('abstain_below')}"
        )
    table = logit_matrix(logits)
    right = table.argmax(axis=1) == class_indices(labels, *table.shape)
    curve = risk_coverage(confidence(table, temperature), right)
    bounds = _lower_bounds(curve.right, curve.rows)
    count = len(right)
    if target_accuracy is not None:
        reached = np.flatnonzero(bounds >= target_accuracy)
        if not len(reached):
            reason = _why_not(target_accuracy, curve, bounds)
            return Abstention(None, target_accuracy, rows=count, reason=reason)
        index = int(reached[-1])
        threshold = float(curve.thresholds[index])
        if index == len(curve.thresholds) - 1:
            threshold = 0.0  # all rows are accepted, so that no confidence is too low
    elif target_coverage is not None:
        accepted = int(np.ceil(target_coverage * (count + 1) - 1e-9))  # less rounding
        index = int(np.searchsorted(curve.rows, min(accepted, count)))
        threshold = 0.0 if accepted > count else float(curve.thresholds[index])
    else:
        assert abstain_below is not None
        threshold = abstain_below
        index = int(np.searchsorted(-curve.thresholds, -threshold, side="right")) - 1
    result = Abstention(threshold, target_accuracy, target_coverage, rows=count, coverage=0.0)
    if index < 0:
        return result
    return Abstention(
        threshold,
        target_accuracy,
        target_coverage,
        rows=count,
        coverage=float(curve.coverage[index]),
        accuracy=float(curve.accuracy[index]),
        accuracy_bound=float(bounds[index]),
    )


def _lower_bounds(right: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Clopper and Pearson's one-sided 95 % lower bound of each fraction; 0 where none is right."""
    successes = np.maximum(right, 1)
    bound = beta.ppf(1 - ASSURANCE, successes, rows - successes + 1)
    return np.asarray(np.where(right == 0, 0.0, bound))


def _why_not(target: float, curve: RiskCoverage, bounds: NDArray[np.float64]) -> str:
    """The most that can be promised instead of an accuracy; of equal bounds, at more coverage."""
    best = len(bounds) - 1 - int(np.argmax(bounds[::-1]))
    promise = np.floor(bounds[best] * 1000) / 1000  # never above the bound
    return (
        f"{curve.rows[-1]} validation rows cannot promise an accuracy of {target:g}: with 95 % "
        f"confidence they show at most {promise:g}, of the {curve.rows[best]} predictions with a "
        f"confidence of {curve.thresholds[best]:.3f} or more; ask for that much, or give more "
        "validation rows"
    )


def accepted_metrics(
    logits: ArrayLike, labels: ArrayLike, temperature: float, abstain_below: float
) -> dict[str, float | None]:
    """``coverage`` and ``accepted_accuracy`` of N labelled rows at a threshold, fractions.

    The accuracy is None where no row is accepted.

    ``logits`` [N, C] before the temperature; ``labels`` [N] class indices.
    """
    table = logit_matrix(logits)
    right = table.argmax(axis=1) == class_indices(labels, *table.shape)
    accepted = confidence(table, temperature) >= abstain_below
    return {
        "coverage": float(accepted.mean()),
        "accepted_accuracy": float(right[accepted].mean()) if accepted.any() else None,
    }


def shift_metrics(
    logits: ArrayLike,
    labels: ArrayLike,
    reference: ArrayLike | None,
    temperature: float = 1.0,
    abstain_below: float | None = None,
) -> dict[str, Any]:
    """How well confidence tells an out-of-distribution set from data like that of training.

    - ``confidence_auroc``: the probability that a row of the reference has a higher confidence than
      a row of this set, ties counting half: 0.5 where confidence does not notice the shift.
    - ``unseen``, where the set has classes that training lacks: the ``rows`` of them, the
      ``confidence_auroc`` of reference rows against these alone, and the share ``rejected`` at the
      threshold, which is None without one.

    ``logits`` [M, C] of the set and ``reference`` [N, C] of the test (or validation) rows, None
    where there are none, before the temperature T; ``labels`` [M], ``UNSEEN`` for a class that
    training lacks.

    Source: Hendrycks and Gimpel, ICLR 2017.
    """
    confidences = confidence(logits, temperature)
    reference_confidences = None if reference is None else confidence(reference, temperature)
    result: dict[str, Any] = {"confidence_auroc": _auroc(reference_confidences, confidences)}
    unseen = confidences[labels_or_unseen(labels, *logit_matrix(logits).shape) == UNSEEN]
    if len(unseen):
        rejected = None if abstain_below is None else float((unseen < abstain_below).mean())
        result["unseen"] = {
            "rows": len(unseen),
            "confidence_auroc": _auroc(reference_confidences, unseen),
            "rejected": rejected,
        }
    return result


def _auroc(higher: NDArray[np.float64] | None, lower: NDArray[np.float64]) -> float | None:
    if higher is None:
        return None
    kinds = np.repeat([1, 0], [len(higher), len(lower)])
    return float(roc_auc_score(kinds, np.concatenate([higher, lower])))
