"""Heads of label words against transformers' own language models."""

import logging

import pytest
import torch
from tiny_models import DECODERS, EACH_FAMILY, save_tiny_language_model, save_tiny_model
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertForMaskedLM,
    CohereConfig,
    CohereForCausalLM,
    MobileBertConfig,
    MobileBertForMaskedLM,
)

from lpft import TextClassifier
from lpft.errors import InputError
from lpft.model import build_classifier
from lpft.model.language_head import find_language_head

WORDS = {"bad news": "bad", "good news": "good"}
TEXTS = ["the film was great", "we bought a chair", "never again"]


def template(family):
    return "{text} it was" + ("" if family in DECODERS else " [MASK]")


def untrained(family, folder, **parameters):
    save_tiny_language_model(family, folder)
    keywords = {"prompt": template(family), "label_words": WORDS} | parameters
    return TextClassifier.untrained(str(folder), sorted(WORDS), **keywords)


def language_model_logits(family, folder, texts):
    """The logits of the two words by transformers' own classes, one text at a time."""
    kind = AutoModelForCausalLM if family in DECODERS else AutoModelForMaskedLM
    model = kind.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    words = tokenizer.convert_tokens_to_ids(["bad", "good"])
    rows = []
    for text in texts:
        mask = "" if family in DECODERS else f" {tokenizer.mask_token}"
        inputs = tokenizer(f"{text} it was{mask}", return_tensors="pt")
        at = -1
        if family not in DECODERS:
            at = inputs.input_ids[0].tolist().index(tokenizer.mask_token_id)
        rows.append(model(**inputs).logits[0, at, words])
    return torch.stack(rows).detach()


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_the_logits_at_the_start_are_the_language_models_own(family, tmp_path):
    classifier = untrained(family, tmp_path / "model")
    expected = language_model_logits(family, tmp_path / "model", TEXTS)
    torch.testing.assert_close(
        torch.tensor(classifier.logits(TEXTS)), expected, rtol=1e-5, atol=1e-5
    )


def test_the_rows_of_the_words_are_a_copy(tmp_path):
    model = untrained("bert", tmp_path / "model").model_
    before = model.encoder.get_input_embeddings().weight.detach().clone()
    with torch.no_grad():
        model.head.weight.add_(1.0)
    assert torch.equal(model.encoder.get_input_embeddings().weight, before)


def test_without_a_bias_the_language_models_own_is_left_out(tmp_path):
    folder = tmp_path / "model"
    classifier = untrained("bert", folder, head_bias=False)
    model = BertForMaskedLM.from_pretrained(folder)
    ids = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(["bad", "good"])
    bias = model.cls.predictions.decoder.bias.detach()[ids].numpy()
    expected = language_model_logits("bert", folder, TEXTS).numpy() - bias
    assert classifier.logits(TEXTS) == pytest.approx(expected, abs=1e-5)


def test_the_transform_trains_as_a_part_of_the_encoder(tmp_path):
    model = untrained("bert", tmp_path / "model").model_
    names = [name for name, _ in model.encoder.named_parameters() if "transform" in name]
    assert [name.removeprefix("language_transform.") for name in names] == [
        *("dense.weight", "dense.bias", "norm.weight", "norm.bias")
    ]


def test_a_random_head_stands_on_the_same_features(tmp_path):
    words = untrained("bert", tmp_path / "model")
    random = untrained("bert", tmp_path / "again", label_words=None)
    assert random.features(TEXTS) == pytest.approx(words.features(TEXTS), abs=1e-6)
    assert float(random.model_.head.weight.detach().std()) == pytest.approx(0.02, rel=0.3)


def test_a_text_has_the_same_feature_alone_and_beside_longer_ones(tmp_path):
    for family in ("bert", "llama"):
        classifier = untrained(family, tmp_path / family)
        texts = ["good", *TEXTS, "the film " * 12]
        together = classifier.features(texts)
        for row, text in enumerate(texts):
            assert together[row] == pytest.approx(classifier.features([text])[0], abs=1e-4)


def test_the_log_says_which_tokens_were_taken(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "lpft"):
        model = untrained("bert", tmp_path / "model").model_
    assert "good news 'good' (token good, 11)" in caplog.text
    assert model.config.prompt["tokens"] == WORDS


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"label_words": {"bad news": "bad"}}, "no word for class 'good news'"),
        ({"label_words": WORDS | {"old": "fine"}}, "a word for 'old', which is no class"),
        ({"label_words": WORDS | {"bad news": "good"}}, "have the same token good"),
        ({"prompt": None}, "label_words needs prompt"),
        ({"pooling": "mean"}, "pooling mean has no effect with prompt"),
        ({"pooling": "last"}, "pooling last does not go with prompt"),
        ({"prompt": None, "label_words": None, "pooling": "mask"}, "mask needs prompt"),
        ({"max_length": 5}, "reads 6 to 64 tokens"),
    ],
)
def test_prompts_that_cannot_be_are_refused(change, says, tmp_path):
    with pytest.raises(InputError, match=says):
        untrained("bert", tmp_path / "model", **change)


def test_models_without_a_language_model_head_are_refused(tiny_bert):
    with pytest.raises(InputError, match=r"no language model head.* lack cls\."):
        build_classifier(str(tiny_bert), ("a", "b"), seed=0, prompt="{text} it was [MASK]")


def test_a_saved_classifier_has_no_language_model_head(tiny_bert, tmp_path):
    TextClassifier.untrained(str(tiny_bert), ["a", "b"]).save(tmp_path / "plain")
    with pytest.raises(InputError, match="has no language model head, which prompt needs"):
        build_classifier(str(tmp_path / "plain"), ("a", "b"), seed=0, prompt="{text} [MASK]")
    untrained("bert", tmp_path / "model").save(tmp_path / "prompted")
    with pytest.raises(InputError, match="reads every text in a prompt, which another training"):
        build_classifier(str(tmp_path / "prompted"), ("a", "b"), seed=0)


def test_encoder_decoders_are_refused(tmp_path):
    save_tiny_model("t5", tmp_path / "t5")
    with pytest.raises(InputError, match="is a t5 model, of which Transformers has no language"):
        build_classifier(str(tmp_path / "t5"), ("a", "b"), seed=0, prompt="{text} it was")


@pytest.mark.parametrize(
    "model",
    [
        lambda: CohereForCausalLM(  # it scales its logits
            CohereConfig(
                vocab_size=50,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=1,
                num_attention_heads=2,
                pad_token_id=0,
                eos_token_id=1,
                bos_token_id=2,
            )
        ),
        lambda: MobileBertForMaskedLM(  # its output embedding has two parts
            MobileBertConfig(
                vocab_size=50,
                hidden_size=32,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                embedding_size=16,
                intra_bottleneck_size=16,
                true_hidden_size=16,
            )
        ),
    ],
    ids=["scaled logits", "two parts"],
)
def test_heads_of_another_form_are_refused(model):
    with pytest.raises(InputError, match="is not an output embedding after at most"):
        find_language_head(model().eval(), "a model")


def test_a_head_that_does_more_than_its_layers_is_refused(tmp_path):
    save_tiny_language_model("bert", tmp_path)
    model = BertForMaskedLM.from_pretrained(tmp_path).eval()
    model.cls.predictions.transform.dense = nn.Sequential(
        model.cls.predictions.transform.dense, nn.Linear(32, 32)
    )
    with pytest.raises(InputError, match="is not an output embedding after at most"):
        find_language_head(model, "a model")
