"""What a recipe is: the runs, kernels and steps that an experiment needs, and what it shows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lpft.data import TextData
from lpft.paper import KERNEL_SAMPLES
from lpft.results.exhibits import Figure, Table, Verdict
from lpft.results.kernels import KernelRecord
from lpft.results.run import Run
from lpft.settings.configs import KernelConfig, RunConfig


@dataclass(frozen=True)
class Scope:
    """How much of an experiment is done, on what, and where to.

    ``settings`` are further settings of ``lpft train`` for every run, by name (``epochs``,
    ``max_train_samples``, ``data_dir``).
    """

    model: str
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    kernel_samples: int = KERNEL_SAMPLES


@dataclass(frozen=True)
class PlannedRun:
    """A run and the part it plays: two parts may share one run (one ``config.output_dir``)."""

    variant: str
    task: str
    method: str
    seed: int
    config: RunConfig


@dataclass(frozen=True)
class PlannedKernels:
    """Kernels of the starts of several methods on one task, for one seed."""

    task: str
    seed: int
    config: KernelConfig


@dataclass(frozen=True)
class Plan:
    """Everything that must be computed before an experiment can be shown."""

    runs: tuple[PlannedRun, ...] = ()
    kernels: tuple[PlannedKernels, ...] = ()


@dataclass(frozen=True)
class Found:
    """What of a plan is there: finished runs and kernels by the part they play.

    ``runs`` is by (variant, task, method, seed), ``kernels`` by (task, seed); what failed is
    absent from them.
    """

    scope: Scope
    runs: Mapping[tuple[str, str, str, int], Run]
    kernels: Mapping[tuple[str, int], KernelRecord]

    def seeds(self, variant: str, task: str, method: str) -> dict[int, Run]:
        """The finished runs of one setting by seed."""
        return {
            seed: self.runs[variant, task, method, seed]
            for seed in self.scope.seeds
            if (variant, task, method, seed) in self.runs
        }


@dataclass(frozen=True)
class Shown:
    """What an experiment shows: exhibits, verdicts, and sentences computed from the numbers."""

    exhibits: tuple[Table | Figure, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    findings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """One table, figure or set of claims of the paper.

    Attributes:
        name: what ``lpft reproduce`` calls it.
        title: what it shows.
        source: where the paper has it ("Table 8").
        tasks: the paper's tasks; ``lpft reproduce --tasks`` takes others.
        methods: the methods that it compares.
        plan: runs and kernels that it needs.
        show: its exhibits, from what is there.
        check: refuses data that it cannot be done on, by task, once they are read and before any
            work.
        step: further results that only it needs, computed once runs and kernels are there and kept
            below ``scope.folder``; ``show`` reads them.
        kernel_samples: texts of a split at most whose kernel is computed, where
            ``lpft reproduce --kernel-samples`` names no other number.
        limits: sentences on what it leaves out of the paper's experiment, whatever is asked for.
    """

    name: str
    title: str
    source: str
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    plan: Callable[[Scope], Plan]
    show: Callable[[Found], Shown]
    check: Callable[[Mapping[str, TextData]], None] | None = None
    step: Callable[[Found], None] | None = None
    kernel_samples: int = KERNEL_SAMPLES
    limits: tuple[str, ...] = ()
