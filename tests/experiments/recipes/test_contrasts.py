"""Statistics of single draws of samples, against scikit-learn and the records of runs."""

import numpy as np
import pytest
from sklearn.metrics import matthews_corrcoef

from lpft.experiments.recipes.contrasts import _SCORES
from lpft.report.collect import Predictions


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_scores_of_any_draw_are_scikit_learns(classes):
    generator = np.random.default_rng(classes)
    labels = generator.integers(classes, size=60)
    logits = generator.normal(size=(60, classes))
    logits[np.arange(60), labels] += 1.0
    predicted = logits.argmax(axis=1)
    predictions = Predictions(labels, logits)
    assert set(_SCORES) == {"accuracy", "matthews_correlation"}
    for _ in range(20):
        rows = generator.integers(60, size=60)
        assert _SCORES["accuracy"](predictions)(rows) == pytest.approx(
            np.mean(labels[rows] == predicted[rows])
        )
        assert _SCORES["matthews_correlation"](predictions)(rows) == pytest.approx(
            matthews_corrcoef(labels[rows], predicted[rows])
        )


def test_the_correlation_of_one_class_is_0():
    predictions = Predictions(np.array([0, 0, 1]), np.array([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0]]))
    correlation = _SCORES["matthews_correlation"](predictions)
    assert correlation(np.array([0, 1, 1])) == 0.0
    assert correlation(np.array([0, 1, 2])) == pytest.approx(1.0)
