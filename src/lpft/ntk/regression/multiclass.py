"""Kernel logistic and kernel ridge regression of several classes on the N x C x N x C kernel.

Both give one logit per class and sample with the offset f_0, cut folds between samples only and
are scored by the predicted class of each sample.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lpft.ntk.regression.kernels import Array, TrainingSet, entry_matrix, require_symmetric
from lpft.ntk.regression.model import KernelModel
from lpft.ntk.regression.newton import (
    SEARCH_TOLERANCE,
    TOLERANCE,
    fit_softmax,
    sum_free_contrasts,
)
from lpft.ntk.regression.spectral import positive_part
from lpft.ntk.regression.strength import (
    FOLDS,
    HeldOutLoss,
    ValidationSet,
    held_out_nll,
    held_out_squares,
    solve,
)

SEEN_OFFSET = (
    "f_0 of a head that was fitted on the training rows (LP, LP-FT, LP-LoRA) has seen the rows "
    "that the folds hold out, so a strong regularisation looks better than it is: give validation "
    "rows, or f0_scale=0"
)


@dataclass(frozen=True)
class ClassSolver:
    """A solver of all classes at once, with the offset f_0 and a strength that it chooses.

    ``path`` fits alpha along strengths, given s and the tolerance of its iterations; ``loss`` is
    what the choice of the strength minimises on rows that were held out. ``probabilistic``:
    softmax(f) is what it fits.
    """

    name: str
    path: Callable[[TrainingSet, Sequence[float], float, float], tuple[list[Array], bool]]
    loss: HeldOutLoss
    probabilistic: bool

    def __call__(
        self,
        train: TrainingSet,
        *,
        f0_scale: float = 1.0,
        strength: float | None = None,
        folds: int = FOLDS,
        validation: ValidationSet | None = None,
    ) -> KernelModel:
        """Fit alpha.

        Args:
            train: N training rows.
            f0_scale: s, which multiplies f_0.
            strength: lambda, in units of the kernel; by default that of the lowest loss on rows
                that were held out.
            folds: stratified folds of whole samples for that choice.
            validation: rows to choose lambda on instead of folds.

        Raises:
            InputError: an asymmetric, indefinite or zero kernel, f_0 missing, or wrong options.
        """
        require_symmetric(train.kernel, self.name)

        def path(
            part: TrainingSet, strengths: Sequence[float], final: bool
        ) -> tuple[list[Array], bool]:
            return self.path(part, strengths, f0_scale, TOLERANCE if final else SEARCH_TOLERANCE)

        alpha, found, converged = solve(
            train,
            path,
            self.loss,
            f0_scale=f0_scale,
            strength=strength,
            folds=folds,
            validation=validation,
        )
        rows = None if validation is None else len(validation.labels)
        return KernelModel(
            self.name,
            alpha,
            np.zeros(train.classes),
            f0_scale,
            strength=found,
            converged=converged,
            probabilistic=self.probabilistic,
            settings={"f0_scale": f0_scale, "validation_rows": rows},
            caveats=(SEEN_OFFSET,) if f0_scale != 0 and found.folds > 0 else (),
        )


def _logistic_path(
    train: TrainingSet, strengths: Sequence[float], f0_scale: float, tolerance: float
) -> tuple[list[Array], bool]:
    """alpha [N, C] for each strength, each fit starting from the one before."""
    rows, classes = len(train.labels), train.classes
    contrasts = sum_free_contrasts(classes)
    vectors, features = _contrast_features(train.kernel, contrasts)
    offset, rank = train.offset(f0_scale), features.shape[2]
    alphas, converged, start = [], True, np.zeros(rank)
    for strength in strengths:
        fit = fit_softmax(
            features,
            contrasts,
            train.labels,
            offset,
            np.full(rank, strength),
            start=start,
            tolerance=tolerance,
        )
        start, converged = fit.coefficients, converged and fit.converged
        seen = (fit.residual @ contrasts).ravel()
        kept = vectors @ (vectors.T @ seen)
        alphas.append(kept.reshape(rows, classes - 1) @ contrasts.T / strength)
    return alphas, converged


def _contrast_features(kernel: Array, contrasts: Array) -> tuple[Array, Array]:
    """Eigenvectors U [N k, r] and features U sqrt(Lambda) [N, k, r] of the contrasts' kernel.

    That kernel is ``E^T K(x, x') E``, k x k per pair of samples; P's is P times I_k.
    """
    rows, width = len(kernel), contrasts.shape[1]
    if kernel.ndim == 2:
        own_values, own_vectors = positive_part(kernel, "klr")
        values = np.repeat(own_values, width)
        vectors = np.asarray(np.kron(own_vectors, np.eye(width)), dtype=np.float64)
    else:
        seen = np.einsum("ca,ncmd,db->namb", contrasts, kernel, contrasts, optimize=True)
        values, vectors = positive_part(seen.reshape(rows * width, rows * width), "klr")
    return vectors, (vectors * np.sqrt(values)).reshape(rows, width, len(values))


def _ridge_path(
    train: TrainingSet, strengths: Sequence[float], f0_scale: float, _tolerance: float
) -> tuple[list[Array], bool]:
    """alpha [N, C] for each strength, from one eigendecomposition."""
    target = train.one_hot - train.offset(f0_scale)
    if train.kernel.ndim == 2:
        matrix, columns = train.kernel, target
    else:
        matrix, columns = entry_matrix(train.kernel, train.classes), target.reshape(-1, 1)
    values, vectors = positive_part(matrix, "krr")
    projected = vectors.T @ columns
    alphas = [
        (vectors @ (projected / (values + strength)[:, None])).reshape(target.shape)
        for strength in strengths
    ]
    return alphas, True


fit_kernel_logistic = ClassSolver("klr", _logistic_path, held_out_nll, probabilistic=True)
"""Multinomial kernel logistic regression with the offset f_0.

Minimises ``sum_i CE(y_i, f(x_i)) + lambda/2 alpha^T K alpha`` with
``f(x) = s f_0(x) + sum_i K(x, x_i) alpha_i``. At the optimum
``alpha_i = (onehot(y_i) - softmax f(x_i)) / lambda`` (up to K's null space, which is left out);
the rows of alpha sum to zero. It is the L2 logistic regression on the gradients of the logits (for
P: on [phi, 1] without a further intercept, scikit-learn's ``LogisticRegression`` with
C = 1 / lambda, and 2 / lambda for two classes, where it has one row of weights for two). Newton's
method runs on the eigenvectors of the part of K that a softmax sees, N (C - 1) wide.

Source: Zhu and Hastie, Journal of Computational and Graphical Statistics 14(1), 2005; the kernel
with coupled outputs: Alvarez et al., Foundations and Trends in Machine Learning, 2012.
"""

fit_kernel_ridge = ClassSolver("krr", _ridge_path, held_out_squares, probabilistic=False)
"""Kernel ridge regression of the one-hot labels with the offset f_0.

Minimises ``sum_i ||onehot(y_i) - f(x_i)||^2 + lambda alpha^T K alpha`` with
``f(x) = s f_0(x) + sum_i K(x, x_i) alpha_i``: ``(K + lambda I) alpha = onehot(y) - s f_0`` over
all N C entries. For P it is scikit-learn's ``KernelRidge(alpha=lambda)`` per class.

Source: Saunders, Gammerman and Vovk, ICML 1998; the offset: Malladi et al., ICML 2023.
"""
