"""Run folders whose right and wrong answers, feature changes and head norms are chosen by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from results.run_folders import edit_json, write_run

from lpft.analysis import split_metrics
from lpft.results.run import write_feature_changes

CLASSES = ("no", "yes")
MARGIN = 2.0
"""Between the logits of the predicted class and of the others."""


def write_scored(
    folder: Path,
    method: str,
    seed: int,
    right: dict[str, list[bool]],
    *,
    changes: dict[str, list[float]] | None = None,
    classes: tuple[str, ...] = CLASSES,
    **run: Any,
) -> Path:
    """A run that answers ``right[split]`` correctly; of row i the label is i modulo 2.

    ``changes`` has the feature change of each text of a split.
    """
    splits = {split: len(answers) for split, answers in right.items()}
    write_run(folder, method, seed=seed, classes=classes, splits=splits, **run)
    metrics = json.loads((folder / "metrics.json").read_text())
    for split, answers in right.items():
        labels = np.arange(len(answers)) % 2
        predicted = np.where(answers, labels, 1 - labels)
        logits = (MARGIN * np.eye(2)[predicted]).astype(np.float32)
        metrics["splits"][split] = split_metrics(logits, labels, metrics["temperature"])
        ids = [str(row) for row in range(len(answers))]
        frame = pd.DataFrame({"id": ids, "label": labels, "logits": list(logits)})
        frame.to_parquet(folder / "predictions" / f"{split.replace('/', '-')}.parquet")
    edit_json(folder / "metrics.json", **metrics)
    features = json.loads((folder / "features.json").read_text())
    for split, moved in ({} if changes is None else changes).items():
        ids = [str(row) for row in range(len(moved))]
        write_feature_changes(folder, split, ids, np.array(moved))
        features["splits"][split]["feature_difference"] = float(np.mean(moved))
    edit_json(folder / "features.json", **features)
    return folder


def right_of(rows: int, wrong: int) -> list[bool]:
    """``wrong`` wrong answers, the first ones."""
    return [row >= wrong for row in range(rows)]
