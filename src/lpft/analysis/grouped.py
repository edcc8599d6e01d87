"""Metrics of rows that answer a question together: sets of answers, and a choice of one."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn.metrics import f1_score

from lpft.data.groups import Groups
from lpft.errors import InputError


def grouped_metrics(
    logits: NDArray[np.float64], labels: NDArray[np.int64], groups: Groups
) -> dict[str, float]:
    """The metrics of :attr:`lpft.data.groups.Groups.metrics`, fractions.

    Where one row per group is chosen, it is the one with the largest log-odds of the positive
    class: :func:`choice_metrics`. (The reference code of arXiv 2405.16747 takes the largest
    ``f_1``, which is not the order of the probabilities.) Otherwise each row is answered by
    ``argmax_c f_c``: :func:`answer_metrics`.

    Args:
        logits: N x C, before any temperature; none changes these metrics.
        labels: N class indices.

    Raises:
        InputError: there is another number of rows than of group numbers.
    """
    if len(groups.index) != len(labels):
        raise InputError(
            f"there are {len(labels)} labels but {len(groups.index)} group numbers: expected one "
            "for each row"
        )
    if groups.credits:
        return choice_metrics(log_odds(logits, groups.positive), groups.index, groups.credits)
    return answer_metrics(logits.argmax(axis=1), labels, groups.index, groups.positive)


def log_odds(logits: NDArray[np.float64], positive: int) -> NDArray[np.float64]:
    """``f_p - log sum_{c != p} exp(f_c)`` of N x C logits (N), which no large logit saturates."""
    others = np.delete(logits, positive, axis=1)
    return logits[:, positive] - logsumexp(others, axis=1)


def answer_metrics(
    predictions: NDArray[np.int64],
    labels: NDArray[np.int64],
    index: NDArray[np.int64],
    positive: int,
) -> dict[str, float]:
    """``answer_f1``: F1 of the positive class over all rows; ``exact_match``: groups without error.

    F1 is 0 where no row is or is called positive.

    Source: Khashabi et al., NAACL 2018 (MultiRC's F1a and EM0); Wang et al., NeurIPS 2019.
    """
    _, groups = np.unique(index, return_inverse=True)
    errors = np.bincount(groups, weights=predictions != labels)
    f1 = f1_score(labels == positive, predictions == positive, zero_division=0)
    return {"answer_f1": float(f1), "exact_match": float(np.mean(errors == 0))}


def choice_metrics(
    scores: NDArray[np.float64],
    index: NDArray[np.int64],
    credits: Mapping[str, NDArray[np.float64]],
) -> dict[str, float]:
    """The mean over groups of what the row with the largest score earns.

    Rows with equal scores share: each is chosen equally often, so that a classifier that gives one
    answer to everything earns what chance does, wherever the right rows stand.

    Source: Roemmele et al., 2011 (COPA); Zhang et al., 2018 (ReCoRD's exact match and F1).
    """
    names, groups = np.unique(index, return_inverse=True)
    largest = np.full(len(names), -np.inf)
    np.maximum.at(largest, groups, scores)
    chosen = scores == largest[groups]
    weights = chosen / np.bincount(groups, weights=chosen)[groups]
    return {name: float(weights @ earned / len(names)) for name, earned in credits.items()}
