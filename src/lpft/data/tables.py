"""Files of CSV, TSV, JSON and Parquet as rows and tables, and what their columns hold.

CSV is read by the standard library's strict reader. pandas repairs bad files in silence: it fills
short rows up and takes "NA" for a missing value. So does pyarrow: it reads on over a stray or
unclosed quote, which swallows the rows after it, ends lines at lone carriage returns, takes null
bytes, and refuses rows that are longer than its block (docs/log.md).
"""

import csv
import gzip
import json
import sys
import zlib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE, getincrementaldecoder
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from lpft.data.examples import Label, Text
from lpft.data.labels import cut, is_missing, looks_numeric, read_labels, show, show_rows
from lpft.errors import InputError, named

if TYPE_CHECKING:
    import pandas as pd

FORMATS = (
    *(".csv", ".tsv", ".txt", ".jsonl", ".json", ".parquet"),
    *(".csv.gz", ".tsv.gz", ".txt.gz", ".jsonl.gz"),
)
"""Endings of the files that can be read: ``.txt`` is tab-separated, as ``.tsv``, and ``.json``
as ``.jsonl`` holds one object per line, or one array of objects."""

TEXT_NAMES = ("text", "sentence")
"""Columns that are taken as the text where none is named, in any case (``Text``)."""

ID_NAMES = ("id", "idx")
"""Columns that are taken as the rows' ids where they are unique."""

Row = dict[str, Any]
Line = tuple[int, str]
"""A line's number, from 1, and its text with the line end."""

_DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
_DELIMITER_OPTIONS = {",": "','", "\t": "tab", ";": "';'", "|": "'|'"}
_DELIMITER_OF = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
_NAMES_SHOWN = 20
_GZIP = b"\x1f\x8b"
_BLOCK = 1 << 16
_ABSENT = object()


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


def iter_rows(
    path: str | Path,
    column_names: Sequence[str] | None = None,
    *,
    encoding: str | None = None,
    delimiter: str | None = None,
) -> Iterator[Row]:
    """The same rows one by one, each a dict that a JSON object may leave names out of.

    Raises:
        InputError: as :func:`read_table`, when the bad row is reached.
    """
    path = Path(path)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compressed = suffixes[-1:] == [".gz"]
    ending = "".join(suffixes[-2:-1] if compressed else suffixes[-1:])
    if ending in _DELIMITER_OF:
        delimiter = _DELIMITER_OF[ending] if delimiter is None else delimiter
        if ending == ".csv" or delimiter != "\t":
            records = _csv_records(path, delimiter, encoding)
        else:
            lines = _tsv_records(path, encoding)
            records = ([_unquote(field) for field in fields] for fields in lines)
        return _some(path, _named_rows(path, records, column_names))
    if ending not in (".jsonl", ".json", ".parquet") or (compressed and ending == ".parquet"):
        raise InputError(f"{path}: unknown file ending; expected one of {', '.join(FORMATS)}")
    if column_names is not None:
        raise InputError(
            f"{path} names its columns itself: {named('column_names')} is for CSV and TSV files "
            "whose first line does not; leave it out"
        )
    if delimiter is not None:
        raise InputError(
            f"{path} has no delimiter: {named('delimiter')} is for CSV and TSV files; leave it out"
        )
    if ending == ".parquet" and encoding is not None:
        raise InputError(
            f"{path} has an encoding of its own: {named('encoding')} is for text files; leave it "
            "out"
        )
    return _some(path, _parquet_rows(path) if ending == ".parquet" else _json_rows(path, encoding))


def _some(path: Path, rows: Iterator[Row]) -> Iterator[Row]:
    """The rows, of which there must be one."""
    first = next(rows, None)
    if first is None:
        raise InputError(f"{path} has no rows: expected at least one row of data")
    yield first
    yield from rows


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
    records = _csv_records(path, "\t") if quoted else _tsv_records(path, fill=fill)
    return next(_tables(_some(path, _named_rows(path, records, column_names)), sys.maxsize))


def read_lines(path: Path, encoding: str | None = None) -> Iterator[Line]:
    """The lines of a text file, by default UTF-8, gzip-compressed if it ends in .gz.

    Lines end at a line feed only: other characters that Unicode counts as line ends occur within
    texts.
    """
    _require_file(path)
    number = 1
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            for number, line in enumerate(_decoded_lines(path, file, encoding), start=1):
                if number == 1:
                    _check_first_line(path, line)
                if "\0" in line:
                    written = "" if encoding is None else f" than {encoding}"
                    raise InputError(
                        f"{path}, line {number}: found a null byte, expected text: the file is "
                        f"damaged or in another encoding{written} (UTF-16?): name it with "
                        f"{named('encoding')}"
                    )
                yield number, line
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path} is damaged: expected a gzip file ({error})") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _decoded_lines(
    path: Path, file: BinaryIO | gzip.GzipFile, encoding: str | None
) -> Iterator[str]:
    """The lines with their ends, without a byte-order mark.

    Blocks are decoded, not lines of bytes: in UTF-16 the byte of a line feed is part of other
    characters too. The lines before a byte that cannot be decoded still come.
    """
    decoder = getincrementaldecoder("utf-8-sig" if encoding is None else encoding)()
    number, parts = 1, list[str]()  # of the line that the next block goes on with
    start, ended = True, False
    while not ended:
        block = file.read(_BLOCK)
        if start and block.startswith(_GZIP):
            raise InputError(
                f"{path} is compressed by gzip: add .gz to its name ({path.name}.gz), or unpack it"
            )
        ended, state, damage = not block, decoder.getstate(), None
        try:
            text = decoder.decode(block, ended)
        except UnicodeDecodeError as error:
            damage = error
            decoder.setstate((b"", state[1]))
            text = decoder.decode(error.object[: error.start])
        if start and text:
            text, start = text.removeprefix("\ufeff"), False
        first, *others = text.split("\n")
        parts.append(first)
        for part in others:
            yield "".join(parts) + "\n"
            number, parts = number + 1, [part]
        if damage is not None:
            raise _not_decoded(path, number, damage, encoding) from damage
    if last := "".join(parts):
        yield last


def _not_decoded(
    path: Path, line: int, error: UnicodeDecodeError, encoding: str | None
) -> InputError:
    bad = error.object[error.start : error.start + 1]
    byte = f"byte 0x{bad[0]:02x}" if bad else "its end"
    if encoding is not None:
        return InputError(
            f"{path}, line {line}: {byte} is not {encoding} ({error.reason}): give another "
            f"{named('encoding')}, or save the file again as UTF-8"
        )
    utf16 = line == 1 and error.object.startswith((BOM_UTF16_LE, BOM_UTF16_BE))
    likely = "utf-16" if utf16 else "such as cp1252 or latin-1"
    return InputError(
        f"{path}, line {line}: {byte} is not UTF-8: name the file's encoding with "
        f"{named('encoding')} ({likely}), or save it again as UTF-8"
    )


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"{path} is a folder: expected a file")
    if not path.is_file():
        raise InputError(f"{path} does not exist: expected a file")


def _check_first_line(path: Path, line: str) -> None:
    if not line.endswith("\n") and "\r" in line.rstrip("\r"):
        raise InputError(
            f"{path}: its lines end in carriage returns only, as old Macintosh programs write "
            "them: expected line feeds; save it again with Unix or Windows line ends"
        )


def _csv_records(path: Path, delimiter: str, encoding: str | None = None) -> Iterator[list[str]]:
    csv.field_size_limit(sys.maxsize)  # the module's own limit of 128 kB is less than a long text
    # strict: a stray or unclosed quote is an error instead of a field that swallows later rows
    lines = (line for _, line in read_lines(path, encoding))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    first: list[str] = []
    try:
        for record in reader:
            if record:
                first = first if first else record
                _check_width(path, reader.line_num, record, first)
                yield record
    except csv.Error as error:
        _check_delimiter(path, first)
        raise InputError(
            f"{path}, line {reader.line_num}: not valid CSV ({error}); expected fields with "
            f"{_DELIMITERS.get(delimiter, repr(delimiter))}, quotes or line breaks to be enclosed "
            'in " and quotes in them doubled'
        ) from error


def _tsv_records(
    path: Path, encoding: str | None = None, *, fill: bool = False
) -> Iterator[list[str]]:
    first: list[str] = []
    for number, line in read_lines(path, encoding):
        content = line.rstrip("\r\n")
        if content:
            fields = content.split("\t")
            first = first if first else fields
            if fill:
                fields += [""] * (len(first) - len(fields))
            _check_width(path, number, fields, first)
            yield fields


def _unquote(field: str) -> str:
    inner = field[1:-1].replace('""', "")
    enclosed = len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inner
    return field[1:-1].replace('""', '"') if enclosed else field


def _named_rows(
    path: Path, records: Iterator[list[str]], column_names: Sequence[str] | None
) -> Iterator[Row]:
    """Records by column name: those of the first record, or ``column_names``."""
    first = next(records, None)
    if first is None:
        raise InputError(f"{path} is empty: expected a first line that names the columns, and rows")
    names = [name.strip() for name in first]
    if column_names is not None:
        if len(first) != len(column_names):
            _check_delimiter(path, first)
            raise InputError(
                f"{path}: the first line has {len(first)} columns, expected {len(column_names)}, "
                f"one for each name: {', '.join(column_names)}"
            )
        if names != list(column_names):
            records = chain([first], records)
            names = list(column_names)
    _check_unique(path, names)
    for record in records:
        yield dict(zip(names, record, strict=True))


def _json_rows(path: Path, encoding: str | None) -> Iterator[Row]:
    """Objects, one per line; where the first line begins with a bracket, those of one array."""
    lines = ((number, line) for number, line in read_lines(path, encoding) if line.strip())
    first = next(lines, None)
    if first is not None and first[1].lstrip().startswith("["):
        yield from _array_rows(path, chain([first], lines))
        return
    for number, line in [] if first is None else chain([first], lines):
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


def _array_rows(path: Path, lines: Iterator[Line]) -> Iterator[Row]:
    """The objects of an array, each as soon as its last line has been read."""
    decoder = json.JSONDecoder(object_pairs_hook=_json_object)
    text, number, expected = "", 0, "["  # a sign of these, an object, or nothing more

    def bad(line: int, reason: object) -> InputError:
        return InputError(
            f"{path}, line {line}: not valid JSON ({reason}); expected one array of objects, or "
            "one object per line (JSON Lines)"
        )

    at = 0
    for number, line in lines:
        text, at = text[at:] + line, 0
        while (at := _after_space(text, at)) < len(text):
            if expected == "object":
                try:
                    row, at = decoder.raw_decode(text, at)
                except (ValueError, RecursionError) as error:
                    # an object that goes on in the next line fails at the end of this one
                    if getattr(error, "pos", 0) >= len(text.rstrip()):
                        break
                    raise bad(number, error) from error
                if not isinstance(row, dict):
                    raise bad(number, f"found a {type(row).__name__}")
                yield row
                expected = ",]"
                continue
            sign, at = text[at], at + 1
            if sign not in expected:
                raise bad(
                    number, f"found {sign!r}, expected {' or '.join(expected) or 'nothing more'}"
                )
            empty = sign == "[" and text.startswith("]", _after_space(text, at))
            expected = "]" if empty else "" if sign == "]" else "object"
    if expected:
        raise bad(number, "the array does not end")


def _after_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _json_object(pairs: list[tuple[str, Any]]) -> Row:
    # json alone would keep the last value of a repeated name and say nothing
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a name occurs more than once in one object")
    return row


def _parquet_rows(path: Path) -> Iterator[Row]:
    _require_file(path)
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _check_unique(path, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=1000):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{path} is not a readable Parquet file ({reason}): write it again, or name another"
        ) from error


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


def _check_unique(path: Path, names: Sequence[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(
            f"{path}: column {', '.join(map(repr, repeated))} occurs more than once: "
            "expected a name of its own for every column"
        )


def _check_width(path: Path, line: int, fields: list[str], first: list[str]) -> None:
    if len(fields) != len(first):
        _check_delimiter(path, first)
        raise InputError(
            f"{path}, line {line}: found {len(fields)} fields, expected {len(first)} as in the "
            "first line: in CSV quote a field that holds a comma or line break; TSV fields hold no "
            "tab or break"
        )


def _check_delimiter(path: str | Path, first: Sequence[str], column: str | None = None) -> None:
    """Name the real delimiter of a file whose first line is one field, where something is wrong.

    Where a ``column`` is missing, it must be one of the fields: a comma may be part of a text.
    """
    expected = _delimiter(path)
    if expected is None or len(first) != 1:
        return
    used = max(_DELIMITERS, key=first[0].count)
    fields = [field.strip(' "') for field in first[0].split(used)]
    if used in first[0] and (column is None or column in fields):
        line = f"{path}: the first line {first[0][:60]!r} is separated by {_DELIMITERS[used]}"
        if used == expected:
            raise InputError(f"{line}, not by another sign: leave {named('delimiter')} out")
        ending = {",": ".csv", "\t": ".tsv"}.get(used)
        raise InputError(
            f"{line}, expected {_DELIMITERS[expected]} in a file of this ending: give "
            f"{named('delimiter')} {_DELIMITER_OPTIONS[used]}, or write it with "
            f"{_DELIMITERS[expected]}" + ("" if ending is None else f", or name it {ending}")
        )


def _delimiter(path: str | Path) -> str | None:
    """What should separate the fields of a file with this ending; None for other formats."""
    endings = (suffix.lower() for suffix in Path(path).suffixes)
    return next((_DELIMITER_OF[ending] for ending in endings if ending in _DELIMITER_OF), None)


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
    if _delimiter(path) is not None:
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
    others = [name for name in table.columns if name not in (label_column, *ID_NAMES)]
    usual = _usual_text_column(others)
    if usual is not None:
        return usual
    words = [name for name in others if any(_is_words(value) for value in table[name])]
    if len(words) == 1:
        return words[0]
    _check_delimiter(path, list(table.columns))
    raise InputError(
        f"{path}: it is not clear which column is the text: found {_column_list(table)}, expected "
        f"one named {' or '.join(TEXT_NAMES)}; name the column, or two of them for pairs "
        f"({named('text_columns')} a or a,b){_advice(path)}"
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
        _check_delimiter(path, list(table.columns), column)
        similar = {name.lower(): name for name in _all_names(table)}
        inner = [name for name in similar if name.endswith(f".{column.lower()}")]
        near = inner if inner else get_close_matches(column.lower(), similar, n=1)
        hint = f" (did you mean '{similar[near[0]]}'?)" if near else ""
        raise InputError(
            f"{path} has no column '{column}'{role}: found {_column_list(table)}{hint}{advice}"
        )


def value_of(row: Mapping[str, Any], column: str) -> Any:
    """What a row has under a column's name, or else under a path of names and numbers with dots.

    ``data.text`` is the value of that very name, where it has one, or else the ``text`` of its
    ``data``; ``answers.0`` is the first of its ``answers``. None where it has neither.
    """
    value = row.get(column)  # of most rows
    if value is None:
        value = _value_at(row, column)
    return None if value is _ABSENT else value


def has_value(row: Mapping[str, Any], column: str) -> bool:
    """Whether a row has something under a column's name or path, None too."""
    return column in row or _value_at(row, column) is not _ABSENT


def _value_at(value: Any, path: str) -> Any:
    """As :func:`value_of`, but :data:`_ABSENT` where it has neither."""
    if isinstance(value, list):
        first, _, rest = path.partition(".")
        if not (first.isdecimal() and int(first) < len(value)):
            return _ABSENT
        return _value_at(value[int(first)], rest) if rest else value[int(first)]
    if not isinstance(value, Mapping):
        return _ABSENT
    flat = value.get(path, _ABSENT)
    if flat is not None and flat is not _ABSENT:
        return flat
    for dot in (number for number, letter in enumerate(path) if letter == "."):
        inner = _value_at(value.get(path[:dot]), path[dot + 1 :])
        if inner is not _ABSENT:
            return inner
    return flat


def column_values(table: "pd.DataFrame", column: str) -> list[Any]:
    """The N values of a column by its name or path, None where a row has none."""
    return [None if value is _ABSENT else value for value in _values_or_absent(table, column)]


def has_column(table: "pd.DataFrame", column: str) -> bool:
    """Whether a table has a column of this name, or a row has something under it as a path."""
    return column in table.columns or any(
        value is not _ABSENT for value in _values_or_absent(table, column)
    )


def _values_or_absent(table: "pd.DataFrame", column: str) -> Iterable[Any]:
    names = [name for name in table.columns if column.startswith(f"{name}.")]
    if not names:
        absent = [_ABSENT] * len(table)
        return list(table[column]) if column in table.columns else absent
    names += [column] if column in table.columns else []
    rows = zip(*(table[name] for name in names), strict=True)
    return (_value_at(dict(zip(names, values, strict=True)), column) for values in rows)


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
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"the columns {', '.join(names[:_NAMES_SHOWN])}{more}"


def _advice(path: str | Path) -> str:
    """What else may be wrong with the columns of a user's file: its first line may be a row."""
    if _delimiter(path) is None:
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
    if other := rows_that(lambda value: not isinstance(value, str)):
        example = next(value for value in values if not isinstance(value, str))
        raise InputError(
            f"{where}: found {show([example])} ({type(example).__name__}) in {show_rows(other)}, "
            "expected text: name another column or write the value as a string"
        )
    if damaged := rows_that(_is_damaged):
        raise InputError(
            f"{where}: half of a surrogate pair in {show_rows(damaged)}, expected valid Unicode: "
            "the text was cut or decoded wrongly where it was written"
        )
    return values


def _is_damaged(text: str) -> bool:
    return not text.isascii() and text != text.encode(errors="ignore").decode()


def unreadable(value: object) -> str | None:
    """Why a value is no text, in a clause; None where it is one."""
    if is_missing(value):
        return "no text"
    if not isinstance(value, str):
        return f"found {show([value])} ({type(value).__name__}), expected text"
    return "half of a surrogate pair, expected valid Unicode" if _is_damaged(value) else None


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


def rows_from_table(table: "pd.DataFrame") -> NDArray[np.int64]:
    """The numbers of N rows in their file, counted from 1."""
    return table.index.to_numpy(dtype=np.int64) + 1


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
