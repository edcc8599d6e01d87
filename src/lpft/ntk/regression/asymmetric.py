"""Least squares with an asymmetric kernel, for asymmetric SignGD."""

import numpy as np

from lpft.errors import InputError
from lpft.ntk.regression.entries import entry_problem
from lpft.ntk.regression.kernels import Array, TrainingSet
from lpft.ntk.regression.model import KernelModel

RESONANCE = (
    "a singular value of the training kernel lies within 1% of 1/gamma, where the asymmetric "
    "system is nearly singular and its solution large: take another gamma"
)
_NEAR = 1e-2


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
    lambda = 1/gamma. The system is solved in K's singular vectors.

    As in LM-Kernel-FT, the paper's two intercepts are left out. Unlike there, several classes are
    all entries at once (LM-Kernel-FT takes two classes with a single logit; the kernel of a
    difference of logits cannot be had from signs of each), and the equations are not multiplied by
    y, which is the same for y = +-1 but not once an f_0 is subtracted. LM-Kernel-FT's kernel has
    its rows and columns exchanged, ``<t, s>``.

    Args:
        gamma: weight of the errors, in units of 1 / kernel; LM-Kernel-FT's ``kernel_gamma``.
        mix: between 0 and 1; LM-Kernel-FT's ``kernel_lambda``, which its published options lack;
            AsK-LS weighs both alike. Below 1, prediction needs the reversed kernel.
        f0_scale, regularization: as in :func:`~lpft.ntk.regression.entries.entry_problem`.

    Raises:
        InputError: f_0 is missing, or wrong options.
    Source: He, He, Shi, Huang and Suykens, Learning with asymmetric kernels: least squares and
    feature interpretation, IEEE TPAMI 45(8), 2023; Malladi et al., ICML 2023 (solver ``asym``).
    """
    if not (np.isfinite(gamma) and gamma > 0):
        raise InputError(f"gamma: expected a finite number above 0, found {gamma}")
    if not 0 <= mix <= 1:
        raise InputError(f"mix: expected a number from 0 to 1, found {mix}")
    entries = entry_problem(train, f0_scale=f0_scale, regularization=regularization)
    alpha, beta, near = solve_asymmetric(entries.matrix, entries.signs - entries.offset, gamma)
    return KernelModel(
        "asymmetric",
        mix * entries.coefficients(beta),
        entries.intercept(0.0),
        f0_scale,
        reverse_coefficients=None if mix == 1 else (1 - mix) * entries.coefficients(alpha),
        settings={**entries.settings, "gamma": gamma, "mix": mix},
        caveats=(RESONANCE,) if near else (),
    )


def solve_asymmetric(matrix: Array, targets: Array, gamma: float) -> tuple[Array, Array, bool]:
    """alpha, beta [n] of smallest norm, and whether the system is nearly singular.

    With ``K = U S V^T``, ``a = U^T alpha`` and ``b = V^T beta``, sum and difference part:
    ``(1/gamma + S)(a + b) = (U + V)^T y`` and ``(1/gamma - S)(a - b) = (U - V)^T y``.
    """
    left, values, right = np.linalg.svd(matrix)
    seen_left, seen_right = left.T @ targets, right @ targets
    total = (seen_left + seen_right) / (1 / gamma + values)
    gaps, contrast = 1 / gamma - values, seen_left - seen_right
    rounding = len(values) * np.finfo(np.float64).eps
    solvable = np.abs(gaps) > rounding * max(float(values[0]), 1 / gamma)
    difference = np.divide(contrast, gaps, out=np.zeros_like(gaps), where=solvable)
    felt = np.abs(contrast) > rounding * np.linalg.norm(targets)
    near = bool(np.any(felt & (np.abs(gaps) < _NEAR / gamma)))
    return left @ (total + difference) / 2, right.T @ (total - difference) / 2, near
