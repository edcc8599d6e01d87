"""Fine-tuning by Hugging Face's Trainer: best epoch, exact resumption, history, NaN stopped."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset, Sampler
from transformers import EvalPrediction, PrinterCallback, Trainer, TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.trainer_pt_utils import get_length_grouped_indices

from lpft.data.tokens import Tokens
from lpft.errors import InputError
from lpft.model.adapters import trained_head
from lpft.model.quiet import quiet_transformers
from lpft.settings import Precision
from lpft.training.checkpoints import CheckpointKeeper, last_checkpoint
from lpft.training.history import TrainingDiverged, TrainingReporter, evaluation_values
from lpft.training.inputs import SplitInputs

logger = logging.getLogger(__name__)

_EVALUATION_ROWS = 64
_LOGGING_STEPS = 10


def finetune(
    model: nn.Module,
    train: SplitInputs,
    validation: SplitInputs,
    *,
    epochs: float,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    class_weights: NDArray[np.float64] | None,
    metric: str,
    seed: int,
    device: torch.device,
    precision: Precision,
    report_to: str,
    folder: Path,
    on_history: Callable[[list[dict[str, Any]]], None],
) -> None:
    """Train ``model`` in place and leave it at its best epoch by ``metric`` on validation.

    AdamW with linear decay to zero over all ``epochs`` and no warm-up on the mean over rows of
    ``w_y CE``, with ``class_weights`` w (C) where given, as in linear probing. Batches hold texts
    of similar length, padded to their longest; their order depends on ``seed`` and the epoch
    alone, so that a training that goes on from the last whole checkpoint below ``folder`` repeats
    what it would have done.

    Args:
        model: a classifier, or one wrapped by PEFT, already seeded.
        on_history: called with all rows so far whenever there is a new one.

    Raises:
        TrainingDiverged: a loss or gradient norm is NaN or infinite.
    """
    checkpoint = last_checkpoint(folder)
    if checkpoint is not None:
        logger.info("going on from %s", checkpoint.name)
    use_cuda = device.type == "cuda"
    steps_per_epoch = -(-len(train.tokens) // batch_size)
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=_EVALUATION_ROWS,
        num_train_epochs=epochs,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        lr_scheduler_type="linear",
        optim="adamw_torch_fused",
        seed=seed,
        bf16=precision == "bfloat16",
        fp16=precision == "float16",
        use_cpu=device.type == "cpu",
        eval_on_start=checkpoint is None,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model=f"validation_{metric}",
        greater_is_better=True,
        logging_strategy="steps",
        logging_steps=min(_LOGGING_STEPS, steps_per_epoch),
        logging_nan_inf_filter=False,
        report_to=check_trackers(report_to),
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=use_cuda,
    )
    arguments._n_gpu = 1  # or Trainer would multiply the batch size by the number of GPUs
    by_length = np.argsort(validation.tokens.lengths, kind="stable")
    trainer = _LengthGroupedTrainer(
        model=model,
        args=arguments,
        train_dataset=_Rows(train, np.arange(len(train.tokens))),
        eval_dataset=_Rows(validation, by_length),
        data_collator=_collate,
        compute_loss_func=_weighted_cross_entropy(class_weights, device),
        compute_metrics=_evaluation_metrics(model, validation, by_length),
        callbacks=[TrainingReporter(on_history), CheckpointKeeper()],
    )
    trainer.remove_callback(PrinterCallback)
    with quiet_transformers():
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))


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
                f"--report-to {name} is unknown or its package is not installed: expected one of "
                f"{known}, or install it"
            )
    return names


class _Rows(Dataset):
    """(tokens, row, label) triples, so that a batch is padded at once by :meth:`Tokens.batch`."""

    def __init__(self, split: SplitInputs, rows: NDArray[np.int64]) -> None:
        self.tokens, self.labels, self.rows = split.tokens, split.labels, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tokens, int, int]:
        row = int(self.rows[index])
        return self.tokens, row, int(self.labels[row])


def _collate(items: list[tuple[Tokens, int, int]]) -> dict[str, torch.Tensor]:
    tokens = items[0][0]
    batch = tokens.batch([row for _, row, _ in items])
    batch["labels"] = torch.tensor([label for _, _, label in items])
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
    """Trainer with :class:`_SeededLengthSampler`; it has no argument that takes a sampler."""

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler:
        rows = self.train_dataset if train_dataset is None else train_dataset
        assert isinstance(rows, _Rows)
        lengths = rows.tokens.lengths.tolist()
        return _SeededLengthSampler(lengths, self.args.train_batch_size, self.args.seed)


def _weighted_cross_entropy(
    class_weights: NDArray[np.float64] | None, device: torch.device
) -> Callable[..., torch.Tensor]:
    weights = None
    if class_weights is not None:
        weights = torch.tensor(class_weights, dtype=torch.float32, device=device)

    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:  # noqa: ARG001
        entropies = cross_entropy(outputs.logits.float(), labels, reduction="none")
        # Not cross_entropy's own weight: it divides by each batch's weights, which undoes a part.
        return entropies.mean() if weights is None else (weights[labels] * entropies).mean()

    return loss


def _evaluation_metrics(
    model: nn.Module, validation: SplitInputs, order: NDArray[np.int64]
) -> Callable[[EvalPrediction], dict[str, float]]:
    """:func:`evaluation_values` of validation rows that were read in ``order``."""

    def metrics(prediction: EvalPrediction) -> dict[str, float]:
        logits, features = (np.empty_like(values) for values in prediction.predictions)
        logits[order], features[order] = prediction.predictions
        if not np.isfinite(logits).all():
            raise TrainingDiverged(
                "training diverged: the logits on validation are no longer finite; lower "
                "--learning-rate, or use --precision float32"
            )
        return evaluation_values(trained_head(model), logits, features, validation)

    return metrics
