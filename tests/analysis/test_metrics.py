"""The metrics of one split, grouped or not, against hand counts, naive loops and scikit-learn."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import softmax
from scipy.stats import binomtest
from sklearn.metrics import (
    brier_score_loss,
    classification_report,
    f1_score,
    log_loss,
    matthews_corrcoef,
)

from lpft.analysis import grouped_metrics, split_metrics
from lpft.analysis.metrics import ORDINARY_METRICS, log_odds
from lpft.data.examples import UNSEEN, Groups
from lpft.errors import InputError

TEMPERED = {"nll", "brier", "brier_mean", "ece", "mce", "confidence", "aurc"}


KEYS = TEMPERED | {
    "rows",
    "accuracy",
    "accuracy_interval",
    "majority_accuracy",
    "per_class",
    "macro_f1",
    "matthews_correlation",
    "logit_norm_l1",
    "logit_norm_l2",
    "logit_mean",
    "calibrated",
}


def random_split(rows, classes, seed):
    rng = np.random.default_rng(seed)
    return 3 * rng.normal(size=(rows, classes)), rng.integers(0, classes, rows)


def test_keys_and_types_are_those_of_metrics_json():
    logits, labels = random_split(20, 3, seed=0)
    metrics = split_metrics(logits.astype(np.float32), labels, temperature=2.0)
    assert set(metrics) == KEYS
    assert set(metrics["calibrated"]) == TEMPERED
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert type(metrics["rows"]) is int
    assert {type(value) for value in metrics["calibrated"].values()} == {float}


def test_counted_by_hand():
    # Two classes; probabilities are exactly 3/4, 3/4, 1/4 and 1/2 for class 0 (log 3 and 0).
    gap = math.log(3)
    logits = np.array([[gap, 0.0], [0.0, -gap], [0.0, gap], [2.0, 2.0]])
    labels = np.array([0, 1, 1, 0])
    metrics = split_metrics(logits, labels)
    # Predicted 0, 0, 1, 0 (a tie goes to the first class): 3 of 4 right.
    assert metrics["rows"] == 4
    assert metrics["accuracy"] == 0.75
    # Class 0: precision 2/3, recall 1, F1 4/5. Class 1: precision 1, recall 1/2, F1 2/3.
    assert metrics["macro_f1"] == pytest.approx((4 / 5 + 2 / 3) / 2, rel=1e-14)
    # TP = 1, TN = 2, FP = 0, FN = 1: 2 / sqrt(1 * 2 * 2 * 3).
    assert metrics["matthews_correlation"] == pytest.approx(2 / math.sqrt(12), rel=1e-14)
    assert metrics["nll"] == pytest.approx((2 * math.log(4 / 3) + math.log(4) + math.log(2)) / 4)
    # Sums of squares: 2/16, 2 * 9/16, 2/16, 2/4.
    assert metrics["brier"] == pytest.approx((2 / 16 + 18 / 16 + 2 / 16 + 1 / 2) / 4, rel=1e-14)
    assert metrics["brier_mean"] == pytest.approx(metrics["brier"] / 2, rel=1e-15)
    assert metrics["confidence"] == pytest.approx((3 * 0.75 + 0.5) / 4, rel=1e-14)
    # Three rows at 3/4 with accuracy 2/3; one at 1/2, right.
    assert metrics["ece"] == pytest.approx(3 / 4 * (3 / 4 - 2 / 3) + 1 / 4 * 1 / 2, rel=1e-12)
    assert metrics["mce"] == pytest.approx(0.5, rel=1e-12)
    assert metrics["logit_norm_l1"] == pytest.approx((3 * gap + 4) / 4, rel=1e-14)
    assert metrics["logit_norm_l2"] == pytest.approx((3 * gap + math.sqrt(8)) / 4, rel=1e-14)
    assert metrics["logit_mean"] == pytest.approx((gap + 4) / 8, rel=1e-14)


def test_calibrated_counted_by_hand():
    # At T = 2 the logits (log 9, 0) give 3/4: right in one row of two.
    logits = np.array([[math.log(9), 0.0]] * 2)
    metrics = split_metrics(logits, np.array([0, 1]), temperature=2.0)
    assert metrics["confidence"] == pytest.approx(0.9, rel=1e-14)
    assert metrics["ece"] == pytest.approx(0.4, rel=1e-12)
    assert metrics["calibrated"] == pytest.approx(
        {
            "nll": (math.log(4 / 3) + math.log(4)) / 2,
            "brier": (2 / 16 + 18 / 16) / 2,
            "brier_mean": (2 / 16 + 18 / 16) / 4,
            "ece": 0.25,
            "mce": 0.25,
            "confidence": 0.75,
            "aurc": 0.5,  # tied: one wrong of two, in either order, is a half at both places
        },
        rel=1e-12,
    )


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.5])
def test_against_scikit_learn(classes, temperature):
    logits, labels = random_split(200, classes, seed=classes)
    metrics = split_metrics(logits, labels, temperature)
    predictions, every = logits.argmax(axis=1), list(range(classes))
    assert metrics["macro_f1"] == pytest.approx(f1_score(labels, predictions, average="macro"))
    assert metrics["matthews_correlation"] == pytest.approx(matthews_corrcoef(labels, predictions))
    for found, probabilities in (
        (metrics, softmax(logits, axis=1)),
        (metrics["calibrated"], softmax(logits / temperature, axis=1)),
    ):
        assert probabilities.min() > np.finfo(float).eps  # below it log_loss clips, nll does not
        sums = brier_score_loss(labels, probabilities, labels=every, scale_by_half=False)
        assert found["nll"] == pytest.approx(log_loss(labels, probabilities, labels=every))
        assert found["brier"] == pytest.approx(sums, rel=1e-12)
        assert found["brier_mean"] == pytest.approx(sums / classes, rel=1e-12)


@pytest.mark.parametrize("classes", [2, 4, 7])
def test_each_class_is_scored_as_scikit_learn_scores_it(classes):
    logits, labels = random_split(60, classes, seed=classes)
    labels[labels == 1] = 0  # a class without rows
    logits[:, classes - 1] = -9.0  # and one that is never predicted
    names = [f"class {index}" for index in range(classes)]
    found = split_metrics(logits, labels, classes=names)["per_class"]
    report = classification_report(
        labels,
        logits.argmax(axis=1),
        labels=range(classes),
        target_names=names,
        output_dict=True,
        zero_division=np.nan,
    )
    assert list(found) == names
    for name in names:
        expected = report[name]
        expected["f1"] = expected.pop("f1-score")
        assert found[name] == {
            key: None if math.isnan(value) else pytest.approx(value, rel=1e-14)
            for key, value in expected.items()
        }
    assert found[names[1]]["recall"] is None
    if classes > 2:
        assert found[names[-1]]["precision"] is None


def test_the_best_constant_answer_and_the_interval_of_accuracy():
    logits, labels = random_split(40, 3, seed=4)
    constant = np.zeros((40, 3))
    metrics = split_metrics(logits, labels)
    best = max(split_metrics(constant + np.eye(3)[c], labels)["accuracy"] for c in range(3))
    assert metrics["majority_accuracy"] == best
    right = round(40 * metrics["accuracy"])
    interval = binomtest(right, 40).proportion_ci(0.95, method="wilson")
    assert metrics["accuracy_interval"] == pytest.approx([interval.low, interval.high], abs=1e-13)


def test_coverage_and_accuracy_of_what_is_accepted_are_at_the_calibrated_confidence():
    # Top probabilities 0.9 and 0.6 become 0.75 and about 0.55 at T = 2.
    logits = np.log([[9.0, 1.0], [1.0, 9.0], [3.0, 2.0], [2.0, 3.0]])
    labels = np.array([0, 0, 0, 1])
    at = {t: split_metrics(logits, labels, 2.0, abstain_below=t) for t in (0.5, 0.7, 0.8)}
    found = {t: (m["coverage"], m["accepted_accuracy"]) for t, m in at.items()}
    assert found == {0.5: (1.0, 0.75), 0.7: (0.5, 0.5), 0.8: (0.0, None)}


def test_rows_of_classes_that_training_lacks_count_nowhere():
    logits, labels = random_split(30, 3, seed=5)
    known = np.arange(30) % 3 > 0
    mixed = np.where(known, labels, UNSEEN)
    groups = Groups(np.arange(30) // 6)
    found = split_metrics(logits, mixed, 2.0, groups, abstain_below=0.5)
    chosen = groups.select(np.flatnonzero(known))
    assert found == split_metrics(logits[known], labels[known], 2.0, chosen, abstain_below=0.5)
    none = split_metrics(logits, np.full(30, UNSEEN), 2.0, abstain_below=0.5)
    assert none["rows"] == 0
    assert none["accuracy"] is None
    assert none["calibrated"]["ece"] is None
    assert set(none) == set(found) - {"answer_f1", "exact_match"}
    assert json.loads(json.dumps(none, allow_nan=False)) == none


def test_a_class_that_does_not_occur_has_no_part_in_macro_f1():
    # All right on classes 0 and 1; class 2 neither occurs nor is predicted: (1 + 1) / 2.
    metrics = split_metrics(np.array([[2.0, 0, 0], [0, 2.0, 0]]), np.array([0, 1]))
    assert metrics["accuracy"] == 1
    assert metrics["macro_f1"] == 1
    assert metrics["matthews_correlation"] == 1


@pytest.mark.filterwarnings("error")
def test_one_row_and_one_class_are_scored_without_warnings():
    metrics = split_metrics([[1.0, 0.0]], [0])
    assert (metrics["rows"], metrics["accuracy"], metrics["matthews_correlation"]) == (1, 1, 0)
    metrics = split_metrics([[1.0, 0.0], [0.0, 1.0]], [1, 1])
    assert (metrics["accuracy"], metrics["matthews_correlation"]) == (0.5, 0)


def test_confident_mistakes_have_a_finite_nll():
    metrics = split_metrics([[1e4, 0.0]], [1])
    assert metrics["nll"] == 1e4
    assert (metrics["brier"], metrics["ece"], metrics["confidence"]) == (2, 1, 1)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 50),
    classes=st.integers(2, 6),
    temperature=st.floats(0.05, 20),
    seed=st.integers(0, 2**32 - 1),
)
def test_bounds_and_any_order_of_rows(rows, classes, temperature, seed):
    logits, labels = random_split(rows, classes, seed)
    metrics = split_metrics(logits, labels, temperature)
    order = np.random.default_rng(seed).permutation(rows)
    other = split_metrics(logits[order], labels[order], temperature)
    calibrated = metrics.pop("calibrated")
    assert other.pop("calibrated") == pytest.approx(calibrated, rel=1e-12, abs=1e-12)
    assert other.pop("per_class") == metrics.pop("per_class")
    low, high = metrics.pop("accuracy_interval")
    assert other.pop("accuracy_interval") == [low, high]
    assert 0 <= low <= metrics["accuracy"] <= high <= 1
    assert other == pytest.approx(metrics, rel=1e-12, abs=1e-12)

    assert abs(metrics["matthews_correlation"]) <= 1 + 1e-12
    assert 0 <= metrics["macro_f1"] <= 1 + 1e-12
    for found in (metrics, calibrated):
        assert found["nll"] >= 0
        assert 0 <= found["brier"] <= 2 + 1e-12
        assert 0 <= found["ece"] <= found["mce"] + 1e-12 <= 1 + 1e-12
        assert 1 / classes - 1e-12 <= found["confidence"] <= 1 + 1e-12
        # The mean gap is at least the gap of the means.
        assert abs(metrics["accuracy"] - found["confidence"]) <= found["ece"] + 1e-12


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([[1.0, np.nan], [np.inf, 0.0]], [0, 1], "logits: .* found 2 NaN or infinite .*row 0"),
        (np.empty((0, 3)), [], "logits: expected at least one row"),
        ([[1.0], [2.0]], [0, 0], "at least 2 classes, found 1 column"),
        ([1.0, 2.0], [0], r"expected a matrix \[rows, columns\], found shape \(2,\)"),
        ([[1.0, 2.0]], [0, 1], r"labels: expected shape \(1,\), found \(2,\)"),
        ([[1.0, 2.0]], [2], "class indices of 0 to 1, found 2 in row 0"),
        ([[1.0, 2.0], [1.0, 2.0]], [0, -1], "found -1 in row 1; a hidden or unknown label"),
        ([[1.0, 2.0]], [0.0], "expected integer class indices, found dtype float64"),
    ],
)
def test_wrong_input_is_named(logits, labels, message):
    with pytest.raises(InputError, match=message):
        split_metrics(logits, labels)


@pytest.mark.parametrize("temperature", [0.0, -2.0, math.nan, math.inf])
def test_a_wrong_temperature_is_refused(temperature):
    with pytest.raises(InputError, match="temperature: expected a finite number above 0"):
        split_metrics([[1.0, 0.0]], [0], temperature)


# --- rows that answer a question together


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
