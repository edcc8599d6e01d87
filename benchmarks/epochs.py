"""Rules for the epoch to keep, on few rows: test accuracy of the epoch that each rule chooses.

Every training's logits at every epoch are kept in a file: of the rows that validate it (out of
fold, or held out) and of test rows. So rules are compared without training again. With
``--head-scale`` the head of linear probing is scaled before fine-tuning; trainings with a scale are
compared with those of scale 1, each at the epoch that validation keeps.

    python benchmarks/epochs.py --data-dir DIR --cells DIR --data trec,sst2 --size 16 --method lp-ft
    python benchmarks/epochs.py --cells DIR --summary epochs
"""

import argparse
import copy
import logging
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from auto import SIZES, training_data
from common import record
from few_rows import Pool, read_pool
from torch import nn

from lpft.analysis import fit_temperature
from lpft.analysis.calibration import PRIOR_SD
from lpft.data import Examples
from lpft.data.splits import labelled_rows, validation_kind
from lpft.model.encoder import seeded
from lpft.model.inference import encoder_fingerprint
from lpft.model.loading import fresh_classifier
from lpft.settings import TrainingSettings, resolve
from lpft.settings.methods import get_method
from lpft.training.cache import SplitInputs, prepare_split
from lpft.training.finetuning import finetune_scored
from lpft.training.fit import _usual_strength, begin_fine_tuning, cross_validate
from lpft.training.history import EpochRule, FoldScores

TEST_ROWS = 500
KEPT = "accuracy, then calibrated NLL"
"""The rule that training follows."""


def cell(pool: Pool, rows: np.ndarray, settings: TrainingSettings) -> dict[str, Any]:
    """Logits at epochs 0 to E of the rows that choose (E + 1 x M x C) and of test rows."""
    data = training_data(pool, rows)
    classifier = fresh_classifier(data, settings)
    encoder = encoder_fingerprint(classifier.model)
    method, start = get_method(settings.method), classifier.model

    def prepared(examples: Examples, name: str) -> SplitInputs:
        return prepare_split(classifier, examples, settings, encoder=encoder, name=name)

    def begin(of: SplitInputs, strength: float | None = None) -> nn.Module:
        model = copy.deepcopy(start)
        return begin_fine_tuning(model, of, settings, method, logging.DEBUG, strength=strength)[0]

    def scored(inside: SplitInputs, held_out: SplitInputs, folder: Path, name: str) -> FoldScores:
        return finetune_scored(begin(inside), inside, held_out, settings, folder=folder, name=name)

    kept = np.random.default_rng(1).permutation(len(pool.test_texts))[:TEST_ROWS]
    texts, labels = [pool.test_texts[row] for row in kept], pool.test_labels[kept]
    folds = validation_kind(data, fine_tunes=True) == "folds"
    train = prepared(labelled_rows(data) if folds else data.train, "train")
    strength, held_out = None, 0
    if not folds:
        assert data.validation.labels is not None
        held_out = len(data.validation)
        texts, labels = data.validation.texts + texts, np.append(data.validation.labels, labels)
    test = prepared(Examples([str(row) for row in range(len(texts))], texts, labels), "test")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if folds:
            rule = EpochRule("accuracy", start_counts=method.head_start == "lp")
            validated = cross_validate(scored, train, settings, rule=rule, folder=folder)
            choosing, chosen_by = validated.logits, train.labels[validated.rows]
            if method.head_start == "lp":
                strength = _usual_strength(train, settings, start.config.classes)
        with seeded(settings.seed):
            model = begin(train, strength)
            _, logits = finetune_scored(
                model, train, test, settings, folder=folder / "whole", name=settings.method
            )
    if not folds:
        choosing, chosen_by = logits[:, :held_out], labels[:held_out]
    return {
        "val": choosing,
        "vy": chosen_by,
        "test": logits[:, held_out:],
        "ty": labels[held_out:],
    }


def choices(logits: np.ndarray, labels: np.ndarray, first: int) -> dict[str, int]:
    """The epoch from ``first`` on that each rule chooses, by validation logits (E + 1 x M x C)."""
    epochs = range(first, len(logits))
    accuracy = [float((each.argmax(1) == labels).mean()) for each in logits]
    nll = [fit_temperature(each, labels, PRIOR_SD).nll_after for each in logits]
    return {
        "accuracy, the first": max(epochs, key=lambda e: (accuracy[e], -e)),
        "accuracy, the last": max(epochs, key=lambda e: (accuracy[e], e)),
        KEPT: max(epochs, key=lambda e: (accuracy[e], -nll[e])),
        "calibrated NLL": min(epochs, key=lambda e: nll[e]),
        "the last of all": len(logits) - 1,
    }


def summary(folder: Path) -> dict[str, Any]:
    """Each rule's test accuracy less that of the best epoch on test rows, in the mean."""
    trainings: dict[str, dict[str, Any]] = {}
    losses: dict[str, list[float]] = {}
    for path in sorted(folder.glob("*.npz")):
        stored = np.load(path)
        test = [float((each.argmax(1) == stored["ty"]).mean()) for each in stored["test"]]
        chosen = choices(stored["val"], stored["vy"], 0 if "lp-" in path.stem else 1)
        trainings[path.stem] = {
            "test_accuracy": [round(value, 4) for value in test],
            "chosen": chosen,
        }
        for rule, epoch in chosen.items():
            losses.setdefault(rule, []).append(test[epoch] - max(test))
    kept = {stem: of["test_accuracy"][of["chosen"][KEPT]] for stem, of in trainings.items()}
    scaled: dict[str, dict[str, float]] = {}
    for stem, accuracy in kept.items():
        base, _, scale = stem.partition("_s0")  # a training of scale 0.3 ends in _s0.3
        if scale and f"{base}_s1" in kept:
            gain = round(accuracy - kept[f"{base}_s1"], 4)
            scaled.setdefault(f"head scale 0{scale} less 1", {})[base] = gain
    return {
        "trainings": len(trainings),
        "scaled": scaled,
        "scaled in the mean": {
            of: float(np.mean(list(each.values()))) for of, each in scaled.items()
        },
        "mean less best": {rule: round(float(np.mean(each)), 4) for rule, each in losses.items()},
        "worst less best": {rule: round(min(each), 4) for rule, each in losses.items()},
        "each": trainings,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, help="folder of the official release files")
    parser.add_argument("--cells", type=Path, required=True, help="folder of finished trainings")
    parser.add_argument("--data", default="trec,sst2,uci", help="sets, separated by commas")
    parser.add_argument("--size", default="16,500", help="16 (per class) or 500 (rows)")
    parser.add_argument("--method", default="lp-ft,ft")
    parser.add_argument("--head-scale", type=float, help="default: 1")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--summary", metavar="NAME", help="record what is finished, by this name")
    options = parser.parse_args()
    options.cells.mkdir(parents=True, exist_ok=True)
    if options.summary:
        record(options.summary, summary(options.cells))
        return
    for seed, size, name, method in product(
        range(options.seeds),
        options.size.split(","),
        options.data.split(","),
        options.method.split(","),
    ):
        scale = options.head_scale
        stem = f"{name}_{size}_{method}_{seed}" + ("" if scale is None else f"_s{scale:g}")
        path = options.cells / f"{stem}.npz"
        pool = read_pool(name, options.data_dir)
        rows = pool.draw(SIZES[size], seed)
        if path.exists() or rows is None:
            continue
        settings = resolve(
            TrainingSettings(method=method, seed=seed, head_scale=scale, device="cpu")
        )
        np.savez(path, **cell(pool, rows, settings))
        print(stem, flush=True)


if __name__ == "__main__":
    main()
