"""One training from a fresh classifier to a calibrated one: probe, scale, fine-tune, calibrate.

Where there are few rows, folds choose the epoch and all rows then train for as long. Each of K
trainings leaves one fold out and scores it before the first step and after every epoch. Together
they score every row by models that were trained without it, at every epoch, as a validation set of
N rows would. So K + 1 trainings of few rows take the place of one.
"""

import copy
import json
import logging
import math
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any
from zipfile import BadZipFile

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
from lpft.files import replace_when_written
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
from lpft.settings import TrainingSettings, effective_epochs
from lpft.settings.methods import Method, check_installed, get_method
from lpft.training.cache import (
    SplitInputs,
    cached_out_of_fold_logits,
    cached_probe,
)
from lpft.training.checkpoints import EpochWeights
from lpft.training.contrastive import tune, tune_for, tune_scored
from lpft.training.finetuning import finetune, finetune_for, finetune_scored
from lpft.training.history import (
    BestEpoch,
    EpochRule,
    FoldScores,
    Row,
    TrainingDiverged,
    best_epoch,
    epochs_since_best,
    evaluation_values,
    evaluations,
    head_norms,
    in_order,
    pooled_evaluation,
    signs_of_undertraining,
)
from lpft.training.precision import PrecisionChoice, with_precision
from lpft.training.probing import LinearProbe, install_probe

logger = logging.getLogger(__name__)

OWN_ROWS = 30
"""With at least this many rows in the user's own validation set the temperature has no prior."""


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
    """The results of a training; the classifier was changed in place.

    ``head_norm_at_start`` is ``||V||_F`` when fine-tuning began (after probing and scaling; for
    linear probing that of its random start); ``calibration`` T and how it was fitted;
    ``validation`` what it was fitted on; ``best`` the epoch of fine-tuning that was kept;
    ``precision`` how that of fine-tuning was chosen, None where it was not;
    ``undertrained`` what speaks for training longer; ``adapter`` the unmerged adapter's folder,
    ``checkpoints`` that of the weights of every epoch.
    """

    classifier: Classifier
    probe: LinearProbe | None
    head_norm_at_start: float
    calibration: TemperatureFit
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
        # The probe must be the classifier that fine-tuning starts from.
        train = replace(train, at_start=features_at_start(start, train.tokens, settings))
    epochs = effective_epochs(settings, len(train.labels))
    words = "contrastive tuning" if method.contrastive else "fine-tuning"
    # The paper's rule takes the best epoch of fine-tuning, by the metric alone.
    by_paper = kind == "paper"
    rule = EpochRule(
        metric, start_counts=not by_paper and method.head_start == "lp", refined=not by_paper
    )
    validated, strength = None, None
    if validation is None:
        validated = _score_by_folds(start, train, settings, method, rule, words, folder)
        if method.head_start == "lp":
            strength = _usual_strength(train, settings, start.config.classes)
    folded = perf_counter()

    def keep_history(rows: list[Row]) -> None:
        # The evaluations are the folds'; the steps are those of the training on all rows.
        history[:] = rows
        if validated is not None:
            history[:] = in_order([*validated.evaluations, *rows])
        on_history(history)

    with seeded(settings.seed):
        trained, probe = begin_fine_tuning(start, train, settings, method, strength=strength)
        probed = perf_counter()
        norm_at_start = head_norms(trained_head(trained))[0]
        checkpoints = folder / "checkpoints"
        settings, precision = with_precision(trained, train, settings, folder)
        epoch_weights = None
        if keep_checkpoints and distributed.is_main():
            epoch_weights = EpochWeights(trained, folder / "epochs")
            epoch_weights.begin(checkpoints, epochs)
        training = _FineTuning(
            trained, probe, train, settings, method, checkpoints, keep_history, epoch_weights
        )
        # With validation rows one training is scored at every epoch and kept at its best one. With
        # folds the trainings are done that choose the epoch: all rows train up to it below.
        if validation is not None:
            training.keep_best(validation, rule)
        scores = evaluations(history) if validated is None else validated.evaluations
        best = best_epoch(scores, rule, epochs=epochs, from_probe=probe is not None, training=words)
        if validated is not None:
            keep_history([])
            # The last epoch is the end of the training itself, and no stop before it.
            ended = best.index > 0 and best.index == len(scores) - 1
            training.train_for(math.inf if ended else best.epoch)
    adapter = None
    if is_adapted(trained):
        # Saved apart before it is merged: kernels need its own parameters.
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
        logits = validated.logits[best.index]
        scored = _scored_by_folds(train, validated.rows, logits, validated.folds)
    signs: tuple[str, ...] = ()
    if not method.contrastive:  # its loss has other values
        signs = signs_of_undertraining(history, best, scored.labels, model.config.num_labels)
    _report(best, signs)
    return Fit(
        classifier=Classifier(model, classifier.tokenizer),
        probe=probe,
        head_norm_at_start=norm_at_start,
        calibration=_set_temperature(model, scored),
        validation=scored,
        best=best,
        undertrained=signs,
        history=history,
        adapter=adapter,
        checkpoints=None if epoch_weights is None else epoch_weights.folder,
        precision=precision,
        timings={"probing": probed - folded, "finetuning": finetuned - probed + folded - started},
    )


@dataclass(frozen=True)
class _FineTuning:
    """A model at the start of fine-tuning, and what its method needs to train it in place.

    ``probe`` is the one in its head, if its method starts from one.
    """

    model: nn.Module
    probe: LinearProbe | None
    train: SplitInputs
    settings: TrainingSettings
    method: Method
    checkpoints: Path
    on_history: Callable[[list[Row]], None]
    epoch_weights: EpochWeights | None

    def keep_best(self, validation: SplitInputs, rule: EpochRule) -> None:
        """Score every epoch on validation, and leave the model at the best one by ``rule``."""
        outputs: dict[str, Any] = {"folder": self.checkpoints, "on_history": self.on_history}
        rows = (self.train, validation, self.settings)
        if self.method.contrastive:
            model, strength = self._probed_model()
            tune(model, *rows, strength=strength, rule=rule, **outputs)
        else:
            finetune(self.model, *rows, rule=rule, epoch_weights=self.epoch_weights, **outputs)

    def train_for(self, epochs: float) -> None:
        """Train up to an epoch that was chosen before; contrastive tuning has one alone, its end.

        Without any epoch the model stays as it starts.
        """
        outputs: dict[str, Any] = {"folder": self.checkpoints, "on_history": self.on_history}
        if epochs == 0:
            if self.epoch_weights is not None:
                logger.warning(
                    "the folds chose the start over all epochs, so none is trained on all rows, "
                    "and of checkpoints only the start is kept; with a validation file every epoch "
                    "is trained"
                )
        elif self.method.contrastive:
            model, strength = self._probed_model()
            tune_for(model, self.train, self.settings, strength=strength, **outputs)
        else:
            finetune_for(
                self.model,
                self.train,
                self.settings,
                epochs=epochs,
                epoch_weights=self.epoch_weights,
                **outputs,
            )

    def _probed_model(self) -> tuple[LinearHeadClassifier, float]:
        """What contrastive tuning starts from: a classifier with a probe of some strength."""
        assert isinstance(self.model, LinearHeadClassifier)
        assert self.probe is not None
        return self.model, self.probe.inverse_strength


def set_threshold(fit: Fit, target: Mapping[str, float]) -> Abstention | None:
    """Choose the confidence to abstain below on validation and keep it in the model.

    ``target`` is :attr:`~lpft.settings.OutputSettings.threshold`; where it is empty, there is none.
    """
    if not target:
        return None
    scored, temperature = fit.validation, fit.calibration.temperature
    abstention = choose_threshold(scored.logits, scored.labels, temperature, **target)
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
        folds = len(np.unique(fold[rows]))
        scored = _scored_by_folds(train, rows, logits[rows].astype(np.float32), folds)
        inputs = train.select(rows)
    else:
        scored, inputs = _scored(model, validation, validation.pretrained, kind), validation
    values = evaluation_values(model.head, scored.logits, inputs.pretrained, inputs)
    history: list[Row] = [{"event": "evaluation", "epoch": 0.0, "step": 0, **values}]
    on_history(history)
    return Fit(
        classifier=classifier,
        probe=probe,
        head_norm_at_start=norm_at_start,
        calibration=_set_temperature(model, scored),
        validation=scored,
        best=None,
        undertrained=(),
        history=history,
        adapter=None,
        timings={"probing": probed - started, "finetuning": 0.0},
    )


def _score_by_folds(
    start: LinearHeadClassifier,
    train: SplitInputs,
    settings: TrainingSettings,
    method: Method,
    rule: EpochRule,
    words: str,
    folder: Path,
) -> CrossValidation:
    """:func:`cross_validate` of a method that fine-tunes copies of ``start``."""
    epochs = effective_epochs(settings, len(train.labels))

    def train_scored(
        inside: SplitInputs, held_out: SplitInputs, part: Path, name: str
    ) -> FoldScores:
        copied = copy.deepcopy(start)
        model, probe = begin_fine_tuning(copied, inside, settings, method, logging.DEBUG)
        fold_settings, _ = with_precision(model, inside, settings, folder)
        name, rows = f"{words}, {name}", (inside, held_out, fold_settings)
        if not method.contrastive:
            return finetune_scored(model, *rows, folder=part, name=name)
        assert probe is not None
        strength = probe.inverse_strength
        return tune_scored(copied, *rows, strength=strength, epochs=epochs, folder=part, name=name)

    return cross_validate(train_scored, train, settings, rule=rule, folder=folder / "folds")


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

    Each fold has its own folder below ``folder``: a finished fold is read from there, and a
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
    numbers = np.unique(fold[rows]).tolist()
    scored: list[FoldScores] = []
    for number in numbers:
        inside = np.flatnonzero(fold != number)
        held_out = rows[fold[rows] == number]
        name = f"fold {len(scored) + 1} of {len(numbers)}"
        part = folder / f"fold-{number}"
        finished = part.with_suffix(".npz")
        result = distributed.agreed(partial(_read_fold, finished))
        if result is None:
            with seeded(settings.seed):
                result = train_scored(train.select(inside), train.select(held_out), part, name)
            distributed.wait_for_all()  # each has read what lies in the main one's folder
            if distributed.is_main():
                _write_fold(result, finished)
                shutil.rmtree(part)
        scored.append(result)
        logger.info("%s: validation accuracy %.3f at its best", name, _best_accuracy(scored[-1][0]))
    # Folds are one after the other; the logits, E + 1 x M x C, go in the order of the rows.
    order = np.argsort(np.concatenate([rows[fold[rows] == number] for number in numbers]))
    logits = np.concatenate([fold_logits for _, fold_logits in scored], axis=1)[:, order]
    steps = -(-len(train.labels) // (settings.batch_size or 1))
    pooled = [
        pooled_evaluation(parts, logits[epoch], train.select(rows), steps)
        for epoch, parts in enumerate(zip(*(by_epoch for by_epoch, _ in scored), strict=True))
    ]
    if settings.patience is not None:
        # The first epoch at which a training with these scores would have ended.
        scores, first = [rule.score(row) for row in pooled], rule.first
        counted = range(first + 1, len(scores) + 1)
        ends = (end for end in counted if epochs_since_best(scores[first:end]) >= settings.patience)
        pooled = pooled[: next(ends, len(scores))]
    return CrossValidation(rows, logits, pooled, len(numbers))


def _write_fold(scores: FoldScores, path: Path) -> None:
    evaluations, logits = scores
    with replace_when_written(path) as temporary, temporary.open("wb") as file:
        np.savez(file, logits=logits, evaluations=json.dumps(evaluations))


def _read_fold(path: Path) -> FoldScores | None:
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

    There is no prior under the paper's protocol, or with enough validation rows from the user.
    """
    plain = kind == "paper" or (kind == "file" and len(labels) >= OWN_ROWS)
    return fit_temperature(logits, labels, None if plain else PRIOR_SD, weights)


def _set_temperature(model: LinearHeadClassifier, scored: Scored) -> TemperatureFit:
    """Fit the temperature and store it in the model's configuration."""
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


def _scored_by_folds(
    train: SplitInputs, rows: NDArray[np.int64], logits: NDArray[np.float32], folds: int
) -> Scored:
    """Rows of the training split with their out-of-fold logits (M x C)."""
    inputs = train.select(rows)
    return Scored("folds", rows, logits, inputs.labels, folds=folds, weights=inputs.weights)


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
