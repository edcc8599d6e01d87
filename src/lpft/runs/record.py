"""The files of a finished run, staged in one folder before any of them is published."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from lpft.analysis import split_metrics
from lpft.data.examples import Label, TextData
from lpft.files import write_json
from lpft.markdown import markdown_template
from lpft.model import save_classifier
from lpft.results.schema import (
    predictions_frame,
    split_file,
    write_feature_changes,
    write_features,
    write_head,
)
from lpft.runs.evaluate import SplitResult
from lpft.settings import METHODS
from lpft.settings.configs import RunConfig
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
    config: RunConfig,
) -> dict[str, Any]:
    """Write predictions, every statistic and what else ``config`` keeps; gives the metrics."""
    folder.mkdir(parents=True)
    metrics = run_metrics(data, results, fit.temperature.temperature)
    if config.output.save_model:
        _write_model(folder, fit)
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
            frame.to_parquet(predictions / split_file(split, "parquet"), index=False)
        if split not in _WITHOUT_FEATURES:
            result = results[split]
            write_feature_changes(folder, split, examples.ids, result.feature_differences)
            if result.features is not None:
                write_features(folder, split, result.features)
    if config.output.save_features:
        write_head(folder, fit.classifier.model.head)
    (folder / "history.jsonl").write_text(history_lines(fit.history), encoding="utf-8")
    card = model_card(config, data, metrics, fit.temperature.reason)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return metrics


def _write_model(folder: Path, fit: Fit) -> None:
    save_classifier(fit.classifier, folder)
    if fit.adapter is not None:
        for path in fit.adapter.glob("adapter_*"):
            (folder / path.name).write_bytes(path.read_bytes())


def run_metrics(
    data: TextData, results: dict[str, SplitResult], temperature: float
) -> dict[str, Any]:
    """``metrics.json``: the temperature and the metrics M of every split but the training one."""
    splits = {
        split: split_metrics(results[split].logits, examples.labels, temperature, examples.groups)
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
            split: result.statistics
            for split, result in results.items()
            if split not in _WITHOUT_FEATURES
        },
    }


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


def model_card(
    config: RunConfig, data: TextData, metrics: dict[str, Any], reason: str | None
) -> str:
    """Markdown with the data, the method, ID beside OOD, calibration, use and limits.

    ``reason`` says why the temperature stayed 1, if it did.
    """
    template = markdown_template("lpft.runs", "card.md.j2", cell=_markdown_cell)
    return template.render(
        config={
            name: _without_folders(value)
            for name, value in (config.data.flat() | config.training.flat()).items()
        },
        model_kept=config.output.save_model,
        data=data,
        sources={split: _file_only(source) for split, source in data.sources.items()},
        metrics=metrics,
        method=METHODS[config.training.method],
        paired=isinstance(data.train.texts[0], tuple),
        reason=reason,
        library="lpft",
    )


def _without_folders(value: Any) -> Any:
    """Paths of this machine by their last part: a card is made to be published."""
    if isinstance(value, dict):
        return (
            ", ".join(f"{name}: {_without_folders(path)}" for name, path in value.items()) or None
        )
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(value).name
    return value


def _file_only(source: str) -> str:
    """``/folder/file: how it was split`` as ``file: how it was split``."""
    place, colon, rest = source.partition(": ")
    return Path(place).name + colon + rest if Path(place).is_absolute() else source


def _markdown_cell(value: Any) -> str:
    """Text that neither ends a table cell nor becomes Markdown or HTML."""
    escaped = " ".join(str(value).split())
    for character in "\\`*_[]|#":
        escaped = escaped.replace(character, "\\" + character)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
