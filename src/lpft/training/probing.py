"""Linear probing: the L2 logistic regression on frozen features that becomes the head."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from torch import nn

from lpft.data.splits import fold_numbers
from lpft.errors import InputError, named
from lpft.settings import ProbeScoring

SOLVER = "newton-cg"
"""scikit-learn's fastest solver at every shape of benchmarks/probing.py."""

STRENGTHS = 10
FOLDS = 5
SEARCH_TOLERANCE = 1e-4
TOLERANCE = 1e-8
MAX_ITERATIONS = 5000
PATH_POINTS = 24
_ABSENT_CLASS_MARGIN = 10.0
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
    random; log loss does not. The search runs at the paper's tolerance of 1e-4; the head is then
    fitted at the chosen C to 1e-8 in float64, so that it is the optimum whatever the solver.
    For two classes scikit-learn fits one row w with p = sigmoid(w phi); the head gets -w/2, +w/2.

    Where the rarest class has fewer than 5 rows there are as many folds as it has rows; classes
    of one row are left out of the choice of C. A class without rows gets a zero row of V and a bias
    that keeps it 10 below every other logit seen in training; without a bias its logit stays 0.
    With ``inverse_strength`` nothing is chosen.

    With ``sample_weight`` w the sum is of ``C w_i w_y CE``, so that at a given C a row of weight 2
    is two rows; folds are drawn by rows, and their scores are weighted means.

    Args:
        features: phi_0, N x h.
        labels: N class indices below ``classes``.
        sample_weight: N weights of rows.

    Raises:
        InputError: fewer than two classes have rows, or a feature is not finite.
    """
    if not np.isfinite(features).all():
        raise InputError(
            "the encoder gives features that are not finite: its weights hold NaN or infinity; "
            f"name an intact model, or use {named('precision')} float32"
        )
    present, counts = np.unique(labels, return_counts=True)
    if len(present) < 2:
        raise InputError(
            f"linear probing needs training rows of at least 2 classes, found {len(present)}"
        )
    shared = {
        "solver": SOLVER,
        "max_iter": MAX_ITERATIONS,
        "fit_intercept": fit_bias,
        "class_weight": of_present(class_weight, labels),
    }
    inputs = features.astype(np.float64)
    repeated = np.isin(labels, present[counts > 1])
    folds = int(min(FOLDS, counts[counts > 1].min(initial=FOLDS)))
    choosable = len(np.unique(labels[repeated])) >= 2
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        if inverse_strength is None and choosable:
            search = LogisticRegressionCV(
                Cs=STRENGTHS,
                cv=folds,
                l1_ratios=(0.0,),
                scoring=_SCORINGS[scoring],
                use_legacy_attributes=False,
                tol=SEARCH_TOLERANCE,
                **shared,
            ).fit(
                inputs[repeated],
                labels[repeated],
                sample_weight=None if sample_weight is None else sample_weight[repeated],
            )
            inverse_strength = float(search.C_)
        elif inverse_strength is None:
            inverse_strength, folds = 1.0, 0
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
        absent_classes=tuple(sorted(set(range(classes)) - set(present.tolist()))),
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
    inputs = features.astype(np.float64)
    if fold is None:
        fold = fold_numbers(labels, groups)
    logits = np.zeros((len(labels), classes))
    for number in np.unique(fold):
        out = fold == number
        if len(np.unique(labels[~out])) < 2:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = LogisticRegression(
                C=inverse_strength,
                solver=SOLVER,
                max_iter=MAX_ITERATIONS,
                tol=SEARCH_TOLERANCE,
                fit_intercept=fit_bias,
                class_weight=of_present(class_weight, labels[~out]),
            ).fit(
                inputs[~out],
                labels[~out],
                sample_weight=None if sample_weight is None else sample_weight[~out],
            )
        weight, bias = _rows_per_class(fitted, inputs[~out], classes)
        logits[out] = inputs[out] @ weight.T + bias
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

    stop, last = (
        int(fit(MAX_ITERATIONS, tolerance).n_iter_[0])
        for tolerance in (SEARCH_TOLERANCE, TOLERANCE)
    )
    spaced = np.geomspace(1, max(last, 1), PATH_POINTS).round().astype(int)
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
    """V (C x h) and b (C) of a logistic regression, which has one row for two classes.

    ``features`` (N x h) are those of its training, over which a class without rows gets its bias,
    if the regression has one.
    """
    coefficients, intercepts, present = fitted.coef_, fitted.intercept_, fitted.classes_
    if len(present) == 2:
        coefficients = np.concatenate([-coefficients / 2, coefficients / 2])
        intercepts = np.concatenate([-intercepts / 2, intercepts / 2])
    weight = np.zeros((classes, features.shape[1]))
    bias = np.zeros(classes)
    weight[present] = coefficients
    bias[present] = intercepts
    if len(present) < classes and fitted.fit_intercept:
        lowest = float((features @ coefficients.T + intercepts).min())
        absent = np.setdiff1d(np.arange(classes), present)
        bias[absent] = lowest - _ABSENT_CLASS_MARGIN
    return weight, bias
