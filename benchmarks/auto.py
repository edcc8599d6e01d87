"""``--method auto`` beside each method alone: accuracy on test rows of eight data sets.

Every method is trained on the same rows and kept in a file of its own, so that a stopped benchmark
goes on where it was; the rule is then applied to what they score on their validation rows. So all
candidates are compared, also those that the rule would not have trained.

    python benchmarks/auto.py --data-dir DIR --cells DIR --data sst2 --size 16 --seeds 3
    python benchmarks/auto.py --cells DIR --summary

``--folds-below N`` moves the number of rows below which folds take the held-out tenth's place; its
cells need a folder of their own.
"""

import argparse
import json
import statistics
from itertools import product
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
from common import record
from few_rows import NAMES, Pool, read_pool
from scipy.special import softmax

from lpft.analysis.calibration import expected_calibration_error, negative_log_likelihood
from lpft.analysis.selection import Candidate, choose, reason_to_skip
from lpft.data import Examples, TextData, splits, stratified_holdout
from lpft.data.duplicates import find_repetitions
from lpft.data.tokens import tokenize
from lpft.model.inference import extract_features, head_logits, resolve_device
from lpft.settings import TrainingSettings, resolve
from lpft.settings.configs import AUTO_METHODS
from lpft.training.candidates import as_candidate, fit_data, held_out_probe, holds_out_more

METHODS = (*AUTO_METHODS, "lp-lora")
"""The candidates, and an adapter that starts from the LP head, for comparison."""
SIZES = {"16": "16-per-class", "500": "500-rows"}


def training_data(pool: Pool, rows: np.ndarray) -> TextData:
    """The drawn rows as ``TextClassifier`` and ``lpft train`` read them."""
    texts, labels = [pool.texts[row] for row in rows], pool.labels[rows]
    every = Examples([str(row) for row in range(len(rows))], texts, labels)
    kept, out = stratified_holdout(labels, repeats=find_repetitions(texts).near)
    classes = tuple(str(label) for label in range(pool.classes))
    return TextData(pool.name, classes, every.select(kept), every.select(out), held_out=True)


def cell(pool: Pool, rows: np.ndarray, method: str, seed: int) -> dict[str, Any]:
    """One method: what it gets right on the shared validation rows, and its test scores."""
    data = training_data(pool, rows)
    settings = resolve(TrainingSettings(method=method, seed=seed, device="cpu"))
    started, cpu = perf_counter(), process_time()
    fit = fit_data(data, settings)
    seconds, cpu = perf_counter() - started, process_time() - cpu
    competing = held_out_probe(data, settings) if holds_out_more(data, method) else fit
    scored = competing.validation
    candidate = as_candidate(
        settings, scored.labels, scored.logits, competing.calibration.temperature
    )
    classifier = fit.classifier
    tokens = tokenize(classifier.tokenizer, pool.test_texts, classifier.max_length)
    features = extract_features(classifier.model, tokens, device=resolve_device(settings.device))
    logits = head_logits(classifier.model, features).astype(np.float64)
    temperature = fit.calibration.temperature
    labels = pool.test_labels
    return {
        "rows": len(rows),
        "rows_per_class": len(rows) / pool.classes,
        "correct": candidate.correct.astype(int).tolist(),
        "nll": candidate.nll,
        "test_accuracy": float((logits.argmax(1) == labels).mean()),
        "test_nll": negative_log_likelihood(logits, labels, temperature),
        "test_ece": expected_calibration_error(softmax(logits / temperature, axis=1), labels),
        "test_nll_unscaled": negative_log_likelihood(logits, labels),
        "test_ece_unscaled": expected_calibration_error(softmax(logits, axis=1), labels),
        "temperature": temperature,
        "epoch": None if fit.best is None else fit.best.epoch,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
    }


def rule(methods: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What ``auto`` trains, chooses and takes, from the cells of one draw of rows."""
    per_class = methods["lp"]["rows_per_class"]
    tried: list[Candidate] = []
    for method in AUTO_METHODS:
        if tried and reason_to_skip(method, tried, per_class) is not None:
            continue
        one = methods[method]
        tried.append(Candidate(method, 0, np.array(one["correct"], dtype=bool), one["nll"]))
    chosen = tried[choose(tried, per_class).chosen].method
    accuracies = {name: methods[name]["test_accuracy"] for name in methods}
    return {
        "chosen": chosen,
        "trained": [one.method for one in tried],
        "auto": accuracies[chosen],
        **accuracies,
        "auto less best": accuracies[chosen] - max(accuracies[name] for name in AUTO_METHODS),
        "lp-ft less lp": accuracies["lp-ft"] - accuracies["lp"],
        "ece": methods[chosen]["test_ece"],
        "nll less unscaled": {
            name: one["test_nll"] - one["test_nll_unscaled"] for name, one in methods.items()
        },
        "ece less unscaled": {
            name: one["test_ece"] - one["test_ece_unscaled"] for name, one in methods.items()
        },
        "cpu_seconds": sum(methods[one.method]["cpu_seconds"] for one in tried),
    }


def summary(folder: Path) -> dict[str, Any]:
    """The rule on every draw whose candidates are all there, and the means over them."""
    draws: dict[tuple[str, str, str], dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json")):
        name, size, method, seed = path.stem.split("_")
        draws.setdefault((name, size, seed), {})[method] = json.loads(path.read_text())
    whole = {
        draw: rule(methods) for draw, methods in draws.items() if set(AUTO_METHODS) <= set(methods)
    }
    sets = sorted({draw[:2] for draw in whole})
    numbers = ("auto", *AUTO_METHODS, "auto less best", "lp-ft less lp", "ece", "cpu_seconds")

    def means(results: list[dict[str, Any]]) -> dict[str, float]:
        return {name: round(statistics.fmean(r[name] for r in results), 4) for name in numbers}

    by_set: dict[str, dict[str, Any]] = {}
    for one in sets:
        results = [result for draw, result in whole.items() if draw[:2] == one]
        chosen = [result["chosen"] for result in results]
        by_set[" ".join(one)] = {**means(results), "chosen": chosen}
    # "The best method in the mean" is one method for all seeds of a set and size.
    shortfalls = {
        name: round(max(v[m] for m in AUTO_METHODS) - v["auto"], 4) for name, v in by_set.items()
    }
    return {
        "draws": len(whole),
        "mean": means(list(whole.values())),
        "mean shortfall from the best method of a set": round(
            statistics.fmean(shortfalls.values()), 4
        ),
        "worst": max(shortfalls.items(), key=lambda item: item[1]),
        "sets": by_set,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, help="folder of the official release files")
    parser.add_argument("--cells", type=Path, required=True, help="folder of finished cells")
    parser.add_argument("--data", default=",".join(NAMES), help="sets, separated by commas")
    parser.add_argument("--size", default="16,500", help="16 (per class) or 500 (rows)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--folds-below", type=int, default=splits.FEW_ROWS, help="labelled rows")
    parser.add_argument("--summary", action="store_true", help="print the table, train nothing")
    options = parser.parse_args()
    options.cells.mkdir(parents=True, exist_ok=True)
    splits.FEW_ROWS = options.folds_below
    if options.summary:
        record("auto", summary(options.cells))
        return
    for seed, size, name in product(
        range(options.seeds), options.size.split(","), options.data.split(",")
    ):
        pool = read_pool(name, options.data_dir)
        rows = pool.draw(SIZES[size], seed)
        if rows is None:
            print(f"{name} has too few rows for {SIZES[size]}")
            continue
        for method in options.methods.split(","):
            path = options.cells / f"{name}_{size}_{method}_{seed}.json"
            if path.is_file():
                continue
            result = cell(pool, rows, method, seed)
            path.write_text(json.dumps(result))
            shown = {key: result[key] for key in ("test_accuracy", "test_ece", "cpu_seconds")}
            print(path.stem, shown, flush=True)


if __name__ == "__main__":
    main()
