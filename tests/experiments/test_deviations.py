"""What is said of how an experiment differs from the paper's, for data and settings by hand."""

import numpy as np
import pytest
from experiments.experiment_folders import scope_of

from lpft.analysis.metrics import metric_name
from lpft.data import Examples, TextData, find_task
from lpft.experiments.deviations import deviations_from_paper
from lpft.experiments.run import find_recipe

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
        task = find_task(config.data.task)
        return TextData(
            task.name, task.classes, **splits, ood=ood, metric=task.metric, notes=self.notes
        )


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
    return deviations_from_paper(recipe, recipe.plan(scope), shelf, scope)


NOT_REPEATED = "Not repeated: "


def faults_of(lines):
    return [line.removeprefix(NOT_REPEATED) for line in lines if line.startswith(NOT_REPEATED)]


LEFT_OUT = (
    "Of the paper's tasks rte, boolq, wic, wsc, cola, sst2 and mrpc are left out.",
    "Of the paper's methods lp, lora and lp-lora are left out.",
)


def test_the_papers_own_settings_leave_nothing_to_say(tmp_path):
    for model in ("roberta-base", "FacebookAI/roberta-base"):
        lines = told("table8", tmp_path, model=model)
        faults = {f"{NOT_REPEATED}{fault}" for fault in faults_of(lines)}
        assert tuple(line for line in lines if line not in faults) == LEFT_OUT


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": "minilm"}, "The model is minilm; the published numbers are for roberta-base"),
        ({"seeds": (4,)}, "1 seed; the paper has 5."),
        ({"tasks": ("cb", "qnli")}, "The paper's experiment does not have the tasks qnli."),
        ({"methods": ("ft", "dora")}, "The paper's experiment does not have the methods dora."),
        ({"settings": {"epochs": 3}}, "Epochs: 3; the paper has 10."),
        ({"settings": {"max_length": 64}}, "Texts are cut at 64 tokens; the paper cuts at 128."),
        ({"settings": {"weight_decay": 0.1}}, "Weight decay: 0.1; the paper uses none."),
        ({"settings": {"head_bias": False}}, "The head has no bias; the paper's has one."),
        (
            {"settings": {"class_weight": "balanced"}},
            "Classes are weighted (balanced), in the paper they are not.",
        ),
        (
            {"settings": {"learning_rate": 5e-5}},
            "Learning rate 5e-5 instead of the published one: LP-FT on cb (5e-6).",
        ),
        (
            {"settings": {"batch_size": 4}},
            "Batch size 4 instead of the published one: FT on cb (16) and LP-FT on cb (8).",
        ),
        (
            {"settings": {"split_protocol": "stratified"}},
            "Validation rows are a tenth of each class (stratified protocol)",
        ),
        ({"settings": {"template": 1}, "tasks": ("wic",)}, "Input template 1; the paper uses 0."),
        ({"pooling": "mean"}, "Pooling: mean; the paper uses the first token."),
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
    expected = "Kernels use at most 30 texts of each split; the paper uses 250."
    assert expected in told("table2", tmp_path, kernel_samples=30)
    assert expected not in told("table8", tmp_path, kernel_samples=30)
    assert any("word embeddings" in line for line in told("table2", tmp_path))


def test_settings_of_kernels_are_told_as_well(tmp_path):
    settings = {"max_length": 64, "lora_rank": 4, "head_bias": False}
    lines = told("table2", tmp_path, settings=settings, methods=("ft", "lora"), pooling="mean")
    for sentence in (
        "Pooling: mean; the paper uses the first token.",
        "Texts are cut at 64 tokens; the paper cuts at 128.",
        "The head has no bias; the paper's has one.",
        "LoRA rank 4 instead of the published one: LoRA on cb (8).",
    ):
        assert sentence in lines
    assert not any("learning rate" in line.lower() for line in lines)


def test_seeds_that_are_not_used_and_what_a_recipe_leaves_out_are_told(tmp_path):
    lines = told("figure5", tmp_path, seeds=(4, 7))
    assert "2 seeds; the paper has 5." in lines
    assert "Of the seeds 4 and 7 only 4 is used." in lines
    limits = told("claims", tmp_path, seeds=(0, 1))
    assert any(line.startswith("Claim 3 is tested on the first task only") for line in limits)
    assert not [line for line in limits if line.startswith("Of the seeds")]


def test_the_metric_that_chooses_the_epoch_is_told_where_the_paper_took_accuracy(tmp_path):
    tasks = ("cb", "cola", "multirc", "copa", "record")
    lines = told("table8", tmp_path, tasks=tasks)
    for metric, task in (
        ("Matthews correlation", "cola"),
        ("answer F1", "multirc"),
        ("choice accuracy", "copa"),
        (metric_name(find_task("record").metric), "record"),
    ):
        assert (
            f"The best epoch on {task} is the one with the highest {metric} on validation; the "
            "paper takes the highest accuracy."
        ) in lines
    assert len([line for line in lines if line.startswith("The best epoch")]) == 4
    # Nothing is chosen where nothing is fine-tuned, nor where only kernels are computed.
    for name, methods in (("table8", ("lp",)), ("table2", ("ft",))):
        lines = told(name, tmp_path, tasks=("cola",), methods=methods)
        assert not [line for line in lines if line.startswith("The best epoch")]


HALF = "Two classes: the reference installs half of the weights"
FOLDS = "The reference shuffles the training rows"
ATTENTION = "The reference switches scale_attn_by_inverse_layer_idx on"
QUARTER = "With halved heads the reference's F of "


def begin(faults, *beginnings):
    return all(any(fault.startswith(one) for fault in faults) for one in beginnings)


@pytest.mark.parametrize(
    ("tasks", "methods", "beginnings"),
    [
        (("rte",), ("lp",), (HALF, FOLDS)),
        (("rte",), ("ft", "lp-lora"), (HALF, FOLDS)),
        (("cb",), ("lp-ft",), (FOLDS,)),
        (("rte",), ("ft", "lora"), ()),
        (("qnli",), ("lp-ft",), ()),  # of which the paper published nothing
    ],
)
def test_faults_of_runs_follow_from_what_is_planned(tmp_path, tasks, methods, beginnings):
    faults = faults_of(told("table8", tmp_path, tasks=tasks, methods=methods))
    assert len(faults) == len(beginnings)
    assert begin(faults, *beginnings)


def test_gpt2_has_a_fault_of_its_own(tmp_path):
    for name in ("table8", "table2"):
        assert begin(faults_of(told(name, tmp_path, model="openai-community/gpt2")), ATTENTION)
        assert not begin(faults_of(told(name, tmp_path, model="minilm")), ATTENTION)


@pytest.mark.parametrize(
    ("name", "tasks"), [("table2", ("cb", "rte")), ("figure7", ("boolq", "wic"))]
)
def test_faults_of_kernels_follow_from_what_is_planned(tmp_path, name, tasks):
    of_kernels = ("In the reference's kernels the word embeddings'", "The reference names saved")
    methods = ("ft", "lora", "lp-ft", "lp-lora")
    faults = faults_of(told(name, tmp_path, tasks=tasks, methods=methods, model="gpt2"))
    assert begin(faults, *of_kernels, HALF, QUARTER, FOLDS, ATTENTION)
    (quarter,) = [fault for fault in faults if fault.startswith(QUARTER)]
    of_two = [task for task in tasks if task != "cb"]
    assert f"of LP-FT and LP-LoRA on {' and '.join(of_two)} is a quarter" in quarter
    for other in ({"methods": ("ft", "lora")}, {"tasks": ("cb",)}):
        faults = faults_of(told(name, tmp_path, **{"methods": methods, "tasks": tasks} | other))
        assert begin(faults, *of_kernels)
        assert not begin(faults, HALF)
        assert not begin(faults, QUARTER)
        assert begin(faults, FOLDS) == ("methods" not in other)
