"""What an experiment is done on, and its plan: which runs, at which rates, in which folders."""

import pytest
import torch
from experiments.experiment_folders import scope_of

from lpft.errors import InputError
from lpft.experiments.catalogue import EXPERIMENTS
from lpft.experiments.plan import make_scope, planned_kernels, planned_runs, planned_searches
from lpft.experiments.run import find_recipe
from lpft.experiments.tiny import save_tiny_model, tiny_model
from lpft.model import build_classifier
from lpft.model.inference import encoder_fingerprint
from lpft.results.pairing import LP_START, PUBLISHED, RANDOM_START, TUNED
from lpft.settings.configs import default_folder

FIVE = ("lp", "ft", "lp-ft", "lora", "lp-lora")


def test_without_options_everything_is_the_papers(tmp_path):
    recipe = find_recipe("table8")
    scope = make_scope(recipe.entry, {}, tmp_path, tiny=False)
    assert (scope.model, scope.seeds) == ("roberta-base", (0, 1, 2, 3, 4))
    assert (scope.tasks, scope.methods) == (recipe.entry.tasks, recipe.entry.methods)
    assert dict(scope.settings) == {"save_model": False}
    assert scope.kernel_samples == 250
    training = recipe.plan(scope).runs[PUBLISHED, "cb", "ft", 0].training
    assert (training.epochs, training.max_length) == (10.0, 128)


@pytest.mark.parametrize(
    ("option", "seeds"),
    [("3", (0, 1, 2)), ("1", (0,)), ("0,7", (0, 7)), ("7,2", (7, 2)), ("7,", (7,)), ("0,", (0,))],
)
def test_one_number_counts_seeds_and_several_are_seeds(tmp_path, option, seeds):
    scope = make_scope(EXPERIMENTS["table8"], {"seeds": option}, tmp_path, tiny=False)
    assert scope.seeds == seeds


@pytest.mark.parametrize("option", ["-2", "one", "1,,2", "01,1"])
def test_what_names_no_seeds_is_refused(tmp_path, option):
    with pytest.raises(InputError, match=f"seeds {option}"):
        make_scope(EXPERIMENTS["table8"], {"seeds": option}, tmp_path, tiny=False)


def test_options_come_before_what_is_tiny(tmp_path):
    settings = {"model": "minilm", "seeds": "4,", "kernel_samples": "9", "epochs": "5"}
    scope = make_scope(EXPERIMENTS["table2"], settings, tmp_path, tiny=True)
    assert (scope.model, scope.seeds, scope.kernel_samples) == ("minilm", (4,), 9)
    assert scope.tasks == ("demo",)
    assert scope.settings["epochs"] == "5"
    assert scope.settings["max_train_samples"] == 24


def test_the_tiny_model_is_always_the_same_and_stays_in_the_cache(tmp_path, cache_dir):
    folder = tiny_model()
    assert folder.parent == cache_dir
    assert tiny_model() == folder
    state = torch.get_rng_state()
    save_tiny_model(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    prints = {
        encoder_fingerprint(build_classifier(str(each), ("a", "b"), seed=0, max_length=32).model)
        for each in (folder, tmp_path)
    }
    assert len(prints) == 1
    assert [path.name for path in cache_dir.glob("tmp*")] == []


def test_folders_are_named_by_experiment_and_model():
    assert str(default_folder("table8", None, tiny=False)) == "experiments/table8-roberta-base"
    assert str(default_folder("all", None, tiny=True)) == "experiments/all-tiny"
    assert str(default_folder("table8", "org/model/", tiny=True)) == "experiments/table8-model"


def scope(tmp_path, **changes):
    return scope_of(find_recipe("table8"), tmp_path, **({"tasks": ("cb", "rte")} | changes))


def test_there_is_one_run_for_each_task_method_and_seed(tmp_path):
    runs = planned_runs(scope(tmp_path, seeds=(0, 3)))
    assert set(runs) == {
        (PUBLISHED, task, method, seed)
        for task in ("cb", "rte")
        for method in FIVE
        for seed in (0, 3)
    }
    for (_, *key), config in runs.items():
        training = config.training
        assert [config.data.task, training.method, training.seed] == key
        assert training.model == "minilm"
        assert config.output_dir.parent == tmp_path / "runs" / key[0]
    assert len({config.output_dir for config in runs.values()}) == len(runs)


def test_own_rates_are_the_published_ones_and_others_those_of_either_method_for_both(tmp_path):
    own, lp_start, random_start = (
        {
            key.method: (config.training.learning_rate, config.training.batch_size)
            for key, config in planned_runs(
                scope(tmp_path, tasks=("cb",), seeds=(0,)), rates=rates
            ).items()
        }
        for rates in (PUBLISHED, LP_START, RANDOM_START)
    )
    probed = {"lp": (None, None), "lp-ft": (5e-6, 8), "lp-lora": (1e-4, 8)}
    random = {"lp": (None, None), "ft": (5e-5, 16), "lora": (1e-3, 16)}
    assert own == probed | random
    assert lp_start == {**probed, "ft": (5e-6, 8), "lora": (1e-4, 8)}
    assert random_start == {**random, "lp-ft": (5e-5, 16), "lp-lora": (1e-3, 16)}


def test_runs_of_equal_settings_share_a_folder_whatever_part_they_play(tmp_path):
    own = planned_runs(scope(tmp_path))
    shared = planned_runs(scope(tmp_path), rates=LP_START)
    same = {
        (key.task, key.method)
        for key, config in shared.items()
        if config == own[key._replace(variant=PUBLISHED)]
    }
    # Published rates of FT and LP-FT on RTE are both 1e-5, but at batch sizes 16 and 8.
    assert same == {
        (task, method) for task in ("cb", "rte") for method in ("lp", "lp-ft", "lp-lora")
    }
    of_cb = [config for key, config in (own | shared).items() if key.task == "cb" and key.seed]
    names = {config.output_dir.name for config in of_cb}
    assert {name for name in names if name.startswith("ft")} == {
        "ft-rate5e-5-batch16-seed1",
        "ft-rate5e-6-batch8-seed1",
    }
    assert "lp-seed1" in names


@pytest.mark.parametrize("rates", [LP_START, RANDOM_START])
def test_a_task_without_published_rates_has_one_pair_of_folders_only(tmp_path, rates):
    one, other = (
        planned_runs(scope(tmp_path, tasks=("demo",), methods=("ft", "lp-ft")), rates=rates)
        for rates in (PUBLISHED, rates)
    )
    assert list(one.values()) == list(other.values())


def test_rates_are_searched_around_those_of_both_methods(tmp_path):
    searches = {
        search.cell.name: search
        for search in planned_searches(scope(tmp_path, seeds=(3, 4), methods=FIVE))
    }
    assert sorted(searches) == [
        f"{task}/{method}" for task in ("cb", "rte") for method in sorted(FIVE) if method != "lp"
    ]
    tried = {
        name: [point.settings["learning_rate"] for point in search.points]
        for name, search in searches.items()
    }
    # FT's 5e-5 and LP-FT's 5e-6 on CB, 1e-5 for both on RTE: each, a third, and three times.
    around = {1.7e-6, 5e-6, 1.5e-5, 1.7e-5, 5e-5, 1.5e-4}
    assert set(tried["cb/ft"]) == set(tried["cb/lp-ft"]) == around
    assert (tried["cb/ft"][0], tried["cb/lp-ft"][0]) == (5e-5, 5e-6)
    assert tried["rte/ft"] == tried["rte/lp-ft"] == [1e-5, 3.3e-6, 3e-5]
    for name, search in searches.items():
        for point in search.points:
            training = point.config.training
            assert training.seed == 3
            assert training.batch_size == (8 if "lp-" in name else 16)
            assert point.config.output_dir.is_relative_to(tmp_path / "search/runs")
    runs = searches["cb/ft"].runs(1.5e-4)
    assert list(runs) == [(TUNED, "cb", "ft", 3), (TUNED, "cb", "ft", 4)]
    assert {config.output_dir.name for config in runs.values()} == {
        "ft-rate1.5e-4-batch16-seed3",
        "ft-rate1.5e-4-batch16-seed4",
    }
    # The own rate is the usual run, in the usual folder.
    usual = planned_runs(scope(tmp_path, tasks=("cb",), methods=("ft",), seeds=(3, 4)))
    assert list(searches["cb/ft"].runs(5e-5).values()) == list(usual.values())


def test_settings_that_a_method_does_not_take_are_left_out(tmp_path):
    settings = {"epochs": 3, "learning_rate": 2e-4, "lora_rank": 4, "max_train_samples": 50}
    runs = planned_runs(scope(tmp_path, tasks=("cb",), seeds=(0,), settings=settings))
    by_method = {key.method: config for key, config in runs.items()}
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
        assert [key.variant for key in runs] == [f"scale {scale}"]
        return [config.output_dir.name for config in runs.values()]

    assert names(5.0) == ["ft-rate5e-5-batch16-head-scale5.0-seed1"]
    assert names(1.0) == ["ft-rate5e-5-batch16-seed1"]


def test_heads_are_never_scaled_unless_the_experiment_scales_them(tmp_path):
    # Without published hyperparameters LP-FT with the packaged model starts from 0.3 times the head
    # by default, and FT from the whole one: not only the origin of the head would differ.
    own = scope(tmp_path, tasks=("cb",), seeds=(0,), settings={"split_protocol": "stratified"})
    configs = [
        config
        for rates in (PUBLISHED, LP_START, RANDOM_START)
        for config in planned_runs(own, rates=rates).values()
    ]
    configs += [point.config for search in planned_searches(own) for point in search.points]
    scales = {(each.training.method == "lp", each.training.head_scale) for each in configs}
    assert scales == {(False, 1.0), (True, None)}
    assert {kernel.run.training.head_scale for kernel in planned_kernels(own).values()} == {1.0}


def test_kernels_take_of_the_settings_what_decides_them(tmp_path):
    settings = {"epochs": 3, "max_train_samples": 50, "max_length": 32, "save_model": False}
    kernels = planned_kernels(
        scope(
            tmp_path,
            methods=("ft", "lp-ft"),
            seeds=(0, 3),
            settings=settings,
            kernel_samples=20,
        )
    )
    assert list(kernels) == [("cb", 0), ("cb", 3), ("rte", 0), ("rte", 3)]
    first = kernels["cb", 0]
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
