"""Texts that a Python program gives: what holds them, and which of them cannot be read."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from lpft.data.texts import check_texts, text_columns, text_list
from lpft.errors import InputError

PAIRS = [("a", "b"), ("c", "d")]
FRAME = pd.DataFrame({"text": ["a", "b"], "label": ["x", "y"]})


@pytest.mark.parametrize(
    ("texts", "listed"),
    [
        (["a", "b"], ["a", "b"]),
        (("a", "b"), ["a", "b"]),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.array([["a"], ["b"]]), ["a", "b"]),
        (np.array(["a", "b"], dtype=object), ["a", "b"]),
        (pd.Series(["a", "b"], index=[5, 6]), ["a", "b"]),
        (pd.Series(["a", "b"], dtype="category"), ["a", "b"]),
        (pd.Index(["a", "b"]), ["a", "b"]),
        (pl.Series(["a", "b"]), ["a", "b"]),
        (FRAME[["text"]].set_index(pd.Index([7, 3])), ["a", "b"]),
        (pl.DataFrame({"text": ["a", "b"]}), ["a", "b"]),
        (pd.DataFrame(PAIRS, index=[4, 9]), PAIRS),
        (pd.DataFrame(PAIRS, columns=["same", "same"]), PAIRS),
        (pl.DataFrame(PAIRS, schema=["x", "y"], orient="row"), PAIRS),
        (pd.Series(PAIRS), PAIRS),
        (pa.array(["a", "b"]), ["a", "b"]),
        (pa.table({"x": ["a", "b"]})["x"], ["a", "b"]),
        (zip(["a", "c"], ["b", "d"], strict=True), PAIRS),
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


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ("good", "are one string"),
        (b"good", "are one string"),
        (None, "are a NoneType"),
        (FRAME.assign(id=1), r"a DataFrame with 3 columns \(text, label, id\): expected the text"),
        (FRAME[[]], "a DataFrame with 0 columns"),
        (pl.DataFrame({"a": ["x"], "b": ["x"], "c": ["x"]}), "a DataFrame with 3 columns"),
        (pa.table({"a": ["x"], "b": ["x"], "c": ["x"]}), r"a Table with 3 columns \(a, b, c\)"),
        (FRAME.to_dict(), "a dict, which lists its column names"),
        ({"a", "b"}, "are a set"),
        (np.array([["a", "b", "c"]]), r"an array of shape \(1, 3\).*N x 2 for pairs"),
        (np.array([[["a"]]]), r"an array of shape \(1, 1, 1\)"),
        (np.array("a"), r"an array of shape \(\)"),
    ],
)
def test_what_is_no_list_of_texts(texts, says):
    with pytest.raises(InputError, match=says):
        text_list(texts)


def test_columns_have_names_where_their_holder_has():
    assert text_columns(FRAME[["text"]]) == text_columns(FRAME["text"]) == ("text",)
    assert text_columns(pl.DataFrame({"x": ["a"], "y": ["b"]})) == ("x", "y")
    assert text_columns(pl.Series("x", ["a"])) == ("x",)
    for nameless in (["a"], pd.Series(["a"]), pl.Series(["a"]), np.array(["a"]), pd.Index(["a"])):
        assert text_columns(nameless) is None


@pytest.mark.parametrize(
    ("texts", "paired", "says"),
    [
        (["a", ("b", "c")], False, "text 2 of the new ones is a pair: expected a single text, as"),
        (["a"], True, "text 1 of the new ones is a single text: expected a pair, as those of tr"),
        (["a", ("b", "c")], None, "text 2 .* is a pair: expected a single text, as the first one"),
        ([("a", "b"), "c"], None, "text 2 .* is a single text: expected a pair, as the first one"),
        ([("a", "b", "c")], None, "text 1 of the new ones is a tuple of 3: expected a string, or"),
        (["a", " "], None, "text 2 of the new ones is empty"),
        ([("a", "b"), ("a", "")], None, "text 2 of the new ones is empty"),
        (["a", None], None, r"text 2 of the new ones is missing \(None\)"),
        (np.array(["a", np.nan], dtype=object), None, r"text 2 .* is missing \(nan\)"),
        (pd.Series(["a", pd.NA], dtype="string"), None, "text 2 .* is missing"),
        ([("a", "b"), ("a", np.nan)], None, r"text 2 .* is missing \(nan\)"),
        ([3.5], None, "text 1 of the new ones is 3.5: expected a string"),
        (["a", "\ud800"], None, "text 2 of the new ones is not valid Unicode"),
    ],
)
def test_the_row_that_cannot_be_read_is_named(texts, paired, says):
    listed = text_list(texts)
    with pytest.raises(InputError, match=says):
        check_texts(listed, "new ones", paired=paired)
    rows = np.arange(101, 101 + len(listed))
    with pytest.raises(InputError, match=r"^text 10[12] is "):
        check_texts(listed, paired=paired, rows=rows)


def test_texts_and_pairs_that_can_be_read():
    check_texts(["a", np.str_("b")], paired=False)
    check_texts(PAIRS, paired=True)
    check_texts([])
