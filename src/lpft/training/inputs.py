"""A labelled split as training and evaluation read it: tokens, labels and frozen features."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lpft.data.examples import Examples, Groups, TextData
from lpft.data.tokens import Tokens, tokenize
from lpft.model.inference import resolve_device
from lpft.model.loading import Classifier, build_classifier
from lpft.settings import TrainingSettings
from lpft.training.frozen import frozen_features


@dataclass(frozen=True)
class SplitInputs:
    """Tokens and labels of N texts, and phi_0 (N x h) by the encoder before training.

    ``groups`` are those of :class:`~lpft.data.examples.Examples`.
    """

    tokens: Tokens
    labels: NDArray[np.int64]
    pretrained: NDArray[np.float32]
    groups: Groups | None = None


def fresh_classifier(data: TextData, settings: TrainingSettings) -> Classifier:
    """The classifier that a training with ``settings`` on ``data`` starts from.

    Raises:
        InputError: as :func:`~lpft.model.loading.build_classifier`.
    """
    return build_classifier(
        settings.model,
        data.classes,
        seed=settings.seed,
        pooling=settings.pooling,
        head_bias=settings.head_bias,
        max_length=settings.max_length,
        revision=settings.revision,
        paired=isinstance(data.train.texts[0], tuple),
    )


def prepare_split(
    classifier: Classifier,
    examples: Examples,
    settings: TrainingSettings,
    *,
    encoder: str,
    cache_dir: Path | None,
    name: str,
) -> SplitInputs:
    """Tokenize a labelled split and compute phi_0 by the encoder as it is now.

    ``encoder`` is the :func:`~lpft.training.frozen.encoder_fingerprint`; ``name`` is the split's,
    for the progress bar.
    """
    assert examples.labels is not None, f"{name} has no labels"
    tokens = tokenize(classifier.tokenizer, examples.texts, classifier.max_length)
    pretrained = frozen_features(
        classifier.model,
        tokens,
        device=resolve_device(settings.device),
        encoder=encoder,
        cache_dir=cache_dir,
        description=f"frozen features, {name}",
    )
    return SplitInputs(tokens, examples.labels, pretrained, examples.groups)
