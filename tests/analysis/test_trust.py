"""Risk and coverage, thresholds and AUROC against hand counts, naive loops, SciPy, scikit-learn."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from lpft.analysis import (
    area_under_risk_coverage,
    choose_threshold,
    confidence,
    risk_coverage,
    shift_metrics,
)
from lpft.data.examples import UNSEEN
from lpft.errors import InputError


def logits_of(tops):
    """Two classes: class 0 has the probability ``tops``, at least a half, and is predicted."""
    return np.log(np.stack([tops, 1 - np.asarray(tops)], axis=1))


def naive_area(right):
    """AURC of rows in their order."""
    return np.mean([1 - np.mean(right[:n]) for n in range(1, len(right) + 1)])


def test_risk_and_coverage_counted_by_hand():
    curve = risk_coverage([0.6, 0.9, 0.8, 0.6, 0.7], [False, True, True, True, False])
    np.testing.assert_array_equal(curve.thresholds, [0.9, 0.8, 0.7, 0.6])
    np.testing.assert_allclose(curve.coverage, [1 / 5, 2 / 5, 3 / 5, 1])
    np.testing.assert_allclose(curve.accuracy, [1, 1, 2 / 3, 3 / 5])
    # Risks 0, 0, 1/3; the fourth row is one of the tied two, half of an error; then 2 of 5.
    assert curve.area == pytest.approx((0 + 0 + 1 / 3 + 1.5 / 4 + 2 / 5) / 5, rel=1e-14)


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6))
def test_the_area_is_the_mean_over_all_orders_of_tied_rows(rows):
    levels, right = zip(*rows, strict=True)
    orders = [
        order
        for order in itertools.permutations(range(len(rows)))
        if all(levels[a] >= levels[b] for a, b in itertools.pairwise(order))
    ]
    expected = np.mean([naive_area([right[row] for row in order]) for order in orders])
    assert area_under_risk_coverage(levels, right) == pytest.approx(expected, abs=1e-12)


def test_the_area_of_useless_and_of_perfect_confidence():
    right = np.arange(100) % 5 > 0
    assert area_under_risk_coverage(np.ones(100), right) == pytest.approx(0.2, rel=1e-12)
    # All 20 errors last: the sum over j of j / (80 + j), divided by 100.
    best = sum(j / (80 + j) for j in range(1, 21)) / 100
    assert area_under_risk_coverage(right, right) == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize(("confidences", "right"), [([], []), ([0.5], [True, False])])
def test_confidences_and_rows_must_match(confidences, right):
    with pytest.raises(InputError, match="a confidence for each"):
        risk_coverage(confidences, right)


def test_a_wanted_accuracy_gives_the_smallest_threshold_whose_bound_reaches_it():
    generator = np.random.default_rng(1)
    tops = 0.5 + generator.random(400) / 2
    labels = (generator.random(400) > tops).astype(int)
    tops[50], tops[51] = tops[52], tops[52]  # ties go together
    found = choose_threshold(logits_of(tops), labels, target_accuracy=0.85)

    def bound(threshold):
        accepted = confidence(logits_of(tops)) >= threshold
        right = int((labels[accepted] == 0).sum())
        test = binomtest(right, int(accepted.sum()), alternative="greater")
        return test.proportion_ci(0.95, method="exact").low

    bounds = {threshold: bound(threshold) for threshold in confidence(logits_of(tops))}
    expected = min(threshold for threshold, low in bounds.items() if low >= 0.85)
    assert found.abstain_below == expected
    accepted = confidence(logits_of(tops)) >= expected
    assert found.coverage == accepted.mean()
    assert found.accuracy == (labels[accepted] == 0).mean()
    assert found.accuracy_bound == pytest.approx(bounds[expected], rel=1e-12)
    assert (found.rows, found.reason, found.target_accuracy) == (400, None, 0.85)


def test_fifty_nine_right_rows_are_the_fewest_that_promise_ninety_five_percent():
    # The bound of n right ones of n is 0.05^(1/n): 0.9505 for 59, 0.9497 for 58.
    enough = choose_threshold(logits_of(np.full(59, 0.8)), np.zeros(59, int), target_accuracy=0.95)
    assert enough.abstain_below == 0.0  # nothing is rejected where every row may be accepted
    assert enough.accuracy_bound == pytest.approx(0.05 ** (1 / 59), rel=1e-12)
    few = choose_threshold(logits_of(np.full(58, 0.8)), np.zeros(58, int), target_accuracy=0.95)
    assert few.abstain_below is None
    assert few.coverage is None
    assert "58 validation rows" in few.reason
    assert "at most 0.949" in few.reason
    assert "the 58 predictions with a confidence of 0.800 or more" in few.reason
    again = choose_threshold(logits_of(np.full(58, 0.8)), np.zeros(58, int), target_accuracy=0.949)
    assert again.abstain_below == 0.0


def test_the_temperature_decides_the_threshold():
    logits, labels = np.log([[9.0, 1.0]] * 200), np.zeros(200, int)
    logits[0] = np.log([4.0, 1.0])
    labels[:10] = 1
    logits[1:10] = logits[0]
    found = choose_threshold(logits, labels, 2.0, target_accuracy=0.97)
    assert found.abstain_below == pytest.approx(0.75)
    assert (found.coverage, found.accuracy) == (0.95, 1.0)


def test_promised_accuracy_holds_for_new_rows():
    generator = np.random.default_rng(2)
    short = met = 0
    for _ in range(200):
        tops = 0.5 + 0.5 * generator.beta(3, 1, size=300)
        labels = (generator.random(300) > tops).astype(int)
        found = choose_threshold(logits_of(tops), labels, target_accuracy=0.9)
        if found.abstain_below is None:
            continue
        met += 1
        # The accuracy of accepted new rows is their mean top probability: tops are calibrated.
        new = 0.5 + 0.5 * generator.beta(3, 1, size=20000)
        short += new[new >= found.abstain_below].mean() < 0.9
    assert met > 100
    assert short / 200 <= 0.1


@given(st.integers(1, 80), st.floats(0.01, 1.0), st.integers(0, 99))
def test_a_wanted_coverage_gives_the_conformal_threshold(rows, wanted, seed):
    tops = 0.5 + np.random.default_rng(seed).random(rows) / 2
    found = choose_threshold(logits_of(tops), np.zeros(rows, int), target_coverage=wanted)
    values = np.sort(confidence(logits_of(tops)))[::-1]
    needed = math.ceil(round(wanted * (rows + 1), 9))
    assert found.abstain_below == (0.0 if needed > rows else values[needed - 1])
    assert found.coverage >= wanted - 1e-9
    assert found.accuracy == 1.0


def test_new_rows_are_accepted_as_often_as_wanted():
    generator = np.random.default_rng(3)
    accepted = []
    for _ in range(2000):
        tops = 0.5 + generator.random(12) / 2
        found = choose_threshold(logits_of(tops[:11]), np.zeros(11, int), target_coverage=0.75)
        accepted.append(tops[11] >= found.abstain_below)
    # 9 of 12 ranks are accepted: 0.75, with a standard error of 0.01 over 2000 draws.
    assert np.mean(accepted) == pytest.approx(0.75, abs=0.04)


def test_a_given_threshold_is_described_and_may_reject_everything():
    logits, labels = logits_of([0.9, 0.8, 0.6]), np.array([0, 1, 0])
    found = choose_threshold(logits, labels, abstain_below=0.7)
    assert (found.coverage, found.accuracy) == (pytest.approx(2 / 3), 0.5)
    nothing = choose_threshold(logits, labels, abstain_below=0.95)
    assert (nothing.abstain_below, nothing.coverage, nothing.accuracy) == (0.95, 0.0, None)
    with pytest.raises(InputError, match="expected one of target_accuracy"):
        choose_threshold(logits, labels, abstain_below=0.7, target_coverage=0.5)


def test_auroc_of_confidence_is_the_share_of_pairs_in_order():
    reference, other = [0.9, 0.8, 0.6, 0.55], [0.95, 0.6, 0.5]
    labels = np.array([UNSEEN, 0, UNSEEN])
    found = shift_metrics(logits_of(other), labels, logits_of(reference), abstain_below=0.7)

    def pairs(below):
        return np.mean([(a > b) + (a == b) / 2 for a in reference for b in below])

    assert found["confidence_auroc"] == pytest.approx(pairs(other), rel=1e-12)
    assert found["unseen"] == {
        "rows": 2,
        "confidence_auroc": pytest.approx(pairs([0.95, 0.5]), rel=1e-12),
        "rejected": 0.5,
    }


def test_a_set_without_unseen_classes_or_without_a_reference():
    plain = shift_metrics(logits_of([0.9, 0.6]), [0, 1], logits_of([0.8]))
    assert plain == {"confidence_auroc": 0.5}
    alone = shift_metrics(logits_of([0.9]), [UNSEEN], None)
    unseen = {"rows": 1, "confidence_auroc": None, "rejected": None}
    assert alone == {"confidence_auroc": None, "unseen": unseen}
