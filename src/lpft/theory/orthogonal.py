"""Corollary 4.3: inputs orthogonal to the training inputs keep their features."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lpft.errors import InputError
from lpft.theory.linear_model import LinearModel, gradient_descent, random_linear_model

Array = NDArray[np.float64]


@dataclass(frozen=True)
class OrthogonalCheck:
    """What gradient descent did to the features of a linear encoder.

    ``orthogonal`` is the largest relative change ``||phi(x) - phi_0(x)|| / ||phi_0(x)||`` over
    inputs orthogonal to all training inputs, where Corollary 4.3 promises 0; ``generic`` is the
    smallest such change over inputs drawn freely.
    """

    orthogonal: float
    generic: float


def check_orthogonal(
    *,
    inputs: int,
    features: int,
    classes: int,
    rows: int,
    head_scale: float,
    rate: float,
    steps: int,
    seed: int,
    probes: int = 16,
) -> OrthogonalCheck:
    """Train a random linear model and see which features moved.

    ``phi(x) = B x`` and every step adds a combination of ``V^T delta_i x_i^T`` to B, so ``B x``
    stays for every x with ``<x, x_i> = 0`` for all i, whatever the head does meanwhile. Training
    is :func:`lpft.theory.gradient_descent`, on the real objective with the head moving too.

    Args:
        inputs, features, classes: widths d, h, C.
        rows: N training inputs, fewer than d, standard normal with random labels.
        head_scale: standard deviation of V's entries at the start.
        probes: inputs of each kind whose features are compared.

    Raises:
        InputError: no direction is orthogonal to all training inputs.
    Source: Tomihari and Sato, NeurIPS 2024, Corollary 4.3.
    """
    if rows >= inputs:
        raise InputError(
            f"rows: expected fewer training inputs than their width {inputs}, so that some "
            f"direction is orthogonal to them, found {rows}"
        )
    rng = np.random.default_rng(seed)
    start = random_linear_model(inputs, features, classes, head_scale=head_scale, rng=rng)
    training = rng.normal(size=(rows, inputs))
    labels = rng.integers(classes, size=rows)
    trained = gradient_descent(start, training, labels, rate=rate, steps=steps)
    generic = rng.normal(size=(probes, inputs))
    orthogonal = _without_span(rng.normal(size=(probes, inputs)), training)
    return OrthogonalCheck(
        orthogonal=float(_relative_change(start, trained, orthogonal).max()),
        generic=float(_relative_change(start, trained, generic).min()),
    )


def _without_span(vectors: Array, spanning: Array) -> Array:
    """The vectors [K, d] less their projection on the span of ``spanning`` [N, d].

    Twice: what rounding leaves of the projection the first time is as large as the vector was.
    """
    basis, _ = np.linalg.qr(spanning.T)
    for _ in range(2):
        vectors = vectors - (vectors @ basis) @ basis.T
    return vectors


def _relative_change(start: LinearModel, trained: LinearModel, inputs: Array) -> Array:
    before = start.features(inputs)
    moved = np.linalg.norm(trained.features(inputs) - before, axis=1)
    return moved / np.linalg.norm(before, axis=1)
