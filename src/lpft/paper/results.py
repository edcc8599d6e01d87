"""The published results, one number at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from lpft.paper.files import rows_of
from lpft.paper.settings import SEEDS


@dataclass(frozen=True)
class PublishedValue:
    """A mean over the paper's seeds with its standard deviation, where the paper prints one."""

    mean: float
    sd: float | None = None
    seeds: int = SEEDS


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


_FEATURES = ("cosine_similarity", "feature_difference", "fisher_ratio", "head_norm")
_METHODS = ("pretrained", "lp", "ft", "lora", "lp-ft", "lp-lora")
_SCORES = {8: "table8_test_results", 10: "table10_boss", 16: "table16_pubmed"}
_NORMS = {
    12: ("table12_feature_change", "feature_difference"),
    13: ("table13_head_norm", "head_norm"),
}
_KERNELS = 2
_Key = tuple[int, str, str, str]


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


def published_tables(dataset: str) -> tuple[int, ...]:
    """The tables of :func:`published_value` that have numbers of a dataset, in order."""
    return tuple(sorted({table for table, name, _, _ in _values() if name == dataset}))


def published_datasets(table: int) -> tuple[str, ...]:
    """The datasets that a table of :func:`published_value` has numbers of, in its order.

    Of tables 2 and 9, whose numbers are in :func:`published_kernels`, number 2 has them all.
    """
    if table == _KERNELS:
        return tuple(dict.fromkeys(row["dataset"] for row in rows_of("table2_9_kernels")))
    return tuple(dict.fromkeys(name for number, name, _, _ in _values() if number == table))


def published_kernels(dataset: str, method: str | None, kernel: str) -> KernelNumbers | None:
    """A row of tables 2 and 9, or None where there is none.

    ``kernel`` is ``pretrain_effective`` (which no method changes: ``method`` is None),
    ``ft_effective`` or ``ntk``.
    """
    for row in rows_of("table2_9_kernels"):
        named = (row["dataset"], None if row["method"] == "" else row["method"], row["kernel"])
        if named == (dataset, method, kernel):
            return KernelNumbers(
                rank=int(row["rank"]),
                frobenius_norm=float(row["frobenius_norm"]),
                train_accuracy=float(row["train_accuracy"]),
                test_accuracy=float(row["test_accuracy"]),
                ft_ratio=_number(row["ft_ratio"]),
            )
    return None


@cache
def _values() -> dict[_Key, PublishedValue]:
    return dict(_read())


def _read() -> Iterator[tuple[_Key, PublishedValue]]:
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
                    yield (
                        (table, row["dataset"], method, metric),
                        PublishedValue(float(row[method])),
                    )


def _number(text: str) -> float | None:
    return float(text) if text else None
