"""Properties of any exact kernel: symmetry, order, padding, scale and rank of the head."""

from copy import deepcopy
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from references import encoder_names, explicit_features, explicit_ntk, relative_error
from tiny_classifiers import read, tiny_classifier
from tiny_models import DECODERS, EACH_FAMILY, FAMILIES, WORDS, toy_texts
from tokenizers.processors import TemplateProcessing
from torch import Tensor

from lpft.model import Classifier
from lpft.ntk import empirical_ntk
from lpft.ntk.memory import PORTIONS
from lpft.ntk.storage import Layout

TOLERANCE = 1e-10
METHODS = ("materialize", "token_gram", "sandwich")
TEXTS = toy_texts(9, seed=3)[0]
COLUMNS = slice(2, 7)

texts_of_words = st.lists(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join), min_size=1, max_size=5
)
properties = settings(
    max_examples=5, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate]
)
"""Without shrinking: an example takes longer than the hundreds of smaller ones are worth."""


@cache
def tiny(family: str = "bert", **keywords) -> Classifier:
    return tiny_classifier(family, **keywords)


def kernel_of(classifier: Classifier, a: list, b: list | None = None, **keywords):
    keywords = {"dtype": torch.float64, "check_entries": 0} | keywords
    return empirical_ntk(classifier.model, a, b, tokenizer=classifier.tokenizer, **keywords)


@cache
def kernel_of_texts(family: str = "bert"):
    return kernel_of(tiny(family), TEXTS)


def explicit(classifier: Classifier, a: list, b: list) -> Tensor:
    left, right = (read(classifier.tokenizer, texts) for texts in (a, b))
    return explicit_ntk(classifier.model, left, right, encoder_names(classifier.model))


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
        assert relative_error(matrix, matrix.T) <= 1e-14
        eigenvalues = torch.linalg.eigvalsh(matrix)
        assert eigenvalues[0] >= -TOLERANCE * eigenvalues[-1]


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "gpt2"])
def test_many_texts_give_what_each_gives_alone(family):
    together = kernel_of(tiny(family), TEXTS[:2], TEXTS[4:6]).ft_effective
    for row, one in enumerate(TEXTS[:2]):
        for column, other in enumerate(TEXTS[4:6]):
            alone = kernel_of(tiny(family), [one], [other]).ft_effective
            block = together[row : row + 1, :, column : column + 1]
            assert relative_error(block, alone) <= TOLERANCE


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "gpt2"])
def test_the_size_of_batches_does_not_matter(monkeypatch, family):
    together = kernel_of_texts(family).ft_effective
    monkeypatch.setitem(PORTIONS, "cpu", replace(PORTIONS["cpu"], batch_tokens=16))
    assert relative_error(kernel_of(tiny(family), TEXTS).ft_effective, together) <= TOLERANCE


@pytest.mark.parametrize("columns", [None, TEXTS[COLUMNS]], ids=["symmetric", "rows and columns"])
@pytest.mark.parametrize(
    ("tiles", "place", "stages"),
    [(1, "memory", 1), (3, "memory", 1), (4, "files", 1), (1, "files", 3), (3, "memory", 8)],
)
@pytest.mark.parametrize(
    "family",
    ["bert", "gpt2", *(pytest.param(f, marks=pytest.mark.heavy) for f in ("albert", "deberta-v2"))],
)
def test_tiles_chunks_and_stages_do_not_matter(tmp_path, family, tiles, place, stages, columns):
    expected = kernel_of_texts(family)
    Layout(tiles, place, workspace=4000, stages=stages).write(tmp_path)
    found = kernel_of(tiny(family), TEXTS, columns, cache_dir=tmp_path)
    assert found.record["plan"]["tiles"] >= tiles
    assert (found.record["plan"]["stages"] > 1) == (stages > 1)
    kept = slice(None) if columns is None else COLUMNS
    assert relative_error(found.ft_effective, expected.ft_effective[:, :, kept]) <= TOLERANCE
    assert relative_error(found.pretrain_effective, expected.pretrain_effective[:, kept]) <= (
        TOLERANCE
    )


@pytest.mark.parametrize("family", ["roberta", "llama"])
def test_one_set_is_the_same_set_given_twice(family):
    twice = kernel_of(tiny(family), TEXTS, list(TEXTS)).ft_effective
    assert relative_error(twice, kernel_of_texts(family).ft_effective) <= TOLERANCE


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_the_side_of_the_padding_does_not_matter(family):
    left = Classifier(tiny(family).model, deepcopy(tiny(family).tokenizer))
    left.tokenizer.padding_side = "left"
    expected = kernel_of_texts(family).ft_effective
    assert relative_error(kernel_of(left, TEXTS).ft_effective, expected) <= TOLERANCE


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_repeated_words_within_and_across_texts(family):
    texts = ["good good good good", "good", "the good the good the", "bad bad good"]
    found = kernel_of(tiny(family), texts, texts[:2]).ft_effective
    assert relative_error(found, explicit(tiny(family), texts, texts[:2])) <= TOLERANCE


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_padding_ids_within_a_text(family):
    """A decoder without a padding token pads by the one that ends texts."""
    classifier = tiny(family)
    pad = classifier.tokenizer.pad_token
    assert pad == ("<sep>" if family in DECODERS else "<pad>")
    marked = ("the {0} chair {0} {0} was good", "{0} never", "a film", "the chair {0}")
    texts = [text.format(pad) for text in marked]
    ids = read(classifier.tokenizer, texts).lists()
    assert sum(row.count(classifier.tokenizer.pad_token_id) for row in ids) == 5
    found = kernel_of(classifier, texts).ft_effective
    assert relative_error(found, explicit(classifier, texts, texts)) <= TOLERANCE


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", EACH_FAMILY)
def test_texts_of_one_token(family, method):
    texts, others = ["good", "bad", "good"], ["the chair was bad", "good"]
    tokenizer = deepcopy(tiny(family).tokenizer)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B:1")
    classifier = Classifier(tiny(family).model, tokenizer)
    assert list(read(tokenizer, texts).lengths) == [1, 1, 1]
    found = kernel_of(classifier, texts, others, contraction=method).ft_effective
    assert relative_error(found, explicit(classifier, texts, others)) <= TOLERANCE


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


@pytest.mark.parametrize("power", [-3, 0, 5])
@pytest.mark.parametrize("sign", [1, -1])
def test_f_grows_with_the_square_of_the_head(sign, power):
    scale = sign * 2.0**power  # exact in float32
    before = kernel_of(tiny(), TEXTS[:3])
    after = kernel_of(with_head(scale * tiny().model.head.weight.detach()), TEXTS[:3])
    assert relative_error(after.ft_effective, scale**2 * before.ft_effective) <= 1e-13
    assert torch.equal(after.pretrain_effective, before.pretrain_effective)


DEFICIENT = {
    "rows that sum to zero": lambda v: v - v.mean(0),
    "two opposite rows": lambda v: torch.stack([v[0], -v[0], torch.zeros_like(v[0])]),
    "two equal rows": lambda v: torch.stack([v[0], v[1], v[0]]),
    "rows in proportion": lambda v: torch.stack([v[0], 2 * v[0], -4 * v[0]]),
    "nearly rank one": lambda v: v[0] + 1e-5 * v,
}


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, TOLERANCE), (torch.float32, 1e-5)]
)
@pytest.mark.parametrize("head", DEFICIENT)
def test_heads_whose_rows_depend_on_each_other(head, dtype, tolerance):
    classifier = with_head(DEFICIENT[head](tiny().model.head.weight.detach()))
    found = kernel_of(classifier, TEXTS[:4], TEXTS[3:6], dtype=dtype).ft_effective
    assert relative_error(found, explicit(classifier, TEXTS[:4], TEXTS[3:6])) <= tolerance


@pytest.mark.parametrize("method", METHODS)
def test_a_head_of_rank_one_by_every_method(method):
    classifier = with_head(DEFICIENT["two opposite rows"](tiny().model.head.weight.detach()))
    found = kernel_of(classifier, TEXTS[:4], TEXTS[3:6], contraction=method)
    assert found.record["head_rank"] == 1
    expected = explicit(classifier, TEXTS[:4], TEXTS[3:6])
    assert relative_error(found.ft_effective, expected) <= TOLERANCE


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


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_a_half_frozen_head_keeps_the_part_that_trains(part):
    model = deepcopy(tiny().model)
    model.head.get_parameter(part).requires_grad_(False)
    kernel = kernel_of(Classifier(model, tiny().tokenizer), TEXTS[:3], parameters="trainable")
    whole = kernel_of(tiny(), TEXTS[:3]).pretrain_effective
    expected = torch.ones_like(whole) if part == "weight" else whole - 1
    assert relative_error(kernel.pretrain_effective, expected) <= TOLERANCE


def test_a_head_without_bias_adds_no_one():
    classifier = tiny(head_bias=False)
    phi = explicit_features(classifier.model, read(classifier.tokenizer, TEXTS))
    kernel = kernel_of(classifier, TEXTS)
    assert relative_error(kernel.pretrain_effective, phi @ phi.T) <= TOLERANCE


def test_the_temperature_is_no_part_of_the_kernel():
    model = deepcopy(tiny().model)
    model.config.temperature = 7.0
    cold, warm = kernel_of_texts(), kernel_of(Classifier(model, tiny().tokenizer), TEXTS)
    assert torch.equal(cold.ft_effective, warm.ft_effective)
    assert torch.equal(cold.pretrain_effective, warm.pretrain_effective)
