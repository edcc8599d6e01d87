"""Effects over seeds and samples: closed forms, exact symmetries, coverage by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, bootstrap, nct, norm, t, ttest_1samp

from lpft.analysis import expected_calibration_error
from lpft.analysis.comparison import (
    Effect,
    Resampled,
    effect_over_seeds,
    mean_of,
    resample,
    smallest_detectable_difference,
    wilson,
    without_samples,
)
from lpft.errors import InputError

MANY = 40_000


def test_wilson_is_scipys_interval_of_each_fraction():
    right, rows = np.array([0, 1, 47, 56, 56, 900]), np.array([7, 2, 56, 57, 56, 1000])
    low, high = wilson(right / rows, rows)
    for place, (k, n) in enumerate(zip(right, rows, strict=True)):
        expected = binomtest(int(k), int(n)).proportion_ci(0.95, method="wilson")
        assert (low[place], high[place]) == pytest.approx((expected.low, expected.high), abs=1e-13)
        assert wilson(k / n, n) == (low[place], high[place])
    assert (low[0], high[4]) == (0.0, 1.0)
    assert np.isnan(wilson(np.array([np.nan]), np.array([0]))).all()


def generator(seed=0):
    return np.random.default_rng(seed)


def crossed(rng, shape, *, seed, sample, both):
    """Values S x N of mean 0 with a normal effect of the seed, of the sample, and of the two."""
    seeds, samples = shape
    return (
        seed * rng.normal(size=(seeds, 1))
        + sample * rng.normal(size=(1, samples))
        + both * rng.normal(size=shape)
    )


def mean_over(values):
    return lambda rows: float(values[rows].mean())


def paired_difference(first, second, rng):
    """Of the mean of ``second - first``, seeds x samples each, as runs are compared."""
    rows = {("first", k): row for k, row in enumerate(first)}
    rows |= {("second", k): row for k, row in enumerate(second)}
    found = resample(
        {key: mean_over(row) for key, row in rows.items()},
        first.shape[1],
        generator=rng,
    )
    by_seed = [found["second", k] - found["first", k] for k in range(len(first))]
    return effect_over_seeds(by_seed, generator=rng)


def difference(values, rng):
    return paired_difference(np.zeros_like(values), values, rng)


def over_seeds_alone(values, resamples=MANY):
    fixed = [without_samples(value, resamples) for value in values]
    return effect_over_seeds(fixed, generator=generator())


def test_mean_and_sample_sd_over_seeds_by_hand():
    # Means over samples: 2, 4, 9. Their mean is 5, their variance (9 + 1 + 16) / 2 = 13.
    values = np.array([[1.0, 3.0], [4.0, 4.0], [10.0, 8.0]])
    effect = difference(values, generator())
    assert (effect.mean, effect.seeds) == (5, 3)
    assert effect.sd == pytest.approx(math.sqrt(13))
    assert effect.detectable == smallest_detectable_difference(effect.sd, 3)


def test_many_seeds_whose_samples_are_all_equal_give_student_s_interval():
    means = generator(1).normal(3.0, 2.0, size=60)
    effect = over_seeds_alone(means.tolist())
    half = t.ppf(0.975, 59) * means.std(ddof=1) / math.sqrt(60)
    assert effect.low == pytest.approx(means.mean() - half, abs=0.03 * half)
    assert effect.high == pytest.approx(means.mean() + half, abs=0.03 * half)
    equal = difference(np.tile(means[:, None], (1, 7)), generator())
    assert equal.low == pytest.approx(means.mean() - half, abs=0.08 * half)
    assert equal.high == pytest.approx(means.mean() + half, abs=0.08 * half)


@pytest.mark.parametrize("seeds", [5, 8, 20])
def test_few_seeds_have_the_variance_of_few_seeds(seeds):
    # Draws of S values vary by (S - 1) / S less than S values do; t is wider than the normal.
    means = norm.ppf((np.arange(seeds) + 0.5) / seeds)
    effect = over_seeds_alone(means.tolist())
    half = t.ppf(0.975, seeds - 1) * means.std(ddof=1) / math.sqrt(seeds)
    assert (effect.high - effect.low) / 2 == pytest.approx(half, rel=0.06)


def test_one_seed_gives_the_percentile_interval_of_its_samples():
    values = generator(2).exponential(size=(1, 50))
    by_seed = resample({0: mean_over(values[0])}, 50, generator=generator(), resamples=MANY)
    effect = effect_over_seeds(list(by_seed.values()), generator=generator())
    scipy = bootstrap(
        (values[0],), np.mean, n_resamples=MANY, method="percentile", rng=generator(7)
    ).confidence_interval
    assert effect.low == pytest.approx(scipy.low, abs=0.02)
    assert effect.high == pytest.approx(scipy.high, abs=0.02)
    assert effect.sd is None
    assert effect.detectable is None


def test_seeds_that_do_not_differ_leave_the_normal_interval_of_the_samples():
    row = generator(3).normal(1.0, 3.0, size=400)
    effect = difference(np.tile(row, (5, 1)), generator())
    half = norm.ppf(0.975) * row.std() / math.sqrt(400)
    assert effect.sd == pytest.approx(0, abs=1e-12)
    assert effect.low == pytest.approx(row.mean() - half, abs=0.1 * half)
    assert effect.high == pytest.approx(row.mean() + half, abs=0.1 * half)


def test_two_sources_of_variance_add():
    # Exactly x_sn = a_s + b_n: the variance of the mean is that of either mean, added.
    rng = generator(4)
    of_seeds, of_samples = rng.normal(size=(40, 1)), 5 * rng.normal(size=(1, 60))
    effect = difference(of_seeds + of_samples, generator())
    variance = of_seeds.var(ddof=1) / 40 + of_samples.var() / 60
    degrees = 39 * (variance / (of_seeds.var(ddof=1) / 40)) ** 2
    half = t.ppf(0.975, degrees) * math.sqrt(variance)
    assert (effect.high - effect.low) / 2 == pytest.approx(half, rel=0.06)


@pytest.mark.parametrize("mean", [0.0, 0.3, 1.0, 2.5])
def test_over_seeds_alone_the_p_value_is_that_of_the_t_test(mean):
    values = generator(12).normal(mean, 1.0, size=40)
    effect = over_seeds_alone(values.tolist())
    expected = ttest_1samp(values, 0.0)
    # As far as the interval is Student's, whose half it is scaled by.
    assert t.isf(effect.p_value / 2, 39) == pytest.approx(abs(expected.statistic), rel=0.05)


@pytest.mark.heavy
@settings(max_examples=60, deadline=None)
@given(
    seeds=st.integers(1, 6),
    samples=st.integers(2, 12),
    seed=st.integers(0, 2**32 - 1),
    skewed=st.booleans(),
)
def test_the_p_value_is_below_a_twentieth_where_the_interval_excludes_0(
    seeds, samples, seed, skewed
):
    values = crossed(generator(seed), (seeds, samples), seed=0.5, sample=0.5, both=0.5)
    values = np.exp(2 * values) if skewed else values
    middle = difference(values, generator(seed))
    # Shifts move the interval alone: first past either end, then to where 0 is well inside it.
    for shift in (middle.low, middle.high, (middle.low + middle.mean) / 2):
        for step in (-1e-9, 1e-9):
            moved = difference(values - shift + step * np.abs(values).max(), generator(seed))
            assert (moved.p_value < 0.05) == (moved.low > 0 or moved.high < 0)


def test_over_samples_alone_the_p_value_is_that_of_the_normal_test():
    row = generator(13).normal(0.3, 1.0, size=100)
    for seeds in (1, 4):
        effect = difference(np.tile(row, (seeds, 1)), generator())
        z = row.mean() / (row.std() / 10)
        # The bootstrap's standard error has an error of its own, of a part in sqrt(2 x 2000).
        assert norm.isf(effect.p_value / 2) == pytest.approx(z, rel=0.07)


def test_without_any_spread_the_p_value_is_0_or_1():
    assert over_seeds_alone([2.0, 2.0], 10).p_value == 0
    assert over_seeds_alone([0.0], 10).p_value == 1


def test_the_p_value_goes_on_falling_where_no_draw_reaches_0():
    values = generator(15).normal(0.0, 1.0, size=30)
    far = [over_seeds_alone((values + shift).tolist(), 200).p_value for shift in (1.0, 2.0, 4.0)]
    assert 1e-20 < far[2] < far[1] / 100 < far[0] / 1e4


def test_an_interval_ends_where_the_effect_must():
    fixed = [without_samples(value, 400) for value in (0.4, 1.0)]
    wide = effect_over_seeds(fixed, generator=generator())
    assert wide.low < -1
    assert wide.high > 1
    bounded = effect_over_seeds(fixed, generator=generator(), bounds=(-1.0, 1.0))
    assert (bounded.low, bounded.high, bounded.mean) == (-1, 1, wide.mean)


@settings(max_examples=30, deadline=None)
@given(
    seeds=st.integers(1, 6),
    samples=st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
    binary=st.booleans(),
)
def test_exchanging_the_methods_flips_every_sign_exactly(seeds, samples, seed, binary):
    rng = generator(seed)
    first, second = rng.normal(size=(2, seeds, samples))
    if binary:
        first, second = (first > 0).astype(float), (second > 0).astype(float)
    there = paired_difference(first, second, generator(seed))
    back = paired_difference(second, first, generator(seed))
    assert (back.mean, back.low, back.high) == (-there.mean, -there.high, -there.low)
    assert (back.sd, back.detectable, back.seeds) == (there.sd, there.detectable, there.seeds)
    assert back.p_value == there.p_value
    assert there.low <= there.high


def test_equal_methods_differ_by_exactly_nothing():
    values = generator(5).normal(size=(5, 30))
    effect = paired_difference(values, values.copy(), generator())
    assert effect == Effect(mean=0, sd=0, seeds=5, low=0, high=0, p_value=1, detectable=0)


def test_pairing_takes_out_what_both_methods_share():
    # Hard samples and lucky seeds move both methods; the difference is 1 everywhere.
    values = crossed(generator(6), (5, 40), seed=3, sample=5, both=2)
    effect = paired_difference(values, values + 1, generator())
    assert (effect.low, effect.high) == pytest.approx((1, 1), abs=1e-12)


def test_a_shift_and_a_factor_move_the_interval_with_them():
    values = crossed(generator(7), (4, 25), seed=1, sample=1, both=1)
    plain = difference(values, generator())
    moved = difference(10 + 3 * values, generator())
    assert (moved.low, moved.high) == pytest.approx((10 + 3 * plain.low, 10 + 3 * plain.high))


def test_the_bias_of_a_statistic_on_draws_does_not_move_its_interval():
    # Perfectly calibrated rows: drawn again, their ECE can only grow.
    rng = generator(9)
    top = rng.uniform(0.5, 1.0, size=200)
    probabilities = np.stack([top, 1 - top], axis=1)
    labels = (rng.uniform(size=200) > top).astype(int)

    def error(rows):
        return expected_calibration_error(probabilities[rows], labels[rows])

    found = resample({0: error}, 200, generator=generator())[0]
    assert found.draws.mean() > found.value + found.draws.std() / 2
    effect = effect_over_seeds([found], generator=generator())
    middle = (effect.low + effect.high) / 2
    assert middle == pytest.approx(found.value, abs=found.draws.std() / 2)


@pytest.mark.parametrize(
    ("shape", "effects"),
    [
        ((5, 1), {"seed": 1.0, "sample": 0.0, "both": 0.0}),
        ((3, 1), {"seed": 1.0, "sample": 0.0, "both": 0.0}),
        ((5, 40), {"seed": 0.0, "sample": 1.0, "both": 0.0}),
        ((5, 40), {"seed": 0.15, "sample": 1.0, "both": 0.5}),
        ((3, 40), {"seed": 0.5, "sample": 0.5, "both": 0.5}),
    ],
)
def test_ninety_five_per_cent_of_the_intervals_cover_the_truth(shape, effects):
    rng = generator(10)
    trials, resamples = 600, 400
    covered = 0
    for _ in range(trials):
        values = crossed(rng, shape, **effects)
        counts = rng.multinomial(shape[1], [1 / shape[1]] * shape[1], size=resamples)
        draws = values @ counts.T / shape[1]
        by_seed = [Resampled(float(v.mean()), d) for v, d in zip(values, draws, strict=True)]
        effect = effect_over_seeds(by_seed, generator=rng)
        covered += effect.low <= 0 <= effect.high
    # Three standard errors of the simulation are 2.7 points. What varies with seed and sample
    # together is counted twice: where it rules, intervals are too wide, never too narrow.
    assert covered / trials >= 0.95 - 0.027
    assert covered / trials <= 0.95 + 0.027 or effects["both"] > 0


def test_a_t_test_s_power_is_the_interval_s():
    # At the detectable difference four of five intervals over seeds exclude 0, as the t-test's do.
    rng = generator(11)
    delta = smallest_detectable_difference(1.0, 5)
    trials = 500
    found = 0
    for _ in range(trials):
        by_seed = [without_samples(value, 400) for value in rng.normal(delta, 1.0, size=5)]
        found += effect_over_seeds(by_seed, generator=rng).low > 0
    assert found / trials == pytest.approx(0.8, abs=0.07)


# --- power


@pytest.mark.parametrize("seeds", [2, 3, 5, 10, 100])
@pytest.mark.parametrize("sd", [0.01, 1.0, 37.5])
def test_a_t_test_finds_it_with_four_fifths_power(seeds, sd):
    delta = smallest_detectable_difference(sd, seeds)
    critical = t.ppf(0.975, seeds - 1)
    shift = delta * math.sqrt(seeds) / sd
    # T below -t with this shift is T above t with the opposite one.
    power = nct.sf(critical, seeds - 1, shift) + nct.sf(critical, seeds - 1, -shift)
    assert power == pytest.approx(0.8, abs=1e-9)


def test_many_seeds_are_the_normal_formula():
    # delta sqrt(n) / sd goes to z(0.975) + z(0.8) = 1.960 + 0.842.
    delta = smallest_detectable_difference(1.0, 100_000)
    assert delta * math.sqrt(100_000) == pytest.approx(norm.ppf(0.975) + norm.ppf(0.8), rel=1e-4)


def test_no_spread_leaves_nothing_undetected_and_one_seed_has_no_spread():
    assert smallest_detectable_difference(0.0, 5) == 0
    assert smallest_detectable_difference(None, 0) is None
    assert smallest_detectable_difference(None, 1) is None


@pytest.mark.parametrize("sd", [None, -1.0, float("nan"), float("inf")])
def test_a_wrong_standard_deviation_is_refused(sd):
    with pytest.raises(InputError, match="expected a finite number from 0 up"):
        smallest_detectable_difference(sd, 3)


# --- draws


def test_every_statistic_sees_the_same_draws():
    values = generator(0).normal(size=30)
    found = resample(
        {"mean": mean_over(values), "twice": mean_over(2 * values)},
        30,
        generator=generator(1),
        resamples=200,
    )
    np.testing.assert_array_equal(found["twice"].draws, 2 * found["mean"].draws)
    assert found["mean"].value == pytest.approx(values.mean(), rel=1e-15)
    assert found["mean"].draws.shape == (200,)


def test_draws_are_with_replacement_and_as_many_as_samples():
    seen: list[np.ndarray] = []

    def count(rows):
        seen.append(rows)
        return float(len(np.unique(rows)))

    found = resample({"": count}, 50, generator=generator(0), resamples=400)
    assert all(len(rows) == 50 and rows.min() >= 0 and rows.max() < 50 for rows in seen)
    assert found[""].value == 50
    # Each of 50 samples is drawn at least once with probability 1 - (1 - 1/50)^50.
    assert found[""].draws.mean() == pytest.approx(50 * (1 - 0.98**50), rel=0.01)


def test_the_bootstrap_variance_of_a_mean_is_the_closed_form():
    values = generator(2).exponential(size=40)
    found = resample({0: mean_over(values)}, 40, generator=generator(3), resamples=20_000)
    # The variance of a mean of N draws from the values themselves; 5 standard errors of R draws.
    assert found[0].draws.var() == pytest.approx(values.var() / 40, rel=5 * (2 / 20_000) ** 0.5)


def test_arithmetic_is_on_the_value_and_on_every_draw():
    one = Resampled(3.0, np.array([1.0, 4.0]))
    other = Resampled(1.0, np.array([0.5, 5.0]))
    difference = one - other
    assert difference.value == 2
    assert difference.draws.tolist() == [0.5, -1.0]
    assert (-difference).draws.tolist() == [-0.5, 1.0]
    assert (abs(-difference).value, abs(difference).draws.tolist()) == (2, [0.5, 1.0])
    assert ((difference + 10.0) * 2.0).draws.tolist() == [21.0, 18.0]
    assert ((difference + 10.0) * 2.0).value == 24
    assert (mean_of([one, other]).value, mean_of([one, other]).draws.tolist()) == (2, [0.75, 4.5])


def test_clusters_are_drawn_whole_and_with_replacement():
    clusters = np.array([7, 2, 7, 2, 2, 5])
    members = {7: [0, 2], 2: [1, 3, 4], 5: [5]}
    seen: list[np.ndarray] = []

    def count(rows):
        seen.append(rows)
        return float(len(rows))

    resample({"": count}, 6, generator=generator(0), clusters=clusters, resamples=300)
    *drawn, every = seen
    assert every.tolist() == list(range(6))
    sizes = set()
    for rows in drawn:
        counts = {cluster: np.sum(rows == rest[0]) for cluster, rest in members.items()}
        assert sum(counts.values()) == 3
        expected = [row for cluster, times in counts.items() for row in members[cluster] * times]
        assert sorted(rows.tolist()) == sorted(expected)
        sizes.add(len(rows))
    # From three times the single sample to three times the cluster of three.
    assert sizes == set(range(3, 10))


def test_clusters_of_one_sample_each_are_samples():
    values = generator(1).normal(size=20)
    plain, clustered = (
        resample({0: mean_over(values)}, 20, generator=generator(2), clusters=clusters)[0].draws
        for clusters in (None, np.arange(20))
    )
    np.testing.assert_array_equal(plain, clustered)


def test_samples_that_are_copies_of_each_other_vary_as_their_clusters_do():
    # Ten values, each four times: the variance of a mean of ten draws, not of forty.
    values = generator(6).normal(size=10)
    found = resample(
        {0: mean_over(np.repeat(values, 4))},
        40,
        generator=generator(7),
        clusters=np.repeat(np.arange(10), 4),
        resamples=20_000,
    )
    assert found[0].draws.var() == pytest.approx(values.var() / 10, rel=5 * (2 / 20_000) ** 0.5)


def test_what_cannot_be_drawn_or_compared_is_refused():
    with pytest.raises(InputError, match="at least one seed"):
        effect_over_seeds([], generator=generator())
    with pytest.raises(InputError, match="finite"):
        effect_over_seeds([without_samples(math.nan, 10)], generator=generator())
    for samples, resamples in ((0, 10), (10, 0)):
        with pytest.raises(InputError, match="at least one sample and one draw"):
            resample({}, samples, generator=generator(), resamples=resamples)
    with pytest.raises(InputError, match="a cluster number for each of 3 samples, found 2"):
        resample({}, 3, generator=generator(), clusters=np.array([0, 1]))
