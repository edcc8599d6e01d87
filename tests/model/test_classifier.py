"""The linear-head classifier on every family, against plain transformers and hand-made pooling."""

import json
import math

import pytest
import torch
from tiny_models import DECODERS, FAMILIES, save_tiny_model, toy_texts
from transformers import AutoModel, AutoModelForSequenceClassification, pipeline

from lpft.data.tokens import tokenize
from lpft.errors import InputError
from lpft.model import build_classifier, load_classifier, save_classifier

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {family: save_tiny_model(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


def build(folders, family, **settings):
    settings = {"seed": 0, "max_length": 32} | settings
    return build_classifier(str(folders[family]), ("bad", "good"), **settings)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["first", "last", "mean"])
def test_features_are_the_pooled_states_of_each_text_alone(folders, family, pooling):
    classifier = build(folders, family, pooling=pooling)
    plain = AutoModel.from_pretrained(folders[family], dtype=torch.float32).eval()
    texts, _ = toy_texts(6)
    tokens = tokenize(classifier.tokenizer, texts, 32)
    with torch.no_grad():
        found = classifier.model.features(**tokens.batch(range(6)))
        for row in range(6):
            ids = torch.tensor([tokens.lists()[row]])
            states = plain(input_ids=ids).last_hidden_state[0]
            expected = {"first": states[0], "last": states[-1], "mean": states.mean(0)}[pooling]
            torch.testing.assert_close(found[row], expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["first", "last", "mean"])
def test_left_padding_gives_the_features_of_right_padding(folders, family, pooling):
    classifier = build(folders, family, pooling=pooling)
    texts, _ = toy_texts(6)
    right = tokenize(classifier.tokenizer, texts, 32)
    classifier.tokenizer.padding_side = "left"
    left = tokenize(classifier.tokenizer, texts, 32)
    assert left.batch(range(6))["attention_mask"][:, 0].min() == 0
    with torch.no_grad():
        from_left = classifier.model.features(**left.batch(range(6), width=20))
        from_right = classifier.model.features(**right.batch(range(6)))
    torch.testing.assert_close(from_left, from_right, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_default_pooling_is_the_familys(folders, family):
    expected = "last" if family in DECODERS else "first"
    assert build(folders, family).model.config.pooling == expected


def test_a_sentence_transformers_folder_names_its_own_pooling(tmp_path):
    folder = save_tiny_model("bert", tmp_path)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(
        '{"pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true}'
    )
    classifier = build_classifier(str(folder), ("a", "b"), seed=0, max_length=32)
    assert classifier.model.config.pooling == "mean"


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_the_head_of_the_features_over_the_temperature(folders, family):
    model = build(folders, family).model
    ids = torch.tensor([[4, 5, 6, 7]])
    model.config.temperature = 2.5
    with torch.no_grad():
        output = model(input_ids=ids, labels=torch.tensor([1]))
        raw = model.head(model.features(ids))
    torch.testing.assert_close(output.logits, raw / 2.5)
    torch.testing.assert_close(
        output.loss, torch.nn.functional.cross_entropy(raw, torch.tensor([1]))
    )
    model.train()
    model.encoder.eval()
    model.dropout.p = 0.0
    torch.testing.assert_close(model(input_ids=ids).logits, raw, msg="training divides by no T")


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan, math.inf])
def test_a_saved_temperature_that_cannot_divide_logits_is_named(folders, temperature, tmp_path):
    save_classifier(build(folders, "bert"), tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | {"temperature": temperature}))
    with pytest.raises(InputError, match=r"config\.json.*temperature"):
        load_classifier(tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_saving_and_loading_keeps_every_logit(folders, family, tmp_path):
    classifier = build(folders, family)
    classifier.model.config.temperature = 1.7
    save_classifier(classifier, tmp_path)
    loaded = load_classifier(tmp_path)
    ids = torch.tensor([[4, 5, 6, 7], [8, 9, 10, 11]])
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.model(input_ids=ids).logits,
            classifier.model(input_ids=ids).logits,
            rtol=0,
            atol=0,
        )
    assert loaded.model.config.temperature == 1.7
    assert loaded.model.config.classes == ("bad", "good")
    assert loaded.tokenizer.model_max_length == 32
    auto = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(auto) is type(classifier.model)
    assert auto.dtype == torch.float32


@pytest.mark.parametrize("family", FAMILIES)
def test_the_pipeline_gives_softmax_of_logits_over_temperature(folders, family, tmp_path):
    classifier = build(folders, family)
    classifier.model.config.temperature = 0.3
    save_classifier(classifier, tmp_path)
    classify = pipeline("text-classification", model=str(tmp_path), top_k=None, truncation=True)
    texts = [*toy_texts(4)[0], "very good " * 40]
    tokens = tokenize(classifier.tokenizer, texts, 32)
    assert tokens.lengths.max() == 32
    for row, text in enumerate(texts):
        with torch.no_grad():
            raw = classifier.model.head(classifier.model.features(**tokens.batch([row])))
        expected = torch.softmax(raw[0].double() / 0.3, 0).tolist()
        found = {item["label"]: item["score"] for item in classify([text])[0]}
        assert [found["bad"], found["good"]] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_pooler_or_language_model_head_is_built(folders, family):
    names = [name for name, _ in build(folders, family).model.named_parameters()]
    assert not [name for name in names if "pooler" in name or "lm_head" in name]
    assert names[-2:] == ["head.weight", "head.bias"]


@pytest.mark.parametrize("family", DECODERS)
def test_a_borrowed_padding_token_changes_no_output(folders, family):
    classifier = build(folders, family)
    assert classifier.tokenizer.pad_token == "<sep>"
    assert classifier.model.encoder.get_input_embeddings().padding_idx is None
    tokens = tokenize(classifier.tokenizer, toy_texts(3)[0], 32)
    with torch.no_grad():
        alone = torch.cat([classifier.model.features(**tokens.batch([k])) for k in range(3)])
        padded = classifier.model.features(**tokens.batch(range(3), width=31))
    torch.testing.assert_close(padded, alone, atol=2e-6, rtol=1e-5)


def test_the_random_head_is_normal_and_depends_on_the_seed_alone(folders):
    heads = [build(folders, "bert", seed=seed).model.head for seed in (3, 3, 4)]
    assert torch.equal(heads[0].weight, heads[1].weight)
    assert not torch.equal(heads[0].weight, heads[2].weight)
    assert torch.count_nonzero(heads[0].bias) == 0
    classes = tuple(f"class {k}" for k in range(400))
    wide = build_classifier(str(folders["bert"]), classes, seed=0, max_length=32).model.head.weight
    # 12,800 draws: the standard error of their standard deviation is 0.02 / sqrt(25600) = 1.25e-4.
    assert abs(wide.std().item() - 0.02) < 5e-4
    assert abs(wide.mean().item()) < 1e-3


def test_a_head_without_bias(folders, tmp_path):
    classifier = build(folders, "bert", head_bias=False)
    assert classifier.model.head.bias is None
    save_classifier(classifier, tmp_path)
    assert load_classifier(tmp_path).model.head.bias is None


def test_weights_load_as_float32_whatever_the_file_holds(folders, tmp_path):
    model = AutoModel.from_pretrained(folders["bert"], dtype=torch.float16)
    model.save_pretrained(tmp_path)
    build(folders, "bert").tokenizer.save_pretrained(tmp_path)
    built = build_classifier(str(tmp_path), ("a", "b"), seed=0, max_length=32)
    assert {parameter.dtype for parameter in built.model.parameters()} == {torch.float32}


def test_a_trained_run_can_be_the_model_of_another_task(folders, tmp_path):
    first = build(folders, "bert", pooling="mean")
    save_classifier(first, tmp_path)
    second = build_classifier(str(tmp_path), ("x", "y", "z"), seed=0, max_length=32)
    assert second.model.config.pooling == "mean"
    assert second.model.head.out_features == 3
    for name, parameter in first.model.encoder.named_parameters():
        assert torch.equal(parameter, second.model.encoder.get_parameter(name))


@pytest.mark.parametrize(
    ("name", "damage", "says"),
    [
        ("model.safetensors", None, "cannot be loaded"),
        ("model.safetensors", lambda _: "\0" * 50, "cannot be loaded"),
        ("config.json", lambda _: "{", "cannot be loaded"),
        (
            "config.json",
            lambda text: text.replace('layers": 2', 'layers": 3'),
            "lack 16 parameters",
        ),
        ("tokenizer.json", lambda _: "{}", "tokenizer"),
    ],
    ids=["no weights", "damaged weights", "damaged config", "too few weights", "damaged tokenizer"],
)
def test_a_damaged_model_folder_is_refused_in_one_line(tmp_path, name, damage, says):
    folder = save_tiny_model("bert", tmp_path / "model")
    path = folder / name
    path.unlink() if damage is None else path.write_text(damage(path.read_text("latin-1")))
    with pytest.raises(InputError, match=says) as caught:
        build_classifier(str(folder), ("a", "b"), seed=0, max_length=32)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_tokens_without_an_embedding_are_refused_by_name(folders, tmp_path):
    folder = save_tiny_model("bert", tmp_path / "model")
    tokenizer = build(folders, "bert").tokenizer
    tokenizer.add_tokens(["extra"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(InputError, match="extra"):
        build_classifier(str(folder), ("a", "b"), seed=0, max_length=32)


@pytest.mark.parametrize(
    ("family", "reach"), [("bert", "3 to 64"), ("roberta", "3 to 63"), ("gpt2", "1 to 64")]
)
def test_a_length_that_the_model_cannot_read_is_refused(folders, family, reach):
    least, limit = map(int, reach.split(" to "))
    build(folders, family, max_length=limit)
    build(folders, family, max_length=least)
    for length in (least - 1, limit + 1):
        with pytest.raises(InputError, match=f"{reach} tokens"):
            build(folders, family, max_length=length)


def test_a_name_that_no_hub_model_can_have_is_refused():
    with pytest.raises(InputError, match="a b//c"):
        build_classifier("a b//c", ("bad", "good"), seed=0)
