"""Files of CSV, TSV, JSON and Parquet as tables, and what their columns hold."""

import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lpft.data.examples import Examples, Label, Text
from lpft.data.labels import (
    cut,
    is_damaged,
    is_missing,
    looks_numeric,
    read_labels,
    show,
    show_rows,
)
from lpft.data.reading import (
    Row,
    check_delimiter,
    has_value,
    iter_rows,
    iter_tsv_rows,
    usual_delimiter,
    value_of,
)
from lpft.errors import InputError, named

if TYPE_CHECKING:
    import pandas as pd

TEXT_NAMES = ("text", "sentence")
"""Columns that are taken as the text where none is named, in any case (``Text``)."""

ID_NAMES = ("id", "idx")
"""Columns that are taken as the rows' ids where they are unique."""

_MAX_COLUMNS = 20


def read_table(
    path: str | Path,
    column_names: Sequence[str] | None = None,
    *,
    encoding: str | None = None,
    delimiter: str | None = None,
) -> "pd.DataFrame":
    """All rows of a file.

    Values are Python's own (column dtype object): text of CSV and TSV files stays text, "NA" and
    "null" too; JSON and Parquet values keep their type; a missing value is None or NaN. A
    byte-order mark is no part of the text. In TSV files a quote is an ordinary character unless
    it encloses a whole field, so that both GLUE's files and those that pandas writes are read.

    Args:
        column_names: of a CSV or TSV file whose first line does not name its columns; a first line
            that repeats them is no row.
        encoding: Python's name of a text file's encoding; None for UTF-8.
        delimiter: what separates the fields of a CSV or TSV file; None for a comma or a tab, by
            its ending. Another one than a tab makes it CSV, in which quotes enclose fields.

    Returns:
        A frame of N rows whose index is the row number from 0.

    Raises:
        InputError: the file is missing, empty, damaged, of another encoding or an unknown format,
            holds no rows, has two columns of one name or a row with too many or too few fields, or
            something is said of a file that says it itself; the message names the file and, where
            known, the line.
    """
    rows = iter_rows(path, column_names, encoding=encoding, delimiter=delimiter)
    return next(_tables(rows, sys.maxsize))


def iter_tables(
    path: str | Path,
    rows: int = 1000,
    column_names: Sequence[str] | None = None,
    *,
    encoding: str | None = None,
    delimiter: str | None = None,
) -> Iterator["pd.DataFrame"]:
    """The same rows as :func:`read_table`, ``rows`` at a time, for files larger than memory.

    The index goes on from table to table: it is the row number in the file, from 0.

    Raises:
        InputError: as :func:`read_table`, when the bad row is reached.
    """
    return _tables(iter_rows(path, column_names, encoding=encoding, delimiter=delimiter), rows)


def read_tsv(
    path: Path,
    column_names: Sequence[str] | None = None,
    *,
    quoted: bool = False,
    fill: bool = False,
) -> "pd.DataFrame":
    """All rows of a tab-separated file in which quotes are ordinary characters, as GLUE has them.

    Args:
        column_names: as in :func:`read_table`.
        quoted: quotes enclose fields, which may then hold tabs and line breaks, as pandas writes
            them.
        fill: lines with too few fields get empty ones at their end.
    """
    rows = iter_tsv_rows(path, column_names, quoted=quoted, fill=fill)
    return next(_tables(rows, sys.maxsize))


def _tables(rows: Iterator[Row], size: int) -> Iterator["pd.DataFrame"]:
    start = 0
    while chunk := list(islice(rows, size)):
        # the union of all rows' names: a JSON object may leave out what it has no value for
        names = list(dict.fromkeys(name for row in chunk for name in row))
        yield table_of(chunk, names, range(start, start + len(chunk)))
        start += len(chunk)


def table_of(
    rows: Sequence[Row], names: Sequence[str], numbers: list[int] | range
) -> "pd.DataFrame":
    """The columns of these names or paths of rows; the index has their ``numbers``, from 0."""
    import pandas as pd

    values = [[value_of(row, name) for name in names] for row in rows]
    return pd.DataFrame(values, columns=list(names), index=numbers, dtype=object)


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
    columns = tuple(text_columns)
    if len(columns) not in (1, 2) or len(set(columns)) < len(columns) or label_column in columns:
        raise InputError(
            f"the text columns are {', '.join(columns)} and the label column is {label_column}: "
            "expected one text column, or two different ones for pairs, and another for the label"
        )
    for column in columns:
        require_column(table, column, path, _advice(path))
    return columns


def columns_of_training(
    table: "pd.DataFrame", trained: Sequence[str] | None, path: str | Path
) -> tuple[str, ...]:
    """The columns of another file that hold its text: those that the training read, by name.

    Where they had no names (``trained`` is None: lists, or a run of an earlier version), the column
    ``text`` or ``sentence``, in any case. No other column is taken: it would be a guess.

    Raises:
        InputError: such a column is absent; the message says how to name another.
    """
    advice = f"; name the text column with {named('text_columns')}"
    if usual_delimiter(path) is not None:
        advice += f", or, if the first line is a row, all columns with {named('column_names')}"
    if trained is not None:
        for column in trained:
            require_column(table, column, path, advice, ", which the model was trained on")
        return tuple(trained)
    usual = _usual_text_column(list(table.columns))
    if usual is None:
        raise InputError(
            f"{path} has no column named {' or '.join(TEXT_NAMES)}: found {_column_list(table)}, "
            f"and the model's training has no names of columns{advice}"
        )
    return (usual,)


def _usual_text_column(names: Sequence[str]) -> str | None:
    for expected in TEXT_NAMES:
        usual = [name for name in names if name.lower() == expected]
        if len(usual) == 1:
            return usual[0]
    return None


def _only_text_column(table: "pd.DataFrame", label_column: str, path: str | Path) -> str:
    candidates = [name for name in table.columns if name not in (label_column, *ID_NAMES)]
    usual = _usual_text_column(candidates)
    if usual is not None:
        return usual
    words = [name for name in candidates if any(_is_words(value) for value in table[name])]
    if len(words) == 1:
        return words[0]
    check_delimiter(path, list(table.columns))
    if not has_column(table, label_column):
        raise InputError(
            f"{path} has no column '{label_column}', and none named {' or '.join(TEXT_NAMES)}: "
            f"found {_column_list(table)}; name both{_example_of_both(table, words)}{_advice(path)}"
        )
    raise InputError(
        f"{path}: it is not clear which column is the text: found {_column_list(table)}, expected "
        f"one named {' or '.join(TEXT_NAMES)}; name the column, or two of them for pairs "
        f"({named('text_columns')} a or a,b){_advice(path)}"
    )


def _example_of_both(table: "pd.DataFrame", words: Sequence[str]) -> str:
    """The options that name text and label column, by a guess: long texts, and few other values."""
    text = max(words, key=lambda name: sum(len(str(value)) for value in table[name]), default=None)
    candidates = [name for name in table.columns if name != text and name not in ID_NAMES]
    if text is None or not candidates:
        return f", with {named('text_columns')} and {named('label_column')}"
    label = min(candidates, key=lambda name: len({str(value) for value in table[name]}))
    return (
        f", for example {named('text_columns')} {shlex.quote(text)} "
        f"{named('label_column')} {shlex.quote(label)}"
    )


def _is_words(value: object) -> bool:
    return isinstance(value, str) and not is_missing(value) and not looks_numeric(value)


def require_column(
    table: "pd.DataFrame",
    column: str,
    path: str | Path,
    advice: str = "; expected a file that has it",
    role: str = "",
) -> None:
    """Refuse a table that lacks a column; the message lists those that it has.

    ``role`` says what the column is, after its name.
    """
    if not has_column(table, column):
        check_delimiter(path, list(table.columns), column)
        similar = {name.lower(): name for name in _all_names(table)}
        inner = [name for name in similar if name.endswith(f".{column.lower()}")]
        near = inner if inner else get_close_matches(column.lower(), similar, n=1)
        hint = f" (did you mean '{similar[near[0]]}'?)" if near else ""
        raise InputError(
            f"{path} has no column '{column}'{role}: found {_column_list(table)}{hint}{advice}"
        )


def column_values(table: "pd.DataFrame", column: str) -> list[Any]:
    """The N values of a column by its name or path, None where a row has none."""
    return [value_of(row, column) for row in _rows_with(table, column)]


def has_column(table: "pd.DataFrame", column: str) -> bool:
    """Whether a table has a column of this name, or a row has something under it as a path."""
    return column in table.columns or any(
        has_value(row, column) for row in _rows_with(table, column)
    )


def _rows_with(table: "pd.DataFrame", column: str) -> Iterator[Row]:
    """The N rows with no more than the columns that have this name or begin this path."""
    names = [name for name in table.columns if f"{column}.".startswith(f"{name}.")]
    if not names:
        return ({} for _ in range(len(table)))
    return (
        dict(zip(names, values, strict=True))
        for values in zip(*(table[name] for name in names), strict=True)
    )


def _all_names(table: "pd.DataFrame") -> list[str]:
    """The names of all columns; of objects, the paths of what the first one has."""
    names: list[str] = []
    for column in table.columns:
        values = (value for value in table[column] if isinstance(value, dict) and value)
        names += _paths(str(column), next(values, None))
    return names


def _paths(name: str, value: Any) -> list[str]:
    if not isinstance(value, dict) or not value:
        return [name]
    return [path for inner in value for path in _paths(f"{name}.{inner}", value[inner])]


def _column_list(table: "pd.DataFrame") -> str:
    names = [cut(name) for name in _all_names(table)]
    more = f" and {len(names) - _MAX_COLUMNS} more" if len(names) > _MAX_COLUMNS else ""
    return f"the columns {', '.join(names[:_MAX_COLUMNS])}{more}"


def _advice(path: str | Path) -> str:
    """What else may be wrong with the columns of a user's file: its first line may be a row."""
    if usual_delimiter(path) is None:
        return ""
    return f"; if the first line is a row, name the columns with {named('column_names')}"


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
    """The N values of one text column, checked as in :func:`texts_from_table`."""
    require_column(table, column, path)
    values = column_values(table, column)
    where = f"{path}, column '{column}'"

    def rows_that(wrong: Callable[[Any], bool]) -> list[int]:
        return [row for row, value in zip(table.index, values, strict=True) if wrong(value)]

    if empty := rows_that(is_missing):
        raise InputError(
            f"{where}: no text in {show_rows(empty)}; expected text in every row: "
            "fill it in or remove the row"
        )
    if not_text := rows_that(lambda value: not isinstance(value, str)):
        example = next(value for value in values if not isinstance(value, str))
        raise InputError(
            f"{where}: found {show([example])} ({type(example).__name__}) in "
            f"{show_rows(not_text)}, expected text: name another column or write the "
            "value as a string"
        )
    if damaged := rows_that(is_damaged):
        raise InputError(
            f"{where}: half of a surrogate pair in {show_rows(damaged)}, expected valid Unicode: "
            "the text was cut or decoded wrongly where it was written"
        )
    return values


def unreadable(value: object) -> str | None:
    """Why a value is no text, in a clause; None where it is one."""
    if is_missing(value):
        return "no text"
    if not isinstance(value, str):
        return f"found {show([value])} ({type(value).__name__}), expected text"
    return "half of a surrogate pair, expected valid Unicode" if is_damaged(value) else None


def labels_from_table(table: "pd.DataFrame", label_column: str, path: str | Path) -> list[Label]:
    """The labels of N rows, as :func:`lpft.data.labels.read_labels` reads them."""
    advice = f"; name the label column with {named('label_column')}{_advice(path)}"
    require_column(table, label_column, path, advice)
    source = f"{path}, column '{label_column}'"
    return read_labels(column_values(table, label_column), source, list(table.index))


def ids_from_table(table: "pd.DataFrame") -> list[str]:
    """Ids of N rows: a column ``id`` or ``idx`` where it is unique, otherwise the row numbers."""
    for column in ID_NAMES:
        if column in table.columns:
            values = list(table[column])
            scalar = all(isinstance(value, str | int) and not is_missing(value) for value in values)
            if scalar and len({str(value) for value in values}) == len(values):
                return [str(value) for value in values]
    return [str(row) for row in table.index]


def examples_from_table(
    table: "pd.DataFrame", texts: list[Text], labels: NDArray[np.int64], **more: Any
) -> Examples:
    """The N rows of a table with their ids, and their numbers in the file, counted from 1.

    ``more`` are further fields of :class:`~lpft.data.examples.Examples`.
    """
    rows = table.index.to_numpy(dtype=np.int64) + 1
    return Examples(ids_from_table(table), texts, labels, rows=rows, **more)


def numbered_rows(table: "pd.DataFrame") -> Iterator[tuple[int, Row]]:
    """Row numbers and rows by column name, made one at a time."""
    names = [str(column) for column in table.columns]
    for number, values in zip(table.index, table.itertuples(index=False, name=None), strict=True):
        yield number, dict(zip(names, values, strict=True))


def unfolded(
    table: "pd.DataFrame", unfold: Callable[[Row, str], Iterable[Row]], source: str | Path
) -> "pd.DataFrame":
    """Several rows of each row, with its number; ``unfold`` takes a row and its name for messages.

    Raises:
        InputError: there are none.
    """
    import pandas as pd

    numbers, rows = [], []
    for number, row in numbered_rows(table):
        for part in unfold(row, f"{source}, row {number + 1}"):
            numbers.append(number)
            rows.append(part)
    if not rows:
        raise InputError(f"{source} has no questions: expected at least one")
    return pd.DataFrame(rows, index=numbers, dtype=object)
