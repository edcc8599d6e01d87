"""Effects over seeds and samples: mean, spread, bootstrap interval, and what could be detected."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, t

from lpft.analysis.inputs import finite_matrix
from lpft.analysis.power import smallest_detectable_difference
from lpft.analysis.resampling import Resampled
from lpft.errors import InputError

COVERAGE = 0.95


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
    that an interval where it rules is rather too wide. A statistic that is biased on drawn
    samples, such as ECE, keeps its own value in the middle.

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
    variance, degrees = _variance(sd, seeds, float(draws.mean(axis=0).var()))
    stretch = _stretch(variance, degrees, float(both.var()))
    # Two order statistics as far from either end: swapping two methods then swaps them exactly.
    beyond = int((1 - COVERAGE) / 2 * resamples)
    deviations = stretch * (np.sort(both) - both.mean())
    below, above = (float(end) for end in deviations[[beyond, -1 - beyond]])
    low, high = np.clip((mean + below, mean + above), *bounds)
    return Effect(
        mean=mean,
        sd=sd,
        seeds=seeds,
        low=float(low),
        high=float(high),
        p_value=_p_value(abs(mean), -below if mean > 0 else above, degrees),
        detectable=smallest_detectable_difference(sd, seeds),
    )


def _variance(sd: float | None, seeds: int, of_samples: float) -> tuple[float, float]:
    """``v_seeds + v_samples``, and nu; of one seed nothing is known but the samples' part."""
    of_seeds = 0.0 if sd is None else sd**2 / seeds
    if of_seeds == 0:
        return of_samples, math.inf
    total = of_seeds + of_samples
    return total, (seeds - 1) * (total / of_seeds) ** 2


def _stretch(variance: float, degrees: float, of_both: float) -> float:
    """c of :func:`effect_over_seeds`; 1 where no draw differs."""
    if of_both == 0:
        return 1.0
    upper = (1 + COVERAGE) / 2
    return float(t.ppf(upper, degrees) / norm.ppf(upper)) * math.sqrt(variance / of_both)


def _p_value(distance: float, reach: float, degrees: float) -> float:
    """Of an effect ``distance`` from 0 whose interval reaches that far towards it."""
    if reach <= 0:
        return 1.0 if distance == 0 else 0.0
    return float(2 * t.sf(distance / reach * t.ppf((1 + COVERAGE) / 2, degrees), degrees))
