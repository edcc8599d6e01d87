import numpy as np
import pytest
from cleanlab.filter import find_label_issues
from scipy.special import softmax

from lpft.analysis import fit_temperature
from lpft.training.label_errors import find_label_errors


def confident(labels, classes=3, size=4.0, seed=0):
    """Logits that favour the labels, by an amount that varies."""
    random = np.random.default_rng(seed)
    own = size + random.normal(size=len(labels))
    return own[:, None] * np.eye(classes)[labels] + 0.1 * random.normal(size=(len(labels), classes))


def test_changed_labels_are_found_with_the_label_before():
    before = np.arange(300) % 3
    given = before.copy()
    changed = np.array([4, 50, 123, 299])
    given[changed] = (before[changed] + 1) % 3
    logits = confident(before)
    logits[changed] *= 2  # more certain than the mean of the class
    found = find_label_errors(logits, given)
    assert sorted(found.rows) == changed.tolist()
    assert found.suggested.tolist() == before[found.rows].tolist()
    # 296 of 300 agree, a third of them by chance
    assert found.agreement == pytest.approx((296 / 300 - 1 / 3) / (2 / 3), abs=1e-3)


def test_the_least_probable_label_comes_first():
    before = np.arange(120) % 2
    given = before.copy()
    given[[10, 20, 30]] = 1 - before[[10, 20, 30]]
    logits = confident(before, 2)
    logits[[10, 20, 30]] *= np.array([[2], [4], [3]])
    assert find_label_errors(logits, given).rows.tolist() == [20, 30, 10]


def test_confident_predictions_that_agree_leave_nothing():
    labels = np.arange(90) % 3
    assert len(find_label_errors(confident(labels), labels).rows) == 0


def test_nothing_is_said_of_few_rows_or_by_chance_predictions():
    labels = np.arange(40) % 2
    assert len(find_label_errors(-confident(labels, 2), labels).rows) == 0
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 400)
    found = find_label_errors(random.normal(size=(400, 2)), labels)
    assert len(found.rows) == 0
    assert abs(found.agreement) < 0.2


def test_classes_without_rows_are_left_out():
    before = np.arange(100) % 2 * 2  # classes 0 and 2 of 3
    given = before.copy()
    given[7] = 2 - before[7]
    logits = confident(before)
    logits[7] *= 2
    found = find_label_errors(logits, given)
    assert found.rows.tolist() == [7]
    assert found.suggested.tolist() == [before[7]]


def test_the_rows_are_those_of_cleanlab():
    random = np.random.default_rng(1)
    labels = random.integers(0, 3, 500)
    logits = confident(labels, size=2.5) + random.normal(size=(500, 3))
    found = find_label_errors(logits, labels)
    probabilities = softmax(logits / fit_temperature(logits, labels).temperature, axis=1)
    mask = find_label_issues(labels, probabilities, filter_by="confident_learning", n_jobs=1)
    assert mask.any()
    assert sorted(found.rows) == np.flatnonzero(mask).tolist()
