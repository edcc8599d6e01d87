"""Which columns of a table are texts, label and id, and their values checked."""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpft.data.examples import Label, Text
from lpft.data.labels import is_missing, looks_numeric, read_labels, show, show_rows
from lpft.data.lines import check_delimiter
from lpft.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

TEXT_NAMES = ("text", "sentence")
"""Columns that are taken as the text where none is named, in any case (``Text``)."""

_ANOTHER = "; expected a file that has it"

ID_NAMES = ("id", "idx")
"""Columns that are taken as the rows' ids where they are unique."""


def choose_text_columns(
    table: "pd.DataFrame",
    text_columns: Sequence[str] | None,
    label_column: str,
    path: str | Path,
) -> tuple[str, ...]:
    """The one or two columns that hold the text.

    Where ``text_columns`` is None: the column ``text`` or ``sentence`` (in any case) or else the
    only other column that holds words, apart from the label and id columns.

    Raises:
        InputError: a named column is absent, is named twice or is the label column, there are none
            or more than two, or nothing was named and the choice is not clear.
    """
    if text_columns is None:
        return (_only_text_column(table, label_column, path),)
    chosen = tuple(text_columns)
    if len(chosen) not in (1, 2) or len(set(chosen)) < len(chosen) or label_column in chosen:
        raise InputError(
            f"the text columns are {', '.join(chosen)} and the label column is {label_column}: "
            "expected one text column, or two different ones for pairs, and another for the label"
        )
    for column in chosen:
        require_column(table, column, path, _advice(path))
    return chosen


def require_column(
    table: "pd.DataFrame", column: str, path: str | Path, advice: str = _ANOTHER
) -> None:
    """Check that a column is there.

    Raises:
        InputError: it is not; the message lists those that are, and ends with ``advice``.
    """
    if column not in table.columns:
        check_delimiter(path, list(table.columns))
        similar = {name.lower(): name for name in table.columns}
        near = get_close_matches(column.lower(), similar, n=1)
        hint = f"; did you mean '{similar[near[0]]}'?" if near else ""
        raise InputError(f"{path} has no column '{column}': found {_found(table)}{hint}{advice}")


def texts_from_table(
    table: "pd.DataFrame", text_columns: Sequence[str], path: str | Path
) -> list[Text]:
    """The texts of N rows: strings from one column, pairs from two.

    Raises:
        InputError: a column is absent, or a value is empty, missing, not a string (numbers are
            not turned into text: the column is usually another one) or holds half of a surrogate
            pair, which no tokenizer takes. Rows are counted by the table's index.
    """
    columns = [strings_from_table(table, column, path) for column in text_columns]
    if len(columns) == 1:
        return list(columns[0])
    return [(first, second) for first, second in zip(*columns, strict=True)]


def strings_from_table(table: "pd.DataFrame", column: str, path: str | Path) -> list[str]:
    """The N values of one text column.

    Raises:
        InputError: as :func:`texts_from_table`.
    """
    require_column(table, column, path)
    values = list(table[column])
    where = f"{path}, column '{column}'"
    rows = list(table.index)
    empty = [row for row, value in zip(rows, values, strict=True) if is_missing(value)]
    if empty:
        raise InputError(
            f"{where}: no text in {show_rows(empty)}; expected text in every row: "
            "fill it in or remove the row"
        )
    other = [row for row, value in zip(rows, values, strict=True) if not isinstance(value, str)]
    if other:
        found = next(value for value in values if not isinstance(value, str))
        raise InputError(
            f"{where}: found {show([found])} ({type(found).__name__}) in {show_rows(other)}, "
            "expected text: name another column or write the value as a string"
        )
    damaged = [row for row, value in zip(rows, values, strict=True) if not _encodable(value)]
    if damaged:
        raise InputError(
            f"{where}: half of a surrogate pair in {show_rows(damaged)}, expected valid Unicode: "
            "the text was cut or decoded wrongly where it was written"
        )
    return values


def labels_from_table(table: "pd.DataFrame", label_column: str, path: str | Path) -> list[Label]:
    """The labels of N rows, as :func:`lpft.data.labels.read_labels` reads them.

    Raises:
        InputError: the column is absent or a label is not one class.
    """
    require_column(table, label_column, path, _advice(path))
    source = f"{path}, column '{label_column}'"
    return read_labels(list(table[label_column]), source, list(table.index))


def ids_from_table(table: "pd.DataFrame") -> list[str]:
    """Ids of N rows: a column ``id`` or ``idx`` where it is unique, otherwise the row numbers."""
    for column in ID_NAMES:
        if column in table.columns:
            values = list(table[column])
            scalar = all(isinstance(value, str | int) and not is_missing(value) for value in values)
            if scalar and len({str(value) for value in values}) == len(values):
                return [str(value) for value in values]
    return [str(row) for row in table.index]


def records(table: "pd.DataFrame") -> Iterator[tuple[int, dict[str, Any]]]:
    """Row numbers and rows by column name, made one at a time."""
    names = [str(column) for column in table.columns]
    columns = [list(table[column]) for column in table.columns]
    for number, values in zip(table.index, zip(*columns, strict=True), strict=True):
        yield number, dict(zip(names, values, strict=True))


def _only_text_column(table: "pd.DataFrame", label_column: str, path: str | Path) -> str:
    others = [name for name in table.columns if name not in (label_column, *ID_NAMES)]
    for expected in TEXT_NAMES:
        named = [name for name in others if name.lower() == expected]
        if len(named) == 1:
            return named[0]
    words = [name for name in others if any(_is_words(value) for value in table[name])]
    if len(words) == 1:
        return words[0]
    check_delimiter(path, list(table.columns))
    raise InputError(
        f"{path}: it is not clear which column is the text: found {_found(table)}, expected one "
        f"named {' or '.join(TEXT_NAMES)}; name the column, or two of them for pairs "
        f"(--text-columns a or a,b){_advice(path)}"
    )


def _advice(path: str | Path) -> str:
    """What else may be amiss with the columns of a user's file: its first line may be a row."""
    if {".csv", ".tsv", ".txt"}.isdisjoint(suffix.lower() for suffix in Path(path).suffixes):
        return ""
    return "; if the first line is a row, name the columns with --column-names"


def _is_words(value: object) -> bool:
    return isinstance(value, str) and not is_missing(value) and not looks_numeric(value)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _found(table: "pd.DataFrame") -> str:
    return "the columns " + ", ".join(map(str, table.columns))
