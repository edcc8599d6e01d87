"""Settings: where defaults come from, what is refused in which words, what makes runs the same."""

import csv
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lpft.cli.commands import collect_settings
from lpft.cli.parser import parse
from lpft.errors import InputError
from lpft.paper import published_hyperparameters
from lpft.settings import DataSettings, OutputSettings, TrainingSettings
from lpft.settings.configs import (
    changed,
    command_line,
    command_settings,
    make_config,
    make_kernel_config,
)
from lpft.settings.fields import Decides
from lpft.settings.kernels import KernelSettings
from lpft.settings.methods import METHODS, with_lp_head

PAPERS_METHODS = ("ft", "lora", "lp-ft", "lp-lora")


@pytest.mark.parametrize("method", PAPERS_METHODS)
def test_tasks_take_the_papers_rates_under_its_protocol(method):
    # Typed from the paper's tables 4 to 7.
    expected = {
        "ft": (16, 5e-5),
        "lora": (16, 1e-3),
        "lp-ft": (8, 5e-6),
        "lp-lora": (8, 1e-4),
    }[method]
    training = make_config({"task": "cb", "method": method}).training
    assert (training.batch_size, training.learning_rate) == expected
    assert (training.epochs, training.max_length, training.weight_decay) == (10, 128, 0)
    lora = (8, 8) if "lora" in method else (None, None)
    assert (training.lora_rank, training.lora_alpha) == lora


def test_the_published_table_is_complete():
    path = Path(__file__).resolve().parents[1] / "src/lpft/paper/hyperparameters.csv"
    with path.open() as file:
        tasks = [
            name for name in csv.DictReader(file).fieldnames if name not in ("method", "setting")
        ]
    assert len(tasks) == 10
    for task in tasks:
        for method in PAPERS_METHODS:
            found = published_hyperparameters(task, method)
            assert found["batch_size"] in (8, 16, 32)
            assert 1e-6 <= found["learning_rate"] <= 1e-3
    assert published_hyperparameters("cb", "lp") is None
    assert published_hyperparameters("demo", "ft") is None


def test_ft_and_lp_ft_share_their_rate_on_files_and_under_stratified(tmp_path):
    for data in (
        {"train_file": tmp_path / "a.csv"},
        {"task": "cb", "split_protocol": "stratified"},
    ):
        rates = {
            method: (training.learning_rate, training.batch_size)
            for method in PAPERS_METHODS
            for training in [make_config({**data, "method": method}).training]
        }
        assert rates["ft"] == rates["lp-ft"]
        assert rates["lora"] == rates["lp-lora"]


def test_measured_rates_are_the_packaged_models_and_never_under_the_papers_protocol(tmp_path):
    def rate(**values):
        return make_config({"method": "lp-ft", **values}).training.learning_rate

    file = {"train_file": tmp_path / "a.csv"}
    assert rate(**file) > rate(**file, model="roberta-base")
    # SST-2 is in the paper (1e-5); uci_sentences and the bundled corpus are not
    assert rate(task="sst2") == published_hyperparameters("sst2", "lp-ft")["learning_rate"]
    assert rate(task="demo", split_protocol="paper") == rate(**file, model="roberta-base")


def test_protocols_by_the_kind_of_data(tmp_path):
    assert make_config({"task": "cb"}).data.split_protocol == "paper"
    assert make_config({"train_file": tmp_path / "a.csv"}).data.split_protocol == "stratified"


def test_text_and_typed_values_are_the_same():
    texts = {"task": "cb", "epochs": "3", "seed": "4", "learning_rate": "1e-4"}
    typed = {"task": "cb", "epochs": 3, "seed": 4, "learning_rate": 1e-4}
    assert make_config(texts) == make_config(typed)


def test_the_hash_covers_what_decides_the_result_and_nothing_else(tmp_path):
    base = {"train_file": str(tmp_path / "a.csv"), "method": "lora"}
    same = make_config(base).hash()
    for change in (
        {"train_file": str(tmp_path / "b.csv")},
        {"device": "cpu"},
        {"report_to": "x"},
        {"save_model": False},
        {"save_features": True},
        {"data_name": "reviews"},
    ):
        assert make_config(base | change).hash() == same
    changes = {"seed": 1, "epochs": 3, "lora_rank": 4, "text_columns": "a,b", "max_length": 64}
    hashes = {make_config(base | {name: value}).hash() for name, value in changes.items()}
    assert len(hashes | {same}) == len(changes) + 1


def test_runs_differ_in_what_decides_them_and_a_record_without_a_setting_has_its_default():
    asked = make_config({"task": "cb"}).flat()
    recorded = asked | {"seed": 1, "device": "cuda", "save_model": False, "model": "elsewhere"}
    assert changed(recorded, asked, Decides.RUN) == {"seed": (1, 0)}
    del recorded["class_weight"]
    assert changed(recorded, asked | {"seed": 1}, Decides.RUN) == {}
    assert changed(recorded, asked | {"class_weight": "balanced", "seed": 1}, Decides.RUN) == {
        "class_weight": (None, "balanced")
    }


def test_a_pooling_that_the_model_chooses_is_the_same_as_the_one_that_was_chosen():
    asked = make_config({"task": "cb"}).flat()
    assert changed(asked | {"pooling": "mean"}, asked, Decides.RUN) == {}
    assert "pooling" in changed(asked, asked | {"pooling": "mean"}, Decides.RUN)


def test_kernels_depend_on_settings_of_their_start_and_not_on_how_they_are_trained():
    asked = make_kernel_config({"task": "cb"}).flat()
    other = asked | {"seed": 1, "memory": "1GB", "linear_method": "sandwich", "cost": 2.0}
    assert set(changed(other, asked, Decides.KERNEL)) == {"seed"}
    assert set(changed(other, asked, Decides.KERNEL | Decides.ROUNDING)) == {
        "seed",
        "linear_method",
    }
    assert set(changed(other, asked, Decides.STATISTICS)) == {"cost"}
    assert not {"epochs", "learning_rate", "method"} & asked.keys()


def test_options_come_on_top_of_yaml(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(f"task: cb\nlearning-rate: 1e-4\nseed: 3\noutput-dir: {tmp_path / 'out'}\n")
    options = parse(["train", "--config", str(path), "--seed", "5"])
    settings, folder, resume = collect_settings(options)
    assert folder == tmp_path / "out"
    assert not resume
    training = make_config(settings, folder).training
    assert (training.seed, training.learning_rate) == (5, 1e-4)


def test_yaml_takes_the_names_of_all_options(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("task: cb\nno-head-bias: true\nresume: true\n")
    settings, _, resume = collect_settings(parse(["train", "--config", str(path)]))
    assert resume
    assert make_config(settings).training.head_bias is False
    path.write_text("task: cb\noverwrite: true\n")
    with pytest.raises(InputError, match="give --overwrite on the command line"):
        collect_settings(parse(["train", "--config", str(path)]))
    nothing = ["train", "--resume", "--output-dir", str(tmp_path / "none")]
    with pytest.raises(InputError, match="contains no run to continue"):
        collect_settings(parse(nothing))


def test_a_misspelt_setting_names_its_neighbour():
    with pytest.raises(InputError, match="did you mean learning_rate"):
        make_config({"task": "cb", "learning_rat": 1})


@pytest.mark.parametrize("value", ["1.5", 1.5, 0])
def test_a_range_is_named_with_both_its_ends(value):
    with pytest.raises(InputError, match=rf"^target_accuracy {value} .* above 0 and below 1$"):
        make_config({"task": "cb", "target_accuracy": value})


def test_a_wrong_setting_is_named_as_its_reader_writes_it(lpft, tmp_path):
    says = "learning_rate -1 must be a number above 0"
    with pytest.raises(InputError, match=f"^{says}$"):
        make_config({"task": "cb", "learning_rate": -1})
    outcome = lpft("train", "--task", "cb", "--learning-rate=-1")
    option = says.replace("learning_rate", "--learning-rate")
    assert (outcome.status, outcome.err) == (2, f"error: {option}\n")
    path = tmp_path / "run.yaml"
    path.write_text("learning-rate: -1\n")
    outcome = lpft("train", "--task", "cb", "--config", path)
    assert (outcome.status, outcome.err) == (2, f"error: {says}\n")


@pytest.mark.parametrize("model", [DataSettings, TrainingSettings, OutputSettings, KernelSettings])
def test_every_setting_that_can_be_left_out_says_what_happens_then(model):
    silent = {name for name, item in model.fields().items() if "(default: " not in item.full_help()}
    assert silent <= {"task", "train_file", "ood", "column_names"}


@pytest.mark.parametrize("method", ["ft", "lora"])
@pytest.mark.parametrize(
    ("rate", "written"),
    [(2e-5, "2e-05"), (0.000123456789, "0.000123456789")],
)
def test_the_command_of_a_record_repeats_its_learning_rate(method, rate, written):
    """2e-5 is a default, but of other models; rates of a search have many digits."""
    values = {"train_file": "a.csv", "method": method, "epochs": 4, "learning_rate": rate}
    command = command_line(make_config(values).flat()).split()
    assert command[command.index("--learning-rate") + 1] == written
    assert command[command.index("--epochs") + 1] == "4"
    default = command_line(make_config(values | {"epochs": None, "learning_rate": None}).flat())
    assert "--epochs" not in default
    assert "--learning-rate" not in default


@pytest.mark.parametrize("method", METHODS)
def test_the_command_of_a_record_gives_the_same_run(method, tmp_path, monkeypatch):
    """Read by the parser of the command line; slashes of what is no path stay."""
    monkeypatch.chdir(tmp_path)
    Path("adapter_config.json").write_text('{"peft_type": "LORA", "target_modules": ["query"]}')
    values = {"train_file": "a.csv", "ood": {"far": "b.csv"}, "delimiter": "/", "seed": 3}
    values |= {"class_weight": {"/good": 2.5}, "model": str(tmp_path / "model")}
    if METHODS[method].head_start == "words":
        values |= {"prompt": "/{text} [MASK]", "label_words": {"/good": "/", "bad": "bad"}}
    if METHODS[method].trained == "peft":
        values["peft_config"] = "adapter_config.json"
    record = make_config(values | {"method": method}).flat()
    again, *_ = collect_settings(parse(shlex.split(command_line(record))[1:]))
    assert changed(record, make_config(again).flat(), Decides.RUN) == {}


def test_every_command_takes_its_settings():
    assert {"task", "epochs", "save_model"} <= command_settings("train").keys()
    read_only = {"model", "revision", "max_length"}  # what tokens there are
    assert command_settings("check").keys() == DataSettings.fields().keys() | read_only


ONE_FIELD = """
import inspect, json, sys
from pathlib import Path
from lpft.cli.commands import collect_settings
from lpft.cli.parser import parse
from lpft.estimator import TextClassifier
from lpft.runs.sweep_config import read_sweep_config
from lpft.settings import TrainingSettings
from lpft.settings.configs import changed, identity, make_config
from lpft.settings.fields import Decides

folder = Path(sys.argv[1])
(folder / "run.yaml").write_text("task: demo\\nwarm-up: 0.1\\n")
(folder / "sweep.yaml").write_text("tasks: demo\\nmethods: [lp, ft]\\ngrid: {warm_up: [0, 0.2]}\\n")

def flat(*options):
    settings, *_ = collect_settings(parse(["train", "--task", "demo", *options]))
    return make_config(settings).flat()

usual, other = flat("--method=ft"), flat("--method=ft", "--warm-up=0.1")
sweep = read_sweep_config(folder / "sweep.yaml")
before = {name: value for name, value in usual.items() if name != "warm_up"}
try:
    make_config({"task": "demo", "warm_up": 2})
except ValueError as error:
    message = str(error)
print(json.dumps({
    "option": other["warm_up"],
    "yaml": flat("--method=ft", f"--config={folder / 'run.yaml'}")["warm_up"],
    "sweep": [point["warm_up"] for cell in sweep.cells for point in sweep.grid.points(cell)],
    "record": usual["warm_up"],
    "identity": identity(usual, Decides.RUN) != identity(other, Decides.RUN),
    "changed": changed(usual, other, Decides.RUN),
    "an older record": changed(before, usual, Decides.RUN),
    "refused": message,
    "not in TextClassifier": sorted(
        TrainingSettings.fields().keys() - inspect.signature(TextClassifier).parameters.keys()
    ),
}))
parse(["train", "--help"])
"""


def test_a_setting_is_added_by_one_field(tmp_path):
    """It is found wherever settings are; TextClassifier names it among what it lacks."""
    source = Path(__file__).resolve().parents[1] / "src/lpft"
    copy = shutil.copytree(source, tmp_path / "lpft", ignore=shutil.ignore_patterns("__pycache__"))
    fields = (copy / "settings/__init__.py").read_text(encoding="utf-8")
    beside = "    weight_decay: float | None = setting("
    assert fields.count(beside) == 1
    added = """    warm_up: float = setting(
        0.0, "share of steps in which the rate rises", ge=0, le=1, needs="fine-tuning"
    )
"""
    (copy / "settings/__init__.py").write_text(fields.replace(beside, added + beside))
    done = subprocess.run(
        [sys.executable, "-c", ONE_FIELD, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers, _, shown = done.stdout.partition("\n")
    assert json.loads(answers) == {
        "option": 0.1,
        "yaml": 0.1,
        "sweep": [0.0, 0.2],
        "record": 0.0,
        "identity": True,
        "changed": {"warm_up": [0.0, 0.1]},
        "an older record": {},
        "refused": "warm_up 2 must be a number from 0 to 1",
        "not in TextClassifier": ["warm_up"],
    }
    assert "--warm-up WARM_UP" in shown
    assert "share of steps in which the rate rises (default: 0)" in " ".join(shown.split())


def test_every_method_from_a_random_head_has_one_from_an_lp_head():
    pairs = {name: with_lp_head(name) for name in METHODS}
    assert pairs == {
        "lp": None,
        "contrastive": None,
        "ft": "lp-ft",
        "lp-ft": None,
        "lora": "lp-lora",
        "lp-lora": None,
        "dora": "lp-dora",
        "lp-dora": None,
        "bitfit": "lp-bitfit",
        "lp-bitfit": None,
        "ia3": "lp-ia3",
        "lp-ia3": None,
        "prefix": "lp-prefix",
        "lp-prefix": None,
        "peft": "lp-peft",
        "lp-peft": None,
        "prompt": None,
        "prompt-ft": None,
        "prompt-lora": None,
        "prompt-bitfit": None,
    }
    assert with_lp_head("of another version") is None


@pytest.mark.parametrize(
    ("given", "weights"),
    [
        ("balanced", "balanced"),
        (["balanced"], "balanced"),
        (["spam=5", "a=b=0.5"], {"spam": 5.0, "a=b": 0.5}),
        ({"spam": 5}, {"spam": 5.0}),
        ({0: 2, True: 3}, {"0": 2.0, "True": 3.0}),
    ],
)
def test_class_weights_are_a_word_or_weights_by_name(given, weights):
    settings = TrainingSettings.read({"class_weight": given})
    assert settings.class_weight == weights
    assert TrainingSettings.read(json.loads(json.dumps(settings.flat()))) == settings


@pytest.mark.parametrize(
    "given",
    ["spam", ["balanced", "spam=2"], ["spam="], ["spam=x"], ["spam=-1"], ["spam=0"], {"spam": "x"},
     ["spam=inf"], ["spam=1", "spam=2"], 3],
)  # fmt: skip
def test_what_is_no_class_weight_is_refused(given):
    with pytest.raises(InputError, match="class_weight"):
        TrainingSettings.read({"class_weight": given})


def test_class_weights_are_part_of_what_a_run_is():
    asked = make_config({"task": "cb"}).flat()
    weighted = make_config({"task": "cb", "class_weight": ["neutral=4"]})
    assert changed(asked, weighted.flat(), Decides.RUN) == {"class_weight": (None, {"neutral": 4})}
    assert weighted.hash() != make_config({"task": "cb"}).hash()
    assert "--class-weight neutral=4.0" in command_line(weighted.flat())
