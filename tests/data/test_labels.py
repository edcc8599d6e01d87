"""Labels of files, of Python programs and of official releases; what is no class."""

from decimal import Decimal
from enum import Enum

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

from lpft.data.labels import (
    encode_labels,
    infer_classes,
    integers_where_all_are,
    is_missing,
    label_list,
    official_names,
    read_labels,
)
from lpft.errors import InputError


def test_labels_become_strings_and_integers():
    values = ["a", " b ", 1, 2.0, np.int64(3), np.float32(4), True, np.bool_(False), Decimal(5)]
    assert read_labels(values, "f") == ["a", "b", 1, 2, 3, 4, "True", "False", 5]


def test_members_of_an_enum_are_their_values():
    class Mood(str, Enum):  # noqa: UP042 - whose str() is not its value
        GOOD = "good"
        BAD = "bad"

    assert label_list([Mood.GOOD, Mood.BAD], "labels") == ["good", "bad"]


def test_tensors_of_half_precision_are_labels():
    assert label_list(torch.tensor([1, 0]).bfloat16(), "labels") == [1, 0]


def test_large_integers_stay_exact():
    big = 2**60 + 1
    assert read_labels([big, str(big)], "f") == [big, str(big)]
    assert integers_where_all_are([str(big), "0"]) == [big, 0]


@pytest.mark.parametrize("value", [None, float("nan"), np.nan, pd.NA, pd.NaT, "", " \t"])
def test_missing_values(value):
    assert is_missing(value)


@pytest.mark.parametrize("value", [0, 0.0, False, "nan", "NA", "None", [], np.zeros(2)])
def test_present_values(value):
    assert not is_missing(value)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["1", "0", "-1", "2.0"], [1, 0, -1, 2]),
        ([1, "0"], [1, 0]),
        (["1", "a"], ["1", "a"]),
        (["01", "1"], ["01", "1"]),
        (["1e3", "1"], ["1e3", "1"]),
    ],
)
def test_integers_are_recognised_only_if_all_are(labels, expected):
    assert integers_where_all_are(labels) == expected


def test_classes_are_sorted_by_value_or_by_name():
    assert infer_classes([10, 9, 10, -1], "f") == (-1, 9, 10)
    assert infer_classes(["b", "B", "a"], "f") == ("B", "a", "b")
    assert infer_classes([10, "9"], "f") == ("10", "9")


def test_labels_are_matched_by_name():
    assert encode_labels(["1", "0", 1, "1.0"], (0, 1), "f").tolist() == [1, 0, 1, 1]
    assert encode_labels([1, "a"], ("1", "a"), "f").tolist() == [0, 1]
    assert encode_labels(["a"], ("a", "b"), "f").dtype == np.int64


BAD = {
    "lists": ([["a"], ["a", "b"]], ["multi-label is not supported", "['a']"]),
    "dictionaries": ([{"a": 1}], ["multi-label is not supported"]),
    "arrays": ([np.array([0, 1])], ["multi-label is not supported"]),
    "fractions": ([1.0, 0.25, 3.5], ["regression is not supported", "0.25, 3.5"]),
    "fractions as text": (["1", "2.5"], ["regression is not supported", "'2.5'"]),
    "decimal fractions": ([Decimal("0.5"), Decimal(1)], ["regression is not supported", "0.5"]),
    "half a character": (["a", "x\ud83d"], ["surrogate", "row 2"]),
    "infinity": ([float("inf")], ["regression is not supported"]),
    "missing": (["a", None, "", "b"], ["no label in rows 2, 3;"]),
    "nan": ([1.0, float("nan")], ["no label in row 2;"]),
    "many missing": ([None] * 9, ["rows 1, 2, 3, 4, 5 and 4 more"]),
}


@pytest.mark.parametrize(("values", "parts"), BAD.values(), ids=BAD)
def test_bad_labels_are_named(values, parts):
    with pytest.raises(InputError) as caught:
        read_labels(values, "data.csv, column 'y'")
    for part in ["data.csv, column 'y'", *parts]:
        assert part in str(caught.value)


def test_words_beside_fractions_are_classes():
    assert read_labels(["0.5", "low"], "f") == ["0.5", "low"]


def test_row_numbers_follow_the_rows_given():
    with pytest.raises(InputError, match="no label in row 1001"):
        read_labels([None], "f", rows=[1000])


def test_one_class_is_refused():
    with pytest.raises(
        InputError, match=r"found only the class 'a' in 2 rows, expected at least 2"
    ):
        infer_classes(["a", "a"], "f")


@pytest.mark.parametrize(
    ("labels", "classes", "found"),
    [
        (
            ["a", "z", "z"],
            ("a", "b"),
            "'z' in rows 2, 3 of 3, expected one of the classes 'a', 'b'",
        ),
        ([2], (0, 1), "2 in row 1 of 1, expected one of the classes 0, 1"),
        (["None"], (0, 1), "'None' in row 1 of 1"),
        (["A"], ("a", "b"), "'A' in row 1 of 1"),
    ],
)
def test_unseen_labels_are_named(labels, classes, found):
    with pytest.raises(InputError) as caught:
        encode_labels(labels, classes, "test.csv")
    assert f"test.csv: found the label {found}" in str(caught.value)


def test_unseen_labels_name_the_rows_of_the_file():
    with pytest.raises(InputError, match="'z' in rows 5, 8 of 3"):
        encode_labels(["z", "a", "z"], ("a", "b"), "f", rows=[4, 5, 7])


def test_texts_in_the_label_column_make_no_long_message():
    texts = [f"{row} " + "long text\n" * 10_000 for row in range(30)]
    for labels, classes in ((["a"] * 3, texts), (texts, ("a", "b"))):
        with pytest.raises(InputError) as caught:
            encode_labels(labels, classes, "f")
        assert len(str(caught.value)) < 2000
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"'a' in rows 1, 2, 3 of 3.* and 10 more"):
        encode_labels(["a"] * 3, texts, "f")


def test_booleans_are_matched_as_booleans():
    assert infer_classes([True, False, True], "f") == (False, True)
    assert encode_labels([True, False], (False, True), "f").tolist() == [1, 0]
    assert encode_labels(["True", "False"], (False, True), "f").tolist() == [1, 0]
    with pytest.raises(InputError, match="found the label True"):
        encode_labels([True], (0, 1), "f")


def test_official_codes_may_be_written_as_pandas_writes_them_beside_a_missing_one():
    codes = {"0": "negative", "1": "positive"}
    classes = ("negative", "positive")
    written = ["0.0", "1.0", 1.0, "1", 0]
    assert official_names(written, codes, classes, "f", "t") == [
        classes[i] for i in (0, 1, 1, 1, 0)
    ]
    with pytest.raises(InputError, match=r"hidden \(-1\)"):
        official_names(["-1.0"], codes, classes, "f", "t")
    with pytest.raises(InputError, match=r"found the label '0\.5', '2' in 2 of 2 rows"):
        official_names(["0.5", "2.0"], codes, classes, "f", "t")


@pytest.mark.parametrize(
    ("labels", "given"),
    [
        ([True, False], [True, False]),
        (np.array([True, False]), [True, False]),
        ([" a", "a ", "a"], [" a", "a ", "a"]),
        (["3.10", "3.11"], ["3.10", "3.11"]),
        (["1", "01"], ["1", "01"]),
        (np.array(["x", "y"]), ["x", "y"]),
        (np.array([3, -1]), [3, -1]),
        # pandas makes floats of integers where one is missing
        (pd.Series([1.0, 2.0]), [1, 2]),
        (pd.Series(["u", "v"], dtype="category"), ["u", "v"]),
        (pd.Series([True, False], dtype="boolean"), [True, False]),
        (pd.Series([1, 2], dtype="Int64", index=[5, 9]), [1, 2]),
        (pd.DataFrame({"label": ["u", "v"]}), ["u", "v"]),
        (np.array([[3], [4]]), [3, 4]),
        (pl.Series(["u", "v"]), ["u", "v"]),
        (pl.DataFrame({"label": [1, 2]}), [1, 2]),
        (torch.tensor([1, 0]), [1, 0]),
        ((label for label in "uv"), ["u", "v"]),
        ({0: "u", 1: "v"}.values(), ["u", "v"]),
    ],
)
def test_labels_are_left_as_they_are(labels, given):
    found = label_list(labels, "labels")
    assert found == given
    assert [type(label) for label in found] == [type(label) for label in given]


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (None, r"the labels are None \(NoneType\): expected a list"),
        ("good", r"the labels are 'good' \(str\): expected a list"),
        ({"a", "b"}, r"\(set\): expected a list"),
        ({"a": 1}, r"\(dict\): expected a list"),
        ([b"a", b"b"], r"found b'a' \(bytes\), expected strings.*decode them"),
        ([1, "1"], "the labels mix int and str: expected all strings"),
        ([True, 0], "the labels mix bool and int"),
        ([0.5, 1.5], "regression is not supported: found 0.5"),
        (["a", None, "b", " "], "no label in rows 2, 4"),
        (pd.Series(["a", pd.NA], dtype="category"), "no label in row 2"),
        ([["a"], ["a", "b"]], "multi-label is not supported"),
        ([["a"], ["b"]], "multi-label is not supported"),
        ([["a", "b"]], r"shape \(1, 2\).*multi-label is not supported"),
        ([1 + 2j], r"found \(1\+2j\) \(complex\)"),
    ],
)
def test_labels_that_are_no_classes(labels, says):
    with pytest.raises(InputError, match=says) as caught:
        label_list(labels, "labels")
    assert "\n" not in str(caught.value)
