"""Rules for the temperature of few rows: NLL and ECE on test rows against no temperature at all.

Every training's logits are kept in a file, so that rules are compared without training again and a
stopped benchmark goes on where it was.

    python benchmarks/calibration.py --data-dir DIR --cells DIR --method lp --draws 20
    python benchmarks/calibration.py --cells DIR --summary
"""

import argparse
import math
import tempfile
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import numpy as np
from common import record
from few_rows import Pool, read_pool
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from lpft.analysis.calibration import (
    HIGHEST_TEMPERATURE,
    LOWEST_TEMPERATURE,
    PRIOR_SD,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
)
from lpft.data import Examples, TextData, stratified_holdout
from lpft.data.splits import labelled_rows
from lpft.data.tokens import tokenize
from lpft.model.inference import (
    encoder_fingerprint,
    extract_features,
    head_logits,
    resolve_device,
)
from lpft.model.loading import fresh_classifier
from lpft.settings import TrainingSettings, resolve
from lpft.training.cache import prepare_split
from lpft.training.fit import fit_classifier

SETS = ("sst2", "trec", "csabstruct", "banking77", "uci", "cola")
SIZES = ("8-per-class", "16-per-class", "64-per-class", "500-rows")
ONLY = {"banking77": ("8-per-class", "16-per-class")}
SHRINKAGE = (10, 30, 100)
PRIORS = (0.2, 0.3, 0.5, 1.0)


def cell(pool: Pool, rows: np.ndarray, method: str, kind: str, seed: int) -> dict[str, Any]:
    """Logits of one training of these rows: what scored it, and the test rows."""
    labels = pool.labels[rows]
    every = Examples([str(row) for row in rows], [pool.texts[row] for row in rows], labels)
    kept, out = stratified_holdout(labels)
    classes = tuple(str(label) for label in range(pool.classes))
    data = TextData(pool.name, classes, every.select(kept), every.select(out), held_out=True)
    settings = resolve(TrainingSettings(method=method, seed=seed, device="cpu"))
    classifier = fresh_classifier(data, settings)
    encoder = encoder_fingerprint(classifier.model)
    splits = {"train": labelled_rows(data)} if kind == "folds" else data.splits()
    inputs = {
        name: prepare_split(classifier, examples, settings, encoder=encoder, name=name)
        for name, examples in splits.items()
    }
    test = Examples([""] * len(pool.test_texts), pool.test_texts, pool.test_labels)
    before = prepare_split(classifier, test, settings, encoder=encoder, name="test")
    started = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        fit = fit_classifier(
            classifier,
            inputs["train"],
            inputs.get("validation"),
            settings,
            metric="accuracy",
            folder=Path(folder),
            kind=kind,  # type: ignore[arg-type]
        )
    seconds = perf_counter() - started
    features = before.pretrained
    if method != "lp":
        tokens = tokenize(classifier.tokenizer, pool.test_texts, classifier.max_length)
        features = extract_features(
            fit.classifier.model, tokens, device=resolve_device(settings.device)
        )
    return {
        "logits": fit.validation.logits,
        "labels": fit.validation.labels,
        "test_logits": head_logits(fit.classifier.model, features),
        "test_labels": pool.test_labels,
        "rows": len(rows),
        "seconds": seconds,
    }


def temperatures(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """T by each rule, from the logits of the rows that scored a training."""
    rows, plain = len(labels), fit_temperature(logits, labels).temperature
    return {
        "none": 1.0,
        "plain": plain,
        **{f"log T times n / (n + {n0})": plain ** (rows / (rows + n0)) for n0 in SHRINKAGE},
        **{
            f"normal prior of log T, sd {prior}": with_prior(logits, labels, prior)
            for prior in PRIORS
        },
        "shipped": fit_temperature(logits, labels, PRIOR_SD).temperature,
    }


def with_prior(logits: np.ndarray, labels: np.ndarray, sd: float) -> float:
    """The most probable T if log T is normal around 0, from the rows alone."""

    def cost(log_temperature: float) -> float:
        nll = len(labels) * negative_log_likelihood(logits, labels, math.exp(log_temperature))
        return nll + log_temperature**2 / (2 * sd**2)

    bounds = math.log(LOWEST_TEMPERATURE), math.log(HIGHEST_TEMPERATURE)
    found = minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 1e-5})
    return math.exp(found.x)


def scores(logits: np.ndarray, labels: np.ndarray, temperature: float) -> tuple[float, float]:
    """NLL and ECE of test rows."""
    probabilities = softmax(logits.astype(np.float64) / temperature, axis=1)
    return (
        negative_log_likelihood(logits, labels, temperature),
        expected_calibration_error(probabilities, labels),
    )


def summary(folder: Path) -> list[dict[str, Any]]:
    """Of each set, size, method and kind: every rule's mean change of NLL and ECE from T = 1."""
    cells: dict[tuple[str, ...], dict[str, Any]] = {}
    for path in sorted(folder.glob("*.npz")):
        cells[tuple(path.stem.split("_"))] = dict(np.load(path))
    grouped: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for key in cells:
        grouped.setdefault(key[:4], []).append(key)
    result = []
    for group, members in grouped.items():
        changes: dict[str, list[tuple[float, float]]] = {}
        plain, accuracies, unscaled = [], [], []
        for key in members:
            each = cells[key]
            test = each["test_logits"], each["test_labels"]
            chosen = temperatures(each["logits"], each["labels"])
            probe = cells.get((*key[:2], "lp", "folds", key[4]))
            if probe is not None and key[2] != "lp":
                of_probe = temperatures(probe["logits"], probe["labels"])
                chosen["plain, of linear probing"] = of_probe["plain"]
            nll, ece = scores(*test, 1.0)
            for name, temperature in chosen.items():
                after = scores(*test, temperature)
                changes.setdefault(name, []).append((after[0] - nll, after[1] - ece))
            plain.append(math.log(chosen["plain"]))
            unscaled.append((nll, ece))
            accuracies.append(float((test[0].argmax(1) == test[1]).mean()))
        result.append(
            {
                **dict(zip(("data", "size", "method", "kind"), group, strict=True)),
                "draws": len(members),
                "rows": int(cells[members[0]]["rows"]),
                "accuracy": round(float(np.mean(accuracies)), 4),
                "nll": round(float(np.mean(unscaled, axis=0)[0]), 4),
                "ece": round(float(np.mean(unscaled, axis=0)[1]), 4),
                "temperature": round(math.exp(float(np.mean(plain))), 3),
                "seconds": round(float(np.mean([cells[key]["seconds"] for key in members])), 1),
                "change": {
                    name: [round(float(value), 4) for value in np.mean(values, axis=0)]
                    for name, values in changes.items()
                    if len(values) == len(members)
                },
            }
        )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, help="official release files")
    parser.add_argument("--cells", type=Path, required=True, help="folder of finished trainings")
    parser.add_argument("--method", default="lp")
    parser.add_argument("--kind", default="folds", choices=("folds", "held-out"))
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--sizes", nargs="+", default=SIZES)
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--minutes", type=float, help="start no training after this time")
    parser.add_argument("--summary", action="store_true", help="record what is finished")
    arguments = parser.parse_args()
    arguments.cells.mkdir(parents=True, exist_ok=True)
    if arguments.summary:
        record("calibration", {"cells": summary(arguments.cells)})
        return
    started = monotonic()
    pools = {name: read_pool(name, arguments.data_dir) for name in arguments.sets}
    for draw in range(arguments.draws):
        for size in arguments.sizes:
            for name, pool in pools.items():
                stem = f"{name}_{size}_{arguments.method}_{arguments.kind}_{draw}"
                path = arguments.cells / f"{stem}.npz"
                rows = pool.draw(size, draw)
                if path.exists() or rows is None or size not in ONLY.get(name, SIZES):
                    continue
                if arguments.minutes is not None and monotonic() - started > (
                    60 * arguments.minutes
                ):
                    return
                result = cell(pool, rows, arguments.method, arguments.kind, draw)
                np.savez(path, **result)
                print(stem, round(result["seconds"], 1), flush=True)


if __name__ == "__main__":
    main()
