"""Text files as lines, fields and rows by column name, with errors that name file and line."""

import gzip
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lpft.errors import InputError


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers from 1 and lines (ends kept) of a UTF-8 file, gzip-compressed if it ends in .gz.

    Lines end at a line feed only: other characters that Unicode counts as line ends occur within
    texts.

    Raises:
        InputError: the file is missing, unreadable, damaged or not UTF-8.
    """
    require_file(path)
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
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


def split_fields(
    path: Path, lines: Iterable[tuple[int, str]], *, fill: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """Tab-separated fields of each line, quotes left as they are; empty lines are skipped.

    With ``fill``, lines with too few fields get empty ones at their end.

    Raises:
        InputError: a line has another number of fields than the first one.
    """
    expected = 0
    for number, line in lines:
        content = line.rstrip("\r\n")
        if not content:
            continue
        fields = content.split("\t")
        if expected == 0:
            expected = len(fields)
        if fill:
            fields += [""] * (expected - len(fields))
        check_width(path, number, len(fields), expected)
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


def check_width(path: Path, line: int, found: int, expected: int) -> None:
    """Check a line's number of fields.

    Raises:
        InputError: it is not the expected one.
    """
    if found != expected:
        raise InputError(
            f"{path}, line {line}: found {found} fields, expected {expected} as in the first line: "
            "in CSV quote a field that holds a comma or line break; TSV fields hold no tab or break"
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
