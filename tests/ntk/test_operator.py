"""The kernel as an operator, and what is computed with it, beside explicit Jacobians and NumPy."""

import gc

import numpy as np
import pytest
import torch
from references import WithoutForwardMode, explicit_jacobian, explicit_ntk
from scipy.sparse.linalg import eigsh
from tiny_classifiers import read, tiny_adapted, tiny_classifier
from tiny_models import toy_texts
from torch import nn
from torch.autograd.function import once_differentiable
from transformers import BigBirdConfig, BigBirdForSequenceClassification

from lpft.errors import InputError
from lpft.model.adapters import add_prefix
from lpft.ntk import (
    NTKOperator,
    empirical_ntk,
    kernel_ridge,
    leading_eigenpairs,
    nystroem,
    operator_error,
    random_features,
    trace_estimate,
)

TEXTS = toy_texts(7, seed=3)[0]
ROWS, COLUMNS = TEXTS[:4], TEXTS[4:]
MORE_FAMILIES = ("deberta-v2", "llama", "modernbert")
DOUBLE = {"dtype": torch.float64, "device": "cpu"}


def perceptron(activation=nn.Tanh):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), activation(), nn.Linear(8, 3)).double()


@pytest.fixture(scope="module")
def samples():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(40, 5, generator=generator, dtype=torch.float64)


def jacobian_of(module, samples, names=None):
    """The Jacobian of a module's outputs, N K x P, one output at a time."""
    named = dict(module.named_parameters())
    chosen = [named[name] for name in (named if names is None else names)]
    rows = []
    for sample in samples:
        for output in module(sample.unsqueeze(0))[0]:
            gradients = torch.autograd.grad(
                output, chosen, retain_graph=True, materialize_grads=True, allow_unused=True
            )
            rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(rows).numpy()


@pytest.fixture(scope="module")
def kernel(samples):
    jacobian = jacobian_of(perceptron(), samples)
    return jacobian @ jacobian.T


@pytest.fixture(scope="module", params=["recomputed", "memory"])
def operator(samples, request):
    return NTKOperator(perceptron(), samples, activations=request.param, **DOUBLE)


def close(found, expected, tolerance=1e-10):
    assert found.shape == expected.shape
    assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)


def parts_of(model, rows, columns, names):
    """F and P ⊗ I_C, matrices, from explicit Jacobians."""
    encoder = [name for name in names if "head" not in name]
    head = [name for name in names if "head" in name]
    shape = (3 * len(rows), 3 * len(columns))
    return [
        explicit_ntk(model, rows, columns, of).numpy().reshape(shape) if of else np.zeros(shape)
        for of in (encoder, head)
    ]


@pytest.mark.parametrize("activations", ["recomputed", "files"])
@pytest.mark.parametrize(
    "family",
    ["bert", "gpt2", *(pytest.param(of, marks=pytest.mark.heavy) for of in MORE_FAMILIES)],
)
def test_products_are_those_of_explicit_jacobians(family, activations):
    classifier = tiny_classifier(family)
    tokens = [read(classifier.tokenizer, texts) for texts in (ROWS, COLUMNS)]
    names = [name for name, _ in classifier.model.named_parameters()]
    ft, pretrain = parts_of(classifier.model, *tokens, names)
    drawn = np.random.default_rng(0)
    u, v = drawn.standard_normal(12), drawn.standard_normal((9, 2))
    for part, expected in (("total", ft + pretrain), ("ft", ft), ("pretrain", pretrain)):
        common = {"tokenizer": classifier.tokenizer, "activations": activations, **DOUBLE}
        operator = NTKOperator(classifier.model, ROWS, COLUMNS, part=part, **common)
        assert operator.shape == (12, 9)
        close(operator @ v, expected @ v)
        close(operator @ v[:, 0], expected @ v[:, 0])
        close(operator.T @ u, expected.T @ u)
        assert u @ (operator @ v[:, 0]) == pytest.approx((operator.T @ u) @ v[:, 0], rel=1e-12)
        if part != "pretrain":
            how = "forward mode" if activations == "recomputed" else "stored gradients"
            assert operator.record["differentiation"] == how
        operator.close()


@pytest.mark.parametrize("parameters", ["trainable", ("*lora_A*", "head.weight")])
def test_parameters_are_those_of_the_kernel(parameters):
    model, tokenizer = tiny_adapted("bert")
    common = {"parameters": parameters, "tokenizer": tokenizer, **DOUBLE}
    expected = empirical_ntk(model, ROWS, check_entries=0, check_products=0, **common)
    operator = NTKOperator(model, ROWS, **common)
    close(operator @ np.eye(12), expected.total().numpy().reshape(12, 12))


def test_the_trained_parameters_of_an_adapter_by_explicit_jacobians():
    model, tokenizer = tiny_adapted("bert")
    tokens = read(tokenizer, ROWS)
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    ft, pretrain = parts_of(model, tokens, tokens, names)
    operator = NTKOperator(model, ROWS, parameters="trainable", tokenizer=tokenizer, **DOUBLE)
    close(operator @ np.eye(12), ft + pretrain)


@pytest.mark.parametrize("activations", ["recomputed", "memory"])
def test_virtual_tokens_count_among_the_parameters(activations):
    classifier = tiny_classifier("bert")
    add_prefix(classifier.model, 3)
    common = {"tokenizer": classifier.tokenizer, **DOUBLE}
    expected = empirical_ntk(classifier.model, ROWS, **common).total().numpy().reshape(12, 12)
    operator = NTKOperator(classifier.model, ROWS, activations=activations, **common)
    close(operator @ np.eye(12)[:, :3], expected[:, :3])


@pytest.mark.parametrize("activations", ["recomputed", "memory"])
def test_a_model_that_short_texts_change_is_not_changed(activations):
    """What finds the layers' rules reads short texts, at which BigBird turns to full attention."""
    torch.manual_seed(0)
    config = BigBirdConfig(
        vocab_size=60,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=200,
        attention_type="block_sparse",
        block_size=4,
        num_random_blocks=1,
    )
    module = BigBirdForSequenceClassification(config)
    ids = torch.randint(5, 60, (3, 64), generator=torch.Generator().manual_seed(4))
    common = {"head": "classifier.out_proj", **DOUBLE}
    expected = empirical_ntk(module, {"input_ids": ids}, **common).total().numpy().reshape(6, 6)
    operator = NTKOperator(module, {"input_ids": ids}, activations=activations, **common)
    close(operator @ np.eye(6)[:, :2], expected[:, :2])


def test_stored_files_go_with_their_operator(samples, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    operator = NTKOperator(perceptron(), samples, activations="files", **DOUBLE)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*")) >= 40 * (5 + 8) * 8
    del operator
    gc.collect()
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_the_model_is_not_changed(samples):
    module = perceptron().train()
    module[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    NTKOperator(module, samples, dtype=torch.float32) @ np.ones(120)
    assert module.training
    assert not module[0].weight.requires_grad
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_any_module_with_and_without_its_head(samples):
    module = perceptron()
    whole, head = (jacobian_of(module, samples, names) for names in (None, ["2.weight", "2.bias"]))
    operator = NTKOperator(module, samples, head="2", **DOUBLE)
    close(operator @ np.eye(120), whole @ whole.T)
    only_head = NTKOperator(module, samples, head="2", part="pretrain", **DOUBLE)
    close(only_head @ np.eye(120), head @ head.T)


def test_one_output_and_their_sum(samples):
    jacobian = jacobian_of(perceptron(), samples).reshape(40, 3, -1)
    one = NTKOperator(perceptron(), samples, select=1, **DOUBLE)
    close(one @ np.eye(40), jacobian[:, 1] @ jacobian[:, 1].T)
    summed = NTKOperator(perceptron(), samples, head="2", select="sum", **DOUBLE)
    close(summed @ np.eye(40), jacobian.sum(1) @ jacobian.sum(1).T)


def test_outputs_of_the_users_own(samples):
    def square(module, batch):
        return module(batch["inputs"]).square().sum(1, keepdim=True)

    module = perceptron()
    logits = module(samples).detach().numpy()
    jacobian = jacobian_of(module, samples).reshape(40, 3, -1)
    expected = np.einsum("nc,ncp->np", 2 * logits, jacobian)
    close(
        NTKOperator(module, samples, outputs=square, **DOUBLE) @ np.eye(40), expected @ expected.T
    )


def test_a_module_without_forward_mode_goes_by_double_backward(samples):
    module = nn.Sequential(nn.Linear(5, 8), WithoutForwardMode(), nn.Linear(8, 3)).double()
    jacobian = jacobian_of(module, samples)
    operator = NTKOperator(module, samples, activations="recomputed", **DOUBLE)
    assert operator.record["differentiation"] == "double backward"
    close(operator @ np.eye(120), jacobian @ jacobian.T)


class Doubled(torch.autograd.Function):
    """x, whose forward-mode derivative is wrong by a factor of two."""

    @staticmethod
    def forward(_ctx, x):
        return x.clone()

    @staticmethod
    def backward(_ctx, gradient):
        return gradient

    @staticmethod
    def jvp(_ctx, tangent):
        return 2 * tangent


class WrongForwardMode(nn.Module):
    def forward(self, x):
        return Doubled.apply(x)


def test_a_forward_mode_that_is_not_the_transpose_is_not_trusted(samples):
    module = perceptron(WrongForwardMode)
    operator = NTKOperator(module, samples, activations="recomputed", **DOUBLE)
    jacobian = jacobian_of(module, samples)
    assert operator.record["differentiation"] == "double backward"
    close(operator @ np.eye(120), jacobian @ jacobian.T)


class Once(torch.autograd.Function):
    """x^2, whose gradient has no derivative, and which has none in forward mode."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 2 * x * gradient


class Detached(Once):
    """The same, whose gradient has a derivative, of zero."""

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return (2 * x * gradient).detach()


class Bag(nn.Module):
    """A mean of rows in one operation, whose gradient PyTorch does not differentiate."""

    def __init__(self):
        super().__init__()
        self.bag = nn.EmbeddingBag(9, 8, mode="mean")

    def forward(self, x):
        return self.bag(x.abs().mul(3).long() % 9)


@pytest.mark.parametrize("operation", [Once, Detached, None])
def test_products_that_no_derivative_gives_are_refused_unless_activations_are_stored(
    samples, operation
):
    torch.manual_seed(0)
    first = Bag() if operation is None else nn.Linear(5, 8)
    apply = nn.Identity() if operation is None else Applied(operation)
    module = nn.Sequential(first, apply, nn.Linear(8, 3)).double()
    jacobian = jacobian_of(module, samples)
    with pytest.raises(InputError, match="give activations='memory' or 'files'"):
        NTKOperator(module, samples, activations="recomputed", **DOUBLE)
    operator = NTKOperator(module, samples, **DOUBLE)
    close(operator @ np.eye(120), jacobian @ jacobian.T)
    operator.close()
    with pytest.raises(InputError, match="give activations='memory' or 'files'"):
        operator @ np.ones(120)


class Applied(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function.apply(x)


class Mean(torch.autograd.Function):
    """x, whose gradient is divided by the number of samples in the batch."""

    @staticmethod
    def forward(_ctx, x):
        return x.clone()

    @staticmethod
    def backward(_ctx, gradient):
        return gradient / len(gradient)


@pytest.mark.parametrize("activations", ["recomputed", "memory"])
def test_gradients_that_count_the_batch_are_those_of_samples_alone(samples, activations):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 8), Applied(Mean), nn.Tanh(), nn.Linear(8, 3)).double()
    jacobian = jacobian_of(module, samples)
    operator = NTKOperator(module, samples, activations=activations, **DOUBLE)
    assert operator.record["batches"] == [40]
    close(operator @ np.eye(120), jacobian @ jacobian.T)


def test_the_frequency_of_ids_is_that_of_samples_alone():
    torch.manual_seed(0)
    table = nn.Embedding(4, 5, scale_grad_by_freq=True)
    module = nn.Sequential(table, nn.Flatten(), nn.Linear(15, 2)).double()
    # The first sample has three ids, of which forward mode takes the right gradient.
    ids = torch.tensor([[0, 1, 2], [3, 3, 1], [2, 2, 2], [0, 3, 0]])
    jacobian = jacobian_of(module, ids)
    close(NTKOperator(module, ids, **DOUBLE) @ np.eye(8), jacobian @ jacobian.T)
    with pytest.raises(InputError, match="give activations="):
        NTKOperator(module, ids, activations="recomputed", **DOUBLE)


def test_the_callers_inference_mode_does_not_matter(samples, kernel):
    module = perceptron()
    with torch.inference_mode():
        operator = NTKOperator(module, samples, head="2", **DOUBLE)
        assert operator.trace() == pytest.approx(np.trace(kernel), rel=1e-12)
        close(operator @ np.eye(120), kernel)


class Centred(nn.Module):
    """Outputs that depend on the other samples of a batch."""

    def __init__(self):
        super().__init__()
        self.inner = perceptron()

    def forward(self, x):
        return self.inner(x) - (self.inner(x).mean(0, keepdim=True) if len(x) > 1 else 0)


def test_samples_that_see_each_other_in_a_batch_pass_alone(samples):
    jacobian = jacobian_of(perceptron(), samples)
    with pytest.warns(UserWarning, match="change with the sample beside it"):
        operator = NTKOperator(Centred(), samples, activations="recomputed", **DOUBLE)
    assert operator.record["batches"] == [40]
    close(operator @ np.ones(120), jacobian @ jacobian.sum(0))


def test_little_memory_makes_small_batches_and_the_same_products(samples, monkeypatch):
    torch.manual_seed(0)
    module = nn.Sequential(*[nn.Linear(5, 5) for _ in range(3)], nn.Linear(5, 3)).double()
    operator = NTKOperator(module, samples, activations="recomputed", **DOUBLE)
    v = np.random.default_rng(0).standard_normal((120, 11))
    whole = operator @ v
    monkeypatch.setattr(operator._axes[0], "batches", [np.array([row]) for row in range(40)])
    monkeypatch.setattr(operator, "_columns_at_once", 2)
    close(operator @ v, whole, 1e-12)
    close(np.stack([operator @ column for column in v.T], 1), whole, 1e-12)


def test_entries_that_do_not_exist_are_refused_and_no_vector_has_no_product(operator):
    for rows, columns, says in (([120], [0], "no row 120"), ([0], [-1], "no column -1")):
        with pytest.raises(InputError, match=says):
            operator.entries(rows, columns)
    assert (operator @ np.zeros((120, 0))).shape == (120, 0)


def test_float32_is_close_to_float64(samples, kernel):
    operator = NTKOperator(perceptron(), samples, device="cpu")
    close(operator @ np.ones(120), kernel @ np.ones(120), 1e-5)


class Convolutional(nn.Module):
    """A convolution, a norm of its channels, and a layer of which no rule knows."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv1d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm1d(4)
        self.scale = nn.Parameter(torch.randn(4, 6))
        self.out = nn.Linear(24, 2)

    def forward(self, x):
        states = torch.tanh(self.norm(self.convolution(x)))
        return self.out((states * self.scale.exp()).flatten(1))


@pytest.mark.parametrize("activations", ["recomputed", "memory", "files"])
def test_a_network_of_other_layers(activations):
    module = Convolutional().double().eval()
    samples = torch.randn(9, 2, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    jacobian = jacobian_of(module, samples)
    operator = NTKOperator(module, samples, activations=activations, **DOUBLE)
    close(operator @ np.eye(18), jacobian @ jacobian.T)
    operator.close()
    close(operator @ np.eye(18), jacobian @ jacobian.T)


def test_activations_that_do_not_fit_are_recomputed_or_refused():
    classifier = tiny_classifier("bert")
    whole = NTKOperator(classifier.model, ROWS, tokenizer=classifier.tokenizer, device="cpu")
    assert whole.record["differentiation"] == "stored gradients"
    whole._free = 2 * whole.record["stored_bytes"] - 2
    whole.close()
    whole._store("auto")
    assert whole._axes[0].stored is None
    with pytest.raises(InputError, match=r"activations='memory': .* files"):
        whole._store("memory")


# --- single entries, diagonal, trace


def test_entries_diagonal_and_trace(samples, kernel):
    for head in (None, "2"):
        operator = NTKOperator(perceptron(), samples, head=head, **DOUBLE)
        close(operator.entries([0, 5, 117], [4, 5, 60]), kernel[[0, 5, 117], [4, 5, 60]])
        close(operator.diagonal(), np.diag(kernel))
        assert operator.trace() == pytest.approx(np.trace(kernel), rel=1e-10)


def test_the_trace_is_within_its_standard_error(operator, kernel):
    estimate = trace_estimate(operator, 200)
    assert abs(estimate.value - np.trace(kernel)) <= 4 * estimate.standard_error
    # Of random signs: Var z^T K z = 2 sum_(i != j) K_ij^2.
    off = kernel - np.diag(np.diag(kernel))
    expected = np.sqrt(2 * (off**2).sum() / 200)
    assert estimate.standard_error == pytest.approx(expected, rel=0.25)


def test_the_trace_of_p_has_no_error(samples):
    operator = NTKOperator(perceptron(), samples, head="2", part="pretrain", **DOUBLE)
    estimate = trace_estimate(operator, 2)
    assert estimate.standard_error == 0
    assert estimate.value == pytest.approx(operator.trace(), rel=1e-12)


def test_the_operators_error_on_exact_entries_is_rounding(operator, samples):
    error = operator_error(operator)
    assert error.relative_error <= 1e-12
    assert len(error.exact) == 8
    single = operator_error(NTKOperator(perceptron(), samples, device="cpu"))
    assert single.relative_error <= 1e-5


# --- eigenpairs


def test_eigenpairs_are_those_of_the_whole_kernel(operator, kernel):
    pairs = leading_eigenpairs(operator, 6)
    values, vectors = np.linalg.eigh(kernel)
    close(pairs.values, values[::-1][:6], 1e-9)
    rest = vectors[:, :-6]
    assert np.linalg.norm(rest.T @ pairs.vectors, 2) <= 1e-7
    residuals = np.linalg.norm(kernel @ pairs.vectors - pairs.vectors * pairs.values, axis=0)
    assert (residuals <= pairs.residuals * 1.01 + 1e-12 * values[-1]).all()
    assert (pairs.residuals <= 1e-7 * pairs.values).all()
    assert pairs.error.relative_error <= 1e-12
    assert "vectors=120 x 6" in repr(pairs)
    assert "\n" not in repr(pairs)


def test_loose_eigenpairs_say_how_far_they_are(operator, kernel):
    pairs = leading_eigenpairs(operator, 6, tolerance=0.3, check_entries=0)
    assert pairs.error is None
    residuals = np.linalg.norm(kernel @ pairs.vectors - pairs.vectors * pairs.values, axis=0)
    np.testing.assert_allclose(pairs.residuals, residuals, rtol=0.01, atol=1e-9 * pairs.values[0])
    nearest = np.abs(np.linalg.eigvalsh(kernel)[:, None] - pairs.values).min(0)
    assert (nearest <= pairs.residuals + 1e-12).all()


def test_scipy_takes_the_operator_itself(operator, kernel):
    values = eigsh(operator, k=3, which="LA", return_eigenvectors=False)
    close(np.sort(values), np.linalg.eigvalsh(kernel)[-3:], 1e-9)


# --- ridge regression


@pytest.mark.parametrize("ridge", [1e-2, 1.0, 100.0])
def test_ridge_regression_is_the_solution_of_the_linear_system(operator, kernel, samples, ridge):
    targets = np.random.default_rng(2).standard_normal((40, 3))
    found = kernel_ridge(operator, targets, ridge, tolerance=1e-10)
    expected = np.linalg.solve(kernel + ridge * np.eye(120), targets.ravel())
    assert found.converged
    close(found.coefficients.ravel(), expected, 1e-8)
    assert np.linalg.norm(found.coefficients.ravel() - expected) <= found.error_bound + 1e-12
    others = torch.randn(4, 5, dtype=torch.float64)
    cross = NTKOperator(perceptron(), others, samples, **DOUBLE)
    table = jacobian_of(perceptron(), others) @ jacobian_of(perceptron(), samples).T
    close(found.predict(cross).ravel(), table @ expected, 1e-8)


def test_a_prediction_takes_the_operator_of_others_with_the_inputs_of_training(samples):
    def operator(*inputs, part="total"):
        return NTKOperator(perceptron(), *inputs, head="2", part=part, **DOUBLE)

    train, others = samples[:6], samples[6:12]
    fit = kernel_ridge(operator(train), np.eye(6, 3), 1.0)
    assert fit.predict(operator(others, train)).shape == (6, 3)
    for wrong, says in (
        (operator(train, others), "columns are not those of training"),
        (operator(others, train.flip(0)), "columns are not those of training"),
        (operator(others, train, part="ft"), "part='ft'"),
        (np.eye(18), "is a ndarray"),
    ):
        with pytest.raises(InputError, match=says):
            fit.predict(wrong)


def test_a_regression_that_stops_early_says_so(operator, kernel):
    targets = np.random.default_rng(2).standard_normal((40, 3))
    found = kernel_ridge(operator, targets, 0.1, tolerance=1e-10, max_products=4)
    assert not found.converged
    assert len(found.residuals) == 5
    a = found.coefficients.ravel()
    left = np.linalg.norm(targets.ravel() - kernel @ a - 0.1 * a) / np.linalg.norm(targets)
    np.testing.assert_allclose(found.residuals[-2:], left, rtol=1e-6)
    exact = np.linalg.solve(kernel + 0.1 * np.eye(120), targets.ravel())
    assert np.linalg.norm(a - exact) <= found.error_bound


# --- low-rank factors


def test_nystroem_is_exact_when_every_input_is_a_landmark(operator, kernel):
    found = nystroem(operator, 40)
    close(found.rows @ found.rows.T, kernel, 1e-6)
    assert found.error.relative_error <= 1e-6


@pytest.mark.parametrize("head", [None, "2"])
def test_nystroem_is_the_formula_of_its_columns(samples, kernel, head):
    operator = NTKOperator(perceptron(), samples, head=head, **DOUBLE)
    landmarks = [3, 17, 31]
    found = nystroem(operator, landmarks)
    at = np.array([3 * n + c for n in landmarks for c in range(3)])
    expected = kernel[:, at] @ np.linalg.pinv(kernel[np.ix_(at, at)], hermitian=True) @ kernel[at]
    close(found.rows @ found.columns.T, expected, 1e-6)
    low, high = found.error.interval
    true = np.linalg.norm(expected - kernel) / np.linalg.norm(kernel)
    assert 0 < low < found.error.relative_error < high
    assert low < true < high
    close(found.operator() @ np.ones(120), expected @ np.ones(120), 1e-6)


@pytest.mark.parametrize("part", ["ft", "pretrain"])
def test_nystroem_of_a_part(samples, part):
    operator = NTKOperator(perceptron(), samples, head="2", part=part, **DOUBLE)
    found = nystroem(operator, 40, check_entries=0)
    close(found.rows @ found.rows.T, operator @ np.eye(120), 1e-6)


@pytest.mark.parametrize("head", [None, "2"])
def test_random_features_are_unbiased_with_the_variance_that_is_promised(samples, kernel, head):
    operator = NTKOperator(perceptron(), samples[:6], head=head, **DOUBLE)
    exact = kernel[:18, :18]
    dimensions, draws = 16, 100
    found = np.stack(
        [
            (lambda rows: rows @ rows.T)(
                random_features(operator, dimensions, seed=seed, check_entries=0).rows
            )
            for seed in range(draws)
        ]
    )
    norms = np.diag(exact)
    most = np.sqrt((np.outer(norms, norms) + exact**2) / dimensions)
    standardised = (found.mean(0) - exact) / (most / np.sqrt(draws))
    assert np.abs(standardised).max() <= 4.5
    # An entry's bound is of its variance; over all entries it is not passed by more than chance.
    assert np.mean(found.std(0) <= 1.3 * most) >= 0.95


def test_random_features_of_two_sets_share_the_draw(samples, kernel):
    rows, columns = samples[:20], samples[20:]
    cross = random_features(NTKOperator(perceptron(), rows, columns, **DOUBLE), 64, check_entries=0)
    whole = random_features(NTKOperator(perceptron(), samples, **DOUBLE), 64)
    close(np.concatenate([cross.rows, cross.columns]), whole.rows, 1e-12)
    error = whole.error
    low, high = error.interval
    assert low < np.linalg.norm(whole.rows @ whole.rows.T - kernel) / np.linalg.norm(kernel) < high


# --- refusals


@pytest.mark.parametrize(
    ("keywords", "says"),
    [
        ({"update": "signgd"}, "signs"),
        ({"part": "half"}, "total, ft, pretrain"),
        ({"select": "trace"}, "all, sum or the number"),
        ({"part": "pretrain"}, "no linear head"),
        ({"dtype": torch.float16}, "float32 or"),
        ({"memory": "1MB"}, "too small"),
        ({"activations": "disk"}, "auto, recomputed, memory, files"),
        ({"parameters": ["nothing.*"]}, "no parameter matches"),
    ],
)
def test_an_operator_that_does_not_exist_is_refused(samples, keywords, says):
    with pytest.raises(InputError, match=says):
        NTKOperator(perceptron(), samples, **keywords)


def test_what_needs_one_set_of_inputs_refuses_two(samples):
    cross = NTKOperator(perceptron(), samples[:3], samples, **DOUBLE)
    for call in (
        lambda: leading_eigenpairs(cross, 2),
        lambda: kernel_ridge(cross, np.ones((3, 3)), 1.0),
        lambda: nystroem(cross, 2),
        lambda: trace_estimate(cross),
        cross.diagonal,
    ):
        with pytest.raises(InputError, match="leave other_inputs out"):
            call()


def test_wrong_arguments_are_refused(operator):
    for call, says in (
        (lambda: leading_eigenpairs(operator, 120), "1 to 119"),
        (lambda: kernel_ridge(operator, np.ones((40, 2)), 1.0), "targets"),
        (lambda: kernel_ridge(operator, np.ones((40, 3)), 0.0), "ridge"),
        (lambda: nystroem(operator, 41), "1 to 40"),
        (lambda: nystroem(operator, [1, 1]), "each once"),
        (lambda: random_features(operator, 0), "dimensions"),
        (lambda: trace_estimate(operator, 1), "probes"),
        (lambda: operator_error(operator, check_entries=0), "check_entries"),
        (lambda: operator @ np.full(120, np.nan), "NaN"),
    ):
        with pytest.raises(InputError, match=says):
            call()


def test_explicit_jacobians_agree_with_the_other_reference():
    """The two references of this file, on one model."""
    classifier = tiny_classifier("bert")
    tokens = read(classifier.tokenizer, ROWS)
    names = [name for name, _ in classifier.model.named_parameters()]
    jacobian = explicit_jacobian(classifier.model, tokens, names).flatten(0, 1).numpy()
    ft, pretrain = parts_of(classifier.model, tokens, tokens, names)
    close(jacobian @ jacobian.T, ft + pretrain)


class Experts(nn.Module):
    """Each sample passes the one expert that its first number chooses."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(5, 3) for _ in range(3))

    def forward(self, x):
        chosen = (3 * x[:, 0]).long().clamp(0, 2)
        result = x.new_zeros(len(x), 3)
        for number, expert in enumerate(self.experts):
            rows = (chosen == number).nonzero()[:, 0]
            result = result.index_add(0, rows, expert(x[rows]))
        return result


def test_a_mixture_of_experts_is_computed_anew_for_every_product():
    torch.manual_seed(0)
    module, samples = Experts().double(), torch.rand(7, 5, dtype=torch.float64)
    # The first and the last one, by which the module is examined, pass the same expert.
    samples[[0, 1, 2, 6], 0] = torch.tensor([0.1, 0.5, 0.9, 0.2], dtype=torch.float64)
    jacobian = jacobian_of(module, samples)
    operator = NTKOperator(module, samples, **DOUBLE)
    assert operator.record["activations"] == "recomputed"
    close(operator @ np.eye(21), jacobian @ jacobian.T)
    with pytest.raises(InputError, match=r"activations='files'.*mixture of experts"):
        NTKOperator(module, samples, activations="files", **DOUBLE)


def test_numbers_that_do_not_fit_are_refused(operator):
    for landmarks in ("ab", [0.5, 1.5], [[0]]):
        with pytest.raises(InputError, match="landmarks: expected"):
            nystroem(operator, landmarks)
    targets = np.ones((40, 3))
    with pytest.raises(InputError, match=r"ridge='a': expected a finite number above 0"):
        kernel_ridge(operator, targets, "a")
    with pytest.raises(InputError, match="tolerance=-1: expected a finite number above 0"):
        kernel_ridge(operator, targets, 1.0, tolerance=-1)


def test_what_is_no_operator_is_refused():
    with pytest.raises(
        InputError, match=r"expected an NTKOperator for eigenpairs, found a ndarray"
    ):
        leading_eigenpairs(np.eye(4), 2)
