"""A trained classifier opened for use: its model, and what its record says of its input."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lpft.data.examples import TextData
from lpft.errors import InputError, named
from lpft.model import Classifier, load_classifier
from lpft.model.inference import encoder_fingerprint, resolve_device
from lpft.model.loading import fresh_classifier
from lpft.results.folder import read_record, recorded_config
from lpft.results.run import Predictions
from lpft.results.schema import RunRecord, UnusableRecord
from lpft.settings import TrainingSettings


@dataclass(frozen=True)
class SavedClassifier:
    """``paired`` is whether it was trained on pairs, ``text_columns`` the columns that it read.

    These are None where they had no names. ``folder`` is the run's; ``task`` and ``template`` are
    those of its training, where it was on a task.
    """

    folder: Path
    classifier: Classifier
    device: torch.device
    task: str | None
    template: int
    paired: bool
    text_columns: tuple[str, ...] | None
    label_column: str

    def validation(self) -> Predictions:
        """The validation rows of the run as it predicted them.

        Raises:
            InputError: there are none, as of a classifier of ``TextClassifier.save``, or damaged.
        """
        return self._predictions("validation")

    def reference_logits(self) -> NDArray[np.float64] | None:
        """Logits of the run's test rows, or validation rows; None where neither are there."""
        for split in ("test", "validation"):
            with suppress(InputError):
                return self._predictions(split).logits
        return None

    def _predictions(self, split: str) -> Predictions:
        try:
            return Predictions.read(self.folder, split, self.classifier.model.config.num_labels)
        except UnusableRecord as problem:
            raise InputError(
                f"'{self.folder}' has no {split} predictions to choose a threshold by ({problem}): "
                f"expected a run of lpft train; or give {named('abstain_below')} itself"
            ) from problem


def open_saved(folder: Path, device: str | torch.device = "auto") -> SavedClassifier:
    """Load a run's folder, or what ``TextClassifier.save`` wrote, which has no record.

    Raises:
        InputError: the folder is missing, unfinished, damaged, or holds another kind of model.
    """
    chosen = resolve_device(device)
    record = read_record(folder)
    if record is not None and record.status != "finished":
        raise InputError(
            f"the run in '{folder}' is {record.status}, not finished: continue it with "
            f"lpft train --resume --output-dir {folder}"
        )
    config = (recorded_config(folder) if record is None else record.config) or {}
    if config.get("save_model") is False and not (folder / "config.json").exists():
        raise InputError(
            f"the run in '{folder}' was trained with {named('save_model=False')}, so it has no "
            "weights: train it again without that, or name another run"
        )
    classifier = load_classifier(folder)
    columns = classifier.model.config.text_columns
    if columns is None:  # of an earlier version, whose record has them where the user named them
        columns = config.get("text_columns")
    return SavedClassifier(
        folder=folder,
        classifier=classifier,
        device=chosen,
        task=config.get("task"),
        template=config.get("template", 0),
        paired=classifier.model.config.paired,
        text_columns=None if columns is None else tuple(columns),
        label_column=config.get("label_column", "label"),
    )


def model_at_start(
    folder: Path, record: RunRecord, data: TextData, settings: TrainingSettings
) -> Classifier:
    """The classifier that the run in ``folder`` began with: its base model, with a random head.

    Raises:
        InputError: the base model cannot be loaded, or is not the one of the training any more.
    """
    classifier = fresh_classifier(data, settings)
    known = None if record.fingerprints is None else record.fingerprints.encoder
    if known not in (None, encoder_fingerprint(classifier.model)):
        raise InputError(
            f"the weights of '{settings.model}' changed since '{folder}' was trained on them, and "
            "what was trained belongs to the old ones: restore them, or train it again"
        )
    return classifier


def columns_error(saved: SavedClassifier, path: Path, columns: Sequence[str] | None) -> InputError:
    """What to say where a file's text columns are two and training had one, or the other way round.

    ``columns`` are those that the user named; None where the column ``text`` or so was taken.
    """
    listed = "" if columns is None else f" ({', '.join(columns)})"
    if saved.paired:
        return InputError(
            f"{path}: the model was trained on pairs: expected two text columns, found "
            f"one{listed}: name two with {named('text_columns')}"
        )
    return InputError(
        f"{path}: the model was trained on single texts: expected one text column, found "
        f"two{listed}: name one with {named('text_columns')}"
    )
