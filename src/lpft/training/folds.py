"""Fine-tuning where there are few rows: folds choose the epoch, and all rows train for as long.

Each of K trainings leaves one fold out and scores it before the first step and after every epoch.
Together they score every row by models that were trained without it, at every epoch, as a
validation set of N rows would. K + 1 trainings of few rows take the place of one.
"""

import json
import logging
import shutil
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from torch import nn

from lpft.data.splits import scored_rows
from lpft.files import replace_when_written
from lpft.model.encoder import seeded
from lpft.settings import TrainingSettings
from lpft.settings.methods import get_method
from lpft.training.cache import SplitInputs
from lpft.training.finetuning import finetune_scored
from lpft.training.history import Row, epochs_since_best, pooled_evaluation

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CrossValidation:
    """The M rows that could be scored, and what models trained without them say at E + 1 epochs.

    ``rows`` are places in the training rows; ``logits`` are E + 1 x M x C, ``evaluations`` rows of
    a history, with the mean over folds of what belongs to a model.
    """

    rows: NDArray[np.int64]
    logits: NDArray[np.float32]
    evaluations: list[Row]
    folds: int


def cross_validate(
    start: Callable[[SplitInputs], nn.Module],
    train: SplitInputs,
    settings: TrainingSettings,
    *,
    metric: str,
    folder: Path,
) -> CrossValidation:
    """Fine-tune once without each fold of the training rows, and score it at every epoch.

    Patience ends the epochs where the scores by ``metric`` of all folds together would have ended
    a training.

    Each fold has a folder of its own below ``folder``: what is finished there is read, and a
    training that was stopped goes on from its last checkpoint.

    Args:
        start: the model that a training on the given rows begins from; called in a seeded block.
        settings: resolved.

    Raises:
        InputError: no row can be scored.
        TrainingDiverged: a loss, gradient norm or logit is NaN or infinite.
    """
    fold = train.folds()
    rows = scored_rows(train.labels, fold)
    used = np.unique(fold[rows]).tolist()
    scored: list[tuple[list[Row], NDArray[np.float32]]] = []
    for number in used:
        inside = np.flatnonzero(fold != number)
        held_out = rows[fold[rows] == number]
        name = f"fold {len(scored) + 1} of {len(used)}"
        scored.append(
            _scored_fold(
                start,
                train.select(inside),
                train.select(held_out),
                settings,
                folder=folder / f"fold-{number}",
                name=name,
            )
        )
        logger.info("%s: validation accuracy %.3f at its best", name, _best_accuracy(scored[-1][0]))
    order = np.argsort(np.concatenate([rows[fold[rows] == number] for number in used]))
    logits = np.concatenate([each for _, each in scored], axis=1)[:, order]
    steps = -(-len(train.labels) // (settings.batch_size or 1))
    evaluations = [
        pooled_evaluation(parts, logits[epoch], train.select(rows), steps)
        for epoch, parts in enumerate(zip(*(each for each, _ in scored), strict=True))
    ]
    if settings.patience is not None:
        scores = [row[f"validation_{metric}"] for row in evaluations]
        first = 0 if get_method(settings.method).head_start == "lp" else 1
        counted = range(first + 1, len(scores) + 1)
        ends = (end for end in counted if epochs_since_best(scores[first:end]) >= settings.patience)
        evaluations = evaluations[: next(ends, len(scores))]
    return CrossValidation(rows, logits, evaluations, len(used))


def _scored_fold(
    start: Callable[[SplitInputs], nn.Module],
    train: SplitInputs,
    held_out: SplitInputs,
    settings: TrainingSettings,
    *,
    folder: Path,
    name: str,
) -> tuple[list[Row], NDArray[np.float32]]:
    """One fold's evaluations and logits, read where they are finished."""
    finished = folder.with_suffix(".npz")
    if finished.is_file():
        try:
            return _read_fold(finished)
        except (OSError, ValueError, KeyError, BadZipFile, zlib.error) as error:
            logger.warning("'%s' is damaged (%s): this fold is trained again", finished, error)
    with seeded(settings.seed):
        evaluations, logits = finetune_scored(
            start(train),
            train,
            held_out,
            settings,
            folder=folder,
            name=f"fine-tuning, {name}",
        )
    with replace_when_written(finished) as temporary, temporary.open("wb") as file:
        np.savez(file, logits=logits, evaluations=json.dumps(evaluations))
    shutil.rmtree(folder)
    return evaluations, logits


def _read_fold(finished: Path) -> tuple[list[Row], NDArray[np.float32]]:
    """A fold's evaluations and logits from its file, whose parts have checksums."""
    with np.load(finished) as content:
        return json.loads(str(content["evaluations"])), content["logits"]


def _best_accuracy(evaluations: Sequence[Row]) -> float:
    return max(row["validation_accuracy"] for row in evaluations)
