"""The metrics of one split against hand counts and scikit-learn."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.metrics import brier_score_loss, f1_score, log_loss, matthews_corrcoef

from lpft.analysis import split_metrics
from lpft.errors import InputError

TEMPERED = {"nll", "brier", "brier_mean", "ece", "mce", "confidence"}
KEYS = TEMPERED | {
    "rows",
    "accuracy",
    "macro_f1",
    "matthews_correlation",
    "logit_norm_l1",
    "logit_norm_l2",
    "logit_mean",
    "calibrated",
}


def random_split(rows: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return 3 * rng.normal(size=(rows, classes)), rng.integers(0, classes, rows)


def test_keys_and_types_are_those_of_metrics_json() -> None:
    logits, labels = random_split(20, 3, seed=0)
    metrics = split_metrics(logits.astype(np.float32), labels, temperature=2.0)
    assert set(metrics) == KEYS
    assert set(metrics["calibrated"]) == TEMPERED
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert type(metrics["rows"]) is int
    assert {type(value) for value in metrics["calibrated"].values()} == {float}


def test_counted_by_hand() -> None:
    # Two classes; probabilities are exactly 3/4, 3/4, 1/4 and 1/2 for class 0 (log 3 and 0).
    gap = math.log(3)
    logits = np.array([[gap, 0.0], [0.0, -gap], [0.0, gap], [2.0, 2.0]])
    labels = np.array([0, 1, 1, 0])
    metrics = split_metrics(logits, labels)
    # Predicted 0, 0, 1, 0 (a tie goes to the first class): 3 of 4 right.
    assert metrics["rows"] == 4
    assert metrics["accuracy"] == 0.75
    # Class 0: precision 2/3, recall 1, F1 4/5. Class 1: precision 1, recall 1/2, F1 2/3.
    assert metrics["macro_f1"] == pytest.approx((4 / 5 + 2 / 3) / 2, rel=1e-14)
    # TP = 1, TN = 2, FP = 0, FN = 1: 2 / sqrt(1 * 2 * 2 * 3).
    assert metrics["matthews_correlation"] == pytest.approx(2 / math.sqrt(12), rel=1e-14)
    assert metrics["nll"] == pytest.approx((2 * math.log(4 / 3) + math.log(4) + math.log(2)) / 4)
    # Sums of squares: 2/16, 2 * 9/16, 2/16, 2/4.
    assert metrics["brier"] == pytest.approx((2 / 16 + 18 / 16 + 2 / 16 + 1 / 2) / 4, rel=1e-14)
    assert metrics["brier_mean"] == pytest.approx(metrics["brier"] / 2, rel=1e-15)
    assert metrics["confidence"] == pytest.approx((3 * 0.75 + 0.5) / 4, rel=1e-14)
    # Three rows at 3/4 with accuracy 2/3; one at 1/2, right.
    assert metrics["ece"] == pytest.approx(3 / 4 * (3 / 4 - 2 / 3) + 1 / 4 * 1 / 2, rel=1e-12)
    assert metrics["mce"] == pytest.approx(0.5, rel=1e-12)
    assert metrics["logit_norm_l1"] == pytest.approx((3 * gap + 4) / 4, rel=1e-14)
    assert metrics["logit_norm_l2"] == pytest.approx((3 * gap + math.sqrt(8)) / 4, rel=1e-14)
    assert metrics["logit_mean"] == pytest.approx((gap + 4) / 8, rel=1e-14)


def test_calibrated_counted_by_hand() -> None:
    # At T = 2 the logits (log 9, 0) give 3/4: right in one row of two.
    logits = np.array([[math.log(9), 0.0]] * 2)
    metrics = split_metrics(logits, np.array([0, 1]), temperature=2.0)
    assert metrics["confidence"] == pytest.approx(0.9, rel=1e-14)
    assert metrics["ece"] == pytest.approx(0.4, rel=1e-12)
    assert metrics["calibrated"] == pytest.approx(
        {
            "nll": (math.log(4 / 3) + math.log(4)) / 2,
            "brier": (2 / 16 + 18 / 16) / 2,
            "brier_mean": (2 / 16 + 18 / 16) / 4,
            "ece": 0.25,
            "mce": 0.25,
            "confidence": 0.75,
        },
        rel=1e-12,
    )


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.5])
def test_against_scikit_learn(classes: int, temperature: float) -> None:
    logits, labels = random_split(200, classes, seed=classes)
    metrics = split_metrics(logits, labels, temperature)
    predictions, every = logits.argmax(axis=1), list(range(classes))
    assert metrics["macro_f1"] == pytest.approx(f1_score(labels, predictions, average="macro"))
    assert metrics["matthews_correlation"] == pytest.approx(matthews_corrcoef(labels, predictions))
    for found, probabilities in (
        (metrics, softmax(logits, axis=1)),
        (metrics["calibrated"], softmax(logits / temperature, axis=1)),
    ):
        assert probabilities.min() > np.finfo(float).eps  # below it log_loss clips, nll does not
        sums = brier_score_loss(labels, probabilities, labels=every, scale_by_half=False)
        assert found["nll"] == pytest.approx(log_loss(labels, probabilities, labels=every))
        assert found["brier"] == pytest.approx(sums, rel=1e-12)
        assert found["brier_mean"] == pytest.approx(sums / classes, rel=1e-12)


def test_brier_mean_of_two_classes_is_the_usual_binary_score() -> None:
    logits, labels = random_split(100, 2, seed=9)
    usual = brier_score_loss(labels, softmax(logits, axis=1)[:, 1])
    assert split_metrics(logits, labels)["brier_mean"] == pytest.approx(usual, rel=1e-12)


def test_a_class_that_does_not_occur_has_no_part_in_macro_f1() -> None:
    # All right on classes 0 and 1; class 2 neither occurs nor is predicted: (1 + 1) / 2.
    metrics = split_metrics(np.array([[2.0, 0, 0], [0, 2.0, 0]]), np.array([0, 1]))
    assert metrics["accuracy"] == 1
    assert metrics["macro_f1"] == 1
    assert metrics["matthews_correlation"] == 1


@pytest.mark.filterwarnings("error")
def test_one_row_and_one_class_are_scored_without_warnings() -> None:
    metrics = split_metrics([[1.0, 0.0]], [0])
    assert (metrics["rows"], metrics["accuracy"], metrics["matthews_correlation"]) == (1, 1, 0)
    metrics = split_metrics([[1.0, 0.0], [0.0, 1.0]], [1, 1])
    assert (metrics["accuracy"], metrics["matthews_correlation"]) == (0.5, 0)


def test_confident_mistakes_have_a_finite_nll() -> None:
    metrics = split_metrics([[1e4, 0.0]], [1])
    assert metrics["nll"] == 1e4
    assert (metrics["brier"], metrics["ece"], metrics["confidence"]) == (2, 1, 1)


def test_temperature_one_changes_nothing() -> None:
    metrics = split_metrics(*random_split(50, 4, seed=5))
    assert metrics["calibrated"] == {key: metrics[key] for key in TEMPERED}


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 50),
    classes=st.integers(2, 6),
    temperature=st.floats(0.05, 20),
    seed=st.integers(0, 2**32 - 1),
)
def test_bounds_and_any_order_of_rows(
    rows: int, classes: int, temperature: float, seed: int
) -> None:
    logits, labels = random_split(rows, classes, seed)
    metrics = split_metrics(logits, labels, temperature)
    order = np.random.default_rng(seed).permutation(rows)
    other = split_metrics(logits[order], labels[order], temperature)
    calibrated = metrics.pop("calibrated")
    assert other.pop("calibrated") == pytest.approx(calibrated, rel=1e-12, abs=1e-12)
    assert other == pytest.approx(metrics, rel=1e-12, abs=1e-12)

    assert abs(metrics["matthews_correlation"]) <= 1 + 1e-12
    assert 0 <= metrics["macro_f1"] <= 1 + 1e-12
    for found in (metrics, calibrated):
        assert found["nll"] >= 0
        assert 0 <= found["brier"] <= 2 + 1e-12
        assert 0 <= found["ece"] <= found["mce"] + 1e-12 <= 1 + 1e-12
        assert 1 / classes - 1e-12 <= found["confidence"] <= 1 + 1e-12
        # The mean gap is at least the gap of the means.
        assert abs(metrics["accuracy"] - found["confidence"]) <= found["ece"] + 1e-12


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([[1.0, np.nan], [np.inf, 0.0]], [0, 1], "logits: .* found 2 NaN or infinite .*row 0"),
        (np.empty((0, 3)), [], "logits: expected at least one row"),
        ([[1.0], [2.0]], [0, 0], "at least 2 classes, found 1 column"),
        ([1.0, 2.0], [0], r"expected a matrix \[rows, columns\], found shape \(2,\)"),
        ([[1.0, 2.0]], [0, 1], r"labels: expected shape \(1,\), found \(2,\)"),
        ([[1.0, 2.0]], [2], "class indices of 0 to 1, found 2 in row 0"),
        ([[1.0, 2.0], [1.0, 2.0]], [0, -1], "found -1 in row 1; a hidden or unknown label"),
        ([[1.0, 2.0]], [0.0], "expected integer class indices, found dtype float64"),
    ],
)
def test_wrong_input_is_named(logits: list[list[float]], labels: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        split_metrics(logits, labels)


@pytest.mark.parametrize("temperature", [0.0, -2.0, math.nan])
def test_a_wrong_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(InputError, match="temperature"):
        split_metrics([[1.0, 0.0]], [0], temperature)
