"""scikit-learn's own checks of an estimator: those passed, and those that cannot apply, and why.

The checks give an estimator tables of numbers. :class:`OfNumbers` is ``TextClassifier`` with a word
for each number in a row, so that they run as they are, training included.
"""

import functools
from collections import Counter

import numpy as np
import pytest
from sklearn.exceptions import SkipTestWarning
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import estimator_checks_generator
from tiny_models import WORDS, save_tiny_model

from lpft import TextClassifier

STEPS = 8


class OfNumbers(TextClassifier):
    """Column j of a row of numbers becomes one of 8 words, by its size; all else stays as it is."""

    def fit(self, X, y=None, sample_weight=None):
        return super().fit(in_words(X), y, sample_weight=sample_weight)

    def features(self, X):
        return super().features(in_words(X))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.one_d_array = tags.input_tags.string = False
        return tags


def in_words(X):
    try:
        table = np.asarray(X, dtype=float)
    except (TypeError, ValueError):
        return X
    if table.ndim != 2 or not np.isfinite(table).all():
        return X
    sizes = np.clip(np.floor(2 * table) + STEPS // 2, 0, STEPS - 1).astype(int)
    words = STEPS * np.arange(table.shape[1]) + sizes
    return [" ".join(WORDS[word % len(WORDS)] for word in row) for row in words]


TEXTS = "X is texts: what is no text is refused as such, in other words than an array's"
WIDTH = "texts have no number of features"
WORDING = "it is refused, in words of our own"
NOT_APPLICABLE = {
    "check_n_features_in_after_fitting": WIDTH,
    "check_n_features_in": WIDTH,
    "check_classifiers_train": f"it ends by counting features, after all else was right: {WIDTH}",
    "check_sample_weight_equivalence_on_dense_data": (
        "folds of rows choose the strength and fit the temperature, and a row of weight 2 is in "
        "one fold, as two rows that repeat one another; at a given strength weights are repeated "
        "rows: tests/training/test_probing.py"
    ),
    "check_methods_subset_invariance": (
        "features are float32, whose last digits depend on the texts of a batch: 1e-6 apart, and "
        "the check asks for 1e-7"
    ),
    "check_complex_data": TEXTS,
    "check_dtype_object": TEXTS,
    "check_estimators_empty_data_messages": TEXTS,
    "check_estimators_nan_inf": TEXTS,
    "check_estimator_sparse_tag": TEXTS,
    "check_estimator_sparse_array": TEXTS,
    "check_estimator_sparse_matrix": TEXTS,
    "check_fit2d_predict1d": TEXTS,
    "check_classifiers_regression_target": WORDING,
    "check_fit2d_1sample": WORDING,
    "check_requires_y_none": WORDING,
    "check_supervised_y_2d": "a column of labels, as of a table, is taken without a warning",
}
"""The checks that no estimator of texts can pass as they are written, each with the reason."""


def name_of(check):
    while isinstance(check, functools.partial):
        check = check.func
    return check.__name__


def estimator(model="minilm"):
    return OfNumbers(model, method="lp", pooling="mean", max_length=32, device="cpu")


def checks():
    """Every check once, with its name and its number among those of one name."""
    counts = Counter()
    for _, check in estimator_checks_generator(estimator(), mark=None):
        counts[name_of(check)] += 1
        yield pytest.param(check, id=f"{name_of(check)}-{counts[name_of(check)]}")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny_model("bert", tmp_path_factory.mktemp("model")))


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("check", list(checks()))
def test_a_check_passes_or_is_listed_with_its_reason(check, model):
    one = estimator(model)
    if name_of(check) not in NOT_APPLICABLE:
        check(one)
        return
    # It must fail still, or the list says what is no longer so.
    with pytest.raises((AssertionError, ValueError)):
        check(one)


def test_the_list_names_checks_that_there_are():
    assert NOT_APPLICABLE.keys() <= {name_of(param.values[0]) for param in checks()}


def test_texts_are_declared_so_that_tables_of_numbers_are_not_tried():
    tags = get_tags(TextClassifier())
    assert (tags.input_tags.string, tags.input_tags.two_d_array) == (True, False)
    with pytest.warns(SkipTestWarning, match="Can't test estimator TextClassifier"):
        assert len(list(estimator_checks_generator(TextClassifier()))) == 1  # that it is cloneable
