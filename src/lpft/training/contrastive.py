"""Contrastive tuning: an encoder learns to tell the classes of few texts apart before it is probed.

Two texts of one class shall have features of one direction, two of different classes orthogonal
ones. Every batch is read once and gives all its pairs, B (B - 1) / 2 of B texts, where a training
on separate pairs reads each text again for every pair that it is in.

Tuning starts from a linear probe, whose head it leaves alone, and ends with another one on the
features that it made. Both probes have one strength, the choice of the first: after tuning, the
labels of all rows are in their features, and folds of them would choose the weakest one.

Source: Tunstall et al., Efficient Few-Shot Learning Without Prompts, 2022 (SetFit); Reimers and
Gurevych, Sentence-BERT, EMNLP 2019 (the loss).
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

from lpft.data.labels import class_weights
from lpft.errors import named
from lpft.model.classifier import LinearHeadClassifier
from lpft.model.inference import extract_features, head_logits, resolve_device
from lpft.settings import TrainingSettings, effective_epochs
from lpft.settings.methods import METHODS, check_installed
from lpft.training.cache import SplitInputs, cached_probe
from lpft.training.finetuning import CheckpointKeeper, Objective, train_steps, weights_by_class
from lpft.training.history import (
    EpochRule,
    FoldScores,
    Row,
    TrainingDiverged,
    TrainingReporter,
    evaluation_values,
)
from lpft.training.probing import install_probe

WARM_UP = 0.1
"""The share of steps over which the learning rate rises from 0."""
ROWS_TOGETHER = 4
"""Rows of one class that enter a batch together, so that each has pairs of its own class."""


def tune(
    model: LinearHeadClassifier,
    train: SplitInputs,
    validation: SplitInputs,
    settings: TrainingSettings,
    *,
    strength: float,
    rule: EpochRule,
    folder: Path,
    on_history: Callable[[list[Row]], None],
) -> None:
    """Tune ``model`` in place and probe it again, or leave it as it is if that is not better.

    Better by ``rule`` on validation; where the start does not count the tuned one stays.

    Args:
        model: a classifier with the head of linear probing.
        strength: the inverse strength of that probe, which the second one has too.
        settings: resolved.
        on_history: called with all rows so far whenever there is a new one.

    Raises:
        InputError: sentence-transformers is not installed.
        TrainingDiverged: a loss, gradient norm or logit is NaN or infinite.
    """
    start = copy.deepcopy(model.state_dict()) if rule.start_counts else {}
    first, _ = _score(model, validation, validation.pretrained, 0.0, settings)
    steps: list[Row] = []

    def keep(rows: list[Row]) -> None:
        steps[:] = rows
        on_history([first, *steps])

    on_history([first])
    tune_for(model, train, settings, strength=strength, folder=folder, on_history=keep)
    features = extract_features(model, validation.tokens, device=resolve_device(settings.device))
    epochs = effective_epochs(settings, len(train.labels))
    last, _ = _score(model, validation, features, epochs, settings)
    on_history([first, *steps, last])
    if rule.start_counts and rule.score(last) <= rule.score(first):
        model.load_state_dict(start)


def tune_scored(
    model: LinearHeadClassifier,
    train: SplitInputs,
    held_out: SplitInputs,
    settings: TrainingSettings,
    *,
    strength: float,
    epochs: float,
    folder: Path,
    name: str,
) -> FoldScores:
    """Tune ``model`` in place, probe it again, and score rows before and after.

    ``epochs`` are those of the training on all rows, and ``name`` is for the progress bar. Takes
    and raises what :func:`tune` does.
    """
    scores = [_score(model, held_out, held_out.pretrained, 0.0, settings)]
    _tune(model, train, settings, strength, epochs, folder, name, lambda _: None)
    features = extract_features(model, held_out.tokens, device=resolve_device(settings.device))
    scores.append(_score(model, held_out, features, epochs, settings))
    return [row for row, _ in scores], np.stack([logits for _, logits in scores])


def tune_for(
    model: LinearHeadClassifier,
    train: SplitInputs,
    settings: TrainingSettings,
    *,
    strength: float,
    folder: Path,
    on_history: Callable[[list[Row]], None],
) -> None:
    """Tune ``model`` in place and probe it again. Takes and raises what :func:`tune` does."""
    epochs = effective_epochs(settings, len(train.labels))
    _tune(model, train, settings, strength, epochs, folder, "contrastive tuning", on_history)


def _steps_per_epoch(rows: int, settings: TrainingSettings) -> int:
    assert settings.batch_size is not None, "settings must be resolved"
    return -(-rows // settings.batch_size)


def _tune(
    model: LinearHeadClassifier,
    train: SplitInputs,
    settings: TrainingSettings,
    strength: float,
    epochs: float,
    folder: Path,
    name: str,
    on_history: Callable[[list[Row]], None],
) -> None:
    """Take the steps, resuming from the last whole checkpoint below ``folder``; then probe."""
    steps = max(1, round(epochs * _steps_per_epoch(len(train.labels), settings)))
    device, classes = resolve_device(settings.device), model.config.classes
    weights = weights_by_class(
        class_weights(settings.class_weight, classes), train.labels, len(classes), train.weights
    )
    train_steps(
        model,
        train,
        settings,
        folder=folder,
        callbacks=[TrainingReporter(on_history, name), CheckpointKeeper()],
        objective=Objective(pair_loss(weights.to(device)), _ClassSampler, steps, WARM_UP),
    )
    model.eval()
    features = extract_features(model, train.tokens, device=device)
    tuned = replace(train, pretrained=features)
    install_probe(model.head, cached_probe(tuned, settings, classes, strength))


def _score(
    model: LinearHeadClassifier,
    rows: SplitInputs,
    features: NDArray[np.float32],
    epoch: float,
    settings: TrainingSettings,
) -> tuple[Row, NDArray[np.float32]]:
    """A row of the history, and the logits of held-out rows, by their features now (M x h)."""
    logits = head_logits(model, features)
    if not np.isfinite(logits).all():
        raise TrainingDiverged(
            f"the tuned model's logits are not finite: lower {named('learning_rate')}"
        )
    values = evaluation_values(model.head, logits, features, rows)
    step = round(epoch * _steps_per_epoch(len(rows.labels), settings))
    return {"event": "evaluation", "epoch": epoch, "step": step, **values}, logits


def pair_loss(weights: torch.Tensor) -> Callable[..., torch.Tensor]:
    """The loss of a batch's B features: the mean of that over pairs of one class and of two.

    ``L = (mean_{y_i = y_j} (1 - c_ij)^2 + mean_{y_i != y_j} c_ij^2) / 2``, with c_ij the cosine of
    phi_i and phi_j and means over pairs i < j, by sentence-transformers' CosineSimilarityLoss. The
    two kinds weigh the same, although with many classes nearly all pairs are of two. A batch that
    lacks one kind has the mean of the other; one of a single text 0. A pair weighs as much as its
    two texts and the ``weights`` [C] of their classes together, by product.

    Raises:
        InputError: sentence-transformers is not installed.
    """
    check_installed(METHODS["contrastive"])
    from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss

    # Its model would only compute the features.
    cosine = CosineSimilarityLoss(None, loss_fct=torch.nn.MSELoss(reduction="none"))

    def loss(
        outputs: Any,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
        row_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        features = outputs.features.float()
        of_row = weights[labels] if row_weights is None else weights[labels] * row_weights
        # All B (B - 1) / 2 pairs of the batch.
        first, second = torch.triu_indices(len(labels), len(labels), 1, device=labels.device)
        same = labels[first] == labels[second]
        losses = cosine.compute_loss_from_embeddings([features[first], features[second]], same)
        of_pair = of_row[first] * of_row[second]
        # The means over pairs of one class and of two weigh the same, if there are both.
        kinds = [kind for kind in (same, ~same) if of_pair[kind].sum() > 0]
        means = [(of_pair[kind] * losses[kind]).sum() / of_pair[kind].sum() for kind in kinds]
        mean = torch.stack(means).mean() if means else 0.0 * features.sum()
        # Where a step takes its batch in parts, each has its share, and pairs of its own.
        rows = len(labels) if num_items_in_batch is None else num_items_in_batch
        return mean * (len(labels) / rows)

    return loss


class _ClassSampler(Sampler[int]):
    """The order of :func:`class_order`, drawn from the seed and the epoch alone."""

    def __init__(self, rows: SplitInputs, seed: int) -> None:
        self.labels, self.seed, self.epoch = rows.labels, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng(np.random.SeedSequence([self.seed, self.epoch]))
        yield from class_order(self.labels, generator).tolist()


def class_order(labels: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """An order of N rows in which about :data:`ROWS_TOGETHER` of one class follow one another.

    The rows of each class are shuffled and divided into parts of nearly equal size, which then
    follow one another at random: each row has others of its class beside it, and of other classes.
    """
    parts: list[NDArray[np.int64]] = []
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        parts += np.array_split(members, max(1, round(len(members) / ROWS_TOGETHER)))
    return np.concatenate([parts[index] for index in generator.permutation(len(parts))])
