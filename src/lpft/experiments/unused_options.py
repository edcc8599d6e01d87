"""Options that would decide nothing of what is planned: refused, and not silently ignored."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lpft.errors import InputError, named
from lpft.experiments.recipe import Plan
from lpft.settings import DataSettings, TrainingSettings, without_effect
from lpft.settings.configs import taken_by

_RUN = (DataSettings, TrainingSettings)
_ALWAYS = frozenset({"model", "tasks", "methods", "seeds"})


def refuse_unused(
    given: Mapping[str, Any], plans: Sequence[Plan], what: str, *, executor: str, workers: int
) -> None:
    """Check that each option which is given by name decides something of the plans.

    ``what`` is the experiment's name, for messages; ``executor`` and ``workers`` train runs.

    Raises:
        InputError: one does not.
    """
    used = {*_ALWAYS}
    for plan in plans:
        used |= _of_runs(plan) | _of_kernels(plan)
    options = [*given, *_not_default(executor=executor, workers=workers)]
    unused = next((name for name in options if name not in used), None)
    if unused is not None:
        raise InputError(
            f"{named(unused)} decides nothing of {what} ({_work(plans)}): leave it out"
        )


def _of_runs(plan: Plan) -> set[str]:
    """The options that decide some run, or how runs are executed and kept."""
    if not plan.runs:
        return set()
    taken = _taken(taken_by("reproduce", *_RUN), {run.method for run in plan.runs})
    return {*taken, "save_model", "executor", "workers"}


def _of_kernels(plan: Plan) -> set[str]:
    """The options that decide some kernel."""
    if not plan.kernels:
        return set()
    methods = {method for planned in plan.kernels for method in planned.config.kernels.methods}
    return {*_taken(taken_by("ntk", *_RUN), methods), "kernel_samples"}


def _taken(names: Iterable[str], methods: Iterable[str]) -> set[str]:
    names = set(names)
    return {name for method in methods for name in names.difference(without_effect(method))}


def _not_default(*, executor: str, workers: int) -> list[str]:
    others = {"executor": executor != "local", "workers": workers != 1}
    return [name for name, other in others.items() if other]


def _work(plans: Sequence[Plan]) -> str:
    """What is planned, in words."""
    trained = sorted({run.method for plan in plans for run in plan.runs})
    kernels = any(plan.kernels for plan in plans)
    parts = [f"runs of {', '.join(trained)}"] if trained else []
    return " and ".join([*parts, *(["kernels"] if kernels else [])])
