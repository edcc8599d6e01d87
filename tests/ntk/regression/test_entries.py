"""Solvers of entries against scikit-learn on flat kernels and AsK-LS's own linear system."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegressionCV
from sklearn.svm import SVC, SVR

from lpft.errors import InputError
from lpft.ntk.regression import entries
from lpft.ntk.regression.entries import (
    INVERSE_STRENGTHS,
    RESONANCE,
    entry_accuracy,
    entry_problem,
    fit_asymmetric,
    fit_least_squares,
    fit_paper_protocol,
    fit_row_logistic,
    fit_svc,
    fit_svr,
    solve_asymmetric,
)
from lpft.ntk.regression.kernels import TrainingSet
from lpft.ntk.regression.multiclass import fit_kernel_ridge

from .problems import contract, expanded, flat, matrix_problem, scalar_problem, training_set

# --- the paper's protocol


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
    assert entry_accuracy(constant, [0, 1, 2, 3, 0]) == 0.75


def test_a_kernel_of_zeros_gives_the_constant_answer():
    labels = np.array([0, 1, 2, 0, 1, 2])
    model = fit_paper_protocol(TrainingSet(np.zeros((6, 3, 6, 3)), labels, 3))
    assert model.converged
    logits = model.predict(np.zeros((6, 3, 6, 3)))
    np.testing.assert_allclose(logits, np.log(1 / 2), rtol=1e-9)  # odds of 1 entry in 3
    assert entry_accuracy(logits, labels) == 2 / 3


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


def test_a_class_of_one_row_leaves_a_single_logit_without_folds():
    problem = matrix_problem(classes=2, rows=8)
    train = TrainingSet(problem.train, np.array([1] + [0] * 7), 2)
    model = fit_row_logistic(train, single_logit=True)
    assert (model.strength.value, model.strength.folds) == (1.0, 0)
    assert entry_problem(train, single_logit=True).labels.sum() == 1


# --- LM-Kernel-FT's machines


BUILDERS = [matrix_problem, scalar_problem]


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
    problem = build(classes=2, rows=30)
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
        (fit_least_squares(train, f0_scale=1.0, single_logit=True), rows @ solution + test_offset),
        (
            fit_row_logistic(train, single_logit=True),
            by_scikit_learn(kernel, problem.labels).decision_function(rows),
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


def test_wrong_options_of_machines_are_named():
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


# --- asymmetric kernels


def signed_problem(rows=12, test_rows=5, classes=3, parameters=20, seed=0):
    """<g, sign g'> of training rows, of test rows to them, and of them to test rows."""
    base = matrix_problem(rows, test_rows, classes, parameters, seed)
    own, other = base.gradients, base.test_gradients
    reverse = contract(own, np.sign(other))
    train, test = contract(own, np.sign(own)), contract(other, np.sign(own))
    return base._replace(train=train, test=test), reverse


def big_system(matrix, targets, gamma):
    """alpha and beta of the 2n x 2n system, by NumPy's least squares."""
    n = len(matrix)
    system = np.block([[np.eye(n) / gamma, matrix], [matrix.T, np.eye(n) / gamma]])
    solution = np.linalg.lstsq(system, np.concatenate([targets, targets]), rcond=1e-13)[0]
    return solution[:n], solution[n:]


def signs(problem):
    return 2 * np.eye(problem.classes)[problem.labels] - 1


@pytest.mark.parametrize("gamma", [1e-3, 0.1, 7.0])
@pytest.mark.parametrize("f0_scale", [0.0, 0.5])
@pytest.mark.parametrize("mix", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("share", [0.0, 0.2])
def test_the_answer_solves_the_system(gamma, f0_scale, mix, share):
    problem, reverse = signed_problem()
    model = fit_asymmetric(
        TrainingSet(problem.train, problem.labels, 3, problem.f0),
        gamma=gamma,
        mix=mix,
        f0_scale=f0_scale,
        regularization=share,
    )
    matrix = problem.train.reshape(36, 36)
    matrix = matrix + share * np.linalg.norm(matrix, 2) * np.eye(36)
    targets = (signs(problem) - f0_scale * problem.f0).ravel()
    alpha, beta = big_system(matrix, targets, gamma)
    source = problem.test.reshape(15, 36) @ beta
    target = reverse.reshape(36, 15).T @ alpha
    expected = (mix * source + (1 - mix) * target).reshape(5, 3) + f0_scale * problem.test_f0
    found = model.predict(problem.test, problem.test_f0, reverse)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8)
    if mix == 1:
        np.testing.assert_array_equal(model.predict(problem.test, problem.test_f0), found)


def test_both_functions_are_stationary_in_their_features():
    # stationary where v = gamma sum e s and w = gamma sum h t.
    problem, _ = signed_problem()
    gamma = 0.05
    source = problem.gradients.reshape(36, -1)
    target = np.sign(source)
    targets = signs(problem).ravel()
    alpha, beta, _ = solve_asymmetric(source @ target.T, targets, gamma)
    w, v = target.T @ beta, source.T @ alpha
    np.testing.assert_allclose(alpha, gamma * (targets - source @ w), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(beta, gamma * (targets - target @ v), rtol=1e-9, atol=1e-12)


def test_lm_kernel_fts_form_with_rows_and_columns_exchanged():
    # It solves alpha/gamma + (yy' * K') beta = 1 and its transpose, and answers
    # mix K'(X, x)^T (alpha y) + (1 - mix) K'(x, X) (beta y), for its K'(x, x') = K(x', x).
    problem, reverse = signed_problem(classes=2)
    gamma, mix = 0.05, 0.8
    y, theirs = signs(problem).ravel(), problem.train.reshape(24, 24).T
    coupled = np.outer(y, y) * theirs
    system = np.block([[np.eye(24) / gamma, coupled], [coupled.T, np.eye(24) / gamma]])
    solution = np.linalg.solve(system, np.ones(48))
    answer = mix * problem.test.reshape(10, 24) @ (solution[:24] * y)
    answer += (1 - mix) * reverse.reshape(24, 10).T @ (solution[24:] * y)
    model = fit_asymmetric(TrainingSet(problem.train, problem.labels, 2), gamma=gamma, mix=mix)
    np.testing.assert_allclose(
        model.predict(problem.test, None, reverse).ravel(), answer, rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("mix", [0.0, 0.5, 1.0])
def test_a_symmetric_kernel_gives_ridge_regression(mix):
    problem = matrix_problem(classes=2)
    train = TrainingSet(problem.train, problem.labels, 2)
    model = fit_asymmetric(train, gamma=0.2, mix=mix)
    reverse = problem.test.transpose(2, 3, 0, 1)
    # Targets -1 and 1 are twice those of ridge regression, 0 and 1, minus 1.
    ridge = fit_kernel_ridge(
        TrainingSet(problem.train, problem.labels, 2, np.full((20, 2), 0.5)), strength=5.0
    )
    expected = 2 * (ridge.predict(problem.test, np.full((7, 2), 0.5)) - 0.5)
    np.testing.assert_allclose(model.predict(problem.test, None, reverse), expected, atol=1e-10)


def test_a_singular_system_has_its_smallest_solution():
    # K = -I at gamma = 1: U = -V, and I + S couples a + b while I - S = 0 leaves a - b free.
    targets = np.array([1.0, -2.0, 0.5])
    alpha, beta, near = solve_asymmetric(-np.eye(3), targets, 1.0)
    expected = big_system(-np.eye(3), targets, 1.0)
    np.testing.assert_allclose(alpha, expected[0], atol=1e-12)
    np.testing.assert_allclose(beta, expected[1], atol=1e-12)
    assert near


def test_resonance_is_named():
    rotation = np.array([[0.0, -1.0], [1.0, 0.0]])
    labels = np.array([0, 1])
    near = fit_asymmetric(TrainingSet(rotation * 1.001, labels, 2), mix=1.0)
    far = fit_asymmetric(TrainingSet(rotation * 2, labels, 2), mix=1.0)
    assert near.caveats == (RESONANCE,)
    assert far.caveats == ()


def test_what_is_missing_or_wrong_is_named():
    problem, reverse = signed_problem()
    train = TrainingSet(problem.train, problem.labels, 3)
    model = fit_asymmetric(train)
    with pytest.raises(InputError, match="needs the reversed kernel"):
        model.predict(problem.test)
    with pytest.raises(InputError, match="reversed kernel: expected that of"):
        model.predict(problem.test, None, reverse[:, :, :2])
    with pytest.raises(InputError, match="gamma: expected a finite number above 0, found 0"):
        fit_asymmetric(train, gamma=0.0)
    with pytest.raises(InputError, match="mix: expected a number from 0 to 1, found 2"):
        fit_asymmetric(train, mix=2.0)
