"""A classifier with a linear encoder, f(x) = V B x + b, and gradient descent on all of it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from lpft.analysis.inputs import class_indices
from lpft.errors import InputError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LinearModel:
    """``encoder`` B [h, d], ``head`` V [C, h] and ``bias`` b [C]."""

    encoder: Array
    head: Array
    bias: Array

    def features(self, inputs: Array) -> Array:
        """phi(x) = B x, [N, h], of inputs [N, d]."""
        return inputs @ self.encoder.T

    def logits(self, inputs: Array) -> Array:
        """f(x) = V phi(x) + b, [N, C], of inputs [N, d]."""
        return self.features(inputs) @ self.head.T + self.bias


def random_linear_model(
    inputs: int, features: int, classes: int, *, head_scale: float, rng: np.random.Generator
) -> LinearModel:
    """B with entries of variance 1/d, V with entries of standard deviation ``head_scale``, b = 0.

    ``inputs`` d, ``features`` h and ``classes`` C are widths.
    """
    return LinearModel(
        encoder=rng.normal(size=(features, inputs)) / np.sqrt(inputs),
        head=head_scale * rng.normal(size=(classes, features)),
        bias=np.zeros(classes),
    )


def gradient_descent(
    model: LinearModel, inputs: Array, labels: NDArray[np.int64], *, rate: float, steps: int
) -> LinearModel:
    """The model after ``steps`` of full-batch gradient descent on B, V and b together.

    The objective is the real one, ``sum_i CE(y_i, softmax(V B x_i + b))``, not its linearisation:
    with ``delta_i = onehot(y_i) - softmax(f(x_i))`` each step adds ``rate`` times
    ``sum_i V^T delta_i x_i^T`` to B, ``sum_i delta_i phi(x_i)^T`` to V and ``sum_i delta_i`` to b.

    ``inputs`` [N, d], ``labels`` [N] class indices.

    Raises:
        InputError: wrong labels, or a step that leaves the finite numbers.
    """
    indices = class_indices(labels, len(inputs), len(model.bias))
    targets = np.eye(len(model.bias))[indices]
    with np.errstate(over="ignore", invalid="ignore"):  # refused below, in a sentence
        for step in range(1, steps + 1):
            features = model.features(inputs)
            delta = targets - softmax(model.logits(inputs), axis=1)
            model = LinearModel(
                encoder=model.encoder + rate * (delta @ model.head).T @ inputs,
                head=model.head + rate * delta.T @ features,
                bias=model.bias + rate * delta.sum(axis=0),
            )
            if not np.isfinite(model.logits(inputs)).all():
                raise InputError(
                    f"rate: gradient descent at {rate:g} left the finite numbers in step {step}: "
                    "expected a rate at which the loss falls; lower it"
                )
    return model
