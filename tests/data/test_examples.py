"""Rows and their fingerprint, and the texts that a Python program gives."""

import hashlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lpft.data.examples import Examples, Groups, TextData, check_pairs, fingerprint, text_list
from lpft.errors import InputError


@pytest.fixture
def data():
    rows = Examples(["0", "1"], ["a", ("b", "ü")], np.array([0, 1]))
    unlabelled = Examples(["0"], ["a"], None)
    return TextData("toy", ("x", 1), train=rows, validation=rows, ood={"far": unlabelled})


def test_the_definition(data):
    hashes = fingerprint(data)
    assert list(hashes) == ["train", "validation", "ood/far"]
    expected = b'["x", 1]' + b'["a", 0]\n' + b'[["b", "\\u00fc"], 1]\n'
    assert hashes["train"] == hashes["validation"] == hashlib.sha256(expected).hexdigest()
    assert hashes["ood/far"] == hashlib.sha256(b'["x", 1]["a", null]\n').hexdigest()


def _with_train(data, **changes):
    return replace(data, train=replace(data.train, **changes))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: _with_train(data, texts=["a", ("b", "u")]),
        lambda data: _with_train(data, texts=["a", "bü"]),
        lambda data: _with_train(data, labels=np.array([0, 0])),
        lambda data: _with_train(data, texts=[("b", "ü"), "a"]),
        lambda data: replace(data, classes=("x", "1")),
    ],
    ids=["text", "pair joined", "label", "order", "class name"],
)
def test_what_changes_it(data, change):
    assert fingerprint(change(data))["train"] != fingerprint(data)["train"]


def test_what_does_not_change_it(data):
    other = _with_train(replace(data, name="other", notes=("n",)), ids=["7", "8"])
    assert fingerprint(other) == fingerprint(data)


def test_groups_count_because_their_metrics_choose_the_best_epoch(data):
    def hashed(groups):
        return fingerprint(_with_train(data, groups=groups))["train"]

    index = np.array([0, 0])
    earned = Groups(index, credits={"choice_accuracy": np.array([1.0, 0.0])})
    several = [None, Groups(index), Groups(np.array([0, 1])), Groups(index, positive=0), earned]
    assert len({hashed(groups) for groups in several}) == 5
    assert hashed(Groups(index, noun="query")) == hashed(Groups(index))


def test_selected_rows_keep_their_numbers():
    clusters = np.array([3, 3, 5, 7])
    rows = Examples(list("abcd"), list("wxyz"), None, clusters=clusters)
    assert rows.select([3, 1]).clusters.tolist() == [7, 3]
    assert Examples(["0"], ["a"], None).select([0]).clusters is None
    assert rows.rows.tolist() == [1, 2, 3, 4]
    assert rows.select([3, 1]).select([0]).rows.tolist() == [4]


PAIRS = [("a", "b"), ("c", "d")]
FRAME = pd.DataFrame({"text": ["a", "b"], "label": ["x", "y"]})


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
