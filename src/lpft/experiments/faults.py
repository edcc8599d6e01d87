"""Faults of the reference implementation that bear on the published numbers of a plan."""

from dataclasses import dataclass

from lpft import paper
from lpft.experiments.preparation import Inputs, unique_runs
from lpft.experiments.recipe import Plan
from lpft.report.notes import ATTENTION, FOLDS, HALVED, kernel_faults
from lpft.report.numbers import joined
from lpft.results.groups import method_name
from lpft.settings import get_method
from lpft.settings.configs import RunConfig


@dataclass(frozen=True)
class _Part:
    """A method on a task, as a run or as the start that kernels are of."""

    task: str
    method: str
    model: str
    classes: int
    kernel: bool

    @property
    def probed(self) -> bool:
        """Whether its head is what linear probing found."""
        method = get_method(self.method)
        return method.head_start == "lp" or not method.fine_tunes


def reference_faults(plan: Plan, inputs: Inputs) -> tuple[str, ...]:
    """A sentence for each, from the tasks, methods, classes and models that are planned.

    Tasks that the paper did not publish have no numbers that a fault could bear on; faults of the
    way in which the reference computes kernels are told of every kernel.
    """
    parts = _parts(plan, inputs)
    known: list[str] = []
    probed = [part for part in parts if part.probed]
    halved = [part for part in probed if part.classes == 2]
    if halved:
        known.append(HALVED)
    if any(part.kernel for part in halved):
        known.append(_quartered([part for part in halved if part.kernel]))
    if probed:
        known.append(FOLDS)
    if any("gpt2" in part.model.lower() for part in parts):
        known.append(ATTENTION)
    models = {str(planned.config.run.training.model) for planned in plan.kernels}
    return (*known, *(kernel_faults(models) if models else ()))


def _quartered(parts: list[_Part]) -> str:
    """What half a head does to F = V J J^T V^T, which is quadratic in the head V."""
    tasks = joined(list(dict.fromkeys(part.task for part in parts)))
    methods = joined(list(dict.fromkeys(method_name(part.method) for part in parts)))
    return (
        f"With halved heads the reference's F of {methods} on {tasks} is a quarter of that of the "
        "fitted head: the published Frobenius norms of F and P + F and the published FT ratios of "
        "these are not comparable with ours."
    )


def _parts(plan: Plan, inputs: Inputs) -> list[_Part]:
    runs = [(config, config.training.method, False) for config in unique_runs(plan)]
    starts = [
        (planned.config.run, method, True)
        for planned in plan.kernels
        for method in planned.config.kernels.methods
    ]
    return [
        _part(config, method, len(inputs.data(config).classes), kernel=kernel)
        for config, method, kernel in (*runs, *starts)
        if paper.published_size(str(config.data.task)) is not None
    ]


def _part(config: RunConfig, method: str, classes: int, *, kernel: bool) -> _Part:
    return _Part(str(config.data.task), method, str(config.training.model), classes, kernel)
