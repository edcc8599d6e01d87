"""Outputs to take the kernel of: functions of a module and a batch that return n x K.

A batch is a dict of tensors with the samples along the first axis. Samples given as one tensor are
its only entry, under :data:`POSITIONAL`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
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
    """The logits, n x K: a tensor that the module returns, or the ``logits`` of its output.

    Of a language model they are n x T x V.
    """
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
    values = _of_classes(logits(module, batch))
    labels = _labels(batch, values)
    # log p_y / (1 - p_y) without the normaliser: f_y less the logsumexp over the other classes.
    is_label = nn.functional.one_hot(labels, values.shape[1]).bool()
    other_logits = values.masked_fill(is_label, -torch.inf)
    return values.gather(1, labels.unsqueeze(1)) - other_logits.logsumexp(1, keepdim=True)


def loss(module: nn.Module, batch: Batch) -> Tensor:
    """The cross-entropy of the class in ``labels``, in nats, n x 1."""
    values = _of_classes(logits(module, batch))
    return cross_entropy(values, _labels(batch, values), reduction="none").unsqueeze(1)


def next_token_log_probability(module: nn.Module, batch: Batch) -> Tensor:
    """``log p(token | text)`` of the token in ``labels`` after each text's last token, n x 1.

    For a causal language model with logits n x T x V.
    """
    values = _at_last_token(_of_tokens(logits(module, batch)), batch)
    return values.log_softmax(1).gather(1, _labels(batch, values).unsqueeze(1))


def label_words(tokens: Sequence[int], mask_token: int | None = None) -> Outputs:
    """The logits of some tokens, n x K: at each text's mask, or after its last token.

    Args:
        tokens: one id for each class.
        mask_token: the mask's id for a masked language model, None for a causal one.

    Raises:
        InputError: the tokens are no ids.
    """
    ids = tokens.tolist() if isinstance(tokens, Tensor | np.ndarray) else tokens
    if not isinstance(ids, list | tuple) or not ids or not all(map(_is_id, ids)):
        raise InputError(f"tokens={tokens!r}: expected a list of token ids, one for each class")
    if mask_token is not None and not _is_id(mask_token):
        raise InputError(f"mask_token={mask_token!r}: expected the token id of the mask, or None")
    columns = [int(token) for token in ids]

    def word_logits(module: nn.Module, batch: Batch) -> Tensor:
        values = _of_tokens(logits(module, batch))
        if max(columns) >= values.shape[2]:
            raise InputError(
                f"the token {max(columns)} is none of the model's {values.shape[2]} tokens: "
                "expected ids of its own tokenizer"
            )
        if mask_token is None:
            return _at_last_token(values, batch)[:, columns]
        masks = batch["input_ids"] == mask_token
        if not bool((masks.sum(1) == 1).all()):
            raise InputError(
                f"some texts do not have the mask (token {mask_token}) exactly once: expected a "
                "template that has it, and texts short enough to keep it"
            )
        return values[masks][:, columns]

    return word_logits


def _is_id(token: Any) -> bool:
    is_whole = isinstance(token, int | np.integer) and not isinstance(token, bool)
    return is_whole and int(token) >= 0


def _of_classes(values: Tensor) -> Tensor:
    """Logits of two classes or more: the only one would have probability 1 whatever it is."""
    if values.ndim != 2 or values.shape[1] < 2:
        raise InputError(
            f"the logits are of shape {tuple(values.shape)}: expected n x K for K classes, at "
            "least two"
        )
    return values


def _of_tokens(values: Tensor) -> Tensor:
    """Logits of a language model."""
    if values.ndim != 3:
        raise InputError(
            f"the logits are of shape {tuple(values.shape)}: expected n x T x V, those of a "
            "language model at every token"
        )
    return values


def _at_last_token(logits: Tensor, batch: Batch) -> Tensor:
    """Logits (n x V) at the last token that is no padding."""
    mask = batch.get("attention_mask")
    if mask is None:
        return logits[:, -1]
    if not bool(mask.any(1).all()):
        raise InputError(
            "'attention_mask' is 0 throughout for some text: expected one that is read"
        )
    # The position of the last 1 in the mask, whichever side is padded: zeros times 1, 2, ... are 0.
    last = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(1)
    return logits[torch.arange(len(logits), device=logits.device), last]


def _labels(batch: Batch, logits: Tensor) -> Tensor:
    labels = batch.get(LABELS)
    if labels is None:
        raise InputError("the inputs have no 'labels': expected the class of each sample beside it")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputError(f"'labels' are of {labels.dtype}: expected the number of each class")
    labels = labels.long()
    if labels.ndim != 1 or int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]:
        raise InputError(
            f"'labels' must be one number per sample from 0 to {logits.shape[1] - 1}, found "
            f"{tuple(labels.shape)} from {int(labels.min())} to {int(labels.max())}"
        )
    return labels
