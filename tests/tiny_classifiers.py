"""Tiny classifiers in which no parameter hides: every one is random, biases and norms included."""

import torch
from tiny_models import DECODERS, tiny_config, tiny_tokenizer
from torch import nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from lpft.data import Label, Text
from lpft.data.tokens import Tokens, tokenize
from lpft.model import Classifier
from lpft.model.adapters import add_adapter
from lpft.model.classifier import attach_head
from lpft.model.encoder import build_encoder, seeded
from lpft.settings import Pooling

SPREAD = 0.2


def tiny_classifier(
    family: str, *, classes: int = 3, head_bias: bool = True, pooling: Pooling | None = None
) -> Classifier:
    """A classifier of ``family`` with all of its parameters moved off their usual start."""
    usual: Pooling = "last" if family in DECODERS else "first"
    return random_classifier(
        tiny_config(family),
        tiny_tokenizer(family),
        tuple(f"class {index}" for index in range(classes)),
        pooling=usual if pooling is None else pooling,
        head_bias=head_bias,
    )


def random_classifier(
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    classes: tuple[Label, ...],
    *,
    pooling: Pooling,
    head_bias: bool = True,
    paired: bool = False,
) -> Classifier:
    """The same for any configuration; a tokenizer without a padding token pads with its last."""
    with seeded(7):
        encoder = build_encoder(config)
    model = attach_head(
        encoder,
        classes,
        pooling=pooling,
        head_bias=head_bias,
        generator=torch.Generator().manual_seed(8),
        paired=paired,
    )
    scatter(model)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return Classifier(model, tokenizer)


def tiny_adapted(
    family: str, name: str = "lora", **keywords: bool
) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """Such a classifier with an adapter whose factors are both random."""
    classifier = tiny_classifier(family, **keywords)
    with seeded(0):
        adapted = add_adapter(classifier.model, name, rank=3, alpha=6.0)
    scatter(adapted, only="lora_")
    return adapted.eval(), classifier.tokenizer


@torch.no_grad()
def scatter(model: nn.Module, only: str = "") -> None:
    """Add normal noise to the parameters that have ``only`` in their name."""
    generator = torch.Generator().manual_seed(9)
    for name, parameter in model.named_parameters():
        if only in name:
            parameter.add_(SPREAD * torch.randn(parameter.shape, generator=generator))


def read(tokenizer: PreTrainedTokenizerBase, texts: list[Text], max_length: int = 62) -> Tokens:
    return tokenize(tokenizer, texts, max_length)
