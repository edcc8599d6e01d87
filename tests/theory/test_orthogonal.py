"""Corollary 4.3 on trained linear models."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpft.errors import InputError
from lpft.theory import check_orthogonal


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
