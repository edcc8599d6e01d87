"""The paper's protocol against scikit-learn's LogisticRegressionCV on the rows of the kernel."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegressionCV

from lpft.ntk.regression.entries import (
    INVERSE_STRENGTHS,
    constant_entry_accuracy,
    entry_accuracy,
    entry_problem,
    fit_paper_protocol,
    fit_row_logistic,
)
from lpft.ntk.regression.kernels import TrainingSet

from .problems import expanded, matrix_problem, scalar_problem


def by_scikit_learn(rows, labels, folds=5):
    return LogisticRegressionCV(
        Cs=10,
        cv=folds,
        l1_ratios=(0.0,),
        use_legacy_attributes=False,
        scoring="accuracy",
        solver="newton-cholesky",
        tol=1e-11,
        max_iter=1000,
    ).fit(rows, labels)


def flat(kernel, classes):
    full = kernel if kernel.ndim == 4 else expanded(kernel, classes)
    return full.reshape(len(full) * classes, -1)


@pytest.mark.parametrize("build", [matrix_problem, scalar_problem])
@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("scale", [1e-2, 0.3, 3.0])
def test_it_is_scikit_learns_cross_validated_regression(build, classes, scale):
    problem = build(rows=20, classes=classes, scale=scale)
    model = fit_paper_protocol(TrainingSet(problem.train, problem.labels, classes))
    one_hot = np.eye(classes, dtype=int)[problem.labels].ravel()
    expected = by_scikit_learn(flat(problem.train, classes), one_hot)
    assert model.converged
    assert model.strength.folds == 5
    assert 1 / model.strength.value == pytest.approx(expected.C_, rel=1e-12)
    assert model.strength.at_edge == (expected.C_ in (1e-4, 1e4))
    for kernel, labels in ((problem.train, problem.labels), (problem.test, problem.test_labels)):
        rows = flat(kernel, classes)
        decision = expected.decision_function(rows).reshape(-1, classes)
        logits = model.predict(kernel)
        np.testing.assert_allclose(logits, decision, rtol=1e-6, atol=1e-6)
        entries = np.eye(classes, dtype=int)[labels].ravel()
        assert entry_accuracy(logits, labels) == pytest.approx(expected.score(rows, entries))


def test_the_grid_is_scikit_learns():
    rows = np.random.default_rng(0).normal(size=(20, 3))
    found = by_scikit_learn(rows, np.arange(20) % 2).Cs_
    np.testing.assert_allclose(INVERSE_STRENGTHS, found, rtol=1e-15)
    assert len(INVERSE_STRENGTHS) == 10


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e7])
def test_the_optimum_is_met_at_every_scale_of_the_kernel(scale):
    # Rows of float32 Jacobians: a noise floor below directions that fall over several decades.
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(90, 60)) * np.logspace(0, -4, 60)
    kernel = (gradients @ gradients.T).astype(np.float32).astype(np.float64)
    kernel *= scale / np.abs(kernel).max()
    labels = rng.integers(3, size=30)
    model = fit_paper_protocol(TrainingSet(kernel.reshape(30, 3, 30, 3), labels, 3))
    assert model.converged
    # Where C sum CE + ||w||^2 / 2 is smallest, w = -C K^T (p - t) and sum (p - t) = 0.
    targets = np.eye(3)[labels].ravel()
    weights = model.coefficients.ravel()
    decision = kernel @ weights + model.intercept[0]
    error = np.where(targets == 1, -1 / (1 + np.exp(decision)), 1 / (1 + np.exp(-decision)))
    pulled = kernel.T @ error / model.strength.value
    size = np.abs(kernel).T @ np.abs(error) / model.strength.value
    assert np.abs(pulled + weights).max() < 1e-7 * size.max()
    assert abs(error.sum()) < 1e-7 * np.abs(error).sum()


def test_entry_accuracy_counted_by_hand():
    logits = np.array([[1.0, -1.0, 2.0], [-1.0, -2.0, -3.0]])
    # First row, label 0: right, right, wrong. Second, label 2: right, right, wrong.
    assert entry_accuracy(logits, [0, 2]) == 4 / 6
    constant = np.full((5, 4), -1.0)
    assert entry_accuracy(constant, [0, 1, 2, 3, 0]) == constant_entry_accuracy(4) == 0.75


def test_a_kernel_of_zeros_gives_the_constant_answer():
    labels = np.array([0, 1, 2, 0, 1, 2])
    model = fit_paper_protocol(TrainingSet(np.zeros((6, 3, 6, 3)), labels, 3))
    assert model.converged
    logits = model.predict(np.zeros((6, 3, 6, 3)))
    np.testing.assert_allclose(logits, np.log(1 / 2), rtol=1e-9)  # odds of 1 entry in 3
    assert entry_accuracy(logits, labels) == constant_entry_accuracy(3)


def test_folds_are_as_many_as_ones_among_the_entries():
    problem = matrix_problem(rows=3)
    model = fit_paper_protocol(TrainingSet(problem.train, problem.labels, 3))
    assert model.strength.folds == 3


def test_the_logistic_solver_of_lm_kernel_ft():
    problem = matrix_problem(classes=2)
    train = TrainingSet(problem.train, problem.labels, 2)
    plain = fit_row_logistic(train)
    np.testing.assert_array_equal(plain.coefficients, fit_paper_protocol(train).coefficients)
    matrix = problem.train.reshape(40, 40)
    ridge = 0.1 * np.linalg.svd(matrix, compute_uv=False)[0]
    found = fit_row_logistic(train, regularization=0.1)
    expected = by_scikit_learn(
        matrix + ridge * np.eye(40), np.eye(2, dtype=int)[problem.labels].ravel()
    )
    np.testing.assert_allclose(
        found.predict(problem.test),
        expected.decision_function(problem.test.reshape(14, 40)).reshape(7, 2),
        rtol=1e-6,
        atol=1e-6,
    )


@pytest.mark.parametrize("build", [matrix_problem, scalar_problem])
def test_a_single_logit_is_the_difference_of_two(build):
    problem = build(classes=2, rows=30)
    model = fit_row_logistic(TrainingSet(problem.train, problem.labels, 2), single_logit=True)

    def difference(kernel):
        full = kernel if kernel.ndim == 4 else expanded(kernel, 2)
        return full[:, 1, :, 1] - full[:, 1, :, 0] - full[:, 0, :, 1] + full[:, 0, :, 0]

    expected = by_scikit_learn(difference(problem.train), problem.labels)
    logits = model.predict(problem.test)
    np.testing.assert_allclose(
        logits[:, 1] - logits[:, 0],
        expected.decision_function(difference(problem.test)),
        rtol=1e-6,
        atol=1e-6,
    )


def test_a_class_of_one_row_leaves_a_single_logit_without_folds():
    problem = matrix_problem(classes=2, rows=8)
    train = TrainingSet(problem.train, np.array([1] + [0] * 7), 2)
    model = fit_row_logistic(train, single_logit=True)
    assert (model.strength.value, model.strength.folds) == (1.0, 0)
    assert entry_problem(train, single_logit=True).labels.sum() == 1
