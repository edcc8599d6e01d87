"""Kernels of modules that do unusual things: exact, or refused in one line."""

import random
from fnmatch import fnmatchcase

import numpy as np
import pytest
import torch
from references import contract, relative_error
from torch import nn
from torch.utils.checkpoint import checkpoint

from lpft.errors import InputError
from lpft.ntk import NTKOperator, empirical_ntk, empirical_ntks
from lpft.ntk import outputs as ready

DOUBLE = {"dtype": torch.float64, "device": "cpu"}
TOLERANCE = 1e-10


class Computed(nn.Module):
    """The modules ``parts`` by name, and ``forward(self, x)`` of them."""

    def __init__(self, forward, buffers=None, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        for name, buffer in (buffers or {}).items():
            self.register_buffer(name, buffer)
        self._forward = forward

    def forward(self, x):
        return self._forward(self, x)


def mlp():
    return nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))


def looked_up(table):
    def scores(self, ids):
        rows = self.table(ids)
        return self.last(torch.tanh(rows if rows.ndim == 2 else rows.mean(1)))

    return Computed(scores, table=table, last=nn.Linear(8, 3))


def complex_transfer():
    transfer = torch.randn(6, 4, dtype=torch.complex128)

    def scores(self, x):
        return self.last((self.first(x.real).to(self.transfer.dtype) @ self.transfer).abs())

    parts = {"first": nn.Linear(6, 6), "last": nn.Linear(4, 3)}
    return Computed(scores, buffers={"transfer": transfer}, **parts).double()


def complex_signal():
    def scores(self, x):
        return self.last(torch.view_as_real(x).flatten(1))

    return Computed(scores, last=nn.Linear(12, 3))


def checkpointed():
    def scores(self, x):
        return self.last(checkpoint(self.middle, self.first(x), use_reentrant=False))

    middle = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
    return Computed(scores, first=nn.Linear(6, 6), middle=middle, last=nn.Linear(6, 3))


def vectorised():
    def scores(self, x):
        return torch.vmap(lambda row: self.last(torch.tanh(self.first(row))))(x)

    return Computed(scores, first=nn.Linear(6, 6), last=nn.Linear(6, 3))


def force_field():
    """Outputs that are themselves a gradient."""

    def forces(self, x):
        with torch.enable_grad():
            positions = x.detach().requires_grad_()
            energy = self.energy(positions).sum()
            return torch.autograd.grad(energy, positions, create_graph=True)[0]

    return Computed(forces, energy=nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1)))


def routed():
    """A mixture of experts, each of which reads the samples that chose it."""

    def scores(self, x):
        weights = self.router(x).softmax(-1)
        chosen = weights.argmax(-1)
        mixed = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows = chosen == number
            if rows.any():
                mixed[rows] = expert(x[rows]) * weights[rows, number : number + 1]
        return self.last(mixed)

    experts = nn.ModuleList([nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(4)])
    return Computed(scores, router=nn.Linear(6, 4), experts=experts, last=nn.Linear(6, 3))


def stopping_early():
    """Blocks, of which some samples pass the first two alone."""

    def scores(self, x):
        rows = []
        for row in x.split(1):
            for number, block in enumerate(self.blocks):
                row = block(row)
                if number == 1 and row[0, 0] > 0:
                    break
            rows.append(row)
        return self.last(torch.cat(rows))

    blocks = nn.ModuleList([nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(4)])
    return Computed(scores, blocks=blocks, last=nn.Linear(6, 3))


class Clipped(nn.Module):
    """A learnt scale whose result is clipped: not affine in the scale."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(6) + 0.5)

    def forward(self, x):
        return (x * self.scale).clamp(-0.8, 0.8)


def clipped():
    return nn.Sequential(nn.Linear(6, 6), Clipped(), nn.Linear(6, 3))


def writing():
    def scores(self, x):
        x.sub_(x.mean(-1, keepdim=True)).mul_(2)
        return self.last(x)

    return Computed(scores, last=nn.Linear(6, 3))


def centred():
    def scores(self, x):
        rows = self.last(x).tanh()
        return rows - 0.5 * rows.mean(0)

    return Computed(scores, last=nn.Linear(6, 3))


def named_logits():
    return Computed(lambda self, x: {"logits": self.last(x)}, last=nn.Linear(6, 3))


def ragged():
    """A layer that reads the tokens of all samples in one list, without those that are 0."""

    def scores(self, ids):
        present = ids != 0
        states = torch.tanh(self.layer(self.table(ids)[present]))
        sums = states.new_zeros(len(ids), 4).index_add(0, present.nonzero()[:, 0], states)
        return self.last(sums)

    parts = {"table": nn.Embedding(11, 5), "layer": nn.Linear(5, 4), "last": nn.Linear(4, 2)}
    return Computed(scores, **parts)


def ragged_ids():
    samples = torch.randint(1, 11, (6, 7))
    samples[1, 3:] = samples[4, 5:] = 0
    return samples


def sorted_rows():
    def scores(self, x):
        order = x[:, 0].argsort()
        return self.last(torch.tanh(self.first(x[order]))[order.argsort()])

    return Computed(scores, first=nn.Linear(6, 6), last=nn.Linear(6, 3))


def sorted_ends():
    x = torch.randn(12, 6)
    x[0, 0], x[-1, 0] = -5, 5  # the samples of the examination are in order
    return x


class Switching(nn.Linear):
    """A linear layer, squared for some inputs."""

    def forward(self, x):
        scores = super().forward(x)
        return torch.where(x[..., :1] > 1.5, scores.square(), scores)


def switching():
    return nn.Sequential(Switching(6, 6), nn.Tanh(), nn.Linear(6, 3))


def switched():
    x = torch.randn(12, 6)
    x[:, 0] = torch.arange(12) % 11 / 5  # 0 at both ends
    return x


def one_layer_of_two_names():
    layer = nn.Linear(6, 6)

    def scores(self, x):
        return self.last(torch.tanh(self.second(torch.tanh(self.first(x)))))

    return Computed(scores, first=layer, second=layer, last=nn.Linear(6, 3))


class MergedWhenEvaluating(nn.Linear):
    """A layer with an adapter, which eval() adds to the weight and train() subtracts."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.down = nn.Parameter(torch.randn(2, self.in_features))
        self.up = nn.Parameter(torch.randn(self.out_features, 2))
        self.merged = False

    def train(self, mode=True):
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * self.up.data @ self.down.data
            self.merged = not mode
        return super().train(mode)

    def forward(self, x):
        scores = super().forward(x)
        return scores if self.merged else scores + x @ self.down.T @ self.up.T


class Drawing(nn.Module):
    """A module that draws numbers which it does not use."""

    def __init__(self):
        super().__init__()
        self.inner = mlp()

    def forward(self, x):
        torch.manual_seed(0)
        np.random.rand()  # noqa: NPY002
        random.random()
        return self.inner(x)


def with_an_empty_parameter():
    def scores(self, x):
        return self.last(x) + self.empty.sum()

    return Computed(scores, empty=nn.Parameter(torch.empty(0)), last=nn.Linear(6, 3))


def exported():
    dynamic = ({0: torch.export.Dim("samples")},)
    return torch.export.export(mlp(), (numbers(),), dynamic_shapes=dynamic).module()


def numbers():
    # The first and the last are small: nothing is clipped where modules are examined.
    x = 2 * torch.randn(12, 6)
    x[[0, -1]] /= 20
    return x


def ids():
    return torch.randint(0, 11, (5, 7))


MODULES = {
    "sparse gradients of an embedding": (lambda: looked_up(nn.Embedding(11, 8, sparse=True)), ids),
    "sparse gradients of a bag": (lambda: looked_up(nn.EmbeddingBag(11, 8, sparse=True)), ids),
    "rows of bounded norm": (lambda: looked_up(nn.Embedding(11, 8, max_norm=1.0)), ids),
    "gradients by frequency": (
        lambda: looked_up(nn.Embedding(11, 8, scale_grad_by_freq=True)),
        ids,
    ),
    "a complex buffer": (complex_transfer, numbers),
    "complex inputs": (complex_signal, lambda: torch.randn(5, 6, dtype=torch.complex64)),
    "checkpoints": (checkpointed, numbers),
    "vmap": (vectorised, numbers),
    "a gradient inside": (force_field, numbers),
    "experts": (routed, lambda: 3 * torch.randn(12, 6)),
    "early exit": (stopping_early, lambda: 3 * torch.randn(12, 6)),
    "a clipped scale": (clipped, numbers),
    "ragged": (ragged, ragged_ids),
    "sorted": (sorted_rows, sorted_ends),
    "a rule for some inputs": (switching, switched),
    "a module of two names": (one_layer_of_two_names, numbers),
    "writing into inputs": (writing, numbers),
    "a mean over the batch": (centred, numbers),
    "a dict of logits": (named_logits, numbers),
    "random numbers that are not used": (Drawing, numbers),
    "an empty parameter": (with_an_empty_parameter, numbers),
    "compiled": (lambda: torch.compile(mlp(), backend="eager"), numbers),
    "an exported graph": (exported, numbers),
}


def explicit_jacobian(module, inputs):
    """d f_k(x_n) / d theta, N x K x P, each sample read alone in float64."""
    module.double()
    for part in module.modules():
        part.training = False
    parameters = list(module.parameters())
    inputs = inputs.to(torch.complex128) if inputs.is_complex() else inputs
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    jacobian = []
    for sample in inputs.split(1):
        output = module(sample.clone())
        output = output["logits"] if isinstance(output, dict) else output
        for value in output[0]:
            gradients = torch.autograd.grad(
                value, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            jacobian.append(torch.cat([gradient.to_dense().flatten() for gradient in gradients]))
    return torch.stack(jacobian).unflatten(0, (len(inputs), -1))


def state(module):
    tensors = [*module.named_parameters(), *module.named_buffers()]
    values = {name: tensor.detach().clone() for name, tensor in tensors}
    return values, [(part.training, len(part._forward_hooks)) for part in module.modules()]


def next_of_numpy():
    """The number that NumPy's own generator draws next."""
    before = np.random.get_state()  # noqa: NPY002
    number = np.random.rand()  # noqa: NPY002
    np.random.set_state(before)  # noqa: NPY002
    return number


@pytest.mark.filterwarnings("ignore:the outputs of the first sample change")
@pytest.mark.parametrize("name", MODULES)
def test_the_kernel_is_that_of_plain_autograd(name):
    make, inputs = MODULES[name]
    torch.manual_seed(0)
    module, samples = make(), inputs()
    for part in module.modules():  # in the mode of training
        part.training = True
    values, modes = state(module)
    generator_state, copied = torch.get_rng_state(), samples.clone()
    of_python, of_numpy = random.getstate(), next_of_numpy()
    kernel = empirical_ntk(module, samples, **DOUBLE)
    operator = NTKOperator(module, samples, **DOUBLE)
    vector = torch.ones(operator.shape[1], dtype=torch.float64)
    product = torch.from_numpy(operator @ vector.numpy())
    assert torch.equal(generator_state, torch.get_rng_state())
    assert (of_python, of_numpy) == (random.getstate(), next_of_numpy())
    assert torch.equal(samples, copied)
    values_after, modes_after = state(module)
    assert modes == modes_after
    assert all(torch.equal(values[key], values_after[key]) for key in values)
    jacobian = explicit_jacobian(module, samples)
    expected = contract(jacobian, jacobian)
    assert relative_error(kernel.total(), expected) <= TOLERANCE
    assert kernel.certificate.largest_relative_error <= 1e-12
    assert relative_error(product, expected.reshape(operator.shape) @ vector) <= TOLERANCE


def test_an_adapter_that_eval_merges_is_computed_beside_its_weight():
    torch.manual_seed(0)
    module = nn.Sequential(MergedWhenEvaluating(6, 6), nn.Tanh(), nn.Linear(6, 3))
    values, modes = state(module)
    samples = numbers()
    adapter = ["0.down", "0.up"]
    kernel = empirical_ntk(module, samples, parameters=adapter, **DOUBLE)
    values_after, modes_after = state(module)
    assert modes == modes_after
    assert all(torch.equal(values[key], values_after[key]) for key in values)
    # By hand: f = V tanh(W x + B A x + b) + c with h = W x + B A x + b.
    layer, last = module[0].double(), module[2].double()
    x = samples.double()
    slope = 1 - layer(x).tanh().square()
    at_h = last.weight * slope.unsqueeze(1)  # d f_c / d h, N x 3 x 6
    of_up = torch.einsum("nch,nr->nchr", at_h, x @ layer.down.T).flatten(2)
    of_down = torch.einsum("ncr,ni->ncri", at_h @ layer.up, x).flatten(2)
    jacobian = torch.cat([of_up, of_down], 2)
    assert relative_error(kernel.total(), contract(jacobian, jacobian).detach()) <= TOLERANCE


def refused(says, module, inputs, **keywords):
    for call in (empirical_ntk, NTKOperator):
        with pytest.raises(InputError, match=says) as caught:
            call(module, inputs, **DOUBLE | keywords)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pattern", ["first.*", "second.*", "second.weight", "*.weight"])
def test_a_shared_parameter_has_the_names_of_all_its_modules(pattern):
    torch.manual_seed(0)
    module, samples = one_layer_of_two_names(), numbers()
    own = [name for name in ("weight", "bias") if fnmatchcase(f"second.{name}", pattern)]
    own = ["weight", "bias"] if pattern == "first.*" else own
    names = [f"first.{name}" for name in own] + ["last.weight"] * (pattern == "*.weight")
    kernel = empirical_ntk(module, samples, parameters=[pattern], **DOUBLE)
    operator = NTKOperator(module, samples, parameters=[pattern], **DOUBLE)
    jacobian = explicit_jacobian(module, samples)
    of = [n for n, p in module.named_parameters() for _ in range(p.numel())]
    jacobian = jacobian[..., torch.tensor([name in names for name in of])]
    expected = contract(jacobian, jacobian)
    assert relative_error(kernel.total(), expected) <= TOLERANCE
    vector = torch.ones(operator.shape[1], dtype=torch.float64)
    product = torch.from_numpy(operator @ vector.numpy())
    assert relative_error(product, expected.reshape(operator.shape) @ vector) <= TOLERANCE


def test_experts_are_no_pieces_of_a_folder(tmp_path):
    torch.manual_seed(0)
    with pytest.raises(InputError, match="cache_dir"):
        empirical_ntk(routed(), 3 * torch.randn(12, 6), cache_dir=tmp_path, **DOUBLE)


def test_a_head_whose_outputs_are_rectified_for_some_inputs_has_no_split():
    module = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2), nn.ReLU())
    with torch.no_grad():
        module[0].weight.copy_(torch.eye(6))
        module[0].bias.zero_()
        module[2].weight.copy_(torch.tensor([[1.0, 1, 1, -1, -1, -1], [1, 1, 1, -1, -1, -1]]))
        module[2].bias.zero_()
    inputs = torch.eye(6)[[0, 1, 4, 2]]  # the third sample alone has outputs below zero
    refused("input 2 are not those of '2'", module, inputs, head="2")
    assert empirical_ntk(module, inputs[[0, 1, 3]], head="2", **DOUBLE).pretrain_effective[0, 0] > 0


def test_complex_parameters_are_refused_where_they_count():
    module = Computed(
        lambda self, x: self.last(x) + (x.to(self.w.dtype) @ self.w).abs(),
        w=nn.Parameter(torch.randn(6, 3, dtype=torch.complex64)),
        last=nn.Linear(6, 3),
    )
    inputs = torch.randn(4, 6)
    refused("'w' is complex.*view_as_real", module, inputs)
    refused("'w' is complex", module, inputs, parameters=["w", "last.bias"])
    kernel = empirical_ntk(module, inputs, parameters=["last.*"], **DOUBLE)
    features = torch.cat([inputs, torch.ones(4, 1)], 1).double()
    expected = torch.einsum("nm,cd->ncmd", features @ features.T, torch.eye(3).double())
    assert relative_error(kernel.total(), expected) <= TOLERANCE


@pytest.mark.parametrize("training", [True, False])
def test_outputs_of_the_model_itself_are_refused(training):
    module = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).train(training)
    values, modes = state(module)
    inputs = torch.randn(4, 6)
    refused("which is a copy", module, inputs, outputs=lambda _, batch: module(batch["inputs"]))
    other = mlp()
    refused("no gradient", module, inputs, outputs=lambda _, batch: other(batch["inputs"]))
    values_after, modes_after = state(module)
    assert modes == modes_after
    assert all(torch.equal(values[key], values_after[key]) for key in values)


def test_gradients_that_a_copy_does_not_have_are_refused():
    inputs = torch.randn(4, 6)
    hooked = mlp()
    handle = hooked[0].weight.register_hook(lambda gradient: gradient * torch.eye(6))
    refused("'0.weight' has a hook on its gradient", hooked, inputs)
    handle.remove()
    assert empirical_ntk(hooked, inputs, **DOUBLE).certificate.largest_relative_error <= 1e-12
    # A result that was computed once, from parameters, and is read in every pass.
    doubled = Computed(
        lambda self, x: self.last((x @ self.doubled.to(x).T).tanh()),
        **{"first": nn.Linear(6, 6), "last": nn.Linear(6, 3)},
    )
    doubled.doubled = 2 * doubled.first.weight
    refused("'doubled', which was computed from parameters once", doubled, inputs)
    refused(
        "'1.doubled', which was computed", nn.Sequential(nn.Identity(), doubled), inputs.float()
    )


def test_parts_are_named_as_the_module_names_them():
    inputs = torch.randn(4, 6)
    compiled = torch.compile(mlp(), backend="eager")
    refused(
        r"head='2': expected its name in named_modules\(\), '_orig_mod.2'",
        compiled,
        inputs,
        head="2",
    )
    split = empirical_ntk(compiled, inputs, head="_orig_mod.2", **DOUBLE)
    whole = empirical_ntk(compiled, inputs, **DOUBLE)
    assert relative_error(split.total(), whole.total()) <= TOLERANCE
    part = nn.Sequential(nn.Linear(6, 6), torch.jit.script(nn.Linear(6, 3)))
    refused("'1' is a script of TorchScript", part, inputs)


def test_outputs_may_take_tensors_out_of_the_batch():
    module, labels = mlp(), torch.arange(4) % 3

    def of_class(module, batch):
        return module(batch.pop("x")).gather(1, batch.pop("classes").unsqueeze(1))

    inputs = {"x": torch.randn(4, 6), "classes": labels}
    kernel = empirical_ntk(module, inputs, outputs=of_class, **DOUBLE)
    whole = empirical_ntk(module, inputs["x"], **DOUBLE).total()
    rows = torch.arange(4)
    expected = whole[rows[:, None], labels[:, None], rows, labels]
    assert relative_error(kernel.total()[:, 0, :, 0], expected) <= TOLERANCE


def test_outputs_of_other_precisions():
    module, inputs = mlp(), torch.randn(4, 6)
    refused("rounded to torch.float16", module, inputs, outputs=lambda m, b: m(b["inputs"]).half())
    single = {"dtype": torch.float32, "device": "cpu"}
    kernel = empirical_ntk(module, inputs, outputs=lambda m, b: m(b["inputs"]).double(), **single)
    assert relative_error(kernel.total(), empirical_ntk(module, inputs, **DOUBLE).total()) <= 1e-5


def test_inputs_that_the_model_does_not_read_are_named():
    module = looked_up(nn.Embedding(11, 8))
    samples = ids()
    samples[2, 1] = 40
    refused("input 2 .* cannot be read .IndexError", module, samples)
    refused("input 1 .* cannot be read", module, ids(), other_inputs=samples[1:])


def test_outputs_of_several_widths_are_refused():
    def some(module, batch):
        x = batch["inputs"]
        return module(x)[:, : 3 if x[0, 0] > 0 else 2]

    inputs = torch.tensor([1.0, -1.0, 1.0]).unsqueeze(1).expand(3, 6)
    refused("outputs of 1 inputs are of shape .1, 2.", mlp(), inputs, outputs=some)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        (torch.eye(6).to_sparse(), "sparse"),
        (torch.nested.nested_tensor([torch.ones(2, 6), torch.ones(1, 6)]), "nested"),
        (torch.ones(2, 6, device="meta"), "meta"),
        ([torch.ones(2, 6), torch.ones(2, 6).long()], "batch 2 has integers"),
    ],
)
def test_inputs_that_are_no_dense_numbers_of_one_kind_are_refused(inputs, says):
    refused(says, mlp(), inputs)


def test_rows_and_columns_of_other_shapes_are_refused():
    refused("pad them to one shape", mlp(), torch.ones(2, 6), other_inputs=torch.ones(2, 5))
    refused("same tensors", mlp(), torch.ones(2, 6), other_inputs={"x": torch.ones(2, 6)})


def test_gradients_too_small_for_float32_are_said_to_be():
    torch.manual_seed(0)
    inputs = 1e-23 * torch.randn(4, 6)
    module = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 3, bias=False))
    options = {"parameters": ["0.weight"], "device": "cpu"}
    with pytest.raises(InputError, match=r"too small for torch.float32: compute in torch.float64"):
        empirical_ntk(module, inputs, dtype=torch.float32, **options)
    kernel = empirical_ntk(module, inputs, dtype=torch.float64, **options)
    assert kernel.certificate.largest_relative_error <= 1e-12


class Language(nn.Module):
    """A language model that returns its logits, n x T x V."""

    def __init__(self):
        super().__init__()
        self.table, self.last = nn.Embedding(11, 6), nn.Linear(6, 11)

    def forward(self, input_ids, attention_mask=None):  # noqa: ARG002
        return self.last(torch.tanh(self.table(input_ids)).cumsum(1))


def test_ready_outputs_of_a_module_that_returns_a_tensor():
    torch.manual_seed(0)
    module, texts = Language(), {"input_ids": ids(), "labels": torch.arange(5)}
    of_words = empirical_ntk(module, texts, outputs=ready.label_words([3, 7]), **DOUBLE)
    by_hand = empirical_ntk(
        module, texts, outputs=lambda m, b: m(b["input_ids"])[:, -1, [3, 7]], **DOUBLE
    )
    assert relative_error(of_words.total(), by_hand.total()) <= TOLERANCE
    of_token = empirical_ntk(module, texts, outputs=ready.next_token_log_probability, **DOUBLE)
    by_hand = empirical_ntk(
        module,
        texts,
        outputs=lambda m, b: (
            m(b["input_ids"])[:, -1].log_softmax(1).gather(1, b["labels"].unsqueeze(1))
        ),
        **DOUBLE,
    )
    assert relative_error(of_token.total(), by_hand.total()) <= TOLERANCE


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
@pytest.mark.parametrize("output", [ready.loss, ready.margin])
def test_classes_in_any_whole_numbers(output, dtype):
    torch.manual_seed(0)
    module, x, labels = mlp(), torch.randn(4, 6), torch.tensor([0, 2, 1, 0])
    kernels = [
        empirical_ntk(module, {"input": x, "labels": numbers}, outputs=output, **DOUBLE).total()
        for numbers in (labels, labels.to(dtype))
    ]
    assert torch.equal(*kernels)


@pytest.mark.parametrize(
    ("output", "labels", "says"),
    [
        (ready.loss, torch.ones(4), "'labels' are of torch.float32"),
        (ready.margin, torch.ones(4).bool(), "'labels' are of torch.bool"),
        (ready.loss, torch.tensor([0, 1, 2, 3]), "^'labels' must be one number per sample"),
        (ready.next_token_log_probability, torch.zeros(4).long(), "n x T x V"),
        (ready.label_words([1]), torch.zeros(4).long(), "n x T x V"),
    ],
)
def test_ready_outputs_say_what_does_not_fit(output, labels, says):
    refused(says, mlp(), {"input": torch.randn(4, 6), "labels": labels}, outputs=output)


@pytest.mark.parametrize("output", [ready.loss, ready.margin])
def test_the_only_class_has_no_loss(output):
    inputs = {"input": torch.randn(4, 6), "labels": torch.zeros(4).long()}
    refused("at least two", nn.Linear(6, 1), inputs, outputs=output)


@pytest.mark.parametrize("tokens", [[], [-1], [7.0], [True], "ab", 7, None])
def test_label_words_are_ids(tokens):
    with pytest.raises(InputError, match="list of token ids"):
        ready.label_words(tokens)
    with pytest.raises(InputError, match="token id of the mask"):
        ready.label_words([1], "[MASK]")


def test_label_words_and_last_tokens_that_do_not_exist_are_refused():
    texts = {"input_ids": ids()}
    refused(
        "token 11 is none of the model's 11", Language(), texts, outputs=ready.label_words([11])
    )
    texts["attention_mask"] = torch.ones(5, 7).long()
    texts["attention_mask"][3] = 0
    refused("'attention_mask' is 0", Language(), texts, outputs=ready.label_words([1]))


def test_heads_of_other_numbers_or_names_are_refused():
    for heads, says in (
        ({"ft": torch.zeros(3, 6, dtype=torch.complex64)}, "complex"),
        ({1: torch.ones(3, 6)}, "name 1"),
        ({"ft": torch.empty(3, 6, device="meta")}, "no dense tensor"),
        ({"ft": torch.eye(3, 6).to_sparse()}, "no dense tensor"),
    ):
        with pytest.raises(InputError, match=says):
            empirical_ntks(mlp(), heads, torch.randn(4, 6), head="2", **DOUBLE)
