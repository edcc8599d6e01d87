"""Kernel regression on empirical NTKs: the paper's protocol, sound ones, LM-Kernel-FT's solvers."""

import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import f1_score
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from lpft.analysis.calibration import negative_log_likelihood
from lpft.analysis.inputs import as_array, class_indices, short_repr
from lpft.errors import InputError
from lpft.ntk.regression.entries import (
    entry_accuracy,
    fit_asymmetric,
    fit_least_squares,
    fit_paper_protocol,
    fit_row_logistic,
    fit_svc,
    fit_svr,
)
from lpft.ntk.regression.kernels import (
    Array,
    KernelModel,
    KernelPair,
    Labels,
    Strength,
    TrainingSet,
    ValidationSet,
    require_two_classes,
)
from lpft.ntk.regression.multiclass import RELATIVE_STRENGTHS, fit_kernel_logistic, fit_kernel_ridge

__all__ = [
    "RELATIVE_STRENGTHS",
    "SOLVERS",
    "KernelModel",
    "KernelPair",
    "RegressionResult",
    "RegressionScores",
    "Strength",
    "TrainingSet",
    "ValidationSet",
    "regress",
    "solver_options",
]

SOLVERS: dict[str, Callable[..., KernelModel]] = {
    "klr": fit_kernel_logistic,
    "krr": fit_kernel_ridge,
    "paper": fit_paper_protocol,
    "logistic": fit_row_logistic,
    "svc": fit_svc,
    "svr": fit_svr,
    "lstsq": fit_least_squares,
    "asymmetric": fit_asymmetric,
}
"""Solvers by name: each takes a training set and its own options, and returns a model."""

_LARGEST_ON_ONE_THREAD = 1500
"""Entries N C. The many small products of the solvers gain nothing from BLAS threads up to here,
and wait for cores that another process has."""


@dataclass(frozen=True)
class RegressionScores:
    """Of one set of rows, as fractions: the predicted class per sample, its macro-F1, and the
    NLL in nats of ``klr`` (None of others, whose logits are no log-probabilities).

    ``entry_accuracy`` is the paper protocol's number, None of other solvers.
    """

    accuracy: float
    macro_f1: float
    nll: float | None
    entry_accuracy: float | None


@dataclass(frozen=True)
class RegressionResult:
    """A fitted model with its logits, [N, C] and [M, C], and its scores on both sets."""

    model: KernelModel
    train_logits: Array
    test_logits: Array
    train: RegressionScores
    test: RegressionScores

    __repr__ = short_repr

    def as_record(self) -> dict[str, Any]:
        """Everything but the arrays, ready for JSON.

        ``strength`` is lambda (for ``paper`` and ``logistic`` 1 / C), ``relative_strength`` its
        ratio to the kernel's mean diagonal. The paper protocol has ``train_entry_accuracy``,
        ``test_entry_accuracy`` and ``constant_entry_accuracy`` besides.
        """
        model, strength = self.model, self.model.strength
        record = {
            "solver": model.solver,
            "strength": None if strength is None else strength.value,
            "relative_strength": None if strength is None else strength.relative,
            "folds": None if strength is None else strength.folds,
            "strength_at_edge": None if strength is None else strength.at_edge,
            "converged": model.converged,
            "settings": dict(model.settings),
            "caveats": list(model.caveats),
        }
        for split, scores in (("train", self.train), ("test", self.test)):
            record |= {f"{split}_{name}": value for name, value in asdict(scores).items()}
        if self.train.entry_accuracy is None:
            del record["train_entry_accuracy"], record["test_entry_accuracy"]
        else:
            classes = self.test_logits.shape[1]
            record["constant_entry_accuracy"] = (classes - 1) / classes  # of 'no' to every entry
        return record


def regress(
    pair: KernelPair,
    labels_train: ArrayLike,
    labels_test: ArrayLike,
    f0_train: Array | None = None,
    f0_test: Array | None = None,
    *,
    solver: str = "klr",
    **options: Any,
) -> RegressionResult:
    """Fit a kernel on the training rows and score it on both sets.

    ``pair`` the kernel; ``labels_train`` [N] and ``labels_test`` [M] class indices; ``f0_train``
    [N, C] and ``f0_test`` [M, C] logits at the start, for solvers that add ``f0_scale`` times
    them; ``solver`` a name in ``SOLVERS`` and ``options`` its keywords.

    Raises:
        InputError: an unknown solver, an option that it does not have, inputs that do not fit
            together or are not finite, training rows of one class, or a kernel that the solver
            cannot take.
    """
    fit = SOLVERS.get(solver)
    if fit is None:
        raise InputError(f"solver '{solver}' is unknown: expected one of {', '.join(SOLVERS)}")
    option_names = solver_options(solver)
    unknown = sorted(set(options) - set(option_names))
    if unknown:
        takes = f"it takes {', '.join(option_names)}" if option_names else "it takes none"
        raise InputError(f"solver '{solver}' has no option {', '.join(unknown)}: {takes}")
    train = TrainingSet(pair.train, as_array(labels_train, "labels"), pair.classes, f0_train)
    require_two_classes(train.labels)
    test_labels = class_indices(labels_test, len(pair.test), pair.classes)
    small = len(train.labels) * train.classes <= _LARGEST_ON_ONE_THREAD
    with threadpool_limits(limits=1 if small else None, user_api="blas"):
        model = fit(train, **options)
    fitted = model.predict(pair.train, train.f0, pair.train)
    reverse = None if model.reverse_coefficients is None else pair.reversed()
    predicted = model.predict(pair.test, f0_test, reverse)
    return RegressionResult(
        model,
        fitted,
        predicted,
        _scores(model, fitted, train.labels),
        _scores(model, predicted, test_labels),
    )


def solver_options(solver: str) -> tuple[str, ...]:
    """The names of a solver's options."""
    return tuple(inspect.signature(SOLVERS[solver]).parameters)[1:]


def _scores(model: KernelModel, logits: Array, labels: Labels) -> RegressionScores:
    classes = logits.argmax(axis=1)
    return RegressionScores(
        accuracy=float(np.mean(classes == labels)),
        macro_f1=float(f1_score(labels, classes, average="macro", zero_division=0)),
        nll=negative_log_likelihood(logits, labels) if model.probabilistic else None,
        entry_accuracy=entry_accuracy(logits, labels) if model.solver == "paper" else None,
    )
