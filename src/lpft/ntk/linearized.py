"""Training for many steps in the linearised model, beside the same training of the real one.

Full-batch gradient descent with rate eta on ``L = sum_i CE(y_i, softmax(f(x_i)))`` (or its mean)
moves the logits of the model linearised at its start by the kernel K = P + F of that start alone.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.linalg import eigsh
from scipy.special import softmax
from torch import nn

from lpft.analysis.inputs import class_indices, logit_matrix
from lpft.data.tokens import Tokens
from lpft.errors import InputError
from lpft.ntk.descent import (
    BATCH_TOKENS,
    DescentModel,
    check_rate,
    checked_labels,
    descent_direction,
    outputs,
)
from lpft.ntk.statistics import MOST_ASYMMETRY, asymmetry, checked_kernel, kernel_matrix

Array = NDArray[np.float64]
Reduction = Literal["sum", "mean"]

_LARGEST_CURVATURE = 0.5
"""Of cross-entropy in the logits: the largest eigenvalue that diag(p) - p p^T can have."""


@dataclass(frozen=True)
class LogitTrajectory:
    """Logits after ``steps`` [S] steps: ``train`` [S, N, C] and ``evaluated`` [S, M, C]."""

    steps: NDArray[np.int64]
    train: Array
    evaluated: Array


def largest_stable_rate(kernel_train: ArrayLike, *, reduction: Reduction = "sum") -> float:
    """The rate below which every step of linearised gradient descent lowers the loss.

    ``2 / (lambda_max(K) / 2)``, N times that for the mean: the loss has a curvature of at most
    1/2 in the logits, so of at most ``lambda_max(K) / 2`` along K. Infinite for K = 0. Above it
    the loss may still fall, where the logits are far from uniform, but nothing says so.

    ``kernel_train`` P + F of N samples with themselves, N x C x N x C.

    Raises:
        InputError: not a finite symmetric kernel, a negative one, or another reduction.
    Source: the descent lemma, for example Nesterov, Introductory Lectures on Convex Optimization,
    2004.
    """
    table, _ = checked_kernel(kernel_train)
    divisor = _divisor(len(table), reduction)
    skew = asymmetry(table)
    if skew > MOST_ASYMMETRY:
        raise InputError(
            f"training kernel: expected a symmetric one, found ||K - K^T|| / ||K|| = {skew:.2g}; "
            "kernels of asymmetric SignGD belong to another training than gradient descent"
        )
    if not table.any():
        return math.inf
    matrix = kernel_matrix(table)
    # A random start: a constant one is orthogonal to whatever sums to zero over the classes.
    start = np.random.default_rng(0).standard_normal(len(matrix))
    largest = float(eigsh(matrix, k=1, which="LA", v0=start, return_eigenvectors=False)[0])
    if largest <= 0:
        raise InputError(
            f"training kernel: expected a positive semidefinite one, found {largest:.3g} as its "
            "largest eigenvalue; give P + F of the training samples with themselves"
        )
    return divisor * 2 / (_LARGEST_CURVATURE * largest)


def linearized_training(
    kernel_train: ArrayLike,
    kernel_eval: ArrayLike,
    start_train: ArrayLike,
    start_eval: ArrayLike,
    labels: ArrayLike,
    *,
    rate: float,
    steps: Iterable[int],
    reduction: Reduction = "sum",
) -> LogitTrajectory:
    """Logits of training and other samples while the linearised model trains.

    ``f_{t+1}(x) = f_t(x) + eta sum_i K(x, x_i) (onehot(y_i) - softmax(f_t(x_i)))``, with eta / N
    for the mean. The other samples' logits need only the sum of the residuals over time, so
    ``kernel_eval`` is multiplied at the recorded steps alone.

    Args:
        kernel_train: P + F of the N training samples, N x C x N x C.
        kernel_eval: P + F of M samples with the training samples, M x C x N x C.
        start_train: logits [N, C] before the first step, before any temperature.
        start_eval: the same of the other samples, [M, C].
        labels: N class indices.
        rate: eta, below :func:`largest_stable_rate`.
        steps: numbers of steps after which logits are recorded, 0 for the start.

    Raises:
        InputError: shapes that do not belong together, values that are not finite, a kernel that
            is not symmetric, or a rate at which the loss need not fall.
    Source: Lee et al., Wide neural networks of any depth evolve as linear models, NeurIPS 2019; the
    kernel as in Tomihari and Sato, NeurIPS 2024, Proposition 4.1.
    """
    first_train, first_eval = logit_matrix(start_train), logit_matrix(start_eval)
    rows, classes = first_train.shape
    targets = np.eye(classes)[class_indices(labels, rows, classes)]
    train, _ = checked_kernel(kernel_train)
    other, _ = checked_kernel(kernel_eval)
    _check_shape("training kernel", train, (rows, classes, rows, classes))
    _check_shape("evaluation kernel", other, (*first_eval.shape, rows, classes))
    numbers = _checked_steps(steps)
    recorded, last = set(numbers), numbers[-1]
    bound = largest_stable_rate(train, reduction=reduction)
    if not 0 < rate < bound:
        raise InputError(
            f"rate: expected a number above 0 and below {bound:.6g}, the largest stable rate of "
            f"this kernel, found {rate:g}; above it the loss need not fall"
        )
    step_size = rate / _divisor(rows, reduction)
    along_train, along_eval = kernel_matrix(train), kernel_matrix(other)
    # sum over time of the residuals: f_t = f_0 + eta K times it, for every sample.
    residuals = np.zeros(rows * classes)
    trained, evaluated = [], []
    for step in range(last + 1):
        logits = first_train + (along_train @ (step_size * residuals)).reshape(rows, classes)
        if step in recorded:
            trained.append(logits)
            change = along_eval @ (step_size * residuals)
            evaluated.append(first_eval + change.reshape(first_eval.shape))
        residuals += (targets - softmax(logits, axis=1)).ravel()
    return LogitTrajectory(np.array(numbers), np.stack(trained), np.stack(evaluated))


def gradient_descent(
    model: nn.Module,
    tokens_train: Tokens,
    labels: ArrayLike,
    tokens_eval: Tokens,
    *,
    rate: float,
    steps: Iterable[int],
    reduction: Reduction = "sum",
    dtype: torch.dtype = torch.float64,
    batch_tokens: int = BATCH_TOKENS,
) -> LogitTrajectory:
    """The same training of the real model: all that trains moves, features and kernel too.

    Full-batch gradient descent without dropout, momentum or decay, on a copy of ``model``;
    the texts, ``dtype`` and ``batch_tokens`` are as in :class:`lpft.ntk.firstorder.FirstStep`,
    the rest as in :func:`linearized_training`. Here no rate is known to be stable beforehand.

    Raises:
        InputError: a wrong model, dtype, label, rate or step, or logits that leave the finite
            numbers.
    """
    check_rate(rate)
    numbers = _checked_steps(steps)
    recorded, last = set(numbers), numbers[-1]
    network = DescentModel(model, dtype)
    targets = checked_labels(network, tokens_train, labels)
    step_size = rate / _divisor(len(tokens_train), reduction)
    train, evaluated = [], []
    with network.computing():
        for step in range(last + 1):
            if step in recorded:
                train.append(outputs(network, tokens_train, batch_tokens=batch_tokens)[0])
                evaluated.append(outputs(network, tokens_eval, batch_tokens=batch_tokens)[0])
                if not (np.isfinite(train[-1]).all() and np.isfinite(evaluated[-1]).all()):
                    raise InputError(
                        f"rate: training at {rate:g} left the finite numbers by step {step}: "
                        "expected a rate at which the loss falls; lower it"
                    )
            if step < last:
                direction = descent_direction(
                    network, tokens_train, targets, batch_tokens=batch_tokens
                )
                network.step(direction, step_size)
    return LogitTrajectory(np.array(numbers), np.stack(train), np.stack(evaluated))


def _divisor(rows: int, reduction: Reduction) -> int:
    if reduction not in get_args(Reduction):
        raise InputError(f"reduction: expected 'sum' or 'mean', found {reduction!r}")
    return rows if reduction == "mean" else 1


def _checked_steps(steps: Iterable[int]) -> list[int]:
    numbers = [int(step) for step in steps]
    if not numbers or numbers[0] < 0 or any(np.diff(numbers) <= 0):
        raise InputError(
            f"steps: expected rising numbers of 0 or more, found {numbers}; name the steps after "
            "which the logits are recorded"
        )
    return numbers


def _check_shape(name: str, kernel: Array, expected: tuple[int, ...]) -> None:
    if kernel.shape != expected:
        raise InputError(
            f"{name}: expected shape {expected}, as the logits have it, found {kernel.shape}; its "
            "columns are the training samples"
        )
