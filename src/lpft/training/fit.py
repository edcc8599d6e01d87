"""One training from a fresh classifier to a calibrated one: probe, scale, fine-tune, calibrate."""

import copy
import logging
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lpft import distributed
from lpft.analysis import Abstention, TemperatureFit, choose_threshold, fit_temperature
from lpft.analysis.calibration import PRIOR_SD
from lpft.data.examples import Label
from lpft.data.splits import ValidationKind, scored_rows
from lpft.data.tokens import Tokens
from lpft.errors import named
from lpft.model.adapters import (
    adapt,
    is_adapted,
    merge_adapter,
    plain_classifier,
    save_adapter,
    trained_head,
)
from lpft.model.classifier import LinearHeadClassifier
from lpft.model.encoder import seeded
from lpft.model.inference import extract_features, head_logits, resolve_device
from lpft.model.loading import Classifier
from lpft.settings import TrainingSettings, passes
from lpft.settings.methods import Method, check_installed, get_method
from lpft.training.cache import (
    SplitInputs,
    cached_out_of_fold_logits,
    cached_probe,
)
from lpft.training.checkpoints import EpochWeights
from lpft.training.contrastive import tune, tune_for, tune_scored
from lpft.training.finetuning import finetune, finetune_for, finetune_scored
from lpft.training.folds import FoldScores, cross_validate
from lpft.training.history import (
    BestEpoch,
    EpochRule,
    Row,
    TrainingDiverged,
    best_epoch,
    evaluation_values,
    evaluations,
    head_norms,
    in_order,
    signs_of_undertraining,
)
from lpft.training.precision import PrecisionChoice, with_precision
from lpft.training.probing import LinearProbe, install_probe

logger = logging.getLogger(__name__)

OWN_ROWS = 30
"""Rows of the user's own validation set from which the temperature is the plain one."""


@dataclass(frozen=True)
class Scored:
    """The M rows that scored a training, chose its epoch and fitted its temperature.

    ``rows`` are their places in the split that they are of: the validation split, or where ``kind``
    is ``folds`` the training split, whose rows each were scored by a model trained without them;
    there are then ``folds`` of these. ``logits`` (M x C) are before the temperature, ``labels`` M
    class indices; ``features`` (M x h) of the trained model, None with folds; ``weights`` (M) those
    of the rows, by which the temperature is fitted, None where each weighs 1.
    """

    kind: ValidationKind
    rows: NDArray[np.int64]
    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    features: NDArray[np.float32] | None = None
    folds: int | None = None
    weights: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Fit:
    """What a training leaves behind beside the classifier that it changed in place.

    ``head_norm_at_start`` is ``||V||_F`` when fine-tuning began (after probing and scaling; for
    linear probing that of its random start); ``temperature`` how T was fitted, with T itself in it;
    ``validation`` what it was fitted on; ``best`` the epoch of fine-tuning that was kept;
    ``precision`` how that of fine-tuning was chosen, None where it was not;
    ``undertrained`` what speaks for training longer; ``adapter`` the unmerged adapter's folder,
    ``checkpoints`` that of the weights of every epoch.
    """

    classifier: Classifier
    probe: LinearProbe | None
    head_norm_at_start: float
    temperature: TemperatureFit
    validation: Scored
    best: BestEpoch | None
    undertrained: tuple[str, ...]
    history: list[Row]
    adapter: Path | None
    timings: dict[str, float]
    checkpoints: Path | None = None
    precision: PrecisionChoice | None = None


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
    keep_checkpoints: bool = False,
) -> Fit:
    """Train ``classifier`` by ``settings.method`` and fit its temperature on validation.

    Fine-tuning keeps its best epoch by ``metric`` on validation; where it starts from a linear
    probe, that start is one of them, unless ``kind`` is ``paper``; contrastive tuning has two, the
    probe before it and the one after it. Without ``validation``, ``kind`` being ``folds``, epoch
    and temperature come from out-of-fold logits of the training rows, and the model is trained on
    all of them. ``settings`` must be resolved. Checkpoints are kept below
    ``folder / "checkpoints"`` and resumed from where they are there already; the adapter of a PEFT
    method goes to ``folder / "adapter"``. ``on_history`` is called with all rows so far whenever
    there is a new one. With ``keep_checkpoints`` the weights of every epoch of fine-tuning (with
    folds those of the training on all rows) go to ``folder / "epochs"``.

    Raises:
        InputError: the data or the model cannot be trained on, or training diverges.
    """
    method = get_method(settings.method)
    check_installed(method)
    if not method.fine_tunes:
        return _probe_alone(classifier, train, validation, settings, kind, on_history)
    start, history = classifier.model, list[Row]()
    started = perf_counter()
    if method.head_start == "lp" and method.moves_features:
        train = replace(train, at_start=features_at_start(start, train.tokens, settings))
    epochs = passes(settings, len(train.labels))
    words = "contrastive tuning" if method.contrastive else "fine-tuning"
    own = kind != "paper"
    rule = EpochRule(metric, start_counts=own and method.head_start == "lp", refined=own)
    validated, strength = None, None
    if validation is None:

        def train_scored(
            inside: SplitInputs, held_out: SplitInputs, part: Path, name: str
        ) -> FoldScores:
            copied = copy.deepcopy(start)
            model, first = begin_fine_tuning(copied, inside, settings, method, logging.DEBUG)
            computed, _ = with_precision(model, inside, settings, folder)
            name, rows = f"{words}, {name}", (inside, held_out, computed)
            if not method.contrastive:
                return finetune_scored(model, *rows, folder=part, name=name)
            assert first is not None
            strength = first.inverse_strength
            return tune_scored(
                copied, *rows, strength=strength, epochs=epochs, folder=part, name=name
            )

        validated = cross_validate(
            train_scored, train, settings, rule=rule, folder=folder / "folds"
        )
        if method.head_start == "lp":
            strength = _usual_strength(train, settings, start.config.classes)
    folded = perf_counter()

    def keep_history(rows: list[Row]) -> None:
        history[:] = rows
        if validated is not None:
            history[:] = in_order([*validated.evaluations, *rows])
        on_history(history)

    with seeded(settings.seed):
        trained, probe = begin_fine_tuning(start, train, settings, method, strength=strength)
        probed = perf_counter()
        norm_at_start = head_norms(trained_head(trained))[0]
        checkpoints, inverse_strength = folder / "checkpoints", 0.0
        settings, precision = with_precision(trained, train, settings, folder)
        keeps = keep_checkpoints and distributed.is_main()
        kept = EpochWeights(trained, folder / "epochs") if keeps else None
        if kept is not None:
            kept.begin(checkpoints, epochs)
        if probe is not None:
            inverse_strength = probe.inverse_strength
        if validation is not None and method.contrastive:
            tune(
                start,
                train,
                validation,
                settings,
                strength=inverse_strength,
                rule=rule,
                folder=checkpoints,
                on_history=keep_history,
            )
        elif validation is not None:
            finetune(
                trained,
                train,
                validation,
                settings,
                rule=rule,
                folder=checkpoints,
                on_history=keep_history,
                kept=kept,
            )
        best = best_epoch(
            evaluations(history) if validated is None else validated.evaluations,
            rule,
            epochs=epochs,
            from_probe=probe is not None,
            training=words,
        )
        if validated is not None:
            keep_history([])
        if validated is not None and best.index == 0 and kept is not None:
            logger.warning(
                "the folds chose the start over all epochs, so none is trained on all rows, and of "
                "checkpoints only the start is kept; with a validation file every epoch is trained"
            )
        if validated is not None and best.index > 0:
            if method.contrastive:
                tune_for(
                    start,
                    train,
                    settings,
                    strength=inverse_strength,
                    folder=checkpoints,
                    on_history=keep_history,
                )
            else:
                last = best.index == len(validated.evaluations) - 1
                finetune_for(
                    trained,
                    train,
                    settings,
                    epochs=math.inf if last else best.epoch,
                    folder=checkpoints,
                    on_history=keep_history,
                    kept=kept,
                )
    adapter = None
    if is_adapted(trained):
        adapter = folder / "adapter"
        shutil.rmtree(adapter, ignore_errors=True)
        save_adapter(trained, adapter)
    model = merge_adapter(trained)
    finetuned = perf_counter()
    model.eval()
    if validation is not None:
        features = extract_features(
            model, validation.tokens, device=resolve_device(settings.device)
        )
        scored = _scored(model, validation, features, kind)
    else:
        assert validated is not None
        rows, logits = validated.rows, validated.logits[best.index]
        used = train.select(rows)
        scored = Scored(
            "folds", rows, logits, used.labels, folds=validated.folds, weights=used.weights
        )
    signs: tuple[str, ...] = ()
    if not method.contrastive:  # its loss has other values
        signs = signs_of_undertraining(history, best, scored.labels, model.config.num_labels)
    _report(best, signs)
    return Fit(
        classifier=Classifier(model, classifier.tokenizer),
        probe=probe,
        head_norm_at_start=norm_at_start,
        temperature=_calibrate(model, scored),
        validation=scored,
        best=best,
        undertrained=signs,
        history=history,
        adapter=adapter,
        checkpoints=None if kept is None else kept.folder,
        precision=precision,
        timings={"probing": probed - folded, "finetuning": finetuned - probed + folded - started},
    )


def set_threshold(fit: Fit, wanted: Mapping[str, float]) -> Abstention | None:
    """Choose the confidence to abstain below on validation and keep it in the model, if wanted.

    ``wanted`` is :attr:`~lpft.settings.OutputSettings.threshold`.
    """
    if not wanted:
        return None
    scored, temperature = fit.validation, fit.temperature.temperature
    abstention = choose_threshold(scored.logits, scored.labels, temperature, **wanted)
    if abstention.reason is not None:
        logger.warning("The classifier never abstains: %s", abstention.reason)
    fit.classifier.model.config.abstain_below = abstention.abstain_below
    return abstention


def _probe_alone(
    classifier: Classifier,
    train: SplitInputs,
    validation: SplitInputs | None,
    settings: TrainingSettings,
    kind: ValidationKind,
    on_history: Callable[[list[Row]], None],
) -> Fit:
    """Linear probing: the features stay as they are, so folds cost a few fits of the head.

    A method that trains nothing leaves the head as it starts, which is then scored on all rows.
    """
    model = classifier.model
    norm_at_start = head_norms(model.head)[0]
    started = perf_counter()
    probe = None
    if get_method(settings.method).trained != "nothing":
        probe = _probe(model.head, model.config.classes, train, settings)
    probed = perf_counter()
    model.eval()
    if validation is None and probe is None:
        validation = train
    if validation is None:
        assert probe is not None
        logits = cached_out_of_fold_logits(train, settings, probe, model.config.classes)
        fold = train.folds()
        rows = scored_rows(train.labels, fold)
        chosen = logits[rows].astype(np.float32)
        folds = len(np.unique(fold[rows]))
        inputs = train.select(rows)
        scored = Scored("folds", rows, chosen, inputs.labels, folds=folds, weights=inputs.weights)
    else:
        scored, inputs = _scored(model, validation, validation.pretrained, kind), validation
    values = evaluation_values(model.head, scored.logits, inputs.pretrained, inputs)
    history: list[Row] = [{"event": "evaluation", "epoch": 0.0, "step": 0, **values}]
    on_history(history)
    return Fit(
        classifier=classifier,
        probe=probe,
        head_norm_at_start=norm_at_start,
        temperature=_calibrate(model, scored),
        validation=scored,
        best=None,
        undertrained=(),
        history=history,
        adapter=None,
        timings={"probing": probed - started, "finetuning": 0.0},
    )


def begin_fine_tuning(
    model: LinearHeadClassifier,
    train: SplitInputs,
    settings: TrainingSettings,
    method: Method,
    level: int = logging.INFO,
    strength: float | None = None,
) -> tuple[nn.Module, LinearProbe | None]:
    """The model, changed in place, from which fine-tuning starts, and the probe in its head."""
    adapted = adapt(model, method, settings)
    head, probe = trained_head(adapted), None
    if method.head_start == "lp":
        probe = _probe(head, model.config.classes, train, settings, level, strength)
    if method.fine_tunes_head:
        assert settings.head_scale is not None, "settings must be resolved"
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.mul_(settings.head_scale)
    return adapted, probe


def features_at_start(
    model: LinearHeadClassifier, tokens: Tokens, settings: TrainingSettings
) -> NDArray[np.float32]:
    """phi (N x h) of texts as fine-tuning starts, by a copy of ``model`` with what it trains.

    For a method whose adapter moves the features before the first step: a linear probe that is
    fitted on them is the classifier that fine-tuning starts from.
    """
    with seeded(settings.seed):
        adapted = adapt(copy.deepcopy(model), get_method(settings.method), settings)
    started = plain_classifier(adapted)
    assert isinstance(started, LinearHeadClassifier)
    return extract_features(
        started,
        tokens,
        device=resolve_device(settings.device),
        description="features at the start of fine-tuning",
    )


def _usual_strength(
    train: SplitInputs, settings: TrainingSettings, classes: Sequence[Label]
) -> float:
    """The median of the inverse strengths that the folds' own probes chose.

    One more choice on few rows may be far from it. A head that separates all rows leaves
    fine-tuning no gradient, and what the folds scored would say nothing of the model that is kept.
    """
    fold = train.folds()
    probes = [
        cached_probe(train.select(np.flatnonzero(fold != number)), settings, classes)
        for number in np.unique(fold[scored_rows(train.labels, fold)])
    ]
    return sorted(probe.inverse_strength for probe in probes)[(len(probes) - 1) // 2]


def validation_temperature(
    logits: NDArray[np.floating],
    labels: NDArray[np.int64],
    kind: ValidationKind,
    weights: NDArray[np.float64] | None = None,
) -> TemperatureFit:
    """T by the logits (N x C), labels (N) and weights (N) of validation rows.

    That of the paper's protocol, and of enough validation rows that the user gave, has no prior.
    """
    plain = kind == "paper" or (kind == "file" and len(labels) >= OWN_ROWS)
    return fit_temperature(logits, labels, None if plain else PRIOR_SD, weights)


def _calibrate(model: LinearHeadClassifier, scored: Scored) -> TemperatureFit:
    """Fit the temperature and keep it in the model."""
    fit = validation_temperature(scored.logits, scored.labels, scored.kind, scored.weights)
    model.config.temperature = fit.temperature
    return fit


def _report(best: BestEpoch, signs: Sequence[str]) -> None:
    """Say which epoch was kept, and what speaks for training longer."""
    logger.info(
        "epoch %g of %g kept: %s on validation %.3f",
        best.epoch,
        best.epochs,
        best.metric,
        best.score,
    )
    if best.note is not None:
        logger.log(logging.INFO if best.probe_won else logging.WARNING, "%s", best.note)
    if signs:
        logger.warning(
            "the training may have been too short (%s): more epochs or a higher learning rate may "
            "help",
            "; ".join(signs),
        )


def _scored(
    model: LinearHeadClassifier,
    validation: SplitInputs,
    features: NDArray[np.float32],
    kind: ValidationKind,
) -> Scored:
    """The validation rows as the trained model scores them, by their features (M x h)."""
    logits = head_logits(model, features)
    if not np.isfinite(logits).all():
        raise TrainingDiverged(
            f"the trained model's logits are not finite: lower {named('learning_rate')}"
        )
    rows = np.arange(len(logits))
    return Scored(kind, rows, logits, validation.labels, features, weights=validation.weights)


def _probe(
    head: nn.Linear,
    classes: Sequence[Label],
    train: SplitInputs,
    settings: TrainingSettings,
    level: int = logging.INFO,
    strength: float | None = None,
) -> LinearProbe:
    """Fit the probe on the training rows' features before training and install it in the head."""
    probe = cached_probe(train, settings, classes, strength)
    install_probe(head, probe)
    logger.log(
        level,
        "linear probe: inverse strength %.3g by %d folds, head norm %.3g",
        probe.inverse_strength,
        probe.folds,
        head_norms(head)[0],
    )
    if not probe.converged:
        logger.warning("the linear probe did not converge within its iterations")
    return probe
