"""How an encoder reads texts: the shape of its states, and whether padding changes them.

Most families keep padding out of the real tokens by the attention mask. Some do not: FNet mixes
all tokens, MobileBERT's and ConvBERT's convolutions reach into the padding, recurrent decoders
carry left padding along. Their texts are read in groups of one length each.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lpft.errors import InputError, one_line
from lpft.model.encoder import hidden_states, position_limit

_SHORT = "good"
_LONG = "it was a good film, and then they bought a very fine lamp"
_LENGTH = 16
"""Texts of the check are cut to this many tokens."""

_TOLERANCE = 1e-4
"""The largest difference, relative to each number and to the mean size of all."""


SafePadding = Literal["both", "right", "left", "none"]
"""The sides on which padding changes no state of a real token."""


@dataclass(frozen=True)
class Reading:
    """The ``width`` of a state, and the sides on which texts may be padded."""

    width: int
    safe_padding: SafePadding


@torch.no_grad()
def check_reading(
    encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: str
) -> Reading:
    """Read a short text alone, then beside a longer one and padded on either side.

    Raises:
        InputError: the model does not give one state per token; the tokenizer marks the texts of a
            pair in a way that it does not have; or what it gives for a text changes from one
            reading to the next, or with the texts that are read at once even if all are as long.
    """
    kind = f"'{source}' is a {encoder.config.model_type} model, which"
    if encoder.config.model_type == "reformer":
        raise InputError(f"{kind} draws random hashes when it reads a text: name another model")
    if getattr(sys.modules[type(encoder).__module__], "mra_cuda_kernel", True) is None:
        # Transformers then puts zeros in place of its attention.
        raise InputError(
            f"{kind} computes no attention without its CUDA kernels, which are not loaded here: "
            "name another model"
        )
    if encoder.main_input_name != "input_ids":
        raise InputError(f"{kind} reads {encoder.main_input_name}, not texts: name another model")
    limit = position_limit(encoder)
    length = _LENGTH if limit is None else min(_LENGTH, limit)
    try:
        short, long = _checked_ids(tokenizer, length)
    except Exception as error:  # tokenizers raises bare Exception
        raise InputError(
            f"the tokenizer of '{source}' cannot read texts ({one_line(error)}): restore "
            "tokenizer_config.json and the files beside it, which are of one model"
        ) from error
    _check_token_types(encoder, tokenizer, source)
    width = max(len(long), min(length, len(short) + 8))
    try:
        alone = _states(encoder, [short], [slice(0, len(short))])
        if alone.shape[:2] != (1, len(short)):
            raise InputError(f"{kind} does not give one state for each token: name another model")
        filled = tokenizer.pad_token_id
        padding = [filled] * (width - len(short))
        together = _states(
            encoder,
            [short + padding, padding + short, long + [filled] * (width - len(long))],
            [slice(0, len(short)), slice(width - len(short), width), slice(0, len(long))],
        )
        right = _alike(together[0, : len(short)], alone[0])
        left = _alike(together[1, width - len(short) :], alone[0])
        if right or left:
            return Reading(
                alone.shape[-1], "both" if right and left else "right" if right else "left"
            )
        whole = slice(0, len(short))
        beside = _states(encoder, [short, (long * len(short))[-len(short) :]], [whole, whole])
    except (InputError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # each family raises its own kind of error for what it cannot read
        raise InputError(
            f"{kind} cannot read texts here ({one_line(error) or type(error).__name__}): name "
            "another model"
        ) from error
    if not _alike(beside[0], alone[0]):
        raise InputError(
            f"{kind} gives a text other states when it is read again or beside another text of "
            "the same length, so its predictions could not be reproduced: name another model"
        )
    return Reading(alone.shape[-1], "none")


def is_safe(attention_mask: Tensor, safe_padding: SafePadding) -> bool:
    """Whether no text of a batch (N x T) is padded on a side where that changes its states."""
    # An exported graph cannot branch on its input; those who run it pad on the right.
    if safe_padding == "both" or torch.compiler.is_exporting():
        return True
    padded = attention_mask == 0
    return not (
        (safe_padding != "right" and bool(padded[:, -1].any()))
        or (safe_padding != "left" and bool(padded[:, 0].any()))
    )


def without_padding(
    features: Callable[..., Tensor], attention_mask: Tensor, **inputs: Tensor
) -> Tensor:
    """``features`` (N x h) of texts in groups of one length, each without its padding.

    ``features`` takes token ids, mask and further inputs (each n x T') of a group.
    """
    inputs["attention_mask"] = attention_mask
    lengths = attention_mask.sum(1)
    groups, order = [], []
    for length in lengths.unique().tolist():
        rows = (lengths == length).nonzero().squeeze(1)
        real = attention_mask[rows] > 0
        group = {name: ids[rows][real].view(len(rows), length) for name, ids in inputs.items()}
        groups.append(features(**group))
        order.append(rows)
    return torch.cat(groups)[torch.cat(order).argsort()]


def _checked_ids(tokenizer: PreTrainedTokenizerBase, length: int) -> tuple[list[int], list[int]]:
    """Token ids of a short text and of a longer one of at most ``length`` tokens."""
    short, long = (
        tokenizer(text, truncation=True, max_length=length)["input_ids"] for text in (_SHORT, _LONG)
    )
    if not short or len(short) >= min(len(long), length):  # it does not know English letters
        special = set(tokenizer.all_special_ids)
        long = sorted(set(tokenizer.get_vocab().values()) - special)[:length]
        short = long[:2]
    return short, long


def _states(encoder: PreTrainedModel, ids: list[list[int]], real: list[slice]) -> Tensor:
    """The states, N x T x h, of token ids of which those in ``real`` are not padding."""
    tokens = torch.tensor(ids)
    mask = torch.zeros_like(tokens)
    for row, columns in enumerate(real):
        mask[row, columns] = 1
    return hidden_states(encoder, tokens, mask)


def _alike(actual: Tensor, expected: Tensor) -> bool:
    """Whether numbers agree up to rounding, by a tolerance that the largest ones do not inflate."""
    mean = expected.abs().mean().item()
    return torch.allclose(actual, expected, rtol=_TOLERANCE, atol=_TOLERANCE * mean)


def _check_token_types(encoder: nn.Module, tokenizer: PreTrainedTokenizerBase, source: str) -> None:
    types = getattr(encoder.config, "type_vocab_size", None)
    if types is None or types < 2:  # hidden_states leaves them out where there is no choice
        return
    largest = max(tokenizer(_SHORT, _SHORT).get("token_type_ids", [0]))
    if largest >= types:
        raise InputError(
            f"the tokenizer of '{source}' gives token_type_ids up to {largest} and the model has "
            f"{types} types, 0 to {types - 1}: use the tokenizer of the same model"
        )
