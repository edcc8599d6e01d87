"""User files (CSV, TSV, JSON Lines, Parquet) as tables of plain Python values.

The formats are read here, not by pandas' readers, because those repair bad files silently: short
rows are filled up, "NA" becomes a missing value, "1" in JSON becomes a number, and an error in a
JSON line has no line number.
"""

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpft.data.lines import (
    check_delimiter,
    check_unique,
    check_width,
    named_rows,
    read_lines,
    require_file,
    split_fields,
    without_nulls,
)
from lpft.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

FORMATS = (
    *(".csv", ".tsv", ".txt", ".jsonl", ".json", ".parquet"),
    *(".csv.gz", ".tsv.gz", ".txt.gz", ".jsonl.gz"),
)
"""Endings of the files that can be read: ``.txt`` is tab-separated, as ``.tsv``, and ``.json``
holds one object per line, as ``.jsonl``."""

Row = dict[str, Any]


def read_table(path: str | Path, column_names: Sequence[str] | None = None) -> "pd.DataFrame":
    """All rows of a file.

    Values are Python's own (column dtype object): text of CSV and TSV files stays text, "NA" and
    "null" too; JSON and Parquet values keep their type; a missing value is None or NaN. Text is
    UTF-8, with or without a byte-order mark. In TSV files a quote is an ordinary character unless
    it encloses a whole field, so that both GLUE's files and those that pandas writes are read.

    Args:
        column_names: of a CSV or TSV file whose first line does not name its columns; a first line
            that repeats them is no row.

    Returns:
        A frame of N rows whose index is the row number from 0.

    Raises:
        InputError: the file is missing, empty, damaged, not UTF-8, of an unknown format, holds no
            rows, has two columns of one name or a row with too many or too few fields, or columns
            are named of a file that names its own; the message names the file and, where known,
            the line.
    """
    path = Path(path)
    rows = list(_rows(path, column_names))
    if not rows:
        raise _no_rows(path)
    return _frame(rows, start=0)


def read_quoted_tsv(path: Path) -> "pd.DataFrame":
    """All rows of a tab-separated file in which quotes enclose fields, as pandas writes one.

    Such fields may hold tabs and line breaks, unlike those of :func:`read_table`'s TSV files.

    Raises:
        InputError: as :func:`read_table`.
    """
    rows = list(_csv_rows(path, None, delimiter="\t"))
    if not rows:
        raise _no_rows(path)
    return _frame(rows, start=0)


def iter_tables(
    path: str | Path, rows: int = 1000, column_names: Sequence[str] | None = None
) -> Iterator["pd.DataFrame"]:
    """The same rows as :func:`read_table`, ``rows`` at a time, for files larger than memory.

    The index goes on from table to table: it is the row number in the file, from 0.

    Raises:
        InputError: as :func:`read_table`, when the bad row is reached.
    """
    path = Path(path)
    remaining = _rows(path, column_names)
    start = 0
    while chunk := list(islice(remaining, rows)):
        yield _frame(chunk, start)
        start += len(chunk)
    if start == 0:
        raise _no_rows(path)


def _rows(path: Path, column_names: Sequence[str] | None) -> Iterator[Row]:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compressed = suffixes[-1:] == [".gz"]
    match suffixes[-2:-1] if compressed else suffixes[-1:]:
        case [".csv"]:
            return _csv_rows(path, column_names)
        case [".tsv" | ".txt"]:
            return _tsv_rows(path, column_names)
        case [".jsonl" | ".json"]:
            _refuse_names(path, column_names)
            return _json_rows(path)
        case [".parquet"] if not compressed:
            _refuse_names(path, column_names)
            return _parquet_rows(path)
    raise InputError(f"{path}: unknown file ending; expected one of {', '.join(FORMATS)}")


def _refuse_names(path: Path, column_names: Sequence[str] | None) -> None:
    if column_names is not None:
        raise InputError(
            f"{path} names its columns itself: --column-names is for CSV and TSV files whose first "
            "line does not; leave it out"
        )


def _csv_rows(
    path: Path, column_names: Sequence[str] | None, delimiter: str = ","
) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)  # the module's own limit of 128 kB is less than a long text
    # strict: a stray or unclosed quote is an error instead of a field that swallows later rows
    lines = without_nulls(path, read_lines(path))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)

    def records() -> Iterator[list[str]]:
        first: list[str] = []
        try:
            for record in reader:
                if record:
                    first = first if first else record
                    check_width(path, reader.line_num, record, first)
                    yield record
        except csv.Error as error:
            check_delimiter(path, first)
            raise InputError(
                f"{path}, line {reader.line_num}: not valid CSV ({error}); expected fields with "
                'commas, quotes or line breaks to be enclosed in " and quotes in them doubled'
            ) from error

    yield from _with_names(path, records(), column_names)


def _tsv_rows(path: Path, column_names: Sequence[str] | None) -> Iterator[Row]:
    lines = enumerate(without_nulls(path, read_lines(path)), start=1)
    fields = (fields for _, fields in split_fields(path, lines))
    records = ([_unquote(field) for field in record] for record in fields)
    yield from _with_names(path, records, column_names)


def _unquote(field: str) -> str:
    inner = field[1:-1].replace('""', "")
    enclosed = len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inner
    return field[1:-1].replace('""', '"') if enclosed else field


def _with_names(
    path: Path, records: Iterator[list[str]], column_names: Sequence[str] | None
) -> Iterator[Row]:
    first = next(records, None)
    if first is None:
        raise InputError(f"{path} is empty: expected a first line that names the columns, and rows")
    if column_names is None:
        yield from named_rows(path, first, records)
        return
    names = list(column_names)
    if len(first) != len(names):
        check_delimiter(path, first)
        raise InputError(
            f"{path} has {len(first)} columns, and --column-names names {len(names)} "
            f"({', '.join(names)}): expected a name for each column"
        )
    if [name.strip() for name in first] != names:
        records = chain([first], records)
    yield from named_rows(path, names, records)


def _json_rows(path: Path) -> Iterator[Row]:
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_json_object)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{path}, line {number}: not valid JSON ({error}); "
                "expected one complete object per line (JSON Lines)"
            ) from error
        if not isinstance(row, dict):
            raise InputError(
                f"{path}, line {number}: found a JSON {type(row).__name__}, expected one object "
                "per line (JSON Lines): write each row on a line of its own"
            )
        yield row


def _json_object(pairs: list[tuple[str, Any]]) -> Row:
    # json alone would keep the last value of a repeated name and say nothing
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a name occurs more than once in one object")
    return row


def _parquet_rows(path: Path) -> Iterator[Row]:
    require_file(path)
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            check_unique(path, names)
            for batch in file.iter_batches(batch_size=1000):
                columns = [column.to_pylist() for column in batch.columns]
                for values in zip(*columns, strict=True):
                    yield dict(zip(names, values, strict=True))
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{path} is not a readable Parquet file ({reason}): write it again, or name another"
        ) from error


def _frame(rows: list[Row], start: int) -> "pd.DataFrame":
    import pandas as pd

    # the union of all rows' names: a JSON object may leave out what it has no value for
    names = list(dict.fromkeys(name for row in rows for name in row))
    values = [[row.get(name) for name in names] for row in rows]
    index = range(start, start + len(rows))
    return pd.DataFrame(values, columns=names, index=index, dtype=object)


def _no_rows(path: Path) -> InputError:
    return InputError(f"{path} has no rows: expected at least one row of data")
