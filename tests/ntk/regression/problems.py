"""Random kernels with the explicit gradients behind them, and naive solutions of them."""

from typing import NamedTuple

import numpy as np
from scipy.special import softmax

from lpft.ntk.regression import TrainingSet


class Problem(NamedTuple):
    """Gradients [N, C, p] and [M, C, p], labels, f_0, and the kernels they give."""

    gradients: np.ndarray
    test_gradients: np.ndarray
    labels: np.ndarray
    test_labels: np.ndarray
    f0: np.ndarray
    test_f0: np.ndarray
    train: np.ndarray
    test: np.ndarray
    classes: int


def matrix_problem(rows=20, test_rows=7, classes=3, parameters=12, seed=0, scale=1.0):
    """A matrix kernel N x C x N x C and labels that its gradients predict to some degree."""
    rng = np.random.default_rng(seed)
    everything = scale * rng.normal(size=(rows + test_rows, classes, parameters))
    truth = rng.normal(size=parameters) / scale
    scores = everything @ truth + rng.normal(size=(rows + test_rows, classes))
    labels = scores.argmax(axis=1)
    labels[:classes] = np.arange(classes)
    f0 = rng.normal(size=(rows + test_rows, classes))
    own, other = everything[:rows], everything[rows:]
    return Problem(
        own,
        other,
        labels[:rows],
        labels[rows:],
        f0[:rows],
        f0[rows:],
        contract(own, own),
        contract(other, own),
        classes,
    )


def scalar_problem(rows=20, test_rows=7, classes=3, parameters=6, seed=0, scale=1.0):
    """A scalar kernel P = <phi, phi'>: its gradients are phi in the block of each logit."""
    base = matrix_problem(rows, test_rows, classes, parameters, seed, scale)
    phi, test_phi = base.gradients[:, 0], base.test_gradients[:, 0]
    return base._replace(
        gradients=phi, test_gradients=test_phi, train=phi @ phi.T, test=test_phi @ phi.T
    )


def training_set(problem):
    return TrainingSet(problem.train, problem.labels, problem.classes, problem.f0)


def contract(left, right):
    """<left[n, c], right[m, d]>, entry by entry."""
    kernel = np.empty(left.shape[:2] + right.shape[:2])
    for index in np.ndindex(*kernel.shape):
        kernel[index] = sum(left[index[0], index[1]] * right[index[2], index[3]])
    return kernel


def expanded(kernel, classes):
    """P as the matrix kernel P times I_C, entry by entry."""
    full = np.zeros((len(kernel), classes, kernel.shape[1], classes))
    for c in range(classes):
        full[:, c, :, c] = kernel
    return full


def flat(kernel, classes):
    """The NC x MC matrix."""
    full = kernel if kernel.ndim == 4 else expanded(kernel, classes)
    return full.reshape(len(full) * classes, -1)


def primal_logistic(gradients, labels, offset, strength):
    """w that minimises sum_i CE(y_i, o_i + J_i w) + strength/2 ||w||^2, by plain Newton steps."""
    weights = np.zeros(gradients.shape[2])
    for _ in range(25):
        gradient, hessian = strength * weights, strength * np.eye(len(weights))
        for jacobian, label, start in zip(gradients, labels, offset, strict=True):
            p = softmax(start + jacobian @ weights)
            gradient = gradient + jacobian.T @ (p - np.eye(len(p))[label])
            hessian = hessian + jacobian.T @ (np.diag(p) - np.outer(p, p)) @ jacobian
        weights = weights - np.linalg.solve(hessian, gradient)
    return weights


def primal_ridge(gradients, targets, strength):
    """w that minimises sum_i ||t_i - J_i w||^2 + strength ||w||^2."""
    flat = gradients.reshape(-1, gradients.shape[2])
    return np.linalg.solve(
        flat.T @ flat + strength * np.eye(flat.shape[1]), flat.T @ targets.ravel()
    )
