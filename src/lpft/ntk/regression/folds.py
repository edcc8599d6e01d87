"""Folds of cross-validation: whole samples, or single (sample, logit) entries."""

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import KFold, StratifiedKFold

from lpft.errors import InputError

Fold = tuple[NDArray[np.int64], NDArray[np.int64]]
"""The indices to fit on and those held out."""


def stratified_folds(labels: NDArray[np.int64], folds: int) -> list[Fold]:
    """Folds of equal class shares, cut in the order of the rows, so that no seed enters.

    scikit-learn's ``StratifiedKFold`` without shuffling. There are never more folds than the
    largest class has rows; where each class has a single row, they are ``KFold``'s. A class with
    fewer rows than folds is missing from some held-out parts, and one of a single row from one
    part that is fitted.

    ``labels`` [N] class indices, N at least 2; ``folds`` at least 2.

    Raises:
        InputError: ``folds`` below 2.
    """
    if folds < 2:
        raise InputError(f"folds: expected at least 2, found {folds}")
    rows = np.zeros((len(labels), 1))
    most = int(np.bincount(labels).max())
    if most < 2:
        return list(KFold(min(folds, len(labels))).split(rows))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        return list(StratifiedKFold(min(folds, most)).split(rows, labels))
