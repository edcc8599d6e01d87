"""Fine-tuning by Hugging Face's Trainer: best epoch, exact resumption, history, NaN stopped."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import DataLoaderShard
from accelerate.utils.memory import clear_device_cache
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import BatchSampler, DataLoader, Sampler
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

from lpft import distributed
from lpft.data.labels import class_weights
from lpft.errors import InputError, named, out_of_memory
from lpft.files import damaged_file, replace_when_written, write_digests, write_json
from lpft.memory import fewer_rows, record_reduction
from lpft.model.adapters import plain_classifier, trained_head
from lpft.model.encoder import quiet_transformers
from lpft.model.inference import resolve_device
from lpft.settings import TrainingSettings
from lpft.training.cache import SplitInputs
from lpft.training.checkpoints import CheckpointKeeper, EpochWeights, last_checkpoint
from lpft.training.history import (
    EPOCH_SCORE,
    EpochRule,
    FoldScores,
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

_BEST_EPOCH = {
    "save_strategy": "epoch",
    "load_best_model_at_end": True,
    "metric_for_best_model": EPOCH_SCORE,
    "greater_is_better": True,
}
_EVALUATION_ROWS = 64
_LOGGING_STEPS = 10
_START = "start.safetensors"
_ROWS_AT_ONCE = "rows-at-once.json"
"""Beside the checkpoints: what is trained, at its start; how many rows fit in memory."""


def finetune(
    model: nn.Module,
    train: SplitInputs,
    validation: SplitInputs,
    settings: TrainingSettings,
    *,
    rule: EpochRule,
    folder: Path,
    on_history: Callable[[list[Row]], None],
    epoch_weights: EpochWeights | None = None,
) -> None:
    """Train ``model`` in place and leave it at its best epoch by ``rule`` on validation.

    AdamW with linear decay to zero over all epochs and no warm-up on ``(1/B) sum_i w_i w_y CE_i``
    over the B rows of a batch, with weights of rows and of classes as in linear probing. Batches
    hold texts of similar length, padded to their longest; their order depends on the seed and the
    epoch alone, so that a training that continues from the last whole checkpoint below ``folder``
    repeats what it would have done.

    Args:
        model: a classifier, or one wrapped by PEFT, already seeded.
        settings: resolved.
        on_history: called with all rows so far whenever there is a new one.
        epoch_weights: saves the weights of every epoch, if given.

    Raises:
        TrainingDiverged: a loss, gradient norm or logit is NaN or infinite.
    """
    keeper = CheckpointKeeper(f"eval_{EPOCH_SCORE}" if rule.start_counts else None)
    reporter = TrainingReporter(on_history)
    patience = [] if settings.patience is None else [Patience(settings.patience, rule.first)]
    train_steps(
        model,
        train,
        settings,
        folder=folder,
        callbacks=[reporter, *patience, *_listed(epoch_weights), keeper],
        validation=validation,
        rule=rule,
    )


def finetune_for(
    model: nn.Module,
    train: SplitInputs,
    settings: TrainingSettings,
    *,
    epochs: float,
    folder: Path,
    on_history: Callable[[list[Row]], None],
    epoch_weights: EpochWeights | None = None,
) -> None:
    """Train ``model`` in place as :func:`finetune` does, and stop after ``epochs`` of all of them.

    The learning rate falls as if the training went on. Takes and raises what :func:`finetune` does.
    """
    callbacks = [
        TrainingReporter(on_history),
        *_listed(epoch_weights),
        CheckpointKeeper(),
        _Stop(epochs),
    ]
    train_steps(model, train, settings, folder=folder, callbacks=callbacks)


def _listed(epoch_weights: EpochWeights | None) -> list[TrainerCallback]:
    return [] if epoch_weights is None else [epoch_weights]


def finetune_scored(
    model: nn.Module,
    train: SplitInputs,
    held_out: SplitInputs,
    settings: TrainingSettings,
    *,
    folder: Path,
    name: str,
) -> FoldScores:
    """Train ``model`` in place and score rows before the first step and after every epoch.

    ``name`` is the training's, for the progress bar. Takes and raises what
    :func:`finetune` does.
    """

    scores = distributed.agreed(lambda: folder / "logits")

    def keep(step: int, logits: NDArray[np.float32]) -> None:
        # Whole before any checkpoint after it is, so that a training that goes on finds it.
        if distributed.is_main():
            scores.mkdir(parents=True, exist_ok=True)
            np.save(scores / f"{step}.npy", logits)
            write_digests(scores)
        distributed.wait_for_all()

    damaged = damaged_file(scores) if distributed.is_main() else None
    if damaged is not None:
        logger.warning("'%s' is damaged: this training begins anew", scores / damaged)
        shutil.rmtree(folder)

    trainer = train_steps(
        model,
        train,
        settings,
        folder=folder,
        callbacks=[TrainingReporter(lambda _: None, name, quiet=True), CheckpointKeeper()],
        validation=held_out,
        on_logits=keep,
    )
    rows = evaluations(history_rows(trainer.state.log_history))
    return rows, np.stack([np.load(scores / f"{row['step']}.npy") for row in rows])


@dataclass(frozen=True)
class Objective:
    """A loss other than cross-entropy, and the order in which rows come.

    ``loss`` takes the model's outputs and the labels of a batch; ``sampler`` the training rows and
    the seed; ``steps`` are those to take, if not of all epochs; ``warm_up`` is the share of them
    over which the learning rate rises from 0.
    """

    loss: Callable[..., torch.Tensor]
    sampler: Callable[[SplitInputs, int], Sampler[int]]
    steps: int | None = None
    warm_up: float = 0.0


def train_steps(
    model: nn.Module,
    train: SplitInputs,
    settings: TrainingSettings,
    *,
    folder: Path,
    callbacks: list[TrainerCallback],
    validation: SplitInputs | None = None,
    rule: EpochRule | None = None,
    on_logits: Callable[[int, NDArray[np.float32]], None] = lambda _step, _logits: None,
    objective: Objective | None = None,
) -> Trainer:
    """Train by Trainer from the last whole checkpoint below ``folder``.

    Where memory runs out, the training goes on from there, or from its start, with fewer rows at
    once. A step still takes the whole batch, by gradient accumulation: what changes are the last
    digits, and the elements that dropout drops. How many rows fit is kept beside the checkpoints,
    so that a training that is stopped and resumed repeats what it would have done.

    Several processes share every batch and the main one's folder, on a disk that all of them see;
    a step is of the same rows, with the same loss, as in one process.

    With a ``rule`` the model is left at its best epoch; ``on_logits`` is given each evaluation's
    step and logits. Without an ``objective`` it is that of :func:`finetune`.
    """
    assert settings.batch_size is not None, "settings must be resolved"
    if settings.gradient_checkpointing:
        _check_checkpointing(model)
    folder = distributed.agreed(lambda: folder)
    rows_to_score = _EVALUATION_ROWS if validation is None else len(validation.tokens)
    rows_of_part = settings.batch_size // settings.gradient_accumulation_steps
    full = _RowsAtOnce(settings.batch_size, rows_of_part, min(rows_to_score, _EVALUATION_ROWS))
    rows_at_once = full.read(folder)
    trainable = {name: value for name, value in model.named_parameters() if value.requires_grad}
    if distributed.is_main():
        folder.mkdir(parents=True, exist_ok=True)
        with replace_when_written(folder / _START) as start:
            save_file(
                {name: value.detach().contiguous() for name, value in trainable.items()}, start
            )
    # Each round is one attempt. Where memory ran out the next has fewer rows at once; it goes on
    # from the last checkpoint or, where there is none, from the weights that were saved above.
    while True:
        trainer = _trainer(
            model,
            train,
            settings,
            rows_at_once,
            folder=folder,
            callbacks=callbacks,
            validation=validation,
            rule=rule,
            on_logits=on_logits,
            objective=objective,
        )
        checkpoint = distributed.agreed(lambda: last_checkpoint(folder))
        trainer.args.eval_on_start = validation is not None and checkpoint is None
        if checkpoint is not None:
            logger.info("continuing from %s", checkpoint.name)
        try:
            with quiet_transformers():
                trainer.train(
                    resume_from_checkpoint=None if checkpoint is None else str(checkpoint)
                )
        except Exception as error:
            # One process cannot take fewer rows while the others wait for it in the same step.
            if not out_of_memory(error) or distributed.size() > 1:
                raise
            rows_at_once = rows_at_once.fewer(training=model.training)
        else:
            _undo_changes(trainer)
            return trainer
        # Outside the handler: the error's traceback holds on to all that was computed.
        rows_at_once.write(folder)
        _undo_changes(trainer)
        changed = trainer.state.global_step > 0
        del trainer
        model.zero_grad(set_to_none=True)
        clear_device_cache(garbage_collection=True)
        if changed:
            with torch.no_grad(), safe_open(folder / _START, "pt") as file:
                for name, value in trainable.items():  # one at a time: there is little memory
                    value.copy_(file.get_tensor(name))


def _check_checkpointing(model: nn.Module) -> None:
    """Refuse to compute layers twice where the library cannot, or would drop a part of them.

    Raises:
        InputError: it cannot.
    """
    classifier: Any = plain_classifier(model)
    reason = None
    tokens = classifier.virtual_tokens
    if tokens is not None and tokens.kind == "prefix":
        reason = "layers that are computed twice read no prefix"
    elif not any(hasattr(part, "gradient_checkpointing") for part in classifier.encoder.modules()):
        reason = f"Transformers has none for {classifier.encoder.config.model_type}"
    if reason is not None:
        raise InputError(
            f"{named('gradient_checkpointing')} does not work here, as {reason}: leave it out; "
            f"{named('gradient_accumulation_steps')} saves memory too"
        )


def _undo_changes(trainer: Trainer) -> None:
    """Undo what Trainer set on the model: its precision and layers that are computed twice."""
    model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    original_forward = model.__dict__.pop("_original_forward", None)
    if original_forward is not None:
        model.forward = original_forward
    if trainer.args.activation_checkpointing:
        plain_classifier(model).activation_checkpointing_disable()  # type: ignore[operator]


@dataclass(frozen=True)
class _RowsAtOnce:
    """How many rows memory suffices for, in a step's part of a batch and in evaluation."""

    batch_size: int
    training: int
    evaluation: int

    def read(self, folder: Path) -> "_RowsAtOnce":
        """The rows that fitted before the training was stopped; otherwise these."""
        try:
            values = json.loads((folder / _ROWS_AT_ONCE).read_text(encoding="utf-8"))
            recorded = replace(
                self, training=int(values["training"]), evaluation=int(values["evaluation"])
            )
        except FileNotFoundError:
            return self
        except (OSError, ValueError, KeyError, TypeError):
            logger.warning("'%s' is damaged: trying whole batches again", folder / _ROWS_AT_ONCE)
            return self
        if recorded.training < 1 or self.batch_size % recorded.training or recorded.evaluation < 1:
            return self
        if recorded.training < self.training:
            record_reduction(_IN_TRAINING, recorded.training)
        if recorded.evaluation < self.evaluation:
            record_reduction(_IN_EVALUATION, recorded.evaluation)
        return recorded

    def fewer(self, *, training: bool) -> "_RowsAtOnce":
        """Half as many, in training or in evaluation.

        Raises:
            InputError: it was one row already.
        """
        if training:
            rows = fewer_rows(_IN_TRAINING, self.training, parts_of=self.batch_size)
            return replace(self, training=rows)
        return replace(self, evaluation=fewer_rows(_IN_EVALUATION, self.evaluation))

    def write(self, folder: Path) -> None:
        write_json(
            folder / _ROWS_AT_ONCE, {"training": self.training, "evaluation": self.evaluation}
        )


_IN_TRAINING, _IN_EVALUATION = "fine-tuning", "evaluation during fine-tuning"


def _trainer(
    model: nn.Module,
    train: SplitInputs,
    settings: TrainingSettings,
    rows_at_once: _RowsAtOnce,
    *,
    folder: Path,
    callbacks: list[TrainerCallback],
    validation: SplitInputs | None,
    rule: EpochRule | None,
    on_logits: Callable[[int, NDArray[np.float32]], None],
    objective: Objective | None,
) -> Trainer:
    """Trainer for :func:`train_steps`, which seeds torch's global state."""
    device = resolve_device(settings.device)
    classes: Any = plain_classifier(model).config.classes  # type: ignore[union-attr]
    steps_per_epoch = -(-len(train.tokens) // rows_at_once.batch_size)
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=-(-rows_at_once.training // distributed.size()),
        gradient_accumulation_steps=rows_at_once.batch_size // rows_at_once.training,
        per_device_eval_batch_size=rows_at_once.evaluation,
        num_train_epochs=settings.epochs,
        max_steps=-1 if objective is None or objective.steps is None else objective.steps,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        lr_scheduler_type="linear",
        warmup_steps=0 if objective is None else objective.warm_up,
        optim="adamw_torch_fused",
        seed=settings.seed,
        bf16=settings.precision == "bfloat16",
        fp16=settings.precision == "float16",
        activation_checkpointing=settings.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        use_cpu=device.type == "cpu",
        eval_strategy="no" if validation is None else "epoch",
        **({"save_strategy": "no"} if rule is None else _BEST_EPOCH),
        logging_strategy="steps",
        logging_steps=min(_LOGGING_STEPS, steps_per_epoch),
        logging_nan_inf_filter=False,
        report_to=check_trackers(settings.report_to),
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=device.type == "cuda",
        accelerator_config={"non_blocking": device.type == "cuda"},  # copied while the GPU computes
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
            rule,
            lambda logits: on_logits(trainer.state.global_step, logits),
        )
    if objective is None:
        class_weight = class_weights(settings.class_weight, classes)
        objective = Objective(
            _mean_loss(class_weight, train.labels, len(classes), device, train.weights),
            lambda rows, seed: _SeededLengthSampler(
                rows.tokens.lengths.tolist(), rows_at_once.batch_size, seed
            ),
        )
    trainer = _SampledTrainer(
        sampler=objective.sampler(train, settings.seed),
        rows=rows_at_once.training,
        model=model,
        args=arguments,
        train_dataset=[(train, row) for row in range(len(train.tokens))],
        data_collator=_collate,
        compute_loss_func=objective.loss,
        callbacks=callbacks,
        **evaluation,
    )
    for callback in callbacks:
        if isinstance(callback, CheckpointKeeper):
            callback.save_model = trainer.save_model
    trainer.remove_callback(PrinterCallback)
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
            expected = ", ".join(["none", *sorted(available)])
            raise InputError(
                f"{named('report_to')} {name} is unknown or its package is not installed: expected "
                f"one of {expected}, or install it"
            )
    return names


class Patience(TrainerCallback):
    """Ends training once ``epochs`` evaluations in a row have not improved on the best score.

    The ``first`` that counts is that of epoch 0, or of epoch 1 where the start is not kept anyway.
    Transformers' own counts in an attribute, which a resumed training would begin anew; this one
    counts in the log, which is part of every checkpoint.
    """

    def __init__(self, epochs: int, first: int) -> None:
        self._epochs, self._first = epochs, first

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        del args
        key = f"eval_{EPOCH_SCORE}"
        all_scores = [entry[key] for entry in state.log_history if key in entry]
        scores = all_scores[self._first :]
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


_NO_ROW = -100
"""Number and label of a row that no loss counts, as in Transformers; its text is the first one."""


def _collate(items: list[_Item]) -> dict[str, torch.Tensor]:
    split, rows = items[0][0], [row for _, row in items]
    has_rows = rows != [_NO_ROW]
    rows = rows if has_rows else [0]
    labels = torch.tensor(split.labels[rows] if has_rows else [_NO_ROW])
    batch = {**split.tokens.batch(rows), "labels": labels}
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


class _ShareOfBatches(BatchSampler):
    """This process' rows of each batch, which differ by at most one in number between processes.

    Where a batch has fewer rows than there are processes, one ``without`` a row takes that number.
    """

    def __init__(self, sampler: Sampler[int], batch_size: int, without: int) -> None:
        super().__init__(sampler, batch_size, drop_last=False)
        self._without = without

    def __iter__(self) -> Iterator[list[int]]:
        for rows in super().__iter__():
            yield rows[distributed.rank() :: distributed.size()] or [self._without]


class _SampledTrainer(Trainer):
    """Trainer with a sampler of our own and weights of rows.

    It has no argument that takes a sampler, and its function of the loss sees no inputs. ``rows``
    are those of a batch, of which each process takes its share: accelerate's own shares would
    repeat rows where they do not come out even, and weigh those of a last, smaller batch more.
    """

    def __init__(self, *, sampler: Sampler[int], rows: int, **arguments: Any) -> None:
        self._sampler, self._rows = sampler, rows
        super().__init__(**arguments)

    def get_train_dataloader(self) -> DataLoader:
        """Trainer's own, or with several processes one of this process' rows of each batch."""
        if distributed.size() == 1:
            return super().get_train_dataloader()
        items: list[_Item] = self.train_dataset
        return DataLoaderShard(
            [*items, (items[0][0], _NO_ROW)],
            batch_sampler=_ShareOfBatches(self._sampler, self._rows, without=len(items)),
            collate_fn=self.data_collator,
            device=self.args.device,
        )

    def _get_train_sampler(self, train_dataset: list[_Item] | None = None) -> Sampler:
        del train_dataset
        return self._sampler

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        labels, row_weights = inputs.pop("labels"), inputs.pop(_WEIGHTS, None)
        forward: Callable[..., Any] = model
        if not model.training:  # accelerate would evaluate in the training's precision too
            inner = self.accelerator.unwrap_model(model)
            forward = getattr(inner, "_original_forward", inner)
        outputs = forward(**inputs)
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
    weights = weights_by_class(class_weight, labels, classes, sample_weight).to(device)

    def loss(
        outputs: Any,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
        row_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        entropies = cross_entropy(
            outputs.logits.float(), labels, ignore_index=_NO_ROW, reduction="none"
        )
        weighted = weights[labels.clamp(min=0)] * entropies
        if row_weights is not None:
            weighted = weighted * row_weights
        # Where a step takes its batch in parts, each part has its share of the batch's mean; of
        # several processes the gradients' mean is taken, whose sum is wanted.
        rows = len(labels) if num_items_in_batch is None else num_items_in_batch
        return distributed.size() * weighted.sum() / rows

    return loss


def weights_by_class(
    class_weight: Weights | None,
    labels: NDArray[np.int64],
    classes: int,
    sample_weight: NDArray[np.float64] | None = None,
) -> torch.Tensor:
    """w_y [C] as scikit-learn weighs ``labels`` (N); classes without rows weigh 1."""
    weights = torch.ones(classes)
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
    return weights


def _evaluation_metrics(
    model: nn.Module,
    validation: SplitInputs,
    order: NDArray[np.int64],
    rule: EpochRule | None,
    on_logits: Callable[[NDArray[np.float32]], None],
) -> Callable[[EvalPrediction], dict[str, float]]:
    """:func:`evaluation_values` of validation rows read in ``order``, and the score by ``rule``."""

    def metrics(prediction: EvalPrediction) -> dict[str, float]:
        logits, features = (np.empty_like(values) for values in prediction.predictions)
        logits[order], features[order] = prediction.predictions
        if not np.isfinite(logits).all():
            raise TrainingDiverged(
                "training diverged: the logits on validation are no longer finite; lower "
                f"{named('learning_rate')}, or use {named('precision')} float32"
            )
        on_logits(logits)
        values = evaluation_values(trained_head(model), logits, features, validation)
        return values if rule is None else values | {EPOCH_SCORE: rule.score(values)}

    return metrics
