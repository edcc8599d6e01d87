"""`lpft export` as a user meets it: what it prints, refuses, checks and leaves alone."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from exportable import CLASSES, TEMPERATURE, classifier_of, saved, without_lpft
from safetensors.torch import load_file
from toy_files import toy_data, toy_settings

from lpft.errors import InputError
from lpft.export import export_run
from lpft.export.run import agreement, check_texts
from lpft.export.stock import save_tokenizer
from lpft.runs.train import train_run
from lpft.settings.configs import make_config

CLASSIFY = """
from transformers import pipeline
classify = pipeline("text-classification", model=given["folder"], top_k=None, truncation=True)
rows = classify(given["texts"])
print(json.dumps([{item["label"]: item["score"] for item in row} for row in rows]))
"""
SCORE = """
from onnxruntime import InferenceSession
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(given["folder"])
session = InferenceSession(given["folder"] + "/model.onnx")
tokens = tokenizer(given["texts"], padding=True, truncation=True, return_tensors="np")
probabilities, = session.run(["probabilities"], dict(tokens))
with open(given["folder"] + "/config.json") as file:
    names = json.load(file)["id2label"]
print(json.dumps([{names[str(i)]: float(p) for i, p in enumerate(row)} for row in probabilities]))
"""
PROGRAMS = {"transformers": CLASSIFY, "onnx": SCORE}
TEXTS = ["good table", "bad", "the film was never very good and then again"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return saved(classifier_of("bert", "mean"), tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def run(tiny_bert, tmp_path_factory) -> Path:
    """A run of LP-LoRA, which has its adapter beside its weights."""
    folder = tmp_path_factory.mktemp("runs")
    settings = toy_data(folder / "data") | toy_settings(tiny_bert, "lp-lora")
    return train_run(make_config(settings, folder / "run")).folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def refused(lpft, *arguments) -> str:
    outcome = lpft("export", *arguments)
    assert outcome.status == 2, outcome.err
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    return outcome.err


def test_a_run_of_lora_answers_without_lpft_as_lpft_predict_does(lpft, run, tmp_path):
    before = contents(run)
    target = tmp_path / "export"
    outcome = lpft("export", run, "--format", "transformers", "--output-dir", target)
    assert outcome.status == 0, outcome.err
    assert outcome.out.startswith("A BertForSequenceClassification of Transformers.\n")
    assert outcome.out.endswith(f"\nexport: {target}\n")
    metrics = json.loads((run / "metrics.json").read_text())
    assert f"divided by the temperature {metrics['temperature']:.3f}" in outcome.out
    assert not [name for name in contents(target) if name.startswith("adapter")]
    predicted = [
        json.loads(line)["probabilities"]
        for line in lpft("predict", run, "--text", *TEXTS).out.splitlines()
    ]
    found = without_lpft(CLASSIFY, {"folder": str(target), "texts": TEXTS})
    for one, other in zip(found, predicted, strict=True):
        assert one == pytest.approx(other, abs=3e-6)
    assert contents(run) == before


@pytest.mark.heavy
@pytest.mark.parametrize("format", PROGRAMS)
@pytest.mark.parametrize("method", ["lp", "lp-ft", "lora"])
def test_a_run_of_any_kind_answers_without_lpft_in_every_format(
    lpft, tiny_bert, method, format, tmp_path
):
    if format == "onnx":
        pytest.importorskip("onnxscript", reason="the onnx extra is not installed")
    settings = toy_data(tmp_path / "data") | toy_settings(tiny_bert, method)
    if method == "lp":  # by log loss, a probe of random features is a constant
        settings["probe_scoring"] = "accuracy"
    run = train_run(make_config(settings, tmp_path / "run")).folder
    lines = lpft("predict", run, "--text", *TEXTS).out.splitlines()
    target = tmp_path / "export"
    assert lpft("export", run, "--format", format, "--output-dir", target).status == 0
    found = without_lpft(PROGRAMS[format], {"folder": str(target), "texts": TEXTS})
    # Features are rounded to about 1e-6, by which a head V moves a probability by |V_1 - V_0| / 4T.
    weight = load_file(run / "model.safetensors")["head.weight"]
    temperature = json.loads((run / "metrics.json").read_text())["temperature"]
    rounding = 1e-6 * float(torch.linalg.norm(weight[1] - weight[0])) / (4 * temperature)
    for one, line in zip(found, lines, strict=True):
        expected = json.loads(line)["probabilities"]
        assert one == pytest.approx(expected, abs=max(3e-6, rounding))
    assert len({tuple(one.values()) for one in found}) == len(TEXTS)


def test_the_card_keeps_what_the_run_says_of_itself(run, tmp_path):
    export = export_run(run, tmp_path / "export", "transformers")
    own, card = (run / "README.md").read_text(), (export.folder / "README.md").read_text()
    for heading in ("## Data", "## Results", "## Training", "## Limits"):
        assert own.count(heading) == card.count(heading) == 1
    assert card.count("## Use") == 1
    assert "import lpft" in own
    assert "import lpft" not in card
    assert card.startswith("---\nlibrary_name: transformers\n")
    record = json.loads((run / "run.json").read_text())
    assert export.record["run"] == {"name": run.name, "config_hash": record["config_hash"]}


def test_json_is_the_record_and_the_folder(lpft, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = lpft("export", model, "--format", "transformers", "--json")
    printed = json.loads(outcome.out)
    folder = Path("exports/model-transformers")
    assert printed.pop("folder") == str(folder)
    assert printed == json.loads((folder / "export.json").read_text())
    assert printed["format"] == "transformers"
    assert printed["temperature"] == TEMPERATURE
    assert printed["classes"] == list(CLASSES)
    assert printed["max_length"] == 24
    modes = {path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert len(modes) == 1, "safetensors writes its file for the owner alone"


def test_an_export_is_replaced_only_when_told_to(lpft, model, tmp_path):
    target = tmp_path / "export"
    arguments = (model, "--format", "transformers", "--output-dir", target)
    target.mkdir()
    assert lpft("export", *arguments).status == 0
    before = contents(target)
    assert "--overwrite" in refused(lpft, *arguments)
    assert contents(target) == before
    outcome = lpft("export", *arguments, "--overwrite")
    assert outcome.status == 0
    assert contents(target) == before
    (target / "notes.txt").write_text("mine")
    assert "notes.txt" in refused(lpft, *arguments, "--overwrite")
    assert (target / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_nothing_but_an_export_is_ever_replaced(lpft, model, run, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/export.json").write_text('{"files": 3}')
    wanted = {
        "file": "is a file",
        "damaged": "do not belong to an export",
        "file/below": "cannot be written",
    }
    for name, says in wanted.items():
        arguments = ("--format", "transformers", "--output-dir", tmp_path / name, "--overwrite")
        assert says in refused(lpft, model, *arguments)
    for folder in (run, run.parent):
        before = contents(folder)
        arguments = ("--format", "transformers", "--output-dir", folder, "--overwrite")
        assert "do not belong to an export" in refused(lpft, run, *arguments)
        assert contents(folder) == before
    assert {path.name for path in tmp_path.iterdir()} == {"file", "damaged"}


def test_what_is_no_trained_classifier_is_refused(lpft, model, run, tiny_bert, tmp_path):
    cut = shutil.copytree(model, tmp_path / "cut")
    weights = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    going = shutil.copytree(run, tmp_path / "going")
    record = json.loads((going / "run.json").read_text())
    (going / "run.json").write_text(json.dumps(record | {"status": "interrupted"}))
    wanted = {
        tmp_path / "nothing": "is not a folder",
        tiny_bert: "contains a bert model",
        cut: "is damaged",
        going: "is interrupted, not finished",
    }
    target = tmp_path / "export"
    for folder, says in wanted.items():
        message = refused(lpft, folder, "--format", "transformers", "--output-dir", target)
        assert says in message
        assert str(folder) in message
    assert not target.exists()


def test_an_export_for_transformers_is_no_run_and_says_so(lpft, model, tmp_path):
    export = export_run(model, tmp_path / "export", "transformers").folder
    outcome = lpft("predict", export, "--text", "good")
    assert outcome.status == 2
    assert "is an export for programs without lpft: give the run" in outcome.err
    assert "--model" not in outcome.err


def test_a_format_has_to_be_named_and_known(lpft, model, tmp_path):
    assert "--format" in refused(lpft, model)
    assert "gguf" in refused(lpft, model, "--format", "gguf")
    with pytest.raises(InputError, match="gguf is unknown: expected one of transformers, onnx"):
        export_run(model, tmp_path / "export", "gguf")


def test_an_extra_that_is_missing_is_named(lpft, model, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "lpft.export.onnx_classifier.find_spec", lambda name: None if name == "onnxscript" else name
    )
    target = tmp_path / "export"
    message = refused(lpft, model, "--format", "onnx", "--output-dir", target)
    assert "pip install 'lpft[onnx]'" in message
    assert "onnxscript is missing" in message
    assert not target.exists()


def without_bias(model):
    weight = model.head.weight.detach() / model.config.temperature
    return weight, torch.zeros(len(weight))


def without_temperature(model):
    return model.head.weight.detach(), model.head.bias.detach()


@pytest.mark.parametrize("wrong", [without_bias, without_temperature])
def test_an_export_that_answers_otherwise_is_removed_and_the_old_one_kept(
    wrong, lpft, model, tmp_path, monkeypatch
):
    target = tmp_path / "export"
    export_run(model, target, "transformers")
    before = contents(target)
    monkeypatch.setattr("lpft.export.stock.calibrated_head", wrong)
    arguments = (model, "--format", "transformers", "--overwrite", "--output-dir")
    for folder in (target, tmp_path / "new"):
        assert "differs from the run by" in refused(lpft, *arguments, folder)
    assert contents(target) == before
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_texts_to_compare_on_are_of_many_lengths():
    for paired in (False, True):
        texts = check_texts(paired)
        assert len(texts) == 33
        assert all(isinstance(text, tuple) == paired for text in texts)
    lengths = {len(text.split()) for text in check_texts(paired=False)}
    assert len(lengths) > 10
    assert min(lengths) == 1
    assert max(lengths) > 1000


def test_a_tokenizer_that_splits_texts_otherwise_is_noticed(model, tmp_path, monkeypatch):
    def save_another(tokenizer, inputs, folder):
        save_tokenizer(tokenizer, inputs, folder)
        path = folder / "tokenizer.json"
        path.write_text(path.read_text().replace('"good"', '"kettle"'))

    monkeypatch.setattr("lpft.export.stock.save_tokenizer", save_another)
    with pytest.raises(InputError, match="gives other tokens than the run's"):
        export_run(model, tmp_path / "export", "transformers")
    assert not list(tmp_path.iterdir())


def test_what_is_not_finite_is_refused():
    classifier = classifier_of("bert", "first")

    def score(batch):
        return np.full((len(batch["input_ids"]), len(CLASSES)), np.nan)

    with pytest.raises(InputError, match="differs from the run by nan"):
        agreement(classifier, classifier.tokenizer, score, ["good", "a bad lamp"])
