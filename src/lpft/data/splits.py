"""Training and validation rows: the paper's rule and the stratified hold-out."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lpft.data.duplicates import find_repetitions
from lpft.data.examples import Examples, Groups, TextData
from lpft.errors import InputError
from lpft.settings import SplitProtocol

PROTOCOLS = get_args(SplitProtocol)
"""``paper``: the last tenth of the rows validates. ``stratified``: a tenth of every class does."""

SPLIT_SEED = 20240527
"""Seed of every split, whatever a run's own seed: all runs train on the same rows."""

VALIDATION_FOLDS = 5
"""Folds where validation rows are not held out."""

FEW_ROWS = 300
"""Labelled rows below which fine-tuning uses folds instead of a held-out tenth."""

Rows = NDArray[np.int64]

ValidationKind = Literal["file", "held-out", "folds", "paper"]
"""What scores a training: rows of their own, a tenth of each class held out, every labelled row by
a model that was trained without it, or the paper's rows under the paper's rule."""


def validation_kind(data: TextData, *, fine_tunes: bool) -> ValidationKind:
    """How a training on ``data`` is scored, its epoch chosen and its temperature fitted.

    Where validation rows were held out of the training file, linear probing uses folds of all
    labelled rows instead, and so does fine-tuning of fewer than :data:`FEW_ROWS`; not where a
    setting limits the validation rows, which asks for rows of their own.
    """
    if data.protocol == "paper":
        return "paper"
    if not data.held_out:
        return "file"
    few = len(labelled_rows(data)) < FEW_ROWS
    folds = (few or not fine_tunes) and "validation" not in data.limited
    return "folds" if folds else "held-out"


def labelled_rows(data: TextData) -> Examples:
    """The rows that folds divide: all labelled ones, or those of training alone where limited."""
    return data.train if "train" in data.limited else data.train.join(data.validation)


def with_folds(data: TextData, scored: Rows, folds: int | None) -> TextData:
    """``data`` as a training with folds used it: all labelled rows; ``scored`` ones validate.

    ``folds`` is None where nothing was trained.
    """
    train = labelled_rows(data)
    source = data.sources.get("train", data.name)
    rule = "each training row, as nothing is trained"
    if folds is not None:
        rule = (
            f"each training row by a model trained without it, {folds} folds drawn with the fixed "
            f"split seed {SPLIT_SEED}"
        )
    return replace(
        data,
        train=train,
        validation=train.select(scored),
        sources={**data.sources, "validation": f"{source}: {rule}"},
    )


def fold_numbers(labels: Rows, groups: Rows | None = None, folds: int = VALIDATION_FOLDS) -> Rows:
    """The fold, from 0, that each of N rows is held out in, the same rows every time.

    Rows of one of ``groups`` (N numbers) share a fold. The groups of each class, in an order drawn
    with :data:`SPLIT_SEED`, go to the folds in turn, and the next class goes on where it ended:
    each class is spread evenly, and so are all. A class whose rows are one group is divided all the
    same. scikit-learn's ``StratifiedGroupKFold`` is not used
    because it refuses classes of fewer rows than there are folds.
    """
    index = np.arange(len(labels))  # each row alone, as where a class is one group
    if groups is not None:
        for label in np.unique(labels):
            in_class = labels == label
            if len(np.unique(groups[in_class])) > 1:
                index[in_class] = groups[in_class] + len(labels)
    _, first, group = np.unique(index, return_index=True, return_inverse=True)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(first))
    order = order[np.argsort(labels[first][order], kind="stable")]
    fold = np.empty(len(first), dtype=np.int64)
    fold[order] = np.arange(len(first)) % min(folds, len(first))
    return fold[group]


def scored_rows(labels: Rows, fold: Rows) -> Rows:
    """The rows whose class has rows in other folds too, which hold at least two classes.

    No model that is trained without the others' folds could predict these rightly.

    Raises:
        InputError: there are none.
    """
    scored = np.zeros(len(labels), dtype=bool)
    for number in np.unique(fold):
        classes = np.unique(labels[fold != number])
        if len(classes) > 1:
            scored |= (fold == number) & np.isin(labels, classes)
    if not scored.any():
        raise InputError(
            "no rows can be held out for validation: no class has two different training texts; "
            "give validation rows of your own, or more rows"
        )
    return np.flatnonzero(scored)


def scored_by_folds(data: TextData) -> Rows:
    """Which of the :func:`labelled_rows` folds score: rows that repeat one another share a fold.

    Raises:
        InputError: as :func:`scored_rows`.
    """
    train = labelled_rows(data)
    assert train.labels is not None
    together = find_repetitions(train.texts).near if train.groups is None else train.groups.index
    return scored_rows(train.labels, fold_numbers(train.labels, together))


def split_rows(
    labels: NDArray[np.int64],
    protocol: str,
    groups: Groups | None = None,
    repeats: NDArray[np.int64] | None = None,
) -> tuple[Rows, Rows]:
    """Training and validation rows of N labelled rows under a protocol of :data:`PROTOCOLS`.

    Groups stay whole: their metrics need all their rows. ``stratified`` also keeps rows together
    that repeat one another (:func:`stratified_holdout`).
    """
    check_protocol(protocol)
    if protocol == "paper":
        return paper_split(len(labels), groups)
    return (
        stratified_holdout(labels, repeats=repeats) if groups is None else grouped_holdout(groups)
    )


def check_protocol(protocol: str) -> None:
    """Refuse a name that is not in :data:`PROTOCOLS`."""
    if protocol not in PROTOCOLS:
        raise InputError(
            f"unknown split protocol '{protocol}': expected one of {', '.join(PROTOCOLS)}"
        )


def describe_split(protocol: str, groups: Groups | None = None) -> str:
    """One clause that says how validation rows were taken, for records and reports."""
    if protocol == "paper":
        rule = "the last tenth of the training rows, unshuffled"
        return rule if groups is None else f"{rule}, with the whole {groups.noun} that begins them"
    drawn = f"drawn with the fixed split seed {SPLIT_SEED}"
    if groups is None:
        return f"10% of the training rows of every class, {drawn}, duplicates together"
    return f"10% of the training set by {groups.noun}, {drawn}"


def paper_split(n: int, groups: Groups | None = None) -> tuple[Rows, Rows]:
    """Training and validation rows by the paper's rule: the last ceil(n/10), unshuffled, validate.

    Row indices in ascending order. Where rows belong together, the group that the rule would cut
    validates whole; the paper's reference code (arXiv 2405.16747) cuts it.
    """
    if n < 2:
        raise InputError(f"the paper's split needs at least 2 training rows, found {n}")
    last = np.arange(n - math.ceil(n / 10), n, dtype=np.int64)
    if groups is None:
        return np.arange(last[0], dtype=np.int64), last
    _check_several(groups)
    return _by_group(groups, groups.index[last])


def stratified_holdout(
    labels: Sequence[int] | NDArray[np.int64],
    fraction: float = 0.1,
    seed: int = SPLIT_SEED,
    repeats: NDArray[np.int64] | None = None,
) -> tuple[Rows, Rows]:
    """Training and validation rows with the same share of every class held out.

    A class of n rows gives round(fraction * n) rows to validation, at least 1 and at most n - 1;
    a class of one row stays in training. scikit-learn's ``train_test_split(stratify=...)`` is not
    used because it refuses classes of one row and may leave a small class out of validation.

    Rows that repeat one another stay together: all go where the first of them was drawn to, or to
    training where they are more than a class's share of validation; rows that repeat nothing then
    change sides until every class has its share again. A class in which every row repeats the same
    text is split all the same.

    Args:
        labels: N class indices.
        fraction: share of every class to hold out, in (0, 1).
        seed: leave as it is to get the same split in every run.
        repeats: N numbers, equal for rows that repeat one another, as
            :func:`lpft.data.duplicates.find_repetitions` gives them.

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
            "the only one of its class; give validation rows of your own, or more rows"
        )
    if repeats is not None:
        held_out = _keep_together(labels, held_out, repeats, generator)
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _keep_together(
    labels: NDArray[np.int64],
    drawn: NDArray[np.bool_],
    repeats: NDArray[np.int64],
    generator: np.random.Generator,
) -> NDArray[np.bool_]:
    """The validation rows (N booleans), as drawn but with rows that repeat one another together."""
    shares = np.bincount(labels, weights=drawn).astype(int)
    _, groups, sizes = np.unique(repeats, return_inverse=True, return_counts=True)
    held_out = drawn.copy()
    validates = np.bincount(groups, weights=drawn)
    order, ends = np.argsort(groups, kind="stable"), np.cumsum(sizes)
    # A group that was drawn in part goes as a whole where its first row was drawn to.
    for group in np.flatnonzero((validates > 0) & (validates < sizes)):
        rows = order[ends[group] - sizes[group] : ends[group]]
        held_out[rows] = drawn[rows[0]] and len(rows) <= shares[labels[rows[0]]]
    # Rows that repeat nothing change sides until each class has its share again.
    alone = sizes[groups] == 1
    for label in np.unique(labels):
        in_class = labels == label
        excess = int(held_out[in_class].sum()) - shares[label]
        movable = np.flatnonzero(in_class & alone & (held_out == (excess > 0)))
        change = generator.choice(movable, size=min(abs(excess), len(movable)), replace=False)
        held_out[change] = excess < 0
        if not held_out[in_class].any() or held_out[in_class].all():
            held_out[in_class] = _smallest_group(groups[in_class], drawn[in_class])
    return held_out


def _smallest_group(groups: NDArray[np.int64], drawn: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The smallest group of a class's rows validates; where there is only one, the rows drawn."""
    present, sizes = np.unique(groups, return_counts=True)
    return drawn if len(present) == 1 else groups == present[np.argmin(sizes)]


def grouped_holdout(groups: Groups) -> tuple[Rows, Rows]:
    """Training and validation rows, whole groups each, drawn with :data:`SPLIT_SEED`.

    scikit-learn's ``GroupShuffleSplit``. Classes are not balanced: a group has rows of several.
    """
    from sklearn.model_selection import GroupShuffleSplit

    _check_several(groups)
    split = GroupShuffleSplit(n_splits=1, test_size=0.1, random_state=SPLIT_SEED)
    _, held_out = next(split.split(groups.index, groups=groups.index))
    return _by_group(groups, groups.index[held_out])


def _by_group(groups: Groups, held_out: NDArray[np.int64]) -> tuple[Rows, Rows]:
    validates = np.isin(groups.index, held_out)
    return np.flatnonzero(~validates), np.flatnonzero(validates)


def _check_several(groups: Groups) -> None:
    if len(np.unique(groups.index)) < 2:
        raise InputError(
            f"no rows can be held out for validation: all {len(groups.index)} training rows belong "
            f"to one {groups.noun}; expected at least 2"
        )


def limit_split(data: TextData, split: Literal["train", "validation"], most: int) -> TextData:
    """The same data with at most ``most`` rows of a split, each class in proportion.

    The rows are drawn with :data:`SPLIT_SEED` and keep their order; other splits stay as they are.
    Every class keeps at least one row. Rows that belong together are drawn together, and then
    classes are in proportion by chance only. A note says what was left out.

    Raises:
        InputError: ``most`` is below the number of classes or a group's rows.
    """
    examples: Examples = getattr(data, split)
    name = {"train": "training", "validation": "validation"}[split]
    classes, total = len(data.classes), len(examples)
    if most < classes:
        raise InputError(
            f"at most {most} {name} rows are too few: expected at least one for each of the "
            f"{classes} classes"
        )
    if most >= total:
        return data
    assert examples.labels is not None
    if examples.groups is None:
        rows, method = draw_rows(examples.labels, most), "each class in proportion"
    else:
        rows = draw_groups(examples.groups, most, name, examples.labels)
        method = f"drawn by {examples.groups.noun}"
    note = f"{name} is limited to {len(rows)} of {total} rows, {method}"
    changes: dict[str, Any] = {
        split: examples.select(rows),
        "notes": (*data.notes, note),
        "limited": (*data.limited, split),
    }
    return replace(data, **changes)


def draw_rows(labels: NDArray[np.int64], count: int) -> Rows:
    """``count`` of the labelled rows, each class in proportion, in ascending order.

    They are drawn with :data:`SPLIT_SEED`; where there are no more than ``count``, all are taken.
    A class that its proportion leaves without a row has one, where ``count`` allows it.
    """
    if count >= len(labels):
        return np.arange(len(labels), dtype=np.int64)
    from sklearn.utils import resample

    rows = resample(
        np.arange(len(labels)),
        replace=False,
        n_samples=count,
        stratify=labels,
        random_state=SPLIT_SEED,
    )
    present, sizes = np.unique(labels, return_counts=True)
    if len(np.unique(labels[rows])) < len(present) <= count:
        generator = np.random.default_rng(SPLIT_SEED)
        rows = np.concatenate(
            [
                generator.choice(np.flatnonzero(labels == label), size=drawn, replace=False)
                for label, drawn in zip(present, _shares(sizes, count), strict=True)
            ]
        )
    return np.sort(rows)


def _shares(sizes: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """``count`` rows over classes of these sizes by largest remainder, at least one each."""
    exact = sizes * (count / sizes.sum())
    shares = np.maximum(np.floor(exact), 1).astype(np.int64)
    while shares.sum() < count:
        shares[np.argmax(exact - shares)] += 1
    while shares.sum() > count:
        shares[np.argmax(np.where(shares > 1, shares - exact, -np.inf))] -= 1
    return shares


def draw_groups(
    groups: Groups, count: int, name: str = "training", labels: NDArray[np.int64] | None = None
) -> Rows:
    """At most ``count`` rows in ascending order: whole groups, drawn with :data:`SPLIT_SEED`.

    Where the drawn groups lack a class that ``labels`` (N) have, the first ones to bring each
    class come before the others, as far as ``count`` goes.
    """
    _, index, sizes = np.unique(groups.index, return_inverse=True, return_counts=True)
    if sizes.max() > count:
        raise InputError(
            f"at most {count} {name} rows are too few: expected at least {sizes.max()}, "
            f"the rows of the longest {groups.noun}, which stay together"
        )

    def first_groups(order: NDArray[np.int64]) -> Rows:
        """The rows of the groups in this order, as many whole ones as ``count`` allows."""
        return np.flatnonzero(np.isin(index, order[np.cumsum(sizes[order]) <= count]))

    order = np.random.default_rng(SPLIT_SEED).permutation(len(sizes))
    rows = first_groups(order)
    if labels is not None and len(np.unique(labels[rows])) < len(np.unique(labels)):
        rank = np.argsort(order)[index]
        first = [order[rank[labels == label].min()] for label in np.unique(labels)]
        # a class that few groups have goes first: others come along with any group
        first.sort(key=lambda group: np.isin(labels[index == group], labels[rows]).all())
        rows = first_groups(np.array(list(dict.fromkeys([*first, *order]))))
    return rows
