"""What is said of how an experiment differs from the paper's, for data and settings by hand."""

import numpy as np
import pytest
from experiments.hand_made import scope_of
from experiments.scored_runs import write_scored

from lpft.data import Examples, TextData
from lpft.experiments.collecting import collect
from lpft.experiments.differences import differences
from lpft.experiments.recipe import Found, Plan
from lpft.experiments.registry import find_recipe

CB = {"train": 225, "validation": 25, "test": 57}


class Shelf:
    """Data of chosen sizes in place of those that experiments read."""

    def __init__(self, sizes, notes=(), pooling="first"):
        self.sizes, self.notes, self._pooling = sizes, notes, pooling

    def pooling(self, _config):
        return self._pooling

    def data(self, config):
        def examples(rows):
            return Examples([str(row) for row in range(rows)], ["a"] * rows, np.zeros(rows, int))

        ood = {
            split.removeprefix("ood/"): examples(rows)
            for split, rows in self.sizes.items()
            if split.startswith("ood/")
        }
        splits = {name: examples(self.sizes[name]) for name in ("train", "validation", "test")}
        return TextData(config.data.task, ("a", "b"), **splits, ood=ood, notes=self.notes)


def told(name, folder, sizes=CB, *, notes=(), pooling="first", **changes):
    values = {
        "model": "roberta-base",
        "tasks": ("cb",),
        "seeds": tuple(range(5)),
        "methods": ("ft", "lp-ft"),
    }
    recipe = find_recipe(name)
    scope = scope_of(recipe, folder, **(values | changes))
    shelf = Shelf(sizes, notes, pooling)
    return differences(recipe, recipe.plan(scope), shelf, Found(scope, {}, {}))


LEFT_OUT = (
    "Of the paper's tasks rte, boolq, wic, wsc, cola, sst2 and mrpc are left out.",
    "Of the paper's methods lp, lora and lp-lora are left out.",
)


def test_the_papers_own_settings_leave_nothing_to_say(tmp_path):
    assert told("table8", tmp_path) == LEFT_OUT
    assert told("table8", tmp_path, model="FacebookAI/roberta-base") == LEFT_OUT


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": "minilm"}, "The model is minilm; the published numbers are of roberta-base"),
        ({"seeds": (4,)}, "1 seed, in the paper 5."),
        ({"tasks": ("cb", "qnli")}, "The paper's experiment does not have the tasks qnli."),
        ({"methods": ("ft", "dora")}, "The paper's experiment does not have the methods dora."),
        ({"settings": {"epochs": 3}}, "Epochs: 3, in the paper 10."),
        ({"settings": {"max_length": 64}}, "Texts are cut at 64 tokens, in the paper 128."),
        ({"settings": {"weight_decay": 0.1}}, "Weight decay 0.1, in the paper none."),
        ({"settings": {"head_bias": False}}, "The head has no bias, in the paper it has one."),
        (
            {"settings": {"class_weight": "balanced"}},
            "Classes are weighed (balanced), in the paper they are not.",
        ),
        (
            {"settings": {"learning_rate": 5e-5}},
            "Learning rate 5e-5 where the paper has its own: LP-FT on cb (5e-6).",
        ),
        (
            {"settings": {"batch_size": 4}},
            "Batch size 4 where the paper has its own: FT on cb (16) and LP-FT on cb (8).",
        ),
        (
            {"settings": {"split_protocol": "stratified"}},
            "Validation rows are a tenth of each class (stratified protocol)",
        ),
        ({"settings": {"template": 1}, "tasks": ("wic",)}, "Input template 1, in the paper 0."),
        ({"pooling": "mean"}, "Pooling: mean, in the paper the first token."),
        ({"tasks": ("qnli",)}, "The paper has no learning rate and batch size for qnli:"),
        ({"tasks": ("qnli",)}, "The paper has no results on qnli."),
    ],
)
def test_every_other_setting_is_told(tmp_path, changes, sentence):
    assert any(line.startswith(sentence) for line in told("table8", tmp_path, **changes))


def test_rows_stand_beside_the_published_counts_where_they_differ(tmp_path):
    sizes = {"train": 32, "validation": 25, "test": 56}
    lines = told("table8", tmp_path, sizes, notes=("a fact",))
    assert "cb: 32 train rows, the paper counts 225; 56 test rows, the paper counts 57." in lines
    assert "cb: a fact." in lines
    sizes = {
        "train": 27000,
        "validation": 3000,
        "test": 708,
        "ood/sst5": 2210,
        "ood/semeval": 20622,
    }
    lines = told("table10", tmp_path, sizes, tasks=("amazon",))
    assert "amazon: 708 test rows, the paper counts 38 905." in lines
    assert "sst5: 2 210 rows, the paper counts 1 067." in lines
    assert not [line for line in lines if line.startswith("semeval")]


def test_pubmeds_counts_are_said_to_be_abstracts(tmp_path):
    lines = told("table16", tmp_path, tasks=("pubmed",))
    assert any("25 validation rows, the paper counts 2 500 abstracts" in x for x in lines)


def test_fewer_texts_of_a_kernel_are_told(tmp_path):
    expected = "Kernels of 30 texts at most of each split, in the paper 250."
    assert expected in told("table2", tmp_path, kernel_samples=30)
    assert expected not in told("table8", tmp_path, kernel_samples=30)
    assert any("word embeddings" in line for line in told("table2", tmp_path))


def test_settings_of_kernels_are_told_as_well(tmp_path):
    settings = {"max_length": 64, "lora_rank": 4, "head_bias": False}
    lines = told("table2", tmp_path, settings=settings, methods=("ft", "lora"), pooling="mean")
    for sentence in (
        "Pooling: mean, in the paper the first token.",
        "Texts are cut at 64 tokens, in the paper 128.",
        "The head has no bias, in the paper it has one.",
        "LoRA rank 4 where the paper has its own: LoRA on cb (8).",
    ):
        assert sentence in lines
    assert not any("learning rate" in line.lower() for line in lines)


def test_seeds_that_are_not_used_and_what_a_recipe_leaves_out_are_told(tmp_path):
    lines = told("figure5", tmp_path, seeds=(4, 7))
    assert "2 seeds, in the paper 5." in lines
    assert "Of the seeds 4 and 7 only 4 is used." in lines
    limits = told("claims", tmp_path, seeds=(0, 1))
    assert any(line.startswith("Claim 3 is tried on the first task alone") for line in limits)
    assert "Claim 5 rests on the kernels of 3 seeds at most." in limits


def test_faults_of_the_reference_are_read_from_the_runs(tmp_path):
    recipe = find_recipe("table8")
    scope = scope_of(recipe, tmp_path, tasks=("cb",), methods=("lp",), seeds=(0,))
    plan = recipe.plan(scope)
    folder = plan.runs[0].config.output_dir
    write_scored(folder, "lp", 0, {"test": [True, False]}, split_protocol="paper", pooling="mean")
    found, _ = collect(scope, plan)
    lines = differences(recipe, Plan(runs=plan.runs), Shelf(CB), found)
    faults = [line for line in lines if line.startswith("Not repeated: ")]
    assert len(faults) == 2
    assert any("half" in fault for fault in faults)
