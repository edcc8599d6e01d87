"""The wrong rows and the confused pairs of classes, counted by hand and by scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from lpft.analysis import confused_pairs, find_errors
from lpft.data.examples import UNSEEN
from lpft.errors import InputError


def test_wrong_rows_come_most_confident_first_with_both_probabilities():
    logits = np.log([[8.0, 2.0], [9.0, 1.0], [3.0, 7.0], [1.0, 9.0], [5.0, 5.0], [1.0, 9.0]])
    labels = np.array([1, 0, 0, 0, 1, 0])
    errors = find_errors(logits, labels)
    # Rows 3 and 5 are equally confident; row 4 is a tie, which the first class wins.
    assert errors.rows.tolist() == [3, 5, 0, 2, 4]
    assert errors.labels.tolist() == [0, 0, 1, 0, 1]
    assert errors.predicted.tolist() == [1, 1, 0, 1, 0]
    np.testing.assert_allclose(errors.confidence, [0.9, 0.9, 0.8, 0.7, 0.5])
    np.testing.assert_allclose(errors.probability, [0.1, 0.1, 0.2, 0.3, 0.5])
    np.testing.assert_allclose(find_errors(logits, labels, 2.0).confidence[0], 0.75)


def test_pairs_of_classes_are_those_of_the_confusion_matrix():
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(200, 4)), generator.integers(0, 4, 200)
    errors = find_errors(logits, labels)
    matrix = confusion_matrix(labels, logits.argmax(axis=1))
    pairs = confused_pairs(errors)
    assert {(p.label, p.predicted): len(p) for p in pairs} == {
        (k, c): matrix[k, c] for k in range(4) for c in range(4) if k != c and matrix[k, c]
    }
    sizes = [len(pair) for pair in pairs]
    assert sizes == sorted(sizes, reverse=True)
    order = errors.rows.tolist()
    for pair in pairs:
        places = [order.index(row) for row in pair.rows]
        assert places == sorted(places)
        assert set(labels[pair.rows]) == {pair.label}


def test_rows_of_classes_that_training_lacks_are_wrong_and_have_no_probability():
    errors = find_errors(np.log([[9.0, 1.0], [4.0, 6.0]]), [UNSEEN, 1])
    assert (errors.rows.tolist(), errors.labels.tolist()) == ([0], [UNSEEN])
    assert np.isnan(errors.probability).all()
    with pytest.raises(InputError, match="found -1 in row 0"):
        find_errors([[9.0, 1.0]], [-1])


def test_nothing_wrong_is_no_row():
    errors = find_errors([[2.0, 1.0]], [0])
    assert len(errors) == 0
    assert confused_pairs(errors) == []
