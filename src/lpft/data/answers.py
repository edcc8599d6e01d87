"""How well a phrase answers a question whose right answers are phrases too."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def exact_match(phrase: str, answers: Sequence[str]) -> float:
    """1 if the phrase is one of the answers but for case, punctuation, articles and spacing.

    Source: Rajpurkar et al., EMNLP 2016 (SQuAD's evaluation), which ReCoRD uses.
    """
    words = _words(phrase)
    return float(any(words == _words(answer) for answer in answers))


def token_f1(phrase: str, answers: Sequence[str]) -> float:
    """The largest F1 of the phrase's words against an answer's, with :func:`exact_match`'s words.

    ``F1 = 2 n / (p + a)`` with n words in common (as often as both have them), p in the phrase and
    a in the answer; 0 where either has none.

    Source: Rajpurkar et al., EMNLP 2016.
    """
    words = Counter(_words(phrase))
    return max((_f1(words, Counter(_words(answer))) for answer in answers), default=0.0)


def _f1(words: Counter[str], answer: Counter[str]) -> float:
    total = words.total() + answer.total()
    return 2 * (words & answer).total() / total if total else 0.0


@lru_cache(maxsize=1024)
def _words(phrase: str) -> tuple[str, ...]:
    return tuple(_ARTICLES.sub(" ", phrase.lower().translate(_PUNCTUATION)).split())
