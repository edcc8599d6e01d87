"""One step and many beside explicit kernels, linear models, naive recursions and torch's SGD."""

from copy import deepcopy
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from references import (
    DoubleThroughout,
    WithoutForwardMode,
    contract,
    encoder_names,
    explicit_features,
    explicit_jacobian,
    explicit_ntk,
    trainable_names,
)
from scipy.special import log_softmax, softmax
from tiny_classifiers import read, tiny_adapted, tiny_classifier
from tiny_models import EACH_FAMILY, toy_texts
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from lpft.errors import InputError
from lpft.model.adapters import add_adapter, trained_head
from lpft.ntk.dynamics import (
    FirstStep,
    Linearization,
    gradient_descent,
    largest_stable_rate,
    linearized_training,
)
from lpft.ntk.passes import DoublePrecision

# --- one step


STEP_LABELS = np.array([0, 1, 2, 0, 1])
STEP_TEXTS = toy_texts(8, seed=2)[0]
TRAINED = ("full", "lora", "lora at its start")


def case_of(texts, rows, family, trained="full"):
    """The model, its first ``rows`` texts to train on and the others; factors have one seed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if trained == "lora":
            model, tokenizer = tiny_adapted(family)
        else:
            classifier = tiny_classifier(family)
            model, tokenizer = classifier.model, classifier.tokenizer
            if trained == "lora at its start":
                model = add_adapter(model, "lora", rank=3, alpha=6.0).eval()
    return model, read(tokenizer, texts[:rows]), read(tokenizer, texts[rows:])


def step_case(family, trained="full"):
    return case_of(STEP_TEXTS, 5, family, trained)


def classifier_of(model):
    return model.get_base_model() if hasattr(model, "peft_config") else model


def feature_jacobian(model, tokens, names):
    """d phi(x_n) / d theta, N x h x P, each text alone, one backward per feature."""
    named = dict(model.named_parameters())
    parameters, rows = [named[name] for name in names], []
    with DoubleThroughout():
        for row in range(len(tokens)):
            for feature in classifier_of(model).features(**tokens.batch([row]))[0]:
                gradients = torch.autograd.grad(
                    feature, parameters, retain_graph=True, materialize_grads=True
                )
                rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(rows).unflatten(0, (len(tokens), -1))


def residuals(model, tokens):
    head = trained_head(model).double()
    logits = head(explicit_features(model, tokens)).detach().numpy()
    return np.eye(3)[STEP_LABELS] - softmax(logits, axis=1)


def relative_error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("trained", TRAINED)
@pytest.mark.parametrize("family", EACH_FAMILY)
def test_the_error_falls_with_the_rate_over_three_decades(family, trained):
    model, train, other = step_case(family, trained)
    # With B = 0 the features move so little that rounding shows at the lowest rate.
    largest = 1e-4 if trained == "lora at its start" else 1e-5
    rates = [largest * 10.0**-decade for decade in range(4)]
    errors = FirstStep(model, train, STEP_LABELS).errors(other, rates)
    assert [error.rate for error in errors] == rates
    for name in ("logits", "features"):
        values = [getattr(error, name) for error in errors]
        assert values[0] < 0.1
        falls = [before / after for before, after in pairwise(values)]
        assert len(falls) == 3
        assert min(falls) >= 8, (name, values)


@pytest.mark.parametrize("trained", TRAINED)
@pytest.mark.parametrize("family", EACH_FAMILY)
def test_logits_are_the_sum_of_explicit_kernels_and_residuals(family, trained):
    model, train, other = step_case(family, trained)
    kernel = explicit_ntk(model, other, train, trainable_names(model)).numpy()
    delta = residuals(deepcopy(model), train)
    expected = np.einsum("ncmd,md->nc", kernel, delta)
    found = FirstStep(model, train, STEP_LABELS).predicted(other)
    assert found.logits.shape == (3, 3)
    assert relative_error(found.logits, expected) < 1e-10


@pytest.mark.parametrize(
    ("family", "trained"),
    [("bert", "full"), ("bert", "lora"), ("gpt2", "full"), ("llama", "lora"), ("albert", "full")],
)
def test_features_and_logits_by_the_formulas_of_proposition_4_1(family, trained):
    model, train, other = step_case(family, trained)
    double = deepcopy(model).double()
    names = [name for name in encoder_names(model) if name in trainable_names(model)]
    ours, theirs = (feature_jacobian(double, tokens, names) for tokens in (other, train))
    theta_phi = contract(ours, theirs).numpy()
    head = trained_head(double).weight.detach().numpy()
    delta = residuals(double, train)
    features = np.einsum("nhmk,ck,mc->nh", theta_phi, head, delta)

    phi, phi_train = (explicit_features(double, tokens).numpy() for tokens in (other, train))
    ft_effective = np.einsum("ch,nhmk,dk->ncmd", head, theta_phi, head)
    logits = (phi @ phi_train.T + 1) @ delta + np.einsum("ncmd,md->nc", ft_effective, delta)

    found = FirstStep(model, train, STEP_LABELS).predicted(other)
    assert found.features.shape == (3, 32)
    assert relative_error(found.features, features) < 1e-10
    assert relative_error(found.logits, logits) < 1e-10


@pytest.mark.parametrize("trained", TRAINED)
def test_the_real_change_is_a_step_of_torch_s_sgd(trained):
    model, train, other = step_case("bert", trained)
    found = FirstStep(model, train, STEP_LABELS).real(other, 0.01)

    copy = deepcopy(model).double()

    def outputs():
        inner = classifier_of(copy)
        features = inner.features(**other.batch(range(3)))
        return inner.head(features), features

    before = [result.detach() for result in outputs()]
    parameters = [value for value in copy.parameters() if value.requires_grad]
    logits = copy(**train.batch(range(5))).logits
    nn.functional.cross_entropy(logits, torch.from_numpy(STEP_LABELS), reduction="sum").backward()
    torch.optim.SGD(parameters, lr=0.01).step()
    after = [result.detach() for result in outputs()]
    expected = [(now - then).numpy() for now, then in zip(after, before, strict=True)]
    assert relative_error(found.logits, expected[0]) < 1e-11
    assert relative_error(found.features, expected[1]) < 1e-11


class WithForwardMode(nn.Module):
    def forward(self, x):
        return x * x


class Resample(nn.Module):
    """x read off a grid at its own nodes, by an operation of torch without forward-mode AD."""

    def forward(self, x):
        rows, columns = (torch.linspace(-1, 1, size, dtype=x.dtype) for size in x.shape[1:])
        nodes = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], -1)
        grid = nodes.expand(len(x), *nodes.shape)
        return nn.functional.grid_sample(x.unsqueeze(1), grid, align_corners=True).squeeze(1)


@pytest.mark.parametrize(
    ("without", "equal"), [(WithoutForwardMode, WithForwardMode), (Resample, nn.Identity)]
)
def test_operations_without_forward_mode_go_by_double_backward(without, equal):
    changes = []
    for activation in (without(), equal()):
        model, train, other = step_case("bert")
        model.encoder.encoder.layer[0].intermediate.intermediate_act_fn = activation
        changes.append(FirstStep(model, train, STEP_LABELS).predicted(other))
    assert relative_error(changes[0].logits, changes[1].logits) < 1e-12
    assert relative_error(changes[0].features, changes[1].features) < 1e-12


def test_other_errors_of_the_encoder_are_not_swallowed():
    class Broken(nn.Module):
        def forward(self, x):
            if torch.autograd.forward_ad.unpack_dual(x).tangent is not None:
                raise RuntimeError("out of order")
            return x

    model, train, other = step_case("bert")
    model.encoder.encoder.layer[0].intermediate.intermediate_act_fn = Broken()
    with pytest.raises(RuntimeError, match="out of order"):
        FirstStep(model, train, STEP_LABELS).predicted(other)


@pytest.mark.parametrize("family", ["bert", "gpt2", "deberta-v2"])
def test_batches_change_nothing(family):
    model, train, other = step_case(family)
    whole = FirstStep(model, train, STEP_LABELS, batch_tokens=10_000).predicted(other)
    for batch_tokens in (1, 20):
        parts = FirstStep(model, train, STEP_LABELS, batch_tokens=batch_tokens).predicted(other)
        assert relative_error(parts.logits, whole.logits) < 1e-12
        assert relative_error(parts.features, whole.features) < 1e-12


@pytest.mark.parametrize("trained", TRAINED)
def test_the_model_stays_as_it_is(trained):
    model, train, other = step_case("bert", trained)
    model.train()
    before = deepcopy(model.state_dict())
    first, second = (FirstStep(model, train, STEP_LABELS).predicted(other) for _ in range(2))
    assert np.array_equal(first.features, second.features), "dropout is off"
    FirstStep(model, train, STEP_LABELS).real(other, 0.1)
    assert model.training
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(after[name].dtype == before[name].dtype for name in before)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert classifier_of(model).encoder.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_the_callers_modes_do_not_matter(context):
    model, train, other = step_case("bert")
    expected = FirstStep(model, train, STEP_LABELS).errors(other, [1e-4])
    with context():
        assert FirstStep(model, train, STEP_LABELS).errors(other, [1e-4]) == expected


def test_a_frozen_encoder_moves_logits_through_the_head_alone():
    model, train, other = step_case("bert")
    model.encoder.requires_grad_(False)
    found = FirstStep(model, train, STEP_LABELS).predicted(other)
    phi, phi_train = (explicit_features(model, tokens).numpy() for tokens in (other, train))
    expected = (phi @ phi_train.T + 1) @ residuals(model, train)
    assert relative_error(found.logits, expected) < 1e-11
    assert not found.features.any()


def test_a_head_of_zeros_moves_no_feature():
    model, train, other = step_case("bert")
    nn.init.zeros_(model.head.weight)
    (error,) = FirstStep(model, train, STEP_LABELS).errors(other, [1e-3])
    assert error.features is None
    assert error.logits == pytest.approx(0, abs=1e-12)


def test_float32_agrees_to_its_rounding():
    model, train, other = step_case("bert")
    double = FirstStep(model, train, STEP_LABELS).predicted(other)
    single = FirstStep(model, train, STEP_LABELS, dtype=torch.float32).predicted(other)
    assert 1e-9 < relative_error(single.logits, double.logits) < 1e-4
    assert relative_error(single.features, double.features) < 1e-4


def test_double_precision_undoes_the_norms_cast_to_float32():
    norm = LlamaRMSNorm(16).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 16, dtype=torch.float64, generator=generator)
    expected = x / (x.square().mean(-1, keepdim=True) + norm.variance_epsilon).sqrt()
    with DoublePrecision():
        torch.testing.assert_close(norm(x), expected, rtol=1e-14, atol=0)
        assert nn.functional.softmax(x, -1, dtype=torch.float32).dtype == torch.float64
        assert x.float().dtype == x.to(torch.float32).dtype == torch.float64
        assert x.half().dtype == torch.float16
        assert torch.arange(3).float().dtype == x.half().to(torch.float32).dtype == torch.float32
    assert (norm(x) - expected).abs().max() > 1e-9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": torch.bfloat16}, "dtype=torch.bfloat16: expected float32 or float64"),
        ({"labels": STEP_LABELS[:4]}, r"labels: expected shape \(5,\), found \(4,\)"),
        ({"labels": STEP_LABELS + 1}, "class indices of 0 to 2, found 3"),
        ({"batch_tokens": 0}, "batch_tokens: expected at least 1, found 0"),
        ({"model": nn.Linear(2, 2)}, "expected a LinearHeadClassifier"),
        ({"rate": 0.0}, "rate: expected a finite number above 0"),
        ({"rate": float("nan")}, "rate: expected a finite number above 0"),
    ],
)
def test_bad_input_of_a_step_is_refused(change, message):
    model, train, other = step_case("bert")
    given = {"model": model, "labels": STEP_LABELS, "rate": 0.1} | change
    model, labels, rate = (given.pop(name) for name in ("model", "labels", "rate"))
    with pytest.raises(InputError, match=message):
        FirstStep(model, train, labels, **given).real(other, rate)


def test_a_model_without_trainable_parameters_is_refused():
    model, train, other = step_case("bert")
    model.requires_grad_(False)
    with pytest.raises(InputError, match="no parameter of the model trains"):
        FirstStep(model, train, STEP_LABELS).predicted(other)


# --- many steps


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


def assert_trained_as_by_torch(kernel, logits, parameters, *, share, reduction="sum"):
    """Linearised training of a model that is linear in its parameters, beside torch's SGD."""
    x, other = inputs()
    start, start_other = (logits(table).detach().numpy().copy() for table in (x, other))
    rate = share * largest_stable_rate(kernel(x, x), reduction=reduction)
    expected = train_by_torch(logits, parameters, x, other, rate, reduction)
    kernels = kernel(x, x), kernel(other, x)
    found = linearized_training(
        *kernels, start, start_other, LABELS, rate=rate, steps=STEPS, reduction=reduction
    )
    assert found.steps.tolist() == STEPS
    assert np.abs(expected[0][-1] - expected[0][0]).max() > 1
    np.testing.assert_allclose(found.train, expected[0], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(found.evaluated, expected[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_head_on_fixed_features_is_trained_exactly(reduction):
    rng = np.random.default_rng(1)
    head = torch.tensor(rng.normal(size=(CLASSES, WIDTH)), requires_grad=True)
    bias = torch.tensor(rng.normal(size=CLASSES), requires_grad=True)
    assert_trained_as_by_torch(
        lambda a, b: np.einsum("nm,cd->ncmd", a @ b.T + 1, np.eye(CLASSES)),
        lambda table: torch.from_numpy(table) @ head.T + bias,
        [head, bias],
        share=0.9,
        reduction=reduction,
    )


def test_a_linear_encoder_under_a_fixed_head_is_trained_exactly():
    rng = np.random.default_rng(3)
    head = rng.normal(size=(CLASSES, 4))
    encoder = torch.tensor(rng.normal(size=(4, WIDTH)), requires_grad=True)
    assert_trained_as_by_torch(
        lambda a, b: np.einsum("nm,cd->ncmd", a @ b.T, head @ head.T),
        lambda table: torch.from_numpy(table) @ encoder.T @ torch.from_numpy(head).T,
        [encoder],
        share=0.5,
    )


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


def case(family="bert", adapted=False):
    return case_of(TEXTS, ROWS, family, "lora" if adapted else "full")


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
    with pytest.raises(InputError, match=r"training at 1e\+300 diverged by step 2"):
        gradient_descent(model, train, LABELS, other, rate=1e300, steps=[2])


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
def test_bad_input_of_linearized_training_is_refused(change, message):
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


# --- other weights


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
