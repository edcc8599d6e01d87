"""A classification problem by a task's name or from the user's own files."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lpft.data.duplicates import find_repetitions
from lpft.data.examples import Examples, Groups, Label, Text, TextData
from lpft.data.labels import (
    describe_unseen,
    encode_labels,
    infer_classes,
    integers_where_all_are,
    is_missing,
    official_names,
)
from lpft.data.releases import RawData, RawSplit, read_hub, read_release
from lpft.data.splits import check_protocol, describe_split, limit_split, split_rows
from lpft.data.tables import (
    choose_text_columns,
    columns_of_training,
    examples_from_table,
    labels_from_table,
    numbered_rows,
    read_table,
    require_column,
    strings_from_table,
    texts_from_table,
    unfolded,
)
from lpft.data.tasks import TASKS, Task, Template, find_task
from lpft.errors import InputError, named
from lpft.settings import DataSettings
from lpft.settings.values import BY_ENDING, Layout

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

_NAMES_OF_ANY_DATA = ("train", "training", "data", "dataset")
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def load_data(settings: DataSettings) -> TextData:
    """The splits of a run by its settings, with the number of rows limited as they say.

    Raises:
        InputError: as :func:`load_task` and :func:`load_files`, or a limit is too low.
    """
    assert settings.split_protocol is not None, "settings must come from make_config"
    if settings.task is not None:
        data = load_task(
            settings.task,
            settings.data_dir,
            protocol=settings.split_protocol,
            template=settings.template,
        )
    else:
        assert settings.train_file is not None
        data = load_files(
            settings.train_file,
            settings.validation_file,
            settings.test_file,
            settings.ood,
            text_columns=settings.text_columns,
            label_column=settings.label_column,
            **vars(settings.layout),
            protocol=settings.split_protocol,
        )
        if settings.data_name is not None:
            data = replace(data, name=settings.data_name)
    if settings.max_train_samples is not None:
        data = limit_split(data, "train", settings.max_train_samples)
    if settings.max_validation_samples is not None:
        data = limit_split(data, "validation", settings.max_validation_samples)
    return data


def load_task(
    name: str | Task,
    data_dir: str | Path | None = None,
    *,
    protocol: str = "paper",
    template: int = 0,
    revision: str | None = None,
) -> TextData:
    """Training, validation, test and OOD sets of a task.

    Validation rows are taken from the official training set by ``protocol``, test is the official
    validation set, unless the source has splits of its own for them (``demo``, ``pubmed``).

    Args:
        name: a key of :data:`lpft.data.tasks.TASKS`, or a row of your own.
        data_dir: official release files: the folder that holds the benchmarks' folders, a
            benchmark's, or the task's own. None takes the data from the Hub.
        protocol: a name of :data:`lpft.data.splits.PROTOCOLS`.
        template: which of the task's templates makes the input.
        revision: a commit, tag or branch of the Hub's dataset instead of the pinned commit.

    Raises:
        InputError: the task, protocol or template is unknown, an option does not apply to the
            task's source, or the data is missing, damaged or not this task's.
    """
    task = name if isinstance(name, Task) else find_task(name)
    check_protocol(protocol)
    if not 0 <= template < len(task.templates):
        raise InputError(
            f"{task.name} has no template {template}: expected 0 to {len(task.templates) - 1} "
            f"(it has {len(task.templates)})"
        )
    if task.embedded is not None:
        _refuse(task, "comes with this package", data_dir=data_dir, revision=revision)
        return replace(task.embedded(), protocol=protocol)
    raw_splits, source_notes = _read(task, data_dir, revision)
    notes = [*task.notes, *source_notes]
    splits, sources = {}, {}
    held_out = "validation" not in raw_splits
    for split, rows in raw_splits.items():
        complete, left_out = _complete(task, _unfold(task, rows))
        if left_out:
            notes.append(f"rows of {split} left out because they lack text or label: {left_out}")
        splits[split] = _task_examples(task, task.templates[template], complete)
        sources[split] = rows.source
    if held_out:
        rule = describe_split(protocol, splits["train"].groups)
        sources["validation"] = f"{sources['train']}: {rule}"
        splits |= _hold_out(splits["train"], protocol)
    return TextData(
        name=task.name,
        classes=task.classes,
        train=splits["train"],
        validation=splits["validation"],
        test=splits.get("test"),
        ood={name[4:]: examples for name, examples in splits.items() if name.startswith("ood/")},
        metric=task.metric,
        protocol=protocol,
        held_out=held_out and protocol == "stratified",
        sources=sources,
        licence=task.licence,
        notes=tuple(notes),
    )


def load_files(
    train: str | Path,
    validation: str | Path | None = None,
    test: str | Path | None = None,
    ood: Mapping[str, str | Path] | None = None,
    *,
    text_columns: Sequence[str] | None = None,
    label_column: str = "label",
    column_names: Sequence[str] | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    protocol: str = "stratified",
) -> TextData:
    """Training, validation, test and OOD sets from files (CSV, TSV, JSON Lines, Parquet).

    Classes are the labels of the training file, sorted: integers (also written as text or as 1.0)
    by value, anything else by name. Labels of the other files are matched by name; OOD sets may
    have classes that the training file lacks (:data:`~lpft.data.examples.UNSEEN`). Without a
    validation file, rows of the training file are held out; without a test file there is no test
    split.

    Args:
        ood: out-of-distribution sets by name; names become parts of file names.
        text_columns: one column, or two for pairs; None takes the column ``text`` or
            ``sentence``, or the only one with words. All files use the same names; ``data.text``
            is the text in the objects ``data`` of JSON files.
        column_names, encoding, delimiter: of all files, as in
            :func:`lpft.data.tables.read_table`.
        protocol: how rows are held out, a name of :data:`lpft.data.splits.PROTOCOLS`.

    Raises:
        InputError: a file cannot be read, a column is absent, a text or label is missing, a label
            is not one class or, in validation and test, is unknown to the training file, there are
            fewer than 2 classes, or an OOD name is not safe.
    """
    ood = {} if ood is None else ood
    check_protocol(protocol)
    for name in ood:
        check_ood_name(name)
    layout: Any = {"encoding": encoding, "delimiter": delimiter}
    table = read_table(train, column_names, **layout)
    columns = choose_text_columns(table, text_columns, label_column, train)
    names = integers_where_all_are(labels_from_table(table, label_column, train))
    source = f"{train}, column '{label_column}'"
    classes = infer_classes(names, source)
    labels = encode_labels(names, classes, source)
    training = examples_from_table(table, texts_from_table(table, columns, train), labels)
    splits, sources = {"train": training}, {"train": str(train)}
    if validation is None:
        splits |= _hold_out(training, protocol)
        sources["validation"] = f"{train}: {describe_split(protocol)}"
    files = {"validation": validation, "test": test}
    files |= {f"ood/{name}": path for name, path in ood.items()}
    read_file = partial(_examples, classes=classes, text_columns=columns, label_column=label_column)
    for split, path in files.items():
        if path is not None:
            table = read_table(path, column_names, **layout)
            splits[split] = read_file(path, table, unseen_allowed=split.startswith("ood/"))
            sources[split] = str(path)
    return TextData(
        name=_data_name(Path(train)),
        classes=classes,
        train=splits["train"],
        validation=splits["validation"],
        test=splits.get("test"),
        ood={name: splits[f"ood/{name}"] for name in ood},
        protocol=protocol,
        text_columns=columns,
        held_out=validation is None and protocol == "stratified",
        sources=sources,
    )


def _data_name(train: Path) -> str:
    """The training file's name, or its folder's where that is any training file's."""
    name, folder = train.name.partition(".")[0], train.parent.resolve().name
    return folder if folder and name.lower() in _NAMES_OF_ANY_DATA else name


def read_examples(
    path: str | Path,
    classes: Sequence[Label],
    *,
    text_columns: Sequence[str] | None = None,
    trained_columns: Sequence[str] | None = None,
    label_column: str = "label",
    layout: Layout = BY_ENDING,
    unseen_allowed: bool = False,
) -> Examples:
    """The labelled rows of one file, for a problem whose classes are known.

    Args:
        unseen_allowed: whether it may have other classes, as out-of-distribution sets may: their
            rows have the label :data:`~lpft.data.examples.UNSEEN`, and a warning counts them.
        text_columns: as the user names them; None takes ``trained_columns``, those of training, as
            :func:`lpft.data.tables.columns_of_training` does.

    Raises:
        InputError: as :func:`load_files`; a label that is none of ``classes`` is named.
    """
    table = read_table(path, **vars(layout))
    if text_columns is None:
        columns = columns_of_training(table, trained_columns, path)
    else:
        columns = choose_text_columns(table, text_columns, label_column, path)
    return _examples(path, table, classes, columns, label_column, unseen_allowed=unseen_allowed)


def _examples(
    path: str | Path,
    table: "pd.DataFrame",
    classes: Sequence[Label],
    text_columns: Sequence[str],
    label_column: str,
    *,
    unseen_allowed: bool,
) -> Examples:
    """The labelled rows of a file that has been read."""
    names = labels_from_table(table, label_column, path)
    texts = texts_from_table(table, text_columns, path)
    labels = encode_labels(
        names,
        classes,
        f"{path}, column '{label_column}'",
        list(table.index),
        unseen_allowed=unseen_allowed,
    )
    unseen = describe_unseen(names, labels)
    if unseen is not None:
        logger.warning(
            "%s: %s: they enter no accuracy, and no other metric of classes", path, unseen
        )
    return examples_from_table(table, texts, labels)


def check_ood_name(name: str) -> None:
    if _SAFE_NAME.fullmatch(name) is None:
        raise InputError(
            f"the OOD name '{name}' cannot be part of a file name: expected letters, digits, "
            "'_', '.' and '-', beginning with a letter or digit"
        )


def _hold_out(official: Examples, protocol: str) -> dict[str, Examples]:
    """The official training rows as a training and a validation split."""
    assert official.labels is not None
    repeats = None
    if protocol == "stratified" and official.groups is None:
        repeats = find_repetitions(official.texts).near
    train, validation = split_rows(official.labels, protocol, official.groups, repeats)
    return {"train": official.select(train), "validation": official.select(validation)}


def _read(task: Task, data_dir: str | Path | None, revision: str | None) -> RawData:
    if data_dir is not None:
        _refuse(task, f"is read from {named('data_dir')}", revision=revision)
        folder_owners = {
            folder: other.name
            for other in TASKS.values()
            if other.name != task.name
            for release in other.releases
            for folder in release.folders
        }
        return read_release(task, data_dir, folder_owners)
    if task.hub is None:
        sites = " or ".join(dict.fromkeys(release.url for release in task.releases))
        raise InputError(
            f"{task.name} is not on the Hub: get its official files from {sites} "
            f"(licence: {task.licence}) and give their folder with {named('data_dir')}"
        )
    return read_hub(task, revision)


def _unfold(task: Task, rows: RawSplit) -> RawSplit:
    """A row for each candidate answer, where the task's rows are questions."""
    if task.grouping is None:
        return rows
    unfold = task.grouping.unfold
    table = unfolded(rows.table, lambda row, where: unfold(row, rows.labels, where), rows.source)
    return replace(rows, table=table, labels={})


def _complete(task: Task, rows: RawSplit) -> tuple[RawSplit, int]:
    """The rows with text and label, and the number of others in a task known to have some."""
    if not task.incomplete:
        return rows, 0
    missing = np.zeros(len(rows.table), dtype=bool)
    for column in (*task.fields, "label"):
        require_column(rows.table, column, rows.source)
        missing |= [is_missing(value) for value in rows.table[column]]
    if missing.all():
        raise InputError(
            f"{rows.source}: none of the {len(missing)} rows has both text and label: is this "
            f"{task.name}?"
        )
    return replace(rows, table=rows.table[~missing]), int(missing.sum())


def _task_examples(task: Task, template: Template, rows: RawSplit) -> Examples:
    table, source, grouping = rows.table, rows.source, task.grouping
    for field in task.fields:
        strings_from_table(table, field, source)
    for column in ("label", *([] if task.cluster is None else [task.cluster])):
        require_column(table, column, source)
    names = official_names(list(table["label"]), rows.labels, task.classes, source, task.name)
    groups = None
    if grouping is not None:
        groups = Groups(
            index=_numbered(table["group"]),
            noun=grouping.noun,
            credits={name: table[name].to_numpy(dtype=np.float64) for name in grouping.credits},
            positive=task.classes.index("True"),
        )
    return examples_from_table(
        table,
        list(_inputs(template, rows)),
        encode_labels(names, task.classes, source, list(table.index)),
        groups=groups,
        clusters=None if task.cluster is None else _numbered(table[task.cluster]),
    )


def _inputs(template: Template, rows: RawSplit) -> Iterator[Text]:
    for number, row in numbered_rows(rows.table):
        try:
            yield template.build(row)
        except InputError as error:
            raise InputError(f"{rows.source}, row {number + 1}: {error}") from error


def _numbered(values: "pd.Series[Any]") -> NDArray[np.int64]:
    """A number for each value, equal for equal values."""
    import pandas as pd

    return pd.factorize(values)[0].astype(np.int64)


def _refuse(task: Task, reason: str, **options: object) -> None:
    for option, value in options.items():
        if value is not None:
            raise InputError(f"{task.name} {reason}: leave out {named(option)} (found '{value}')")
