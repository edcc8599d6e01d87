"""What an experiment is done on: options, the paper's defaults, and the tiny ones."""

import subprocess
import sys

import pytest
import torch

from lpft.experiments.plan import make_scope
from lpft.experiments.run import find_recipe
from lpft.experiments.tiny import save_tiny_model, tiny_model
from lpft.model import build_classifier
from lpft.model.inference import encoder_fingerprint
from lpft.settings import ExperimentSettings
from lpft.settings.configs import default_folder


@pytest.mark.parametrize(
    ("given", "seeds"),
    [
        ("3", (0, 1, 2)),
        ("1", (0,)),
        ("0,7", (0, 7)),
        ("7,2", (7, 2)),
        ("7,", (7,)),
        ("0,", (0,)),
    ],
)
def test_one_number_counts_seeds_and_several_are_seeds(given, seeds):
    assert ExperimentSettings.read({"seeds": given}).seeds == seeds


def test_without_options_everything_is_the_papers(tmp_path):
    recipe = find_recipe("table8")
    scope = make_scope(recipe, {}, tmp_path, tiny=False)
    assert (scope.model, scope.seeds) == ("roberta-base", (0, 1, 2, 3, 4))
    assert (scope.tasks, scope.methods) == (recipe.tasks, recipe.methods)
    assert dict(scope.settings) == {"save_model": False}
    assert scope.kernel_samples == 250
    training = recipe.plan(scope).runs[10].config.training
    assert (training.epochs, training.max_length) == (10.0, 128)


def test_options_come_before_what_is_tiny(tmp_path):
    recipe = find_recipe("table2")
    given = {"model": "minilm", "seeds": "4,", "kernel_samples": "9", "epochs": "5"}
    scope = make_scope(recipe, given, tmp_path, tiny=True)
    assert (scope.model, scope.seeds, scope.kernel_samples) == ("minilm", (4,), 9)
    assert scope.tasks == ("demo",)
    assert scope.settings["epochs"] == "5"
    assert scope.settings["max_train_samples"] == 24


def test_the_tiny_model_is_always_the_same_and_kept_in_the_cache(tmp_path, cache_dir):
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


def test_parsing_and_listing_options_loads_no_heavy_library():
    code = (
        "import sys; from lpft.cli.parser import parse; parse(['reproduce', 'table8']); "
        "sys.exit(str({'torch', 'transformers', 'pandas', 'sklearn', 'matplotlib'} "
        "& set(sys.modules) or ''))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stderr.strip() == ""
