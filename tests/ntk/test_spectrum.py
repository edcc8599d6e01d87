"""Spectra against NumPy's matrix_rank, expanded Kronecker products and matrices with known ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpft.errors import InputError
from lpft.ntk.statistics import asymmetry, checked_kernel, kernel_matrix, kernel_spectrum

EPS32 = 2.0**-23


def kernel_of(gradients: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    """``<psi(n, c), psi(m, d)>`` for gradients N x C x parameters, one entry at a time."""
    columns = gradients if others is None else others
    rows, classes, _ = gradients.shape
    kernel = np.zeros((rows, classes, len(columns), classes))
    for n in range(rows):
        for c in range(classes):
            for m in range(len(columns)):
                for d in range(classes):
                    kernel[n, c, m, d] = gradients[n, c] @ columns[m, d]
    return kernel


def expanded(kernel: np.ndarray) -> np.ndarray:
    """The NC x MC matrix of an N x C x M x C kernel, filled entry by entry."""
    rows, classes, columns, _ = kernel.shape
    matrix = np.zeros((rows * classes, columns * classes))
    for n in range(rows):
        for c in range(classes):
            for m in range(columns):
                for d in range(classes):
                    matrix[n * classes + c, m * classes + d] = kernel[n, c, m, d]
    return matrix


def with_spectrum(values: np.ndarray, rows: int, columns: int, seed: int) -> np.ndarray:
    """A matrix whose singular values are given, between random orthonormal bases."""
    rng = np.random.default_rng(seed)
    left, _ = np.linalg.qr(rng.normal(size=(rows, len(values))))
    right, _ = np.linalg.qr(rng.normal(size=(columns, len(values))))
    return (left * values) @ right.T


def test_the_matrix_runs_over_classes_fastest() -> None:
    kernel = np.arange(36.0).reshape(3, 2, 3, 2)
    np.testing.assert_array_equal(kernel_matrix(kernel), expanded(kernel))
    assert kernel_matrix(kernel)[2 * 2 + 1, 1 * 2 + 0] == kernel[2, 1, 1, 0]


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 7),
    columns=st.integers(1, 7),
    classes=st.integers(1, 4),
    parameters=st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
)
def test_singular_values_and_rank_agree_with_numpy(
    rows: int, columns: int, classes: int, parameters: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    kernel = kernel_of(
        rng.normal(size=(rows, classes, parameters)),
        rng.normal(size=(columns, classes, parameters)),
    )
    found, matrix = kernel_spectrum(kernel), expanded(kernel)
    assert found.shape == matrix.shape
    expected = np.linalg.svd(matrix, compute_uv=False)
    np.testing.assert_allclose(found.singular_values, expected, atol=1e-12 * expected[0])
    relative = max(matrix.shape) * EPS32
    assert found.rank == np.linalg.matrix_rank(matrix, rtol=relative)
    assert found.rank_tolerance == pytest.approx(relative * expected[0], rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 8),
    columns=st.integers(1, 8),
    classes=st.integers(1, 4),
    square=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_pretrain_effective_kernel_has_the_spectrum_of_its_kronecker_product(
    rows: int, columns: int, classes: int, square: bool, seed: int
) -> None:
    features = np.random.default_rng(seed).normal(size=(rows, 3))
    others = features if square else np.random.default_rng(seed + 1).normal(size=(columns, 3))
    kernel = features @ others.T + 1
    found, matrix = kernel_spectrum(kernel, classes), np.kron(kernel, np.eye(classes))
    assert found.shape == matrix.shape
    expected = np.linalg.svd(matrix, compute_uv=False)
    np.testing.assert_allclose(found.singular_values, expected, atol=1e-12 * expected[0])
    assert found.rank == np.linalg.matrix_rank(matrix, rtol=max(matrix.shape) * EPS32)
    if square:
        assert found.eigenvalues is not None
        np.testing.assert_allclose(
            found.eigenvalues, np.linalg.eigvalsh(matrix), atol=1e-12 * expected[0]
        )
        assert found.largest_eigenvalue == pytest.approx(expected[0])


def test_the_rank_counts_what_is_above_the_tolerance_of_float32() -> None:
    # 12 x 12: the tolerance is 12 * 2^-23 = 1.43e-6 of the largest.
    values = np.array([4.0, 1.0, 4 * 1.5e-6, 4 * 1.4e-6, 4 * 1e-12])
    matrix = with_spectrum(values, 12, 12, seed=0)
    found = kernel_spectrum(matrix.reshape(6, 2, 6, 2), symmetric=False)
    assert found.rank_tolerance == pytest.approx(4 * 12 * EPS32, rel=1e-12)
    assert found.rank == 3
    np.testing.assert_allclose(found.normalised[:5], values / 4, rtol=1e-3, atol=1e-15)


def test_the_tolerance_grows_with_the_longer_side() -> None:
    matrix = with_spectrum(np.array([1.0, 3e-6]), 4, 40, seed=1)
    found = kernel_spectrum(matrix.reshape(2, 2, 20, 2))
    assert found.rank_tolerance == pytest.approx(40 * EPS32)  # 4.8e-6
    assert found.rank == 1


def test_negative_eigenvalues_count_by_their_size() -> None:
    matrix = np.diag([3.0, -5.0, 1.0, 0.0])
    found = kernel_spectrum(matrix.reshape(2, 2, 2, 2))
    np.testing.assert_array_equal(found.singular_values, [5, 3, 1, 0])
    assert (found.smallest_eigenvalue, found.largest_eigenvalue, found.rank) == (-5, 3, 3)


def test_the_zero_kernel_has_rank_0() -> None:
    found = kernel_spectrum(np.zeros((2, 3, 2, 3)))
    assert (found.rank, found.rank_tolerance, found.largest) == (0, 0.0, 0.0)
    np.testing.assert_array_equal(found.normalised, np.zeros(6))


def test_an_asymmetric_kernel_has_no_eigenvalues_but_singular_values() -> None:
    # The singular values of [[0, 2], [0, 0]] are 2 and 0; its eigenvalues are both 0.
    kernel = np.array([[0.0, 2.0], [0.0, 0.0]])
    found = kernel_spectrum(kernel, 3)
    np.testing.assert_allclose(found.singular_values, [2, 2, 2, 0, 0, 0])
    assert found.eigenvalues is None
    assert (found.smallest_eigenvalue, found.largest_eigenvalue) == (None, None)
    forced = kernel_spectrum(kernel, 3, symmetric=True)  # [[0, 1], [1, 0]]
    assert (forced.smallest_eigenvalue, forced.largest_eigenvalue) == (-1, 1)


def test_rounding_does_not_make_a_kernel_asymmetric() -> None:
    rng = np.random.default_rng(2)
    gradients = rng.normal(size=(8, 40))
    matrix = gradients @ gradients.T
    noisy = matrix * (1 + 1e-8 * rng.normal(size=matrix.shape))
    assert 0 < asymmetry(noisy) < 1e-7
    found = kernel_spectrum(noisy, 1)
    assert found.eigenvalues is not None
    expected = np.linalg.svd(noisy, compute_uv=False)
    assert np.abs(found.singular_values - expected).max() < found.rank_tolerance


def test_asymmetry_by_hand() -> None:
    assert asymmetry(np.eye(3)) == 0
    assert asymmetry(np.zeros((2, 2))) == 0
    assert asymmetry(np.array([[0.0, 1.0], [-1.0, 0.0]])) == pytest.approx(2)
    # K - K^T = [[0, 3], [-3, 0]] of norm sqrt 18, K of norm sqrt(1 + 16 + 1 + 1) = sqrt 19.
    assert asymmetry(np.array([[1.0, 4.0], [1.0, 1.0]])) == pytest.approx(np.sqrt(18 / 19))
    kernel = np.random.default_rng(3).normal(size=(3, 2, 3, 2))
    matrix = expanded(kernel)
    expected = np.linalg.norm(matrix - matrix.T) / np.linalg.norm(matrix)
    assert asymmetry(kernel) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("kernel", "classes", "reason"),
    [
        (np.ones((2, 3, 2, 2)), None, r"expected shape \(N, C, M, C\)"),
        (np.ones((2, 3, 2)), 3, r"expected shape \(N, C, M, C\)"),
        (np.ones((2, 3, 2, 3)), 2, "expected 2 classes"),
        (np.ones((2, 2)), None, "expected a number of classes, found None"),
        (np.ones((2, 2)), 0, "expected a number of classes, found 0"),
        (np.ones((0, 2)), 2, "at least one sample"),
        (np.array([[1.0, np.nan], [np.inf, 1.0]]), 2, "found 2 NaN or infinite"),
    ],
)
def test_what_is_no_kernel_is_refused(kernel: np.ndarray, classes: int | None, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        checked_kernel(kernel, classes)


def test_a_kernel_between_two_sets_is_not_symmetric() -> None:
    between = np.ones((2, 3, 4, 3))
    with pytest.raises(InputError, match="samples with themselves"):
        asymmetry(between)
    with pytest.raises(InputError, match="square"):
        kernel_spectrum(between, symmetric=True)
    assert kernel_spectrum(between).eigenvalues is None
