"""Training as the kernel predicts it, compared with real training.

:class:`FirstStep` predicts one small step of gradient descent, :func:`linearized_training` many;
the real step and :func:`gradient_descent` are what they are compared with. Both are full-batch
gradient descent on the summed cross-entropy ``sum_i CE(y_i, softmax(f(x_i)))`` or its mean.
:class:`Linearization` is the model's first order at any other weights, however they were trained.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from lpft.analysis.inputs import class_indices, logit_matrix, short_repr
from lpft.data.lengths import length_batches
from lpft.data.tokens import Tokens
from lpft.errors import InputError
from lpft.model.adapters import plain_classifier, trained_head
from lpft.model.classifier import LinearHeadClassifier
from lpft.model.inference import resolve_dtype
from lpft.ntk.jacobian import double_backward, forward_mode, lacks_forward_mode
from lpft.ntk.passes import computed_in
from lpft.ntk.statistics import MOST_ASYMMETRY, asymmetry, checked_kernel, kernel_matrix
from lpft.progress import progress

Array = NDArray[np.float64]
Reduction = Literal["sum", "mean"]

BATCH_TOKENS = 1024
"""Padded tokens per batch by default: 3 GB of activations for RoBERTa-base in float64."""

_LARGEST_CURVATURE = 0.5
"""Of cross-entropy in the logits: the largest eigenvalue that diag(p) - p p^T can have."""

_MODEL = "model"
"""The attribute of :class:`_Network` with the model, which its parameters' names begin with."""


# --- one step


@dataclass(frozen=True)
class OutputChange:
    """Change of the ``logits`` [M, C], before temperature, and of the ``features`` [M, h]."""

    logits: Array
    features: Array

    __repr__ = short_repr


@dataclass(frozen=True)
class FirstOrderError:
    """``||real - predicted||_F / ||real||_F`` over all texts at one ``rate``.

    None where nothing changed at all, as the features under a head of zeros.
    """

    rate: float
    logits: float | None
    features: float | None


class FirstStep:
    """The first step of gradient descent on N texts' SUMMED cross-entropy, predicted and real.

    With ``d = -grad sum_i CE(y_i, softmax(f_0(x_i)))`` over all parameters that train, including
    the head's, the change per unit of the rate eta is the derivative along d,
    ``J_f(x) d = sum_i (P + F)(x, x_i) delta_i`` for logits and
    ``J_phi(x) d = sum_i Theta_phi(x, x_i) V_0^T delta_i`` for features, with
    ``delta_i = onehot(y_i) - softmax(f_0(x_i))``. No kernel is formed: one gradient over the
    training texts gives d, then one Jacobian-vector product over the others the change. A real
    step of rate eta differs from eta times it by terms of order eta^2, among them the product of
    the head's and the features' changes.

    Args:
        model: a :class:`~lpft.model.LinearHeadClassifier`, also wrapped by PEFT, in which case
            the kernels are those of the adapter's factors and the head. It is not changed.
        tokens: N texts.
        labels: N class indices.
        dtype: float64, or float32, in which a small step's change is lost in the rounding of the
            outputs that it is the difference of.
        batch_tokens: padded tokens per batch; the memory grows with it.

    Raises:
        InputError: another kind of model or dtype, or labels that do not fit.
    Source: Tomihari and Sato, NeurIPS 2024, Proposition 4.1.
    """

    def __init__(
        self,
        model: nn.Module,
        tokens: Tokens,
        labels: ArrayLike,
        *,
        dtype: torch.dtype | str = torch.float64,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        self._network = _Network(model, dtype, batch_tokens)
        targets = self._network.targets(tokens, labels)
        with self._network.computing():
            self._direction = self._network.descent_direction(tokens, targets)

    def predicted(self, tokens: Tokens) -> OutputChange:
        """The change per unit of the rate that the step begins with, of M texts.

        By forward-mode differentiation; where an operation of the encoder has none, by
        differentiating the backward pass once more, which keeps the whole graph of a batch.
        """
        return _along(self._network, tokens, self._direction)

    def real(self, tokens: Tokens, rate: float) -> OutputChange:
        """The change of M texts after one real step, all parameters moving together.

        Raises:
            InputError: a rate that is not a finite number above 0.
        """
        (change,) = self._changes(tokens, [rate])
        return change

    def errors(self, tokens: Tokens, rates: Sequence[float]) -> list[FirstOrderError]:
        """Relative error of the prediction for M texts against real steps, one for each rate.

        The error falls in proportion to the rate, until rounding is larger than the change.

        Raises:
            InputError: a rate that is not a finite number above 0.
        """
        real = self._changes(tokens, rates)
        predicted = self.predicted(tokens)
        return [
            FirstOrderError(
                rate=rate,
                logits=relative_error(change.logits, rate * predicted.logits),
                features=relative_error(change.features, rate * predicted.features),
            )
            for rate, change in zip(rates, real, strict=True)
        ]

    def _changes(self, tokens: Tokens, rates: Sequence[float]) -> list[OutputChange]:
        for rate in rates:
            _check_rate(rate)
        changes = []
        with self._network.computing():  # the outputs at the start serve all rates
            logits, features = self._network.outputs(tokens)
            for rate in rates:
                stepped = {
                    name: value.detach() + rate * self._direction[name]
                    for name, value in self._network.training_parameters().items()
                }
                after = self._network.outputs(tokens, stepped)
                changes.append(OutputChange(after[0] - logits, after[1] - features))
        return changes


def _along(network: "_Network", tokens: Tokens, direction: Mapping[str, Tensor]) -> OutputChange:
    """The derivative ``J d`` of logits and features along a direction, of M texts."""

    def along_direction(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        # One Jacobian-vector product for logits and features together.
        def run(parameters: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
            return functional_call(network, dict(parameters), kwargs=batch)

        parameters = network.training_parameters()
        try:
            logits, features = forward_mode(run, parameters, direction)
        except RuntimeError as error:
            if not lacks_forward_mode(error):
                raise
            logits, features = double_backward(run, parameters, direction)
        return logits, features

    with network.computing():
        return OutputChange(*network.map_texts(tokens, along_direction, "first-order change"))


def relative_error(real: Array, predicted: Array) -> float | None:
    """``||real - predicted||_F / ||real||_F``, None where nothing changed."""
    size = float(np.linalg.norm(real))
    return None if size == 0 else float(np.linalg.norm(real - predicted)) / size


# --- other weights


class Linearization:
    """The model that is linear in its parameters, ``f_0(x) + J_f(x) (theta - theta_0)``.

    It is compared with the model itself at weights theta that any optimiser may have reached: the
    change that it predicts depends on neither steps, batches nor weight decay.

    Args:
        model: as for :class:`FirstStep`, with theta_0; theta are its parameters that train.
        dtype: float64, or float32; small changes are differences of large outputs.
        batch_tokens: padded tokens per batch.

    Raises:
        InputError: another kind of model or dtype.
    Source: Lee et al., NeurIPS 2019; as a test of fine-tuning Malladi et al., ICML 2023.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        dtype: torch.dtype = torch.float64,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        self._network = _Network(model, dtype, batch_tokens)

    def changes(
        self, tokens: Tokens, weights: Mapping[str, Tensor]
    ) -> tuple[OutputChange, OutputChange]:
        """The change of M texts' outputs from theta_0 to ``weights``: real, and predicted.

        ``weights`` are theta by the names of ``model.named_parameters()``.

        Raises:
            InputError: they are not those of the parameters that train.
        """
        start = self._network.training_parameters()
        names = {name: f"{_MODEL}.{name}" for name in weights}
        if set(names.values()) != start.keys():
            raise InputError(
                f"weights: expected those of the {len(start)} parameters that train, found "
                f"{len(weights)} others; give each by its name in model.named_parameters()"
            )
        end = {names[name]: value.to(start[names[name]]) for name, value in weights.items()}
        direction = {name: (value - start[name]).detach() for name, value in end.items()}
        with self._network.computing():
            before = self._network.outputs(tokens)
            after = self._network.outputs(tokens, end)  # the same copy, with other weights
        real = OutputChange(after[0] - before[0], after[1] - before[1])
        return real, _along(self._network, tokens, direction)


# --- many steps


@dataclass(frozen=True)
class LogitTrajectory:
    """Logits after ``steps`` [S] steps: ``train`` [S, N, C] and ``evaluated`` [S, M, C]."""

    steps: NDArray[np.int64]
    train: Array
    evaluated: Array

    __repr__ = short_repr


def largest_stable_rate(kernel_train: ArrayLike, *, reduction: Reduction = "sum") -> float:
    """The rate below which every step of linearised gradient descent lowers the loss.

    ``2 / (lambda_max(K) / 2)``, N times that for the mean: the loss has a curvature of at most
    1/2 in the logits, so of at most ``lambda_max(K) / 2`` along K. Infinite for K = 0. Above it
    the loss may still fall, where the logits are far from uniform, but nothing guarantees it.

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
    largest = float(np.linalg.eigvalsh(kernel_matrix(table))[-1])
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
    """Logits of training and other samples while the model linearised at its start trains.

    ``f_{t+1}(x) = f_t(x) + eta sum_i K(x, x_i) (onehot(y_i) - softmax(f_t(x_i)))``, with eta / N
    for the mean, and with the kernel K = P + F of the start throughout.

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
    evaluation, _ = checked_kernel(kernel_eval)
    _check_shape("training kernel", train, (rows, classes, rows, classes))
    _check_shape("evaluation kernel", evaluation, (*first_eval.shape, rows, classes))
    recorded_steps = _checked_steps(steps)
    bound = largest_stable_rate(train, reduction=reduction)
    if not 0 < rate < bound:
        raise InputError(
            f"rate: expected a number above 0 and below {bound:.6g}, the largest stable rate of "
            f"this kernel, found {rate:g}; above it the loss need not fall"
        )
    step_size = rate / _divisor(rows, reduction)
    # With the residuals delta summed over the steps, f_t = f_0 + eta K sum_{s < t} delta_s: so the
    # other samples' kernel, M C x N C, is multiplied at the recorded steps alone.
    summed = np.zeros(rows * classes)
    trained, evaluated = [], []
    for step in range(recorded_steps[-1] + 1):
        change = kernel_matrix(train) @ (step_size * summed)
        logits = first_train + change.reshape(rows, classes)
        if step in recorded_steps:
            trained.append(logits)
            change = kernel_matrix(evaluation) @ (step_size * summed)
            evaluated.append(first_eval + change.reshape(first_eval.shape))
        summed += (targets - softmax(logits, axis=1)).ravel()
    return LogitTrajectory(np.array(recorded_steps), np.stack(trained), np.stack(evaluated))


def gradient_descent(
    model: nn.Module,
    tokens_train: Tokens,
    labels: ArrayLike,
    tokens_eval: Tokens,
    *,
    rate: float,
    steps: Iterable[int],
    reduction: Reduction = "sum",
    dtype: torch.dtype | str = torch.float64,
    batch_tokens: int = BATCH_TOKENS,
) -> LogitTrajectory:
    """The same training of the real model: all that trains moves, features and kernel too.

    Full-batch gradient descent without dropout, momentum or decay, on a copy of ``model``;
    the texts, ``dtype`` and ``batch_tokens`` are as in :class:`FirstStep`, the rest as in
    :func:`linearized_training`. Here no rate is known to be stable beforehand.

    Raises:
        InputError: a wrong model, dtype, label, rate or step, or logits that leave the finite
            numbers.
    """
    _check_rate(rate)
    recorded_steps = _checked_steps(steps)
    network = _Network(model, dtype, batch_tokens)
    targets = network.targets(tokens_train, labels)
    step_size = rate / _divisor(len(tokens_train), reduction)
    train, evaluated = [], []
    with network.computing():
        for step in range(recorded_steps[-1] + 1):
            if step in recorded_steps:
                train.append(network.outputs(tokens_train)[0])
                evaluated.append(network.outputs(tokens_eval)[0])
                if not (np.isfinite(train[-1]).all() and np.isfinite(evaluated[-1]).all()):
                    raise InputError(
                        f"rate: training at {rate:g} diverged by step {step}: "
                        "expected a rate at which the loss falls; lower it"
                    )
            if step < recorded_steps[-1]:
                direction = network.descent_direction(tokens_train, targets)
                # All parameters move at once, by the gradient at one point.
                with torch.no_grad():
                    for name, value in network.training_parameters().items():
                        value.add_(step_size * direction[name])
    return LogitTrajectory(np.array(recorded_steps), np.stack(train), np.stack(evaluated))


def _check_rate(rate: float) -> None:
    if not (math.isfinite(rate) and rate > 0):
        raise InputError(f"rate: expected a finite number above 0, found {rate}")


def _divisor(rows: int, reduction: Reduction) -> int:
    if reduction not in get_args(Reduction):
        raise InputError(f"reduction: expected 'sum' or 'mean', found {reduction!r}")
    return rows if reduction == "mean" else 1


def _checked_steps(steps: Iterable[int]) -> list[int]:
    recorded = [int(step) for step in steps]
    if not recorded or recorded[0] < 0 or any(np.diff(recorded) <= 0):
        raise InputError(
            f"steps: expected rising numbers of 0 or more, found {recorded}; list the steps after "
            "which the logits are recorded"
        )
    return recorded


def _check_shape(name: str, kernel: Array, expected: tuple[int, ...]) -> None:
    if kernel.shape != expected:
        raise InputError(
            f"{name}: expected shape {expected}, to match the logits, found {kernel.shape}; its "
            "columns are the training samples"
        )


# --- the model that trains


class _Network(nn.Module):
    """A copy of a classifier to compute with: tokens -> logits ``head(features)`` and features.

    The copy is in evaluation mode, so without dropout, in ``dtype`` throughout, and with plain
    ("eager") attention, because the fused kernels can be differentiated once and backwards only.
    Texts pass in length-grouped batches of at most ``batch_tokens`` padded tokens, so memory does
    not grow with their number. Everything runs within :meth:`computing`.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype | str, batch_tokens: int) -> None:
        super().__init__()
        dtype = resolve_dtype(dtype)
        if batch_tokens < 1:
            raise InputError(f"batch_tokens: expected at least 1, found {batch_tokens}")
        self._dtype = dtype
        self._batch_tokens = batch_tokens
        with self.computing():
            self.model = deepcopy(model).to(dtype).eval()  # named by _MODEL
        classifier = plain_classifier(self.model)
        if not isinstance(classifier, LinearHeadClassifier):
            raise InputError(
                f"model: expected a LinearHeadClassifier, alone or with an adapter, found "
                f"{type(model).__name__}; build one with lpft.model.build_classifier"
            )
        classifier.encoder.set_attn_implementation("eager")
        # In a tuple submodules are not registered a second time: every parameter has one name.
        self._parts = (classifier, trained_head(self.model))
        if not self.training_parameters():
            raise InputError(
                "no parameter of the model trains: expected some with requires_grad; unfreeze "
                "those that the step is to move"
            )

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Within this context the model is computed in its dtype, whatever the caller's modes."""
        with computed_in(self._dtype), torch.enable_grad():
            yield

    def forward(self, **tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N x C) and features (N x h) of token ids (N x T)."""
        classifier, head = self._parts
        features = classifier.features(**tokens)
        return head(features), features

    def training_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that a step moves: those with ``requires_grad``, by name."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}

    def targets(self, tokens: Tokens, labels: ArrayLike) -> Tensor:
        """The labels as N class indices on the model's device; InputError where they do not fit."""
        head = self._parts[1]
        indices = class_indices(labels, len(tokens), head.out_features)
        return torch.from_numpy(indices).to(head.weight.device)

    def descent_direction(self, tokens: Tokens, targets: Tensor) -> dict[str, Tensor]:
        """``d = -grad sum_i CE(y_i, softmax(f(x_i)))`` by name of the parameters that train.

        A step of gradient descent with rate eta adds ``eta d``. Parameters that reach no logit
        get 0.
        """
        parameters = self.training_parameters()
        direction = {name: torch.zeros_like(value) for name, value in parameters.items()}
        # The gradient of the sum is the sum of the batches' gradients: memory holds one batch.
        for rows, batch in self._batches(tokens, "gradient of the training loss"):
            logits, _ = self(**batch)
            loss = cross_entropy(logits, targets[torch.from_numpy(rows)], reduction="sum")
            gradients = torch.autograd.grad(
                loss, tuple(parameters.values()), materialize_grads=True
            )
            for total, gradient in zip(direction.values(), gradients, strict=True):
                total -= gradient
        return direction

    @torch.no_grad()
    def outputs(
        self, tokens: Tokens, parameters: Mapping[str, Tensor] | None = None
    ) -> tuple[Array, Array]:
        """Logits [M, C] and features [M, h] with the model's own or with other ``parameters``."""
        replaced = {} if parameters is None else dict(parameters)
        return self.map_texts(
            tokens, lambda batch: functional_call(self, replaced, kwargs=batch), "outputs"
        )

    def map_texts(
        self,
        tokens: Tokens,
        compute: Callable[[dict[str, Tensor]], tuple[Tensor, Tensor]],
        description: str,
    ) -> tuple[Array, Array]:
        """Logits [M, C] and features [M, h] by ``compute``, float64, in the order of the texts."""
        head, count = self._parts[1], len(tokens)
        tables = np.empty((count, head.out_features)), np.empty((count, head.in_features))
        for rows, batch in self._batches(tokens, description):
            for table, result in zip(tables, compute(batch), strict=True):
                table[rows] = result.detach().double().cpu().numpy()
        return tables

    def _batches(
        self, tokens: Tokens, description: str
    ) -> Iterator[tuple[NDArray[np.int64], dict[str, Tensor]]]:
        device = self._parts[1].weight.device
        batches = length_batches(
            tokens.lengths, max_rows=len(tokens), max_tokens=self._batch_tokens
        )
        for rows in progress(list(batches), description, unit="batches"):
            yield rows, {name: ids.to(device) for name, ids in tokens.batch(rows).items()}
