"""The eigenvectors of a symmetric training kernel that carry more than rounding."""

import numpy as np

from lpft.errors import InputError
from lpft.ntk.regression.kernels import Array

_MOST_NEGATIVE = 1e-2


def positive_part(matrix: Array, solver: str) -> tuple[Array, Array]:
    """Eigenvalues [r] in descending order and eigenvectors [n, r] above the noise of the matrix.

    Noise is at most ``max(n eps lambda_max, |lambda_min|)``: rounding (of float32, where the
    kernel was computed in it) is what makes an eigenvalue of a Gram matrix negative, and makes
    others as much too large. Directions below it have no part in the solution.

    Raises:
        InputError: ``-lambda_min`` above 1% of ``lambda_max``: no kernel.
    """
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    lowest, highest = float(values[0]), float(values[-1])
    if highest <= 0 or -lowest > _MOST_NEGATIVE * highest:
        raise InputError(
            f"solver '{solver}' needs a positive semidefinite training kernel, found eigenvalues "
            f"from {lowest:.3g} to {highest:.3g}"
        )
    noise = max(len(values) * np.finfo(np.float64).eps * highest, -lowest)
    kept = values > noise
    return values[kept][::-1], vectors[:, kept][:, ::-1]
