"""Properties of any exact kernel: symmetry, order, padding, scale and rank of the head."""

from copy import deepcopy
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from references import (
    encoder_names,
    explicit_features,
    explicit_ntk,
)
from tiny_classifiers import read, tiny_classifier
from tiny_models import DECODERS, FAMILIES, WORDS, toy_texts
from torch import Tensor

from lpft.model import Classifier
from lpft.ntk import empirical_ntk

TOLERANCE = 1e-10
METHODS = ("materialize", "token_gram", "sandwich")
TEXTS = toy_texts(9, seed=3)[0]

texts_of_words = st.lists(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join), min_size=1, max_size=5
)
properties = settings(max_examples=8, deadline=None, derandomize=True)


@cache
def tiny(family: str = "bert", **keywords) -> Classifier:
    return tiny_classifier(family, **keywords)


def kernel_of(classifier: Classifier, a: list, b: list | None = None, **keywords):
    keywords = {"tokenizer": classifier.tokenizer, "dtype": torch.float64} | keywords
    return empirical_ntk(classifier.model, a, b, **keywords)


def explicit(classifier: Classifier, a: list, b: list) -> Tensor:
    left, right = (read(classifier.tokenizer, texts) for texts in (a, b))
    return explicit_ntk(classifier.model, left, right, encoder_names(classifier.model))


def relative_error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return (torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected)).item()


def with_head(weight: Tensor) -> Classifier:
    """Tiny BERT with V set to ``weight`` (3 x 32)."""
    model = deepcopy(tiny().model)
    with torch.no_grad():
        model.head.weight.copy_(weight)
    return Classifier(model, tiny().tokenizer)


@properties
@given(a=texts_of_words, b=texts_of_words, family=st.sampled_from(FAMILIES))
def test_exchanging_the_texts_transposes_the_kernel(a, b, family):
    one, other = kernel_of(tiny(family), a, b), kernel_of(tiny(family), b, a)
    assert relative_error(other.ft_effective, one.ft_effective.permute(2, 3, 0, 1)) <= TOLERANCE
    assert relative_error(other.pretrain_effective, one.pretrain_effective.T) <= TOLERANCE


@properties
@given(texts=texts_of_words, family=st.sampled_from(FAMILIES), data=st.data())
def test_the_order_of_the_texts_does_not_matter(texts, family, data):
    order = data.draw(st.permutations(range(len(texts))))
    plain = kernel_of(tiny(family), texts)
    mixed = kernel_of(tiny(family), [texts[row] for row in order])
    expected = plain.ft_effective[order][:, :, order]
    assert relative_error(mixed.ft_effective, expected) <= TOLERANCE
    assert relative_error(mixed.pretrain_effective, plain.pretrain_effective[order][:, order]) <= (
        TOLERANCE
    )


@properties
@given(texts=texts_of_words, family=st.sampled_from(FAMILIES))
def test_the_kernel_is_symmetric_and_positive_semidefinite(texts, family):
    kernel = kernel_of(tiny(family), texts)
    for part in (kernel.ft_effective, kernel.total()):
        matrix = part.flatten(2).flatten(0, 1)
        assert torch.equal(matrix, matrix.T)
        eigenvalues = torch.linalg.eigvalsh(matrix)
        assert eigenvalues[0] >= -TOLERANCE * eigenvalues[-1]


@pytest.mark.parametrize("family", FAMILIES)
def test_many_texts_give_what_each_gives_alone(family):
    together = kernel_of(tiny(family), TEXTS[:4], TEXTS[4:7]).ft_effective
    for row, one in enumerate(TEXTS[:4]):
        for column, other in enumerate(TEXTS[4:7]):
            alone = kernel_of(tiny(family), [one], [other]).ft_effective
            block = together[row : row + 1, :, column : column + 1]
            assert relative_error(block, alone) <= TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_one_set_is_the_same_set_given_twice(family):
    once, twice = kernel_of(tiny(family), TEXTS), kernel_of(tiny(family), TEXTS, list(TEXTS))
    assert relative_error(once.ft_effective, twice.ft_effective) <= TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_the_side_of_the_padding_does_not_matter(family):
    right = tiny(family)
    left = Classifier(right.model, deepcopy(right.tokenizer))
    left.tokenizer.padding_side = "left"
    expected = kernel_of(right, TEXTS).ft_effective
    assert relative_error(kernel_of(left, TEXTS).ft_effective, expected) <= TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_repeated_words_within_and_across_texts(family):
    texts = ["good good good good", "good", "the good the good the", "bad bad good"]
    found = kernel_of(tiny(family), texts, texts[:2]).ft_effective
    assert relative_error(found, explicit(tiny(family), texts, texts[:2])) <= TOLERANCE


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in DECODERS])
def test_padding_ids_within_a_text(family):
    texts = ["the <pad> chair <pad> <pad> was good", "<pad> never", "a film", "the chair <pad>"]
    classifier = tiny(family)
    ids = read(classifier.tokenizer, texts).columns["input_ids"]
    assert sum(row.count(classifier.tokenizer.pad_token_id) for row in ids) == 5
    found = kernel_of(classifier, texts).ft_effective
    assert relative_error(found, explicit(classifier, texts, texts)) <= TOLERANCE


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", DECODERS)
def test_texts_of_one_token(family, method):
    texts, others = ["good", "bad", "good"], ["the chair was bad", "good"]
    assert list(read(tiny(family).tokenizer, texts).lengths) == [1, 1, 1]
    found = kernel_of(tiny(family), texts, others, method=method).ft_effective
    assert relative_error(found, explicit(tiny(family), texts, others)) <= TOLERANCE


@pytest.mark.parametrize("family", ["roberta", "gpt2"])
def test_texts_longer_than_the_limit_are_cut_as_training_cuts_them(family):
    classifier = tiny(family)
    long, short = " ".join(WORDS * 3), "the chair was good"
    found = kernel_of(classifier, [long, short]).ft_effective
    assert relative_error(found, explicit(classifier, [long, short], [long, short])) <= TOLERANCE
    cut = read(classifier.tokenizer, [long, short], 7)
    assert cut.lengths.max() == 7
    expected = explicit_ntk(classifier.model, cut, cut, encoder_names(classifier.model))
    found = kernel_of(classifier, [long, short], max_length=7).ft_effective
    assert relative_error(found, expected) <= TOLERANCE


@pytest.mark.parametrize("classes", [2, 5])
def test_any_number_of_classes_and_unequal_numbers_of_texts(classes):
    classifier = tiny(classes=classes)
    found = kernel_of(classifier, TEXTS[:1], TEXTS)
    assert found.ft_effective.shape == (1, classes, 9, classes)
    assert found.pretrain_effective.shape == (1, 9)
    expected = explicit(classifier, TEXTS[:1], TEXTS)
    assert relative_error(found.ft_effective, expected) <= TOLERANCE


@properties
@given(scale=st.floats(-50, 50).filter(lambda scale: abs(scale) > 1e-3))
def test_f_grows_with_the_square_of_the_head(scale):
    weight = tiny().model.head.weight.detach()
    scaled = with_head(scale * weight)
    factor = (scaled.model.head.weight.double() / weight.double()).detach()
    before, after = kernel_of(tiny(), TEXTS[:3]), kernel_of(scaled, TEXTS[:3])
    assert factor.std() < 1e-6 * abs(scale)  # rounding of scale * V to float32
    assert relative_error(after.ft_effective, scale**2 * before.ft_effective) <= 1e-6
    assert torch.equal(after.pretrain_effective, before.pretrain_effective)


@pytest.mark.parametrize("power", [-3, 5])
def test_a_power_of_two_scales_f_exactly(power):
    scaled = with_head(2.0**power * tiny().model.head.weight.detach())
    expected = 4.0**power * kernel_of(tiny(), TEXTS[:3]).ft_effective
    assert relative_error(kernel_of(scaled, TEXTS[:3]).ft_effective, expected) <= 1e-13


DEFICIENT = {
    "rows that sum to zero": lambda v: v - v.mean(0),
    "two opposite rows": lambda v: torch.stack([v[0], -v[0], torch.zeros_like(v[0])]),
    "two equal rows": lambda v: torch.stack([v[0], v[1], v[0]]),
    "rows in proportion": lambda v: torch.stack([v[0], 2 * v[0], -4 * v[0]]),
    "nearly rank one": lambda v: v[0] + 1e-5 * v,
}


@pytest.mark.parametrize("method", ["auto", *METHODS])
@pytest.mark.parametrize("head", DEFICIENT)
def test_heads_whose_rows_depend_on_each_other(head, method):
    classifier = with_head(DEFICIENT[head](tiny().model.head.weight.detach()))
    found = kernel_of(classifier, TEXTS[:4], TEXTS[3:6], method=method).ft_effective
    assert relative_error(found, explicit(classifier, TEXTS[:4], TEXTS[3:6])) <= TOLERANCE


def test_a_head_of_zeros_has_no_ft_effective_part():
    classifier = with_head(torch.zeros(3, 32))
    kernel = kernel_of(classifier, TEXTS[:3])
    assert torch.equal(kernel.ft_effective, torch.zeros(3, 3, 3, 3, dtype=torch.float64))
    assert kernel.pretrain_effective.abs().min() > 0


def test_a_frozen_encoder_leaves_the_kernel_of_the_head():
    model = deepcopy(tiny().model)
    model.encoder.requires_grad_(False)
    classifier = Classifier(model, tiny().tokenizer)
    kernel = kernel_of(classifier, TEXTS, parameters="trainable")
    assert torch.count_nonzero(kernel.ft_effective) == 0
    phi = explicit_features(model, read(classifier.tokenizer, TEXTS))
    expected = torch.einsum("nm,cd->ncmd", phi @ phi.T + 1, torch.eye(3, dtype=torch.float64))
    assert relative_error(kernel.total(), expected) <= TOLERANCE


def test_a_frozen_head_has_no_pretrain_effective_part():
    model = deepcopy(tiny().model)
    model.head.requires_grad_(False)
    kernel = kernel_of(Classifier(model, tiny().tokenizer), TEXTS, parameters="trainable")
    assert torch.count_nonzero(kernel.pretrain_effective) == 0
    assert relative_error(kernel.ft_effective, explicit(tiny(), TEXTS, TEXTS)) <= TOLERANCE
    assert torch.equal(kernel.total(), kernel.ft_effective)


def test_a_head_without_bias_adds_no_one():
    classifier = tiny(head_bias=False)
    phi = explicit_features(classifier.model, read(classifier.tokenizer, TEXTS))
    kernel = kernel_of(classifier, TEXTS)
    assert relative_error(kernel.pretrain_effective, phi @ phi.T) <= TOLERANCE


def test_the_temperature_is_no_part_of_the_kernel():
    model = deepcopy(tiny().model)
    model.config.temperature = 7.0
    cold, warm = kernel_of(tiny(), TEXTS), kernel_of(Classifier(model, tiny().tokenizer), TEXTS)
    assert torch.equal(cold.ft_effective, warm.ft_effective)
    assert torch.equal(cold.pretrain_effective, warm.pretrain_effective)
