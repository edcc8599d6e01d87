"""Prompts in tokens, against the same sentence written out and read as a whole."""

import pytest
from tiny_models import WORDS, tiny_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoTokenizer,
    BertTokenizer,
    PreTrainedTokenizerFast,
    XLMRobertaTokenizer,
)

from lpft.data.prompts import Prompt, read_prompt, with_prompt, word_tokens
from lpft.data.tokens import counter_of, tokenize
from lpft.errors import InputError
from lpft.settings.prompts import read_template

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
