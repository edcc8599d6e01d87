"""Which texts repeat one another, exactly or nearly.

Exact: the same but for case, spacing and Unicode form (NFKC). Near: also the same words but for
punctuation and accents; or, from :data:`LONG` words on, at most one word in ten differs (edit
distance of words), or at least 90 % of the different 5-grams of words are shared (Jaccard).
Pairs repeat one another where both of their parts do.
"""

import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray

from lpft.data.examples import Text

LONG = 10
"""Words of a text from which on near-duplicates may differ in a word."""

JACCARD = 0.9
GRAM = 5

SKETCHED_WORDS = 1 << 24
"""Words of all long texts from which on only some 5-grams of each are looked up."""

SKETCH = 10
"""How many: those of the smallest hashes, which texts that share many 5-grams have in common."""

_POSTINGS = 20
_CANDIDATES = 10
_BLOCK_WORDS = 1 << 21
_EMOTICON = r"[:;=]['-]?[()\[\]/\\|DPpO*3]"
_IDEOGRAPH = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
# Ideographs are words of their own, and so are symbols that may carry the meaning.
_WORD = re.compile(
    rf"{_EMOTICON}|[{_IDEOGRAPH}]|(?:(?![{_IDEOGRAPH}])[^\W_])+|[+#$%@]|[^\x00-\x7f\w\s]"
)
_ACCENT = re.compile("[\u0300-\u036f]")
_APOSTROPHE = re.compile(r"(?<=\w)['\u2019](?=\w)")

Words = tuple[str, ...]
Numbers = tuple[int, ...]
"""The words of a part of a text, each by its number."""


@dataclass(frozen=True)
class Repetitions:
    """For each of N texts the index of the first text that it repeats, its own where it is new.

    Texts that repeat one another exactly do so nearly too: ``near`` joins what ``exact`` has. Where
    ``sketched``, a few near-duplicates may be missing.
    """

    exact: NDArray[np.int64]
    near: NDArray[np.int64]
    sketched: bool = False


def find_repetitions(texts: Sequence[Text]) -> Repetitions:
    """The exact and near-duplicates among N texts or pairs.

    Where B repeats A and C repeats B, all three are together.

    Texts that share a 5-gram are compared: two long ones of which one word in ten differs always
    do. A phrase that many texts have must not cost quadratic time: a 5-gram leads to the first 20
    texts that have it, and a text is compared with the 10 that share most with it.

    Where there are more than :data:`SKETCHED_WORDS` words, of each text only the 10 5-grams with
    the smallest hashes count. Two texts that share a third of their 5-grams, as do long ones of
    which each tenth word differs, have one of these in common with a probability of 98 %, which is
    1 - (2/3)^10; those of which fewer words differ nearly always.

    Source: Broder, Compression and Complexity of Sequences, 1997, for the smallest hashes.
    """
    return _repetitions(tuple(texts))


@lru_cache(maxsize=2)  # the same rows are divided into splits or folds, and checked
def _repetitions(texts: tuple[Text, ...]) -> Repetitions:
    exact, forms = _exact_and_forms(texts)
    distinct = np.unique(exact)
    near = _first_of_equal(forms)
    # a text of one word less may repeat a long one
    lengths = forms.lengths()
    long = np.flatnonzero((near == np.arange(len(near))) & (lengths >= LONG - 1))
    sketched = int(lengths[long].sum()) > SKETCHED_WORDS
    for first, later in _similar(forms, long, sketched=sketched):
        _join(near, first, later)
    roots = np.array([_root(near, form) for form in range(len(near))], dtype=np.int64)
    return Repetitions(exact, distinct[roots[np.searchsorted(distinct, exact)]], sketched)


@dataclass(frozen=True)
class _Forms:
    """The words of M different texts as numbers in one array, since strings take 15 times as much.

    Those of part p are ``words[ends[p] : ends[p + 1]]``; text i has the parts from ``parts[i]`` up
    to ``parts[i + 1]``.
    """

    words: NDArray[np.int32]
    ends: NDArray[np.int64]
    parts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.parts) - 1

    def lengths(self) -> NDArray[np.int64]:
        """Words of each text."""
        return np.diff(self.ends[self.parts])

    def of(self, text: int) -> tuple[Numbers, ...]:
        """The words of each part of a text."""
        ends = self.ends[self.parts[text] : self.parts[text + 1] + 1].tolist()
        return tuple(tuple(self.words[start:end].tolist()) for start, end in pairwise(ends))


def _exact_and_forms(texts: Sequence[Text]) -> tuple[NDArray[np.int64], _Forms]:
    """The first text that each repeats exactly, and the words of those that repeat none."""
    exact = np.empty(len(texts), dtype=np.int64)
    seen: dict[bytes, int] = {}
    numbers: dict[str, int] = {}
    words, ends, parts = array("i"), array("q", [0]), array("q", [0])
    for index, text in enumerate(texts):
        key = exact_key(text)
        exact[index] = seen.setdefault(_digest(repr(key).encode()), index)
        if exact[index] < index:
            continue
        for part in key:
            part_words = _words(part) or (part,)
            words.extend([numbers.setdefault(word, len(numbers)) for word in part_words])
            ends.append(len(words))
        parts.append(len(ends) - 1)
    forms = _Forms(
        np.frombuffer(words, dtype=np.int32) if words else np.zeros(0, np.int32),
        np.frombuffer(ends, dtype=np.int64),
        np.frombuffer(parts, dtype=np.int64),
    )
    return exact, forms


def _digest(content: bytes) -> bytes:
    """A hash of 16 bytes."""
    return blake2b(content, digest_size=16).digest()


def exact_key(text: Text) -> Words:
    """The normalised parts of a text; texts that repeat one another exactly have equal ones."""
    parts = (text,) if isinstance(text, str) else text
    return tuple(
        " ".join(
            (part if part.isascii() else unicodedata.normalize("NFKC", part)).casefold().split()
        )
        for part in parts
    )


def _words(part: str) -> Words:
    if part.isascii():
        return tuple(_WORD.findall(part.replace("'", "") if "'" in part else part))
    plain = unicodedata.normalize("NFC", _ACCENT.sub("", unicodedata.normalize("NFD", part)))
    words = _WORD.findall(_APOSTROPHE.sub("", plain))
    return tuple(word for word in words if unicodedata.category(word[0])[0] != "P" or len(word) > 1)


def _first_of_equal(forms: _Forms) -> NDArray[np.int64]:
    """For each text the index of the first one with the same words in the same parts."""
    seen: dict[bytes, int] = {}
    first = np.empty(len(forms), dtype=np.int64)
    for index in range(len(forms)):
        ends = forms.ends[forms.parts[index] : forms.parts[index + 1] + 1]
        content = (ends - ends[0]).tobytes() + forms.words[ends[0] : ends[-1]].tobytes()
        first[index] = seen.setdefault(_digest(content), index)
    return first


def _root(parents: NDArray[np.int64], item: int) -> int:
    while parents[item] != item:
        parents[item] = parents[parents[item]]
        item = int(parents[item])
    return item


def _join(parents: NDArray[np.int64], first: int, second: int) -> None:
    """Merge two sets, of which the lowest index is the root."""
    roots = sorted((_root(parents, first), _root(parents, second)))
    parents[roots[1]] = roots[0]


def _similar(
    forms: _Forms, long: NDArray[np.int64], *, sketched: bool
) -> Iterator[tuple[int, int]]:
    """Pairs of the ``long`` texts that are near-duplicates."""
    grams, ends = _shared_grams(forms, long, sketched=sketched)
    parents = np.arange(len(long), dtype=np.int64)
    # By 5-gram, the texts before this one that have it.
    postings: dict[int, list[int]] = {}
    for later in range(len(long)):
        text_grams = grams[ends[later] : ends[later + 1]].tolist()
        lists = [postings.setdefault(gram, []) for gram in text_grams]
        common = Counter(chain.from_iterable(lists))
        form = forms.of(int(long[later])) if common else ()
        for first, _ in common.most_common(_CANDIDATES):
            # those that are together already need not be compared
            if _root(parents, first) != _root(parents, later) and _near(
                forms.of(int(long[first])), form
            ):
                _join(parents, first, later)
                yield int(long[first]), int(long[later])
        for posting in lists:
            if len(posting) < _POSTINGS:
                posting.append(later)


def _shared_grams(
    forms: _Forms, long: NDArray[np.int64], *, sketched: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distinct 5-grams that each long text shares with another one, as numbers.

    Those of the text in place i are ``grams[ends[i] : ends[i + 1]]``.
    """
    starts, lengths = forms.ends[forms.parts[long]], forms.lengths()[long]
    blocks = list(_blocks(lengths))

    def words_of(block: slice) -> NDArray[np.int32]:
        index = np.repeat(starts[block] - _ends(lengths[block])[:-1], lengths[block])
        return forms.words[index + np.arange(len(index))]

    # A random 64-bit number per word and place: the sum over a window stands for its words. Words
    # are numbered anew as they occur in long texts, so that short ones change nothing.
    rank = _ranks(map(words_of, blocks), int(forms.words.max(initial=-1)) + 1)
    random = np.random.default_rng(0).integers(
        0, 2**64, size=(GRAM, int(rank.max(initial=-1)) + 1), dtype=np.uint64, endpoint=False
    )
    owners, hashes = [], []
    for block in blocks:
        sequence = rank[words_of(block)]
        owner = np.repeat(np.arange(block.start, block.stop), lengths[block])
        windows = max(len(sequence) - GRAM + 1, 0)
        gram_hashes = np.zeros(windows, dtype=np.uint64)
        for place in range(GRAM):
            gram_hashes += random[place, sequence[place : place + windows]]
        inside = owner[:windows] == owner[GRAM - 1 : GRAM - 1 + windows]
        owner, gram_hashes = owner[:windows][inside], gram_hashes[inside]
        order = np.lexsort((gram_hashes, owner))
        owner, gram_hashes = owner[order], gram_hashes[order]
        new = np.ones(len(gram_hashes), dtype=bool)
        new[1:] = (gram_hashes[1:] != gram_hashes[:-1]) | (owner[1:] != owner[:-1])
        owner, gram_hashes = owner[new], gram_hashes[new]
        if sketched:
            smallest = np.arange(len(owner)) - np.searchsorted(owner, owner) < SKETCH
            owner, gram_hashes = owner[smallest], gram_hashes[smallest]
        owners.append(owner)
        hashes.append(gram_hashes)
    texts = np.concatenate([np.zeros(0, np.int64), *owners])
    _, grams, occurrences = np.unique(
        np.concatenate([np.zeros(0, np.uint64), *hashes]), return_inverse=True, return_counts=True
    )
    recurs = occurrences[grams] > 1 if len(grams) else np.zeros(0, dtype=bool)
    return grams[recurs], np.searchsorted(texts[recurs], np.arange(len(long) + 1))


def _ranks(blocks: Iterable[NDArray[np.int32]], count: int) -> NDArray[np.int64]:
    """For each of ``count`` words its number in the order of first occurrence, -1 for others."""
    rank = np.full(count, -1, dtype=np.int64)
    ranked = 0
    for words in blocks:
        new, first = np.unique(words[rank[words] < 0], return_index=True)
        rank[new[np.argsort(first)]] = np.arange(ranked, ranked + len(new))
        ranked += len(new)
    return rank


def _blocks(lengths: NDArray[np.int64]) -> Iterator[slice]:
    """Slices of texts with few enough words that arrays over them stay small."""
    block = np.cumsum(lengths) // _BLOCK_WORDS
    borders = np.flatnonzero(np.diff(block, prepend=-1)).tolist()
    for start, stop in pairwise([*borders, len(lengths)]):
        yield slice(start, stop)


def _ends(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _near(first: tuple[Numbers, ...], second: tuple[Numbers, ...]) -> bool:
    return all(
        _few_edits(part, counterpart) or _many_grams(part, counterpart)
        for part, counterpart in zip(first, second, strict=True)
    )


def _many_grams(first: Numbers, second: Numbers) -> bool:
    """Whether two texts share enough of their distinct 5-grams."""
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


def _few_edits(first: Numbers, second: Numbers) -> bool:
    """Whether the edit distance of words is at most a tenth of the longer text's words."""
    limit = max(len(first), len(second)) // LONG
    first_words, second_words = set(first), set(second)
    if max(len(first_words - second_words), len(second_words - first_words)) > limit:
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
