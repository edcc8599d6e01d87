"""Entries of a kernel computed again by plain autograd, without anything of the engine."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lpft.choices import KernelKind
from lpft.data.tokens import Tokens
from lpft.model.classifier import LinearHeadClassifier
from lpft.ntk.precision import computed_in
from lpft.ntk.result import CheckedEntry
from lpft.ntk.structure import only_these_require_gradients

_SEED = 0


def check_entries(
    classifier: LinearHeadClassifier,
    weight: Tensor,
    parameters: Sequence[nn.Parameter],
    tokens: tuple[Tokens, Sequence[int], Sequence[int]],
    ft_effective: Tensor,
    *,
    kernel: KernelKind,
    count: int,
) -> tuple[CheckedEntry, ...]:
    """``count`` random entries of F, each from two gradients of single texts without padding.

    Args:
        weight: V, C x h.
        tokens: all texts, those of the rows, and those of the columns.
        ft_effective: F, N x C x M x C.
    """
    if not parameters or count == 0:
        return ()
    drawn = np.random.default_rng(_SEED)
    all_tokens, rows, columns = tokens
    entries = []
    with computed_in(weight.dtype), only_these_require_gradients(classifier.encoder, parameters):
        for _ in range(count):
            n, m = int(drawn.integers(len(rows))), int(drawn.integers(len(columns)))
            c, d = (int(drawn.integers(weight.shape[0])) for _ in range(2))
            left = _gradient(classifier, all_tokens, int(rows[n]), weight[c], parameters)
            right = _gradient(classifier, all_tokens, int(columns[m]), weight[d], parameters)
            if kernel == "signgd":
                left = [gradient.sign() for gradient in left]
            if kernel != "sgd":
                right = [gradient.sign() for gradient in right]
            entries.append(
                CheckedEntry(
                    row=n,
                    row_class=c,
                    column=m,
                    column_class=d,
                    engine=float(ft_effective[n, c, m, d]),
                    autograd=sum(
                        float((a * b).sum(dtype=torch.float64))
                        for a, b in zip(left, right, strict=True)
                    ),
                    scale=_norm(left) * _norm(right),
                )
            )
    return tuple(entries)


def _gradient(
    classifier: LinearHeadClassifier,
    tokens: Tokens,
    row: int,
    weight: Tensor,
    parameters: Sequence[nn.Parameter],
) -> list[Tensor]:
    """The gradient of one logit of one text with respect to the encoder's parameters."""
    device = weight.device
    batch = {name: ids.to(device) for name, ids in tokens.batch([row]).items()}
    with torch.enable_grad():
        logit = classifier.features(**batch)[0] @ weight
        if not logit.requires_grad:
            return [torch.zeros_like(parameter) for parameter in parameters]
        gradients = torch.autograd.grad(logit, list(parameters), allow_unused=True)
    return [
        torch.zeros_like(parameter) if gradient is None else gradient
        for parameter, gradient in zip(parameters, gradients, strict=True)
    ]


def _norm(gradients: Sequence[Tensor]) -> float:
    return float(sum(g.double().square().sum() for g in gradients)) ** 0.5
