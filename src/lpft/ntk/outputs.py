"""Outputs to take the kernel of: functions of a module and a batch that return n x K.

A batch is a dict of tensors with the samples along the first axis. Samples given as one tensor are
its only entry, under :data:`POSITIONAL`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lpft.errors import InputError

Batch = dict[str, Tensor]
Outputs = Callable[[nn.Module, Batch], Tensor]
POSITIONAL = "inputs"
"""The name of inputs that are one tensor, which modules take by position."""
LABELS = "labels"
"""The name of the classes in a batch; a module is called without them."""


def call(module: nn.Module, batch: Mapping[str, Tensor]) -> Any:
    """What the module returns for a batch."""
    named = {name: tensor for name, tensor in batch.items() if name != LABELS}
    if set(named) == {POSITIONAL}:
        return module(named[POSITIONAL])
    return module(**named)


def logits(module: nn.Module, batch: Batch) -> Tensor:
    """The logits, n x K: a tensor that the module returns, or the ``logits`` of its output."""
    result = call(module, batch)
    if isinstance(result, Mapping):
        result = result.get("logits", result)
    result = getattr(result, "logits", result)
    if isinstance(result, tuple) and result:
        result = result[0]
    if not isinstance(result, Tensor):
        raise InputError(
            f"the module returns a {type(result).__name__}: expected a tensor, or an output with "
            "logits; give outputs=, a function of the module and a batch"
        )
    return result


def margin(module: nn.Module, batch: Batch) -> Tensor:
    """``f_y - log sum_(c != y) exp f_c``, n x 1, for the class y in ``labels``.

    The log odds of the class under the softmax (Park et al., 2023, TRAK).
    """
    values = logits(module, batch)
    labels = _labels(batch, values)
    # log p_y / (1 - p_y) without the normaliser: f_y less the logsumexp over the other classes.
    is_label = nn.functional.one_hot(labels, values.shape[1]).bool()
    other_logits = values.masked_fill(is_label, -torch.inf)
    return values.gather(1, labels.unsqueeze(1)) - other_logits.logsumexp(1, keepdim=True)


def loss(module: nn.Module, batch: Batch) -> Tensor:
    """The cross-entropy of the class in ``labels``, in nats, n x 1."""
    values = logits(module, batch)
    return cross_entropy(values, _labels(batch, values), reduction="none").unsqueeze(1)


def next_token_log_probability(module: nn.Module, batch: Batch) -> Tensor:
    """``log p(token | text)`` of the token in ``labels`` after each text's last token, n x 1.

    For a causal language model with logits n x T x V.
    """
    values = _at_last_token(call(module, batch).logits, batch)
    return values.log_softmax(1).gather(1, _labels(batch, values).unsqueeze(1))


def label_words(tokens: list[int], mask_token: int | None = None) -> Outputs:
    """The logits of some tokens, n x K: at each text's mask, or after its last token.

    Args:
        tokens: one id for each class.
        mask_token: the mask's id for a masked language model, None for a causal one.
    """

    def word_logits(module: nn.Module, batch: Batch) -> Tensor:
        values = call(module, batch).logits
        if mask_token is None:
            return _at_last_token(values, batch)[:, tokens]
        masks = batch["input_ids"] == mask_token
        if not bool((masks.sum(1) == 1).all()):
            raise InputError(
                f"some texts do not have the mask (token {mask_token}) exactly once: expected a "
                "template that has it, and texts short enough to keep it"
            )
        return values[masks][:, tokens]

    return word_logits


def _at_last_token(logits: Tensor, batch: Batch) -> Tensor:
    """Logits (n x V) at the last token that is no padding."""
    mask = batch.get("attention_mask")
    if mask is None:
        return logits[:, -1]
    # The position of the last 1 in the mask, whichever side is padded: zeros times 1, 2, ... are 0.
    last = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(1)
    return logits[torch.arange(len(logits), device=logits.device), last]


def _labels(batch: Batch, logits: Tensor) -> Tensor:
    labels = batch.get(LABELS)
    if labels is None:
        raise InputError("the inputs have no 'labels': expected the class of each sample beside it")
    if labels.ndim != 1 or int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]:
        raise InputError(
            f"'labels' must be one number per sample from 0 to {logits.shape[1] - 1}, found "
            f"{tuple(labels.shape)} from {int(labels.min())} to {int(labels.max())}"
        )
    return labels
