"""Many runs in one folder: a failure is recorded and stops no other run; a grid is searched first.

:func:`train_sweep` trains what a :class:`~lpft.runs.sweep_config.SweepConfig` describes,
:func:`run_sweep` any runs.
"""

import gc
import json
import logging
import traceback
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import Any

from lpft.data import TextData, check_data, load_data
from lpft.data.checks import log_findings
from lpft.errors import InputError, explain, unexpected
from lpft.executors import get_executor
from lpft.files import write_json
from lpft.results.folder import (
    SEARCH_RECORD,
    check_output,
    check_restart,
    locked,
    read_record,
    results_found,
    wait_until_free,
)
from lpft.results.formats import duration
from lpft.results.resume import (
    RunOutcome,
    State,
    SweepRecord,
    SweepResult,
    check_continues,
    check_inputs_of_finished,
    finished_run,
    read_metrics,
    read_sweep,
    record_failure,
    run_name,
    start_record,
)
from lpft.runs.sweep_config import RUNS, SEARCH, Cell, Point, SweepConfig
from lpft.runs.train import train_run
from lpft.settings import DataSettings
from lpft.settings.configs import RunConfig, command_settings
from lpft.settings.methods import get_method

logger = logging.getLogger(__name__)

_DIED = (
    "its process died, as it does where memory runs out: lower --batch-size or --workers, then go "
    "on with --resume"
)


SECONDS_TO_END = 120
"""How long a run's folder may still be held by a worker whose sweep was killed, or by a machine
that was lost: a disk that is shared by NFS keeps its locks for up to 90 seconds."""


@dataclass(frozen=True)
class Attempt:
    """A run to train: go on with what its folder holds, or replace it.

    A run is replaced that began ``replaces_before`` this time, so that a second attempt, after the
    machine of the first was lost, goes on with what the first left. ``fine_tunes`` is whether any
    run on the same data does: warnings about the data are logged once for all of them.
    """

    config: RunConfig
    replaces_before: str | None = None
    fine_tunes: bool = True


def train_sweep(
    sweep: SweepConfig,
    folder: Path,
    *,
    executor: str = "local",
    workers: int = 1,
    cpus_per_run: float | None = None,
    gpus_per_run: float | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> SweepResult:
    """Search where the sweep has a grid, then train every cell with every seed at its best point.

    The best point has the highest value of the task's metric on validation at the best epoch, as
    in the paper; of equal ones it is the first. Where no point could be trained, the cell's runs
    count as failed. ``search/search.json`` has every point with its value.

    Raises:
        InputError: as :func:`run_sweep`.
    """
    runs = sweep.runs(folder)
    how: dict[str, Any] = {"executor": executor, "workers": workers}
    how |= {"cpus_per_run": cpus_per_run, "gpus_per_run": gpus_per_run}
    if sweep.grid is None:
        return run_sweep(runs, folder=folder, **how, resume=resume, overwrite=overwrite)
    points = sweep.points(folder)
    if resume:  # before search.json begins anew
        _check_begun([p.config for group in points.values() for p in group], folder / SEARCH)
    # Both records are written before any run, so that a killed sweep knows what it replaces.
    begin_sweep(runs, folder=folder, **how, resume=resume, overwrite=overwrite)
    searched = search_grid(
        sweep.cells,
        points,
        seed=sweep.grid.seed,
        folder=folder,
        how=how,
        resume=resume,
        overwrite=overwrite,
    )
    best, impossible = [], {}
    for cell in sweep.cells:
        record = searched.get(cell.name)
        chosen = None if record is None else record["chosen"]
        for seed in sweep.seeds:
            config = cell.config(folder / RUNS, seed, chosen)
            best.append(config)
            if record is not None and chosen is None:
                reason = record["points"][0]["reason"]
                impossible[config.output_dir] = f"no point of the grid could be trained: {reason}"
    # It resumes its own record, which says which runs of an older sweep are still to be replaced.
    return run_sweep(best, folder=folder, **how, resume=True, impossible=impossible)


def search_grid(
    cells: Sequence[Cell],
    points: Mapping[str, Sequence[Point]],
    *,
    seed: int,
    folder: Path,
    how: Mapping[str, Any],
    resume: bool,
    overwrite: bool = False,
) -> dict[str, dict[str, Any]]:
    """Try the points of cells, by the cells' names, with one seed, and choose the best of each.

    Runs and ``search.json`` go to ``folder/search``. ``how`` has executor and workers, as
    :func:`run_sweep` takes them. What is returned is what ``search.json`` has of each cell that has
    points: ``chosen`` (None where no point could be trained), ``points``, ``tied``.

    Raises:
        InputError: as :func:`run_sweep`.
    """
    tried = [point.config for group in points.values() for point in group]
    begin_sweep(tried, folder=folder / SEARCH, **how, resume=resume, overwrite=overwrite)
    _write(folder, seed, [])
    search = run_sweep(tried, folder=folder / SEARCH, **how, resume=True)
    outcomes = {outcome.folder: outcome for outcome in search.outcomes}
    searched = {
        cell.name: _search_record(cell, points[cell.name], outcomes)
        for cell in cells
        if cell.name in points
    }
    _write(folder, seed, list(searched.values()))
    return searched


def read_search(folder: Path) -> dict[str, Any] | None:
    """``search.json`` of a sweep's folder, or None where it searched nothing."""
    path = folder / SEARCH / SEARCH_RECORD
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def describe_choice(cell: Mapping[str, Any]) -> str:
    """The chosen point of a cell of ``search.json`` in words."""
    if cell["chosen"] is None:
        return "nothing: no point of the grid could be trained"
    settings = ", ".join(f"{name} {value}" for name, value in cell["chosen"].items())
    best = max(point["score"] for point in cell["points"] if point["score"] is not None)
    tied = f", the first of {cell['tied']} that tie" if cell["tied"] > 1 else ""
    return f"{settings} ({cell['metric']} {best:.3f}{tied})"


def run_sweep(
    configs: Sequence[RunConfig],
    *,
    folder: Path,
    executor: str = "local",
    workers: int = 1,
    cpus_per_run: float | None = None,
    gpus_per_run: float | None = None,
    resume: bool = False,
    overwrite: bool = False,
    impossible: Mapping[Path, str] | None = None,
) -> SweepResult:
    """Train every run, ``workers`` at a time, and record in ``folder`` how each of them ended.

    A run that fails, for whatever reason, does not stop the others. With ``resume`` finished runs
    are left as they are, failed and interrupted ones are tried again; with ``overwrite`` all are
    trained again, and runs of an older sweep in ``folder`` that ``configs`` lacks are removed.
    A run that was begun with other settings stops a resumed sweep before it trains: otherwise its
    runs would be of the old settings and of the new ones.

    Args:
        configs: the runs; those that are equal, folder included, are run once.
        executor: a name of :data:`lpft.executors.EXECUTORS`. Programs that ask for several
            local workers start new processes, so they need ``if __name__ == "__main__"``.
        cpus_per_run: threads of each run (default: an equal share of all cores).
        gpus_per_run: of each run, below 1 for several on one GPU (default: an equal share, at most
            one).
        impossible: output folders of runs that cannot be tried, and why; they count as failed.

    Raises:
        InputError: two different runs have one folder, the executor cannot be used, or a folder
            holds results that the call does not resume or replace. Nothing is begun then.
    """
    if resume:
        _check_begun(configs, folder)
    begin_sweep(
        configs,
        folder=folder,
        executor=executor,
        workers=workers,
        cpus_per_run=cpus_per_run,
        gpus_per_run=gpus_per_run,
        resume=resume,
        overwrite=overwrite,
    )
    runs = distinct_runs(configs)
    reasons = {} if impossible is None else impossible
    _data_read.clear()  # files may have changed since an earlier sweep
    with locked(folder):
        record = read_sweep(folder)
        assert record is not None, "the sweep has begun"
        progress = _Progress(folder, record, runs, workers)
        todo, attempts = [], []
        fine_tuned = {
            repr(config.data) for config in runs if get_method(config.training.method).fine_tunes
        }
        for config in runs:
            planned = _plan(config, record, reasons.get(config.output_dir))
            if isinstance(planned, Attempt):
                todo.append(config)
                attempts.append(replace(planned, fine_tunes=repr(config.data) in fine_tuned))
            else:
                progress.add(config, planned)
        logger.info("%d runs in '%s', %d of them to do", len(runs), folder, len(todo))
        execute = get_executor(executor, workers, cpus=cpus_per_run, gpus=gpus_per_run)
        with closing(execute(attempt, attempts)) as ends:
            for position, outcome in ends:
                config = todo[position]
                if outcome is None:
                    outcome = RunOutcome(config.output_dir, "failed", _DIED, None)
                # A worker knows the folder by its absolute path.
                progress.add(config, replace(outcome, folder=config.output_dir))
    outcomes = tuple(progress.outcomes[config.output_dir] for config in runs)
    return SweepResult(folder, outcomes)


def begin_sweep(
    configs: Sequence[RunConfig],
    *,
    folder: Path,
    executor: str,
    workers: int,
    cpus_per_run: float | None = None,
    gpus_per_run: float | None = None,
    resume: bool,
    overwrite: bool,
) -> None:
    """Check a sweep and write its record, from which :func:`run_sweep` can then go on.

    Raises:
        InputError: as :func:`run_sweep`.
    """
    folders = [config.output_dir for config in distinct_runs(configs)]
    get_executor(executor, workers, cpus=cpus_per_run, gpus=gpus_per_run)
    _check_output(folder, folders, resume=resume, overwrite=overwrite)
    with locked(folder):
        start_record(
            folder, folders, executor=executor, workers=workers, resume=resume, overwrite=overwrite
        )


def distinct_runs(configs: Sequence[RunConfig]) -> list[RunConfig]:
    """One run for each folder, in their order; those of one folder agree in every setting.

    Raises:
        InputError: there is none, or two different runs have one folder.
    """
    if not configs:
        raise InputError("the sweep has no runs: expected at least one")
    runs: dict[Path, RunConfig] = {}
    for config in configs:
        first = runs.setdefault(config.output_dir.resolve(), config).flat()
        other = config.flat()
        differing = next((name for name in first if first[name] != other[name]), None)
        if differing is not None:
            raise InputError(
                f"two runs have the folder '{config.output_dir}', one with "
                f"{differing.replace('_', '-')} {first[differing]} and one with "
                f"{other[differing]}: give each a folder of its own"
            )
    return list(runs.values())


def _check_output(folder: Path, runs: Sequence[Path], *, resume: bool, overwrite: bool) -> None:
    """Refuse folders with results that the user did not ask to resume or replace."""
    check_restart(folder, resume=resume, overwrite=overwrite)
    if read_sweep(folder) is not None and not (resume or overwrite):
        raise results_found(folder, "a sweep")
    if not resume:
        for run in runs:
            check_output(run, resume=False, overwrite=overwrite)


def _check_begun(runs: Sequence[RunConfig], folder: Path) -> None:
    """Refuse to resume a sweep with other settings than those with which its runs were begun."""
    sweep = read_sweep(folder)
    for config in runs:
        try:
            record = read_record(config.output_dir)
            replaced = sweep is not None and sweep.replaces(config.output_dir)
        except InputError:
            continue  # a damaged record is a failure of that run
        if record is not None and not replaced:
            check_continues(config, record)


def _plan(config: RunConfig, record: SweepRecord, impossible: str | None) -> Attempt | RunOutcome:
    """The attempt of a run, or its outcome where it is finished or cannot be tried."""
    folder = config.output_dir
    if impossible is not None:
        return RunOutcome(folder, "failed", impossible, None)
    # Workers may have another working folder.
    resolved = replace(config, output_dir=folder.resolve())
    try:
        if record.replaces(folder):
            return Attempt(resolved, replaces_before=record.started)
        run = read_record(folder)
        if run is None or finished_run(config, run) is None:
            return Attempt(resolved)
        fine_tunes = get_method(config.training.method).fine_tunes
        read = partial(_read_data, fine_tunes=fine_tunes)
        check_inputs_of_finished(folder, run, config.data, config.training, read)
    except InputError as error:
        return RunOutcome(folder, "failed", str(error), None)
    return RunOutcome(folder, "skipped", None, run.timings.get("total"))


class _Progress:
    """The outcomes so far: on disk, in memory, and logged in a line each."""

    def __init__(
        self, folder: Path, record: SweepRecord, runs: Sequence[RunConfig], workers: int
    ) -> None:
        self._folder, self._record = folder, record
        self._remaining = {config.output_dir: config for config in runs}
        self._estimate = TimeEstimate(workers)
        self.outcomes: dict[Path, RunOutcome] = {}

    def add(self, config: RunConfig, outcome: RunOutcome) -> None:
        del self._remaining[outcome.folder]
        self.outcomes[outcome.folder] = outcome
        self._record.add(self._folder, outcome)
        if outcome.reason is not None:
            record_failure(config, outcome.reason)
        elif outcome.seconds is not None:
            self._estimate.add(config, outcome.seconds)
        if outcome.state == "skipped":
            return
        name = run_name(self._folder, outcome.folder)
        count = f"{len(self.outcomes)} of {len(self.outcomes) + len(self._remaining)}"
        time_left = self._estimate.describe(list(self._remaining.values()))
        if outcome.reason is not None:
            logger.warning("%s: %s failed: %s; %s", count, name, outcome.reason, time_left)
        elif outcome.seconds is not None:
            elapsed = duration(outcome.seconds)
            logger.info("%s: %s finished in %s; %s", count, name, elapsed, time_left)


class TimeEstimate:
    """How long the remaining runs will take, by the mean time of finished runs of their kind.

    Runs are of one kind if they agree in every setting that decides how long they take; where none
    of a kind has finished, runs of the same method stand in for it.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._seconds: dict[str, list[float]] = defaultdict(list)

    def add(self, config: RunConfig, seconds: float) -> None:
        for kind in _kinds(config):
            self._seconds[kind].append(seconds)

    def describe(self, configs: Sequence[RunConfig]) -> str:
        """A clause on the time that ``configs`` will take, and how well it is known."""
        if not configs:
            return "none left"
        expected = [self._expected(config) for config in configs]
        known = [seconds for seconds in expected if seconds is not None]
        if len(known) < len(expected):
            return f"{len(configs)} left, too early to say how long they take"
        about = duration(max(sum(known) / self._workers, *known))
        untimed = {_kinds(config)[0] for config in configs} - set(self._seconds)
        if untimed:
            return f"perhaps {about} left (kinds of run not timed yet: {len(untimed)})"
        return f"about {about} left"

    def _expected(self, config: RunConfig) -> float | None:
        kind = next((kind for kind in _kinds(config) if kind in self._seconds), None)
        return None if kind is None else fmean(self._seconds[kind])


def _kinds(config: RunConfig) -> tuple[str, str]:
    """From the narrowest kind to the widest."""
    known = command_settings("train")
    settings = {name: v for name, v in config.flat().items() if not known[name].same_time}
    return json.dumps(settings), config.training.method


def attempt(task: Attempt) -> RunOutcome:
    """Train a run in this process; any error becomes a reason.

    Consecutive runs with the same data read it once, and log its warnings once.
    """
    logger.info("training %s", task.config.output_dir)
    started = perf_counter()
    reason, folder = None, task.config.output_dir
    wait_until_free(folder, SECONDS_TO_END)
    try:
        data = _read_data(task.config.data, fine_tunes=task.fine_tunes)
        replaces = False
        if task.replaces_before is not None:
            record = read_record(folder)
            replaces = record is not None and record.started < task.replaces_before
        train_run(
            task.config,
            data=data,
            resume=not replaces,
            overwrite=replaces,
            log_label_errors=False,
        )
    except Exception as error:
        known = explain(error)
        if known is not None:
            reason = str(known)
        else:
            where = traceback.extract_tb(error.__traceback__)[-1]
            reason = f"{unexpected(error)} ({Path(where.filename).name}, line {where.lineno})"
    gc.collect()
    state: State = "finished" if reason is None else "failed"
    return RunOutcome(folder, state, reason, perf_counter() - started)


_data_read: dict[str, TextData] = {}  # the data of the last attempt, by its settings


def _read_data(settings: DataSettings, *, fine_tunes: bool) -> TextData:
    key = repr(settings)
    if key not in _data_read:
        _data_read.clear()
        data = load_data(settings)
        log_findings(check_data(data, fine_tunes=fine_tunes), data.name)
        _data_read[key] = data
    return _data_read[key]


def _write(folder: Path, seed: int, cells: Sequence[dict[str, Any]]) -> None:
    write_json(folder / SEARCH / SEARCH_RECORD, {"seed": seed, "cells": list(cells)})


def _search_record(
    cell: Cell, points: Sequence[Point], outcomes: Mapping[Path, RunOutcome]
) -> dict[str, Any]:
    """Every point of a cell with its value, and the best one, None where there is none."""
    tried: list[dict[str, Any]] = []
    metric = None
    for point in points:
        outcome = outcomes[point.config.output_dir]
        score = None
        if outcome.reason is None:
            metric, score = _score(outcome.folder)
        tried.append({"settings": point.settings, "score": score, "reason": outcome.reason})
    known = [entry["score"] for entry in tried if entry["score"] is not None]
    best = [entry for entry in tried if known and entry["score"] == max(known)]
    record = {
        "task": cell.task,
        "model": cell.model,
        "method": cell.method,
        "metric": metric,
        "chosen": best[0]["settings"] if best else None,
        "tied": len(best),
        "points": tried,
    }
    logger.info("%s: %s", cell.name, describe_choice(record))
    return record


def _score(folder: Path) -> tuple[str, float]:
    """The task's metric, and its value on validation at the best epoch."""
    record = read_record(folder)
    assert record is not None, "a finished run has its record"
    metric = record.metric
    return metric, read_metrics(folder)["splits"]["validation"][metric]
