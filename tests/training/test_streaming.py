"""Probes on features that are streamed: the optimum of scikit-learn's own solver."""

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV

from lpft.training import probing, streaming
from lpft.training.probing import STREAMING_SOLVER, fit_probe, out_of_fold_logits
from lpft.training.streaming import Rows, fit_heads


@pytest.fixture
def streamed(monkeypatch):
    """Every size is streamed, in many chunks."""
    monkeypatch.setattr(probing, "STREAMED_NUMBERS", 0)
    monkeypatch.setattr(streaming, "_CHUNK_NUMBERS", 1000)
    monkeypatch.setattr(probing, "_CHUNK_ROWS", 70)


def problem(classes, rows=300, width=8, seed=0):
    """Nearly collinear features far from zero, and labels that they say something about."""
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(width, width)) * np.logspace(0, -2, width)
    features = generator.normal(size=(rows, width)) @ mixing + 3
    logits = features @ generator.normal(size=(width, classes))
    logits = 2 * (logits - logits.mean(0)) / logits.std()
    labels = (softmax(logits, axis=1).cumsum(1) < generator.random((rows, 1))).sum(1)
    return features.astype(np.float32), np.minimum(labels, classes - 1)


def probabilities(probe, features):
    return softmax(features.astype(np.float64) @ probe.weight.T + probe.bias, axis=1)


@pytest.mark.usefixtures("streamed")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 3.0, 1: 0.5, 2: 1.0}])
@pytest.mark.parametrize("fit_bias", [True, False])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_head_and_its_strength_are_those_of_scikit_learn(
    classes, fit_bias, class_weight, weighted
):
    features, labels = problem(classes)
    if isinstance(class_weight, dict):
        class_weight = {label: class_weight[label] for label in range(classes)}
    weights = np.random.default_rng(1).uniform(0.2, 3, len(labels)) if weighted else None
    shared = {"solver": "newton-cg", "fit_intercept": fit_bias, "class_weight": class_weight}
    inputs = features.astype(np.float64)
    search = LogisticRegressionCV(
        Cs=10,
        cv=5,
        l1_ratios=(0.0,),
        scoring="neg_log_loss",
        use_legacy_attributes=False,
        tol=1e-7,
        max_iter=1000,
        **shared,
    ).fit(inputs, labels, sample_weight=weights)
    optimum = LogisticRegression(C=search.C_, tol=1e-10, max_iter=1000, **shared)
    optimum.fit(inputs, labels, sample_weight=weights)
    probe = fit_probe(
        features,
        labels,
        classes,
        fit_bias=fit_bias,
        class_weight=class_weight,
        sample_weight=weights,
        scoring="log-loss",
    )
    assert (probe.solver, probe.folds, probe.converged) == (STREAMING_SOLVER, 5, True)
    assert probe.inverse_strength == pytest.approx(search.C_)
    expected = optimum.predict_proba(inputs)
    np.testing.assert_allclose(probabilities(probe, features), expected, atol=1e-6)


@pytest.mark.usefixtures("streamed")
def test_by_accuracy_the_strength_is_that_of_scikit_learn_too():
    features, labels = problem(3, seed=3)
    search = LogisticRegressionCV(
        Cs=10,
        cv=5,
        l1_ratios=(0.0,),
        scoring="accuracy",
        use_legacy_attributes=False,
        tol=1e-7,
        max_iter=2000,
    ).fit(features.astype(np.float64), labels)
    probe = fit_probe(features, labels, 3, scoring="accuracy")
    assert probe.inverse_strength == pytest.approx(search.C_)


@pytest.mark.usefixtures("streamed")
def test_rare_and_absent_classes_are_treated_as_with_few_features(monkeypatch):
    features, labels = problem(3)
    labels = np.where(labels == 2, 4, labels)
    labels[np.flatnonzero(labels == 4)[3:]] = 0  # three rows of class 4
    labels[0] = 2  # one of class 2
    found = fit_probe(features, labels, 6, scoring="log-loss")
    monkeypatch.setattr(probing, "STREAMED_NUMBERS", 1 << 25)
    expected = fit_probe(features, labels, 6, scoring="log-loss")
    assert (expected.solver, found.solver) == (probing.SOLVER, STREAMING_SOLVER)
    for name in ("inverse_strength", "folds", "absent_classes"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name))
    np.testing.assert_allclose(
        probabilities(found, features), probabilities(expected, features), atol=1e-6
    )
    absent = list(found.absent_classes)
    np.testing.assert_allclose(found.bias[absent], expected.bias[absent], atol=1e-3)


@pytest.mark.usefixtures("streamed")
@pytest.mark.parametrize("classes", [2, 3])
def test_logits_out_of_fold_are_of_models_without_the_rows(classes):
    features, labels = problem(classes)
    fold = np.random.default_rng(2).integers(0, 4, len(labels))
    if classes == 3:  # without the last fold class 2 is absent, and two classes have one row of W
        fold[labels == 2] = 3
    logits = out_of_fold_logits(
        features, labels, classes, inverse_strength=2.0, fold=fold, class_weight="balanced"
    )
    for number in range(4):
        out = fold == number
        model = LogisticRegression(C=2.0, tol=1e-10, max_iter=1000, class_weight="balanced")
        model.set_params(solver="newton-cg").fit(features[~out].astype(np.float64), labels[~out])
        expected = np.zeros((out.sum(), classes))
        expected[:, model.classes_] = model.predict_proba(features[out].astype(np.float64))
        if len(model.classes_) < classes:  # at most exp(-10) for what was never seen
            assert softmax(logits[out], axis=1)[:, 2].max() < 5e-5
        np.testing.assert_allclose(softmax(logits[out], axis=1), expected, atol=5e-5)
        if len(model.classes_) == classes:
            np.testing.assert_allclose(softmax(logits[out], axis=1), expected, atol=1e-6)


def test_folds_that_do_not_share_their_passes_give_the_same_heads(monkeypatch):
    features, labels = problem(3)
    fold = np.arange(len(labels)) % 5
    rows = Rows(features, labels, 3, np.ones(300), np.ones((5, 3)), fold, tuple(range(5)))
    settings = {"inverse_strength": 1.0, "fit_bias": True, "tolerance": 1e-8, "most_passes": 500}
    together = fit_heads(rows, **settings)
    monkeypatch.setattr(streaming, "_MOST_COLUMNS", 6)
    apart = fit_heads(rows, **settings)
    assert apart.passes > together.passes
    np.testing.assert_allclose(apart.weight, together.weight, atol=1e-5)


def test_a_fit_that_may_read_no_more_says_that_it_has_not_converged():
    features, labels = problem(2)
    rows = Rows(features, labels, 2, np.ones(300), np.ones((1, 2)), np.zeros(300, int), (-1,))
    head = fit_heads(rows, inverse_strength=1.0, fit_bias=True, tolerance=1e-8, most_passes=3)
    assert not head.converged
    assert np.isfinite(expit(features @ head.weight[0].T + head.bias[0])).all()


def test_features_in_a_mapped_file_are_read_where_they_lie(tmp_path):
    features, labels = problem(3)
    mapped = np.memmap(tmp_path / "features", np.float32, "w+", shape=features.shape)
    mapped[:] = features
    settings = {"inverse_strength": 1.0, "fit_bias": True, "tolerance": 1e-8, "most_passes": 500}
    heads = [
        fit_heads(
            Rows(each, labels, 3, np.ones(300), np.ones((1, 3)), np.zeros(300, int), (-1,)),
            **settings,
        )
        for each in (features, mapped)
    ]
    np.testing.assert_array_equal(heads[0].weight, heads[1].weight)
