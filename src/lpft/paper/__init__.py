"""What the paper published, as tables: hyperparameters (and, for reports, results)."""

import csv
from importlib.resources import files

_SETTINGS = {
    "batch_size": ("batch_size", int),
    "learning_rate": ("learning_rate", float),
    "rank": ("lora_rank", int),
    "alpha": ("lora_alpha", float),
}


def published_hyperparameters(task: str, method: str) -> dict[str, float] | None:
    """Batch size, learning rate (and rank, alpha) of the paper, or None where it has none.

    Source: Tomihari and Sato, NeurIPS 2024, tables 4 to 7.
    """
    with (files(__name__) / "hyperparameters.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == method and task in row]
    published = {}
    for row in rows:
        name, convert = _SETTINGS[row["setting"]]
        published[name] = convert(row[task])
    return published or None
