"""Kernel logistic and kernel ridge regression against scikit-learn and explicit features."""

from decimal import Decimal, getcontext

import numpy as np
import pytest
from scipy.linalg import helmert
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from lpft.errors import InputError
from lpft.ntk.regression import RELATIVE_STRENGTHS, ValidationSet, multiclass
from lpft.ntk.regression.kernels import TrainingSet
from lpft.ntk.regression.multiclass import (
    SEEN_OFFSET,
    fit_kernel_logistic,
    fit_kernel_ridge,
    fit_softmax,
    softmax_root,
)

from .problems import (
    expanded,
    matrix_problem,
    primal_logistic,
    primal_ridge,
    scalar_problem,
    training_set,
)

SOLVERS = [fit_kernel_logistic, fit_kernel_ridge]


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("strength", [1e-2, 1.0, 30.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_logistic_regression_on_p_is_scikit_learns(classes, strength, scale):
    problem = scalar_problem(rows=40, classes=classes, scale=scale)
    strength = strength * scale**2
    model = fit_kernel_logistic(training_set(problem), strength=strength, f0_scale=0)
    # Two classes have one row w = w_1 - w_0 there, and here ||w_0||^2 + ||w_1||^2 = ||w||^2 / 2.
    # Features of another unit are another C: scikit-learn's tolerance is not relative to it.
    inverse = (2 if classes == 2 else 1) * scale**2 / strength
    expected = LogisticRegression(
        C=inverse, fit_intercept=False, solver="newton-cholesky", tol=1e-12, max_iter=1000
    ).fit(problem.gradients / scale, problem.labels)
    decision = expected.decision_function(problem.test_gradients / scale)
    logits = model.predict(problem.test)
    found = logits[:, 1] - logits[:, 0] if classes == 2 else logits
    assert model.converged
    np.testing.assert_allclose(found, decision, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(model.coefficients.sum(axis=1), 0, atol=1e-12 / strength)


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("strength", [0.05, 1.0, 20.0])
@pytest.mark.parametrize("f0_scale", [0.0, 1.0, 0.3])
def test_logistic_regression_on_matrix_kernels_is_that_on_gradients(classes, strength, f0_scale):
    problem = matrix_problem(classes=classes)
    model = fit_kernel_logistic(training_set(problem), strength=strength, f0_scale=f0_scale)
    weights = primal_logistic(problem.gradients, problem.labels, f0_scale * problem.f0, strength)
    assert model.converged
    np.testing.assert_allclose(
        model.predict(problem.test, problem.test_f0),
        f0_scale * problem.test_f0 + problem.test_gradients @ weights,
        rtol=1e-8,
        atol=1e-8,
    )
    np.testing.assert_allclose(
        np.einsum("nc,ncp->p", model.coefficients, problem.gradients), weights, atol=1e-8
    )


@pytest.mark.parametrize("strength", [1e-3, 1.0])
def test_coefficients_are_residuals_over_the_strength(strength):
    problem = matrix_problem(rows=10, parameters=60)
    model = fit_kernel_logistic(training_set(problem), strength=strength)
    logits = model.predict(problem.train, problem.f0)
    residual = np.eye(3)[problem.labels] - softmax(logits, axis=1)
    np.testing.assert_allclose(model.coefficients, residual / strength, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("strength", [1e-3, 1.0, 50.0])
def test_ridge_regression_on_p_is_scikit_learns(strength):
    problem = scalar_problem()
    model = fit_kernel_ridge(training_set(problem), strength=strength, f0_scale=1.0)
    expected = KernelRidge(alpha=strength, kernel="precomputed").fit(
        problem.train, np.eye(3)[problem.labels] - problem.f0
    )
    np.testing.assert_allclose(
        model.predict(problem.test, problem.test_f0),
        expected.predict(problem.test) + problem.test_f0,
        rtol=1e-10,
        atol=1e-10,
    )


@pytest.mark.parametrize("strength", [1e-3, 1.0, 50.0])
@pytest.mark.parametrize("f0_scale", [0.0, 1.0, 0.3])
def test_ridge_regression_on_a_matrix_kernel_is_that_on_its_gradients(strength, f0_scale):
    problem = matrix_problem()
    model = fit_kernel_ridge(training_set(problem), strength=strength, f0_scale=f0_scale)
    targets = np.eye(3)[problem.labels] - f0_scale * problem.f0
    weights = primal_ridge(problem.gradients, targets, strength)
    np.testing.assert_allclose(
        model.predict(problem.test, problem.test_f0),
        f0_scale * problem.test_f0 + problem.test_gradients @ weights,
        rtol=1e-8,
        atol=1e-8,
    )


@pytest.mark.parametrize("fit", SOLVERS)
def test_p_and_its_expansion_give_the_same(fit):
    problem = scalar_problem(rows=25)
    full = problem._replace(train=expanded(problem.train, 3), test=expanded(problem.test, 3))
    small, large = fit(training_set(problem)), fit(training_set(full))
    assert small.strength.relative == large.strength.relative
    assert small.strength.value == pytest.approx(large.strength.value, rel=1e-14)
    np.testing.assert_allclose(
        small.predict(problem.test, problem.test_f0),
        large.predict(full.test, full.test_f0),
        atol=1e-9,
    )


@pytest.mark.parametrize("fit", SOLVERS)
@pytest.mark.parametrize("build", [matrix_problem, scalar_problem])
def test_classes_may_be_renamed(fit, build):
    problem, order = build(rows=30), np.array([2, 0, 1])
    train, test = problem.train, problem.test
    if train.ndim == 4:
        train, test = train[:, order][..., order], test[:, order][..., order]
    renamed = problem._replace(
        train=train,
        test=test,
        labels=np.argsort(order)[problem.labels],
        f0=problem.f0[:, order],
        test_f0=problem.test_f0[:, order],
    )
    first, second = (
        fit(training_set(each), strength=0.7).predict(each.test, each.test_f0)
        for each in (problem, renamed)
    )
    np.testing.assert_allclose(second, first[:, order], atol=1e-10)


@pytest.mark.parametrize("fit", SOLVERS)
def test_the_strength_is_in_units_of_the_kernel(fit):
    problem = matrix_problem(rows=30)
    larger = problem._replace(train=1e7 * problem.train, test=1e7 * problem.test)
    first, second = fit(training_set(problem)), fit(training_set(larger))
    assert second.strength.relative == first.strength.relative
    assert second.strength.value == pytest.approx(1e7 * first.strength.value, rel=1e-12)
    np.testing.assert_allclose(
        second.predict(larger.test, larger.test_f0),
        first.predict(problem.test, problem.test_f0),
        atol=1e-8,
    )


@pytest.mark.parametrize("fit", SOLVERS)
def test_repeated_rows_make_a_singular_kernel_and_no_harm(fit):
    problem = matrix_problem(rows=12, parameters=40)
    twice = np.concatenate([np.arange(12)] * 2)
    doubled = TrainingSet(
        problem.train[twice][:, :, twice], problem.labels[twice], 3, problem.f0[twice]
    )
    # Each row twice at lambda is each row once at lambda / 2.
    both = fit(doubled, strength=0.5)
    once = fit(training_set(problem), strength=0.25)
    np.testing.assert_allclose(
        both.predict(problem.test[:, :, twice], problem.test_f0),
        once.predict(problem.test, problem.test_f0),
        atol=1e-8,
    )


@pytest.mark.parametrize("fit", SOLVERS)
@pytest.mark.parametrize("relative", [1e-9, 1e-6, 1e-2])
def test_noise_of_float32_is_not_learnt(fit, relative):
    # 80 directions carry all of the 120 x 120 kernel; rounding gives the other 40 eigenvalues of
    # either sign, some larger than the weaker strengths.
    problem = matrix_problem(rows=40, parameters=80, scale=10.0)
    rough = problem._replace(
        train=problem.train.astype(np.float32).astype(np.float64),
        test=problem.test.astype(np.float32).astype(np.float64),
    )
    strength = relative * np.trace(problem.train.reshape(120, 120)) / 120
    exact = fit(training_set(problem), strength=strength)
    found = fit(training_set(rough), strength=strength)
    expected = exact.predict(problem.test, problem.test_f0)
    difference = found.predict(rough.test, rough.test_f0) - expected
    assert np.abs(difference).max() < 1e-3 * np.abs(expected).max()


def naive_choice(losses_of):
    """The strongest of the best relative strengths, given each one's total held-out loss."""
    losses = [losses_of(relative) for relative in RELATIVE_STRENGTHS]
    return RELATIVE_STRENGTHS[int(np.argmin(losses))]


def held_out_loss(problem, f0_scale, strength, fitted, held, logistic):
    """The loss of primal solutions on rows that they have not seen."""
    offset = f0_scale * problem.f0
    targets = np.eye(problem.classes)[problem.labels]
    if logistic:
        weights = primal_logistic(
            problem.gradients[fitted], problem.labels[fitted], offset[fitted], strength
        )
    else:
        weights = primal_ridge(
            problem.gradients[fitted], targets[fitted] - offset[fitted], strength
        )
    logits = offset[held] + problem.gradients[held] @ weights
    if logistic:
        return -np.sum(targets[held] * log_softmax(logits, axis=1))
    return np.sum((targets[held] - logits) ** 2)


@pytest.mark.filterwarnings("ignore:The least populated class")
@pytest.mark.parametrize("logistic", [True, False])
@pytest.mark.parametrize(("rows", "seed"), [(20, 0), (20, 1), (13, 24)])  # 13: unequal folds
@pytest.mark.parametrize("f0_scale", [0.0, 1.0])
def test_folds_choose_the_strength_of_lowest_held_out_loss(logistic, rows, seed, f0_scale):
    problem = matrix_problem(rows=rows, seed=seed)
    scale = np.einsum("ncnc", problem.train) / (3 * rows)
    parts = list(StratifiedKFold(5).split(problem.f0, problem.labels))
    expected = naive_choice(
        lambda relative: sum(
            held_out_loss(problem, f0_scale, relative * scale, fitted, held, logistic)
            for fitted, held in parts
        )
    )
    fit = fit_kernel_logistic if logistic else fit_kernel_ridge
    model = fit(training_set(problem), f0_scale=f0_scale)
    assert model.converged
    assert model.strength.folds == 5
    assert model.strength.relative == expected
    assert model.strength.value == pytest.approx(expected * scale, rel=1e-13)
    assert model.caveats == ((SEEN_OFFSET,) if f0_scale else ())
    again = fit(training_set(problem), f0_scale=f0_scale, strength=model.strength.value)
    np.testing.assert_array_equal(again.coefficients, model.coefficients)


@pytest.mark.parametrize("logistic", [True, False])
def test_validation_rows_choose_the_strength(logistic):
    problem = matrix_problem(rows=20, test_rows=15, seed=3)
    scale = np.einsum("ncnc", problem.train) / 60
    whole = problem._replace(
        gradients=np.concatenate([problem.gradients, problem.test_gradients]),
        labels=np.concatenate([problem.labels, problem.test_labels]),
        f0=np.concatenate([problem.f0, problem.test_f0]),
    )
    expected = naive_choice(
        lambda relative: held_out_loss(
            whole, 1.0, relative * scale, np.arange(20), np.arange(20, 35), logistic
        )
    )
    fit = fit_kernel_logistic if logistic else fit_kernel_ridge
    validation = ValidationSet(problem.test, problem.test_labels, problem.test_f0)
    model = fit(training_set(problem), validation=validation)
    assert model.strength.relative == expected
    assert model.strength.folds == 0
    assert model.settings == {"f0_scale": 1.0, "validation_rows": 15}
    assert model.caveats == ()


@pytest.mark.parametrize("fit", SOLVERS)
def test_of_equal_losses_the_strongest_is_taken_and_the_edge_is_named(fit):
    # Rows that share nothing: held-out logits are 0 whatever the strength.
    model = fit(TrainingSet(np.eye(12), np.arange(12) % 3, 3), f0_scale=0.0)
    assert model.strength.relative == RELATIVE_STRENGTHS[0] == max(RELATIVE_STRENGTHS)
    assert model.strength.at_edge


@pytest.mark.parametrize("fit", SOLVERS)
def test_a_class_of_one_row_and_folds_without_it(fit):
    problem = matrix_problem(rows=12)
    labels = np.array([0] * 6 + [1] * 5 + [2])
    model = fit(TrainingSet(problem.train, labels, 3, problem.f0))
    assert model.converged
    assert model.strength.folds == 5
    assert np.isfinite(model.predict(problem.test, problem.test_f0)).all()


@pytest.mark.parametrize("fit", SOLVERS)
def test_a_class_without_rows_is_scored_low(fit):
    problem = matrix_problem(rows=30, classes=3, parameters=200)
    labels = problem.labels % 2
    model = fit(TrainingSet(problem.train, labels, 3), f0_scale=0.0, strength=1.0)
    assert model.score(problem.train, labels) == 1.0
    assert (model.predict(problem.train).argmax(axis=1) != 2).all()


@pytest.mark.parametrize("fit", SOLVERS)
def test_kernels_that_are_none_are_refused(fit):
    problem = matrix_problem(rows=6)
    rng = np.random.default_rng(0)

    def attempt(kernel, **options):
        fit(TrainingSet(kernel, problem.labels, 3, problem.f0), **options)

    with pytest.raises(InputError, match="needs a symmetric training kernel"):
        attempt(rng.normal(size=(6, 3, 6, 3)))
    with pytest.raises(InputError, match="positive mean diagonal, found -"):
        attempt(-problem.train)
    with pytest.raises(InputError, match="positive mean diagonal, found 0"):
        attempt(np.zeros((6, 3, 6, 3)))
    indefinite = np.diag([3.0, 3, 3, 3, 3, -2])
    with pytest.raises(InputError, match="positive semidefinite"):
        attempt(indefinite, strength=1.0)


@pytest.mark.parametrize("fit", SOLVERS)
def test_wrong_options_are_named(fit):
    problem = matrix_problem(rows=6)
    train = training_set(problem)
    validation = ValidationSet(problem.test, problem.test_labels, problem.test_f0)
    with pytest.raises(InputError, match="strength: expected a finite number above 0, found 0"):
        fit(train, strength=0.0)
    with pytest.raises(InputError, match="strength and validation exclude each other"):
        fit(train, strength=1.0, validation=validation)
    with pytest.raises(InputError, match="folds: expected at least 2"):
        fit(train, folds=1)
    with pytest.raises(InputError, match="f0_scale: expected a finite number"):
        fit(train, f0_scale=np.inf)
    with pytest.raises(InputError, match="f_0 of the training and the test rows"):
        fit(TrainingSet(problem.train, problem.labels, 3))
    with pytest.raises(InputError, match="validation kernel: expected 6 columns"):
        fit(train, validation=ValidationSet(problem.test[:, :, :5], problem.test_labels))
    with pytest.raises(InputError, match="labels: expected shape"):
        fit(train, validation=ValidationSet(problem.test, problem.test_labels[:3]))


# --- the optimiser


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


def softmax_problem(rows=30, classes=3, rank=8, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, classes - 1, rank))
    labels = rng.integers(classes, size=rows)
    return features, labels, rng.normal(size=(rows, classes)), rng.uniform(0.1, 3, size=rank)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_optimum_is_that_of_a_general_minimiser(classes):
    features, labels, offset, penalties = softmax_problem(classes=classes)
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
    features, labels, offset, _ = softmax_problem(rows=40, rank=25)
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
    features, labels, offset, penalties = softmax_problem()
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


def test_a_fit_that_is_cut_short_says_so(monkeypatch):
    monkeypatch.setattr(multiclass, "MAX_ITERATIONS", 1)
    features, labels, offset, penalties = softmax_problem()
    fit = fit_softmax(features, helmert(3).T, labels, offset, penalties)
    assert not fit.converged
