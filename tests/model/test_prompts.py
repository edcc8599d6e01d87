"""Prompts in tokens, against the same sentence written out and read as a whole.

Heads of label words, against transformers' own language models.
"""

import logging

import pytest
import torch
from tiny_models import (
    DECODERS,
    EACH_FAMILY,
    WORDS,
    save_tiny_language_model,
    save_tiny_model,
    tiny_tokenizer,
)
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertForMaskedLM,
    BertTokenizer,
    CohereConfig,
    CohereForCausalLM,
    MobileBertConfig,
    MobileBertForMaskedLM,
    PreTrainedTokenizerFast,
    XLMRobertaTokenizer,
)

from lpft import TextClassifier
from lpft.data.tokens import counter_of, tokenize
from lpft.errors import InputError
from lpft.model import build_classifier
from lpft.model.prompts import Prompt, find_language_head, read_prompt, with_prompt, word_tokens
from lpft.settings.values import read_template

_SENTENCE = "the film was good not bad it is a fine chair"


def word_pieces():
    tokenizer = tiny_tokenizer("bert")
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    return tokenizer


def byte_pairs(**special):
    """Byte-level pieces, in which a word after a space is another token than one without."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([_SENTENCE, f"x {_SENTENCE}"] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", **special)


def masked_pairs():
    return byte_pairs(mask_token="<mask>")


def prompted(tokenizer, source, *, causal=False):
    """The tokenizer with the template."""
    return with_prompt(tokenizer, read_prompt(tokenizer, read_template(source), causal=causal))


@pytest.mark.parametrize(
    ("source", "written"),
    [
        ("{text} it was [MASK]", "the good film it was <mask>"),
        ("<mask> : {text_a} it was", "<mask> : the good film it was"),
        ("not {text} . <sep> it was {mask}", "not the good film . <sep> it was <mask>"),
    ],
)
def test_a_template_of_whole_words_gives_the_tokens_of_the_sentence_written_out(source, written):
    # a tokenizer that does not know ':' and '.' makes no prompt of them
    source, written = (part.replace(" :", "").replace(" .", "") for part in (source, written))
    expected = word_pieces()(written)["input_ids"]
    tokenizer = prompted(word_pieces(), source)
    assert tokenizer("the good film")["input_ids"] == expected


@pytest.mark.parametrize(
    ("source", "text", "written"),
    [
        ("{text} it was", "the good film", "the good film it was"),
        ("it was {text}, a", "good", "it was good, a"),
        ("a:\n{text}\nit was ", "good", "a:\ngood\nit was"),
    ],
)
def test_a_text_of_byte_pairs_has_the_space_before_it_that_the_template_has(source, text, written):
    expected = byte_pairs()(written)["input_ids"]
    tokenizer = prompted(byte_pairs(), source, causal=True)
    assert tokenizer(text)["input_ids"] == expected


def test_the_mask_stands_for_a_word_with_the_space_before_it():
    tokenizer = masked_pairs()
    with_word = tokenizer("the film was good.")["input_ids"]
    word = with_word[-2]
    assert tokenizer.convert_ids_to_tokens(word) == "Ġgood"
    template = read_template("{text} was [MASK].")
    assert word_tokens(tokenizer, template, {"a": " good"}) == {"a": word}
    tokenizer = prompted(tokenizer, template.source)
    expected = [tokenizer.mask_token_id if index == word else index for index in with_word]
    assert tokenizer("the film")["input_ids"] == expected


def test_pairs_are_read_as_one_text():
    tokenizer = prompted(word_pieces(), "{text} [MASK] {text_b}")
    tokens = tokenize(tokenizer, [("the film", "it was good")], 20)
    written = word_pieces()("the film <mask> it was good")
    assert tokens.lists() == [written["input_ids"]]
    assert set(tokens.lists("token_type_ids")[0]) == {0}


def test_long_texts_are_cut_and_the_template_never():
    tokenizer = prompted(word_pieces(), "{text} it was [MASK]")
    (ids,) = tokenize(tokenizer, ["film " * 50], 10).lists()
    assert tokenizer.convert_ids_to_tokens(ids) == [
        *("<cls>", *["film"] * 5, "it", "was", "<mask>", "<sep>")
    ]
    pairs = prompted(word_pieces(), "{text} [MASK] {text_b}")
    (ids,) = tokenize(pairs, [("film " * 50, "it was good")], 10).lists()
    assert pairs.convert_ids_to_tokens(ids) == [
        *("<cls>", *["film"] * 4, "<mask>", "it", "was", "good", "<sep>")
    ]


def test_a_maximum_length_must_hold_the_template():
    tokenizer = prompted(word_pieces(), "{text} it was [MASK]")
    counter = counter_of(tokenizer, 64, "tiny")
    assert counter.check(6) == 6  # <cls>, one token, it, was, <mask>, <sep>
    with pytest.raises(InputError, match="reads 6 to 64 tokens"):
        counter.check(5)
    assert counter.lengths(["the film"]).tolist() == [7]


def test_names_of_special_tokens_in_a_text_are_plain_text():
    tokenizer = prompted(word_pieces(), "{text} it was [MASK]")
    (ids,) = tokenize(tokenizer, ["a <mask> film <sep>"], 40).lists()
    assert ids.count(tokenizer.mask_token_id) == 1
    assert ids[-2:] == [tokenizer.mask_token_id, tokenizer.sep_token_id]


def of_family(kind):
    """A family's own class, which adds the family's special tokens when it is loaded."""

    def make():
        words = dict.fromkeys(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS))
        if kind is BertTokenizer:
            return kind(vocab={word: index for index, word in enumerate(words)})
        pieces = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>", "▁")]
        pieces += [(f"▁{word}", -2.0) for word in WORDS]
        return kind(vocab=[*pieces, *((letter, -6.0) for letter in "mask"), ("<mask>", 0.0)])

    return pytest.param(make, id=kind.__name__)


@pytest.mark.parametrize(
    "make", [word_pieces, masked_pairs, of_family(BertTokenizer), of_family(XLMRobertaTokenizer)]
)
def test_a_saved_tokenizer_keeps_the_prompt_also_where_it_is_added_again(make, tmp_path):
    tokenizer = make()
    prompt = read_prompt(tokenizer, read_template("it was {text} [MASK]"), causal=False)
    tokenizer = with_prompt(tokenizer, prompt)
    tokenizer.save_pretrained(tmp_path)
    texts = ["good", f" the {tokenizer.mask_token} film"]
    expected = tokenizer(texts)["input_ids"]
    assert [ids.count(tokenizer.mask_token_id) for ids in expected] == [1, 1]
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(texts)["input_ids"] == expected
    again = with_prompt(loaded, Prompt.from_json(prompt.as_json()))
    assert again(texts)["input_ids"] == expected
    assert (again.model_max_length, again.model_input_names) == (
        *(tokenizer.model_max_length, tokenizer.model_input_names),
    )


def test_a_causal_model_drops_the_token_that_ends_texts():
    tokenizer = prompted(word_pieces(), "{text} it was", causal=True)
    ids = tokenizer("the film")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<cls>", "the", "film", "it", "was"]


def test_the_word_after_a_template_follows_a_space_or_begins_its_line():
    spaced = word_tokens(byte_pairs(), read_template("{text} it was "), {"a": "good"})
    assert byte_pairs().convert_ids_to_tokens(spaced["a"]) == "Ġgood"
    line = word_tokens(byte_pairs(), read_template("{text}\n"), {"a": "good"}, first_token=True)
    assert byte_pairs().convert_ids_to_tokens(line["a"]) == "go"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"a": "zebra"}, r"'zebra' of class 'a' is \d tokens \(Ġ, z, e, b, r, a\): choose"),
        ({"a": "good", "b": "good "}, "classes 'a' and 'b' have the same token Ġgood"),
        ({"a": "  "}, "has no token of its own"),
    ],
)
def test_words_that_cannot_stand_for_a_class_are_refused(words, says):
    with pytest.raises(InputError, match=says):
        word_tokens(masked_pairs(), read_template("{text} was [MASK]"), words)


def test_an_unknown_word_is_refused():
    with pytest.raises(InputError, match="'zebra' of class 'a' is not known"):
        word_tokens(word_pieces(), read_template("{text} was [MASK]"), {"a": "zebra"})


def test_the_first_of_several_tokens_is_taken_on_request():
    template = read_template("{text} was [MASK]")
    tokens = word_tokens(masked_pairs(), template, {"a": "goodness"}, first_token=True)
    assert masked_pairs().convert_ids_to_tokens(tokens["a"]) == "Ġgood"


@pytest.mark.parametrize(
    ("tokenizer", "source", "causal", "says"),
    [
        (word_pieces, "{text} it was", False, "has no blank"),
        (word_pieces, "{text} it was [MASK]", True, "is causal"),
        (lambda: tiny_tokenizer("bert"), "{text} [MASK]", False, "no mask token"),
        (word_pieces, "{text} It was [MASK]", False, "does not know all of ' It was '"),
    ],
)
def test_templates_that_do_not_fit_the_model_are_refused(tokenizer, source, causal, says):
    with pytest.raises(InputError, match=says):
        read_prompt(tokenizer(), read_template(source), causal=causal)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("It was [MASK].", "no place for the text"),
        ("{text} {sentence} [MASK]", "unknown {sentence}"),
        ("{text} {text} [MASK]", "{text} more than once"),
        ("{text} [MASK] <mask>", "{mask} more than once"),
    ],
)
def test_templates_name_what_is_wrong_with_them(source, says):
    with pytest.raises(InputError, match=says):
        read_template(source)


LABEL_WORDS = {"bad news": "bad", "good news": "good"}
TEXTS = ["the film was great", "we bought a chair", "never again"]


def template_of(family):
    return "{text} it was" + ("" if family in DECODERS else " [MASK]")


def untrained(family, folder, **parameters):
    save_tiny_language_model(family, folder)
    keywords = {"prompt": template_of(family), "label_words": LABEL_WORDS} | parameters
    return TextClassifier.untrained(str(folder), sorted(LABEL_WORDS), **keywords)


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
    assert model.config.prompt["tokens"] == LABEL_WORDS


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"label_words": {"bad news": "bad"}}, "no word for class 'good news'"),
        ({"label_words": LABEL_WORDS | {"old": "fine"}}, "a word for 'old', which is no class"),
        ({"label_words": LABEL_WORDS | {"bad news": "good"}}, "have the same token good"),
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
