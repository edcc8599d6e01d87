"""Exact kernels of every family and method, against the explicit Jacobian of plain autograd."""

from copy import deepcopy
from functools import cache
from typing import NamedTuple

import pytest
import torch
from references import (
    contract,
    directional_derivative,
    encoder_names,
    explicit_features,
    explicit_jacobian,
    explicit_kernels,
    head_names,
    trainable_names,
)
from tiny_classifiers import read, tiny_adapted, tiny_classifier
from tiny_models import FAMILIES
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lpft.choices import Pooling
from lpft.ntk import empirical_ntk

METHODS = ("auto", "materialize", "token_gram", "sandwich")
TOLERANCE = 1e-10

SINGLE_A = [
    "the chair was good",
    "never",
    "we took the train and then we saw the lamp but the lamp was poor",
    "good good good the good the film",
    "a fine meal",
]
SINGLE_B = ["they ate the meal quickly and the chair", "good", "the film was not the film"]
PAIR_A = [
    ("the chair", "was good but never the chair"),
    ("never", "yes"),
    ("we took the train and then the train", "no"),
    ("a fine meal", "a fine meal"),
]
PAIR_B = [("they ate", "the meal quickly"), ("the film was not the film", "it was")]


class Case(NamedTuple):
    """A model, its texts, and the explicit Jacobians of its encoder's parameters."""

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    names: list[str]
    a: list
    b: list
    left: Tensor
    right: Tensor


@cache
def case(family: str, kind: str, *, pairs: bool = False, pooling: Pooling | None = None) -> Case:
    if kind == "full":
        classifier = tiny_classifier(family, pooling=pooling)
        model, tokenizer = classifier.model, classifier.tokenizer
        names = encoder_names(model)
    else:
        model, tokenizer = tiny_adapted(family, kind)
        names = [name for name in trainable_names(model) if name not in head_names(model)]
    a, b = (PAIR_A, PAIR_B) if pairs else (SINGLE_A, SINGLE_B)
    left, right = (explicit_jacobian(model, read(tokenizer, texts), names) for texts in (a, b))
    return Case(model, tokenizer, names, a, b, left, right)


def kernel_of(case: Case, a: list, b: list | None = None, **keywords):
    keywords = {"dtype": torch.float64, "tokenizer": case.tokenizer} | keywords
    return empirical_ntk(case.model, a, b, **keywords)


def assert_close(found: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    assert found.dtype == expected.dtype == torch.float64
    assert found.shape == expected.shape
    error = torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected)
    assert error <= tolerance


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_explicit_jacobian_is_that_of_finite_differences(family, kind):
    model, tokenizer, names, texts, _, jacobian, _ = case(family, kind)
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(jacobian.shape[2], generator=generator, dtype=torch.float64)
    found = directional_derivative(model, read(tokenizer, texts), names, direction, step=1e-6)
    assert_close(found, jacobian @ direction, tolerance=1e-8)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pairs", [False, True], ids=["single", "pairs"])
@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_method_meets_the_explicit_jacobian(family, kind, pairs, method):
    given = case(family, kind, pairs=pairs)
    parameters = "all" if kind == "full" else "trainable"
    kernel = kernel_of(given, given.a, given.b, method=method, parameters=parameters)
    assert_close(kernel.ft_effective, contract(given.left, given.right))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_one_set_of_texts_against_itself(family, method):
    given = case(family, "full")
    kernel = kernel_of(given, given.a, method=method)
    assert_close(kernel.ft_effective, contract(given.left, given.left))


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_one_text(family, kind):
    given = case(family, kind)
    parameters = "all" if kind == "full" else "trainable"
    kernel = kernel_of(given, given.a[2:3], given.b[:1], parameters=parameters)
    assert_close(kernel.ft_effective, contract(given.left[2:3], given.right[:1]))


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_total_is_the_explicit_kernel_with_the_head(family, kind):
    given = case(family, kind)
    a, b = (read(given.tokenizer, texts) for texts in (given.a, given.b))
    head = head_names(given.model)
    assert len(head) == 2
    left = torch.cat([given.left, explicit_jacobian(given.model, a, head)], dim=2)
    right = torch.cat([given.right, explicit_jacobian(given.model, b, head)], dim=2)
    parameters = "all" if kind == "full" else "trainable"
    kernel = kernel_of(given, given.a, given.b, parameters=parameters)
    assert_close(kernel.total(), contract(left, right))
    phi = [explicit_features(given.model, tokens) for tokens in (a, b)]
    assert_close(kernel.pretrain_effective, phi[0] @ phi[1].T + 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_parameters_of_an_adapted_model_are_its_weights_and_its_factors(family):
    adapted = case(family, "lora")
    names = encoder_names(adapted.model)
    assert set(adapted.names) < set(names)
    left, right = (
        explicit_jacobian(adapted.model, read(adapted.tokenizer, texts), names)
        for texts in (adapted.a, adapted.b)
    )
    kernel = kernel_of(adapted, adapted.a, adapted.b, parameters="all")
    assert_close(kernel.ft_effective, contract(left, right))


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_another_adapter_meets_the_explicit_jacobian(family):
    given = case(family, "dora")
    assert any("magnitude" in name for name in given.names)
    kernel = kernel_of(given, given.a, given.b, parameters="trainable")
    assert_close(kernel.ft_effective, contract(given.left, given.right))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pooling", ["first", "last", "mean"])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_every_pooling(family, pooling, method):
    given = case(family, "full", pooling=pooling)
    kernel = kernel_of(given, given.a, given.b, method=method)
    assert_close(kernel.ft_effective, contract(given.left, given.right))


@pytest.mark.parametrize(
    "part",
    ["embeddings", "bias", "LayerNorm", "layer.1.", "query", "position_embeddings", "token_type"],
)
def test_a_part_of_the_parameters_trains(part):
    model, tokenizer, *_ = case("bert", "full")
    model = deepcopy(model)
    for name, parameter in model.encoder.named_parameters():
        parameter.requires_grad_(part in name)
    names = [name for name in trainable_names(model) if name not in head_names(model)]
    assert 0 < len(names) < len(encoder_names(model))
    a, b = (read(tokenizer, texts) for texts in (PAIR_A, PAIR_B))
    shares = explicit_kernels(model, a, b, names)
    kernel = empirical_ntk(
        model, PAIR_A, PAIR_B, parameters="trainable", tokenizer=tokenizer, dtype=torch.float64
    )
    assert_close(kernel.ft_effective, torch.stack(list(shares.values())).sum(0))


@pytest.mark.parametrize("family", FAMILIES)
def test_single_precision_keeps_five_digits(family):
    given = case(family, "full")
    kernel = kernel_of(given, given.a, given.b, dtype=torch.float32)
    assert_close(kernel.ft_effective, contract(given.left, given.right), tolerance=1e-5)
