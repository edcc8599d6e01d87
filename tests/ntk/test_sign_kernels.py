"""Kernels of signs, ``<sign g, sign g'>`` and ``<g, sign g'>``, against explicit gradients.

An entry that is zero in theory comes out as rounding, whose sign is arbitrary and counts in full.
Softmax does not see a shift of all scores, so the gradients of attention's key biases are such
entries: they are frozen here, where a model has them. What is left is zero exactly, as for words
that do not occur, or far above rounding; :func:`jacobians` holds the models to that.
"""

from copy import deepcopy
from functools import cache
from typing import NamedTuple

import pytest
import torch
from references import (
    contract,
    explicit_features,
    explicit_jacobian,
    head_names,
    relative_error,
    trainable_names,
)
from tiny_classifiers import read, tiny_adapted, tiny_classifier
from torch import Tensor, nn

from lpft.ntk import empirical_ntk

KEY_BIASES = ("key.bias", "k_lin.bias")
FULL = ("bert", "roberta", "distilbert", "albert", "deberta-v2", "modernbert", "llama")
ADAPTED = ("bert", "modernbert", "gpt2", "llama")
A = ["the chair was good", "good good the good the film", "we took the train and then the lamp"]
B = ["they ate the meal quickly", "a fine meal was never poor"]


class Case(NamedTuple):
    """A model and the signs' ground: explicit Jacobians of the encoder's trained parameters."""

    model: nn.Module
    tokenizer: object
    left: Tensor
    right: Tensor


@cache
def case(family: str, kind: str = "full") -> Case:
    if kind == "full":
        classifier = tiny_classifier(family)
        model, tokenizer = classifier.model, classifier.tokenizer
    else:
        model, tokenizer = tiny_adapted(family, kind)
    freeze_key_biases(model)
    return Case(model, tokenizer, *(jacobians(model, tokenizer, texts) for texts in (A, B)))


def freeze_key_biases(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith(KEY_BIASES):
            parameter.requires_grad_(False)


def jacobians(model: nn.Module, tokenizer: object, texts: list[str]) -> Tensor:
    names = [name for name in trainable_names(model) if name not in head_names(model)]
    jacobian = explicit_jacobian(model, read(tokenizer, texts), names)
    sizes = jacobian.abs()
    assert sizes[sizes > 0].min() > 1e-11 * sizes.max()
    return jacobian


def kernel_of(given: Case, a: list[str], b: list[str] | None, kernel: str, **keywords):
    return empirical_ntk(
        given.model,
        a,
        b,
        tokenizer=given.tokenizer,
        update=kernel,
        parameters="trainable",
        dtype=torch.float64,
        check_entries=0,
        **keywords,
    )


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert relative_error(found, expected) <= 1e-10


CASES = [(family, "full") for family in FULL] + [(family, "lora") for family in ADAPTED]


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_the_kernel_of_signs_counts_agreeing_entries(family, kind):
    given = case(family, kind)
    kernel = kernel_of(given, A, B, "signgd")
    assert torch.equal(kernel.ft_effective, contract(given.left.sign(), given.right.sign()))


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_the_asymmetric_kernel_takes_signs_of_the_second_texts(family, kind):
    given = case(family, kind)
    kernel = kernel_of(given, A, B, "asymmetric")
    assert_close(kernel.ft_effective, contract(given.left, given.right.sign()))


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_one_set_of_texts(family):
    given = case(family)
    signs = given.left.sign()
    assert torch.equal(kernel_of(given, A, None, "signgd").ft_effective, contract(signs, signs))
    asymmetric = kernel_of(given, A, None, "asymmetric").ft_effective
    assert_close(asymmetric, contract(given.left, signs))
    assert not torch.allclose(asymmetric, asymmetric.permute(2, 3, 0, 1))


@pytest.mark.parametrize("kernel", ["signgd", "asymmetric"])
def test_the_method_may_be_named(kernel):
    given = case("llama")
    named = kernel_of(given, A, B, kernel, contraction="materialize")
    assert torch.equal(named.ft_effective, kernel_of(given, A, B, kernel).ft_effective)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_the_total_takes_the_gradients_of_the_head_alike(family):
    given = case(family)
    phi = [explicit_features(given.model, read(given.tokenizer, texts)) for texts in (A, B)]
    ones = torch.eye(3, dtype=torch.float64)
    signs = phi[0].sign() @ phi[1].sign().T + 1
    kernel = kernel_of(given, A, B, "signgd")
    assert torch.equal(kernel.pretrain_effective, signs)
    assert torch.equal(
        kernel.total(), kernel.ft_effective + torch.einsum("nm,cd->ncmd", signs, ones)
    )
    kernel = kernel_of(given, A, B, "asymmetric")
    assert_close(kernel.pretrain_effective, phi[0] @ phi[1].sign().T + 1)


def test_scaling_the_head_changes_no_sign():
    given = case("llama")
    scaled = deepcopy(given.model)
    with torch.no_grad():
        scaled.head.weight.mul_(8)
    for kernel, factor in (("signgd", 1), ("asymmetric", 8)):
        before = kernel_of(given, A, B, kernel).ft_effective
        after = kernel_of(given._replace(model=scaled), A, B, kernel).ft_effective
        assert torch.equal(after, factor * before)


@pytest.mark.parametrize("kernel", ["signgd", "asymmetric"])
def test_rows_of_the_head_that_depend_on_each_other_save_nothing(kernel):
    given = case("llama")
    model = deepcopy(given.model)
    with torch.no_grad():
        model.head.weight.copy_(model.head.weight - model.head.weight.mean(0))
    left, right = (jacobians(model, given.tokenizer, texts) for texts in (A, B))
    found = kernel_of(given._replace(model=model), A, B, kernel).ft_effective
    expected = contract(left.sign() if kernel == "signgd" else left, right.sign())
    assert_close(found, expected)
