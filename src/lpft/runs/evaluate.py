"""Metrics and feature statistics of a trained classifier on labelled splits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lpft.analysis import (
    feature_differences,
    feature_statistics,
    shift_metrics,
    split_metrics,
)
from lpft.data import Examples, load_task, read_examples
from lpft.data.examples import UNSEEN
from lpft.errors import InputError, named
from lpft.model.classifier import LinearHeadConfig
from lpft.model.inference import extract_features, head_logits
from lpft.model.loading import Classifier
from lpft.results.run import SplitFeatures
from lpft.results.saved import SavedClassifier, columns_error
from lpft.settings.values import Layout
from lpft.training.cache import SplitInputs


@dataclass(frozen=True)
class SplitResult:
    """What a classifier says of one split of N texts.

    ``logits`` (N x C) are before the temperature, ``statistics`` those of ``features.json``,
    ``feature_differences`` (N) the distances from phi_0; ``features`` is None unless kept. Rows
    that folds scored have logits alone.
    """

    logits: NDArray[np.float32]
    statistics: dict[str, Any] = field(default_factory=dict)
    feature_differences: NDArray[np.float64] | None = None
    features: SplitFeatures | None = None


def evaluate_split(
    classifier: Classifier,
    inputs: SplitInputs,
    features: NDArray[np.float32] | None,
    *,
    device: torch.device,
    name: str,
    keep_features: bool,
) -> SplitResult:
    """Logits of a split and how its features (N x h, computed where None) moved from phi_0."""
    if features is None:
        features = extract_features(
            classifier.model,
            inputs.tokens,
            device=device,
            description=f"evaluating, {name}",
        )
    # For Fisher's ratio, rows of all classes that training lacks are one class more.
    classes = classifier.model.config.num_labels
    labels = np.where(inputs.labels == UNSEEN, classes, inputs.labels)
    return SplitResult(
        logits=head_logits(classifier.model, features),
        statistics=feature_statistics(features, inputs.pretrained, labels),
        feature_differences=feature_differences(features, inputs.pretrained),
        features=SplitFeatures(features, inputs.pretrained) if keep_features else None,
    )


def score_splits(
    sets: Mapping[str, Examples],
    logits: Mapping[str, NDArray[np.floating[Any]]],
    config: LinearHeadConfig | SavedClassifier,
    reference: NDArray[np.floating[Any]] | None,
) -> dict[str, dict[str, Any]]:
    """Metrics of every labelled set, at the temperature and threshold of a model's ``config``.

    ``logits`` of every set are N x C. OOD sets, and sets with classes that training lacks, have
    how well confidence tells them from ``reference``, the logits of rows like the training's.
    """
    splits = {}
    for name, examples in sets.items():
        labels = examples.labels
        if labels is None:
            continue
        splits[name] = split_metrics(
            logits[name],
            labels,
            config.temperature,
            examples.groups,
            classes=config.classes,
            abstain_below=config.abstain_below,
        )
        if name.startswith("ood/") or (labels == UNSEEN).any():
            splits[name] |= shift_metrics(
                logits[name], labels, reference, config.temperature, config.abstain_below
            )
    return splits


def evaluate_saved(saved: SavedClassifier, sets: Mapping[str, Examples]) -> dict[str, Any]:
    """Metrics of labelled sets as ``metrics.json`` has them, with the model's temperature."""
    logits = {
        name: saved.logits(examples.texts, rows=examples.rows, description=f"evaluating, {name}")
        for name, examples in sets.items()
    }
    reference = logits["test"] if "test" in sets else saved.reference_logits()
    splits = score_splits(sets, logits, saved, reference)
    return {"temperature": saved.temperature, "splits": splits}


def labelled_sets(
    saved: SavedClassifier,
    *,
    task: str | None,
    data_dir: Path | None,
    template: int | None,
    file: Path | None,
    text_columns: Sequence[str] | None,
    label_column: str | None,
    layout: Layout,
) -> dict[str, Examples]:
    """The labelled sets that the options of ``lpft evaluate`` name: a task's or a file's.

    Raises:
        InputError: an option belongs to the other kind, or as :func:`file_set`, :func:`task_sets`.
    """
    if file is None:
        _refuse(
            "task",
            text_columns=text_columns,
            label_column=label_column,
            **vars(layout),
        )
        assert task is not None, "the command line asks for a task or a file"
        if template is None:
            template = saved.template if saved.task == task else 0
        return task_sets(saved, task, data_dir, template)
    _refuse("file", data_dir=data_dir, template=template)
    return file_set(saved, file, text_columns, label_column, layout)


def _refuse(source: str, **options: object) -> None:
    for name, value in options.items():
        if value is not None:
            raise InputError(f"{named(name)} has no effect with {named(source)}: leave it out")


def file_set(
    saved: SavedClassifier,
    path: Path,
    text_columns: Sequence[str] | None,
    label_column: str | None,
    layout: Layout,
) -> dict[str, Examples]:
    """The labelled rows of a file, under its stem; labels are matched by name.

    Rows of classes that the model lacks are :data:`~lpft.data.examples.UNSEEN`.

    Raises:
        InputError: the file cannot be read, or has other columns.
    """
    examples = read_examples(
        path,
        saved.classes,
        text_columns=text_columns,
        trained_columns=saved.text_columns,
        label_column=saved.label_column if label_column is None else label_column,
        layout=layout,
        unseen_allowed=True,
    )
    if isinstance(examples.texts[0], tuple) != saved.paired:
        raise columns_error(saved, path, text_columns)
    return {path.name.partition(".")[0]: examples}


def task_sets(
    saved: SavedClassifier, task: str, data_dir: Path | None, template: int
) -> dict[str, Examples]:
    """The test split and OOD sets of a task; its classes are matched to the model's by name.

    Raises:
        InputError: the task or its data is not there, or it has classes that the model lacks.
    """
    data = load_task(task, data_dir, template=template)
    classes = saved.classes
    unknown = [str(name) for name in data.classes if name not in classes]
    if unknown:
        raise InputError(
            f"the task {task} has classes that the model was not trained on "
            f"({', '.join(unknown)}): expected {', '.join(map(str, classes))}"
        )
    assert data.test is not None, f"the task {task} has no test split"
    if isinstance(data.test.texts[0], tuple) != saved.paired:
        kind = "pairs of texts" if saved.paired else "single texts"
        raise InputError(f"the model was trained on {kind}, unlike the task {task}: name another")
    order = np.array([classes.index(name) for name in data.classes])
    return {
        split: _reordered(examples, order)
        for split, examples in data.splits().items()
        if split not in ("train", "validation")
    }


def _reordered(examples: Examples, order: NDArray[np.int64]) -> Examples:
    """The same rows with class index c called ``order[c]``."""
    groups = examples.groups
    if groups is not None:
        groups = replace(groups, positive=int(order[groups.positive]))
    return replace(examples, labels=order[examples.labels], groups=groups)
