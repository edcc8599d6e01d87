"""A trained classifier opened for use: its model, and what its record says of its input."""

from dataclasses import dataclass
from pathlib import Path

import torch

from lpft.choices import Device, Precision
from lpft.model import Classifier, load_classifier
from lpft.model.inference import resolve_device
from lpft.runs.store import read_record


@dataclass(frozen=True)
class SavedClassifier:
    """``paired`` is whether it was trained on pairs, ``text_columns`` the columns that it read."""

    classifier: Classifier
    device: torch.device
    precision: Precision
    paired: bool
    text_columns: tuple[str, ...] | None
    label_column: str


def open_saved(folder: Path, device: Device = "auto") -> SavedClassifier:
    """Load a run's folder, or what ``TextClassifier.save`` wrote, which has no record.

    Raises:
        InputError: the folder is missing, unfinished, damaged, or holds another kind of model.
    """
    chosen = resolve_device(device)
    classifier = load_classifier(folder)
    record = read_record(folder)
    config = {} if record is None else record["config"]
    columns = config.get("text_columns")
    return SavedClassifier(
        classifier=classifier,
        device=chosen,
        precision=config.get("precision", "float32"),
        paired=record is not None and bool(record["data"].get("paired")),
        text_columns=None if columns is None else tuple(columns),
        label_column=config.get("label_column", "label"),
    )
