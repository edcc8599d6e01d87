"""Metrics of grouped rows against hand counts and naive loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lpft.analysis import grouped_metrics, split_metrics
from lpft.analysis.metrics import ORDINARY_METRICS, log_odds
from lpft.data.examples import Groups
from lpft.errors import InputError


def logits_of(predictions):
    return np.where(np.array(predictions)[:, None] == [0, 1], 1.0, -1.0)


def test_sets_of_answers_by_hand():
    # questions 7, 7 | 3, 3, 3 | 5: the second has one error, the others none
    groups = Groups(np.array([7, 7, 3, 3, 3, 5]))
    labels = np.array([1, 0, 1, 0, 0, 1])
    found = grouped_metrics(logits_of([1, 0, 1, 1, 0, 1]), labels, groups)
    # 3 true positives, 1 false positive, no false negative: 6 / 7
    assert found == {"answer_f1": pytest.approx(6 / 7), "exact_match": pytest.approx(2 / 3)}


def test_nothing_positive_has_no_f1_but_may_match():
    groups = Groups(np.array([0, 0, 1]))
    found = grouped_metrics(logits_of([0, 0, 0]), np.array([0, 0, 0]), groups)
    assert found == {"answer_f1": 0, "exact_match": 1}


def test_a_choice_by_hand():
    credits = {
        "exact_match": np.array([1.0, 0, 0, 0, 1]),
        "token_f1": np.array([1, 0.5, 0, 0.8, 1]),
    }
    groups = Groups(np.array([4, 4, 2, 2, 2]), "query", credits)
    # log-odds -1, 2 | 0, 3, 3: the second row, and the two equal ones by halves
    logits = np.array([[0, -1.0], [0, 2], [5, 5], [-1, 2], [0, 3]])
    found = grouped_metrics(logits, np.array([1, 0, 0, 0, 1]), groups)
    assert found == {
        "exact_match": pytest.approx((0 + (0 + 1) / 2) / 2),
        "token_f1": pytest.approx((0.5 + (0.8 + 1) / 2) / 2),
    }


def test_one_answer_to_everything_earns_what_chance_does():
    credits = {"choice_accuracy": np.array([1.0, 0, 1, 0, 1, 0, 0])}
    groups = Groups(np.array([0, 0, 1, 1, 2, 2, 2]), credits=credits)
    found = grouped_metrics(np.full((7, 2), 0.3), np.array([1, 0, 1, 0, 1, 0, 0]), groups)
    assert found == {"choice_accuracy": pytest.approx((1 / 2 + 1 / 2 + 1 / 3) / 3)}


def test_large_logits_keep_their_order():
    # probabilities of all three are 1 in float64
    scores = log_odds(np.array([[0, 100.0], [0, 101], [0, 99]]), 1)
    assert scores.tolist() == [100, 101, 99]
    credits = {"choice_accuracy": np.array([0.0, 1, 0])}
    groups = Groups(np.zeros(3, dtype=np.int64), credits=credits)
    logits = np.array([[0, 100.0], [0, 101], [0, 99]])
    assert grouped_metrics(logits, np.array([0, 1, 0]), groups) == {"choice_accuracy": 1}


def test_more_classes_and_another_positive_one():
    logits = np.log([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]])
    assert log_odds(logits, 0) == pytest.approx(np.log([0.2 / 0.8, 0.6 / 0.4]))
    groups = Groups(np.array([0, 0]), positive=0)
    found = grouped_metrics(logits, np.array([1, 0]), groups)
    assert found == {"answer_f1": 1, "exact_match": 1}


SPLIT = st.integers(1, 30).flatmap(
    lambda n: st.tuples(
        arrays(np.float64, (n, 2), elements=st.integers(-3, 3).map(float)),
        arrays(np.int64, n, elements=st.integers(0, 1)),
        arrays(np.int64, n, elements=st.integers(0, 5)),
        arrays(np.float64, n, elements=st.integers(0, 4).map(lambda k: k / 4)),
    )
)


@given(SPLIT)
def test_naive_loops_agree(split):
    logits, labels, index, credit = split
    right, earned = [], []
    for group in sorted(set(index)):
        rows = [row for row in range(len(index)) if index[row] == group]
        right.append(all((logits[row, 1] > logits[row, 0]) == labels[row] for row in rows))
        odds = {row: logits[row, 1] - logits[row, 0] for row in rows}
        best = [row for row in rows if odds[row] == max(odds.values())]
        earned.append(np.mean([credit[row] for row in best]))
    called = logits[:, 1] > logits[:, 0]
    both, either = np.sum(called & (labels == 1)), np.sum(called) + np.sum(labels)
    found = grouped_metrics(logits, labels, Groups(index))
    assert found["exact_match"] == pytest.approx(np.mean(right))
    assert found["answer_f1"] == pytest.approx(2 * both / either if either else 0)
    chosen = grouped_metrics(logits, labels, Groups(index, credits={"token_f1": credit}))
    assert chosen == {"token_f1": pytest.approx(np.mean(earned))}


@given(SPLIT, st.randoms(use_true_random=False))
def test_neither_the_names_of_groups_nor_their_order_matter(split, random):
    logits, labels, index, _ = split
    order = list(range(len(index)))
    random.shuffle(order)
    groups = Groups(index)
    found = grouped_metrics(logits, labels, groups)
    assert grouped_metrics(logits, labels, Groups(17 - 2 * index)) == found
    again = grouped_metrics(logits[order], labels[order], groups.select(order))
    assert again == pytest.approx(found)


def test_they_are_beside_the_ordinary_metrics_of_a_split():
    logits, labels = logits_of([1, 0, 1]), np.array([1, 0, 0])
    plain = split_metrics(logits, labels)
    grouped = split_metrics(logits, labels, groups=Groups(np.array([0, 0, 1])))
    assert set(plain) == set(ORDINARY_METRICS)
    assert {name: grouped[name] for name in plain} == plain
    assert {name: grouped[name] for name in set(grouped) - set(plain)} == {
        "answer_f1": pytest.approx(2 / 3),
        "exact_match": 0.5,
    }
    assert Groups(np.array([0])).metrics == ("answer_f1", "exact_match")


def test_as_many_group_numbers_as_rows():
    with pytest.raises(InputError, match="3 labels but 2 group numbers"):
        split_metrics(logits_of([1, 0, 1]), [1, 0, 0], groups=Groups(np.array([0, 1])))


def test_selecting_rows_keeps_their_groups():
    groups = Groups(np.array([3, 3, 9]), "query", {"token_f1": np.array([0, 0.5, 1])}, 0)
    chosen = groups.select([2, 1])
    assert (chosen.index.tolist(), chosen.noun, chosen.positive) == ([9, 3], "query", 0)
    assert chosen.credits["token_f1"].tolist() == [1, 0.5]
