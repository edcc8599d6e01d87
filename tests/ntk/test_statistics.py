"""Statistics of kernels against Kronecker products, naive loops and closed forms."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from lpft.errors import InputError
from lpft.ntk.statistics import (
    alignment_matrix,
    asymmetry,
    centred_kernel,
    checked_kernel,
    class_order,
    drift,
    frobenius_norm,
    ft_ratio,
    heat_map,
    kernel_matrix,
    kernel_regime,
    kernel_spectrum,
    kernel_statistics,
    kernel_trace,
    label_kernel,
    residuals,
)
from lpft.ntk.statistics import centred_kernel_alignment as aligned

# --- spectrum


EPS32 = 2.0**-23


def kernel_of(gradients, others=None):
    """``<psi(n, c), psi(m, d)>`` for gradients N x C x parameters, one entry at a time."""
    columns = gradients if others is None else others
    rows, classes, _ = gradients.shape
    kernel = np.zeros((rows, classes, len(columns), classes))
    for n, c, m, d in np.ndindex(*kernel.shape):
        kernel[n, c, m, d] = gradients[n, c] @ columns[m, d]
    return kernel


def expanded(kernel):
    """The NC x MC matrix of an N x C x M x C kernel, filled entry by entry."""
    rows, classes, columns, _ = kernel.shape
    matrix = np.zeros((rows * classes, columns * classes))
    for n, c, m, d in np.ndindex(*kernel.shape):
        matrix[n * classes + c, m * classes + d] = kernel[n, c, m, d]
    return matrix


def with_spectrum(values, rows, columns, seed):
    """A matrix whose singular values are given, between random orthonormal bases."""
    rng = np.random.default_rng(seed)
    left, _ = np.linalg.qr(rng.normal(size=(rows, len(values))))
    right, _ = np.linalg.qr(rng.normal(size=(columns, len(values))))
    return (left * values) @ right.T


def test_the_matrix_runs_over_classes_fastest():
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
def test_singular_values_and_rank_agree_with_numpy(rows, columns, classes, parameters, seed):
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
    rows, columns, classes, square, seed
):
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


def test_the_rank_counts_what_is_above_the_tolerance_of_float32():
    # 12 x 12: the tolerance is 12 * 2^-23 = 1.43e-6 of the largest.
    values = np.array([4.0, 1.0, 4 * 1.5e-6, 4 * 1.4e-6, 4 * 1e-12])
    matrix = with_spectrum(values, 12, 12, seed=0)
    found = kernel_spectrum(matrix.reshape(6, 2, 6, 2), symmetric=False)
    assert found.rank_tolerance == pytest.approx(4 * 12 * EPS32, rel=1e-12)
    assert found.rank == 3
    np.testing.assert_allclose(found.normalised[:5], values / 4, rtol=1e-3, atol=1e-15)


def test_the_tolerance_grows_with_the_longer_side():
    matrix = with_spectrum(np.array([1.0, 3e-6]), 4, 40, seed=1)
    found = kernel_spectrum(matrix.reshape(2, 2, 20, 2))
    assert found.rank_tolerance == pytest.approx(40 * EPS32)  # 4.8e-6
    assert found.rank == 1


def test_negative_eigenvalues_count_by_their_size():
    matrix = np.diag([3.0, -5.0, 1.0, 0.0])
    found = kernel_spectrum(matrix.reshape(2, 2, 2, 2))
    np.testing.assert_array_equal(found.singular_values, [5, 3, 1, 0])
    assert (found.smallest_eigenvalue, found.largest_eigenvalue, found.rank) == (-5, 3, 3)


def test_the_zero_kernel_has_rank_0():
    found = kernel_spectrum(np.zeros((2, 3, 2, 3)))
    assert (found.rank, found.rank_tolerance, found.largest) == (0, 0.0, 0.0)
    np.testing.assert_array_equal(found.normalised, np.zeros(6))


def test_an_asymmetric_kernel_has_no_eigenvalues_but_singular_values():
    # The singular values of [[0, 2], [0, 0]] are 2 and 0; its eigenvalues are both 0.
    kernel = np.array([[0.0, 2.0], [0.0, 0.0]])
    found = kernel_spectrum(kernel, 3)
    np.testing.assert_allclose(found.singular_values, [2, 2, 2, 0, 0, 0])
    assert found.eigenvalues is None
    assert (found.smallest_eigenvalue, found.largest_eigenvalue) == (None, None)
    forced = kernel_spectrum(kernel, 3, symmetric=True)  # [[0, 1], [1, 0]]
    assert (forced.smallest_eigenvalue, forced.largest_eigenvalue) == (-1, 1)


def test_rounding_does_not_make_a_kernel_asymmetric():
    rng = np.random.default_rng(2)
    gradients = rng.normal(size=(8, 40))
    matrix = gradients @ gradients.T
    noisy = matrix * (1 + 1e-8 * rng.normal(size=matrix.shape))
    assert 0 < asymmetry(noisy) < 1e-7
    found = kernel_spectrum(noisy, 1)
    assert found.eigenvalues is not None
    expected = np.linalg.svd(noisy, compute_uv=False)
    assert np.abs(found.singular_values - expected).max() < found.rank_tolerance


def test_asymmetry_by_hand():
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
def test_what_is_no_kernel_is_refused(kernel, classes, reason):
    with pytest.raises(InputError, match=reason):
        checked_kernel(kernel, classes)


def test_a_kernel_between_two_sets_is_not_symmetric_and_has_no_trace():
    between = np.ones((2, 3, 4, 3))
    assert kernel_spectrum(between).eigenvalues is None
    with pytest.raises(InputError, match="samples with themselves"):
        asymmetry(between)
    with pytest.raises(InputError, match="square"):
        kernel_spectrum(between, symmetric=True)
    with pytest.raises(InputError, match="no trace"):
        kernel_trace(np.ones((2, 3)), 2)
    with pytest.raises(InputError, match="no trace"):
        kernel_statistics(between)


# --- norms, FT ratio, heat map


def random_problem(samples, classes, seed, *, features=5, parameters=9):
    """P, F, labels and logits of one set of samples."""
    rng = np.random.default_rng(seed)
    phi = rng.normal(size=(samples, features))
    psi = rng.normal(size=(samples, classes, parameters))
    ft_effective = np.einsum("ncp,mdp->ncmd", psi, psi)
    labels = rng.integers(classes, size=samples)
    return phi @ phi.T + 1, ft_effective, labels, rng.normal(size=(samples, classes))


@settings(max_examples=20, deadline=None)
@given(samples=st.integers(1, 8), classes=st.integers(2, 4), seed=st.integers(0, 2**32 - 1))
def test_norm_and_trace_are_those_of_the_whole_matrix(samples, classes, seed):
    heads, features, _, _ = random_problem(samples, classes, seed)
    expanded = np.kron(heads, np.eye(classes))
    assert frobenius_norm(heads, classes) == pytest.approx(np.linalg.norm(expanded), rel=1e-12)
    assert kernel_trace(heads, classes) == pytest.approx(np.trace(expanded), rel=1e-12)
    squares = sum(float(entry) ** 2 for entry in features.flat)
    assert frobenius_norm(features) == pytest.approx(squares**0.5, rel=1e-12)
    diagonal = sum(features[n, c, n, c] for n in range(samples) for c in range(classes))
    assert kernel_trace(features) == pytest.approx(diagonal, rel=1e-12)


def naive_ft_ratio(heads, features, labels, logits):
    """Both norms for every x, summing over training samples one by one."""
    numerators, denominators = [], []
    rows, classes, train, _ = features.shape
    for x in range(rows):
        through, whole = np.zeros(classes), np.zeros(classes)
        for i in range(train):
            powers = [np.exp(value) for value in logits[i]]
            delta = np.array([(c == labels[i]) - powers[c] / sum(powers) for c in range(classes)])
            block = features[x, :, i, :]
            through += block @ delta
            whole += (block + heads[x, i] * np.eye(classes)) @ delta
        numerators.append(float(np.sqrt(through @ through)))
        denominators.append(float(np.sqrt(whole @ whole)))
    return numerators, denominators


@settings(max_examples=20, deadline=None)
@given(samples=st.integers(1, 7), classes=st.integers(2, 4), seed=st.integers(0, 2**32 - 1))
def test_ft_ratio_against_the_double_loop(samples, classes, seed):
    problem = random_problem(samples, classes, seed)
    found = ft_ratio(*problem)
    numerators, denominators = naive_ft_ratio(*problem)
    np.testing.assert_allclose(found.numerator, numerators, rtol=1e-10)
    np.testing.assert_allclose(found.denominator, denominators, rtol=1e-10)
    quotients = [n / d for n, d in zip(numerators, denominators, strict=True)]
    assert found.ratio == pytest.approx(sum(quotients) / samples, rel=1e-9)


def test_ft_ratio_of_other_samples_than_those_of_training():
    heads, features, labels, logits = random_problem(6, 3, seed=4)
    found = ft_ratio(heads[:2], features[:2], labels, logits)
    numerators, _ = naive_ft_ratio(heads[:2], features[:2], labels, logits)
    np.testing.assert_allclose(found.numerator, numerators, rtol=1e-12)


@pytest.mark.parametrize("factor", [0.0, 0.25, 1.0, 3.0])
def test_ft_ratio_where_one_part_is_a_multiple_of_the_other(factor):
    # F = factor * P x I: every quotient is factor / (1 + factor), whatever delta is.
    heads, _, labels, logits = random_problem(5, 3, seed=5)
    features = factor * np.einsum("nm,cd->ncmd", heads, np.eye(3))
    found = ft_ratio(heads, features, labels, logits)
    assert found.ratio == pytest.approx(factor / (1 + factor), abs=1e-12)


def test_ft_ratio_may_exceed_1_where_the_parts_work_against_each_other():
    # One sample, F = 3 and P = -1 times the identity: 3 / (3 - 1).
    features = 3 * np.eye(2).reshape(1, 2, 1, 2)
    found = ft_ratio([[-1.0]], features, [0], [[0.0, 0.0]])
    assert found.ratio == pytest.approx(1.5)


def test_ft_ratio_is_none_where_nothing_moves():
    heads, features, labels, logits = random_problem(4, 3, seed=7)
    assert ft_ratio(0 * heads, 0 * features, labels, logits).ratio is None
    fitted = np.where(np.eye(3)[labels] == 1, 1e4, -1e4)  # softmax is one-hot: delta is 0
    found = ft_ratio(heads, features, labels, fitted)
    assert found.ratio is None
    np.testing.assert_array_equal(found.numerator, np.zeros(4))
    assert ft_ratio(heads, features, labels, logits).ratio is not None


def test_residuals_by_hand_and_far_from_overflow():
    np.testing.assert_allclose(residuals([1, 0], [[0.0, 0.0], [800.0, 0.0]]), [[-0.5, 0.5], [0, 0]])
    third = np.log([[1.0, 2.0, 5.0]])
    np.testing.assert_allclose(residuals([2], third), [[-1 / 8, -2 / 8, 3 / 8]])


@pytest.mark.parametrize("wrong", ["F rows", "F classes", "P columns", "labels"])
def test_ft_ratio_refuses_parts_that_do_not_belong_together(wrong):
    heads, features, labels, logits = random_problem(4, 3, seed=8)
    if wrong == "F rows":
        features = features[:3]
    elif wrong == "F classes":
        features = features[:, :2, :, :2]
    elif wrong == "P columns":
        heads = heads[:, :3]
    else:
        labels = labels[:3]
    with pytest.raises(InputError, match="expected"):
        ft_ratio(heads, features, labels, logits)


def test_heat_map_is_the_trace_norm_of_every_block():
    _, features, _, _ = random_problem(5, 3, seed=9)
    for kernel in (features, features[:2], -features):
        found = heat_map(kernel)
        assert found.shape == (len(kernel), 5)
        for n in range(len(kernel)):
            for m in range(5):
                block = kernel[n, :, m, :]
                # The trace norm is the trace of the positive square root of B^T B.
                assert found[n, m] == pytest.approx(np.trace(sqrtm(block.T @ block)).real)


def test_heat_map_of_p():
    heads = np.array([[2.0, -0.5], [-0.5, 1.0]])
    np.testing.assert_allclose(heat_map(heads, 3), [[6, 1.5], [1.5, 3]])
    blocks = np.einsum("nm,cd->ncmd", heads, np.eye(3))
    np.testing.assert_allclose(heat_map(heads, 3), heat_map(blocks))


def test_samples_sorted_by_class_keep_their_order_within_it():
    found = class_order(np.array([2, 0, 2, 3, 0]))
    assert found.order.tolist() == [1, 4, 0, 2, 3]
    assert found.classes == (0, 2, 3)  # no sample of class 1
    assert found.boundaries == (0, 2, 4, 5)
    values = np.arange(25.0).reshape(5, 5)
    sorted_values = found.sort(values)
    assert sorted_values[0, 2] == values[1, 0]
    assert sorted_values[4, 1] == values[3, 4]


def test_no_labels_have_no_order():
    with pytest.raises(InputError, match="at least one"):
        class_order(np.array([], dtype=np.int64))
    with pytest.raises(InputError, match="integer"):
        class_order([0.5, 1.0])


def test_the_record_of_a_kernel_holds_its_statistics():
    _, features, _, _ = random_problem(6, 3, seed=11, parameters=7)
    matrix = features.reshape(18, 18)
    record = json.loads(json.dumps(kernel_statistics(features)))
    values = np.linalg.svd(matrix, compute_uv=False)
    assert record["rank"] == 7 == np.linalg.matrix_rank(matrix, rtol=18 * EPS32)
    assert record["rank_tolerance"] == pytest.approx(18 * EPS32 * values[0])
    assert record["frobenius_norm"] == pytest.approx(np.linalg.norm(matrix))
    assert record["trace"] == pytest.approx(np.trace(matrix))
    assert record["largest_singular_value"] == pytest.approx(np.linalg.norm(matrix, 2))
    np.testing.assert_allclose(record["singular_values"], values / values[0], atol=1e-12)
    assert record["singular_values"][0] == 1
    assert kernel_statistics(features, spectrum=kernel_spectrum(features)) == record


def test_the_record_of_p_is_that_of_its_kronecker_product():
    heads, _, _, _ = random_problem(6, 3, seed=12, features=2)
    whole = np.einsum("nm,cd->ncmd", heads, np.eye(3))
    short, expanded = kernel_statistics(heads, 3), kernel_statistics(whole)
    assert short["rank"] == expanded["rank"] == 3 * 3  # two features and the bias, three classes
    for name in ("rank_tolerance", "frobenius_norm", "trace", "largest_singular_value"):
        assert short[name] == pytest.approx(expanded[name], rel=1e-12)
    np.testing.assert_allclose(short["singular_values"], expanded["singular_values"], atol=1e-12)


# --- alignment


def gradient_kernel(samples, classes, seed, parameters=6):
    """A positive semidefinite N x C x N x C kernel of random gradients with a common mean."""
    rng = np.random.default_rng(seed)
    psi = rng.normal(size=(samples, classes, parameters)) + rng.normal(size=(classes, parameters))
    return np.einsum("ncp,mdp->ncmd", psi, psi)


def feature_kernel(samples, seed, features=4):
    phi = np.random.default_rng(seed).normal(size=(samples, features)) + 1
    return phi @ phi.T + 1


def as_matrix(kernel, classes):
    """The NC x NC matrix; of P that of ``P x I_C``."""
    if kernel.ndim == 2:
        return np.kron(kernel, np.eye(classes))
    return kernel.reshape(len(kernel) * classes, len(kernel) * classes)


def naive_alignment(first, second, classes):
    """The definition, with the centring matrix H x I_C and traces of products."""
    samples = len(first)
    centring = np.kron(np.eye(samples) - np.ones((samples, samples)) / samples, np.eye(classes))
    one, two = (centring @ as_matrix(kernel, classes) @ centring for kernel in (first, second))
    inner = np.trace(one.T @ two)
    return float(inner / np.sqrt(np.trace(one.T @ one) * np.trace(two.T @ two)))


@settings(max_examples=25, deadline=None)
@given(samples=st.integers(2, 7), classes=st.integers(2, 4), seed=st.integers(0, 2**32 - 10))
def test_alignment_against_the_definition(samples, classes, seed):
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


def test_linear_kernels_have_the_linear_cka_of_their_features():
    # Kornblith et al., equation 2: ||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F), columns centred.
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, 4)) + 3, rng.normal(size=(9, 6)) - 1
    found = aligned(x @ x.T + 1, y @ y.T + 1)
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    expected = np.linalg.norm(y.T @ x) ** 2
    expected /= np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    assert found == pytest.approx(expected, rel=1e-12)


def test_centring_is_that_of_the_gradients():
    psi = np.random.default_rng(1).normal(size=(5, 3, 4)) + 2
    kernel = np.einsum("ncp,mdp->ncmd", psi, psi)
    moved = psi - psi.mean(axis=0)
    expected = np.einsum("ncp,mdp->ncmd", moved, moved)
    np.testing.assert_allclose(centred_kernel(kernel), expected, atol=1e-12)


def test_multiples_rotations_and_a_common_shift_do_not_matter():
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


def test_a_kernel_that_is_the_same_for_each_class_compares_with_the_other():
    heads = feature_kernel(5, seed=4)
    blocks = 3 * np.einsum("nm,cd->ncmd", heads, np.eye(3))
    assert aligned(heads, blocks) == pytest.approx(1, abs=1e-12)
    # One class of three carries the same kernel, the others nothing: 1 / sqrt 3.
    single = np.zeros((5, 3, 5, 3))
    single[:, 0, :, 0] = heads
    assert aligned(heads, single) == pytest.approx(3**-0.5, abs=1e-12)


def test_a_kernel_without_variation_has_no_direction():
    kernel = feature_kernel(4, seed=5)
    assert aligned(np.full((4, 4), 0.1), kernel) is None
    assert aligned(np.ones((1, 1)), np.ones((1, 2, 1, 2))) is None
    assert aligned(kernel, 0 * kernel) is None


def test_the_matrix_of_all_pairs_is_a_record():
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


def test_kernels_of_other_samples_are_refused():
    with pytest.raises(InputError, match="one set of samples and classes"):
        aligned(feature_kernel(4, 0), feature_kernel(5, 0))
    with pytest.raises(InputError, match="one set of samples and classes"):
        aligned(gradient_kernel(4, 2, 0), gradient_kernel(4, 3, 0))
    with pytest.raises(InputError, match="one set of samples"):
        centred_kernel(np.ones((4, 2, 5, 2)))
    with pytest.raises(InputError, match="at least one kernel"):
        alignment_matrix({})


# --- kernels along a training


def test_drift_is_relative_to_the_start_and_counts_growth():
    start = np.array([[3.0, 0.0], [0.0, 4.0]])
    assert drift(start, start) == 0
    assert drift(1.5 * start, start) == pytest.approx(0.5)
    assert drift([[3.0, 1.0], [0.0, 4.0]], start) == pytest.approx(1 / 5)
    assert drift(np.ones((2, 3, 2, 3)), np.zeros((2, 3, 2, 3))) is None
    with pytest.raises(InputError, match="same samples"):
        drift(np.ones((2, 2)), np.ones((2, 3)))


def test_the_kernel_of_labels_is_that_of_one_hot_labels():
    one_hot = np.eye(3)[[2, 0, 2, 1]]
    np.testing.assert_array_equal(label_kernel([2, 0, 2, 1]), one_hot @ one_hot.T)


@pytest.mark.parametrize(
    ("drifts", "train", "answer", "until"),
    [
        ([0.0, 0.05, 0.1], [None, 0.01, 0.1], "yes", 2),
        ([0.0, 0.05, 0.11], [None, 0.01, 0.02], "no", 1),
        ([0.0, 0.2, 0.3], [None, 0.01, 0.02], "no", 0),
        ([0.0, 0.01, 0.02], [None, 0.3, 0.02], "no", 0),
        ([0.0, 0.01, 0.02], [None, 0.01, None], "unknown", 2),
        ([None, None, None], [None, 0.01, 0.02], "unknown", 2),
        ([None, None, None], [None, 0.01, 0.2], "no", 1),
        ([0.0, float("nan"), 0.0], [None, 0.01, 0.01], "no", 0),
    ],
)
def test_both_must_hold_at_every_epoch(drifts, train, answer, until):
    evaluated = [None, 0.001, None if train[-1] is None else 0.001]
    found = kernel_regime([0, 1, 2], drifts, {"train": train, "eval": evaluated})
    assert (found.answer, found.until) == (answer, until)
    assert found.error == max(value for value in train if value is not None)


def test_a_start_alone_has_no_answer():
    assert kernel_regime([0], [0.0], {"train": [None]}).answer == "unknown"
