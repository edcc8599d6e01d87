"""The fitted temperature against closed forms, scikit-learn and the head-scaling identity."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import make_classification
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from lpft.analysis import fit_temperature, negative_log_likelihood, split_metrics
from lpft.errors import InputError


def noisy_logits(
    rows: int, classes: int, seed: int, scale: float = 4.0
) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are right most of the time and too confident by about ``scale``."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    logits = rng.normal(size=(rows, classes))
    logits[np.arange(rows), labels] += 1.0
    return scale * logits, labels


@pytest.mark.parametrize(("right", "rows"), [(3, 4), (9, 10), (99, 100), (2, 3)])
@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("height", [0.5, 4.0, 20.0])
def test_closed_form_of_one_kind_of_row(right: int, rows: int, classes: int, height: float) -> None:
    # Every row has logits (a, 0, ..., 0); a fraction q has label 0. At the optimum p_0 = q, so
    # exp(a / T) = q (C - 1) / (1 - q).
    logits = np.zeros((rows, classes))
    logits[:, 0] = height
    labels = np.array([0] * right + [1] * (rows - right))
    expected = height / math.log(right * (classes - 1) / (rows - right))
    fit = fit_temperature(logits, labels)
    assert fit.reason is None
    assert fit.temperature == pytest.approx(expected, rel=1e-12)


def test_nll_before_and_after_in_closed_form() -> None:
    logits = np.array([[4.0, 0.0]] * 4)
    labels = np.array([0, 0, 0, 1])
    fit = fit_temperature(logits, labels)
    assert fit.nll_before == pytest.approx(math.log1p(math.exp(-4)) + 4 / 4, rel=1e-14)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert fit.nll_after == pytest.approx(entropy, rel=1e-12)


@pytest.mark.parametrize("classes", [3, 6])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_scikit_learn_for_several_classes(classes: int, seed: int) -> None:
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


def test_agrees_with_scikit_learn_for_two_classes() -> None:
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
def test_fit_is_a_minimum_and_never_raises_the_nll(
    rows: int, classes: int, scale: float, seed: int
) -> None:
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


@pytest.mark.parametrize("factor", [0.1, 0.5, 3.0, 20.0])
def test_scaled_logits_scale_the_temperature(factor: float) -> None:
    logits, labels = noisy_logits(300, 4, seed=1)
    once = fit_temperature(logits, labels).temperature
    assert 0.2 < once < 20  # so that no scaled optimum meets a bound
    scaled = fit_temperature(factor * logits, labels)
    assert scaled.reason is None
    assert scaled.temperature == pytest.approx(factor * once, rel=1e-12)
    assert fit_temperature(logits / once, labels).temperature == pytest.approx(1, rel=1e-12)


def test_dividing_logits_by_t_is_scaling_the_head() -> None:
    rng = np.random.default_rng(3)
    features, labels = rng.normal(size=(80, 5)), rng.integers(0, 3, 80)
    weight, bias = rng.normal(size=(3, 5)), rng.normal(size=3)
    temperature = 2.7
    calibrated = split_metrics(features @ weight.T + bias, labels, temperature)["calibrated"]
    scaled = split_metrics(features @ (weight / temperature).T + bias / temperature, labels)
    assert calibrated == pytest.approx({key: scaled[key] for key in calibrated}, rel=1e-12)


def test_order_of_rows_and_shift_of_logits_do_not_matter() -> None:
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
def test_without_a_minimum_in_range_the_temperature_stays_one(
    logits: list[list[float]], labels: list[int], says: str
) -> None:
    fit = fit_temperature(logits, labels)
    assert fit.temperature == 1
    assert fit.nll_after == fit.nll_before == negative_log_likelihood(logits, labels)
    assert fit.reason is not None
    assert says in fit.reason
    assert fit.reason.startswith("The temperature stays 1: ")
    assert fit.reason.endswith(".")


def test_one_wrong_row_among_separated_ones_gives_a_minimum() -> None:
    logits = np.array([[8.0, 0.0]] * 30)
    labels = np.array([0] * 29 + [1])
    assert fit_temperature(logits, labels).temperature == pytest.approx(8 / math.log(29), rel=1e-12)


def test_float32_logits_of_any_finite_size() -> None:
    logits = np.array([[3e38, -3e38], [-3e38, 3e38]], dtype=np.float32)
    fit = fit_temperature(logits, np.array([0, 1]))
    assert (fit.temperature, fit.nll_before) == (1.0, 0.0)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_wrong_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(InputError, match="temperature: expected a finite number above 0"):
        negative_log_likelihood([[1.0, 0.0]], [0], temperature)
