"""What empirical_ntk takes, what it leaves as it was, and how it refuses the rest."""

import re
from copy import deepcopy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_classifiers import tiny_adapted, tiny_classifier
from tiny_models import save_tiny_model, toy_texts
from torch import nn

from lpft import InputError, TextClassifier
from lpft.model.encoder import seeded
from lpft.ntk import empirical_ntk

TEXTS = toy_texts(5, seed=1)[0]


@pytest.fixture(scope="module")
def classifier():
    return tiny_classifier("bert")


@pytest.fixture
def model(classifier):
    return deepcopy(classifier.model)


@pytest.fixture
def compute(classifier, model):
    """empirical_ntk of a tiny BERT that the test may change, with its tokenizer."""

    def call(a=TEXTS, b=None, *, of=model, **keywords):
        return empirical_ntk(of, a, b, **{"tokenizer": classifier.tokenizer} | keywords)

    return call


def refused(call, *arguments, says, **keywords):
    """The call raises InputError with one line that matches ``says``."""
    with pytest.raises(InputError) as caught:
        call(*arguments, **keywords)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) > 20
    assert re.search(says, message), message


def test_an_estimator_brings_its_tokenizer_and_length(tmp_path):
    folder = save_tiny_model("bert", tmp_path / "bert")
    estimator = TextClassifier.untrained(str(folder), ["bad", "good"], max_length=6)
    found = empirical_ntk(estimator, TEXTS, TEXTS[:2])
    expected = empirical_ntk(
        estimator.model_, TEXTS, TEXTS[:2], tokenizer=estimator.tokenizer_, max_length=6
    )
    assert torch.equal(found.ft_effective, expected.ft_effective)
    assert torch.equal(found.pretrain_effective, expected.pretrain_effective)
    longer = empirical_ntk(estimator, TEXTS, TEXTS[:2], max_length=20)
    assert not torch.allclose(longer.ft_effective, expected.ft_effective)


def test_lists_of_two_texts_are_pairs(compute):
    tuples = compute([("the chair", "was good"), ("a", "film")])
    lists = compute([["the chair", "was good"], ["a", "film"]])
    assert torch.equal(tuples.ft_effective, lists.ft_effective)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kernels_are_in_double_precision_whatever_the_gradients_are(compute, dtype):
    kernel = compute(dtype=dtype)
    assert kernel.ft_effective.dtype == kernel.pretrain_effective.dtype == torch.float64
    assert kernel.total().dtype == torch.float64
    assert kernel.ft_effective.shape == kernel.total().shape == (5, 3, 5, 3)
    assert kernel.pretrain_effective.shape == (5, 5)


@pytest.mark.parametrize("training", [True, False], ids=["training mode", "evaluation mode"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_model_is_left_as_it_was(compute, model, training, dtype):
    model.train(training)
    model.encoder.embeddings.requires_grad_(False)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    trains = [parameter.requires_grad for parameter in model.parameters()]
    attention = model.config._attn_implementation
    kernel = compute(dtype=dtype)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == trains
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert all(value.dtype == weights[name].dtype for name, value in model.state_dict().items())
    assert torch.equal(model.head.weight.grad, torch.ones_like(model.head.weight))
    assert all(value.grad is None for value in model.encoder.parameters())
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    assert not [name for module in model.modules() for name in hooks if getattr(module, name)]
    assert model.config._attn_implementation == attention
    assert not kernel.ft_effective.requires_grad
    again = compute(of=model.eval(), dtype=dtype)
    assert torch.equal(kernel.ft_effective, again.ft_effective)


def test_a_failed_call_leaves_the_model_as_it_was(compute, model):
    model.train()
    refused(compute, ["good", ""], says="text 2 is empty")
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


CONTEXTS = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


@pytest.mark.parametrize("context", CONTEXTS)
def test_the_callers_context_does_not_matter(compute, context):
    expected = compute().ft_effective
    with CONTEXTS[context]():
        assert torch.equal(compute().ft_effective, expected)


def test_random_numbers_of_the_caller_are_not_drawn(compute):
    state = torch.random.get_rng_state()
    compute()
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_models_attention_and_checkpointing_do_not_matter(compute, model, attention):
    expected = compute(dtype=torch.float64).ft_effective
    model.encoder.set_attn_implementation(attention)
    model.gradient_checkpointing_enable()
    found = compute(of=model.train(), dtype=torch.float64).ft_effective
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11 * expected.abs().max())


def test_what_trains_does_not_matter_to_the_kernel_of_all_parameters(compute, model):
    expected = compute(parameters="all")
    model.encoder.requires_grad_(False)
    frozen = compute(parameters="all")
    assert torch.equal(frozen.ft_effective, expected.ft_effective)
    assert torch.equal(frozen.pretrain_effective, expected.pretrain_effective)


@pytest.mark.parametrize("texts", [None, 3], ids=str)
def test_what_is_no_list_of_texts_is_refused(compute, texts):
    refused(compute, texts, says="list of texts")


@pytest.mark.parametrize("texts", [[], ()])
def test_no_texts_are_refused(compute, texts):
    refused(compute, texts, says="no text|at least one")
    refused(compute, TEXTS, texts, says="no text|at least one")


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["good", ""], "text 2 is empty"),
        (["good", "  \t"], "text 2 is empty"),
        ([("good", ""), ("a", "b")], "text 1 is empty"),
        (["good", ("a", "b")], "text 2 is not a single text"),
        ([("a", "b"), "good"], "text 2 is not a pair"),
        ([("a", "b", "c")], "text 1 is not a"),
        (["good", None], "text 2 is None"),
        ([3.5], "text 1 is 3.5"),
        ("one bare string", "one string"),
    ],
)
def test_texts_that_cannot_be_read_are_refused(compute, texts, says):
    refused(compute, texts, says=says)


def test_a_bad_text_of_the_columns_has_its_own_number(compute):
    refused(compute, TEXTS, ["good", ""], says="text 2 .*is empty")
    refused(compute, TEXTS, "good", says="one string")


def test_texts_against_pairs_are_refused(compute):
    refused(compute, TEXTS, [("the chair", "was good")], says="pair|single text")


@pytest.mark.parametrize("what", ["text", "module", "none", "number"])
def test_what_is_no_classifier_is_refused(compute, model, what):
    wrong = {"text": "minilm", "module": model.encoder, "none": None, "number": 3}[what]
    refused(compute, of=wrong, says="TextClassifier|LinearHeadClassifier|classifier")


def test_a_plain_module_is_refused(compute):
    refused(compute, of=nn.Linear(3, 2), says="classifier|Classifier")


def test_an_estimator_before_its_fit_is_refused():
    refused(empirical_ntk, TextClassifier("minilm"), TEXTS, says="fit")


def test_a_model_without_its_tokenizer_is_refused(model):
    refused(empirical_ntk, model, TEXTS, says="tokenizer")


def test_an_adapted_model_without_its_tokenizer_is_refused():
    refused(empirical_ntk, tiny_adapted("bert")[0], TEXTS, says="tokenizer")


@pytest.mark.parametrize(
    ("problem", "says"),
    [("multi_label_classification", "multi.label"), ("regression", "regression")],
)
def test_other_problems_than_single_label_classification_are_refused(compute, model, problem, says):
    model.config.problem_type = problem
    refused(compute, says=says)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", ["encoder.embeddings.word_embeddings.weight", "head.weight"])
def test_weights_that_are_not_finite_are_refused_by_name(compute, model, place, value):
    with torch.no_grad():
        model.get_parameter(place)[-1, -1] = value
    refused(compute, says=re.escape(place))


@pytest.mark.parametrize(
    ("keywords", "says"),
    [
        ({"method": "fast"}, "method.*'fast'.*materialize"),
        ({"method": None}, "method.*materialize"),
        ({"kernel": "adam"}, "kernel.*'adam'.*signgd"),
        ({"parameters": "head"}, "parameters.*'head'.*trainable"),
        ({"kernel": "signgd", "method": "token_gram"}, "signgd.*materialize"),
        ({"kernel": "asymmetric", "method": "sandwich"}, "asymmetric.*materialize"),
        ({"dtype": torch.float16}, "float32.*float64"),
        ({"dtype": torch.int64}, "float32.*float64"),
        ({"device": "abacus"}, "device.*abacus"),
        ({"max_length": 0}, "max_length.*0"),
        ({"max_length": -3}, "max_length.*-3"),
        ({"max_length": "12"}, "max_length.*12"),
        ({"max_length": 6.5}, "max_length.*6.5"),
        ({"tokenizer": "bert-base-uncased"}, "tokenizer.*bert-base-uncased"),
        ({"granularity": "heads"}, "granularity.*layer"),
        ({"granularity": None}, "granularity=None.*layer, kind"),
        ({"granularity": 3}, "granularity=3.*layer, kind"),
        ({"granularity": ("layer", "layer")}, "layer twice"),
        ({"granularity": (["layer"],)}, r"granularity=\['layer'\] is unknown"),
        ({"check_entries": True}, "check_entries=True: expected a count"),
        ({"memory": "9" * 400}, "more than any machine has"),
        ({"method": "sandwich", "kernel": "signgd"}, "method sandwich of linear weights"),
        ({"method": "sandwich", "products": "bfloat16"}, "method sandwich of linear weights"),
        ({"products": "fast"}, "products.*'fast'.*bfloat16"),
        ({"products": "tf32", "device": "cpu"}, "tf32 need a CUDA device"),
        ({"products": "tf32", "dtype": torch.float64}, "tf32 are of float32"),
        ({"products": "bfloat16", "method": "token_gram"}, "bfloat16.*auto or materialize"),
        ({"products": "bfloat16", "method": "sandwich"}, "bfloat16.*auto or materialize"),
        ({"check_entries": -1}, "check_entries.*-1"),
        ({"check_entries": "all"}, "check_entries='all'"),
        ({"cache_dir": 3}, "cache_dir=3.*folder"),
        ({"memory": "1KB"}, "memory"),
        ({"memory": "0GB"}, "memory"),
        ({"memory": "-2GB"}, "memory"),
        ({"memory": "plenty"}, "memory.*plenty"),
        ({"memory": "6 bananas"}, "memory.*bananas"),
        ({"memory": ""}, "memory"),
        ({"memory": 10}, "memory"),
    ],
    ids=str,
)
def test_options_without_sense_are_refused(compute, keywords, says):
    refused(compute, says=f"(?s){says}", **keywords)


def test_a_device_that_this_machine_lacks_is_refused(compute, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    refused(compute, device="cuda", says="device cuda: .*no such device")


def test_a_device_without_float64_is_refused(compute, monkeypatch):
    monkeypatch.setattr("torch.mps.is_available", lambda: True)
    refused(compute, device="mps", says="mps has no float64.*cpu, cuda or auto")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert compute(TEXTS[:1], device="auto").record["plan"]["device"] == "cpu"


def test_the_tokenizer_of_another_model_is_refused(compute, classifier):
    tokenizer = deepcopy(classifier.tokenizer)
    tokenizer.add_tokens(["kettle"])
    refused(compute, ["a kettle"], tokenizer=tokenizer, says="token 39.* 39 tokens.*tokenizer")


def test_a_head_that_is_not_one_linear_layer_is_refused(compute, model):
    model.head = nn.Sequential(nn.Linear(32, 8), nn.Linear(8, 3))
    refused(compute, says="head is a .*Sequential: expected one .*Linear")


def test_an_adapted_head_is_refused(classifier, compute):
    config = LoraConfig(target_modules=["query", "head"], r=2)
    adapted = get_peft_model(deepcopy(classifier.model), config)
    refused(compute, of=adapted, says="head is a .*lora.*: expected one .*Linear")


def test_a_head_that_the_adapter_leaves_frozen(classifier, compute):
    """PEFT keeps no second copy of it: P is zero, F that of the factors."""
    for saved in (None, ["head"]):
        config = LoraConfig(target_modules=["query", "value"], r=2, modules_to_save=saved)
        with seeded(1):
            adapted = get_peft_model(deepcopy(classifier.model), config)
        kernel = compute(of=adapted, parameters="trainable", dtype=torch.float64)
        if saved is None:
            frozen = kernel
    assert torch.count_nonzero(frozen.pretrain_effective) == 0
    assert torch.count_nonzero(kernel.pretrain_effective) == 25
    assert frozen.ft_effective.abs().max() > 0
    assert torch.equal(frozen.ft_effective, kernel.ft_effective)


def test_an_encoder_in_several_precisions_is_read_in_one(compute, model):
    expected = compute(dtype=torch.float64).ft_effective
    model.encoder.encoder.layer[1].double()
    found = compute(dtype=torch.float64).ft_effective
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert torch.isfinite(compute(dtype=torch.float32).ft_effective).all()


def test_more_tokens_than_the_model_has_positions_are_refused(compute):
    refused(compute, ["good " * 100], max_length=1000, says="max_length 1000.*64")


def test_gradients_too_large_for_float32_are_refused(compute, model):
    with torch.no_grad():
        model.encoder.encoder.layer[1].output.LayerNorm.weight.mul_(1e25)
    refused(compute, says=r"not finite in torch.float32.*torch.float64")
    kernel = compute(dtype=torch.float64)
    assert kernel.certificate.largest_relative_error < 1e-10


def test_where_nothing_trains_the_kernel_is_zero(compute, model):
    model.requires_grad_(False)
    kernel = compute(parameters="trainable")
    assert kernel.total().shape == (5, 3, 5, 3)
    assert torch.count_nonzero(kernel.total()) == 0
