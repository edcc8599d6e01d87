"""What a kernel is asked of: a classifier in any of its forms, and its texts."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from lpft.data.examples import Text
from lpft.data.tokens import Tokens, tokenize
from lpft.errors import InputError
from lpft.model.adapters import plain_classifier, trained_head
from lpft.model.classifier import LinearHeadClassifier
from lpft.model.encoder import check_finite, position_limit

_EXPECTED = (
    "expected a TextClassifier, or a LinearHeadClassifier (plain or with PEFT adapters) with "
    "tokenizer=..."
)


@dataclass(frozen=True)
class Subject:
    """The classifier of a kernel with its head that trains, its tokenizer and maximum length."""

    classifier: LinearHeadClassifier
    head: nn.Linear
    tokenizer: PreTrainedTokenizerBase
    max_length: int

    def on(self, device: torch.device, dtype: torch.dtype) -> "Subject":
        """The same on ``device`` in ``dtype``: itself where it is so already, else a copy."""
        parameter = next(self.classifier.encoder.parameters())
        if parameter.device == device and parameter.dtype == dtype == self.head.weight.dtype:
            return self
        classifier, head = copy.deepcopy((self.classifier, self.head))
        return Subject(
            classifier.to(device, dtype), head.to(device, dtype), self.tokenizer, self.max_length
        )

    def tokens(self, texts: Sequence[Text]) -> Tokens:
        """Token ids of texts, or of pairs.

        Raises:
            InputError: there is no text, one is empty, or texts and pairs are mixed.
        """
        return tokenize(self.tokenizer, texts, self.max_length)


def joined(parts: Sequence[Tokens]) -> Tokens:
    """The tokens of several lists of texts as those of one."""
    return Tokens(
        {name: [ids for part in parts for ids in part.columns[name]] for name in parts[0].columns},
        parts[0].pad_values,
        parts[0].padding_side,
    )


def open_subject(
    model: Any, tokenizer: PreTrainedTokenizerBase | None, max_length: int | None
) -> Subject:
    """Read a TextClassifier, a classifier with its tokenizer, or one with adapters.

    Raises:
        InputError: it is none of these, is not fitted, has no tokenizer, is not finite, or is made
            for several labels per text or for regression.
    """
    if hasattr(model, "get_params") and not hasattr(model, "model_"):
        raise InputError(
            "the classifier has no model yet: fit it, or take TextClassifier.untrained(...)"
        )
    network = getattr(model, "model_", model)
    tokenizer = getattr(model, "tokenizer_", None) if tokenizer is None else tokenizer
    if not isinstance(network, nn.Module):
        raise InputError(f"the model is a {type(model).__name__}: {_EXPECTED}")
    classifier = plain_classifier(network)
    if not isinstance(classifier, LinearHeadClassifier):
        raise InputError(f"the model is a {type(network).__name__}: {_EXPECTED}")
    kind = classifier.config.problem_type
    if kind not in (None, "single_label_classification"):
        raise InputError(
            f"the model is made for {kind.replace('_', ' ')}: its kernel is not supported, only "
            "that of one class per text"
        )
    if tokenizer is None:
        raise InputError("the model has no tokenizer: give it by tokenizer=...")
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise InputError(
            f"tokenizer={tokenizer!r}: expected a tokenizer object of transformers, not its name"
        )
    if max_length is not None and not isinstance(max_length, int):
        raise InputError(f"max_length={max_length!r} is no whole number: expected tokens per text")
    check_finite(classifier, "the given model")
    if network is classifier and not isinstance(classifier.head, nn.Linear):
        raise InputError("the model has adapters in it: give the PEFT model that wraps it")
    limit, least = position_limit(classifier.encoder), tokenizer.num_special_tokens_to_add() + 1
    if max_length is None:
        # Tokenizers that know no limit say so by a huge number.
        max_length = (
            tokenizer.model_max_length if limit is None else min(limit, tokenizer.model_max_length)
        )
    if max_length < least or (limit is not None and max_length > limit):
        reach = f"at least {least}" if limit is None else f"{least} to {limit}"
        raise InputError(
            f"max_length {max_length} does not fit the model, which reads {reach} tokens"
        )
    return Subject(classifier, trained_head(network), tokenizer, max_length)
