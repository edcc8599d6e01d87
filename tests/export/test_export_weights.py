"""The weights that carry a linear map through a stock head, one layer at a time."""

import math

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from lpft.errors import InputError
from lpft.export.heads import EXACT, SMALL, AveragingLayer, check_width, reset_norm
from lpft.export.weights import anchor, pair_differences, paired_rows

VALUES = torch.tensor([-37.0, -3.0, -0.5, -1e-3, 0.0, 1e-3, 0.5, 3.0, 37.0])


def test_pairs_are_written_out():
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    expected = [[2.0, 4.0], [-2.0, -4.0], [6.0, 8.0], [-6.0, -8.0], [0.0, 0.0]]
    assert paired_rows(weight, 2.0, 5).tolist() == expected
    assert pair_differences(2, 4.0, 5).tolist() == [
        [0.25, -0.25, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.25, -0.25, 0.0],
    ]


@pytest.mark.parametrize("layer", [nn.ReLU(), nn.GELU(), nn.GELU(approximate="tanh"), nn.SiLU()])
def test_gated_activations_give_a_number_back_from_its_pair(layer):
    found = (layer(VALUES) - layer(-VALUES)) / (EXACT.gain * EXACT.scale)
    torch.testing.assert_close(found, VALUES, rtol=2e-7, atol=0)


def test_tanh_gives_a_number_back_from_its_pair_to_single_precision():
    small = SMALL.scale * VALUES
    found = (torch.tanh(small) - torch.tanh(-small)) / (SMALL.gain * SMALL.scale)
    torch.testing.assert_close(found, VALUES, rtol=2e-6, atol=0)


@pytest.mark.parametrize("width", [8, 32, 768])
@pytest.mark.parametrize("eps", [1e-12, 1e-5])
def test_a_layer_norm_keeps_pairs_beside_the_anchor(width, eps):
    values = anchor(width)
    assert values.mean() == 0
    assert math.isclose(float(values.double().square().mean()), 1, rel_tol=1e-6)
    values[:6] = torch.tensor([1.0, -1.0, 20.0, -20.0, 0.01, -0.01]) * SMALL.scale
    norm = nn.LayerNorm(width, eps=eps)
    with torch.no_grad():
        reset_norm(norm)
        found = pair_differences(3, 2 * SMALL.scale, width) @ norm(values)
    torch.testing.assert_close(found, torch.tensor([1.0, 20.0, 0.01]), rtol=2e-6, atol=1e-7)


@torch.no_grad()
@pytest.mark.parametrize("eps", [1e-12, 1e-5])
def test_the_added_layer_averages_the_real_tokens_and_nothing_else(eps):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        layer_norm_eps=eps,
    )
    model = BertModel(config).eval()
    ids = torch.randint(0, 50, (2, 7))
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    shallow = BertModel(BertConfig(**(config.to_dict() | {"num_hidden_layers": 2}))).eval()
    shallow.load_state_dict(model.state_dict(), strict=False)
    states = shallow(input_ids=ids, attention_mask=mask).last_hidden_state.double()
    mean = torch.stack([states[0].mean(0), states[1, :4].mean(0)])
    weight = 30 * torch.randn(5, 32)
    layer = AveragingLayer("encoder.layer", "attention.self.value", "attention.output.dense")
    reading = layer.install(model, weight)
    new = model(input_ids=ids, attention_mask=mask).last_hidden_state
    expected = (mean @ weight.double().T).float()
    for token in range(7):
        torch.testing.assert_close(new[:, token] @ reading.T, expected, rtol=2e-6, atol=1e-4)


def test_classes_without_a_pair_of_coordinates_are_refused():
    module = nn.Linear(10, 10)
    check_width(module, 5, 10, anchored=False)
    check_width(module, 4, 10, anchored=True)
    for count, anchored in ((6, False), (5, True)):
        with pytest.raises(InputError, match=f"{count} classes.*can carry {count - 1}: use --form"):
            check_width(module, count, 10, anchored=anchored)
