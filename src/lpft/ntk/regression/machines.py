"""LM-Kernel-FT's support vector machines and least squares on the entries of a kernel."""

import warnings

import numpy as np
from scipy.linalg import lstsq
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import SVC, SVR

from lpft.errors import InputError
from lpft.ntk.regression.entries import Entries, entry_problem
from lpft.ntk.regression.kernels import Array, TrainingSet, require_symmetric
from lpft.ntk.regression.model import KernelModel, Setting

MAX_ITERATIONS = 1_000_000
"""Of libsvm. On a kernel of large entries that cannot separate the labels it may need more: then
the model is not converged, and a smaller cost helps."""


def fit_svc(
    train: TrainingSet,
    *,
    cost: float = 1.0,
    regularization: float = 0.0,
    single_logit: bool = False,
) -> KernelModel:
    """Support vector classification of entries: label's or not.

    scikit-learn's ``SVC(kernel="precomputed", C=cost)`` on the scalar problem of
    :mod:`lpft.ntk.regression.entries`: one-vs-rest for all classes at once, by one kernel machine
    with one intercept. A sample's logits are the decision values of its C entries (of a single
    logit z: -z/2 and z/2). As in the reference, there is no offset f_0.

    Args:
        cost: of the slack variables, in units of 1 / kernel.
        regularization, single_logit: as in :func:`~lpft.ntk.regression.entries.entry_problem`.

    Raises:
        InputError: an asymmetric kernel or wrong options.
    Source: Malladi et al., ICML 2023 (LM-Kernel-FT, solver ``svc``).
    """
    require_symmetric(train.kernel, "svc")
    entries = entry_problem(train, regularization=regularization, single_logit=single_logit)
    machine = SVC(kernel="precomputed", C=_positive("cost", cost), max_iter=MAX_ITERATIONS)
    return _fit_machine(machine, entries, entries.signs, "svc", {"cost": cost})


def fit_svr(
    train: TrainingSet,
    *,
    f0_scale: float = 0.0,
    cost: float = 1.0,
    tube: float = 0.1,
    regularization: float = 0.0,
    single_logit: bool = False,
) -> KernelModel:
    """Support vector regression of the targets minus ``s f_0``.

    scikit-learn's ``SVR(kernel="precomputed", C=cost, epsilon=tube)`` on the scalar problem of
    :mod:`lpft.ntk.regression.entries`, with the targets 0 and 1 (-1 and 1 of a single logit).

    Args:
        f0_scale, regularization, single_logit: as in
            :func:`~lpft.ntk.regression.entries.entry_problem`.
        cost: of deviations, in units of 1 / kernel.
        tube: the half-width within which a deviation costs nothing, in units of the targets.

    Raises:
        InputError: an asymmetric kernel, f_0 missing, or wrong options.
    Source: Malladi et al., ICML 2023 (LM-Kernel-FT, solver ``svr``).
    """
    require_symmetric(train.kernel, "svr")
    if not (np.isfinite(tube) and tube >= 0):
        raise InputError(f"tube: expected 0 or more, found {tube}")
    entries = entry_problem(
        train, f0_scale=f0_scale, regularization=regularization, single_logit=single_logit
    )
    machine = SVR(
        kernel="precomputed", C=_positive("cost", cost), epsilon=tube, max_iter=MAX_ITERATIONS
    )
    targets = entries.targets - entries.offset
    return _fit_machine(machine, entries, targets, "svr", {"cost": cost, "tube": tube})


def fit_least_squares(
    train: TrainingSet,
    *,
    f0_scale: float = 0.0,
    regularization: float = 0.0,
    single_logit: bool = False,
) -> KernelModel:
    """The least-squares solution of smallest norm of ``K alpha = t - s f_0``.

    Targets t are 0 and 1 (-1 and 1 of a single logit). Singular values below ``n eps sigma_max``
    count as 0. With a regularization r it is kernel ridge regression at the fixed
    ``lambda = r ||K||_2``. An asymmetric kernel is taken as it is.

    Arguments as in :func:`~lpft.ntk.regression.entries.entry_problem`.

    Raises:
        InputError: f_0 is missing, or wrong options.
    Source: Malladi et al., ICML 2023 (LM-Kernel-FT, solver ``lstsq``, its default).
    """
    entries = entry_problem(
        train, f0_scale=f0_scale, regularization=regularization, single_logit=single_logit
    )
    cut = len(entries.matrix) * np.finfo(np.float64).eps
    alpha = lstsq(entries.matrix, entries.targets - entries.offset, cond=cut)[0]
    return KernelModel(
        "lstsq",
        entries.coefficients(alpha),
        entries.intercept(0.0),
        f0_scale,
        settings=entries.settings,
    )


def _fit_machine(
    machine: SVC | SVR,
    entries: Entries,
    targets: Array,
    solver: str,
    own_settings: dict[str, Setting],
) -> KernelModel:
    """libsvm's solution as coefficients of all entries."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        machine.fit(entries.matrix, targets)
    alpha = np.zeros(len(entries.matrix))
    alpha[machine.support_] = machine.dual_coef_[0]
    return KernelModel(
        solver,
        entries.coefficients(alpha),
        entries.intercept(float(machine.intercept_[0])),
        entries.f0_scale,
        converged=not any(issubclass(item.category, ConvergenceWarning) for item in caught),
        settings={**entries.settings, **own_settings},
    )


def _positive(name: str, value: float) -> float:
    if not (np.isfinite(value) and value > 0):
        raise InputError(f"{name}: expected a finite number above 0, found {value}")
    return value
