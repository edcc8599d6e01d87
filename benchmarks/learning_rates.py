"""Default learning rates for user files: test accuracy by rate, method, data set and size.

Every finished cell is kept in a file of its own, so that a stopped benchmark goes on where it was.

    python benchmarks/learning_rates.py --data-dir DIR --cells DIR [--summary]
"""

import argparse
import json
import statistics
from itertools import product
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import numpy as np
from common import record
from few_rows import Pool, read_pool

from lpft import TextClassifier
from lpft.analysis.calibration import negative_log_likelihood

EPOCHS = 10
RATES = {
    "all": (2e-5, 5e-5, 1e-4, 2e-4),
    "adapter": (5e-4, 1e-3, 2e-3),
    "bias": (5e-4, 2e-3, 5e-3),
    "ia3": (3e-3, 1e-2, 3e-2),
    "prefix": (3e-3, 1e-2, 3e-2),
}
METHODS = {
    **{"ft": "all", "lp-ft": "all", "lora": "adapter", "lp-lora": "adapter"},
    **{"bitfit": "bias", "lp-bitfit": "bias", "ia3": "ia3", "lp-ia3": "ia3"},
    **{"prefix": "prefix", "lp-prefix": "prefix"},
}
# In the order in which they are run: what decides most comes first.
SETS = (
    ("trec", "16-per-class"),
    ("sst2", "16-per-class"),
    ("cb", "16-per-class"),
    ("trec", "500-rows"),
    ("sst2", "500-rows"),
    ("cb", "500-rows"),
    ("banking77", "500-rows"),
    ("banking77", "16-per-class"),
)


def cell(pool: Pool, size: str, method: str, rate: float, seed: int) -> dict[str, Any]:
    """One training, a tenth of each class choosing its epoch, and its scores on the test rows."""
    rows = pool.draw(size, seed)
    assert rows is not None
    texts, labels = [pool.texts[row] for row in rows], pool.labels[rows]
    started = perf_counter()
    classifier = TextClassifier(
        "minilm", method=method, seed=seed, epochs=EPOCHS, learning_rate=rate, device="cpu"
    ).fit(texts, labels.tolist())
    seconds = perf_counter() - started
    logits = classifier.logits(pool.test_texts)
    known = np.searchsorted(classifier.classes_, pool.test_labels)
    return {
        "rows": len(rows),
        "accuracy": float((classifier.classes_[logits.argmax(1)] == pool.test_labels).mean()),
        "nll": negative_log_likelihood(logits, known),
        "seconds": round(seconds, 1),
        "validation_accuracy": [
            row["validation_accuracy"]
            for row in classifier.history_
            if row["event"] == "evaluation"
        ],
    }


def plan(seeds: int) -> list[tuple[str, str, str, float, int]]:
    """Every cell, seed by seed and set by set."""
    return [
        (name, size, method, rate, seed)
        for seed, (name, size), kind in product(range(seeds), SETS, RATES)
        for rate, method in product(RATES[kind], METHODS)
        if METHODS[method] == kind
    ]


def summary(folder: Path) -> list[dict[str, Any]]:
    """Mean test accuracy of each set, method and rate over the seeds that are finished."""
    found: dict[tuple[str, str, str, float], list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.json")):
        name, size, method, rate, _ = path.stem.split("_")
        scores = json.loads(path.read_text(encoding="utf-8"))
        found.setdefault((name, size, method, float(rate)), []).append(scores)
    return [
        {
            "data": key[0],
            "size": key[1],
            "method": key[2],
            "learning_rate": key[3],
            "seeds": len(scores),
            **{
                name: round(statistics.mean(each[name] for each in scores), 4)
                for name in ("accuracy", "nll", "seconds")
            },
        }
        for key, scores in sorted(found.items())
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="official release files")
    parser.add_argument("--cells", type=Path, required=True, help="folder of finished cells")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--minutes", type=float, help="start no cell after this time")
    parser.add_argument("--methods", default=",".join(METHODS), help="with commas between them")
    parser.add_argument("--summary", action="store_true", help="record what is finished")
    arguments = parser.parse_args()
    arguments.cells.mkdir(parents=True, exist_ok=True)
    if arguments.summary:
        record("learning_rates", {"epochs": EPOCHS, "cells": summary(arguments.cells)})
        return
    started = monotonic()
    for name, size, method, rate, seed in plan(arguments.seeds):
        path = arguments.cells / f"{name}_{size}_{method}_{rate:g}_{seed}.json"
        if path.exists() or method not in arguments.methods.split(","):
            continue
        if arguments.minutes is not None and monotonic() - started > 60 * arguments.minutes:
            break
        result = cell(read_pool(name, arguments.data_dir), size, method, rate, seed)
        path.write_text(json.dumps(result) + "\n", encoding="utf-8")
        print(path.stem, result["accuracy"], result["seconds"], flush=True)


if __name__ == "__main__":
    main()
