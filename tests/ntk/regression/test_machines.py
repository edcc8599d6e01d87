"""LM-Kernel-FT's SVC, SVR and least squares against scikit-learn and NumPy on flat kernels."""

import numpy as np
import pytest
from sklearn.svm import SVC, SVR

from lpft.errors import InputError
from lpft.ntk.regression import entries
from lpft.ntk.regression.entries import entry_problem, fit_least_squares, fit_svc, fit_svr
from lpft.ntk.regression.kernels import TrainingSet
from lpft.ntk.regression.multiclass import fit_kernel_ridge

from .problems import expanded, matrix_problem, scalar_problem

BUILDERS = [matrix_problem, scalar_problem]


def training_set(problem):
    return TrainingSet(problem.train, problem.labels, problem.classes, problem.f0)


def flat(kernel, classes):
    full = kernel if kernel.ndim == 4 else expanded(kernel, classes)
    return full.reshape(len(full) * classes, -1)


def difference(kernel):
    full = kernel if kernel.ndim == 4 else expanded(kernel, 2)
    return full[:, 1, :, 1] - full[:, 1, :, 0] - full[:, 0, :, 1] + full[:, 0, :, 0]


def regularized(matrix, share):
    return matrix + share * np.linalg.svd(matrix, compute_uv=False)[0] * np.eye(len(matrix))


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(("cost", "share"), [(1.0, 0.0), (0.05, 0.1)])
def test_classification_is_scikit_learns_on_entries(build, classes, cost, share):
    problem = build(classes=classes)
    model = fit_svc(training_set(problem), cost=cost, regularization=share)
    expected = SVC(kernel="precomputed", C=cost).fit(
        regularized(flat(problem.train, classes), share),
        np.eye(classes, dtype=int)[problem.labels].ravel(),
    )
    assert model.converged
    np.testing.assert_allclose(
        model.predict(problem.test).ravel(),
        expected.decision_function(flat(problem.test, classes)),
        rtol=1e-10,
        atol=1e-10,
    )


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("f0_scale", [0.0, 0.5])
@pytest.mark.parametrize(("cost", "tube", "share"), [(1.0, 0.1, 0.0), (0.2, 0.3, 0.1)])
def test_regression_is_scikit_learns_on_entries(build, f0_scale, cost, tube, share):
    problem = build()
    model = fit_svr(
        training_set(problem), f0_scale=f0_scale, cost=cost, tube=tube, regularization=share
    )
    targets = np.eye(3)[problem.labels] - f0_scale * problem.f0
    expected = SVR(kernel="precomputed", C=cost, epsilon=tube).fit(
        regularized(flat(problem.train, 3), share), targets.ravel()
    )
    predicted = expected.predict(flat(problem.test, 3)).reshape(-1, 3) + f0_scale * problem.test_f0
    np.testing.assert_allclose(
        model.predict(problem.test, problem.test_f0), predicted, rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("f0_scale", [0.0, 0.5])
def test_least_squares_has_the_smallest_norm(build, f0_scale):
    # 12 or 18 independent directions among 60 entries: the kernel is singular.
    problem = build(rows=20)
    model = fit_least_squares(training_set(problem), f0_scale=f0_scale)
    targets = (np.eye(3)[problem.labels] - f0_scale * problem.f0).ravel()
    matrix = flat(problem.train, 3)
    expected = np.linalg.pinv(matrix, rcond=1e-10, hermitian=True) @ targets
    np.testing.assert_allclose(model.coefficients.ravel(), expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(
        model.predict(problem.test, problem.test_f0),
        (flat(problem.test, 3) @ expected).reshape(-1, 3) + f0_scale * problem.test_f0,
        rtol=1e-8,
        atol=1e-8,
    )


def test_least_squares_interpolates_where_the_kernel_is_regular():
    problem = matrix_problem(rows=8, parameters=60)
    model = fit_least_squares(training_set(problem))
    np.testing.assert_allclose(model.predict(problem.train), np.eye(3)[problem.labels], atol=1e-9)
    assert model.score(problem.train, problem.labels) == 1


def test_regularized_least_squares_is_ridge_regression():
    problem = matrix_problem()
    share = 0.01
    largest = np.linalg.svd(flat(problem.train, 3), compute_uv=False)[0]
    np.testing.assert_allclose(
        fit_least_squares(training_set(problem), f0_scale=1.0, regularization=share).predict(
            problem.test, problem.test_f0
        ),
        fit_kernel_ridge(training_set(problem), strength=share * largest).predict(
            problem.test, problem.test_f0
        ),
        rtol=1e-9,
        atol=1e-9,
    )


@pytest.mark.parametrize("build", BUILDERS)
def test_a_single_logit_is_the_difference_of_two(build):
    problem = build(classes=2, rows=25)
    train, kernel = training_set(problem), difference(problem.train)
    signs = 2.0 * problem.labels - 1
    svc = SVC(kernel="precomputed").fit(kernel, problem.labels)
    offset, test_offset = (f0[:, 1] - f0[:, 0] for f0 in (problem.f0, problem.test_f0))
    svr = SVR(kernel="precomputed").fit(kernel, signs - offset)
    solution = np.linalg.pinv(kernel, rcond=1e-10, hermitian=True) @ (signs - offset)
    rows = difference(problem.test)
    cases = [
        (fit_svc(train, single_logit=True), svc.decision_function(rows)),
        (fit_svr(train, f0_scale=1.0, single_logit=True), svr.predict(rows) + test_offset),
        (
            fit_least_squares(train, f0_scale=1.0, single_logit=True),
            rows @ solution + test_offset,
        ),
    ]
    for model, expected in cases:
        logits = model.predict(problem.test, problem.test_f0)
        np.testing.assert_allclose(logits[:, 1] - logits[:, 0], expected, rtol=1e-8, atol=1e-8)
        assert model.score(problem.test, problem.test_labels, problem.test_f0) == np.mean(
            (expected > 0) == (problem.test_labels == 1)
        )


@pytest.mark.parametrize("scale", [1e-6, 1e7])
def test_machines_end_at_any_scale_of_the_kernel(scale):
    problem = matrix_problem(rows=40, classes=3, parameters=300)
    train = TrainingSet(scale * problem.train, problem.labels, 3)
    for fit in (fit_svc, fit_svr):
        model = fit(train)
        assert model.converged
        assert np.isfinite(model.predict(scale * problem.test)).all()


def test_machines_that_are_cut_short_say_so(monkeypatch):
    monkeypatch.setattr(entries, "MAX_ITERATIONS", 3)
    problem = matrix_problem()
    assert not fit_svc(training_set(problem)).converged
    assert not fit_svr(training_set(problem)).converged


def test_wrong_options_are_named():
    problem = matrix_problem()
    train = training_set(problem)
    with pytest.raises(InputError, match="cost: expected a finite number above 0, found -1"):
        fit_svc(train, cost=-1.0)
    with pytest.raises(InputError, match="tube: expected 0 or more, found -1"):
        fit_svr(train, tube=-1.0)
    with pytest.raises(InputError, match="regularization: expected 0 or more, found -1"):
        fit_least_squares(train, regularization=-1.0)
    with pytest.raises(InputError, match="difference of 2 logits, found 3 classes"):
        fit_svc(train, single_logit=True)
    with pytest.raises(InputError, match="found only class 1"):
        entry_problem(TrainingSet(np.eye(3), np.ones(3, dtype=int), 2), single_logit=True)
    with pytest.raises(InputError, match="solver 'svc' needs a symmetric"):
        fit_svc(TrainingSet(np.triu(np.ones((20, 20))), problem.labels, 3))
    with pytest.raises(InputError, match="f_0 of the training and the test rows"):
        fit_svr(TrainingSet(problem.train, problem.labels, 3), f0_scale=1.0)
