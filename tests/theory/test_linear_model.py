"""Gradient descent of the linear model against torch, and Corollary 4.3 on it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lpft.errors import InputError
from lpft.theory import check_orthogonal, gradient_descent, random_linear_model


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


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 7),
    features=st.integers(1, 6),
    classes=st.integers(2, 5),
    steps=st.integers(1, 60),
    head_scale=st.sampled_from([0.02, 0.5, 3.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_orthogonal_inputs_keep_their_features(rows, features, classes, steps, head_scale, seed):
    check = check_orthogonal(
        inputs=8,
        features=features,
        classes=classes,
        rows=rows,
        head_scale=head_scale,
        rate=0.05 / rows,
        steps=steps,
        seed=seed,
    )
    # Rounding of B x against B x: a probe whose feature happens to be short sets the scale.
    assert check.orthogonal < 1e-11


def test_coordinates_that_no_training_input_uses_keep_their_columns_bit_for_bit():
    model, x, y = setting()
    x[:, 4:] = 0
    trained = gradient_descent(model, x, y, rate=0.1, steps=50)
    assert np.array_equal(trained.encoder[:, 4:], model.encoder[:, 4:])
    assert np.abs(trained.encoder[:, :4] - model.encoder[:, :4]).min() > 1e-4
    assert np.abs(trained.head - model.head).max() > 1e-2


def test_other_inputs_do_change():
    check = check_orthogonal(
        inputs=16, features=8, classes=3, rows=8, head_scale=1.0, rate=0.01, steps=50, seed=1
    )
    assert check.generic > 1e-3
    assert check.orthogonal < 1e-13


def test_without_an_orthogonal_direction_it_is_refused():
    with pytest.raises(InputError, match="fewer training inputs than their width 8"):
        check_orthogonal(
            inputs=8, features=4, classes=2, rows=8, head_scale=1.0, rate=0.1, steps=1, seed=0
        )
