"""Statistics of kernels against Kronecker products, naive loops and closed forms."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from lpft.errors import InputError
from lpft.ntk.statistics import (
    class_order,
    frobenius_norm,
    ft_ratio,
    heat_map,
    kernel_spectrum,
    kernel_statistics,
    kernel_trace,
    residuals,
)

EPS32 = 2.0**-23


def random_problem(
    samples: int, classes: int, seed: int, *, features: int = 5, parameters: int = 9
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """P, F, labels and logits of one set of samples."""
    rng = np.random.default_rng(seed)
    phi = rng.normal(size=(samples, features))
    psi = rng.normal(size=(samples, classes, parameters))
    ft_effective = np.einsum("ncp,mdp->ncmd", psi, psi)
    labels = rng.integers(classes, size=samples)
    return phi @ phi.T + 1, ft_effective, labels, rng.normal(size=(samples, classes))


# --- norms and trace


@settings(max_examples=20, deadline=None)
@given(samples=st.integers(1, 8), classes=st.integers(2, 4), seed=st.integers(0, 2**32 - 1))
def test_norm_and_trace_are_those_of_the_whole_matrix(
    samples: int, classes: int, seed: int
) -> None:
    heads, features, _, _ = random_problem(samples, classes, seed)
    expanded = np.kron(heads, np.eye(classes))
    assert frobenius_norm(heads, classes) == pytest.approx(np.linalg.norm(expanded), rel=1e-12)
    assert kernel_trace(heads, classes) == pytest.approx(np.trace(expanded), rel=1e-12)
    squares = sum(float(entry) ** 2 for entry in features.flat)
    assert frobenius_norm(features) == pytest.approx(squares**0.5, rel=1e-12)
    diagonal = sum(features[n, c, n, c] for n in range(samples) for c in range(classes))
    assert kernel_trace(features) == pytest.approx(diagonal, rel=1e-12)


def test_a_kernel_between_two_sets_has_no_trace() -> None:
    with pytest.raises(InputError, match="no trace"):
        kernel_trace(np.ones((2, 3)), 2)
    with pytest.raises(InputError, match="no trace"):
        kernel_statistics(np.ones((2, 3, 4, 3)))


# --- FT ratio


def naive_ft_ratio(
    heads: np.ndarray, features: np.ndarray, labels: np.ndarray, logits: np.ndarray
) -> tuple[list[float], list[float]]:
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
def test_ft_ratio_against_the_double_loop(samples: int, classes: int, seed: int) -> None:
    problem = random_problem(samples, classes, seed)
    found = ft_ratio(*problem)
    numerators, denominators = naive_ft_ratio(*problem)
    np.testing.assert_allclose(found.numerator, numerators, rtol=1e-10)
    np.testing.assert_allclose(found.denominator, denominators, rtol=1e-10)
    quotients = [n / d for n, d in zip(numerators, denominators, strict=True)]
    assert found.ratio == pytest.approx(sum(quotients) / samples, rel=1e-9)


def test_ft_ratio_of_other_samples_than_those_of_training() -> None:
    heads, features, labels, logits = random_problem(6, 3, seed=4)
    found = ft_ratio(heads[:2], features[:2], labels, logits)
    numerators, _ = naive_ft_ratio(heads[:2], features[:2], labels, logits)
    np.testing.assert_allclose(found.numerator, numerators, rtol=1e-12)


@pytest.mark.parametrize("factor", [0.0, 0.25, 1.0, 3.0])
def test_ft_ratio_where_one_part_is_a_multiple_of_the_other(factor: float) -> None:
    # F = factor * P x I: every quotient is factor / (1 + factor), whatever delta is.
    heads, _, labels, logits = random_problem(5, 3, seed=5)
    features = factor * np.einsum("nm,cd->ncmd", heads, np.eye(3))
    found = ft_ratio(heads, features, labels, logits)
    assert found.ratio == pytest.approx(factor / (1 + factor), abs=1e-12)


def test_ft_ratio_is_1_without_a_pretrain_effective_part() -> None:
    heads, features, labels, logits = random_problem(5, 2, seed=6)
    assert ft_ratio(0 * heads, features, labels, logits).ratio == 1.0


def test_ft_ratio_may_exceed_1_where_the_parts_work_against_each_other() -> None:
    # One sample, F = 3 and P = -1 times the identity: 3 / (3 - 1).
    features = 3 * np.eye(2).reshape(1, 2, 1, 2)
    found = ft_ratio([[-1.0]], features, [0], [[0.0, 0.0]])
    assert found.ratio == pytest.approx(1.5)


def test_ft_ratio_is_none_where_nothing_moves() -> None:
    heads, features, labels, logits = random_problem(4, 3, seed=7)
    assert ft_ratio(0 * heads, 0 * features, labels, logits).ratio is None
    fitted = np.where(np.eye(3)[labels] == 1, 1e4, -1e4)  # softmax is one-hot: delta is 0
    found = ft_ratio(heads, features, labels, fitted)
    assert found.ratio is None
    np.testing.assert_array_equal(found.numerator, np.zeros(4))
    assert ft_ratio(heads, features, labels, logits).ratio is not None


def test_residuals_by_hand_and_far_from_overflow() -> None:
    np.testing.assert_allclose(residuals([1, 0], [[0.0, 0.0], [800.0, 0.0]]), [[-0.5, 0.5], [0, 0]])
    third = np.log([[1.0, 2.0, 5.0]])
    np.testing.assert_allclose(residuals([2], third), [[-1 / 8, -2 / 8, 3 / 8]])


@pytest.mark.parametrize("wrong", ["F rows", "F classes", "P columns", "labels"])
def test_ft_ratio_refuses_parts_that_do_not_belong_together(wrong: str) -> None:
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


# --- heat map


def test_heat_map_is_the_trace_norm_of_every_block() -> None:
    _, features, _, _ = random_problem(5, 3, seed=9)
    for kernel in (features, features[:2], -features):
        found = heat_map(kernel)
        assert found.shape == (len(kernel), 5)
        for n in range(len(kernel)):
            for m in range(5):
                block = kernel[n, :, m, :]
                # The trace norm is the trace of the positive square root of B^T B.
                assert found[n, m] == pytest.approx(np.trace(sqrtm(block.T @ block)).real)


def test_heat_map_of_a_positive_block_is_its_trace() -> None:
    _, features, _, _ = random_problem(4, 3, seed=10)
    diagonal = np.diag(heat_map(features))
    np.testing.assert_allclose(diagonal, [np.trace(features[n, :, n, :]) for n in range(4)])


def test_heat_map_of_the_pretrain_effective_kernel() -> None:
    heads = np.array([[2.0, -0.5], [-0.5, 1.0]])
    np.testing.assert_allclose(heat_map(heads, 3), [[6, 1.5], [1.5, 3]])
    blocks = np.einsum("nm,cd->ncmd", heads, np.eye(3))
    np.testing.assert_allclose(heat_map(heads, 3), heat_map(blocks))


def test_samples_sorted_by_class_keep_their_order_within_it() -> None:
    found = class_order(np.array([2, 0, 2, 3, 0]))
    assert found.order.tolist() == [1, 4, 0, 2, 3]
    assert found.classes == (0, 2, 3)  # no sample of class 1
    assert found.boundaries == (0, 2, 4, 5)
    values = np.arange(25.0).reshape(5, 5)
    sorted_values = found.sort(values)
    assert sorted_values[0, 2] == values[1, 0]
    assert sorted_values[4, 1] == values[3, 4]


def test_no_labels_have_no_order() -> None:
    with pytest.raises(InputError, match="at least one"):
        class_order(np.array([], dtype=np.int64))
    with pytest.raises(InputError, match="integer"):
        class_order([0.5, 1.0])


# --- the record


def test_the_record_of_a_kernel_holds_its_statistics() -> None:
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


def test_the_record_of_the_pretrain_effective_kernel_is_that_of_its_kronecker_product() -> None:
    heads, _, _, _ = random_problem(6, 3, seed=12, features=2)
    whole = np.einsum("nm,cd->ncmd", heads, np.eye(3))
    short, expanded = kernel_statistics(heads, 3), kernel_statistics(whole)
    assert short["rank"] == expanded["rank"] == 3 * 3  # two features and the bias, three classes
    for name in ("rank_tolerance", "frobenius_norm", "trace", "largest_singular_value"):
        assert short[name] == pytest.approx(expanded[name], rel=1e-12)
    np.testing.assert_allclose(short["singular_values"], expanded["singular_values"], atol=1e-12)
