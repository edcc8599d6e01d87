"""CKA against centring by Kronecker products, linear CKA of features, and invariances."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpft.errors import InputError
from lpft.ntk.statistics import alignment_matrix, centred_kernel, centred_kernel_alignment


def gradient_kernel(samples: int, classes: int, seed: int, parameters: int = 6) -> np.ndarray:
    """A positive semidefinite N x C x N x C kernel of random gradients with a common mean."""
    rng = np.random.default_rng(seed)
    psi = rng.normal(size=(samples, classes, parameters)) + rng.normal(size=(classes, parameters))
    return np.einsum("ncp,mdp->ncmd", psi, psi)


def feature_kernel(samples: int, seed: int, features: int = 4) -> np.ndarray:
    phi = np.random.default_rng(seed).normal(size=(samples, features)) + 1
    return phi @ phi.T + 1


def as_matrix(kernel: np.ndarray, classes: int) -> np.ndarray:
    """The NC x NC matrix; of P that of ``P x I_C``."""
    if kernel.ndim == 2:
        return np.kron(kernel, np.eye(classes))
    return kernel.reshape(len(kernel) * classes, len(kernel) * classes)


def naive_alignment(first: np.ndarray, second: np.ndarray, classes: int) -> float:
    """The definition, with the centring matrix H x I_C and traces of products."""
    samples = len(first)
    centring = np.kron(np.eye(samples) - np.ones((samples, samples)) / samples, np.eye(classes))
    one, two = (centring @ as_matrix(kernel, classes) @ centring for kernel in (first, second))
    inner = np.trace(one.T @ two)
    return float(inner / np.sqrt(np.trace(one.T @ one) * np.trace(two.T @ two)))


def aligned(first: np.ndarray, second: np.ndarray) -> float:
    value = centred_kernel_alignment(first, second)
    assert value is not None
    return value


@settings(max_examples=25, deadline=None)
@given(samples=st.integers(2, 7), classes=st.integers(2, 4), seed=st.integers(0, 2**32 - 10))
def test_alignment_against_the_definition(samples: int, classes: int, seed: int) -> None:
    kernels = [
        gradient_kernel(samples, classes, seed),
        gradient_kernel(samples, classes, seed + 1),
        feature_kernel(samples, seed + 2),
        feature_kernel(samples, seed + 3),
    ]
    for first in kernels:
        for second in kernels:
            found = aligned(first, second)
            assert found == pytest.approx(naive_alignment(first, second, classes), abs=1e-10)
            assert found == pytest.approx(aligned(second, first), abs=1e-12)
            assert -1e-12 <= found <= 1 + 1e-12


def test_linear_kernels_have_the_linear_cka_of_their_features() -> None:
    # Kornblith et al., equation 2: ||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F), columns centred.
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, 4)) + 3, rng.normal(size=(9, 6)) - 1
    found = aligned(x @ x.T + 1, y @ y.T + 1)
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    expected = np.linalg.norm(y.T @ x) ** 2
    expected /= np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    assert found == pytest.approx(expected, rel=1e-12)


def test_centring_is_that_of_the_gradients() -> None:
    psi = np.random.default_rng(1).normal(size=(5, 3, 4)) + 2
    kernel = np.einsum("ncp,mdp->ncmd", psi, psi)
    moved = psi - psi.mean(axis=0)
    expected = np.einsum("ncp,mdp->ncmd", moved, moved)
    np.testing.assert_allclose(centred_kernel(kernel), expected, atol=1e-12)


def test_multiples_rotations_and_a_common_shift_do_not_matter() -> None:
    rng = np.random.default_rng(2)
    psi, other = rng.normal(size=(6, 2, 5)), gradient_kernel(6, 2, seed=3)
    rotation, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    kernel = np.einsum("ncp,mdp->ncmd", psi, psi)
    turned = 7 * (psi @ rotation) + rng.normal(size=(2, 5))
    again = np.einsum("ncp,mdp->ncmd", turned, turned)
    assert aligned(kernel, again) == pytest.approx(1, abs=1e-12)
    assert aligned(kernel, other) == pytest.approx(aligned(again, other), abs=1e-12)
    assert aligned(kernel, -kernel) == pytest.approx(-1, abs=1e-12)
    order = rng.permutation(6)
    permuted = [table[order][:, :, order] for table in (kernel, other)]
    assert aligned(*permuted) == pytest.approx(aligned(kernel, other), abs=1e-12)


def test_kernels_on_different_directions_are_orthogonal() -> None:
    # Two centred features that are orthogonal over the samples: H K H and H L H have product 0.
    x, y = np.array([1.0, -1.0, 1.0, -1.0]), np.array([1.0, 1.0, -1.0, -1.0])
    assert aligned(np.outer(x, x), np.outer(y, y)) == pytest.approx(0, abs=1e-15)
    # Half of the energy in common: <A, A + B> / (|A| |A + B|) = 1 / sqrt 2.
    both = np.outer(x, x) + np.outer(y, y)
    assert aligned(np.outer(x, x), both) == pytest.approx(0.5**0.5)


def test_a_kernel_that_is_the_same_for_each_class_compares_with_the_other() -> None:
    heads = feature_kernel(5, seed=4)
    blocks = 3 * np.einsum("nm,cd->ncmd", heads, np.eye(3))
    assert aligned(heads, blocks) == pytest.approx(1, abs=1e-12)
    # One class of three carries the same kernel, the others nothing: 1 / sqrt 3.
    single = np.zeros((5, 3, 5, 3))
    single[:, 0, :, 0] = heads
    assert aligned(heads, single) == pytest.approx(3**-0.5, abs=1e-12)


def test_a_kernel_without_variation_has_no_direction() -> None:
    kernel = feature_kernel(4, seed=5)
    assert centred_kernel_alignment(np.full((4, 4), 0.1), kernel) is None
    assert centred_kernel_alignment(np.ones((1, 1)), np.ones((1, 2, 1, 2))) is None
    assert centred_kernel_alignment(kernel, 0 * kernel) is None


def test_the_matrix_of_all_pairs_is_a_record() -> None:
    kernels = {
        "pretrain_effective": feature_kernel(5, seed=6),
        "ft/ft_effective": gradient_kernel(5, 2, seed=7),
        "step 100": gradient_kernel(5, 2, seed=8),
        "nothing": np.zeros((5, 2, 5, 2)),
    }
    record = json.loads(json.dumps(alignment_matrix(kernels)))
    assert record["kernels"] == list(kernels)
    tables = list(kernels.values())[:3]
    for i, row in enumerate(tables):
        for j, column in enumerate(tables):
            expected = naive_alignment(row, column, 2)
            assert record["values"][i][j] == pytest.approx(expected, abs=1e-12)
        assert record["values"][i][i] == 1
    assert record["values"][3] == [None] * 4
    assert [row[3] for row in record["values"]] == [None] * 4


def test_kernels_of_other_samples_are_refused() -> None:
    with pytest.raises(InputError, match="one set of samples and classes"):
        centred_kernel_alignment(feature_kernel(4, 0), feature_kernel(5, 0))
    with pytest.raises(InputError, match="one set of samples and classes"):
        centred_kernel_alignment(gradient_kernel(4, 2, 0), gradient_kernel(4, 3, 0))
    with pytest.raises(InputError, match="one set of samples"):
        centred_kernel(np.ones((4, 2, 5, 2)))
    with pytest.raises(InputError, match="at least one kernel"):
        alignment_matrix({})
