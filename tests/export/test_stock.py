"""Stock models of every family, loaded where there is no lpft, and their heads layer by layer."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from exportable import CLASSES, TEXTS, classifier_of, expected_logits, saved, softmax, without_lpft
from torch import nn
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel

from lpft.cli.listings import TESTED_FAMILIES
from lpft.errors import InputError
from lpft.export import export_run
from lpft.export.stock import (
    EXACT,
    SMALL,
    STOCK_FAMILIES,
    AveragingLayer,
    ScoreHead,
    anchor,
    check_width,
    pair_differences,
    paired_rows,
    reset_norm,
)
from lpft.model.adapters import add_prefix

FORMS = [
    (model_type, pooling, bias)
    for family in STOCK_FAMILIES
    for model_type in family.model_types
    for pooling in family.known_poolings
    for bias in (True, False)
    if not (bias and isinstance(family.head, ScoreHead) and family.head.norm is None)
]
QUICK = [("bert", "mean", True), ("roberta", "first", True), ("gpt2", "last", True)]
EVERY = [form if form in QUICK else pytest.param(form, marks=pytest.mark.heavy) for form in FORMS]
VALUES = torch.tensor([-37.0, -3.0, -0.5, -1e-3, 0.0, 1e-3, 0.5, 3.0, 37.0])
PAIR = ("the film was good", "a poor meal and then a train")

CLASSIFY = """
from transformers import pipeline
answers = {}
for folder in given["folders"]:
    classify = pipeline("text-classification", model=folder, top_k=None, truncation=True)
    kind = type(classify.model)
    assert kind.__module__.startswith("transformers."), kind
    rows = classify(given["texts"], batch_size=given["batch"])
    answers[folder] = [{item["label"]: item["score"] for item in row} for row in rows]
print(json.dumps(answers))
"""


def test_every_tested_family_has_a_form():
    covered = {model_type for model_type, _, _ in FORMS}
    assert {family.model_type for family in TESTED_FAMILIES} <= covered


@pytest.fixture(scope="module")
def export_of(tmp_path_factory):
    """A form's classifier and its export, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("exports")

    @cache
    def made(form):
        family, pooling, bias = form
        classifier = classifier_of(family, pooling, head_bias=bias)
        name = f"{family}-{pooling}-{bias}"
        run = saved(classifier, folder / "runs" / name)
        return classifier, export_run(run, folder / "exports" / name, "transformers")

    return made


ONE_BY_ONE = pytest.param(1, id="one by one", marks=pytest.mark.heavy)


@pytest.fixture(scope="module", params=[ONE_BY_ONE, pytest.param(3, id="padded")])
def answers_of(request, export_of):
    """Probabilities (N x C) by a pipeline in a process without lpft, many forms at a time."""

    @cache
    def answered(quick):
        forms = QUICK if quick else [form for form in FORMS if form not in QUICK]
        folders = [str(export_of(form)[1].folder) for form in forms]
        given = {"folders": folders, "texts": TEXTS, "batch": request.param}
        found = without_lpft(CLASSIFY, given)
        return {
            form: np.array([[row[name] for name in CLASSES] for row in found[folder]])
            for form, folder in zip(forms, folders, strict=True)
        }

    return lambda form: answered(form in QUICK)[form]


@pytest.mark.parametrize("form", EVERY, ids=str)
def test_a_pipeline_without_lpft_gives_the_calibrated_probabilities(form, export_of, answers_of):
    classifier, export = export_of(form)
    expected = softmax(expected_logits(classifier, TEXTS))
    np.testing.assert_allclose(answers_of(form), expected, atol=3e-6)
    assert np.ptp(expected, axis=0).max() > 0.02, "texts that answer alike show nothing"
    assert export.record["check"]["texts"] == 33
    assert export.record["check"]["largest_difference_of_a_probability"] < 1e-5
    names = {path.name for path in export.folder.iterdir()}
    weights, tokenizer = "model.safetensors", {"tokenizer.json", "tokenizer_config.json"}
    assert names == {"config.json", weights, "README.md", "export.json"} | tokenizer
    assert names - {"export.json"} == set(export.record["files"])
    assert "lpft" not in (export.folder / "config.json").read_text()


@torch.no_grad()
@pytest.mark.parametrize("form", [("bert", "mean", True), ("roberta", "first", True)], ids=str)
def test_bfloat16_is_off_by_its_rounding_alone(form, export_of):
    classifier, export = export_of(form)
    tokens = classifier.tokenizer(TEXTS[1], return_tensors="pt")
    load = AutoModelForSequenceClassification.from_pretrained
    half = load(export.folder, dtype=torch.bfloat16)(**tokens).logits.float().numpy()
    np.testing.assert_allclose(half, expected_logits(classifier, TEXTS[1:2]), rtol=0.1, atol=0.1)


@pytest.mark.heavy
def test_pairs_are_read_as_pairs(tmp_path):
    classifier = classifier_of("bert", "mean", paired=True)
    run = saved(classifier, tmp_path / "run")
    export = export_run(run, tmp_path / "export", "transformers")
    given = {"text": PAIR[0], "text_pair": PAIR[1]}
    found = without_lpft(CLASSIFY, {"folders": [str(export.folder)], "texts": [given], "batch": 1})
    row = found[str(export.folder)][0]
    expected = softmax(expected_logits(classifier, [PAIR]))[0]
    np.testing.assert_allclose([row[name] for name in CLASSES], expected, atol=3e-6)
    assert "text_pair" in (export.folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("family", "pooling", "says"),
    [
        ("bert", "last", "BertForSequenceClassification reads the first or mean"),
        ("albert", "mean", "AlbertForSequenceClassification reads the first"),
        ("gpt2", "mean", "GPT2ForSequenceClassification reads the last"),
        ("modernbert", "last", "reads the first or mean"),
        ("llama", "last", "bias, which LlamaForSequenceClassification has no place for"),
        ("t5", "mean", "no stock form for t5 models, only for bert, "),
    ],
)
def test_what_has_no_stock_form_is_refused_with_the_format_that_works(
    family, pooling, says, tmp_path
):
    run = saved(classifier_of(family, pooling), tmp_path / "run")
    with pytest.raises(InputError, match=says) as caught:
        export_run(run, tmp_path / "export", "transformers")
    assert "format onnx" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_virtual_tokens_have_no_stock_form(tmp_path):
    classifier = classifier_of("bert", "mean")
    add_prefix(classifier.model, 3)
    run = saved(classifier, tmp_path / "run")
    with pytest.raises(InputError, match=r"3 virtual tokens .*no stock model.*format onnx"):
        export_run(run, tmp_path / "export", "transformers")


def test_more_classes_than_a_stock_head_can_carry_are_refused(tmp_path):
    classes = tuple(f"class {index:02}" for index in range(16))
    export_run(
        saved(classifier_of("bert", "first", classes=classes), tmp_path / "first"),
        tmp_path / "export",
        "transformers",
    )
    run = saved(classifier_of("bert", "mean", classes=classes), tmp_path / "mean")
    with pytest.raises(InputError, match=r"16 classes.*can carry 15: use format onnx"):
        export_run(run, tmp_path / "other", "transformers")


def test_a_bias_that_the_weights_cannot_carry_is_refused(tmp_path):
    classifier = classifier_of("gpt2", "last")
    with torch.no_grad():
        classifier.model.head.weight.copy_(classifier.model.head.weight[0].expand(3, -1).clone())
    run = saved(classifier, tmp_path / "run")
    with pytest.raises(InputError, match=r"cannot be carried by its weights.*format onnx"):
        export_run(run, tmp_path / "export", "transformers")


def test_a_decoder_says_what_its_padding_token_means(export_of, tmp_path):
    _, export = export_of(("gpt2", "last", True))
    assert export.record["notes"] == [
        "The token <sep> pads: where a text itself ends with it, the one before it is read."
    ]
    classifier = classifier_of("gpt2", "last")
    classifier.tokenizer.pad_token = "good"
    run = saved(classifier, tmp_path / "run")
    with pytest.raises(InputError, match="ends each text with good, with which it also pads"):
        export_run(run, tmp_path / "export", "transformers")


@pytest.mark.heavy
def test_classes_that_are_integers_are_named_by_them(tmp_path):
    run = saved(classifier_of("distilbert", "mean", classes=(3, 5)), tmp_path / "run")
    export = export_run(run, tmp_path / "export", "transformers")
    given = {"folders": [str(export.folder)], "texts": ["good"], "batch": 1}
    assert set(without_lpft(CLASSIFY, given)[str(export.folder)][0]) == {"3", "5"}
    assert export.record["classes"] == [3, 5]


def test_pairs_are_written_out():
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    expected = [[2.0, 4.0], [-2.0, -4.0], [6.0, 8.0], [-6.0, -8.0], [0.0, 0.0]]
    assert paired_rows(weight, 2.0, 5).tolist() == expected
    assert pair_differences(2, 4.0, 5).tolist() == [
        [0.25, -0.25, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.25, -0.25, 0.0],
    ]


@pytest.mark.parametrize("layer", [nn.ReLU(), nn.GELU(), nn.GELU(approximate="tanh"), nn.SiLU()])
def test_gated_activations_give_a_number_back_from_its_pair(layer):
    value = (layer(VALUES) - layer(-VALUES)) / (EXACT.gain * EXACT.scale)
    torch.testing.assert_close(value, VALUES, rtol=2e-7, atol=0)


def test_tanh_gives_a_number_back_from_its_pair_to_single_precision():
    small = SMALL.scale * VALUES
    found = (torch.tanh(small) - torch.tanh(-small)) / (SMALL.gain * SMALL.scale)
    torch.testing.assert_close(found, VALUES, rtol=2e-6, atol=0)


@pytest.mark.parametrize("width", [8, 32, 768])
@pytest.mark.parametrize("eps", [1e-12, 1e-5])
def test_a_layer_norm_keeps_pairs_beside_the_anchor(width, eps):
    values = anchor(width)
    assert values.mean() == 0
    assert math.isclose(float(values.double().square().mean()), 1, rel_tol=1e-6)
    values[:6] = torch.tensor([1.0, -1.0, 20.0, -20.0, 0.01, -0.01]) * SMALL.scale
    norm = nn.LayerNorm(width, eps=eps)
    with torch.no_grad():
        reset_norm(norm)
        found = pair_differences(3, 2 * SMALL.scale, width) @ norm(values)
    torch.testing.assert_close(found, torch.tensor([1.0, 20.0, 0.01]), rtol=2e-6, atol=1e-7)


@torch.no_grad()
@pytest.mark.parametrize("eps", [1e-12, 1e-5])
def test_the_added_layer_averages_the_real_tokens_and_nothing_else(eps):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        layer_norm_eps=eps,
    )
    model = BertModel(config).eval()
    ids = torch.randint(0, 50, (2, 7))
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    shallow = BertModel(BertConfig(**(config.to_dict() | {"num_hidden_layers": 2}))).eval()
    shallow.load_state_dict(model.state_dict(), strict=False)
    states = shallow(input_ids=ids, attention_mask=mask).last_hidden_state.double()
    mean = torch.stack([states[0].mean(0), states[1, :4].mean(0)])
    weight = 30 * torch.randn(5, 32)
    layer = AveragingLayer("encoder.layer", "attention.self.value", "attention.output.dense")
    reading = layer.install(model, weight)
    new = model(input_ids=ids, attention_mask=mask).last_hidden_state
    expected = (mean @ weight.double().T).float()
    for token in range(7):
        torch.testing.assert_close(new[:, token] @ reading.T, expected, rtol=2e-6, atol=1e-4)


def test_classes_without_a_pair_of_coordinates_are_refused():
    module = nn.Linear(10, 10)
    check_width(module, 5, 10, anchored=False)
    check_width(module, 4, 10, anchored=True)
    for count, anchored in ((6, False), (5, True)):
        with pytest.raises(InputError, match=f"{count} classes.*can carry {count - 1}: use form"):
            check_width(module, count, 10, anchored=anchored)
