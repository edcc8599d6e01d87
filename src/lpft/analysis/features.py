"""How features lie and how far they moved: CS(F), Diff(F) and FDR(F) of the paper.

Features are phi of each text, [N, h]. Float32 features can neither overflow nor vanish here:
their squares are well inside the range of float64.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lpft.analysis.inputs import class_indices, finite_matrix
from lpft.errors import InputError

_EIGENVALUE_CUT = 1e-10  # of the largest eigenvalue of S_W


def cosine_similarity(features: ArrayLike) -> float | None:
    """CS(F): mean cosine similarity over all pairs of different rows.

    ``CS = (||sum_i u_i||^2 - sum_i ||u_i||^2) / (N (N - 1))`` with ``u_i = phi_i / ||phi_i||``,
    in O(N h). A zero vector has no direction: its cosine with every other row counts as 0, as in
    scikit-learn's ``cosine_similarity``. None for one row, which makes no pair.

    ``features`` [N, h].

    Raises:
        InputError: not a matrix, empty, or not finite.
    Source: Tomihari and Sato, NeurIPS 2024, Table 1.
    """
    table = finite_matrix(features, "features")
    rows = len(table)
    if rows == 1:
        return None
    norms = np.linalg.norm(table, axis=1, keepdims=True)
    units = np.divide(table, norms, out=np.zeros_like(table), where=norms > 0)
    total = units.sum(axis=0)
    own = np.count_nonzero(norms)
    return float((total @ total - own) / (rows * (rows - 1)))


def feature_difference(features: ArrayLike, pretrained: ArrayLike) -> float:
    """Diff(F): mean distance of each row's feature from its pre-trained one.

    ``Diff = (1/N) sum_i ||phi(x_i) - phi_0(x_i)||_2``; :func:`feature_differences` says what goes
    in and what is raised.

    Source: Tomihari and Sato, NeurIPS 2024, Table 1.
    """
    return float(feature_differences(features, pretrained).mean())


def feature_differences(features: ArrayLike, pretrained: ArrayLike) -> NDArray[np.float64]:
    """The distance of each row's feature from its pre-trained one, [N].

    ``||phi(x_i) - phi_0(x_i)||_2``.

    ``features``, ``pretrained`` [N, h], the same texts in the same order.

    Raises:
        InputError: not matrices of one shape, empty, or not finite.
    """
    table = finite_matrix(features, "features")
    start = finite_matrix(pretrained, "pre-trained features")
    if table.shape != start.shape:
        raise InputError(
            f"features: expected the shape of the pre-trained features, {start.shape}, "
            f"found {table.shape}; take both from the same texts and the same encoder"
        )
    return np.linalg.norm(table - start, axis=1)


def fisher_ratio(features: ArrayLike, labels: ArrayLike) -> float | None:
    """FDR(F): Fisher's discriminant ratio, scatter between classes over scatter within them.

    ``FDR = trace(S_W^+ S_B)`` with ``S_B = sum_c n_c (m_c - m)(m_c - m)^T`` over the classes that
    are present and ``S_W = sum_c sum_{i in c} (phi_i - m_c)(phi_i - m_c)^T``; eigenvalues of S_W
    below 1e-10 of the largest are cut off. For two classes and N > h it equals
    ``R^2 / (1 - R^2)`` of regressing the label on the features. It is 0 where the class means
    coincide (S_B = 0), so also for a single class, and None where they differ but no class
    varies at all (S_W = 0), as with one row per class: that ratio has no bound.

    ``features`` [N, h]; ``labels`` [N] class indices.

    Raises:
        InputError: not a matrix, empty, not finite, or wrong labels.
    Source: Fisher 1936; the paper (Tomihari and Sato, NeurIPS 2024, Table 1) gives no formula.
    """
    table = finite_matrix(features, "features")
    indices = class_indices(labels, len(table))
    # Relative to one of the rows, equal rows are exactly 0, and what rounding leaves afterwards
    # is small against the spread of the features, not against their size.
    offsets = table - table[0]
    noise = np.finfo(np.float64).eps * max(table.shape) * float(np.linalg.norm(offsets))

    groups = [indices == label for label in np.unique(indices)]
    counts = np.array([group.sum() for group in groups])
    means = np.stack([offsets[group].mean(axis=0) for group in groups])
    between = np.sqrt(counts)[:, None] * (means - offsets.mean(axis=0))
    if len(groups) == 1 or np.linalg.norm(between) <= noise:
        return 0.0

    for group, mean in zip(groups, means, strict=True):
        offsets[group] -= mean
    eigenvalues, directions = _scatter_spectrum(offsets)
    if eigenvalues.max() <= noise**2:
        return None
    kept = eigenvalues > max(_EIGENVALUE_CUT * eigenvalues.max(), noise**2)
    projected = between @ directions[:, kept]
    return float(np.sum(projected**2 / eigenvalues[kept]))


def _scatter_spectrum(
    centred: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eigenvalues [min(N, h)] and eigenvectors [h, min(N, h)] of S_W = centred^T centred.

    Forming S_W costs digits only below about 1e-15 of its largest eigenvalue, far under the cut,
    and is much faster than an SVD of many rows; for few rows it would be the larger matrix.
    """
    rows, width = centred.shape
    if rows > width:
        eigenvalues, vectors = np.linalg.eigh(centred.T @ centred)
        return eigenvalues, vectors
    _, roots, directions = np.linalg.svd(centred, full_matrices=False)
    return roots**2, directions.T


def feature_statistics(
    features: ArrayLike, pretrained: ArrayLike, labels: ArrayLike
) -> dict[str, Any]:
    """CS, Diff and FDR of one split, before and after training, as ``features.json`` stores them.

    ``features``, ``pretrained`` [N, h], the same texts in the same order; ``labels`` [N] class
    indices. :func:`cosine_similarity`, :func:`feature_difference` and :func:`fisher_ratio` give
    the equations, where a value is None, and what is raised.
    """
    return {
        "cosine_similarity": cosine_similarity(features),
        "feature_difference": feature_difference(features, pretrained),
        "fisher_ratio": fisher_ratio(features, labels),
        "pretrained": {
            "cosine_similarity": cosine_similarity(pretrained),
            "fisher_ratio": fisher_ratio(pretrained, labels),
        },
    }
