"""The command line doing what it should: every command, the files of a run, the streams.

What it refuses is in test_cli_bad_input.py.
"""

import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from data.release_files import case_of
from safetensors.numpy import load_file
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest
from sklearn.metrics import f1_score, log_loss, matthews_corrcoef, roc_auc_score
from tiny_models import toy_texts
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, pipeline

import lpft.model  # noqa: F401  registers the architecture
from lpft.cli.parser import parse
from lpft.errors import InputError

CLASSES = ("bad", "good", "long")
METHODS = ("lp", "ft", "lp-ft", "lora", "lp-lora")
SPLITS = ("validation", "test", "ood/far")
COMMANDS = (
    "demo", "train", "evaluate", "predict", "report", "check", "tasks", "models", "methods",
    "sweep", "export", "ntk", "theory", "reproduce", "interpolate",
)  # fmt: skip
TRAIN_OPTIONS = (
    "model", "pooling", "method", "task", "data-dir", "train-file", "validation-file",
    "test-file", "ood", "text-columns", "label-column", "column-names", "split-protocol", "seed",
    "max-length", "epochs", "batch-size", "learning-rate", "head-scale", "lora-rank", "lora-alpha",
    "weight-decay", "no-head-bias", "class-weight", "template", "revision", "max-train-samples",
    "device", "precision", "gradient-accumulation-steps", "gradient-checkpointing", "report-to",
    "resume", "output-dir", "config", "overwrite", "json",
    "no-save-model", "save-features", "no-texts-in-report", "target-accuracy", "target-coverage",
    "abstain-below", "data-name", "max-validation-samples",
)  # fmt: skip
ALWAYS = {
    "config.json", "model.safetensors", "SHA256SUMS", "tokenizer.json", "tokenizer_config.json",
    "run.json", "metrics.json", "features.json", "history.jsonl", "README.md",
    "errors.jsonl",
    "predictions/validation.parquet", "features/train.parquet",
}  # fmt: skip
PROBABILITIES = {"nll", "brier", "brier_mean", "ece", "mce", "confidence", "aurc"}
METRICS = PROBABILITIES | {
    "rows", "accuracy", "macro_f1", "matthews_correlation", "logit_norm_l1", "logit_norm_l2",
    "logit_mean", "calibrated", "accuracy_interval", "majority_accuracy", "per_class",
}  # fmt: skip


def toy_rows(rows: int, seed: int) -> pd.DataFrame:
    """Texts of three classes, a fifth of the labels drawn at random so that none is certain."""
    texts, labels = toy_texts(rows, seed)
    labels = np.where([len(text.split()) > 9 for text in texts], "long", labels)
    generator = np.random.default_rng(seed)
    random = generator.random(rows) < 0.2
    labels = np.where(random, generator.choice(CLASSES, rows), labels)
    return pd.DataFrame({"text": texts, "label": labels})


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A user's four files."""
    folder = tmp_path_factory.mktemp("data")
    for seed, (name, rows) in enumerate((("train", 90), ("valid", 45), ("test", 48), ("ood", 30))):
        toy_rows(rows, seed).to_csv(folder / f"{name}.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def train(lpft, tiny_bert, data):
    """Run ``lpft train`` into a folder and give what it printed; it must succeed."""

    def run(folder, *options, method="lp", files=("validation", "test", "ood")):
        paths = {
            "validation": ("--validation-file", data / "valid.csv"),
            "test": ("--test-file", data / "test.csv"),
            "ood": ("--ood", f"far={data / 'ood.csv'}"),
        }
        model = ("--model", tiny_bert, "--pooling", "mean", "--max-length", 32)
        if method != "lp" and "--epochs" not in options:
            options = ("--epochs", 2, "--learning-rate", 1e-2, "--batch-size", 8, *options)
        named = [part for file in files for part in paths[file]]
        if "--train-file" not in options:
            named += ["--train-file", data / "train.csv"]
        outcome = lpft(
            "train", *model, "--method", method, *named, *options, "--output-dir", folder
        )
        assert outcome.status == 0, outcome.err
        return outcome

    return run


@pytest.fixture(scope="module")
def runs(train, tmp_path_factory):
    """A finished run of every method, by its name, and what training it printed with --json."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        method: (folder / method, train(folder / method, "--json", method=method))
        for method in METHODS
    }


@pytest.fixture(params=METHODS)
def run(request, runs) -> Path:
    return runs[request.param][0]


def read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def predictions(run: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Raw logits (N x C, float64) and labels of a split, from its file alone."""
    frame = pd.read_parquet(run / "predictions" / f"{split.replace('/', '-')}.parquet")
    return np.stack(frame["logits"]).astype(np.float64), frame["label"].to_numpy()


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def snapshot(folder: Path) -> dict[Path, tuple[bytes, int]]:
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def probabilities(rows: list[dict]) -> np.ndarray:
    return np.array([list(row["probabilities"].values()) for row in rows])


# A run's folder


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_run_holds_exactly_the_files_of_the_design(run):
    expected = ALWAYS | {
        f"{kind}/{split}.parquet" for kind in ("predictions", "features") for split in
        ("test", "ood-far")
    }  # fmt: skip
    if run.name.startswith("lp"):
        expected.add("lp/head.safetensors")
    if run.name.endswith("lora"):
        expected |= {"adapter_config.json", "adapter_model.safetensors"}
    assert files_in(run) == expected
    # pickles begin with their protocol, torch's zip archives of pickles with PK
    assert not [path for path in run.rglob("*.*") if path.read_bytes()[:2] in (b"PK", b"\x80\x04")]
    assert len({path.stat().st_mode for path in run.rglob("*.*") if path.is_file()}) == 1


def test_its_files_have_the_keys_and_columns_of_the_design(run, data):
    metrics = read(run / "metrics.json")
    assert set(metrics) == {"temperature", "splits"}
    assert tuple(metrics["splits"]) == SPLITS
    for split, values in metrics["splits"].items():
        of_shift = {"confidence_auroc"} if split.startswith("ood/") else set()
        assert set(values) == METRICS | of_shift
        assert set(values["calibrated"]) == PROBABILITIES
    features = read(run / "features.json")
    assert set(features) == {"head", "splits"}
    assert set(features["head"]) == {"norm", "bias_norm", "norm_at_start"}
    assert tuple(features["splits"]) == ("train", "test", "ood/far")
    shared = {"cosine_similarity", "fisher_ratio"}
    for values in features["splits"].values():
        assert set(values) == shared | {"feature_difference", "pretrained"}
        assert set(values["pretrained"]) == shared
    for split, file in (("validation", "valid"), ("test", "test"), ("ood-far", "ood")):
        frame = pd.read_parquet(run / f"predictions/{split}.parquet")
        source = pd.read_csv(data / f"{file}.csv")
        assert list(frame.columns) == ["id", "label", "logits"]
        assert [CLASSES[label] for label in frame["label"]] == list(source["label"])
        assert list(frame["id"]) == [str(row) for row in range(len(source))]
        assert {(row.shape, row.dtype) for row in frame["logits"]} == {((3,), np.dtype("float32"))}


def test_the_record_says_how_the_run_was_made(run, data, tiny_bert):
    record = read(run / "run.json")
    config = record["config"]
    expected = {
        "method": run.name,
        "seed": 0,
        "pooling": "mean",
        "train_file": str(data / "train.csv"),
        "ood": {"far": str(data / "ood.csv")},
        "model": str(tiny_bert),
    }
    assert {name: config[name] for name in expected} == expected
    assert (config["epochs"] is None) == (run.name == "lp")
    assert (config["lora_rank"] is None) == (not run.name.endswith("lora"))
    assert (record["status"], len(record["config_hash"])) == ("finished", 64)
    assert {"python", "lpft", "torch", "transformers", "scikit-learn"} <= set(record["versions"])
    assert {"commit", "device"} <= set(record)
    assert record["timings"]["total"] > 0
    assert set(record["fingerprints"]["data"]) == {"train", *SPLITS}
    assert len(record["fingerprints"]["encoder"]) == 64
    assert record["data"]["classes"] == list(CLASSES)
    assert record["data"]["rows"] == {"train": 90, "validation": 45, "test": 48, "ood/far": 30}


def test_the_history_follows_training(run):
    rows = lines((run / "history.jsonl").read_text())
    evaluations = [row for row in rows if row["event"] == "evaluation"]
    columns = {"epoch", "step", "validation_loss", "validation_accuracy", "head_norm", "bias_norm"}
    for row in evaluations:
        assert columns | {"logit_norm", "feature_difference"} <= set(row)
    assert [row["epoch"] for row in evaluations] == ([0] if run.name == "lp" else [0, 1, 2])
    assert evaluations[0]["feature_difference"] == pytest.approx(0, abs=1e-4)
    losses = [row["loss"] for row in rows if row["event"] == "training"]
    assert bool(losses) == (run.name != "lp")
    assert np.isfinite(losses).all()

    # the best epoch by validation accuracy is the one that was kept; a random start is none
    accuracy = read(run / "metrics.json")["splits"]["validation"]["accuracy"]
    epochs = evaluations if run.name.startswith("lp") else evaluations[1:]
    assert accuracy == pytest.approx(max(row["validation_accuracy"] for row in epochs))
    record = read(run / "run.json")
    assert record["validation"] == {"kind": "file", "rows": 45, "folds": None}
    checkpoint = record["checkpoint"]
    if run.name == "lp":
        assert checkpoint is None
    else:
        kept = next(row for row in epochs if row["epoch"] == checkpoint["epoch"])
        assert kept["validation_accuracy"] == checkpoint["score"] == pytest.approx(accuracy)
        assert checkpoint["probe_won"] == (checkpoint["epoch"] == 0)


def test_the_card_shows_each_set_and_the_calibration(run):
    card = (run / "README.md").read_text(encoding="utf-8")
    metrics = read(run / "metrics.json")
    assert card.startswith("---\n")
    for split, values in metrics["splits"].items():
        row = [line for line in card.splitlines() if line.startswith(f"| {split} | ")][-1]
        for value in (values["accuracy"], values["ece"], values["calibrated"]["ece"]):
            assert f"{value:.3f}" in row
    assert f"{metrics['temperature']:.3f}" in card
    assert ", ".join(CLASSES) in card


# Its numbers


def test_metrics_follow_from_the_predictions_alone(run):
    metrics = read(run / "metrics.json")
    logits, labels = predictions(run, "validation")

    def loss(log_temperature):
        return log_loss(labels, softmax(logits / np.exp(log_temperature)), labels=range(3))

    bound = np.log(100)
    fitted = minimize_scalar(loss, bounds=(-bound, bound), options={"xatol": 1e-10})
    assert abs(fitted.x) < bound - 0.1, "the toy data must have a temperature inside the bounds"
    # a minimum found by its values is sharp to the square root of the rounding
    assert metrics["temperature"] == pytest.approx(np.exp(fitted.x), rel=1e-5)

    for split in SPLITS:
        logits, labels = predictions(run, split)
        guesses = logits.argmax(axis=1)
        found = metrics["splits"][split]
        expected = {
            "rows": len(labels),
            "accuracy": np.mean(guesses == labels),
            "macro_f1": f1_score(labels, guesses, average="macro"),
            "matthews_correlation": matthews_corrcoef(labels, guesses),
            "logit_norm_l1": np.abs(logits).sum(axis=1).mean(),
            "logit_norm_l2": np.sqrt((logits**2).sum(axis=1)).mean(),
            "logit_mean": logits.mean(),
        }
        assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)
        for values, temperature in ((found, 1), (found["calibrated"], metrics["temperature"])):
            expected = expected_calibration(softmax(logits / temperature), labels)
            assert {name: values[name] for name in expected} == pytest.approx(expected, abs=1e-9)


def expected_calibration(table, labels, bins=15):
    confidence, right = table.max(axis=1), table.argmax(axis=1) == labels
    inside = [(confidence > b / bins) & (confidence <= (b + 1) / bins) for b in range(bins)]
    gaps = [(i.mean(), abs(right[i].mean() - confidence[i].mean())) for i in inside if i.any()]
    brier = ((table - np.eye(table.shape[1])[labels]) ** 2).sum(axis=1).mean()
    return {
        "nll": log_loss(labels, table, labels=range(table.shape[1])),
        "brier": brier,
        "brier_mean": brier / table.shape[1],
        "ece": sum(weight * gap for weight, gap in gaps),
        "mce": max(gap for _, gap in gaps),
        "confidence": confidence.mean(),
    }


def test_logits_follow_from_the_models_features(run, data, tiny_bert):
    """Mean pooling and the head by hand, one text at a time."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    model = AutoModelForSequenceClassification.from_pretrained(run).eval()
    texts = list(pd.read_csv(data / "test.csv")["text"])

    def features(encoder):
        with torch.no_grad():
            states = [encoder(**tokenizer(text, return_tensors="pt"))[0][0] for text in texts]
        return np.stack([state.mean(0).double().numpy() for state in states])

    before, after = features(AutoModel.from_pretrained(tiny_bert).eval()), features(model.encoder)
    change = np.linalg.norm(after - before, axis=1).mean()
    found = read(run / "features.json")["splits"]["test"]["feature_difference"]
    assert found == pytest.approx(change, rel=1e-4, abs=1e-5)
    checkpoint = read(run / "run.json").get("checkpoint") or {"epoch": 0}
    assert (found == 0) == (checkpoint["epoch"] == 0)  # LP, and LP-FT where its probe won
    head = load_file(run / "model.safetensors")
    by_hand = after @ head["head.weight"].T + head["head.bias"]
    np.testing.assert_allclose(predictions(run, "test")[0], by_hand, atol=1e-5)


def test_head_norms_follow_from_the_weights(run):
    weights = load_file(run / "model.safetensors")
    head = read(run / "features.json")["head"]
    assert head["norm"] == pytest.approx(np.sqrt((weights["head.weight"] ** 2).sum()), rel=1e-5)
    assert head["bias_norm"] == pytest.approx(np.sqrt((weights["head.bias"] ** 2).sum()), rel=1e-5)
    if run.name in ("lp-ft", "lp-lora"):
        probe = load_file(run / "lp/head.safetensors")
        assert head["norm_at_start"] == pytest.approx(np.linalg.norm(probe["weight"]), rel=1e-5)
    else:
        # 96 normal numbers with standard deviation 0.02; their norm strays by about 7%
        assert head["norm_at_start"] == pytest.approx(0.02 * np.sqrt(96), rel=0.3)


def test_the_lp_head_is_one_for_all_methods_that_start_from_it(runs):
    methods = ("lp", "lp-ft", "lp-lora")
    assert len({(runs[one][0] / "lp/head.safetensors").read_bytes() for one in methods}) == 1


# What commands print


def test_train_prints_its_metrics_as_a_table_or_as_json(train, runs, tmp_path):
    out = train(tmp_path / "run", method="lp-ft").out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line}
    for split, values in read(tmp_path / "run/metrics.json")["splits"].items():
        assert rows[split][1:3] == [str(values["rows"]), f"{values['accuracy']:.3f}"]
    assert f"run:  {tmp_path / 'run'}" in out.splitlines()
    for split, values in read(tmp_path / "run/metrics.json")["splits"].items():
        right = round(values["accuracy"] * values["rows"])
        low, high = binomtest(right, values["rows"]).proportion_ci(method="wilson")
        shown = f"(95 % interval {low:.3f} to {high:.3f}, {values['rows']} rows)"
        assert f"accuracy on {split}: {values['accuracy']:.3f} {shown}" in out.splitlines()
    record = read(tmp_path / "run/run.json")
    kept = record["checkpoint"]
    assert f"epoch {kept['epoch']:g} of {kept['epochs']:g} kept" in out
    assert f"lpft report {tmp_path / 'run'}" in out
    assert out.splitlines()[-1].startswith(f"next: lpft predict {tmp_path / 'run'} ")
    for folder, outcome in runs.values():
        assert json.loads(outcome.out) == {"folder": str(folder), **read(folder / "metrics.json")}


def test_train_writes_the_page_of_its_run_and_never_over_another_file(lpft, runs, tmp_path):
    folder = shutil.copytree(runs["lp"][0], tmp_path / "run")
    again = lpft("train", "--resume", "--output-dir", folder, "--report")
    assert again.status == 0, again.err
    assert f"page: {folder / 'report.html'}" in again.out.splitlines()
    assert "<html" in (folder / "report.html").read_text()
    (folder / "report.html").write_text("mine")
    again = lpft("train", "--resume", "--output-dir", folder, "--report", "--json")
    assert again.status == 0
    assert "no page" in again.err
    assert (folder / "report.html").read_text() == "mine"
    assert "page" not in json.loads(again.out)


def test_progress_is_plain_lines_on_standard_error(runs):
    for method, (_, outcome) in runs.items():
        assert "\r" not in outcome.err, method
        assert "it/s" not in outcome.err
        assert bool("epoch 2 of 2: validation accuracy" in outcome.err) == (method != "lp")


def test_evaluate_gives_the_test_metrics_of_the_run_again(lpft, run, data):
    outcome = lpft("evaluate", run, "--file", data / "test.csv", "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.err == ""
    found, recorded = json.loads(outcome.out), read(run / "metrics.json")
    assert set(found) == {"temperature", "splits"}
    assert found["temperature"] == recorded["temperature"]
    assert list(found["splits"]) == ["test"]
    again, expected = found["splits"]["test"], recorded["splits"]["test"]
    assert again.pop("calibrated") == pytest.approx(expected.pop("calibrated"), abs=1e-6)
    for part in ("per_class", "accuracy_interval"):
        assert again.pop(part) == expected.pop(part)
    assert again == pytest.approx(expected, abs=1e-6)

    table = lpft("evaluate", run, "--file", data / "test.csv").out
    assert f"{expected['accuracy']:.3f}" in table.splitlines()[1]


def test_every_way_to_predict_agrees_with_the_stored_logits(lpft, run, data, tmp_path):
    frame = pd.read_csv(data / "test.csv")
    texts, unlabelled = list(frame["text"]), frame[["text"]]
    unlabelled.to_csv(tmp_path / "new.tsv", sep="\t", index=False)
    unlabelled.to_json(tmp_path / "new.jsonl", orient="records", lines=True)
    unlabelled.to_parquet(tmp_path / "new.parquet")
    logits, _ = predictions(run, "test")
    temperature = read(run / "metrics.json")["temperature"]
    expected = softmax(logits / temperature)

    def predict(*options, stdin=b""):
        outcome = lpft("predict", run, *options, stdin=stdin)
        assert outcome.status == 0, outcome.err
        assert ("rows per second" in outcome.err) == ("--output" in options)
        assert outcome.err.count("\n") == ("--output" in options)
        return outcome.out

    def check(rows):
        assert len(rows) == len(texts)
        assert [set(row) for row in rows] == [{"label", "probabilities"}] * len(rows)
        assert {tuple(row["probabilities"]) for row in rows} == {CLASSES}
        np.testing.assert_allclose(probabilities(rows), expected, atol=1e-6)
        assert [row["label"] for row in rows] == [CLASSES[i] for i in logits.argmax(axis=1)]

    check(lines(predict("--file", data / "test.csv")))
    for name in ("new.tsv", "new.jsonl", "new.parquet"):
        check(lines(predict("--file", tmp_path / name)))
    check(lines(predict("--text", *texts)))
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        check(lines(predict(stdin="\n".join(texts).encode(encoding))))

    assert predict("--file", data / "test.csv", "--output", tmp_path / "out.jsonl") == ""
    check(lines((tmp_path / "out.jsonl").read_text()))
    assert predict("--file", data / "test.csv", "--output", tmp_path / "out.csv") == ""
    table = pd.read_csv(tmp_path / "out.csv")
    assert list(table.columns) == ["label", *(f"probability_{name}" for name in CLASSES)]
    np.testing.assert_allclose(table.iloc[:, 1:].to_numpy(), expected, atol=1e-6)
    assert list(table["label"]) == [CLASSES[i] for i in logits.argmax(axis=1)]

    (tmp_path / "out.csv").write_text("old")
    predict("--text", "good", "--output", tmp_path / "out.csv", "--overwrite")
    assert len(pd.read_csv(tmp_path / "out.csv")) == 1


def test_rows_of_a_long_file_keep_their_order(lpft, runs, tmp_path):
    """2500 rows are read in several pieces."""
    texts = [f"good {'a ' * (row % 20)}lamp" for row in range(2500)]
    pd.DataFrame({"text": texts}).to_csv(tmp_path / "long.csv", index=False)
    run, _ = runs["lp-ft"]
    found = probabilities(lines(lpft("predict", run, "--file", tmp_path / "long.csv").out))
    few = probabilities(lines(lpft("predict", run, "--text", *texts[:20]).out))
    np.testing.assert_allclose(found, np.tile(few, (125, 1)), atol=1e-6)


def test_pipeline_gives_the_probabilities_of_predict(lpft, run, data):
    texts = [*pd.read_csv(data / "test.csv")["text"], "good table " * 40, "lamp"]
    classify = pipeline("text-classification", model=str(run), top_k=None)
    by_predict = probabilities(lines(lpft("predict", run, "--text", *texts).out))
    by_pipeline = [*classify(texts, truncation=True), *classify(texts[:1])]
    for items, expected in zip(by_pipeline, [*by_predict, by_predict[0]], strict=True):
        scores = {item["label"]: item["score"] for item in items}
        assert set(scores) == set(CLASSES)
        np.testing.assert_allclose([scores[name] for name in CLASSES], expected, atol=1e-6)


@pytest.mark.heavy
def test_report_writes_one_page_with_every_method(lpft, runs, tmp_path):
    command = ("report", runs["lp"][0].parent, "--output", tmp_path / "page.html")
    outcome = lpft(*command)
    assert outcome.status == 0, outcome.err
    assert outcome.out.splitlines()[-1] == f"report: {tmp_path / 'page.html'}"
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(?!data:)', page)
    assert "LP-FT moves features" in page  # trained alike, FT and LP-FT are a pair
    assert "LP-LoRA moves features" in page
    shown = {line.split()[0].lower(): line.split() for line in outcome.out.splitlines() if line}
    outcome = lpft(*command, "--json")  # its own page is made anew
    assert outcome.status == 0, outcome.err
    written = json.loads(outcome.out)
    assert written["page"] == str(tmp_path / "page.html")
    found = {row["method"].lower(): row["ID accuracy"] for row in written["methods"]}
    for method in METHODS:
        accuracy = read(runs[method][0] / "metrics.json")["splits"]["test"]["accuracy"]
        assert (found[method], shown[method][1]) == (accuracy, f"{accuracy:.3f}")


# Kinds of data


def test_integer_labels_are_sorted_by_value_and_stay_integers(lpft, train, data, tmp_path):
    names = {"bad": 10, "good": 2, "long": 3}
    for name in ("train", "test"):
        frame = pd.read_csv(data / f"{name}.csv")
        frame.assign(label=frame["label"].map(names)).to_csv(tmp_path / f"{name}.csv", index=False)
    files = ("--train-file", tmp_path / "train.csv", "--test-file", tmp_path / "test.csv")
    train(tmp_path / "run", *files, files=())
    assert read(tmp_path / "run/run.json")["data"]["classes"] == [2, 3, 10]
    config = read(tmp_path / "run/config.json")
    assert config["id2label"] == {"0": "2", "1": "3", "2": "10"}
    (row,) = lines(lpft("predict", tmp_path / "run", "--text", "good table").out)
    assert list(row["probabilities"]) == ["2", "3", "10"]
    assert row["label"] in (2, 3, 10)
    assert type(row["label"]) is int
    _, labels = predictions(tmp_path / "run", "test")
    source = pd.read_csv(tmp_path / "test.csv")["label"]
    assert [[2, 3, 10][label] for label in labels] == list(source)


def test_files_whose_first_line_names_no_columns(lpft, train, data, tmp_path):
    """The same rows with and without a line of names give the same run and the same answers."""
    for name in ("train", "test"):
        frame = pd.read_csv(data / f"{name}.csv")
        frame.to_csv(tmp_path / f"{name}.txt", sep="\t", header=False, index=False)
    names = ("--column-names", "text,label")
    files = ("--train-file", tmp_path / "train.txt", "--test-file", tmp_path / "test.txt")
    train(tmp_path / "bare", *files, *names, files=())
    files = ("--train-file", data / "train.csv", "--test-file", data / "test.csv")
    train(tmp_path / "named", *files, files=())
    metrics = read(tmp_path / "bare/metrics.json")
    assert metrics == read(tmp_path / "named/metrics.json")
    run, test = tmp_path / "bare", tmp_path / "test.txt"
    again = json.loads(lpft("evaluate", run, "--file", test, *names, "--json").out)
    recorded = metrics["splits"]["test"]
    assert again["splits"]["test"]["nll"] == pytest.approx(recorded["nll"], abs=1e-6)
    by_name = lines(lpft("predict", run, "--file", data / "test.csv").out)
    assert lines(lpft("predict", run, "--file", test, *names).out) == by_name


def test_pairs_of_texts(lpft, train, tmp_path):
    frames = {name: toy_rows(60, seed) for seed, name in enumerate(("train", "test"))}
    for name, frame in frames.items():
        frame = frame.assign(hint="i saw a " + frame["label"]).rename(columns={"text": "body"})
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    run = tmp_path / "run"
    files = ("--train-file", tmp_path / "train.csv", "--test-file", tmp_path / "test.csv")
    train(run, *files, "--text-columns", "hint,body", files=(), method="lp-ft")
    assert read(run / "run.json")["data"]["paired"] is True
    pairs = pd.read_csv(tmp_path / "test.csv")[["hint", "body"]].to_numpy().tolist()

    logits, _ = predictions(run, "test")
    expected = softmax(logits / read(run / "metrics.json")["temperature"])
    by_file = lines(lpft("predict", run, "--file", tmp_path / "test.csv").out)
    np.testing.assert_allclose(probabilities(by_file), expected, atol=1e-6)
    by_text = lines(lpft("predict", run, "--text", *itertools.chain(*pairs)).out)
    np.testing.assert_allclose(probabilities(by_text), expected, atol=1e-6)
    stdin = "\n".join("\t".join(pair) for pair in pairs).encode()
    by_line = lines(lpft("predict", run, stdin=stdin).out)
    np.testing.assert_allclose(probabilities(by_line), expected, atol=1e-6)
    classify = pipeline("text-classification", model=str(run), top_k=None)
    scores = classify({"text": pairs[0][0], "text_pair": pairs[0][1]}, truncation=True)
    by_name = {item["label"]: item["score"] for item in scores}
    np.testing.assert_allclose([by_name[name] for name in CLASSES], expected[0], atol=1e-6)
    swapped = probabilities(lines(lpft("predict", run, "--text", *reversed(pairs[0])).out))
    assert np.abs(swapped - expected[0]).max() > 1e-5

    again = json.loads(lpft("evaluate", run, "--file", tmp_path / "test.csv", "--json").out)
    recorded = read(run / "metrics.json")["splits"]["test"]
    assert again["splits"]["test"]["nll"] == pytest.approx(recorded["nll"], abs=1e-6)


def test_a_task_from_its_release_files_takes_the_published_settings(lpft, tiny_bert, tmp_path):
    """CommitmentBank's layout, 20 rows: the last 2 validate; val.jsonl is the test set."""
    release, run = tmp_path / "release", tmp_path / "run"
    cb = case_of("cb").write(release)
    outcome = lpft(
        "train", "--task", "cb", "--data-dir", release, "--model", tiny_bert, "--method", "lp-ft",
        "--epochs", 1, "--max-length", 32, "--output-dir", run,
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    record = read(run / "run.json")
    assert record["data"]["classes"] == ["entailment", "contradiction", "neutral"]
    assert record["data"]["rows"] == {"train": 18, "validation": 2, "test": 4}
    # the paper's table of hyperparameters
    assert record["config"]["learning_rate"] == 5e-6
    assert record["config"]["batch_size"] == 8
    validation = pd.read_parquet(run / "predictions/validation.parquet")
    assert list(validation["id"]) == ["18", "19"]

    for folder in (release, release / "superglue", cb):
        found = lpft("evaluate", run, "--task", "cb", "--data-dir", folder, "--json")
        assert found.status == 0, found.err
        again, recorded = json.loads(found.out)["splits"], read(run / "metrics.json")["splits"]
        assert list(again) == ["test"]
        assert again["test"]["nll"] == pytest.approx(recorded["test"]["nll"], abs=1e-6)


# Settings


def test_a_yaml_file_equals_the_same_options(lpft, train, data, tiny_bert, tmp_path):
    train(tmp_path / "options", "--seed", 3, "--class-weight", "balanced", "--no-head-bias")
    (tmp_path / "run.yaml").write_text(
        f"""
model: {tiny_bert}
pooling: mean
max-length: 32
method: lp
train-file: {data / "train.csv"}
validation_file: {data / "valid.csv"}
test-file: {data / "test.csv"}
ood:
  far: {data / "ood.csv"}
seed: 3
class-weight: balanced
head-bias: false
output-dir: {tmp_path / "yaml"}
"""
    )
    outcome = lpft("train", "--config", tmp_path / "run.yaml")
    assert outcome.status == 0, outcome.err
    by_options, by_yaml = (read(tmp_path / name / "run.json") for name in ("options", "yaml"))
    assert by_yaml["config"] == by_options["config"]
    assert by_yaml["config_hash"] == by_options["config_hash"]
    metrics = [(tmp_path / name / "metrics.json").read_bytes() for name in ("options", "yaml")]
    assert metrics[0] == metrics[1]

    # and the command line comes before it
    override = ("--seed", 4, "--pooling", "first", "--output-dir", tmp_path / "both")
    assert lpft("train", "--config", tmp_path / "run.yaml", *override).status == 0
    config = read(tmp_path / "both/run.json")["config"]
    assert (config["seed"], config["pooling"], config["max_length"]) == (4, "first", 32)
    assert config["head_bias"] is False
    assert by_yaml["config_hash"] != read(tmp_path / "both/run.json")["config_hash"]


def test_a_tilde_in_yaml_is_the_home_folder(lpft, data, tiny_bert, tmp_path, monkeypatch):
    for name in ("train", "test", "ood"):
        (tmp_path / f"{name}.csv").write_bytes((data / f"{name}.csv").read_bytes())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = {"model": str(tiny_bert), "method": "lp", "max-length": 32, "output-dir": "~/run"}
    files = {"train-file": "~/train.csv", "test-file": "~/test.csv", "ood": {"far": "~/ood.csv"}}
    Path("run.yaml").write_text(json.dumps(settings | files))
    outcome = lpft("train", "--config", "run.yaml")
    assert outcome.status == 0, outcome.err
    assert (tmp_path / "run/metrics.json").is_file()
    assert [path.name for path in Path().iterdir()] == ["run.yaml"]


@pytest.mark.heavy
def test_overwrite_leaves_nothing_of_the_old_run(train, tmp_path):
    run = tmp_path / "run"
    train(run, method="lp-lora")
    train(run, "--overwrite", method="ft", files=())
    assert files_in(run) == ALWAYS
    assert read(run / "run.json")["config"]["method"] == "ft"


def test_resuming_a_finished_run_prints_its_metrics_and_changes_nothing(lpft, runs):
    run, first = runs["lp-lora"]
    before = snapshot(run)
    again = lpft("train", "--output-dir", run, "--resume", "--json")
    assert again.status == 0, again.err
    assert json.loads(again.out) == json.loads(first.out)
    assert "finished" in again.err
    assert snapshot(run) == before


@pytest.mark.heavy
def test_the_stratified_lp_head_does_not_depend_on_the_seed(train, tmp_path):
    for seed in (0, 1):
        train(tmp_path / f"{seed}", "--seed", seed, method="lp-ft", files=())
        assert read(tmp_path / f"{seed}/run.json")["config"]["split_protocol"] == "stratified"
    heads = [(tmp_path / f"{seed}/lp/head.safetensors").read_bytes() for seed in (0, 1)]
    assert heads[0] == heads[1]
    # while what is trained from it does
    models = [(tmp_path / f"{seed}/model.safetensors").read_bytes() for seed in (0, 1)]
    assert models[0] != models[1]


def test_balanced_class_weights_favour_the_rare_class(train, tmp_path):
    """A tenth of the rows are of one class, whatever their text.

    Where the slope of a regression's intercept is zero, the mean of p over all rows is that tenth;
    with balanced weights it is a half, as the mean over the two classes' own means.
    """
    frame = toy_rows(240, 0).assign(label=["bad", *["good"] * 9] * 24)
    frame.to_csv(tmp_path / "x.csv", index=False)
    files = ("--train-file", tmp_path / "x.csv", "--validation-file", tmp_path / "x.csv")
    for name, options in (("plain", ()), ("balanced", ("--class-weight", "balanced"))):
        train(tmp_path / name, *files, *options, files=())
    logits, labels = predictions(tmp_path / "plain", "validation")
    assert softmax(logits)[:, 0].mean() == pytest.approx(0.1, abs=1e-3)
    share = softmax(predictions(tmp_path / "balanced", "validation")[0])[:, 0]
    means = share[labels == 0].mean(), share[labels == 1].mean()
    assert np.mean(means) == pytest.approx(0.5, abs=1e-3)


def test_class_weights_by_name_are_recorded(train, tmp_path):
    options = ("--class-weight", "good=2", "--class-weight", "bad=0.5")
    train(tmp_path / "run", *options)
    assert read(tmp_path / "run/run.json")["config"]["class_weight"] == {"good": 2.0, "bad": 0.5}
    train(tmp_path / "same", "--class-weight", "good=1", "--class-weight", "bad=1")
    train(tmp_path / "plain")
    heads = [
        (tmp_path / name / "lp/head.safetensors").read_bytes() for name in ("run", "same", "plain")
    ]
    assert heads[0] != heads[1] == heads[2]


def test_out_of_distribution_sets_without_a_known_class(train, lpft, data, tmp_path):
    other = pd.read_csv(data / "ood.csv").assign(label="none of these")
    other.to_csv(tmp_path / "other.csv", index=False)
    mixed = pd.concat([other[:10], pd.read_csv(data / "ood.csv")[10:]])
    mixed.to_csv(tmp_path / "mixed.csv", index=False)
    sets = [f"{name}={tmp_path / name}.csv" for name in ("other", "mixed")]
    train(tmp_path / "run", "--ood", sets[0], "--ood", sets[1], files=("test",))
    splits = read(tmp_path / "run/metrics.json")["splits"]
    assert (splits["ood/other"]["rows"], splits["ood/other"]["accuracy"]) == (0, None)
    assert splits["ood/other"]["unseen"]["rows"] == 30
    frame = pd.read_parquet(tmp_path / "run/predictions/ood-mixed.parquet")
    assert frame["label"].isna().tolist() == [True] * 10 + [False] * 20
    known = frame[10:]
    right = np.stack(known["logits"]).argmax(axis=1) == known["label"]
    assert splits["ood/mixed"]["rows"] == 20
    assert splits["ood/mixed"]["accuracy"] == pytest.approx(right.mean())
    # confidence of test rows against that of unseen ones, by scikit-learn
    run = tmp_path / "run"
    temperature = read(run / "metrics.json")["temperature"]
    scores = [
        softmax(predictions_of(run, split) / temperature).max(axis=1)
        for split in ("test", "ood/other")
    ]
    auroc = roc_auc_score(np.repeat([1, 0], [48, 30]), np.concatenate(scores))
    assert splits["ood/other"]["unseen"]["confidence_auroc"] == pytest.approx(auroc)
    assert lpft("report", run).status == 0


def predictions_of(run: Path, split: str) -> np.ndarray:
    """Logits of a split, whose labels may be null."""
    frame = pd.read_parquet(run / "predictions" / f"{split.replace('/', '-')}.parquet")
    return np.stack(frame["logits"]).astype(np.float64)


def test_max_train_samples_limits_training_alone(lpft, train, data, tmp_path):
    train(tmp_path / "few", "--max-train-samples", 30, files=("test",))
    rows = read(tmp_path / "few/run.json")["data"]["rows"]
    assert rows == {"train": 30, "validation": 30, "test": 48}  # by folds
    train(tmp_path / "own", "--max-train-samples", 30, "--max-validation-samples", 6, files=())
    assert read(tmp_path / "own/run.json")["data"]["rows"] == {"train": 30, "validation": 6}
    assert "30" in (tmp_path / "few/README.md").read_text()
    shown = lpft("check", "--train-file", data / "train.csv", "--max-train-samples", 30).out
    counts = next(line.split()[2:] for line in shown.splitlines() if line.startswith("train "))
    total = pd.read_csv(data / "train.csv")["label"].value_counts()
    for name, count in zip(CLASSES, map(int, counts), strict=True):
        assert count == pytest.approx(30 * total[name] / 90, abs=1.5)


# What there is


def test_check_looks_at_data_before_training(lpft, tmp_path):
    frame = toy_rows(200, 5).drop_duplicates("text")
    frame.iloc[:150].to_csv(tmp_path / "train.csv", index=False)
    leaked = pd.concat([frame.iloc[150:], frame.iloc[:3]])
    leaked.to_csv(tmp_path / "test.csv", index=False)
    files = ("--train-file", tmp_path / "train.csv", "--test-file", tmp_path / "test.csv")
    found = json.loads(lpft("check", *files, "--json").out)
    assert found["classes"] == list(CLASSES)
    assert found["rows"]["test"] == len(leaked)
    assert found["rows"]["train"] + found["rows"]["validation"] == 150
    leaks = [item for item in found["findings"] if item["kind"] == "leakage"]
    assert len(leaks) == 1
    assert "test" in leaks[0]["message"]

    text = lpft("check", *files)
    assert text.status == 0
    assert text.err == ""
    assert leaks[0]["message"] in text.out
    assert "\ntexts: column 'text'; labels: column 'label'\n" in text.out
    for split, rows in found["rows"].items():
        assert any(line.split()[:2] == [split, str(rows)] for line in text.out.splitlines())
    assert not (tmp_path / "runs").exists()


def test_check_has_a_line_for_each_of_many_classes(lpft, tmp_path):
    names = [f"an_intent_of_many_words_{number}" for number in range(40)]
    rows = [f"text number {row},{names[row % 40]}" for row in range(600)]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *rows]))
    lines = lpft("check", "--train-file", tmp_path / "train.csv").out.splitlines()
    table = [line.split() for line in lines if line.startswith(("an_intent", "all classes"))]
    # 15 rows of each class, of which round(1.5) = 2 are held out
    assert table == [
        ["all", "classes", "520", "80"],
        *([name, "13", "2"] for name in sorted(names)),
    ]
    assert max(map(len, lines[:42])) < 80


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("tasks", ("demo", "cb", "rte", "sst2", "cola")),
        ("models", ("minilm", "bert", "roberta", "gpt2", "llama")),
        ("methods", METHODS),
    ],
)
def test_lists_are_for_people_and_for_programs(lpft, command, names):
    people, programs = lpft(command), lpft(command, "--json")
    assert (people.status, people.err, programs.status, programs.err) == (0, "", 0, "")
    first_words = {line.split()[0].rstrip(":") for line in people.out.splitlines() if line}
    parsed = json.loads(programs.out)
    listed = {row["name"] for row in parsed} if isinstance(parsed, list) else set()
    listed |= {name for part in ("packaged", "families") if part in parsed for name in parsed[part]}
    assert set(names) <= first_words
    assert set(names) <= listed


def test_one_task_is_shown_whole(lpft):
    (task,) = json.loads(lpft("tasks", "cb", "--json").out)
    assert task["classes"] == ["entailment", "contradiction", "neutral"]
    assert "premise, hypothesis" in lpft("tasks", "cb").out


# When something goes wrong that is not the input's fault


@pytest.mark.parametrize(
    ("error", "status", "named"),
    [
        (RuntimeError("two\nlines"), 1, "RuntimeError"),
        (torch.OutOfMemoryError("CUDA out of memory"), 2, "--batch-size"),
        (MemoryError(), 2, "--batch-size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, "--batch-size"),
    ],
)
def test_failures_are_short_unless_debugged(lpft, data, monkeypatch, error, status, named):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("lpft.runs.train.train_run", fail)
    command = ("train", "--train-file", data / "train.csv")
    short, long = lpft(*command), lpft(*command, "--debug")
    assert (short.status, short.out) == (status, "")
    assert (long.status, long.out) == (status, "")
    assert short.err.startswith("error: ")
    assert named in short.err
    assert len(short.err.splitlines()) <= 2
    assert long.err.startswith("Traceback (most recent call last)")
    assert long.err.endswith(short.err)


def test_a_command_that_does_not_exist_is_refused_with_the_one_that_may_be_meant(lpft):
    outcome = lpft("trian", "--epochs", 1)
    assert outcome.status == 2
    assert "unknown command 'trian', did you mean train?" in outcome.err
    outcome = lpft("xyz")
    assert outcome.status == 2
    assert "expected demo, train" in outcome.err


def test_predict_says_that_it_reads_the_terminal_before_it_loads_the_model(
    tmp_path, monkeypatch, capsys
):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    def load(*_):
        assert "--file" in capsys.readouterr().err
        raise InputError("stop here")

    monkeypatch.setattr("lpft.runs.predict.open_backend", load)
    monkeypatch.setattr(sys, "stdin", Terminal())
    options = parse(["predict", str(tmp_path)])
    with pytest.raises(InputError, match="stop here"):
        options.run(options)


def test_interrupted_predictions_leave_no_file(lpft, runs, data, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("lpft.runs.prediction_job.predict_together", interrupted)
    run, _ = runs["lp"]
    outcome = lpft("predict", run, "--file", data / "test.csv", "--output", tmp_path / "x.jsonl")
    assert outcome.status == 130
    assert outcome.out == ""
    assert outcome.err.startswith("interrupted")
    assert list(tmp_path.iterdir()) == []


# Processes of their own


LPFT = [sys.executable, "-m", "lpft"]


def lpft_process(*arguments, **options) -> subprocess.CompletedProcess:
    command = [*LPFT, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_help_goes_to_standard_output_and_names_every_command_and_option(lpft):
    for command in ("", *COMMANDS):
        shown = lpft(*([command] if command else []), "--help")
        assert (shown.status, shown.err) == (0, "")
        assert shown.out.startswith(f"usage: lpft {command}".rstrip())
    assert not [name for name in COMMANDS if name not in lpft("--help").out]
    shown = lpft("train", "--help").out
    assert not [name for name in TRAIN_OPTIONS if f"--{name}" not in shown]


def test_version_is_that_of_the_package():
    assert lpft_process("--version").stdout == f"lpft {version('lpft')}\n"


@pytest.mark.heavy
def test_a_process_keeps_its_streams_apart(data, tiny_bert, tmp_path):
    """Results alone on standard output, plain lines on standard error, no library's noise."""
    done = lpft_process(
        "train", "--model", tiny_bert, "--method", "lora", "--epochs", 1, "--max-length", 32,
        "--train-file", data / "train.csv", "--output-dir", tmp_path / "run", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["folder"] == str(tmp_path / "run")
    assert "\r" not in done.stderr
    starts = ("warning: ", "look at the labels", "what fits", "fold ", "epoch ", "fine-tuning in ")
    assert [line for line in done.stderr.splitlines() if not line.startswith(starts)] == []


@pytest.mark.heavy
def test_an_interrupted_training_goes_on_to_the_result_it_would_have_had(
    lpft, tiny_bert, data, tmp_path
):
    options = (
        "--model", tiny_bert, "--pooling", "mean", "--max-length", 32, "--method", "lp-ft",
        "--train-file", data / "train.csv", "--validation-file", data / "valid.csv",
        "--test-file", data / "test.csv", "--learning-rate", 1e-3, "--epochs", 25,
    )  # fmt: skip
    run = tmp_path / "run"
    command = [*LPFT, "train", *options, "--output-dir", run]
    process = subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    history = run / "history.jsonl"
    while not (history.exists() and '"epoch": 3.0' in history.read_text()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("interrupted")
    assert "--resume" in err.splitlines()[-1]
    assert read(run / "run.json")["status"] == "interrupted"
    assert not (run / "metrics.json").exists()
    kept = lines(history.read_text())

    resumed = lpft("train", *options, "--output-dir", run, "--resume")
    assert resumed.status == 0, resumed.err
    assert "continuing from checkpoint-" in resumed.err
    assert read(run / "run.json")["status"] == "finished"
    rows = lines(history.read_text())
    assert [row["epoch"] for row in rows if row["event"] == "evaluation"] == list(range(26))
    assert rows[: len(kept)] == kept
    assert not [path for path in run.rglob("*") if "checkpoint" in path.name]


@pytest.mark.heavy
def test_predict_streams_into_a_reader_that_leaves_and_stays_silent(runs):
    """``yes good table | lpft predict RUN | head -1``: the input has no end."""
    texts = subprocess.Popen(["yes", "good table"], stdout=subprocess.PIPE)
    predict = subprocess.Popen(
        [*LPFT, "predict", runs["lp"][0]],
        stdin=texts.stdout,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )
    try:
        texts.stdout.close()
        first = predict.stdout.readline()
        predict.stdout.close()
        assert predict.wait() == 0
        assert predict.stderr.read() == ""
    finally:
        for process in (predict, texts):
            process.kill()
            process.wait()
        predict.stderr.close()
    assert set(json.loads(first)["probabilities"]) == set(CLASSES)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_any_text_is_written_whatever_the_locale(tmp_path, encoding):
    path = tmp_path / "rows.csv"
    rows = "".join(f"text {row},{label}\n" for row in range(10) for label in ("好", "坏"))
    path.write_text(f"text,label\n{rows}", encoding="utf-8")
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [*LPFT, "check", "--train-file", str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 classes (坏, 好)" in done.stdout.decode("utf-8")


@pytest.mark.heavy
def test_lines_of_a_program_that_goes_on_are_answered(runs):
    """32 lines are enough for 32 answers, though the input does not end."""
    command = [*LPFT, "predict", str(runs["lp"][0])]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        process.stdin.write("good table\n" * 32)
        process.stdin.flush()
        answers = [json.loads(process.stdout.readline()) for _ in range(32)]
        assert process.poll() is None
        process.stdin.write("one more\n")
        rest, _ = process.communicate()
    assert process.returncode == 0
    assert {answer["label"] for answer in answers} == {answers[0]["label"]}
    assert len(rest.splitlines()) == 1
