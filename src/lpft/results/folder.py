"""A run's folder: who may write it, what it holds, and how its files come and go."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock, Timeout

from lpft.errors import InputError
from lpft.files import write_json

RECORD = "run.json"
STATUSES = ("running", "interrupted", "failed", "finished")
HISTORY = "history.jsonl"
WORK = ".work"
"""Checkpoints and results on their way; removed at the end, so that no pickle stays."""

_REPORT = ("report.html", "report-tables", "report-figures")
"""What ``lpft report`` writes into a run's own folder."""

_LOCK = ".lock"
_PARTIAL = ".partial"


def read_record(folder: Path) -> dict[str, Any] | None:
    """``run.json`` of a folder, or None where there is none.

    Raises:
        InputError: the file is damaged or something else.
    """
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"'{path}' cannot be read ({reason}): restore it, or name another folder"
        ) from error
    sections = [record.get(name) for name in ("config", "data")] if isinstance(record, dict) else []
    if not sections or not all(isinstance(section, dict) for section in sections):
        raise InputError(f"'{path}' is no record of a run: restore it, or name another folder")
    if record.get("status") not in STATUSES:
        raise InputError(f"'{path}' has no known status: restore it, or name another folder")
    files = record.setdefault("files", [])
    if not isinstance(files, list) or not all(is_inside(name) for name in files):
        raise InputError(f"'{path}' lists files outside its folder: name another folder")
    return record


def check_restart(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse to resume and to replace at once, and a file in the folder's place.

    Raises:
        InputError: either is so.
    """
    if resume and overwrite:
        raise InputError("--resume and --overwrite contradict each other: give one of them")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"the output folder '{folder}' is a file: name another with --output-dir")


def check_output(folder: Path, *, resume: bool, overwrite: bool) -> dict[str, Any] | None:
    """The record of the run that ``folder`` holds and that may be continued or replaced.

    Raises:
        InputError: the folder holds what nobody asked to resume or replace.
    """
    check_restart(folder, resume=resume, overwrite=overwrite)
    record = read_record(folder)
    if record is not None and not (resume or overwrite):
        advice = "" if record["status"] == "finished" else "--resume to go on with it, "
        raise InputError(
            f"'{folder}' holds a run that is {record['status']}: give {advice}--overwrite to "
            "replace it, or another --output-dir"
        )
    if folder.is_dir():
        own = _own_names(record)
        foreign = sorted(
            path.name
            for path in folder.iterdir()
            if path.name not in own and not path.name.endswith(_PARTIAL)
        )
        if foreign:
            raise InputError(
                f"'{folder}' holds files that are not a run's ({foreign[0]}): name an empty or "
                "new folder with --output-dir"
            )
    return record


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process alone, making it if need be.

    Raises:
        InputError: the folder cannot be written, or another process trains in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _LOCK)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"another process is training in '{folder}': wait for it or name another --output-dir"
        ) from error
    except OSError as error:
        raise InputError(
            f"the output folder '{folder}' cannot be written ({error.strerror}): name another "
            "with --output-dir"
        ) from error
    try:
        yield
    finally:
        # Removed while it is held: another process would lose a file that it just locked.
        (folder / _LOCK).unlink(missing_ok=True)
        lock.release()


def now() -> str:
    """The time as records have it: UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write ``run.json`` whole."""
    write_json(folder / RECORD, record)


def clear(folder: Path, record: dict[str, Any] | None) -> None:
    """Remove the files of the run that ``record`` describes, and nothing else; its record last."""
    if record is None:
        return
    remove_leftovers(folder)
    for name in [*record["files"], HISTORY]:
        path = folder / name
        path.unlink(missing_ok=True)
        if path.parent != folder and path.parent.is_dir() and not any(path.parent.iterdir()):
            path.parent.rmdir()
    (folder / RECORD).unlink()


def publish(staged: Path, folder: Path) -> None:
    """Move every file below ``staged`` to the same place below ``folder``, each in one step.

    Files take the permissions of the record: safetensors writes its own for the owner alone.
    """
    permissions = (folder / RECORD).stat().st_mode
    for path in sorted(staged.rglob("*")):
        if path.is_file():
            target = folder / path.relative_to(staged)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.chmod(permissions)
            path.replace(target)


def remove_leftovers(folder: Path) -> None:
    """Remove checkpoints and whatever a killed process left half-written."""
    shutil.rmtree(folder / WORK, ignore_errors=True)
    for path in folder.glob(f".*{_PARTIAL}"):
        path.unlink()


def is_inside(name: object) -> bool:
    """Whether a published file's name stays in the run's folder, whoever wrote the record."""
    if not isinstance(name, str) or not name:
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _own_names(record: dict[str, Any] | None) -> set[str]:
    if record is None:
        return {_LOCK, *_REPORT}
    return {
        RECORD,
        HISTORY,
        WORK,
        _LOCK,
        *_REPORT,
        *(name.partition("/")[0] for name in record["files"]),
    }
