"""Read JSON records that a person or a crash may have damaged: what is wrong, with which file."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lpft.report.numbers import number, plain

Record = Mapping[str, Any]


class DamagedRecord(Exception):
    """A record cannot be used; the message says what is wrong with which file."""


@dataclass(frozen=True)
class UnreadFolder:
    """A folder of a run, kernels or an experiment that is not in the report, and why."""

    folder: Path
    name: str
    state: str
    reason: str
    holds: Literal["run", "kernels", "experiment"] = "run"


def folders_with(record: str, directory: Path) -> list[Path]:
    """The folders at or below ``directory`` that hold a file ``record``, but no hidden ones."""
    found = []
    for parent, folders, files in os.walk(directory):
        if record in files:
            found.append(Path(parent))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
    return found


def read_record(path: Path) -> Record:
    """The JSON object in a file."""
    return parsed(read_text(path), path.name)


def read_text(path: Path) -> str:
    """The text of a file in UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as problem:
        raise DamagedRecord(f"{path.name} is not there") from problem
    except (OSError, UnicodeDecodeError) as problem:
        raise DamagedRecord(f"{path.name} cannot be read: {problem}") from problem


def parsed(text: str, where: str) -> Record:
    """A JSON object from its text; ``where`` names its place in messages."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise DamagedRecord(f"{where} is not JSON: {problem}") from problem
    if not isinstance(record, dict):
        raise DamagedRecord(f"{where} is not a JSON object")
    return record


def section(record: Record, key: str, where: str, required: tuple[str, ...] = ()) -> Record:
    """An object inside a record, empty where it is absent or null."""
    found = record.get(key, {})
    if found is None:
        found = {}
    if not isinstance(found, Mapping):
        raise DamagedRecord(f"{where}: {key} is not an object")
    for name in required:
        if found.get(name) is None:
            raise DamagedRecord(f"{where}: {key} has no {name}")
    return found


def texts(record: Record, key: str, where: str) -> tuple[str, ...]:
    """A list of a record as printable texts."""
    values = record.get(key, [])
    if not isinstance(values, list):
        raise DamagedRecord(f"{where}: {key} is not a list")
    return tuple(plain(value) for value in values)


def numbers(record: Record, key: str, where: str) -> dict[str, float]:
    """The finite numbers of an object inside a record."""
    pairs = ((plain(k), number(v)) for k, v in section(record, key, where).items())
    return {name: value for name, value in pairs if value is not None}


def text(record: Record, key: str) -> str | None:
    """A printable text, None where it is absent or null."""
    value = record.get(key)
    return None if value is None else plain(value)


def display_name(folder: Path, directory: Path) -> str:
    """A folder's path below the report's, printable."""
    relative = folder.resolve().name if folder == directory else folder.relative_to(directory)
    # A file name need not be text: bytes that are not UTF-8 are shown as replacement characters.
    return plain(os.fsencode(str(relative)).decode("utf-8", "replace")).replace(os.sep, "/")
