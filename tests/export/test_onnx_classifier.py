"""Predictions by ONNX Runtime: those of the run, without torch, and what int8 loses."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from exportable import TEXTS, classifier_of, expected_logits, saved, softmax

from lpft.errors import InputError
from lpft.export import open_onnx

pytest.importorskip("onnx", reason="the onnx extra is not installed")
pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
pytest.importorskip("onnxscript", reason="the onnx extra is not installed")

WITHOUT_TORCH = """
import sys
from lpft.cli import main
status = main(sys.argv[1:])
assert status == 0, status
loaded = {"torch", "transformers", "pandas", "sklearn"} & set(sys.modules)
assert not loaded, loaded
"""


@pytest.fixture(scope="module")
def classifier():
    return classifier_of("bert", "mean", classes=(3, 1, 2))


@pytest.fixture(scope="module")
def run(classifier, tmp_path_factory):
    return saved(classifier, tmp_path_factory.mktemp("classifier") / "run")


@pytest.mark.heavy
def test_a_command_predicts_by_onnx_what_torch_does_and_loads_no_torch(run, lpft):
    first = lpft("predict", run, "--backend", "onnx", "--text", *TEXTS)
    assert first.status == 0
    assert "exporting" in first.err
    command = [sys.executable, "-c", WITHOUT_TORCH, "predict", str(run), "--backend", "onnx"]
    done = subprocess.run([*command, "--text", *TEXTS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == first.out
    by_torch = lpft("predict", run, "--text", *TEXTS).out
    for line, other in zip(first.out.splitlines(), by_torch.splitlines(), strict=True):
        one, another = json.loads(line), json.loads(other)
        assert one["label"] == another["label"]
        assert isinstance(one["label"], int)
        assert one["probabilities"] == pytest.approx(another["probabilities"], abs=1e-5)


def test_probabilities_of_many_texts_are_those_of_each_alone(classifier, run):
    texts = [f"{text} {'and ' * (number % 9)}" for number in range(30) for text in TEXTS]
    found = open_onnx(run).predict_proba(texts)
    np.testing.assert_allclose(found, softmax(expected_logits(classifier, texts)), atol=1e-5)


@pytest.mark.heavy
def test_pairs_are_read_as_pairs_and_cut_on_their_own_side(tmp_path):
    classifier = classifier_of("roberta", "first", paired=True)
    classifier.tokenizer.truncation_side = "left"
    classifier.tokenizer.init_kwargs["truncation_side"] = "left"  # which is what is saved
    pairs = [("the film was good", "a poor meal"), ("it", "a train " * 30), ("it " * 30, "a lamp")]
    opened = open_onnx(saved(classifier, tmp_path / "run"))
    expected = softmax(expected_logits(classifier, pairs))
    np.testing.assert_allclose(opened.predict_proba(pairs), expected, atol=1e-5)
    with pytest.raises(InputError, match="pair"):
        opened.logits(["one text"])


@pytest.mark.heavy
def test_other_weights_of_a_run_are_exported_again(run, lpft, tmp_path):
    changed = shutil.copytree(run, tmp_path / "run")
    assert lpft("predict", run, "--backend", "onnx", "--text", "good").status == 0
    assert "exporting" not in lpft("predict", changed, "--backend", "onnx", "--text", "good").err
    config = json.loads((changed / "config.json").read_text())
    config["temperature"] = 9.0
    (changed / "config.json").write_text(json.dumps(config))
    again = lpft("predict", changed, "--backend", "onnx", "--text", "good")
    assert "exporting" in again.err
    expected = json.loads(lpft("predict", changed, "--text", "good").out)["probabilities"]
    assert json.loads(again.out)["probabilities"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.heavy
def test_of_two_processes_that_want_an_export_one_makes_it(run, tmp_path):
    command = [sys.executable, "-m", "lpft", "predict", run, "--backend", "onnx", "--text", "good"]
    environment = os.environ | {"LPFT_CACHE_DIR": str(tmp_path)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, env=environment, **pipes) for _ in range(2)]
    (first, first_said), (second, second_said) = (process.communicate() for process in both)
    assert first == second != ""
    assert [first_said, second_said].count("") == 1
    assert "exporting" in first_said + second_said


@pytest.mark.heavy
def test_a_damaged_export_in_the_cache_is_made_again(run, lpft, monkeypatch, tmp_path):
    monkeypatch.setenv("LPFT_CACHE_DIR", str(tmp_path))
    asked = ("predict", run, "--backend", "onnx", "--text", "good")
    first = lpft(*asked)
    (graph,) = (tmp_path / "onnx").glob("*/model.onnx")
    with graph.open("r+b") as file:
        file.seek(-9, 2)
        file.write(b"damage")
    again = lpft(*asked)
    assert (again.status, again.out) == (0, first.out)
    assert "model.onnx' is damaged" in again.err
    assert "exporting" not in lpft(*asked).err


@pytest.fixture(scope="module")
def export(run):
    """That which the cache has, so that no second graph is traced."""
    return open_onnx(run).export


def test_an_export_is_named_in_place_of_its_run(run, export, lpft, tmp_path):
    asked = ("--text", "good", "a bad lamp")
    of_run = lpft("predict", run, "--backend", "onnx", *asked)
    assert lpft("predict", export, *asked).out == of_run.out
    table = tmp_path / "rows.csv"
    table.write_text("text,label\ngood,1\nbad,2\na film,3\n")
    by_onnx = json.loads(lpft("evaluate", export, "--file", table, "--json").out)
    by_torch = json.loads(lpft("evaluate", run, "--file", table, "--json").out)
    for name in ("accuracy", "nll"):
        found, expected = (each["splits"]["rows"][name] for each in (by_onnx, by_torch))
        assert found == pytest.approx(expected, abs=1e-4)


def test_what_onnx_cannot_do_is_said_in_a_line(run, export, lpft, tmp_path, monkeypatch):
    def error(*arguments):
        outcome = lpft("predict", *arguments, "--text", "good")
        assert outcome.status == 2
        assert outcome.err.count("\n") == 1
        return outcome.err

    assert "leave out --backend torch" in error(export, "--backend", "torch")
    assert "--device" in error(run, "--backend", "onnx", "--device", "mps")
    assert "contains no trained classifier" in error(tmp_path, "--backend", "onnx")
    assert "--abstain-below" in error(export, "--target-accuracy", "0.9")
    damaged = shutil.copytree(export, tmp_path / "damaged")
    with (damaged / "model.onnx").open("r+b") as file:
        file.seek(-9, 2)
        file.write(b"damage")
    assert "model.onnx' is damaged" in error(damaged)
    monkeypatch.setattr("lpft.export.onnx_classifier.find_spec", lambda _: None)
    assert "pip install 'lpft[onnx]'" in error(run, "--backend", "onnx")


@pytest.mark.heavy
def test_int8_is_measured_on_labelled_rows(classifier, run, export, lpft, tmp_path):
    table = tmp_path / "rows.csv"
    texts = [f"{text} {'very ' * number}" for number in range(6) for text in TEXTS]
    labels = [(3, 1, 2)[row % 3] for row in range(len(texts))]
    lines = [f"{text},{label}\n" for text, label in zip(texts, labels, strict=True)]
    table.write_text("text,label\n" + "".join(lines))
    folder = tmp_path / "int8"
    asked = ("export", run, "--format", "onnx", "--quantize", "int8", "--output-dir", folder)
    refused = lpft(*asked)
    assert refused.status == 2
    assert "--file" in refused.err
    assert not folder.exists()
    made = lpft(*asked, "--file", table)
    assert made.status == 0, made.err
    found = json.loads((folder / "export.json").read_text())["quantization"]
    index = np.array([(3, 1, 2).index(label) for label in labels])
    exact = softmax(expected_logits(classifier, texts))
    int8 = open_onnx(folder).predict_proba(texts)
    for name, table in (("before", exact), ("after", int8)):
        assert found[name]["accuracy"] == pytest.approx((table.argmax(axis=1) == index).mean())
        nll = -np.log(table[np.arange(len(index)), index]).mean()
        assert found[name]["nll"] == pytest.approx(nll, abs=1e-4)
    assert found["largest_difference"] == pytest.approx(np.abs(exact - int8).max(), abs=1e-4)
    assert 0 < found["largest_difference"] < 0.5
    assert found["rows"] == len(texts)
    assert f"On {len(texts)} labelled rows" in made.out
    assert f"{found['after']['nll']:.4f}" in (folder / "README.md").read_text()
    kinds = [node.op_type for node in graph_of(folder).node]
    assert "MatMulInteger" in kinds
    assert "MatMulInteger" not in [node.op_type for node in graph_of(export).node]


def graph_of(folder):
    import onnx

    return onnx.load(folder / "model.onnx").graph


def test_int8_is_of_onnx_alone(run, lpft, tmp_path):
    asked = ("export", run, "--output-dir", tmp_path / "export", "--format")
    assert "--quantize int8 is for ONNX" in lpft(*asked, "transformers", "--quantize", "int8").err
    outcome = lpft(*asked, "onnx", "--file", tmp_path / "rows.csv")
    assert "--file has no effect without --quantize" in outcome.err
