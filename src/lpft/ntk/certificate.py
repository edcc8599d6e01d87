"""Entries of a kernel computed again by plain autograd, without anything of the engine."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lpft.data.tokens import Tokens
from lpft.errors import InputError
from lpft.model.classifier import LinearHeadClassifier
from lpft.ntk.modes import only_these_require_gradients
from lpft.ntk.result import CheckedEntry
from lpft.ntk.signs import signed
from lpft.settings import KernelKind

_SEED = 0
_CHUNK = 1 << 26
"""Numbers of the gradients that are held at once, where no single parameter has more."""
_LARGEST_ERROR = {torch.float32: 1e-3, torch.float64: 1e-8}
"""Of an exact entry, relative to what it can be at most: rounding stays far below."""


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
            for one, other in zip(left, right, strict=True):
                one, other = signed(one, other, kernel)
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


def refuse_wrong_entries(entries: Sequence[CheckedEntry], dtype: torch.dtype) -> None:
    """Refuse a kernel of which a checked entry is far from that of plain autograd.

    Raises:
        InputError: an entry differs by more than rounding in ``dtype`` can explain.
    """
    for entry in entries:
        if not entry.relative_error <= _LARGEST_ERROR[dtype]:
            raise InputError(
                f"the kernel is wrong: an entry is {entry.engine:.6g}, and {entry.autograd:.6g} by "
                f"plain autograd (texts {entry.row} and {entry.column}, classes {entry.row_class} "
                f"and {entry.column_class}); expected a model that treats each text as if it were "
                "alone; check_entries=0 returns the kernel all the same"
            )


def parameter_chunks(
    parameters: Sequence[nn.Parameter], most: int | None = None
) -> list[list[nn.Parameter]]:
    """The parameters in their order, in lists of ``most`` numbers or a single parameter."""
    most = _CHUNK if most is None else most
    chunks: list[list[nn.Parameter]] = []
    held = most
    for parameter in parameters:
        if held + parameter.numel() > most:
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
