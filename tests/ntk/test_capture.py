"""What modules leave for a kernel: every rule against the gradients of plain autograd."""

import pytest
import torch
from torch import Tensor, nn

from lpft.ntk.capture import (
    Outer,
    Recorder,
    Rows,
    Rule,
    Share,
    Tied,
    active_share,
    call_shares,
    merge_uses,
    modules_with_rules,
    pull_back,
)

SAMPLES = 3


def random_module(module: nn.Module) -> nn.Module:
    """The module in float64 and evaluation mode, with nothing at its start."""
    generator = torch.Generator().manual_seed(0)
    module = module.double().eval()
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_floating_point():
                tensor.normal_(generator=generator)
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
    return module


def random_tensor(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def outputs_of(module: nn.Module, inputs: Tensor) -> Tensor:
    """Two outputs of each sample that depend on everything the module computes."""
    result = module(inputs).flatten(1)
    mixing = torch.linspace(-1, 2, 2 * result.shape[1], dtype=result.dtype)
    return result.tanh() @ mixing.view(-1, 2)


def by_autograd(module: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """J of each parameter, 2 x n x numel, one sample and output at a time."""
    named = dict(module.named_parameters())
    rows = [
        [
            torch.autograd.grad(
                outputs_of(module, inputs[n : n + 1])[0, output],
                list(named.values()),
                allow_unused=True,
                materialize_grads=True,
            )
            for n in range(len(inputs))
        ]
        for output in range(2)
    ]
    return {
        name: torch.stack([torch.stack([g[index].flatten() for g in row]) for row in rows])
        for index, name in enumerate(named)
    }


def captured(module: nn.Module, inputs: Tensor, modules: dict | None = None) -> dict[str, Share]:
    """The shares that the module leaves of all samples at once."""
    names = [name for name, _ in module.named_parameters()]
    if modules is None:
        modules, without = modules_with_rules(module, names)
        assert not without
    module.requires_grad_(False)
    with torch.enable_grad(), Recorder(modules, len(inputs), enabled=True) as recorder:
        outputs = outputs_of(module, inputs)
        cotangents = [[column.expand_as(outputs)] for column in torch.eye(2, dtype=outputs.dtype)]
        _, gradients, _ = pull_back([outputs], cotangents, [], recorder.calls, {})
        uses: dict[str, list[Share]] = {}
        for call, of_call in zip(recorder.calls, gradients, strict=True):
            for name, share in call_shares(call, of_call, len(inputs)).items():
                uses.setdefault(name, []).append(share)
    module.requires_grad_(True)
    return {name: merge_uses(of_name) for name, of_name in uses.items()}


def dense(share: Share | None, shape: torch.Size) -> Tensor:
    """J, S x n x numel, of a parameter of this shape."""
    if isinstance(share, Tensor):
        return share
    if isinstance(share, Outer):
        products = [torch.einsum("ntb,nta->nba", g, share.inputs) for g in share.gradients]
        return torch.stack(products).flatten(2)
    if isinstance(share, Rows):
        result = torch.zeros(len(share.vectors), SAMPLES, *shape, dtype=share.vectors.dtype)
        result[:, share.samples, share.ids] = share.vectors
        return result.flatten(2)
    assert isinstance(share, Tied)
    return dense(share.outer, shape) + dense(share.rows, shape)


def check(module: nn.Module, inputs: Tensor, modules: dict | None = None) -> dict[str, Share]:
    module = random_module(module)
    shares = captured(module, inputs, modules)
    expected = by_autograd(module, inputs)
    assert shares.keys() == expected.keys()
    for name, parameter in module.named_parameters():
        found = dense(shares[name], parameter.shape)
        torch.testing.assert_close(found, expected[name], rtol=1e-11, atol=1e-11)
    return shares


IMAGE = (SAMPLES, 4, 7, 6)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Conv1d(4, 6, 3), (SAMPLES, 4, 9)),
        (nn.Conv1d(4, 6, 2, stride=2, padding=1, dilation=2), (SAMPLES, 4, 9)),
        (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), bias=False), IMAGE),
        (nn.Conv2d(4, 6, 3, padding="same", padding_mode="reflect"), IMAGE),
        (nn.Conv2d(4, 6, 3, padding=2, padding_mode="circular"), IMAGE),
        (nn.Conv3d(2, 3, 2, stride=(1, 2, 1)), (SAMPLES, 2, 4, 5, 3)),
    ],
)
def test_a_convolution_is_a_linear_layer_of_patches(module, shape):
    shares = check(module, random_tensor(*shape))
    assert isinstance(shares["weight"], Outer)
    rules = dict.fromkeys(shares, Rule.SHIFT) | {"weight": Rule.FORMED}
    shares = check(module, random_tensor(*shape), {"": (module, rules)})
    assert isinstance(shares["weight"], Tensor)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Conv1d(4, 8, 3, groups=2, padding=1), (SAMPLES, 4, 9)),
        (nn.Conv2d(4, 8, 3, groups=4, stride=2, padding=1), IMAGE),
        (nn.Conv2d(4, 6, 3, groups=2, padding="same", padding_mode="replicate"), IMAGE),
        (nn.Conv3d(2, 4, 2, groups=2), (SAMPLES, 2, 4, 5, 3)),
    ],
)
def test_a_convolution_with_groups(module, shape):
    check(module, random_tensor(*shape))


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.GroupNorm(2, 4), IMAGE),
        (nn.BatchNorm1d(5), (SAMPLES, 5)),
        (nn.BatchNorm1d(5), (SAMPLES, 5, 5)),
        (nn.BatchNorm2d(4), IMAGE),
        (nn.LayerNorm(6), IMAGE),
        (nn.LayerNorm([7, 6]), IMAGE),
        (nn.RMSNorm(6), IMAGE),
        (nn.PReLU(), IMAGE),
        (nn.PReLU(4), IMAGE),
    ],
)
def test_normalisations_in_evaluation(module, shape):
    check(module, random_tensor(*shape))


class Scale(nn.Module):
    """A vector by another name, as vision models scale their layers."""

    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(6))

    def forward(self, states):
        return states * (1 + self.gamma)


def test_the_scale_of_a_layer():
    check(Scale(), random_tensor(*IMAGE))


def test_several_layers():
    check(
        nn.Sequential(
            nn.Conv2d(4, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(inplace=True),
            nn.Conv2d(6, 6, 3, groups=6),
            nn.GroupNorm(3, 6),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(24, 5),
            nn.LayerNorm(5),
        ),
        random_tensor(*IMAGE),
    )


class Attention(nn.Module):
    def __init__(self, *, batch_first, same):
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 2, batch_first=batch_first)
        self.same = same

    def forward(self, states):
        if not self.inner.batch_first:
            states = states.transpose(0, 1)
        others = states if self.same else states.flip(0 if not self.inner.batch_first else 1)
        mask = torch.ones(5, 5, dtype=torch.bool).triu(1)
        result, _ = self.inner(states, others, others, attn_mask=mask)
        return result if self.inner.batch_first else result.transpose(0, 1)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("same", [True, False])
def test_attention_in_one_function(batch_first, same):
    check(Attention(batch_first=batch_first, same=same), random_tensor(SAMPLES, 5, 8))


def test_attention_is_put_back_as_it_was():
    module = random_module(Attention(batch_first=True, same=True))
    inputs = random_tensor(SAMPLES, 5, 8)
    before = module(inputs)
    captured(module, inputs)
    assert "forward" not in vars(module.inner)
    assert torch.equal(module(inputs), before)


def test_a_transformer_encoder_of_torch():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(8), enable_nested_tensor=False)
    check(encoder, random_tensor(SAMPLES, 5, 8))


class Windows(nn.Module):
    """A linear layer on parts of each sample, which have its axis in common with the samples."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 5)

    def forward(self, states):
        return self.inner(states.flatten(0, 1)).unflatten(0, states.shape[:2])


def test_windows_of_samples():
    check(Windows(), random_tensor(*IMAGE))


class Language(nn.Module):
    """Logits of words by the embedding's own weight."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(7, 4)
        self.inner = nn.Linear(4, 4)
        self.logits = nn.Linear(4, 7, bias=False)
        self.logits.weight = self.words.weight

    def forward(self, ids):
        return self.logits(self.inner(self.words(ids)).tanh())


def test_an_embedding_that_is_a_linear_weight_as_well():
    ids = torch.tensor([[1, 2, 2, 5], [0, 0, 3, 6], [4, 4, 4, 4]])
    shares = check(Language(), ids)
    assert isinstance(shares["words.weight"], Tied)


class InPlace(nn.Module):
    """Writes into what its linear layer returned."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)

    def forward(self, states):
        states = self.first(states).view(len(states), -1, 2, 3)
        states /= 3
        states = self.second(states.flatten(2).sin())
        states *= 2
        return states


def test_what_is_written_into_a_result_does_not_matter():
    check(InPlace(), random_tensor(SAMPLES, 7, 6))


def test_tokens_without_a_gradient_are_dropped():
    inputs, gradient = random_tensor(2, 4, 3), torch.zeros(2, 4, 5, dtype=torch.float64)
    gradient[0, 2], gradient[1, 3] = 1.0, 2.0
    outer = Outer(inputs, [gradient])
    active = active_share(outer)
    assert isinstance(active, Outer)
    assert active.inputs.shape == (2, 1, 3)
    expected = torch.einsum("ntb,nta->nba", gradient, inputs)
    torch.testing.assert_close(
        torch.einsum("ntb,nta->nba", active.gradients[0], active.inputs), expected
    )
    assert active_share(Outer(inputs, [torch.zeros_like(gradient)])) is None
