"""Features and the rows of the head in one picture: t-SNE of their directions."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.manifold import TSNE

from lpft.analysis.inputs import finite_matrix
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


@dataclass(frozen=True)
class Projection:
    """Places in the plane of N features [N, 2] and of C rows of the head [C, 2], before and after.

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

    Raises:
        InputError: not matrices of one width, empty, not finite, or of other shapes after training.
    Source: figures 5 and 6 of Tomihari and Sato, NeurIPS 2024, which do not state their scaling;
    van der Maaten and Hinton, JMLR 2008.
    """
    phi_before, phi_after = _pair(features_before, features_after, "features")
    rows_before, rows_after = _pair(head_before, head_after, "rows of the head")
    if phi_before.shape[1] != rows_before.shape[1]:
        raise InputError(
            f"rows of the head: expected the features' width {phi_before.shape[1]}, found "
            f"{rows_before.shape[1]}; take both from one classifier"
        )
    middle = phi_before.mean(axis=0)
    points = np.concatenate(
        [
            _directions(phi_before - middle),
            _directions(phi_after - middle),
            _directions(rows_before - rows_before.mean(axis=0)),
            _directions(rows_after - rows_after.mean(axis=0)),
        ]
    )
    perplexity = min(PERPLEXITY, (len(points) - 1) / 3)
    placed = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(points)
    texts, classes = len(phi_before), len(rows_before)
    ends = np.cumsum([texts, texts, classes])
    return Projection(*np.split(placed.astype(np.float64), ends))


def _pair(
    before: ArrayLike, after: ArrayLike, name: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    start, end = finite_matrix(before, f"{name} before"), finite_matrix(after, f"{name} after")
    if start.shape != end.shape:
        raise InputError(
            f"{name} after: expected the shape before training, {start.shape}, found {end.shape}; "
            "take both from the same texts and the same classifier"
        )
    return start, end


def _directions(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
