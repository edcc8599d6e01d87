"""Closed forms of the linear encoder's kernels against Jacobians by plain autograd."""

import numpy as np
import pytest
import torch

from lpft.errors import InputError
from lpft.theory import ft_effective, lora_ft_effective, pretrain_effective

CLASSES, FEATURES, INPUTS, RANK = 3, 5, 7, 2


@pytest.fixture
def arrays():
    rng = np.random.default_rng(3)
    return {
        "head": rng.normal(size=(CLASSES, FEATURES)),
        "encoder": rng.normal(size=(FEATURES, INPUTS)),
        "factor": rng.normal(size=(RANK, INPUTS)),
        "x": rng.normal(size=(4, INPUTS)),
        "other": rng.normal(size=(6, INPUTS)),
    }


def jacobian(logits, parameters, inputs):
    """d logits / d parameters for each input and class, [N, C, all entries], one backward each."""
    rows = []
    for x in torch.from_numpy(inputs):
        output = logits(x)
        rows.append(
            [
                torch.cat(
                    [
                        gradient.reshape(-1)
                        for gradient in torch.autograd.grad(
                            output[c], parameters, retain_graph=True, materialize_grads=True
                        )
                    ]
                )
                for c in range(CLASSES)
            ]
        )
    return torch.stack([torch.stack(row) for row in rows]).numpy()


def explicit_kernel(logits, parameters, inputs, other):
    left, right = (jacobian(logits, parameters, table) for table in (inputs, other))
    return np.einsum("ncp,mdp->ncmd", left, right)


def tensors(arrays, *names):
    return [torch.from_numpy(arrays[name]).requires_grad_() for name in names]


def test_ft_effective_of_full_fine_tuning(arrays):
    (encoder,) = tensors(arrays, "encoder")
    head = torch.from_numpy(arrays["head"])
    expected = explicit_kernel(
        lambda x: head @ (encoder @ x), [encoder], arrays["x"], arrays["other"]
    )
    found = ft_effective(arrays["head"], arrays["x"], arrays["other"])
    assert found.shape == (4, CLASSES, 6, CLASSES)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_ft_effective_of_lora_at_its_start_over_both_factors(arrays):
    (factor,) = tensors(arrays, "factor")
    head, encoder = (torch.from_numpy(arrays[name]) for name in ("head", "encoder"))
    lora_b = torch.zeros(FEATURES, RANK, dtype=torch.float64, requires_grad=True)

    def logits(x):
        return head @ (encoder @ x + lora_b @ (factor @ x))

    expected = explicit_kernel(logits, [factor, lora_b], arrays["x"], arrays["other"])
    found = lora_ft_effective(arrays["head"], arrays["factor"], arrays["x"], arrays["other"])
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("head_bias", [True, False])
@pytest.mark.parametrize("adapted", [True, False])
def test_pretrain_effective_is_the_head_s_kernel_with_or_without_lora(arrays, head_bias, adapted):
    head, factor = tensors(arrays, "head", "factor")
    encoder = torch.from_numpy(arrays["encoder"])
    bias = torch.zeros(CLASSES, dtype=torch.float64, requires_grad=True)
    lora_b = torch.zeros(FEATURES, RANK, dtype=torch.float64)

    def logits(x):
        features = encoder @ x
        if adapted:
            features = features + lora_b @ (factor @ x)
        return head @ features + (bias if head_bias else 0)

    parameters = [head, bias] if head_bias else [head]
    expected = explicit_kernel(logits, parameters, arrays["x"], arrays["other"])
    features, others = (arrays[name] @ arrays["encoder"].T for name in ("x", "other"))
    found = pretrain_effective(features, others, head_bias=head_bias)
    assert found.shape == (4, 6)
    whole = np.einsum("nm,cd->ncmd", found, np.eye(CLASSES))
    np.testing.assert_allclose(whole, expected, rtol=1e-12, atol=1e-12)


def test_widths_that_differ_are_refused(arrays):
    with pytest.raises(InputError, match=r"inputs: expected two matrices of one width"):
        ft_effective(arrays["head"], arrays["x"], arrays["other"][:, 1:])
    with pytest.raises(InputError, match=r"the factor A"):
        lora_ft_effective(arrays["head"], arrays["factor"][:, 1:], arrays["x"], arrays["x"])
    with pytest.raises(InputError, match=r"features: expected two matrices"):
        pretrain_effective(arrays["x"], arrays["x"][0])
