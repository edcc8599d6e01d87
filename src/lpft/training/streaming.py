"""Logistic regression on features that are too many to copy: L-BFGS over passes in chunks.

For each of K folds k and all of its training rows i (those outside the fold) it minimises

    F_k(W, b) = sum_i w_ki CE(y_i, softmax(W phi_i + b)) / S_k + ||W||^2 / (2 C S_k)

with S_k = sum_i w_ki, which is scikit-learn's objective divided by C S_k: of two classes there is
one row of W, with p = sigmoid(w phi + b). Features stay in float32 where they lie, in memory or in
a mapped file; a chunk at a time is turned into float64, in which everything is summed. The folds
share each pass over the features, as SciPy's L-BFGS minimises the sum of all F_k at once.

L-BFGS takes thousands of passes where features are nearly collinear, as those of encoders are. It
therefore works on U with W = U (D + r)^-1/2 Q^T, where Q D Q^T is the covariance of the features
and r the curvature of the penalty: in these coordinates the curvature is about that of the softmax
alone in all directions. The tolerance is on the gradient in U: an error of the logits themselves.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logsumexp

from lpft import distributed

Array = NDArray[np.float64]

_CHUNK_NUMBERS = 1 << 22
"""Numbers of a chunk in float64 (32 MB): of its features, and of its logits by all heads."""

_MOST_COLUMNS = 256
"""Columns of logits that one pass computes: with more classes fewer folds share a pass."""

_COVARIANCE_ROWS = 30_000
"""Rows from which the coordinates are taken, evenly spaced; the optimum does not depend on them."""

_HISTORY = 20
"""Steps that L-BFGS remembers."""


@dataclass(frozen=True)
class Heads:
    """K heads: W (K x R x h) and b (K x R); R is the number of classes, or 1 for two of them.

    ``passes`` is how often the features were read, ``converged`` whether the gradient met its
    tolerance.
    """

    weight: Array
    bias: Array
    passes: int
    converged: bool


@dataclass(frozen=True)
class Rows:
    """The rows of a regression: features (N x h) and class indices (N) below ``classes``.

    Row i weighs ``weights[i] class_weight[k, y_i]`` in problem k, and nothing where ``fold[i]`` is
    ``folds[k]``. Rows of weight 0 are as if they were absent. A regression on all rows has one
    problem, whose fold no row is in.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: int
    weights: Array
    class_weight: Array
    fold: NDArray[np.int64]
    folds: tuple[int, ...]

    def __post_init__(self) -> None:
        assert self.class_weight.shape == (len(self.folds), self.classes)

    def chunks(self, columns: int) -> Iterator[slice]:
        """Slices of rows whose features, and ``columns`` of logits, are about 32 MB in float64."""
        rows = max(1, _CHUNK_NUMBERS // max(self.features.shape[1], columns))
        for start in range(0, len(self.features), rows):
            yield slice(start, min(start + rows, len(self.features)))

    def weights_of(self, chunk: slice) -> Array:
        """The weights of a chunk's n rows in each problem, n x K."""
        used = self.fold[chunk, None] != np.array(self.folds)
        return self.weights[chunk, None] * self.class_weight.T[self.labels[chunk]] * used

    def totals(self) -> Array:
        """S, the sum of weights in each problem [K]."""
        return np.sum([self.weights_of(chunk).sum(0) for chunk in self.chunks(1)], axis=0)


def fit_heads(
    rows: Rows,
    *,
    inverse_strength: float,
    fit_bias: bool,
    tolerance: float,
    most_passes: int,
    start: Heads | None = None,
    coordinates: "Coordinates | None" = None,
) -> Heads:
    """The minimum of each F_k, from ``start`` or from zero.

    Of several processes the main one alone chooses the steps, whose number depends on last digits
    that may differ between machines; the others read their share of the rows in each pass.

    Args:
        inverse_strength: C.
        tolerance: of the largest entry of the gradient, in the coordinates of the module.
        most_passes: the limit on passes; a fit that reaches it has not converged.
        coordinates: :meth:`Coordinates.of` these rows, where they are known already.
    """
    count = 1 if rows.classes == 2 else rows.classes
    together = max(1, _MOST_COLUMNS // count)
    if len(rows.folds) > together:
        return _fit_in_turns(
            rows, together, inverse_strength, fit_bias, tolerance, most_passes, start, coordinates
        )
    if not distributed.is_main():
        return _help_fit(rows)
    problems, width = len(rows.folds), rows.features.shape[1]
    totals = rows.totals()
    if coordinates is None:
        coordinates = Coordinates.of(rows, centred=fit_bias)
    # The curvature of the softmax is at most about 1 / C' for C' classes where it is even, and less
    # where it is confident: times C' that of the penalty is on the same scale as the covariance.
    penalty = 1 / (inverse_strength * totals)  # [K]
    to_weight, to_position = coordinates.scaled(float(penalty.mean()) * rows.classes)
    mean = coordinates.mean

    def heads_at(position: Array) -> tuple[Array, Array]:
        """W and b at a position (U, b') of the minimiser, where b' is the bias at the mean."""
        flat = position.reshape(problems, count, width + 1)
        weight = flat[..., :-1] @ to_weight
        bias = flat[..., -1] - weight @ mean if fit_bias else np.zeros((problems, count))
        return weight, bias

    def value_and_gradient(position: Array) -> tuple[float, Array]:
        weight, bias = distributed.agreed(lambda: heads_at(position))
        loss, slope, slope_of_bias = _loss_and_gradient(rows, weight, bias)
        value = loss / totals + penalty * (weight**2).sum((1, 2)) / 2
        slope = slope / totals[:, None, None] + penalty[:, None, None] * weight
        slope_of_bias = slope_of_bias / totals[:, None]
        if fit_bias:  # b = b' - W m, so that W also moves b
            slope -= slope_of_bias[..., None] * mean
        else:
            slope_of_bias = np.zeros_like(slope_of_bias)
        gradient = np.concatenate([slope @ to_weight.T, slope_of_bias[..., None]], axis=-1)
        return float(value.sum()), gradient.ravel()

    initial = np.zeros((problems, count, width + 1))
    if start is not None:
        initial[..., :-1] = start.weight @ to_position
        if fit_bias:
            initial[..., -1] = start.bias + start.weight @ mean
    options = {"maxfun": most_passes, "maxiter": most_passes, "maxcor": _HISTORY}
    result = minimize(
        value_and_gradient,
        initial.ravel(),
        jac=True,
        method="L-BFGS-B",
        options={**options, "ftol": 0.0, "gtol": tolerance},
    )
    # The line search ends on rounding errors of F where the gradient is as good as zero.
    converged = bool(np.abs(result.jac).max() <= tolerance)
    fitted = Heads(*heads_at(result.x), passes=int(result.nfev), converged=converged)
    return distributed.agreed(lambda: fitted)


def _help_fit(rows: Rows) -> Heads:
    """:func:`fit_heads` in another process than the main one, which says what to compute."""
    while True:
        request: Any = distributed.agreed(lambda: None)  # W and b of a pass, or the fitted heads
        if isinstance(request, Heads):
            return request
        _loss_and_gradient(rows, *request)


def _fit_in_turns(
    rows: Rows,
    together: int,
    inverse_strength: float,
    fit_bias: bool,
    tolerance: float,
    most_passes: int,
    start: Heads | None,
    coordinates: "Coordinates | None",
) -> Heads:
    """:func:`fit_heads` of some folds at a time."""
    parts = []
    for first in range(0, len(rows.folds), together):
        turn = slice(first, first + together)
        parts.append(
            fit_heads(
                replace(rows, folds=rows.folds[turn], class_weight=rows.class_weight[turn]),
                inverse_strength=inverse_strength,
                fit_bias=fit_bias,
                tolerance=tolerance,
                most_passes=most_passes,
                start=None
                if start is None
                else replace(start, weight=start.weight[turn], bias=start.bias[turn]),
                coordinates=coordinates,
            )
        )
    return Heads(
        np.concatenate([part.weight for part in parts]),
        np.concatenate([part.bias for part in parts]),
        passes=sum(part.passes for part in parts),
        converged=all(part.converged for part in parts),
    )


def _loss_and_gradient(rows: Rows, weight: Array, bias: Array) -> tuple[Array, Array, Array]:
    """The weighted sums of the losses [K] and their gradients by W and b, in one reading.

    Several processes read a share of the chunks each.
    """
    problems, count, width = weight.shape
    loss = np.zeros(problems)
    slope, slope_of_bias = np.zeros((problems * count, width)), np.zeros((problems, count))
    matrix = weight.reshape(-1, width).T
    chunks = islice(rows.chunks(problems * count), distributed.rank(), None, distributed.size())
    for chunk in chunks:
        features = rows.features[chunk].astype(np.float64)
        labels, weights = rows.labels[chunk], rows.weights_of(chunk)
        logits = (features @ matrix).reshape(-1, problems, count)
        logits += bias
        if count == 1:
            # CE = log(1 + e^z) - y z, and sigmoid(z) - y its derivative.
            target = labels[:, None].astype(np.float64)
            single = logits[..., 0]
            losses = np.logaddexp(0, single) - target * single
            residuals = (expit(single) - target)[..., None]
        else:
            # In place: at this size a second copy of the logits would be felt.
            logits -= logits.max(axis=2, keepdims=True)
            label_entries = np.arange(len(labels)), slice(None), labels
            label_logits = logits[label_entries]
            residuals = np.exp(logits, out=logits)
            totals = residuals.sum(axis=2)
            losses = np.log(totals) - label_logits
            residuals /= totals[..., None]
            residuals[label_entries] -= 1
        loss += (losses * weights).sum(0)
        residuals *= weights[..., None]
        slope_of_bias += residuals.sum(0)
        slope += residuals.reshape(-1, problems * count).T @ features
    loss, slope, slope_of_bias = map(distributed.summed, (loss, slope, slope_of_bias))
    return loss, slope.reshape(weight.shape), slope_of_bias


@dataclass(frozen=True)
class Coordinates:
    """The mean m [h] of the features and their covariance Q diag(d) Q^T about it.

    Without a bias nothing takes up the mean: m is 0, and the second moment is about 0.
    """

    mean: Array
    spread: Array
    directions: Array

    @classmethod
    def of(cls, rows: Rows, *, centred: bool) -> "Coordinates":
        """The coordinates by some of the rows, evenly spaced."""
        step = max(1, len(rows.features) // _COVARIANCE_ROWS)
        sample = rows.features[::step].astype(np.float64)
        mean = sample.mean(0) if centred else np.zeros(sample.shape[1])
        sample -= mean
        spread, directions = np.linalg.eigh(sample.T @ sample / len(sample))
        return cls(mean, np.maximum(spread, 0), directions)

    def scaled(self, penalty: float) -> tuple[Array, Array]:
        """The matrices that take U to W and W to U, for a curvature ``penalty`` of the penalty."""
        scale = np.sqrt(self.spread + penalty)
        return (self.directions / scale).T, self.directions * scale


def held_out(rows: Rows, heads: Heads) -> Iterator[tuple[NDArray[np.int64], Array]]:
    """Rows of each fold, chunk by chunk, with their logits (n x R) by the head fitted without it.

    Rows of none of ``rows.folds`` are left out.
    """
    for chunk in rows.chunks(heads.bias.size):
        for number, fold in enumerate(rows.folds):
            inside = np.flatnonzero(rows.fold[chunk] == fold)
            if len(inside):
                features = rows.features[chunk][inside].astype(np.float64)
                yield inside + chunk.start, features @ heads.weight[number].T + heads.bias[number]


def held_out_scores(rows: Rows, heads: Heads, weights: Array, *, accuracy: bool) -> Array:
    """The weighted mean of each fold's accuracy or negative log loss [K], as scikit-learn's."""
    sums, totals = np.zeros(len(rows.folds)), np.zeros(len(rows.folds))
    problem_of_fold = {fold: index for index, fold in enumerate(rows.folds)}
    for members, logits in held_out(rows, heads):
        if logits.shape[1] == 1:
            logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
        labels, problem = rows.labels[members], problem_of_fold[int(rows.fold[members[0]])]
        if accuracy:
            scores = (logits.argmax(1) == labels).astype(np.float64)
        else:
            scores = logits[np.arange(len(labels)), labels] - logsumexp(logits, axis=1)
        sums[problem] += weights[members] @ scores
        totals[problem] += weights[members].sum()
    return sums / totals
