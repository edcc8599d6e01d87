"""ONNX graphs as ONNX Runtime runs them, beside plain transformers and pooling by hand."""

import json
import re

import numpy as np
import pytest
import torch
from exportable import (
    CLASSES,
    TEMPERATURE,
    TEXTS,
    classifier_of,
    expected_logits,
    saved,
    softmax,
    without_lpft,
)

from lpft.export import export_run
from lpft.model.adapters import add_configured, merge_adapter

onnx = pytest.importorskip("onnx", reason="the onnx extra is not installed")
runtime = pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
pytest.importorskip("onnxscript", reason="the onnx extra is not installed")

FORMS = [
    ("bert", "mean"),
    ("roberta", "first"),
    ("distilbert", "last"),
    ("albert", "mean"),
    ("deberta-v2", "first"),
    ("modernbert", "mean"),
    ("gpt2", "last"),
    ("llama", "last"),
    ("t5", "mean"),
]
PAIRS = [("the film was good", "a poor meal"), ("it", "a train and then a train again")]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A classifier of pairs and its export."""
    folder = tmp_path_factory.mktemp("bert")
    classifier = classifier_of("bert", "mean", paired=True)
    run = saved(classifier, folder / "run")
    return classifier, export_run(run, folder / "export", "onnx")


@pytest.mark.heavy
@pytest.mark.parametrize(("family", "pooling"), FORMS)
def test_logits_of_padded_batches_are_those_of_each_text_alone(family, pooling, tmp_path):
    classifier = classifier_of(family, pooling)
    run = saved(classifier, tmp_path / "run")
    export = export_run(run, tmp_path / "export", "onnx")
    session = runtime.InferenceSession(export.folder / "model.onnx")
    expected = expected_logits(classifier, TEXTS)
    names = [each.name for each in session.get_inputs()]
    for side in ("right", "left"):
        for texts in (TEXTS, TEXTS[:1]):
            classifier.tokenizer.padding_side = side
            tokens = classifier.tokenizer(texts, padding=True, truncation=True, return_tensors="np")
            logits, probabilities = session.run(None, {name: tokens[name] for name in names})
            wanted = expected[: len(texts)]
            np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(probabilities, softmax(wanted), atol=3e-6)


@pytest.mark.heavy
@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("kind", ["PREFIX_TUNING", "PROMPT_TUNING"])
def test_virtual_tokens_are_a_part_of_the_graph(family, kind, tmp_path):
    classifier = classifier_of(family, "last")
    add_configured(classifier.model, {"peft_type": kind, "num_virtual_tokens": 3})
    merge_adapter(classifier.model).eval()
    run = saved(classifier, tmp_path / "run")
    export = export_run(run, tmp_path / "export", "onnx")
    session = runtime.InferenceSession(export.folder / "model.onnx")
    tokens = classifier.tokenizer(TEXTS, padding=True, truncation=True, return_tensors="np")
    inputs = {each.name: tokens[each.name] for each in session.get_inputs()}
    alone = [classifier.tokenizer(text, truncation=True, return_tensors="pt") for text in TEXTS]
    with torch.no_grad():
        expected = torch.cat([classifier.model(**each).logits for each in alone])
    np.testing.assert_allclose(session.run(["logits"], inputs)[0], expected, rtol=1e-4, atol=1e-5)


def test_the_graph_names_its_axes_and_keeps_the_temperature(bert):
    _, export = bert
    graph = onnx.load(export.folder / "model.onnx")
    onnx.checker.check_model(graph)

    def shapes(values):
        return {
            value.name: [
                axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim
            ]
            for value in values
        }

    inputs = ("input_ids", "attention_mask", "token_type_ids")
    assert shapes(graph.graph.input) == {name: ["batch", "length"] for name in inputs}
    assert shapes(graph.graph.output) == {
        name: ["batch", len(CLASSES)] for name in ("logits", "probabilities")
    }
    kept = {entry.key: entry.value for entry in graph.metadata_props}
    assert float(kept["temperature"]) == export.record["temperature"] == TEMPERATURE


@pytest.mark.heavy
def test_standard_output_is_the_record_alone(lpft, bert, tmp_path):
    _, export = bert
    run = export.folder.parent / "run"
    outcome = lpft("export", run, "--format", "onnx", "--output-dir", tmp_path / "new", "--json")
    assert outcome.status == 0
    assert json.loads(outcome.out)["files"] == export.record["files"]
    assert outcome.err == ""


def test_files_say_what_a_program_without_lpft_needs(bert):
    _, export = bert
    assert {path.name for path in export.folder.iterdir()} == {
        "model.onnx",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "README.md",
        "export.json",
        "SHA256SUMS",
    }
    config = json.loads((export.folder / "config.json").read_text())
    assert config["model_type"] == "bert"
    assert list(config["id2label"].values()) == list(CLASSES)


def test_the_cards_own_program_answers_pairs_in_a_process_without_lpft(bert):
    classifier, export = bert
    card = (export.folder / "README.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    program = program.replace("path/to/this/folder", str(export.folder))
    asked = [[first for first, _ in PAIRS], [second for _, second in PAIRS]]
    for old, new in (('["first text"]', "given[0]"), ('["second text"]', "given[1]")):
        assert old in program
        program = program.replace(old, new)
    found = without_lpft(program + "print(json.dumps(probabilities.tolist()))", asked)
    np.testing.assert_allclose(found, softmax(expected_logits(classifier, PAIRS)), atol=3e-6)
