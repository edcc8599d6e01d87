"""What so few seeds can show: the smallest difference that a paired t-test would find."""

import math

from scipy.optimize import brentq
from scipy.stats import f, ncf

from lpft.errors import InputError

LEVEL = 0.05
POWER = 0.8


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
