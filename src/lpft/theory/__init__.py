"""Linear models in NumPy, float64: what the paper proves about them, checked numerically.

They have a linear encoder, ``f(x) = V B x + b``: encoder B [h, d], head V [C, h], bias b [C];
inputs [N, d] and [M, d]. The features' Jacobian in B is ``I_h`` times x, so every kernel is an
inner product of inputs times a fixed matrix.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from lpft.analysis.inputs import class_indices
from lpft.errors import InputError

Array = NDArray[np.float64]

MOST_INFORMATIVE_EPSILON = 2 / 3
"""Where eps^2 - eps^3 is largest, and with it the promise of Proposition 4.4 at every rank."""


# --- kernels


def pretrain_effective(features: Array, other: Array, *, head_bias: bool = True) -> Array:
    """P as N x M, which stands for that matrix times I_C: the share of the head's parameters.

    ``P(x, x') = <phi_0(x), phi_0(x')> + 1``, the 1 with a bias only. It knows the encoder by its
    features alone, so a low-rank adapter that starts at zero leaves it as it is.

    ``features`` [N, h], ``other`` [M, h]; InputError for widths that differ.

    Source: Tomihari and Sato, NeurIPS 2024, Proposition 4.1.
    """
    _check_widths(features, other, "features")
    return features @ other.T + float(head_bias)


def ft_effective(head: Array, inputs: Array, other: Array) -> Array:
    """F of full fine-tuning as N x C x M x C, the share of B: ``F(x, x') = <x, x'> V V^T``.

    ``head`` V [C, h], ``inputs`` [N, d], ``other`` [M, d]; InputError for widths that differ.

    Source: Tomihari and Sato, NeurIPS 2024, Proposition 4.1 for phi = B x.
    """
    _check_widths(inputs, other, "inputs")
    return np.einsum("nm,cd->ncmd", inputs @ other.T, head @ head.T)


def lora_ft_effective(head: Array, factor: Array, inputs: Array, other: Array) -> Array:
    """F of LoRA at its start as N x C x M x C, for ``phi(x) = (B_0 + B A) x`` with B = 0.

    ``F(x, x') = <A x, A x'> V V^T``: the gradient in A vanishes with B, the one in B is that of a
    linear encoder which reads A x. (PEFT's B A carries a factor alpha / r; F then carries its
    square.)

    ``head`` V [C, h], ``factor`` A [r, d], ``inputs`` [N, d], ``other`` [M, d]; InputError for
    widths that differ.

    Source: Tomihari and Sato, NeurIPS 2024, Proposition 4.4.
    """
    _check_widths(inputs, factor, "inputs and the factor A")
    _check_widths(inputs, other, "inputs")
    return ft_effective(head, inputs @ factor.T, other @ factor.T)


def _check_widths(left: Array, right: Array, name: str) -> None:
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1]:
        raise InputError(
            f"{name}: expected two matrices of one width, found shapes {left.shape} and "
            f"{right.shape}"
        )


# --- training


@dataclass(frozen=True)
class LinearModel:
    """``encoder`` B [h, d], ``head`` V [C, h] and ``bias`` b [C]."""

    encoder: Array
    head: Array
    bias: Array

    def features(self, inputs: Array) -> Array:
        """phi(x) = B x, [N, h], of inputs [N, d]."""
        return inputs @ self.encoder.T

    def logits(self, inputs: Array) -> Array:
        """f(x) = V phi(x) + b, [N, C], of inputs [N, d]."""
        return self.features(inputs) @ self.head.T + self.bias


def random_linear_model(
    inputs: int, features: int, classes: int, *, head_scale: float, rng: np.random.Generator
) -> LinearModel:
    """B with entries of variance 1/d, V with entries of standard deviation ``head_scale``, b = 0.

    ``inputs`` d, ``features`` h and ``classes`` C are widths.
    """
    return LinearModel(
        encoder=rng.normal(size=(features, inputs)) / np.sqrt(inputs),
        head=head_scale * rng.normal(size=(classes, features)),
        bias=np.zeros(classes),
    )


def gradient_descent(
    model: LinearModel, inputs: Array, labels: NDArray[np.int64], *, rate: float, steps: int
) -> LinearModel:
    """The model after ``steps`` of full-batch gradient descent on B, V and b together.

    The objective is the real one, ``sum_i CE(y_i, softmax(V B x_i + b))``, not its linearisation:
    with ``delta_i = onehot(y_i) - softmax(f(x_i))`` each step adds ``rate`` times
    ``sum_i V^T delta_i x_i^T`` to B, ``sum_i delta_i phi(x_i)^T`` to V and ``sum_i delta_i`` to b.

    ``inputs`` [N, d], ``labels`` [N] class indices.

    Raises:
        InputError: wrong labels, or a step that leaves the finite numbers.
    """
    indices = class_indices(labels, len(inputs), len(model.bias))
    targets = np.eye(len(model.bias))[indices]
    with np.errstate(over="ignore", invalid="ignore"):  # refused below, in a sentence
        for step in range(1, steps + 1):
            features = model.features(inputs)
            delta = targets - softmax(model.logits(inputs), axis=1)
            model = LinearModel(
                encoder=model.encoder + rate * (delta @ model.head).T @ inputs,
                head=model.head + rate * delta.T @ features,
                bias=model.bias + rate * delta.sum(axis=0),
            )
            if not np.isfinite(model.logits(inputs)).all():
                raise InputError(
                    f"rate: gradient descent at {rate:g} diverged in step {step}: "
                    "expected a rate at which the loss falls; lower it"
                )
    return model


# --- Corollary 4.3: inputs orthogonal to the training inputs keep their features


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
    """Train a random linear model by :func:`gradient_descent` and see which features moved.

    ``phi(x) = B x`` and every step adds a combination of ``V^T delta_i x_i^T`` to B, so ``B x``
    stays for every x with ``<x, x_i> = 0`` for all i, whatever the head does meanwhile.

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
    orthogonal = rng.normal(size=(probes, inputs))
    basis, _ = np.linalg.qr(training.T)
    # Twice: what rounding leaves of the projection the first time is as large as the vector was.
    for _ in range(2):
        orthogonal = orthogonal - (orthogonal @ basis) @ basis.T

    def relative_change(probed: Array) -> Array:
        before = start.features(probed)
        distance = np.linalg.norm(trained.features(probed) - before, axis=1)
        return distance / np.linalg.norm(before, axis=1)

    return OrthogonalCheck(
        orthogonal=float(relative_change(orthogonal).max()),
        generic=float(relative_change(generic).min()),
    )


# --- Proposition 4.4: how near LoRA's FT-effective kernel is to full fine-tuning's


@dataclass(frozen=True)
class LowRankCheck:
    """How often the inequality of Proposition 4.4 held over draws of the factor A.

    ``held`` is the fraction of draws for the pair of samples where it held least often;
    ``held_as_printed`` the same for the inequality without its factor sigma^2 r. ``promised`` is
    the proposition's probability, empty (``vacuous``) where it is not above 0.
    """

    rank: int
    epsilon: float
    sigma: float
    draws: int
    pairs: int
    held: float
    held_as_printed: float
    promised: float

    @property
    def vacuous(self) -> bool:
        return self.promised <= 0


def check_low_rank(
    head: Array,
    inputs: Array,
    *,
    ranks: Sequence[int],
    epsilons: Sequence[float],
    sigma: float,
    draws: int,
    rng: np.random.Generator,
) -> list[LowRankCheck]:
    """Draw LoRA's factor A again and again and count, for each pair of samples, how often

    ``||F_LoRA(x, x') - sigma^2 r F_FT(x, x')||
    <= eps sigma^2 r (||x||^2 + ||x'||^2) / 2 ||V V^T||``

    in the operator norm, beside the :func:`promised_probability`. Pairs are all i <= j, a sample
    with itself among them. The paper prints the right side without ``sigma^2 r``; that form is
    counted too.

    Args:
        head: V [C, h].
        inputs: [N, d].
        ranks, epsilons: one check for each pair of them, rank by rank.
        sigma: standard deviation of A's independent normal entries.
        draws: of A for each rank.

    Raises:
        InputError: a rank below 1, an eps outside (0, 1), sigma or draws not above 0.
    Source: Tomihari and Sato, NeurIPS 2024, Proposition 4.4, with the factor that its proof gives.
    """
    if not sigma > 0 or draws < 1:
        raise InputError(f"expected sigma and draws above 0, found sigma {sigma}, {draws} draws")
    promises = {(r, eps): promised_probability(r, eps) for r in ranks for eps in epsilons}
    first, second = np.triu_indices(len(inputs))
    squares = np.sum(inputs**2, axis=1)
    scale = (squares[first] + squares[second]) / 2 * np.linalg.norm(head @ head.T, 2)
    full = ft_effective(head, inputs, inputs)
    checks = []
    for rank in ranks:
        unit = sigma**2 * rank
        gaps = np.empty((draws, len(first)))
        for draw in range(draws):
            factor = sigma * rng.normal(size=(rank, inputs.shape[1]))
            gap = lora_ft_effective(head, factor, inputs, inputs) - unit * full
            gaps[draw] = np.linalg.norm(gap[first, :, second, :], ord=2, axis=(1, 2))
        for epsilon in epsilons:
            held, as_printed = (  # of the pair where it holds least often
                float((gaps <= bound).mean(axis=0).min())
                for bound in (epsilon * unit * scale, epsilon * scale)
            )
            promised = promises[rank, epsilon]
            checks.append(
                LowRankCheck(rank, epsilon, sigma, draws, len(first), held, as_printed, promised)
            )
    return checks


def promised_probability(rank: int, epsilon: float) -> float:
    """``1 - 4 exp(-(eps^2 - eps^3) r / 4)``, negative where the proposition promises nothing.

    Raises:
        InputError: ``rank`` below 1, or ``epsilon`` outside (0, 1).
    Source: Tomihari and Sato, NeurIPS 2024, Proposition 4.4.
    """
    if rank < 1:
        raise InputError(f"rank: expected at least 1, found {rank}")
    return 1 - 4 * math.exp(-_exponent(epsilon) * rank)


def first_informative_rank(epsilon: float) -> int:
    """The smallest r with ``1 - 4 exp(-(eps^2 - eps^3) r / 4) > 0``.

    It is ``floor(4 ln 4 / (eps^2 - eps^3)) + 1``: 38 at the best eps of 2/3, and more at others.

    Raises:
        InputError: ``epsilon`` outside (0, 1).
    """
    return math.floor(math.log(4) / _exponent(epsilon)) + 1


def _exponent(epsilon: float) -> float:
    if not 0 < epsilon < 1:
        raise InputError(f"epsilon: expected a number between 0 and 1, found {epsilon}")
    return (epsilon**2 - epsilon**3) / 4
