"""Read JSON records that a person or a crash may have damaged: what is wrong, with which file."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from lpft.report.numbers import number, plain

Record = Mapping[str, Any]
Holds = Literal["run", "kernels", "experiment"]
Found = TypeVar("Found")


class UnusableRecord(Exception):
    """A record cannot be used; the message says what is wrong with which file.

    ``state`` says it in a word: ``damaged``, ``foreign``, or how far an unfinished run got.
    """

    def __init__(self, reason: str, state: str = "damaged") -> None:
        super().__init__(reason)
        self.state = state


@dataclass(frozen=True)
class UnreadFolder:
    """A folder of a run, kernels or an experiment that is not in the report, and why."""

    folder: Path
    name: str
    state: str
    reason: str
    holds: Holds = "run"


def read_folders(
    folders: Iterable[Path], directory: Path, holds: Holds, read: Callable[[Path, str], Found]
) -> tuple[tuple[Found, ...], tuple[UnreadFolder, ...]]:
    """``read(folder, name)`` of every folder, and those whose records cannot be used.

    A name is the folder's path below ``directory``.
    """
    found: list[Found] = []
    unread: list[UnreadFolder] = []
    for folder in folders:
        name = display_name(folder, directory)
        try:
            found.append(read(folder, name))
        except UnusableRecord as problem:
            unread.append(UnreadFolder(folder, name, problem.state, plain(problem), holds))
    return tuple(found), tuple(unread)


class InFolder(Protocol):
    """What was read from a folder."""

    @property
    def folder(self) -> Path: ...


Kept = TypeVar("Kept", bound=InFolder)


def without_copies(found: Iterable[Kept], record: str) -> tuple[tuple[Kept, ...], dict[Path, Path]]:
    """Each result once, and for each folder that holds a copy of it the one that is kept.

    Copies have the same bytes in their file ``record``, times included.
    """
    firsts: dict[bytes, Kept] = {}
    copies: dict[Path, Path] = {}
    for result in found:
        first = firsts.setdefault((result.folder / record).read_bytes(), result)
        if first is not result:
            copies[result.folder] = first.folder
    return tuple(firsts.values()), copies


def check_schema(record: Record, where: str, schema: int, writer: str) -> None:
    """Refuse a record of another schema; ``writer`` is the command whose records these are."""
    found = record.get("schema")
    if found != schema:
        reason = f"{where}: schema is {found!r}, expected {schema}, which {writer} writes"
        raise UnusableRecord(reason, "foreign")


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
        raise UnusableRecord(f"{path.name} is not there") from problem
    except (OSError, UnicodeDecodeError) as problem:
        raise UnusableRecord(f"{path.name} cannot be read: {problem}") from problem


def parsed(text: str, where: str) -> Record:
    """A JSON object from its text; ``where`` names its place in messages."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise UnusableRecord(f"{where} is not JSON: {problem}") from problem
    if not isinstance(record, dict):
        raise UnusableRecord(f"{where} is not a JSON object")
    return record


def section(record: Record, key: str, where: str, required: tuple[str, ...] = ()) -> Record:
    """An object inside a record, empty where it is absent or null."""
    found = record.get(key, {})
    if found is None:
        found = {}
    if not isinstance(found, Mapping):
        raise UnusableRecord(f"{where}: {key} is not an object")
    for name in required:
        if found.get(name) is None:
            raise UnusableRecord(f"{where}: {key} has no {name}")
    return found


def texts(record: Record, key: str, where: str) -> tuple[str, ...]:
    """A list of a record as printable texts."""
    values = record.get(key, [])
    if not isinstance(values, list):
        raise UnusableRecord(f"{where}: {key} is not a list")
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
