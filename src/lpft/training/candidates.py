"""One method among several that are trained on the same data: its training, and how it competes."""

import logging
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lpft.analysis.calibration import negative_log_likelihood
from lpft.analysis.selection import Candidate, Choice, choose, reason_to_skip
from lpft.data.examples import TextData
from lpft.data.splits import labelled_rows, validation_kind
from lpft.model.inference import encoder_fingerprint
from lpft.model.loading import fresh_classifier
from lpft.settings import TrainingSettings, resolve
from lpft.settings.configs import AUTO_METHODS, training_of
from lpft.training.cache import prepare_splits
from lpft.training.fit import Fit, fit_classifier
from lpft.training.history import TrainingDiverged

logger = logging.getLogger(__name__)


def fit_data(data: TextData, settings: TrainingSettings) -> Fit:
    """Train a fresh classifier on ``data`` with resolved settings, leaving no files.

    Raises:
        InputError: as :func:`~lpft.training.fit.fit_classifier`, or the model cannot be loaded.
    """
    classifier = fresh_classifier(data, settings)
    encoder = encoder_fingerprint(classifier.model)
    kind, inputs = prepare_splits(classifier, data, settings, encoder=encoder)
    with tempfile.TemporaryDirectory(prefix="lpft-") as folder:
        return fit_classifier(
            classifier,
            inputs["train"],
            inputs.get("validation"),
            settings,
            metric=data.metric,
            folder=Path(folder),
            kind=kind,
        )


def holds_out_more(data: TextData, method: str) -> bool:
    """Whether fine-tuning holds rows out that linear probing trains on."""
    return method == "lp" and validation_kind(data, fine_tunes=True) == "held-out"


def held_out_probe(data: TextData, settings: TrainingSettings) -> Fit:
    """Linear probing as it competes with fine-tuning that holds rows out: without them too.

    The probe that is kept is fitted on all rows; it scores every row, by folds, and not these.
    """
    return fit_data(replace(data, held_out=False), settings)


def as_candidate(
    settings: TrainingSettings,
    labels: NDArray[np.int64],
    logits: NDArray[np.floating],
    temperature: float,
) -> Candidate:
    """A training by the labels (N) and logits (N x C) of its validation rows."""
    correct = logits.argmax(axis=1) == labels
    nll = negative_log_likelihood(logits, labels, temperature)
    return Candidate(settings.method, settings.seed, correct, nll)


def rows_per_class(data: TextData) -> float:
    """Labelled rows of the training file per class, in the mean."""
    train = labelled_rows(data) if data.held_out else data.train
    return len(train) / len(data.classes)


def fit_several(
    data: TextData, shared_settings: TrainingSettings
) -> tuple[list[Fit], list[Candidate], Choice, dict[str, str]]:
    """Train what ``lpft train --method auto`` trains, in memory, and choose as it does.

    Each method takes those of ``shared_settings`` that it has. Returns the fits, how they compete,
    the choice among them, and why any methods were left out.

    Raises:
        InputError: as :func:`fit_data`. A method that diverges is left out, unless it is the first.
    """
    fits: list[Fit] = []
    candidates: list[Candidate] = []
    left_out: dict[str, str] = {}
    for method in AUTO_METHODS:
        reason = reason_to_skip(method, candidates, rows_per_class(data)) if candidates else None
        if reason is not None:
            left_out[method] = reason
            continue
        settings = resolve(training_of(shared_settings, method))
        try:
            fit = fit_data(data, settings)
        except TrainingDiverged as error:
            if not candidates:
                raise
            left_out[method] = str(error)
            continue
        competing = held_out_probe(data, settings) if holds_out_more(data, method) else fit
        scored = competing.validation
        candidate = as_candidate(
            settings, scored.labels, scored.logits, competing.calibration.temperature
        )
        logger.info("%s: accuracy %.3f on validation", method, candidate.score)
        candidates.append(candidate)
        fits.append(fit)
    return fits, candidates, choose(candidates, rows_per_class(data)), left_out
