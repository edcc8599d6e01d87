"""Statistics on samples drawn anew: the same draws for everything that is to be compared."""

from collections.abc import Callable, Hashable, Mapping, Sequence
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

Draw = Callable[[np.random.Generator], Rows]


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

    def __abs__(self) -> "Resampled":
        return Resampled(abs(self.value), np.abs(self.draws))


def mean_of(resampled: Sequence[Resampled]) -> Resampled:
    """The mean of several statistics, draw by draw; of different data the draws are independent."""
    return Resampled(
        float(np.mean([one.value for one in resampled])),
        np.mean([one.draws for one in resampled], axis=0),
    )


def without_samples(value: float, resamples: int = RESAMPLES) -> Resampled:
    """A statistic of one seed that no sample enters, such as the norm of a head."""
    return Resampled(value, np.full(resamples, value))


def resample(
    statistics: Mapping[Key, Statistic],
    samples: int,
    *,
    generator: np.random.Generator,
    clusters: NDArray[np.int64] | None = None,
    resamples: int = RESAMPLES,
) -> dict[Key, Resampled]:
    """Every statistic on all samples, and on ``resamples`` draws of them with replacement.

    All statistics see the same draws, so that their differences are paired by sample. Samples that
    are not independent, such as the answers to one question, are drawn by cluster: K of the K
    clusters with replacement, each with all its samples.

    Args:
        statistics: by any key; each takes indices below ``samples``.
        samples: N, how many there are.
        clusters: N numbers; samples of one cluster share theirs. None: each is its own.

    Raises:
        InputError: no sample, no draw, or another number of cluster numbers than of samples.
    Source: Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8
    (clusters).
    """
    if samples < 1 or resamples < 1:
        raise InputError(
            f"expected at least one sample and one draw, found {samples} and {resamples}"
        )
    if clusters is not None and len(clusters) != samples:
        raise InputError(
            f"expected a cluster number for each of {samples} samples, found {len(clusters)}"
        )
    draw = _samples_drawn(samples) if clusters is None else _clusters_drawn(clusters)
    draws = np.empty((len(statistics), resamples))
    for number in range(resamples):
        rows = draw(generator)
        draws[:, number] = [statistic(rows) for statistic in statistics.values()]
    every = np.arange(samples)
    return {
        key: Resampled(float(statistic(every)), own)
        for (key, statistic), own in zip(statistics.items(), draws, strict=True)
    }


def _samples_drawn(samples: int) -> Draw:
    return lambda generator: generator.integers(samples, size=samples)


def _clusters_drawn(clusters: NDArray[np.int64]) -> Draw:
    """The samples of as many clusters as there are, those of one cluster beside each other."""
    by_cluster = np.argsort(clusters, kind="stable")
    _, starts, sizes = np.unique(clusters[by_cluster], return_index=True, return_counts=True)

    def draw(generator: np.random.Generator) -> Rows:
        drawn = generator.integers(len(sizes), size=len(sizes))
        ends = np.cumsum(sizes[drawn])
        shifts = np.repeat(starts[drawn] - (ends - sizes[drawn]), sizes[drawn])
        return by_cluster[np.arange(ends[-1]) + shifts]

    return draw
