"""Kernels of PEFT's methods over their own parameters, against the explicit Jacobian."""

import peft
import pytest
import torch
from references import explicit_ntk, head_names, relative_error
from tiny_classifiers import read, tiny_classifier
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from lpft.errors import InputError
from lpft.model.adapters import add_configured, add_prefix
from lpft.ntk import empirical_ntk

TEXTS = (
    [
        "the chair was good",
        "never",
        "we took the train and then we saw the lamp but the lamp was poor",
        "good good film",
    ],
    ["a fine meal", "the film was not the film"],
)
ON = {"target_modules": ["query", "value"], "modules_to_save": ["head"]}
ADAPTERS = {
    "LoRA": peft.LoraConfig(r=2, **ON),
    "DoRA": peft.LoraConfig(r=2, use_dora=True, **ON),
    "IA3": peft.IA3Config(feedforward_modules=[], **ON),
    "VeRA": peft.VeraConfig(r=4, **ON),
    "LoHa": peft.LoHaConfig(r=2, **ON),
    "LoKr": peft.LoKrConfig(r=2, **ON),
    "OFT": peft.OFTConfig(oft_block_size=8, r=0, **ON),
    "BOFT": peft.BOFTConfig(boft_block_size=4, **ON),
    "AdaLoRA": peft.AdaLoraConfig(init_r=3, target_r=2, total_step=10, **ON),
    "LN tuning": peft.LNTuningConfig(**ON | {"target_modules": ["LayerNorm"]}),
    "LoRA on words": peft.LoraConfig(r=2, **ON | {"target_modules": ["word_embeddings"]}),
    "tokens": peft.TrainableTokensConfig(
        token_indices=[5, 6, 7], target_modules=["word_embeddings"]
    ),
}
QUICK = ("LoRA", "IA3", "LoRA on words")
PROMPTS = {
    "prefix": None,
    "prompt": {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3},
    "P-tuning": {"peft_type": "P_TUNING", "num_virtual_tokens": 3},
}


def moved(model: nn.Module) -> nn.Module:
    """The model with what trains moved off its start, where some of it would count for nothing."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def assert_kernel(model: nn.Module, tokenizer) -> None:
    names = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and name not in head_names(model)
    ]
    tokens = [read(tokenizer, texts) for texts in TEXTS]
    kernel = empirical_ntk(
        model, *TEXTS, tokenizer=tokenizer, dtype=torch.float64, parameters="trainable"
    )
    assert kernel.ft_effective.any()
    assert relative_error(kernel.ft_effective, explicit_ntk(model, *tokens, names)) <= 1e-10


@pytest.mark.parametrize(
    "kind",
    [k if k in QUICK else pytest.param(k, marks=pytest.mark.heavy) for k in ADAPTERS],
)
def test_an_adapter_meets_the_explicit_jacobian(kind):
    classifier = tiny_classifier("bert")
    model = peft.get_peft_model(classifier.model, ADAPTERS[kind])
    assert_kernel(moved(model), classifier.tokenizer)


@pytest.mark.parametrize("kind", PROMPTS)
@pytest.mark.parametrize("family", ["bert", pytest.param("gpt2", marks=pytest.mark.heavy)])
def test_virtual_tokens_meet_the_explicit_jacobian(family, kind):
    classifier = tiny_classifier(family)
    if kind == "prefix":
        add_prefix(classifier.model, 3)
    else:
        add_configured(classifier.model, PROMPTS[kind])
    assert_kernel(moved(classifier.model), classifier.tokenizer)


def test_all_parameters_of_a_model_with_a_prefix():
    classifier = tiny_classifier("bert")
    add_prefix(classifier.model, 3)
    model = moved(classifier.model).requires_grad_(True)
    assert_kernel(model, classifier.tokenizer)


def test_a_merged_adapter_is_refused_by_name():
    classifier = tiny_classifier("bert")
    model = moved(peft.get_peft_model(classifier.model, ADAPTERS["LoRA"]))
    model.merge_adapter()
    with pytest.raises(InputError, match=r"adapter of 'encoder\..*query' is merged"):
        assert_kernel(model, classifier.tokenizer)
    model.unmerge_adapter()
    assert_kernel(model, classifier.tokenizer)


COMPUTED = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "the older weight_norm": weight_norm,
    "the older spectral_norm": spectral_norm,
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", COMPUTED)
def test_weights_that_are_computed_from_others(kind):
    classifier = tiny_classifier("bert")
    model = classifier.model
    COMPUTED[kind](model.encoder.encoder.layer[1].output.dense)
    model.encoder.requires_grad_(False)
    model.encoder.encoder.layer[1].output.dense.requires_grad_(True)
    with torch.no_grad():
        model(torch.tensor([[1, 2, 3]]))
    assert_kernel(moved(model), classifier.tokenizer)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", COMPUTED)
def test_a_head_whose_weight_is_computed_is_refused_by_name(kind):
    classifier = tiny_classifier("bert")
    COMPUTED[kind](classifier.model.head)
    with pytest.raises(InputError, match="weight of the head 'head' is computed"):
        empirical_ntk(classifier.model, TEXTS[0], tokenizer=classifier.tokenizer)


def test_one_class_is_refused_and_one_output_is_not():
    with pytest.raises(InputError, match="expected at least two"):
        tiny_classifier("bert", classes=1)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    inputs = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kernel = empirical_ntk(model, inputs, dtype=torch.float64)
    rows = []
    for sample in inputs:
        gradients = torch.autograd.grad(model(sample)[0], list(model.parameters()))
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    jacobian = torch.stack(rows)
    torch.testing.assert_close(kernel.ft_effective[:, 0, :, 0], jacobian @ jacobian.T)
