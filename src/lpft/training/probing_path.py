"""The way of the linear probe: its head after 1, 2, ... iterations of lbfgs from zero."""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from lpft.analysis.calibration import negative_log_likelihood
from lpft.settings import ClassWeight
from lpft.training.history import head_values
from lpft.training.probing import MAX_ITERATIONS, SEARCH_TOLERANCE, TOLERANCE, rows_per_class

SOLVER = "lbfgs"
"""The paper's; :func:`~lpft.training.probing.fit_probe` meets the same optimum by another."""

POINTS = 24


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
    class_weight: ClassWeight | None = None,
) -> ProbingPath:
    """The heads that lbfgs passes on its way from zero to the linear probe.

    Each is scikit-learn's ``LogisticRegression(solver="lbfgs", max_iter=k)`` from its zero start,
    which minimises ``sum_i C CE(y_i, softmax(V phi_i + b)) + ||V||^2 / 2``. A fit of k iterations
    is the k-th iterate of the whole fit, since lbfgs looks at its limit only to stop; going on by
    ``warm_start`` would forget the curvature that lbfgs has gathered, and take another way. All
    points together take about five times as long as the whole fit.

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
                solver=SOLVER,
                max_iter=iterations,
                tol=tolerance,
                fit_intercept=fit_bias,
                class_weight=class_weight,
            ).fit(inputs, labels)

    stop, last = (
        int(fit(MAX_ITERATIONS, tolerance).n_iter_[0])
        for tolerance in (SEARCH_TOLERANCE, TOLERANCE)
    )
    spaced = np.geomspace(1, max(last, 1), POINTS).round().astype(int)
    points = [PathPoint(0, np.zeros((classes, inputs.shape[1])), np.zeros(classes))]
    for iteration in sorted({*spaced.tolist(), stop} - {0}):
        head = rows_per_class(fit(iteration, TOLERANCE), inputs, classes)
        points.append(PathPoint(iteration, *head))
    return ProbingPath(tuple(points), stop)


def path_rows(
    path: ProbingPath,
    train: tuple[NDArray[np.float32], NDArray[np.int64]],
    validation: tuple[NDArray[np.float32], NDArray[np.int64]],
) -> list[dict[str, float]]:
    """What ``history.jsonl`` records of a training, for each point of the path.

    ``train`` and ``validation`` are phi_0 (N x h) and class indices (N) of a split; ``iteration``
    takes the place of the epoch, and ``loss`` is the mean cross-entropy of all training rows in
    nats, without the penalty.
    """
    rows = []
    for point in path.points:
        of_train, of_validation = (
            split[0] @ point.weight.T + point.bias for split in (train, validation)
        )
        norms = float(np.linalg.norm(point.weight)), float(np.linalg.norm(point.bias))
        rows.append(
            {
                "iteration": point.iteration,
                "loss": negative_log_likelihood(of_train, train[1]),
                **head_values(*norms, of_validation, validation[1]),
            }
        )
    return rows
