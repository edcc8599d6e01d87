"""The way of a task's linear probe, computed once from its frozen features."""

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lpft.errors import InputError
from lpft.experiments.kept_results import STEPS, keep_result, read_result, run_identity
from lpft.experiments.recipe import Found
from lpft.experiments.recipes.reopening import reopen
from lpft.report.numbers import number
from lpft.results.run import Run
from lpft.training.history import path_rows
from lpft.training.probing import probing_path

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProbedPath:
    """Rows of :func:`~lpft.training.history.path_rows`, and what was fitted.

    ``inverse_strength`` is the one that the run's cross-validation chose; ``stop`` is the iteration
    at which the paper's tolerance ends the fit.
    """

    inverse_strength: float
    stop: int
    rows: list[dict[str, float]]


def keep_probing_paths(found: Found) -> None:
    """Compute the path of each task that has a probed run, unless it is kept already.

    Neither rows nor folds depend on the seed, so that one run of a task stands for all.

    Raises:
        InputError: a run's data or model cannot be read, or changed since.
    """
    for task, run in _probed_runs(found).items():
        keep_result(_file(found, task), run_identity(run), ProbedPath, partial(_follow, run))


def read_probing_paths(found: Found) -> dict[str, tuple[Run, ProbedPath]]:
    """By task the run that was followed and its kept path; a task without one is absent."""
    kept = {
        task: (run, read_result(_file(found, task), run_identity(run), ProbedPath))
        for task, run in _probed_runs(found).items()
    }
    return {task: (run, path) for task, (run, path) in kept.items() if path is not None}


def _probed_runs(found: Found) -> dict[str, Run]:
    """One run of each task whose head came from linear probing."""
    runs: dict[str, Run] = {}
    for (_, task, _, _), run in found.runs.items():
        if run.record.probe:
            runs.setdefault(task, run)
    return {task: runs[task] for task in found.scope.tasks if task in runs}


def _follow(run: Run) -> ProbedPath:
    strength = number((run.record.probe or {}).get("inverse_strength"))
    if strength is None:
        raise InputError(
            f"run.json of '{run.folder}' lacks the strength of its linear probe: train it again"
        )
    logger.info("following the linear probe of %s", run.name)
    reopened = reopen(run)
    train, validation = (reopened.inputs(split) for split in ("train", "validation"))
    settings = reopened.config.training
    path = probing_path(
        train.pretrained,
        train.labels,
        len(reopened.data.classes),
        inverse_strength=strength,
        fit_bias=settings.head_bias,
        class_weight=settings.class_weight,
    )
    rows = path_rows(
        path,
        (train.pretrained, train.labels),
        (validation.pretrained, validation.labels),
    )
    return ProbedPath(strength, path.stop, rows)


def _file(found: Found, task: str) -> Path:
    return found.scope.folder / STEPS / f"probing-{task}.json"
