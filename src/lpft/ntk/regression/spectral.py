"""The eigenvectors of a symmetric training kernel that carry more than rounding."""

import numpy as np

from lpft.errors import InputError
from lpft.ntk.regression.kernels import Array

_MOST_NEGATIVE = 1e-2


def positive_part(matrix: Array, solver: str) -> tuple[Array, Array]:
    """Eigenvalues [r] in descending order and eigenvectors [n, r] above the noise of the matrix.

    Noise is taken as ``max(n eps lambda_max, 2 |lambda_min|)``: rounding (of float32, where the
    kernel was computed in it) is what makes eigenvalues of a Gram matrix negative, and makes about
    as many positive that should be 0. Directions below it have no part in the solution.

    Raises:
        InputError: ``-lambda_min`` above 1% of ``lambda_max``, or no positive eigenvalue.
    """
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    lowest, highest = float(values[0]), float(values[-1])
    if highest <= 0 or -lowest > _MOST_NEGATIVE * highest:
        raise InputError(
            f"solver '{solver}' needs a training kernel that is positive semidefinite and not 0 "
            f"(klr: between differences of logits), found eigenvalues from {lowest:.3g} to "
            f"{highest:.3g}"
        )
    noise = max(len(values) * np.finfo(np.float64).eps * highest, -2 * lowest)
    kept = values > noise
    return values[kept][::-1], vectors[:, kept][:, ::-1]
