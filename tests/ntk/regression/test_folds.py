"""Folds hold out each row once, with every class spread evenly over them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpft.errors import InputError
from lpft.ntk.regression.kernels import stratified_folds


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 3), min_size=2, max_size=40),
    folds=st.integers(2, 6),
)
def test_each_row_is_held_out_once_and_classes_are_spread(labels, folds):
    labels = np.array(labels)
    parts = stratified_folds(labels, folds)
    most = np.bincount(labels).max()
    assert len(parts) == (min(folds, most) if most > 1 else min(folds, len(labels)))
    held = np.concatenate([part[1] for part in parts])
    assert sorted(held) == list(range(len(labels)))
    for fitted, out in parts:
        assert sorted([*fitted, *out]) == list(range(len(labels)))
        assert len(fitted) > 0
    if most > 1:
        counts = np.array([np.bincount(labels[out], minlength=4) for _, out in parts])
        assert (counts.max(axis=0) - counts.min(axis=0)).max() <= 1


def test_folds_are_cut_in_the_order_of_the_rows():
    parts = stratified_folds(np.array([0, 0, 0, 0, 1, 1]), 2)
    assert [out.tolist() for _, out in parts] == [[0, 1, 4], [2, 3, 5]]


@pytest.mark.filterwarnings("error")
def test_a_rare_class_gives_no_warning():
    assert len(stratified_folds(np.array([0] * 9 + [1]), 5)) == 5


def test_fewer_than_two_folds_are_refused():
    with pytest.raises(InputError, match="folds: expected at least 2, found 1"):
        stratified_folds(np.array([0, 1]), 1)
