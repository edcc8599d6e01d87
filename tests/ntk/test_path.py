"""Drift, the kernel of labels, the rule of the kernel regime, the linear model at other weights."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from references import explicit_jacobian, trainable_names
from tiny_classifiers import read, tiny_adapted, tiny_classifier
from tiny_models import toy_texts

from lpft.errors import InputError
from lpft.ntk.dynamics import Linearization
from lpft.ntk.path import drift, kernel_regime, label_kernel


def test_drift_is_relative_to_the_start_and_counts_growth():
    start = np.array([[3.0, 0.0], [0.0, 4.0]])
    assert drift(start, start) == 0
    assert drift(1.5 * start, start) == pytest.approx(0.5)
    assert drift([[3.0, 1.0], [0.0, 4.0]], start) == pytest.approx(1 / 5)
    assert drift(np.ones((2, 3, 2, 3)), np.zeros((2, 3, 2, 3))) is None
    with pytest.raises(InputError, match="same samples"):
        drift(np.ones((2, 2)), np.ones((2, 3)))


def test_the_kernel_of_labels_is_that_of_one_hot_labels():
    one_hot = np.eye(3)[[2, 0, 2, 1]]
    np.testing.assert_array_equal(label_kernel([2, 0, 2, 1]), one_hot @ one_hot.T)


@pytest.mark.parametrize(
    ("drifts", "train", "answer", "until"),
    [
        ([0.0, 0.05, 0.1], [None, 0.01, 0.1], "yes", 2),
        ([0.0, 0.05, 0.11], [None, 0.01, 0.02], "no", 1),
        ([0.0, 0.2, 0.3], [None, 0.01, 0.02], "no", 0),
        ([0.0, 0.01, 0.02], [None, 0.3, 0.02], "no", 0),
        ([0.0, 0.01, 0.02], [None, 0.01, None], "unknown", 2),
        ([None, None, None], [None, 0.01, 0.02], "unknown", 2),
        ([None, None, None], [None, 0.01, 0.2], "no", 1),
        ([0.0, float("nan"), 0.0], [None, 0.01, 0.01], "no", 0),
    ],
)
def test_both_must_hold_at_every_epoch(drifts, train, answer, until):
    evaluated = [None, 0.001, None if train[-1] is None else 0.001]
    found = kernel_regime([0, 1, 2], drifts, {"train": train, "eval": evaluated})
    assert (found.answer, found.until) == (answer, until)
    assert found.error == max(value for value in train if value is not None)


def test_a_start_alone_has_no_answer():
    assert kernel_regime([0], [0.0], {"train": [None]}).answer == "unknown"


@pytest.mark.parametrize("trained", ["full", "lora"])
def test_the_linear_model_moves_by_the_jacobian_of_the_start(trained):
    if trained == "lora":
        model, tokenizer = tiny_adapted("bert")
    else:
        classifier = tiny_classifier("bert")
        model, tokenizer = classifier.model, classifier.tokenizer
    tokens = read(tokenizer, toy_texts(3, seed=2)[0])
    names = trainable_names(model)
    moved, generator = deepcopy(model), torch.Generator().manual_seed(0)
    steps = []
    with torch.no_grad():
        for name in names:
            parameter = moved.get_parameter(name)
            steps.append(0.01 * torch.randn(parameter.shape, generator=generator))
            parameter.add_(steps[-1])
            steps[-1] = (parameter.double() - model.get_parameter(name).double()).flatten()
    weights = {name: moved.get_parameter(name).detach() for name in names}
    real, predicted = Linearization(model).changes(tokens, weights)
    expected = explicit_jacobian(model, tokens, names) @ torch.cat(steps)
    np.testing.assert_allclose(predicted.logits, expected.numpy(), rtol=1e-9, atol=1e-12)
    logits = [m.double().eval()(**tokens.batch(range(3))).logits for m in (moved, deepcopy(model))]
    change = (logits[0] - logits[1]).detach().numpy()
    np.testing.assert_allclose(real.logits, change, rtol=1e-9, atol=1e-12)
    with pytest.raises(InputError, match="parameters that train"):
        Linearization(model).changes(tokens, {"head.weight": weights[names[0]]})
