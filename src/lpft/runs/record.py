"""The files of a finished run, staged in one folder before any of them is published."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import save_file

from lpft.analysis import split_metrics
from lpft.data.examples import Examples, Label, TextData
from lpft.files import write_json
from lpft.model import save_classifier
from lpft.runs.card import model_card
from lpft.runs.evaluation import SplitResult
from lpft.training.fit import Fit
from lpft.training.history import head_norms
from lpft.training.probing import LinearProbe

_WITHOUT_METRICS = ("train",)
_WITHOUT_FEATURES = ("validation",)


def write_results(
    folder: Path,
    fit: Fit,
    data: TextData,
    results: dict[str, SplitResult],
    config: dict[str, Any],
) -> dict[str, Any]:
    """Write the model, its predictions and every statistic below ``folder``; gives the metrics."""
    folder.mkdir(parents=True)
    metrics = run_metrics(data, results, fit.temperature.temperature)
    save_classifier(fit.classifier, folder)
    if fit.adapter is not None:
        for path in fit.adapter.glob("adapter_*"):
            (folder / path.name).write_bytes(path.read_bytes())
    if fit.probe is not None:
        (folder / "lp").mkdir()
        save_file(
            {"weight": fit.probe.weight, "bias": fit.probe.bias}, folder / "lp/head.safetensors"
        )
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "features.json", run_features(fit, results))
    predictions = folder / "predictions"
    predictions.mkdir()
    for split, examples in data.splits().items():
        if split not in _WITHOUT_METRICS:
            frame = predictions_frame(examples, results[split].logits)
            frame.to_parquet(predictions / f"{split.replace('/', '-')}.parquet", index=False)
    (folder / "history.jsonl").write_text(history_lines(fit.history), encoding="utf-8")
    card = model_card(config, data, metrics, fit.temperature.reason)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return metrics


def run_metrics(
    data: TextData, results: dict[str, SplitResult], temperature: float
) -> dict[str, Any]:
    """``metrics.json``: the temperature and the metrics M of every split but the training one."""
    splits = {
        split: split_metrics(results[split].logits, examples.labels, temperature)
        for split, examples in data.splits().items()
        if split not in _WITHOUT_METRICS and examples.labels is not None
    }
    return {"temperature": temperature, "splits": splits}


def run_features(fit: Fit, results: dict[str, SplitResult]) -> dict[str, Any]:
    """``features.json``: the head's norms and the statistics S of every split but validation."""
    norm, bias_norm = head_norms(fit.classifier.model.head)
    return {
        "head": {"norm": norm, "bias_norm": bias_norm, "norm_at_start": fit.head_norm_at_start},
        "splits": {
            split: result.features
            for split, result in results.items()
            if split not in _WITHOUT_FEATURES
        },
    }


def predictions_frame(examples: Examples, logits: np.ndarray) -> pd.DataFrame:
    """Columns id, label (the class index) and logits (C float32, before the temperature)."""
    return pd.DataFrame(
        {
            "id": examples.ids,
            "label": examples.labels,
            "logits": list(np.asarray(logits, dtype=np.float32)),
        }
    )


def history_lines(rows: list[dict[str, Any]]) -> str:
    """``history.jsonl``: one JSON object per line."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def describe_probe(probe: LinearProbe, classes: tuple[Label, ...]) -> dict[str, Any]:
    """How the LP head was fitted, for ``run.json``."""
    return {
        "inverse_strength": probe.inverse_strength,
        "folds": probe.folds,
        "solver": probe.solver,
        "converged": probe.converged,
        "norm": float(np.linalg.norm(probe.weight)),
        "absent_classes": [classes[index] for index in probe.absent_classes],
    }
