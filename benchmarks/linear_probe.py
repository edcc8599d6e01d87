"""Features and a linear probe beside sentence-transformers' with logistic regression.

Everything is done in one process and one thread, in turns, on the same questions of TREC with the
same MiniLM cut at the same length: ``encode`` at its best of several batch sizes, then
scikit-learn's ``LogisticRegression`` at its defaults, or ``LogisticRegressionCV``, which chooses
the strength by five folds as ours does; ``TextClassifier(method="lp")`` also chooses a temperature.
CPU seconds of features and head together; accuracy and NLL on TREC's own test questions.

    python benchmarks/linear_probe.py --data-dir DIR [--rows 500 2000] [--rounds 3]
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import record
from few_rows import read_pool
from prediction import BATCH_SIZES, MAX_LENGTH, in_turns
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import log_loss

from lpft import TextClassifier
from lpft.model.loading import packaged_minilm

OURS = "TextClassifier"
HEADS: dict[str, Callable[[], Any]] = {
    "encode + LogisticRegression": lambda: LogisticRegression(max_iter=1000),
    "encode + LogisticRegressionCV": lambda: LogisticRegressionCV(
        cv=5, l1_ratios=(0.0,), max_iter=1000, use_legacy_attributes=False
    ),
}


def compare(encoder: Any, rows: int, rounds: int, data_dir: Path) -> dict[str, Any]:
    """CPU seconds and test scores of every side on so many rows."""
    pool = read_pool("trec", data_dir)
    chosen = pool.draw(f"{rows}-rows", 0)
    assert chosen is not None
    texts, labels = [str(pool.texts[row]) for row in chosen], pool.labels[chosen]
    # Few rows may lack a class, of which no side can predict a probability.
    known = np.isin(pool.test_labels, labels)
    test_labels = pool.test_labels[known]
    test = [str(pool.test_texts[row]) for row in np.flatnonzero(known)]
    sizes: dict[str, Callable[[], Any]] = {
        str(size): partial(encoder.encode, texts, batch_size=size) for size in BATCH_SIZES
    }
    best = min(
        taken := {
            size: statistics.median(times) for size, times in in_turns(sizes, rounds).items()
        },
        key=lambda size: taken[size],
    )
    probabilities: dict[str, np.ndarray] = {}

    def ours() -> None:
        with tempfile.TemporaryDirectory() as cache:  # features of no earlier round
            os.environ["LPFT_CACHE_DIR"] = cache
            classifier = TextClassifier("minilm", method="lp", max_length=MAX_LENGTH, device="cpu")
            classifier.fit(texts, labels)
            order = [list(classifier.classes_).index(label) for label in np.unique(labels)]
            probabilities[OURS] = classifier.predict_proba(test)[:, order]

    def theirs(name: str) -> None:
        head = HEADS[name]().fit(encoder.encode(texts, batch_size=int(best)), labels)
        probabilities[name] = head.predict_proba(encoder.encode(test, batch_size=int(best)))

    actions: dict[str, Callable[[], Any]] = {OURS: ours}
    actions |= {name: partial(theirs, name) for name in HEADS}
    spent = in_turns(actions, rounds)
    names = np.unique(labels)
    return {
        "rows": rows,
        "test_rows": len(test),
        "best_batch_size_of_encode": int(best),
        "sides": {
            name: {
                "cpu_seconds": round(statistics.median(times), 2),
                "over_ours": round(
                    statistics.median(b / a for a, b in zip(spent[OURS], times, strict=True)), 2
                ),
                "accuracy": round(
                    float((names[probabilities[name].argmax(1)] == test_labels).mean()), 4
                ),
                "nll": round(float(log_loss(test_labels, probabilities[name], labels=names)), 4),
            }
            for name, times in spent.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="official release files")
    parser.add_argument("--rows", type=int, nargs="+", default=[500, 2000])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(packaged_minilm()), device="cpu")
    encoder.max_seq_length = MAX_LENGTH
    cells = [
        compare(encoder, rows, options.rounds, options.data_dir.resolve()) for rows in options.rows
    ]
    record(
        "linear_probe",
        {
            "threads": 1,
            "rounds": options.rounds,
            "load_average": [round(load, 1) for load in os.getloadavg()],
            "cells": cells,
        },
    )


if __name__ == "__main__":
    main()
