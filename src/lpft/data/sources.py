"""A task's data by its name: from the Hub, official release files, or this package."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lpft.data.columns import ids_from_table, records, require_column, strings_from_table
from lpft.data.examples import Examples, Text, TextData
from lpft.data.groups import Groups
from lpft.data.hub import read_hub
from lpft.data.labels import encode_labels, is_missing, official_names
from lpft.data.releases import RawData, RawSplit, read_release
from lpft.data.splits import check_protocol, describe_split, split_rows
from lpft.data.tasks import TASKS, Grouping, Task, Template, find_task
from lpft.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


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
    raw = _read(task, data_dir, revision)
    notes = [*task.notes, *raw.notes]
    splits = {}
    for split, rows in raw.splits.items():
        whole, left_out = _complete(task, _unfold(task, rows))
        if left_out:
            notes.append(f"rows of {split} left out because they lack text or label: {left_out}")
        splits[split] = _examples(task, task.templates[template], whole)
    sources = {split: rows.source for split, rows in raw.splits.items()}
    if "validation" not in splits:
        official = splits["train"]
        assert official.labels is not None
        train_rows, validation_rows = split_rows(official.labels, protocol, official.groups)
        splits["validation"] = official.select(validation_rows)
        splits["train"] = official.select(train_rows)
        how = describe_split(protocol, official.groups)
        sources["validation"] = f"{sources['train']}: {how}"
    return TextData(
        name=task.name,
        classes=task.classes,
        train=splits["train"],
        validation=splits["validation"],
        test=splits.get("test"),
        ood={
            split.removeprefix("ood/"): examples
            for split, examples in splits.items()
            if split.startswith("ood/")
        },
        metric=task.metric,
        protocol=protocol,
        sources=sources,
        licence=task.licence,
        notes=tuple(notes),
    )


def _read(task: Task, data_dir: str | Path | None, revision: str | None) -> RawData:
    if data_dir is not None:
        _refuse(task, "is read from --data-dir", revision=revision)
        others = {
            folder: other.name
            for other in TASKS.values()
            if other.name != task.name
            for release in other.releases
            for folder in release.folders
        }
        return read_release(task.name, task.releases, data_dir, task.licence, others)
    if task.hub is None:
        sites = " or ".join(dict.fromkeys(release.url for release in task.releases))
        raise InputError(
            f"{task.name} is not on the Hub: get its official files from {sites} "
            f"(licence: {task.licence}) and give their folder with --data-dir"
        )
    return read_hub(task.name, task.hub, revision)


def _unfold(task: Task, rows: RawSplit) -> RawSplit:
    return rows if task.grouping is None else task.grouping.unfold(rows)


def _complete(task: Task, rows: RawSplit) -> tuple[RawSplit, int]:
    """The rows with text and label, and how many others there were, where the task has such."""
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


def _examples(task: Task, template: Template, rows: RawSplit) -> Examples:
    for field in task.fields:
        strings_from_table(rows.table, field, rows.source)
    for column in ("label", *([] if task.cluster is None else [task.cluster])):
        require_column(rows.table, column, rows.source)
    names = official_names(
        list(rows.table["label"]), rows.labels, task.classes, rows.source, task.name
    )
    return Examples(
        ids=ids_from_table(rows.table),
        texts=list(_texts(template, rows)),
        labels=encode_labels(names, task.classes, rows.source),
        groups=None if task.grouping is None else _groups(task, task.grouping, rows.table),
        clusters=None if task.cluster is None else _numbered(rows.table[task.cluster]),
    )


def _texts(template: Template, rows: RawSplit) -> Iterator[Text]:
    for number, row in records(rows.table):
        try:
            yield template.build(row)
        except InputError as error:
            raise InputError(f"{rows.source}, row {number + 1}: {error}") from error


def _groups(task: Task, grouping: Grouping, table: "pd.DataFrame") -> Groups:
    return Groups(
        index=_numbered(table["group"]),
        noun=grouping.noun,
        credits={name: table[name].to_numpy(dtype=np.float64) for name in grouping.credits},
        positive=task.classes.index(grouping.positive),
    )


def _numbered(values: "pd.Series[Any]") -> NDArray[np.int64]:
    """A number for each value, the same for equal ones."""
    import pandas as pd

    return pd.factorize(values)[0].astype(np.int64)


def _refuse(task: Task, reason: str, **options: object) -> None:
    for option, value in options.items():
        if value is not None:
            raise InputError(
                f"{task.name} {reason}: leave out --{option.replace('_', '-')} (found '{value}')"
            )
