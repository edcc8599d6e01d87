"""Small files of toy texts, and the settings that train a tiny model on them in a second."""

from pathlib import Path
from typing import Any

import pandas as pd
from tiny_models import toy_texts

from lpft.settings import unused_settings

ROWS = {"train": 40, "validation": 24, "test": 20, "far": 16}


def write_toy_file(path: Path, rows: int, seed: int) -> Path:
    """``text,label`` lines of toy texts."""
    texts, labels = toy_texts(rows, seed)
    pd.DataFrame({"text": texts, "label": labels}).to_csv(path, index=False)
    return path


def toy_data(folder: Path) -> dict[str, Any]:
    """Data settings of four files below ``folder``, which are written."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        name: write_toy_file(folder / f"{name}.csv", rows, seed)
        for seed, (name, rows) in enumerate(ROWS.items())
    }
    return {
        "train_file": str(files["train"]),
        "validation_file": str(files["validation"]),
        "test_file": str(files["test"]),
        "ood": {"far": str(files["far"])},
    }


def toy_settings(model: Path, method: str = "lp-ft") -> dict[str, Any]:
    """Settings of training that go with :func:`toy_data`."""
    settings = {
        "model": str(model),
        "method": method,
        "max_length": 16,
        "epochs": 1,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "device": "cpu",
    }
    left_out = unused_settings(method)
    return {name: value for name, value in settings.items() if name not in left_out}
