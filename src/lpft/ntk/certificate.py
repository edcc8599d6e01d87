"""Entries of a kernel computed again by plain autograd, without anything of the engine."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lpft.choices import KernelKind
from lpft.data.tokens import Tokens
from lpft.model.classifier import LinearHeadClassifier
from lpft.ntk.modes import only_these_require_gradients
from lpft.ntk.result import CheckedEntry

_SEED = 0
_CHUNK = 1 << 26
"""Numbers of the gradients that are held at once, where no single parameter has more."""


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
    if not parameters:
        return ()
    drawn = np.random.default_rng(_SEED)
    all_tokens, rows, columns = tokens
    entries = []
    for _ in range(count):
        n, m = int(drawn.integers(len(rows))), int(drawn.integers(len(columns)))
        c, d = (int(drawn.integers(weight.shape[0])) for _ in range(2))
        inner = left_square = right_square = 0.0
        for chunk in parameter_chunks(parameters):
            with only_these_require_gradients(classifier.encoder, chunk):
                left = _gradient(classifier, all_tokens, int(rows[n]), weight[c], chunk)
                right = _gradient(classifier, all_tokens, int(columns[m]), weight[d], chunk)
            if kernel == "signgd":
                left = [gradient.sign() for gradient in left]
            if kernel != "sgd":
                right = [gradient.sign() for gradient in right]
            for one, other in zip(left, right, strict=True):
                inner += float((one * other).sum(dtype=torch.float64))
                left_square += float(one.square().sum(dtype=torch.float64))
                right_square += float(other.square().sum(dtype=torch.float64))
        entries.append(
            CheckedEntry(
                row=n,
                row_class=c,
                column=m,
                column_class=d,
                engine=float(ft_effective[n, c, m, d]),
                autograd=inner,
                scale=(left_square * right_square) ** 0.5,
            )
        )
    return tuple(entries)


def parameter_chunks(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """The parameters in their order, in lists whose gradients are held at once."""
    chunks: list[list[nn.Parameter]] = []
    held = _CHUNK
    for parameter in parameters:
        if held + parameter.numel() > _CHUNK:
            chunks.append([])
            held = 0
        chunks[-1].append(parameter)
        held += parameter.numel()
    return chunks


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
