"""What a practitioner would otherwise use, on the draws of benchmarks/auto.py.

Sentence-transformers with logistic regression, SetFit, and Transformers' Trainer with its rate and
epoch chosen on a held-out tenth. They run in an environment of their own, which needs no lpft; a
Python 3.11 with these versions gave the recorded numbers:

    python -m venv alternatives
    alternatives/bin/pip install setfit==1.2.0 sentence-transformers==6.2.0 torch==2.13.0
    alternatives/bin/python benchmarks/alternatives.py --model MINILM_FOLDER --data-dir DIR \
        --cells DIR --data trec --size 8-per-class --seeds 3 --methods setfit

Each cell (data, size, seed, method) is kept in a file of its own, so that a stopped benchmark goes
on where it was. Then, in lpft's environment, with the cells of auto.py on the same draws beside
them where they are given:

    python benchmarks/alternatives.py --cells DIR --summary [--auto-cells DIR]
"""

import argparse
import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable
from importlib.metadata import version
from itertools import product
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
from few_rows import NAMES, Pool, Text, read_pool

RATES = (2e-5, 5e-5, 1e-4, 2e-4)
EPOCHS = 10
MAX_LENGTH = 128
PACKAGES = ("setfit", "sentence-transformers", "transformers", "torch")


def scores(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, ECE of 15 bins of equal width and NLL of test rows (probabilities N x C)."""
    top = probabilities.max(axis=1)
    right = (probabilities.argmax(axis=1) == labels).astype(float)
    bins = np.clip(np.ceil(top * 15).astype(int) - 1, 0, 14)
    gaps = np.bincount(bins, weights=right - top, minlength=15)
    of_label = np.clip(probabilities[np.arange(len(labels)), labels], 1e-12, None)
    return {
        "test_accuracy": float(right.mean()),
        "test_ece": float(np.abs(gaps).sum() / len(labels)),
        "test_nll": float(-np.log(of_label).mean()),
    }


def single(texts: list[Text]) -> list[str]:
    """Pairs joined: neither sentence-transformers' ``encode`` nor SetFit takes pairs."""
    return [text if isinstance(text, str) else " ".join(text) for text in texts]


def st_lr(
    model: str, texts: list[Text], labels: np.ndarray, test: list[Text], max_steps: int
) -> np.ndarray:
    """Sentence-transformers' embeddings and scikit-learn's logistic regression at its defaults."""
    del max_steps
    from sentence_transformers import SentenceTransformer
    from sklearn.linear_model import LogisticRegression

    encoder = SentenceTransformer(model, device="cpu")
    encoder.max_seq_length = MAX_LENGTH
    head = LogisticRegression(max_iter=1000).fit(encoder.encode(single(texts)), labels)
    return np.asarray(head.predict_proba(encoder.encode(single(test))))


def setfit(
    model: str, texts: list[Text], labels: np.ndarray, test: list[Text], max_steps: int
) -> np.ndarray:
    """SetFit's defaults with 20 pairs of either kind per text, as its documentation advises."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    classifier = SetFitModel.from_pretrained(model)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            batch_size=16,
            num_epochs=1,
            num_iterations=20,
            max_steps=max_steps,
            report_to="none",
        )
        data = Dataset.from_dict({"text": single(texts), "label": labels.tolist()})
        Trainer(model=classifier, args=arguments, train_dataset=data).train()
    return np.asarray(classifier.predict_proba(single(test)))


def trainer(
    model: str, texts: list[Text], labels: np.ndarray, test: list[Text], max_steps: int
) -> np.ndarray:
    """AutoModelForSequenceClassification at the best of four rates and ten epochs on a tenth."""
    import torch
    from scipy.special import softmax
    from sklearn.model_selection import train_test_split
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer._tokenizer.no_padding()  # MiniLM's file pads every text to 128 tokens
    rows, classes = np.arange(len(labels)), len(np.unique(labels))
    held_out = max(classes, len(labels) // 10)
    try:
        fit, tenth = train_test_split(rows, test_size=held_out, stratify=labels, random_state=0)
    except ValueError:  # a class of one row
        fit, tenth = train_test_split(rows, test_size=held_out, random_state=0)

    def items(of: list[Text], targets: np.ndarray) -> list[dict[str, Any]]:
        parts = [[text] if isinstance(text, str) else list(text) for text in of]
        return [
            {**tokenizer(*part, truncation=True, max_length=MAX_LENGTH), "labels": int(label)}
            for part, label in zip(parts, targets, strict=True)
        ]

    train = items([texts[row] for row in fit], labels[fit])
    validation = items([texts[row] for row in tenth], labels[tenth])
    tests = items(test, np.zeros(len(test), dtype=int))
    best: tuple[float, np.ndarray] | None = None
    for rate in RATES:
        torch.manual_seed(0)
        network = AutoModelForSequenceClassification.from_pretrained(model, num_labels=classes)
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                learning_rate=rate,
                num_train_epochs=EPOCHS,
                max_steps=max_steps,
                per_device_train_batch_size=16,
                per_device_eval_batch_size=64,
                eval_strategy="epoch",
                save_strategy="epoch",
                save_total_limit=1,
                load_best_model_at_end=True,
                metric_for_best_model="accuracy",
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
            )
            run = Trainer(
                model=network,
                args=arguments,
                train_dataset=train,
                eval_dataset=validation,
                data_collator=DataCollatorWithPadding(tokenizer),
                compute_metrics=lambda p: {
                    "accuracy": float((p.predictions.argmax(1) == p.label_ids).mean())
                },
            )
            run.train()
            accuracy = run.evaluate()["eval_accuracy"]
            if best is None or accuracy > best[0]:
                best = accuracy, softmax(run.predict(tests).predictions.astype(float), axis=1)
    assert best is not None
    return best[1]


METHODS: dict[str, Callable[..., np.ndarray]] = {
    "st-lr": st_lr,
    "setfit": setfit,
    "trainer": trainer,
}


def cell(
    pool: Pool, size: str, seed: int, method: str, model: str, max_steps: int
) -> dict[str, Any] | None:
    """Test scores of one method on one draw; None where the pool has too few rows."""
    rows = pool.draw(size, seed)
    if rows is None:
        return None
    started = process_time()
    texts = [pool.texts[row] for row in rows]
    found = METHODS[method](model, texts, pool.labels[rows], pool.test_texts, max_steps)
    return {
        "rows": len(rows),
        **scores(found, pool.test_labels),
        "cpu_seconds": round(process_time() - started, 1),
        "max_steps": max_steps,
        "versions": {package: version(package) for package in PACKAGES},
    }


def summary(folder: Path, auto: Path | None) -> dict[str, Any]:
    """Mean, standard deviation and draws of every method on every set, and the draws themselves."""
    cells: dict[str, dict[str, dict[int, dict[str, Any]]]] = defaultdict(dict)
    paths = [*folder.glob("*.json"), *(() if auto is None else auto.glob("*.json"))]
    for path in sorted(paths):
        name, size, method, seed = path.stem.split("_")
        data = (
            f"{name} {size if '-' in size else {'500': '500-rows'}.get(size, f'{size}-per-class')}"
        )
        cells[data].setdefault(method, {})[int(seed)] = json.loads(path.read_text())
    table: dict[str, Any] = {}
    for data, methods in sorted(cells.items()):
        table[data] = {}
        for method, draws in methods.items():
            values = [draws[seed] for seed in sorted(draws)]
            accuracies = [value["test_accuracy"] for value in values]
            table[data][method] = {
                "accuracy": round(statistics.fmean(accuracies), 4),
                "sd": round(statistics.stdev(accuracies), 4) if len(values) > 1 else None,
                **{
                    name: round(statistics.fmean(value[f"test_{name}"] for value in values), 4)
                    for name in ("ece", "nll")
                },
                "cpu_seconds": round(statistics.fmean(v["cpu_seconds"] for v in values), 1),
                "draws": {seed: round(draws[seed]["test_accuracy"], 4) for seed in sorted(draws)},
            }
            steps = {value.get("max_steps", -1) for value in values} - {-1}
            if steps:
                table[data][method]["max_steps"] = sorted(steps)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="folder of the packaged MiniLM")
    parser.add_argument("--data-dir", type=Path, help="folder of the official release files")
    parser.add_argument("--cells", type=Path, required=True, help="folder of finished cells")
    parser.add_argument("--auto-cells", type=Path, help="cells of auto.py, for the summary")
    parser.add_argument("--data", default=",".join(NAMES), help="sets, separated by commas")
    parser.add_argument("--size", default="16-per-class,500-rows")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--max-steps", type=int, default=-1, help="steps of a training at most")
    parser.add_argument("--summary", action="store_true", help="record the table, train nothing")
    options = parser.parse_args()
    options.cells.mkdir(parents=True, exist_ok=True)
    if options.summary:
        from common import record

        record("alternatives", summary(options.cells, options.auto_cells))
        return
    for seed, name, size, method in product(
        range(options.seeds),
        options.data.split(","),
        options.size.split(","),
        options.methods.split(","),
    ):
        path = options.cells / f"{name}_{size}_{method}_{seed}.json"
        if path.is_file():
            continue
        pool = read_pool(name, options.data_dir)
        result = cell(pool, size, seed, method, options.model, options.max_steps)
        if result is not None:
            path.write_text(json.dumps(result))
            print(path.stem, result, flush=True)


if __name__ == "__main__":
    main()
