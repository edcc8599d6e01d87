"""Many runs in one folder: failures are recorded and stop nothing, and what is done is kept."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from lpft.errors import InputError
from lpft.results.folder import check_output, check_restart, locked, read_record
from lpft.results.resume import finished_run
from lpft.results.sweep import (
    SWEEP_RECORD,
    RunOutcome,
    State,
    SweepRecord,
    SweepResult,
    read_sweep,
    record_failure,
    run_name,
    start_record,
)
from lpft.runs.attempt import Attempt, Ended, attempt, forget_data
from lpft.runs.executors import get_executor
from lpft.runs.remaining import Pace, duration
from lpft.settings.configs import RunConfig

logger = logging.getLogger(__name__)

_DIED = (
    "its process died, as it does where memory runs out: lower --batch-size or --workers, then go "
    "on with --resume"
)


def run_sweep(
    configs: Sequence[RunConfig],
    *,
    folder: Path,
    executor: str = "local",
    workers: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    impossible: Mapping[Path, str] | None = None,
) -> SweepResult:
    """Train every run, ``workers`` at a time, and record in ``folder`` how each of them ended.

    A run that fails, for whatever reason, does not stop the others. With ``resume`` finished runs
    are left as they are, failed and interrupted ones are tried again; with ``overwrite`` all are
    trained again, and runs of an older sweep in ``folder`` that are not asked for are removed.

    Args:
        configs: the runs; those that are equal, folder included, are run once.
        executor: a name of :data:`lpft.runs.executors.EXECUTORS`. Programs that ask for several
            local workers start new processes, so they need ``if __name__ == "__main__"``.
        impossible: output folders of runs that cannot be tried, and why; they count as failed.

    Raises:
        InputError: two different runs have one folder, the executor cannot be used, or a folder
            holds what nobody asked to resume or replace. Nothing is begun then.
    """
    begin_sweep(
        configs,
        folder=folder,
        executor=executor,
        workers=workers,
        resume=resume,
        overwrite=overwrite,
    )
    runs = distinct_runs(configs)
    reasons = {} if impossible is None else impossible
    forget_data()
    with locked(folder):
        record = SweepRecord(folder)
        settled = _Settled(folder, record, runs, workers)
        todo, attempts = [], []
        for config in runs:
            planned = _plan(config, record, reasons.get(config.output_dir))
            if isinstance(planned, Attempt):
                todo.append(config)
                attempts.append(planned)
            else:
                settled.add(config, planned)
        logger.info("%d runs in '%s', %d of them to do", len(runs), folder, len(todo))
        execute = get_executor(executor, workers)
        with closing(execute(attempt, attempts, workers)) as ends:
            for place, ended in ends:
                settled.add(todo[place], _outcome(todo[place], ended))
        return settled.result(runs)


def begin_sweep(
    configs: Sequence[RunConfig],
    *,
    folder: Path,
    executor: str,
    workers: int,
    resume: bool,
    overwrite: bool,
) -> None:
    """Check a sweep and write its record, from which :func:`run_sweep` can then go on.

    Raises:
        InputError: as :func:`run_sweep`.
    """
    folders = [config.output_dir for config in distinct_runs(configs)]
    get_executor(executor, workers)
    _check_output(folder, folders, resume=resume, overwrite=overwrite)
    with locked(folder):
        start_record(
            folder, folders, executor=executor, workers=workers, resume=resume, overwrite=overwrite
        )


def distinct_runs(configs: Sequence[RunConfig]) -> list[RunConfig]:
    """The runs in their order, each of them once.

    Raises:
        InputError: there is none, or two different runs have one folder.
    """
    if not configs:
        raise InputError("the sweep has no runs: expected at least one")
    runs: dict[Path, RunConfig] = {}
    for config in configs:
        one = runs.setdefault(config.output_dir.resolve(), config).flat()
        other = config.flat()
        differing = next((name for name in one if one[name] != other[name]), None)
        if differing is not None:
            raise InputError(
                f"two runs have the folder '{config.output_dir}', one with "
                f"{differing.replace('_', '-')} {one[differing]} and one with {other[differing]}: "
                "give each a folder of its own"
            )
    return list(runs.values())


def _check_output(folder: Path, runs: Sequence[Path], *, resume: bool, overwrite: bool) -> None:
    """Refuse folders that hold what nobody asked to resume or replace."""
    check_restart(folder, resume=resume, overwrite=overwrite)
    if read_sweep(folder) is not None and not (resume or overwrite):
        raise InputError(
            f"'{folder / SWEEP_RECORD}' is there: give --resume to go on with that sweep, "
            "--overwrite to replace it, or another --output-dir"
        )
    if not resume:
        for run in runs:
            check_output(run, resume=False, overwrite=overwrite)


def _plan(config: RunConfig, record: SweepRecord, impossible: str | None) -> Attempt | RunOutcome:
    """The attempt of a run, or its outcome where it is finished or cannot be tried."""
    folder = config.output_dir
    if impossible is not None:
        return RunOutcome(folder, "failed", impossible, None)
    # Workers may have another working folder.
    there = replace(config, output_dir=folder.resolve())
    try:
        if record.replaces(folder):
            return Attempt(there, replace=True)
        run = read_record(folder)
        if run is None or finished_run(config, run) is None:
            return Attempt(there, replace=False)
    except InputError as error:
        return RunOutcome(folder, "failed", str(error), None)
    return RunOutcome(folder, "skipped", None, run.get("timings", {}).get("total"))


def _outcome(config: RunConfig, ended: Ended | None) -> RunOutcome:
    if ended is None:
        return RunOutcome(config.output_dir, "failed", _DIED, None)
    state: State = "finished" if ended.reason is None else "failed"
    return RunOutcome(config.output_dir, state, ended.reason, ended.seconds)


class _Settled:
    """The outcomes so far: recorded, remembered, and told in a line each."""

    def __init__(
        self, folder: Path, record: SweepRecord, runs: Sequence[RunConfig], workers: int
    ) -> None:
        self._folder, self._record, self._workers = folder, record, workers
        self._left = {config.output_dir: config for config in runs}
        self._pace = Pace()
        self._outcomes: dict[Path, RunOutcome] = {}

    def add(self, config: RunConfig, outcome: RunOutcome) -> None:
        """How a run ended."""
        del self._left[outcome.folder]
        self._outcomes[outcome.folder] = outcome
        self._record.add(outcome)
        if outcome.reason is not None:
            record_failure(config, outcome.reason)
        elif outcome.seconds is not None:
            self._pace.add(config, outcome.seconds)
        if outcome.state == "skipped":
            return
        name = run_name(self._folder, outcome.folder)
        place = f"{len(self._outcomes)} of {len(self._outcomes) + len(self._left)}"
        left = self._pace.left(list(self._left.values()), self._workers)
        if outcome.reason is not None:
            logger.warning("%s: %s failed: %s; %s", place, name, outcome.reason, left)
        elif outcome.seconds is not None:
            taken = duration(outcome.seconds)
            logger.info("%s: %s finished in %s; %s", place, name, taken, left)

    def result(self, runs: Sequence[RunConfig]) -> SweepResult:
        """Every outcome, in the order of ``runs``."""
        return SweepResult(
            self._folder, tuple(self._outcomes[config.output_dir] for config in runs)
        )
