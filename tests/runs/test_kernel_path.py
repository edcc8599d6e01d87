"""``lpft train --keep-checkpoints`` and ``lpft ntk RUN --path``: kernels along a training."""

import json
import shutil

import numpy as np
import pytest
import torch
from kernel_commands import MAX_LENGTH, RANK, SEED, assert_refused, read, texts_of
from peft import PeftModel
from references import contract, explicit_jacobian
from safetensors.torch import load_file

from lpft.data.tokens import tokenize
from lpft.model import build_classifier, load_classifier

KERNELS = ("pretrain_effective", "ft_effective", "ntk")
QUICK = ("--device", "cpu", "--solver", "none")


@pytest.fixture(scope="module")
def kept_runs(lpft, tiny_bert, kernel_files, tmp_path_factory):
    """A run with the checkpoints of two epochs, by its method and learning rate."""
    folders = {}

    def trained(method, rate=1e-2):
        if (method, rate) not in folders:
            folder = folders[method, rate] = tmp_path_factory.mktemp("kept") / method
            rank = ("--lora-rank", RANK, "--lora-alpha", 4) if "lora" in method else ()
            outcome = lpft(
                *("train", *kernel_files, "--model", tiny_bert, "--max-length", MAX_LENGTH),
                *("--seed", SEED, "--method", method, *rank, "--epochs", 2, "--batch-size", 4),
                *("--learning-rate", rate, "--keep-checkpoints", "--device", "cpu"),
                *("--output-dir", folder),
            )
            assert outcome.status == 0, outcome.err
        return folders[method, rate]

    return trained


@pytest.fixture(scope="module")
def paths(lpft, kept_runs, tmp_path_factory):
    """The folder of the kernels of a path, by the method and rate of its run."""
    folders = {}

    def computed(method, rate=1e-2):
        if (method, rate) not in folders:
            folder = folders[method, rate] = tmp_path_factory.mktemp("paths") / method
            options = (*QUICK, "--path", "--dtype", "float64", "--output-dir", folder)
            outcome = lpft("ntk", kept_runs(method, rate), *options)
            assert outcome.status == 0, outcome.err
        return folders[method, rate]

    return computed


def model_at(run, epoch):
    """The model that trained with the weights of an epoch, and its tokenizer."""
    weights = load_file(run / f"checkpoints/epoch-{epoch}.safetensors")
    trained = load_classifier(run)
    model = trained.model
    if (run / "adapter_config.json").exists():
        base = json.loads((run / "run.json").read_text())["config"]["model"]
        start = build_classifier(base, ("bad", "good"), seed=SEED, max_length=MAX_LENGTH)
        model = PeftModel.from_pretrained(start.model, str(run), is_trainable=True)
    with torch.no_grad():
        for name, value in weights.items():
            model.get_parameter(name).copy_(value)
    return model, trained.tokenizer, list(weights)


def tokens_of(tokenizer, data, name):
    return tokenize(tokenizer, texts_of(data, name), MAX_LENGTH)


@pytest.mark.parametrize("method", ["lp-ft", "lora"])
def test_every_checkpoint_has_what_trains_and_the_last_is_the_run(kept_runs, method):
    run = kept_runs(method)
    names = {path.name for path in (run / "checkpoints").iterdir()}
    assert names == {"SHA256SUMS", *(f"epoch-{epoch}.safetensors" for epoch in range(3))}
    record = json.loads((run / "run.json").read_text())
    assert {f"checkpoints/{name}" for name in names} <= set(record["files"])
    best = int(record["checkpoint"]["epoch"])
    model, tokenizer, trained = model_at(run, best)
    assert any("lora_A" in name for name in trained) == (method == "lora")
    assert not any(name.endswith("word_embeddings.weight") for name in trained) or method != "lora"
    ids = tokenizer(["a fine kettle"], return_tensors="pt")
    logits = [m.eval()(**ids).logits for m in (model, load_classifier(run).model)]
    if hasattr(model, "peft_config"):
        logits[1] = logits[1] * load_classifier(run).model.config.temperature
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-5)
    if method == "lp-ft":
        start = load_file(run / "checkpoints/epoch-0.safetensors")
        probe = load_file(run / "lp/head.safetensors")
        torch.testing.assert_close(start["head.weight"], probe["weight"].float())


def kernel_of(parts, names):
    """The kernel over some parameters, by the parts of a Jacobian."""
    jacobian = torch.cat([parts[name] for name in names], dim=2)
    return contract(jacobian, jacobian)


@pytest.mark.parametrize("method", ["lp-ft", "lora"])
def test_the_drift_is_that_of_explicit_jacobians(paths, kept_runs, kernel_data, method):
    run, path = kept_runs(method), read(paths(method))["path"]
    assert [point["epoch"] for point in path["points"]] == [0, 1, 2]
    kernels, layers = [], []
    for epoch in (0, 2):
        model, tokenizer, names = model_at(run, epoch)
        jacobian = explicit_jacobian(model, tokens_of(tokenizer, kernel_data, "train"), names)
        sizes = [model.get_parameter(name).numel() for name in names]
        parts = dict(zip(names, jacobian.split(sizes, dim=2), strict=True))
        head = kernel_of(parts, [name for name in names if "head" in name.split(".")[:3]])
        whole = kernel_of(parts, names)
        kernels.append(dict(zip(KERNELS, (head, whole - head, whole), strict=True)))
        layers.append(kernel_of(parts, [name for name in names if ".layer.1." in name]))
    point = path["points"][2]
    for name in KERNELS:
        start, end = (each[name].numpy() for each in kernels)
        expected = np.linalg.norm(end - start) / np.linalg.norm(start)
        assert point["drift"][name] == pytest.approx(expected, rel=1e-6)
    start, end = layers
    found = point["layers"]["layer 1"]
    assert found == pytest.approx(float((end - start).norm() / start.norm()), rel=1e-6)
    at_start = path["points"][0]
    assert set(at_start["drift"].values()) == {0.0}
    assert at_start["alignment_with_start"]["ntk"] == pytest.approx(1)


def test_the_error_of_the_linear_model_is_that_of_its_jacobian(paths, kept_runs, kernel_data):
    run, path = kept_runs("lp-ft"), read(paths("lp-ft"))["path"]
    start, tokenizer, names = model_at(run, 0)
    end, _, _ = model_at(run, 1)
    for split, name in (("train", "train"), ("eval", "test")):
        tokens = tokens_of(tokenizer, kernel_data, name)
        step = torch.cat(
            [
                (end.get_parameter(n).double() - start.get_parameter(n).double()).flatten()
                for n in names
            ]
        )
        predicted = explicit_jacobian(start, tokens, names) @ step.detach()
        logits = []
        for model in (start, end):
            double = model.double().eval()
            rows = [double.head(double.features(**tokens.batch([n]))) for n in range(len(tokens))]
            logits.append(torch.cat(rows).detach())
            model.float()
        real = logits[1] - logits[0]
        expected = float((real - predicted).norm() / real.norm())
        found = path["points"][1]["linearization_error"][split]
        assert found == pytest.approx(expected, rel=1e-5)


def test_alignment_with_labels_by_hand(paths, kept_runs, kernel_data):
    """CKA of P with the labels' kernel, from centred matrices."""
    run, path = kept_runs("lp-ft"), read(paths("lp-ft"))["path"]
    model, tokenizer, _ = model_at(run, 2)
    tokens = tokens_of(tokenizer, kernel_data, "train")
    features = torch.cat([model.eval().features(**tokens.batch([n])) for n in range(len(tokens))])
    features = features.detach().double().numpy()
    labels = load_labels(paths("lp-ft"))
    centre = np.eye(len(labels)) - 1 / len(labels)
    first, second = (
        centre @ matrix @ centre
        for matrix in (features @ features.T, (labels[:, None] == labels).astype(float))
    )
    expected = (first * second).sum() / np.linalg.norm(first) / np.linalg.norm(second)
    found = path["points"][2]["alignment_with_labels"]["pretrain_effective"]
    assert found == pytest.approx(expected, rel=1e-5)


def load_labels(folder):
    return load_file(folder / "trained.safetensors")["train/labels"].numpy()


@pytest.mark.parametrize(("rate", "answer"), [(1e-7, "yes"), (1e-2, "no")])
def test_a_minute_rate_stays_in_the_kernel_regime_and_a_large_one_does_not(paths, rate, answer):
    path = read(paths("lp-ft", rate))["path"]
    assert path["answer"] == answer
    assert path["limits"] == {"drift": 0.1, "linearization_error": 0.1}
    later = path["points"][1:]
    assert path["largest"]["drift"] == max(point["drift"]["ntk"] for point in later)
    within = [v <= path["limits"][name] for name, v in path["largest"].items()]
    assert all(within) == (answer == "yes")
    assert (path["until"] == 2) == (answer == "yes")


def test_the_answer_and_its_rule_are_printed(lpft, paths, kept_runs):
    folder = paths("lp-ft")
    outcome = lpft("ntk", kept_runs("lp-ft"), *QUICK, "--path", "--dtype", "float64", "--resume",
                   "--output-dir", folder)  # fmt: skip
    assert outcome.status == 0, outcome.err
    text = " ".join(outcome.out.split())
    assert "Is this training in the kernel regime? No, it leaves it" in text
    assert "> 0.1" in text


def test_an_interrupted_path_goes_on_to_the_same_numbers(
    lpft, paths, kept_runs, tmp_path, monkeypatch
):
    from lpft.runs import kernel_statistics

    folder, real = tmp_path / "kernels", kernel_statistics.PathResults.add

    def stopped(self, epoch, *arguments):
        if epoch == 1:
            raise KeyboardInterrupt
        real(self, epoch, *arguments)

    options = (*QUICK, "--path", "--dtype", "float64", "--output-dir", folder)
    with monkeypatch.context() as patch:
        patch.setattr(kernel_statistics.PathResults, "add", stopped)
        assert lpft("ntk", kept_runs("lora"), *options).status == 130
    outcome = lpft("ntk", kept_runs("lora"), *options, "--resume")
    assert outcome.status == 0, outcome.err
    assert read(folder)["path"] == read(paths("lora"))["path"]


def test_a_plan_names_the_passes_of_the_path(lpft, kept_runs, tmp_path):
    options = ("--path", "--dry-run", "--device", "cpu", "--output-dir", tmp_path / "kernels")
    outcome = lpft("ntk", kept_runs("lora"), *options, "--json")
    assert outcome.status == 0, outcome.err
    assert len(json.loads(outcome.out)) == 1 + 3  # after training, and the start and two epochs
    assert not (tmp_path / "kernels").exists()


def test_a_path_needs_checkpoints(lpft, trained_runs, kept_runs, kernel_base, tmp_path):
    folder = ("--output-dir", tmp_path / "kernels")
    outcome = lpft("ntk", trained_runs("ft"), "--path", *folder)
    assert_refused(outcome, "no checkpoints", "--keep-checkpoints")
    assert_refused(lpft("ntk", trained_runs("lp"), "--path", *folder), "--path", "lp")
    assert_refused(lpft("ntk", *kernel_base, "--path", *folder), "--path", "trained run")
    both = ("--path", "--kernel", "signgd")
    assert_refused(lpft("ntk", kept_runs("lp-ft"), *both, *folder), "--path", "--kernel")
    run = shutil.copytree(kept_runs("lp-ft"), tmp_path / "run")
    damaged = run / "checkpoints/epoch-1.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-3])
    assert_refused(lpft("ntk", run, "--path", *folder), "epoch-1.safetensors", "damaged")
    assert not (tmp_path / "kernels").exists()


def test_checkpoints_need_epochs_and_a_saved_model(lpft, kernel_files, tiny_bert, tmp_path):
    base = ("train", *kernel_files, "--model", tiny_bert, "--output-dir", tmp_path / "run")
    keep = "--keep-checkpoints"
    assert_refused(lpft(*base, "--method", "lp", keep), keep, "lp")
    assert_refused(lpft(*base, "--method", "ft", keep, "--no-save-model"), keep, "--no-save-model")


def test_a_run_is_resumed_as_it_was_started(lpft, kept_runs, trained_runs):
    def again(run, *options):
        config = json.loads((run / "run.json").read_text())["config"]
        names = ("train_file", "validation_file", "test_file", "model", "max_length", "seed")
        names += ("method", "epochs", "batch_size", "learning_rate")
        given = [part for name in names for part in (f"--{name.replace('_', '-')}", config[name])]
        return lpft("train", *given, *options, "--device", "cpu", "--resume", "--output-dir", run)

    assert_refused(again(trained_runs("ft"), "--keep-checkpoints"), "without --keep-checkpoints")
    assert again(kept_runs("lp-ft")).status == 0
    assert (kept_runs("lp-ft") / "checkpoints/epoch-2.safetensors").is_file()


def test_a_replaced_run_takes_its_checkpoints_with_it(
    lpft, kept_runs, kernel_files, tiny_bert, tmp_path
):
    run = shutil.copytree(kept_runs("lp-ft"), tmp_path / "run")
    options = ("--model", tiny_bert, "--method", "lp", "--device", "cpu", "--output-dir", run)
    outcome = lpft("train", *kernel_files, *options, "--overwrite")
    assert outcome.status == 0, outcome.err
    assert not (run / "checkpoints").exists()
