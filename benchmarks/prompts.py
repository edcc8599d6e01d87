"""Prompts and label words on a few rows: fine-tuning beside kernel regression at its start.

The protocol of LM-Kernel-FT (Malladi et al., 2023) with the templates and words of LM-BFF (Gao et
al., 2021): 16 and 64 texts per class to train on, as many to choose the epoch and the strength of
the regression by; accuracy on test rows that are drawn once. Kernels are P + F at the label words'
head: SGD's by kernel ridge regression, SignGD's too, and the asymmetric one by its own solver.

    python benchmarks/prompts.py --model roberta-base --data-dir DIR --cells DIR [--tasks sst2]

``--model`` is a masked language model. A cell is one task, size and seed; finished ones are read
from ``--cells``.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pandas as pd
from common import record
from few_rows import Pool, read_pool

from lpft import TextClassifier
from lpft.runs.kernels import compute_kernels
from lpft.settings.configs import make_kernel_config

TASKS: dict[str, tuple[str, dict[str, str]]] = {
    "sst2": ("{text} It was [MASK].", {"0": "terrible", "1": "great"}),
    "trec": (
        "[MASK]: {text}",
        {
            "0": "expression",
            "1": "description",
            "2": "entity",
            "3": "human",
            "4": "location",
            "5": "number",
        },
    ),
}
"""Templates and words by class index, in the order of the classes' names."""

KERNELS = {"sgd": ("sgd", "krr"), "signgd": ("signgd", "krr"), "asymmetric": ("asymmetric",) * 2}
METHODS = ("prompt", "lp", "ft", "prompt-ft", "prompt-lora")
TUNED = {"epochs": 10, "batch_size": 8}
RATES = {"prompt-lora": 2e-3}
RATE = 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--model", required=True, help="Hub id or folder")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[16, 64])
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=list(KERNELS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--test-rows", type=int, default=200)
    parser.add_argument("--cells", type=Path, required=True, help="folder of finished cells")
    options = parser.parse_args()
    options.cells.mkdir(parents=True, exist_ok=True)
    pools = {task: read_pool(task, options.data_dir) for task in options.tasks}
    for task, size, seed in product(options.tasks, options.sizes, range(options.seeds)):
        cell = options.cells / f"{task} {size}-per-class {seed}.json"
        if not cell.exists():
            parts = drawn_parts(pools[task], size, seed, options.test_rows)
            scores = compare(task, options.model, parts, seed, options.kernels)
            cell.write_text(json.dumps({"test_rows": options.test_rows, "accuracy": scores}))
        print(cell.name, cell.read_text(), flush=True)
    result: dict[str, Any] = {"model": Path(options.model).name}
    for task, size in product(TASKS, sorted({16, 64, *options.sizes})):
        cells = sorted(options.cells.glob(f"{task} {size}-per-class *.json"))
        draws = [json.loads(cell.read_text()) for cell in cells]
        if draws:
            result[f"{task} {size}-per-class"] = {
                "test_rows": draws[0]["test_rows"],
                **{
                    name: {
                        "accuracy": round(mean(draw["accuracy"][name] for draw in draws), 4),
                        "draws": [round(draw["accuracy"][name], 4) for draw in draws],
                    }
                    for name in draws[0]["accuracy"]
                },
            }
    record("prompts", result)


Part = tuple[list[Any], np.ndarray]


def drawn_parts(pool: Pool, size: int, seed: int, test_rows: int) -> list[Part]:
    """Texts and classes to train on, to choose by, and to test on: ``size`` per class of the first
    two, or half of the rows of a class that has fewer."""
    generator = np.random.default_rng(seed)
    train, validation = [], []
    for label in range(pool.classes):
        rows = generator.permutation(np.flatnonzero(pool.labels == label))[: 2 * size]
        train.append(rows[: len(rows) // 2])
        validation.append(rows[len(rows) // 2 :])
    test = np.random.default_rng(0).permutation(len(pool.test_texts))[:test_rows]
    parts: list[Part] = []
    for chosen in (train, validation):
        rows = np.sort(np.concatenate(chosen))
        parts.append(([pool.texts[row] for row in rows], pool.labels[rows]))
    test = np.sort(test)
    return [*parts, ([pool.test_texts[row] for row in test], pool.test_labels[test])]


def compare(
    task: str,
    model: str,
    parts: Sequence[Part],
    seed: int,
    kernels: Sequence[str],
) -> dict[str, float]:
    """Accuracy on the test rows by every method and by kernel regression at the words' head."""
    prompt, words = TASKS[task]
    (texts, labels), validation, (test_texts, test_labels) = parts
    accuracies = {}
    for method in METHODS:
        own = {"label_words": words} if method.startswith("prompt") else {}
        tuned = (
            {}
            if method in ("lp", "prompt")
            else {**TUNED, "learning_rate": RATES.get(method, RATE)}
        )
        classifier = TextClassifier(
            model, method=method, seed=seed, prompt=prompt, max_length=64, **own, **tuned
        )
        classifier.fit(texts, labels, validation=validation)
        accuracies[method] = float(np.mean(classifier.predict(test_texts) == test_labels))
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for name, (rows, classes) in zip(("train", "validation", "test"), parts, strict=True):
            files[f"{name}_file"] = f"{folder}/{name}.csv"
            pd.DataFrame({"text": rows, "label": classes}).to_csv(
                files[f"{name}_file"], index=False
            )
        for kernel in kernels:
            kind, solver = KERNELS[kernel]
            config = make_kernel_config(
                {
                    **files,
                    **{"model": model, "prompt": prompt, "label_words": words, "max_length": 64},
                    **{"methods": "prompt-ft", "kernel": kind, "solver": solver, "seed": seed},
                    "f0_scale": 1.0,
                    "max_samples": max(len(texts), len(test_texts)),
                },
                Path(folder) / kernel,
            )
            fits = compute_kernels(config).by_name["prompt-ft"].kernels["ntk"].by_solver
            (fit,) = (fits or {}).values()
            accuracies[f"{kernel} kernel"] = float(fit["test_accuracy"])
    return accuracies


if __name__ == "__main__":
    main()
