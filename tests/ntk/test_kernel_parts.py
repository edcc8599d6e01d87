"""F by layer and by kind of parameter, against explicit kernels of each parameter; the fallback."""

import re
from collections import defaultdict

import pytest
import torch
from references import encoder_names, explicit_kernels, head_names, trainable_names
from tiny_classifiers import read, tiny_adapted, tiny_classifier
from tiny_models import FAMILIES, toy_texts

from lpft.ntk import empirical_ntk

WHOLE_TABLES = {"deberta-v2": {"encoder.rel_embeddings.weight"}}
"""Per family the tables that are used whole, which autograd treats: no lookup is sparse there."""

A, B = toy_texts(3, seed=6)[0], toy_texts(2, seed=7)[0]

KINDS = {
    "bert": [
        ("bias", r"\.bias$"),
        ("LayerNorm", "LayerNorm"),
        ("embeddings", "embeddings"),
        ("attention", "attention"),
        ("feed-forward", "intermediate|output"),
    ],
    "gpt2": [
        ("bias", r"\.bias$"),
        ("LayerNorm", "ln_"),
        ("embeddings", "wte|wpe"),
        ("attention", "attn"),
        ("feed-forward", "mlp"),
    ],
    "llama": [
        ("LayerNorm", "norm"),
        ("embeddings", "embed_tokens"),
        ("attention", "self_attn"),
        ("feed-forward", "mlp"),
    ],
}
"""The first pattern that a parameter's name meets says its kind."""

LAYERS = {
    "bert": [("layer 0", r"layer\.0\."), ("layer 1", r"layer\.1\."), ("embeddings", "embeddings")],
    "gpt2": [
        ("layer 0", r"h\.0\."),
        ("layer 1", r"h\.1\."),
        ("final", "ln_f"),
        ("embeddings", "wte|wpe"),
    ],
    "llama": [
        ("layer 0", r"layers\.0\."),
        ("layer 1", r"layers\.1\."),
        ("final", r"encoder\.norm"),
        ("embeddings", "embed_tokens"),
    ],
}


def kernel_of(model, tokenizer, **keywords):
    return empirical_ntk(
        model,
        A,
        B,
        tokenizer=tokenizer,
        dtype=torch.float64,
        granularity=("layer", "kind"),
        **keywords,
    )


def assert_close(found, expected):
    assert found.shape == expected.shape
    error = torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected)
    assert error <= 1e-10


def summed_by(patterns, shares):
    """The shares of each part, whose parameters are those that meet its pattern first."""
    parts = defaultdict(list)
    for name, share in shares.items():
        parts[next(part for part, pattern in patterns if re.search(pattern, name))].append(share)
    assert len(parts) == len(patterns)
    return {part: torch.stack(found).sum(0) for part, found in parts.items()}


@pytest.mark.parametrize("family", KINDS)
def test_parts_are_the_sums_of_their_parameters(family):
    classifier = tiny_classifier(family)
    model, tokenizer = classifier.model, classifier.tokenizer
    a, b = read(tokenizer, A), read(tokenizer, B)
    shares = explicit_kernels(model, a, b, encoder_names(model))
    kernel = kernel_of(model, tokenizer)
    for found, patterns in ((kernel.kinds, KINDS[family]), (kernel.layers, LAYERS[family])):
        expected = summed_by(patterns, shares)
        assert set(found) == set(expected)
        for part, share in expected.items():
            assert_close(found[part], share)


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_parts_sum_to_the_whole_and_no_parameter_takes_the_fallback(family, kind):
    if kind == "full":
        classifier = tiny_classifier(family)
        model, tokenizer, parameters = classifier.model, classifier.tokenizer, "all"
    else:
        model, tokenizer = tiny_adapted(family)
        parameters = "trainable"
    kernel = kernel_of(model, tokenizer, parameters=parameters)
    for parts in (kernel.layers, kernel.kinds):
        assert len(parts) > 0
        assert_close(torch.stack(list(parts.values())).sum(0), kernel.ft_effective)
    plan = kernel.record["plan"]
    assert plan["fallback"] == []
    assert set(plan["by_autograd"]) == (
        WHOLE_TABLES.get(family, set()) if kind == "full" else set()
    )


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_the_fallback_takes_what_no_rule_knows(family):
    model, tokenizer = tiny_adapted(family, "dora")
    kernel = kernel_of(model, tokenizer, parameters="trainable")
    trained = set(trainable_names(model)) - set(head_names(model))
    prefix = "base_model.model.encoder."
    fallback = {f"{prefix}{name}" for name in kernel.record["plan"]["fallback"]}
    assert {name for name in trained if "magnitude" in name} <= fallback <= trained


def test_parts_are_left_out_unless_asked_for():
    classifier = tiny_classifier("bert")
    kernel = empirical_ntk(classifier.model, A, tokenizer=classifier.tokenizer)
    assert dict(kernel.layers) == dict(kernel.kinds) == {}
