"""Kernel regression on (sample, logit) entries: the paper's protocol, and LM-Kernel-FT's solvers.

LM-Kernel-FT (Malladi et al., ICML 2023), whose solver the paper's code took over, flattens the
N x C x N x C kernel to NC x NC and the one-hot labels to NC targets, so a problem of several
classes becomes a single binary one, all logits against all one-hot entries, with one intercept for
all of them. For two classes it may instead take the single logit ``z = f_1 - f_0`` (its option
``binary_classification``): N rows, the kernel ``e^T K(x, x') e`` with e = (-1, 1), and targets -1
and 1.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import lstsq, qr
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import SVC, SVR

from lpft.errors import InputError
from lpft.ntk.regression.kernels import (
    Array,
    KernelModel,
    Labels,
    Option,
    Strength,
    TrainingSet,
    entry_matrix,
    require_symmetric,
    require_two_classes,
    stratified_folds,
)
from lpft.ntk.regression.multiclass import (
    FOLDS,
    SEARCH_TOLERANCE,
    TOLERANCE,
    SoftmaxFit,
    fit_softmax,
)

INVERSE_STRENGTHS = tuple(np.logspace(-4, 4, 10).tolist())
"""The candidates of scikit-learn's ``LogisticRegressionCV(Cs=10)``."""

CAVEATS = (
    "entry accuracy counts every (sample, logit) entry of the one-hot labels: the answer 'no' to "
    "all of them scores (C - 1)/C",
    "the folds that choose the strength hold out single logits of samples whose other logits are "
    "fitted",
    "raw kernel rows are features, so the strength is relative to the scale of the kernel and "
    "kernels of different scales are not regularised alike",
)
RESONANCE = (
    "a singular value of the training kernel lies within 1% of 1/gamma, where the asymmetric "
    "system is nearly singular and its solution large: take another gamma"
)

MAX_ITERATIONS = 1_000_000
"""Of libsvm. On a kernel of large entries that cannot separate the labels it may need more: then
the model is not converged, and a smaller cost helps."""

_NEAR_RESONANCE = 1e-2
_SINGLE = np.array([-1.0, 1.0])
_BINARY = np.array([[0.0], [1.0]])


@dataclass(frozen=True)
class Entries:
    """The scalar problem: n is N C, or N for the single logit of two classes.

    ``matrix`` [n, n] with ``regularization * ||K||_2`` on its diagonal; ``labels`` [n], 1 where an
    entry is the label's, else 0; ``signs`` [n], 1 and -1; ``offset`` [n], s f_0.
    """

    matrix: Array
    labels: Labels
    offset: Array
    classes: int
    f0_scale: float
    regularization: float
    single_logit: bool

    @property
    def signs(self) -> Array:
        return np.where(self.labels == 1, 1.0, -1.0)

    @property
    def targets(self) -> Array:
        """The reference's less s f_0: 0 and 1 of several logits' entries, -1 and 1 of a single."""
        return np.where(self.labels == 1, 1.0, -1.0 if self.single_logit else 0.0) - self.offset

    def coefficients(self, values: Array) -> Array:
        """Numbers per entry as coefficients of the N x C x N x C kernel, N x C."""
        if self.single_logit:  # alpha_i e gives z as the difference of two logits
            return values[:, None] * _SINGLE
        return values.reshape(-1, self.classes)

    def model(
        self,
        solver: str,
        values: Array,
        intercept: float = 0.0,
        *,
        options: dict[str, Option] | None = None,
        **fields: Any,
    ) -> KernelModel:
        """The model with these numbers per entry; a solver's own ``options`` join the entries'."""
        shared = ("f0_scale", "regularization", "single_logit")
        settings = {name: getattr(self, name) for name in shared}
        return KernelModel(
            solver,
            self.coefficients(values),
            # Of z = f_1 - f_0 each logit has a half.
            intercept * _SINGLE / 2 if self.single_logit else np.full(self.classes, intercept),
            self.f0_scale,
            settings=settings if options is None else settings | options,
            **fields,
        )


def entry_problem(
    train: TrainingSet,
    *,
    f0_scale: float = 0.0,
    regularization: float = 0.0,
    single_logit: bool = False,
) -> Entries:
    """The scalar problem of a training set, by the options that these solvers share.

    Args:
        f0_scale: s; 1 / s is LM-Kernel-FT's ``f0_scaling``, and 0 stands for its default, without
            ``adjust_for_init``.
        regularization: added to the diagonal of the training kernel (never the test kernel), as a
            share of the kernel's largest singular value; LM-Kernel-FT's ``kernel_regularization``.
        single_logit: of two classes the difference of the logits. Not for SignGD kernels, whose
            single-logit kernel is none of these four numbers' combinations.

    Raises:
        InputError: f_0 is missing, or wrong options.
    """
    if not (np.isfinite(regularization) and regularization >= 0):
        raise InputError(f"regularization: expected 0 or more, found {regularization}")
    offset = train.offset(f0_scale)
    if single_logit:
        if train.classes != 2:
            raise InputError(
                f"single_logit takes the difference of 2 logits, found {train.classes} classes; "
                "leave it out"
            )
        require_two_classes(train.labels)
        if train.kernel.ndim == 2:
            matrix = 2 * train.kernel
        else:
            matrix = np.einsum("c,ncmd,d->nm", _SINGLE, train.kernel, _SINGLE)
        labels, offset = train.labels, offset @ _SINGLE
    else:
        matrix = entry_matrix(train.kernel, train.classes)
        labels, offset = train.one_hot.ravel().astype(np.int64), offset.ravel()
    if regularization > 0:
        matrix = matrix + regularization * np.linalg.norm(matrix, 2) * np.eye(len(matrix))
    return Entries(matrix, labels, offset, train.classes, f0_scale, regularization, single_logit)


# --- the paper's protocol


def fit_paper_protocol(train: TrainingSet) -> KernelModel:
    """The protocol behind the accuracies of the paper's tables 2 and 9.

    Each of the N C rows of the NC x NC training kernel is a row of features and its one-hot entry
    t the label of a binary L2 logistic regression with an intercept,
    ``min_{w,b} C sum_e CE(t_e, sigmoid(K_e w + b)) + ||w||^2 / 2``: scikit-learn's
    ``LogisticRegressionCV(Cs=10, cv=5, scoring="accuracy")``, stratified folds of entries in
    their order. Newton's method on an orthonormal basis of the rows reaches the optimum whatever
    the scale of the kernel; the reference stops lbfgs at a gradient of 1e-4, short of it where the
    regularisation is weak.

    ``strength`` of the model is 1 / C. Its logits are decision values of entries: above 0 is a
    one-hot entry of 1 (:func:`entry_accuracy`), and the largest one of a sample its class.
    Source: Tomihari and Sato, NeurIPS 2024, tables 2 and 9, by its code.
    """
    return _fit_logistic(entry_problem(train), "paper", CAVEATS)


def fit_row_logistic(
    train: TrainingSet, *, regularization: float = 0.0, single_logit: bool = False
) -> KernelModel:
    """LM-Kernel-FT's logistic solver: the paper protocol with LM-Kernel-FT's options.

    Of a single logit the folds hold out whole samples; where one of its classes has a single row,
    there are none and C is 1. As in the reference, there is no offset f_0.
    """
    entries = entry_problem(train, regularization=regularization, single_logit=single_logit)
    return _fit_logistic(entries, "logistic", CAVEATS[2:] if single_logit else CAVEATS)


def entry_accuracy(logits: Array, labels: Labels) -> float:
    """The share of the M C entries of logits [M, C] that are above 0 just where the label is.

    The answer 'no' to every entry scores (C - 1)/C.
    """
    return float(np.mean((logits > 0) == (np.eye(logits.shape[1])[labels] == 1)))


def _fit_logistic(entries: Entries, solver: str, caveats: tuple[str, ...]) -> KernelModel:
    inverse_strength, folds, searched = _choose_inverse_strength(entries.matrix, entries.labels)
    features, basis = _row_features(entries.matrix)
    fit = _fit_binary(features, entries.labels, inverse_strength, None, TOLERANCE)
    ends = (INVERSE_STRENGTHS[0], INVERSE_STRENGTHS[-1])
    return entries.model(
        solver,
        basis @ fit.coefficients[:-1],
        float(fit.coefficients[-1]),
        strength=Strength(
            1 / inverse_strength, folds=folds, at_edge=folds > 0 and inverse_strength in ends
        ),
        converged=searched and fit.converged,
        caveats=caveats,
    )


def _choose_inverse_strength(rows: Array, labels: Labels) -> tuple[float, int, bool]:
    """C of the best mean accuracy over folds (the smallest of equal ones), folds, converged."""
    rarest = int(np.bincount(labels, minlength=2).min())
    if rarest < 2:
        return 1.0, 0, True
    parts = stratified_folds(labels, min(FOLDS, rarest))
    accuracies, converged = np.zeros((len(parts), len(INVERSE_STRENGTHS))), True
    # Within a fold each fit starts from the one at the strength before.
    for fold, (fitted, held) in enumerate(parts):
        features, basis = _row_features(rows[fitted])
        outside = rows[held] @ basis
        start = None
        for column, inverse_strength in enumerate(INVERSE_STRENGTHS):
            fit = _fit_binary(features, labels[fitted], inverse_strength, start, SEARCH_TOLERANCE)
            start, converged = fit.coefficients, converged and fit.converged
            predicted = outside @ start[:-1] + start[-1] > 0
            accuracies[fold, column] = np.mean(predicted == (labels[held] == 1))
    best = int(accuracies.mean(axis=0).argmax())
    return INVERSE_STRENGTHS[best], len(parts), converged


def _row_features(rows: Array) -> tuple[Array, Array]:
    """X Q [n, 1, r + 1] with a last column of ones, and Q [m, r], an orthonormal basis of X's rows.

    A rotation leaves ``||w||`` as it is, so it changes nothing but the number and the scaling of
    columns: pivoted QR of X^T leaves those above rounding, in falling order.
    """
    # X^T in the order of the pivots is Q R, so the rows of X Q in that order are those of R^T.
    basis, triangle, order = qr(rows.T, mode="economic", pivoting=True, check_finite=False)
    sizes = np.abs(np.diag(triangle))
    rank = int(np.sum(sizes > max(rows.shape) * np.finfo(np.float64).eps * sizes[0]))
    features = np.ones((len(rows), rank + 1))
    features[order, :rank] = triangle[:rank].T
    return features[:, None, :], basis[:, :rank]


def _fit_binary(
    features: Array, labels: Labels, inverse_strength: float, start: Array | None, tolerance: float
) -> SoftmaxFit:
    """The binary logistic regression with C; the last feature, the intercept, has no penalty."""
    # Divided by C the objective is CE + ||w||^2 / (2 C), as fit_softmax has it.
    penalties = np.full(features.shape[2], 1 / inverse_strength)
    penalties[-1] = 0
    offset = np.zeros((len(labels), 2))
    return fit_softmax(
        features, _BINARY, labels, offset, penalties, start=start, tolerance=tolerance
    )


# --- LM-Kernel-FT's other solvers


def fit_svc(
    train: TrainingSet,
    *,
    cost: float = 1.0,
    regularization: float = 0.0,
    single_logit: bool = False,
) -> KernelModel:
    """Support vector classification of entries: label's or not (LM-Kernel-FT's ``svc``).

    scikit-learn's ``SVC(kernel="precomputed", C=cost)``: one-vs-rest for all classes at once, by
    one kernel machine with one intercept. A sample's logits are the decision values of its C
    entries (of a single logit z: -z/2 and z/2). As in the reference, there is no offset f_0.

    ``cost`` of the slack variables, in units of 1 / kernel.
    """
    require_symmetric(train.kernel, "solver 'svc'")
    entries = entry_problem(train, regularization=regularization, single_logit=single_logit)
    _check_above_zero("cost", cost)
    machine = SVC(kernel="precomputed", C=cost, max_iter=MAX_ITERATIONS)
    return _fit_machine("svc", machine, entries, entries.signs, {"cost": cost})


def fit_svr(
    train: TrainingSet,
    *,
    f0_scale: float = 0.0,
    cost: float = 1.0,
    tube: float = 0.1,
    regularization: float = 0.0,
    single_logit: bool = False,
) -> KernelModel:
    """Support vector regression of the targets minus ``s f_0`` (LM-Kernel-FT's ``svr``).

    scikit-learn's ``SVR(kernel="precomputed", C=cost, epsilon=tube)``.

    ``cost`` of deviations, in units of 1 / kernel; ``tube`` the half-width within which a deviation
    costs nothing, in units of the targets.
    """
    require_symmetric(train.kernel, "solver 'svr'")
    if not (np.isfinite(tube) and tube >= 0):
        raise InputError(f"tube: expected 0 or more, found {tube}")
    entries = entry_problem(
        train, f0_scale=f0_scale, regularization=regularization, single_logit=single_logit
    )
    _check_above_zero("cost", cost)
    machine = SVR(kernel="precomputed", C=cost, epsilon=tube, max_iter=MAX_ITERATIONS)
    return _fit_machine("svr", machine, entries, entries.targets, {"cost": cost, "tube": tube})


def _fit_machine(
    solver: str, machine: SVC | SVR, entries: Entries, targets: Array, options: dict[str, Option]
) -> KernelModel:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        machine.fit(entries.matrix, targets)
    # libsvm keeps the coefficients of support vectors; all other entries have 0.
    alpha = np.zeros(len(entries.matrix))
    alpha[machine.support_] = machine.dual_coef_[0]
    converged = not any(issubclass(item.category, ConvergenceWarning) for item in caught)
    intercept = float(machine.intercept_[0])
    return entries.model(solver, alpha, intercept, options=options, converged=converged)


def fit_least_squares(
    train: TrainingSet,
    *,
    f0_scale: float = 0.0,
    regularization: float = 0.0,
    single_logit: bool = False,
) -> KernelModel:
    """The least-squares solution of smallest norm of ``K alpha = t - s f_0``.

    LM-Kernel-FT's default, ``lstsq``. Singular values below ``n eps sigma_max`` count as 0. With a
    regularization r it is kernel ridge regression at the fixed ``lambda = r ||K||_2``. The kernel
    may be asymmetric.
    """
    entries = entry_problem(
        train, f0_scale=f0_scale, regularization=regularization, single_logit=single_logit
    )
    cut = len(entries.matrix) * np.finfo(np.float64).eps
    return entries.model("lstsq", lstsq(entries.matrix, entries.targets, cond=cut)[0])


def fit_asymmetric(
    train: TrainingSet,
    *,
    gamma: float = 1.0,
    mix: float = 0.5,
    f0_scale: float = 0.0,
    regularization: float = 0.0,
) -> KernelModel:
    """AsK-LS: the least-squares support vector machine of a kernel that is not symmetric.

    A kernel ``K(x, x') = <s(x), t(x')>`` of source and target features (for asymmetric SignGD
    s = g and t = sign g) has two functions, ``f_s(x) = sum_i K(x, x_i) beta_i`` and
    ``f_t(x) = sum_i K(x_i, x) alpha_i``, tied by

        alpha / gamma + K beta = y,    K^T alpha + beta / gamma = y

    on the N C training entries, with targets y = +-1 minus ``s f_0``; the answer is
    ``mix f_s + (1 - mix) f_t``. For a symmetric positive K both are kernel ridge regression with
    lambda = 1/gamma.

    As in LM-Kernel-FT, the paper's two intercepts are left out. Unlike there, several classes are
    all entries at once (LM-Kernel-FT takes two classes with a single logit; the kernel of a
    difference of logits cannot be had from signs of each), and the equations are not multiplied by
    y, which is the same for y = +-1 but not once an f_0 is subtracted. LM-Kernel-FT's kernel has
    its rows and columns exchanged, ``<t, s>``.

    Args:
        gamma: weight of the errors, in units of 1 / kernel; LM-Kernel-FT's ``kernel_gamma``.
        mix: between 0 and 1; LM-Kernel-FT's ``kernel_lambda``, which its published options lack;
            AsK-LS weighs both alike. Below 1, prediction needs the reversed kernel.

    Source: He, He, Shi, Huang and Suykens, Learning with asymmetric kernels: least squares and
    feature interpretation, IEEE TPAMI 45(8), 2023; Malladi et al., ICML 2023 (solver ``asym``).
    """
    _check_above_zero("gamma", gamma)
    if not 0 <= mix <= 1:
        raise InputError(f"mix: expected a number from 0 to 1, found {mix}")
    entries = entry_problem(train, f0_scale=f0_scale, regularization=regularization)
    alpha, beta, near = solve_asymmetric(entries.matrix, entries.signs - entries.offset, gamma)
    return entries.model(
        "asymmetric",
        mix * beta,
        options={"gamma": gamma, "mix": mix},
        reverse_coefficients=None if mix == 1 else (1 - mix) * entries.coefficients(alpha),
        caveats=(RESONANCE,) if near else (),
    )


def solve_asymmetric(matrix: Array, targets: Array, gamma: float) -> tuple[Array, Array, bool]:
    """alpha, beta [n] of smallest norm, and whether the system is nearly singular.

    With ``K = U S V^T``, ``a = U^T alpha`` and ``b = V^T beta``, sum and difference part:
    ``(1/gamma + S)(a + b) = (U + V)^T y`` and ``(1/gamma - S)(a - b) = (U - V)^T y``.
    """
    # In the singular vectors' coordinates the system falls into 2 x 2 blocks, one for each singular
    # value: their sum and difference solve it. The difference is singular where S = 1/gamma.
    left, values, right = np.linalg.svd(matrix)
    on_left, on_right = left.T @ targets, right @ targets
    total = (on_left + on_right) / (1 / gamma + values)
    gaps, contrast = 1 / gamma - values, on_left - on_right
    rounding = len(values) * np.finfo(np.float64).eps
    solvable = np.abs(gaps) > rounding * max(float(values[0]), 1 / gamma)
    difference = np.divide(contrast, gaps, out=np.zeros_like(gaps), where=solvable)
    # Near resonance matters only along directions in which the two sides differ at all.
    matters = np.abs(contrast) > rounding * np.linalg.norm(targets)
    near = bool(np.any(matters & (np.abs(gaps) < _NEAR_RESONANCE / gamma)))
    return left @ (total + difference) / 2, right.T @ (total - difference) / 2, near


def _check_above_zero(name: str, value: float) -> None:
    if not (np.isfinite(value) and value > 0):
        raise InputError(f"{name}: expected a finite number above 0, found {value}")
