"""Which runs are compared: settings, seeds, own and shared rates."""

from pathlib import Path
from typing import Any

import pytest

from lpft.results.groups import Group, group_runs, model_name
from lpft.results.pairing import Comparison, Rates, compare, published_rates
from lpft.results.run import find_runs

from .run_folders import write_run

HIGH: dict[str, Any] = {"learning_rate": 5e-5, "batch_size": 16}
LOW: dict[str, Any] = {"learning_rate": 5e-6, "batch_size": 8}


def group(folder: Path) -> Group:
    (found,), _ = group_runs(find_runs(folder)[0])
    return found


def comparison(folder: Path) -> Comparison:
    (found,) = compare(group(folder))
    return found


def test_equal_and_unequal_rates_are_told_apart(tmp_path: Path) -> None:
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
    [{"epochs": 3.0}, {"seed": 1}, {"head_scale": 2.0}, {"class_weight": "balanced"}],
    ids=str,
)
def test_runs_that_differ_in_anything_else_are_no_pair(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    write_run(tmp_path / "ft", "ft", **LOW)
    write_run(tmp_path / "lp-ft", "lp-ft", **LOW, **other)
    assert compare(group(tmp_path)) == ()


def test_where_a_run_was_written_is_no_difference(tmp_path: Path) -> None:
    write_run(tmp_path / "ft", "ft", **LOW, device="cpu", report_to="none")
    write_run(tmp_path / "lp-ft", "lp-ft", **LOW, device="cuda", report_to="wandb")
    assert len(comparison(tmp_path).shared) == 1


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
    assert [pair[0].seed for pair in shared.runs] == [0, 1, 2]
    assert shared.differences == (6.0, 5.0, 4.0)
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


def test_published_rates_of_the_task_are_the_own_rates(tmp_path: Path) -> None:
    for name, method, rates in (
        ("ft-high", "ft", HIGH),
        ("ft-low", "ft", LOW),
        ("lp-ft-high", "lp-ft", HIGH),
        ("lp-ft-low", "lp-ft", LOW),
    ):
        skill = 3.0 if name in ("ft-low", "lp-ft-high") else 0.5
        write_run(tmp_path / name, method, **rates, task="cb", skill=skill)
    found = comparison(tmp_path)
    assert found.own is not None
    assert found.own.rates == (Rates(5e-5, 16), Rates(5e-6, 8))
    assert found.own_because == "the published rates and batch sizes of cb"
    assert len(found.shared) == 2


def test_without_published_rates_validation_chooses_the_own_rates(tmp_path: Path) -> None:
    for name, method, rates in (
        ("ft-high", "ft", HIGH),
        ("ft-low", "ft", LOW),
        ("lp-ft-high", "lp-ft", HIGH),
        ("lp-ft-low", "lp-ft", LOW),
    ):
        skill = 4.0 if name in ("ft-low", "lp-ft-high") else 0.2
        write_run(tmp_path / name, method, **rates, skill=skill)
    found = comparison(tmp_path)
    assert found.own is not None
    assert found.own.rates == (Rates(5e-6, 8), Rates(5e-5, 16))
    assert "best validation scores" in found.own_because


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
    assert (shared.changes, shared.change, shared.difference, shared.ratio) == (
        (),
        None,
        None,
        None,
    )


def test_runs_are_grouped_by_data_model_pooling_and_protocol(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", data_name="other")
    write_run(tmp_path / "c", model="roberta-base")
    write_run(tmp_path / "d", pooling="first")
    write_run(tmp_path / "e", split_protocol="paper")
    write_run(tmp_path / "f", train_file="mine.csv")
    groups, repeated = group_runs(find_runs(tmp_path)[0])
    assert len(groups) == 6
    assert len({group.slug for group in groups}) == 6
    assert repeated == ()


def prints(train: str = "a", test: str = "b", encoder: str = "c") -> dict[str, Any]:
    data = {"train": train * 64, "validation": "d" * 64, "test": test * 64, "ood/books": "e" * 64}
    return {"data": data, "encoder": encoder * 64}


def test_with_fingerprints_the_place_of_files_and_weights_is_no_difference(tmp_path: Path) -> None:
    paths = {"model": "/one/minilm", "train_file": "/one/train.csv", "ood": {"books": "/one/b.csv"}}
    write_run(tmp_path / "ft", "ft", **LOW, fingerprints=prints(), **paths)
    moved = {"model": "/two/other", "train_file": "/two/train.csv", "ood": {"books": "/two/b.csv"}}
    write_run(tmp_path / "lp-ft", "lp-ft", **LOW, fingerprints=prints(), **moved)
    assert len(comparison(tmp_path).shared) == 1


def test_runs_trained_on_other_texts_are_no_pair(tmp_path: Path) -> None:
    write_run(tmp_path / "ft", "ft", **LOW, fingerprints=prints(train="1"))
    write_run(tmp_path / "ft-2", "ft", **LOW, fingerprints=prints(train="2"))
    write_run(tmp_path / "lp-ft", "lp-ft", **LOW, fingerprints=prints(train="3"))
    found = group(tmp_path)
    assert compare(found) == ()
    assert [setting.label for setting in found.settings] == [
        "FT (training data 1111111 ddddddd)",
        "FT (training data 2222222 ddddddd)",
        "LP-FT",
    ]


@pytest.mark.parametrize("other", [{"test": "9"}, {"encoder": "9"}], ids=str)
def test_other_test_texts_or_weights_are_another_group(
    tmp_path: Path, other: dict[str, str]
) -> None:
    write_run(tmp_path / "ft", "ft", fingerprints=prints())
    write_run(tmp_path / "lp-ft", "lp-ft", fingerprints=prints(**other))
    groups, _ = group_runs(find_runs(tmp_path)[0])
    assert len({group.title for group in groups}) == len({group.slug for group in groups}) == 2
    assert all("texts" in group.title for group in groups)


def test_a_repeated_seed_is_not_counted_twice(tmp_path: Path) -> None:
    write_run(tmp_path / "a" / "ft", "ft", seed=0)
    write_run(tmp_path / "b" / "ft", "ft", seed=0)
    (found,), (again,) = group_runs(find_runs(tmp_path)[0])
    assert [run.name for run in found.runs] == ["a/ft"]
    assert (again.name, again.state) == ("b/ft", "repeated")
    assert "a/ft" in again.reason


def test_labels_say_what_differs_and_nothing_else(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "ft", head_scale=1.0)
    write_run(tmp_path / "b", "ft", head_scale=10.0)
    write_run(tmp_path / "c", "ft", head_scale=10.0, learning_rate=1e-4)
    write_run(tmp_path / "d", "lp-ft")
    settings = group(tmp_path).settings
    assert [setting.label for setting in settings] == [
        "FT (rate 5e-5, head scale 1.0)",
        "FT (rate 5e-5, head scale 10.0)",
        "FT (rate 1e-4, head scale 10.0)",
        "LP-FT",
    ]
    assert [setting.name for setting in settings][:2] == [
        "FT (head scale 1.0)",
        "FT (head scale 10.0)",
    ]
    assert len({setting.slug for setting in settings}) == 4


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("minilm", "minilm"),
        ("FacebookAI/roberta-base", "FacebookAI/roberta-base"),
        ("/Users/someone/models/mine", "mine"),
        ("../models/mine/", "mine"),
        ("C:\\models\\mine", "mine"),
    ],
)
def test_folders_of_someones_machine_are_not_shown(model: str, name: str) -> None:
    assert model_name(model) == name
