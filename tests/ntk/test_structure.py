"""Unusual encoders: what no rule fits goes to autograd or is refused, and is never left out."""

from copy import deepcopy

import pytest
import torch
from references import encoder_names, explicit_ntk, relative_error
from tiny_classifiers import random_classifier, read, tiny_classifier
from tiny_models import tiny_tokenizer
from torch import nn
from transformers import DebertaConfig

from lpft.errors import InputError
from lpft.ntk import empirical_ntk

SHORT = ["the chair was good", "never", "a fine meal"]
LONG = "we took the train and then we saw the lamp but the lamp was poor and bad"
LAYER = "encoder.layer.0.output.dense"


class Keyword(nn.Module):
    """Calls its linear layer by keyword."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(input=x)


class Scaled(nn.Module):
    """A parameter of its own that no rule knows: the result's scale."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, inner.out_features))

    def forward(self, x):
        return self.inner(x) * self.scale


class Gate(nn.Module):
    """A second linear layer that only long texts reach."""

    def __init__(self, inner, least):
        super().__init__()
        self.inner = inner
        self.least = least
        self.extra = nn.Linear(inner.in_features, inner.out_features)

    def forward(self, x):
        return self.inner(x) + self.extra(x) if x.shape[1] >= self.least else self.inner(x)


class Noise(nn.Module):
    """Adds noise even where it evaluates."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        x = self.inner(x)
        return x + torch.randn_like(x)


class Doubled(nn.Linear):
    """Linear by its type and not by what it does; its bias counts twice."""

    def forward(self, x):
        return super().forward(x) + super().forward(x * x)


def doubled(inner):
    module = Doubled(inner.in_features, inner.out_features)
    module.load_state_dict(inner.state_dict())
    return module


def altered(change):
    """A tiny BERT with one of its layers changed."""
    classifier = tiny_classifier("bert")
    model = deepcopy(classifier.model)
    inner = model.encoder.get_submodule(LAYER)
    torch.manual_seed(0)
    model.encoder.set_submodule(LAYER, change(inner))
    return model, classifier.tokenizer


def kernel_of(model, tokenizer, texts, **keywords):
    return empirical_ntk(model, texts, tokenizer=tokenizer, dtype=torch.float64, **keywords)


def explicit(model, tokenizer, texts):
    tokens = read(tokenizer, texts)
    return explicit_ntk(model, tokens, tokens, encoder_names(model))


@pytest.mark.parametrize(
    ("change", "fallback"),
    [
        (Keyword, set()),
        (Scaled, {f"{LAYER}.scale"}),
        (doubled, {f"{LAYER}.weight", f"{LAYER}.bias"}),
        (lambda inner: Gate(inner, 1), set()),
    ],
    ids=["called by keyword", "a parameter without a rule", "not what its type says", "two layers"],
)
def test_what_no_rule_fits_goes_to_autograd(change, fallback):
    model, tokenizer = altered(change)
    texts = [*SHORT, LONG]
    found = kernel_of(model, tokenizer, texts)
    assert set(found.record["plan"]["fallback"]) == fallback
    assert found.record["plan"]["batches_of_several_texts"]
    assert found.record["parameters"] == sum(p.numel() for p in model.encoder.parameters())
    assert relative_error(found.ft_effective, explicit(model, tokenizer, texts)) <= 1e-10


class Counting(nn.Embedding):
    """Looks up the numbers of the tokens that a mask does not hide, and doubles what it finds."""

    def forward(self, mask):
        return 2 * super().forward((mask > 0).cumsum(1))


class Numbered(nn.Module):
    """Adds an embedding that reads no ids."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.numbers = Counting(40, inner.out_features)

    def forward(self, x):
        return self.inner(x) + self.numbers(torch.ones(x.shape[:2], dtype=torch.long))


def test_an_embedding_may_read_anything():
    model, tokenizer = altered(Numbered)
    texts = [*SHORT, LONG]
    found = kernel_of(model, tokenizer, texts)
    assert not found.record["plan"]["by_autograd"]
    assert relative_error(found.ft_effective, explicit(model, tokenizer, texts)) <= 1e-10


class Shifted(nn.Module):
    """Multiplies a result by a matrix that no rule knows."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.mixing = nn.Parameter(torch.eye(32) + 0.1)

    def forward(self, *arguments, **named):
        return self.inner(*arguments, **named) @ self.mixing


def test_texts_pass_one_by_one_where_most_blocks_need_it():
    model, tokenizer = altered(Shifted)
    for name in ("encoder.layer.1.output.dense", "embeddings.LayerNorm"):
        model.encoder.set_submodule(name, Shifted(model.encoder.get_submodule(name)))
    texts = [*SHORT, LONG]
    found = kernel_of(model, tokenizer, texts)
    assert not found.record["plan"]["batches_of_several_texts"]
    assert len(found.record["plan"]["fallback"]) == 3
    assert relative_error(found.ft_effective, explicit(model, tokenizer, texts)) <= 1e-10


def test_results_that_are_written_into():
    """DeBERTa's first version divides what its projections of positions return in place."""
    classifier = random_classifier(
        DebertaConfig(
            vocab_size=40,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            max_position_embeddings=64,
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
        ),
        tiny_tokenizer("bert"),
        ("a", "b"),
        pooling="first",
    )
    found = kernel_of(classifier.model, classifier.tokenizer, SHORT)
    expected = explicit(classifier.model, classifier.tokenizer, SHORT)
    assert relative_error(found.ft_effective, expected) <= 1e-10


class Flat(nn.Module):
    """Looks positions up by a list of ids, without a sample axis."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, ids):
        return self.inner(ids[0])


def test_as_many_texts_as_tokens_are_not_taken_for_one_another():
    classifier = tiny_classifier("bert")
    model = deepcopy(classifier.model)
    embeddings = model.encoder.embeddings
    embeddings.position_embeddings = Flat(embeddings.position_embeddings)
    texts = ["good chair", "a film", "never again", "the lamp"]
    assert list(read(classifier.tokenizer, texts).lengths) == [4] * 4
    found = kernel_of(model, classifier.tokenizer, texts)
    assert found.record["plan"]["batches_of_several_texts"]
    expected = explicit(model, classifier.tokenizer, texts)
    assert relative_error(found.ft_effective, expected) <= 1e-10


class Broken(nn.Module):
    """Fails however it is called."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, _):
        raise RuntimeError("no kernel\nfor this type")


def test_an_encoder_that_fails_is_refused_in_one_line():
    model, tokenizer = altered(Broken)
    with pytest.raises(InputError, match=r"cannot be differentiated \(no kernel\)") as refused:
        kernel_of(model, tokenizer, SHORT)
    assert "\n" not in str(refused.value)


def test_parameters_that_only_some_texts_reach_are_left_to_autograd():
    model, tokenizer = altered(lambda inner: Gate(inner, 14))
    short = kernel_of(model, tokenizer, SHORT)
    assert relative_error(short.ft_effective, explicit(model, tokenizer, SHORT)) <= 1e-10
    texts = [*SHORT, LONG]
    kernel = kernel_of(model, tokenizer, texts)
    assert relative_error(kernel.ft_effective, explicit(model, tokenizer, texts)) <= 1e-10


def test_they_count_where_nothing_else_trains():
    model, tokenizer = altered(lambda inner: Gate(inner, 14))
    model.encoder.requires_grad_(False)
    model.encoder.get_submodule(f"{LAYER}.extra").requires_grad_(True)
    short = kernel_of(model, tokenizer, SHORT, parameters="trainable")
    assert torch.count_nonzero(short.ft_effective) == 0
    kernel = kernel_of(model, tokenizer, [*SHORT, LONG], parameters="trainable")
    nonzero = kernel.ft_effective.abs().sum((1, 3)) > 0
    assert nonzero.nonzero().tolist() == [[len(SHORT), len(SHORT)]]  # the long text with itself


def test_a_model_that_draws_while_it_evaluates_is_refused():
    model, tokenizer = altered(Noise)
    with pytest.raises(InputError, match="differs from one pass to the next") as refused:
        kernel_of(model, tokenizer, SHORT)
    assert "\n" not in str(refused.value)
    assert all(parameter.requires_grad for parameter in model.parameters())
