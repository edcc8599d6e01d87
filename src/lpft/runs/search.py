"""Grid search on validation: each cell of a sweep at every point on one seed, then the best."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lpft.files import write_json
from lpft.results.folder import read_record
from lpft.results.resume import read_metrics
from lpft.results.sweep import RunOutcome, SweepResult
from lpft.runs.sweep import begin_sweep, run_sweep
from lpft.runs.sweep_config import RUNS, SEARCH, Cell, Grid, Point, SweepConfig
from lpft.runs.sweep_tables import describe_choice

logger = logging.getLogger(__name__)

SEARCH_RECORD = "search.json"
"""Marks the folder of a search: reports on the sweep leave the runs in it out."""


def train_sweep(
    sweep: SweepConfig,
    folder: Path,
    *,
    executor: str = "local",
    workers: int = 1,
    resume: bool = False,
    overwrite: bool = False,
) -> SweepResult:
    """Search where the sweep has a grid, then train every cell with every seed at its best point.

    The best point has the highest value of the task's metric on validation at the best epoch, as
    in the paper; of equal ones it is the first. Where no point could be trained, the cell's runs
    count as failed. ``search/search.json`` has every point with its value.

    Raises:
        InputError: as :func:`~lpft.runs.sweep.run_sweep`.
    """
    runs = sweep.runs(folder)
    how: dict[str, Any] = {"executor": executor, "workers": workers}
    if sweep.grid is None:
        return run_sweep(runs, folder=folder, **how, resume=resume, overwrite=overwrite)
    # Both records before any run, so that a sweep that was killed knows what it replaces.
    begin_sweep(runs, folder=folder, **how, resume=resume, overwrite=overwrite)
    points = sweep.points(folder)
    tried = [point.config for group in points.values() for point in group]
    begin_sweep(tried, folder=folder / SEARCH, **how, resume=resume, overwrite=overwrite)
    _write(folder, sweep.grid, [])
    found = run_sweep(tried, folder=folder / SEARCH, **how, resume=True)
    outcomes = {outcome.folder: outcome for outcome in found.outcomes}
    searched = {
        cell.name: _search_record(cell, points[cell.name], outcomes)
        for cell in sweep.cells
        if cell.name in points
    }
    _write(folder, sweep.grid, list(searched.values()))
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
    return run_sweep(best, folder=folder, **how, resume=True, impossible=impossible)


def read_search(folder: Path) -> dict[str, Any] | None:
    """``search.json`` of a sweep's folder, or None where it searched nothing."""
    path = folder / SEARCH / SEARCH_RECORD
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _write(folder: Path, grid: Grid, cells: Sequence[dict[str, Any]]) -> None:
    write_json(folder / SEARCH / SEARCH_RECORD, {"seed": grid.seed, "cells": list(cells)})


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
    metric = record["metric"]
    return metric, read_metrics(folder)["splits"]["validation"][metric]
