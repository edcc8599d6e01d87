"""First-order change of logits and features after one step of gradient descent.

Proposition 4.1 writes the change as sums of kernels. Here no kernel is formed: one gradient over
the training texts, then one Jacobian-vector product over the others.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call

from lpft.data.tokens import Tokens
from lpft.errors import InputError
from lpft.ntk.descent import (
    BATCH_TOKENS,
    DescentModel,
    Parameters,
    checked_labels,
    descent_direction,
    map_texts,
    moved,
    outputs,
)

Array = NDArray[np.float64]

_UNSUPPORTED = ("Trying to use forward AD", "implement the jvp function")
"""What torch says of an operation of its own, or of a user's, without a forward-mode derivative."""


@dataclass(frozen=True)
class OutputChange:
    """Change of the ``logits`` [M, C], before temperature, and of the ``features`` [M, h]."""

    logits: Array
    features: Array


@dataclass(frozen=True)
class FirstOrderError:
    """``||real - predicted||_F / ||real||_F`` over all texts at one ``rate``.

    None where nothing changed at all, as the features under a head of zeros.
    """

    rate: float
    logits: float | None
    features: float | None


def first_order_change(
    model: nn.Module,
    tokens_train: Tokens,
    labels: ArrayLike,
    tokens_eval: Tokens,
    *,
    dtype: torch.dtype = torch.float64,
    batch_tokens: int = BATCH_TOKENS,
) -> OutputChange:
    """The change that one step of gradient descent on the SUMMED cross-entropy begins with.

    With ``d = -grad sum_i CE(y_i, softmax(f_0(x_i)))`` over all parameters that train, the head
    among them, the change per unit of the rate eta is the derivative along d,
    ``J_f(x) d = sum_i (P + F)(x, x_i) delta_i`` for logits and
    ``J_phi(x) d = sum_i Theta_phi(x, x_i) V_0^T delta_i`` for features, with
    ``delta_i = onehot(y_i) - softmax(f_0(x_i))``. A real step of rate eta differs from eta times
    it by terms of order eta^2, among them the product of the head's and the features' changes.

    By forward-mode differentiation; where an operation of the encoder has none, by
    differentiating the backward pass once more, which costs about twice as much and keeps the
    whole graph of a batch.

    Args:
        model: a :class:`~lpft.model.LinearHeadClassifier`, also wrapped by PEFT, in which case
            the kernels are those of the adapter's factors and the head. It is not changed.
        tokens_train: N texts.
        labels: N class indices.
        tokens_eval: M texts.
        batch_tokens: padded tokens per batch; the memory grows with it.

    Raises:
        InputError: another kind of model or dtype, or labels that do not fit.
    Source: Tomihari and Sato, NeurIPS 2024, Proposition 4.1.
    """
    network = DescentModel(model, dtype)
    targets = checked_labels(network, tokens_train, labels)
    direction = descent_direction(network, tokens_train, targets, batch_tokens=batch_tokens)
    return _derivative(network, tokens_eval, direction, batch_tokens)


def real_change(
    model: nn.Module,
    tokens_train: Tokens,
    labels: ArrayLike,
    tokens_eval: Tokens,
    *,
    rate: float,
    dtype: torch.dtype = torch.float64,
    batch_tokens: int = BATCH_TOKENS,
) -> OutputChange:
    """The change after one real step of rate ``rate``, all parameters moving together.

    Arguments and errors as in :func:`first_order_change`; the step is made on a copy. In float32
    a small step's change is lost in the rounding of the outputs that it is the difference of.

    Raises:
        InputError: also a rate that is not a finite number above 0.
    """
    _check_rates([rate])
    network = DescentModel(model, dtype)
    targets = checked_labels(network, tokens_train, labels)
    direction = descent_direction(network, tokens_train, targets, batch_tokens=batch_tokens)
    return _changes(network, tokens_eval, direction, [rate], batch_tokens)[0]


def first_order_errors(
    model: nn.Module,
    tokens_train: Tokens,
    labels: ArrayLike,
    tokens_eval: Tokens,
    *,
    rates: Sequence[float],
    dtype: torch.dtype = torch.float64,
    batch_tokens: int = BATCH_TOKENS,
) -> list[FirstOrderError]:
    """Relative error of the first-order prediction against real steps, one for each rate.

    The error falls in proportion to the rate, until rounding is larger than the change.
    Arguments and errors as in :func:`first_order_change` and :func:`real_change`.
    """
    _check_rates(rates)
    network = DescentModel(model, dtype)
    targets = checked_labels(network, tokens_train, labels)
    direction = descent_direction(network, tokens_train, targets, batch_tokens=batch_tokens)
    predicted = _derivative(network, tokens_eval, direction, batch_tokens)
    real = _changes(network, tokens_eval, direction, rates, batch_tokens)
    return [
        FirstOrderError(
            rate=rate,
            logits=_relative_error(change.logits, rate * predicted.logits),
            features=_relative_error(change.features, rate * predicted.features),
        )
        for rate, change in zip(rates, real, strict=True)
    ]


def _derivative(
    network: DescentModel, tokens: Tokens, direction: Parameters, batch_tokens: int
) -> OutputChange:
    def along_direction(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        try:
            return _forward_mode(network, batch, direction)
        except RuntimeError as error:
            if not any(text in str(error) for text in _UNSUPPORTED):
                raise
        return _double_backward(network, batch, direction)

    return OutputChange(
        *map_texts(
            network,
            tokens,
            along_direction,
            batch_tokens=batch_tokens,
            description="first-order change",
        )
    )


@torch.no_grad()
def _forward_mode(
    network: DescentModel, batch: dict[str, Tensor], direction: Parameters
) -> tuple[Tensor, Tensor]:
    with forward_ad.dual_level():
        parameters = {
            name: forward_ad.make_dual(value.detach(), direction[name])
            for name, value in network.training_parameters().items()
        }
        results = functional_call(network, parameters, kwargs=batch)
        duals = [forward_ad.unpack_dual(result) for result in results]
    logits, features = (
        torch.zeros_like(dual.primal) if dual.tangent is None else dual.tangent for dual in duals
    )
    return logits, features


def _double_backward(
    network: DescentModel, batch: dict[str, Tensor], direction: Parameters
) -> tuple[Tensor, Tensor]:
    """``J d`` as the derivative in u of ``<J^T u, d>``, which is linear in u."""
    parameters = network.training_parameters()
    results = network(**batch)
    cotangents = [torch.zeros_like(result, requires_grad=True) for result in results]
    pulled_back = torch.autograd.grad(
        results,
        tuple(parameters.values()),
        cotangents,
        create_graph=True,
        materialize_grads=True,
    )
    products = zip(pulled_back, direction.values(), strict=True)
    product = torch.stack([(gradient * step).sum() for gradient, step in products]).sum()
    logits, features = torch.autograd.grad(product, cotangents, materialize_grads=True)
    return logits, features


def _changes(
    network: DescentModel,
    tokens: Tokens,
    direction: Parameters,
    rates: Sequence[float],
    batch_tokens: int,
) -> list[OutputChange]:
    start = outputs(network, tokens, batch_tokens=batch_tokens)
    changes = []
    for rate in rates:
        stepped = moved(network, direction, rate)
        after = outputs(network, tokens, stepped, batch_tokens=batch_tokens)
        changes.append(OutputChange(after[0] - start[0], after[1] - start[1]))
    return changes


def _relative_error(real: Array, predicted: Array) -> float | None:
    size = float(np.linalg.norm(real))
    return None if size == 0 else float(np.linalg.norm(real - predicted)) / size


def _check_rates(rates: Sequence[float]) -> None:
    for rate in rates:
        if not (math.isfinite(rate) and rate > 0):
            raise InputError(f"rate: expected a finite number above 0, found {rate}")
