"""The history of a training: rows for history.jsonl, log lines, the best epoch, and divergence."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lpft.analysis import feature_difference, fit_temperature, split_metrics
from lpft.analysis.calibration import PRIOR_SD, negative_log_likelihood
from lpft.data.examples import Groups
from lpft.errors import InputError, named
from lpft.progress import progress
from lpft.training.cache import SplitInputs
from lpft.training.probing import ProbingPath

logger = logging.getLogger(__name__)

Row = dict[str, Any]
"""A line of ``history.jsonl``."""

FoldScores = tuple[list[Row], NDArray[np.float32]]
"""E + 1 rows of a history's evaluations, and the logits of M held-out rows at each (E + 1 x M x C).
"""

_METRICS = ("accuracy", "macro_f1", "matthews_correlation")
_TRAINING_KEYS = ("loss", "learning_rate", "grad_norm")
_IS_EVALUATION = "eval_validation_loss"
EPOCH_SCORE = "epoch_score"
"""The name of an epoch's score in Trainer's log; no history has it, as it follows from the rest."""
_TRAINER_EVALUATION_KEYS = (
    f"eval_{EPOCH_SCORE}",
    "eval_loss",
    "eval_runtime",
    "eval_samples_per_second",
    "eval_steps_per_second",
)


class TrainingDiverged(InputError):
    """A loss, gradient or logit stopped being a finite number."""


def head_norms(head: nn.Linear) -> tuple[float, float]:
    """The Frobenius norm of V and the Euclidean norm of b (0 without a bias)."""
    weight = float(torch.linalg.vector_norm(head.weight.detach()))
    if head.bias is None:
        return weight, 0.0
    return weight, float(torch.linalg.vector_norm(head.bias.detach()))


def evaluation_values(
    head: nn.Linear,
    logits: NDArray[np.float32],
    features: NDArray[np.float32],
    validation: SplitInputs,
) -> dict[str, float]:
    """Validation metrics, the head's norms and the drift from phi_0 at one point of a training.

    ``logits`` (N x C) and ``features`` (N x h) are those of the validation texts now;
    ``feature_difference`` is Diff(F), ``validation_calibrated_nll`` the NLL with a temperature that
    is fitted on the same rows.
    """
    return {
        **_head_values(*head_norms(head), logits, validation.labels, validation.groups),
        "validation_calibrated_nll": _calibrated_nll(logits, validation.labels),
        "feature_difference": feature_difference(features, validation.pretrained),
    }


def _calibrated_nll(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    return fit_temperature(logits, labels, PRIOR_SD).nll_after


def pooled_evaluation(
    parts: Sequence[Row], logits: NDArray[np.float32], scored: SplitInputs, steps: int
) -> Row:
    """The row of a history for one epoch that K folds have scored together.

    Metrics are those of all M ``scored`` rows by their out-of-fold ``logits`` (M x C); norms and
    the drift of features are means over the folds' own rows ``parts``. ``steps`` are those of an
    epoch of all training rows.
    """
    means = {
        name: float(np.mean([part[name] for part in parts]))
        for name in ("head_norm", "bias_norm", "feature_difference")
    }
    epoch = parts[0]["epoch"]
    return {
        "event": "evaluation",
        "epoch": epoch,
        "step": round(epoch * steps),
        **_head_values(
            means["head_norm"], means["bias_norm"], logits, scored.labels, scored.groups
        ),
        "validation_calibrated_nll": _calibrated_nll(logits, scored.labels),
        "feature_difference": means["feature_difference"],
    }


def path_rows(
    path: ProbingPath,
    train: tuple[NDArray[np.float32], NDArray[np.int64]],
    validation: tuple[NDArray[np.float32], NDArray[np.int64]],
) -> list[dict[str, float]]:
    """The values of ``history.jsonl`` for each point of a linear probe's path.

    ``train`` and ``validation`` are phi_0 (N x h) and class indices (N) of a split; ``iteration``
    takes the place of the epoch, and ``loss`` is the mean cross-entropy of all training rows in
    nats, without the penalty.
    """
    rows = []
    for point in path.points:
        train_logits, validation_logits = (
            features @ point.weight.T + point.bias for features, _ in (train, validation)
        )
        norms = float(np.linalg.norm(point.weight)), float(np.linalg.norm(point.bias))
        rows.append(
            {
                "iteration": point.iteration,
                "loss": negative_log_likelihood(train_logits, train[1]),
                **_head_values(*norms, validation_logits, validation[1]),
            }
        )
    return rows


class TrainingReporter(TrainerCallback):
    """Passes on the history, draws the progress bar, and stops at the first NaN."""

    def __init__(
        self,
        on_history: Callable[[list[Row]], None],
        name: str = "fine-tuning",
        *,
        quiet: bool = False,
    ) -> None:
        self._on_history, self._name, self._quiet = on_history, name, quiet
        self._bar: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        del args, control
        if self._bar is not None:  # of an attempt that ran out of memory
            self._bar.close()
        self._bar = progress(description=self._name, total=state.max_steps, unit="step")
        self._bar.update(state.global_step)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._bar.update()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self._bar.close()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any],
        **_: Any,
    ) -> None:
        del control
        # In float16 an infinite gradient only tells the scaler to lower its scale.
        for name in ("loss",) if args.fp16 else ("loss", "grad_norm"):
            if not math.isfinite(logs.get(name, 0.0)):
                raise TrainingDiverged(
                    f"training diverged: {name} is {logs[name]} at step {state.global_step} with "
                    f"learning rate {args.learning_rate:g}; lower {named('learning_rate')} (or "
                    f"{named('head_scale')}, {named('lora_alpha')}), or use {named('precision')} "
                    "float32"
                )
        if _IS_EVALUATION in logs and not self._quiet:
            logger.info(
                "epoch %g of %g: validation accuracy %.3f, loss %.3f, head norm %.3g, "
                "feature change %.3g",
                round(logs["epoch"], 2),
                args.num_train_epochs,
                logs["eval_validation_accuracy"],
                logs["eval_validation_loss"],
                logs["eval_head_norm"],
                logs["eval_feature_difference"],
            )
        self._on_history(history_rows(state.log_history))


def evaluations(history: Sequence[Row]) -> list[Row]:
    """The rows of a history that score epochs 0, 1, ..., E."""
    return [row for row in history if row["event"] == "evaluation"]


def epochs_since_best(scores: Sequence[float]) -> int:
    """How many scores there are after the highest; of equal ones the first counts."""
    return len(scores) - 1 - scores.index(max(scores))


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Rows by step, those of training before the evaluation after it."""
    return sorted(rows, key=lambda row: (row["step"], row["event"] == "evaluation"))


def history_rows(log_history: list[dict[str, Any]]) -> list[Row]:
    """Trainer's log as rows with ``event`` evaluation or training, ``epoch`` and ``step``."""
    rows = []
    for entry in log_history:
        position = {"epoch": entry.get("epoch", 0.0), "step": entry["step"]}
        if _IS_EVALUATION in entry:
            values = {
                key.removeprefix("eval_"): value
                for key, value in entry.items()
                if key.startswith("eval_") and key not in _TRAINER_EVALUATION_KEYS
            }
            rows.append({"event": "evaluation", **position, **values})
        elif "loss" in entry:
            values = {key: entry[key] for key in _TRAINING_KEYS if key in entry}
            rows.append({"event": "training", **position, **values})
    return rows


@dataclass(frozen=True)
class BestEpoch:
    """The epoch of ``epochs`` that was kept, with its ``score`` by the metric on validation.

    ``index`` is its place among the evaluations; ``probe_won`` whether it is epoch 0, the start
    from linear probing; ``note`` what else a reader should know of the choice, or None.
    """

    index: int
    epoch: float
    epochs: float
    metric: str
    score: float
    probe_won: bool
    note: str | None


@dataclass(frozen=True)
class EpochRule:
    """How the epoch to keep is chosen: by a metric on validation; of equal epochs the earlier.

    ``start_counts`` is whether epoch 0, before any step, is a candidate. With ``refined`` epochs of
    an equal metric are ranked by their NLL on validation with a temperature fitted there: few
    rows give many epochs the same accuracy, and this NLL, which does not depend on how confident
    an epoch is, says which of them separates the classes better.

    Source: Berta et al., Rethinking Early Stopping: Refine, Then Calibrate, 2025, choose by this
    NLL alone.
    """

    metric: str
    start_counts: bool = True
    refined: bool = True

    @property
    def first(self) -> int:
        """The first epoch that is a candidate."""
        return 0 if self.start_counts else 1

    def score(self, values: Mapping[str, float]) -> float:
        """``metric``, or refined ``metric + 1e-6 exp(-NLL)``, of :func:`evaluation_values`."""
        score = values[f"validation_{self.metric}"]
        if self.refined:
            score += _NLL_SHARE * math.exp(-values["validation_calibrated_nll"])
        return score


_NLL_SHARE = 1e-6
"""Smaller than any difference in the metric: two accuracies differ by at least 1 / N."""


def best_epoch(
    scored: Sequence[Row],
    rule: EpochRule,
    *,
    epochs: float,
    from_probe: bool,
    training: str = "fine-tuning",
) -> BestEpoch:
    """The first epoch with the highest score out of evaluations at epochs 0, 1, ...

    ``epochs``: those that were planned; ``from_probe``: whether epoch 0 is a linear probe;
    ``training``: what the epochs are of, in words.
    """
    metric = rule.metric
    # argmax takes the first of equal scores: the earliest epoch.
    scores = [row[f"validation_{metric}"] for row in scored]
    index = rule.first + int(np.argmax([rule.score(row) for row in scored[rule.first :]]))
    note = None
    if from_probe and scores[0] > scores[index]:
        note = (
            f"The linear probe that {training} started from was better on validation ({metric} "
            f"{scores[0]:.3f}, the epoch kept {scores[index]:.3f}); the paper's rule keeps the "
            f"best epoch of {training}."
        )
    elif from_probe and index == 0:
        note = (
            f"No epoch of {training} was better on validation than the linear probe that it "
            f"started from ({metric} {scores[0]:.3f}), so the probe was kept."
        )
    return BestEpoch(
        index=index,
        epoch=scored[index]["epoch"],
        epochs=epochs,
        metric=metric,
        score=scores[index],
        probe_won=from_probe and index == 0,
        note=note,
    )


LOSS_OF_GUESSING = 0.8
"""The share of ln C at or above which a training loss is near that of guessing."""
STILL_RISING = 0.01
"""A last epoch that beats every earlier one by more than this was still rising."""


def signs_of_undertraining(
    history: Sequence[Row], best: BestEpoch, labels: NDArray[np.int64], classes: int
) -> tuple[str, ...]:
    """Why a fine-tuning may not have gone far enough; empty where nothing says so.

    (1) The mean training loss of the epoch kept is at least 0.8 ln C. (2) The last epoch is the
    best, by more than 0.01. (3) Accuracy on validation is at most one standard error,
    ``sqrt(p (1 - p) / N)``, above the share p of the largest class.

    Args:
        history: all rows.
        labels: the N class indices of the rows that scored it.
    """
    scored = evaluations(history)
    losses = [
        row["loss"]
        for row in history
        if row["event"] == "training" and best.epoch - 1 < row["epoch"] <= best.epoch
    ]
    signs = []
    if losses and np.mean(losses) >= LOSS_OF_GUESSING * math.log(classes):
        signs.append(
            f"the training loss at the epoch kept, {np.mean(losses):.2f}, is near that of "
            f"guessing, ln {classes} = {math.log(classes):.2f}"
        )
    scores = [row[f"validation_{best.metric}"] for row in scored]
    if 0 < best.index == len(scores) - 1 and best.score > max(scores[:-1]) + STILL_RISING:
        signs.append(
            f"the last epoch, {best.epoch:g}, is the best: {best.metric} {best.score:.3f} after at "
            f"most {max(scores[:-1]):.3f}"
        )
    share = float(np.bincount(labels).max() / len(labels))
    accuracy = scored[best.index]["validation_accuracy"]
    if share < 1 and accuracy <= share + math.sqrt(share * (1 - share) / len(labels)):
        signs.append(
            f"accuracy on validation, {accuracy:.3f}, is within one standard error of always "
            f"answering the most frequent class, {share:.3f}"
        )
    return tuple(signs)


def _head_values(
    head_norm: float,
    bias_norm: float,
    logits: ArrayLike,
    labels: NDArray[np.int64],
    groups: Groups | None = None,
) -> dict[str, float]:
    """Validation metrics and norms of a head, given its logits (N x C) of the validation texts.

    ``logit_norm`` is the mean Euclidean norm of a row's logits; ``groups`` add their metrics.
    """
    scores = split_metrics(logits, labels, groups=groups)
    chosen = (*_METRICS, *(() if groups is None else groups.metrics))
    return {
        "validation_loss": scores["nll"],
        **{f"validation_{name}": scores[name] for name in chosen},
        "head_norm": head_norm,
        "bias_norm": bias_norm,
        "logit_norm": scores["logit_norm_l2"],
    }
