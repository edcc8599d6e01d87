import json
from dataclasses import replace

import numpy as np
import pytest

from lpft.data.checks import (
    MOST_ROWS,
    SMALL_SPLIT,
    Finding,
    as_parameters,
    check_data,
    has_markup,
    is_damaged,
    is_empty_like,
)
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


def _with(data, split="train", **texts):
    """The data with other texts in rows of a split, given as ``row_3="text"``, counted from 1."""
    examples = data.splits()[split]
    changed = list(examples.texts)
    for name, text in texts.items():
        changed[int(name.removeprefix("row_")) - 1] = text
    changed = replace(examples, texts=changed)
    if split.startswith("ood/"):
        return replace(data, ood={split[4:]: changed})
    return replace(data, **{split: changed})


def _only(data):
    (finding,) = check_data(data)
    return finding


def _named(finding):
    return {split: list(rows) for split, rows in finding.rows.items()}


LONG = "the battery of this small telephone lasts for more than two whole days"


def test_clean_data_gives_no_finding(clean):
    assert check_data(clean) == []


def test_duplicates_ignore_case_and_spacing(clean):
    finding = _only(_with(clean, row_3="TRAIN  0", row_5="train 0 "))
    assert (finding.level, finding.kind) == ("warning", "duplicates")
    assert finding.message.startswith("2 of 40 training rows repeat")
    assert _named(finding) == {"train": [3, 5]}  # row 1 repeats nothing that is earlier


def test_near_duplicates_differ_in_a_word_or_in_punctuation(clean):
    rows = {
        "row_1": LONG,
        "row_3": LONG.replace("small", "big"),
        "row_7": "oh no",
        "row_9": "Oh, no!",
    }
    finding = _only(_with(clean, **rows))
    assert finding.kind == "near-duplicates"
    assert _named(finding) == {"train": [1, 3, 7, 9]}


def test_pairs_repeat_only_if_both_parts_do(clean):
    for split in clean.splits():
        texts = [("same", text) for text in clean.splits()[split].texts]
        rows = {f"row_{number}": text for number, text in enumerate(texts, start=1)}
        clean = _with(clean, split, **rows)
    assert check_data(clean) == []
    finding = _only(_with(clean, row_3=("Same", "train 0")))
    assert (finding.kind, _named(finding)) == ("duplicates", {"train": [3]})


def test_the_same_text_with_two_labels(clean):
    findings = check_data(_with(clean, row_2="train 0"))
    assert [finding.kind for finding in findings] == ["duplicates", "conflicting-labels"]
    assert findings[0].message == "1 of 40 training rows repeats the text of an earlier one"
    assert findings[1].message == "1 text occurs with different labels"
    assert _named(findings[1]) == {"train": [1, 2]}
    assert findings[1].examples == ("train 1 'a': 'train 0' | train 2 'b'",)


def test_near_duplicates_with_two_labels_across_splits(clean):
    data = _with(_with(clean, row_1=LONG), "test", row_2=LONG.replace("small", "big"))
    conflict, leak = check_data(data)
    assert (conflict.kind, leak.kind) == ("near-conflicts", "near-leakage")
    assert _named(conflict) == {"train": [1], "test": [2]}
    assert _named(leak) == {"train": [1], "test": [2]}


@pytest.mark.parametrize("split", ["validation", "test", "ood/far"])
def test_leakage_is_counted_by_split(clean, split):
    total = len(clean.splits()[split])
    finding = _only(_with(clean, split, row_1="Train 2"))
    assert (finding.level, finding.kind) == ("warning", "leakage")
    assert finding.message.startswith(f"1 of {total} rows of {split} ({1 / total:.1%}) has a text")
    assert _named(finding) == {"train": [3], split: [1]}


def test_a_test_text_in_validation_is_a_leak_too(clean):
    finding = _only(_with(clean, "test", row_1="Validation 2"))
    assert (finding.kind, _named(finding)) == ("leakage", {"validation": [3], "test": [1]})


def test_a_test_set_that_is_the_training_set_is_an_error(clean):
    leak, small = check_data(replace(clean, test=clean.train))
    assert (leak.level, leak.kind) == ("error", "leakage")
    assert "40 of 40 rows of test (100.0%)" in leak.message
    assert small.kind == "small-test"


def test_a_class_without_training_rows_is_an_error_and_comes_first(clean):
    train = _examples(["same"] * 20, [0] * 20)
    findings = check_data(replace(clean, train=train))
    assert [(finding.level, finding.kind) for finding in findings] == [
        ("error", "missing-class"),
        ("warning", "duplicates"),
    ]
    assert "'b'" in findings[0].message


def test_a_class_without_test_rows_is_a_warning(clean):
    finding = _only(replace(clean, ood={"far": _examples(["x"], [1])}))
    assert (finding.level, finding.kind) == ("warning", "missing-class")
    assert finding.message.startswith("ood/far has no rows of 'a'")


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
    findings = check_data(replace(clean, train=train))
    assert [finding.kind for finding in findings] == kinds
    for finding in findings:
        if finding.kind == "small-class":
            assert _named(finding) == {"train": [*range(counts[0] + 1, sum(counts) + 1)]}


@pytest.mark.parametrize(
    ("names", "alike"),
    [
        (("Positive", "positive"), True),
        (("not spam", "Not_Spam"), True),
        (("good", "good."), True),
        (("caf\u00e9", "cafe\u0301"), True),
        (("1", "1.0"), True),
        (("C", "C++"), False),
        (("+", "-"), False),
        (("p\u00eache", "p\u00e9ch\u00e9"), False),
        (("dog", "dogs"), False),
        ((1234567, 1234568), False),
        ((True, False), False),
    ],
)
def test_class_names_that_look_alike(clean, names, alike):
    labels = np.array([0] * 28 + [1] * 12)
    data = replace(clean, classes=names, train=replace(clean.train, labels=labels))
    data = replace(data, validation=_numbered("v", SMALL_SPLIT), test=None, ood={})
    findings = [finding for finding in check_data(data) if finding.kind == "similar-classes"]
    assert bool(findings) == alike
    if alike:  # the rows of the rarer one
        assert findings[0].rows["train"] == list(range(29, 41))


def test_few_validation_and_test_rows(clean):
    finding = _only(replace(clean, validation=_numbered("v", SMALL_SPLIT - 1)))
    assert finding.kind == "small-validation"
    assert "49 rows" in finding.message
    assert "epoch" in finding.message
    data = replace(clean, validation=_numbered("v", SMALL_SPLIT - 1))
    (finding,) = check_data(data, fine_tunes=False)
    assert "epoch" not in finding.message  # linear probing has none
    finding = _only(replace(clean, test=_numbered("t", 25)))
    assert finding.kind == "small-test"
    assert "20 points" in finding.message  # 1.96 * 0.5 / sqrt(25) = 0.196


def test_a_small_held_out_part_decides_nothing_of_linear_probing(clean):
    """Its temperature comes from folds of all labelled rows, of which there are enough."""
    rows = clean.train.select(range(10))
    data = replace(clean, validation=rows, held_out=True)
    assert not [f for f in check_data(data, fine_tunes=False) if f.kind == "small-validation"]


def test_few_rows_by_folds_are_those_that_some_fold_can_score(clean):
    """The only row of a class is in training alone; limited training rows are all that is used."""
    train = _examples([f"train {i}" for i in range(5)], [0, 0, 0, 0, 1])
    validation = _numbered("v", 4)
    data = replace(clean, train=train, validation=validation, held_out=True)
    message = {finding.kind: finding.message for finding in check_data(data)}["small-validation"]
    assert "validation has 9 rows, by folds over all rows" in message
    limited = replace(data, limited=("train",))
    message = {finding.kind: finding.message for finding in check_data(limited)}["small-validation"]
    assert "validation has 4 rows, by folds" in message
    two = replace(limited, train=train.select(np.array([3, 4])))
    finding = next(finding for finding in check_data(two) if finding.kind == "small-validation")
    assert finding.level == "error"
    assert "no rows can be held out" in finding.message


def test_rows_that_were_held_out_count_as_training_rows(clean):
    """The user's file has them among the others, so they keep its numbers and its name."""
    train = clean.train.select(range(0, 40, 2))
    validation = clean.train.select(range(1, 40, 2))
    data = replace(clean, train=train, validation=validation, held_out=True)
    validation = replace(validation, texts=["train 0", *validation.texts[1:]])
    findings = check_data(replace(data, validation=validation))
    duplicates = next(finding for finding in findings if finding.kind == "duplicates")
    assert _named(duplicates) == {"train": [2]}


@pytest.mark.parametrize(
    ("text", "kind"),
    [("#REF!", "empty"), ("so <b>good</b>", "markup"), ("caf\u00c3\u00a9", "encoding")],
)
def test_what_texts_hold(clean, text, kind):
    finding = _only(_with(clean, row_7=text))
    assert finding.kind == kind
    assert _named(finding) == {"train": [7]}


def test_a_finding_for_a_file_has_no_text_and_at_most_a_thousand_rows(clean):
    finding = _only(_with(clean, row_3="TRAIN  0"))
    assert "train 0" in finding.examples[0]
    assert "rain 0" not in json.dumps(finding.as_json()).lower()
    many = Finding("warning", "duplicates", "many", {"train": np.arange(1, 5001)})
    written = json.loads(json.dumps(many.as_json()))
    assert written["rows"]["train"] == list(range(1, MOST_ROWS + 1))
    assert written["total"] == {"train": 5000}
    assert many.line() == "many (rows 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 4990 more of train)"


def test_options_are_called_as_python_calls_them():
    assert as_parameters("consider --class-weight - or not") == "consider class_weight - or not"


@pytest.mark.parametrize(
    "text",
    ["N/A", "n.a.", "#REF!", "#DIV/0!", "nan", "NULL", " None ", "-", ".", "\u2014", "...", "?!",
     "'null'", "[deleted]", "<NA>", "not applicable", "\u200b"],
)  # fmt: skip
def test_what_stands_for_no_text(text):
    assert is_empty_like(text)
    assert is_empty_like(("a premise", text))


@pytest.mark.parametrize(
    "text",
    [
        "no",
        "ok",
        ":)",
        "7",
        "\U0001f44d",
        "C",
        "none of it works",
        "naan",
        "\u597d",
        "+",
        "nil-nil",
    ],
)
def test_short_texts_are_texts(text):
    assert not is_empty_like(text)


@pytest.mark.parametrize(
    "text",
    ["so<br />bad", "<p>Good.</p>", '<a href="x">here</a>', "salt &amp; pepper", "it&#39;s",
     "&nbsp;", "[this](https://example.org/x)", "![](/image.png)", "[b]bold[/b]", "<!-- note -->"],
)  # fmt: skip
def test_markup(text):
    assert has_markup(text)


@pytest.mark.parametrize(
    "text",
    [
        "I <3 it",
        "a < b > c",
        "<user> said so",
        "Q&A;",
        "R&D; sales",
        "see [1] (2020)",
        "AT&T",
        "a[i](x)",
    ],
)
def test_brackets_and_ampersands_of_plain_text_are_no_markup(text):
    assert not has_markup(text)


@pytest.mark.parametrize(
    "text",
    ["\u00e9t\u00e9 \u00e0 No\u00ebl", "it\u2019s \u201cgood\u201d \u2013 5 \u20ac \u2026",
     "\u0413\u0434\u0435 \u043e\u043d?", "\u4f60\u597d", "\u3053\u3093", "\uc548\ub155",
     "\U0001f600", "M\u00fcller", "\u0395\u03bb\u03bb\u03ac\u03b4\u03b1",
     "\u05e9\u05dc\u05d5\u05dd"],
)  # fmt: skip
@pytest.mark.parametrize("read_as", ["cp1252", "latin-1"])
def test_utf_8_read_as_another_encoding(text, read_as):
    """Python decodes it wrongly, as a program of the user did."""
    wrong = text.encode().decode(read_as, errors="replace")
    assert is_damaged(wrong)
    assert not is_damaged(text)


@pytest.mark.parametrize(
    "text",
    ["\u00ab le caf\u00e9\u00a0\u00bb", "CAF\u00c9\u00bb", "\u201cAMANH\u00c3\u201d",
     "20\u00a0\u00b0C", "\u00bfQu\u00e9?", "\u201ear\u0103\u0219i atunci\u2026\u201d",
     "tab\tand\nline", "\u00a9\u00ae\u2122", "S\u00c3O"],
)  # fmt: skip
def test_rare_characters_of_plain_text_are_not_damage(text):
    assert not is_damaged(text)


def test_replacement_and_control_characters():
    assert is_damaged("caf\ufffd")
    assert is_damaged("an en dash \x96 of Windows")
    assert is_damaged(("fine", "bell\x07"))
