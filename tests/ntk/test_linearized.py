"""Linearised training against linear models, a naive recursion and real transformers."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from references import explicit_ntk, trainable_names
from scipy.special import log_softmax, softmax
from tiny_classifiers import read, tiny_adapted, tiny_classifier
from tiny_models import toy_texts
from torch import nn

from lpft.errors import InputError
from lpft.ntk.dynamics import gradient_descent, largest_stable_rate, linearized_training

ROWS, OTHERS, CLASSES, WIDTH = 6, 4, 3, 5
LABELS = np.array([0, 1, 2, 0, 1, 1])
STEPS = [0, 1, 7, 40]
TEXTS = toy_texts(ROWS + OTHERS, seed=4)[0]


def inputs(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(ROWS, WIDTH)), rng.normal(size=(OTHERS, WIDTH))


def random_kernel(rng, scale=1.0):
    """P + F of 6 + 4 samples, as a Gram matrix, cut into its train and its other rows."""
    factor = rng.normal(size=((ROWS + OTHERS) * CLASSES, 30))
    whole = scale * (factor @ factor.T).reshape(ROWS + OTHERS, CLASSES, ROWS + OTHERS, CLASSES)
    return whole[:ROWS, :, :ROWS], whole[ROWS:, :, :ROWS]


def train_by_torch(logits, parameters, x, other, rate, reduction):
    """Logits of both at STEPS, by torch's SGD with autograd, float64."""
    optimizer = torch.optim.SGD(parameters, lr=rate)
    trained, evaluated = [], []
    for step in range(STEPS[-1] + 1):
        if step in STEPS:
            with torch.no_grad():
                trained.append(logits(x).numpy().copy())
                evaluated.append(logits(other).numpy().copy())
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(logits(x), torch.from_numpy(LABELS), reduction=reduction)
        loss.backward()
        optimizer.step()
    return np.stack(trained), np.stack(evaluated)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_head_on_fixed_features_is_trained_exactly(reduction):
    x, other = inputs()
    rng = np.random.default_rng(1)
    head = torch.tensor(rng.normal(size=(CLASSES, WIDTH)), requires_grad=True)
    bias = torch.tensor(rng.normal(size=CLASSES), requires_grad=True)

    def kernel(a, b):
        return np.einsum("nm,cd->ncmd", a @ b.T + 1, np.eye(CLASSES))

    def logits(table):
        return torch.from_numpy(table) @ head.T + bias

    start, start_other = (logits(table).detach().numpy().copy() for table in (x, other))
    rate = 0.9 * largest_stable_rate(kernel(x, x), reduction=reduction)
    expected = train_by_torch(logits, [head, bias], x, other, rate, reduction)
    found = linearized_training(
        kernel(x, x),
        kernel(other, x),
        start,
        start_other,
        LABELS,
        rate=rate,
        steps=STEPS,
        reduction=reduction,
    )
    assert found.steps.tolist() == STEPS
    assert np.abs(expected[0][-1] - expected[0][0]).max() > 1
    np.testing.assert_allclose(found.train, expected[0], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(found.evaluated, expected[1], rtol=1e-10, atol=1e-10)


def test_a_linear_encoder_under_a_fixed_head_is_trained_exactly():
    x, other = inputs(2)
    rng = np.random.default_rng(3)
    head = rng.normal(size=(CLASSES, 4))
    encoder = torch.tensor(rng.normal(size=(4, WIDTH)), requires_grad=True)

    def kernel(a, b):
        return np.einsum("nm,cd->ncmd", a @ b.T, head @ head.T)

    def logits(table):
        return torch.from_numpy(table) @ encoder.T @ torch.from_numpy(head).T

    start, start_other = (logits(table).detach().numpy().copy() for table in (x, other))
    rate = 0.5 * largest_stable_rate(kernel(x, x))
    expected = train_by_torch(logits, [encoder], x, other, rate, "sum")
    found = linearized_training(
        kernel(x, x), kernel(other, x), start, start_other, LABELS, rate=rate, steps=STEPS
    )
    np.testing.assert_allclose(found.train, expected[0], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(found.evaluated, expected[1], rtol=1e-10, atol=1e-10)


def test_the_recursion_entry_by_entry():
    rng = np.random.default_rng(5)
    train, other = random_kernel(rng)
    f, g = rng.normal(size=(ROWS, CLASSES)), rng.normal(size=(OTHERS, CLASSES))
    rate = 0.3 * largest_stable_rate(train)
    found = linearized_training(train, other, f, g, LABELS, rate=rate, steps=range(9))
    for step in range(9):
        np.testing.assert_allclose(found.train[step], f, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(found.evaluated[step], g, rtol=1e-12, atol=1e-12)
        delta = np.eye(CLASSES)[LABELS] - softmax(f, axis=1)
        f, g = f.copy(), g.copy()
        for i in range(ROWS):
            for n in range(ROWS):
                f[n] += rate * train[n, :, i] @ delta[i]
            for m in range(OTHERS):
                g[m] += rate * other[m, :, i] @ delta[i]


def test_training_samples_evaluated_are_the_training_samples():
    rng = np.random.default_rng(6)
    train, _ = random_kernel(rng)
    start = rng.normal(size=(ROWS, CLASSES))
    found = linearized_training(train, train, start, start, LABELS, rate=1e-3, steps=STEPS)
    np.testing.assert_allclose(found.train, found.evaluated, rtol=1e-13, atol=1e-13)


# --- the largest stable rate


@pytest.mark.parametrize(("reduction", "times"), [("sum", 1), ("mean", 4)])
def test_the_rate_of_a_multiple_of_the_identity(reduction, times):
    kernel = 5 * np.eye(8).reshape(4, 2, 4, 2)
    assert largest_stable_rate(kernel, reduction=reduction) == pytest.approx(times * 4 / 5)


@pytest.mark.parametrize("samples", [1, 2, 9])
def test_the_rate_against_all_eigenvalues(samples):
    rng = np.random.default_rng(samples)
    factor = rng.normal(size=(2 * samples, 7))
    kernel = (factor @ factor.T).reshape(samples, 2, samples, 2)
    largest = np.linalg.eigvalsh(factor @ factor.T)[-1]
    assert largest_stable_rate(kernel) == pytest.approx(4 / largest, rel=1e-12)


def test_the_rate_of_a_kernel_whose_largest_direction_sums_to_zero():
    direction = np.array([1.0, -1.0, 0.0])
    kernel = np.eye(6) * 0.1 + np.kron(np.ones((2, 2)), np.outer(direction, direction))
    rate = largest_stable_rate(kernel.reshape(2, 3, 2, 3))
    assert rate == pytest.approx(4 / 4.1, rel=1e-12)


def test_nothing_moves_under_a_kernel_of_zeros():
    zero = np.zeros((2, 2, 2, 2))
    assert largest_stable_rate(zero) == np.inf
    start = np.array([[1.0, 2.0], [0.0, 0.5]])
    found = linearized_training(zero, zero, start, start, [0, 1], rate=1e9, steps=[5])
    assert np.array_equal(found.train[0], start)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    share=st.floats(0.05, 0.999),
    scale=st.sampled_from([1e-4, 1.0, 1e4]),
    spread=st.sampled_from([0.1, 1.0, 5.0]),
    reduction=st.sampled_from(["sum", "mean"]),
)
def test_below_it_every_step_lowers_the_loss(seed, share, scale, spread, reduction):
    rng = np.random.default_rng(seed)
    train, other = random_kernel(rng, scale)
    start = spread * rng.normal(size=(ROWS, CLASSES))
    found = linearized_training(
        train,
        other,
        start,
        start[:OTHERS],
        LABELS,
        rate=share * largest_stable_rate(train, reduction=reduction),
        steps=range(30),
        reduction=reduction,
    )
    losses = -log_softmax(found.train, axis=2)[:, np.arange(ROWS), LABELS].sum(axis=1)
    assert (np.diff(losses) <= 1e-12 * losses[0]).all()


# --- beside the real model


def case(family="bert", adapted=False):
    if adapted:
        with torch.random.fork_rng():  # for the factors that PEFT draws
            torch.manual_seed(0)
            model, tokenizer = tiny_adapted(family)
    else:
        classifier = tiny_classifier(family)
        model, tokenizer = classifier.model, classifier.tokenizer
    return model, read(tokenizer, TEXTS[:ROWS]), read(tokenizer, TEXTS[ROWS:])


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_the_difference_from_real_training_falls_with_the_rate(family, adapted):
    model, train, other = case(family, adapted)
    names = trainable_names(model)
    kernel_train, kernel_eval = (
        explicit_ntk(model, tokens, train, names).numpy() for tokens in (train, other)
    )
    errors = []
    for rate in (1e-5, 1e-6, 1e-7):
        real = gradient_descent(model, train, LABELS, other, rate=rate, steps=[0, 12])
        linear = linearized_training(
            kernel_train,
            kernel_eval,
            real.train[0],
            real.evaluated[0],
            LABELS,
            rate=rate,
            steps=[0, 12],
        )
        differences = [linear.train - real.train, linear.evaluated - real.evaluated]
        changes = [real.train[1] - real.train[0], real.evaluated[1] - real.evaluated[0]]
        assert not differences[0][0].any()
        errors.append(
            [
                np.linalg.norm(difference[1]) / np.linalg.norm(change)
                for difference, change in zip(differences, changes, strict=True)
            ]
        )
    errors = np.array(errors)
    assert errors[0].max() < 0.2
    assert (errors[:-1] / errors[1:]).min() >= 8, errors


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_real_training_is_torch_s_sgd(reduction, adapted):
    model, train, other = case(adapted=adapted)
    before = deepcopy(model.state_dict())
    found = gradient_descent(
        model, train, LABELS, other, rate=0.01, steps=STEPS, reduction=reduction, batch_tokens=20
    )
    copy = deepcopy(model).double()
    batches = {"train": train.batch(range(ROWS)), "other": other.batch(range(OTHERS))}
    expected = train_by_torch(
        lambda name: copy(**batches[name]).logits,
        [value for value in copy.parameters() if value.requires_grad],
        "train",
        "other",
        0.01,
        reduction,
    )
    np.testing.assert_allclose(found.train, expected[0], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(found.evaluated, expected[1], rtol=1e-10, atol=1e-10)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_real_logits_are_not_divided_by_the_temperature():
    model, train, other = case()
    plain = gradient_descent(model, train, LABELS, other, rate=0.01, steps=[2])
    model.config.temperature = 3.0
    found = gradient_descent(model, train, LABELS, other, rate=0.01, steps=[2])
    assert np.array_equal(found.train, plain.train)


def test_real_training_that_diverges_is_refused():
    model, train, other = case()
    with pytest.raises(InputError, match=r"training at 1e\+300 left the finite numbers by step 2"):
        gradient_descent(model, train, LABELS, other, rate=1e300, steps=[2])


# --- what is refused


def arguments(**change):
    rng = np.random.default_rng(7)
    train, other = random_kernel(rng)
    given = {
        "kernel_train": train,
        "kernel_eval": other,
        "start_train": np.zeros((ROWS, CLASSES)),
        "start_eval": np.zeros((OTHERS, CLASSES)),
        "labels": LABELS,
        "rate": 1e-3,
        "steps": [1],
    }
    return given | change


SKEW = np.arange(324.0).reshape(ROWS, CLASSES, ROWS, CLASSES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": 10.0}, r"rate: expected a number above 0 and below 0\.0\d+, the largest stable"),
        ({"rate": 0.0}, "rate: expected a number above 0"),
        ({"rate": float("nan")}, "rate: expected a number above 0"),
        ({"kernel_train": SKEW}, "training kernel: expected a symmetric one"),
        ({"kernel_train": -np.eye(18).reshape(SKEW.shape)}, "positive semidefinite"),
        ({"kernel_train": np.full(SKEW.shape, np.nan)}, "expected finite numbers"),
        ({"kernel_train": SKEW[:5, :, :5]}, r"training kernel: expected shape \(6, 3, 6, 3\)"),
        ({"kernel_eval": SKEW}, r"evaluation kernel: expected shape \(4, 3, 6, 3\)"),
        ({"start_eval": np.zeros((OTHERS, 2))}, r"evaluation kernel: expected shape \(4, 2, 6"),
        ({"labels": LABELS[1:]}, r"labels: expected shape \(6,\)"),
        ({"steps": []}, "steps: expected rising numbers of 0 or more, found"),
        ({"steps": [3, 2]}, "steps: expected rising numbers"),
        ({"steps": [-1, 2]}, "steps: expected rising numbers"),
        ({"reduction": "max"}, "reduction: expected 'sum' or 'mean', found 'max'"),
    ],
)
def test_bad_input_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        linearized_training(**arguments(**change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": float("inf")}, "rate: expected a finite number above 0"),
        ({"steps": [1, 1]}, "steps: expected rising numbers"),
        ({"reduction": "none"}, "reduction: expected 'sum' or 'mean'"),
        ({"labels": LABELS + 1}, "class indices of 0 to 2"),
    ],
)
def test_bad_input_of_real_training_is_refused(change, message):
    model, train, other = case()
    given = {"labels": LABELS, "rate": 0.1, "steps": [1]} | change
    with pytest.raises(InputError, match=message):
        gradient_descent(model, train, given.pop("labels"), other, **given)
