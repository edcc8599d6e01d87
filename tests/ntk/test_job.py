"""Several kernels of one encoder in one pass: each is what it would be alone; what is refused."""

from copy import deepcopy

import pytest
import torch
from references import contract, encoder_names, explicit_jacobian
from tiny_classifiers import read, tiny_classifier
from tiny_models import toy_texts

from lpft.errors import InputError
from lpft.ntk import KernelJob, KernelRequest, Options, request_of, studied_model

TEXTS, COLUMNS = toy_texts(5, seed=11)[0], toy_texts(4, seed=12)[0]
ROWS, BLOCK, BACK = (0, 0), (0, 1), (1, 0)
DOUBLE = Options(dtype=torch.float64, device="cpu", check_entries=0)


@pytest.fixture(scope="module")
def subject():
    classifier = tiny_classifier("bert")
    return studied_model(classifier.model, classifier.tokenizer, None)


def job(subject, requests, options=DOUBLE, groups=(TEXTS, COLUMNS), blocks=(ROWS, BLOCK)):
    return KernelJob(subject, requests, groups, blocks, options)


def explicit(subject, request, rows, columns):
    """F by plain autograd: the Jacobian of the features, contracted with V from both sides."""
    model = deepcopy(subject.classifier)
    classes = request.weight.shape[0]
    model.head = torch.nn.Linear(request.weight.shape[1], classes)
    with torch.no_grad():
        model.head.weight.copy_(request.weight)
    names = [
        name for name in encoder_names(model) if name.removeprefix("encoder.") in request.parameters
    ]
    left, right = (
        explicit_jacobian(model, read(subject.tokenizer, texts), names) for texts in (rows, columns)
    )
    return contract(left, right)


def assert_close(found, expected):
    assert found.shape == expected.shape
    scale = torch.linalg.vector_norm(expected)
    assert torch.linalg.vector_norm(found - expected) <= 1e-10 * scale


def requests_of(subject):
    """Heads of several ranks and classes, one twice, and several sets of parameters."""
    own = request_of(subject, trainable=False)
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
def test_every_kernel_is_what_it_is_alone(subject, method):
    requests = requests_of(subject)
    options = Options(method=method, dtype=torch.float64, device="cpu", check_entries=0)
    found = job(subject, requests, options, blocks=(ROWS, BLOCK, BACK)).run()
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
                assert_close(kernel, explicit(subject, request, *texts))
        back = found[name][BACK].ft_effective
        assert_close(back.permute(2, 3, 0, 1) + 1, found[name][BLOCK].ft_effective + 1)


@pytest.mark.parametrize("kernel", ["signgd", "asymmetric"])
def test_kernels_of_signs_share_a_pass_too(subject, kernel):
    requests = {name: requests_of(subject)[name] for name in ("own", "five")}
    options = Options(kernel=kernel, dtype=torch.float64, device="cpu", check_entries=0)
    together = job(subject, requests, options).run()
    for name, request in requests.items():
        alone = job(subject, {name: request}, options).run()[name]
        for block in (ROWS, BLOCK):
            assert torch.equal(together[name][block].ft_effective, alone[block].ft_effective)
            assert torch.equal(
                together[name][block].pretrain_effective, alone[block].pretrain_effective
            )


def test_parts_of_several_requests_are_kept_apart(subject):
    requests = requests_of(subject)
    options = Options(
        granularity=("layer", "kind"), dtype=torch.float64, device="cpu", check_entries=0
    )
    found = job(subject, requests, options).run()
    assert set(found["biases"][ROWS].kinds) == {"bias"}
    assert set(found["five"][ROWS].layers) == {"layer 1", "embeddings"}
    assert found["nothing"][ROWS].layers == {}
    for name in ("own", "biases", "binary", "five"):
        for parts in (found[name][BLOCK].layers, found[name][BLOCK].kinds):
            assert_close(sum(parts.values()), found[name][BLOCK].ft_effective)


def test_only_detailed_blocks_are_split_and_checked(subject, monkeypatch):
    monkeypatch.setattr("lpft.ntk.api.memory_in_use", lambda _: 0)
    own = {"own": request_of(subject, trainable=False)}
    options = Options(granularity=("layer", "kind"), dtype=torch.float64, device="cpu")
    groups, blocks = [TEXTS, COLUMNS], (ROWS, BLOCK)
    whole = KernelJob(subject, own, groups, blocks, options)
    part = KernelJob(subject, own, groups, blocks, options, detailed=(ROWS,))
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


def test_a_name_may_hold_any_sign(subject):
    request = request_of(subject, trainable=False)
    name = "LP|FT|total"
    found = job(subject, {name: request}).run()[name][ROWS].ft_effective
    assert torch.equal(found, job(subject, {"ntk": request}).run()["ntk"][ROWS].ft_effective)


CONTEXTS = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_callers_modes_do_not_matter(subject, context, dtype):
    requests = {"ntk": request_of(subject, trainable=False)}
    options = Options(dtype=dtype, device="cpu")
    expected = job(subject, requests, options).run()["ntk"][ROWS]
    with CONTEXTS[context]():
        found = job(subject, requests, options).run()["ntk"][ROWS]
    assert torch.equal(found.ft_effective, expected.ft_effective)
    assert found.checked_entries == expected.checked_entries


WRONG = {
    "no request": ({}, {}, "no kernel is asked for"),
    "no block": (None, {"blocks": ()}, "no kernel is asked for"),
    "a block of no group": (None, {"blocks": ((0, 2),)}, r"block \(0, 2\): expected two of 2"),
    "an unknown parameter": (
        {"parameters": frozenset({"layer.7.weight"})},
        {},
        "request 'ntk': the encoder has no parameter layer.7.weight",
    ),
    "a head of another width": ({"weight": torch.ones(3, 31)}, {}, r"C x 32, found \(3, 31\)"),
    "a head of no class": ({"weight": torch.ones(0, 32)}, {}, r"C x 32, found \(0, 32\)"),
    "a head of one axis": ({"weight": torch.ones(32)}, {}, r"C x 32, found \(32,\)"),
    "a head that is not finite": ({"weight": torch.full((2, 32), torch.nan)}, {}, "not finite"),
}


@pytest.mark.parametrize("case", WRONG)
def test_requests_without_sense_are_refused(subject, case):
    changed, keywords, says = WRONG[case]
    request = {"weight": torch.ones(2, 32), "parameters": frozenset()} | (changed or {})
    requests = {} if changed == {} else {"ntk": KernelRequest(**request)}
    with pytest.raises(InputError, match=says):
        job(subject, requests, **keywords)
