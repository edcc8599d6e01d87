"""Closed forms of the squared loss, against integration, scikit-learn and samples of networks."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from sklearn.kernel_ridge import KernelRidge

from lpft.errors import InputError
from lpft.ntk import empirical_ntk
from lpft.ntk.squared_loss import SquaredLoss

RANDOM = np.random.default_rng(0)
N, M, C = 6, 4, 3


def kernels(width=40, *, outputs=C):
    """Kernels of random Jacobians: train, test with train, test with itself."""
    a, b = RANDOM.normal(size=(2, N, outputs, width)) / np.sqrt(width)
    b = b[:M]
    return tuple(np.einsum("ncp,mdp->ncmd", x, y) for x, y in ((a, a), (b, a), (b, b)))


TRAIN, CROSS, OWN = kernels()
TARGETS, START, START_TEST = (RANDOM.normal(size=(rows, C)) for rows in (N, N, M))


def flat(kernel):
    n, c, m, d = kernel.shape
    return kernel.reshape(n * c, m * d)


def test_the_flow_is_that_of_the_differential_equation():
    """df/dt = -K (f - y), integrated numerically for training and other samples together."""
    matrix = np.concatenate([flat(TRAIN), flat(CROSS)])

    def change(_time, outputs):
        return -matrix @ (outputs[: N * C] - TARGETS.ravel())

    first = np.concatenate([START.ravel(), START_TEST.ravel()])
    flow = solve_ivp(change, (0, 3), first, t_eval=[0.5, 3], rtol=1e-10, atol=1e-12)
    loss = SquaredLoss(TRAIN, TARGETS, START)
    for time, expected in zip(flow.t, flow.y.T, strict=True):
        np.testing.assert_allclose(loss.train_outputs(time).ravel(), expected[: N * C], atol=1e-8)
        found = loss.outputs(time, CROSS, START_TEST)
        np.testing.assert_allclose(found.ravel(), expected[N * C :], atol=1e-8)


def test_training_starts_at_the_start_and_ends_at_the_targets():
    loss = SquaredLoss(TRAIN, TARGETS, START)
    np.testing.assert_allclose(loss.train_outputs(0), START)
    np.testing.assert_allclose(loss.outputs(0, CROSS, START_TEST), START_TEST)
    np.testing.assert_allclose(loss.train_outputs(math.inf), TARGETS, atol=1e-9)
    end = loss.outputs(math.inf, CROSS, START_TEST)
    np.testing.assert_allclose(end, loss.mean(CROSS, START_TEST))
    solved = flat(CROSS) @ np.linalg.solve(flat(TRAIN), (TARGETS - START).ravel())
    np.testing.assert_allclose(end, START_TEST + solved.reshape(M, C), atol=1e-8)


def test_many_small_steps_of_gradient_descent_follow_the_flow():
    rate, outputs = 1e-4, START.ravel()
    for _ in range(5000):
        outputs = outputs - rate * flat(TRAIN) @ (outputs - TARGETS.ravel())
    found = SquaredLoss(TRAIN, TARGETS, START).train_outputs(rate * 5000)
    np.testing.assert_allclose(found.ravel(), outputs, atol=1e-4)


def test_directions_that_the_kernel_lacks_do_not_train():
    rank_two = kernels(width=2)[0]
    matrix = flat(rank_two)
    found = SquaredLoss(rank_two, TARGETS, START).train_outputs(math.inf)
    projection = matrix @ np.linalg.pinv(matrix, rcond=1e-10)
    moved = projection @ (TARGETS - START).ravel()
    np.testing.assert_allclose(found.ravel(), START.ravel() + moved, atol=1e-8)


@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_ridge_regression_is_scikit_learns(strength):
    ridge = KernelRidge(alpha=strength, kernel="precomputed").fit(flat(TRAIN), TARGETS.ravel())
    found = SquaredLoss(TRAIN, TARGETS).mean(CROSS, strength=strength)
    np.testing.assert_allclose(found.ravel(), ridge.predict(flat(CROSS)), atol=1e-10)


@pytest.mark.parametrize("noise", [1e-3, 0.5])
def test_the_posterior_is_scikit_learns(noise):
    """One kernel for every output, N x N: a Gaussian process with that kernel."""
    x, x_test = RANDOM.normal(size=(N, 2)), RANDOM.normal(size=(M, 2))
    of = RBF(1.3)
    process = GaussianProcessRegressor(of, alpha=noise, optimizer=None).fit(x, TARGETS)
    mean, covariance = process.predict(x_test, return_cov=True)
    loss = SquaredLoss(of(x), TARGETS)
    found = loss.posterior(of(x_test, x), of(x_test), noise=noise)
    np.testing.assert_allclose(found.mean, mean, atol=1e-9)
    np.testing.assert_allclose(found.covariance, covariance[:, :, 0], atol=1e-9)
    assert found.standard_deviation.shape == (M, C)
    deviation = process.predict(x_test, return_std=True)[1]
    np.testing.assert_allclose(found.standard_deviation, deviation, atol=1e-7)


def test_a_kernel_of_two_axes_stands_for_one_times_the_identity():
    own = np.eye(N) + 0.1 * TRAIN[:, 0, :, 0]
    cross, test = CROSS[:, 0, :, 0], OWN[:, 0, :, 0]
    identity = np.eye(C)
    whole = [np.einsum("nm,cd->ncmd", kernel, identity) for kernel in (own, cross, test)]
    narrow, wide = SquaredLoss(own, TARGETS, START), SquaredLoss(whole[0], TARGETS, START)
    np.testing.assert_allclose(narrow.outputs(0.7, cross), wide.outputs(0.7, whole[1]))
    np.testing.assert_allclose(narrow.train_outputs(0.7), wide.train_outputs(0.7))
    few = narrow.posterior(cross, test, noise=0.1)
    many = wide.posterior(*whole[1:], noise=0.1)
    np.testing.assert_allclose(few.mean, many.mean)
    np.testing.assert_allclose(few.standard_deviation, many.standard_deviation)


def test_an_ensemble_is_that_of_trained_random_networks():
    """f(x) = V phi(x) with random V, whose NTK is phi phi^T: 4,000 of them, trained exactly."""
    width, networks, time = 5, 4000, 1.7
    phi, phi_test = RANDOM.normal(size=(N, width)), RANDOM.normal(size=(M, width))
    kernel = phi @ phi.T
    weights = RANDOM.normal(size=(networks, width))
    decay = expm(-kernel * time)
    starts = weights @ phi.T
    targets = TARGETS[:, :1]
    # The weights move within the span of phi: V_t = V_0 + phi^+ (f_t - f_0).
    moved = (targets.ravel() - starts) @ (np.eye(N) - decay).T
    ends = weights @ phi_test.T + moved @ np.linalg.pinv(phi).T @ phi_test.T
    found = SquaredLoss(kernel, targets).ensemble(
        time,
        phi_test @ phi.T,
        prior_train=kernel,
        prior=phi_test @ phi.T,
        prior_own=phi_test @ phi_test.T,
    )
    spread = np.sqrt(np.diag(found.covariance) / networks)
    assert (np.abs(ends.mean(0) - found.mean.ravel()) < 5 * spread + 1e-9).all()
    scale = np.sqrt(np.outer(np.diag(found.covariance), np.diag(found.covariance)))
    assert (np.abs(np.cov(ends.T) - found.covariance) < 5 * scale * np.sqrt(2 / networks)).all()


def test_an_ensemble_that_has_not_trained_is_the_prior():
    prior = {"prior_train": TRAIN, "prior": CROSS, "prior_own": OWN}
    found = SquaredLoss(TRAIN, TARGETS).ensemble(0, CROSS, **prior)
    np.testing.assert_allclose(found.covariance, OWN)
    np.testing.assert_allclose(found.mean, 0)
    # With the kernel as its prior, an ensemble ends as the noiseless Gaussian process.
    end = SquaredLoss(TRAIN, TARGETS).ensemble(math.inf, CROSS, **prior)
    process = SquaredLoss(TRAIN, TARGETS).posterior(CROSS, OWN)
    np.testing.assert_allclose(end.covariance, process.covariance, atol=1e-8)


def test_tensors_are_taken_as_arrays():
    tensors = [torch.tensor(values, requires_grad=True) for values in (TRAIN, TARGETS, START)]
    found = SquaredLoss(*tensors).outputs(1.0, torch.tensor(CROSS), torch.tensor(START_TEST))
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(
        found, SquaredLoss(TRAIN, TARGETS, START).outputs(1.0, CROSS, START_TEST)
    )


@pytest.mark.parametrize(
    ("compute", "says"),
    [
        (lambda: SquaredLoss(TRAIN, TARGETS[:4]), r"training kernel: expected shape \(4, 3, 4, 3"),
        (lambda: SquaredLoss(TRAIN, TARGETS[:, :2]), "expected 2 classes"),
        (lambda: SquaredLoss(TRAIN, TARGETS, START[:2]), r"start: expected shape \(6, 3\)"),
        (lambda: SquaredLoss(-TRAIN, TARGETS), "the squared loss needs.*positive semidefinite"),
        (lambda: SquaredLoss(CROSS, TARGETS), "training kernel"),
        (lambda: SquaredLoss(TRAIN, TARGETS).train_outputs(-1), "time: expected 0 or more"),
        (lambda: SquaredLoss(TRAIN, TARGETS).outputs(1, OWN), r"kernel: expected shape \(4, 3, 6"),
        (lambda: SquaredLoss(TRAIN, TARGETS).mean(CROSS, strength=-1), "strength: expected"),
        (lambda: SquaredLoss(TRAIN, TARGETS).posterior(CROSS, CROSS), "kernel_own: expected"),
        (lambda: SquaredLoss(TRAIN, TARGETS).mean(CROSS[:, 0, :, 0]), "kernel: expected shape"),
    ],
)
def test_what_does_not_fit_is_refused(compute, says):
    with pytest.raises(InputError, match=says):
        compute()


def test_kernels_of_other_samples_are_refused_where_they_have_features():
    """Six others with six others have the shape of six others with the six training samples."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, C))
    samples, others = torch.randn(2, N, 5)
    options = {"dtype": torch.float64, "device": "cpu", "head": "2"}
    train, own, cross = (
        empirical_ntk(module, *inputs, **options)
        for inputs in ((samples,), (others,), (others, samples))
    )
    loss = SquaredLoss(train, TARGETS, START)
    expected = flat(cross.numpy()) @ np.linalg.solve(flat(train.numpy()), (TARGETS - START).ravel())
    np.testing.assert_allclose(loss.mean(cross).ravel(), expected, rtol=1e-6)
    single = empirical_ntk(module, others, samples, **options | {"dtype": torch.float32})
    np.testing.assert_allclose(
        loss.mean(single, strength=1), loss.mean(cross, strength=1), rtol=1e-3
    )
    assert loss.posterior(cross, own).mean.shape == (N, C)
    transposed = empirical_ntk(module, samples, others, **options)
    for wrong in (own, transposed):
        with pytest.raises(InputError, match="kernel: its columns are other samples"):
            loss.outputs(0.1, wrong)
    with pytest.raises(InputError, match="kernel_own: its columns are other samples"):
        loss.posterior(cross, train)
    # Arrays do not say of what they are.
    assert loss.outputs(0.1, own.numpy()).shape == (N, C)


def test_an_alignment_with_a_kernel_between_two_sets_of_equal_size_is_refused():
    torch.manual_seed(0)
    module = torch.nn.Linear(5, C)
    samples, others = torch.randn(2, N, 5)
    kernel = empirical_ntk(module, samples, device="cpu")
    between = empirical_ntk(module, samples, others, device="cpu")
    with pytest.raises(InputError, match="one between two sets of inputs; alignment"):
        kernel.alignment(between)
    again = empirical_ntk(module, samples, samples.clone(), device="cpu")
    assert kernel.alignment(again) == pytest.approx(1)
