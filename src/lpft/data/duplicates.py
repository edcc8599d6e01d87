"""Which texts repeat one another, exactly or nearly.

Exact: the same but for case, spacing and Unicode form (NFKC). Near: also the same words but for
punctuation and accents; or, from :data:`LONG` words on, at most one word in ten differs (edit
distance of words), or at least 90 % of the different 5-grams of words are shared (Jaccard).
Pairs repeat one another where both of their parts do.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from lpft.data.examples import Text

LONG = 10
"""Words of a text from which on near-duplicates may differ in a word."""

JACCARD = 0.9
GRAM = 5

_POSTINGS = 20
_CANDIDATES = 10
_EMOTICON = r"[:;=]['-]?[()\[\]/\\|DPpO*3]"
_IDEOGRAPH = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
# Ideographs are words of their own, and so are symbols that may carry the meaning.
_WORD = re.compile(
    rf"{_EMOTICON}|[{_IDEOGRAPH}]|(?:(?![{_IDEOGRAPH}])[^\W_])+|[+#$%@]|[^\x00-\x7f\w\s]"
)
_ACCENT = re.compile("[\u0300-\u036f]")
_APOSTROPHE = re.compile(r"(?<=\w)['\u2019](?=\w)")

Words = tuple[str, ...]


@dataclass(frozen=True)
class Repetitions:
    """For each of N texts the index of the first text that it repeats, its own where it is new.

    Texts that repeat one another exactly do so nearly too: ``near`` joins what ``exact`` has.
    """

    exact: NDArray[np.int64]
    near: NDArray[np.int64]


def find_repetitions(texts: Sequence[Text]) -> Repetitions:
    """The exact and near-duplicates among N texts or pairs.

    Where B repeats A and C repeats B, all three are together.

    Texts that share a 5-gram are compared: two long ones of which one word in ten differs always
    do. A phrase that many texts have must not cost quadratic time: a 5-gram leads to the first 20
    texts that have it, and a text is compared with the 10 that share most with it.
    """
    return _repetitions(tuple(texts))


@lru_cache(maxsize=2)  # the same rows are divided into splits or folds, and checked
def _repetitions(texts: tuple[Text, ...]) -> Repetitions:
    keys = [exact_key(text) for text in texts]
    exact = _first_of_equal(keys)
    different = np.unique(exact)
    forms = [_word_form(keys[row]) for row in different]
    near = _first_of_equal(forms)
    # a text of one word less may repeat a long one
    long = [form for form in np.unique(near).tolist() if sum(map(len, forms[form])) >= LONG - 1]
    for first, later in _similar([forms[form] for form in long]):
        _join(near, long[first], long[later])
    roots = np.array([_root(near, form) for form in range(len(forms))], dtype=np.int64)
    return Repetitions(exact, different[roots[np.searchsorted(different, exact)]])


def exact_key(text: Text) -> Words:
    """What texts share that repeat one another exactly, a string for each part."""
    parts = (text,) if isinstance(text, str) else text
    return tuple(
        " ".join(
            (part if part.isascii() else unicodedata.normalize("NFKC", part)).casefold().split()
        )
        for part in parts
    )


def _word_form(key: Words) -> tuple[Words, ...]:
    """The words of each part, without accents and punctuation; a part without words as it is."""
    return tuple(_words(part) or (part,) for part in key)


def _words(part: str) -> Words:
    if part.isascii():
        return tuple(_WORD.findall(part.replace("'", "") if "'" in part else part))
    plain = unicodedata.normalize("NFC", _ACCENT.sub("", unicodedata.normalize("NFD", part)))
    found = _WORD.findall(_APOSTROPHE.sub("", plain))
    return tuple(word for word in found if unicodedata.category(word[0])[0] != "P" or len(word) > 1)


def _first_of_equal(values: Sequence[Hashable]) -> NDArray[np.int64]:
    """For each value the index of the first one that is equal."""
    seen: dict[Hashable, int] = {}
    return np.array(
        [seen.setdefault(value, index) for index, value in enumerate(values)], dtype=np.int64
    )


def _root(parents: NDArray[np.int64], item: int) -> int:
    while parents[item] != item:
        parents[item] = parents[parents[item]]
        item = int(parents[item])
    return item


def _join(parents: NDArray[np.int64], one: int, other: int) -> None:
    """Put two sets together; the lowest index stands for them."""
    roots = sorted((_root(parents, one), _root(parents, other)))
    parents[roots[1]] = roots[0]


def _similar(forms: Sequence[tuple[Words, ...]]) -> list[tuple[int, int]]:
    """Pairs of long texts, by their indices, that are near-duplicates."""
    grams = _shared_grams(forms)
    parents = np.arange(len(forms), dtype=np.int64)
    postings: dict[int, list[int]] = {}
    pairs = []
    for later, own in enumerate(grams):
        lists = [postings.setdefault(gram, []) for gram in own]
        common = Counter(chain.from_iterable(lists))
        for first, _ in common.most_common(_CANDIDATES):
            # those that are together already need not be compared
            if _root(parents, first) != _root(parents, later) and _near(forms[first], forms[later]):
                _join(parents, first, later)
                pairs.append((first, later))
        for posting in lists:
            if len(posting) < _POSTINGS:
                posting.append(later)
    return pairs


def _shared_grams(forms: Sequence[tuple[Words, ...]]) -> list[list[int]]:
    """For each text the different 5-grams, as numbers, that another text has too."""
    numbers: dict[str, int] = {}
    lengths = np.zeros(len(forms), dtype=np.int64)
    flat: list[int] = []
    for index, form in enumerate(forms):
        before = len(flat)
        for words in form:
            flat.extend([numbers.setdefault(word, len(numbers)) for word in words])
        lengths[index] = len(flat) - before
    # a random 64-bit number per word and place: the sum over a window stands for its words
    random = np.random.default_rng(0).integers(
        0, 2**64, size=(GRAM, len(numbers)), dtype=np.uint64, endpoint=False
    )
    sequence = np.array(flat, dtype=np.int64)
    count = max(len(sequence) - GRAM + 1, 0)
    hashes = np.zeros(count, dtype=np.uint64)
    for place in range(GRAM):
        hashes += random[place, sequence[place : place + count]]
    owner = np.repeat(np.arange(len(forms)), lengths)
    inside = owner[:count] == owner[GRAM - 1 : GRAM - 1 + count]
    _, grams = np.unique(hashes[inside], return_inverse=True)
    occurrences = np.unique(np.stack([owner[:count][inside], grams]), axis=1)
    recurs = np.bincount(occurrences[1], minlength=1)[occurrences[1]] > 1
    texts, kept = occurrences[0][recurs], occurrences[1][recurs]
    ends = np.searchsorted(texts, np.arange(len(forms) + 1))
    return [kept[ends[i] : ends[i + 1]].tolist() for i in range(len(forms))]


def _near(first: tuple[Words, ...], second: tuple[Words, ...]) -> bool:
    return all(
        _few_edits(one, other) or _many_grams(one, other)
        for one, other in zip(first, second, strict=True)
    )


def _many_grams(first: Words, second: Words) -> bool:
    """Whether two texts have enough of their different 5-grams in common."""
    # a word that one text has alone begins a 5-gram that it has alone, but for the last four
    most = (1 - JACCARD) / (1 + JACCARD) * (len(first) + len(second)) + 2 * (GRAM - 1)
    if len(set(first) ^ set(second)) > most:
        return False
    grams = [
        {words[start : start + GRAM] for start in range(len(words) - GRAM + 1)}
        for words in (first, second)
    ]
    either = grams[0] | grams[1]
    return bool(either) and len(grams[0] & grams[1]) >= JACCARD * len(either)


def _few_edits(first: Words, second: Words) -> bool:
    """Whether the edit distance of words is at most a tenth of the longer text's words."""
    limit = max(len(first), len(second)) // LONG
    one, other = set(first), set(second)
    if max(len(one - other), len(other - one)) > limit:
        return False
    # words that only one has, each a deletion, an insertion or half of a replacement
    missing = (Counter(first) - Counter(second)).total()
    added = (Counter(second) - Counter(first)).total()
    if max(missing, added) > limit:
        return False
    while first and second and first[0] == second[0]:
        first, second = first[1:], second[1:]
    while first and second and first[-1] == second[-1]:
        first, second = first[:-1], second[:-1]
    # dynamic programme over the diagonals within the limit
    before = {column: column for column in range(min(limit, len(second)) + 1)}
    for row, word in enumerate(first, start=1):
        now: dict[int, int] = {}
        for column in range(max(row - limit, 0), min(row + limit, len(second)) + 1):
            steps = [before.get(column, limit) + 1, now.get(column - 1, limit) + 1]
            if column > 0:
                steps.append(before.get(column - 1, limit + 1) + (word != second[column - 1]))
            now[column] = min(steps)
        if min(now.values()) > limit:
            return False
        before = now
    return before.get(len(second), limit + 1) <= limit
