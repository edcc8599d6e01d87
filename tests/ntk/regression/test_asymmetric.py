"""AsK-LS against its own linear system, explicit features and LM-Kernel-FT's form of it."""

import numpy as np
import pytest

from lpft.errors import InputError
from lpft.ntk.regression.entries import RESONANCE, fit_asymmetric, solve_asymmetric
from lpft.ntk.regression.kernels import TrainingSet
from lpft.ntk.regression.multiclass import fit_kernel_ridge

from .problems import contract, matrix_problem


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
    # min over w, v of w.v + gamma/2 sum e^2 + gamma/2 sum h^2 with e = y - <w, s>, h = y - <v, t>:
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
