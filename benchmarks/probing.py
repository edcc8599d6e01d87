"""scikit-learn's solvers for linear probing, at the shapes of the paper's datasets.

Synthetic features with the spread of real ones; the whole cross-validated search is timed.

    python benchmarks/probing.py
"""

import statistics
import warnings
from functools import partial

import numpy as np
from common import record, seconds
from sklearn.linear_model import LogisticRegressionCV

from lpft.training.probing import FOLDS, MAX_ITERATIONS, SEARCH_TOLERANCE, SOLVER, STRENGTHS

SHAPES = ((225, 384, 3), (2241, 384, 2), (20_000, 384, 2))
SOLVERS = ("lbfgs", "newton-cg", "newton-cholesky")
SKIPPED = {
    ("newton-cholesky", SHAPES[0]): "minutes: it factors a Hessian of 1152 columns in each step",
    ("lbfgs", SHAPES[2]): "minutes: thousands of iterations",
}
REPEATS = 1


def problem(rows: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    spread = generator.lognormal(-1.5, 0.6, width)
    features = (generator.normal(size=(rows, width)) * spread).astype(np.float32)
    noise = generator.normal(size=(rows, classes))
    return features, (features @ generator.normal(size=(width, classes)) + noise).argmax(1)


def search(features: np.ndarray, labels: np.ndarray, solver: str) -> None:
    LogisticRegressionCV(
        Cs=STRENGTHS,
        cv=FOLDS,
        l1_ratios=(0.0,),
        scoring="accuracy",
        use_legacy_attributes=False,
        tol=SEARCH_TOLERANCE,
        max_iter=MAX_ITERATIONS,
        solver=solver,
    ).fit(features, labels)


def main() -> None:
    warnings.simplefilter("ignore")
    rows = []
    for shape in SHAPES:
        features, labels = problem(*shape)
        times: dict[str, float | str] = {}
        for solver in SOLVERS:
            if (solver, shape) in SKIPPED:
                times[solver] = SKIPPED[solver, shape]
                continue
            fit = partial(search, features, labels, solver)
            repeats = [seconds(fit) for _ in range(REPEATS)]
            times[solver] = round(statistics.median(repeats), 2)
        rows.append(
            {
                "rows": shape[0],
                "width": shape[1],
                "classes": shape[2],
                "seconds": times,
            }
        )
        print(rows[-1], flush=True)
    record("probing", {"used": SOLVER, "repeats": REPEATS, "shapes": rows})


if __name__ == "__main__":
    main()
