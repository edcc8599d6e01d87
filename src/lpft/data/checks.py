"""Problems in data that are worth knowing before training on it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from lpft.data.examples import Examples, Label, Text, TextData
from lpft.data.labels import show

SMALL_CLASS = 10
"""Fewer training rows of a class than this are pointed out."""

SMALL_VALIDATION = 50
"""Fewer validation rows than this are pointed out: best epoch and temperature rest on them."""

IMBALANCE = 10
"""A ratio of the largest to the smallest class from which it is pointed out."""


@dataclass(frozen=True)
class Finding:
    """One observation: an ``error`` makes results meaningless, a ``warning`` limits them.

    ``kind`` is one of ``missing-class``, ``small-class``, ``imbalance``, ``small-validation``,
    ``duplicates``, ``conflicting-labels``, ``leakage``.
    """

    level: Literal["error", "warning"]
    kind: str
    message: str


def check_data(data: TextData) -> list[Finding]:
    """Findings about classes, duplicates and leakage, errors first.

    Two texts are the same if they differ in case and spacing only; pairs if both parts do.
    """
    findings = [*_classes(data), *_repetitions(data.train), *_leakage(data)]
    return sorted(findings, key=lambda finding: finding.level)


def _classes(data: TextData) -> Iterator[Finding]:
    for split, examples in data.splits().items():
        missing = [name for name, count in _class_counts(data, examples).items() if count == 0]
        if missing and split == "train":
            message = f"train has no rows of {show(missing)}: they can never be predicted"
            yield Finding("error", "missing-class", message)
        elif missing:
            message = f"{split} has no rows of {show(missing)}: its metrics say nothing about them"
            yield Finding("warning", "missing-class", message)
    counts = {name: count for name, count in _class_counts(data, data.train).items() if count > 0}
    small = [name for name, count in counts.items() if count < SMALL_CLASS]
    if small:
        message = (
            f"fewer than {SMALL_CLASS} training rows of {show(small)}: expect unreliable "
            "predictions for them"
        )
        yield Finding("warning", "small-class", message)
    if counts and max(counts.values()) >= IMBALANCE * min(counts.values()):
        message = (
            f"the largest class has {max(counts.values())} training rows, the smallest "
            f"{min(counts.values())}: look at macro F1 beside accuracy, consider --class-weight"
        )
        yield Finding("warning", "imbalance", message)
    if len(data.validation) < SMALL_VALIDATION:
        message = (
            f"validation has {len(data.validation)} rows: the best epoch and the temperature rest "
            "on them alone"
        )
        yield Finding("warning", "small-validation", message)


def _class_counts(data: TextData, examples: Examples) -> dict[Label, int]:
    """Rows of each class; of none where the rows have no labels."""
    if examples.labels is None:
        return {}
    return dict(zip(data.classes, examples.class_counts(len(data.classes)), strict=True))


def _repetitions(train: Examples) -> Iterator[Finding]:
    keys = [_key(text) for text in train.texts]
    repeated = len(keys) - len(set(keys))
    if repeated:
        message = f"{repeated} of {len(train)} training rows repeat the text of an earlier one"
        yield Finding("warning", "duplicates", message)
    if train.labels is not None:
        labelled = set(zip(keys, train.labels.tolist(), strict=True))
        conflicting = sum(count > 1 for count in Counter(key for key, _ in labelled).values())
        if conflicting:
            message = f"{conflicting} training texts occur with different labels"
            yield Finding("warning", "conflicting-labels", message)


def _leakage(data: TextData) -> Iterator[Finding]:
    trained = {_key(text) for text in data.train.texts}
    for split, examples in data.splits().items():
        if split == "train":
            continue
        shared = sum(_key(text) in trained for text in examples.texts)
        if shared:
            message = (
                f"{shared} of {len(examples)} rows of {split} ({shared / len(examples):.1%}) have "
                "a text that is also in training: scores on them reward memory"
            )
            level: Literal["error", "warning"] = "error" if shared == len(examples) else "warning"
            yield Finding(level, "leakage", message)


def _key(text: Text) -> tuple[str, ...]:
    parts = (text,) if isinstance(text, str) else text
    return tuple(" ".join(part.casefold().split()) for part in parts)
