"""Plans: which runs there are, at which rates, and in which folders."""

import pytest

from lpft.errors import InputError
from lpft.experiments.plan import Scope, planned_kernels, planned_runs
from lpft.results.pairing import PUBLISHED, SHARED

FIVE = ("lp", "ft", "lp-ft", "lora", "lp-lora")


def scope(tmp_path, **changes):
    values = {
        "model": "minilm",
        "tasks": ("cb", "rte"),
        "methods": FIVE,
        "seeds": (0, 3),
        "folder": tmp_path,
    }
    return Scope(**(values | changes))


def rates(run):
    return run.config.training.learning_rate, run.config.training.batch_size


def test_there_is_one_run_for_each_task_method_and_seed(tmp_path):
    runs = planned_runs(scope(tmp_path))
    assert len(runs) == 2 * 5 * 2
    assert {(run.task, run.method, run.seed) for run in runs} == {
        (task, method, seed) for task in ("cb", "rte") for method in FIVE for seed in (0, 3)
    }
    for run in runs:
        training = run.config.training
        assert (run.config.data.task, training.method, training.seed, training.model) == (
            run.task,
            run.method,
            run.seed,
            "minilm",
        )
        assert run.variant == PUBLISHED
        assert run.config.output_dir.parent == tmp_path / "runs" / run.task
    assert len({run.config.output_dir for run in runs}) == len(runs)


def test_own_rates_are_the_published_ones_and_shared_ones_those_of_the_lp_start(tmp_path):
    own = {
        run.method: rates(run) for run in planned_runs(scope(tmp_path, tasks=("cb",), seeds=(0,)))
    }
    assert own == {
        "lp": (None, None),
        "ft": (5e-5, 16),
        "lp-ft": (5e-6, 8),
        "lora": (1e-3, 16),
        "lp-lora": (1e-4, 8),
    }
    shared = {
        run.method: rates(run)
        for run in planned_runs(scope(tmp_path, tasks=("cb",), seeds=(0,)), rates=SHARED)
    }
    assert shared == {
        "lp": (None, None),
        "ft": (5e-6, 8),
        "lp-ft": (5e-6, 8),
        "lora": (1e-4, 8),
        "lp-lora": (1e-4, 8),
    }


def test_runs_of_equal_settings_share_a_folder_whatever_part_they_play(tmp_path):
    own = planned_runs(scope(tmp_path))
    shared = planned_runs(scope(tmp_path), rates=SHARED)
    by_part = {(run.task, run.method, run.seed): run.config for run in own}
    same = {
        (run.task, run.method)
        for run in shared
        if run.config == by_part[run.task, run.method, run.seed]
    }
    # Published rates of FT and LP-FT on RTE are both 1e-5, but at batch sizes 16 and 8.
    assert same == {
        (task, method) for task in ("cb", "rte") for method in ("lp", "lp-ft", "lp-lora")
    }
    names = {run.config.output_dir.name for run in (*own, *shared) if run.task == "cb"}
    assert {name for name in names if name.startswith("ft") and name.endswith("seed3")} == {
        "ft-rate5e-5-batch16-seed3",
        "ft-rate5e-6-batch8-seed3",
    }
    assert "lp-seed0" in names


def test_a_task_without_published_rates_has_one_pair_of_folders_only(tmp_path):
    both = [
        planned_runs(scope(tmp_path, tasks=("demo",), methods=("ft", "lp-ft")), rates=rates_)
        for rates_ in (PUBLISHED, SHARED)
    ]
    assert {run.config.output_dir for run in both[0]} == {run.config.output_dir for run in both[1]}


def test_settings_that_a_method_does_not_take_are_left_out(tmp_path):
    settings = {"epochs": 3, "learning_rate": 2e-4, "lora_rank": 4, "max_train_samples": 50}
    runs = planned_runs(scope(tmp_path, tasks=("cb",), seeds=(0,), settings=settings))
    by_method = {run.method: run.config for run in runs}
    assert by_method["lp"].training.epochs is None
    assert by_method["ft"].training.lora_rank is None
    assert by_method["lora"].training.lora_rank == 4
    for method in FIVE[1:]:
        assert by_method[method].training.epochs == 3
        assert by_method[method].training.learning_rate == 2e-4
    assert {config.data.max_train_samples for config in by_method.values()} == {50}


def test_further_settings_name_the_folder_where_they_change_something(tmp_path):
    def names(scale):
        runs = planned_runs(
            scope(tmp_path, tasks=("cb",), seeds=(1,), methods=("ft",)),
            variant=f"scale {scale}",
            settings={"head_scale": scale},
        )
        assert [run.variant for run in runs] == [f"scale {scale}"]
        return [run.config.output_dir.name for run in runs]

    assert names(5.0) == ["ft-rate5e-5-batch16-head-scale5.0-seed1"]
    assert names(1.0) == ["ft-rate5e-5-batch16-seed1"]


def test_kernels_take_of_the_settings_what_decides_them(tmp_path):
    settings = {"epochs": 3, "max_train_samples": 50, "max_length": 32, "save_model": False}
    kernels = planned_kernels(
        scope(tmp_path, settings=settings, kernel_samples=20), methods=("ft", "lp-ft")
    )
    assert [(each.task, each.seed) for each in kernels] == [
        ("cb", 0),
        ("cb", 3),
        ("rte", 0),
        ("rte", 3),
    ]
    first = kernels[0].config
    assert first.output_dir == tmp_path / "kernels" / "cb-seed0"
    assert first.kernels.methods == ("ft", "lp-ft")
    assert first.kernels.max_samples == 20
    assert first.run.data.max_train_samples == 50
    assert first.run.training.max_length == 32


def test_a_wrong_setting_is_refused_before_anything_is_planned(tmp_path):
    with pytest.raises(InputError, match="epochs -1"):
        planned_runs(scope(tmp_path, settings={"epochs": -1}))
    with pytest.raises(InputError, match="unknown setting"):
        planned_runs(scope(tmp_path, settings={"epoch": 1}))
