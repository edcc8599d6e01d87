"""Checkpoints of a fine-tuning: when they are written, and which one a training goes on from."""

import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lpft.files import DIGESTS, damaged_file, write_digests, write_json

logger = logging.getLogger(__name__)

MINUTES_BETWEEN_CHECKPOINTS = 5.0
_START = "checkpoint-0"
_STATE = "trainer_state.json"


def last_checkpoint(folder: Path) -> Path | None:
    """The latest checkpoint below ``folder`` that is intact, with the best one so far beside it.

    What a killed process left half-written is removed, and so is what is damaged, which a warning
    names: training then repeats what came after the checkpoint before. The start of a training
    (``checkpoint-0``) is only there to go back to: a training goes on from later ones. The path of
    the best checkpoint inside is brought up to date, so that a run may be moved, or resumed from
    another working folder.
    """
    intact: dict[str, Path] = {}
    damaged = []
    for checkpoint in folder.glob("checkpoint-*"):
        name = damaged_file(checkpoint)
        whole = (checkpoint / DIGESTS).exists()
        if whole and name is None:
            intact[checkpoint.name] = checkpoint
            continue
        if name is not None:
            damaged.append(checkpoint / name)
        shutil.rmtree(checkpoint)
    latest = None
    for checkpoint in sorted(intact.values(), key=_step, reverse=True):
        if checkpoint.name != _START and _brings_best(checkpoint, intact):
            latest = checkpoint
            break
    for file in damaged:
        goes_on = "begins anew" if latest is None else f"goes on from {latest.name}"
        logger.warning("'%s' is damaged: training %s, to the same result", file, goes_on)
    return latest


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _brings_best(checkpoint: Path, intact: Mapping[str, Path]) -> bool:
    """Whether the best checkpoint by an intact one is there; its path is brought up to date."""
    state = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
    best = state["best_model_checkpoint"]
    if best is None:
        return True
    name = Path(best).name
    if name not in intact:
        shutil.rmtree(checkpoint)
        return False
    if best != str(intact[name]):
        state["best_model_checkpoint"] = str(intact[name])
        write_json(checkpoint / _STATE, state)
        write_digests(checkpoint)
    return True


class CheckpointKeeper(TrainerCallback):
    """Adds digests to a checkpoint once it is whole, then removes all but it and the best one.

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
        write_digests(start)
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
        write_digests(current)
        self._saved_at = time.monotonic()
        needed = {current.name, Path(state.best_model_checkpoint or current).name}
        for checkpoint in folder.glob("checkpoint-*"):
            if checkpoint.name not in needed:
                shutil.rmtree(checkpoint)
