"""What the paper published: hyperparameters, sizes of its datasets, and results, in CSV files.

Source of every number: Tomihari and Sato, NeurIPS 2024 (arXiv 2405.16747). At the end are sentences
about bugs of its published code, the reference, which are not repeated here.
"""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

MODEL = "roberta-base"
SEEDS = 5
EPOCHS = 10
MAX_LENGTH = 128
PROBE_SCORING = "accuracy"
PRECISION = "float32"
KERNEL_SAMPLES = 250

_HYPERPARAMETERS = {
    "batch_size": ("batch_size", int),
    "learning_rate": ("learning_rate", float),
    "rank": ("lora_rank", int),
    "alpha": ("lora_alpha", float),
}
_FEATURES = ("cosine_similarity", "feature_difference", "fisher_ratio", "head_norm")
_METHODS = ("pretrained", "lp", "ft", "lora", "lp-ft", "lp-lora")
_SCORES = {8: "table8_test_results", 10: "table10_boss", 16: "table16_pubmed"}
_NORMS = {
    12: ("table12_feature_change", "feature_difference"),
    13: ("table13_head_norm", "head_norm"),
}
_KERNELS = 2


@cache
def rows_of(name: str) -> tuple[dict[str, str], ...]:
    """The rows of ``name.csv``, each by column; an empty cell is an empty text."""
    with (files("lpft.paper") / f"{name}.csv").open(encoding="utf-8") as file:
        return tuple(csv.DictReader(file))


def published_hyperparameters(task: str, method: str) -> dict[str, float] | None:
    """Batch size, learning rate (and rank, alpha) of the paper, or None where it has none.

    Source: Tomihari and Sato, NeurIPS 2024, tables 4 to 7.
    """
    published = {}
    for row in rows_of("hyperparameters"):
        if row["method"] == method and task in row:
            name, convert = _HYPERPARAMETERS[row["setting"]]
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


@dataclass(frozen=True)
class PublishedValue:
    """A mean over the paper's seeds with its standard deviation, where the paper prints one."""

    mean: float
    sd: float | None = None
    seeds: int = SEEDS


def published_value(table: int, dataset: str, method: str, metric: str) -> PublishedValue | None:
    """One published number, or None where the table has none.

    Args:
        table: 1, 3 (with 14 and 15), 8, 10, 11, 12, 13 or 16.
        dataset: a task, or an OOD set of one (``sst5``).
        method: a method of ``lpft methods``, or ``pretrained``: before any training.
        metric: in tables 1 and 11 ``cosine_similarity``, ``feature_difference``, ``fisher_ratio``
            and ``head_norm``; in table 3 ``ece`` and ``mce``, both also as ``calibrated_...`` and
            ``..._improvement``; in tables 8, 10 and 16 ``score``; in table 12
            ``feature_difference``; in table 13 ``head_norm``. Scores and calibration are in per
            cent.
    """
    return _values().get((table, dataset, method, metric))


def published_datasets(table: int) -> tuple[str, ...]:
    """The datasets that a table of :func:`published_value` has numbers of, in its order.

    Of tables 2 and 9, whose numbers are in :func:`published_kernels`, number 2 has them all.
    """
    if table == _KERNELS:
        return tuple(dict.fromkeys(row["dataset"] for row in rows_of("table2_9_kernels")))
    return tuple(dict.fromkeys(name for number, name, _, _ in _values() if number == table))


@dataclass(frozen=True)
class KernelNumbers:
    """A row of tables 2 and 9: one kernel of 250 samples; accuracies in per cent.

    ``ft_ratio`` stands with F alone.
    """

    rank: int
    frobenius_norm: float
    train_accuracy: float
    test_accuracy: float
    ft_ratio: float | None


def published_kernels(dataset: str, method: str | None, kernel: str) -> KernelNumbers | None:
    """A row of tables 2 and 9, or None where there is none.

    ``kernel`` is ``pretrain_effective`` (which no method changes: ``method`` is None),
    ``ft_effective`` or ``ntk``.
    """
    key = (dataset, "" if method is None else method, kernel)
    for row in rows_of("table2_9_kernels"):
        if (row["dataset"], row["method"], row["kernel"]) == key:
            return KernelNumbers(
                rank=int(row["rank"]),
                frobenius_norm=float(row["frobenius_norm"]),
                train_accuracy=float(row["train_accuracy"]),
                test_accuracy=float(row["test_accuracy"]),
                ft_ratio=float(row["ft_ratio"]) if row["ft_ratio"] else None,
            )
    return None


@cache
def _values() -> dict[tuple[int, str, str, str], PublishedValue]:
    """Every number of :func:`published_value` by table, dataset, method and metric."""
    return dict(_read_values())


def _read_values() -> Iterator[tuple[tuple[int, str, str, str], PublishedValue]]:
    for row in rows_of("table1_11_features"):
        for metric in _FEATURES:
            if row[metric]:
                key = (int(row["table"]), row["dataset"], row["method"], metric)
                yield key, PublishedValue(float(row[metric]))
    for row in rows_of("table3_14_15_calibration"):
        dataset, metric, method = row["dataset"], row["metric"], row["method"]
        for name, column in ((metric, "without_ts"), (f"calibrated_{metric}", "with_ts")):
            value = PublishedValue(float(row[f"{column}_mean"]), float(row[f"{column}_std"]))
            yield (3, dataset, method, name), value
        improvement = PublishedValue(float(row["improvement"]))
        yield (3, dataset, method, f"{metric}_improvement"), improvement
    for table, name in _SCORES.items():
        for row in rows_of(name):
            value = PublishedValue(float(row["mean"]), float(row["std"]))
            yield (table, row["dataset"], row["method"], "score"), value
    for table, (name, metric) in _NORMS.items():
        for row in rows_of(name):
            for method in _METHODS:
                if row.get(method):
                    value = PublishedValue(float(row[method]))
                    yield (table, row["dataset"], method, metric), value


# Bugs of the published code, as sentences for readers of a report.

FDR_NOT_COMPARABLE = (
    "Published FDR is not comparable: the paper gives no formula for it, and trace(S_W⁺ S_B) does "
    "not reproduce its values."
)
HALVED = (
    "Two classes: the reference installs half of the weights that its logistic regression fitted "
    "(its scikit-learn means p = sigmoid(2 w·x), its code copies ∓w/2), so published binary head "
    "norms after LP are half of what was fitted and its strength C corresponds to 2C today. Here "
    "the head is installed as fitted."
)
FOLDS = (
    "The reference shuffles the training rows with the run's seed before it cuts the folds of the "
    "logistic regression, so its LP head depends on the seed."
)
ATTENTION = (
    "The reference switches scale_attn_by_inverse_layer_idx on for GPT-2, which changes the "
    "pre-trained function. Here GPT-2 keeps its own configuration."
)
WORD_EMBEDDINGS = (
    "In the reference's kernels the word embeddings' part is filled for 32 of 250 texts and zero "
    "for all others, and it comes from a tenth of the parameters and outputs, scaled so that the "
    "blocks of a text with itself are about ten times too large. Here every parameter counts."
)
_GPT2_KERNELS = (
    "The reference's kernels of GPT-2 leave out its final LayerNorm and add 1 to P although its "
    "head has no bias."
)
_CACHED_KERNELS = (
    "The reference names saved parts of kernels by the output folder alone, so that another "
    "evaluation set can silently reuse old ones."
)


def kernel_bugs(models: Iterable[str]) -> list[str]:
    """Bugs that bear on the published kernels."""
    gpt2 = [_GPT2_KERNELS] if any("gpt2" in model.lower() for model in models) else []
    return [WORD_EMBEDDINGS, *gpt2, _CACHED_KERNELS]


def run_bugs(protocol: str, model: str, *, binary: bool) -> list[str]:
    """Bugs that bear on the published counterparts of some runs."""
    if protocol != "paper":
        return []
    attention = [ATTENTION] if "gpt2" in model.lower() else []
    return [*([HALVED] if binary else []), FOLDS, *attention]
