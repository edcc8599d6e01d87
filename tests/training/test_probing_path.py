"""The way of the linear probe against scipy's L-BFGS-B on an objective written out by hand."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression

from lpft.training.probing import fit_probe
from lpft.training.probing_path import path_rows, probing_path


def problem(rows, width, classes, seed=0):
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(rows, width)).astype(np.float32)
    scores = features @ generator.normal(size=(width, classes))
    return features, (scores + 2 * generator.normal(size=(rows, classes))).argmax(1)


def naive_iterates(features, labels, classes, strength, count):
    """V and b after each iteration, on the mean over rows of the probe's objective."""
    rows, width = features.shape
    iterates = []

    def unpacked(flat):
        table = flat.reshape(classes, width + 1)
        return table[:, :-1], table[:, -1]

    def objective(flat):
        weight, bias = unpacked(flat)
        logits = features.astype(np.float64) @ weight.T + bias
        error = softmax(logits, axis=1)
        error[np.arange(rows), labels] -= 1
        entropy = -log_softmax(logits, axis=1)[np.arange(rows), labels].mean()
        value = entropy + (weight**2).sum() / (2 * strength * rows)
        slope = error.T @ features / rows + weight / (strength * rows)
        return value, np.column_stack([slope, error.mean(0)]).ravel()

    minimize(
        objective,
        np.zeros(classes * (width + 1)),
        method="L-BFGS-B",
        jac=True,
        callback=lambda flat: iterates.append(unpacked(flat.copy())),
        options={"maxiter": count, "maxls": 50, "gtol": 1e-8, "ftol": 64 * np.finfo(float).eps},
    )
    return iterates


def test_points_are_the_iterates_of_lbfgs_on_the_objective():
    features, labels = problem(150, 6, 3)
    path = probing_path(features, labels, 3, inverse_strength=0.5)
    naive = naive_iterates(features, labels, 3, 0.5, 12)
    checked = 0
    for point in path.points:
        if 0 < point.iteration <= len(naive):
            weight, bias = naive[point.iteration - 1]
            np.testing.assert_allclose(point.weight, weight, atol=1e-8)
            np.testing.assert_allclose(point.bias, bias, atol=1e-8)
            checked += 1
    assert checked > 5


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("fit_bias", [True, False])
def test_the_path_ends_at_the_probe(classes, fit_bias):
    features, labels = problem(200, 8, classes)
    probe = fit_probe(features, labels, classes, fit_bias=fit_bias)
    path = probing_path(
        features, labels, classes, inverse_strength=probe.inverse_strength, fit_bias=fit_bias
    )
    np.testing.assert_allclose(path.points[-1].weight, probe.weight, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(path.points[-1].bias, probe.bias, rtol=1e-4, atol=1e-5)


def test_class_weights_are_those_of_the_probe():
    features, labels = problem(300, 5, 3)
    keep = (labels != 0) | (np.arange(300) % 6 == 0)
    features, labels = features[keep], labels[keep]
    probe = fit_probe(features, labels, 3, class_weight="balanced")
    path = probing_path(
        features, labels, 3, inverse_strength=probe.inverse_strength, class_weight="balanced"
    )
    np.testing.assert_allclose(path.points[-1].weight, probe.weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("classes", [2, 4])
def test_heads_predict_what_truncated_fits_of_scikit_learn_predict(classes):
    features, labels = problem(120, 7, classes)
    path = probing_path(features, labels, classes, inverse_strength=3.0)
    early = [point for point in path.points[1:] if point.iteration < path.stop]
    assert len(early) > 4
    for point in early:
        with pytest.warns(match="lbfgs failed to converge"):
            fitted = LogisticRegression(C=3.0, solver="lbfgs", max_iter=point.iteration).fit(
                features.astype(np.float64), labels
            )
        logits = features @ point.weight.T + point.bias
        np.testing.assert_allclose(
            softmax(logits, axis=1), fitted.predict_proba(features), atol=1e-6
        )


def test_the_path_starts_at_zero_and_lowers_the_objective():
    features, labels = problem(200, 10, 3)
    path = probing_path(features, labels, 3, inverse_strength=10.0)
    iterations = [point.iteration for point in path.points]
    assert iterations == sorted(set(iterations))
    assert iterations[:3] == [0, 1, 2]
    assert not path.points[0].weight.any()
    assert path.stop in iterations
    assert path.stop < iterations[-1]
    values = []
    for point in path.points:
        logits = features @ point.weight.T + point.bias
        entropy = -log_softmax(logits, axis=1)[np.arange(len(labels)), labels].sum()
        values.append(10.0 * entropy + (point.weight**2).sum() / 2)
    assert (np.diff(values) <= 1e-9 * values[0]).all()


def test_a_class_without_rows_stays_below_all_others():
    features, labels = problem(100, 5, 2)
    path = probing_path(features, np.where(labels == 1, 2, 0), 3, inverse_strength=1.0)
    for point in path.points:
        logits = features @ point.weight.T + point.bias
        if point.iteration:
            assert (logits[:, 1] < logits[:, [0, 2]].min(axis=1)).all()


def test_rows_are_the_numbers_of_a_history():
    features, labels = problem(90, 4, 3)
    train, validation = (features[:60], labels[:60]), (features[60:], labels[60:])
    path = probing_path(*train, 3, inverse_strength=1.0)
    rows = path_rows(path, train, validation)
    assert [row["iteration"] for row in rows] == [point.iteration for point in path.points]
    start, end, last = rows[0], rows[-1], path.points[-1]
    assert start["loss"] == pytest.approx(np.log(3))
    assert start["validation_loss"] == pytest.approx(np.log(3))
    assert (start["head_norm"], start["bias_norm"], start["logit_norm"]) == (0, 0, 0)
    logits = validation[0] @ last.weight.T + last.bias
    assert end["head_norm"] == pytest.approx(np.sqrt((last.weight**2).sum()))
    assert end["bias_norm"] == pytest.approx(np.sqrt((last.bias**2).sum()))
    assert end["logit_norm"] == pytest.approx(np.mean([np.sqrt((row**2).sum()) for row in logits]))
    assert end["validation_accuracy"] == pytest.approx((logits.argmax(1) == validation[1]).mean())
    assert end["loss"] < start["loss"]
