"""Metrics of rows that answer a question together: sets of answers, and a choice of one."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from lpft.data.examples import Groups
from lpft.errors import InputError


def grouped_metrics(
    logits: NDArray[np.float64], labels: NDArray[np.int64], groups: Groups
) -> dict[str, float]:
    """The metrics of :attr:`lpft.data.examples.Groups.metrics`, fractions.

    Where every row is answered by itself, by ``argmax_c f_c``, ``answer_f1`` is :func:`answer_f1`;
    all others are means of :func:`scores_of_groups`.

    Args:
        logits: N x C, before any temperature; none changes these metrics.
        labels: N class indices.

    Raises:
        InputError: there is another number of rows than of group numbers.
    """
    means = {
        name: float(scores.mean())
        for name, scores in scores_of_groups(logits, labels, groups).items()
    }
    if groups.credits:
        return means
    called = logits.argmax(axis=1) == groups.positive
    return {"answer_f1": answer_f1(called, labels == groups.positive), **means}


def scores_of_groups(
    logits: NDArray[np.float64], labels: NDArray[np.int64], groups: Groups
) -> dict[str, NDArray[np.float64]]:
    """What each of G groups scores, in the order of their numbers, by metric.

    Where one row per group is chosen, it is the one with the largest log-odds of the positive
    class, and scores what it earns. (The reference code of arXiv 2405.16747 takes the largest
    ``f_1``, which is not the order of the probabilities.) Rows with equal log-odds share: each is
    chosen equally often, so that a classifier that gives one answer to everything earns what chance
    does, wherever the right rows stand. Otherwise ``exact_match`` is 1 of a group without error.

    ``logits`` N x C and ``labels`` [N] as in :func:`grouped_metrics`.

    Raises:
        InputError: there is another number of rows than of group numbers.
    Source: Roemmele et al., 2011 (COPA); Zhang et al., 2018 (ReCoRD's exact match and F1);
    Khashabi et al., NAACL 2018 (MultiRC's EM0).
    """
    if len(groups.index) != len(labels):
        raise InputError(
            f"there are {len(labels)} labels but {len(groups.index)} group numbers: expected one "
            "for each row"
        )
    names, members = np.unique(groups.index, return_inverse=True)
    if not groups.credits:
        errors = np.bincount(members, weights=logits.argmax(axis=1) != labels)
        return {"exact_match": np.asarray(errors == 0, dtype=np.float64)}
    odds = log_odds(logits, groups.positive)
    largest = np.full(len(names), -np.inf)
    np.maximum.at(largest, members, odds)
    chosen = odds == largest[members]
    shares = chosen / np.bincount(members, weights=chosen)[members]
    return {
        name: np.asarray(np.bincount(members, weights=shares * earned), dtype=np.float64)
        for name, earned in groups.credits.items()
    }


def answer_f1(called: NDArray[np.bool_], positive: NDArray[np.bool_]) -> float:
    """``2 TP / (2 TP + FP + FN)`` over rows [N] that are called positive and that are so.

    0 where no row is or is called positive.

    Source: Khashabi et al., NAACL 2018 (MultiRC's F1a); Wang et al., NeurIPS 2019.
    """
    either = int(called.sum() + positive.sum())
    return 2 * int((called & positive).sum()) / either if either else 0.0


def log_odds(logits: NDArray[np.float64], positive: int) -> NDArray[np.float64]:
    """``f_p - log sum_{c != p} exp(f_c)`` of N x C logits (N), which no large logit saturates."""
    others = np.delete(logits, positive, axis=1)
    return logits[:, positive] - logsumexp(others, axis=1)
