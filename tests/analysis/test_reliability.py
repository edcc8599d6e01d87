"""Reliability bins, ECE and MCE against counts done by hand, and their borders."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpft.analysis import (
    calibration_error_of_draws,
    expected_calibration_error,
    maximum_calibration_error,
    reliability_bins,
)
from lpft.errors import InputError


def binary(tops: list[float]) -> np.ndarray:
    """Rows (top, 1 - top): class 0 is predicted wherever top is at least one half."""
    return np.array([[top, 1 - top] for top in tops])


def test_binary_counted_by_hand() -> None:
    # 15 bins. 0.55: (8/15, 9/15]; 0.62 and 0.64: (9/15, 10/15]; 0.9: (13/15, 14/15]; 1: the last.
    probabilities = binary([0.55, 0.62, 0.64, 0.9, 1.0])
    labels = np.array([0, 0, 1, 1, 0])
    gaps = {
        8: (1, abs(1 - Fraction(55, 100))),
        9: (2, abs(Fraction(1, 2) - Fraction(63, 100))),
        13: (1, abs(0 - Fraction(90, 100))),
        14: (1, Fraction(0)),
    }
    ece = sum(Fraction(count, 5) * gap for count, gap in gaps.values())
    assert ece == Fraction(161, 500)

    bins = reliability_bins(probabilities, labels)
    assert {int(b): int(bins.counts[b]) for b in np.flatnonzero(bins.counts)} == {
        b: count for b, (count, _) in gaps.items()
    }
    assert expected_calibration_error(probabilities, labels) == pytest.approx(0.322, rel=1e-14)
    assert maximum_calibration_error(probabilities, labels) == pytest.approx(0.9, rel=1e-14)


def test_multiclass_counted_by_hand() -> None:
    # 5 bins of width 1/5, three classes: tops 0.5, 0.45 in (2/5, 3/5]; 0.7, 0.8 in (3/5, 4/5].
    probabilities = np.array([[0.5, 0.3, 0.2], [0.3, 0.25, 0.45], [0.1, 0.7, 0.2], [0.1, 0.1, 0.8]])
    labels = np.array([0, 1, 1, 2])
    bins = reliability_bins(probabilities, labels, bins=5)
    np.testing.assert_array_equal(bins.counts, [0, 0, 2, 2, 0])
    np.testing.assert_allclose(bins.confidence[2:4], [0.475, 0.75], rtol=1e-15)
    np.testing.assert_array_equal(bins.accuracy[2:4], [0.5, 1.0])
    # gaps 0.025 and 0.25, each of weight 1/2
    assert expected_calibration_error(probabilities, labels, bins=5) == pytest.approx(0.1375)
    assert maximum_calibration_error(probabilities, labels, bins=5) == pytest.approx(0.25)


def test_empty_bins_hold_nan_and_do_not_count() -> None:
    bins = reliability_bins(binary([0.9]), np.array([0]))
    empty = bins.counts == 0
    assert empty.sum() == 14
    assert np.isnan(bins.confidence[empty]).all()
    assert np.isnan(bins.accuracy[empty]).all()
    assert not np.isnan(bins.accuracy[~empty]).any()


@pytest.mark.parametrize(
    ("top", "bin_of_top"),
    [
        (0.6, 8),  # 9/15, the upper border of (8/15, 9/15]
        (np.nextafter(0.6, 1), 9),
        (np.nextafter(0.6, 0), 8),
        (0.8, 11),  # 12/15
        (np.nextafter(0.8, 1), 12),
        (float(np.float32(0.6)), 9),  # float32 rounds 0.6 up, so above the border
        (1.0, 14),
        (np.nextafter(1.0, 0), 14),
    ],
)
def test_borders_belong_to_the_bin_below(top: float, bin_of_top: int) -> None:
    bins = reliability_bins(binary([top]), np.array([0]))
    assert np.flatnonzero(bins.counts).tolist() == [bin_of_top]


@pytest.mark.parametrize("bins", [1, 5, 7, 10, 15, 20, 24])
def test_borders_are_the_nearest_numbers_to_the_fractions(bins: int) -> None:
    edges = reliability_bins(binary([1.0]), np.array([0]), bins=bins).edges
    assert edges.tolist() == [float(Fraction(b, bins)) for b in range(bins + 1)]


def test_decimal_confidence_on_a_border_of_ten_bins() -> None:
    # np.linspace(0, 1, 11)[6] is 0.6000000000000001; the row at 0.7 must stay in (0.6, 0.7].
    bins = reliability_bins(binary([0.6, 0.7, 0.9]), np.array([0, 0, 0]), bins=10)
    assert np.flatnonzero(bins.counts).tolist() == [5, 6, 8]


@pytest.mark.parametrize(("classes", "bin_of_top"), [(3, 4), (5, 2), (15, 0)])
def test_uniform_rows_lie_on_a_border(classes: int, bin_of_top: int) -> None:
    uniform = np.full((4, classes), 1 / classes)
    bins = reliability_bins(uniform, np.zeros(4, dtype=int))
    assert np.flatnonzero(bins.counts).tolist() == [bin_of_top]
    assert bins.accuracy[bin_of_top] == 1  # of equal probabilities the first class is predicted


def test_float32_rounding_above_one_is_the_last_bin() -> None:
    bins = reliability_bins(np.array([[1.0000001, 0.0]], dtype=np.float32), np.array([0]))
    assert bins.counts[14] == 1
    assert bins.confidence[14] == 1


def naive_errors(probabilities: np.ndarray, labels: np.ndarray, bins: int) -> tuple[float, float]:
    """The published definition, one bin and one row at a time."""
    ece, mce = 0.0, 0.0
    for b in range(bins):
        members = [
            i for i, row in enumerate(probabilities) if b / bins < max(row) <= (b + 1) / bins
        ]
        if members:
            accuracy = sum(int(np.argmax(probabilities[i]) == labels[i]) for i in members)
            confidence = sum(max(probabilities[i]) for i in members)
            gap = abs(accuracy - confidence) / len(members)
            ece += len(members) / len(probabilities) * gap
            mce = max(mce, gap)
    return ece, mce


@settings(max_examples=50, deadline=None)
@given(
    rows=st.integers(1, 40),
    classes=st.integers(2, 6),
    bins=st.integers(1, 20),
    seed=st.integers(0, 2**32 - 1),
)
def test_against_the_naive_loop_and_any_order_of_rows(
    rows: int, classes: int, bins: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(classes, 0.3), size=rows)
    labels = rng.integers(0, classes, rows)
    ece = expected_calibration_error(probabilities, labels, bins)
    mce = maximum_calibration_error(probabilities, labels, bins)
    assert (ece, mce) == pytest.approx(naive_errors(probabilities, labels, bins), abs=1e-12)
    assert 0 <= ece <= mce + 1e-12 <= 1 + 1e-12

    order = rng.permutation(rows)
    assert expected_calibration_error(probabilities[order], labels[order], bins) == pytest.approx(
        ece, abs=1e-12
    )


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        ([[0.9, 0.3]], "sum to 1"),
        ([[1.5, -0.5]], "sum to 1"),
        ([[2.0, -1.0]], "softmax"),
        ([[np.nan, 0.5]], "finite"),
        (np.empty((0, 2)), "at least one row"),
    ],
)
def test_rows_that_are_no_distribution_are_refused(
    probabilities: list[list[float]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        reliability_bins(np.array(probabilities), np.zeros(len(probabilities), dtype=int))


def test_fewer_than_one_bin_is_refused() -> None:
    with pytest.raises(InputError, match="bins: expected at least 1, found 0"):
        reliability_bins(binary([0.9]), np.array([0]), bins=0)


@pytest.mark.parametrize("bins", [1, 2, 15])
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_the_error_of_drawn_rows_is_that_of_the_rows_themselves(classes: int, bins: int) -> None:
    rng = np.random.default_rng(classes)
    probabilities = rng.dirichlet(np.ones(classes), size=50)
    probabilities[:5] = np.eye(classes)[0]  # certain rows lie on the last border
    labels = rng.integers(classes, size=50)
    of_draw = calibration_error_of_draws(probabilities, labels, bins)
    draws = [np.arange(50), np.array([3]), *rng.integers(50, size=(20, 50))]
    assert len(draws) == 22
    for rows in draws:
        expected = expected_calibration_error(probabilities[rows], labels[rows], bins)
        assert of_draw(rows) == pytest.approx(expected, rel=1e-12, abs=1e-15)
