"""Effects over seeds and samples: bootstrap, mean and interval, and what could be detected.

:func:`resample` draws the samples of every seed anew, with the same draws for everything that is
to be compared; :func:`effect_over_seeds` turns the seeds' :class:`Resampled` into an
:class:`Effect`.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.stats import f, ncf, norm, t

from lpft.analysis.inputs import finite_matrix
from lpft.errors import InputError

COVERAGE = 0.95
RESAMPLES = 2000
LEVEL = 0.05
POWER = 0.8

Key = TypeVar("Key", bound=Hashable)
Rows = NDArray[np.int64]
Statistic = Callable[[Rows], float]
"""A number of the samples in ``rows``, which may name a sample more than once."""


@dataclass(frozen=True)
class Effect:
    """The mean over seeds of a quantity, with what its seeds and samples leave open.

    ``sd`` is the sample standard deviation over ``seeds`` and ``detectable`` the smallest effect
    that so many seeds could show, both None below two seeds; ``low`` and ``high`` bound a 95 %
    interval (of samples alone where there is one seed), and ``p_value`` is two-sided.
    """

    mean: float
    sd: float | None
    seeds: int
    low: float
    high: float
    p_value: float
    detectable: float | None


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


def effect_over_seeds(
    by_seed: Sequence[Resampled],
    *,
    generator: np.random.Generator,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Effect:
    """The mean over seeds with a 95 % interval of a crossed bootstrap over seeds and samples.

    Draw r takes S of the S seeds with replacement and, for all of them, the same N of the N
    samples: ``theta*_r = (1/S) sum_k theta(seed s_rk, samples n_r)``. The interval is

        ``theta + c (q - mean theta*)`` with q the 2.5 and 97.5 % points of ``theta*`` and
        ``c = (t_nu / z) sqrt((v_seeds + v_samples) / v_both)``.

    ``v_both`` is the variance of ``theta*``, ``v_samples`` that of the mean over all seeds on the
    same draws of samples, ``v_seeds`` the squared standard error over seeds. c is close to 1 for
    many seeds. For few it makes up for S drawn seeds varying less than S seeds do, by
    ``(S - 1) / S``, and puts Student's t in place of the normal z, with the degrees of freedom
    ``nu = (S - 1) ((v_seeds + v_samples) / v_seeds)^2``. Without it an interval over five seeds
    covers 85 % instead of 95. What varies with seed and sample together enters both variances, so
    an interval dominated by it is rather too wide. A statistic that is biased on drawn samples,
    such as ECE, keeps its own value in the middle.

    The p-value is the interval's own: with h how far the interval reaches from theta towards 0, it
    is that of ``t_nu theta / h`` under Student's t with nu. It is below 0.05 where the interval
    leaves 0 out and nowhere else, and has levels that so few draws do not reach, for corrections
    that ask for them.

    Args:
        by_seed: of every seed the same statistic on the same draws of samples.
        bounds: of the statistic, which an interval over few seeds could otherwise pass. The
            p-value is that of the interval before it ends there.

    Raises:
        InputError: no seed, or draws that are not finite.
    Source: Owen, The pigeonhole bootstrap, 2007 (crossed draws); Hesterberg, What teachers should
    know about the bootstrap, 2015, section 5.3 (few observations); Satterthwaite, 1946 (nu).
    """
    if not by_seed:
        raise InputError("an effect over seeds needs at least one seed, found none")
    values = np.array([seed.value for seed in by_seed])
    draws = finite_matrix(np.stack([seed.draws for seed in by_seed]), "draws")
    seeds, resamples = draws.shape
    chosen = generator.integers(seeds, size=(seeds, resamples))
    both = np.take_along_axis(draws, chosen, axis=0).mean(axis=0)
    mean = float(values.mean())
    sd = float(values.std(ddof=1)) if seeds > 1 else None

    # Of one seed nothing is known but the samples' part.
    of_seeds = 0.0 if sd is None else sd**2 / seeds
    variance = of_seeds + float(draws.mean(axis=0).var())
    degrees = math.inf if of_seeds == 0 else (seeds - 1) * (variance / of_seeds) ** 2
    upper = (1 + COVERAGE) / 2
    quantile, of_both = float(t.ppf(upper, degrees)), float(both.var())
    stretch = 1.0
    if of_both > 0:
        stretch = float(quantile / norm.ppf(upper)) * math.sqrt(variance / of_both)
    # Two order statistics as far from either end: swapping two methods then swaps them exactly.
    beyond = int((1 - COVERAGE) / 2 * resamples)
    deviations = stretch * (np.sort(both) - both.mean())
    below, above = (float(end) for end in deviations[[beyond, -1 - beyond]])

    reach = -below if mean > 0 else above  # from the mean towards 0
    if reach > 0:
        p_value = float(2 * t.sf(abs(mean) / reach * quantile, degrees))
    else:
        p_value = 1.0 if mean == 0 else 0.0
    low, high = np.clip((mean + below, mean + above), *bounds)
    detectable = smallest_detectable_difference(sd, seeds)
    return Effect(mean, sd, seeds, float(low), float(high), p_value, detectable)


def wilson(fraction: ArrayLike, rows: ArrayLike) -> tuple[Any, Any]:
    """The 95 % Wilson score interval (low, high) of a fraction p counted over n rows.

        ``(p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)``, z = 1.96

    Numbers or arrays; NaN where there are no rows. The rows are taken to be independent.

    Source: Wilson, JASA, 1927; SciPy's ``binomtest(...).proportion_ci(method="wilson")``.
    """
    p, n = np.asarray(fraction, dtype=np.float64), np.asarray(rows, dtype=np.float64)
    z = float(norm.ppf((1 + COVERAGE) / 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        middle = p + z**2 / (2 * n)
        half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        low, high = (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)
    low, high = np.where(p == 0, 0.0, low), np.where(p == 1, 1.0, high)  # exactly, as they are
    return (low, high) if low.ndim else (float(low), float(high))


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
    draw = _draw_samples(samples) if clusters is None else _draw_clusters(clusters)
    draws = np.empty((len(statistics), resamples))
    for number in range(resamples):
        rows = draw(generator)
        draws[:, number] = [statistic(rows) for statistic in statistics.values()]
    all_rows = np.arange(samples)
    return {
        key: Resampled(float(statistic(all_rows)), values)
        for (key, statistic), values in zip(statistics.items(), draws, strict=True)
    }


def _draw_samples(samples: int) -> Callable[[np.random.Generator], Rows]:
    return lambda generator: generator.integers(samples, size=samples)


def _draw_clusters(clusters: NDArray[np.int64]) -> Callable[[np.random.Generator], Rows]:
    """The samples of as many clusters as there are, those of one cluster beside each other."""
    by_cluster = np.argsort(clusters, kind="stable")
    _, starts, sizes = np.unique(clusters[by_cluster], return_index=True, return_counts=True)

    def draw(generator: np.random.Generator) -> Rows:
        drawn = generator.integers(len(sizes), size=len(sizes))
        ends = np.cumsum(sizes[drawn])
        shifts = np.repeat(starts[drawn] - (ends - sizes[drawn]), sizes[drawn])
        return by_cluster[np.arange(ends[-1]) + shifts]

    return draw


def mean_of(resampled: Sequence[Resampled]) -> Resampled:
    """The mean of several statistics, draw by draw; of different data the draws are independent."""
    return Resampled(
        float(np.mean([statistic.value for statistic in resampled])),
        np.mean([statistic.draws for statistic in resampled], axis=0),
    )


def without_samples(value: float, resamples: int = RESAMPLES) -> Resampled:
    """A statistic of one seed that does not depend on samples, such as the norm of a head."""
    return Resampled(value, np.full(resamples, value))


def smallest_detectable_difference(sd: float | None, seeds: int) -> float | None:
    """The true mean difference that a two-sided paired t-test at 5 % finds with 80 % power.

    The ``delta`` with ``P(|T| > t_crit) = 0.8``, where T is noncentral t with ``S - 1`` degrees of
    freedom and noncentrality ``delta sqrt(S) / sd``. It is in the unit of ``sd``, the sample
    standard deviation over ``seeds`` (S) of the paired differences. None below 2 seeds.

    Raises:
        InputError: a standard deviation that is negative, not finite, or missing for 2 seeds.
    Source: Cohen, Statistical Power Analysis, 1988, chapter 2; G*Power's "means: difference between
    two dependent means".
    """
    if seeds < 2:
        return None
    if sd is None or not (math.isfinite(sd) and sd >= 0):
        raise InputError(f"standard deviation: expected a finite number from 0 up, found {sd}")
    degrees = seeds - 1
    # T squared is noncentral F; SciPy's noncentral t is NaN in the far tail.
    critical = float(f.ppf(1 - LEVEL, 1, degrees))

    def missing_power(noncentrality: float) -> float:
        return POWER - float(ncf.sf(critical, 1, degrees, noncentrality**2))

    # At twice the critical value T exceeds it with more than 80 %, even with one degree of freedom.
    noncentrality = brentq(missing_power, 0.0, 2 * math.sqrt(critical) + 2)
    return float(noncentrality * sd / math.sqrt(seeds))
