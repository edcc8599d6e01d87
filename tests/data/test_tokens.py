"""Tokens: truncation, padding on both sides, batches by length, and what is refused."""

import struct
from hashlib import sha256

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import save_tiny_model, tiny_config, tiny_tokenizer, toy_texts
from tokenizers.normalizers import Replace

from lpft.data.lengths import length_batches
from lpft.data.tokens import Tokens, load_tokenizer, tokenize
from lpft.errors import InputError

PAD, CLS, SEP = 0, 2, 3


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer("bert")


def test_single_texts_are_cut_and_keep_their_special_tokens(tokenizer):
    tokens = tokenize(tokenizer, ["good film", "the a it was is not"], 5)
    good, film, the, a, it = tokenizer.convert_tokens_to_ids(["good", "film", "the", "a", "it"])
    assert tokens.lists() == [[CLS, good, film, SEP], [CLS, the, a, it, SEP]]
    assert tokens.lengths.tolist() == [4, 5]


def test_pairs_have_two_segments_and_the_longer_is_cut_first(tokenizer):
    tokens = tokenize(tokenizer, [("the a it was is not", "good film")], 8)
    the, a, it, good, film = tokenizer.convert_tokens_to_ids(["the", "a", "it", "good", "film"])
    assert tokens.lists() == [[CLS, the, a, it, SEP, good, film, SEP]]
    assert tokens.lists("token_type_ids") == [[0, 0, 0, 0, 0, 1, 1, 1]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_batches_are_padded_to_their_longest_on_the_tokenizers_side(tokenizer, side):
    tokenizer.padding_side = side
    batch = tokenize(tokenizer, ["good", "good film", "bad good film"], 32).batch([0, 1])
    tokenizer.padding_side = "right"
    good, film = tokenizer.convert_tokens_to_ids(["good", "film"])
    short = [CLS, good, SEP]
    padded = [PAD, *short] if side == "left" else [*short, PAD]
    assert batch["input_ids"].tolist() == [padded, [CLS, good, film, SEP]]
    mask = [0, 1, 1, 1] if side == "left" else [1, 1, 1, 0]
    assert batch["attention_mask"].tolist() == [mask, [1, 1, 1, 1]]


def test_a_fixed_padding_in_the_tokenizers_file_is_undone(tmp_path):
    folder = save_tiny_model("bert", tmp_path)
    fixed = tiny_tokenizer("bert")
    fixed.backend_tokenizer.enable_padding(length=20)
    fixed.backend_tokenizer.enable_truncation(6)
    fixed.backend_tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer = load_tokenizer(str(folder))
    assert len(tokenizer("good film")["input_ids"]) == 4
    assert len(tokenizer(" ".join(["good"] * 30))["input_ids"]) == 32


def test_the_fingerprint_tells_texts_and_their_order_apart(tokenizer):
    def print_of(*texts):
        return tokenize(tokenizer, list(texts), 32).fingerprint()

    assert print_of("good", "bad") == print_of("good", "bad")
    assert (
        len({print_of(*texts) for texts in (("good", "bad"), ("bad", "good"), ("good bad",))}) == 3
    )


texts_of_ids = st.lists(st.lists(st.integers(0, 100_000), max_size=9), min_size=1, max_size=9)


def tokens_of(texts, side="right"):
    columns = {
        "input_ids": texts,
        "token_type_ids": [[index % 2 for index in range(len(ids))] for ids in texts],
        "attention_mask": [[1] * len(ids) for ids in texts],
    }
    return Tokens.from_lists(columns, dict.fromkeys(columns, 0) | {"input_ids": 7}, side)


@given(texts_of_ids)
def test_the_fingerprint_is_over_each_length_and_the_ids_after_it(texts):
    """Caches and records keep it: a digest of 32-bit integers, column by column."""
    expected = sha256(b"attention_mask")
    for ids in texts:
        expected.update(struct.pack(f"<{len(ids) + 1}i", len(ids), *[1] * len(ids)))
    expected.update(b"input_ids")
    for ids in texts:
        expected.update(struct.pack(f"<{len(ids) + 1}i", len(ids), *ids))
    expected.update(b"token_type_ids")
    for ids in texts:
        segments = [index % 2 for index in range(len(ids))]
        expected.update(struct.pack(f"<{len(ids) + 1}i", len(ids), *segments))
    assert tokens_of(texts).fingerprint() == expected.hexdigest()


@given(texts_of_ids, st.data(), st.sampled_from(["left", "right"]))
def test_selected_and_joined_texts_and_their_batches_are_those_of_lists(texts, data, side):
    tokens = tokens_of(texts, side)
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=9))
    assert tokens.lists() == texts
    assert tokens.select(rows).lists() == [texts[row] for row in rows]
    joined = Tokens.concatenate([tokens, tokens.select([]), tokens.select(rows)])
    assert joined.lists() == texts + [texts[row] for row in rows]
    width = max(len(texts[row]) for row in rows)
    for row, padded in zip(rows, tokens.batch(rows)["input_ids"].tolist(), strict=True):
        padding = [7] * (width - len(texts[row]))
        assert padded == (padding + texts[row] if side == "left" else texts[row] + padding)


def test_a_column_of_one_value_takes_no_memory(tokenizer):
    tokens = tokenize(tokenizer, ["good film", "bad"] * 800, 32)  # more than one chunk
    for some in (tokens, tokens.select(range(5))):
        for name in ("attention_mask", "token_type_ids"):
            assert some.columns[name].strides == (0,)
        assert some.columns["input_ids"].itemsize == 1


def test_columns_must_agree_in_the_lengths_of_texts():
    with pytest.raises(ValueError, match="differ in the lengths"):
        Tokens.from_lists({"input_ids": [[1, 2]], "attention_mask": [[1]]}, {}, "right")


def test_what_is_no_text_is_refused_by_its_row(tokenizer):
    with pytest.raises(InputError, match="no text"):
        tokenize(tokenizer, [], 32)
    with pytest.raises(InputError, match="text 2 is empty"):
        tokenize(tokenizer, ["good", ""], 32)
    with pytest.raises(InputError, match="text 9 is empty"):
        tokenize(tokenizer, ["good", ""], 32, rows=[4, 9])


def test_a_text_without_any_token_is_refused():
    tokenizer = tiny_tokenizer("gpt2")
    tokenizer.backend_tokenizer.normalizer = Replace("x", "")
    with pytest.raises(InputError, match="text 2 has no token"):
        tokenize(tokenizer, ["good", "xx"], 32)
    with pytest.raises(InputError, match="text 7 has no token"):
        tokenize(tokenizer, ["good", "xx"], 32, rows=[3, 7])


def test_a_sentencepiece_model_is_tokenizer_enough(tmp_path):
    texts, _ = toy_texts(40)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_prefix=str(tmp_path / "spm"),
        vocab_size=60,
        **{"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3, "minloglevel": 2},
        **{"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"},
    )
    tiny_config("deberta-v2").save_pretrained(tmp_path)
    reference = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spm.model"))
    tokens = tokenize(load_tokenizer(str(tmp_path)), texts, 64)
    expected = [[1, *reference.encode(text), 2] for text in texts]
    assert tokens.lists() == expected


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=80), st.integers(1, 20), st.integers(1, 300)
)
def test_length_batches_hold_every_row_once_within_the_limits(lengths, max_rows, max_tokens):
    lengths = np.array(lengths)
    batches = list(length_batches(lengths, max_rows=max_rows, max_tokens=max_tokens))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for rows in batches:
        assert len(rows) == 1 or len(rows) * lengths[rows].max() <= max_tokens
        assert len(rows) <= max_rows
    flat = lengths[np.concatenate(batches)]
    assert (np.diff(flat) <= 0).all()
