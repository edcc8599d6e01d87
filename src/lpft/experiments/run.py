"""``lpft reproduce``: the paper's experiments, from a name to ``experiment.json`` and its page.

A :class:`Session` plans one experiment or all of them and checks folders, data and models once,
before the first run. Then each is computed in turn. A run, a kernel or a table that fails is
recorded with its reason and does not stop the others.
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from lpft.errors import InputError, explain, unexpected
from lpft.executors import get_executor
from lpft.experiments.catalogue import ALL, EXPERIMENTS, find_experiment
from lpft.experiments.deviations import deviations_from_paper
from lpft.experiments.measures import tuned_rates_table
from lpft.experiments.plan import RUNS, Plan, Recipe, Results, Scope, make_scope, refuse_unused
from lpft.experiments.prepare import (
    Failures,
    Inputs,
    check_folder,
    clear_experiment,
    collect,
    is_finished,
    reuse_results,
)
from lpft.files import write_json
from lpft.progress import timed
from lpft.report import build_report
from lpft.results.exhibits import RECORD, ExperimentRecord
from lpft.results.folder import locked, read_record
from lpft.results.formats import rate
from lpft.results.pairing import TUNED
from lpft.runs.kernels import compute_kernels
from lpft.runs.sweep import read_search, run_sweep, search_grid
from lpft.runs.sweep_config import SEARCH
from lpft.settings.configs import RunConfig

logger = logging.getLogger(__name__)

_TINY_REMARK = (
    "--tiny: a random model of two layers on a few texts of the bundled corpus. The numbers show "
    "nothing but that the chain works."
)
_UNFINISHED = (
    "the experiment is still running, or was killed: continue it with lpft reproduce --resume"
)


def find_recipe(name: str) -> Recipe:
    """The recipe of that name; the modules of others are not imported.

    Raises:
        InputError: there is no such experiment; the message lists them.
    """
    entry = find_experiment(name)
    recipe: Recipe = import_module(f"lpft.experiments.{entry.module}").RECIPES[entry.name]
    return recipe


@dataclass(frozen=True)
class Experiment:
    """A planned experiment; ``refusal`` says why its data, once read, do not suit it."""

    recipe: Recipe
    scope: Scope
    plan: Plan
    refusal: InputError | None = None

    @property
    def name(self) -> str:
        return self.recipe.entry.name


@dataclass(frozen=True)
class Reproduction:
    """A finished experiment: its record as ``experiment.json`` has it, its folder and its page."""

    record: ExperimentRecord
    folder: Path
    page: Path


@dataclass(frozen=True)
class NotReproduced:
    """An experiment that gave no page, and why."""

    name: str
    error: Exception


class Session:
    """One experiment, or with the name ``all`` each one in a folder of its own.

    ``settings`` are those of ``lpft reproduce`` by name. With ``resume`` finished runs, kernels
    and steps stay as they are; with ``overwrite`` they are removed once data and models are read.
    Of all experiments, those that do not suit the settings are logged and left out.

    Raises:
        InputError: the name is unknown; no experiment suits the settings; a setting changes
            nothing; data, model, folder or executor cannot be used; or with ``resume`` the folder
            holds results of other settings, data or weights.
    """

    def __init__(
        self,
        name: str,
        settings: Mapping[str, Any],
        folder: Path,
        *,
        tiny: bool = False,
        executor: str = "local",
        workers: int = 1,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        self._executor, self._workers, self._overwrite = executor, workers, overwrite
        self._remarks = (_TINY_REMARK,) if tiny else ()
        self._inputs = Inputs()
        planned = _planned(name, settings, folder, tiny=tiny)
        get_executor(executor, workers)
        refuse_unused(
            settings,
            [experiment.plan for experiment in planned],
            planned[0].name if len(planned) == 1 else "these experiments",
            executor=executor,
            workers=workers,
        )
        for experiment in planned:
            scope = experiment.scope
            check_folder(
                experiment.name, scope.tasks, scope.folder, resume=resume, overwrite=overwrite
            )
        self.experiments: list[Experiment] = []
        for experiment in planned:
            self._inputs.read(experiment.plan)
            self.experiments.append(self._with_refusal(experiment, alone=len(planned) == 1))
            if resume:  # refuses finished results of other settings, data or weights
                for config in experiment.plan.configs:
                    is_finished(config, self._inputs)

    def planned(self) -> dict[str, list[dict[str, Any]]]:
        """What each experiment would compute, ready for JSON."""
        return {
            experiment.name: planned_parts(experiment.plan, experiment.scope.folder, self._inputs)
            for experiment in self.experiments
        }

    def run(self) -> Iterator[Reproduction | NotReproduced]:
        """Each experiment once it has ended; what one has finished is copied into the next.

        Of several, one that ends in an error does not keep those after it from being done.
        """
        finished: list[Path] = []
        for number, experiment in enumerate(self.experiments, start=1):
            logger.info("experiment %d of %d: %s", number, len(self.experiments), experiment.name)
            try:
                yield self._reproduce(experiment, finished)
            except InputError as error:
                yield NotReproduced(experiment.name, error)
            except Exception as error:
                if len(self.experiments) == 1:
                    raise
                logger.debug("%s failed", experiment.name, exc_info=True)
                yield NotReproduced(experiment.name, _explained(error))
            finished.append(experiment.scope.folder)

    def _with_refusal(self, experiment: Experiment, *, alone: bool) -> Experiment:
        """The experiment, with the reason if its data do not suit it: the others are still done."""
        check = experiment.recipe.check
        if check is None:
            return experiment
        configs = experiment.plan.input_configs
        try:
            check({str(config.data.task): self._inputs.data(config) for config in configs})
        except InputError as error:
            if alone:
                raise
            logger.warning("%s will not be run: %s", experiment.name, error)
            return replace(experiment, refusal=error)
        return experiment

    def _reproduce(self, experiment: Experiment, siblings: Sequence[Path]) -> Reproduction:
        """Compute and show an experiment.

        Raises:
            InputError: its data do not suit it, or nothing at all could be computed.
        """
        if experiment.refusal is not None:
            raise experiment.refusal
        folder, plan = experiment.scope.folder, experiment.plan
        with locked(folder):
            unfinished = _record(experiment, failures=[(experiment.name, _UNFINISHED)])
            write_json(folder / RECORD, unfinished.as_json())
            if self._overwrite:
                clear_experiment(folder)
            reuse_results(plan, folder, siblings, self._inputs)
            return self._compute(experiment, siblings)

    def _compute(self, experiment: Experiment, siblings: Sequence[Path]) -> Reproduction:
        recipe, scope, plan = experiment.recipe, experiment.scope, experiment.plan
        failures: Failures = []
        timings: dict[str, float] = {}
        if plan.searches:
            with timed(timings, "search for rates"):
                plan = self._at_tuned_rates(plan, scope.folder, failures)
            reuse_results(plan, scope.folder, siblings, self._inputs)
        with timed(timings, "runs"):
            failures += self._train(plan, scope.folder)
        with timed(timings, "kernels"):
            self._compute_kernels(plan, scope.folder, failures)
        runs, unread = collect(scope, plan)
        named = {name for name, _ in failures}
        failures += [(name, reason) for name, reason in unread if name not in named]
        if recipe.step is not None:
            with timed(timings, "step"), _recorded("further results", failures):
                recipe.step(runs)
        results = Results()
        with _recorded("tables and figures", failures):
            results = recipe.show(runs)
            search = read_search(scope.folder) if plan.searches else None
            if search is not None:
                table = tuned_rates_table(search)
                results = replace(results, exhibits=(*results.exhibits, table))
        deviations = deviations_from_paper(recipe, plan, self._inputs, scope)
        record = _record(
            experiment,
            failures,
            results,
            differences=(*self._remarks, *deviations),
            timings=timings,
        )
        write_json(scope.folder / RECORD, record.as_json())
        if not runs.runs and not runs.kernels:
            name, reason = failures[0]
            raise InputError(
                f"nothing of {experiment.name} could be computed: {len(failures)} failed, the "
                f"first ({name}): {reason}"
            )
        return Reproduction(record, scope.folder, build_report(scope.folder, overwrite=True).page)

    def _at_tuned_rates(self, plan: Plan, folder: Path, failures: Failures) -> Plan:
        """The plan with the runs at the rates that its searches choose."""
        searched = search_grid(
            [search.cell for search in plan.searches],
            {search.cell.name: search.points for search in plan.searches},
            seed=plan.searches[0].seed,
            folder=folder,
            how={"executor": self._executor, "workers": self._workers},
            resume=True,  # an experiment that begins anew was cleared already
        )
        failures += [
            (
                f"{SEARCH}/{name}",
                f"no learning rate of the search could be trained: {cell['points'][0]['reason']}",
            )
            for name, cell in searched.items()
            if cell["chosen"] is None
        ]
        return plan.with_tuned({name: cell["chosen"] for name, cell in searched.items()})

    def _train(self, plan: Plan, folder: Path) -> Failures:
        configs = plan.run_configs
        if not configs:
            return []
        # An experiment that begins anew was cleared already, so that its sweep only ever resumes.
        result = run_sweep(
            configs,
            folder=folder / RUNS,
            executor=self._executor,
            workers=self._workers,
            resume=True,
            overwrite=False,
        )
        return [
            (outcome.folder.relative_to(folder).as_posix(), outcome.reason)
            for outcome in result.outcomes
            if outcome.reason is not None
        ]

    def _compute_kernels(self, plan: Plan, folder: Path, failures: Failures) -> None:
        for number, config in enumerate(plan.kernels.values(), start=1):
            name = config.output_dir.relative_to(folder).as_posix()
            logger.info("kernels %d of %d: %s", number, len(plan.kernels), name)
            with _recorded(name, failures):
                if not is_finished(config, self._inputs):
                    compute_kernels(config, resume=True)


def _planned(
    name: str, settings: Mapping[str, Any], folder: Path, *, tiny: bool
) -> list[Experiment]:
    """The experiments of that name that suit the settings."""

    def plan(name: str, folder: Path) -> Experiment:
        recipe = find_recipe(name)
        scope = make_scope(recipe.entry, settings, folder, tiny=tiny)
        return Experiment(recipe, scope, recipe.plan(scope))

    if name != ALL:
        return [plan(name, folder)]
    planned: list[Experiment] = []
    refusals: list[tuple[str, InputError]] = []
    for experiment in EXPERIMENTS:
        try:
            planned.append(plan(experiment, folder / experiment))
        except InputError as error:
            refusals.append((experiment, error))
    if not planned:
        raise refusals[0][1]
    for refused, reason in refusals:
        logger.warning("%s is left out: %s", refused, reason)
    return planned


def _explained(error: Exception) -> Exception:
    """The error with a message that stands by itself."""
    known = explain(error)
    explained = RuntimeError(unexpected(error)) if known is None else known
    explained.__cause__ = error
    return explained


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


def _record(
    experiment: Experiment,
    failures: Failures,
    results: Results | None = None,
    *,
    differences: tuple[str, ...] = (),
    timings: Mapping[str, float] | None = None,
) -> ExperimentRecord:
    """The record of an experiment; without ``results`` of one that is still running."""
    entry, scope = experiment.recipe.entry, experiment.scope
    results = Results() if results is None else results
    protocols = {str(config.data.split_protocol) for config in experiment.plan.input_configs}
    return ExperimentRecord(
        name=entry.name,
        title=entry.shows,
        protocol=", ".join(sorted(protocols)),
        model=scope.model,
        settings={
            "source": entry.source,
            "tasks": list(scope.tasks),
            "methods": list(scope.methods),
            "seeds": list(scope.seeds),
            "kernel_samples": scope.kernel_samples,
            "tuned_rates": scope.tuned_rates,
            **{name: to_jsonable_python(value) for name, value in scope.settings.items()},
        },
        exhibits=results.exhibits,
        verdicts=results.verdicts,
        findings=results.findings,
        differences=differences,
        failures=tuple(failures),
        timings={} if timings is None else timings,
    )


def planned_parts(plan: Plan, folder: Path, inputs: Inputs) -> list[dict[str, Any]]:
    """The runs by everything but their seed, then the kernels; runs of two parts are listed once.

    First come the runs of searches for rates. The runs at rates that are still to be searched have
    ``tuned`` in place of the rate; those that turn out to be runs at other rates too are trained
    once. ``steps`` are those of one seed's fine-tuning. ``finished`` counts seeds.
    """
    parts = [_runs_of_a_setting([config], inputs, "search") for config in plan.search_configs]
    chosen = _chosen_before(plan, folder)
    plan = plan.with_tuned(chosen)
    by_setting: dict[tuple[str, ...], list[RunConfig]] = {}
    for config in plan.run_configs:
        setting = tuple(str(value) for name, value in config.flat().items() if name != "seed")
        by_setting.setdefault(setting, []).append(config)
    parts += [_runs_of_a_setting(configs, inputs) for configs in by_setting.values()]
    for search in plan.searches:
        if search.cell.name not in chosen:
            tried = _runs_of_a_setting([search.points[0].config], inputs)
            seeds = list(search.scope.seeds)
            parts.append({**tried, "rate": TUNED, "seeds": seeds, "finished": 0})
    for task in dict.fromkeys(key.task for key in plan.kernels):
        kernels = [config for key, config in plan.kernels.items() if key.task == task]
        first = kernels[0]
        parts.append(
            {
                "what": "kernels",
                "task": task,
                "rows": min(first.kernels.max_samples, len(inputs.data(first.run).train)),
                "method": ",".join(first.kernels.methods),
                "seeds": [config.run.training.seed for config in kernels],
                "finished": sum(is_finished(config, inputs) for config in kernels),
            }
        )
    return parts


def _chosen_before(plan: Plan, folder: Path) -> dict[str, dict[str, Any] | None]:
    """What finished searches of a plan in ``folder`` chose, by the names of their cells."""
    record = read_search(folder) if plan.searches else None
    cells = [] if record is None else record["cells"]
    ended = {f"{cell['task']}/{cell['method']}": cell for cell in cells}
    return {
        search.cell.name: ended[search.cell.name]["chosen"]
        for search in plan.searches
        if search.cell.name in ended
        and [point["settings"] for point in ended[search.cell.name]["points"]]
        == [dict(point.settings) for point in search.points]
    }


def _runs_of_a_setting(
    configs: Sequence[RunConfig], inputs: Inputs, what: str = "runs"
) -> dict[str, Any]:
    training = configs[0].training
    rows = len(inputs.data(configs[0]).train)
    steps = None
    if training.epochs is not None and training.batch_size is not None:
        steps = math.ceil(training.epochs * math.ceil(rows / training.batch_size))
    records = [read_record(config.output_dir) for config in configs]
    return {
        "what": what,
        "task": configs[0].data.task,
        "rows": rows,
        "method": training.method,
        "rate": training.learning_rate,
        "batch": training.batch_size,
        "epochs": training.epochs,
        "head_scale": training.head_scale,
        "steps": steps,
        "seeds": [config.training.seed for config in configs],
        "finished": sum(record is not None and record.status == "finished" for record in records),
    }


def plan_table(parts: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """:func:`planned_parts` as text: a header and a row for each part."""
    names = ["what", "task", "rows", "method", "rate", "batch", "epochs"]
    names += ["head_scale", "steps", "seeds", "finished"]
    write = {
        "rate": lambda value: value if value == TUNED else rate(value),
        "seeds": lambda seeds: ",".join(map(str, seeds)),
    }
    rows = [
        ["-" if part.get(name) is None else write.get(name, str)(part[name]) for name in names]
        for part in parts
    ]
    return [name.replace("_", " ") for name in names], rows
