"""First-order change of logits and features after one step of gradient descent.

Proposition 4.1 writes the change as sums of kernels. Here no kernel is formed: one gradient over
the training texts, then one Jacobian-vector product over the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call

from lpft.data.tokens import Tokens
from lpft.ntk.descent import (
    BATCH_TOKENS,
    DescentModel,
    Parameters,
    check_rate,
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


class FirstStep:
    """The first step of gradient descent on the SUMMED cross-entropy of N texts: promised and real.

    With ``d = -grad sum_i CE(y_i, softmax(f_0(x_i)))`` over all parameters that train, the head
    among them, the change per unit of the rate eta is the derivative along d,
    ``J_f(x) d = sum_i (P + F)(x, x_i) delta_i`` for logits and
    ``J_phi(x) d = sum_i Theta_phi(x, x_i) V_0^T delta_i`` for features, with
    ``delta_i = onehot(y_i) - softmax(f_0(x_i))``. A real step of rate eta differs from eta times
    it by terms of order eta^2, among them the product of the head's and the features' changes.

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
        dtype: torch.dtype = torch.float64,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        self._network = DescentModel(model, dtype)
        self._batch_tokens = batch_tokens
        targets = checked_labels(self._network, tokens, labels)
        with self._network.computing():
            self._direction = descent_direction(
                self._network, tokens, targets, batch_tokens=batch_tokens
            )

    def predicted(self, tokens: Tokens) -> OutputChange:
        """The change per unit of the rate that the step begins with, of M texts.

        By forward-mode differentiation; where an operation of the encoder has none, by
        differentiating the backward pass once more, which keeps the whole graph of a batch.
        """

        def along_direction(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            try:
                return _forward_mode(self._network, batch, self._direction)
            except RuntimeError as error:
                if not any(text in str(error) for text in _UNSUPPORTED):
                    raise
            return _double_backward(self._network, batch, self._direction)

        with self._network.computing():
            changes = map_texts(
                self._network,
                tokens,
                along_direction,
                batch_tokens=self._batch_tokens,
                description="first-order change",
            )
        return OutputChange(*changes)

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
                logits=_relative_error(change.logits, rate * predicted.logits),
                features=_relative_error(change.features, rate * predicted.features),
            )
            for rate, change in zip(rates, real, strict=True)
        ]

    def _changes(self, tokens: Tokens, rates: Sequence[float]) -> list[OutputChange]:
        for rate in rates:
            check_rate(rate)
        network, batch_tokens = self._network, self._batch_tokens
        changes = []
        with network.computing():
            start = outputs(network, tokens, batch_tokens=batch_tokens)
            for rate in rates:
                stepped = moved(network, self._direction, rate)
                after = outputs(network, tokens, stepped, batch_tokens=batch_tokens)
                changes.append(OutputChange(after[0] - start[0], after[1] - start[1]))
        return changes


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


def _relative_error(real: Array, predicted: Array) -> float | None:
    size = float(np.linalg.norm(real))
    return None if size == 0 else float(np.linalg.norm(real - predicted)) / size
