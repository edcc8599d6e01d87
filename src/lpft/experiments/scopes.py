"""From the options of ``lpft reproduce`` to what an experiment is done on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lpft.data import find_task
from lpft.experiments.recipe import Recipe, Scope
from lpft.experiments.tiny import (
    TINY_KERNEL_SAMPLES,
    TINY_SEEDS,
    TINY_SETTINGS,
    TINY_TASKS,
    tiny_model,
)
from lpft.settings import DataSettings, ExperimentSettings, TrainingSettings, get_method
from lpft.settings.configs import taken_by


def make_scope(recipe: Recipe, given: Mapping[str, Any], folder: Path, *, tiny: bool) -> Scope:
    """A recipe's scope: what is given by name, otherwise the paper's, or with ``tiny`` a tiny one.

    Raises:
        InputError: a task or method that there is not, or a value that it cannot have.
    """
    chosen = ExperimentSettings.read_own(given)
    samples = chosen.kernel_samples
    small: dict[str, Any] = {}
    if tiny:
        usual = {"tasks": TINY_TASKS, "seeds": TINY_SEEDS, "kernel_samples": TINY_KERNEL_SAMPLES}
        small = {name: value for name, value in usual.items() if name not in given}
        if "model" not in given:
            small["model"] = str(tiny_model())
    scope = Scope(
        model=small.get("model", chosen.model),
        tasks=small.get("tasks", recipe.tasks if chosen.tasks is None else chosen.tasks),
        methods=recipe.methods if chosen.methods is None else chosen.methods,
        seeds=small.get("seeds", chosen.seeds),
        folder=folder,
        settings={
            "save_model": chosen.save_model,
            **(TINY_SETTINGS if tiny else {}),
            **{
                name: given[name]
                for name in taken_by("reproduce", DataSettings, TrainingSettings)
                if name in given
            },
        },
        kernel_samples=small.get(
            "kernel_samples", recipe.kernel_samples if samples is None else samples
        ),
    )
    for task in scope.tasks:
        find_task(task)
    for method in scope.methods:
        get_method(method)
    return scope
