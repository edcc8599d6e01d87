"""Statistics of features, CS(F), Diff(F) and FDR(F) of the paper, and their picture by t-SNE.

Features are phi of each text, [N, h]; labels are N class indices. Everything here raises
``InputError`` for matrices that are empty, not finite or of other shapes than each other, and for
wrong labels. Float32 features can neither overflow nor vanish: their squares are well inside the
range of float64.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lpft.analysis.inputs import as_array, class_indices, finite_matrix
from lpft.errors import InputError

PERPLEXITY = 30.0
"""scikit-learn's default; a third of the points where these are fewer."""

PROJECTION = (
    "Features are taken relative to the mean pre-trained feature and rows of the head relative to "
    "their mean, which no prediction depends on; all are divided by their lengths, so that a row "
    "lies close to the features whose logit it raises most, and t-SNE of the Euclidean distances "
    "places features and rows, before and after training, at once."
)
"""What :func:`project_with_head` does, for captions."""

_EIGENVALUE_CUT = 1e-10  # of the largest eigenvalue of S_W

_CHUNK_NUMBERS = 1 << 22
"""Numbers that are in float64 at a time (32 MB)."""


def feature_statistics(
    features: ArrayLike, pretrained: ArrayLike, labels: ArrayLike
) -> dict[str, Any]:
    """CS, Diff and FDR of one split, before and after training, as ``features.json`` stores them.

    ``features``, ``pretrained`` [N, h], the same texts in the same order; ``labels`` [N] class
    indices. :func:`cosine_similarity`, :func:`feature_difference` and :func:`fisher_ratio` give
    the equations, and where a value is None.
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


def cosine_similarity(features: ArrayLike) -> float | None:
    """CS(F): mean cosine similarity over all pairs of different rows.

    ``CS = (||sum_i u_i||^2 - sum_i ||u_i||^2) / (N (N - 1))`` with ``u_i = phi_i / ||phi_i||``,
    in O(N h). A zero vector has no direction: its cosine with every other row counts as 0, as in
    scikit-learn's ``cosine_similarity``. None for one row, which makes no pair.

    Source: Tomihari and Sato, NeurIPS 2024, Table 1.
    """
    table = _Table(features, "features")
    rows, width = table.shape
    total, nonzero = np.zeros(width), 0
    for chunk in table:
        units = _directions(chunk)
        total += units.sum(axis=0)
        nonzero += int(np.count_nonzero(units.any(axis=1)))
    return None if rows == 1 else float((total @ total - nonzero) / (rows * (rows - 1)))


def feature_difference(features: ArrayLike, pretrained: ArrayLike) -> float:
    """Diff(F): mean distance of each row's feature from its pre-trained one.

    ``Diff = (1/N) sum_i ||phi(x_i) - phi_0(x_i)||_2``, the mean of :func:`feature_differences`.

    Source: Tomihari and Sato, NeurIPS 2024, Table 1.
    """
    return float(feature_differences(features, pretrained).mean())


def feature_differences(features: ArrayLike, pretrained: ArrayLike) -> NDArray[np.float64]:
    """The distance of each row's feature from its pre-trained one, ``||phi(x_i) - phi_0(x_i)||_2``.

    ``features``, ``pretrained`` [N, h], the same texts in the same order; the distances are [N].
    """
    before, after = _Table(pretrained, "features before"), _Table(features, "features after")
    _check_same_shape(before.shape, after.shape, "features")
    pairs = zip(before, after, strict=True)
    return np.concatenate([np.linalg.norm(end - start, axis=1) for start, end in pairs])


def fisher_ratio(features: ArrayLike, labels: ArrayLike) -> float | None:
    """FDR(F): Fisher's discriminant ratio, scatter between classes over scatter within them.

    ``FDR = trace(S_W^+ S_B)`` with ``S_B = sum_c n_c (m_c - m)(m_c - m)^T`` over the classes that
    are present and ``S_W = sum_c sum_{i in c} (phi_i - m_c)(phi_i - m_c)^T``; eigenvalues of S_W
    below 1e-10 of the largest are cut off. For two classes and N > h it equals
    ``R^2 / (1 - R^2)`` of regressing the label on the features. It is 0 where the class means
    coincide (S_B = 0), so also for a single class, and None where they differ but no class
    varies at all (S_W = 0), as with one row per class: that ratio has no bound.

    Source: Fisher 1936; the paper (Tomihari and Sato, NeurIPS 2024, Table 1) gives no formula.
    """
    table = _Table(features, "features")
    rows, width = table.shape
    indices = class_indices(labels, rows)
    # Relative to one of the rows, equal rows are exactly 0, and what rounding leaves afterwards
    # is small against the spread of the features, not against their size.
    present, group = np.unique(indices, return_inverse=True)
    counts = np.bincount(group)
    sums, squares, start = np.zeros((len(present), width)), 0.0, 0
    for chunk in table.less_first():
        members = group[start : start + len(chunk)]
        for label in np.unique(members):
            sums[label] += chunk[members == label].sum(axis=0)
        squares += float(np.vdot(chunk, chunk))
        start += len(chunk)
    noise = np.finfo(np.float64).eps * max(rows, width) * float(np.sqrt(squares))

    means = sums / counts[:, None]
    between = np.sqrt(counts)[:, None] * (means - sums.sum(axis=0) / rows)
    if len(present) == 1 or np.linalg.norm(between) <= noise:
        return 0.0

    eigenvalues, directions = _scatter_spectrum(table, group, means)
    if eigenvalues.max() <= noise**2:
        return None
    above = eigenvalues > max(_EIGENVALUE_CUT * eigenvalues.max(), noise**2)
    projected = between @ directions[:, above]
    return float(np.sum(projected**2 / eigenvalues[above]))


def _scatter_spectrum(
    table: "_Table", group: NDArray[np.int64], means: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eigenvalues [min(N, h)] and eigenvectors [h, min(N, h)] of S_W.

    ``group`` [N] is the class of each row among the ``means`` [C, h], relative to the first row.
    Forming S_W costs digits only below about 1e-15 of its largest eigenvalue, far under the cut,
    and is much faster than an SVD of many rows; for few rows it would be the larger matrix.
    """
    rows, width = table.shape
    scatter, start = np.zeros((width, width)), 0
    for chunk in table.less_first():
        chunk -= means[group[start : start + len(chunk)]]
        start += len(chunk)
        if rows <= width and len(chunk) == rows:
            _, roots, directions = np.linalg.svd(chunk, full_matrices=False)
            return roots**2, directions.T
        scatter += chunk.T @ chunk
    eigenvalues, vectors = np.linalg.eigh(scatter)
    return eigenvalues, vectors


class _Table:
    """Features [N, h] that are read a chunk of rows at a time, in float64, each time anew.

    Raises:
        InputError: as :func:`~lpft.analysis.inputs.finite_matrix`; a chunk that is not finite when
            it is read.
    """

    def __init__(self, features: ArrayLike, name: str) -> None:
        self._array, self._name = as_array(features, name), name
        if self._array.ndim != 2 or self._array.size == 0:
            finite_matrix(self._array, name)  # which says what is wrong
        self.shape: tuple[int, int] = self._array.shape

    def __iter__(self) -> Iterator[NDArray[np.float64]]:
        rows = max(1, _CHUNK_NUMBERS // self.shape[1])
        for start in range(0, len(self._array), rows):
            chunk = np.array(self._array[start : start + rows], dtype=np.float64)
            if not np.isfinite(chunk).all():
                finite_matrix(self._array, self._name)  # of all rows, for the message
            yield chunk

    def less_first(self) -> Iterator[NDArray[np.float64]]:
        """The chunks relative to the first row."""
        first = np.array(self._array[0], dtype=np.float64)
        for chunk in self:
            chunk -= first
            yield chunk


@dataclass(frozen=True)
class Projection:
    """Positions in the plane of N features [N, 2] and C rows of the head [C, 2], before and after.

    Only nearness has a meaning: t-SNE's axes have no unit.
    """

    features_before: NDArray[np.float64]
    features_after: NDArray[np.float64]
    head_before: NDArray[np.float64]
    head_after: NDArray[np.float64]


def project_with_head(
    features_before: ArrayLike,
    features_after: ArrayLike,
    head_before: ArrayLike,
    head_after: ArrayLike,
    *,
    seed: int,
) -> Projection:
    """One t-SNE of features [N, h] and rows of V [C, h], both before and after training.

    With m the mean of ``features_before`` and v the mean row of each V, the points are
    ``(phi - m) / ||phi - m||`` and ``(V_c - v) / ||V_c - v||``: the softmax of ``V phi + b`` does
    not depend on v, and m adds the same logits V m to every text, as a bias does. The squared
    distance of two unit vectors is twice their cosine distance, so that lengths do not enter
    (those of V grow a hundredfold by linear probing); a vector without a length stays at 0.
    t-SNE is scikit-learn's, from a PCA, with ``seed``.

    Source: figures 5 and 6 of Tomihari and Sato, NeurIPS 2024, which do not state their scaling;
    van der Maaten and Hinton, JMLR 2008.
    """
    from sklearn.manifold import TSNE  # slow to import, and only this needs it

    phi_before, phi_after = _before_and_after(features_before, features_after, "features")
    rows_before, rows_after = _before_and_after(head_before, head_after, "rows of the head")
    if phi_before.shape[1] != rows_before.shape[1]:
        raise InputError(
            f"rows of the head: expected the features' width {phi_before.shape[1]}, found "
            f"{rows_before.shape[1]}; take both from one classifier"
        )
    middle = phi_before.mean(axis=0)
    centred = [
        phi_before - middle,
        phi_after - middle,
        rows_before - rows_before.mean(axis=0),
        rows_after - rows_after.mean(axis=0),
    ]
    points = np.concatenate([_directions(vectors) for vectors in centred])
    perplexity = min(PERPLEXITY, (len(points) - 1) / 3)
    plane = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(points)
    ends = np.cumsum([len(vectors) for vectors in centred[:-1]])
    return Projection(*np.split(plane.astype(np.float64), ends))


def _before_and_after(
    before: ArrayLike, after: ArrayLike, name: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    start, end = finite_matrix(before, f"{name} before"), finite_matrix(after, f"{name} after")
    _check_same_shape(start.shape, end.shape, name)
    return start, end


def _check_same_shape(before: tuple[int, ...], after: tuple[int, ...], name: str) -> None:
    if before != after:
        raise InputError(
            f"{name} after: expected the shape before training, {before}, found {after}; "
            "take both from the same texts and the same classifier"
        )


def _directions(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows divided by their lengths; rows of zeros stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
