"""Statistics on samples drawn anew: the same draws for everything that is to be compared."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lpft.errors import InputError

RESAMPLES = 2000

Key = TypeVar("Key", bound=Hashable)
Rows = NDArray[np.int64]
Statistic = Callable[[Rows], float]
"""A number of the samples in ``rows``, which may name a sample more than once."""


@dataclass(frozen=True)
class Resampled:
    """A statistic of one seed: on its samples (``value``) and on draws of them (``draws`` [R])."""

    value: float
    draws: NDArray[np.float64]

    def __sub__(self, other: "Resampled") -> "Resampled":
        return Resampled(self.value - other.value, self.draws - other.draws)

    def __add__(self, shift: float) -> "Resampled":
        return Resampled(self.value + shift, self.draws + shift)

    def __mul__(self, factor: float) -> "Resampled":
        return Resampled(self.value * factor, self.draws * factor)

    def __neg__(self) -> "Resampled":
        return Resampled(-self.value, -self.draws)


def without_samples(value: float, resamples: int = RESAMPLES) -> Resampled:
    """A statistic of one seed that no sample enters, such as the norm of a head."""
    return Resampled(value, np.full(resamples, value))


def resample(
    statistics: Mapping[Key, Statistic],
    samples: int,
    *,
    generator: np.random.Generator,
    resamples: int = RESAMPLES,
) -> dict[Key, Resampled]:
    """Every statistic on all samples, and on ``resamples`` draws of them with replacement.

    All statistics see the same draws, so that their differences are paired by sample.

    Args:
        statistics: by any key; each takes indices below ``samples``.
        samples: N, how many there are.

    Raises:
        InputError: no sample, or no draw.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 6.
    """
    if samples < 1 or resamples < 1:
        raise InputError(
            f"expected at least one sample and one draw, found {samples} and {resamples}"
        )
    draws = np.empty((len(statistics), resamples))
    for number in range(resamples):
        rows = generator.integers(samples, size=samples)
        draws[:, number] = [statistic(rows) for statistic in statistics.values()]
    every = np.arange(samples)
    return {
        key: Resampled(float(statistic(every)), own)
        for (key, statistic), own in zip(statistics.items(), draws, strict=True)
    }
