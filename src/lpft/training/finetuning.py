"""Fine-tuning by Hugging Face's Trainer: best epoch, exact resumption, history, NaN stopped."""

import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Sampler
from transformers import (
    EvalPrediction,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations import get_available_reporting_integrations
from transformers.trainer_pt_utils import get_length_grouped_indices

from lpft.data.labels import class_weights
from lpft.errors import InputError, named
from lpft.files import write_json
from lpft.model.adapters import plain_classifier, trained_head
from lpft.model.encoder import quiet_transformers
from lpft.model.inference import resolve_device
from lpft.settings import TrainingSettings
from lpft.training.cache import SplitInputs
from lpft.training.history import (
    Row,
    TrainingDiverged,
    TrainingReporter,
    epochs_since_best,
    evaluation_values,
    evaluations,
    history_rows,
)
from lpft.training.probing import Weights

logger = logging.getLogger(__name__)

MINUTES_BETWEEN_CHECKPOINTS = 5.0
_EVALUATION_ROWS = 64
_LOGGING_STEPS = 10
_WHOLE = "whole"
"""The file that marks a checkpoint as written to its end."""
_START = "checkpoint-0"


def finetune(
    model: nn.Module,
    train: SplitInputs,
    validation: SplitInputs,
    settings: TrainingSettings,
    *,
    metric: str,
    folder: Path,
    on_history: Callable[[list[Row]], None],
    start_counts: bool = False,
) -> None:
    """Train ``model`` in place and leave it at its best epoch by ``metric`` on validation.

    Of equal epochs the earlier is the best; with ``start_counts`` epoch 0, before any step, is one.

    AdamW with linear decay to zero over all epochs and no warm-up on ``(1/B) sum_i w_i w_y CE_i``
    over the B rows of a batch, with weights of rows and of classes as in linear probing. Batches
    hold texts of similar length, padded to their longest; their order depends on the seed and the
    epoch alone, so that a training that continues from the last whole checkpoint below ``folder``
    repeats what it would have done.

    Args:
        model: a classifier, or one wrapped by PEFT, already seeded.
        settings: resolved.
        on_history: called with all rows so far whenever there is a new one.

    Raises:
        TrainingDiverged: a loss, gradient norm or logit is NaN or infinite.
    """
    keeper = CheckpointKeeper(f"eval_validation_{metric}" if start_counts else None)
    reporter = TrainingReporter(on_history)
    patience = (
        []
        if settings.patience is None
        else [Patience(settings.patience, metric, 0 if start_counts else 1)]
    )
    _train(
        model,
        train,
        settings,
        folder=folder,
        callbacks=[reporter, *patience, keeper],
        validation=validation,
        choice={
            "save_strategy": "epoch",
            "load_best_model_at_end": True,
            "metric_for_best_model": f"validation_{metric}",
            "greater_is_better": True,
        },
    )


def finetune_for(
    model: nn.Module,
    train: SplitInputs,
    settings: TrainingSettings,
    *,
    epochs: float,
    folder: Path,
    on_history: Callable[[list[Row]], None],
) -> None:
    """Train ``model`` in place as :func:`finetune` does, and stop after ``epochs`` of all of them.

    The learning rate falls as if the training went on. Takes and raises what :func:`finetune` does.
    """
    callbacks = [TrainingReporter(on_history), CheckpointKeeper(), _Stop(epochs)]
    _train(model, train, settings, folder=folder, callbacks=callbacks)


def finetune_scored(
    model: nn.Module,
    train: SplitInputs,
    held_out: SplitInputs,
    settings: TrainingSettings,
    *,
    folder: Path,
    name: str,
) -> tuple[list[Row], NDArray[np.float32]]:
    """Train ``model`` in place and score rows before the first step and after every epoch.

    Returns E + 1 rows of a history's evaluations, and the logits of the M held-out rows at each
    (E + 1 x M x C). ``name`` is the training's, for the progress bar. Takes and raises what
    :func:`finetune` does.
    """

    def path(step: int) -> Path:
        return folder / f"logits-{step}.npy"

    def keep(step: int, logits: NDArray[np.float32]) -> None:
        # Whole before any checkpoint after it is, so that a training that goes on finds it.
        folder.mkdir(parents=True, exist_ok=True)
        np.save(path(step), logits)

    trainer = _train(
        model,
        train,
        settings,
        folder=folder,
        callbacks=[TrainingReporter(lambda _: None, name, quiet=True), CheckpointKeeper()],
        validation=held_out,
        on_logits=keep,
    )
    rows = evaluations(history_rows(trainer.state.log_history))
    return rows, np.stack([np.load(path(row["step"])) for row in rows])


def _train(
    model: nn.Module,
    train: SplitInputs,
    settings: TrainingSettings,
    *,
    folder: Path,
    callbacks: list[TrainerCallback],
    validation: SplitInputs | None = None,
    choice: Mapping[str, Any] | None = None,
    on_logits: Callable[[int, NDArray[np.float32]], None] = lambda _step, _logits: None,
) -> Trainer:
    """Train by Trainer from the last whole checkpoint below ``folder``.

    ``choice`` are Trainer's arguments for keeping the best epoch; ``on_logits`` is given each
    evaluation's step and logits.
    """
    assert settings.batch_size is not None, "settings must be resolved"
    checkpoint = last_checkpoint(folder)
    if checkpoint is not None:
        logger.info("continuing from %s", checkpoint.name)
    device = resolve_device(settings.device)
    classes: Any = plain_classifier(model).config.classes  # type: ignore[union-attr]
    steps_per_epoch = -(-len(train.tokens) // settings.batch_size)
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=_EVALUATION_ROWS,
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        lr_scheduler_type="linear",
        optim="adamw_torch_fused",
        seed=settings.seed,
        bf16=settings.precision == "bfloat16",
        fp16=settings.precision == "float16",
        use_cpu=device.type == "cpu",
        eval_on_start=validation is not None and checkpoint is None,
        eval_strategy="no" if validation is None else "epoch",
        **({"save_strategy": "no"} if choice is None else choice),
        logging_strategy="steps",
        logging_steps=min(_LOGGING_STEPS, steps_per_epoch),
        logging_nan_inf_filter=False,
        report_to=check_trackers(settings.report_to),
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=device.type == "cuda",
    )
    arguments._n_gpu = 1  # or Trainer would multiply the batch size by the number of GPUs
    evaluation: dict[str, Any] = {}
    if validation is not None:
        by_length = np.argsort(validation.tokens.lengths, kind="stable")
        evaluation["eval_dataset"] = [(validation, row) for row in by_length.tolist()]
        evaluation["compute_metrics"] = _evaluation_metrics(
            model,
            validation,
            by_length,
            lambda logits: on_logits(trainer.state.global_step, logits),
        )
    trainer = _LengthGroupedTrainer(
        model=model,
        args=arguments,
        train_dataset=[(train, row) for row in range(len(train.tokens))],
        data_collator=_collate,
        compute_loss_func=_mean_loss(
            class_weights(settings.class_weight, classes),
            train.labels,
            len(classes),
            device,
            train.weights,
        ),
        callbacks=callbacks,
        **evaluation,
    )
    for callback in callbacks:
        if isinstance(callback, CheckpointKeeper):
            callback.save_model = trainer.save_model
    trainer.remove_callback(PrinterCallback)
    with quiet_transformers():
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return trainer


def check_trackers(report_to: str) -> list[str]:
    """The names in a comma-separated list of Trainer's trackers, each one usable.

    Raises:
        InputError: a tracker is unknown, or its package is not installed.
    """
    names = [name.strip() for name in report_to.split(",")]
    available = get_available_reporting_integrations()
    for name in names:
        if name != "none" and name not in available:
            known = ", ".join(["none", *sorted(available)])
            raise InputError(
                f"{named('report_to')} {name} is unknown or its package is not installed: expected "
                f"one of {known}, or install it"
            )
    return names


def last_checkpoint(folder: Path) -> Path | None:
    """The latest checkpoint below ``folder`` that was written to its end, if there is one.

    What a killed process left half-written is removed. The start of a training (``checkpoint-0``)
    is only there to go back to: a training goes on from later ones. The path of the best checkpoint
    inside is brought up to date, so that a run may be moved, or resumed from another working
    folder.
    """
    whole = []
    for checkpoint in folder.glob("checkpoint-*"):
        if (checkpoint / _WHOLE).is_file():
            whole.append(checkpoint)
        else:
            shutil.rmtree(checkpoint)
    later = [checkpoint for checkpoint in whole if checkpoint.name != _START]
    if not later:
        return None
    latest = max(later, key=lambda checkpoint: int(checkpoint.name.rpartition("-")[2]))
    state = json.loads((latest / "trainer_state.json").read_text(encoding="utf-8"))
    best = state["best_model_checkpoint"]
    if best is not None:
        state["best_model_checkpoint"] = str(folder / Path(best).name)
        write_json(latest / "trainer_state.json", state)
    return latest


class CheckpointKeeper(TrainerCallback):
    """Marks a checkpoint as whole once it is, then removes all but it and the best one.

    Besides Trainer's checkpoint at the end of every epoch, where there is one, it asks for one
    whenever five minutes have passed. With the name of a ``metric`` the model before the first step
    is kept too, as the best so far.
    """

    def __init__(self, metric: str | None = None) -> None:
        self._saved_at = time.monotonic()
        self._metric = metric
        self.save_model: Callable[[str], None] | None = None
        """Trainer's own, set once there is a Trainer."""

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **_: Any,
    ) -> None:
        del control
        if self._metric is None or state.global_step > 0:
            return
        assert self.save_model is not None
        start = Path(args.output_dir) / _START
        self.save_model(str(start))
        (start / _WHOLE).touch()
        # As Trainer itself records a best checkpoint; later ones must be above it.
        state.best_metric = metrics[self._metric]
        state.best_global_step, state.best_model_checkpoint = 0, str(start)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        del args, state
        if self._is_due():
            control.should_save = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        del args
        if state.epoch is not None and state.epoch == int(state.epoch):
            return  # on_epoch_end saves here, after the evaluation that must not be skipped
        if self._is_due():
            control.should_save = True

    def _is_due(self) -> bool:
        return time.monotonic() - self._saved_at > 60 * MINUTES_BETWEEN_CHECKPOINTS

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        del control
        folder = Path(args.output_dir)
        current = folder / f"checkpoint-{state.global_step}"
        (current / _WHOLE).touch()
        self._saved_at = time.monotonic()
        needed = {current.name, Path(state.best_model_checkpoint or current).name}
        for checkpoint in folder.glob("checkpoint-*"):
            if checkpoint.name not in needed:
                shutil.rmtree(checkpoint)


class Patience(TrainerCallback):
    """Ends training after so many evaluations in a row without a better one than all before.

    The ``first`` that counts is that of epoch 0, or of epoch 1 where the start is not kept anyway.
    Transformers' own counts in an attribute, which a resumed training would begin anew; this one
    counts in the log, which is part of every checkpoint.
    """

    def __init__(self, epochs: int, metric: str, first: int) -> None:
        self._epochs, self._key, self._first = epochs, f"eval_validation_{metric}", first

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        del args
        every = [entry[self._key] for entry in state.log_history if self._key in entry]
        scores = every[self._first :]
        if not scores:
            return
        if epochs_since_best(scores) >= self._epochs:
            logger.info("no better epoch in %d: training ends", self._epochs)
            # It is not saved, or it would go on from there if it was killed before its results are.
            control.should_training_stop, control.should_save = True, False


class _Stop(TrainerCallback):
    """Ends a training after some epochs; it is not saved there, or it would go on from there."""

    def __init__(self, epochs: float) -> None:
        self._epochs = epochs

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        del args
        if state.epoch is not None and state.epoch >= self._epochs:
            control.should_training_stop, control.should_save = True, False


_WEIGHTS = "sample_weights"
"""The weights of a batch's rows among the inputs of a model, which never sees them."""

_Item = tuple[SplitInputs, int]
"""A row of a split by its number, so that :meth:`Tokens.batch` pads a batch at once."""


def _collate(items: list[_Item]) -> dict[str, torch.Tensor]:
    split, rows = items[0][0], [row for _, row in items]
    batch = {**split.tokens.batch(rows), "labels": torch.tensor(split.labels[rows])}
    if split.weights is not None:
        batch[_WEIGHTS] = torch.tensor(split.weights[rows], dtype=torch.float32)
    return batch


class _SeededLengthSampler(Sampler[int]):
    """Transformers' length-grouped order, drawn from the seed and the epoch alone.

    The library's own sampler draws from torch's global state, which a resumed training cannot
    have in the middle of an epoch.
    """

    def __init__(self, lengths: list[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Any:
        # SeedSequence mixes the two numbers; seed + epoch would share orders between seeds.
        state = int(np.random.SeedSequence([self.seed, self.epoch]).generate_state(1)[0])
        generator = torch.Generator().manual_seed(state)
        yield from get_length_grouped_indices(self.lengths, self.batch_size, generator=generator)


class _LengthGroupedTrainer(Trainer):
    """Trainer with :class:`_SeededLengthSampler` and weights of rows.

    It has no argument that takes a sampler, and its function of the loss sees no inputs.
    """

    def _get_train_sampler(self, train_dataset: list[_Item] | None = None) -> Sampler:
        rows = self.train_dataset if train_dataset is None else train_dataset
        lengths = rows[0][0].tokens.lengths.tolist()
        return _SeededLengthSampler(lengths, self.args.train_batch_size, self.args.seed)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        labels, row_weights = inputs.pop("labels"), inputs.pop(_WEIGHTS, None)
        outputs = model(**inputs)
        loss = self.compute_loss_func(outputs, labels, num_items_in_batch, row_weights)
        return (loss, outputs) if return_outputs else loss


def _mean_loss(
    class_weight: Weights | None,
    labels: NDArray[np.int64],
    classes: int,
    device: torch.device,
    sample_weight: NDArray[np.float64] | None = None,
) -> Callable[..., torch.Tensor]:
    """The mean over a batch's rows of ``w_i w_y CE``; w_y as scikit-learn weighs ``labels``.

    Not cross_entropy's own weight, which divides by the sum of the batch's weights: that undoes a
    part of them.
    """
    weights = torch.ones(classes)  # classes without rows weigh 1
    if class_weight is not None:
        present = np.unique(labels)
        by_class = compute_class_weight(
            class_weight
            if isinstance(class_weight, str)
            else {c: class_weight[c] for c in present},
            classes=present,
            y=labels,
            sample_weight=sample_weight,
        )
        weights[present] = torch.tensor(by_class, dtype=torch.float32)
    weights = weights.to(device)

    def loss(
        outputs: Any,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
        row_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        entropies = cross_entropy(outputs.logits.float(), labels, reduction="none")
        weighted = weights[labels] * entropies
        if row_weights is not None:
            weighted = weighted * row_weights
        # Where a step takes its batch in parts, each part has its share of the batch's mean.
        rows = len(labels) if num_items_in_batch is None else num_items_in_batch
        return weighted.sum() / rows

    return loss


def _evaluation_metrics(
    model: nn.Module,
    validation: SplitInputs,
    order: NDArray[np.int64],
    on_logits: Callable[[NDArray[np.float32]], None],
) -> Callable[[EvalPrediction], dict[str, float]]:
    """:func:`evaluation_values` of validation rows that were read in ``order``."""

    def metrics(prediction: EvalPrediction) -> dict[str, float]:
        logits, features = (np.empty_like(values) for values in prediction.predictions)
        logits[order], features[order] = prediction.predictions
        if not np.isfinite(logits).all():
            raise TrainingDiverged(
                "training diverged: the logits on validation are no longer finite; lower "
                f"{named('learning_rate')}, or use {named('precision')} float32"
            )
        on_logits(logits)
        return evaluation_values(trained_head(model), logits, features, validation)

    return metrics
