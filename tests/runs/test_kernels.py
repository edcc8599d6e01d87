"""``lpft ntk`` on small files: its folder, its streams, its refusals, and the right kernels."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file
from tiny_models import toy_texts

from lpft.model import build_classifier, load_classifier
from lpft.model.adapters import add_adapter, trained_head
from lpft.ntk import empirical_ntk
from lpft.ntk.tiles import TileStore
from lpft.training.probing import fit_probe
from lpft.training.randomness import seeded

METHODS = ("ft", "lora", "lp-ft", "lp-lora")
KERNELS = ("pretrain_effective", "ft_effective", "ntk")
TRAIN, EVALUATION, CLASSES = 12, 8, 2
SEED, RANK, ALPHA = 3, 2, 4.0
MAX_LENGTH = 16


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for seed, (name, rows) in enumerate((("train", TRAIN), ("valid", 6), ("test", EVALUATION))):
        texts, labels = toy_texts(rows, seed)
        pd.DataFrame({"text": texts, "label": labels}).to_csv(folder / f"{name}.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def files(data) -> tuple[object, ...]:
    """The options that name the data."""
    return (
        *("--train-file", data / "train.csv", "--validation-file", data / "valid.csv"),
        *("--test-file", data / "test.csv"),
    )


@pytest.fixture(scope="module")
def base(tiny_bert, files) -> tuple[object, ...]:
    """The options of data, model and start."""
    return (
        *files,
        *("--model", tiny_bert, "--max-length", MAX_LENGTH, "--seed", SEED, "--device", "cpu"),
        *("--lora-rank", RANK, "--lora-alpha", ALPHA),
    )


@pytest.fixture(scope="module")
def finished(lpft, base, tmp_path_factory):
    """A folder of finished kernels, and what computing them printed."""
    folder = tmp_path_factory.mktemp("kernels") / "toy"
    outcome = lpft("ntk", *base, "--output-dir", folder)
    assert outcome.status == 0, outcome.err
    return folder, outcome


@pytest.fixture(scope="module")
def trained(lpft, tiny_bert, files, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "ft"
    outcome = lpft(
        *("train", *files, "--model", tiny_bert, "--max-length", MAX_LENGTH, "--seed", SEED),
        *("--method", "ft", "--epochs", 1, "--batch-size", 4, "--learning-rate", 1e-3),
        *("--device", "cpu", "--output-dir", folder),
    )
    assert outcome.status == 0, outcome.err
    return folder


def read(folder: Path) -> dict:
    return json.loads((folder / "kernels.json").read_text(encoding="utf-8"))


def texts_of(data: Path, name: str) -> list[str]:
    return pd.read_csv(data / f"{name}.csv")["text"].tolist()


def assert_refused(outcome, *named: str) -> None:
    assert outcome.status == 2, outcome.out + outcome.err
    assert outcome.out == ""
    *_, last = outcome.err.splitlines()
    assert last.startswith("error:")
    assert outcome.err.count("error:") == 1
    assert "Traceback" not in outcome.err
    for word in named:
        assert word in last


@torch.no_grad()
def train_probe(head: torch.nn.Linear, features: np.ndarray, labels: np.ndarray) -> None:
    """Put the linear probe on ``features`` into the head, as linear probing does."""
    probe = fit_probe(features.astype(np.float32), labels, CLASSES)
    head.weight.copy_(torch.from_numpy(probe.weight))
    head.bias.copy_(torch.from_numpy(probe.bias))


def assert_near(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal up to 1e-5 of the largest entry."""
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_the_folder_and_the_table(finished):
    folder, outcome = finished
    names = {"kernels.json", *(f"{method}.safetensors" for method in METHODS)}
    assert {path.name for path in folder.iterdir()} == names
    assert "Rank" in outcome.out
    assert f"kernels: {folder}" in outcome.out
    record = read(folder)
    assert record["schema"] == 1
    assert record["data"]["rows"] == {"train": TRAIN, "eval": EVALUATION}
    assert record["data"]["eval_split"] == "test"
    assert tuple(record["methods"]) == METHODS
    for method, found in record["methods"].items():
        assert found["head_start"] == ("lp" if method.startswith("lp") else "random")
        assert set(found["kernels"]) == set(KERNELS)
        assert found["certificate"]["largest_relative_error"] < 1e-4
        for statistics in found["kernels"].values():
            assert set(statistics["regression"]) == {"paper", "kernel_logistic_regression"}


@pytest.mark.parametrize("method", METHODS)
def test_names_and_shapes_of_arrays(finished, data, method):
    arrays = load_file(finished[0] / f"{method}.safetensors")
    train, evaluation = (TRAIN, CLASSES), (EVALUATION, CLASSES)
    expected = {
        "train/labels": (TRAIN,),
        "eval/labels": (EVALUATION,),
        "train/logits": train,
        "eval/logits": evaluation,
        "train/pretrain_effective": (TRAIN, TRAIN),
        "eval/pretrain_effective": (EVALUATION, TRAIN),
        "train/ft_effective": train + train,
        "eval/ft_effective": evaluation + train,
        **{f"train/heat_map/{kernel}": (TRAIN, TRAIN) for kernel in KERNELS},
    }
    parts = {name for name in arrays if name.startswith("train/ft_effective/")}
    assert {name: arrays[name].shape for name in arrays if name not in parts} == expected
    for by in ("layers", "kinds"):
        named = [name for name in parts if name.startswith(f"train/ft_effective/{by}/")]
        assert named
        assert all(arrays[name].shape == train + train for name in named)
        assert_near(sum(arrays[name] for name in named), arrays["train/ft_effective"])
    labels = pd.read_csv(data / "train.csv")["label"]
    np.testing.assert_array_equal(arrays["train/labels"], np.searchsorted(["bad", "good"], labels))


@pytest.mark.parametrize("method", METHODS)
def test_kernels_of_one_pass_equal_separate_ones(finished, tiny_bert, data, method):
    arrays = load_file(finished[0] / f"{method}.safetensors")
    classifier = build_classifier(str(tiny_bert), ("bad", "good"), seed=SEED, max_length=MAX_LENGTH)
    train, evaluation = texts_of(data, "train"), texts_of(data, "test")
    with torch.inference_mode():
        tokens = classifier.tokenizer(train + evaluation, padding=True, return_tensors="pt")
        features = classifier.model.eval().features(**tokens).double().numpy()
    if method.startswith("lp"):
        train_probe(classifier.model.head, features[:TRAIN], arrays["train/labels"])
    logits = arrays["train/logits"]
    head = classifier.model.head
    own = features @ head.weight.detach().double().numpy().T + head.bias.detach().double().numpy()
    np.testing.assert_allclose(logits, own[:TRAIN], rtol=0, atol=1e-4)
    np.testing.assert_allclose(arrays["eval/logits"], own[TRAIN:], rtol=0, atol=1e-4)

    model, parameters = classifier.model, "all"
    if method.endswith("lora"):
        with seeded(SEED):
            model = add_adapter(model, "lora", rank=RANK, alpha=ALPHA)
        parameters = "trainable"
        assert torch.equal(trained_head(model).weight, head.weight)
    for rows, columns, name in ((train, None, "train"), (evaluation, train, "eval")):
        kernel = empirical_ntk(
            model,
            rows,
            columns,
            parameters=parameters,
            tokenizer=classifier.tokenizer,
            max_length=MAX_LENGTH,
            device="cpu",
        )
        assert_near(arrays[f"{name}/pretrain_effective"], kernel.pretrain_effective.numpy())
        assert_near(arrays[f"{name}/ft_effective"], kernel.ft_effective.numpy())


def test_dry_run_prints_the_plan_and_writes_nothing(lpft, base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = lpft("ntk", *base, "--dry-run", "--output-dir", tmp_path / "toy")
    assert outcome.status == 0, outcome.err
    assert not list(tmp_path.iterdir())
    for word in ("texts:", "passes:", "tiles:", "memory:", "GFLOP"):
        assert word in outcome.out
    as_json = lpft("ntk", *base, "--dry-run", "--json", "--output-dir", tmp_path / "toy")
    assert as_json.status == 0
    (plan,) = json.loads(as_json.out)
    assert plan["texts"] == TRAIN + EVALUATION
    assert not list(tmp_path.iterdir())


def test_json_is_the_record(lpft, base, tmp_path):
    folder = tmp_path / "toy"
    options = ("--methods", "ft", "--solver", "none", "--granularity", "none", "--json")
    outcome = lpft("ntk", *base, *options, "--max-samples", 6, "--output-dir", folder)
    assert outcome.status == 0, outcome.err
    record = json.loads(outcome.out)
    assert record == read(folder)
    assert list(record["methods"]) == ["ft"]
    assert record["data"]["rows"] == {"train": 6, "eval": 6}
    assert record["methods"]["ft"]["layers"] == {}


def test_a_trained_run(lpft, trained, data, tmp_path):
    folder = tmp_path / "kernels"
    outcome = lpft("ntk", trained, "--device", "cpu", "--output-dir", folder)
    assert outcome.status == 0, outcome.err
    assert list(read(folder)["methods"]) == ["trained"]
    arrays = load_file(folder / "trained.safetensors")
    classifier = load_classifier(trained)
    train = texts_of(data, "train")
    kernel = empirical_ntk(
        classifier.model,
        train,
        tokenizer=classifier.tokenizer,
        max_length=MAX_LENGTH,
        device="cpu",
    )
    assert_near(arrays["train/pretrain_effective"], kernel.pretrain_effective.numpy())
    assert_near(arrays["train/ft_effective"], kernel.ft_effective.numpy())


def test_a_trained_run_beside_its_start(lpft, trained, base, finished, tmp_path):
    folder = tmp_path / "kernels"
    outcome = lpft("ntk", trained, "--with-start", "--device", "cpu", "--output-dir", folder)
    assert outcome.status == 0, outcome.err
    assert set(read(folder)["methods"]) == {"ft", "trained"}
    start, expected = (load_file(each / "ft.safetensors") for each in (folder, finished[0]))
    for name in ("train/ft_effective", "eval/pretrain_effective", "eval/logits"):
        assert_near(start[name], expected[name])
    assert_refused(lpft("ntk", *base, "--with-start", "--output-dir", folder), "--with-start")


@pytest.mark.parametrize(
    ("option", "value"),
    [("methods", "ft"), ("model", "minilm"), ("seed", 1), ("lora-rank", 2), ("head-scale", 2)],
)
def test_a_trained_run_has_its_own_model(lpft, trained, tmp_path, option, value):
    outcome = lpft("ntk", trained, f"--{option}", value, "--output-dir", tmp_path / "kernels")
    assert_refused(outcome, f"--{option}")
    assert not (tmp_path / "kernels").exists()


def test_a_finished_folder_is_kept(lpft, base, tmp_path):
    folder = tmp_path / "toy"
    quick = ("--methods", "ft", "--solver", "none", "--max-samples", 6, "--output-dir", folder)
    assert lpft("ntk", *base, *quick).status == 0
    before = (folder / "kernels.json").read_bytes()
    assert_refused(lpft("ntk", *base, *quick), "--overwrite")
    assert_refused(lpft("ntk", *base, *quick, "--resume"), "--overwrite")
    assert_refused(lpft("ntk", *base, *quick, "--resume", "--overwrite"), "contradict")
    assert (folder / "kernels.json").read_bytes() == before
    outcome = lpft("ntk", *base, *quick, "--overwrite")
    assert outcome.status == 0, outcome.err


def test_an_unfinished_folder_goes_on_when_asked(lpft, base, tmp_path, monkeypatch):
    options = ("--methods", "ft,lp-ft", "--solver", "none")
    whole, folder = tmp_path / "whole", tmp_path / "toy"
    assert lpft("ntk", *base, *options, "--output-dir", whole).status == 0
    save, saved = TileStore.save, []

    def stop_or_save(self, unit, pair, tensors):
        if len(saved) == 3:
            raise KeyboardInterrupt
        saved.append((unit, pair))
        save(self, unit, pair, tensors)

    with monkeypatch.context() as patched:
        patched.setattr(TileStore, "save", stop_or_save)
        assert lpft("ntk", *base, *options, "--output-dir", folder).status == 130
    assert len(list((folder / ".work").rglob("unit-*.safetensors"))) == 3
    assert_refused(lpft("ntk", *base, *options, "--output-dir", folder), "--resume")
    outcome = lpft("ntk", *base, *options, "--output-dir", folder, "--resume")
    assert outcome.status == 0, outcome.err
    assert not (folder / ".work").exists()
    for method in ("ft", "lp-ft"):
        resumed = load_file(folder / f"{method}.safetensors")
        expected = load_file(whole / f"{method}.safetensors")
        assert resumed.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(resumed[name], array, err_msg=name)


def test_overwrite_begins_anew_whatever_lies_unfinished(lpft, base, tmp_path):
    """Neither a layout of more memory than there is, nor a damaged one, is gone on with."""
    layouts = ("{", '{"tiles": 1, "stash": "memory", "workspace": 1000000000000}')
    for folder, layout in zip((tmp_path / "one", tmp_path / "two"), layouts, strict=True):
        quick = ("--methods", "ft", "--solver", "none", "--max-samples", 6, "--output-dir", folder)
        work = folder / ".work" / "pass-0"
        work.mkdir(parents=True, exist_ok=True)
        (work / "layout.json").write_text(layout)
        assert_refused(lpft("ntk", *base, *quick), "--resume")
        outcome = lpft("ntk", *base, *quick, "--overwrite")
        assert outcome.status == 0, outcome.err
        assert not (folder / ".work").exists()


def test_overwriting_leaves_no_array_of_the_kernels_before(lpft, base, tmp_path):
    folder = tmp_path / "toy"
    quick = ("--solver", "none", "--max-samples", 6, "--output-dir", folder)
    assert lpft("ntk", *base, *quick, "--methods", "ft,lp-ft").status == 0
    (folder / "own.safetensors").write_bytes(b"the user's own")
    assert lpft("ntk", *base, *quick, "--methods", "lp-ft", "--overwrite").status == 0
    names = {path.name for path in folder.iterdir()}
    assert names == {"kernels.json", "lp-ft.safetensors", "own.safetensors"}
    for damaged in ("[]", "{", '{"methods": ["ft"]}', '{"methods": {"../own": {}}}'):
        (folder / "kernels.json").write_text(damaged)
        (tmp_path / "own.safetensors").write_bytes(b"beside")
        outcome = lpft("ntk", *base, *quick, "--methods", "lp-ft", "--overwrite")
        assert outcome.status == 0, outcome.err
        assert {path.name for path in folder.iterdir()} == names
        assert (tmp_path / "own.safetensors").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("memory", "much"),
        ("memory", "-1GB"),
        ("memory", "1MB"),
        ("methods", "x"),
        ("methods", "ft,ft"),
        ("solver", "x"),
        ("granularity", "x"),
        ("max-samples", 1),
        ("max-samples", "many"),
        ("kernel", "x"),
        ("dtype", "float16"),
    ],
)
def test_bad_options_are_refused(lpft, base, tmp_path, option, value):
    folder = tmp_path / "toy"
    given = f"--{option}={value}"
    outcome = lpft("ntk", *base, given, "--output-dir", folder)
    assert_refused(outcome, str(value).removesuffix("1MB"))
    assert not (folder / "kernels.json").exists()


def test_the_asymmetric_kernel_and_solver(lpft, base, tmp_path):
    folder = tmp_path / "toy"
    options = ("--kernel", "asymmetric", "--solver", "asymmetric", "--methods", "ft")
    outcome = lpft("ntk", *base, *options, "--output-dir", folder)
    assert outcome.status == 0, outcome.err
    record = read(folder)
    assert record["kernel"] == "asymmetric"
    assert record["methods"]["ft"]["kernels"]["ft_effective"]["regression"] is not None
    kernel = load_file(folder / "ft.safetensors")["train/ft_effective"]
    assert not np.allclose(kernel, kernel.transpose(2, 3, 0, 1))


def test_a_report_of_kernels_alone(lpft, finished, tmp_path):
    page = tmp_path / "report.html"
    outcome = lpft("report", finished[0], "--output", page)
    assert outcome.status == 0, outcome.err
    assert page.is_file()
    assert "Empirical NTK" in outcome.out


def test_theory_prints_json(lpft):
    outcome = lpft("theory", "--json")
    assert outcome.status == 0, outcome.err
    found = json.loads(outcome.out)
    assert found["seed"] == 0
    assert found["checks"]
    assert all(
        set(check) == {"claim", "setting", "measured", "promised", "holds", "note"}
        for check in found["checks"]
    )
    refuted = {check["claim"] for check in found["checks"] if check["holds"] is False}
    assert refuted == {"Proposition 4.4 as printed"}
