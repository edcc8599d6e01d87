"""One training from a fresh classifier to a calibrated one: probe, scale, fine-tune, calibrate."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lpft.analysis import TemperatureFit, fit_temperature
from lpft.data.splits import ValidationKind, fold_numbers, scored_rows
from lpft.errors import named
from lpft.model.adapters import add_adapter, merge_adapter, save_adapter
from lpft.model.classifier import LinearHeadClassifier
from lpft.model.encoder import seeded
from lpft.model.inference import extract_features, head_logits, resolve_device
from lpft.model.loading import Classifier
from lpft.settings import Method, TrainingSettings, get_method
from lpft.training.cache import (
    SplitInputs,
    cached_out_of_fold_logits,
    cached_probe,
    fold_groups,
)
from lpft.training.finetuning import finetune
from lpft.training.history import Row, TrainingDiverged, evaluation_values, head_norms
from lpft.training.probing import LinearProbe, install_probe

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scored:
    """The M rows that scored a training, chose its epoch and fitted its temperature.

    ``rows`` are their places in the split that they are of: the validation split, or where ``kind``
    is ``folds`` the training split, whose rows each were scored by a model trained without them;
    there are then ``folds`` of these. ``logits`` (M x C) are before the temperature, ``labels`` M
    class indices; ``features`` (M x h) of the trained model, None with folds.
    """

    kind: ValidationKind
    rows: NDArray[np.int64]
    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    features: NDArray[np.float32] | None = None
    folds: int | None = None


@dataclass(frozen=True)
class Fit:
    """What a training leaves behind beside the classifier that it changed in place.

    ``head_norm_at_start`` is ``||V||_F`` when fine-tuning began (after probing and scaling; for
    linear probing that of its random start); ``temperature`` how T was fitted, with T itself in it;
    ``validation`` what it was fitted on; ``adapter`` the folder of the unmerged adapter.
    """

    classifier: Classifier
    probe: LinearProbe | None
    head_norm_at_start: float
    temperature: TemperatureFit
    validation: Scored
    history: list[Row]
    adapter: Path | None
    timings: dict[str, float]


def fit_classifier(
    classifier: Classifier,
    train: SplitInputs,
    validation: SplitInputs | None,
    settings: TrainingSettings,
    *,
    metric: str,
    folder: Path,
    kind: ValidationKind = "file",
    on_history: Callable[[list[Row]], None] = lambda rows: None,  # noqa: ARG005
) -> Fit:
    """Train ``classifier`` by ``settings.method`` and fit its temperature on validation.

    Without ``validation``, ``kind`` being ``folds``, the temperature comes from out-of-fold logits
    of the training rows. ``settings`` must be resolved. Checkpoints are kept below
    ``folder / "checkpoints"`` and resumed from where they are there already; the adapter of a PEFT
    method goes to ``folder / "adapter"``. ``on_history`` is called with all rows so far whenever
    there is a new one.

    Raises:
        InputError: the data or the model cannot be trained on, or training diverges.
    """
    method = get_method(settings.method)
    model = classifier.model
    history: list[Row] = []
    probe, adapter = None, None

    def keep_history(rows: list[Row]) -> None:
        history[:] = rows
        on_history(rows)

    started = perf_counter()
    norm_at_start = head_norms(model.head)[0]
    if method.head_start == "lp":
        probe = _probe(model, train, settings)
    probed = perf_counter()
    if method.fine_tunes:
        assert validation is not None
        assert settings.head_scale is not None, "settings must be resolved"
        with torch.no_grad():
            model.head.weight.mul_(settings.head_scale)
        norm_at_start = head_norms(model.head)[0]
        with seeded(settings.seed):
            trained = _trainable(model, method, settings)
            finetune(
                trained,
                train,
                validation,
                settings,
                metric=metric,
                folder=folder / "checkpoints",
                on_history=keep_history,
            )
        if method.adapter is not None:
            adapter = folder / "adapter"
            shutil.rmtree(adapter, ignore_errors=True)
            save_adapter(trained, adapter)
            model = merge_adapter(trained)
    finetuned = perf_counter()

    model.eval()
    if validation is None:
        assert probe is not None
        logits = cached_out_of_fold_logits(train, settings, probe, model.config.num_labels)
        scored = _out_of_fold(train, logits)
    else:
        scored = _scored(model, validation, settings, kind)
    temperature = fit_temperature(scored.logits, scored.labels)
    model.config.temperature = temperature.temperature
    if not method.fine_tunes:
        inputs = (train if validation is None else validation).select(scored.rows)
        values = evaluation_values(model.head, scored.logits, inputs.pretrained, inputs)
        keep_history([{"event": "evaluation", "epoch": 0.0, "step": 0, **values}])
    return Fit(
        classifier=Classifier(model, classifier.tokenizer),
        probe=probe,
        head_norm_at_start=norm_at_start,
        temperature=temperature,
        validation=scored,
        history=history,
        adapter=adapter,
        timings={"probing": probed - started, "finetuning": finetuned - probed},
    )


def _scored(
    model: LinearHeadClassifier,
    validation: SplitInputs,
    settings: TrainingSettings,
    kind: ValidationKind,
) -> Scored:
    """The validation rows as the trained model scores them."""
    features = validation.pretrained
    if get_method(settings.method).fine_tunes:
        device = resolve_device(settings.device)
        features = extract_features(model, validation.tokens, device=device)
    logits = head_logits(model, features)
    if not np.isfinite(logits).all():
        raise TrainingDiverged(
            f"the trained model's logits are not finite: lower {named('learning_rate')}"
        )
    return Scored(kind, np.arange(len(logits)), logits, validation.labels, features)


def _out_of_fold(train: SplitInputs, logits: NDArray[np.float64]) -> Scored:
    """The training rows that can be scored, by their out-of-fold logits (N x C)."""
    fold = fold_numbers(train.labels, fold_groups(train))
    rows = scored_rows(train.labels, fold)
    chosen = logits[rows].astype(np.float32)
    return Scored("folds", rows, chosen, train.labels[rows], folds=len(np.unique(fold)))


def _probe(
    model: LinearHeadClassifier, train: SplitInputs, settings: TrainingSettings
) -> LinearProbe:
    """Fit the probe on phi_0 of the training rows and install it as the head."""
    probe = cached_probe(train, settings, model.config.num_labels)
    install_probe(model, probe)
    logger.info(
        "linear probe: inverse strength %.3g by %d folds, head norm %.3g",
        probe.inverse_strength,
        probe.folds,
        head_norms(model.head)[0],
    )
    if not probe.converged:
        logger.warning("the linear probe did not converge within its iterations")
    return probe


def _trainable(
    model: LinearHeadClassifier, method: Method, settings: TrainingSettings
) -> nn.Module:
    """The model itself, or with the method's adapter around it."""
    if method.adapter is None:
        return model
    assert settings.lora_rank is not None
    assert settings.lora_alpha is not None
    return add_adapter(model, method.adapter, rank=settings.lora_rank, alpha=settings.lora_alpha)
