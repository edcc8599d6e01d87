"""Bins, ECE, MCE and the temperature against hand counts, naive loops and scikit-learn."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from scipy.stats import binomtest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import make_classification
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from lpft.analysis import (
    calibration_error_of_draws,
    expected_calibration_error,
    fit_temperature,
    maximum_calibration_error,
    negative_log_likelihood,
    reliability_bins,
    split_metrics,
)
from lpft.errors import InputError


def binary(tops):
    """Rows (top, 1 - top): class 0 is predicted wherever top is at least one half."""
    return np.array([[top, 1 - top] for top in tops])


def test_binary_counted_by_hand():
    # 15 bins. 0.55: (8/15, 9/15]; 0.62 and 0.64: (9/15, 10/15]; 0.9: (13/15, 14/15]; 1: the last.
    probabilities = binary([0.55, 0.62, 0.64, 0.9, 1.0])
    labels = np.array([0, 0, 1, 1, 0])
    gaps = {
        8: (1, abs(1 - Fraction(55, 100))),
        9: (2, abs(Fraction(1, 2) - Fraction(63, 100))),
        13: (1, abs(0 - Fraction(90, 100))),
        14: (1, Fraction(0)),
    }
    ece = sum(Fraction(count, 5) * gap for count, gap in gaps.values())
    assert ece == Fraction(161, 500)

    bins = reliability_bins(probabilities, labels)
    assert {int(b): int(bins.counts[b]) for b in np.flatnonzero(bins.counts)} == {
        b: count for b, (count, _) in gaps.items()
    }
    assert expected_calibration_error(probabilities, labels) == pytest.approx(0.322, rel=1e-14)
    assert maximum_calibration_error(probabilities, labels) == pytest.approx(0.9, rel=1e-14)


def test_multiclass_counted_by_hand():
    # 5 bins of width 1/5, three classes: tops 0.5, 0.45 in (2/5, 3/5]; 0.7, 0.8 in (3/5, 4/5].
    probabilities = np.array([[0.5, 0.3, 0.2], [0.3, 0.25, 0.45], [0.1, 0.7, 0.2], [0.1, 0.1, 0.8]])
    labels = np.array([0, 1, 1, 2])
    bins = reliability_bins(probabilities, labels, bins=5)
    np.testing.assert_array_equal(bins.counts, [0, 0, 2, 2, 0])
    np.testing.assert_allclose(bins.confidence[2:4], [0.475, 0.75], rtol=1e-15)
    np.testing.assert_array_equal(bins.accuracy[2:4], [0.5, 1.0])
    # gaps 0.025 and 0.25, each of weight 1/2
    assert expected_calibration_error(probabilities, labels, bins=5) == pytest.approx(0.1375)
    assert maximum_calibration_error(probabilities, labels, bins=5) == pytest.approx(0.25)


def test_empty_bins_hold_nan_and_do_not_count():
    bins = reliability_bins(binary([0.9]), np.array([0]))
    empty = bins.counts == 0
    assert empty.sum() == 14
    assert np.isnan(bins.confidence[empty]).all()
    assert np.isnan(bins.accuracy[empty]).all()
    assert not np.isnan(bins.accuracy[~empty]).any()


@pytest.mark.parametrize(
    ("top", "bin_of_top"),
    [
        (0.6, 8),  # 9/15, the upper border of (8/15, 9/15]
        (np.nextafter(0.6, 1), 9),
        (np.nextafter(0.6, 0), 8),
        (0.8, 11),  # 12/15
        (np.nextafter(0.8, 1), 12),
        (float(np.float32(0.6)), 9),  # float32 rounds 0.6 up, so above the border
        (1.0, 14),
        (np.nextafter(1.0, 0), 14),
    ],
)
def test_borders_belong_to_the_bin_below(top, bin_of_top):
    bins = reliability_bins(binary([top]), np.array([0]))
    assert np.flatnonzero(bins.counts).tolist() == [bin_of_top]


@pytest.mark.parametrize("bins", [1, 5, 7, 10, 15, 20, 24])
def test_borders_are_the_nearest_numbers_to_the_fractions(bins):
    edges = reliability_bins(binary([1.0]), np.array([0]), bins=bins).edges
    assert edges.tolist() == [float(Fraction(b, bins)) for b in range(bins + 1)]


def test_float32_rounding_above_one_is_the_last_bin():
    bins = reliability_bins(np.array([[1.0000001, 0.0]], dtype=np.float32), np.array([0]))
    assert bins.counts[14] == 1
    assert bins.confidence[14] == 1


def naive_errors(probabilities, labels, bins):
    """The published definition, one bin and one row at a time."""
    ece, mce = 0.0, 0.0
    for b in range(bins):
        members = [
            i for i, row in enumerate(probabilities) if b / bins < max(row) <= (b + 1) / bins
        ]
        if members:
            accuracy = sum(int(np.argmax(probabilities[i]) == labels[i]) for i in members)
            confidence = sum(max(probabilities[i]) for i in members)
            gap = abs(accuracy - confidence) / len(members)
            ece += len(members) / len(probabilities) * gap
            mce = max(mce, gap)
    return ece, mce


@settings(max_examples=50, deadline=None)
@given(
    rows=st.integers(1, 40),
    classes=st.integers(2, 6),
    bins=st.integers(1, 20),
    seed=st.integers(0, 2**32 - 1),
)
def test_against_the_naive_loop_and_any_order_of_rows(rows, classes, bins, seed):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(classes, 0.3), size=rows)
    labels = rng.integers(0, classes, rows)
    ece = expected_calibration_error(probabilities, labels, bins)
    mce = maximum_calibration_error(probabilities, labels, bins)
    assert (ece, mce) == pytest.approx(naive_errors(probabilities, labels, bins), abs=1e-12)
    assert 0 <= ece <= mce + 1e-12 <= 1 + 1e-12

    order = rng.permutation(rows)
    assert expected_calibration_error(probabilities[order], labels[order], bins) == pytest.approx(
        ece, abs=1e-12
    )


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        ([[0.9, 0.3]], "sum to 1"),
        ([[1.5, -0.5]], r"in \[0, 1\], found -0.5 to 1.5"),
        ([[0.3, 0.3]], "sums from 0.6 to 0.6; divide"),
        ([[2.0, -1.0]], "softmax"),
        ([[np.nan, 0.5]], "finite"),
        (np.empty((0, 2)), "at least one row"),
    ],
)
def test_rows_that_are_no_distribution_are_refused(probabilities, message):
    with pytest.raises(InputError, match=message):
        reliability_bins(np.array(probabilities), np.zeros(len(probabilities), dtype=int))


def test_fewer_than_one_bin_is_refused():
    with pytest.raises(InputError, match="bins: expected at least 1, found 0"):
        reliability_bins(binary([0.9]), np.array([0]), bins=0)


@pytest.mark.parametrize("bins", [1, 2, 15])
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_the_error_of_drawn_rows_is_that_of_the_rows_themselves(classes, bins):
    rng = np.random.default_rng(classes)
    probabilities = rng.dirichlet(np.ones(classes), size=50)
    probabilities[:5] = np.eye(classes)[0]  # certain rows lie on the last border
    labels = rng.integers(classes, size=50)
    of_draw = calibration_error_of_draws(probabilities, labels, bins)
    draws = [np.arange(50), np.array([3]), *rng.integers(50, size=(20, 50))]
    assert len(draws) == 22
    for rows in draws:
        expected = expected_calibration_error(probabilities[rows], labels[rows], bins)
        assert of_draw(rows) == pytest.approx(expected, rel=1e-12, abs=1e-15)


# --- temperature


def noisy_logits(rows, classes, seed, scale=4.0):
    """Logits that are right most of the time and too confident by about ``scale``."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    logits = rng.normal(size=(rows, classes))
    logits[np.arange(rows), labels] += 1.0
    return scale * logits, labels


@pytest.mark.parametrize(("right", "rows"), [(3, 4), (29, 30), (99, 100), (2, 3)])
@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("height", [0.5, 4.0, 20.0])
def test_closed_form_of_one_kind_of_row(right, rows, classes, height):
    # Every row has logits (a, 0, ..., 0); a fraction q has label 0. At the optimum p_0 = q, so
    # exp(a / T) = q (C - 1) / (1 - q).
    logits = np.zeros((rows, classes))
    logits[:, 0] = height
    labels = np.array([0] * right + [1] * (rows - right))
    expected = height / math.log(right * (classes - 1) / (rows - right))
    fit = fit_temperature(logits, labels)
    assert fit.reason is None
    assert fit.temperature == pytest.approx(expected, rel=1e-12)


def test_nll_before_and_after_in_closed_form():
    logits = np.array([[4.0, 0.0]] * 4)
    labels = np.array([0, 0, 0, 1])
    fit = fit_temperature(logits, labels)
    assert fit.nll_before == pytest.approx(math.log1p(math.exp(-4)) + 4 / 4, rel=1e-14)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert fit.nll_after == pytest.approx(entropy, rel=1e-12)


@pytest.mark.parametrize("classes", [3, 6])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_scikit_learn_for_several_classes(classes, seed):
    x, y = make_classification(
        600, 12, n_informative=6, n_classes=classes, flip_y=0.2, random_state=seed
    )
    model = LogisticRegression(C=100, max_iter=2000).fit(x[:100], y[:100])
    calibrated = CalibratedClassifierCV(FrozenEstimator(model), method="temperature")
    calibrated.fit(x[100:], y[100:])
    beta = calibrated.calibrated_classifiers_[0].calibrators[0].beta_
    fit = fit_temperature(model.decision_function(x[100:]), y[100:])
    assert fit.reason is None
    assert fit.temperature == pytest.approx(1 / beta, rel=1e-6)


def test_agrees_with_scikit_learn_for_two_classes():
    # The binary logit z is our columns (-z/2, z/2) and scikit-learn's (-z, z): half its 1/beta.
    x, y = make_classification(600, 12, n_informative=6, flip_y=0.2, random_state=0)
    model = LogisticRegression(C=100, max_iter=2000).fit(x[:100], y[:100])
    calibrated = CalibratedClassifierCV(FrozenEstimator(model), method="temperature")
    calibrated.fit(x[100:], y[100:])
    beta = calibrated.calibrated_classifiers_[0].calibrators[0].beta_
    logit = model.decision_function(x[100:])
    fit = fit_temperature(np.stack([-logit / 2, logit / 2], axis=1), y[100:])
    assert 2 * fit.temperature == pytest.approx(1 / beta, rel=1e-6)
    at_one = 1 / (1 + np.exp(-logit / fit.temperature))
    np.testing.assert_allclose(calibrated.predict_proba(x[100:])[:, 1], at_one, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 60),
    classes=st.integers(2, 5),
    scale=st.floats(0.05, 50),
    seed=st.integers(0, 2**32 - 1),
)
def test_fit_is_a_minimum_and_never_raises_the_nll(rows, classes, scale, seed):
    logits, labels = noisy_logits(rows, classes, seed, scale)
    fit = fit_temperature(logits, labels)
    assert 0.01 <= fit.temperature <= 100
    assert fit.nll_before == negative_log_likelihood(logits, labels)
    assert fit.nll_after == negative_log_likelihood(logits, labels, fit.temperature)
    assert fit.nll_after <= fit.nll_before * (1 + 1e-12)
    if fit.reason is None:
        for log_temperature in np.linspace(math.log(0.01), math.log(100), 101):
            there = negative_log_likelihood(logits, labels, math.exp(log_temperature))
            assert fit.nll_after <= there * (1 + 1e-12)
    else:
        assert fit.temperature == 1


@pytest.mark.parametrize("prior_sd", [None, 0.5])
def test_a_row_of_weight_k_counts_k_times_in_the_temperature(prior_sd):
    generator = np.random.default_rng(0)
    logits = 3 * generator.normal(size=(40, 3))
    labels = np.where(generator.random(40) < 0.6, logits.argmax(1), generator.integers(3, size=40))
    weights = generator.integers(1, 4, 40)
    weighted = fit_temperature(logits, labels, prior_sd, weights.astype(float))
    repeated = fit_temperature(*(np.repeat(v, weights, axis=0) for v in (logits, labels)), prior_sd)
    assert weighted.temperature == pytest.approx(repeated.temperature, rel=1e-9)
    assert weighted.nll_after == pytest.approx(repeated.nll_after, rel=1e-12)
    assert weighted.temperature != fit_temperature(logits, labels, prior_sd).temperature


@pytest.mark.parametrize("factor", [0.1, 0.5, 3.0, 20.0])
def test_scaled_logits_scale_the_temperature(factor):
    logits, labels = noisy_logits(300, 4, seed=1)
    once = fit_temperature(logits, labels).temperature
    assert 0.2 < once < 20  # so that no scaled optimum meets a bound
    scaled = fit_temperature(factor * logits, labels)
    assert scaled.reason is None
    assert scaled.temperature == pytest.approx(factor * once, rel=1e-12)
    assert fit_temperature(logits / once, labels).temperature == pytest.approx(1, rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 60),
    scale=st.floats(0.05, 50),
    sd=st.floats(0.1, 2),
    seed=st.integers(0, 2**32 - 1),
)
def test_with_a_prior_the_most_probable_temperature_is_found(rows, scale, sd, seed):
    logits, labels = noisy_logits(rows, 3, seed, scale)
    fit = fit_temperature(logits, labels, sd)

    def cost(log_temperature):
        losses = -log_softmax(logits / math.exp(log_temperature), axis=1)
        own = losses[np.arange(rows), labels].sum()
        return own + 2 * losses.mean() + log_temperature**2 / (2 * sd**2)

    assert fit.reason is None
    assert fit.nll_after == negative_log_likelihood(logits, labels, fit.temperature)
    lowest = min(cost(point) for point in np.linspace(math.log(0.01), math.log(100), 201))
    assert cost(math.log(fit.temperature)) <= lowest + 1e-9


def test_a_prior_matters_for_few_rows_and_hardly_for_many():
    logits, labels = noisy_logits(4000, 3, seed=5)
    plain = fit_temperature(logits, labels).temperature
    assert fit_temperature(logits, labels, 0.5).temperature == pytest.approx(plain, rel=0.01)
    few = fit_temperature(logits[:10], labels[:10], 0.5).temperature
    assert 1 < few < fit_temperature(logits[:10], labels[:10]).temperature
    # rows that are all right have no plain temperature; the prior gives one
    right = fit_temperature([[2.0, -1.0], [-1.0, 2.0]] * 50, [0, 1] * 50, 0.5)
    assert right.reason is None
    assert 0.5 < right.temperature < 1
    assert fit_temperature(np.zeros((5, 3)), [0, 1, 2, 0, 1], 0.5).temperature == 1


def test_few_rows_that_are_all_right_do_not_sharpen_without_bound():
    """Two classes with N rows right by a margin m, and hardly any prior: p = (N + 1) / (N + 2)."""
    for rows, margin in ((4, 3.0), (32, 2.0), (200, 9.0)):
        logits = np.array([[margin, 0.0], [0.0, margin]])[np.arange(rows) % 2]
        fit = fit_temperature(logits, np.arange(rows) % 2, 1e3)
        sure = 1 / (1 + math.exp(-margin / fit.temperature))
        assert sure == pytest.approx((rows + 1) / (rows + 2), abs=1e-4)


def test_dividing_logits_by_t_is_scaling_the_head():
    rng = np.random.default_rng(3)
    features, labels = rng.normal(size=(80, 5)), rng.integers(0, 3, 80)
    weight, bias = rng.normal(size=(3, 5)), rng.normal(size=3)
    temperature = 2.7
    calibrated = split_metrics(features @ weight.T + bias, labels, temperature)["calibrated"]
    scaled = split_metrics(features @ (weight / temperature).T + bias / temperature, labels)
    assert calibrated == pytest.approx({key: scaled[key] for key in calibrated}, rel=1e-12)


def test_order_of_rows_and_shift_of_logits_do_not_matter():
    logits, labels = noisy_logits(200, 3, seed=2)
    rng = np.random.default_rng(0)
    order = rng.permutation(200)
    shifted = logits + rng.normal(size=(200, 1))
    expected = fit_temperature(logits, labels).temperature
    assert fit_temperature(logits[order], labels[order]).temperature == pytest.approx(
        expected, rel=1e-12
    )
    assert fit_temperature(shifted, labels).temperature == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    ("logits", "labels", "says"),
    [
        (np.eye(3)[np.arange(25) % 3], np.arange(25) % 3, "highest logit in all 25 validation"),
        (1e4 * np.eye(3), np.arange(3), "highest logit in all 3"),  # NLL is 0 to rounding
        ([[2.0, -1.0]] * 4, [0, 0, 0, 0], "highest logit in all 4"),  # a single class, right
        ([[2.0, -1.0]], [0], "highest logit in all 1"),
        ([[0.0, 1.0], [1.0, 1.0]], [1, 0], "highest logit in all 2"),  # one of them tied
        ([[-1.0, 2.0]] * 4, [0, 0, 0, 0], "no more than chance"),  # a single class, wrong
        ([[1.0, 0.0], [0.0, 1.0]] * 2, [0, 0, 1, 1], "no more than chance"),
        (np.zeros((5, 3)), [0, 1, 2, 0, 1], "all equal"),
        ([[1e-3, 0.0]] * 4, [0, 0, 0, 1], "still falls at 0.01"),  # T = 1e-3 / log 3
        ([[1e3, 0.0]] * 4, [0, 0, 0, 1], "still falls at 100"),  # T = 1e3 / log 3
    ],
)
def test_without_a_minimum_in_range_the_temperature_stays_one(logits, labels, says):
    fit = fit_temperature(logits, labels)
    assert fit.temperature == 1
    assert fit.nll_after == fit.nll_before == negative_log_likelihood(logits, labels)
    assert fit.reason is not None
    assert says in fit.reason
    assert fit.reason.startswith("The temperature stays 1: ")
    assert fit.reason.endswith(".")


def test_float32_logits_of_any_finite_size():
    logits = np.array([[3e38, -3e38], [-3e38, 3e38]], dtype=np.float32)
    fit = fit_temperature(logits, np.array([0, 1]))
    assert (fit.temperature, fit.nll_before) == (1.0, 0.0)


def test_bins_of_equally_many_rows_keep_equal_confidences_together():
    # 7 rows in 3 bins: the borders are the 3rd, the 5th and the 7th confidence from below.
    probabilities = binary([0.9, 0.6, 0.55, 0.7, 0.95, 0.8, 1.0])
    labels = np.array([0, 0, 1, 1, 0, 0, 0])
    bins = reliability_bins(probabilities, labels, 3, strategy="count")
    np.testing.assert_array_equal(bins.edges, [0, 0.7, 0.9, 1])
    np.testing.assert_array_equal(bins.counts, [3, 2, 2])
    np.testing.assert_allclose(bins.confidence, [1.85 / 3, 0.85, 0.975])
    np.testing.assert_allclose(bins.accuracy, [1 / 3, 1, 1])
    tied = reliability_bins(binary([0.6, 0.8, 0.8, 0.8]), np.zeros(4, int), 4, strategy="count")
    np.testing.assert_array_equal(tied.counts, [1, 3])
    one = reliability_bins(binary([0.6, 0.8]), np.zeros(2, int), 15, strategy="count")
    np.testing.assert_array_equal(one.counts, [1, 1])


@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 20))
def test_bins_of_equally_many_rows_split_the_sorted_rows_evenly(seed, rows, n):
    generator = np.random.default_rng(seed)
    tops, labels = 0.5 + generator.random(rows) / 2, generator.integers(0, 2, rows)
    bins = reliability_bins(binary(tops), labels, n, strategy="count")
    assert bins.counts.sum() == rows
    assert bins.counts.max() - bins.counts.min() <= 1
    if rows % n == 0:
        ordered = np.argsort(tops).reshape(n, -1)
        np.testing.assert_allclose(bins.confidence, tops[ordered].mean(axis=1))
        np.testing.assert_allclose(bins.accuracy, (labels == 0)[ordered].mean(axis=1))


@pytest.mark.parametrize("strategy", ["width", "count"])
def test_intervals_of_bins_are_scipys(strategy):
    generator = np.random.default_rng(3)
    probabilities = generator.dirichlet([1.0, 1, 1], size=50)
    labels = generator.integers(0, 3, 50)
    bins = reliability_bins(probabilities, labels, 6, strategy=strategy)
    for count, accuracy, low, high in zip(
        bins.counts, bins.accuracy, bins.low, bins.high, strict=True
    ):
        if count == 0:
            assert np.isnan([low, high]).all()
            continue
        expected = binomtest(round(accuracy * count), int(count)).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
