"""What empirical_ntk takes, what it leaves as it was, and how it refuses the rest; several kernels
of one encoder in one pass."""

import re
from copy import deepcopy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from references import contract, encoder_names, explicit_jacobian, relative_error
from tiny_classifiers import read, tiny_classifier
from tiny_models import save_tiny_model, toy_texts
from torch import nn

from lpft import InputError, TextClassifier
from lpft.model.encoder import seeded
from lpft.ntk import KernelJob, KernelRequest, Options, empirical_ntk, request_of, studied_model
from lpft.ntk.memory import kernel_device

TEXTS, COLUMNS = toy_texts(5, seed=11)[0], toy_texts(4, seed=12)[0]
ROWS, BLOCK, BACK = (0, 0), (0, 1), (1, 0)
DOUBLE = {"dtype": torch.float64, "device": "cpu", "check_entries": 0}


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


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (3, "list of texts"),
        ([], "no text|at least one"),
        ("one bare string", "one string"),
        (["good", ""], "text 2 .*is empty"),
        (["good", ("a", "b")], "text 2 .*single text"),
        ([3.5], "text 1 .*is 3.5"),
    ],
)
def test_rows_and_columns_that_are_no_texts_are_refused(compute, texts, says):
    refused(compute, texts, says=says)
    refused(compute, TEXTS, texts, says=says)


def test_texts_against_pairs_are_refused(compute):
    refused(compute, TEXTS, [("the chair", "was good")], says="pair|single text")


@pytest.mark.parametrize("wrong", ["minilm", None, 3])
def test_what_is_no_module_is_refused(compute, wrong):
    refused(compute, of=wrong, says="TextClassifier.*LinearHeadClassifier.*nn.Module")


def test_a_module_without_logits_is_refused(compute, model):
    refused(compute, of=model.encoder, says="returns a BaseModelOutput.*with logits.*outputs=")


def test_an_estimator_before_its_fit_is_refused():
    refused(empirical_ntk, TextClassifier("minilm"), TEXTS, says="fit")


def test_a_model_without_its_tokenizer_is_refused(model):
    refused(empirical_ntk, model, TEXTS, says="tokenizer")


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
        ({"contraction": "fast"}, "contraction.*'fast'.*materialize"),
        ({"update": "adam"}, "update.*'adam'.*signgd"),
        ({"parameters": "head"}, "parameters.*'head'.*trainable"),
        ({"update": "signgd", "contraction": "token_gram"}, "signgd.*materialize"),
        ({"update": "asymmetric", "contraction": "sandwich"}, "asymmetric.*materialize"),
        ({"dtype": torch.float16}, "float32.*float64"),
        ({"dtype": "float16"}, "'float16'.*float32.*float64"),
        ({"device": "abacus"}, "device.*abacus"),
        ({"device": 1.5}, "device.*1.5"),
        ({"device": torch.device("meta")}, "device meta"),
        ({"max_length": 0}, "max_length.*0"),
        ({"max_length": 6.5}, "max_length.*6.5"),
        ({"tokenizer": "bert-base-uncased"}, "tokenizer.*bert-base-uncased"),
        ({"granularity": "heads"}, "granularity.*layer"),
        ({"granularity": 3}, "granularity=3.*layer, kind"),
        ({"granularity": ("layer", "layer")}, "layer twice"),
        ({"granularity": (["layer"],)}, r"granularity=\['layer'\] is unknown"),
        ({"check_entries": True}, "check_entries=True: expected a count"),
        ({"products": "fast"}, "products.*'fast'.*bfloat16"),
        ({"products": "tf32", "device": "cpu"}, "tf32 need a CUDA device"),
        ({"products": "tf32", "dtype": torch.float64}, "tf32 are of float32"),
        ({"products": "bfloat16", "contraction": "token_gram"}, "bfloat16.*auto or materialize"),
        ({"check_entries": -1}, "check_entries.*-1"),
        ({"check_entries": "all"}, "check_entries='all'"),
        ({"cache_dir": 3}, "cache_dir=3.*folder"),
        ({"memory": "1KB"}, "memory"),
        ({"memory": "plenty"}, "memory.*plenty"),
        ({"memory": 10}, "memory"),
    ],
    ids=str,
)
def test_options_without_sense_are_refused(compute, keywords, says):
    refused(compute, says=f"(?s){says}", **keywords)


def test_a_device_that_this_machine_lacks_is_refused(compute, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    refused(compute, device="cuda", says="device cuda: this machine has none")


@pytest.mark.parametrize("device", ["cuda:2", torch.device("cuda", 2)])
def test_a_device_of_several_is_named_by_its_number(compute, monkeypatch, device):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    refused(compute, device=device, says="device cuda:2: expected a number below 2")
    assert kernel_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize("device", ["cpu:0", torch.device("cpu")])
def test_devices_and_dtypes_by_name_or_object_are_the_same(compute, device):
    options = {"check_entries": 0, "check_products": 0}
    named = compute(TEXTS[:2], dtype="float64", device=device, **options)
    usual = compute(TEXTS[:2], dtype=torch.float64, device="cpu", **options)
    assert torch.equal(named.ft_effective, usual.ft_effective)
    assert named.record["plan"]["device"].startswith("cpu")


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


def test_where_nothing_trains_there_is_no_kernel(compute, model):
    model.requires_grad_(False)
    refused(compute, parameters="trainable", says="no parameter requires gradients")


@pytest.fixture(scope="module")
def studied(classifier):
    return studied_model(classifier.model, classifier.tokenizer, None)


def job(studied, requests, blocks=(ROWS, BLOCK), **options):
    return KernelJob(studied, requests, (TEXTS, COLUMNS), blocks, Options(**DOUBLE | options))


def explicit(studied, request, rows, columns):
    """F by plain autograd: the Jacobian of the features, contracted with V from both sides."""
    model = deepcopy(studied.classifier)
    classes = request.weight.shape[0]
    model.head = torch.nn.Linear(request.weight.shape[1], classes)
    with torch.no_grad():
        model.head.weight.copy_(request.weight)
    names = [
        name for name in encoder_names(model) if name.removeprefix("encoder.") in request.parameters
    ]
    left, right = (
        explicit_jacobian(model, read(studied.tokenizer, texts), names) for texts in (rows, columns)
    )
    return contract(left, right)


def assert_close(found, expected):
    assert relative_error(found, expected) <= 1e-10


def requests_of(studied):
    """Heads of several ranks and classes, one twice, and several sets of parameters."""
    own = request_of(studied)
    generator = torch.Generator().manual_seed(3)
    names = sorted(own.parameters)
    binary = torch.randn(1, 32, generator=generator)
    return {
        "own": own,
        "biases": KernelRequest(own.weight, frozenset(n for n in names if n.endswith("bias"))),
        "binary": KernelRequest(torch.cat([-binary, binary]), own.parameters),
        "zeros": KernelRequest(torch.zeros(4, 32), own.parameters),
        "five": KernelRequest(
            torch.randn(5, 32, generator=generator),
            frozenset(n for n in names if "layer.1." in n or "embeddings" in n),
        ),
        "nothing": KernelRequest(own.weight, frozenset()),
    }


@pytest.mark.parametrize("method", ["auto", "materialize", "token_gram", "sandwich"])
def test_every_kernel_is_what_it_is_alone(studied, method):
    requests = requests_of(studied)
    found = job(studied, requests, (ROWS, BLOCK, BACK), contraction=method).run()
    assert list(found) == list(requests)
    ranks = {name: kernels[ROWS].record["head_rank"] for name, kernels in found.items()}
    assert ranks == {"own": 3, "biases": 3, "binary": 1, "zeros": 0, "five": 5, "nothing": 3}
    for name, request in requests.items():
        for block, texts in ((ROWS, (TEXTS, TEXTS)), (BLOCK, (TEXTS, COLUMNS))):
            kernel = found[name][block].ft_effective
            if ranks[name] == 0 or not request.parameters:
                classes = len(request.weight)
                shape = (len(texts[0]), classes, len(texts[1]), classes)
                assert torch.equal(kernel, torch.zeros(shape, dtype=torch.float64))
            else:
                assert_close(kernel, explicit(studied, request, *texts))
        back = found[name][BACK].ft_effective
        assert_close(back.permute(2, 3, 0, 1) + 1, found[name][BLOCK].ft_effective + 1)


@pytest.mark.parametrize("kernel", ["signgd", "asymmetric"])
def test_kernels_of_signs_share_a_pass_too(studied, kernel):
    requests = {name: requests_of(studied)[name] for name in ("own", "five")}
    together = job(studied, requests, update=kernel).run()
    for name, request in requests.items():
        alone = job(studied, {name: request}, update=kernel).run()[name]
        for block in (ROWS, BLOCK):
            assert torch.equal(together[name][block].ft_effective, alone[block].ft_effective)
            assert torch.equal(
                together[name][block].pretrain_effective, alone[block].pretrain_effective
            )


def test_parts_of_several_requests_are_kept_apart(studied):
    requests = requests_of(studied)
    found = job(studied, requests, granularity=("layer", "kind")).run()
    assert set(found["biases"][ROWS].kinds) == {"bias"}
    assert set(found["five"][ROWS].layers) == {"layer 1", "embeddings"}
    assert found["nothing"][ROWS].layers == {}
    for name in ("own", "biases", "binary", "five"):
        for parts in (found[name][BLOCK].layers, found[name][BLOCK].kinds):
            assert_close(sum(parts.values()), found[name][BLOCK].ft_effective)


def test_only_detailed_blocks_are_split_and_checked(studied, monkeypatch):
    monkeypatch.setattr("lpft.ntk.job.memory_in_use", lambda _: 0)
    own = {"own": request_of(studied)}
    options = Options(granularity=("layer", "kind"), dtype=torch.float64, device="cpu")
    groups, blocks = [TEXTS, COLUMNS], (ROWS, BLOCK)
    whole = KernelJob(studied, own, groups, blocks, options)
    part = KernelJob(studied, own, groups, blocks, options, detailed=(ROWS,))
    assert part.plan.memory < whole.plan.memory
    expected, found = whole.run()["own"], part.run()["own"]
    for block in blocks:
        assert torch.equal(found[block].ft_effective, expected[block].ft_effective)
    assert found[ROWS].kinds.keys() == expected[ROWS].kinds.keys() != set()
    for name, kernel in expected[ROWS].layers.items():
        assert torch.equal(found[ROWS].layers[name], kernel)
    assert found[ROWS].checked_entries == expected[ROWS].checked_entries != ()
    assert len(expected[BLOCK].layers) > 0
    assert (found[BLOCK].layers, found[BLOCK].kinds, found[BLOCK].checked_entries) == ({}, {}, ())


def test_a_name_may_hold_any_sign(studied):
    request = request_of(studied)
    name = "LP|FT|total"
    found = job(studied, {name: request}).run()[name][ROWS].ft_effective
    assert torch.equal(found, job(studied, {"ntk": request}).run()["ntk"][ROWS].ft_effective)


CONTEXTS = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_callers_modes_do_not_matter(studied, context, dtype):
    requests = {"ntk": request_of(studied)}
    options = {"dtype": dtype, "check_entries": 2}
    expected = job(studied, requests, **options).run()["ntk"][ROWS]
    with CONTEXTS[context]():
        found = job(studied, requests, **options).run()["ntk"][ROWS]
    assert torch.equal(found.ft_effective, expected.ft_effective)
    assert found.checked_entries == expected.checked_entries


WRONG = {
    "no request": ({}, {}, "no kernel is requested"),
    "no block": (None, {"blocks": ()}, "no kernel is requested"),
    "a block of no group": (None, {"blocks": ((0, 2),)}, r"block \(0, 2\): expected two of 2"),
    "an unknown parameter": (
        {"parameters": frozenset({"layer.7.weight"})},
        {},
        "request 'ntk': the model has no parameter layer.7.weight",
    ),
    "a head of another width": ({"weight": torch.ones(3, 31)}, {}, r"C x 32, found \(3, 31\)"),
    "a head of no class": ({"weight": torch.ones(0, 32)}, {}, r"C x 32, found \(0, 32\)"),
    "a head of one axis": ({"weight": torch.ones(32)}, {}, r"C x 32, found \(32,\)"),
    "a head that is not finite": ({"weight": torch.full((2, 32), torch.nan)}, {}, "not finite"),
}


@pytest.mark.parametrize("case", WRONG)
def test_requests_without_sense_are_refused(studied, case):
    changed, keywords, says = WRONG[case]
    request = {"weight": torch.ones(2, 32), "parameters": frozenset()} | (changed or {})
    requests = {} if changed == {} else {"ntk": KernelRequest(**request)}
    with pytest.raises(InputError, match=says):
        job(studied, requests, **keywords)
