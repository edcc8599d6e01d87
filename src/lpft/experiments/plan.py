"""What an experiment is: its recipe, its scope, and the runs and kernels that it plans.

Runs of equal settings share one folder, whatever part they play, so that each is trained once.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import TypeAdapter

from lpft.data import TextData, find_task
from lpft.errors import InputError, named
from lpft.experiments.catalogue import Entry
from lpft.files import write_json
from lpft.paper import KERNEL_SAMPLES
from lpft.results.exhibits import Figure, Table, Verdict
from lpft.results.formats import rate
from lpft.results.kernels import KernelRecord
from lpft.results.pairing import LP_START, PUBLISHED, RANDOM_START, TUNED, pairs_in, partner_at
from lpft.results.run import Run
from lpft.runs.sweep_config import Cell, Grid, Point
from lpft.settings import DataSettings, TrainingSettings, unused_settings
from lpft.settings.commands import ExperimentSettings
from lpft.settings.configs import (
    KernelConfig,
    RunConfig,
    changed,
    command_settings,
    make_config,
    make_kernel_config,
)
from lpft.settings.fields import Decides
from lpft.settings.methods import get_method

logger = logging.getLogger(__name__)

RUNS, KERNELS = "runs", "kernels"
"""Folders of an experiment: ``runs/<task>/<method>-.../`` and ``kernels/<task>-seed<k>/``."""


@dataclass(frozen=True)
class Scope:
    """How much of an experiment is done, on what, and where to.

    ``settings`` are further settings of ``lpft train`` for every run, by name (``epochs``,
    ``max_train_samples``, ``data_dir``). With ``tuned_rates`` pairs of methods are also compared
    at a learning rate that is tuned for each.
    """

    model: str
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    kernel_samples: int = KERNEL_SAMPLES
    tuned_rates: bool = False

    @property
    def fine_tuned(self) -> tuple[str, ...]:
        """The methods without linear probing alone.

        Raises:
            InputError: none is left.
        """
        methods = tuple(method for method in self.methods if get_method(method).fine_tunes)
        if not methods:
            raise InputError(
                f"this experiment compares methods that fine-tune, found {', '.join(self.methods)}"
                f": name others with {named('methods')}, such as ft,lp-ft"
            )
        return methods


class RunKey(NamedTuple):
    """The part that a run plays in an experiment; two parts may share one run, and its folder."""

    variant: str
    task: str
    method: str
    seed: int


class KernelKey(NamedTuple):
    """Kernels at the start of several methods on one task, for one seed."""

    task: str
    seed: int


@dataclass(frozen=True)
class RateSearch:
    """The search for the learning rate of one task and method: one cell of a sweep, and its grid.

    ``seed`` is the one that tries the ``points``; the runs of all ``seeds`` are then trained at the
    best one by :meth:`runs`.
    """

    cell: Cell
    points: tuple[Point, ...]
    seed: int
    scope: Scope

    def runs(self, learning_rate: float) -> dict[RunKey, RunConfig]:
        """The runs at the rate that the search chose."""
        scope_of_cell = replace(self.scope, tasks=(self.cell.task,), methods=(self.cell.method,))
        return planned_runs(scope_of_cell, rates=TUNED, settings={"learning_rate": learning_rate})


@dataclass(frozen=True)
class Plan:
    """Everything that must be computed before an experiment can be shown.

    The runs of ``searches`` decide at which rates further ones are trained: :meth:`with_tuned`.
    """

    runs: Mapping[RunKey, RunConfig] = field(default_factory=dict)
    kernels: Mapping[KernelKey, KernelConfig] = field(default_factory=dict)
    searches: tuple[RateSearch, ...] = ()

    @property
    def search_configs(self) -> list[RunConfig]:
        return [point.config for search in self.searches for point in search.points]

    def with_tuned(self, chosen: Mapping[str, Mapping[str, Any] | None]) -> "Plan":
        """The plan with runs at the settings that searches chose, by the names of their cells."""
        tuned: dict[RunKey, RunConfig] = {}
        for search in self.searches:
            settings = chosen.get(search.cell.name)
            if settings is not None:
                tuned |= search.runs(settings["learning_rate"])
        return replace(self, runs={**self.runs, **tuned})

    @property
    def run_configs(self) -> list[RunConfig]:
        """One configuration for each folder: a run that plays two parts is trained once."""
        return list({config.output_dir: config for config in self.runs.values()}.values())

    @property
    def configs(self) -> list[RunConfig | KernelConfig]:
        """Configurations of runs, each once, of the runs that try rates, and of kernels."""
        return [*self.run_configs, *self.search_configs, *self.kernels.values()]

    @property
    def input_configs(self) -> list[RunConfig]:
        """Every configuration that the plan takes data and a model from."""
        return [*self.run_configs, *(config.run for config in self.kernels.values())]


@dataclass(frozen=True)
class ExperimentRuns:
    """The finished runs and kernels of a plan, by the part they play; failed ones are absent."""

    scope: Scope
    runs: Mapping[RunKey, Run]
    kernels: Mapping[KernelKey, KernelRecord]

    @property
    def rates(self) -> tuple[str, ...]:
        """The choices of rates at which pairs are compared, beside each method's own."""
        return (LP_START, RANDOM_START, *((TUNED,) if self.scope.tuned_rates else ()))

    def by_seed(self, variant: str, task: str, method: str) -> dict[int, Run]:
        keys = [RunKey(variant, task, method, seed) for seed in self.scope.seeds]
        return {key.seed: self.runs[key] for key in keys if key in self.runs}

    def kernels_by_seed(self, task: str) -> dict[int, KernelRecord]:
        keys = [KernelKey(task, seed) for seed in self.scope.seeds]
        return {key.seed: self.kernels[key] for key in keys if key in self.kernels}


STEPS = "steps"
"""The folder of an experiment that holds the results of its step."""

Key = TypeVar("Key")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Job(Generic[Result]):
    """One result of a step: its file, all that decides it as JSON has it, and how it is made."""

    file: str
    identity: Mapping[str, Any]
    compute: Callable[[], Result]


def job_of_run(file: str, run: Run, compute: Callable[[Run], Result]) -> Job[Result]:
    """The job of one run, whose settings, data and encoder decide the result."""
    hashes = {"config_hash": run.record.config_hash, "fingerprints": dict(run.fingerprints)}
    return Job(file, hashes, partial(compute, run))


@dataclass(frozen=True)
class Step(Generic[Key, Result]):
    """Results of one kind, one for each of ``jobs``."""

    kind: type[Result]
    jobs: Callable[[ExperimentRuns], dict[Key, Job[Result]]]

    def __call__(self, runs: ExperimentRuns) -> None:
        """Compute and store what is not there yet.

        Raises:
            InputError: as the jobs.
        """
        for job in self.jobs(runs).values():
            path = runs.scope.folder / STEPS / job.file
            if self._read(path, job) is None:
                result = TypeAdapter(self.kind).dump_python(job.compute(), mode="json")
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, {"identity": job.identity, "result": result})

    def read(self, runs: ExperimentRuns) -> dict[Key, Result]:
        """The stored results; what is missing, damaged or of another identity is absent."""
        results = {
            key: self._read(runs.scope.folder / STEPS / job.file, job)
            for key, job in self.jobs(runs).items()
        }
        return {key: result for key, result in results.items() if result is not None}

    def _read(self, path: Path, job: Job[Result]) -> Result | None:
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record.get("identity") != job.identity:
                return None
            return TypeAdapter(self.kind).validate_python(record["result"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, AttributeError) as error:
            logger.warning("'%s' cannot be read (%s): computing it again", path, error)
            return None


@dataclass(frozen=True)
class Results:
    """An experiment's exhibits, its verdicts, and sentences computed from the numbers."""

    exhibits: tuple[Table | Figure, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    findings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """How an experiment of the catalogue is made.

    Attributes:
        entry: its place in the catalogue.
        plan: runs and kernels that it needs.
        show: its exhibits, from the finished runs and kernels.
        check: refuses data that it cannot be done on, by task, once they are read and before any
            work.
        step: further results that only it needs, computed once runs and kernels are there and
            stored below ``scope.folder``; ``show`` reads them.
        limits: sentences on what it always leaves out of the paper's experiment.
    """

    entry: Entry
    plan: Callable[[Scope], Plan]
    show: Callable[[ExperimentRuns], Results]
    check: Callable[[Mapping[str, TextData]], None] | None = None
    step: Callable[[ExperimentRuns], None] | None = None
    limits: tuple[str, ...] = ()


def make_scope(entry: Entry, settings: Mapping[str, Any], folder: Path, *, tiny: bool) -> Scope:
    """The scope: the settings by name, otherwise the paper's, or with ``tiny`` tiny ones.

    Raises:
        InputError: an unknown task or method, or a wrong value.
    """
    if tiny:
        # It makes a model, for which nothing else need wait for torch.
        from lpft.experiments.tiny import TINY_SETTINGS, tiny_model

        model = settings["model"] if "model" in settings else str(tiny_model())
        settings = {**TINY_SETTINGS, **settings, "model": model}
    chosen = ExperimentSettings.read_own(settings)
    scope = Scope(
        model=chosen.model,
        tasks=entry.tasks if chosen.tasks is None else chosen.tasks,
        methods=entry.methods if chosen.methods is None else chosen.methods,
        seeds=chosen.seeds,
        folder=folder,
        settings={
            "save_model": chosen.save_model,
            **{name: settings[name] for name in settings if name in _command_settings("reproduce")},
        },
        kernel_samples=(
            entry.kernel_samples if chosen.kernel_samples is None else chosen.kernel_samples
        ),
        tuned_rates=chosen.tuned_rates,
    )
    for task in scope.tasks:
        find_task(task)
    for method in scope.methods:
        get_method(method)
    return scope


def planned_runs(
    scope: Scope,
    *,
    rates: str = PUBLISHED,
    variant: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[RunKey, RunConfig]:
    """One run for each task, method and seed of the scope.

    At ``LP-start`` ``rates`` a method with a random head takes the learning rate and batch size of
    the one that starts from linear probing; at ``random-start`` ones it is the other way round.
    ``variant`` is the part that the runs play (default: the name of the rates), ``settings`` come
    on top of the scope's; of both, those that a method does not take are left out.

    Raises:
        InputError: a task, method or setting that does not exist or contradicts another.
    """
    part = rates if variant is None else variant
    keys = [RunKey(part, *each) for each in product(scope.tasks, scope.methods, scope.seeds)]
    return {key: _config(scope, key, rates, {} if settings is None else settings) for key in keys}


_UNSCALED = {"head_scale": 1.0}
"""Fine-tuning starts from the head as it is, as in the paper, where LP-FT with the packaged model
starts from a scaled one by default: methods must differ in where the head comes from alone."""

GRID = (1 / 3, 1.0, 3.0)
"""What both methods' own learning rates are multiplied by for the rates that a search tries."""


def planned_searches(scope: Scope) -> tuple[RateSearch, ...]:
    """A search for the learning rate of each task and method of the scope that has a pair.

    Both methods of a pair try the same rates, :data:`GRID` times the own rate of each, to two
    digits, with the scope's first seed and each at its own batch size. A method's own rate comes
    first, so that it is kept where others are no better.
    """
    searches = []
    seed = scope.seeds[0]
    for task, pair in product(scope.tasks, pairs_in(scope.methods)):
        scope_of_pair = replace(scope, tasks=(task,), methods=pair, seeds=(seed,))
        usual = {key.method: config.training for key, config in planned_runs(scope_of_pair).items()}
        own: dict[str, float] = {}
        for name, training in usual.items():
            assert training.learning_rate is not None, "methods of pairs fine-tune"
            own[name] = training.learning_rate
        tried = sorted({float(f"{rate * factor:.2g}") for rate in own.values() for factor in GRID})
        for method in pair:
            rates = tuple(dict.fromkeys((own[method], *tried)))
            settings = {
                **_used_settings(method, {**_UNSCALED, **scope.settings}),
                **{"model": scope.model, "task": task, "method": method},
                "batch_size": usual[method].batch_size,
            }
            settings.pop("learning_rate", None)
            cell = Cell(task, scope.model, method, f"{task}/{method}", settings)
            points = Grid({"learning_rate": rates}, seed).tried(cell, scope.folder)
            searches.append(RateSearch(cell, tuple(points), seed, scope))
    return tuple(searches)


def _used_settings(method: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    unused = unused_settings(method)
    return {name: value for name, value in settings.items() if name not in unused}


def planned_kernels(
    scope: Scope, settings: Mapping[str, Any] | None = None
) -> dict[KernelKey, KernelConfig]:
    """The kernels at the start of each method, one folder per task and seed.

    ``settings`` are those of ``lpft ntk``, on top of what of the scope's settings a kernel takes.

    Raises:
        InputError: as :func:`planned_runs`.
    """
    names = _command_settings("ntk")
    usual = {
        **{name: value for name, value in scope.settings.items() if name in names},
        "model": scope.model,
        "methods": scope.methods,
        "max_samples": scope.kernel_samples,
        **({} if settings is None else settings),
    }
    return {
        KernelKey(task, seed): make_kernel_config(
            {**usual, "task": task, "seed": seed}, scope.folder / KERNELS / f"{task}-seed{seed}"
        )
        for task, seed in product(scope.tasks, scope.seeds)
    }


def _config(scope: Scope, key: RunKey, rates: str, settings: Mapping[str, Any]) -> RunConfig:
    def resolved(method: str, settings: Mapping[str, Any], folder: Path | None = None) -> RunConfig:
        effective = _used_settings(method, {**_UNSCALED, **settings})
        own = {"model": scope.model, "task": key.task, "method": method, "seed": key.seed}
        return make_config(effective | own, folder)

    settings = {**scope.settings, **settings}
    partner = partner_at(rates, key.method)
    if partner is not None:
        training = resolved(partner, settings).training
        settings |= {"learning_rate": training.learning_rate, "batch_size": training.batch_size}
    # The folder is named by method, rates, what else differs from the usual run, and seed.
    config = resolved(key.method, settings)
    parts, learning_rate = [key.method], config.training.learning_rate
    batch_size = config.training.batch_size
    if get_method(key.method).fine_tunes:
        parts.append(f"rate{rate(learning_rate)}-batch{batch_size}")
    own = {"learning_rate": learning_rate, "batch_size": batch_size}
    usual = resolved(key.method, {**scope.settings, **own})
    differing = changed(usual.flat(), config.flat(), Decides.RUN)
    parts += [f"{name.replace('_', '-')}{value}" for name, (_, value) in differing.items()]
    name = "-".join([*parts, f"seed{key.seed}"])
    return resolved(key.method, settings, scope.folder / RUNS / key.task / name)


def refuse_unused(
    settings: Mapping[str, Any], plans: Sequence[Plan], name: str, *, executor: str, workers: int
) -> None:
    """Refuse an option that changes nothing in the plans of the experiment ``name``.

    ``executor`` and ``workers`` train runs, and change nothing where there are none.

    Raises:
        InputError: there is such an option.
    """
    run_methods = {key.method for plan in plans for key in plan.runs}
    kernel_configs = [config for plan in plans for config in plan.kernels.values()]
    kernel_methods = {method for config in kernel_configs for method in config.kernels.methods}
    used, parts = {"model", "tasks", "methods", "seeds"}, []
    if run_methods:
        used |= {"save_model", "executor", "workers", *_settings_used_by("reproduce", run_methods)}
        parts.append(f"runs of {', '.join(sorted(run_methods))}")
    if any(plan.searches for plan in plans):
        used.add("tuned_rates")
    if kernel_methods:
        used |= {"kernel_samples", *_settings_used_by("ntk", kernel_methods)}
        parts.append("kernels")
    options = [*settings]
    options += ["executor"] if executor != "local" else []
    options += ["workers"] if workers != 1 else []
    unused = next((option for option in options if option not in used), None)
    if unused is not None:
        raise InputError(
            f"{named(unused)} changes nothing in {name} ({' and '.join(parts)}): leave it out"
        )


def _settings_used_by(command: str, methods: set[str]) -> set[str]:
    """The settings of a command that some of the methods take."""
    settings = set(_command_settings(command))
    return {name for method in methods for name in settings.difference(unused_settings(method))}


def _command_settings(command: str) -> tuple[str, ...]:
    """The settings of data and training that a command takes."""
    return tuple(command_settings(command, DataSettings, TrainingSettings))
