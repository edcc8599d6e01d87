import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpft.data import duplicates
from lpft.data.checks import check_data
from lpft.data.duplicates import find_repetitions
from lpft.data.examples import Examples, TextData

WORDS = [f"word{number}" for number in range(200)]


def repeats(*texts):
    """Whether the last text repeats the first one exactly, and nearly."""
    result = find_repetitions(texts)
    return bool(result.exact[-1] == 0), bool(result.near[-1] == 0)


def sentence(count, start=0):
    return WORDS[start : start + count]


def changed(words, *places):
    return " ".join("other" if place in places else word for place, word in enumerate(words))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("Great phone", "great  PHONE ", (True, True)),
        ("caf\u00e9 noir", "cafe\u0301 noir", (True, True)),  # one letter, or letter and accent
        ("\uff27ood", "Good", (True, True)),  # a full-width letter
        ("Great phone!", "Great phone.", (False, True)),
        ("Don't buy it", "dont buy it!", (False, True)),
        ("It\u2019s fine", "It's fine", (False, True)),
        ("na\u00efve plot", "naive plot", (False, True)),
        ("Great phone", "Great phones", (False, False)),
        ("not good", "good", (False, False)),
        ("I like C", "I like C++", (False, False)),
        ("fine :)", "fine :(", (False, False)),
        ("fine \U0001f600", "fine \U0001f620", (False, False)),
        ("???", "...", (False, False)),
        ("\u5929\u6c14\u5f88\u597d\u3002", "\u5929\u6c14\u5f88\u597d", (False, True)),
    ],
)
def test_short_texts_repeat_only_in_the_same_words(first, second, expected):
    assert repeats(first, second) == expected


@pytest.mark.parametrize(
    ("count", "differing", "near"),
    [(9, 1, False), (10, 1, True), (19, 1, True), (19, 2, False), (20, 2, True), (35, 4, False)],
)
def test_one_word_in_ten_may_differ(count, differing, near):
    words = sentence(count)
    places = range(count // 2, count // 2 + differing)
    assert repeats(" ".join(words), changed(words, *places)) == (False, near)


def test_words_may_be_left_out_or_added():
    words = sentence(20)
    assert repeats(" ".join(words), " ".join(words[:7] + words[8:])) == (False, True)
    assert repeats(" ".join(words), " ".join([*words[:7], "new", *words[7:]])) == (False, True)
    assert repeats(" ".join(words), " ".join(["a", "b", "c", *words])) == (False, False)


def test_nine_in_ten_shared_five_grams_are_enough():
    """Two halves of 100 words that change places: 92 of 100 different 5-grams are shared."""
    words = sentence(100)
    assert repeats(" ".join(words), " ".join(words[50:] + words[:50])) == (False, True)


def test_pairs_repeat_where_both_parts_do():
    premise = " ".join(sentence(40))
    assert repeats((premise, "it rained"), (premise, "it did not rain")) == (False, False)
    assert repeats((premise, "It rained."), (changed(sentence(40), 3), "it rained")) == (
        False,
        True,
    )


def test_nearness_is_passed_on():
    words = sentence(12)
    texts = [" ".join(words), changed(words, 2), changed(words, 2, 7)]
    assert find_repetitions(texts).near.tolist() == [0, 0, 0]
    assert find_repetitions(texts[::2]).near.tolist() == [0, 1]


@given(
    count=st.integers(10, 60),
    edits=st.lists(st.tuples(st.sampled_from("dri"), st.integers(0, 59)), max_size=6),
)
def test_every_text_within_the_edit_distance_is_paired(count, edits):
    """The search by shared 5-grams misses none that the rule has."""
    words = sentence(count)
    for kind, place in edits[: count // 10]:
        place %= len(words)
        words[place : place + (kind != "i")] = [] if kind == "d" else [f"new{place}"]
    others = [" ".join(random.Random(seed).choices(WORDS, k=count)) for seed in range(5)]
    assert repeats(" ".join(sentence(count)), *others, " ".join(words))[1]


def test_texts_of_one_template_are_compared_in_linear_time():
    """4,000 texts share 40 words; comparing all pairs would take minutes."""
    shared = " ".join(sentence(40))
    texts = [
        f"{shared} {' '.join(f'own{row}x{place}' for place in range(9))}" for row in range(4000)
    ]
    result = find_repetitions([*texts, texts[7] + " more"])
    assert np.array_equal(result.near[:-1], np.arange(4000))
    assert result.near[-1] == 7


def test_no_texts():
    assert find_repetitions([]).near.tolist() == []


def test_among_very_many_words_some_5_grams_of_each_text_find_what_all_do(monkeypatch):
    generator = random.Random(0)
    texts = [" ".join(generator.choices(WORDS, k=generator.randint(10, 60))) for _ in range(300)]
    for row in range(0, 300, 3):  # a tenth of the words differs, which is the most
        words = texts[row].split()
        places = generator.sample(range(len(words)), len(words) // 10)
        texts[row + 1] = changed(words, *places)
    exact = find_repetitions(texts)
    assert not exact.sketched
    monkeypatch.setattr(duplicates, "SKETCHED_WORDS", 100)
    duplicates._repetitions.cache_clear()
    sketched = find_repetitions(texts)
    duplicates._repetitions.cache_clear()
    assert sketched.sketched
    repeating = exact.near != np.arange(300)
    assert repeating.sum() >= 100
    assert np.mean(sketched.near[repeating] == exact.near[repeating]) >= 0.95
    assert (sketched.near[~repeating] == exact.near[~repeating]).all()


def test_a_search_by_some_5_grams_is_said_in_its_finding(monkeypatch):
    monkeypatch.setattr(duplicates, "SKETCHED_WORDS", 10)
    texts = [*(" ".join(sentence(20, start)) for start in range(0, 160, 20))]
    texts += [changed(sentence(20), 7), "short"]
    rows = Examples([str(row) for row in range(10)], texts, np.arange(10) % 2)
    other = Examples(["a", "b"], ["some other", "more"], np.arange(2))
    findings = check_data(TextData("x", ("a", "b"), rows, other))
    (finding,) = [each for each in findings if each.kind == "near-duplicates"]
    assert finding.rows == {"train": [1, 9]}
    assert "10 5-grams" in finding.message
