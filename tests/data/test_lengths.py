import numpy as np
import pytest
from tiny_models import FAMILIES, save_tiny_model

from lpft.data.examples import Examples, TextData
from lpft.data.lengths import TokenCounter, check_lengths, quick_counter
from lpft.data.tokens import counter_of, load_tokenizer
from lpft.errors import InputError
from lpft.model.encoder import load_config, load_encoder, position_limit


def counter(limit=None):
    """One token per word and two special ones."""

    def count(texts):
        return np.array([len(text.split()) + 2 for text in texts])

    return TokenCounter("words", count, 3, limit)


def words(*counts):
    return [" ".join(["word"] * count) for count in counts]


def examples(texts):
    return Examples([str(i) for i in range(len(texts))], texts, np.zeros(len(texts), dtype=int))


@pytest.mark.parametrize(
    ("longest", "limit", "expected"),
    [
        (10, None, 128),
        (126, None, 128),  # with the special tokens
        (127, None, 256),
        (300, 512, 384),
        (2000, 8192, 512),  # longer only where asked for
        (2000, 300, 300),
        (10, 62, 62),
    ],
)
def test_the_default_length_keeps_the_longest_text_whole_within_limits(longest, limit, expected):
    assert counter(limit).default(words(3, longest, 7)) == expected


def test_lengths_that_the_model_cannot_read_are_refused():
    assert counter(64).check(64) == 64
    with pytest.raises(InputError, match=r"max_length 65 does not fit 'words'.*3 to 64 tokens"):
        counter(64).check(65)
    with pytest.raises(InputError, match="at least 3 tokens"):
        counter().check(2)


def test_texts_that_are_cut_are_named_with_what_is_lost():
    train, validation = examples(words(*[8] * 93, *[18] * 5, *[38] * 2)), examples(words(*[8] * 50))
    data = TextData("toy", ("a",), train, validation, examples(words(8, 98)))
    (finding,) = check_lengths(data, counter(64), 15)
    assert finding.kind == "truncation"
    assert finding.rows == {"train": list(range(94, 101)), "test": [2]}
    # 5 times 5, 2 times 25 and 85 of 93 * 10 + 5 * 20 + 2 * 40 + 50 * 10 + 10 + 100 tokens
    assert f"{160 / 1720:.1%} of all tokens" in finding.message
    assert "7 of 100 texts of train (7.0%) and 1 of 2 texts of test (50.0%)" in finding.message
    # of 150 training and validation texts 143 have 10 tokens, 148 at most 20
    assert "95% " not in finding.message
    assert "--max-length 40 keeps 99%" in finding.message
    assert check_lengths(data, counter(), 100) == []


def test_a_limit_below_the_texts_is_said():
    data = TextData("toy", ("a",), examples(words(*[98] * 10)), examples(words(98)))
    (finding,) = check_lengths(data, counter(64), 64)
    assert (
        "the model reads 64 at most, which keeps 0% of the training texts whole" in finding.message
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_counting_without_the_model_agrees_with_the_model(tmp_path, family):
    """The lengths, and the limit that config.json alone gives."""
    folder = str(save_tiny_model(family, tmp_path / family))
    texts = ["good", "a bad film about good tables", "word " * 90]
    encoder = load_encoder(folder, load_config(folder))
    slow = counter_of(load_tokenizer(folder), position_limit(encoder), folder)
    quick = quick_counter(folder)
    assert quick.count(texts).tolist() == slow.count(texts).tolist()
    assert (quick.least, quick.limit) == (slow.least, slow.limit)
    pairs = [("good", "bad"), ("a film", "a bad film")]
    assert quick.count(pairs).tolist() == slow.count(pairs).tolist()
