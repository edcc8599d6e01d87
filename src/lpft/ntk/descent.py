"""Full-batch gradient descent on a classifier's summed cross-entropy, and what comes out of it.

The data pass in length-grouped batches, so memory is that of ``batch_tokens`` padded tokens
however many texts there are.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from lpft.analysis.inputs import class_indices
from lpft.data.tokens import Tokens, length_batches
from lpft.errors import InputError
from lpft.model.adapters import plain_classifier, trained_head
from lpft.model.classifier import LinearHeadClassifier
from lpft.ntk.precision import computed_in
from lpft.progress import progress

BATCH_TOKENS = 1024
"""Padded tokens per batch by default: 3 GB of activations for RoBERTa-base in float64."""

Array = NDArray[np.float64]
Parameters = Mapping[str, Tensor]


class DescentModel(nn.Module):
    """A copy of a classifier to compute with: tokens -> logits and features.

    The copy is in evaluation mode, so without dropout, in ``dtype`` throughout, and with plain
    ("eager") attention, because the fused kernels can be differentiated once and backwards only.
    The model it is made from stays as it is. Logits are ``head(features)``, before any temperature.

    Args:
        model: a :class:`~lpft.model.LinearHeadClassifier`, also wrapped by PEFT.
        dtype: float64, or float32 where speed counts more than digits.

    Raises:
        InputError: another kind of model, another dtype, or no parameter that trains.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        if dtype not in (torch.float32, torch.float64):
            raise InputError(f"dtype: expected torch.float32 or torch.float64, found {dtype}")
        self._dtype = dtype
        with self.computing():
            self.model = deepcopy(model).to(dtype).eval()
        classifier = plain_classifier(self.model)
        if not isinstance(classifier, LinearHeadClassifier):
            raise InputError(
                f"model: expected a LinearHeadClassifier, alone or with an adapter, found "
                f"{type(model).__name__}; build one with lpft.model.build_classifier"
            )
        classifier.encoder.set_attn_implementation("eager")
        # A tuple is not registered: every parameter keeps a single name.
        self._parts = (classifier, trained_head(self.model))
        if not self.training_parameters():
            raise InputError(
                "no parameter of the model trains: expected some with requires_grad; unfreeze "
                "those whose step is asked for"
            )

    @property
    def classes(self) -> int:
        return self._parts[1].out_features

    @property
    def device(self) -> torch.device:
        return self._parts[1].weight.device

    def forward(self, **tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N x C) and features (N x h) of token ids (N x T)."""
        classifier, head = self._parts
        features = classifier.features(**tokens)
        return head(features), features

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Within this context the model is computed in its dtype, whatever the caller's modes."""
        with computed_in(self._dtype), torch.enable_grad():
            yield

    def training_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that a step moves: those with ``requires_grad``, by name."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}

    @torch.no_grad()
    def step(self, direction: Parameters, rate: float) -> None:
        """``theta <- theta + rate d``, in place."""
        for name, value in self.training_parameters().items():
            value.add_(rate * direction[name])


def check_rate(rate: float) -> None:
    """Refuse a rate that no step can have.

    Raises:
        InputError: it is not a finite number above 0.
    """
    if not (math.isfinite(rate) and rate > 0):
        raise InputError(f"rate: expected a finite number above 0, found {rate}")


def checked_labels(model: DescentModel, tokens: Tokens, labels: ArrayLike) -> Tensor:
    """The labels as N class indices on the model's device.

    Raises:
        InputError: another number of labels, or labels that are no class index of the model.
    """
    indices = class_indices(labels, len(tokens), model.classes)
    return torch.from_numpy(indices).to(model.device)


def descent_direction(
    model: DescentModel, tokens: Tokens, labels: Tensor, *, batch_tokens: int
) -> dict[str, Tensor]:
    """``d = -grad sum_i CE(y_i, softmax(f(x_i)))`` with respect to every parameter that trains.

    A step of gradient descent with rate eta adds ``eta d``. Parameters that reach no logit get 0.

    ``labels`` N class indices; the result is by parameter name, in the parameters' shapes.
    """
    parameters = model.training_parameters()
    direction = {name: torch.zeros_like(value) for name, value in parameters.items()}
    for rows in _batches(tokens, batch_tokens, "gradient of the training loss"):
        logits, _ = model(**_inputs(model, tokens, rows))
        loss = cross_entropy(logits, labels[torch.from_numpy(rows)], reduction="sum")
        gradients = torch.autograd.grad(loss, tuple(parameters.values()), materialize_grads=True)
        for total, gradient in zip(direction.values(), gradients, strict=True):
            total -= gradient
    return direction


@torch.no_grad()
def outputs(
    model: DescentModel,
    tokens: Tokens,
    parameters: Parameters | None = None,
    *,
    batch_tokens: int,
) -> tuple[Array, Array]:
    """Logits [M, C] and features [M, h] with the model's own or with other ``parameters``."""
    used = {} if parameters is None else dict(parameters)

    def compute(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return functional_call(model, used, kwargs=batch)

    return map_texts(model, tokens, compute, batch_tokens=batch_tokens, description="outputs")


def moved(model: DescentModel, direction: Parameters, rate: float) -> dict[str, Tensor]:
    """``theta + rate d``, by name; the model's own parameters stay as they are."""
    return {
        name: value.detach() + rate * direction[name]
        for name, value in model.training_parameters().items()
    }


def map_texts(
    model: DescentModel,
    tokens: Tokens,
    compute: Callable[[dict[str, Tensor]], tuple[Tensor, Tensor]],
    *,
    batch_tokens: int,
    description: str,
) -> tuple[Array, Array]:
    """Two results per text, by batches: float64 arrays with a row per text, in the texts' order."""
    collected: tuple[Array, Array] | None = None
    for rows in _batches(tokens, batch_tokens, description):
        results = [
            result.detach().double().cpu().numpy()
            for result in compute(_inputs(model, tokens, rows))
        ]
        if collected is None:
            first, second = (np.empty((len(tokens), result.shape[1])) for result in results)
            collected = first, second
        for table, result in zip(collected, results, strict=True):
            table[rows] = result
    assert collected is not None, "tokenize refuses an empty list of texts"
    return collected


def _batches(tokens: Tokens, batch_tokens: int, description: str) -> tqdm:
    if batch_tokens < 1:
        raise InputError(f"batch_tokens: expected at least 1, found {batch_tokens}")
    batches = list(length_batches(tokens.lengths, max_rows=len(tokens), max_tokens=batch_tokens))
    return progress(batches, description, unit="batches")


def _inputs(model: DescentModel, tokens: Tokens, rows: NDArray[np.int64]) -> dict[str, Tensor]:
    return {name: ids.to(model.device) for name, ids in tokens.batch(rows).items()}
