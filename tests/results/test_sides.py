"""Which runs are compared at which rates, and that they share their samples."""

from dataclasses import replace

import numpy as np
import pytest
from experiments.claim_folders import write_claims

from lpft.analysis.comparison import resample
from lpft.errors import InputError
from lpft.results.pairing import (
    PUBLISHED,
    SHARED,
    all_runs,
    at_own_rates,
    pairings,
    pairs_in,
    rates_name,
    sides,
)
from lpft.results.quantities import Samples, judged_split, resample_runs


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """CB at its published rates; demo, of which the paper has none; LP-FT of seed 1 failed."""

    def describe(planned):
        failed = planned.task == "cb" and planned.method == "lp-ft" and planned.seed == 1
        return None if failed or planned.variant.startswith("head") else {}

    folder = tmp_path_factory.mktemp("sides")
    return write_claims(folder, describe, tasks=("cb", "demo"), seeds=(0, 1))


def test_pairs_need_both_methods():
    assert pairs_in(("lp", "ft", "lora", "lp-ft")) == (("ft", "lp-ft"),)
    assert pairs_in(("lp-lora", "lora", "lp-ft", "ft")) == (("ft", "lp-ft"), ("lora", "lp-lora"))
    assert pairs_in(("dora", "lp-dora", "lora")) == (("dora", "lp-dora"),)


def test_a_published_pair_is_compared_at_own_and_at_shared_rates(found):
    own, shared = pairings(found, "cb", ("ft", "lp-ft"))
    assert (own.rates, shared.rates) == ("published", "shared")
    assert own.first.runs == found.by_seed(PUBLISHED, "cb", "ft")
    assert shared.first.runs == found.by_seed(SHARED, "cb", "ft")
    assert own.second.runs == shared.second.runs == found.by_seed(PUBLISHED, "cb", "lp-ft")
    assert own.seeds == (0,)
    assert own.run_names == (
        "runs/cb/ft-rate5e-5-batch16-seed0",
        "runs/cb/lp-ft-rate5e-6-batch8-seed0",
    )


def test_rates_that_are_shared_already_are_compared_once(found):
    (only,) = pairings(found, "demo", ("ft", "lp-ft"))
    assert only.rates == "shared"
    assert only.seeds == (0, 1)
    assert at_own_rates(found, "demo", ("lora", "lp-ft")).rates == "own"


def test_rates_that_agree_are_called_shared_whatever_was_planned(found):
    """As in a table that runs each method at its own rates alone."""
    planned = {key: run for key, run in found.runs.items() if key[0] == PUBLISHED}
    own = replace(found, runs=planned)
    assert [pairing.rates for pairing in pairings(own, "demo", ("ft", "lp-ft"))] == ["shared"]
    assert pairings(own, "demo", ("ft", "lp-ft"))[0].seeds == (0, 1)
    first, second = pairings(own, "cb", ("ft", "lp-ft"))
    assert (first.rates, second.seeds) == ("published", ())


def test_sides_are_each_method_once_and_random_heads_at_shared_rates_too(found):
    assert [(side.method, side.rates) for side in sides(found, "cb", found.scope.methods)] == [
        ("ft", "published"),
        ("lp-ft", "published"),
        ("ft", "shared"),
        ("lora", "published"),
        ("lp-lora", "published"),
        ("lora", "shared"),
    ]
    assert [(side.method, side.rates) for side in sides(found, "demo", found.scope.methods)] == [
        ("ft", "shared"),
        ("lp-ft", "shared"),
        ("lora", "shared"),
        ("lp-lora", "shared"),
    ]


def test_rates_are_called_published_by_the_runs_own_numbers(found):
    runs = found.by_seed(SHARED, "cb", "ft")
    assert rates_name("cb", {"ft": found.by_seed(PUBLISHED, "cb", "ft")}) == "published"
    assert rates_name("cb", {"ft": runs}) == "own"
    assert rates_name("demo", {"ft": found.by_seed(PUBLISHED, "demo", "ft")}) == "own"


def test_the_split_that_is_judged(found):
    runs = list(found.runs.values())
    assert judged_split(runs) == "test"
    runs[0].predictions.pop("test")
    assert judged_split(runs) == "validation"


def test_statistics_of_runs_share_their_draws(found):
    runs = all_runs(pairings(found, "demo", ("ft", "lp-ft")))
    values = {run.folder: np.random.default_rng(run.seed).normal(size=9) for run in runs}

    def read(run):
        return Samples(np.arange(9), lambda rows: float(values[run.folder][rows].mean()))

    by_run = resample_runs(runs, read, generator=np.random.default_rng(3))
    expected = resample(
        {folder: lambda rows, v=v: float(v[rows].mean()) for folder, v in values.items()},
        9,
        generator=np.random.default_rng(3),
    )
    assert set(by_run) == {run.folder for run in runs}
    for folder, found_of in by_run.items():
        np.testing.assert_array_equal(found_of.draws, expected[folder].draws)


def test_no_run_has_no_statistic():
    assert resample_runs([], lambda _: Samples([], len), generator=np.random.default_rng(0)) == {}


def test_runs_of_other_samples_are_refused(found):
    runs = all_runs(pairings(found, "demo", ("ft", "lp-ft")))
    with pytest.raises(InputError, match=r"runs/demo/.* were tested on different samples"):
        resample_runs(
            runs,
            lambda run: Samples([run.name, "b"], lambda rows: float(len(rows))),
            generator=np.random.default_rng(0),
        )
