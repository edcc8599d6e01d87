"""Files of CSV, TSV, JSON and Parquet as rows: text in its encoding, fields by their delimiter.

CSV is read by the standard library's strict reader. pandas repairs bad files in silence: it fills
short rows up and takes "NA" for a missing value. So does pyarrow: it reads on over a stray or
unclosed quote, which swallows the rows after it, ends lines at lone carriage returns, takes null
bytes, and refuses rows that are longer than its block (docs/log.md).
"""

import csv
import gzip
import json
import re
import sys
import zlib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_LE, getincrementaldecoder, lookup
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from lpft.errors import InputError, named, one_line

FORMATS = (
    *(".csv", ".tsv", ".txt", ".jsonl", ".json", ".parquet"),
    *(".csv.gz", ".tsv.gz", ".txt.gz", ".jsonl.gz", ".json.gz"),
)
"""Endings of the files that can be read: ``.txt`` is tab-separated, as ``.tsv``, and ``.json``
as ``.jsonl`` holds one object per line, or one array of objects."""

Row = dict[str, Any]
Line = tuple[int, str]
"""A line's number, from 1, and its text with the line end."""

_DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
_DELIMITER_OPTIONS = {",": "','", "\t": "tab", ";": "';'", "|": "'|'"}
_DELIMITER_OF = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
_GZIP = b"\x1f\x8b"
_BLOCK = 1 << 16
_ABSENT = object()


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
    """The rows; at least one must exist."""
    first = next(rows, None)
    if first is None:
        raise InputError(f"{path} has no rows: expected at least one row of data")
    yield first
    yield from rows


def iter_tsv_rows(
    path: Path,
    column_names: Sequence[str] | None = None,
    *,
    quoted: bool = False,
    fill: bool = False,
) -> Iterator[Row]:
    """The rows of a tab-separated file, as for :func:`lpft.data.tables.read_tsv`."""
    records = _csv_records(path, "\t") if quoted else _tsv_records(path, fill=fill)
    return _some(path, _named_rows(path, records, column_names))


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
                    than_encoding = "" if encoding is None else f" than {encoding}"
                    raise InputError(
                        f"{path}, line {number}: found a null byte, expected text: the file is "
                        f"damaged or in another encoding{than_encoding} (UTF-16?): name it with "
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
        except UnicodeError as error:
            damage = decode_error(error, str(path), encoding)
            decoder.setstate((b"", state[1]))
            text = decoder.decode(damage.object[: damage.start])
        if start and text:
            text, start = text.removeprefix("\ufeff"), False
        first, *following = text.split("\n")
        parts.append(first)
        for part in following:
            yield "".join(parts) + "\n"
            number, parts = number + 1, [part]
        if damage is not None:
            raise _not_decoded(path, number, damage, encoding) from damage
    if last := "".join(parts):
        yield last


def decode_error(error: UnicodeError, source: str, encoding: str | None) -> UnicodeDecodeError:
    """The error of bytes that cannot be decoded; UTF-16 and UTF-32 without their mark are refused.

    For lack of the mark Python raises a plain UnicodeError, and from 3.13 on one of decoding.

    Raises:
        InputError: the source does not begin with the byte-order mark.
    """
    if not isinstance(error, UnicodeDecodeError) or "BOM" in error.reason:
        name = lookup(encoding or "utf-8").name
        raise InputError(
            f"{source} does not begin with the byte-order mark of {name}: give "
            f"{named('encoding')} {name}-le or {name}-be, or the encoding that it has"
        ) from error
    return error


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
    if line == 1 and error.object.startswith(BOM_UTF32_LE):  # which begins as that of UTF-16 does
        likely = "utf-32"
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
    if re.fullmatch(r'"?sep=.?"?', line.rstrip("\r\n")):
        raise InputError(
            f"{path}: the first line, {line.strip()}, names the delimiter for Excel: remove it; "
            f"{named('delimiter')} names one that is not usual for this ending"
        )
    if not line.endswith("\n") and "\r" in line.rstrip("\r"):
        raise InputError(
            f"{path}: its lines end in carriage returns only, as old Macintosh programs write "
            "them: expected line feeds; save it again with Unix or Windows line ends"
        )


def _csv_records(path: Path, delimiter: str, encoding: str | None = None) -> Iterator[list[str]]:
    csv.field_size_limit(sys.maxsize)  # the module's own limit of 128 kB is less than a long text
    # strict: a stray or unclosed quote is an error instead of a field that swallows later rows
    lines_of_record: list[str] = []

    def lines() -> Iterator[str]:
        for _, line in read_lines(path, encoding):
            lines_of_record.append(line)
            yield line

    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    first: list[str] = []
    try:
        for record in reader:
            if any(field[:1] == " " and field.lstrip(" ")[:1] == '"' for field in record):
                # Either such a text, in quotes of its own, or a blank between delimiter and quote,
                # as in "a", "b": there the quotes were read as part of the text.
                blanks_skipped = csv.reader(
                    lines_of_record, delimiter=delimiter, strict=True, skipinitialspace=True
                )
                try:
                    record = next(blanks_skipped)
                except csv.Error:
                    if "".join(lines_of_record).count('"') % 2:
                        raise  # a quote that this line does not close
                    # They enclose a part of the text, as in a, "b" c: it stays as it is.
            lines_of_record.clear()
            if record:
                first = first if first else record
                _check_width(path, reader.line_num, record, first)
                yield record
    except csv.Error as error:
        check_delimiter(path, first)
        if "new-line character" in str(error):
            raise InputError(
                f"{path}, line {reader.line_num}: found a carriage return that ends no line: "
                "expected lines that end in line feeds, and fields with carriage returns enclosed "
                'in "; save the file again with Unix or Windows line ends'
            ) from error
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
            check_delimiter(path, first)
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
    second = next(lines, None)
    ahead = [line for line in (first, second) if line is not None]
    for number, line in chain(ahead, lines):
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
        if second is None and row and all(isinstance(v, dict | list) for v in row.values()):
            raise InputError(
                f"{path} holds one object, of whole columns or of a list of rows: expected one "
                "object per row, on a line of its own or in an array, as pandas writes with "
                "to_json(orient='records')"
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
                yield from _python_rows(path, batch)
    except InputError:
        raise
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{path} is not a readable Parquet file ({reason}): write it again, or name another"
        ) from error


def _python_rows(path: Path, batch: Any) -> list[Row]:
    """The rows of a batch of Arrow, whose values may be such as Python has none of."""
    try:
        rows: list[Row] = batch.to_pylist()
        return rows
    except (ValueError, OverflowError) as error:  # a year beyond 9999, text that is not UTF-8
        for name in batch.schema.names:
            try:
                batch.column(name).to_pylist()
            except (ValueError, OverflowError):
                break
        raise InputError(
            f"{path}, column '{name}': a value cannot be read ({one_line(error)}): write the "
            "column as valid text, or leave it out"
        ) from error


def _check_unique(path: Path, names: Sequence[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(
            f"{path}: column {', '.join(map(repr, repeated))} occurs more than once: "
            "expected a name of its own for every column"
        )


def _check_width(path: Path, line: int, fields: list[str], first: list[str]) -> None:
    if len(fields) != len(first):
        check_delimiter(path, first)
        found = "1 field" if len(fields) == 1 else f"{len(fields)} fields"
        raise InputError(
            f"{path}, line {line}: found {found}, expected {len(first)} as in the "
            "first line: in CSV quote a field that holds a comma or line break; TSV fields hold no "
            "tab or break"
        )


def check_delimiter(path: str | Path, first: Sequence[str], column: str | None = None) -> None:
    """Refuse a file whose first line is one field because another delimiter separates it.

    Where a ``column`` is missing, it must be one of the fields: a comma may be part of a text.
    """
    expected = usual_delimiter(path)
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


def usual_delimiter(path: str | Path) -> str | None:
    """The delimiter that files with this ending usually have; None for other formats."""
    endings = (suffix.lower() for suffix in Path(path).suffixes)
    return next((_DELIMITER_OF[ending] for ending in endings if ending in _DELIMITER_OF), None)


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
    """Whether a row has a value, be it None, under a column's name or path."""
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
