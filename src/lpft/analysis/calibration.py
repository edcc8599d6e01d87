"""How far probabilities can be trusted: reliability bins, ECE, MCE and temperature scaling.

Everything here raises ``InputError`` for probabilities or logits that are empty or not finite, rows
that are no distribution, and labels that are no class indices.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import log_softmax, softmax

from lpft.analysis.comparison import wilson
from lpft.analysis.inputs import class_indices, logit_matrix, probability_matrix
from lpft.errors import InputError

LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.01, 100.0


@dataclass(frozen=True)
class ReliabilityBins:
    """Rows grouped by top probability: bin b covers (edges[b], edges[b + 1]].

    ``edges`` [B + 1]; ``counts`` [B] rows; ``confidence`` [B] mean top probability and
    ``accuracy`` [B] fraction of rows classified right, with its 95 % Wilson interval from ``low``
    to ``high`` [B]; these four are NaN in an empty bin.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def reliability_bins(
    probabilities: ArrayLike,
    labels: ArrayLike,
    bins: int = 15,
    *,
    strategy: Literal["width", "count"] = "width",
) -> ReliabilityBins:
    """Group rows into bins of their top probability, of equal width or of equally many rows.

    With ``width``, bin b of B holds the rows with ``b/B < max_c p_c <= (b + 1)/B``. The borders are
    the float64 numbers nearest to ``b/B`` and the comparison is exact: float64 0.6 with 15 bins is
    the border 9/15 and lies in (8/15, 9/15], 1.0 in the last bin, and the next float64 above a
    border in the next bin. Of equal top probabilities the first class is the prediction.

    With ``count``, the upper border of bin b is the top probability of row ``ceil((b + 1) N / B)``
    in ascending order. Rows of equal top probability stay together, so that there may be fewer than
    B bins, none of them empty.

    ``probabilities`` [N, C], rows summing to 1; ``labels`` [N] class indices; ``bins`` at least 1.

    Source: Naeini et al., AAAI 2015; Guo et al., ICML 2017, section 2; Nguyen and O'Connor, EMNLP
    2015 (equal counts).
    """
    edges, bin_of, top, right = _binned(probabilities, labels, bins)
    if strategy == "count":
        last = -(-np.arange(1, bins + 1) * len(top) // bins) - 1  # the ceiling, in integers
        edges = np.concatenate([[0.0], np.unique(np.sort(top)[last])])
        bin_of, bins = np.searchsorted(edges, top, side="left") - 1, len(edges) - 1
    counts = np.bincount(bin_of, minlength=bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of an empty bin
        confidence = np.bincount(bin_of, weights=top, minlength=bins) / counts
        accuracy = np.bincount(bin_of, weights=right, minlength=bins) / counts
    return ReliabilityBins(edges, counts, confidence, accuracy, *wilson(accuracy, counts))


def expected_calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, bins: int = 15
) -> float:
    """Mean over rows of the gap between accuracy and confidence of the row's bin.

    ``ECE = sum_b (n_b / N) |accuracy_b - confidence_b|``, a fraction in [0, 1], over the bins of
    :func:`reliability_bins`.

    Source: Naeini et al., AAAI 2015; Guo et al., ICML 2017, equation 3.
    """
    _, bin_of, top, right = _binned(probabilities, labels, bins)
    return float(np.abs(np.bincount(bin_of, weights=right - top)).sum() / len(top))


def calibration_error_of_draws(
    probabilities: ArrayLike, labels: ArrayLike, bins: int = 15
) -> Callable[[NDArray[np.int64]], float]:
    """ECE of any of the rows, as a function of their indices [M], each as often as it is named.

    ``ECE = (1/N) sum_b |sum_i (right_i - top_i)|`` over the rows i in bin b, which is the usual
    form without its divisions. Rows are put into bins once, so that a bootstrap's draws only add.
    """
    _, bin_of, top, right = _binned(probabilities, labels, bins)
    gap = right - top

    def error(drawn: NDArray[np.int64]) -> float:
        gaps = np.bincount(bin_of[drawn], weights=gap[drawn], minlength=bins)
        return float(np.abs(gaps).sum() / len(drawn))

    return error


def calibration_error_by_chance(
    probabilities: ArrayLike,
    bins: int = 15,
    *,
    level: float = 0.95,
    draws: int = 400,
    generator: np.random.Generator,
) -> float:
    """The ECE that perfect probabilities would stay below in a share ``level`` of samples.

    ECE is above 0 even then, the more so the fewer rows there are: each row is right with its top
    probability p, so that the gap of bin b is ``|sum_i (Bernoulli(p_i) - p_i)| / N``. A measured
    ECE of this much or less is no sign of wrong probabilities.

    ``probabilities`` [N, C], rows summing to 1.

    Source: Widmann, Lindsten and Zachariah, NeurIPS 2019 (consistency resampling after Brocker and
    Smith, 2007).
    """
    called = np.asarray(probabilities).argmax(axis=1)
    _, bin_of, top, _ = _binned(probabilities, called, bins)
    errors = np.empty(draws)
    for number in range(draws):
        gaps = np.bincount(bin_of, weights=(generator.random(len(top)) < top) - top, minlength=bins)
        errors[number] = np.abs(gaps).sum() / len(top)
    return float(np.quantile(errors, level))


def maximum_calibration_error(probabilities: ArrayLike, labels: ArrayLike, bins: int = 15) -> float:
    """Largest gap between accuracy and confidence over the bins that are not empty.

    ``MCE = max_b |accuracy_b - confidence_b|``, a fraction in [0, 1], over the bins of
    :func:`reliability_bins`.

    Source: Naeini et al., AAAI 2015; Guo et al., ICML 2017, equation 5.
    """
    table = reliability_bins(probabilities, labels, bins)
    return float(np.nanmax(np.abs(table.accuracy - table.confidence)))


def _binned(
    probabilities: ArrayLike, labels: ArrayLike, bins: int
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """The bins' edges [B + 1]; of each row its bin, top probability and whether it is right [N]."""
    if bins < 1:
        raise InputError(f"bins: expected at least 1, found {bins}")
    table = probability_matrix(probabilities)
    rows, classes = table.shape
    indices = class_indices(labels, rows, classes)
    top = np.minimum(table.max(axis=1), 1.0)  # float32 rounding may leave 1.0000001
    right = (table.argmax(axis=1) == indices).astype(np.float64)

    # Division rounds each border correctly; linspace multiplies, and misses 0.6 for 10 bins.
    edges = np.arange(bins + 1) / bins
    return edges, np.searchsorted(edges, top, side="left") - 1, top, right


def negative_log_likelihood(
    logits: ArrayLike,
    labels: ArrayLike,
    temperature: float = 1.0,
    sample_weight: NDArray[np.float64] | None = None,
) -> float:
    """Mean cross-entropy in nats, ``-(1/N) sum_i log softmax(f(x_i) / T)[y_i]``.

    With ``sample_weight`` w [N] the mean is weighted: row i counts ``w_i / sum_j w_j``.
    ``logits`` [N, C] raw; ``labels`` [N] class indices; ``temperature`` T above 0.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise InputError(f"temperature: expected a finite number above 0, found {temperature}")
    table = logit_matrix(logits)
    indices = class_indices(labels, *table.shape)
    likelihoods = log_softmax(table / temperature, axis=1)[np.arange(len(table)), indices]
    return -float(np.average(likelihoods, weights=sample_weight))


PRIOR_SD = 0.5
"""The prior standard deviation of log T for trained models, by benchmarks/calibration.py."""

_EVEN_ROWS = 2.0
"""Rows with even labels that are counted beside few rows, Platt's number."""


@dataclass(frozen=True)
class TemperatureFit:
    """The fitted ``temperature``; NLL in nats with T = 1 (``nll_before``) and with it.

    ``reason`` is None, or the sentence that says why the temperature stays 1.
    """

    temperature: float
    reason: str | None
    nll_before: float
    nll_after: float


def fit_temperature(
    logits: ArrayLike,
    labels: ArrayLike,
    prior_sd: float | None = None,
    sample_weight: NDArray[np.float64] | None = None,
) -> TemperatureFit:
    """The one scalar T that minimises the NLL of ``softmax(f / T)``, within [0.01, 100].

    Few rows say little about T. With ``prior_sd`` s it is the one that minimises
    ``sum_i NLL_i - (k / (N C)) sum_i sum_c log p_ic + (log T)^2 / (2 s^2)``. The last term makes it
    the most probable T if log T is normal around 0 with the standard deviation s. The middle one
    counts k = 2 rows more, like the others but with labels spread evenly over the classes: without
    it a few rows that happen to be all right would sharpen the probabilities. T is then near 1 for
    few rows, near the plain T for many, and there always is one.

    The NLL is convex in ``beta = 1/T`` with the slope ``(1/N) sum_i sum_c p_ic (f_ic - f_iy)``,
    which never decreases; its root is found by Brent's method over log T. The root of the slope
    is sharp to rounding, where a minimum sought by values is sharp to its square root only.
    Without a root strictly inside the range, as for perfectly separated rows, T stays 1.

    With ``sample_weight`` w [N] each ``NLL_i`` is multiplied by ``w_i``, and means are weighted.

    ``logits`` [N, C] raw, of the validation split; ``labels`` [N] class indices.

    Source: Guo et al., ICML 2017, section 4.2; the same optimum as scikit-learn's
    ``CalibratedClassifierCV(method="temperature")``. The further rows: Platt, 1999, whose targets
    (N + 1) / (N + 2) and 1 / (N + 2) these are for two classes.
    """
    table = logit_matrix(logits)
    indices = class_indices(labels, *table.shape)
    # Differences before sums: the slope of a row whose logits are all equal is exactly 0.
    excess = table - np.take_along_axis(table, indices[:, None], axis=1)

    def slope(log_temperature: float, differences: NDArray[np.float64] = excess) -> float:
        probabilities = softmax(table / math.exp(log_temperature), axis=1)
        slopes = np.sum(probabilities * differences, axis=1)
        return float(np.average(slopes, weights=sample_weight))

    def nll(temperature: float) -> float:
        return negative_log_likelihood(table, indices, temperature, sample_weight)

    rows = len(table) if sample_weight is None else float(sample_weight.sum())
    before = nll(1.0)
    lowest, highest = math.log(LOWEST_TEMPERATURE), math.log(HIGHEST_TEMPERATURE)
    if prior_sd is not None and excess.any():
        evenly = _EVEN_ROWS / rows
        excess_of_even = table - table.mean(axis=1, keepdims=True)

        def gradient(log_temperature: float) -> float:
            """Of the objective over N, by log T; d (1/T) = -(1/T) d log T."""
            prior = log_temperature / (prior_sd**2 * rows)
            slopes = slope(log_temperature) + evenly * slope(log_temperature, excess_of_even)
            return prior - slopes / math.exp(log_temperature)

        def objective(log_temperature: float) -> float:
            temperature = math.exp(log_temperature)
            losses = -log_softmax(table / temperature, axis=1).mean(axis=1)
            prior = log_temperature**2 / (2 * prior_sd**2 * rows)
            return nll(temperature) + evenly * np.average(losses, weights=sample_weight) + prior

        temperature = math.exp(_lowest_minimum(objective, gradient))
        return TemperatureFit(temperature, None, before, nll(temperature))
    if slope(lowest) <= 0 or slope(highest) >= 0:
        reason = f"The temperature stays 1: {_why_no_minimum(excess, slope(lowest))}."
        return TemperatureFit(1.0, reason, before, before)
    temperature = math.exp(brentq(slope, lowest, highest, xtol=1e-14))
    return TemperatureFit(temperature, None, before, nll(temperature))


def _lowest_minimum(
    objective: Callable[[float], float], gradient: Callable[[float], float]
) -> float:
    """log T of the lowest minimum in the range: over log T the objective may have several."""
    grid = np.linspace(math.log(LOWEST_TEMPERATURE), math.log(HIGHEST_TEMPERATURE), 185)
    best = int(np.argmin([objective(point) for point in grid]))
    left, right = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    if gradient(left) >= 0 or gradient(right) <= 0:
        return float(grid[best])  # an end of the range
    return float(brentq(gradient, left, right, xtol=1e-14))


def _why_no_minimum(excess: NDArray[np.float64], slope_at_lowest: float) -> str:
    """Why the NLL does not turn inside the range of temperatures."""
    if not excess.any():
        return "each row's logits are all equal, so every temperature gives the same NLL"
    if (excess <= 0).all():
        return (
            f"the label has the highest logit in all {len(excess)} validation rows, so the NLL "
            "keeps falling as the temperature goes to 0 and has no minimum"
        )
    if slope_at_lowest <= 0:
        return f"the NLL still falls at {LOWEST_TEMPERATURE:g}, the lowest temperature allowed"
    if excess.mean() >= 0:
        return (
            "the logits favour the validation labels no more than chance would, so the NLL keeps "
            "falling as the temperature grows and has no minimum"
        )
    return f"the NLL still falls at {HIGHEST_TEMPERATURE:g}, the highest temperature allowed"
