"""Run folders from random logits, written by the records' own classes."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from lpft.analysis import split_metrics
from lpft.data.examples import Examples
from lpft.results.run import Predictions
from lpft.results.schema import (
    Calibration,
    DataRecord,
    Fingerprints,
    RunFeatures,
    RunMetrics,
    RunRecord,
    write_history,
)

CLASSES = ("contradiction", "entailment", "neutral")
SPLITS = {"validation": 60, "test": 80, "ood/books": 70, "ood/hotels": 50}


def write_run(
    folder: Path,
    method: str = "ft",
    *,
    seed: int = 0,
    learning_rate: float | None = 5e-5,
    batch_size: int | None = 16,
    change: float = 8.0,
    skill: float = 1.5,
    sharpness: float = 2.0,
    temperature: float = 1.7,
    head_norm: float | None = None,
    classes: tuple[str, ...] = CLASSES,
    splits: dict[str, int] | None = None,
    data_name: str = "corpus",
    metric: str = "accuracy",
    status: str = "finished",
    reason: str | None = None,
    notes: tuple[str, ...] = (),
    history: bool = True,
    fingerprints: dict[str, Any] | None = None,
    **config: Any,
) -> Path:
    """Write one run and return its folder.

    ``change`` is the feature change of the test split, ``skill`` how much the label's logit is
    raised, ``sharpness`` what all logits are multiplied with.
    """
    generator = np.random.default_rng([seed, sum(map(ord, method + folder.name))])
    sizes = SPLITS if splits is None else splits
    lp_start = method.startswith("lp")
    start_norm = 14.0 if lp_start else 0.55
    end_norm = head_norm if head_norm is not None else start_norm + 0.05 * generator.random()
    metrics = RunMetrics(temperature=temperature, splits={})
    for split, rows in sizes.items():
        labels = generator.integers(len(classes), size=rows)
        logits = generator.normal(size=(rows, len(classes)))
        logits[np.arange(rows), labels] += skill * (0.6 if split.startswith("ood/") else 1.0)
        logits = (logits * sharpness).astype(np.float32)
        examples = Examples([str(row) for row in range(rows)], [""] * rows, labels)
        Predictions.write(folder, split, examples, logits)
        metrics.splits[split] = split_metrics(logits.astype(np.float64), labels, temperature)
    metrics.write(folder)
    RunFeatures(
        head={
            "norm": end_norm,
            "bias_norm": 0.2 if lp_start else 0.01,
            "norm_at_start": start_norm,
        },
        splits={
            split: {
                "cosine_similarity": 0.4 + 0.01 * position,
                "feature_difference": 0.0 if method == "lp" else change * (1 + 0.05 * position),
                "fisher_ratio": 10.0 ** (3 - position),
                "pretrained": {"cosine_similarity": 0.3, "fisher_ratio": 5.0 + position},
            }
            for position, split in enumerate(["test", "train", *(s for s in sizes if "ood/" in s)])
        },
    ).write(folder)
    is_lp = method == "lp"
    RunRecord(
        status=status,
        config={
            "model": "minilm",
            "method": method,
            "task": None,
            "train_file": None,
            "pooling": "mean",
            "split_protocol": "stratified",
            "seed": seed,
            "max_length": 128,
            "epochs": None if is_lp else 10.0,
            "batch_size": None if is_lp else batch_size,
            "learning_rate": None if is_lp else learning_rate,
            "head_scale": 1.0,
            "lora_rank": 8,
            "lora_alpha": 8.0,
            "weight_decay": 0.0,
            "class_weight": None,
            "output_dir": str(folder.name),
            **config,
        },
        config_hash=f"{abs(hash(method)) % 16**8:08x}",
        metric=metric,
        data=DataRecord(
            name=data_name,
            classes=list(classes),
            rows={"train": 400, **sizes},
            notes=list(notes),
            licence="CC0-1.0",
        ),
        fingerprints=None if fingerprints is None else Fingerprints(**fingerprints),
        versions={"python": "3.11.9", "torch": "2.13.0", "transformers": "5.23.0"},
        device="cpu",
        calibration=Calibration(temperature=temperature, reason=reason),
        timings={"features": 1.2, "probing": 0.4, "finetuning": 21.5, "total": 24.0},
    ).write(folder)
    rows = history_rows(method, change, start_norm, end_norm, generator) if history else []
    write_history(folder, rows)
    return folder


def history_rows(
    method: str, change: float, start: float, end: float, generator: np.random.Generator
) -> list[dict[str, Any]]:
    """Ten epochs of evaluations and of training steps; for LP the start alone."""
    epochs = 1 if method == "lp" else 11
    rows: list[dict[str, Any]] = []
    for epoch in range(epochs):
        part = epoch / 10
        rows.append(
            {
                "event": "evaluation",
                "epoch": float(epoch),
                "step": epoch * 20,
                "validation_loss": 1.1 - 0.6 * part**0.5 + 0.02 * float(generator.normal()),
                "validation_accuracy": 0.4 + 0.4 * part**0.5 + 0.01 * float(generator.normal()),
                "head_norm": start + (end - start) * part,
                "bias_norm": 0.02 + 0.1 * part,
                "logit_norm": 1.0 + 3 * part,
                "feature_difference": change * part**0.7,
            }
        )
        rows += [
            {
                "event": "training",
                "epoch": epoch + step / 20,
                "step": epoch * 20 + step,
                "loss": 1.1 - 0.7 * ((epoch + step / 20) / 11) ** 0.5,
                "learning_rate": 5e-5,
                "grad_norm": 1.0,
            }
            for step in range(20)
            if method != "lp" and epoch < 10
        ]
    return rows


def write_five_methods(folder: Path) -> Path:
    """The five methods at rates of their own, and FT and LP-LoRA at their partners' rates."""
    runs = folder / "runs"
    write_run(runs / "lp", "lp", skill=1.2, sharpness=4.0, temperature=2.9, change=0.0)
    write_run(runs / "ft", "ft", change=10.4, skill=1.6)
    write_run(runs / "lp-ft", "lp-ft", learning_rate=5e-6, batch_size=8, change=3.9, skill=1.8)
    write_run(runs / "lora", "lora", learning_rate=1e-3, change=9.1, skill=1.5)
    write_run(runs / "lp-lora", "lp-lora", learning_rate=1e-4, batch_size=8, change=4.4, skill=1.7)
    write_run(runs / "ft-shared", "ft", learning_rate=5e-6, batch_size=8, change=4.5, skill=1.3)
    return folder


def prints(train: str = "a", test: str = "b", encoder: str = "c") -> dict[str, Any]:
    """Fingerprints of a run's data and encoder."""
    data = {"train": train * 64, "validation": "d" * 64, "test": test * 64, "ood/books": "e" * 64}
    return {"data": data, "encoder": encoder * 64}


def edit_json(path: Path, **changes: Any) -> None:
    """Set top-level keys of a JSON file."""
    record = json.loads(path.read_text(encoding="utf-8"))
    record.update(changes)
    path.write_text(json.dumps(record), encoding="utf-8")
