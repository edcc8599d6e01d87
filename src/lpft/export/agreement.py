"""Whether what was written gives the run's probabilities, read as a user's program reads it."""

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from transformers import PreTrainedTokenizerBase

from lpft.data import Text
from lpft.data.corpus import load_corpus
from lpft.data.tokens import tokenize
from lpft.errors import InputError, named
from lpft.model import Classifier
from lpft.model.inference import extract_features, head_logits

Batch = dict[str, NDArray[np.int64]]
"""Padded token ids and masks by their names, N x T each."""

Scorer = Callable[[Batch], NDArray[np.float32]]
"""The logits (N x C) of a batch, by what was written alone."""

TOLERANCE = 1e-4
"""The largest difference that an export may have: of a probability, and of a logit, there as a
part of the largest logit or of 1. (Probabilities near 0 and 1 hide what their logits show.)"""

_TEXTS = 32
_BATCH = 8


def agreement(
    classifier: Classifier,
    tokenizer: PreTrainedTokenizerBase,
    score: Scorer,
    texts: Sequence[Text],
) -> dict[str, float]:
    """How far ``score`` is from the classifier's f / T, on batches that ``tokenizer`` makes.

    The largest difference of a probability, and of a logit up to a constant per text, by the names
    that ``export.json`` has for them.

    Raises:
        InputError: a text has other tokens; or a probability or a logit differs by more than
            :data:`TOLERANCE`, or is not finite.
    """
    tokens = tokenize(classifier.tokenizer, texts, classifier.max_length)
    ids = tokens.lists()
    rows = []
    for start in range(0, len(texts), _BATCH):
        batch = _batch(tokenizer, texts[start : start + _BATCH])
        padded = zip(batch["input_ids"], batch["attention_mask"], strict=True)
        if [row[mask > 0].tolist() for row, mask in padded] != ids[start : start + _BATCH]:
            family = classifier.model.encoder.config.model_type
            raise InputError(
                f"Transformers loads the tokenizer of a {family} model as "
                f"{type(tokenizer).__name__}, which gives other tokens than the run's "
                f"{type(classifier.tokenizer).__name__}: use the run itself, with lpft"
            )
        rows.append(score(batch))
    features = extract_features(
        classifier.model, tokens, device=torch.device("cpu"), description="checking the export"
    )
    expected = head_logits(classifier.model, features).astype(np.float64)
    expected /= classifier.model.config.temperature
    exported = np.concatenate(rows).astype(np.float64)
    probability = float(np.abs(softmax(exported, axis=1) - softmax(expected, axis=1)).max())
    # Softmax does not see a constant that is added to all logits of a text.
    expected -= expected.mean(axis=1, keepdims=True)
    exported -= exported.mean(axis=1, keepdims=True)
    logit = float(np.abs(exported - expected).max())
    largest = max(1.0, float(np.abs(expected).max()))
    for name, difference, allowed in (
        ("probability", probability, TOLERANCE),
        ("logit", logit, TOLERANCE * largest),
    ):
        if not difference <= allowed:
            raise InputError(
                f"what was written differs from the run by {difference:.2g} in a {name}, where at "
                f"most {allowed:.2g} is allowed, and was removed: use another {named('format')}"
            )
    return {
        "texts": len(texts),
        "largest_difference_of_a_probability": probability,
        "largest_difference_of_a_logit": logit,
        "tolerance": TOLERANCE,
    }


def check_texts(paired: bool) -> list[Text]:
    """Texts of the bundled corpus, with one of a single word and one that is truncated."""
    sentences = [str(text) for text in load_corpus().train.texts]
    singles = [*sentences[: _TEXTS - 1], "good", " ".join(sentences)]
    if not paired:
        return list(singles)
    return list(zip(singles, reversed(singles), strict=True))


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, inputs: Iterable[str], folder: Path) -> None:
    """Write a tokenizer that gives just ``inputs`` and pads on the right, as stock models read."""
    copied = deepcopy(tokenizer)
    copied.model_input_names = [name for name in copied.model_input_names if name in set(inputs)]
    copied.padding_side = "right"
    copied.save_pretrained(folder)


def _batch(tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text]) -> Batch:
    """Texts, or pairs, as one batch: padded and truncated as the tokenizer's files say."""
    columns = zip(*((text,) if isinstance(text, str) else text for text in texts), strict=True)
    encoded = tokenizer(*map(list, columns), padding=True, truncation=True, return_tensors="np")
    return {name: np.asarray(values, dtype=np.int64) for name, values in encoded.items()}
