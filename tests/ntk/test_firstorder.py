"""Proposition 4.1 without kernels, against explicit kernels and against real steps."""

from copy import deepcopy
from itertools import pairwise

import numpy as np
import pytest
import torch
from references import (
    DoubleThroughout,
    contract,
    encoder_names,
    explicit_features,
    explicit_ntk,
    trainable_names,
)
from scipy.special import softmax
from tiny_classifiers import read, tiny_adapted, tiny_classifier
from tiny_models import FAMILIES, toy_texts
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from lpft.errors import InputError
from lpft.model.adapters import add_adapter, trained_head
from lpft.ntk.dynamics import FirstStep
from lpft.ntk.passes import DoublePrecision

LABELS = np.array([0, 1, 2, 0, 1])
TEXTS = toy_texts(8, seed=2)[0]
TRAINED = ("full", "lora", "lora at its start")


def case(family, trained="full"):
    """The model, its 5 training texts and 3 others; the seed is for the factors that PEFT draws."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if trained == "lora":
            model, tokenizer = tiny_adapted(family)
        else:
            classifier = tiny_classifier(family)
            model, tokenizer = classifier.model, classifier.tokenizer
            if trained == "lora at its start":
                model = add_adapter(model, "lora", rank=3, alpha=6.0).eval()
    return model, read(tokenizer, TEXTS[:5]), read(tokenizer, TEXTS[5:])


def classifier_of(model):
    return model.get_base_model() if hasattr(model, "peft_config") else model


def feature_jacobian(model, tokens, names):
    """d phi(x_n) / d theta, N x h x P, each text alone, one backward per feature."""
    named = dict(model.named_parameters())
    parameters, rows = [named[name] for name in names], []
    with DoubleThroughout():
        for row in range(len(tokens)):
            for feature in classifier_of(model).features(**tokens.batch([row]))[0]:
                gradients = torch.autograd.grad(
                    feature, parameters, retain_graph=True, materialize_grads=True
                )
                rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(rows).unflatten(0, (len(tokens), -1))


def residuals(model, tokens):
    head = trained_head(model).double()
    logits = head(explicit_features(model, tokens)).detach().numpy()
    return np.eye(3)[LABELS] - softmax(logits, axis=1)


def relative_error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("trained", TRAINED)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_error_falls_with_the_rate_over_three_decades(family, trained):
    model, train, other = case(family, trained)
    # With B = 0 the features move so little that rounding shows at the lowest rate.
    largest = 1e-4 if trained == "lora at its start" else 1e-5
    rates = [largest * 10.0**-decade for decade in range(4)]
    errors = FirstStep(model, train, LABELS).errors(other, rates)
    assert [error.rate for error in errors] == rates
    for name in ("logits", "features"):
        values = [getattr(error, name) for error in errors]
        assert values[0] < 0.1
        falls = [before / after for before, after in pairwise(values)]
        assert len(falls) == 3
        assert min(falls) >= 8, (name, values)


@pytest.mark.parametrize("trained", TRAINED)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_the_sum_of_explicit_kernels_and_residuals(family, trained):
    model, train, other = case(family, trained)
    kernel = explicit_ntk(model, other, train, trainable_names(model)).numpy()
    delta = residuals(deepcopy(model), train)
    expected = np.einsum("ncmd,md->nc", kernel, delta)
    found = FirstStep(model, train, LABELS).predicted(other)
    assert found.logits.shape == (3, 3)
    assert relative_error(found.logits, expected) < 1e-10


@pytest.mark.parametrize(
    ("family", "trained"),
    [("bert", "full"), ("bert", "lora"), ("gpt2", "full"), ("llama", "lora"), ("albert", "full")],
)
def test_features_and_logits_by_the_formulas_of_proposition_4_1(family, trained):
    model, train, other = case(family, trained)
    double = deepcopy(model).double()
    names = [name for name in encoder_names(model) if name in trainable_names(model)]
    ours, theirs = (feature_jacobian(double, tokens, names) for tokens in (other, train))
    theta_phi = contract(ours, theirs).numpy()
    head = trained_head(double).weight.detach().numpy()
    delta = residuals(double, train)
    features = np.einsum("nhmk,ck,mc->nh", theta_phi, head, delta)

    phi, phi_train = (explicit_features(double, tokens).numpy() for tokens in (other, train))
    ft_effective = np.einsum("ch,nhmk,dk->ncmd", head, theta_phi, head)
    logits = (phi @ phi_train.T + 1) @ delta + np.einsum("ncmd,md->nc", ft_effective, delta)

    found = FirstStep(model, train, LABELS).predicted(other)
    assert found.features.shape == (3, 32)
    assert relative_error(found.features, features) < 1e-10
    assert relative_error(found.logits, logits) < 1e-10


@pytest.mark.parametrize("trained", TRAINED)
def test_the_real_change_is_a_step_of_torch_s_sgd(trained):
    model, train, other = case("bert", trained)
    found = FirstStep(model, train, LABELS).real(other, 0.01)

    copy = deepcopy(model).double()

    def outputs():
        inner = classifier_of(copy)
        features = inner.features(**other.batch(range(3)))
        return inner.head(features), features

    before = [result.detach() for result in outputs()]
    parameters = [value for value in copy.parameters() if value.requires_grad]
    logits = copy(**train.batch(range(5))).logits
    nn.functional.cross_entropy(logits, torch.from_numpy(LABELS), reduction="sum").backward()
    torch.optim.SGD(parameters, lr=0.01).step()
    after = [result.detach() for result in outputs()]
    expected = [(now - then).numpy() for now, then in zip(after, before, strict=True)]
    assert relative_error(found.logits, expected[0]) < 1e-11
    assert relative_error(found.features, expected[1]) < 1e-11


class Square(torch.autograd.Function):
    """x^2, differentiable twice backwards and not forwards."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 2 * x * gradient


class WithoutForwardMode(nn.Module):
    def forward(self, x):
        return Square.apply(x)


class WithForwardMode(nn.Module):
    def forward(self, x):
        return x * x


class Resample(nn.Module):
    """x read off a grid at its own nodes, by an operation of torch without forward-mode AD."""

    def forward(self, x):
        rows, columns = (torch.linspace(-1, 1, size, dtype=x.dtype) for size in x.shape[1:])
        nodes = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], -1)
        grid = nodes.expand(len(x), *nodes.shape)
        return nn.functional.grid_sample(x.unsqueeze(1), grid, align_corners=True).squeeze(1)


@pytest.mark.parametrize(
    ("without", "equal"),
    [(WithoutForwardMode, WithForwardMode), (Resample, nn.Identity)],
)
def test_operations_without_forward_mode_go_by_double_backward(without, equal):
    changes = []
    for activation in (without(), equal()):
        model, train, other = case("bert")
        model.encoder.encoder.layer[0].intermediate.intermediate_act_fn = activation
        changes.append(FirstStep(model, train, LABELS).predicted(other))
    assert relative_error(changes[0].logits, changes[1].logits) < 1e-12
    assert relative_error(changes[0].features, changes[1].features) < 1e-12


def test_other_errors_of_the_encoder_are_not_swallowed():
    class Broken(nn.Module):
        def forward(self, x):
            if torch.autograd.forward_ad.unpack_dual(x).tangent is not None:
                raise RuntimeError("out of order")
            return x

    model, train, other = case("bert")
    model.encoder.encoder.layer[0].intermediate.intermediate_act_fn = Broken()
    with pytest.raises(RuntimeError, match="out of order"):
        FirstStep(model, train, LABELS).predicted(other)


@pytest.mark.parametrize("family", ["bert", "gpt2", "deberta-v2"])
def test_batches_change_nothing(family):
    model, train, other = case(family)
    whole = FirstStep(model, train, LABELS, batch_tokens=10_000).predicted(other)
    for batch_tokens in (1, 20):
        parts = FirstStep(model, train, LABELS, batch_tokens=batch_tokens).predicted(other)
        assert relative_error(parts.logits, whole.logits) < 1e-12
        assert relative_error(parts.features, whole.features) < 1e-12


@pytest.mark.parametrize("trained", TRAINED)
def test_the_model_stays_as_it_is(trained):
    model, train, other = case("bert", trained)
    model.train()
    before = deepcopy(model.state_dict())
    FirstStep(model, train, LABELS).predicted(other)
    FirstStep(model, train, LABELS).real(other, 0.1)
    assert model.training
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(after[name].dtype == before[name].dtype for name in before)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert classifier_of(model).encoder.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_the_callers_modes_do_not_matter(context):
    model, train, other = case("bert")
    expected = FirstStep(model, train, LABELS).errors(other, [1e-4])
    with context():
        assert FirstStep(model, train, LABELS).errors(other, [1e-4]) == expected


def test_dropout_is_off():
    model, train, other = case("bert")
    model.train()
    first, second = (FirstStep(model, train, LABELS).predicted(other) for _ in range(2))
    assert np.array_equal(first.features, second.features)


def test_a_frozen_encoder_moves_logits_through_the_head_alone():
    model, train, other = case("bert")
    model.encoder.requires_grad_(False)
    found = FirstStep(model, train, LABELS).predicted(other)
    phi, phi_train = (explicit_features(model, tokens).numpy() for tokens in (other, train))
    expected = (phi @ phi_train.T + 1) @ residuals(model, train)
    assert relative_error(found.logits, expected) < 1e-11
    assert not found.features.any()


def test_a_head_of_zeros_moves_no_feature():
    model, train, other = case("bert")
    nn.init.zeros_(model.head.weight)
    (error,) = FirstStep(model, train, LABELS).errors(other, [1e-3])
    assert error.features is None
    assert error.logits == pytest.approx(0, abs=1e-12)


def test_float32_agrees_to_its_rounding():
    model, train, other = case("bert")
    double = FirstStep(model, train, LABELS).predicted(other)
    single = FirstStep(model, train, LABELS, dtype=torch.float32).predicted(other)
    assert 1e-9 < relative_error(single.logits, double.logits) < 1e-4
    assert relative_error(single.features, double.features) < 1e-4


def test_double_precision_undoes_the_norms_cast_to_float32():
    norm = LlamaRMSNorm(16).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 16, dtype=torch.float64, generator=generator)
    expected = x / (x.square().mean(-1, keepdim=True) + norm.variance_epsilon).sqrt()
    with DoublePrecision():
        torch.testing.assert_close(norm(x), expected, rtol=1e-14, atol=0)
        assert nn.functional.softmax(x, -1, dtype=torch.float32).dtype == torch.float64
        assert x.float().dtype == x.to(torch.float32).dtype == torch.float64
        assert x.half().dtype == torch.float16
        assert torch.arange(3).float().dtype == x.half().to(torch.float32).dtype == torch.float32
    assert (norm(x) - expected).abs().max() > 1e-9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": torch.bfloat16}, "dtype: expected torch.float32 or torch.float64"),
        ({"labels": LABELS[:4]}, r"labels: expected shape \(5,\), found \(4,\)"),
        ({"labels": LABELS + 1}, "class indices of 0 to 2, found 3"),
        ({"batch_tokens": 0}, "batch_tokens: expected at least 1, found 0"),
        ({"model": nn.Linear(2, 2)}, "expected a LinearHeadClassifier"),
        ({"rate": 0.0}, "rate: expected a finite number above 0"),
        ({"rate": float("nan")}, "rate: expected a finite number above 0"),
    ],
)
def test_bad_input_is_refused(change, message):
    model, train, other = case("bert")
    given = {"model": model, "labels": LABELS, "rate": 0.1} | change
    model, labels, rate = (given.pop(name) for name in ("model", "labels", "rate"))
    with pytest.raises(InputError, match=message):
        FirstStep(model, train, labels, **given).real(other, rate)


def test_a_model_without_trainable_parameters_is_refused():
    model, train, other = case("bert")
    model.requires_grad_(False)
    with pytest.raises(InputError, match="no parameter of the model trains"):
        FirstStep(model, train, LABELS).predicted(other)
