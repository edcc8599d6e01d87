"""The paper's kernel regression: binary logistic regression on the rows of the kernel matrix."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import qr

from lpft.analysis.inputs import class_indices
from lpft.ntk.regression.entries import Entries, entry_problem
from lpft.ntk.regression.folds import stratified_folds
from lpft.ntk.regression.kernels import Array, TrainingSet
from lpft.ntk.regression.model import KernelModel, Strength
from lpft.ntk.regression.newton import SEARCH_TOLERANCE, TOLERANCE, SoftmaxFit, fit_softmax

INVERSE_STRENGTHS = tuple(np.logspace(-4, 4, 10).tolist())
"""The grid of scikit-learn's ``LogisticRegressionCV(Cs=10)``."""

FOLDS = 5

CAVEATS = (
    "entry accuracy counts every (sample, logit) entry of the one-hot labels: the answer 'no' to "
    "all of them scores (C - 1)/C",
    "the folds that choose the strength hold out single logits of samples whose other logits are "
    "fitted",
    "raw kernel rows are features, so the strength is relative to the scale of the kernel and "
    "kernels of different scales are not regularised alike",
)

_BINARY = np.array([[0.0], [1.0]])


def fit_paper_protocol(train: TrainingSet) -> KernelModel:
    """The protocol behind the accuracies of the paper's tables 2 and 9.

    Each of the N C rows of the NC x NC training kernel is a row of features and its one-hot entry
    t the label of a binary L2 logistic regression with an intercept,
    ``min_{w,b} C sum_e CE(t_e, sigmoid(K_e w + b)) + ||w||^2 / 2``: scikit-learn's
    ``LogisticRegressionCV(Cs=10, cv=5, scoring="accuracy")``, stratified folds of entries in
    their order. Features are not scaled. The optimum is met by Newton's method on an orthonormal
    basis of the rows, whatever the scale of the kernel; the reference stops lbfgs at a gradient of
    1e-4, at weak regularisation short of it.

    ``strength`` of the model is 1 / C. Its logits are decision values of entries: above 0 is a
    one-hot entry of 1 (:func:`entry_accuracy`), and the largest one of a sample its class.
    Source: Tomihari and Sato, NeurIPS 2024, tables 2 and 9, by its code, which takes the logistic
    solver of LM-Kernel-FT (Malladi et al., ICML 2023).
    """
    return _fit(entry_problem(train), "paper", CAVEATS)


def fit_row_logistic(
    train: TrainingSet, *, regularization: float = 0.0, single_logit: bool = False
) -> KernelModel:
    """LM-Kernel-FT's logistic solver: the paper protocol with LM-Kernel-FT's options.

    Options as in :func:`lpft.ntk.regression.entries.entry_problem`. Of a single logit the folds
    hold out whole samples; where one of its classes has a single row, there are none and C is 1.
    It has no offset f_0, as in the reference.
    """
    entries = entry_problem(train, regularization=regularization, single_logit=single_logit)
    return _fit(entries, "logistic", CAVEATS[2:] if single_logit else CAVEATS)


def entry_accuracy(logits: Array, labels: ArrayLike) -> float:
    """The share of the M C entries whose decision value is above 0 just where the label is.

    ``logits`` [M, C] of the paper protocol; ``labels`` [M] class indices.
    """
    indices = class_indices(labels, *logits.shape)
    return float(np.mean((logits > 0) == (np.eye(logits.shape[1])[indices] == 1)))


def constant_entry_accuracy(classes: int) -> float:
    """What the answer 'no' to every entry scores: (C - 1)/C."""
    return (classes - 1) / classes


def _fit(entries: Entries, solver: str, caveats: tuple[str, ...]) -> KernelModel:
    labels = entries.labels
    inverse_strength, folds, searched = _choose(entries.matrix, labels)
    features, rotation = _features(entries.matrix)
    fit = _fit_binary(features, labels, inverse_strength, None, TOLERANCE)
    ends = (INVERSE_STRENGTHS[0], INVERSE_STRENGTHS[-1])
    return KernelModel(
        solver,
        entries.coefficients(rotation @ fit.coefficients[:-1]),
        entries.intercept(float(fit.coefficients[-1])),
        strength=Strength(
            1 / inverse_strength, folds=folds, at_edge=folds > 0 and inverse_strength in ends
        ),
        converged=searched and fit.converged,
        settings=entries.settings,
        caveats=caveats,
    )


def _choose(rows: Array, labels: NDArray[np.int64]) -> tuple[float, int, bool]:
    """C of the best mean accuracy over folds (the smallest of equal ones), folds, converged."""
    rarest = int(np.bincount(labels, minlength=2).min())
    if rarest < 2:
        return 1.0, 0, True
    parts = stratified_folds(labels, min(FOLDS, rarest))
    accuracies, converged = np.zeros((len(parts), len(INVERSE_STRENGTHS))), True
    for place, (fitted, held) in enumerate(parts):
        features, rotation = _features(rows[fitted])
        outside = rows[held] @ rotation
        start = None
        for column, inverse_strength in enumerate(INVERSE_STRENGTHS):
            fit = _fit_binary(features, labels[fitted], inverse_strength, start, SEARCH_TOLERANCE)
            start, converged = fit.coefficients, converged and fit.converged
            answers = outside @ start[:-1] + start[-1] > 0
            accuracies[place, column] = np.mean(answers == (labels[held] == 1))
    best = int(accuracies.mean(axis=0).argmax())
    return INVERSE_STRENGTHS[best], len(parts), converged


def _features(rows: Array) -> tuple[Array, Array]:
    """X Q [n, 1, r + 1] with a last column of ones, and Q [m, r], an orthonormal basis of X's rows.

    A rotation leaves ``||w||`` as it is, so it changes nothing but the number and the scaling of
    columns: pivoted QR of X^T leaves those above rounding, in falling order.
    """
    basis, triangle, order = qr(rows.T, mode="economic", pivoting=True, check_finite=False)
    sizes = np.abs(np.diag(triangle))
    rank = int(np.sum(sizes > max(rows.shape) * np.finfo(np.float64).eps * sizes[0]))
    features = np.ones((len(rows), rank + 1))
    features[order, :rank] = triangle[:rank].T
    return features[:, None, :], basis[:, :rank]


def _fit_binary(
    features: Array,
    labels: NDArray[np.int64],
    inverse_strength: float,
    start: Array | None,
    tolerance: float,
) -> SoftmaxFit:
    """The binary logistic regression with C and a last feature, the intercept, without penalty."""
    penalties = np.full(features.shape[2], 1 / inverse_strength)
    penalties[-1] = 0
    offset = np.zeros((len(labels), 2))
    return fit_softmax(
        features, _BINARY, labels, offset, penalties, start=start, tolerance=tolerance
    )
