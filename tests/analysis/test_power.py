"""The smallest detectable difference against power computed directly, and by simulation."""

import math

import numpy as np
import pytest
from scipy.stats import nct, norm, t, ttest_1samp

from lpft.analysis.comparison import smallest_detectable_difference
from lpft.errors import InputError


@pytest.mark.parametrize("seeds", [2, 3, 5, 10, 100])
@pytest.mark.parametrize("sd", [0.01, 1.0, 37.5])
def test_a_t_test_finds_it_with_four_fifths_power(seeds: int, sd: float) -> None:
    delta = smallest_detectable_difference(sd, seeds)
    assert delta is not None
    critical = t.ppf(0.975, seeds - 1)
    shift = delta * math.sqrt(seeds) / sd
    # T below -t with this shift is T above t with the opposite one.
    power = nct.sf(critical, seeds - 1, shift) + nct.sf(critical, seeds - 1, -shift)
    assert power == pytest.approx(0.8, abs=1e-9)


def test_five_seeds_by_simulated_t_tests() -> None:
    delta = smallest_detectable_difference(2.0, 5)
    assert delta is not None
    draws = np.random.default_rng(0).normal(delta, 2.0, size=(40_000, 5))
    found = np.mean(ttest_1samp(draws, 0.0, axis=1).pvalue < 0.05)
    assert found == pytest.approx(0.8, abs=4 * math.sqrt(0.8 * 0.2 / 40_000))


def test_many_seeds_are_the_normal_formula() -> None:
    # delta sqrt(n) / sd goes to z(0.975) + z(0.8) = 1.960 + 0.842.
    delta = smallest_detectable_difference(1.0, 100_000)
    assert delta is not None
    assert delta * math.sqrt(100_000) == pytest.approx(norm.ppf(0.975) + norm.ppf(0.8), rel=1e-4)


def test_no_spread_leaves_nothing_undetected() -> None:
    assert smallest_detectable_difference(0.0, 5) == 0


@pytest.mark.parametrize("seeds", [0, 1])
def test_below_two_seeds_there_is_none(seeds: int) -> None:
    assert smallest_detectable_difference(None, seeds) is None


@pytest.mark.parametrize("sd", [None, -1.0, float("nan"), float("inf")])
def test_a_wrong_standard_deviation_is_refused(sd: float | None) -> None:
    with pytest.raises(InputError, match="expected a finite number from 0 up"):
        smallest_detectable_difference(sd, 3)
