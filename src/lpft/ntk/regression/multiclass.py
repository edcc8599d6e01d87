"""Kernel logistic and kernel ridge regression of several classes on the N x C x N x C kernel.

Both give one logit per class and sample with the offset f_0, cut folds between samples only and
are scored by the predicted class of each sample.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve, helmert
from scipy.linalg.blas import dsyrk
from scipy.special import softmax

from lpft.analysis.calibration import negative_log_likelihood
from lpft.analysis.inputs import class_indices, short_repr
from lpft.errors import InputError
from lpft.ntk.regression.kernels import (
    Array,
    KernelModel,
    Labels,
    Strength,
    TrainingSet,
    ValidationSet,
    apply_kernel,
    block,
    entry_matrix,
    mean_diagonal,
    require_symmetric,
    scaled_logits,
    stratified_folds,
)
from lpft.ntk.statistics import checked_kernel

RELATIVE_STRENGTHS = tuple(10.0**exponent for exponent in range(3, -7, -1))
"""The candidates for lambda, times the mean diagonal of the training kernel: from a constant fit
to a near exact one."""

FOLDS = 5

SEEN_OFFSET = (
    "f_0 of a head that was fitted on the training rows (LP, LP-FT, LP-LoRA) has seen the rows "
    "that the folds hold out, so a strong regularisation looks better than it is: give validation "
    "rows, or f0_scale=0"
)

SEARCH_TOLERANCE = 1e-8
"""Of fits that are only compared with each other; :data:`TOLERANCE` is that of final ones."""
TOLERANCE = 1e-24
MAX_ITERATIONS = 200

_LEAST_SHRINKAGE = 0.1  # the least that a step with an old Hessian must shrink the decrement by
_RESOLUTION = 1e-12  # below this share of the objective, its own rounding hides any descent
_SUFFICIENT_DECREASE = 1e-4
_SHORTEST_STEP = 1e-10
_JITTERS = (0.0, 1e-15, 1e-13, 1e-11, 1e-9)
_MOST_NEGATIVE = 1e-2  # share of the largest eigenvalue by which rounding may make one negative

Path = Callable[[TrainingSet, Sequence[float], float, float], tuple[list[Array], bool]]
"""(training rows, strengths from strong to weak, s, tolerance) -> alphas, whether all converged."""


def fit_kernel_logistic(
    train: TrainingSet,
    *,
    f0_scale: float = 1.0,
    strength: float | None = None,
    folds: int = FOLDS,
    validation: ValidationSet | None = None,
) -> KernelModel:
    """Multinomial kernel logistic regression with the offset f_0.

    Minimises ``sum_i CE(y_i, f(x_i)) + lambda/2 alpha^T K alpha`` with
    ``f(x) = s f_0(x) + sum_i K(x, x_i) alpha_i``. At the optimum
    ``alpha_i = (onehot(y_i) - softmax f(x_i)) / lambda`` (up to K's null space, which is left out);
    the rows of alpha sum to zero. It is the L2 logistic regression on the gradients of the logits
    (for P: on [phi, 1] without a further intercept, scikit-learn's ``LogisticRegression`` with
    C = 1 / lambda, and 2 / lambda for two classes, where it has one row of weights for two).

    Args:
        train: N training rows.
        f0_scale: s, which multiplies f_0.
        strength: lambda, in units of the kernel; by default that of the lowest loss on rows that
            were held out (:data:`RELATIVE_STRENGTHS`); the stronger of equal ones.
        folds: stratified folds of whole samples for that choice.
        validation: rows to choose lambda on instead of folds.

    Raises:
        InputError: an asymmetric, indefinite or zero kernel, f_0 missing, or wrong options.
    Source: Zhu and Hastie, Journal of Computational and Graphical Statistics 14(1), 2005; the
    kernel with coupled outputs: Alvarez et al., Foundations and Trends in Machine Learning, 2012.
    """
    nll = negative_log_likelihood
    return _fit("klr", _logistic_path, nll, train, f0_scale, strength, folds, validation)


def fit_kernel_ridge(
    train: TrainingSet,
    *,
    f0_scale: float = 1.0,
    strength: float | None = None,
    folds: int = FOLDS,
    validation: ValidationSet | None = None,
) -> KernelModel:
    """Kernel ridge regression of the one-hot labels with the offset f_0.

    Minimises ``sum_i ||onehot(y_i) - f(x_i)||^2 + lambda alpha^T K alpha`` with
    ``f(x) = s f_0(x) + sum_i K(x, x_i) alpha_i``: ``(K + lambda I) alpha = onehot(y) - s f_0`` over
    all N C entries. For P it is scikit-learn's ``KernelRidge(alpha=lambda)`` per class.

    Arguments and errors as in :func:`fit_kernel_logistic`.

    Source: Saunders, Gammerman and Vovk, ICML 1998; the offset: Malladi et al., ICML 2023.
    """

    def squares(logits: Array, labels: Labels) -> float:
        return float(np.sum((logits - np.eye(train.classes)[labels]) ** 2, axis=1).mean())

    return _fit("krr", _ridge_path, squares, train, f0_scale, strength, folds, validation)


def _fit(
    solver: str,
    path: Path,
    loss: Callable[[Array, Labels], float],
    train: TrainingSet,
    f0_scale: float,
    strength: float | None,
    folds: int,
    validation: ValidationSet | None,
) -> KernelModel:
    """The model at ``strength``, or at the candidate of lowest mean ``loss`` on held-out rows."""
    require_symmetric(train.kernel, f"solver '{solver}'")
    scale = mean_diagonal(train.kernel)
    searched = True
    if strength is None:
        candidates = [relative * scale for relative in RELATIVE_STRENGTHS]
        # Losses are summed over held-out rows, so that folds of unequal size weigh by their rows.
        losses, parts = np.zeros(len(candidates)), 0
        for fitted, kernel, offset, labels in _held_out(train, f0_scale, folds, validation):
            alphas, converged = path(fitted, candidates, f0_scale, SEARCH_TOLERANCE)
            logits = [offset + apply_kernel(kernel, alpha) for alpha in alphas]
            losses += [len(labels) * loss(table, labels) for table in logits]
            searched, parts = searched and converged, parts + 1
        best = int(np.argmin(losses))
        chosen = Strength(
            candidates[best],
            RELATIVE_STRENGTHS[best],
            folds=parts if validation is None else 0,
            at_edge=best in (0, len(candidates) - 1),
        )
    else:
        if not (np.isfinite(strength) and strength > 0):
            raise InputError(f"strength: expected a finite number above 0, found {strength}")
        if validation is not None:
            raise InputError(
                "strength and validation exclude each other: leave strength out to choose it on "
                "the validation rows"
            )
        chosen = Strength(strength, strength / scale)
    (alpha,), converged = path(train, [chosen.value], f0_scale, TOLERANCE)
    rows = None if validation is None else len(validation.labels)
    return KernelModel(
        solver,
        alpha,
        np.zeros(train.classes),
        f0_scale,
        strength=chosen,
        converged=converged and searched,
        probabilistic=solver == "klr",
        settings={"f0_scale": f0_scale, "validation_rows": rows},
        caveats=(SEEN_OFFSET,) if f0_scale != 0 and chosen.folds > 0 else (),
    )


def _held_out(
    train: TrainingSet, f0_scale: float, folds: int, validation: ValidationSet | None
) -> Iterator[tuple[TrainingSet, Array, Array, Labels]]:
    """Rows to fit on, then of the rows held out: their kernel to those, s f_0, and labels."""
    if validation is None:
        offset = train.offset(f0_scale)
        for fitted, held in stratified_folds(train.labels, folds):
            kernel = block(train.kernel, held, fitted)
            yield train.take(fitted), kernel, offset[held], train.labels[held]
        return
    kernel, _ = checked_kernel(validation.kernel, train.classes)
    columns = kernel.shape[kernel.ndim // 2]
    if kernel.ndim != train.kernel.ndim or columns != len(train.labels):
        raise InputError(
            f"validation kernel: expected {len(train.labels)} columns, one per training row, in "
            f"the form of the training kernel {train.kernel.shape}, found shape {kernel.shape}"
        )
    labels = class_indices(validation.labels, len(kernel), train.classes)
    yield train, kernel, scaled_logits(validation.f0, f0_scale, len(kernel), train.classes), labels


def _logistic_path(
    train: TrainingSet, strengths: Sequence[float], f0_scale: float, tolerance: float
) -> tuple[list[Array], bool]:
    """alpha [N, C] for each strength, each fit starting from the one before."""
    rows, classes = len(train.labels), train.classes
    # A softmax sees logits up to a constant: E [C, C - 1] is an orthonormal basis of those that sum
    # to zero, and E^T K E the part of the kernel that matters, N (C - 1) wide.
    contrasts = helmert(classes).T
    width = classes - 1
    if train.kernel.ndim == 2:  # P's part is P times I
        own_values, own_vectors = positive_part(train.kernel, "solver 'klr'")
        values = np.repeat(own_values, width)
        vectors = np.asarray(np.kron(own_vectors, np.eye(width)), dtype=np.float64)
    else:
        between = np.einsum("ca,ncmd,db->namb", contrasts, train.kernel, contrasts, optimize=True)
        values, vectors = positive_part(between.reshape(rows * width, rows * width), "solver 'klr'")
    features = (vectors * np.sqrt(values)).reshape(rows, width, len(values))

    offset = train.offset(f0_scale)
    alphas, converged, start = [], True, None
    for strength in strengths:
        penalties = np.full(len(values), strength)
        fit = fit_softmax(
            features, contrasts, train.labels, offset, penalties, start=start, tolerance=tolerance
        )
        start, converged = fit.coefficients, converged and fit.converged
        # Projected on the eigenvectors, residuals lose what lies in K's null space.
        projected = vectors @ (vectors.T @ (fit.residual @ contrasts).ravel())
        alphas.append(projected.reshape(rows, width) @ contrasts.T / strength)
    return alphas, converged


def _ridge_path(
    train: TrainingSet, strengths: Sequence[float], f0_scale: float, _tolerance: float
) -> tuple[list[Array], bool]:
    """alpha [N, C] for each strength, from one eigendecomposition."""
    # (K + lambda I)^-1 = U (S + lambda)^-1 U^T for all lambda at once.
    target = train.one_hot - train.offset(f0_scale)
    if train.kernel.ndim == 2:
        matrix, columns = train.kernel, target
    else:
        matrix, columns = entry_matrix(train.kernel, train.classes), target.reshape(-1, 1)
    values, vectors = positive_part(matrix, "solver 'krr'")
    projected = vectors.T @ columns
    alphas = [
        (vectors @ (projected / (values + strength)[:, None])).reshape(target.shape)
        for strength in strengths
    ]
    return alphas, True


def positive_part(matrix: Array, what: str) -> tuple[Array, Array]:
    """Eigenvalues [r] in descending order and eigenvectors [n, r] above the noise of the matrix.

    Noise is taken as ``max(n eps lambda_max, 2 |lambda_min|)``: rounding (of float32, where the
    kernel was computed in it) is what makes eigenvalues of a Gram matrix negative, and makes about
    as many positive that should be 0. Directions below it have no part in the solution.
    """
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)  # in ascending order
    lowest, highest = float(values[0]), float(values[-1])
    if highest <= 0 or -lowest > _MOST_NEGATIVE * highest:
        raise InputError(
            f"{what} needs a training kernel that is positive semidefinite and not 0 "
            f"(klr: between differences of logits), found eigenvalues from {lowest:.3g} to "
            f"{highest:.3g}"
        )
    noise = max(len(values) * np.finfo(np.float64).eps * highest, -2 * lowest)
    above = values > noise
    return values[above][::-1], vectors[:, above][:, ::-1]


# --- the one optimiser: scikit-learn's take neither a kernel that couples the logits nor an offset


@dataclass(frozen=True)
class SoftmaxFit:
    """Coefficients z [r], logits [N, C], ``residual`` = onehot(y) - softmax(logits) [N, C]."""

    coefficients: Array
    logits: Array
    residual: Array
    converged: bool

    __repr__ = short_repr


def fit_softmax(
    features: Array,
    contrasts: Array,
    labels: Labels,
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
    problem = _Problem(features, contrasts, labels, penalties)
    z = np.zeros(features.shape[2]) if start is None else start.copy()
    logits = offset + problem.logit_change(z)
    value, factor, previous, converged = problem.value(z, logits), None, np.inf, False
    # Shamanskii's iteration: step with the current factor, and form a new Hessian only once the
    # decrement shrinks too slowly.
    for _ in range(MAX_ITERATIONS):
        fresh = factor is None
        if factor is None:
            factor = problem.factor(logits)
            if factor is None:
                break
        gradient = problem.gradient(z, logits)
        step = -cho_solve(factor, gradient, check_finite=False)
        decrement = -float(gradient @ step)
        if not decrement >= 0:
            break
        unresolved = decrement <= _RESOLUTION * value
        if decrement > _LEAST_SHRINKAGE * previous:
            if not fresh:  # the old Hessian has served its time
                factor = None
                continue
            if unresolved:  # a new Hessian shrinks all but rounding
                converged = True
                break
        # Near the optimum, rounding of the objective hides any descent: take the whole step there.
        change = problem.logit_change(step)
        size = 1.0 if unresolved else problem.search(z, step, logits, change, value, decrement)
        if size == 0:
            converged = decrement <= SEARCH_TOLERANCE * value
            break
        z, logits = z + size * step, logits + size * change
        if decrement <= tolerance * value:
            converged = True
            break
        value, previous = problem.value(z, logits), decrement
    return SoftmaxFit(z, logits, -problem.error(logits), converged)


@dataclass(frozen=True)
class _Problem:
    """The objective of :func:`fit_softmax`, its derivatives and the search along a step."""

    features: Array
    contrasts: Array
    labels: Labels
    penalties: Array

    def logit_change(self, step: Array) -> Array:
        """What a step adds to the logits, N x C."""
        return (self.features @ step) @ self.contrasts.T

    def value(self, z: Array, logits: Array) -> float:
        """The objective, exact in relative terms also where every row is fitted almost surely."""
        # CE_i = log sum_c exp(f_c - f_y). With the label's own term, exp(0), apart it is log1p of
        # the others where the label is the largest: no digit is lost, however small they are.
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
        flat = self.features.reshape(-1, self.features.shape[2])
        return (self.error(logits) @ self.contrasts).ravel() @ flat + self.penalties * z

    def factor(self, logits: Array) -> tuple[Array, bool] | None:
        """Cholesky's factor of ``sum_i (E A_i)^T (diag p_i - p_i p_i^T) (E A_i) + diag rho``."""
        # With L_i L_i^T = diag p_i - p_i p_i^T the Hessian is B^T B for B = L_i^T E A_i stacked
        # over i: one symmetric product (dsyrk), in which no digits cancel.
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


def softmax_root(probabilities: Array) -> Array:
    """L with ``L L^T = diag(p) - p p^T`` for every row, N x C x (C - 1), lower triangular.

    With the tails ``q_c = sum of p_d over d > c``: ``L_cc = sqrt(p_c q_c / q_{c-1})`` and
    ``L_dc = -(p_d / q_c) L_cc`` for d > c. Where a tail is 0, its column is.
    Source: Tanabe and Sagae, Journal of the Royal Statistical Society B 54(1), 1992.
    """
    # Column by column, for all rows at once: tails[:, c] = q_{c-1}.
    rows, classes = probabilities.shape
    tails = np.cumsum(probabilities[:, ::-1], axis=1)[:, ::-1]
    root = np.zeros((rows, classes, classes - 1))
    for column in range(classes - 1):
        probability, before, after = (
            probabilities[:, column],
            tails[:, column],
            tails[:, column + 1],
        )
        share = np.divide(probability, before, out=np.zeros(rows), where=before > 0)
        root[:, column, column] = np.sqrt(share * after)
        later = probabilities[:, column + 1 :]
        shares = np.divide(
            later, after[:, None], out=np.zeros_like(later), where=after[:, None] > 0
        )
        root[:, column + 1 :, column] = -shares * root[:, column, column, None]
    return root
