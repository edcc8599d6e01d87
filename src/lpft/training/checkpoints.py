"""Checkpoints of a fine-tuning: when they are written, and which one a training goes on from.

Trainer's own are there to go on from, and go when the training ends. With ``--keep-checkpoints``
:class:`EpochWeights` saves what trains after every epoch, which stays with the run.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lpft import distributed
from lpft.errors import InputError, named
from lpft.files import (
    DIGESTS,
    add_digest,
    damaged_file,
    readable_size,
    replace_when_written,
    write_digests,
    write_json,
)

logger = logging.getLogger(__name__)

MINUTES_BETWEEN_CHECKPOINTS = 5.0
_START = "checkpoint-0"
_STATE = "trainer_state.json"
KEPT = "checkpoints"
"""The folder in a run's where the weights of its epochs are."""
_PREFIX, _SUFFIX = "epoch-", ".safetensors"


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
        complete = (checkpoint / DIGESTS).exists()
        if complete and name is None:
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
    # Trainer records the whole path; the run's folder may have been moved since.
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
        if distributed.is_main():
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
        return distributed.agreed(
            lambda: time.monotonic() - self._saved_at > 60 * MINUTES_BETWEEN_CHECKPOINTS
        )

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        del control
        self._saved_at = time.monotonic()
        distributed.wait_for_all()  # each process writes the state of its own random generators
        if distributed.is_main():
            self._clean(Path(args.output_dir), state)
        distributed.wait_for_all()

    @staticmethod
    def _clean(folder: Path, state: TrainerState) -> None:
        current = folder / f"checkpoint-{state.global_step}"
        write_digests(current)
        needed = {current.name, Path(state.best_model_checkpoint or current).name}
        for checkpoint in folder.glob("checkpoint-*"):
            if checkpoint.name not in needed:
                shutil.rmtree(checkpoint)


class EpochWeights(TrainerCallback):
    """Saves what trains, at the start of a training and after every epoch.

    ``epoch-<number>.safetensors`` holds the parameters that require gradients, by their names in
    ``named_parameters()`` of the model that trains, with an adapter in PEFT's wrapper; epoch 0 is
    the start. All other parameters stay as they are. Digests lie beside the files.
    """

    def __init__(self, model: nn.Module, folder: Path) -> None:
        self._trained = {n: value for n, value in model.named_parameters() if value.requires_grad}
        self.folder = folder

    def begin(self, training: Path, epochs: float) -> None:
        """Save the start; ``epochs`` are those to come, of the training below ``training``.

        That training begins anew where what it saved here before it was stopped is damaged.
        """
        damaged = damaged_file(self.folder) if (self.folder / DIGESTS).exists() else DIGESTS
        if training.exists() and damaged is not None:
            logger.warning(
                "'%s' is damaged or missing: training begins anew, to the same result",
                self.folder / damaged,
            )
            shutil.rmtree(training)
        if not training.exists():
            shutil.rmtree(self.folder, ignore_errors=True)
        self._save(0.0)
        size = sum(value.numel() * value.element_size() for value in self._trained.values())
        logger.info(
            "the weights of the start and of every epoch are kept in the run's folder %s: %s each, "
            "%s for %g epochs",
            KEPT,
            readable_size(size),
            readable_size(round(size * (1 + epochs))),
            epochs,
        )

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        # Before the checkpoint from which a training goes on after this epoch.
        del args, control
        assert state.epoch is not None
        self._save(state.epoch)

    def _save(self, epoch: float) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{_PREFIX}{epoch:g}{_SUFFIX}"
        with replace_when_written(path) as temporary:
            save_file(
                {n: value.detach().contiguous() for n, value in self._trained.items()}, temporary
            )
        add_digest(path)


def kept_checkpoints(run: Path) -> dict[float, Path]:
    """The files of a run's kept checkpoints by epoch, in order; 0 is the start.

    Raises:
        InputError: there are none, or a file is damaged or missing.
    """
    folder = run / KEPT
    how_to_repeat = (
        f"train it again with {named('keep_checkpoints=True')} and {named('overwrite=True')}"
    )
    if not (folder / DIGESTS).is_file():
        raise InputError(
            f"'{run}' has no checkpoints of its epochs (no '{folder}'): {how_to_repeat}"
        )
    damaged = damaged_file(folder)
    if damaged is not None:
        raise InputError(f"'{folder / damaged}' is damaged: restore it, or {how_to_repeat}")
    by_epoch = {}
    for path in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        try:
            by_epoch[float(path.name.removeprefix(_PREFIX).removesuffix(_SUFFIX))] = path
        except ValueError as error:
            raise InputError(
                f"'{path}' is not named by an epoch: remove it, or {how_to_repeat}"
            ) from error
    if set(by_epoch) == {0.0}:
        raise InputError(
            f"'{folder}' has the start alone: {named('validation_file')} has every epoch trained, "
            "also where folds would choose the start over all of them; or restore the files that "
            "were removed"
        )
    if 0.0 not in by_epoch:
        raise InputError(
            f"'{folder}' lacks the start, epoch 0: restore its files, or {how_to_repeat}"
        )
    return dict(sorted(by_epoch.items()))


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The parameters of a kept checkpoint by name.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"'{path}' cannot be read ({error}): restore it") from error
