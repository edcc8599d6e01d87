"""Trainer's checkpoints, made safe: only whole ones are resumed from, only useful ones kept."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lpft.files import write_json

MINUTES_BETWEEN_CHECKPOINTS = 5.0
_WHOLE = "whole"
_STATE = "trainer_state.json"


def last_checkpoint(folder: Path) -> Path | None:
    """The latest checkpoint below ``folder`` that was written to its end, if there is one.

    What a killed process left half-written is removed. The path of the best checkpoint inside is
    brought up to date, so that a run may be moved, or resumed from another working folder.
    """
    whole = []
    for checkpoint in folder.glob("checkpoint-*"):
        if (checkpoint / _WHOLE).is_file():
            whole.append(checkpoint)
        else:
            shutil.rmtree(checkpoint)
    if not whole:
        return None
    latest = max(whole, key=_step)
    state = json.loads((latest / _STATE).read_text(encoding="utf-8"))
    best = state["best_model_checkpoint"]
    if best is not None:
        state["best_model_checkpoint"] = str(folder / Path(best).name)
        write_json(latest / _STATE, state)
    return latest


class CheckpointKeeper(TrainerCallback):
    """Marks a checkpoint as whole once it is, then removes all but it and the best one.

    Besides Trainer's checkpoint at the end of every epoch it asks for one whenever five minutes
    have passed, for epochs that take longer.
    """

    def __init__(self, minutes: float = MINUTES_BETWEEN_CHECKPOINTS) -> None:
        self._seconds = 60 * minutes
        self._saved_at = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        del args
        if state.epoch is not None and state.epoch == int(state.epoch):
            return  # Trainer saves here itself, after the evaluation that must not be skipped
        if time.monotonic() - self._saved_at > self._seconds:
            control.should_save = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        del control
        folder = Path(args.output_dir)
        current = folder / f"checkpoint-{state.global_step}"
        (current / _WHOLE).touch()
        self._saved_at = time.monotonic()
        kept = {current.name, Path(state.best_model_checkpoint or current).name}
        for checkpoint in folder.glob("checkpoint-*"):
            if checkpoint.name not in kept:
                shutil.rmtree(checkpoint)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
