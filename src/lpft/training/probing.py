"""Linear probing: the L2 logistic regression on frozen features that becomes the head."""

import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.model_selection import StratifiedKFold
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from lpft import distributed
from lpft.data.splits import fold_numbers
from lpft.errors import InputError, named
from lpft.progress import progress
from lpft.settings import ProbeScoring
from lpft.training.streaming import Coordinates, Heads, Rows, fit_heads, held_out_scores

SOLVER = "newton-cg"
"""scikit-learn's fastest solver at every shape of benchmarks/probing.py."""

STREAMING_SOLVER = "streaming-lbfgs"
"""The solver of :mod:`lpft.training.streaming`, which copies no features."""

STREAMED_NUMBERS = 1 << 25
"""Numbers of features, N h, above which they are streamed: 128 MB in float32. scikit-learn's way
takes a copy of all in float64 (256 MB there), and one of the rows outside each fold."""

STRENGTHS = 10
FOLDS = 5
SEARCH_TOLERANCE = 1e-4
FOLD_TOLERANCE = 1e-5
"""Of heads whose probabilities are scored: in a search by log loss, and out of fold. Stopping early
regularises, so that at 1e-4 a large C scores better than the head that is then fitted with it."""
TOLERANCE = 1e-8
MAX_ITERATIONS = 5000
PATH_POINTS = 24
_ABSENT_CLASS_MARGIN = 10.0
_CHUNK_ROWS = 16384
Weights = Literal["balanced"] | Mapping[int, float]
"""Weights by class index, or by inverse frequency (:func:`lpft.data.labels.class_weights`)."""

_SCORINGS: dict[ProbeScoring, str] = {"accuracy": "accuracy", "log-loss": "neg_log_loss"}


@dataclass(frozen=True)
class LinearProbe:
    """The fitted head: V (C x h), b (C), and the inverse strength C that cross-validation chose.

    ``absent_classes`` are indices that no training row has; ``converged`` is whether every fit
    met the tolerance.
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    inverse_strength: float
    folds: int
    solver: str
    converged: bool
    absent_classes: tuple[int, ...]

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """``V phi + b`` of N texts (N x C), in float64 without such a copy of their features."""
        logits = np.empty((len(features), len(self.bias)))
        for chunk in _chunks(features):
            logits[chunk] = features[chunk].astype(np.float64) @ self.weight.T + self.bias
        return logits


def fit_probe(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    *,
    fit_bias: bool = True,
    class_weight: Weights | None = None,
    sample_weight: NDArray[np.float64] | None = None,
    scoring: ProbeScoring = "accuracy",
    inverse_strength: float | None = None,
) -> LinearProbe:
    """Cross-validated multinomial logistic regression, by default as the paper fits its heads.

    Minimises ``sum_i C CE(y_i, softmax(V phi_i + b)) + ||V||^2 / 2`` with scikit-learn's
    ``LogisticRegressionCV``: its default grid of 10 strengths, 5 stratified folds cut in the order
    of the rows (so that no seed is involved), scored by accuracy (Tomihari and Sato, 2024,
    appendix) or by log loss. Accuracy has few values on few rows, and then chooses almost at
    random; log loss does not. The search runs at the paper's tolerance of 1e-4, and by log loss at
    1e-5; the head is then fitted at the chosen C to 1e-8 in float64, so that it is the optimum
    whatever the solver.
    For two classes scikit-learn fits one row w with p = sigmoid(w phi); the head gets -w/2, +w/2.

    Where the rarest class has fewer than 5 rows there are as many folds as it has rows; classes
    of one row are left out of the choice of C. A class without rows gets a zero row of V and a bias
    that keeps it 10 below every other logit seen in training; without a bias its logit stays 0.
    With ``inverse_strength`` nothing is chosen.

    With ``sample_weight`` w the sum is of ``C w_i w_y CE``, so that at a given C a row of weight 2
    is two rows; folds are drawn by rows, and their scores are weighted means.

    Of more than :data:`STREAMED_NUMBERS` features the same head is found without a copy of them
    (:mod:`lpft.training.streaming`).

    Args:
        features: phi_0, N x h.
        labels: N class indices below ``classes``.
        sample_weight: N weights of rows.

    Raises:
        InputError: fewer than two classes have rows, or a feature is not finite.
    """
    if not all(np.isfinite(features[chunk]).all() for chunk in _chunks(features)):
        raise InputError(
            "the encoder gives features that are not finite: its weights hold NaN or infinity; "
            f"name an intact model, or use {named('precision')} float32"
        )
    present, counts = np.unique(labels, return_counts=True)
    if len(present) < 2:
        raise InputError(
            f"linear probing needs training rows of at least 2 classes, found {len(present)}"
        )
    repeated = np.isin(labels, present[counts > 1])
    folds = int(min(FOLDS, counts[counts > 1].min(initial=FOLDS)))
    choosable = len(np.unique(labels[repeated])) >= 2
    if inverse_strength is None and not choosable:
        inverse_strength, folds = 1.0, 0
    if solver_of(features) == STREAMING_SOLVER:
        return _fit_streaming(
            features,
            labels,
            classes,
            fit_bias=fit_bias,
            class_weight=class_weight,
            sample_weight=sample_weight,
            scoring=scoring,
            inverse_strength=inverse_strength,
            folds=folds,
        )
    shared = {
        "solver": SOLVER,
        "max_iter": MAX_ITERATIONS,
        "fit_intercept": fit_bias,
        "class_weight": of_present(class_weight, labels),
    }
    # In float64, for an optimum to 1e-8: one copy serves the search and the last fit.
    inputs = features.astype(np.float64)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        if inverse_strength is None:
            inverse_strength = _search(
                inputs[repeated],
                labels[repeated],
                None if sample_weight is None else sample_weight[repeated],
                folds,
                {
                    **shared,
                    "scoring": _SCORINGS[scoring],
                    "tol": SEARCH_TOLERANCE if scoring == "accuracy" else FOLD_TOLERANCE,
                },
            )
        fitted = LogisticRegression(C=inverse_strength, tol=TOLERANCE, **shared).fit(
            inputs, labels, sample_weight=sample_weight
        )
    weight, bias = _rows_per_class(fitted, inputs, classes)
    return LinearProbe(
        weight=weight,
        bias=bias,
        inverse_strength=inverse_strength,
        folds=folds,
        solver=SOLVER,
        converged=not any(issubclass(item.category, ConvergenceWarning) for item in caught),
        absent_classes=tuple(np.setdiff1d(np.arange(classes), present).tolist()),
    )


def _search(
    inputs: NDArray[np.float64],
    labels: NDArray[np.int64],
    sample_weight: NDArray[np.float64] | None,
    folds: int,
    settings: dict[str, Any],
) -> float:
    """The inverse strength with the highest mean score over the folds, of equal ones the lowest.

    Several processes fit a share of the folds each.
    """
    # Process r has the folds r, r + size, ...; scores are put back in the order of the folds.
    splits = list(StratifiedKFold(folds).split(inputs, labels))
    own_splits = splits[distributed.rank() :: distributed.size()]
    scores = np.zeros((0, STRENGTHS))
    if own_splits:
        search = LogisticRegressionCV(
            Cs=STRENGTHS,
            cv=own_splits,
            l1_ratios=(0.0,),
            use_legacy_attributes=False,
            refit=False,
            **settings,
        ).fit(inputs, labels, sample_weight=sample_weight)
        scores = search.scores_.reshape(len(own_splits), STRENGTHS)
    by_process = distributed.gathered(scores)
    by_fold = [by_process[fold % len(by_process)][fold // len(by_process)] for fold in range(folds)]
    return float(np.logspace(-4, 4, STRENGTHS)[np.sum(by_fold, axis=0).argmax()])


def solver_of(features: NDArray[np.float32]) -> str:
    """The solver that fits a probe on features (N x h), by their size alone."""
    return STREAMING_SOLVER if features.size > STREAMED_NUMBERS else SOLVER


def _fit_streaming(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    *,
    fit_bias: bool,
    class_weight: Weights | None,
    sample_weight: NDArray[np.float64] | None,
    scoring: ProbeScoring,
    inverse_strength: float | None,
    folds: int,
) -> LinearProbe:
    """The head of :func:`fit_probe`, with the same folds and strengths, without a copy of features.

    Strengths are tried from the strongest penalty to the weakest, each from the heads before.
    """
    present, counts = np.unique(labels, return_counts=True)
    best: Heads | None = None
    # The strength is searched on the classes of two rows or more; then one fit has all rows.
    if inverse_strength is None:
        repeated_classes = present[counts > 1]
        repeated = np.isin(labels, repeated_classes)
        # A row of a class of one is in no fold and weighs nothing.
        fold = np.full(len(labels), -1)
        members = np.flatnonzero(repeated)
        for number, (_, held_out_members) in enumerate(
            StratifiedKFold(folds).split(members, labels[repeated])
        ):
            fold[members[held_out_members]] = number
        class_weights_used = _weights_of_classes(
            class_weight, labels, repeated_classes, repeated, sample_weight
        )
        weights = np.ones(len(labels)) if sample_weight is None else sample_weight
        rows = Rows(
            features,
            np.searchsorted(repeated_classes, labels),
            len(repeated_classes),
            weights=weights * repeated,
            class_weight=np.tile(class_weights_used, (folds, 1)),
            fold=fold,
            folds=tuple(range(folds)),
        )
        coordinates = Coordinates.of(rows, centred=fit_bias)
        heads, highest = None, -np.inf
        strengths = np.logspace(-4, 4, STRENGTHS).tolist()
        for strength in progress(strengths, "linear probe, strengths", unit="strengths"):
            heads = fit_heads(
                rows,
                inverse_strength=strength,
                fit_bias=fit_bias,
                tolerance=FOLD_TOLERANCE,
                most_passes=MAX_ITERATIONS,
                start=heads,
                coordinates=coordinates,
            )
            by_fold = partial(held_out_scores, rows, heads, weights, accuracy=scoring == "accuracy")
            score = distributed.agreed(by_fold).sum()
            if score > highest:  # of equal scores the first, as scikit-learn
                best, highest, inverse_strength = heads, score, strength
        assert best is not None
        # The mean of the folds' heads is near the head of all rows: the last fit begins there,
        # unless a class was left out.
        if len(repeated_classes) < len(present):
            best = None
        else:
            best = replace(best, weight=best.weight.mean(0)[None], bias=best.bias.mean(0)[None])
    assert inverse_strength is not None
    all_rows = np.ones(len(labels), dtype=bool)
    class_weights_used = _weights_of_classes(class_weight, labels, present, all_rows, sample_weight)
    rows = Rows(
        features,
        np.searchsorted(present, labels),
        len(present),
        weights=np.ones(len(labels)) if sample_weight is None else sample_weight,
        class_weight=class_weights_used[None],
        fold=np.zeros(len(labels), dtype=np.int64),
        folds=(-1,),
    )
    fitted = fit_heads(
        rows,
        inverse_strength=inverse_strength,
        fit_bias=fit_bias,
        tolerance=TOLERANCE,
        most_passes=MAX_ITERATIONS,
        start=best,
    )
    weight, bias = _per_class(
        fitted.weight[0], fitted.bias[0], present, features, classes, fit_bias=fit_bias
    )
    return LinearProbe(
        weight=weight,
        bias=bias,
        inverse_strength=inverse_strength,
        folds=folds,
        solver=STREAMING_SOLVER,
        converged=fitted.converged,
        absent_classes=tuple(np.setdiff1d(np.arange(classes), present).tolist()),
    )


def _weights_of_classes(
    class_weight: Weights | None,
    labels: NDArray[np.int64],
    present: NDArray[np.int64],
    used: NDArray[np.bool_],
    sample_weight: NDArray[np.float64] | None,
) -> NDArray[np.float64]:
    """The weight of each class in ``present`` in a fit of the rows that are ``used``."""
    return compute_class_weight(
        of_present(class_weight, labels[used]),
        classes=present,
        y=labels[used],
        sample_weight=None if sample_weight is None else sample_weight[used],
    )


def out_of_fold_logits(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    *,
    inverse_strength: float | None = None,
    fit_bias: bool = True,
    class_weight: Weights | None = None,
    sample_weight: NDArray[np.float64] | None = None,
    scoring: ProbeScoring = "accuracy",
    groups: NDArray[np.int64] | None = None,
    fold: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """The logits of every row (N x C) by a probe that was fitted without the row's fold.

    All folds share one ``inverse_strength``, that of :func:`fit_probe` on all rows if None. The
    choice is not nested: it has seen each row's label, one of 10 values for all rows together.
    Folds are those of ``fold`` (N numbers), or else of :func:`~lpft.data.splits.fold_numbers`; rows
    of one of ``groups`` (N numbers) then share one. A class that the other folds lack has a logit
    10 below every other; where they have one class alone, all logits are 0.

    Args:
        features: phi_0, N x h.
        labels: N class indices below ``classes``.

    Raises:
        InputError: as :func:`fit_probe`.
    """
    if inverse_strength is None:
        inverse_strength = fit_probe(
            features,
            labels,
            classes,
            fit_bias=fit_bias,
            class_weight=class_weight,
            sample_weight=sample_weight,
            scoring=scoring,
        ).inverse_strength
    if fold is None:
        fold = fold_numbers(labels, groups)
    if solver_of(features) == STREAMING_SOLVER:
        return _out_of_fold_streaming(
            features,
            labels,
            classes,
            fold,
            inverse_strength=inverse_strength,
            fit_bias=fit_bias,
            class_weight=class_weight,
            sample_weight=sample_weight,
        )
    inputs = features.astype(np.float64)
    logits = np.zeros((len(labels), classes))
    for number in np.unique(fold):
        held_out = fold == number
        if len(np.unique(labels[~held_out])) < 2:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = LogisticRegression(
                C=inverse_strength,
                solver=SOLVER,
                max_iter=MAX_ITERATIONS,
                tol=FOLD_TOLERANCE,
                fit_intercept=fit_bias,
                class_weight=of_present(class_weight, labels[~held_out]),
            ).fit(
                inputs[~held_out],
                labels[~held_out],
                sample_weight=None if sample_weight is None else sample_weight[~held_out],
            )
        weight, bias = _rows_per_class(fitted, inputs[~held_out], classes)
        logits[held_out] = inputs[held_out] @ weight.T + bias
    return logits


def _out_of_fold_streaming(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    fold: NDArray[np.int64],
    *,
    inverse_strength: float,
    fit_bias: bool,
    class_weight: Weights | None,
    sample_weight: NDArray[np.float64] | None,
) -> NDArray[np.float64]:
    """The logits of :func:`out_of_fold_logits`, without a copy of features."""
    # Folds without which the same classes remain share their passes over the features.
    sharing: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for number in np.unique(fold).tolist():
        remaining = np.unique(labels[fold != number]).tolist()
        if len(remaining) > 1:
            sharing[tuple(remaining)].append(number)
    logits = np.zeros((len(labels), classes))
    for remaining, numbers in sharing.items():
        present = np.array(remaining)
        has_class = np.isin(labels, present)
        weights_by_fold = [
            _weights_of_classes(class_weight, labels, present, fold != number, sample_weight)
            for number in numbers
        ]
        weights = np.ones(len(labels)) if sample_weight is None else sample_weight
        rows = Rows(
            features,
            np.where(has_class, np.searchsorted(present, labels), 0),
            len(present),
            weights=weights * has_class,
            class_weight=np.stack(weights_by_fold),
            fold=fold,
            folds=tuple(numbers),
        )
        heads = fit_heads(
            rows,
            inverse_strength=inverse_strength,
            fit_bias=fit_bias,
            tolerance=TOLERANCE,
            most_passes=MAX_ITERATIONS,
        )
        for index, number in enumerate(numbers):
            held_out = fold == number
            weight, bias = _per_class(
                heads.weight[index],
                heads.bias[index],
                present,
                features,
                classes,
                fit_bias=fit_bias,
                used=~held_out,
            )
            for chunk in _chunks(features):
                inside = np.flatnonzero(held_out[chunk]) + chunk.start
                logits[inside] = features[inside].astype(np.float64) @ weight.T + bias
    return logits


@torch.no_grad()
def install_probe(head: nn.Linear, probe: LinearProbe) -> None:
    """Copy V and b into a head; one without bias takes V alone."""
    head.weight.copy_(torch.from_numpy(probe.weight))
    if head.bias is not None:
        head.bias.copy_(torch.from_numpy(probe.bias))


@dataclass(frozen=True)
class PathPoint:
    """The head after some iterations: V (C x h) and b (C)."""

    iteration: int
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]


@dataclass(frozen=True)
class ProbingPath:
    """Heads from zero (iteration 0) to the optimum, at iterations that grow geometrically.

    ``stop`` is the iteration at which the paper's tolerance of 1e-4 ends the fit, a point too; the
    last point is where one of 1e-8 does.
    """

    points: tuple[PathPoint, ...]
    stop: int


def probing_path(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    *,
    inverse_strength: float,
    fit_bias: bool = True,
    class_weight: Weights | None = None,
) -> ProbingPath:
    """The heads after 1, 2, ... iterations of lbfgs, the paper's solver, from zero to the probe.

    Each is scikit-learn's ``LogisticRegression(solver="lbfgs", max_iter=k)`` from its zero start,
    for the objective of :func:`fit_probe`. A fit of k iterations is the k-th iterate of the whole
    fit, since lbfgs looks at its limit only to stop; continuing by ``warm_start`` would forget the
    curvature that lbfgs has gathered, and take another path. All points together take about five
    times as long as the whole fit.

    Args:
        features: phi_0, N x h.
        labels: N class indices below ``classes``, of at least two classes.
        inverse_strength: C, as cross-validation chose it.
    """
    inputs = features.astype(np.float64)

    def fit(iterations: int, tolerance: float) -> LogisticRegression:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return LogisticRegression(
                C=inverse_strength,
                solver="lbfgs",
                max_iter=iterations,
                tol=tolerance,
                fit_intercept=fit_bias,
                class_weight=of_present(class_weight, labels),
            ).fit(inputs, labels)

    stop, end = (
        int(fit(MAX_ITERATIONS, tolerance).n_iter_[0])
        for tolerance in (SEARCH_TOLERANCE, TOLERANCE)
    )
    spaced = np.geomspace(1, max(end, 1), PATH_POINTS).round().astype(int)
    points = [PathPoint(0, np.zeros((classes, inputs.shape[1])), np.zeros(classes))]
    for iteration in sorted({*spaced.tolist(), stop} - {0}):
        head = _rows_per_class(fit(iteration, TOLERANCE), inputs, classes)
        points.append(PathPoint(iteration, *head))
    return ProbingPath(tuple(points), stop)


def of_present(weights: Weights | None, labels: NDArray[np.int64]) -> Weights | None:
    """The weights of the classes that have rows: scikit-learn refuses those of others."""
    if weights is None or weights == "balanced":
        return weights
    return {label: weights[label] for label in np.unique(labels).tolist()}


def _rows_per_class(
    fitted: LogisticRegression, features: NDArray[np.float64], classes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """V (C x h) and b (C) of a logistic regression of scikit-learn, trained on ``features``."""
    return _per_class(
        fitted.coef_,
        fitted.intercept_,
        fitted.classes_,
        features,
        classes,
        fit_bias=fitted.fit_intercept,
    )


def _per_class(
    coefficients: NDArray[np.float64],
    intercepts: NDArray[np.float64],
    present: NDArray[np.int64],
    features: NDArray[np.floating],
    classes: int,
    *,
    fit_bias: bool,
    used: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """V (C x h) and b (C) of a logistic regression, which has one row for two classes.

    ``features`` (N x h) are those of its training, or of which it is those that are ``used``; over
    them a class without rows gets its bias, if the regression has one.
    """
    if len(present) == 2:
        coefficients = np.concatenate([-coefficients / 2, coefficients / 2])
        intercepts = np.concatenate([-intercepts / 2, intercepts / 2])
    weight = np.zeros((classes, features.shape[1]))
    bias = np.zeros(classes)
    weight[present] = coefficients
    bias[present] = intercepts
    if len(present) < classes and fit_bias:
        lowest = np.inf
        for chunk in _chunks(features):
            rows = features[chunk] if used is None else features[chunk][used[chunk]]
            logits = rows.astype(np.float64, copy=False) @ coefficients.T + intercepts
            lowest = min(lowest, float(logits.min(initial=np.inf)))
        absent = np.setdiff1d(np.arange(classes), present)
        bias[absent] = lowest - _ABSENT_CLASS_MARGIN
    return weight, bias


def _chunks(features: NDArray[np.floating]) -> Iterator[slice]:
    """Slices of rows of which a copy is small."""
    for start in range(0, len(features), _CHUNK_ROWS):
        yield slice(start, min(start + _CHUNK_ROWS, len(features)))
