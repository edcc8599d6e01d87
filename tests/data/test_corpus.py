"""The bundled corpus: counts, balance, and that its sentences are neither copies nor templates."""

import re
from collections import Counter, defaultdict
from itertools import combinations
from statistics import median, quantiles

import pytest
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from lpft.data.checks import check_data
from lpft.data.corpus import CLASSES, OOD_DOMAINS, load_corpus

COPIED_WORDS = 7
"""A run of words that two independent sentences do not share; six occur in idioms."""

TEMPLATE_WORDS = 8
"""Texts of fewer words are too short for their function words to mean anything."""


def words_of(text):
    return re.findall(r"[a-z0-9']+", text.lower())


def overlap(first, second):
    """Jaccard index of two texts' sets of content words (those not in scikit-learn's stop list)."""
    one, other = (set(words_of(text)) - ENGLISH_STOP_WORDS for text in (first, second))
    return len(one & other) / len(one | other) if one | other else 1.0


def largest_overlap(texts):
    sets = [set(words_of(text)) - ENGLISH_STOP_WORDS for text in texts]
    holders = defaultdict(set)
    for row, words in enumerate(sets):
        for word in words:
            holders[word].add(row)
    # only texts that share a word can overlap
    pairs = {pair for rows in holders.values() for pair in combinations(sorted(rows), 2)}
    return max((overlap(texts[i], texts[j]), texts[i], texts[j]) for i, j in pairs)


def shared_runs(texts, length):
    holders = defaultdict(set)
    for row, text in enumerate(texts):
        words = words_of(text)
        for start in range(len(words) - length + 1):
            holders[" ".join(words[start : start + length])].add(row)
    return [run for run, rows in holders.items() if len(rows) > 1]


def skeleton(text):
    """The text with its content words blanked: two fillings of one template have the same."""
    return " ".join(word if word in ENGLISH_STOP_WORDS else "_" for word in words_of(text))


@pytest.fixture(scope="module")
def corpus():
    return load_corpus()


@pytest.fixture(scope="module")
def texts(corpus):
    return [text for examples in corpus.splits().values() for text in examples.texts]


def test_the_measures_see_what_they_are_for():
    filled = [
        "The {} was delivered on {} and it has been {} ever since.".format(*words)
        for words in [("kettle", "Monday", "boiling"), ("lamp", "Friday", "glowing")]
    ]
    assert skeleton(filled[0]) == skeleton(filled[1])
    # kettle delivered monday boiling | lamp delivered friday glowing: 1 of 7
    assert overlap(*filled) == pytest.approx(1 / 7)
    near = "The kettle was delivered Monday, it is boiling."
    assert largest_overlap([*filled, near])[0] == 1.0
    assert shared_runs(filled, 3) == ["was delivered on", "and it has", "it has been"]
    assert shared_runs(filled, 4) == ["and it has been"]


def test_sizes_and_balance(corpus):
    assert corpus.classes == CLASSES == ("negative", "neutral", "positive")
    assert OOD_DOMAINS == ("restaurants", "films", "posts")
    per_class = {
        name: Counter(examples.labels.tolist()) for name, examples in corpus.splits().items()
    }
    products = [per_class[split] for split in ("train", "validation", "test")]
    for counts in products:
        assert len(set(counts.values())) == 1
    assert sum(products, Counter()) == {0: 200, 1: 200, 2: 200}
    for domain in OOD_DOMAINS:
        assert per_class[f"ood/{domain}"] == {0: 40, 1: 40, 2: 40}
    assert len(corpus.splits()) == 6


def test_the_checks_find_nothing(corpus):
    assert check_data(corpus) == []


def test_no_two_texts_are_near_duplicates(texts):
    assert len(texts) == 960
    assert len({" ".join(words_of(text)) for text in texts}) == 960
    assert largest_overlap(texts)[0] < 0.5
    assert shared_runs(texts, COPIED_WORDS) == []


def test_no_texts_fill_a_template(texts):
    long = [text for text in texts if len(words_of(text)) >= TEMPLATE_WORDS]
    assert len(long) > 800
    repeated = [key for key, count in Counter(map(skeleton, long)).items() if count > 1]
    assert repeated == []
    starts = Counter(" ".join(words_of(text)[:3]) for text in texts)
    assert max(starts.values()) <= 4
    first_words = Counter(words_of(text)[0] for text in texts)
    assert max(first_words.values()) <= 0.15 * len(texts)


def test_lengths_vary_and_do_not_tell_the_class(corpus):
    for name, examples in corpus.splits().items():
        lengths = [len(words_of(text)) for text in examples.texts]
        first, _, third = quantiles(lengths, n=4)
        assert third >= 1.4 * first, name
        assert min(lengths) <= 6, name
        assert max(lengths) >= 30, name
        by_class = [
            median(
                n for n, label in zip(lengths, examples.labels, strict=True) if label == position
            )
            for position in range(len(CLASSES))
        ]
        assert max(by_class) <= 1.4 * min(by_class), name
