"""Rows and their fingerprint."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from lpft.data.examples import Examples, Groups, TextData, fingerprint


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
    labelled = replace(rows, labels=np.array([0, 1, 0, 1]))
    assert labelled.select([3, 1]).join(labelled.select([0])).rows.tolist() == [1, 2, 4]
