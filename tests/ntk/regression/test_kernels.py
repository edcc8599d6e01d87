"""Shapes and elementary operations of kernels, and folds of their rows, against loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpft.errors import InputError
from lpft.ntk.regression.kernels import (
    KernelPair,
    TrainingSet,
    apply_kernel,
    block,
    entry_matrix,
    mean_diagonal,
    require_symmetric,
    reversed_kernel,
    stratified_folds,
)

from .problems import expanded, matrix_problem, scalar_problem


def test_entries_run_over_logits_fastest():
    problem = matrix_problem(rows=4, test_rows=3, classes=2)
    matrix = entry_matrix(problem.test, 2)
    assert matrix.shape == (6, 8)
    for n, c, m, d in np.ndindex(3, 2, 4, 2):
        assert matrix[2 * n + c, 2 * m + d] == problem.test[n, c, m, d]


def test_a_scalar_kernel_stands_for_itself_times_the_identity():
    problem = scalar_problem(rows=5, test_rows=3)
    full = expanded(problem.test, 3)
    coefficients = np.random.default_rng(1).normal(size=(5, 3))
    np.testing.assert_array_equal(entry_matrix(problem.test, 3), entry_matrix(full, 3))
    np.testing.assert_allclose(
        apply_kernel(problem.test, coefficients), apply_kernel(full, coefficients), rtol=1e-14
    )
    assert mean_diagonal(problem.train) == pytest.approx(
        mean_diagonal(expanded(problem.train, 3)), rel=1e-15
    )


def test_applying_a_kernel_sums_over_rows_and_logits():
    problem = matrix_problem(rows=4, test_rows=3, classes=2)
    coefficients = np.random.default_rng(1).normal(size=(4, 2))
    expected = np.zeros((3, 2))
    for n, c, m, d in np.ndindex(3, 2, 4, 2):
        expected[n, c] += problem.test[n, c, m, d] * coefficients[m, d]
    np.testing.assert_allclose(apply_kernel(problem.test, coefficients), expected, rtol=1e-13)


def test_blocks_and_reversal():
    problem = matrix_problem(rows=6, test_rows=3, classes=2)
    rows, columns = np.array([4, 1]), np.array([0, 5, 3])
    part = block(problem.train, rows, columns)
    turned = reversed_kernel(problem.test)
    assert part.shape == (2, 2, 3, 2)
    for n, c, m, d in np.ndindex(*part.shape):
        assert part[n, c, m, d] == problem.train[rows[n], c, columns[m], d]
    for n, c, m, d in np.ndindex(*turned.shape):
        assert turned[n, c, m, d] == problem.test[m, d, n, c]


def test_lists_of_numbers_become_float64():
    pair = KernelPair([[1, 0], [0, 1]], [[1, 2]], 3)
    assert pair.train.dtype == pair.test.dtype == np.float64


@pytest.mark.parametrize(
    ("train", "test", "classes", "message"),
    [
        (np.ones((2, 3)), np.ones((1, 2)), 3, "training kernel: expected 2 x 2 rows"),
        (np.ones((2, 2)), np.ones((1, 3)), 3, "test kernel: expected 1 x 2 rows"),
        (np.ones((2, 2)), np.ones((1, 3, 2, 3)), 3, "test kernel: .* in the form"),
        (np.ones((2, 3, 2, 3)), np.ones((1, 3, 2, 3)), 2, "expected 2 classes"),
        (np.ones((2, 3, 2)), np.ones((1, 2)), 3, "expected shape"),
        (np.full((2, 2), np.nan), np.ones((1, 2)), 3, "4 NaN"),
        (np.ones((2, 2)), np.full((1, 2), np.inf), 3, "2 NaN or infinite"),
        (np.ones((0, 0)), np.ones((1, 0)), 3, "at least one sample"),
    ],
)
def test_wrong_kernels_are_named(train, test, classes, message):
    with pytest.raises(InputError, match=message):
        KernelPair(train, test, classes)


@pytest.mark.parametrize(
    ("labels", "f0", "message"),
    [
        (np.array([0, 1, 1]), None, r"labels: expected shape \(2,\)"),
        (np.array([0, 3]), None, "expected class indices of 0 to 2, found 3"),
        (np.array([0, 1]), np.zeros((2, 2)), r"f_0: expected shape \(2, 3\)"),
        (np.array([0, 1]), np.full((2, 3), np.nan), "f_0: expected finite"),
    ],
)
def test_wrong_training_sets_are_named(labels, f0, message):
    with pytest.raises(InputError, match=message):
        TrainingSet(np.eye(2), labels, 3, f0)


def test_reversed_kernels_and_single_logits_of_wrong_shape_are_named():
    with pytest.raises(InputError, match="reversed test kernel: expected 2 x 1 rows"):
        KernelPair(np.eye(2), np.ones((1, 2)), 2, np.ones((1, 2)))
    with pytest.raises(InputError, match="expected at least 2 logits, found 1"):
        TrainingSet(np.eye(2), np.zeros(2, dtype=int), 1)


def test_only_rounding_passes_for_symmetric():
    rng = np.random.default_rng(0)
    kernel = np.cov(rng.normal(size=(5, 20)))
    require_symmetric(kernel + 1e-6 * rng.normal(size=(5, 5)), "solver 'klr'")
    with pytest.raises(InputError, match="solver 'klr' needs a symmetric training kernel"):
        require_symmetric(kernel + rng.normal(size=(5, 5)), "solver 'klr'")


# --- folds


@settings(max_examples=60, deadline=None)
@given(labels=st.lists(st.integers(0, 3), min_size=2, max_size=40), folds=st.integers(2, 6))
def test_each_row_is_held_out_once_and_classes_are_spread(labels, folds):
    labels = np.array(labels)
    parts = stratified_folds(labels, folds)
    most = np.bincount(labels).max()
    assert len(parts) == (min(folds, most) if most > 1 else min(folds, len(labels)))
    held = np.concatenate([part[1] for part in parts])
    assert sorted(held) == list(range(len(labels)))
    for fitted, out in parts:
        assert sorted([*fitted, *out]) == list(range(len(labels)))
        assert len(fitted) > 0
    if most > 1:
        counts = np.array([np.bincount(labels[out], minlength=4) for _, out in parts])
        assert (counts.max(axis=0) - counts.min(axis=0)).max() <= 1


def test_folds_are_cut_in_the_order_of_the_rows():
    parts = stratified_folds(np.array([0, 0, 0, 0, 1, 1]), 2)
    assert [out.tolist() for _, out in parts] == [[0, 1, 4], [2, 3, 5]]


@pytest.mark.filterwarnings("error")
def test_a_rare_class_gives_no_warning():
    assert len(stratified_folds(np.array([0] * 9 + [1]), 5)) == 5
