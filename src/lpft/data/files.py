"""A classification problem from the user's own files."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from lpft.data.columns import (
    choose_text_columns,
    ids_from_table,
    labels_from_table,
    texts_from_table,
)
from lpft.data.examples import Examples, Label, TextData
from lpft.data.labels import encode_labels, infer_classes, integers_where_all_are
from lpft.data.splits import check_protocol, describe_split, split_rows
from lpft.data.tables import read_table
from lpft.errors import InputError

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def load_files(
    train: str | Path,
    validation: str | Path | None = None,
    test: str | Path | None = None,
    ood: Mapping[str, str | Path] | None = None,
    *,
    text_columns: Sequence[str] | None = None,
    label_column: str = "label",
    column_names: Sequence[str] | None = None,
    protocol: str = "stratified",
) -> TextData:
    """Training, validation, test and OOD sets from files (CSV, TSV, JSON Lines, Parquet).

    Classes are the labels of the training file, sorted: integers (also written as text or as 1.0)
    by value, anything else by name. Labels of the other files are matched by name. Without a
    validation file, rows of the training file are held out; without a test file there is no test
    split.

    Args:
        ood: out-of-distribution sets by name; names become parts of file names.
        text_columns: one column, or two for pairs; None takes the column ``text`` or
            ``sentence``, or the only one with words. All files use the same names.
        column_names: of CSV and TSV files whose first line does not name their columns.
        protocol: how rows are held out, a name of :data:`lpft.data.splits.PROTOCOLS`.

    Raises:
        InputError: a file cannot be read, a column is absent, a text or label is missing, a label
            is not one class or is unknown to the training file, there are fewer than 2 classes, or
            an OOD name is not safe.
    """
    ood = {} if ood is None else ood
    check_protocol(protocol)
    for name in ood:
        check_ood_name(name)
    table = read_table(train, column_names)
    columns = choose_text_columns(table, text_columns, label_column, train)
    names = integers_where_all_are(labels_from_table(table, label_column, train))
    classes = infer_classes(names, f"{train}, column '{label_column}'")
    labels = encode_labels(names, classes, f"{train}, column '{label_column}'")
    training = Examples(ids_from_table(table), texts_from_table(table, columns, train), labels)
    sources = {"train": str(train)}

    def read(path: str | Path) -> Examples:
        return read_examples(
            path,
            classes,
            text_columns=columns,
            label_column=label_column,
            column_names=column_names,
        )

    if validation is None:
        train_rows, validation_rows = split_rows(labels, protocol)
        held_out = training.select(validation_rows)
        training = training.select(train_rows)
        sources["validation"] = f"{train}: {describe_split(protocol)}"
    else:
        held_out = read(validation)
        sources["validation"] = str(validation)
    if test is not None:
        sources["test"] = str(test)
    return TextData(
        name=Path(train).name.partition(".")[0],
        classes=classes,
        train=training,
        validation=held_out,
        test=None if test is None else read(test),
        ood={name: read(path) for name, path in ood.items()},
        protocol=protocol,
        sources=sources | {f"ood/{name}": str(path) for name, path in ood.items()},
    )


def read_examples(
    path: str | Path,
    classes: Sequence[Label],
    *,
    text_columns: Sequence[str] | None = None,
    label_column: str = "label",
    column_names: Sequence[str] | None = None,
) -> Examples:
    """The labelled rows of one file, for a problem whose classes are known.

    Raises:
        InputError: as :func:`load_files`; a label that is none of ``classes`` is named.
    """
    table = read_table(path, column_names)
    columns = choose_text_columns(table, text_columns, label_column, path)
    names = labels_from_table(table, label_column, path)
    return Examples(
        ids=ids_from_table(table),
        texts=texts_from_table(table, columns, path),
        labels=encode_labels(names, classes, f"{path}, column '{label_column}'"),
    )


def check_ood_name(name: str) -> None:
    """Check that an OOD set's name can be part of a file name.

    Raises:
        InputError: it holds anything but letters, digits, ``_``, ``.`` and ``-``, or does not
            begin with a letter or digit.
    """
    if _SAFE_NAME.fullmatch(name) is None:
        raise InputError(
            f"the OOD name '{name}' cannot be part of a file name: expected letters, digits, "
            "'_', '.' and '-', beginning with a letter or digit"
        )
