"""`lpft interpolate`: the path, each point's temperature, the choice, and the folder it leaves."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from tiny_models import save_tiny_model
from toy_files import write_toy_file

from lpft import InputError, TextClassifier
from lpft.data import load_data
from lpft.data.tokens import tokenize
from lpft.export import export_run
from lpft.files import DIGESTS
from lpft.model import load_classifier
from lpft.model.adapters import load_adapter
from lpft.model.inference import extract_features, head_logits
from lpft.model.loading import fresh_classifier
from lpft.results.folder import read_record
from lpft.results.run import Predictions
from lpft.results.saved import open_saved
from lpft.results.schema import InterpolationRecord
from lpft.runs.interpolate import interpolate_run
from lpft.runs.weight_path import WeightPath, score_points
from lpft.settings import DataSettings, TrainingSettings
from lpft.settings.commands import InterpolationSettings

SPLITS = ("validation", "test", "ood/far")
ADAPTED = ("lp-lora", "lp-dora", "lp-bitfit", "lp-ia3")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Files with a third of the labels drawn at random, so that no probability is certain."""
    folder = tmp_path_factory.mktemp("files")
    rows = {"train": 60, "validation": 48, "test": 40, "far": 32, "other": 40}
    for seed, (name, count) in enumerate(rows.items()):
        table = pd.read_csv(write_toy_file(folder / f"{name}.csv", count, seed))
        generator = np.random.default_rng(seed)
        noisy = generator.random(count) < 0.3
        table.loc[noisy, "label"] = generator.choice(["good", "bad"], int(noisy.sum()))
        table.to_csv(folder / f"{name}.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def train(lpft, tiny_bert, tmp_path_factory):
    """Train a run of a method on the files in a folder, with further options."""

    def trained(files: Path, method: str, *options: object, validation: bool = True) -> Path:
        folder = tmp_path_factory.mktemp("runs") / method
        rate = 3e-3 if method.endswith("ft") else 1e-2
        tuned = ("--epochs", 6, "--batch-size", 8, "--learning-rate", rate)
        held_out = ("--validation-file", files / "validation.csv") if validation else ()
        outcome = lpft(
            *("train", "--train-file", files / "train.csv", *held_out),
            *("--test-file", files / "test.csv", "--ood", f"far={files / 'far.csv'}"),
            *("--model", tiny_bert, "--method", method, "--max-length", 16, "--device", "cpu"),
            *(() if method == "lp" else tuned),
            *options,
            *("--output-dir", folder),
        )
        assert outcome.status == 0, outcome.err
        return folder

    return trained


@pytest.fixture(scope="module")
def runs(train, files) -> dict[str, Path]:
    return {method: train(files, method) for method in ("lp", "lp-ft", *ADAPTED)}


@pytest.fixture(scope="module")
def record(runs, tmp_path_factory) -> tuple[Path, InterpolationRecord]:
    folder = tmp_path_factory.mktemp("points") / "chosen"
    return folder, interpolate_run(runs["lp-ft"], folder=folder)


def points(run: Path, *alphas: float):
    """Points of a run, scored: their records and logits."""
    known = read_record(run)
    data = load_data(DataSettings.read_own(known.config))
    path = WeightPath(run, known, data, open_saved(run, "cpu"))
    sets = {name: examples for name, examples in data.splits().items() if name != "train"}
    return score_points(path, sets, "file", alphas, {})


def recorded(run: Path, split: str) -> np.ndarray:
    return Predictions.read(run, split, 2).logits


def texts_of(files: Path, name: str = "test") -> list[str]:
    return pd.read_csv(files / f"{name}.csv").text.tolist()


def logits_of(model, tokenizer, texts) -> np.ndarray:
    tokens = tokenize(tokenizer, texts, 16)
    return head_logits(model, extract_features(model, tokens, device=CPU))


def start_of(run: Path):
    """The model that a run began with: its base model with the head of linear probing."""
    config = read_record(run).config
    settings = TrainingSettings.read_own(config)
    classifier = fresh_classifier(load_data(DataSettings.read_own(config)), settings)
    head = load_file(run / "lp/head.safetensors")
    state = classifier.model.state_dict()
    state["head.weight"] = head["weight"].float() * settings.head_scale
    state["head.bias"] = head["bias"].float() * settings.head_scale
    classifier.model.load_state_dict(state)
    return classifier


def without(record: dict) -> dict:
    return {name: value for name, value in record.items() if name not in ("finished", "seconds")}


@pytest.mark.parametrize("method", ["lp-ft", *ADAPTED])
def test_the_ends_are_linear_probing_and_the_run_itself(runs, method):
    start, end = points(runs[method], 0.0, 1.0)
    for split in SPLITS:
        assert start.logits[split] == pytest.approx(recorded(runs["lp"], split), abs=2e-5)
        np.testing.assert_array_equal(end.logits[split], recorded(runs[method], split))
    metrics = json.loads((runs[method] / "metrics.json").read_text())
    assert end.record.temperature == metrics["temperature"]
    assert end.record.splits == metrics["splits"]


def test_a_point_has_the_average_of_the_weights_at_both_ends(runs, files):
    run, alpha = runs["lp-ft"], 0.3
    classifier = start_of(run)
    trained = load_classifier(run).model.state_dict()
    average = {
        name: (1 - alpha) * start + alpha * trained[name]
        for name, start in classifier.model.state_dict().items()
    }
    classifier.model.load_state_dict(average)
    expected = logits_of(classifier.model, classifier.tokenizer, texts_of(files))
    (point,) = points(run, alpha)
    assert point.logits["test"] == pytest.approx(expected, abs=1e-5)
    assert np.abs(expected - recorded(run, "test")).max() > 0.01


def test_with_lora_a_point_scales_the_product_of_the_factors(runs, files):
    run, alpha = runs["lp-lora"], 0.4
    classifier = start_of(run)
    head = classifier.model.head.weight.clone(), classifier.model.head.bias.clone()
    adapted = load_adapter(classifier.model, run).eval()
    factors = 0
    with torch.no_grad():
        for module in adapted.modules():
            if hasattr(module, "lora_A") and hasattr(module, "scaling"):
                module.scaling = {name: alpha * scale for name, scale in module.scaling.items()}
                factors += 1
        trained = adapted.base_model.model.head.modules_to_save["default"]
        trained.weight.copy_((1 - alpha) * head[0] + alpha * trained.weight)
        trained.bias.copy_((1 - alpha) * head[1] + alpha * trained.bias)
        trained.weight.requires_grad_(False)
    assert factors == 4  # query and value of two layers
    tokens = tokenize(classifier.tokenizer, texts_of(files), 16)
    with torch.no_grad():
        output = adapted.double()(**tokens.batch(range(len(tokens))))
    (point,) = points(run, alpha)
    # V phi in float32: a head fitted on few rows is large, and its products cancel
    size = float(trained.weight.norm()) * float(output.features.norm(dim=1).max())
    assert point.logits["test"] == pytest.approx(output.logits.numpy(), abs=1e-6 * size)
    assert np.abs(output.logits.numpy() - recorded(run, "test")).max() > 1e-3 * size


def test_the_start_has_the_scaled_head(train, files):
    run = train(files, "lp-ft", "--head-scale", 3)
    head = load_file(run / "lp/head.safetensors")
    features = start_of(run).model
    tokens = tokenize(load_classifier(run).tokenizer, texts_of(files), 16)
    phi = extract_features(features, tokens, device=CPU).astype(np.float64)
    expected = 3 * (phi @ head["weight"].double().numpy().T + head["bias"].numpy())
    assert points(run, 0.0)[0].logits["test"] == pytest.approx(expected, abs=1e-4)


def test_every_point_has_its_own_temperature(runs, files):
    labels = (pd.read_csv(files / "validation.csv").label == "good").to_numpy(int)
    found = points(runs["lp-ft"], 0.0, 0.5, 1.0)
    for point in found:
        logits = point.logits["validation"].astype(np.float64)

        def nll(log_t, logits=logits):
            scaled = log_softmax(logits / np.exp(log_t), axis=1)
            return -scaled[np.arange(len(labels)), labels].mean()

        best = minimize_scalar(nll, bounds=(-4, 4), method="bounded", options={"xatol": 1e-9})
        assert point.record.temperature == pytest.approx(np.exp(best.x), rel=1e-4)
        calibrated = point.record.splits["validation"]["calibrated"]
        assert calibrated["nll"] == pytest.approx(best.fun, abs=1e-9)
    assert len({point.record.temperature for point in found}) == 3


def test_what_is_chosen_depends_on_validation_alone(train, files, record, tmp_path):
    """Wrong labels in every other set change their scores and nothing else."""
    shutil.copytree(files, tmp_path / "files")
    for name in ("test", "far"):
        path = tmp_path / "files" / f"{name}.csv"
        table = pd.read_csv(path)
        table["label"] = table.label.map({"good": "bad", "bad": "good"})
        table.to_csv(path, index=False)
    other = interpolate_run(train(tmp_path / "files", "lp-ft"), folder=tmp_path / "points")
    _, mine = record
    assert (other.chosen, other.reason, other.optimism) == (mine.chosen, mine.reason, mine.optimism)
    for one, two in zip(other.points, mine.points, strict=True):
        assert one.temperature == two.temperature
        assert one.splits["validation"] == two.splits["validation"]
        for split in ("test", "ood/far"):
            assert one.splits[split]["accuracy"] == pytest.approx(1 - two.splits[split]["accuracy"])


def test_the_record_and_the_chosen_classifier_agree(record, files, tmp_path, lpft):
    folder, found = record
    assert InterpolationRecord.read(folder).as_json() == found.as_json()
    assert [point.alpha for point in found.points] == pytest.approx(np.arange(11) / 10)
    assert found.validation.model_dump() == {"kind": "file", "rows": 48, "folds": None}
    assert sorted(found.files) == sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name != found.FILE
    )
    logits = recorded(folder, "test")
    classifier = TextClassifier.load(folder)
    assert classifier.logits(texts_of(files)) == pytest.approx(logits, abs=1e-5)
    assert classifier.temperature_ == found.point.temperature
    assert classifier.method == "lp-ft"
    evaluated = lpft("evaluate", folder, "--file", files / "test.csv", "--json")
    assert evaluated.status == 0, evaluated.err
    scores = json.loads(evaluated.out)["splits"]["test"]
    assert scores["nll"] == pytest.approx(found.point.splits["test"]["nll"], abs=1e-6)
    predicted = lpft("predict", folder, "--file", files / "test.csv", "--target-coverage", 0.8)
    first = json.loads(predicted.out.splitlines()[0])
    odds = logits[0] / found.point.temperature
    assert first["probabilities"]["good"] == pytest.approx(
        1 / (1 + np.exp(odds[0] - odds[1])), abs=1e-5
    )
    assert export_run(folder, tmp_path / "export", "transformers").record["check"]
    kernels = lpft(
        "ntk", folder, "--max-samples", 6, "--solver", "none", "--output-dir", tmp_path / "k"
    )
    assert kernels.status == 0, kernels.err


@pytest.mark.heavy
def test_labelled_rows_of_ones_own_choose_for_a_run_that_folds_scored(train, files, lpft):
    run = train(files, "lp-ft", validation=False)
    refused = lpft("interpolate", run)
    assert refused.status == 2
    assert "60 labelled rows" in refused.err
    assert "--validation-file" in refused.err
    assert not (run / "interpolation").exists()
    done = lpft(
        *("interpolate", run, "--validation-file", files / "validation.csv", "--alphas", "0.25"),
        *("--ood", f"other={files / 'other.csv'}", "--json", "--no-report"),
    )
    assert done.status == 0, done.err
    found = json.loads(done.out)
    assert [point["alpha"] for point in found["points"]] == [0, 0.25, 1]
    assert list(found["points"][0]["splits"]) == ["validation", "test", "ood/far", "ood/other"]
    assert found["points"][0]["splits"]["validation"]["rows"] == 48
    assert not found["own_validation"]
    leaked = lpft(
        *("interpolate", run, "--validation-file", files / "train.csv", "--overwrite"),
        *("--alphas", "0", "--no-report"),
    )
    assert "60 of 60 rows of validation" in leaked.err


def test_a_threshold_of_the_run_is_chosen_again_for_the_point(train, files, tmp_path):
    run = train(files, "lp-ft", "--target-coverage", 0.7)
    found = interpolate_run(run, InterpolationSettings.read({"alphas": "0.5"}), tmp_path / "points")
    abstains_below = load_classifier(tmp_path / "points").model.config.abstain_below
    logits = recorded(tmp_path / "points", "validation") / found.point.temperature
    confidence = np.sort(np.exp(log_softmax(logits, axis=1)).max(axis=1))
    # split conformal: the confidence of row ceil(0.7 * 49) = 35 of 48, from above
    assert abstains_below == pytest.approx(confidence[48 - 35])


def test_nothing_is_overwritten_and_a_repetition_gives_the_same(runs, record, tmp_path, lpft):
    folder, found = record
    copied = tmp_path / "points"
    shutil.copytree(folder, copied)
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    refused = lpft("interpolate", runs["lp-ft"], "--output-dir", copied)
    assert refused.status == 2
    assert "--overwrite" in refused.err
    assert before == {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    again = interpolate_run(runs["lp-ft"], folder=copied, overwrite=True)
    assert without(again.as_json()) == without(found.as_json())
    (copied / "mine.txt").write_text("mine")
    foreign = lpft("interpolate", runs["lp-ft"], "--output-dir", copied, "--overwrite")
    assert foreign.status == 2
    assert "mine.txt" in foreign.err
    assert list(tmp_path.iterdir()) == [copied]


def test_a_run_that_is_replaced_takes_its_points_with_it(train, files, lpft):
    run = train(files, "lp-lora")
    outcome = lpft("interpolate", run, "--alphas", "0.5")
    assert outcome.status == 0, outcome.err
    assert outcome.out.endswith(
        f"classifier: {run / 'interpolation'}\npage: {run / 'interpolation' / 'report.html'}\n"
    )
    replaced = ("train", "--train-file", files / "train.csv", "--method", "lp")
    model = ("--model", read_record(run).config["model"], "--max-length", 16)
    (run / "interpolation" / "mine.txt").write_text("mine")
    refused = lpft(*replaced, *model, "--output-dir", run, "--overwrite")
    assert refused.status == 2
    assert "mine.txt" in refused.err
    (run / "interpolation" / "mine.txt").unlink()
    done = lpft(*replaced, *model, "--output-dir", run, "--overwrite")
    assert done.status == 0, done.err
    assert not (run / "interpolation").exists()


REFUSED = {
    "a method without a probe": "lp-lora",
    "linear probing": "lp-ft",
    "virtual tokens": "random values",
    "no record": "run.json",
    "no weights": "--no-save-model",
    "no head": "lp/head.safetensors",
    "a damaged head": "cannot be used",
    "other data": "test data",
    "another base model": "changed since",
    "other weights": "its own predictions",
    "no predictions": "predictions/validation.parquet",
    "the probe won": "kept its linear probe",
    "unfinished": "--resume",
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_interpolated_is_refused_in_one_line(
    case, runs, train, files, tmp_path, lpft
):
    files = Path(shutil.copytree(files, tmp_path / "files"))
    run = tmp_path / "run"
    if case == "a method without a probe":
        run = train(files, "lora")
    elif case == "virtual tokens":
        run = train(files, "lp-prefix")
    elif case == "linear probing":
        run = runs["lp"]
    elif case == "no weights":
        run = train(files, "lp-ft", "--no-save-model")
    elif case == "the probe won":
        # too low a rate to change a prediction
        run = train(files, "lp-ft", "--learning-rate", 1e-12, "--epochs", 1)
    elif case == "other data":
        run = train(files, "lp-ft")
        (files / "test.csv").write_text("text,label\ngood,bad\nbad,good\n")
    elif case == "another base model":
        model = save_tiny_model("bert", tmp_path / "bert")
        run = train(files, "lp-ft", "--model", model)
        weights = load_classifier(runs["lp-ft"]).model.encoder
        weights.save_pretrained(model)
    else:
        shutil.copytree(runs["lp-ft"], run)
    if case == "no record":
        (run / "run.json").unlink()
    elif case == "no head":
        (run / "lp/head.safetensors").unlink()
    elif case == "a damaged head":
        (run / "lp/head.safetensors").write_bytes(b"no head")
    elif case == "no predictions":
        (run / "predictions/validation.parquet").unlink()
    elif case == "other weights":
        for name in ("model.safetensors", DIGESTS):
            shutil.copy(runs["lp-lora"] / name, run / name)
    elif case == "unfinished":
        read_record(run).updated(status="interrupted").write(run)
    outcome = lpft("interpolate", run, "--output-dir", tmp_path / "points")
    assert outcome.status == 2, outcome.err
    last = outcome.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert REFUSED[case] in last
    assert outcome.out == ""
    assert not (tmp_path / "points").exists()


@pytest.mark.parametrize("alphas", ["2", "-0.1", "half", "nan", "0,,1", ""])
def test_alphas_are_numbers_from_0_to_1(alphas, runs, lpft):
    outcome = lpft("interpolate", runs["lp-ft"], f"--alphas={alphas}")
    assert outcome.status == 2
    assert "--alphas" in outcome.err
    with pytest.raises(InputError, match="from 0 to 1"):
        InterpolationSettings.read({"alphas": 1.5})


def test_a_report_of_the_run_shows_its_points(runs, lpft, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(runs["lp-lora"], run)
    assert lpft("interpolate", run, "--no-report", "--alphas", "0.5").status == 0
    outcome = lpft("report", run)
    assert outcome.status == 0, outcome.err
    assert re.search(r"^0\.5 ", outcome.out, re.MULTILINE)
    page = (run / "report.html").read_text()
    assert "Between linear probing and fine-tuning" in page
    assert {path.name for path in (run / "report-tables").glob("between-*")}
