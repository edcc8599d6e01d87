"""Draws of samples that several statistics share."""

import numpy as np
import pytest

from lpft.analysis import expected_calibration_error
from lpft.analysis.comparison import Resampled, mean_of, resample, without_samples
from lpft.errors import InputError


def test_every_statistic_sees_the_same_draws() -> None:
    values = np.random.default_rng(0).normal(size=30)
    found = resample(
        {
            "mean": lambda rows: float(values[rows].mean()),
            "twice": lambda rows: float(2 * values[rows].mean()),
        },
        30,
        generator=np.random.default_rng(1),
        resamples=200,
    )
    np.testing.assert_array_equal(found["twice"].draws, 2 * found["mean"].draws)
    assert found["mean"].value == pytest.approx(values.mean(), rel=1e-15)
    assert found["mean"].draws.shape == (200,)


def test_draws_are_with_replacement_and_as_many_as_samples() -> None:
    seen: list[np.ndarray] = []

    def count(rows: np.ndarray) -> float:
        seen.append(rows)
        return float(len(np.unique(rows)))

    found = resample({"": count}, 50, generator=np.random.default_rng(0), resamples=400)
    assert all(len(rows) == 50 and rows.min() >= 0 and rows.max() < 50 for rows in seen)
    assert found[""].value == 50
    # Each of 50 samples is drawn at least once with probability 1 - (1 - 1/50)^50.
    assert found[""].draws.mean() == pytest.approx(50 * (1 - 0.98**50), rel=0.01)


def test_the_bootstrap_variance_of_a_mean_is_the_closed_form() -> None:
    values = np.random.default_rng(2).exponential(size=40)
    found = resample(
        {0: lambda rows: float(values[rows].mean())},
        40,
        generator=np.random.default_rng(3),
        resamples=20_000,
    )
    # The variance of a mean of N draws from the values themselves; 5 standard errors of R draws.
    assert found[0].draws.var() == pytest.approx(values.var() / 40, rel=5 * (2 / 20_000) ** 0.5)


def test_a_statistic_that_is_no_mean() -> None:
    rng = np.random.default_rng(4)
    probabilities, labels = rng.dirichlet(np.ones(3), size=25), rng.integers(3, size=25)
    found = resample(
        {"ece": lambda rows: expected_calibration_error(probabilities[rows], labels[rows])},
        25,
        generator=np.random.default_rng(5),
        resamples=3,
    )
    again = np.random.default_rng(5)
    expected = []
    for _ in range(3):
        rows = again.integers(25, size=25)
        expected.append(expected_calibration_error(probabilities[rows], labels[rows]))
    assert found["ece"].draws.tolist() == expected
    assert found["ece"].value == expected_calibration_error(probabilities, labels)


def test_arithmetic_is_on_the_value_and_on_every_draw() -> None:
    one = Resampled(3.0, np.array([1.0, 4.0]))
    other = Resampled(1.0, np.array([0.5, 5.0]))
    difference = one - other
    assert difference.value == 2
    assert difference.draws.tolist() == [0.5, -1.0]
    assert (-difference).draws.tolist() == [-0.5, 1.0]
    assert (abs(-difference).value, abs(difference).draws.tolist()) == (2, [0.5, 1.0])
    assert ((difference + 10.0) * 2.0).draws.tolist() == [21.0, 18.0]
    assert ((difference + 10.0) * 2.0).value == 24


def test_the_mean_of_statistics_is_taken_draw_by_draw() -> None:
    both = mean_of([Resampled(3.0, np.array([1.0, 4.0])), Resampled(1.0, np.array([0.5, 5.0]))])
    assert (both.value, both.draws.tolist()) == (2, [0.75, 4.5])


def test_clusters_are_drawn_whole_and_with_replacement() -> None:
    clusters = np.array([7, 2, 7, 2, 2, 5])
    members = {7: [0, 2], 2: [1, 3, 4], 5: [5]}
    seen: list[np.ndarray] = []

    def count(rows: np.ndarray) -> float:
        seen.append(rows)
        return float(len(rows))

    resample({"": count}, 6, generator=np.random.default_rng(0), clusters=clusters, resamples=300)
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


def test_clusters_of_one_sample_each_are_samples() -> None:
    values = np.random.default_rng(1).normal(size=20)
    statistics = {0: lambda rows: float(values[rows].mean())}
    plain, clustered = (
        resample(statistics, 20, generator=np.random.default_rng(2), clusters=clusters)[0].draws
        for clusters in (None, np.arange(20))
    )
    np.testing.assert_array_equal(plain, clustered)


def test_samples_that_are_copies_of_each_other_vary_as_their_clusters_do() -> None:
    # Ten values, each four times: the variance of a mean of ten draws, not of forty.
    values = np.random.default_rng(6).normal(size=10)
    found = resample(
        {0: lambda rows: float(np.repeat(values, 4)[rows].mean())},
        40,
        generator=np.random.default_rng(7),
        clusters=np.repeat(np.arange(10), 4),
        resamples=20_000,
    )
    assert found[0].draws.var() == pytest.approx(values.var() / 10, rel=5 * (2 / 20_000) ** 0.5)


def test_a_cluster_number_for_each_sample_is_asked_for() -> None:
    with pytest.raises(InputError, match="a cluster number for each of 3 samples, found 2"):
        resample({}, 3, generator=np.random.default_rng(0), clusters=np.array([0, 1]))


def test_without_samples_every_draw_is_the_value() -> None:
    fixed = without_samples(1.5, resamples=4)
    assert (fixed.value, fixed.draws.tolist()) == (1.5, [1.5] * 4)


@pytest.mark.parametrize(("samples", "resamples"), [(0, 10), (10, 0)])
def test_nothing_to_draw_is_refused(samples: int, resamples: int) -> None:
    with pytest.raises(InputError, match="at least one sample and one draw"):
        resample({}, samples, generator=np.random.default_rng(0), resamples=resamples)
