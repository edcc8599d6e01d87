"""Texts and labels of a Python program: nothing is converted, what is no list is refused."""

import numpy as np
import pandas as pd
import pytest

from lpft.data.examples import check_pairs, text_list
from lpft.data.labels import label_list
from lpft.errors import InputError

PAIRS = [("a", "b"), ("c", "d")]


@pytest.mark.parametrize(
    ("texts", "listed"),
    [
        (["a", "b"], ["a", "b"]),
        (("a", "b"), ["a", "b"]),
        (np.array(["a", "b"]), ["a", "b"]),
        (pd.Series(["a", "b"], index=[5, 6]), ["a", "b"]),
        ((text for text in "ab"), ["a", "b"]),
        (PAIRS, PAIRS),
        ([list(pair) for pair in PAIRS], PAIRS),
        (np.array(PAIRS), PAIRS),
        (np.array(PAIRS, dtype=object), PAIRS),
        (list(np.array(PAIRS)), PAIRS),
        ([], []),
    ],
)
def test_texts_in_any_list(texts, listed):
    found = text_list(texts)
    assert found == listed
    assert [type(text) for text in listed] == [
        tuple if isinstance(text, tuple) else str for text in found
    ]


FRAME = pd.DataFrame({"text": ["a", "b"], "label": ["x", "y"]})


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ("good", "are one string"),
        (b"good", "are one string"),
        (None, "are a NoneType"),
        (FRAME, "a DataFrame, which lists its column names.*take one column"),
        (FRAME.to_dict(), "a dict, which lists its column names"),
        ({"a", "b"}, "are a set"),
        (np.array([["a"], ["b"]]), r"an array of shape \(2, 1\).*N x 2 for pairs"),
        (np.array([["a", "b", "c"]]), r"an array of shape \(1, 3\)"),
        (np.array("a"), r"an array of shape \(\)"),
    ],
)
def test_what_is_no_list_of_texts(texts, says):
    with pytest.raises(InputError, match=says):
        text_list(texts)


def test_pairs_and_singles_are_told_apart():
    check_pairs(["a", "b"], "texts", paired=False)
    check_pairs(PAIRS, "texts", paired=True)
    with pytest.raises(InputError, match="text 2 of the new ones is a pair: expected a single"):
        check_pairs(["a", ("b", "c")], "new ones", paired=False)
    with pytest.raises(InputError, match="text 1 of the new ones is a single text: expected a"):
        check_pairs(["a"], "new ones", paired=True)


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
        ((label for label in "ab"), r"\(generator\): expected a list"),
        ({"a", "b"}, r"\(set\): expected a list"),
        ({"a": 1}, r"\(dict\): expected a list"),
        ([b"a", b"b"], r"found b'a' \(bytes\), expected strings.*decode them"),
        (np.array([b"a", b"b"]), r"\(bytes\).*decode them"),
        ([1, "1"], "the labels mix int and str: expected all strings"),
        ([True, 0], "the labels mix bool and int"),
        ([0.5, 1.5], "regression is not supported: found 0.5"),
        ([float("inf")], "regression is not supported"),
        (["a", None, "b", " "], "no label in rows 2, 4"),
        ([1.0, float("nan")], "no label in row 2"),
        ([["a"], ["a", "b"]], "multi-label is not supported"),
        ([["a", "b"]], r"shape \(1, 2\).*multi-label is not supported"),
        ([1 + 2j], r"found \(1\+2j\) \(complex\)"),
    ],
)
def test_labels_that_are_no_classes(labels, says):
    with pytest.raises(InputError, match=says) as caught:
        label_list(labels, "labels")
    assert "\n" not in str(caught.value)
