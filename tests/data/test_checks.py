from dataclasses import replace

import numpy as np
import pytest

from lpft.data.checks import SMALL_SPLIT, check_data
from lpft.data.examples import Examples, TextData


def _examples(texts, labels):
    return Examples([str(i) for i in range(len(texts))], list(texts), np.array(labels))


def _numbered(prefix, n, classes=2):
    return _examples([f"{prefix} {i}" for i in range(n)], [i % classes for i in range(n)])


@pytest.fixture
def clean():
    return TextData(
        "toy",
        ("a", "b"),
        train=_numbered("train", 40),
        validation=_numbered("validation", SMALL_SPLIT),
        test=_numbered("test", SMALL_SPLIT),
        ood={"far": _numbered("far", 4)},
    )


def _only(data):
    (finding,) = check_data(data)
    return finding


def test_clean_data_gives_no_finding(clean):
    assert check_data(clean) == []


def test_duplicates_ignore_case_and_spacing(clean):
    texts = list(clean.train.texts)
    texts[2], texts[4] = "TRAIN  0", "train 0 "
    finding = _only(replace(clean, train=_examples(texts, clean.train.labels)))
    assert (finding.level, finding.kind) == ("warning", "duplicates")
    assert finding.message.startswith("2 of 40 training rows repeat")


def test_pairs_repeat_only_if_both_parts_do(clean):
    texts = [("same", text) for text in clean.train.texts]
    assert check_data(replace(clean, train=_examples(texts, clean.train.labels))) == []
    texts[2] = ("Same", "train 0")
    assert _only(replace(clean, train=_examples(texts, clean.train.labels))).kind == "duplicates"


def test_the_same_text_with_two_labels(clean):
    texts = list(clean.train.texts)
    texts[1] = texts[0]
    findings = check_data(replace(clean, train=_examples(texts, clean.train.labels)))
    assert [finding.kind for finding in findings] == ["duplicates", "conflicting-labels"]
    assert findings[1].message.startswith("1 training texts occur with different labels")


@pytest.mark.parametrize("split", ["validation", "test", "ood/far"])
def test_leakage_is_counted_by_split(clean, split):
    rows = clean.splits()[split]
    leaky = replace(rows, texts=["Train 3", *rows.texts[1:]])
    changed = (
        replace(clean, ood={"far": leaky})
        if split == "ood/far"
        else replace(clean, **{split: leaky})
    )
    finding = _only(changed)
    assert (finding.level, finding.kind) == ("warning", "leakage")
    assert finding.message.startswith(f"1 of {len(rows)} rows of {split} ({1 / len(rows):.1%})")


def test_a_test_set_that_is_the_training_set_is_an_error(clean):
    finding = _only(replace(clean, test=clean.train))
    assert (finding.level, finding.kind) == ("error", "leakage")
    assert "40 of 40 rows of test (100.0%)" in finding.message


def test_a_class_without_training_rows_is_an_error_and_comes_first(clean):
    train = _examples(["same"] * 20, [0] * 20)
    findings = check_data(replace(clean, train=train))
    assert [(finding.level, finding.kind) for finding in findings] == [
        ("error", "missing-class"),
        ("warning", "duplicates"),
    ]
    assert "'b'" in findings[0].message


def test_a_class_without_test_rows_is_a_warning(clean):
    finding = _only(replace(clean, test=_examples(["x"], [1])))
    assert (finding.level, finding.kind) == ("warning", "missing-class")
    assert finding.message.startswith("test has no rows of 'a'")


def test_unlabelled_rows_have_no_missing_class(clean):
    assert check_data(replace(clean, ood={"far": replace(clean.ood["far"], labels=None)})) == []


@pytest.mark.parametrize(
    ("counts", "kinds"),
    [
        ((30, 10), []),
        ((30, 9), ["small-class"]),
        ((99, 10), []),
        ((100, 10), ["imbalance"]),
        ((90, 9), ["small-class", "imbalance"]),
    ],
)
def test_small_and_unbalanced_classes(clean, counts, kinds):
    labels = [0] * counts[0] + [1] * counts[1]
    train = _examples([f"train {i}" for i in range(len(labels))], labels)
    assert [finding.kind for finding in check_data(replace(clean, train=train))] == kinds


def test_few_validation_rows(clean):
    finding = _only(replace(clean, validation=_numbered("v", SMALL_SPLIT - 1)))
    assert finding.kind == "small-validation"
    assert "49 rows" in finding.message
