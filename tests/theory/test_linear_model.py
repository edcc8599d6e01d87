"""Gradient descent of the linear model against torch."""

import numpy as np
import pytest
import torch

from lpft.errors import InputError
from lpft.theory import gradient_descent, random_linear_model


def setting(rows=5, inputs=6, features=4, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    model = random_linear_model(inputs, features, classes, head_scale=0.7, rng=rng)
    return model, rng.normal(size=(rows, inputs)), rng.integers(classes, size=rows)


def test_gradient_descent_takes_the_steps_of_torch_s_sgd():
    model, x, y = setting()
    encoder, head, bias = (
        torch.tensor(values, requires_grad=True)
        for values in (model.encoder, model.head, model.bias)
    )
    optimizer = torch.optim.SGD([encoder, head, bias], lr=0.05)
    for _ in range(30):
        optimizer.zero_grad()
        logits = torch.from_numpy(x) @ encoder.T @ head.T + bias
        torch.nn.functional.cross_entropy(logits, torch.from_numpy(y), reduction="sum").backward()
        optimizer.step()
    trained = gradient_descent(model, x, y, rate=0.05, steps=30)
    for found, expected in zip(
        (trained.encoder, trained.head, trained.bias), (encoder, head, bias), strict=True
    ):
        np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-11, atol=1e-12)


def test_no_step_changes_nothing():
    model, x, y = setting()
    assert gradient_descent(model, x, y, rate=0.1, steps=0) is model


def test_features_and_logits_by_hand():
    model, x, _ = setting()
    expected = model.head @ (model.encoder @ x[2]) + model.bias
    np.testing.assert_allclose(model.logits(x)[2], expected, rtol=1e-13)


def test_a_rate_that_overflows_is_refused():
    model, x, y = setting()
    with pytest.raises(InputError, match="left the finite numbers in step"):
        gradient_descent(model, 1e200 * x, y, rate=1e200, steps=10)


def test_coordinates_that_no_training_input_uses_keep_their_columns_bit_for_bit():
    model, x, y = setting()
    x[:, 4:] = 0
    trained = gradient_descent(model, x, y, rate=0.1, steps=50)
    assert np.array_equal(trained.encoder[:, 4:], model.encoder[:, 4:])
    assert np.abs(trained.encoder[:, :4] - model.encoder[:, :4]).min() > 1e-4
    assert np.abs(trained.head - model.head).max() > 1e-2
