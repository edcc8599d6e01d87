"""Newton's method for softmax regression on features: the one optimiser of kernel regression.

scikit-learn's solvers take neither a kernel that couples the logits nor an offset.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.linalg.blas import dsyrk
from scipy.special import softmax

Array = NDArray[np.float64]

SEARCH_TOLERANCE = 1e-8
TOLERANCE = 1e-24
MAX_ITERATIONS = 200
_SHRINK = 0.1  # the least that a step with an old Hessian must shrink the decrement by
_RESOLUTION = 1e-12  # below this share of the objective, its own rounding hides any descent
_SUFFICIENT_DECREASE = 1e-4
_SHORTEST_STEP = 1e-10
_JITTERS = (0.0, 1e-15, 1e-13, 1e-11, 1e-9)


@dataclass(frozen=True)
class SoftmaxFit:
    """Coefficients z [r], logits [N, C], ``residual`` = onehot(y) - softmax(logits) [N, C]."""

    coefficients: Array
    logits: Array
    residual: Array
    converged: bool


def fit_softmax(
    features: Array,
    contrasts: Array,
    labels: NDArray[np.int64],
    offset: Array,
    penalties: Array,
    *,
    start: Array | None = None,
    tolerance: float = TOLERANCE,
) -> SoftmaxFit:
    """The z that minimises ``sum_i CE(y_i, o_i + E A_i z) + 1/2 sum_j rho_j z_j^2``.

    Newton's method with Cholesky factors, kept for further steps as long as each step shrinks the
    Newton decrement ``g^T H^-1 g``, twice the estimated gap to the optimum, by ten; Armijo's rule
    halves steps. It ends where the decrement is at most ``tolerance`` times the objective.
    Features whose sizes fall from column to column (singular vectors times values) lose nothing
    to rounding, however far they fall: Cholesky factors do not depend on the scale of columns.

    Args:
        features: A, N x k x r.
        contrasts: E, C x k, from k numbers per row to its logits.
        labels: N class indices.
        offset: o, N x C.
        penalties: rho [r], at least 0.
        start: z to begin with; 0 by default.

    Source: Nocedal and Wright, Numerical Optimization, 2006, chapter 3; the rule for keeping
    factors is Shamanskii's.
    """
    problem = _Problem(features, contrasts, labels, offset, penalties)
    rank = features.shape[2]
    z = np.zeros(rank) if start is None else start.copy()
    logits = problem.logits(z)
    value, factor, fresh, previous = problem.value(z, logits), None, False, np.inf
    converged = False
    for _ in range(MAX_ITERATIONS):
        gradient = problem.gradient(z, logits)
        if factor is None:
            factor, fresh = problem.factor(logits), True
            if factor is None:
                break
        step = -cho_solve(factor, gradient, check_finite=False)
        decrement = -float(gradient @ step)
        if not decrement >= 0:
            break
        if decrement > _SHRINK * previous:
            if not fresh:
                factor = None
                continue
            if decrement <= _RESOLUTION * value:  # a new Hessian shrinks all but rounding
                converged = True
                break
        change = problem.moved(step)
        size = (
            1.0
            if decrement <= _RESOLUTION * value
            else problem.search(z, step, logits, change, value, decrement)
        )
        if size == 0:
            converged = decrement <= SEARCH_TOLERANCE * value
            break
        z, logits = z + size * step, logits + size * change
        if decrement <= tolerance * value:
            converged = True
            break
        value, previous, fresh = problem.value(z, logits), decrement, False
    return SoftmaxFit(z, logits, -problem.error(logits), converged)


@dataclass(frozen=True)
class _Problem:
    """The objective, its derivatives and the search along a step."""

    features: Array
    contrasts: Array
    labels: NDArray[np.int64]
    offset: Array
    penalties: Array

    def moved(self, step: Array) -> Array:
        """What a step adds to the logits, N x C."""
        return (self.features @ step) @ self.contrasts.T

    def logits(self, z: Array) -> Array:
        return self.offset + self.moved(z)

    def value(self, z: Array, logits: Array) -> float:
        """The objective, exact in relative terms also where every row is fitted almost surely."""
        rows = np.arange(len(logits))
        excess = logits - logits[rows, self.labels][:, None]
        top = excess.max(axis=1)
        others = np.exp(excess - top[:, None])
        others[rows, self.labels] = 0
        rest = others.sum(axis=1)
        losses = np.where(top == 0, np.log1p(rest), top + np.log(rest + np.exp(-top)))
        return float(losses.sum() + 0.5 * (self.penalties @ z**2))

    def error(self, logits: Array) -> Array:
        """``softmax(f) - onehot(y)``, N x C, the label's entry as minus the sum of the others."""
        rows = np.arange(len(logits))
        error = softmax(logits, axis=1)
        error[rows, self.labels] = 0
        error[rows, self.labels] = -error.sum(axis=1)
        return error

    def gradient(self, z: Array, logits: Array) -> Array:
        pulled = self.error(logits) @ self.contrasts
        return pulled.ravel() @ self._flat + self.penalties * z

    def factor(self, logits: Array) -> tuple[Array, bool] | None:
        """Cholesky's factor of ``sum_i (E A_i)^T (diag p_i - p_i p_i^T) (E A_i) + diag rho``."""
        roots = np.matmul(softmax_root(softmax(logits, axis=1)).transpose(0, 2, 1), self.contrasts)
        weighted = np.matmul(roots, self.features).reshape(-1, self.features.shape[2])
        hessian = dsyrk(1.0, weighted.T)
        diagonal = np.einsum("ii->i", hessian)
        diagonal += self.penalties
        original = diagonal.copy()
        for jitter in _JITTERS:
            diagonal[:] = original * (1 + jitter)
            try:
                return cho_factor(hessian, check_finite=False)
            except LinAlgError:
                continue
        return None

    def search(
        self, z: Array, step: Array, logits: Array, change: Array, value: float, decrement: float
    ) -> float:
        """The first of 1, 1/2, 1/4, ... that lowers the objective enough, or 0."""
        size = 1.0
        while size > _SHORTEST_STEP:
            reached = self.value(z + size * step, logits + size * change)
            if reached <= value - _SUFFICIENT_DECREASE * size * decrement:
                return size
            size /= 2
        return 0.0

    @property
    def _flat(self) -> Array:
        return self.features.reshape(-1, self.features.shape[2])


def softmax_root(probabilities: Array) -> Array:
    """L with ``L L^T = diag(p) - p p^T`` for every row, N x C x (C - 1), lower triangular.

    With the tails ``q_c = sum of p_d over d > c``: ``L_cc = sqrt(p_c q_c / q_{c-1})`` and
    ``L_dc = -(p_d / q_c) L_cc`` for d > c. Where a tail is 0, its column is.
    Source: Tanabe and Sagae, Journal of the Royal Statistical Society B 54(1), 1992.
    """
    rows, classes = probabilities.shape
    tails = np.cumsum(probabilities[:, ::-1], axis=1)[:, ::-1]
    root = np.zeros((rows, classes, classes - 1))
    for column in range(classes - 1):
        own, before, after = probabilities[:, column], tails[:, column], tails[:, column + 1]
        share = np.divide(own, before, out=np.zeros(rows), where=before > 0)
        root[:, column, column] = np.sqrt(share * after)
        later = probabilities[:, column + 1 :]
        shares = np.divide(
            later, after[:, None], out=np.zeros_like(later), where=after[:, None] > 0
        )
        root[:, column + 1 :, column] = -shares * root[:, column, column, None]
    return root


def sum_free_contrasts(classes: int) -> Array:
    """An orthonormal basis E of logits that sum to zero, C x (C - 1): all that a softmax sees."""
    basis = np.zeros((classes, classes - 1))
    for column in range(classes - 1):
        basis[: column + 1, column] = 1
        basis[column + 1, column] = -(column + 1)
        basis[:, column] /= np.sqrt((column + 1) * (column + 2))
    return basis
