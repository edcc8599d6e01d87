"""Text files as lines, fields and rows by column name, with errors that name file and line."""

import gzip
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lpft.errors import InputError

_DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
_OF_ENDING = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
_GZIP = b"\x1f\x8b"


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers from 1 and lines (ends kept) of a UTF-8 file, gzip-compressed if it ends in .gz.

    Lines end at a line feed only: other characters that Unicode counts as line ends occur within
    texts.

    Raises:
        InputError: the file is missing, unreadable, damaged, compressed under another name, not
            UTF-8, or its lines end in carriage returns only.
    """
    require_file(path)
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if number == 1:
                    _check_first(path, raw)
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}, line {number}: byte 0x{error.object[error.start]:02x} is not UTF-8; "
            "expected a UTF-8 text file: save it again with that encoding"
        ) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path} is damaged: expected a gzip file ({error})") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _check_first(path: Path, raw: bytes) -> None:
    if raw.startswith(_GZIP):
        raise InputError(
            f"{path} is compressed by gzip: add .gz to its name ({path.name}.gz), or unpack it"
        )
    if not raw.endswith(b"\n") and b"\r" in raw.rstrip(b"\r"):
        raise InputError(
            f"{path}: its lines end in carriage returns only, as old Macintosh programs write "
            "them: expected line feeds; save it again with Unix or Windows line ends"
        )


def without_nulls(path: Path, lines: Iterable[tuple[int, str]]) -> Iterator[str]:
    """The lines without their numbers.

    Raises:
        InputError: one holds a null byte, which no text does.
    """
    for number, line in lines:
        if "\0" in line:
            raise InputError(
                f"{path}, line {number}: found a null byte, expected text: the file is damaged or "
                "in another encoding (UTF-16?); save it again as UTF-8"
            )
        yield line


def split_fields(
    path: Path, lines: Iterable[tuple[int, str]], *, fill: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """Tab-separated fields of each line, quotes left as they are; empty lines are skipped.

    With ``fill``, lines with too few fields get empty ones at their end.

    Raises:
        InputError: a line has another number of fields than the first one.
    """
    first: list[str] | None = None
    for number, line in lines:
        content = line.rstrip("\r\n")
        if not content:
            continue
        fields = content.split("\t")
        if first is None:
            first = fields
        if fill:
            fields += [""] * (len(first) - len(fields))
        check_width(path, number, fields, first)
        yield number, fields


def named_rows(
    path: Path, header: list[str], records: Iterable[list[str]]
) -> Iterator[dict[str, Any]]:
    """Records as dictionaries by column name.

    Raises:
        InputError: two columns have one name.
    """
    names = [name.strip() for name in header]
    check_unique(path, names)
    for record in records:
        yield dict(zip(names, record, strict=True))


def require_file(path: Path) -> None:
    """Check that a file is there.

    Raises:
        InputError: it is not, or it is a folder.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder: expected a file")
    if not path.is_file():
        raise InputError(f"{path} does not exist: expected a file")


def check_width(path: Path, line: int, fields: list[str], first: list[str]) -> None:
    """Check a line's number of fields against the first line's.

    Raises:
        InputError: it is another one.
    """
    if len(fields) != len(first):
        check_delimiter(path, first)
        raise InputError(
            f"{path}, line {line}: found {len(fields)} fields, expected {len(first)} as in the "
            "first line: in CSV quote a field that holds a comma or line break; TSV fields hold no "
            "tab or break"
        )


def check_delimiter(path: str | Path, first: Sequence[str]) -> None:
    """Check that a file whose first line is one field is not separated by another character.

    Raises:
        InputError: it is, or so it seems: call it where something else is wrong.
    """
    endings = [suffix.lower() for suffix in Path(path).suffixes]
    expected = next((_OF_ENDING[ending] for ending in endings if ending in _OF_ENDING), None)
    if expected is None or len(first) != 1:
        return
    found = max(_DELIMITERS, key=first[0].count)
    if found in first[0] and found != expected:
        ending = {",": ".csv", "\t": ".tsv"}.get(found)
        advice = f"write it with {_DELIMITERS[expected]}"
        raise InputError(
            f"{path}: the first line {first[0][:60]!r} is separated by {_DELIMITERS[found]}, "
            f"expected {_DELIMITERS[expected]} in a file of this ending: {advice}"
            + ("" if ending is None else f", or name it {ending}")
        )


def check_unique(path: Path, names: list[str]) -> None:
    """Check that every column has a name of its own.

    Raises:
        InputError: two columns have one name.
    """
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(
            f"{path}: column {', '.join(map(repr, repeated))} occurs more than once: "
            "expected a name of its own for every column"
        )
