"""Families whose modules do other things than their types say: exact all the same."""

import re

import pytest
import torch
from references import encoder_names, explicit_ntk
from tiny_classifiers import read, scatter
from tiny_models import WORDS, tiny_tokenizer
from transformers import (
    CTRLConfig,
    Gemma2Config,
    Gemma3TextConfig,
    MixtralConfig,
    RoFormerConfig,
    SqueezeBertConfig,
)

from lpft.model.classifier import attach_head
from lpft.model.encoder import build_encoder
from lpft.ntk import empirical_ntk

A = ["the chair was good", "never", "we took the train and then the lamp", "good good film"]
B = ["good", "the film was not the film"]
_SIZES = {
    "vocab_size": len(WORDS) + 4,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
_DECODER = _SIZES | {"num_key_value_heads": 2, "bos_token_id": 2, "eos_token_id": 3}
_GROUPS = ("q", "k", "v", "post_attention", "intermediate", "output")

CONFIGS = {
    # Embeddings that multiply what they look up.
    "gemma2": Gemma2Config(**_DECODER, head_dim=8),
    "gemma3": Gemma3TextConfig(**_DECODER, head_dim=8),
    # Positions that are looked up by a shape.
    "roformer": RoFormerConfig(**_SIZES, embedding_size=32),
    # Writes into what its embedding returned.
    "ctrl": CTRLConfig(
        vocab_size=_SIZES["vocab_size"], n_positions=64, n_embd=32, dff=64, n_layer=2, n_head=4
    ),
    # Convolutions, and normalisation over the other axis.
    "squeezebert": SqueezeBertConfig(
        **_SIZES, embedding_size=32, **{f"{name}_groups": 2 for name in _GROUPS}
    ),
    # Experts whose grouped products know no float64.
    "mixtral": MixtralConfig(**_DECODER, num_local_experts=3),
}
BY_AUTOGRAD = {
    "squeezebert": r"encoder\.layers\.\d\.",
    "mixtral": r"layers\.\d\.mlp\.(gate\.weight|experts\.(gate_up_proj|down_proj))",
}


def tiny(family):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        encoder = build_encoder(CONFIGS[family])
    model = attach_head(
        encoder,
        ("a", "b", "c"),
        pooling="first" if family in ("roformer", "squeezebert") else "last",
        head_bias=True,
        generator=torch.Generator().manual_seed(8),
    )
    scatter(model)
    tokenizer = tiny_tokenizer("roberta")
    return model, tokenizer


@pytest.mark.parametrize("family", CONFIGS)
def test_the_kernel_meets_the_explicit_jacobian(family):
    model, tokenizer = tiny(family)
    kernel = empirical_ntk(model, A, B, tokenizer=tokenizer, max_length=40, dtype=torch.float64)
    plan = kernel.record["plan"]
    by_autograd = {
        name
        for name, _ in model.encoder.named_parameters()
        if family in BY_AUTOGRAD and re.match(BY_AUTOGRAD[family], name)
    }
    assert set(plan["by_autograd"]) == set(plan["fallback"]) == by_autograd
    assert plan["batches_of_several_texts"] == (not by_autograd)
    assert kernel.certificate.largest_relative_error <= 1e-10
    if family == "mixtral":
        model.encoder.set_experts_implementation("eager")
    tokens = read(tokenizer, A), read(tokenizer, B)
    expected = explicit_ntk(model, *tokens, encoder_names(model))
    error = torch.linalg.vector_norm(kernel.ft_effective - expected)
    assert error <= 1e-10 * torch.linalg.vector_norm(expected)
