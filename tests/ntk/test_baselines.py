"""The benchmark's baselines give the kernel that plain autograd gives, text by text."""

import importlib.util
from functools import partial
from pathlib import Path

import pytest
import torch
from references import encoder_names, explicit_kernels, explicit_ntk
from tiny_classifiers import read, tiny_classifier
from tiny_models import EACH_FAMILY, tiny_config, toy_texts

PATH = Path(__file__).parents[2] / "benchmarks/ntk_baselines.py"
SPEC = importlib.util.spec_from_file_location("ntk_baselines", PATH)
baselines = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(baselines)

reference = partial(baselines.reference_algorithm, width=20)
NTKS = {
    "reference": partial(reference, chunk_size=32),
    "reference, one at a time": partial(reference, chunk_size=1),
    "reference, uneven chunks": partial(reference, chunk_size=5),
    "jacrev": partial(baselines.jacrev_ntk, tile=2),
    "jacrev, one at a time": partial(baselines.jacrev_ntk, chunk_size=1, tile=4),
    "jacrev, uneven chunks": partial(baselines.jacrev_ntk, chunk_size=2, columns=1000),
    "gradient loop": partial(baselines.grad_loop_ntk, tile=2, columns=777),
    "gradient loop, one tile": baselines.grad_loop_ntk,
}
MEMBERS = {
    "bert": (5, 10, 6),
    "roberta": (5, 10, 6),
    "distilbert": (4, 10, 6),
    "albert": (7, 10, 6),
    "deberta-v2": (8, 10, 6),
    "modernbert": (3, 3, 3),
    "gpt2": (4, 6, 6),
    "llama": (2, 5, 4),
}
"""Parameters by hand: outside the layers, of the last layer's attention, of its feed-forward."""


def read_classifier(family):
    classifier = tiny_classifier(family)
    return classifier.model, classifier.tokenizer


def assert_same_kernel(found, expected):
    assert found.shape == expected.shape
    error = torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected)
    assert error <= 1e-5


@pytest.mark.parametrize("name", NTKS)
def test_every_baseline_meets_the_explicit_kernel(name):
    model, tokenizer = read_classifier("bert")
    a, b = (read(tokenizer, toy_texts(rows, seed=rows)[0]) for rows in (3, 2))
    assert_same_kernel(NTKS[name](model, a, b), explicit_ntk(model, a, b, encoder_names(model)))
    assert_same_kernel(NTKS[name](model, a), explicit_ntk(model, a, a, encoder_names(model)))


@pytest.mark.parametrize("name", ["reference", "jacrev", "gradient loop"])
@pytest.mark.parametrize("family", EACH_FAMILY)
def test_every_family_works_and_keeps_no_gradient(family, name):
    model, tokenizer = read_classifier(family)
    tokens = read(tokenizer, toy_texts(1, seed=4)[0])
    expected = explicit_ntk(model, tokens, tokens, encoder_names(model))
    assert_same_kernel(NTKS[name](model, tokens), expected)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_groups_hold_every_parameter_once(family):
    model, _ = read_classifier(family)
    groups = baselines.parameter_groups(model)
    last = 0 if family == "albert" else tiny_config(family).num_hidden_layers - 1
    assert len(groups) == 1 + 2 * (last + 1)
    names = ("embeddings", f"layer {last} attention", f"layer {last} feed-forward")
    assert tuple(len(groups[name]) for name in names) == MEMBERS[family]
    members = [name for names in groups.values() for name in names]
    assert sorted(members) == sorted(name for name, _ in model.encoder.named_parameters())


def test_groups_of_the_reference_are_computed_apart():
    model, tokenizer = read_classifier("roberta")
    tokens = read(tokenizer, toy_texts(1, seed=5)[0])
    shares = explicit_kernels(model, tokens, tokens, encoder_names(model))
    for group, members in baselines.parameter_groups(model).items():
        expected = torch.stack([shares[f"encoder.{name}"] for name in members]).sum(0)
        found = NTKS["reference"](model, tokens, groups=[group])
        assert_same_kernel(found, expected)
