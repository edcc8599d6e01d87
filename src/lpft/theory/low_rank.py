"""Proposition 4.4: how near LoRA's FT-effective kernel is to full fine-tuning's."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lpft.errors import InputError
from lpft.theory.linear_kernels import ft_effective, lora_ft_effective

Array = NDArray[np.float64]

MOST_INFORMATIVE_EPSILON = 2 / 3
"""Where eps^2 - eps^3 is largest, and with it the promise at every rank."""


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

    in the operator norm, beside the promised ``1 - 4 exp(-(eps^2 - eps^3) r / 4)``. Pairs are all
    i <= j, a sample with itself among them. The paper prints the right side without
    ``sigma^2 r``; that form is counted too.

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
            checks.append(
                LowRankCheck(
                    rank=rank,
                    epsilon=epsilon,
                    sigma=sigma,
                    draws=draws,
                    pairs=len(first),
                    held=_least_often(gaps <= epsilon * unit * scale),
                    held_as_printed=_least_often(gaps <= epsilon * scale),
                    promised=promises[rank, epsilon],
                )
            )
    return checks


def _exponent(epsilon: float) -> float:
    if not 0 < epsilon < 1:
        raise InputError(f"epsilon: expected a number between 0 and 1, found {epsilon}")
    return (epsilon**2 - epsilon**3) / 4


def _least_often(held: NDArray[np.bool_]) -> float:
    """The smallest fraction of draws [draws, pairs] over the pairs."""
    return float(held.mean(axis=0).min())
