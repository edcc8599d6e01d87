"""The optimiser: its factors, its optimum at every scale of features, and its honesty."""

from decimal import Decimal, getcontext

import numpy as np
import pytest
from scipy.linalg import helmert
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from lpft.ntk.regression import multiclass
from lpft.ntk.regression.multiclass import fit_softmax, softmax_root


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_the_root_of_the_softmax_covariance(classes):
    rng = np.random.default_rng(classes)
    logits = rng.normal(size=(50, classes)) * np.logspace(-2, 2, 50)[:, None]
    probabilities = softmax(logits, axis=1)
    root = softmax_root(probabilities)
    assert root.shape == (50, classes, classes - 1)
    for p, factor in zip(probabilities, root, strict=True):
        np.testing.assert_allclose(
            factor @ factor.T, np.diag(p) - np.outer(p, p), rtol=0, atol=4e-16
        )


def test_the_root_at_the_corners_of_the_simplex():
    corners = np.concatenate([np.eye(3), [[1 - 1e-300, 1e-300, 0], [1, 5e-324, 5e-324]]])
    with np.errstate(all="raise", under="ignore"):
        root = softmax_root(corners)
    assert np.isfinite(root).all()
    assert not root[:3].any()


def problem(rows=30, classes=3, rank=8, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, classes - 1, rank))
    labels = rng.integers(classes, size=rows)
    return features, labels, rng.normal(size=(rows, classes)), rng.uniform(0.1, 3, size=rank)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_optimum_is_that_of_a_general_minimiser(classes):
    features, labels, offset, penalties = problem(classes=classes)
    contrasts = helmert(classes).T

    def objective(z):
        logits = offset + features @ z @ contrasts.T
        losses = -log_softmax(logits, axis=1)[np.arange(len(labels)), labels]
        return losses.sum() + 0.5 * penalties @ z**2

    expected = minimize(objective, np.zeros(8), method="BFGS", options={"gtol": 1e-6})
    fit = fit_softmax(features, contrasts, labels, offset, penalties)
    assert fit.converged
    np.testing.assert_allclose(fit.coefficients, expected.x, atol=1e-5)
    assert objective(fit.coefficients) <= expected.fun + 1e-12


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4, 1e7])
def test_the_gradient_vanishes_at_every_scale(scale):
    # Column sizes fall over twelve decades, as singular values of kernels do.
    features, labels, offset, _ = problem(rows=40, rank=25)
    features = features * scale * np.logspace(0, -12, 25)
    contrasts = helmert(3).T
    fit = fit_softmax(features, contrasts, labels, offset, np.full(25, 1e-3))
    assert fit.converged
    pulled = np.einsum("nc,ck,nkr->r", fit.residual, contrasts, features)
    size = np.einsum("nc,ck,nkr->r", np.abs(fit.residual), np.abs(contrasts), np.abs(features))
    np.testing.assert_array_less(np.abs(pulled - 1e-3 * fit.coefficients), 1e-9 * size + 1e-300)
    np.testing.assert_allclose(
        fit.residual, np.eye(3)[labels] - softmax(fit.logits, axis=1), atol=1e-15
    )


def test_the_start_does_not_matter():
    features, labels, offset, penalties = problem()
    contrasts = helmert(3).T
    cold = fit_softmax(features, contrasts, labels, offset, penalties)
    warm = fit_softmax(features, contrasts, labels, offset, penalties, start=np.full(8, 5.0))
    # A decrement d leaves at most sqrt(d / rho) in z: here sqrt(1e-24 * 40 / 0.1) for each fit.
    np.testing.assert_allclose(warm.coefficients, cold.coefficients, rtol=0, atol=4e-11)


def test_separated_rows_keep_their_relative_precision():
    # One row with margin m: the optimum of log(1 + exp(-m)) + rho m^2 / 2 solves
    # rho m = 1 / (1 + exp(m)); with rho this small 1 - p is far below float64's epsilon.
    rho = 1e-24
    getcontext().prec = 60
    low, high = Decimal(1), Decimal(100)
    for _ in range(200):
        middle = (low + high) / 2
        if Decimal(rho) * middle * (1 + middle.exp()) < 1:
            low = middle
        else:
            high = middle
    fit = fit_softmax(
        np.ones((1, 1, 1)),
        np.array([[0.0], [1.0]]),
        np.array([1]),
        np.zeros((1, 2)),
        np.array([rho]),
    )
    assert fit.converged
    assert fit.coefficients[0] == pytest.approx(float(low), rel=1e-9)


def test_no_features_leave_the_offset():
    _, labels, offset, _ = problem()
    fit = fit_softmax(np.zeros((30, 2, 1)), helmert(3).T, labels, offset, np.ones(1))
    assert fit.converged
    np.testing.assert_array_equal(fit.logits, offset)


def test_a_fit_that_is_cut_short_says_so(monkeypatch):
    monkeypatch.setattr(multiclass, "MAX_ITERATIONS", 1)
    features, labels, offset, penalties = problem()
    fit = fit_softmax(features, helmert(3).T, labels, offset, penalties)
    assert not fit.converged
