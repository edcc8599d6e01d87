"""Whether what was written gives the run's probabilities, on texts of many lengths."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from lpft.data import Text
from lpft.data.corpus import load_corpus
from lpft.data.tokens import Tokens, tokenize
from lpft.errors import InputError
from lpft.export.tokens import BatchReader
from lpft.export.written import Batch, Scorer
from lpft.model import Classifier
from lpft.model.inference import extract_features, head_logits

TOLERANCE = 1e-4
"""The largest difference that an export may have: of a probability, and of a logit, there as a
part of the largest logit or of 1. (Probabilities near 0 and 1 hide what their logits show.)"""

_TEXTS = 32
_BATCH = 8


@dataclass(frozen=True)
class Agreement:
    """The largest difference of a probability, and of a logit over T up to a constant per text."""

    texts: int
    probability: float
    logit: float

    def as_record(self) -> dict[str, float]:
        return {
            "texts": self.texts,
            "largest_difference_of_a_probability": self.probability,
            "largest_difference_of_a_logit": self.logit,
            "tolerance": TOLERANCE,
        }


def check_texts(paired: bool) -> list[Text]:
    """Texts of the embedded corpus, with one of a single word and one that is cut."""
    sentences: list[str] = [str(text) for text in load_corpus().train.texts]
    singles = [*sentences[: _TEXTS - 1], "good", " ".join(sentences)]
    if not paired:
        return list(singles)
    return list(zip(singles, reversed(singles), strict=True))


def agreement(
    classifier: Classifier, read: BatchReader, score: Scorer, texts: list[Text]
) -> Agreement:
    """How far ``score`` of what ``read`` makes of texts, in batches, is from the classifier's f/T.

    Raises:
        InputError: a text has other tokens; or a probability or a logit differs by more than
            :data:`TOLERANCE`, or is not finite.
    """
    tokens = tokenize(classifier.tokenizer, texts, classifier.max_length)
    expected = _own_logits(classifier, tokens)
    rows = []
    for start in range(0, len(texts), _BATCH):
        batch = read(texts[start : start + _BATCH])
        _check_tokens(batch, tokens.columns["input_ids"][start:], classifier, read)
        rows.append(score(batch))
    found = np.concatenate(rows).astype(np.float64)
    probability = float(np.abs(softmax(found, axis=1) - softmax(expected, axis=1)).max())
    found, expected = _centred(found), _centred(expected)
    logit = float(np.abs(found - expected).max())
    allowed = {
        "probability": (probability, TOLERANCE),
        "logit": (logit, TOLERANCE * max(1.0, float(np.abs(expected).max()))),
    }
    for name, (difference, most) in allowed.items():
        if not difference <= most:
            raise InputError(
                f"what was written differs from the run by {difference:.2g} in a {name}, where at "
                f"most {most:.2g} is allowed, and was removed: use another --format"
            )
    return Agreement(len(texts), probability, logit)


def _check_tokens(
    batch: Batch, expected: list[list[int]], classifier: Classifier, read: BatchReader
) -> None:
    family = classifier.model.encoder.config.model_type
    own, loaded = type(classifier.tokenizer).__name__, type(read.tokenizer).__name__
    for ids, mask, row in zip(batch["input_ids"], batch["attention_mask"], expected, strict=False):
        if ids[mask > 0].tolist() != row:
            raise InputError(
                f"Transformers loads the tokenizer of a {family} model as {loaded}, which gives "
                f"other tokens than the run's {own}: use the run itself, with lpft"
            )


def _own_logits(classifier: Classifier, tokens: Tokens) -> NDArray[np.float64]:
    """f(x) / T as ``lpft predict`` has it."""
    features = extract_features(
        classifier.model, tokens, device=torch.device("cpu"), description="checking the export"
    )
    logits = head_logits(classifier.model, features).astype(np.float64)
    return logits / classifier.model.config.temperature


def _centred(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return logits - logits.mean(axis=1, keepdims=True)
