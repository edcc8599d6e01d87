"""Adapters: what trains, that the head survives wrapping, saving, loading and merging."""

from copy import deepcopy

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny_models import FAMILIES, save_tiny_model, tiny_config, tiny_tokenizer
from transformers import AutoModel, IBertConfig, SqueezeBertConfig

from lpft.errors import InputError
from lpft.model import build_classifier
from lpft.model.adapters import ADAPTERS, add_adapter, merge_adapter, save_adapter, trained_head
from lpft.model.encoder import TESTED_FAMILIES

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
