"""The files of a finished run, staged in one folder before any of them is published."""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from lpft.analysis import split_metrics
from lpft.data.examples import Label, TextData
from lpft.files import markdown_template
from lpft.model import save_classifier
from lpft.results.run import Predictions, write_feature_changes, write_features, write_head
from lpft.results.schema import RunFeatures, RunMetrics, write_history
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
    temperature = fit.temperature.temperature
    folder.mkdir(parents=True)
    if config.output.save_model:
        save_classifier(fit.classifier, folder)
        for path in () if fit.adapter is None else fit.adapter.glob("adapter_*"):
            (folder / path.name).write_bytes(path.read_bytes())
    if fit.probe is not None:
        (folder / "lp").mkdir()
        save_file(
            {"weight": fit.probe.weight, "bias": fit.probe.bias}, folder / "lp/head.safetensors"
        )
    metrics = RunMetrics(temperature=temperature, splits={})
    for split, examples in data.splits().items():
        result = results[split]
        if split not in _WITHOUT_METRICS:
            Predictions.write(folder, split, examples, result.logits)
            if examples.labels is not None:
                metrics.splits[split] = split_metrics(
                    result.logits, examples.labels, temperature, examples.groups
                )
        if split not in _WITHOUT_FEATURES:
            assert result.feature_differences is not None
            write_feature_changes(folder, split, examples.ids, result.feature_differences)
            if result.features is not None:
                write_features(folder, split, result.features)
    metrics.write(folder)
    norm, bias_norm = head_norms(fit.classifier.model.head)
    RunFeatures(
        head={"norm": norm, "bias_norm": bias_norm, "norm_at_start": fit.head_norm_at_start},
        splits={
            split: result.statistics
            for split, result in results.items()
            if split not in _WITHOUT_FEATURES
        },
    ).write(folder)
    if config.output.save_features:
        write_head(folder, fit.classifier.model.head)
    write_history(folder, fit.history)
    card = model_card(config, data, metrics.as_json(), fit.temperature.reason)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return metrics.as_json()


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
