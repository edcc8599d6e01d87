"""The sentences of the summary: what they say in each case, and what they never say."""

from pathlib import Path
from typing import Any

import pytest
from lpft.report.honesty import read_feature_change, read_unpaired, summarise_feature_change
from lpft.report.reading import (
    read_accuracy,
    read_calibration,
    read_head,
    what_was_run,
)
from results.run_folders import write_run

from lpft.results.groups import Group, group_runs
from lpft.results.pairing import compare, judge_groups
from lpft.results.run import find_runs

HIGH: dict[str, Any] = {"learning_rate": 5e-5, "batch_size": 16}
LOW: dict[str, Any] = {"learning_rate": 5e-6, "batch_size": 8}


def group(folder: Path) -> Group:
    (found,), _ = group_runs(find_runs(folder)[0])
    return found


def said(folder: Path) -> tuple[str, str]:
    """The long and the short text on FT and LP-FT."""
    found = group(folder)
    (comparison,) = judge_groups([found])[found.slug].comparisons
    return (
        " ".join(read_feature_change(comparison)),
        " ".join(summarise_feature_change(comparison)),
    )


def own_rates(
    folder: Path, ft: float = 10.4, lp_ft: float = 3.9, seed: int = 0, **config: Any
) -> None:
    write_run(folder / f"ft-{seed}", "ft", **HIGH, change=ft, seed=seed, **config)
    write_run(folder / f"lp-ft-{seed}", "lp-ft", **LOW, change=lp_ft, seed=seed, **config)


def test_own_rates_alone_allow_no_statement_about_the_head(tmp_path: Path) -> None:
    own_rates(tmp_path)
    for text in said(tmp_path):
        assert "No FT and LP-FT pair here shares a learning rate and batch size" in text
        assert "nothing can be said" in text
        assert "remains" not in text
    long, short = said(tmp_path)
    assert "FT rate 5e-5, batch 16; LP-FT rate 5e-6, batch 8" in long
    assert "10.40 under FT and 3.90 under LP-FT (ratio 0.38)" in long
    assert short.startswith("LP-FT moves features 0.38 times as far as FT at their own rates.")


def test_a_difference_that_vanishes_is_not_credited(tmp_path: Path) -> None:
    own_rates(tmp_path)
    write_run(tmp_path / "ft-low", "ft", **LOW, change=4.5)
    long, short = said(tmp_path)
    assert "At a shared rate 5e-6, batch 8: 4.50 under FT and 3.90 under LP-FT" in long
    assert "all but vanishes: 9 % remains." in long
    for text in (long, short):
        assert "LP-FT gets no credit for that part" in text
        assert "One seed: cannot tell" in text


def test_a_reversed_difference_is_said_to_be_reversed(tmp_path: Path) -> None:
    own_rates(tmp_path)
    write_run(tmp_path / "lp-ft-high", "lp-ft", **HIGH, change=11.3)
    long, short = said(tmp_path)
    assert "10.40 under FT and 11.30 under LP-FT (ratio 1.09)" in long
    assert "None of the difference at own rates remains: the order is reversed." in long
    assert "LP-FT gets no credit for that part" in short
    assert "1.09 times at a shared rate 5e-5, batch 16" in short


def test_the_numbers_known_from_cb(tmp_path: Path) -> None:
    """Both shared rates at once: one leaves 9 %, the other turns the order around."""
    own_rates(tmp_path, task="cb")
    write_run(tmp_path / "ft-low", "ft", **LOW, change=4.5, task="cb")
    write_run(tmp_path / "lp-ft-high", "lp-ft", **HIGH, change=11.3, task="cb")
    long, short = said(tmp_path)
    assert "the published rates and batch sizes of cb" in long
    assert "9 % remains" in long
    assert "the order is reversed" in long
    assert "LP-FT gets no credit for that part" in short


def test_a_difference_that_stays_is_said_to_stay(tmp_path: Path) -> None:
    own_rates(tmp_path, ft=10.0, lp_ft=4.0)
    write_run(tmp_path / "ft-low", "ft", **LOW, change=8.5)
    long, short = said(tmp_path)
    assert "Of the difference at own rates 75 % remains." in long
    assert "So half or more of the difference at own rates is there at a shared rate" in short
    assert "no credit" not in long + short
    assert "One seed: cannot tell" in short


def test_a_larger_difference_at_a_shared_rate(tmp_path: Path) -> None:
    own_rates(tmp_path, ft=10.0, lp_ft=4.0)
    write_run(tmp_path / "ft-low", "ft", **LOW, change=16.0)
    assert "The difference is larger than at own rates: 200 % of it." in said(tmp_path)[0]


def test_what_remains_may_depend_on_the_rate(tmp_path: Path) -> None:
    own_rates(tmp_path, ft=10.0, lp_ft=4.0, task="cb")
    write_run(tmp_path / "ft-low", "ft", **LOW, change=9.4, task="cb")
    write_run(tmp_path / "lp-ft-high", "lp-ft", **HIGH, change=9.4, task="cb")
    short = said(tmp_path)[1]
    assert "So what remains depends on the rate that is shared: from 10 % to 90 %." in short
    assert "credit" not in short


def test_lp_ft_that_moves_features_more_is_said_to(tmp_path: Path) -> None:
    own_rates(tmp_path, ft=3.0, lp_ft=5.0)
    write_run(tmp_path / "ft-low", "ft", **LOW, change=2.0)
    long, short = said(tmp_path)
    assert "LP-FT does not move them less, or by under 1 %." in long
    assert "remain" not in long
    assert "credit" not in long + short


def test_a_difference_too_small_to_divide_is_not_divided(tmp_path: Path) -> None:
    own_rates(tmp_path, ft=4.501, lp_ft=4.5)
    write_run(tmp_path / "ft-low", "ft", **LOW, change=6.0)
    long, short = said(tmp_path)
    assert "LP-FT does not move them less, or by under 1 %." in long
    assert "%" not in short


def test_nothing_remaining_is_not_called_reversed(tmp_path: Path) -> None:
    own_rates(tmp_path)
    write_run(tmp_path / "ft-low", "ft", **LOW, change=3.9)
    long, _ = said(tmp_path)
    assert "all but vanishes: 0 % remains." in long
    assert "reversed" not in long


def test_shared_rates_alone_say_so(tmp_path: Path) -> None:
    write_run(tmp_path / "ft", "ft", **LOW, change=4.5)
    write_run(tmp_path / "lp-ft", "lp-ft", **LOW, change=3.9)
    long, short = said(tmp_path)
    assert "ran at shared rates only" in long
    assert "own rates" not in short
    assert "0.87 times as far as FT at a shared rate 5e-6, batch 8" in short


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([(5.0, 4.0), (6.0, 5.1), (5.5, 4.4)], "Over only 3 seeds: at rate 5e-6, batch 8 LP-FT is "
         "smaller (FT less LP-FT: 1.00, 95 % interval 0."),
        ([(5.0, 4.0), (4.0, 6.0), (5.5, 5.0)], "LP-FT cannot be told from FT (FT less LP-FT: "
         "−0.17, 95 % interval −"),
        # One sign in all seeds, and an interval that holds 0.
        ([(5.0, 4.9), (9.0, 4.0)], "LP-FT cannot be told from FT"),
        ([(4.0, 5.0), (4.0, 5.1)], "LP-FT is larger (FT less LP-FT: −1.05"),
        ([(5.0, 4.0)] * 5, "Over 5 seeds: at rate 5e-6, batch 8 LP-FT is smaller (FT less LP-FT: "
         "1.00, 95 % interval 1.00 to 1.00)."),
    ],
)  # fmt: skip
def test_several_seeds(tmp_path: Path, changes: list[tuple[float, float]], expected: str) -> None:
    for seed, (ft, lp_ft) in enumerate(changes):
        write_run(tmp_path / f"ft-{seed}", "ft", **LOW, change=ft, seed=seed)
        write_run(tmp_path / f"lp-ft-{seed}", "lp-ft", **LOW, change=lp_ft, seed=seed)
    for text in said(tmp_path):
        assert expected in text
        assert "One seed" not in text


def test_without_a_judgement_nothing_is_said_of_seeds(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path / f"ft-{seed}", "ft", **LOW, change=5.0, seed=seed)
        write_run(tmp_path / f"lp-ft-{seed}", "lp-ft", **LOW, change=4.0, seed=seed)
    (comparison,) = compare(group(tmp_path))
    assert "seed" not in " ".join(summarise_feature_change(comparison))


def test_several_seeds_are_shown_as_mean_and_deviation(tmp_path: Path) -> None:
    own_rates(tmp_path, ft=10.0, lp_ft=4.0, seed=0)
    own_rates(tmp_path, ft=12.0, lp_ft=5.0, seed=1)
    assert "11.00 ± 1.41 under FT and 4.50 ± 0.71 under LP-FT (ratio 0.41)" in said(tmp_path)[0]


def test_methods_that_cannot_be_compared_are_named(tmp_path: Path) -> None:
    write_run(tmp_path / "ft", "ft", epochs=3.0)
    write_run(tmp_path / "lp-ft", "lp-ft", epochs=10.0)
    found = group(tmp_path)
    (sentence,) = read_unpaired(found, compare(found))
    assert sentence.startswith("FT and LP-FT are both here, but no two of their runs agree")
    write_run(tmp_path / "ft-10", "ft", epochs=10.0)
    found = group(tmp_path)
    assert read_unpaired(found, compare(found)) == []


def test_what_was_run_names_methods_data_and_seeds(tmp_path: Path) -> None:
    write_run(tmp_path / "lp", "lp")
    write_run(tmp_path / "ft", "ft")
    assert what_was_run(group(tmp_path)) == (
        "2 finished runs of LP and FT on corpus (400 training, 60 validation and 80 test texts; "
        "3 classes; out of distribution: books and hotels) with minilm, mean pooling and the "
        "stratified split; seed 0."
    )


def test_accuracy_is_read_with_its_uncertainty(tmp_path: Path) -> None:
    write_run(tmp_path / "good", "lp-ft", skill=4.0)
    write_run(tmp_path / "bad", "ft", skill=0.0)
    found = group(tmp_path)
    bad, good = (setting.first.score("test", "accuracy") for setting in found.settings)
    assert bad is not None
    assert good is not None
    text = " ".join(read_accuracy(found))
    assert f"(test, 80 rows) accuracy goes from {bad:.3f} for FT to {good:.3f} for LP-FT" in text
    assert f"With 80 rows an accuracy of {good:.3f} has a 95 % interval from" in text
    assert "Out of distribution (mean over 2 sets) accuracy goes from" in text


def test_calibration_counts_where_the_temperature_helped(tmp_path: Path) -> None:
    write_run(tmp_path / "ft", "ft", sharpness=8.0, temperature=8.0, skill=0.5)
    write_run(tmp_path / "lp", "lp", temperature=1.0, reason="all rows are separated")
    text = " ".join(read_calibration(group(tmp_path)))
    ft = next(run for run in group(tmp_path).runs if run.method == "ft")
    before, after = ft.score("test", "ece"), ft.score("test", "ece", calibrated=True)
    assert f"lowers ECE on test for 1 of 2 methods, most for FT (from {before:.3f} to " in text
    assert f"{after:.3f})" in text
    assert "it lowers ECE in 2 of 4 cases" in text
    assert "It stayed 1 in 1 run" in text


def test_head_norms_are_given_by_their_start(tmp_path: Path) -> None:
    write_run(tmp_path / "lp", "lp")
    write_run(tmp_path / "ft", "ft", head_norm=0.75)
    write_run(tmp_path / "lp-ft", "lp-ft", head_norm=15.0)
    assert read_head(group(tmp_path)) == [
        "Norm of the head's weights: random heads start at 0.550 and end at 0.750; heads from "
        "linear probing start at 14.0 and end at 15.0."
    ]
