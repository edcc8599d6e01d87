"""One experiment of the paper from its plan to its page; what fails is recorded and left out."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from pydantic_core import to_jsonable_python

from lpft.errors import InputError, explain, unexpected
from lpft.experiments.collecting import Failures, collect
from lpft.experiments.differences import differences
from lpft.experiments.planning import RUNS
from lpft.experiments.preparation import (
    Inputs,
    check_data,
    check_folder,
    check_resumable,
    clear_experiment,
    matching_kernels,
    run_configs,
    unique_runs,
)
from lpft.experiments.recipe import Plan, Recipe, Scope, Shown
from lpft.experiments.taking_over import take_over
from lpft.files import write_json
from lpft.report import build_report
from lpft.results.exhibits import RECORD, ExperimentRecord
from lpft.results.folder import locked
from lpft.runs.executors import get_executor
from lpft.runs.kernels import compute_kernels
from lpft.runs.sweep import run_sweep

logger = logging.getLogger(__name__)

_UNFINISHED = "the experiment is at work, or was killed: go on with it by lpft reproduce --resume"


@dataclass(frozen=True)
class Reproduction:
    """A finished experiment: its record as ``experiment.json`` has it, its folder and its page."""

    record: ExperimentRecord
    folder: Path
    page: Path


def reproduce(
    recipe: Recipe,
    scope: Scope,
    *,
    executor: str = "local",
    workers: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    remarks: Sequence[str] = (),
    inputs: Inputs | None = None,
    siblings: Sequence[Path] = (),
) -> Reproduction:
    """Do what a recipe plans within a scope, and write ``experiment.json`` and the report.

    A run, a kernel or a step that fails is recorded with its reason and does not stop the others;
    likewise tables and figures that cannot be made. With ``resume`` what is finished stays as it
    is; with ``overwrite`` it is removed once data and model are read. ``remarks`` are said first
    among the differences from the paper; ``inputs`` are data and models that are read already;
    ``siblings`` are folders of experiments whose finished runs and kernels are copied where they
    are those that the plan asks for.

    Raises:
        InputError: data, model, a setting or the folder is not usable, the folder holds other
            results than are asked for, or nothing at all could be computed.
    """
    get_executor(executor, workers)
    check_folder(recipe, scope.folder, resume=resume, overwrite=overwrite)
    plan = recipe.plan(scope)
    inputs = Inputs() if inputs is None else inputs
    inputs.read(plan)
    check_data(recipe, plan, inputs)
    if resume:
        check_resumable(plan, inputs)
    with locked(scope.folder):
        unfinished = _record(recipe, scope, plan, failures=[(recipe.name, _UNFINISHED)])
        write_json(scope.folder / RECORD, unfinished.as_json())
        if overwrite:
            clear_experiment(scope.folder)
        take_over(plan, scope.folder, siblings, inputs)
        return _reproduced(recipe, scope, plan, inputs, executor, workers, remarks)


def _reproduced(
    recipe: Recipe,
    scope: Scope,
    plan: Plan,
    inputs: Inputs,
    executor: str,
    workers: int,
    remarks: Sequence[str],
) -> Reproduction:
    """Everything after the folder is this experiment's: compute, show, write."""
    failures: Failures = []
    timings: dict[str, float] = {}
    with _timed(timings, "runs"):
        _train(scope.folder, plan, executor, workers, failures)
    with _timed(timings, "kernels"):
        _compute_kernels(scope.folder, plan, inputs, failures)
    found, unread = collect(scope, plan)
    named = {name for name, _ in failures}
    failures += [(name, reason) for name, reason in unread if name not in named]
    if recipe.step is not None:
        with _timed(timings, "step"), _recorded("further results", failures):
            recipe.step(found)
    shown = Shown()
    with _recorded("tables and figures", failures):
        shown = recipe.show(found)
    record = _record(
        recipe,
        scope,
        plan,
        shown=shown,
        told=(*remarks, *differences(recipe, plan, inputs, scope)),
        failures=failures,
        timings=timings,
    )
    write_json(scope.folder / RECORD, record.as_json())
    if not found.runs and not found.kernels:
        name, reason = failures[0]
        raise InputError(
            f"nothing of {recipe.name} could be computed: {len(failures)} failed, the first "
            f"({name}): {reason}"
        )
    page = build_report(scope.folder, overwrite=True).page
    return Reproduction(record, scope.folder, page)


def _train(folder: Path, plan: Plan, executor: str, workers: int, failures: Failures) -> None:
    configs = unique_runs(plan)
    if not configs:
        return
    result = run_sweep(
        configs,
        folder=folder / RUNS,
        executor=executor,
        workers=workers,
        resume=True,
        overwrite=False,
    )
    failures += [
        (outcome.folder.relative_to(folder).as_posix(), outcome.reason)
        for outcome in result.outcomes
        if outcome.reason is not None
    ]


def _compute_kernels(folder: Path, plan: Plan, inputs: Inputs, failures: Failures) -> None:
    for number, planned in enumerate(plan.kernels, start=1):
        name = planned.config.output_dir.relative_to(folder).as_posix()
        logger.info("kernels %d of %d: %s", number, len(plan.kernels), name)
        with _recorded(name, failures):
            if not matching_kernels(planned.config, inputs):
                compute_kernels(planned.config, resume=True)


@contextmanager
def _recorded(name: str, failures: Failures) -> Iterator[None]:
    """Record what goes wrong in the block, so that the rest is still done."""
    try:
        yield
    except Exception as error:
        known = explain(error)
        reason = unexpected(error) if known is None else str(known)
        logger.warning("%s failed: %s", name, reason)
        failures.append((name, reason))


@contextmanager
def _timed(timings: dict[str, float], name: str) -> Iterator[None]:
    started = perf_counter()
    yield
    timings[name] = perf_counter() - started


def _record(
    recipe: Recipe,
    scope: Scope,
    plan: Plan,
    *,
    shown: Shown | None = None,
    told: Sequence[str] = (),
    failures: Failures,
    timings: Mapping[str, float] | None = None,
) -> ExperimentRecord:
    """The record of an experiment; without ``shown`` of one that is at work."""
    shown = Shown() if shown is None else shown
    protocols = {str(config.data.split_protocol) for config in run_configs(plan)}
    return ExperimentRecord(
        name=recipe.name,
        title=recipe.title,
        protocol=", ".join(sorted(protocols)),
        model=scope.model,
        settings={
            "source": recipe.source,
            "tasks": list(scope.tasks),
            "methods": list(scope.methods),
            "seeds": list(scope.seeds),
            "kernel_samples": scope.kernel_samples,
            **{name: to_jsonable_python(value) for name, value in scope.settings.items()},
        },
        exhibits=shown.exhibits,
        verdicts=shown.verdicts,
        findings=shown.findings,
        differences=tuple(told),
        failures=tuple(failures),
        timings={} if timings is None else timings,
    )
