"""TextClassifier in scikit-learn's own tools, which expect N decision values of two classes."""

from itertools import product

import numpy as np
import pytest
from scipy.special import logit
from scipy.stats import linregress
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import average_precision_score, get_scorer, make_scorer
from sklearn.model_selection import TunedThresholdClassifierCV
from tiny_models import save_tiny_model, toy_texts

from lpft import TextClassifier

PROBING = {"method": "lp", "pooling": "mean", "max_length": 32}
SHIFTED = toy_texts(60, seed=2)


def three_classes(rows, seed=0):
    """Every third text without its leading good or bad word is neutral."""
    texts, labels = toy_texts(rows, seed)
    return (
        [text.partition(" ")[2] if row % 3 == 2 else text for row, text in enumerate(texts)],
        ["neutral" if row % 3 == 2 else label for row, label in enumerate(labels)],
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny_model("bert", tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def binary(model):
    return TextClassifier(model, **PROBING).fit(*toy_texts(120), validation=SHIFTED)


@pytest.fixture(scope="module")
def multiclass(model):
    return TextClassifier(model, **PROBING).fit(*three_classes(150), three_classes(60, seed=2))


def test_two_classes_have_one_decision_value_and_three_have_three(binary, multiclass):
    texts, _ = toy_texts(20, seed=3)
    logits, values = binary.logits(texts), binary.decision_function(texts)
    assert (logits.shape, values.shape) == ((20, 2), (20,))
    np.testing.assert_array_equal(values, [second - first for first, second in logits])
    np.testing.assert_array_equal(
        binary.predict(texts), ["good" if value > 0 else "bad" for value in values]
    )
    assert multiclass.decision_function(texts).shape == (20, 3)
    np.testing.assert_array_equal(multiclass.decision_function(texts), multiclass.logits(texts))


def test_ranking_scores_of_two_classes(binary):
    texts, labels = toy_texts(40, seed=4)
    labels[::7] = ["bad"] * 6  # or else every pair is in order
    scores = binary.predict_proba(texts)[:, 1]
    good = [score for score, label in zip(scores, labels, strict=True) if label == "good"]
    bad = [score for score, label in zip(scores, labels, strict=True) if label == "bad"]
    # the share of pairs that are in order
    in_order = np.mean([(a > b) + (a == b) / 2 for a, b in product(good, bad)])
    assert 0.5 < in_order < 1
    assert get_scorer("roc_auc")(binary, texts, labels) == pytest.approx(in_order, abs=1e-12)
    truth = [label == "good" for label in labels]
    precision = make_scorer(
        average_precision_score, response_method="decision_function", pos_label="good"
    )
    assert precision(binary, texts, labels) == pytest.approx(
        average_precision_score(truth, scores), abs=1e-12
    )


@pytest.mark.parametrize("classes", [2, 3])
def test_scikit_learns_temperature_is_ours(binary, multiclass, classes):
    clf, held_out = (binary, SHIFTED) if classes == 2 else (multiclass, three_classes(60, seed=2))
    calibrated = CalibratedClassifierCV(FrozenEstimator(clf), method="temperature")
    calibrated.fit(*held_out)
    texts, _ = three_classes(30, seed=5)
    np.testing.assert_allclose(calibrated.predict_proba(texts), clf.predict_proba(texts), atol=1e-4)
    assert clf.temperature_ != 1


def test_platt_scaling_of_a_frozen_classifier(binary):
    texts, labels = SHIFTED
    calibrated = CalibratedClassifierCV(FrozenEstimator(binary), method="sigmoid")
    proba = calibrated.fit(texts, labels).predict_proba(texts)
    assert proba.shape == (60, 2)
    # p = expit(slope * value + intercept)
    values, logits = binary.decision_function(texts).astype(float), logit(proba[:, 1])
    fitted = linregress(values, logits)
    assert fitted.slope > 0
    np.testing.assert_allclose(fitted.slope * values + fitted.intercept, logits, atol=1e-3)


@pytest.mark.parametrize("response", ["decision_function", "predict_proba"])
def test_a_threshold_can_be_tuned(binary, response):
    texts, labels = SHIFTED
    tuned = TunedThresholdClassifierCV(
        FrozenEstimator(binary), scoring="accuracy", response_method=response,
        cv="prefit", refit=False,
    ).fit(texts, labels)  # fmt: skip
    assert tuned.score(texts, labels) >= binary.score(texts, labels)
    values = binary.decision_function(texts)
    best = max(
        np.mean((values >= threshold) == (np.array(labels) == "good"))
        for threshold in [*values, np.inf]
    )
    assert best >= tuned.score(texts, labels) > best - 0.05
