"""A task's data by its name: from the Hub, official release files, or this package."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lpft.data.columns import ids_from_table, require_column, strings_from_table
from lpft.data.examples import Examples, TextData
from lpft.data.hub import read_hub
from lpft.data.labels import encode_labels, show
from lpft.data.releases import RawSplit, read_release
from lpft.data.splits import check_protocol, describe_split, split_rows
from lpft.data.tasks import Task, Template, find_task
from lpft.errors import InputError


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
    validation set, unless the source has splits of its own for them (``demo``).

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
    notes = task.notes
    if data_dir is None:
        if task.hub is None:
            raise InputError(
                f"{task.name} is not on the Hub: give its official files with --data-dir "
                f"({task.url})"
            )
        raw = read_hub(task.name, task.hub, revision)
    else:
        _refuse(task, "is read from --data-dir", revision=revision)
        release, raw = read_release(task.name, task.releases, data_dir, task.licence)
        notes += release.notes
    splits = {split: _examples(task, task.templates[template], rows) for split, rows in raw.items()}
    sources = {split: rows.source for split, rows in raw.items()}
    if "validation" not in splits:
        train_rows, validation_rows = split_rows(_labels(task, raw["train"]), protocol)
        splits["validation"] = splits["train"].select(validation_rows)
        splits["train"] = splits["train"].select(train_rows)
        sources["validation"] = f"{sources['train']}: {describe_split(protocol)}"
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
        notes=notes,
    )


def _examples(task: Task, template: Template, rows: RawSplit) -> Examples:
    for field in task.fields:
        strings_from_table(rows.table, field, rows.source)
    records = rows.table.to_dict(orient="records")
    return Examples(
        ids=ids_from_table(rows.table),
        texts=[template.build({str(name): record[name] for name in record}) for record in records],
        labels=_labels(task, rows),
    )


def _labels(task: Task, rows: RawSplit) -> NDArray[np.int64]:
    require_column(rows.table, "label", rows.source)
    values = [str(value).strip() for value in rows.table["label"]]
    codes = dict.fromkeys(rows.labels.values())
    if codes and set(codes) != set(task.classes):
        raise InputError(
            f"{rows.source}: its classes are {', '.join(codes)}, expected {task.name}'s: "
            f"{', '.join(task.classes)}"
        )
    known = rows.labels if codes else dict.fromkeys(task.classes)
    unknown = [value for value in values if value not in known]
    if "-1" in unknown:
        raise InputError(
            f"{rows.source}: the labels are hidden (-1), as in official test sets; "
            "expected a labelled split: take the training or validation set"
        )
    if unknown:
        raise InputError(
            f"{rows.source}: found the label {show(list(dict.fromkeys(unknown)))} in "
            f"{len(unknown)} of {len(values)} rows, expected {' or '.join(known)}: "
            f"is this {task.name}?"
        )
    names = [rows.labels[value] if codes else value for value in values]
    return encode_labels(names, task.classes, rows.source)


def _refuse(task: Task, reason: str, **options: object) -> None:
    for option, value in options.items():
        if value is not None:
            raise InputError(
                f"{task.name} {reason}: leave out --{option.replace('_', '-')} (found '{value}')"
            )
