"""Folders of results: who may write them, how files come and go, and which records lie below one.

Files appear whole or not at all; a lock keeps a second process out; nothing that is not a run's own
is replaced or removed.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from filelock import FileLock, Timeout

from lpft.errors import InputError, named, write_failure
from lpft.results.schema import (
    HISTORY,
    InterpolationRecord,
    MissingRecord,
    Record,
    RunRecord,
    UnusableRecord,
    plain,
)
from lpft.settings.configs import CANDIDATES

RUN_RECORD = RunRecord.FILE
SEARCH_RECORD = "search.json"
"""Marks the folder of a sweep's search for settings, whose runs no report shows."""
INTERPOLATION = "interpolation"
"""The folder below a run's where ``lpft interpolate`` writes."""
WORK = ".work"
"""Checkpoints and results on their way; removed at the end, so that no pickle stays."""

_REPORT = ("report.html", "report-tables", "report-figures")
"""Written by ``lpft report`` into a run's own folder."""
_LOCK = ".lock"
_PARTIAL = ".partial"

Holds = Literal["run", "kernels", "experiment", "interpolation"]
Result = TypeVar("Result")
AnyRecord = TypeVar("AnyRecord", bound=Record)


def read_if_there(kind: type[AnyRecord], folder: Path, what: str, advice: str) -> AnyRecord | None:
    """The record of that kind in a folder, or None where there is none.

    Raises:
        InputError: the file is damaged or something else: "contains ``what``", and the ``advice``.
    """
    try:
        return kind.read(folder)
    except MissingRecord:
        return None
    except UnusableRecord as problem:
        raise InputError(
            f"'{folder}' contains {what} that cannot be used ({problem}): {advice}"
        ) from problem


def read_record(folder: Path) -> RunRecord | None:
    """``run.json`` of a folder, or None where there is none.

    Raises:
        InputError: the file is damaged or something else.
    """
    return read_if_there(RunRecord, folder, "a run", "restore its record, or name another folder")


def recorded_config(folder: Path) -> dict[str, Any] | None:
    """The settings of the run in ``folder``, or of the run that its interpolated classifier is of.

    None where neither is recorded.

    Raises:
        InputError: a record is damaged.
    """
    record = read_record(folder)
    if record is not None:
        return record.config
    advice = "interpolate the run again"
    point = read_if_there(InterpolationRecord, folder, "a classifier", advice)
    return None if point is None else point.config


def check_restart(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse to resume and to replace at once, and a file in the folder's place.

    Raises:
        InputError: both are asked for, or there is such a file.
    """
    if resume and overwrite:
        raise InputError(
            f"{named('resume=True')} and {named('overwrite=True')} contradict each other: give one"
        )
    if folder.exists() and not folder.is_dir():
        raise InputError(
            f"the output folder '{folder}' is a file: name another with {named('output_dir')}"
        )


def check_output(folder: Path, *, resume: bool, overwrite: bool) -> RunRecord | None:
    """The record of the run that ``folder`` holds and that may be continued or replaced.

    Raises:
        InputError: the folder has results that the call neither resumes nor replaces.
    """
    check_restart(folder, resume=resume, overwrite=overwrite)
    record = read_record(folder)
    if record is not None and not (resume or overwrite):
        unfinished = record.status != "finished"
        raise results_found(folder, f"a run that is {record.status}", unfinished=unfinished)
    own = {_LOCK, *_REPORT}
    if record is not None:
        own |= {CANDIDATES} if record.selection is not None else set()
        if (folder / INTERPOLATION).exists():
            check_interpolation(folder / INTERPOLATION, overwrite=True)
            own.add(INTERPOLATION)
        own |= {RUN_RECORD, HISTORY, WORK, *(name.partition("/")[0] for name in record.files)}
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    foreign = [name for name in names if name not in own and not name.endswith(_PARTIAL)]
    if foreign:
        raise foreign_files(folder, "a run's", foreign[0])
    return record


def results_found(folder: Path, what: str, *, unfinished: bool = True) -> InputError:
    """The error where a folder has results that the call neither resumes nor replaces."""
    resume = f"{named('resume=True')} to continue it, " if unfinished else ""
    return InputError(
        f"'{folder}' contains {what}: give {resume}{named('overwrite=True')} to replace it, or "
        f"another {named('output_dir')}"
    )


def foreign_files(folder: Path, whose: str, file: str) -> InputError:
    """The error where a folder has a file of something else."""
    return InputError(
        f"'{folder}' contains files that are not {whose} ({file}): name an empty or new folder "
        f"with {named('output_dir')}"
    )


@contextmanager
def locked(folder: Path, doing: str = "training in", setting: str = "output_dir") -> Iterator[None]:
    """Hold the folder for this process alone, making it if need be.

    Raises:
        InputError: the folder cannot be written, or another process is ``doing`` something in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _LOCK)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"another process is {doing} '{folder}': wait for it or name another {named(setting)}"
        ) from error
    except OSError as error:
        raise InputError(
            f"the output folder '{folder}' cannot be written ({error.strerror}): name another "
            f"with {named(setting)}"
        ) from error
    try:
        yield
    finally:
        # Removed while it is held: another process would lose a file that it just locked.
        (folder / _LOCK).unlink(missing_ok=True)
        lock.release()


def wait_until_free(folder: Path, seconds: float) -> None:
    """Wait until no other process holds the folder, at most so long."""
    if not (folder / _LOCK).exists():
        return
    with suppress(Timeout, OSError), FileLock(folder / _LOCK, timeout=seconds):
        (folder / _LOCK).unlink(missing_ok=True)


def now() -> str:
    """The time as records have it: UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def clear(folder: Path, record: RunRecord | None) -> None:
    """Remove the files of the run that ``record`` describes, and nothing else; its record last."""
    if record is None:
        return
    remove_leftovers(folder)
    if (folder / INTERPOLATION).exists():
        check_interpolation(folder / INTERPOLATION, overwrite=True)
        shutil.rmtree(folder / INTERPOLATION)  # of weights that go
    # The record goes last: a removal that is stopped half-way still knows what is left to remove.
    for name in [*record.files, HISTORY]:
        path = folder / name
        path.unlink(missing_ok=True)
        if path.parent != folder and path.parent.is_dir() and not any(path.parent.iterdir()):
            path.parent.rmdir()
    if record.selection is not None:
        _clear_candidates(folder / CANDIDATES)
    (folder / RUN_RECORD).unlink()


def _clear_candidates(parent: Path) -> None:
    """Remove the runs from which the one above was chosen, and nothing that is not theirs."""
    for folder in sorted(parent.iterdir()) if parent.is_dir() else ():
        with suppress(InputError, OSError):
            clear(folder, read_record(folder))
            (folder / _LOCK).unlink(missing_ok=True)
            folder.rmdir()
    with suppress(OSError):
        parent.rmdir()


def publish(staged: Path, folder: Path) -> None:
    """Move every file below ``staged`` to the same place below ``folder``, each in one step.

    Files take the permissions of the record: safetensors writes its own for the owner alone.
    """
    permissions = (folder / RUN_RECORD).stat().st_mode
    for path in sorted(staged.rglob("*")):
        if path.is_file():
            target = folder / path.relative_to(staged)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.chmod(permissions)
            path.replace(target)


def check_replaceable(
    folder: Path, record: str, what: str, *, overwrite: bool, pages: bool = False
) -> None:
    """Refuse a folder that holds anything but ``what``, such as an export, and that unless allowed.

    The file ``record`` in it lists its other files; with ``pages`` those of ``lpft report`` are its
    own too.

    Raises:
        InputError: there is something else, or there is such a thing and ``overwrite`` is false.
    """
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise InputError(
            f"the output folder '{folder}' is a file: give another {named('output_dir')}"
        )
    present = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if not path.is_dir() or not any(path.iterdir())
    }
    if not present:
        return
    try:
        files = json.loads((folder / record).read_text(encoding="utf-8"))["files"]
        own = {record, *map(str, files)}
    except (OSError, ValueError, KeyError, TypeError):
        own = set()
    report_files = _REPORT if pages else ()
    foreign = sorted(n for n in present if n not in own and n.partition("/")[0] not in report_files)
    if foreign:
        raise InputError(
            f"'{folder}' contains files that do not belong to {what} ({foreign[0]}): name an empty "
            f"or new folder with {named('output_dir')}"
        )
    if not overwrite:
        raise InputError(
            f"'{folder}' contains {what}: give {named('overwrite=True')} to replace it, or "
            f"another {named('output_dir')}"
        )


def check_interpolation(folder: Path, *, overwrite: bool) -> None:
    """:func:`check_replaceable` of what ``lpft interpolate`` writes."""
    check_replaceable(
        folder, InterpolationRecord.FILE, "an interpolation", overwrite=overwrite, pages=True
    )


@contextmanager
def written_folder(folder: Path) -> Iterator[Path]:
    """A folder beside ``folder`` that takes its place once the block ends without an error.

    Raises:
        InputError: the folder cannot be written.
    """
    target = folder.resolve()
    staged = target.with_name(f".{target.name}.{os.getpid()}{_PARTIAL}")
    replaced = staged.with_suffix(".replaced")
    try:
        with _writing(folder):
            staged.mkdir(parents=True)
        try:
            yield staged
        except Exception as error:
            failure = write_failure(error, staged)
            if failure is None:
                raise
            raise InputError(
                f"the output folder '{folder}' cannot be written ({failure}): make room there, or "
                f"give another {named('output_dir')}"
            ) from error
        with _writing(folder):
            if target.exists():
                target.replace(replaced)
            staged.replace(target)
    finally:
        # Stopped between the two renames: the old folder goes back to its place.
        if replaced.exists() and not target.exists():
            replaced.replace(target)
        for path in (staged, replaced):
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"the output folder '{folder}' cannot be written ({error.strerror}): give another "
            f"{named('output_dir')}"
        ) from error


def remove_leftovers(folder: Path) -> None:
    """Remove checkpoints and whatever a killed process left half-written."""
    shutil.rmtree(folder / WORK, ignore_errors=True)
    for path in folder.glob(f".*{_PARTIAL}"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@dataclass(frozen=True)
class UnreadFolder:
    """A folder of a run, kernels or an experiment that is in no number, and why."""

    folder: Path
    name: str
    state: str
    reason: str
    holds: Holds = "run"


def nothing_found(directory: Path, unread: Sequence[UnreadFolder], expected: str) -> str:
    """The message about a folder that has nothing to report."""
    if not unread:
        return f"no runs below {directory}; {expected}"
    first = unread[0]
    return (
        f"no finished run below {directory}; {expected}; found {len(unread)} that cannot be "
        f"used, the first {first.name} ({first.state}: {first.reason})"
    )


def folders_with(
    record: str, directory: Path, *, inside: bool = True, without: str | None = None
) -> list[Path]:
    """The folders at or below ``directory`` that hold a file ``record``, but no hidden ones.

    Folders below such a one are searched too with ``inside``; those below one that holds a file
    ``without``, other than ``directory`` itself, never are.
    """
    folders = []
    for parent, below, files in os.walk(directory):
        if record in files:
            folders.append(Path(parent))
        if (record in files and not inside) or (without in files and Path(parent) != directory):
            below.clear()
        below[:] = sorted(name for name in below if not name.startswith("."))
    return folders


def read_folders(
    folders: Iterable[Path], directory: Path, holds: Holds, read: Callable[[Path, str], Result]
) -> tuple[tuple[Result, ...], tuple[UnreadFolder, ...]]:
    """``read(folder, name)`` of every folder, and those whose records cannot be used.

    A name is the folder's path below ``directory``.
    """
    results: list[Result] = []
    unread: list[UnreadFolder] = []
    for folder in folders:
        relative = folder.resolve().name if folder == directory else folder.relative_to(directory)
        # A file name need not be text: bytes that are not UTF-8 become replacement characters.
        name = plain(os.fsencode(str(relative)).decode("utf-8", "replace")).replace(os.sep, "/")
        try:
            results.append(read(folder, name))
        except UnusableRecord as problem:
            unread.append(UnreadFolder(folder, name, problem.state, plain(problem), holds))
    return tuple(results), tuple(unread)


@dataclass(frozen=True)
class Located(Generic[Result]):
    """A record with its folder; ``name`` is the folder's path below the report's."""

    folder: Path
    name: str
    record: Result


Interpolation = Located[InterpolationRecord]


def find_interpolations(
    directory: Path,
) -> tuple[tuple[Interpolation, ...], tuple[UnreadFolder, ...]]:
    """Every ``interpolation.json`` at or below ``directory``, and those that cannot be used."""

    def read(folder: Path, name: str) -> Interpolation:
        record = InterpolationRecord.read(folder, printable=True)
        if record.chosen not in [point.alpha for point in record.points]:
            raise UnusableRecord(f"{record.FILE}: none of its points is the chosen one")
        return Located(folder, name, record)

    folders = folders_with(InterpolationRecord.FILE, directory)
    return read_folders(folders, directory, "interpolation", read)


def copies_in(folders: Iterable[Path], record: str) -> dict[Path, Path]:
    """The folders that are copies of an earlier one of ``folders``, each with that one.

    A copy has the same bytes in its file ``record``, times included.
    """
    firsts: dict[bytes, Path] = {}
    known = {path: firsts.setdefault((path / record).read_bytes(), path) for path in folders}
    return {path: first for path, first in known.items() if first != path}
