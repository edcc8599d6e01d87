"""Which runs are compared at which rates, in a report and in an experiment."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiments.experiment_folders import write_claims

from lpft.analysis.comparison import resample
from lpft.errors import InputError
from lpft.experiments.plan import ExperimentRuns
from lpft.results.differences import Comparison, compare
from lpft.results.groups import Group, group_runs
from lpft.results.pairing import (
    LP_START,
    PUBLISHED,
    RANDOM_START,
    TUNED,
    Rates,
    all_runs,
    at_own_rates,
    methods_at_rates,
    pairings,
    pairs_in,
    published_rates,
    rates_name,
)
from lpft.results.quantities import Samples, judged_split, resample_runs
from lpft.results.run import find_runs

from .run_folders import prints, write_run

HIGH: dict[str, Any] = {"learning_rate": 5e-5, "batch_size": 16}
LOW: dict[str, Any] = {"learning_rate": 5e-6, "batch_size": 8}


def group(folder: Path) -> Group:
    (found,), _ = group_runs(find_runs(folder)[0])
    return found


def comparison(folder: Path) -> Comparison:
    (found,) = compare(group(folder))
    return found


def test_equal_and_unequal_rates_are_compared_apart(tmp_path: Path) -> None:
    write_run(tmp_path / "ft", "ft", **HIGH, change=10.4)
    write_run(tmp_path / "lp-ft", "lp-ft", **LOW, change=3.9)
    write_run(tmp_path / "ft-low", "ft", **LOW, change=4.5)
    found = comparison(tmp_path)
    assert found.own is not None
    assert found.own.rates == (Rates(5e-5, 16), Rates(5e-6, 8))
    assert found.own.changes == ((10.4, 3.9),)
    assert found.own.ratio == pytest.approx(3.9 / 10.4)
    assert not found.own.shared
    (shared,) = found.shared
    assert shared.rates == (Rates(5e-6, 8), Rates(5e-6, 8))
    assert shared.changes == ((4.5, 3.9),)
    assert found.remaining(shared) == pytest.approx(0.6 / 6.5)


@pytest.mark.parametrize("other", [{"learning_rate": 5e-5}, {"batch_size": 16}], ids=str)
def test_rate_and_batch_must_both_be_equal(tmp_path: Path, other: dict[str, Any]) -> None:
    write_run(tmp_path / "ft", "ft", **(LOW | other))
    write_run(tmp_path / "lp-ft", "lp-ft", **LOW)
    found = comparison(tmp_path)
    assert found.shared == ()
    assert found.own is not None


@pytest.mark.parametrize(
    "other",
    [{"epochs": 3.0}, {"seed": 1}, {"head_scale": 2.0}, {"fingerprints": prints(train="3")}],
    ids=str,
)
def test_runs_that_differ_in_anything_else_are_no_pair(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    write_run(tmp_path / "ft", "ft", **LOW, fingerprints=prints())
    write_run(tmp_path / "lp-ft", "lp-ft", **LOW, **{"fingerprints": prints(), **other})
    assert compare(group(tmp_path)) == ()


def test_heads_scaled_as_is_usual_for_their_methods_are_a_pair(tmp_path: Path) -> None:
    """With the packaged model LP-FT starts from 0.3 times the head of linear probing."""
    minilm = {**LOW, "model": "minilm"}
    write_run(tmp_path / "ft", "ft", **minilm, head_scale=1.0)
    write_run(tmp_path / "usual", "lp-ft", **minilm, head_scale=0.3, probe_scoring="log-loss")
    write_run(tmp_path / "other", "lp-ft", **minilm, head_scale=0.5)
    (found,) = compare(group(tmp_path))
    assert found.head_scale == 0.3
    assert [run.name for run in found.shared[0].pairing.paired_runs] == ["ft", "usual"]
    # Whole heads are alike, whatever is usual.
    write_run(tmp_path / "whole", "lp-ft", **minilm, head_scale=1.0)
    assert {found.head_scale for found in compare(group(tmp_path))} == {0.3, 1.0}


def test_the_rank_of_lora_separates_lora_and_not_ft(tmp_path: Path) -> None:
    write_run(tmp_path / "ft", "ft", **LOW, lora_rank=8)
    write_run(tmp_path / "lp-ft", "lp-ft", **LOW, lora_rank=4)
    write_run(tmp_path / "lora", "lora", **LOW, lora_rank=8)
    write_run(tmp_path / "lp-lora", "lp-lora", **LOW, lora_rank=4)
    assert [found.methods for found in compare(group(tmp_path))] == [("ft", "lp-ft")]


def test_only_the_partner_method_is_paired(tmp_path: Path) -> None:
    for method in ("lp", "ft", "lp-lora"):
        write_run(tmp_path / method, method, **LOW)
    assert compare(group(tmp_path)) == ()


def test_seeds_are_paired_with_themselves(tmp_path: Path) -> None:
    for seed, (first, second) in enumerate([(10.0, 4.0), (11.0, 6.0), (9.0, 5.0)]):
        write_run(tmp_path / f"ft-{seed}", "ft", **LOW, seed=seed, change=first)
        write_run(tmp_path / f"lp-ft-{seed}", "lp-ft", **LOW, seed=seed, change=second)
    write_run(tmp_path / "ft-7", "ft", **LOW, seed=7, change=99.0)
    (shared,) = comparison(tmp_path).shared
    assert shared.pairing.seeds == (0, 1, 2)
    assert shared.changes == ((10.0, 4.0), (11.0, 6.0), (9.0, 5.0))
    assert shared.change is not None
    assert (shared.change[0].mean, shared.change[1].mean) == (10.0, 5.0)
    assert shared.ratio == 0.5
    assert shared.difference is not None
    assert (shared.difference.mean, shared.difference.sd) == (5.0, 1.0)


def test_what_remains_is_taken_over_the_seeds_of_both(tmp_path: Path) -> None:
    for seed, own in ((0, 12.0), (1, 100.0)):
        write_run(tmp_path / f"ft-{seed}", "ft", **HIGH, seed=seed, change=own)
        write_run(tmp_path / f"lp-ft-{seed}", "lp-ft", **LOW, seed=seed, change=4.0)
    write_run(tmp_path / "ft-low-0", "ft", **LOW, seed=0, change=6.0)
    found = comparison(tmp_path)
    assert found.remaining(found.shared[0]) == pytest.approx((6.0 - 4.0) / (12.0 - 4.0))


@pytest.mark.parametrize(
    ("task", "rates", "because"),
    [
        ("cb", (Rates(5e-5, 16), Rates(5e-6, 8)), "the published rates and batch sizes of cb"),
        (None, (Rates(5e-6, 8), Rates(5e-5, 16)), "best validation scores"),
    ],
)
def test_own_rates_are_the_published_ones_or_those_that_validation_chooses(
    tmp_path: Path, task: str | None, rates: tuple[Rates, Rates], because: str
) -> None:
    """FT is best at the low rates, LP-FT at the high ones."""
    for method in ("ft", "lp-ft"):
        for name, chosen in (("high", HIGH), ("low", LOW)):
            skill = 4.0 if (method, name) in (("ft", "low"), ("lp-ft", "high")) else 0.2
            folder = tmp_path / f"{method}-{name}"
            write_run(folder, method, **chosen, task=task, skill=skill)
    found = comparison(tmp_path)
    assert found.own is not None
    assert found.own.rates == rates
    assert because in found.own_because
    assert len(found.shared) == 2


def test_published_rates() -> None:
    assert published_rates("cb", "ft") == Rates(5e-5, 16)
    assert published_rates("cb", "lp-lora") == Rates(1e-4, 8)
    assert published_rates("pubmed", "lp-ft") == Rates(5e-6, 8)
    assert published_rates("cb", "lp") is None
    assert published_rates("None", "ft") is None


def test_no_feature_change_recorded_is_no_number(tmp_path: Path) -> None:
    for method in ("ft", "lp-ft"):
        run = write_run(tmp_path / method, method, **LOW)
        (run / "features.json").write_text("{}")
    (shared,) = comparison(tmp_path).shared
    assert shared.changes == ()
    assert (shared.change, shared.difference, shared.ratio) == (None, None, None)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> ExperimentRuns:
    """CB at its published rates; demo, of which the paper has none; LP-FT of seed 1 failed."""

    def describe(key: Any, _: Any) -> dict[str, Any] | None:
        failed = key.task == "cb" and key.method == "lp-ft" and key.seed == 1
        return None if failed or key.variant.startswith("head") else {}

    folder = tmp_path_factory.mktemp("sides")
    runs: ExperimentRuns = write_claims(folder, describe, tasks=("cb", "demo"), seeds=(0, 1))
    return runs


def test_pairs_need_both_methods() -> None:
    assert pairs_in(("lp", "ft", "lora", "lp-ft")) == (("ft", "lp-ft"),)
    assert pairs_in(("lp-lora", "lora", "lp-ft", "ft")) == (("ft", "lp-ft"), ("lora", "lp-lora"))
    assert pairs_in(("dora", "lp-dora", "lora")) == (("dora", "lp-dora"),)


def test_a_published_pair_is_compared_at_own_rates_and_at_those_of_either(
    found: ExperimentRuns,
) -> None:
    own, lp_start, random_start = pairings(found, "cb", ("ft", "lp-ft"))
    assert [each.rates for each in (own, lp_start, random_start)] == [
        "published",
        "LP-start",
        "random-start",
    ]
    assert not any(each.also_at for each in (own, lp_start, random_start))
    assert own.first.runs == random_start.first.runs == found.by_seed(PUBLISHED, "cb", "ft")
    assert lp_start.first.runs == found.by_seed(LP_START, "cb", "ft")
    assert own.second.runs == lp_start.second.runs == found.by_seed(PUBLISHED, "cb", "lp-ft")
    assert random_start.second.runs == found.by_seed(RANDOM_START, "cb", "lp-ft")
    for pairing, rates in ((lp_start, Rates(5e-6, 8)), (random_start, Rates(5e-5, 16))):
        assert {Rates.of(run) for run in pairing.paired_runs} == {rates}
    assert own.seeds == (0,)
    assert own.run_names == (
        "runs/cb/ft-rate5e-5-batch16-seed0",
        "runs/cb/lp-ft-rate5e-6-batch8-seed0",
    )


def test_rates_that_are_shared_already_are_compared_once(found: ExperimentRuns) -> None:
    (only,) = pairings(found, "demo", ("ft", "lp-ft"))
    assert only.rates == "shared"
    assert {LP_START, RANDOM_START} <= set(only.also_at)
    assert only.seeds == (0, 1)
    assert at_own_rates(found, "demo", ("lora", "lp-ft")).rates == "own"


def test_rates_that_agree_are_called_shared_whatever_was_planned(found: ExperimentRuns) -> None:
    """As in a table that runs each method at its own rates alone."""
    planned = {key: run for key, run in found.runs.items() if key[0] == PUBLISHED}
    own = replace(found, runs=planned)
    (only,) = pairings(own, "demo", ("ft", "lp-ft"))
    assert (only.rates, only.seeds) == ("shared", (0, 1))
    first, *others = pairings(own, "cb", ("ft", "lp-ft"))
    assert first.rates == "published"
    assert [other.seeds for other in others] == [(), ()]


def test_tuned_rates_that_turn_out_to_be_others_are_these(found: ExperimentRuns) -> None:
    """FT is best at LP-FT's rates, and LP-FT at its own: both have run so already."""
    scope = replace(found.scope, tuned_rates=True)
    tuned = {
        key._replace(variant=TUNED): run
        for key, run in found.runs.items()
        if key.variant == LP_START and key.task == "cb"
    }
    both = replace(found, scope=scope, runs={**found.runs, **tuned})
    own, lp_start, _ = pairings(both, "cb", ("ft", "lp-ft"))
    assert (own.also_at, lp_start.also_at) == ((), (TUNED,))
    at_tuned = {group.method: group for group in methods_at_rates(both, "cb", ("ft", "lp-ft"))}
    assert TUNED in at_tuned["ft"].also_at
    # At rates of its own a third choice has its own pairing.
    key = next(key for key in tuned if key.method == "ft")
    other = replace(both, runs={**both.runs, key: found.runs["published", "cb", "ft", key.seed]})
    assert [each.rates for each in pairings(other, "cb", ("ft", "lp-ft"))][-1] == TUNED


def test_sides_are_each_method_once_and_again_where_it_has_other_runs(
    found: ExperimentRuns,
) -> None:
    def named(task: str) -> list[tuple[str, str, tuple[str, ...]]]:
        return [
            (group.method, group.rates, group.also_at)
            for group in methods_at_rates(found, task, found.scope.methods)
        ]

    assert named("cb") == [
        ("ft", "published", (RANDOM_START,)),
        ("lp-ft", "published", (LP_START,)),
        ("ft", LP_START, ()),
        ("lp-ft", RANDOM_START, ()),
        ("lora", "published", (RANDOM_START,)),
        ("lp-lora", "published", (LP_START,)),
        ("lora", LP_START, ()),
        ("lp-lora", RANDOM_START, ()),
    ]
    assert [each[:2] for each in named("demo")] == [
        (name, "shared") for name in ("ft", "lp-ft", "lora", "lp-lora")
    ]


def test_rates_are_called_published_by_the_runs_own_numbers(found: ExperimentRuns) -> None:
    assert rates_name("cb", {"ft": found.by_seed(PUBLISHED, "cb", "ft")}) == "published"
    assert rates_name("cb", {"ft": found.by_seed(LP_START, "cb", "ft")}) == "own"
    assert rates_name("demo", {"ft": found.by_seed(PUBLISHED, "demo", "ft")}) == "own"


def test_statistics_of_paired_runs_share_their_draws(found: ExperimentRuns) -> None:
    (pairing,) = pairings(found, "demo", ("ft", "lp-ft"))
    runs = all_runs([pairing])
    values = {run.folder: np.random.default_rng(run.seed).normal(size=9) for run in runs}

    def read(run: Any) -> Samples:
        return Samples(np.arange(9), lambda rows: float(values[run.folder][rows].mean()))

    by_run = resample_runs(runs, read, generator=np.random.default_rng(3))
    expected = resample(
        {folder: lambda rows, v=v: float(v[rows].mean()) for folder, v in values.items()},
        9,
        generator=np.random.default_rng(3),
    )
    for (first, second), seed in zip(pairing.statistics(by_run), pairing.seeds, strict=True):
        for statistic, group in ((first, pairing.first), (second, pairing.second)):
            draws = expected[group.runs[seed].folder].draws
            np.testing.assert_array_equal(statistic.draws, draws)


def test_runs_of_other_samples_are_refused(found: ExperimentRuns) -> None:
    runs = all_runs(pairings(found, "demo", ("ft", "lp-ft")))
    with pytest.raises(InputError, match=r"runs/demo/.* were tested on different samples"):
        resample_runs(
            runs,
            lambda run: Samples([run.name, "b"], lambda rows: float(len(rows))),
            generator=np.random.default_rng(0),
        )
    assert resample_runs([], lambda _: Samples([], len), generator=np.random.default_rng(0)) == {}


def test_the_split_that_is_judged(found: ExperimentRuns) -> None:
    runs = list(found.runs.values())
    assert judged_split(runs) == "test"
    without = replace(runs[0], predictions={"validation": runs[0].predictions["validation"]})
    assert judged_split([*runs[1:], without]) == "validation"
