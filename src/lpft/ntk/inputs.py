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
from lpft.ntk.devices import same_device

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
        parameters = [*self.classifier.encoder.parameters(), *self.head.parameters()]
        if all(same_device(p.device, device) and p.dtype == dtype for p in parameters):
            return self
        classifier, head = copy.deepcopy((self.classifier, self.head))
        return Subject(
            classifier.to(device, dtype), head.to(device, dtype), self.tokenizer, self.max_length
        )

    def tokens(self, texts: Sequence[Text]) -> Tokens:
        """Token ids of texts, or of pairs.

        Raises:
            InputError: there is no text, one is empty, texts and pairs are mixed, or the tokenizer
                has tokens that the model does not know.
        """
        tokens = tokenize(self.tokenizer, texts, self.max_length)
        known = self.classifier.encoder.get_input_embeddings().num_embeddings
        largest = max(max(ids) for ids in tokens.columns["input_ids"])
        if largest >= known:
            raise InputError(
                f"the tokenizer gives the token {largest}, the model has {known} tokens: expected "
                "the tokenizer that belongs to the model"
            )
        return tokens


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
        InputError: it is none of these, is not fitted, has no tokenizer or no linear head, is not
            finite, or is made for several labels per text or for regression.
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
    check_finite(classifier, "the given model")
    return Subject(
        classifier,
        trained_head(network),
        tokenizer,
        _checked_length(max_length, classifier, tokenizer),
    )


def _checked_length(
    given: int | None, classifier: LinearHeadClassifier, tokenizer: PreTrainedTokenizerBase
) -> int:
    """The maximum length in tokens: the given one, or what tokenizer and model both allow."""
    if given is not None and not isinstance(given, int):
        raise InputError(f"max_length={given!r} is no whole number: expected tokens per text")
    limit, least = position_limit(classifier.encoder), tokenizer.num_special_tokens_to_add() + 1
    # Tokenizers that know no limit say so by a huge number.
    own = min(n for n in (limit, tokenizer.model_max_length) if n is not None)
    length = own if given is None else given
    if length < least or (limit is not None and length > limit):
        reach = f"at least {least}" if limit is None else f"{least} to {limit}"
        raise InputError(f"max_length {length} does not fit the model, which reads {reach} tokens")
    return length
