"""Which rows train, which rows validate: the paper's rule and the stratified hold-out."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lpft.data.examples import TextData
from lpft.errors import InputError

PROTOCOLS = ("paper", "stratified")
"""``paper``: the last tenth of the rows validates. ``stratified``: a tenth of every class does."""

SPLIT_SEED = 20240527
"""Seed of every split. It is no run's seed: all runs on the same rows train on the same rows."""

Rows = NDArray[np.int64]


def paper_split(n: int) -> tuple[Rows, Rows]:
    """Training and validation rows by the paper's rule: the last ceil(n/10), unshuffled, validate.

    Args:
        n: number of rows of the official training set.

    Returns:
        Row indices in ascending order, n - ceil(n/10) and ceil(n/10) of them.

    Raises:
        InputError: fewer than 2 rows.

    Source: the reference code of arXiv 2405.16747.
    """
    if n < 2:
        raise InputError(f"the paper's split needs at least 2 training rows, found {n}")
    first = n - math.ceil(n / 10)
    return np.arange(first, dtype=np.int64), np.arange(first, n, dtype=np.int64)


def stratified_holdout(
    labels: Sequence[int] | NDArray[np.int64], fraction: float = 0.1, seed: int = SPLIT_SEED
) -> tuple[Rows, Rows]:
    """Training and validation rows with the same share of every class held out.

    A class of n rows gives round(fraction * n) rows to validation, at least 1 and at most n - 1;
    a class of one row stays in training. scikit-learn's ``train_test_split(stratify=...)`` is not
    used because it refuses classes of one row and may leave a small class out of validation.

    Args:
        labels: N class indices.
        fraction: share of every class to hold out, in (0, 1).
        seed: leave as it is to get the same split in every run.

    Returns:
        Row indices in ascending order, training first.

    Raises:
        InputError: ``fraction`` is out of range, or every class has one row only.
    """
    if not 0 < fraction < 1:
        raise InputError(f"the validation fraction is {fraction}: expected between 0 and 1")
    labels = np.asarray(labels)
    generator = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) > 1:
            count = min(max(round(fraction * len(rows)), 1), len(rows) - 1)
            held_out[generator.choice(rows, size=count, replace=False)] = True
    if not held_out.any():
        raise InputError(
            f"no rows can be held out for validation: each of the {len(labels)} training rows is "
            "the only one of its class; give a validation file or more rows"
        )
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def split_rows(labels: NDArray[np.int64], protocol: str) -> tuple[Rows, Rows]:
    """Training and validation rows of N labelled rows under a protocol of :data:`PROTOCOLS`.

    Raises:
        InputError: the protocol is unknown or there are too few rows.
    """
    check_protocol(protocol)
    return paper_split(len(labels)) if protocol == "paper" else stratified_holdout(labels)


def check_protocol(protocol: str) -> None:
    """Check that a protocol is one of :data:`PROTOCOLS`.

    Raises:
        InputError: it is not.
    """
    if protocol not in PROTOCOLS:
        raise InputError(
            f"unknown split protocol '{protocol}': expected one of {', '.join(PROTOCOLS)}"
        )


def describe_split(protocol: str) -> str:
    """One clause that says how validation rows were taken, for records and reports."""
    if protocol == "paper":
        return "the last tenth of the training rows, unshuffled"
    return f"10% of the training rows of every class, drawn with the fixed split seed {SPLIT_SEED}"


def limit_training(data: TextData, max_train_samples: int) -> TextData:
    """The same data with at most ``max_train_samples`` training rows, each class in proportion.

    The rows are drawn with :data:`SPLIT_SEED` after the split, so that validation, test and OOD
    sets stay as they are, and keep their order. A note says what was left out.

    Raises:
        InputError: ``max_train_samples`` is below the number of classes.
    """
    if max_train_samples < len(data.classes):
        raise InputError(
            f"at most {max_train_samples} training rows were asked for: expected at least one for "
            f"each of the {len(data.classes)} classes"
        )
    total = len(data.train)
    if max_train_samples >= total:
        return data
    assert data.train.labels is not None
    rows = draw_rows(data.train.labels, max_train_samples)
    note = f"training is limited to {max_train_samples} of {total} rows, each class in proportion"
    return replace(data, train=data.train.select(rows), notes=(*data.notes, note))


def draw_rows(labels: NDArray[np.int64], count: int) -> Rows:
    """``count`` of the labelled rows, each class in proportion, in ascending order.

    They are drawn with :data:`SPLIT_SEED`; where there are no more than ``count``, all are given.
    """
    from sklearn.utils import resample

    if count >= len(labels):
        return np.arange(len(labels), dtype=np.int64)
    rows = resample(
        np.arange(len(labels)),
        replace=False,
        n_samples=count,
        stratify=labels,
        random_state=SPLIT_SEED,
    )
    return np.sort(rows)
