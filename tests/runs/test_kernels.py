"""``lpft ntk`` on small files: its folder, its streams, its refusals, and the right kernels."""

import copy
import json
import re
import shutil
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from kernel_commands import (
    ALPHA,
    CLASSES,
    EVALUATION,
    KERNELS,
    MAX_LENGTH,
    METHODS,
    RANK,
    SEED,
    TRAIN,
    VALIDATION,
    assert_near,
    assert_refused,
    read,
    texts_of,
)
from safetensors.numpy import load_file, save_file

from lpft.errors import InputError
from lpft.model import build_classifier
from lpft.model.adapters import add_adapter, trained_head
from lpft.model.encoder import seeded
from lpft.ntk import KernelJob, empirical_ntk
from lpft.ntk.storage import TileStore
from lpft.runs.kernels import KernelComputation
from lpft.settings.configs import make_kernel_config
from lpft.training.probing import fit_probe


@pytest.fixture(scope="module")
def finished(lpft, kernel_base, tmp_path_factory):
    """A folder of finished kernels, and what computing them printed."""
    folder = tmp_path_factory.mktemp("kernels") / "toy"
    outcome = lpft("ntk", *kernel_base, "--output-dir", folder)
    assert outcome.status == 0, outcome.err
    return folder, outcome


@torch.no_grad()
def train_probe(head: torch.nn.Linear, features: np.ndarray, labels: np.ndarray) -> None:
    """Put the linear probe on ``features`` into the head, as linear probing does."""
    probe = fit_probe(features.astype(np.float32), labels, CLASSES)
    head.weight.copy_(torch.from_numpy(probe.weight))
    head.bias.copy_(torch.from_numpy(probe.bias))


@pytest.fixture(scope="module")
def in_float64(lpft, kernel_base, tmp_path_factory):
    """Kernels of FT and LoRA from one pass in float64, with training beside their prediction."""
    folder = tmp_path_factory.mktemp("kernels") / "double"
    options = ("--methods", "ft,lora", "--dtype", "float64", "--dynamics", 4, "--solver")
    outcome = lpft("ntk", *kernel_base, *options, "krr", "--output-dir", folder)
    assert outcome.status == 0, outcome.err
    (folder / "printed.txt").write_text(outcome.out)
    return folder


def test_the_folder_and_the_table(finished):
    folder, outcome = finished
    names = {"kernels.json", *(f"{method}.safetensors" for method in METHODS)}
    assert {path.name for path in folder.iterdir()} == names
    assert "Rank" in outcome.out
    assert f"kernels: {folder}" in outcome.out
    record = read(folder)
    assert record["data"]["rows"] == {"train": TRAIN, "eval": EVALUATION}
    assert record["data"]["validation_rows"] == VALIDATION
    assert tuple(record["methods"]) == METHODS
    for method, found in record["methods"].items():
        assert found["head_start"] == ("lp" if method.startswith("lp") else "random")
        assert set(found["kernels"]) == set(KERNELS)
        assert found["certificate"]["largest_relative_error"] < 1e-4
        for statistics in found["kernels"].values():
            assert set(statistics["regression"]) == {"paper", "kernel_logistic_regression"}


@pytest.mark.parametrize("method", METHODS)
def test_names_and_shapes_of_arrays(finished, kernel_data, method):
    arrays = load_file(finished[0] / f"{method}.safetensors")
    train, evaluation, validation = ((n, CLASSES) for n in (TRAIN, EVALUATION, VALIDATION))
    expected = {
        "train/labels": (TRAIN,),
        "eval/labels": (EVALUATION,),
        "validation/labels": (VALIDATION,),
        "train/logits": train,
        "eval/logits": evaluation,
        "validation/logits": validation,
        "train/pretrain_effective": (TRAIN, TRAIN),
        "eval/pretrain_effective": (EVALUATION, TRAIN),
        "train/ft_effective": train + train,
        "eval/ft_effective": evaluation + train,
        "validation/pretrain_effective": (VALIDATION, TRAIN),
        "validation/ft_effective": validation + train,
        **{f"train/heat_map/{kernel}": (TRAIN, TRAIN) for kernel in KERNELS},
    }
    parts = {name for name in arrays if name.startswith("train/ft_effective/")}
    assert {name: arrays[name].shape for name in arrays if name not in parts} == expected
    for by in ("layers", "kinds"):
        named = [name for name in parts if name.startswith(f"train/ft_effective/{by}/")]
        assert named
        assert all(arrays[name].shape == train + train for name in named)
        assert_near(sum(arrays[name] for name in named), arrays["train/ft_effective"])
    labels = pd.read_csv(kernel_data / "train.csv")["label"]
    np.testing.assert_array_equal(arrays["train/labels"], np.searchsorted(["bad", "good"], labels))


@pytest.mark.parametrize("method", METHODS)
def test_kernels_of_one_pass_equal_separate_ones(finished, tiny_bert, kernel_data, method):
    arrays = load_file(finished[0] / f"{method}.safetensors")
    classifier = start_of(tiny_bert)
    train, evaluation = texts_of(kernel_data, "train"), texts_of(kernel_data, "test")
    with torch.inference_mode():
        tokens = classifier.tokenizer(train + evaluation, padding=True, return_tensors="pt")
        features = classifier.model.eval().features(**tokens).double().numpy()
    head = classifier.model.head
    if method.startswith("lp"):
        train_probe(head, features[:TRAIN], arrays["train/labels"])
    own = features @ head.weight.detach().double().numpy().T + head.bias.detach().double().numpy()
    np.testing.assert_allclose(arrays["train/logits"], own[:TRAIN], rtol=0, atol=1e-4)
    np.testing.assert_allclose(arrays["eval/logits"], own[TRAIN:], rtol=0, atol=1e-4)
    for name, rows, columns in (("train", train, None), ("eval", evaluation, train)):
        kernel = separate_kernel(classifier, method, rows, columns)
        assert_near(arrays[f"{name}/pretrain_effective"], kernel.pretrain_effective.numpy())
        assert_near(arrays[f"{name}/ft_effective"], kernel.ft_effective.numpy())


@pytest.mark.parametrize("method", ["ft", "lora"])
def test_one_pass_in_float64_is_the_separate_one_to_rounding(
    in_float64, tiny_bert, kernel_data, method
):
    """At the random head, which needs no probe: LoRA's factors beside all weights."""
    arrays = load_file(in_float64 / f"{method}.safetensors")
    train, evaluated, held = (texts_of(kernel_data, name) for name in ("train", "test", "valid"))
    in_double = {"dtype": torch.float64, "contraction": "materialize"}
    for name, rows, columns in (
        ("train", train, None),
        ("eval", evaluated, train),
        ("validation", held, train),
    ):
        kernel = separate_kernel(start_of(tiny_bert), method, rows, columns, **in_double)
        for part in ("pretrain_effective", "ft_effective"):
            expected = getattr(kernel, part).numpy()
            difference = np.linalg.norm(arrays[f"{name}/{part}"] - expected)
            assert difference <= 1e-10 * np.linalg.norm(expected)


def start_of(model: Path):
    return build_classifier(str(model), ("bad", "good"), seed=SEED, max_length=MAX_LENGTH)


def separate_kernel(classifier, trained, rows, columns, **options):
    """The kernel at the start of the method ``trained``, in a pass of its own."""
    model, parameters = copy.deepcopy(classifier.model), "all"
    if trained.endswith("lora"):
        with seeded(SEED):
            model = add_adapter(model, "lora", rank=RANK, alpha=ALPHA)
        parameters = "trainable"
        assert torch.equal(trained_head(model).weight, classifier.model.head.weight)
    own = {"tokenizer": classifier.tokenizer, "max_length": MAX_LENGTH, "device": "cpu"}
    return empirical_ntk(model, rows, columns, parameters=parameters, **own, **options)


def test_dry_run_prints_the_plan_and_writes_nothing(lpft, kernel_base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = (*kernel_base, "--dry-run", "--output-dir", tmp_path / "toy")
    outcome = lpft("ntk", *options)
    assert outcome.status == 0, outcome.err
    for word in ("texts:", "passes:", "tiles:", "memory:", "GFLOP"):
        assert word in outcome.out
    assert "LP heads are fitted first" in outcome.err
    (plan,) = json.loads(lpft("ntk", *options, "--json").out)
    assert plan["texts"] == TRAIN + EVALUATION + VALIDATION
    assert not list(tmp_path.iterdir())
    (tmp_path / "toy/.work").mkdir(parents=True)
    outcome = lpft("ntk", *options, "--methods", "ft")
    assert "LP heads" not in outcome.err
    assert "contains unfinished kernels" in outcome.err


def test_stages_and_long_passes_are_said_away_from_a_terminal(
    finished, lpft, kernel_base, tmp_path, monkeypatch
):
    lines = finished[1].err.splitlines()
    begun = "pass 1 of 1, ft, lora, lp-ft, lp-lora: kernels of"
    texts = f"{TRAIN} training + {EVALUATION} test + {VALIDATION} validation texts"
    assert any(line.startswith(f"{begun} {texts}, about ") for line in lines)
    assert len([line for line in lines if line.startswith("lora, ")]) == 2
    monkeypatch.setattr("lpft.progress._SECONDS_BETWEEN_LINES", 0.0)
    quick = ("--methods", "ft", "--solver", "none", "--max-samples", 6, "--output-dir", tmp_path)
    outcome = lpft("ntk", *kernel_base, *quick)
    assert outcome.status == 0, outcome.err
    said = re.findall(r"^computing the kernel: +(\d+) %, about [\d:?]+ left$", outcome.err, re.M)
    assert said
    assert all(0 <= int(share) <= 100 for share in said)


def test_a_pass_is_planned_when_the_one_before_is_out_of_memory(
    lpft, kernel_base, tmp_path, monkeypatch
):
    events, alive = [], []

    class Watched(KernelJob):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            events.append(("plan", sum(kernel() is not None for kernel in alive)))

        def run(self):
            events.append(("run", None))
            found = super().run()
            alive.extend(weakref.ref(k) for blocks in found.values() for k in blocks.values())
            return found

    monkeypatch.setattr("lpft.runs.kernels.KernelJob", Watched)
    options = ("--methods", "lora,dora", "--solver", "paper", "--max-samples", 6)
    outcome = lpft("ntk", *kernel_base, *options, "--output-dir", tmp_path)
    assert outcome.status == 0, outcome.err
    assert events == [("plan", 0), ("run", None), ("plan", 0), ("run", None)]
    assert len(alive) == 2 * 2
    # Both passes have one encoder at their start, so there is one P among the aligned kernels.
    assert read(tmp_path)["alignment"]["kernels"] == [
        *("pretrain_effective", "lora/ft_effective", "lora/ntk", "dora/ft_effective", "dora/ntk")
    ]


def test_json_is_the_record(lpft, kernel_base, tmp_path):
    folder = tmp_path / "toy"
    options = ("--methods", "ft", "--solver", "none", "--granularity", "none", "--json")
    outcome = lpft("ntk", *kernel_base, *options, "--max-samples", 6, "--output-dir", folder)
    assert outcome.status == 0, outcome.err
    record = json.loads(outcome.out)
    assert record == read(folder)
    assert list(record["methods"]) == ["ft"]
    assert record["data"]["rows"] == {"train": 6, "eval": 6}
    assert record["methods"]["ft"]["layers"] == {}


def test_a_finished_folder_is_kept(lpft, kernel_base, tmp_path):
    folder = tmp_path / "toy"
    quick = ("--methods", "ft", "--solver", "none", "--max-samples", 6, "--output-dir", folder)
    assert lpft("ntk", *kernel_base, *quick).status == 0
    before = (folder / "kernels.json").read_bytes()
    assert_refused(lpft("ntk", *kernel_base, *quick), "--overwrite")
    again = lpft("ntk", *kernel_base, *quick, "--resume", "--memory", "7GB")
    assert again.status == 0, again.err
    assert "is finished already" in again.err
    other = lpft("ntk", *kernel_base, *quick, "--resume", "--max-samples", 5)
    assert_refused(other, "--max-samples 6, now it is 5", "--overwrite")
    assert_refused(lpft("ntk", *kernel_base, *quick, "--resume", "--overwrite"), "contradict")
    assert (folder / "kernels.json").read_bytes() == before
    outcome = lpft("ntk", *kernel_base, *quick, "--overwrite")
    assert outcome.status == 0, outcome.err


def test_files_of_others_are_not_replaced(lpft, kernel_base, tmp_path):
    quick = ("--methods", "ft", "--solver", "none", "--max-samples", 6)
    for name, content in (("ft.safetensors", "mine"), ("run.json", "{}")):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text(content)
        (folder / "notes").write_text("mine")
        for how in ((), ("--overwrite",), ("--resume",)):
            outcome = lpft("ntk", *kernel_base, *quick, "--output-dir", folder, *how)
            assert_refused(outcome, str(folder), "--output-dir")
        assert (folder / name).read_text() == content
    outcome = lpft("ntk", tmp_path / "none", *quick[2:], "--output-dir", tmp_path / "out")
    assert_refused(outcome, "none", "no trained classifier", "lpft train")


def test_an_unfinished_folder_goes_on_when_asked(lpft, kernel_base, tmp_path, monkeypatch):
    options = ("--methods", "ft,lp-ft", "--solver", "none")
    whole, folder = tmp_path / "whole", tmp_path / "toy"
    assert lpft("ntk", *kernel_base, *options, "--output-dir", whole).status == 0
    save, saved = TileStore.save, []

    def stop_or_save(self, unit, pair, tensors):
        if len(saved) == 3:
            raise KeyboardInterrupt
        saved.append((unit, pair))
        save(self, unit, pair, tensors)

    with monkeypatch.context() as patched:
        patched.setattr(TileStore, "save", stop_or_save)
        assert lpft("ntk", *kernel_base, *options, "--output-dir", folder).status == 130
    assert len(list((folder / ".work").rglob("unit-*.safetensors"))) == 3
    assert_refused(lpft("ntk", *kernel_base, *options, "--output-dir", folder), "--resume")
    outcome = lpft("ntk", *kernel_base, *options, "--output-dir", folder, "--resume")
    assert outcome.status == 0, outcome.err
    assert not (folder / ".work").exists()
    for method in ("ft", "lp-ft"):
        resumed = load_file(folder / f"{method}.safetensors")
        expected = load_file(whole / f"{method}.safetensors")
        assert resumed.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(resumed[name], array, err_msg=name)


def test_resuming_other_kernels_names_what_differs(
    lpft, kernel_base, tiny_bert, tmp_path, monkeypatch
):
    options = ("--methods", "ft", "--solver", "none", "--output-dir", tmp_path / "toy")

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(TileStore, "save", stop)
        assert lpft("ntk", *kernel_base, *options, "--max-samples", 6).status == 130
    for given, says in (
        (("--max-samples", 7), "started with --max-samples 6, now it is 7"),
        (
            ("--max-samples", 6, "--dtype", "float64"),
            "started with --dtype float32, now it is float64",
        ),
        (
            ("--max-samples", 6, "--solver", "klr"),
            "started with validation texts None, now it is 6",
        ),
    ):
        outcome = lpft("ntk", *kernel_base, *options, *given, "--resume")
        assert_refused(outcome, says, "--overwrite")
        assert ".safetensors" not in outcome.err
    other = Path(shutil.copytree(tiny_bert, tmp_path / "model"))
    weights = load_file(other / "model.safetensors")
    name = next(name for name in weights if name.endswith("query.weight"))
    save_file({**weights, name: 2 * weights[name]}, other / "model.safetensors", {"format": "pt"})
    again = (*options, "--max-samples", 6, "--resume")
    changed = lpft("ntk", *kernel_base, "--model", other, *again)
    assert_refused(changed, "the model's weights changed", "--overwrite")
    # What no piece depends on may differ.
    finish = ("ntk", *kernel_base, *again, "--solver", "lstsq", "--memory", "8GB")
    outcome = lpft(*finish)
    assert outcome.status == 0, outcome.err
    # Finished ones are not those of other weights either, wherever the model lies.
    before = (tmp_path / "toy/kernels.json").read_bytes()
    assert "is finished already" in lpft(*finish).err
    record = json.loads(before)
    record["config"]["model"] = str(other)
    (tmp_path / "toy/kernels.json").write_text(json.dumps(record))
    assert_refused(lpft(*finish, "--model", other), "the model's weights changed", "--overwrite")


@pytest.mark.parametrize(
    "layout", ["{", '{"tiles": 1, "stash": "memory", "workspace": 1000000000000}']
)
def test_overwrite_begins_anew_whatever_lies_unfinished(lpft, kernel_base, tmp_path, layout):
    """Neither a layout of more memory than there is, nor a damaged one, is gone on with."""
    quick = ("--methods", "ft", "--solver", "none", "--max-samples", 6, "--output-dir", tmp_path)
    work = tmp_path / ".work" / "pass-0"
    work.mkdir(parents=True)
    (work / "layout.json").write_text(layout)
    assert_refused(lpft("ntk", *kernel_base, *quick), "--resume")
    outcome = lpft("ntk", *kernel_base, *quick, "--overwrite")
    assert outcome.status == 0, outcome.err
    assert not (tmp_path / ".work").exists()


def test_overwriting_leaves_no_array_of_the_kernels_before(lpft, kernel_base, tmp_path):
    folder = tmp_path / "toy"
    quick = ("--solver", "none", "--max-samples", 6, "--output-dir", folder)
    assert lpft("ntk", *kernel_base, *quick, "--methods", "ft,lp-ft").status == 0
    (folder / "own.safetensors").write_bytes(b"the user's own")
    assert lpft("ntk", *kernel_base, *quick, "--methods", "lp-ft", "--overwrite").status == 0
    names = {path.name for path in folder.iterdir()}
    assert names == {"kernels.json", "lp-ft.safetensors", "own.safetensors"}
    for damaged in ("{", '{"methods": {"../own": {}}}'):
        (folder / "kernels.json").write_text(damaged)
        (tmp_path / "own.safetensors").write_bytes(b"beside")
        outcome = lpft("ntk", *kernel_base, *quick, "--methods", "lp-ft", "--overwrite")
        assert outcome.status == 0, outcome.err
        assert {path.name for path in folder.iterdir()} == names
        assert (tmp_path / "own.safetensors").exists()


BAD_OPTIONS = (
    *("memory=much", "memory=-1GB", "memory=1MB", "methods=x", "methods=ft,ft", "solver=x"),
    *("granularity=x", "max-samples=1", "max-samples=many", "kernel=x", "dtype=float16"),
    "dynamics=-1",
)


@pytest.mark.parametrize("option", BAD_OPTIONS)
def test_bad_options_are_refused(lpft, kernel_base, tmp_path, option):
    folder = tmp_path / "toy"
    outcome = lpft("ntk", *kernel_base, f"--{option}", "--output-dir", folder)
    assert_refused(outcome, option.partition("=")[2].removesuffix("1MB"))
    assert not (folder / "kernels.json").exists()


def test_one_step_and_many_beside_what_the_kernel_predicts(in_float64):
    methods = read(in_float64)["methods"]
    for found in methods.values():
        dynamics = found["dynamics"]
        assert dynamics["rows"] == {"train": 4, "eval": 4}
        rates = [step["rate"] for step in dynamics["first_order"]]
        np.testing.assert_allclose(rates[0] / np.array(rates), [1, 10, 100, 1000])
        assert rates[0] == dynamics["largest_stable_rate"]
        errors = [step["logits"] for step in dynamics["first_order"]]
        assert 0 < errors[-1] < errors[0] / 10 < 0.1
        # LoRA under a small random head hardly moves the features: rounding shows.
        assert all(0 < step["features"] < 0.1 for step in dynamics["first_order"])
        linear = dynamics["linearized"]
        assert linear["steps"] == [0, 1, 2, 5, 10, 20]
        for split in ("train", "eval"):
            one = linear[split]
            assert one["error"][0] is None
            assert one["nll"][0] == pytest.approx(one["linearized_nll"][0], rel=1e-9)
            # After one step the linear model errs as the first order does.
            assert 0 < one["error"][1] < 1
        assert linear["train"]["nll"][-1] < linear["train"]["nll"][0]
        first = dynamics["first_order"][1]
        assert first["rate"] == pytest.approx(linear["rate"])
        assert linear["eval"]["error"][1] == pytest.approx(first["logits"], rel=1e-6)
    # Proposition 4.1: the error falls in proportion to the rate, once it is small.
    smaller = [step["logits"] for step in methods["ft"]["dynamics"]["first_order"]][-2:]
    assert 8 < smaller[0] / smaller[1] < 12
    printed = (in_float64 / "printed.txt").read_text()
    assert "One step compared with the first order" in printed
    assert "Training compared with the linear model" in printed


def test_the_asymmetric_kernel_and_solver(lpft, kernel_base, tmp_path):
    folder = tmp_path / "toy"
    options = ("--kernel", "asymmetric", "--solver", "asymmetric", "--methods", "ft")
    outcome = lpft("ntk", *kernel_base, *options, "--output-dir", folder)
    assert outcome.status == 0, outcome.err
    record = read(folder)
    assert record["kernel"] == "asymmetric"
    assert record["methods"]["ft"]["kernels"]["ft_effective"]["regression"] is not None
    kernel = load_file(folder / "ft.safetensors")["train/ft_effective"]
    assert not np.allclose(kernel, kernel.transpose(2, 3, 0, 1))


@pytest.mark.heavy
def test_a_prefix_moves_its_own_features_alone(lpft, kernel_base, in_float64, tmp_path):
    options = ("--dtype", "float64", "--solver", "krr", "--prefix-length", 3)
    folder = tmp_path / "prefix"
    outcome = lpft("ntk", *kernel_base, "--methods", "ft,prefix", *options, "--output-dir", folder)
    assert outcome.status == 0, outcome.err
    found, alone = (load_file(of / "ft.safetensors") for of in (folder, in_float64))
    for name in ("train/pretrain_effective", "train/ft_effective"):
        np.testing.assert_allclose(found[name], alone[name], rtol=1e-9, atol=1e-12)
    prefix = load_file(folder / "prefix.safetensors")
    assert prefix["train/ft_effective"].any()
    moved = prefix["train/pretrain_effective"] - found["train/pretrain_effective"]
    assert np.abs(moved).max() > 1e-7 * np.abs(found["train/pretrain_effective"]).max()


def test_a_report_of_kernels_alone(lpft, in_float64, tmp_path):
    page = tmp_path / "report.html"
    outcome = lpft("report", in_float64, "--output", page)
    assert outcome.status == 0, outcome.err
    assert "Training compared with the kernel" in page.read_text(encoding="utf-8")
    assert "Empirical NTK" in outcome.out


def test_the_start_of_contrastive_tuning_has_no_kernel():
    config = make_kernel_config({"task": "demo", "methods": "ft,contrastive"})
    with pytest.raises(InputError, match=r"contrastive.* name lp-ft"):
        KernelComputation(config)
