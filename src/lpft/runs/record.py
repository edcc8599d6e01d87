"""The files of a finished run, staged in one folder before any of them is published."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from lpft.analysis import find_errors
from lpft.data.checks import row_numbers
from lpft.data.examples import UNSEEN, Examples, Label, Text, TextData
from lpft.files import link_or_copy, markdown_template
from lpft.model import save_classifier
from lpft.results.formats import fixed
from lpft.results.run import LP_HEAD, Predictions, write_feature_changes, write_features, write_head
from lpft.results.schema import (
    ErrorRow,
    FindingRecord,
    RunFeatures,
    RunMetrics,
    write_errors,
    write_history,
)
from lpft.runs.evaluate import SplitResult, score_splits
from lpft.settings.configs import RunConfig
from lpft.settings.methods import METHODS
from lpft.training.checkpoints import KEPT
from lpft.training.fit import Fit, set_threshold
from lpft.training.history import head_norms
from lpft.training.probing import LinearProbe

MOST_ERRORS, MOST_CHARACTERS = 200, 500
"""Rows of a split in ``errors.jsonl``, and characters of each text."""
_WITHOUT_METRICS = ("train",)
_WITHOUT_FEATURES = ("validation",)


def write_results(
    folder: Path,
    fit: Fit,
    data: TextData,
    results: dict[str, SplitResult],
    config: RunConfig,
    findings: Sequence[FindingRecord] = (),
) -> dict[str, Any]:
    """Write predictions, every statistic and what else ``config`` keeps; gives the metrics.

    The model card has the row numbers of ``findings``.
    """
    temperature = fit.calibration.temperature
    folder.mkdir(parents=True)
    abstention = set_threshold(fit, config.output.threshold)
    if config.output.save_model:
        save_classifier(fit.classifier, folder)
        for path in () if fit.adapter is None else fit.adapter.glob("adapter_*"):
            (folder / path.name).write_bytes(path.read_bytes())
    if fit.checkpoints is not None:
        (folder / KEPT).mkdir()
        for path in fit.checkpoints.glob("[!.]*"):
            link_or_copy(path, folder / KEPT / path.name)
    if fit.probe is not None:
        (folder / LP_HEAD).parent.mkdir()
        save_file({"weight": fit.probe.weight, "bias": fit.probe.bias}, folder / LP_HEAD)
    scored = {name: rows for name, rows in data.splits().items() if name not in _WITHOUT_METRICS}
    logits = {split: results[split].logits for split in scored}
    metrics = RunMetrics(
        temperature=temperature,
        splits=score_splits(
            scored, logits, fit.classifier.model.config, logits.get("test", logits["validation"])
        ),
        **({} if abstention is None else {"abstention": abstention.as_json()}),
    )
    errors = []
    for split, examples in data.splits().items():
        result = results[split]
        if split in scored:
            Predictions.write(folder, split, examples, result.logits)
            errors += _error_rows(split, examples, result.logits, data.classes, config, temperature)
        if split not in _WITHOUT_FEATURES:
            assert result.feature_differences is not None
            write_feature_changes(folder, split, examples.ids, result.feature_differences)
            if result.features is not None:
                write_features(folder, split, result.features)
    metrics.write(folder)
    write_errors(folder, errors)
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
    card = model_card(
        config,
        data,
        metrics.as_json(),
        fit.calibration.reason,
        findings,
        None if fit.precision is None else fit.precision.reason,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    return metrics.as_json()


def _error_rows(
    split: str,
    examples: Examples,
    logits: NDArray[np.float32],
    classes: Sequence[Label],
    config: RunConfig,
    temperature: float,
) -> list[ErrorRow]:
    """The most confident errors of a split, with their texts where these may be saved."""
    if examples.labels is None:
        return []
    errors = find_errors(logits, examples.labels, temperature)
    lines = []
    for place, row in enumerate(errors.rows[:MOST_ERRORS].tolist()):
        label = int(errors.labels[place])
        unseen = label == UNSEEN
        text = {"text": _cut(examples.texts[row])} if config.output.texts_in_report else {}
        lines.append(
            ErrorRow(
                split=split,
                row=int(examples.rows[row]),
                id=examples.ids[row],
                label=None if unseen else classes[label],
                predicted=classes[int(errors.predicted[place])],
                confidence=float(errors.confidence[place]),
                probability=None if unseen else float(errors.probability[place]),
                **text,
            )
        )
    return lines


def _cut(text: Text) -> Text:
    """The start of a text, or of both texts of a pair, with a mark where it is cut."""
    if isinstance(text, tuple):
        return _cut_one(text[0]), _cut_one(text[1])
    return _cut_one(text)


def _cut_one(text: str) -> str:
    # A lone surrogate, which JSON Lines may hold, cannot be written as UTF-8.
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"


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
    config: RunConfig,
    data: TextData,
    metrics: dict[str, Any],
    reason: str | None,
    findings: Sequence[FindingRecord] = (),
    precision: str | None = None,
) -> str:
    """Markdown with the data, the method, ID beside OOD, calibration, use and limits.

    ``reason`` says why the temperature stayed 1, if it did, ``precision`` why fine-tuning computed
    in the one that it did, if that was chosen.
    """
    template = markdown_template(
        "lpft.runs", "card.md.j2", cell=markdown_cell, number=three_decimals, rows=_rows_in_words
    )
    return template.render(
        config={
            name: without_folders(value)
            for name, value in (config.data.flat() | config.training.flat()).items()
        },
        model_kept=config.output.save_model,
        data=data,
        sources={split: _file_only(source) for split, source in data.sources.items()},
        metrics=metrics,
        abstention=metrics.get("abstention"),
        unseen={name: m["unseen"] for name, m in metrics["splits"].items() if "unseen" in m},
        texts_saved=config.output.texts_in_report,
        method=METHODS[config.training.method],
        paired=isinstance(data.train.texts[0], tuple),
        reason=reason,
        precision=precision,
        findings=findings,
        library="lpft",
    )


def without_folders(value: Any) -> Any:
    """Paths of this machine by their last part: a card is made to be published."""
    if isinstance(value, dict):
        return ", ".join(f"{name}: {without_folders(path)}" for name, path in value.items()) or None
    if isinstance(value, list):
        return ", ".join(map(str, value)) or None
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(value).name
    return value


def _file_only(source: str) -> str:
    """``/folder/file: how it was split`` as ``file: how it was split``."""
    place, colon, rest = source.partition(": ")
    return Path(place).name + colon + rest if Path(place).is_absolute() else source


def _rows_in_words(finding: FindingRecord) -> str:
    return row_numbers(finding.rows, finding.total, most=20)


def three_decimals(value: float | None) -> str:
    return fixed(value if isinstance(value, float) else None)


def markdown_cell(value: Any) -> str:
    """Text that neither ends a table cell nor becomes Markdown or HTML."""
    escaped = " ".join(str(value).split())
    for character in "\\`*_[]|#":
        escaped = escaped.replace(character, "\\" + character)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
