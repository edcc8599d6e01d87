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
from functools import partial
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from lpft import distributed
from lpft.data.splits import scored_rows
from lpft.files import replace_when_written
from lpft.model.encoder import seeded
from lpft.settings import TrainingSettings
from lpft.training.cache import SplitInputs
from lpft.training.history import EpochRule, Row, epochs_since_best, pooled_evaluation

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


FoldScores = tuple[list[Row], NDArray[np.float32]]
"""E + 1 rows of a history's evaluations, and the logits of M held-out rows at each (E + 1 x M x C).
"""


def cross_validate(
    train_scored: Callable[[SplitInputs, SplitInputs, Path, str], FoldScores],
    train: SplitInputs,
    settings: TrainingSettings,
    *,
    rule: EpochRule,
    folder: Path,
) -> CrossValidation:
    """Fine-tune once without each fold of the training rows, and score it at every epoch.

    Patience ends the epochs where the scores by ``rule`` of all folds together would have ended a
    training.

    Each fold has a folder of its own below ``folder``: what is finished there is read, and a
    training that was stopped goes on from its last checkpoint.

    Args:
        train_scored: trains on the rows of its first argument and scores those of its second before
            the first step and after every epoch; takes a folder and a name for the progress bar,
            and is called in a seeded block.
        settings: resolved.

    Raises:
        InputError: no row can be scored.
        TrainingDiverged: a loss, gradient norm or logit is NaN or infinite.
    """
    fold = train.folds()
    rows = scored_rows(train.labels, fold)
    used = np.unique(fold[rows]).tolist()
    scored: list[FoldScores] = []
    for number in used:
        inside = np.flatnonzero(fold != number)
        held_out = rows[fold[rows] == number]
        name = f"fold {len(scored) + 1} of {len(used)}"
        part = folder / f"fold-{number}"
        finished = part.with_suffix(".npz")
        result = distributed.agreed(partial(_read, finished))
        if result is None:
            with seeded(settings.seed):
                result = train_scored(train.select(inside), train.select(held_out), part, name)
            distributed.wait_for_all()  # each has read what lies in the main one's folder
            if distributed.is_main():
                _write(result, finished)
                shutil.rmtree(part)
        scored.append(result)
        logger.info("%s: validation accuracy %.3f at its best", name, _best_accuracy(scored[-1][0]))
    order = np.argsort(np.concatenate([rows[fold[rows] == number] for number in used]))
    logits = np.concatenate([each for _, each in scored], axis=1)[:, order]
    steps = -(-len(train.labels) // (settings.batch_size or 1))
    evaluations = [
        pooled_evaluation(parts, logits[epoch], train.select(rows), steps)
        for epoch, parts in enumerate(zip(*(each for each, _ in scored), strict=True))
    ]
    if settings.patience is not None:
        scores, first = [rule.score(row) for row in evaluations], rule.first
        counted = range(first + 1, len(scores) + 1)
        ends = (end for end in counted if epochs_since_best(scores[first:end]) >= settings.patience)
        evaluations = evaluations[: next(ends, len(scores))]
    return CrossValidation(rows, logits, evaluations, len(used))


def _write(scores: FoldScores, path: Path) -> None:
    evaluations, logits = scores
    with replace_when_written(path) as temporary, temporary.open("wb") as file:
        np.savez(file, logits=logits, evaluations=json.dumps(evaluations))


def _read(path: Path) -> FoldScores | None:
    """A fold that is finished, from its file, whose parts have checksums."""
    if not path.is_file():
        return None
    try:
        with np.load(path) as content:
            return json.loads(str(content["evaluations"])), content["logits"]
    except (OSError, ValueError, KeyError, BadZipFile, zlib.error) as error:
        logger.warning("'%s' is damaged (%s): this fold is trained again", path, error)
        return None


def _best_accuracy(evaluations: Sequence[Row]) -> float:
    return max(row["validation_accuracy"] for row in evaluations)
