"""Adapters: what trains, that the head survives wrapping, saving, loading and merging."""

from copy import deepcopy

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny_models import FAMILIES, save_tiny_model, tiny_config, tiny_tokenizer
from transformers import AutoModel, IBertConfig, SqueezeBertConfig

from lpft.cli.listings import TESTED_FAMILIES
from lpft.errors import InputError
from lpft.model import build_classifier
from lpft.model.adapters import (
    ADAPTERS,
    adapt,
    add_adapter,
    add_configured,
    add_ia3,
    configuration,
    is_bias,
    merge_adapter,
    save_adapter,
    trained_head,
)
from lpft.model.encoder import seeded
from lpft.settings import TrainingSettings, resolve
from lpft.settings.methods import METHODS

IDS = torch.tensor([[4, 5, 6, 7], [8, 9, 10, 11]])


def build(tmp_path, family):
    folder = save_tiny_model(family, tmp_path / family)
    return build_classifier(str(folder), ("a", "b", "c"), seed=0, max_length=32).model


def train_a_little(model):
    """Random steps on whatever trains, so that factors and head leave their start."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("family", TESTED_FAMILIES, ids=lambda family: family.model_type)
def test_lora_adapts_the_projections_that_the_table_names(tmp_path, family):
    model = build(tmp_path, family.model_type)
    adapted = add_adapter(model, "lora", rank=3, alpha=8)
    training = {name for name, value in adapted.named_parameters() if value.requires_grad}
    factors = {name for name in training if "lora_" in name}
    projections = {name.split(".lora_")[0].rpartition(".")[2] for name in factors}
    assert projections == set(family.adapted)
    head = training - factors
    assert {name.rpartition(".")[2] for name in head} == {"weight", "bias"}
    assert all(".head.modules_to_save." in name for name in head)
    layers = 1 if family.model_type == "albert" else 2
    assert len(factors) == 2 * layers * len(family.adapted)
    for name, value in adapted.named_parameters():
        if "lora_A" in name:
            assert value.shape[0] == 3


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_fresh_adapter_changes_no_logit(tmp_path, name):
    model = build(tmp_path, "bert")
    before = logits(model)
    torch.testing.assert_close(logits(add_adapter(model, name, rank=4, alpha=8)), before)


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_trained_head_and_factors_survive_saving_loading_and_merging(tmp_path, family, name):
    trained = train_a_little(add_adapter(build(tmp_path, family), name, rank=4, alpha=8))
    expected, head = logits(trained), trained_head(trained).weight.detach().clone()
    save_adapter(trained, tmp_path / "adapter")

    loaded = PeftModel.from_pretrained(build(tmp_path, family), tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(trained_head(loaded).weight, head)

    merged = merge_adapter(trained)
    assert torch.equal(merged.head.weight, head)
    assert not [key for key in merged.state_dict() if "lora" in key or "base_layer" in key]
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-5)


def test_merging_adds_the_scaled_product_of_the_factors(tmp_path):
    model = build(tmp_path, "bert")
    name = "encoder.encoder.layer.0.attention.self.query"
    before = model.get_submodule(name).weight.detach().clone()
    trained = train_a_little(add_adapter(model, "lora", rank=4, alpha=10))
    layer = trained.get_submodule(f"base_model.model.{name}")
    product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    expected = before + (10 / 4) * product.detach()
    after = merge_adapter(trained).get_submodule(name).weight
    torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-6)


def test_the_adapter_file_holds_factors_and_head_alone(tmp_path):
    trained = add_adapter(build(tmp_path, "bert"), "lora", rank=2, alpha=8)
    save_adapter(trained, tmp_path / "adapter")
    keys = set(load_file(tmp_path / "adapter/adapter_model.safetensors"))
    assert {key for key in keys if "lora_" not in key} == {
        "base_model.model.head.weight",
        "base_model.model.head.bias",
    }
    assert len(keys) == 2 + 2 * 2 * 2


def test_a_model_without_known_projections_is_refused(tmp_path):
    model = build(tmp_path, "bert")
    model.encoder = torch.nn.ModuleDict({"mixer": torch.nn.Linear(2, 2)})
    with pytest.raises(InputError, match="no query and value projections"):
        add_adapter(model, "lora", rank=2, alpha=8)


@pytest.mark.parametrize(
    ("kind", "settings", "says"),
    [
        (IBertConfig, {}, "ibert models .*QuantLinear"),
        (SqueezeBertConfig, {"embedding_size": 32}, "squeezebert models .*Merging"),
    ],
    ids=["cannot adapt", "cannot merge"],
)
@pytest.mark.parametrize("name", ADAPTERS)
def test_layers_that_peft_cannot_adapt_or_merge_are_refused_at_once(
    tmp_path, kind, settings, says, name
):
    sizes = tiny_config("bert").to_dict()
    for key in ("model_type", "architectures", "transformers_version"):
        sizes.pop(key, None)
    AutoModel.from_config(kind(**(sizes | settings))).save_pretrained(tmp_path)
    tiny_tokenizer("bert").save_pretrained(tmp_path)
    model = build_classifier(str(tmp_path), ("a", "b"), seed=0, max_length=32).model
    with pytest.raises(InputError, match=f"LoRA cannot be used with {says}"):
        add_adapter(model, name, rank=8, alpha=8)


def test_projections_whose_weight_is_used_without_calling_them_are_refused(tmp_path):
    model = build(tmp_path, "bert")
    attention = model.encoder.encoder.layer[1].attention.self
    attention.forward = lambda states, *_, **__: (states @ attention.query.weight.T, None)
    with pytest.raises(InputError, match=r"layer\.1\.attention\.self\.\w+ is used without"):
        add_adapter(model, "lora", rank=2, alpha=8)


def test_projections_in_parts_that_read_no_text_are_left_alone(tmp_path):
    model = build(tmp_path, "bert")
    model.encoder.vision = deepcopy(model.encoder.encoder)
    adapted = add_adapter(model, "lora", rank=2, alpha=8)
    factors = [name for name, _ in adapted.named_parameters() if "lora_" in name]
    assert len(factors) == 2 * 2 * 2
    assert not [name for name in factors if "vision" in name]


def test_adding_an_adapter_leaves_the_weights_and_the_mode_as_they_are(tmp_path):
    plain = build(tmp_path, "bert").train()
    before = {name: value.clone() for name, value in plain.encoder.named_parameters()}
    adapted = add_adapter(plain, "dora", rank=2, alpha=8)
    assert adapted.training
    assert all(module.training for module in adapted.modules())
    after = {
        name.replace("base_layer.", ""): value
        for name, value in adapted.base_model.model.encoder.named_parameters()
        if "lora" not in name
    }
    assert all(torch.equal(after[name], value) for name, value in before.items())


HEAD = 3 * 32 + 3
LAYERS, WIDTH, INNER = 2, 32, 64
TRAINED_NUMBERS = {
    # query, key, value, output, two feed-forward layers, two norms; the norm of the embeddings
    ("bitfit", "bert"): LAYERS * (7 * WIDTH + INNER) + WIDTH,
    ("bitfit", "roberta"): LAYERS * (7 * WIDTH + INNER) + WIDTH,
    ("bitfit", "distilbert"): LAYERS * (7 * WIDTH + INNER) + WIDTH,
    # relative positions have a norm too
    ("bitfit", "deberta-v2"): LAYERS * (7 * WIDTH + INNER) + 2 * WIDTH,
    # query, key and value are one; the inner width is 4 times the outer one; a last norm
    ("bitfit", "gpt2"): LAYERS * (3 * WIDTH + 4 * WIDTH + 4 * WIDTH) + WIDTH,
    # keys, values, and the inner states of the feed-forward part
    **{
        ("ia3", family): LAYERS * (2 * WIDTH + INNER)
        for family in ("bert", "roberta", "distilbert", "deberta-v2")
    },
    ("ia3", "gpt2"): LAYERS * (3 * WIDTH + 4 * WIDTH),
    # a key and a value of the whole width, in every layer
    **{("prefix", family): 5 * LAYERS * 2 * WIDTH for family in ("bert", "roberta", "gpt2")},
}


def adapted_by(model, method, **changes):
    settings = resolve(TrainingSettings(method=method, **changes))
    with seeded(0):
        return adapt(model, METHODS[method], settings)


@pytest.mark.parametrize(("method", "family"), TRAINED_NUMBERS)
def test_a_method_trains_its_own_numbers_and_the_head(tmp_path, method, family):
    length = {"prefix_length": 5} if method == "prefix" else {}
    adapted = adapted_by(build(tmp_path, family), method, **length)
    trained = sum(value.numel() for value in adapted.parameters() if value.requires_grad)
    assert trained == TRAINED_NUMBERS[method, family] + HEAD
    assert all(value.requires_grad for value in trained_head(adapted).parameters())


def test_bitfit_trains_biases_alone_and_leaves_a_plain_model(tmp_path):
    model = build(tmp_path, "bert")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained = merge_adapter(train_a_little(adapted_by(model, "bitfit")))
    state = trained.state_dict()
    assert state.keys() == before.keys()
    changed = {name for name, value in state.items() if not torch.equal(value, before[name])}
    assert changed == {"head.weight", *(name for name in before if name.endswith(".bias"))}
    assert all(value.requires_grad for value in trained.parameters())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("layer.0.output.LayerNorm.bias", True),
        ("layer.0.attention.q_bias", True),
        ("layer.0.output.dense.weight", False),
        ("relative_attention_bias.weight", False),
    ],
)
def test_biases_are_known_by_their_names(name, expected):
    assert is_bias(name) is expected


@pytest.mark.parametrize("family", ["llama", "modernbert"])
def test_bitfit_refuses_families_without_biases(tmp_path, family):
    with pytest.raises(InputError, match=f"{family} models have no bias terms"):
        adapted_by(build(tmp_path, family), "bitfit")


@pytest.mark.parametrize("family", FAMILIES)
def test_factors_of_ia3_start_at_nothing_and_are_merged(tmp_path, family):
    model = build(tmp_path, family)
    before = logits(model)
    adapted = add_ia3(model)
    assert torch.equal(logits(adapted), before)
    expected = logits(train_a_little(adapted))
    assert not torch.allclose(expected, before)
    merged = merge_adapter(adapted)
    assert not [key for key in merged.state_dict() if "ia3" in key or "base_layer" in key]
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-5)


def test_ia3_scales_rows_of_keys_and_values_and_columns_of_the_second_feed_forward_layer(tmp_path):
    """(l x W) for keys and values, W l for what the feed-forward part reads."""
    model = build(tmp_path, "bert")
    layer = "encoder.encoder.layer.1"
    key, out = f"{layer}.attention.self.key", f"{layer}.output.dense"
    before = {name: model.get_submodule(name).weight.detach().clone() for name in (key, out)}
    trained = train_a_little(add_ia3(model))
    factors = {
        name: trained.get_submodule(f"base_model.model.{name}").ia3_l["default"].detach().flatten()
        for name in (key, out)
    }
    merged = merge_adapter(trained)
    rows = factors[key][:, None] * before[key]
    torch.testing.assert_close(merged.get_submodule(key).weight, rows)
    columns = before[out] * factors[out][None, :]
    torch.testing.assert_close(merged.get_submodule(out).weight, columns)


CONFIGURATIONS = (
    {"peft_type": "LORA", "r": 2, "target_modules": ["dense"], "bias": "all"},
    {"peft_type": "LOHA", "r": 2, "target_modules": ["query", "value"]},
    {"peft_type": "OFT", "oft_block_size": 4, "target_modules": "all-linear"},
    {"peft_type": "LN_TUNING", "target_modules": ["LayerNorm"]},
    {"peft_type": "VERA", "r": 8, "target_modules": ["query", "key"], "modules_to_save": ["score"]},
)


@pytest.mark.parametrize("content", CONFIGURATIONS, ids=lambda content: content["peft_type"])
def test_configured_adapters_are_merged_and_saved_with_the_head(tmp_path, content):
    with seeded(0):
        trained = train_a_little(add_configured(build(tmp_path, "bert"), content))
    expected, head = logits(trained), trained_head(trained).weight.detach().clone()
    save_adapter(trained, tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(build(tmp_path, "bert"), tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-4, atol=1e-5)
    merged = merge_adapter(trained)
    assert torch.equal(merged.head.weight, head)
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "content",
    [
        {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 3, "prefix_projection": True},
        {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3},
        {"peft_type": "P_TUNING", "num_virtual_tokens": 3, "encoder_hidden_size": 8},
    ],
    ids=lambda content: content["peft_type"],
)
def test_what_computes_virtual_tokens_gives_way_to_their_table(tmp_path, content):
    with seeded(0):
        trained = train_a_little(add_configured(build(tmp_path, "bert"), content))
    expected = logits(trained)
    plain = merge_adapter(trained)
    assert [name for name in plain.state_dict() if "virtual" in name] == ["virtual_tokens.table"]
    torch.testing.assert_close(logits(plain), expected)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"peft_type": "LORAX"}, "peft_type LORAX is unknown: expected one of .*LORA"),
        ({"peft_type": "ADALORA"}, "ADALORA is not supported .its ranks"),
        ({"peft_type": "LORA"}, "names no target_modules"),
        ({"peft_type": "LORA", "target_modules": ["q"], "rang": 3}, "an entry rang that PEFT"),
        ({"peft_type": "P_TUNING"}, "num_virtual_tokens None: expected a whole number"),
        ({"peft_type": "IA3", "target_modules": ["key"], "feedforward_modules": ["x"]}, "valid"),
    ],
)
def test_a_configuration_that_peft_cannot_use_is_refused(content, says):
    with pytest.raises(InputError, match=says) as caught:
        configuration(content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            {"peft_type": "LORA", "target_modules": ["query", "keys"]},
            "has keys in target_modules.* no such module: expected some of .*key, .*query",
        ),
        (
            {"peft_type": "LORA", "target_modules": ["key"], "modules_to_save": ["pooler"]},
            "pooler in modules_to_save",
        ),
        ({"peft_type": "LORA", "r": 0, "target_modules": ["key"]}, "cannot be used with bert"),
    ],
)
def test_a_configuration_that_does_not_fit_the_model_is_refused(tmp_path, content, says):
    with pytest.raises(InputError, match=says) as caught:
        add_configured(build(tmp_path, "bert"), content)
    assert "\n" not in str(caught.value)
