"""Experiments whose runs and kernels are written by hand, or trained on a tiny model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from results.kernel_folders import write_kernels
from results.run_folders import SPLITS, write_run

from lpft.experiments.plan import ExperimentRuns, PlannedRun, Recipe, Scope
from lpft.experiments.prepare import collect
from lpft.experiments.run import find_recipe
from lpft.experiments.tiny import TINY_SETTINGS, tiny_model
from lpft.results.run import write_feature_changes
from lpft.runs.train import train_run

TEXTS = 12
"""Whose feature change is written for each split."""


def scope_of(recipe: Recipe, folder: Path, **changes: Any) -> Scope:
    values = {
        "model": "minilm",
        "tasks": recipe.tasks,
        "methods": recipe.methods,
        "seeds": (0, 1),
        "folder": folder,
    }
    return Scope(**(values | changes))


def found_of(
    name: str,
    folder: Path,
    describe: Callable[[PlannedRun], dict[str, Any] | None] = lambda _: {},
    **changes: Any,
) -> tuple[Recipe, ExperimentRuns]:
    """The recipe of a name, and its plan as if it had been computed.

    ``describe`` gives the settings of :func:`report.run_folders.write_run` for a planned run, or
    None for one that failed.
    """
    recipe = find_recipe(name)
    scope = scope_of(recipe, folder, **changes)
    plan = recipe.plan(scope)
    for planned in plan.runs:
        settings = describe(planned)
        target = planned.config.output_dir
        if settings is not None and not target.exists():
            write_run(target, planned.method, seed=planned.seed, data_name=planned.task, **settings)
            write_changes(target, settings.get("change", 8.0))
    for kernels in plan.kernels:
        settings = {"methods": kernels.config.kernels.methods, "seed": kernels.seed}
        write_kernels(kernels.config.output_dir, data_name=kernels.task, **settings)
    return recipe, collect(scope, plan)[0]


def trained_of(name: str, folder: Path, **changes: Any) -> tuple[Recipe, ExperimentRuns]:
    """The recipe of a name, and its plan really trained, on a tiny model and few texts."""
    recipe = find_recipe(name)
    tiny = {"model": str(tiny_model()), "tasks": ("demo",), "settings": TINY_SETTINGS}
    scope = scope_of(recipe, folder, **(tiny | changes))
    plan = recipe.plan(scope)
    for planned in plan.runs:
        train_run(planned.config)
    found, _ = collect(scope, plan)
    assert len(found.runs) == len(plan.runs)
    return recipe, found


def write_changes(folder: Path, change: float) -> None:
    """Feature changes of :data:`TEXTS` texts of every split, ``change`` on average."""
    shares = np.linspace(0.9, 1.1, TEXTS)
    for split in ("train", "test", *(split for split in SPLITS if split.startswith("ood/"))):
        write_feature_changes(folder, split, [str(i) for i in range(TEXTS)], change * shares)
