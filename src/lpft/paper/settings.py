"""The paper's settings: model, seeds, hyperparameters, and how many rows its datasets have."""

from dataclasses import dataclass

from lpft.paper.files import rows_of

MODEL = "roberta-base"
SEEDS = 5
EPOCHS = 10
MAX_LENGTH = 128
KERNEL_SAMPLES = 250

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
    published = {}
    for row in rows_of("hyperparameters"):
        if row["method"] == method and task in row:
            name, convert = _SETTINGS[row["setting"]]
            published[name] = convert(row[task])
    return published or None


@dataclass(frozen=True)
class DatasetSize:
    """Classes and size of a dataset as the paper counts them; None where it gives no count.

    ``unit`` is what is counted: ``rows``, or of PubMed ``abstracts`` (whose rows are sentences).
    """

    classes: int
    train: int | None
    validation: int | None
    test: int | None
    unit: str = "rows"


def published_size(dataset: str) -> DatasetSize | None:
    """The published counts of a task or OOD set, None where the paper does not use it."""
    for row in rows_of("datasets"):
        if row["dataset"] == dataset:
            train, validation, test = (
                int(row[f"{split}_published"]) if row[f"{split}_published"] else None
                for split in ("train", "validation", "test")
            )
            unit = "abstracts" if "abstracts" in row["task"] else "rows"
            return DatasetSize(int(row["classes"]), train, validation, test, unit)
    return None
