"""Public data sets as a practitioner has them: a few labelled rows, and the rest to test on."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

NAMES = ("sst2", "trec", "cb", "banking77", "csabstruct", "rte", "cola", "uci")
TEST_ROWS = 1000
"""Test rows that are read at most, drawn with a fixed seed."""

Text = str | tuple[str, str]
Rows = list[tuple[Text, str]]


@dataclass(frozen=True)
class Pool:
    """Rows to draw training sets from, and test rows; ``labels`` are class indices."""

    name: str
    texts: list[Text]
    labels: np.ndarray
    test_texts: list[Text]
    test_labels: np.ndarray

    @property
    def classes(self) -> int:
        return int(self.labels.max()) + 1

    def draw(self, size: str, seed: int) -> np.ndarray | None:
        """Row numbers: ``16-per-class``, or ``500-rows`` in the classes' proportions.

        None where a class has fewer rows, or the pool fewer than half.
        """
        generator = np.random.default_rng(seed)
        number, _, kind = size.partition("-")
        if kind == "rows":
            if len(self.labels) < int(number) / 2:
                return None
            return np.sort(generator.permutation(len(self.labels))[: int(number)])
        if np.bincount(self.labels).min() < int(number):
            return None
        rows = [
            generator.choice(np.flatnonzero(self.labels == label), int(number), replace=False)
            for label in range(self.classes)
        ]
        return np.sort(np.concatenate(rows))


def read_rows(name: str, data_dir: Path) -> tuple[Rows, Rows]:
    """The training and test rows of a data set, text and label, from its official files."""
    train, test = _READERS[name](data_dir)
    return train, test


def read_pool(name: str, data_dir: Path) -> Pool:
    """One of :data:`NAMES` from the official release files below ``data_dir``."""
    train, test = read_rows(name, data_dir)
    names = sorted({label for _, label in train})
    if len(test) > TEST_ROWS:
        chosen = np.random.default_rng(0).permutation(len(test))[:TEST_ROWS]
        test = [test[row] for row in np.sort(chosen)]

    def split(rows: list[tuple[Text, str]]) -> tuple[list[Text], np.ndarray]:
        return [text for text, _ in rows], np.array([names.index(label) for _, label in rows])

    return Pool(name, *split(train), *split(test))


def _table(path: Path, text: str, label: str, delimiter: str) -> Rows:
    quoting: Literal[0, 3] = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter=delimiter, quoting=quoting)
        return [(row[text].strip(), row[label]) for row in rows]


def _sst2(folder: Path) -> Any:
    parts = (folder / "glue/SST-2" / f"{part}.tsv" for part in ("train", "dev"))
    return [_table(path, "sentence", "label", "\t") for path in parts]


def _banking77(folder: Path) -> Any:
    parts = (folder / "banking77" / f"{part}.csv" for part in ("train", "test"))
    return [_table(path, "text", "category", ",") for path in parts]


def _trec(folder: Path) -> Any:
    def lines(part: str) -> Rows:
        content = (folder / "trec" / f"{part}.txt").read_text(encoding="latin-1")
        rows = (line.partition(" ") for line in content.splitlines() if line.strip())
        return [(text, label.partition(":")[0]) for label, _, text in rows]

    return lines("train"), lines("test")


def _cb(folder: Path) -> Any:
    def lines(part: str) -> Rows:
        content = (folder / "superglue/CB" / f"{part}.jsonl").read_text(encoding="utf-8")
        rows = [json.loads(line) for line in content.splitlines()]
        return [((row["premise"], row["hypothesis"]), row["label"]) for row in rows]

    return lines("train"), lines("val")


def _csabstruct(folder: Path) -> Any:
    def lines(part: str) -> Rows:
        content = (folder / "sequential/CSAbstruct" / f"{part}.jsonl").read_text(encoding="utf-8")
        abstracts = [json.loads(line) for line in content.splitlines()]
        return [
            (sentence, label)
            for abstract in abstracts
            for sentence, label in zip(abstract["sentences"], abstract["labels"], strict=True)
        ]

    return lines("train"), lines("test")


def _rte(folder: Path) -> Any:
    def lines(part: str) -> Rows:
        content = (folder / "superglue/RTE" / f"{part}.jsonl").read_text(encoding="utf-8")
        rows = [json.loads(line) for line in content.splitlines()]
        return [((row["premise"], row["hypothesis"]), row["label"]) for row in rows]

    return lines("train"), lines("val")


def _cola(folder: Path) -> Any:
    def lines(part: str) -> Rows:
        content = (folder / "glue/CoLA" / f"{part}.tsv").read_text(encoding="utf-8")
        rows = (line.split("\t") for line in content.splitlines() if line.strip())
        return [(text.strip(), label) for _, label, _, text in rows]

    return lines("in_domain_train"), lines("in_domain_dev")


def _nicta(folder: Path) -> Any:
    def lines(part: str) -> Rows:
        path = folder / "sequential/NICTA-PIBOSO" / f"{part}_clean.txt"
        rows = (line.partition("\t") for line in path.read_text(encoding="utf-8").splitlines())
        return [(text.strip(), label) for label, _, text in rows if text.strip()]

    return lines("train"), lines("test")


def sentiment_rows(domain: str, folder: Path) -> Rows:
    """The sentences of ``amazon_cells``, ``imdb`` or ``yelp`` in Sentiment Labelled Sentences."""
    path = folder / "uci_sentences" / f"{domain}_labelled.txt"
    lines = (line.rpartition("\t") for line in path.read_text(encoding="utf-8").split("\n"))
    return [(text.strip(), label.strip()) for text, _, label in lines if text.strip()]


def _uci(folder: Path) -> Any:
    """Sentences of three domains together; a third of the rows, drawn with a fixed seed, tests."""
    domains = ("amazon_cells", "imdb", "yelp")
    rows = [row for domain in domains for row in sentiment_rows(domain, folder)]
    order = np.random.default_rng(0).permutation(len(rows))
    shuffled = [rows[row] for row in order]
    third = len(rows) // 3
    return shuffled[third:], shuffled[:third]


_READERS = {
    "sst2": _sst2,
    "trec": _trec,
    "cb": _cb,
    "banking77": _banking77,
    "csabstruct": _csabstruct,
    "nicta": _nicta,
    "rte": _rte,
    "cola": _cola,
    "uci": _uci,
}
