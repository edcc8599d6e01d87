"""From a scope to the runs and kernels that recipes plan; equal runs share one folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lpft.experiments.recipe import PlannedKernels, PlannedRun, Scope
from lpft.report.numbers import rate
from lpft.results.pairing import PUBLISHED, SHARED
from lpft.settings import METHODS, DataSettings, TrainingSettings, get_method, without_effect
from lpft.settings.configs import RunConfig, deciding, make_config, make_kernel_config, taken_by
from lpft.settings.fields import Decides

RUNS, KERNELS = "runs", "kernels"
"""Folders of an experiment: ``runs/<task>/<method>-.../`` and ``kernels/<task>-seed<k>/``."""

_IN_EVERY_NAME = ("method", "learning_rate", "batch_size", "seed")


def planned_runs(
    scope: Scope,
    *,
    rates: str = PUBLISHED,
    variant: str | None = None,
    methods: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> tuple[PlannedRun, ...]:
    """One run for each task, method and seed of the scope, or of those that are named.

    At ``rates`` ``shared`` a method with a random head takes the learning rate and batch size of
    the one that starts from linear probing. ``variant`` is the part that the runs play (default:
    the name of the rates), ``settings`` come on top of the scope's; of both, those that a method
    does not take are left out. Runs of equal settings have one folder, whatever part they play.

    Raises:
        InputError: a task, method or setting that does not exist or contradicts another.
    """
    return tuple(
        PlannedRun(
            variant=rates if variant is None else variant,
            task=task,
            method=method,
            seed=seed,
            config=_config(scope, task, method, seed, rates, {} if settings is None else settings),
        )
        for task in (scope.tasks if tasks is None else tasks)
        for method in (scope.methods if methods is None else methods)
        for seed in (scope.seeds if seeds is None else seeds)
    )


def planned_kernels(
    scope: Scope,
    *,
    methods: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> tuple[PlannedKernels, ...]:
    """The kernels of the methods' starts, one folder for each task and seed.

    ``settings`` are those of ``lpft ntk``, on top of what of the scope's settings a kernel takes.

    Raises:
        InputError: as :func:`planned_runs`.
    """
    taken = taken_by("ntk", DataSettings, TrainingSettings)
    own = {name: value for name, value in scope.settings.items() if name in taken}
    return tuple(
        PlannedKernels(
            task=task,
            seed=seed,
            config=make_kernel_config(
                {
                    **own,
                    "model": scope.model,
                    "methods": tuple(scope.methods if methods is None else methods),
                    "max_samples": scope.kernel_samples,
                    "task": task,
                    "seed": seed,
                    **({} if settings is None else settings),
                },
                scope.folder / KERNELS / f"{task}-seed{seed}",
            ),
        )
        for task in (scope.tasks if tasks is None else tasks)
        for seed in (scope.seeds if seeds is None else seeds)
    )


def probed_partner(method: str) -> str | None:
    """The method that trains the same from the LP solution (``ft``: ``lp-ft``), if there is one."""
    own = get_method(method)
    if own.head_start == "lp" or not own.fine_tunes:
        return None
    partners = (m for m in METHODS.values() if m.head_start == "lp" and m.trained == own.trained)
    return next((partner.name for partner in partners), None)


def _config(
    scope: Scope, task: str, method: str, seed: int, rates: str, settings: Mapping[str, Any]
) -> RunConfig:
    def resolved(name: str, given: Mapping[str, Any], folder: Path | None = None) -> RunConfig:
        left_out = without_effect(name)
        taken = {
            **{key: value for key, value in given.items() if key not in left_out},
            "model": scope.model,
            "task": task,
            "method": name,
            "seed": seed,
        }
        return make_config(taken, folder)

    given = {**scope.settings, **settings}
    partner = probed_partner(method) if rates == SHARED else None
    if partner is not None:
        training = resolved(partner, given).training
        given |= {"learning_rate": training.learning_rate, "batch_size": training.batch_size}
    usual = {**scope.settings, **{name: given[name] for name in _IN_EVERY_NAME if name in given}}
    own = _folder_name(resolved(method, given), resolved(method, usual))
    return resolved(method, given, scope.folder / RUNS / task / own)


def _folder_name(config: RunConfig, usual: RunConfig) -> str:
    """Method, rates, what else differs from the experiment's usual run, and seed."""
    training = config.training
    parts = [training.method]
    if get_method(training.method).fine_tunes:
        parts.append(f"rate{rate(training.learning_rate)}-batch{training.batch_size}")
    flat, usually = config.flat(), usual.flat()
    parts += [
        f"{name.replace('_', '-')}{flat[name]}"
        for name in deciding(Decides.RUN)
        if name not in _IN_EVERY_NAME and flat[name] != usually[name]
    ]
    return "-".join([*parts, f"seed{training.seed}"])
