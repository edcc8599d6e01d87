"""``lpft ntk RUN``: the kernel after a training, beside that of its start."""

import json
import shutil

import numpy as np
import pytest
from kernel_commands import (
    CLASSES,
    MAX_LENGTH,
    RANK,
    SEED,
    assert_near,
    assert_refused,
    read,
    texts_of,
)
from peft import PeftModel
from safetensors.numpy import load_file, save_file
from sklearn.linear_model import LogisticRegression

from lpft.model import build_classifier, load_classifier
from lpft.ntk import empirical_ntk
from lpft.ntk.statistics import centred_kernel_alignment, frobenius_norm


@pytest.fixture(scope="module")
def beside(lpft, trained_runs, tmp_path_factory):
    """Kernels at the start and at the end of a training, by its method."""
    folders = {}

    def computed(method):
        if method not in folders:
            folder = folders[method] = tmp_path_factory.mktemp("kernels") / method
            options = ("--with-start", "--device", "cpu", "--output-dir", folder)
            outcome = lpft("ntk", trained_runs(method), *options)
            assert outcome.status == 0, outcome.err
        return folders[method]

    return computed


def reference(model, tokenizer, rows, columns=None, **options):
    """The kernel of one model alone, in a pass of its own."""
    return empirical_ntk(
        model, rows, columns, tokenizer=tokenizer, max_length=MAX_LENGTH, device="cpu", **options
    )


def assert_kernels(arrays, model, tokenizer, data, **options):
    """P and F of both blocks are those of the model."""
    train, evaluated = texts_of(data, "train"), texts_of(data, "test")
    for part, rows, columns in (("train", train, None), ("eval", evaluated, train)):
        kernel = reference(model, tokenizer, rows, columns, **options)
        assert_near(arrays[f"{part}/pretrain_effective"], kernel.pretrain_effective.numpy())
        assert_near(arrays[f"{part}/ft_effective"], kernel.ft_effective.numpy())


def test_a_run_of_everything(beside, trained_runs, kernel_data):
    found = read(beside("ft"))
    assert list(found["methods"]) == ["ft", "trained"]
    assert {record["parameter_set"] for record in found["methods"].values()} == {"all"}
    counts = {record["parameters"] for record in found["methods"].values()}
    assert len(counts) == 1
    trained, start = load_classifier(trained_runs("ft")), untrained(trained_runs("ft"))
    for name, classifier in (("trained", trained), ("ft", start)):
        arrays = load_file(beside("ft") / f"{name}.safetensors")
        assert_kernels(arrays, classifier.model, trained.tokenizer, kernel_data)


def untrained(run):
    """The classifier that a run began with."""
    model = json.loads((run / "run.json").read_text())["config"]["model"]
    return build_classifier(model, ("bad", "good"), seed=SEED, max_length=MAX_LENGTH)


def test_a_run_of_lora_is_over_the_same_factors_at_both_ends(beside, trained_runs, kernel_data):
    run = trained_runs("lora")
    found = read(beside("lora"))["methods"]
    assert list(found) == ["lora", "trained"]
    assert {record["parameter_set"] for record in found.values()} == {"lora"}
    # A and B of rank r on the query and value of two layers of width 32.
    assert {record["parameters"] for record in found.values()} == {2 * 2 * 2 * RANK * 32}
    base = untrained(run)
    adapted = PeftModel.from_pretrained(base.model, str(run), is_trainable=True)
    arrays = load_file(beside("lora") / "trained.safetensors")
    assert_kernels(arrays, adapted, base.tokenizer, kernel_data, parameters="trainable")
    # The factors' features are those of the weights that they were merged into.
    merged = load_classifier(run)
    features = reference(merged.model, merged.tokenizer, texts_of(kernel_data, "train"))
    assert_near(arrays["train/pretrain_effective"], features.pretrain_effective.numpy())


def test_a_run_of_lp_is_over_everything_at_both_ends(lpft, trained_runs, kernel_data, tmp_path):
    """LP's start and end are one: the LP head on the pre-trained encoder."""
    options = ("--with-start", "--solver", "none", "--device", "cpu", "--output-dir", tmp_path)
    outcome = lpft("ntk", trained_runs("lp"), *options)
    assert outcome.status == 0, outcome.err
    assert {each["parameter_set"] for each in read(tmp_path)["methods"].values()} == {"all"}
    start, end = (load_file(tmp_path / f"{name}.safetensors") for name in ("lp", "trained"))
    assert_near(end["train/ft_effective"], start["train/ft_effective"])
    classifier = load_classifier(trained_runs("lp"))
    assert_kernels(end, classifier.model, classifier.tokenizer, kernel_data)


def test_the_trained_encoder_has_a_p_of_its_own(beside):
    """Statistics, kernel regression and alignment of its P are not those of the start's."""
    folder = beside("ft")
    record = read(folder)
    start, end = (load_file(folder / f"{name}.safetensors") for name in ("ft", "trained"))
    for name, arrays in (("ft", start), ("trained", end)):
        found = record["methods"][name]["kernels"]["pretrain_effective"]
        expected = frobenius_norm(arrays["train/pretrain_effective"], CLASSES)
        assert found["frobenius_norm"] == pytest.approx(expected, rel=1e-12)
        paper = found["regression"]["paper"]
        assert paper["strength"] is not None
        assert paper["test_accuracy"] == pytest.approx(paper_accuracy(arrays, paper["strength"]))
    aligned = record["alignment"]
    named = {
        "pretrain_effective": start["train/pretrain_effective"],
        "trained/pretrain_effective": end["train/pretrain_effective"],
        "ft/ft_effective": start["train/ft_effective"],
        "trained/ft_effective": end["train/ft_effective"],
    }
    assert set(aligned["kernels"]) == {*named, "ft/ntk", "trained/ntk"}
    places = {name: aligned["kernels"].index(name) for name in named}
    for one, first in named.items():
        for other, second in named.items():
            expected = centred_kernel_alignment(first, second)
            value = aligned["values"][places[one]][places[other]]
            assert value == pytest.approx(expected, abs=1e-9), (one, other)
    apart = aligned["values"][places["pretrain_effective"]][places["trained/pretrain_effective"]]
    assert apart < 0.999


def paper_accuracy(arrays, strength):
    """The paper's protocol on P by scikit-learn at the given strength: entries that are right."""
    train, test = (
        np.kron(arrays[f"{part}/pretrain_effective"], np.eye(CLASSES)) for part in ("train", "eval")
    )
    entries = {
        part: np.eye(CLASSES, dtype=int)[arrays[f"{part}/labels"]].ravel()
        for part in ("train", "eval")
    }
    scale = np.abs(train).max()
    model = LogisticRegression(C=scale**2 / strength, tol=1e-10, max_iter=100_000)
    model.fit(train / scale, entries["train"])
    return model.score(test / scale, entries["eval"])


def test_an_adapter_of_other_weights_is_refused(lpft, trained_runs, tmp_path):
    run = shutil.copytree(trained_runs("lora"), tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    other = shutil.copytree(record["config"]["model"], tmp_path / "model")
    weights = load_file(other / "model.safetensors")
    name = next(name for name in weights if name.endswith("query.weight"))
    save_file({**weights, name: 2 * weights[name]}, other / "model.safetensors", {"format": "pt"})
    record["config"]["model"] = str(other)
    (run / "run.json").write_text(json.dumps(record))
    outcome = lpft("ntk", run, "--device", "cpu", "--output-dir", tmp_path / "kernels")
    assert_refused(outcome, "changed since", "train it again")
    shutil.copy(trained_runs("lora") / "run.json", run)
    (run / "adapter_model.safetensors").write_bytes(b"damaged")
    outcome = lpft("ntk", run, "--device", "cpu", "--output-dir", tmp_path / "kernels")
    assert_refused(outcome, "adapter_*")


@pytest.mark.parametrize(
    ("option", "value"),
    [("methods", "ft"), ("model", "minilm"), ("seed", 1), ("lora-rank", 2), ("head-scale", 2)],
)
def test_a_trained_run_has_its_own_model(lpft, trained_runs, tmp_path, option, value):
    folder = tmp_path / "kernels"
    outcome = lpft("ntk", trained_runs("ft"), f"--{option}", value, "--output-dir", folder)
    assert_refused(outcome, f"--{option}")
    assert not folder.exists()


def test_a_start_needs_a_run(lpft, kernel_base, tmp_path):
    assert_refused(
        lpft("ntk", *kernel_base, "--with-start", "--output-dir", tmp_path), "--with-start"
    )
