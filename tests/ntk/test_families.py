"""Exact kernels of every family and method, against the explicit Jacobian of plain autograd."""

import re
from copy import deepcopy
from functools import cache
from itertools import product
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
    explicit_ntk,
    head_names,
    relative_error,
    trainable_names,
)
from tiny_classifiers import read, scatter, tiny_adapted, tiny_classifier
from tiny_models import EACH_FAMILY, WORDS, tiny_tokenizer
from torch import Tensor, nn
from transformers import (
    CTRLConfig,
    Gemma2Config,
    Gemma3TextConfig,
    MixtralConfig,
    PreTrainedTokenizerBase,
    RoFormerConfig,
    SqueezeBertConfig,
)

from lpft.model.classifier import attach_head
from lpft.model.encoder import build_encoder
from lpft.ntk import KernelJob, KernelRequest, Options, empirical_ntk, request_of, studied_model
from lpft.settings import Pooling

METHODS = ("auto", "materialize", "token_gram", "sandwich")
TOLERANCE = 1e-10

SINGLE = (
    [
        "the chair was good",
        "never",
        "we took the train and then we saw the lamp but the lamp was poor",
        "good good good the good the film",
        "a fine meal",
    ],
    ["they ate the meal quickly and the chair", "good", "the film was not the film"],
)
PAIRS = (
    [
        ("the chair", "was good but never the chair"),
        ("never", "yes"),
        ("we took the train and then the train", "no"),
        ("a fine meal", "a fine meal"),
    ],
    [("they ate", "the meal quickly"), ("the film was not the film", "it was")],
)
CASES = list(product(("full", "lora"), ("single", "pairs"), METHODS))


class Case(NamedTuple):
    """A model, its texts, and the explicit Jacobians of its encoder's parameters.

    The parameters are all of a plain model's, and the adapters' of an adapted one. ``head`` and
    ``pretrain`` are the explicit kernel of the head's parameters and ``Phi Phi'^T + 1``.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    names: list[str]
    a: list
    b: list
    left: Tensor
    right: Tensor
    head: Tensor
    pretrain: Tensor


@cache
def case(
    family: str, kind: str = "full", texts: str = "single", pooling: Pooling | None = None
) -> Case:
    if kind == "full":
        classifier = tiny_classifier(family, pooling=pooling)
        model, tokenizer = classifier.model, classifier.tokenizer
        names = encoder_names(model)
    else:
        model, tokenizer = tiny_adapted(family, kind)
        names = [name for name in trainable_names(model) if name not in head_names(model)]
    a, b = SINGLE if texts == "single" else PAIRS
    tokens = read(tokenizer, a), read(tokenizer, b)
    left, right = (explicit_jacobian(model, given, names) for given in tokens)
    phi, other = (explicit_features(model, given) for given in tokens)
    head = explicit_ntk(model, *tokens, head_names(model))
    return Case(model, tokenizer, names, a, b, left, right, head, phi @ other.T + 1)


def kernel_of(given: Case, a: list, b: list | None = None, **keywords):
    parameters = "trainable" if "lora_" in given.names[0] else "all"
    keywords = {"dtype": torch.float64, "parameters": parameters, "check_entries": 0} | keywords
    return empirical_ntk(given.model, a, b, tokenizer=given.tokenizer, **keywords)


def assert_close(found: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    assert relative_error(found, expected) <= tolerance


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("family", EACH_FAMILY)
def test_the_explicit_jacobian_is_that_of_finite_differences(family, kind):
    given = case(family, kind)
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(given.left.shape[2], generator=generator, dtype=torch.float64)
    tokens = read(given.tokenizer, given.a)
    found = directional_derivative(given.model, tokens, given.names, direction, step=1e-6)
    assert_close(found, given.left @ direction, tolerance=1e-8)


@pytest.mark.parametrize(("kind", "texts", "method"), CASES, ids=map("-".join, CASES))
@pytest.mark.parametrize("family", EACH_FAMILY)
def test_every_method_meets_the_explicit_jacobian(family, kind, texts, method):
    given = case(family, kind, texts)
    kernel = kernel_of(given, given.a, given.b, contraction=method)
    explicit = contract(given.left, given.right)
    assert_close(kernel.ft_effective, explicit)
    assert_close(kernel.pretrain_effective, given.pretrain)
    assert_close(kernel.total(), explicit + given.head)


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_one_set_of_texts_against_itself(family):
    given = case(family)
    assert_close(kernel_of(given, given.a).ft_effective, contract(given.left, given.left))


@pytest.mark.parametrize("method", METHODS[1:])
@pytest.mark.parametrize("family", ["albert", "gpt2"])
def test_one_set_of_texts_by_every_method(family, method):
    given = case(family)
    kernel = kernel_of(given, given.a, contraction=method)
    assert_close(kernel.ft_effective, contract(given.left, given.left))


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("family", EACH_FAMILY)
def test_a_batch_of_one_text(family, kind):
    given = case(family, kind)
    kernel = kernel_of(given, given.a[2:3], given.b[:1])
    assert_close(kernel.ft_effective, contract(given.left[2:3], given.right[:1]))


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_another_adapter_meets_the_explicit_jacobian(family):
    given = case(family, "dora")
    assert any("magnitude" in name for name in given.names)
    kernel = kernel_of(given, given.a, given.b)
    assert_close(kernel.ft_effective, contract(given.left, given.right))


@pytest.mark.parametrize("family", ["bert", "albert", "gpt2", "llama"])
def test_all_parameters_of_an_adapted_model_are_its_weights_and_its_factors(family):
    adapted = case(family, "lora")
    names = encoder_names(adapted.model)
    assert set(adapted.names) < set(names)
    tokens = (read(adapted.tokenizer, texts) for texts in (adapted.a, adapted.b))
    kernel = kernel_of(adapted, adapted.a, adapted.b, parameters="all")
    assert_close(kernel.ft_effective, explicit_ntk(adapted.model, *tokens, names))


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_lora_at_its_start_meets_the_explicit_jacobian(family):
    """B = 0: only its gradient counts, that of A is zero."""
    model, tokenizer, names = case(family, "lora")[:3]
    model = deepcopy(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    a, b = (read(tokenizer, texts) for texts in SINGLE)
    shares = explicit_kernels(model, a, b, names)
    assert all(not share.any() for name, share in shares.items() if "lora_A" in name)
    kernel = empirical_ntk(
        model, *SINGLE, tokenizer=tokenizer, parameters="trainable", dtype=torch.float64
    )
    assert_close(kernel.ft_effective, torch.stack(list(shares.values())).sum(0))


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_lora_in_one_pass_with_full_fine_tuning_is_what_it_is_alone(family):
    given = case(family, "lora")
    subject = studied_model(given.model, given.tokenizer, None)
    full = request_of(subject)
    adapters = request_of(subject, "trainable")
    doubled = KernelRequest(2 * adapters.weight, adapters.parameters)
    options = Options(dtype=torch.float64, device="cpu")
    requests = {"full": full, "lora": adapters, "doubled": doubled}
    found = KernelJob(subject, requests, [given.a, given.b], ((0, 1),), options).run()
    kernels = {name: blocks[0, 1].ft_effective for name, blocks in found.items()}
    lora = contract(given.left, given.right)
    assert_close(kernels["lora"], lora)
    assert_close(kernels["doubled"], 4 * lora)
    assert_close(kernels["full"], kernel_of(given, given.a, given.b, parameters="all").ft_effective)
    assert_close(kernels["lora"], kernel_of(given, given.a, given.b).ft_effective)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("family", "pooling"),
    [("bert", "last"), ("bert", "mean"), ("llama", "first"), ("llama", "mean")],
)
def test_poolings_that_are_not_the_familys_own(family, pooling, method):
    given = case(family, pooling=pooling)
    kernel = kernel_of(given, given.a, given.b, contraction=method)
    assert_close(kernel.ft_effective, contract(given.left, given.right))


@pytest.mark.parametrize(
    "part",
    ["embeddings", "bias", "LayerNorm", "layer.1.", "query", "position_embeddings", "token_type"],
)
def test_a_part_of_the_parameters_trains(part):
    model, tokenizer, *_ = case("bert")
    model = deepcopy(model)
    for name, parameter in model.encoder.named_parameters():
        parameter.requires_grad_(part in name)
    names = [name for name in trainable_names(model) if name not in head_names(model)]
    assert 0 < len(names) < len(encoder_names(model))
    a, b = (read(tokenizer, texts) for texts in PAIRS)
    shares = explicit_kernels(model, a, b, names)
    kernel = empirical_ntk(
        model, *PAIRS, parameters="trainable", tokenizer=tokenizer, dtype=torch.float64
    )
    assert_close(kernel.ft_effective, torch.stack(list(shares.values())).sum(0))


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_single_precision_keeps_five_digits(family):
    given = case(family)
    kernel = kernel_of(given, given.a, given.b, dtype=torch.float32)
    assert_close(kernel.ft_effective, contract(given.left, given.right), tolerance=1e-5)


UNUSUAL = (
    ["the chair was good", "never", "we took the train and then the lamp", "good good film"],
    ["good", "the film was not the film"],
)
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
    # Convolutions with groups, and normalisation over the other axis.
    "squeezebert": SqueezeBertConfig(
        **_SIZES, embedding_size=32, **{f"{name}_groups": 2 for name in _GROUPS}
    ),
    # Experts whose grouped products know no float64.
    "mixtral": MixtralConfig(**_DECODER, num_local_experts=3),
}
BY_AUTOGRAD = {
    "mixtral": r"layers\.\d\.mlp\.(gate\.weight|experts\.(gate_up_proj|down_proj))",
}


def unusual(family):
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
def test_modules_that_do_other_things_than_their_types_say(family):
    model, tokenizer = unusual(family)
    kernel = empirical_ntk(model, *UNUSUAL, tokenizer=tokenizer, max_length=40, dtype=torch.float64)
    plan = kernel.record["plan"]
    by_autograd = {
        name
        for name, _ in model.encoder.named_parameters()
        if family in BY_AUTOGRAD and re.match(BY_AUTOGRAD[family], name)
    }
    assert set(plan["by_autograd"]) == set(plan["fallback"]) == by_autograd
    assert plan["batches_of_several_texts"]
    assert kernel.certificate.largest_relative_error <= 1e-10
    if family == "mixtral":
        model.encoder.set_experts_implementation("eager")
    tokens = (read(tokenizer, texts) for texts in UNUSUAL)
    assert_close(kernel.ft_effective, explicit_ntk(model, *tokens, encoder_names(model)))
