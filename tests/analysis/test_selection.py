"""Choosing a method: the one-standard-error rule against hand counts and NumPy's own formulas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpft.analysis.selection import (
    CONTRASTIVE_ROWS,
    RANDOM_HEAD_ROWS,
    Candidate,
    best_of_each,
    choose,
    choose_point,
    complexity,
    reason_to_skip,
)
from lpft.errors import InputError
from lpft.settings.methods import METHODS


def candidate(method, right, *, seed=0, nll=1.0):
    """``right`` as text of 1 and 0, one for each validation row."""
    return Candidate(method, seed, np.array([mark == "1" for mark in right]), nll)


def chosen(*candidates):
    one = candidates[choose(candidates).chosen]
    return one.method, one.seed


@pytest.mark.parametrize(
    ("lp", "better", "expected"),
    [
        # b rows right with LP-FT alone, c with LP alone: chosen where (b - c)^2 > b + c
        ("1111100000", "1111100000", "lp"),  # 0, 0
        ("1111100000", "1111110000", "lp"),  # 1, 0: 1 > 1 is false
        ("1111100000", "1111111000", "lp-ft"),  # 2, 0: 4 > 2
        ("1111100000", "0111111100", "lp"),  # 3, 1: 4 > 4 is false
        ("1111100000", "0111111110", "lp-ft"),  # 4, 1: 9 > 5
        ("1111100000", "0011111111", "lp-ft"),  # 5, 2: 9 > 7
        ("1111100000", "0001111111", "lp"),  # 5, 3: 4 > 8 is false
    ],
)
def test_a_method_that_trains_more_wins_only_beyond_one_standard_error(lp, better, expected):
    assert chosen(candidate("lp", lp), candidate("lp-ft", better))[0] == expected


def test_a_worse_method_is_never_chosen():
    assert chosen(candidate("lp", "1110"), candidate("ft", "0000"))[0] == "lp"
    # three rows of LoRA are wrong that FT gets right: 9 > 3
    assert chosen(candidate("lora", "0001"), candidate("ft", "1111"))[0] == "ft"


def test_the_order_of_the_list_and_its_ties_do_not_matter():
    pair = candidate("lp", "1100"), candidate("lp-ft", "1100")
    assert chosen(*pair) == chosen(*reversed(pair)) == ("lp", 0)


def test_simplicity_is_the_number_of_trained_weights_then_the_start():
    known = ["lp", "lp-lora", "lp-dora", "lora", "dora", "contrastive", "lp-ft", "ft"]
    assert [name for name in sorted(METHODS, key=complexity) if name in known] == known


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60))
def test_the_rule_is_one_standard_error_of_the_paired_difference(rows):
    simple, other = (np.array(column) for column in zip(*rows, strict=True))
    found = choose([Candidate("lp", 0, simple, 1.0), Candidate("ft", 0, other, 1.0)])
    differences = other.astype(float) - simple
    error = differences.std(ddof=1) / np.sqrt(len(rows))
    mean = differences.mean()
    if not np.isclose(mean, error):
        assert found.chosen == int(mean > error)
    assert found.best == ("ft" if mean > 0 else "lp")
    for standing in found.standings:
        assert standing.standard_error in (0.0, pytest.approx(error))


def test_seeds_are_averaged_by_row_and_the_best_one_is_taken():
    lp = [candidate("lp", "110000", seed=seed) for seed in (0, 1)]
    tuned = [
        candidate("lp-ft", "111100", seed=0, nll=0.9),
        candidate("lp-ft", "111010", seed=1, nll=0.7),
    ]
    found = choose([*lp, *tuned])
    # d = (0, 0, 1, 1/2, 1/2, 0): (sum)^2 = 4 > sum of squares = 1.5
    assert [s.score for s in found.standings] == pytest.approx([2 / 6, 4 / 6])
    assert found.standings[0].difference == pytest.approx(-2 / 6)
    assert not found.standings[0].eligible
    assert chosen(*lp, *tuned) == ("lp-ft", 1)  # equal scores: the lower nll
    tuned[0] = candidate("lp-ft", "111110", seed=0, nll=0.9)
    assert chosen(*lp, *tuned) == ("lp-ft", 0)


@pytest.mark.parametrize(("wrong", "possible"), [(0, False), (1, False), (2, True)])
def test_nothing_more_complex_is_trained_where_even_a_perfect_method_would_not_win(wrong, possible):
    lp = candidate("lp", "1" * 5 + "0" * wrong)
    assert (chosen(lp, candidate("ft", "1" * (5 + wrong)))[0] == "ft") is possible
    assert (reason_to_skip("ft", [lp], 1000) is None) is possible
    # one that is simpler than the choice could still take its place
    tuned = candidate("lp-ft", "1" * 5 + "0" * wrong)
    assert reason_to_skip("lora", [tuned], 1000) is None


def test_with_few_rows_no_head_starts_at_random():
    lp = candidate("lp", "1100")
    assert "10 training rows per class" in reason_to_skip("ft", [lp], 10)
    assert "random head" in reason_to_skip("lora", [lp], 10)
    assert reason_to_skip("lp-ft", [lp], 10) is None
    assert reason_to_skip("ft", [lp], RANDOM_HEAD_ROWS) is None


@pytest.mark.parametrize(("rows", "expected"), [(CONTRASTIVE_ROWS - 1, "contrastive"), (32, "lp")])
def test_with_few_rows_contrastive_tuning_comes_before_simpler_methods(rows, expected):
    tried = [candidate("lp", "11110"), candidate("contrastive", "11110")]
    found = choose(tried, rows)
    assert tried[found.chosen].method == expected
    assert found.standings[0].method == expected
    assert found.preferred_for_few_rows is (expected == "contrastive")
    assert ("preferred with few rows" in found.reason) is (expected == "contrastive")


def test_a_method_that_is_clearly_better_than_contrastive_tuning_is_chosen():
    tuned = candidate("contrastive", "1" * 5 + "0" * 5)
    found = choose([tuned, candidate("lp-ft", "1" * 7 + "0" * 3)], 10)
    assert found.chosen == 1  # (2 - 0)^2 > 2 + 0
    found = choose([tuned, candidate("lora", "1" * 6 + "0" * 4)], 10)
    assert found.chosen == 0
    assert "preferred with few rows" in found.reason


def test_a_perfect_probe_of_few_rows_does_not_spare_contrastive_tuning():
    lp = candidate("lp", "1" * 30)
    assert reason_to_skip("contrastive", [lp], 10) is None
    assert "too few errors" in reason_to_skip("lp-ft", [lp], 10)


def test_contrastive_tuning_is_for_few_rows_and_needs_its_library(monkeypatch):
    lp = candidate("lp", "1100")
    assert reason_to_skip("contrastive", [lp], CONTRASTIVE_ROWS - 1) is None
    assert "rows per class" in reason_to_skip("contrastive", [lp], CONTRASTIVE_ROWS)
    monkeypatch.setattr("lpft.settings.methods.find_spec", lambda _name: None)
    assert "pip install 'lpft[contrastive]'" in reason_to_skip("contrastive", [lp], 8)


def test_a_search_enters_with_each_methods_best_run():
    tried = [
        candidate("ft", "1000"),
        candidate("lp-ft", "1100", nll=0.9),
        candidate("ft", "1110"),
        candidate("lp-ft", "1010", nll=0.8),
        candidate("ft", "1101"),
    ]
    assert best_of_each(tried) == [2, 3]


def test_scores_have_the_standard_error_of_a_share():
    one = candidate("lp", "1110")
    # sd of (1, 1, 1, 0) with n - 1 is 1/2
    assert (one.score, one.standard_error) == (0.75, pytest.approx(0.25))
    assert candidate("lp", "1").standard_error == 0


def test_the_reason_says_how_far_the_choice_is_from_the_best():
    def reason(*candidates):
        return choose(candidates).reason

    lp = candidate("lp", "1111100000")
    assert reason(lp) == "the only method that was trained"
    assert reason(lp, candidate("ft", "1111100000")) == "no other method is better"
    assert "by more than one standard error" in reason(lp, candidate("ft", "1111111100"))
    assert "0.100 below ft" in reason(lp, candidate("ft", "1111110000"))


def test_candidates_without_rows_or_on_other_rows_are_refused():
    for wrong in ([], [candidate("lp", "")], [candidate("lp", "1"), candidate("ft", "11")]):
        with pytest.raises(InputError):
            choose(wrong)


def point(names, right, nll):
    """The chosen point of those with these right rows and the same loss for each of them."""
    correct = np.array([[mark == "1" for mark in marks] for marks in right])
    losses = np.repeat(np.array(nll)[:, None], correct.shape[1], axis=1)
    return choose_point(names, correct, losses, np.random.default_rng(0))


def test_the_point_of_lowest_nll_within_one_standard_error_is_chosen():
    # b rows right at 0.5 alone, c at the other alone: eligible where (b - c)^2 <= b + c
    right = ["1111100000", "1111111000", "0111111000", "1111110000"]
    found = point(["0", "0.5", "0.9", "1"], right, [0.1, 0.9, 0.7, 0.8])
    # 0: 2, 0 is 4 > 2; 0.9 and 1: 1, 0 is 1 <= 1
    assert [standing.eligible for standing in found.standings] == [False, True, True, True]
    assert (found.best, found.chosen) == (1, 2)
    assert found.standings[0].difference == pytest.approx(-0.2)
    assert "3 points" in found.reason
    assert "0.5 to 1" in found.reason


def test_of_equally_accurate_points_the_lower_nll_is_best_and_the_first_of_equal_ones_chosen():
    assert point(["0", "1"], ["10", "01"], [0.5, 0.4]).best == 1
    assert point(["0", "1"], ["10", "10"], [0.5, 0.5]).chosen == 0


def test_one_point_has_nothing_to_be_too_optimistic_about():
    right = np.random.default_rng(1).random((1, 400)) < 0.7
    losses = np.zeros(right.shape)
    found = choose_point(["0"], right, losses, np.random.default_rng(2), draws=1000)
    # a mean of 1000 draws of a mean of 400 rows around 0
    assert abs(found.optimism) < 4 * np.sqrt(0.7 * 0.3 / 400 / 1000)


def test_choosing_among_points_that_differ_by_chance_alone_is_optimistic():
    generator = np.random.default_rng(3)
    right = generator.random((11, 100)) < 0.5
    losses = np.where(right, 0.3, 1.2)  # the NLL goes with the accuracy
    found = choose_point([str(n) for n in range(11)], right, losses, generator)
    assert 0.01 < found.optimism < 0.1


def test_a_point_cannot_be_chosen_without_rows():
    with pytest.raises(InputError, match="none"):
        choose_point(["0"], np.zeros((1, 0), dtype=bool), np.zeros((1, 0)), np.random.default_rng())
