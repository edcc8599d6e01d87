"""Splits by the paper's rule, by class and by group; rows that are drawn."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils import resample

from lpft.data.examples import Examples, Groups, TextData
from lpft.data.splits import (
    SPLIT_SEED,
    draw_groups,
    draw_rows,
    fold_numbers,
    grouped_holdout,
    limit_split,
    paper_split,
    scored_rows,
    split_rows,
    stratified_holdout,
    validation_kind,
    with_folds,
)
from lpft.errors import InputError


@pytest.mark.parametrize(
    ("n", "training", "validation"),
    # the sizes of CB, RTE, SST-2, CoLA and MRPC by the paper's rule, and the smallest ones
    [
        (250, 225, 25),
        (2490, 2241, 249),
        (67349, 60614, 6735),
        (8551, 7695, 856),
        (3668, 3301, 367),
        (2, 1, 1),
        (11, 9, 2),
    ],
)
def test_paper_split_takes_the_last_tenth_rounded_up(n, training, validation):
    train, held_out = paper_split(n)
    assert (len(train), len(held_out)) == (training, validation)
    assert np.array_equal(np.concatenate([train, held_out]), np.arange(n))


def test_stratified_holdout_takes_a_tenth_of_every_class():
    labels = np.array([0] * 100 + [1] * 30 + [2] * 4 + [3])
    train, held_out = stratified_holdout(labels)
    # 10% of 100 and of 30; of 4 rows one; the only row of a class stays in training
    assert Counter(labels[held_out].tolist()) == {0: 10, 1: 3, 2: 1}
    assert Counter(labels[train].tolist()) == {0: 90, 1: 27, 2: 3, 3: 1}


def test_stratified_holdout_is_fixed_by_its_seed_and_leaves_the_global_generator_alone():
    labels = np.arange(200) % 4
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = stratified_holdout(labels), stratified_holdout(labels, seed=SPLIT_SEED)
    assert np.array_equal(first[1], second[1])
    assert not np.array_equal(first[1], stratified_holdout(labels, seed=SPLIT_SEED + 1)[1])
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@given(
    labels=st.lists(st.integers(0, 4), min_size=2, max_size=80).filter(
        lambda labels: max(Counter(labels).values()) > 1
    ),
    fraction=st.floats(0.01, 0.99),
)
def test_stratified_holdout_is_a_partition_with_every_class_in_training(labels, fraction):
    train, held_out = stratified_holdout(labels, fraction)
    assert sorted([*train, *held_out]) == list(range(len(labels)))
    assert list(train) == sorted(train)
    assert list(held_out) == sorted(held_out)
    validated = Counter(labels[row] for row in held_out)
    for label, count in Counter(labels).items():
        assert count - validated[label] >= 1
        assert (validated[label] >= 1) == (count > 1)


def test_rows_that_repeat_nothing_are_split_as_before():
    labels = np.arange(300) % 3
    alone = stratified_holdout(labels, repeats=np.arange(300))
    assert all(map(np.array_equal, alone, stratified_holdout(labels)))


def test_duplicates_stay_together_and_classes_keep_their_share():
    labels = np.array([0] * 100 + [1] * 60)
    repeats = np.arange(160)
    repeats[1:100:4] = repeats[:100:4]  # 25 texts of class 0 occur twice
    repeats[100:140] = 100  # one of class 1 occurs 40 times, more than its share of 6
    train, held_out = stratified_holdout(labels, repeats=repeats)
    assert not set(repeats[train]) & set(repeats[held_out])
    assert Counter(labels[held_out].tolist()) == {0: 10, 1: 6}
    assert len(set(repeats[held_out])) < 16  # some duplicates validate
    assert 100 not in repeats[held_out]


def test_a_class_of_one_repeated_text_is_split_all_the_same():
    train, held_out = stratified_holdout([0] * 10 + [1] * 10, repeats=np.repeat([0, 10], 10))
    assert (len(train), len(held_out)) == (18, 2)


@given(
    sizes=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 6)), min_size=1, max_size=30).filter(
        lambda sizes: any(size > 1 for _, size in sizes)
    )
)
def test_only_a_class_of_one_text_has_it_on_both_sides(sizes):
    """``sizes`` has the class and the number of rows of each text."""
    labels = np.concatenate([[label] * size for label, size in sizes])
    repeats = np.concatenate([[text] * size for text, (_, size) in enumerate(sizes)])
    train, held_out = stratified_holdout(labels, repeats=repeats)
    assert sorted([*train, *held_out]) == list(range(len(labels)))
    texts = Counter(label for label, _ in sizes)
    for text in set(repeats[train]) & set(repeats[held_out]):
        assert texts[sizes[text][0]] == 1
    for label, count in Counter(labels.tolist()).items():
        assert (labels[held_out] == label).any() == (count > 1)
        assert (labels[train] == label).any()


def test_split_rows_follows_the_protocol():
    labels = np.array([0] * 10 + [1] * 10)
    assert split_rows(labels, "paper")[1].tolist() == [18, 19]
    assert sorted(labels[split_rows(labels, "stratified")[1]]) == [0, 1]
    with pytest.raises(InputError, match=r"unknown split protocol 'random'.*paper, stratified"):
        split_rows(labels, "random")


@pytest.mark.parametrize(
    ("split", "says"),
    [
        (lambda: paper_split(1), "at least 2 training rows, found 1"),
        (lambda: paper_split(0), "at least 2 training rows, found 0"),
        (lambda: stratified_holdout([0, 0, 1, 1], 0), "between 0 and 1"),
        (lambda: stratified_holdout([0, 0, 1, 1], 1), "between 0 and 1"),
        (lambda: stratified_holdout([0, 1, 2]), "each of the 3 training rows"),
        (lambda: paper_split(6, _groups(6)), "all 6 training rows belong to one question"),
        (lambda: grouped_holdout(_groups(6)), "all 6 training rows belong to one question"),
    ],
)
def test_what_cannot_be_split(split, says):
    with pytest.raises(InputError, match=says):
        split()


def _data(labels: list[int]) -> TextData:
    rows = Examples([str(i) for i in range(len(labels))], ["x"] * len(labels), np.array(labels))
    return TextData("toy", ("a", "b"), rows, rows)


@pytest.mark.parametrize(("split", "other"), [("train", "validation"), ("validation", "train")])
def test_a_limit_keeps_proportions_order_and_the_other_split(split, other):
    data = _data([0, 0, 0, 1] * 10)
    name = "training" if split == "train" else split
    limited = limit_split(data, split, 20)
    rows = limited.splits()[split]
    assert Counter(rows.labels.tolist()) == {0: 15, 1: 5}
    assert rows.ids == sorted(rows.ids, key=int) == limit_split(data, "train", 20).train.ids
    assert limited.splits()[other] is data.splits()[other]
    assert limited.notes == (f"{name} is limited to 20 of 40 rows, each class in proportion",)
    assert limit_split(data, split, 40) is data
    with pytest.raises(InputError, match=rf"at most 1 {name} rows.*each of the 2 classes"):
        limit_split(data, split, 1)


def _groups(*sizes: int) -> Groups:
    return Groups(np.repeat(np.arange(len(sizes)), sizes))


@pytest.mark.parametrize(
    ("sizes", "validation"),
    [
        # the last 2 of 20 rows are a group; begin within one of 3; are all of one of 12
        ([2] * 10, [18, 19]),
        ([3] * 6 + [2], [18, 19]),
        ([2] + [3] * 6, [17, 18, 19]),
        ([8, 12], list(range(8, 20))),
    ],
)
def test_paper_split_leaves_the_group_whole_that_it_would_cut(sizes, validation):
    train, held_out = paper_split(20, _groups(*sizes))
    assert held_out.tolist() == validation
    assert train.tolist() == list(range(validation[0]))


def test_paper_split_takes_every_row_of_a_group_that_lies_apart():
    index = np.array([5, 0, 0, 0, 0, 0, 0, 0, 0, 9, 5])
    train, held_out = paper_split(11, Groups(index))
    # the last 2 rows are of the groups 9 and 5, and 5 has the first row too
    assert (train.tolist(), held_out.tolist()) == ([1, 2, 3, 4, 5, 6, 7, 8], [0, 9, 10])


def test_grouped_holdout_takes_a_tenth_of_the_groups_whole():
    groups = _groups(*[1, 2, 3, 4] * 10)
    train, held_out = grouped_holdout(groups)
    assert sorted([*train, *held_out]) == list(range(100))
    assert not set(groups.index[train]) & set(groups.index[held_out])
    assert len(set(groups.index[held_out])) == 4
    assert np.array_equal(held_out, grouped_holdout(groups)[1])
    assert np.array_equal(held_out, split_rows(np.zeros(100), "stratified", groups)[1])
    assert split_rows(np.zeros(100), "paper", groups)[1].tolist() == list(range(90, 100))


def test_limit_training_draws_whole_groups():
    groups = _groups(*[3, 1, 4, 2] * 5)
    rows = Examples([str(i) for i in range(50)], ["x"] * 50, np.arange(50) % 2, groups)
    limited = limit_split(TextData("toy", ("a", "b"), rows, rows), "train", 20)
    kept = limited.train.groups.index
    assert 16 < len(kept) <= 20
    assert all(np.sum(kept == group) == np.sum(groups.index == group) for group in set(kept))
    assert limited.notes == (f"training is limited to {len(kept)} of 50 rows, drawn by question",)
    assert list(map(int, limited.train.ids)) == sorted(map(int, limited.train.ids))
    with pytest.raises(InputError, match=r"at most 3 training rows.*at least 4.*longest question"):
        limit_split(TextData("toy", ("a", "b"), rows, rows), "train", 3)


@pytest.mark.parametrize(
    ("counts", "most", "drawn"),
    [
        # shares of 3 rows are 2.91, 0.06 and 0.03, of 5 rows 4.85, 0.1 and 0.05
        ((97, 2, 1), 3, {0: 1, 1: 1, 2: 1}),
        ((97, 2, 1), 5, {0: 3, 1: 1, 2: 1}),
        # CB's training rows by the paper's rule: 3.77, 3.66 and 0.57 of 8
        ((106, 103, 16), 8, {0: 4, 1: 3, 2: 1}),
        ((1, 1, 98), 4, {0: 1, 1: 1, 2: 2}),
    ],
)
def test_every_class_keeps_a_row(counts, most, drawn):
    labels = np.repeat(np.arange(3), counts)
    rows = draw_rows(labels, most)
    assert Counter(labels[rows].tolist()) == drawn
    assert np.array_equal(rows, draw_rows(labels, most))
    examples = Examples(list(map(str, range(len(labels)))), ["x"] * len(labels), labels)
    limited = limit_split(TextData("toy", ("a", "b", "c"), examples, examples), "train", most)
    assert limited.train.class_counts(3) == [drawn[label] for label in range(3)]


@given(labels=st.lists(st.integers(0, 4), min_size=2, max_size=60), most=st.integers(1, 60))
def test_rows_are_drawn_as_before_wherever_no_class_was_lost(labels, most):
    labels = np.array(labels)
    rows = draw_rows(labels, most)
    assert len(set(rows.tolist())) == len(rows) == min(most, len(labels))
    classes = len(set(labels.tolist()))
    if most >= classes:
        assert len(set(labels[rows].tolist())) == classes
    if most < len(labels):
        # what runs of earlier versions were trained on
        before = np.sort(
            resample(
                np.arange(len(labels)), replace=False, n_samples=most, stratify=labels,
                random_state=SPLIT_SEED,
            )
        )  # fmt: skip
        if len(set(labels[before].tolist())) == classes:
            assert np.array_equal(rows, before)


def _first_group(groups: Groups, most: int) -> np.ndarray:
    """The rule of groups before classes were looked at."""
    sizes = np.bincount(groups.index)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(sizes))
    taken, total = [], 0
    for group in order:
        total += sizes[group]
        if total > most:
            break
        taken.append(group)
    return np.flatnonzero([group in taken for group in groups.index])


@pytest.mark.parametrize("place", range(12))
def test_groups_that_are_drawn_bring_every_class(place):
    groups = _groups(*[3, 2, 4] * 4)
    labels = np.zeros(36, dtype=np.int64)
    labels[np.flatnonzero(groups.index == place)[0]] = 1
    for most in (8, 12, 20):
        rows = draw_groups(groups, most, labels=labels)
        before = _first_group(groups, most)
        assert 1 in labels[rows]
        assert len(rows) <= most
        assert all(
            np.sum(groups.index[rows] == g) == np.sum(groups.index == g)
            for g in set(groups.index[rows].tolist())
        )
        if 1 in labels[before]:
            assert np.array_equal(rows, before)
        assert np.array_equal(draw_groups(groups, most), before)


def test_folds_have_an_even_share_of_every_class():
    labels = np.array([0] * 12 + [1] * 7 + [2] * 3 + [3])
    fold = fold_numbers(labels)
    assert np.array_equal(fold, fold_numbers(labels))
    sizes = np.bincount(fold, minlength=5)
    assert sorted(sizes.tolist()) == [4, 4, 5, 5, 5]  # 23 rows
    for label in range(4):
        of_class = np.bincount(fold[labels == label], minlength=5)
        assert of_class.max() - of_class.min() <= 1
    # the only row of class 3 cannot be predicted by a model without it, all others can
    assert scored_rows(labels, fold).tolist() == list(range(22))


def test_rows_that_belong_together_share_a_fold_unless_they_are_a_whole_class():
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
    groups = np.array([7, 7, 3, 4, 5, 5, 6, 9, 9, 9])
    fold = fold_numbers(labels, groups)
    assert fold[0] == fold[1]
    assert fold[4] == fold[5]
    assert len(set(fold[7:].tolist())) == 3
    assert len(scored_rows(labels, fold)) == 10


def test_two_classes_of_two_rows_can_be_scored_and_of_one_row_cannot():
    labels = np.array([0, 1, 0, 1])
    assert len(scored_rows(labels, fold_numbers(labels))) == 4
    labels = np.array([0, 1])
    with pytest.raises(InputError, match="no rows can be held out"):
        scored_rows(labels, fold_numbers(labels))


def data_of(rows, **facts):
    every = Examples([str(row) for row in range(rows)], ["x"] * rows, np.arange(rows) % 2)
    train, held_out = stratified_holdout(every.labels)
    return TextData("x", ("a", "b"), every.select(train), every.select(held_out), **facts)


@pytest.mark.parametrize(
    ("facts", "few", "many", "probing"),
    [
        ({"held_out": True}, "folds", "held-out", "folds"),
        ({}, "file", "file", "file"),
        ({"protocol": "paper"}, "paper", "paper", "paper"),
    ],
)
def test_how_a_training_is_scored_depends_on_its_rows_and_its_method(facts, few, many, probing):
    assert validation_kind(data_of(40, **facts), fine_tunes=True) == few
    assert validation_kind(data_of(4000, **facts), fine_tunes=True) == many
    assert validation_kind(data_of(4000, **facts), fine_tunes=False) == probing


def test_with_folds_no_row_is_lost_and_rows_are_in_their_order():
    data = data_of(40, held_out=True)
    whole = with_folds(data, np.array([1, 5]), 5)
    assert whole.train.ids == [str(row) for row in range(40)]
    assert whole.train.rows.tolist() == list(range(1, 41))
    assert whole.validation.ids == ["1", "5"]
    assert "5 folds" in whole.sources["validation"]
