"""Resuming a run or a sweep: what must not have changed, and what is finished already."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from lpft.data import TextData, fingerprint, load_data
from lpft.errors import InputError, named
from lpft.files import check_model_path
from lpft.results.folder import clear, locked, now, read_if_there, read_record
from lpft.results.schema import (
    ERRORS,
    DataRecord,
    Fingerprints,
    Part,
    Record,
    RunMetrics,
    RunRecord,
    UnusableRecord,
    is_inside,
)
from lpft.settings import MINILM, DataSettings, OutputSettings, TrainingSettings
from lpft.settings.configs import CANDIDATES, RunConfig, changed
from lpft.settings.fields import Decides

logger = logging.getLogger(__name__)

WAITING = "waiting"

State = Literal["finished", "failed", "skipped"]


@dataclass(frozen=True)
class RunResult:
    """A finished run: its folder, and what its ``metrics.json`` holds."""

    folder: Path
    metrics: dict[str, Any]


def finished_run(config: RunConfig, record: RunRecord) -> RunResult | None:
    """The run that ``record`` describes if it is finished; None if it must be continued.

    Raises:
        InputError: as :func:`check_continues`, or it is damaged.
    """
    check_continues(config, record)
    if record.status != "finished":
        return None
    return RunResult(config.output_dir, read_metrics(config.output_dir))


def check_continues(config: RunConfig, record: RunRecord) -> None:
    """Refuse to go on with a run, or to leave a finished one, as another one than it was.

    Raises:
        InputError: the run has other settings, or lacks files that ``config`` asks for.
    """
    folder = config.output_dir
    if not record.began:
        return
    check_same_settings(folder, record.config, config.flat())
    check_same_output(folder, record.config, config.output, finished=record.status == "finished")


def check_same_output(
    folder: Path, recorded: Mapping[str, Any], settings: OutputSettings, *, finished: bool
) -> None:
    """Refuse to go on with a run, or to reuse a finished one, that lacks what is asked for now.

    That is checkpoints, weights, features or another threshold; and to reuse one with texts where
    these shall be left out. The candidates that it was chosen from are searched for texts too.

    Raises:
        InputError: a setting differs from the ``recorded`` one.
    """
    checkpoints = recorded.get("keep_checkpoints", False)
    if settings.keep_checkpoints != checkpoints and (settings.keep_checkpoints or not finished):
        with_or_without = "with" if checkpoints else "without"
        same = "give it" if checkpoints else "leave it out"
        raise InputError(
            f"'{folder}' was started {with_or_without} {named('keep_checkpoints=True')}: {same}, "
            f"or give {named('overwrite=True')} to train it again"
        )
    if not finished:
        return
    saved = recorded.get("save_model", True)
    if settings.save_model and not saved:
        raise InputError(
            f"'{folder}' is finished, but its weights were not saved: give "
            f"{named('save_model=False')} to leave it as it is, or {named('overwrite=True')} to "
            "train it again"
        )
    if settings.save_features and not recorded.get("save_features", False):
        raise InputError(
            f"'{folder}' is finished, but its features were not saved: leave out "
            f"{named('save_features')}, or give {named('overwrite=True')} to train it again"
        )
    for name in ("target_accuracy", "target_coverage", "abstain_below"):
        earlier, requested = recorded.get(name), getattr(settings, name)
        if requested is not None and requested != earlier:
            how = f"without {named(name)}" if earlier is None else f"with {named(name)} {earlier}"
            raise InputError(
                f"'{folder}' is finished, {how}: leave it out and give lpft "
                f"predict {named(name)} {requested}, or give {named('overwrite=True')} to train it "
                "again"
            )
    if not settings.texts_in_report and recorded.get("texts_in_report", False):
        files = [folder / ERRORS, *sorted(folder.glob(f"{CANDIDATES}/*/{ERRORS}"))]
        files_with_texts = [str(path.relative_to(folder)) for path in files if path.is_file()]
        if files_with_texts:
            raise InputError(
                f"'{folder}' is finished, with texts in {', '.join(files_with_texts)}: remove what "
                f"is named, or give {named('overwrite=True')} to train it again"
            )
    if saved and not settings.save_model:
        logger.info("%s has its weights already, which stay", folder)


def read_metrics(folder: Path) -> dict[str, Any]:
    """``metrics.json`` of a finished run.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        return RunMetrics.read(folder).as_json()
    except UnusableRecord as problem:
        raise InputError(
            f"the run in '{folder}' is damaged ({problem}): train it again"
        ) from problem


def check_same_settings(
    folder: Path,
    recorded: Mapping[str, Any],
    current: Mapping[str, Any],
    decides: Decides = Decides.RUN,
) -> None:
    """Refuse to resume a run, or kernels, with settings that change the result.

    Raises:
        InputError: a setting that ``decides`` it differs from the recorded one.
    """
    for name, (before, after) in changed(recorded, current, decides).items():
        started = f"with {named(name)} {before}" if before is not None else f"without {named(name)}"
        raise InputError(
            f"'{folder}' cannot be resumed: it was started {started}, now it is "
            f"{'not given' if after is None else after}; give the same settings, "
            f"{named('overwrite=True')} to replace it, or another {named('output_dir')}"
        )


def check_same_inputs(folder: Path, recorded: Fingerprints | None, current: Fingerprints) -> None:
    """Refuse to resume a run, or kernels, with other data or weights.

    Raises:
        InputError: a fingerprint in ``current`` is not the recorded one.
    """
    for name, value in current.model_dump(exclude_unset=True).items():
        what, source = ("data", "file") if name == "data" else ("model's weights", "model")
        earlier = getattr(recorded, name, None)
        if earlier == value:
            continue
        reason = (
            f"the {what} changed since it was started, or another {source} is named now: restore "
            "or name the same"
            if earlier
            else f"its record has no fingerprint of the {what}: use another {named('output_dir')}"
        )
        raise InputError(
            f"'{folder}' cannot be resumed: {reason}, or start again with {named('overwrite=True')}"
        )


def check_inputs_of_finished(
    folder: Path,
    record: RunRecord,
    settings: DataSettings,
    training: TrainingSettings,
    read: Callable[[DataSettings], TextData] = load_data,
) -> None:
    """Refuse to reuse a finished run that was trained on other data or from another model.

    The run's own files may be gone, as nothing reads them any more; newly named ones must exist.

    Raises:
        InputError: the data or the weights are not those of the run, or cannot be read.
    """
    before = DataSettings.read_own(record.config)
    model = TrainingSettings.read_own(record.config)
    files = [name for name, item in DataSettings.fields().items() if item.fingerprinted]
    other_files = any(getattr(settings, name) != getattr(before, name) for name in files)
    other_model = (training.model, training.revision) != (model.model, model.revision)
    if settings.task is not None and not other_model:
        return  # the data of a task does not change
    try:
        data = read(settings)
    except InputError:
        if other_files or other_model:
            raise
        return
    check_same_inputs(folder, record.fingerprints, Fingerprints(data=fingerprint(data)))
    if other_model:
        from lpft.model.inference import encoder_fingerprint
        from lpft.model.loading import fresh_classifier

        if training.model != MINILM:
            check_model_path(training.model)
        encoder = encoder_fingerprint(fresh_classifier(data, training).model)
        check_same_inputs(folder, record.fingerprints, Fingerprints(encoder=encoder))


def recorded_data(
    run: Path,
    record: RunRecord,
    *,
    data_dir: Path | None = None,
    splits: Collection[str] | None = None,
) -> TextData:
    """The data that a run was trained on; ``splits`` must be unchanged (default: all of them).

    Raises:
        InputError: a file is missing, or its texts or labels changed.
    """
    values = dict(record.config)
    if data_dir is not None:
        values["data_dir"] = data_dir
    data = load_data(DataSettings.read_own(values))
    known = {} if record.fingerprints is None else record.fingerprints.data
    for split, value in fingerprint(data).items():
        if known.get(split) != value and (splits is None or split in splits):
            raise InputError(
                f"the {split} data of '{run}' changed since it was trained, or its record has no "
                "fingerprint of them: restore the files, or train it again"
            )
    return data


def earlier_parts(record: RunRecord | None, environment: Mapping[str, Any]) -> list[dict[str, Any]]:
    """When and where the earlier parts of a resumed run were computed; empty for a new run.

    A warning says what differs from the present ``environment``: it may change the last digits.
    """
    if record is None:
        return []
    last = {name: getattr(record, name) for name in ("started", *environment)}
    others = [name for name, value in environment.items() if last[name] != value]
    if others:
        logger.warning(
            "the run began with other %s: its last digits may differ from those of a run in one "
            "piece",
            " and ".join(others),
        )
    return [*record.earlier, last]


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
    """The sweep's folder, and the outcome of every run, in order."""

    folder: Path
    outcomes: tuple[RunOutcome, ...]

    @property
    def failed(self) -> tuple[RunOutcome, ...]:
        return tuple(outcome for outcome in self.outcomes if outcome.state == "failed")

    def as_json(self) -> dict[str, Any]:
        """``{"folder", "runs": [{"folder", "state", "reason", "seconds"}]}``."""
        runs = [asdict(outcome) | {"folder": str(outcome.folder)} for outcome in self.outcomes]
        return {"folder": str(self.folder), "runs": runs}


class SweepEntry(Part):
    """A run of a sweep: ``waiting``, or how it ended."""

    state: str = WAITING
    reason: str | None = None
    seconds: float | None = None


class SweepRecord(Record):
    """``sweep.json``: the runs of a sweep and how each ended, written after every one of them.

    A sweep that was killed while it replaced older runs goes on replacing those that began before
    it did.
    """

    FILE = "sweep.json"
    SCHEMA = 1
    WRITER = "lpft sweep"

    schema_number: int = Field(SCHEMA, alias="schema")
    started: str
    overwrite: bool
    runs: dict[str, SweepEntry]
    executor: str = "local"
    workers: int = 1

    def replaces(self, run: Path) -> bool:
        """Whether the run in that folder is one that this sweep has still to replace.

        Raises:
            InputError: its record is damaged.
        """
        record = read_record(run) if self.overwrite else None
        return record is not None and record.started < self.started

    def add(self, folder: Path, outcome: RunOutcome) -> None:
        """Record how a run of the sweep in ``folder`` ended."""
        self.runs[run_name(folder, outcome.folder)] = SweepEntry(
            state="finished" if outcome.state == "skipped" else outcome.state,
            reason=outcome.reason,
            seconds=outcome.seconds,
        )
        self.write(folder)


def start_record(
    folder: Path,
    runs: Sequence[Path],
    *,
    executor: str,
    workers: int,
    resume: bool,
    overwrite: bool,
) -> None:
    """Go on with the sweep of ``folder``, or begin a record of ``runs``, the output folders.

    Runs of a replaced sweep that are not in the new one are removed.

    Raises:
        InputError: the folder's record is damaged.
    """
    earlier = read_sweep(folder)
    names = [run_name(folder, run) for run in runs]
    if resume and earlier is not None:
        record = earlier  # with its time: runs that began before it are still to be replaced
    else:
        if earlier is not None:
            _remove_runs(folder, set(earlier.runs) - set(names))
        # Finer than in a run's record, so that no run of the same second counts as replaced.
        started = datetime.now(UTC).isoformat()
        record = SweepRecord(schema=1, started=started, overwrite=overwrite, runs={})
    waiting = SweepEntry(state=WAITING, reason=None, seconds=None)
    entries = record.runs | {name: waiting for name in names if name not in record.runs}
    changes = {"runs": entries, "executor": executor, "workers": workers}
    record.model_copy(update=changes).write(folder)


def read_sweep(folder: Path) -> SweepRecord | None:
    """``sweep.json`` of a folder, or None where there is none.

    Raises:
        InputError: the file is damaged or not the record of a sweep.
    """
    advice = f"restore its record, or name another {named('output_dir')}"
    return read_if_there(SweepRecord, folder, "a sweep", advice)


def record_failure(config: RunConfig, reason: str) -> None:
    """Record in a run's folder why it failed, where the run itself could not.

    That is where its data or model could not be read, or its process died. A folder that another
    process holds, or that has files of something else, is left alone.
    """
    folder = config.output_dir
    with suppress(InputError, OSError):
        record = read_record(folder)
        if record is None and folder.exists() and any(folder.iterdir()):
            return
        if record is not None and record.began:
            check_same_settings(folder, record.config, config.flat())
            if record.status != "running":
                return
        else:
            record = RunRecord(
                status="failed",
                started=now(),
                config=config.flat(),
                config_hash=config.hash(),
                data=DataRecord(),
                files=[],
            )
        with locked(folder):
            record.updated(status="failed", reason=reason).write(folder)


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
