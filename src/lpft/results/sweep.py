"""``sweep.json``: the runs of a sweep and how each ended, written whole after every one of them."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from lpft.errors import InputError
from lpft.files import write_json
from lpft.results.folder import clear, is_inside, locked, now, read_record, write_record
from lpft.results.resume import began, check_same_settings
from lpft.settings.configs import RunConfig

SWEEP_RECORD = "sweep.json"
WAITING = "waiting"

State = Literal["finished", "failed", "skipped"]


@dataclass(frozen=True)
class RunOutcome:
    """How a run of a sweep ended; ``skipped`` is one that was finished before.

    ``reason`` says why it failed, None otherwise; ``seconds`` is what the run took, when it was
    trained, None where that is not known.
    """

    folder: Path
    state: State
    reason: str | None
    seconds: float | None


@dataclass(frozen=True)
class SweepResult:
    """The sweep's folder, and the outcome of every run in the order in which they were given."""

    folder: Path
    outcomes: tuple[RunOutcome, ...]

    @property
    def failed(self) -> tuple[RunOutcome, ...]:
        return tuple(outcome for outcome in self.outcomes if outcome.state == "failed")

    def as_json(self) -> dict[str, Any]:
        """``{"folder", "runs": [{"folder", "state", "reason", "seconds"}]}``."""
        runs = [asdict(outcome) | {"folder": str(outcome.folder)} for outcome in self.outcomes]
        return {"folder": str(self.folder), "runs": runs}


class SweepRecord:
    """The record of one sweep, on disk after each change.

    A sweep that replaces older runs and was killed goes on replacing them: those that began before
    it did.
    """

    def __init__(self, folder: Path) -> None:
        content = read_sweep(folder)
        assert content is not None, "the sweep has not begun"
        self._folder, self._content = folder, content

    def replaces(self, run: Path) -> bool:
        """Whether the run in that folder is one that this sweep has still to replace.

        Raises:
            InputError: its record is damaged.
        """
        record = read_record(run) if self._content["overwrite"] else None
        return record is not None and record.get("started", "") < self._content["started"]

    def add(self, outcome: RunOutcome) -> None:
        """Record how a run ended; one that was finished before keeps what is known of it."""
        entry = self._content["runs"][run_name(self._folder, outcome.folder)]
        entry |= {
            "state": "finished" if outcome.state == "skipped" else outcome.state,
            "reason": outcome.reason,
            "seconds": outcome.seconds,
        }
        write_json(self._folder / SWEEP_RECORD, self._content)


def start_record(
    folder: Path,
    runs: Sequence[Path],
    *,
    executor: str,
    workers: int,
    resume: bool,
    overwrite: bool,
) -> None:
    """Go on with the folder's record, or begin one in place of it.

    Runs of a replaced sweep that are not among ``runs``, the output folders, are removed.

    Raises:
        InputError: the folder's record is damaged.
    """
    earlier = read_sweep(folder)
    names = [run_name(folder, run) for run in runs]
    if resume and earlier is not None:
        content = earlier
    else:
        if earlier is not None:
            _remove_runs(folder, set(earlier["runs"]) - set(names))
        # Finer than in a run's record, so that no run of the same second counts as replaced.
        started = datetime.now(UTC).isoformat()
        content = {"schema": 1, "started": started, "overwrite": overwrite, "runs": {}}
    content |= {"executor": executor, "workers": workers}
    waiting = {"state": WAITING, "reason": None, "seconds": None}
    content["runs"] |= {name: dict(waiting) for name in names if name not in content["runs"]}
    write_json(folder / SWEEP_RECORD, content)


def read_sweep(folder: Path) -> dict[str, Any] | None:
    """``sweep.json`` of a folder, or None where there is none.

    Raises:
        InputError: the file is damaged or something else.
    """
    path = folder / SWEEP_RECORD
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        known = isinstance(content["started"], str) and isinstance(content["overwrite"], bool)
        if not known or not all(isinstance(run["state"], str) for run in content["runs"].values()):
            raise ValueError("it is no record of a sweep")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"'{path}' cannot be read ({error}): restore it, or name another --output-dir"
        ) from error
    return content


def record_failure(config: RunConfig, reason: str) -> None:
    """Let a run's folder say why it failed, where the run itself could not.

    That is where its data or model could not be read, or its process died. A folder that another
    process holds, or that has files of something else, is left alone.
    """
    folder = config.output_dir
    with suppress(InputError, OSError):
        record = read_record(folder)
        if record is None and folder.exists() and any(folder.iterdir()):
            return
        if record is not None and began(record):
            check_same_settings(folder, record, config)
            if record["status"] != "running":
                return
        else:
            record = {
                "started": now(),
                "config": config.flat(),
                "config_hash": config.hash(),
                "data": {},
                "files": [],
            }
        with locked(folder):
            write_record(folder, record | {"status": "failed", "reason": reason})


def run_name(folder: Path, output_dir: Path) -> str:
    """A run's folder in the record of the sweep in ``folder``: relative where it is inside."""
    run, sweep = output_dir.resolve(), folder.resolve()
    return run.relative_to(sweep).as_posix() if run.is_relative_to(sweep) else str(run)


def _remove_runs(folder: Path, names: set[str]) -> None:
    """Remove runs inside the sweep's folder, as far as their own records list their files."""
    for name in filter(is_inside, names):
        with suppress(InputError):
            clear(folder / name, read_record(folder / name))
        with suppress(OSError):
            (folder / name).rmdir()
