"""A BERT of two layers with random weights in float64, and random texts for it."""

import torch
from torch import nn
from transformers import BertConfig

from lpft.data.tokens import Tokens
from lpft.model.adapters import add_adapter
from lpft.model.classifier import attach_head
from lpft.model.encoder import build_encoder, seeded

CLASSES = 3
TEXTS = 12
VOCABULARY = 50
MOST_TOKENS = 12
HEAD_STD = 0.5
"""Of V's entries: a head as large as linear probing leaves it, so that features move as well."""

LAYERS, WIDTH = 2, 32
INITIALIZER_RANGE = 0.1
"""Of the encoder: at the usual 0.02 LayerNorm would blow up steps of so narrow an embedding."""


def random_bert(seed: int, lora_rank: int | None = None) -> nn.Module:
    """The classifier that a seed gives; with LoRA of a rank, whose factor B is 0, around it."""
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=MOST_TOKENS,
        initializer_range=INITIALIZER_RANGE,
        pad_token_id=0,
    )
    with seeded(seed):
        encoder = build_encoder(config, torch.float64)
    generator = torch.Generator().manual_seed(seed)
    model = attach_head(
        encoder, tuple(range(CLASSES)), pooling="first", head_bias=True, generator=generator
    )
    with torch.no_grad():
        model.head.weight.normal_(0.0, HEAD_STD, generator=generator)
    if lora_rank is None:
        return model
    with seeded(seed):
        return add_adapter(model, "lora", rank=lora_rank, alpha=lora_rank)


def random_tokens(generator: torch.Generator) -> Tokens:
    """Texts of 3 to 12 tokens, drawn at random; id 0 is padding."""
    lengths = torch.randint(3, MOST_TOKENS + 1, (TEXTS,), generator=generator).tolist()
    ids = [
        torch.randint(1, VOCABULARY, (length,), generator=generator).tolist() for length in lengths
    ]
    masks = [[1] * length for length in lengths]
    return Tokens(
        columns={"input_ids": ids, "attention_mask": masks},
        pad_values={"input_ids": 0, "attention_mask": 0},
        padding_side="right",
    )
