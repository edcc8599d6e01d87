"""What the report knows of one ``kernels.json``: methods, their kernels, numbers that may lack."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import isclose
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lpft.report.kernels.dynamics import Dynamics
from lpft.report.numbers import fixed, significant
from lpft.results.groups import method_name, model_name
from lpft.results.schema import Record

PRETRAIN, FT, NTK = "pretrain_effective", "ft_effective", "ntk"
KERNEL_NAMES = {PRETRAIN: "P", FT: "F", NTK: "P + F"}
RULE_NAMES = {"sgd": "SGD", "signgd": "SignGD", "asymmetric": "asymmetric SignGD"}
PAPER, PAPER_TEXTS, LOGISTIC = "paper", "paper per text", "kernel_logistic_regression"
SOLVER_NAMES = {
    PAPER: "Paper's protocol",
    PAPER_TEXTS: "Paper's protocol, per text",
    "logistic": "Logistic regression on rows",
    "svc": "SVC",
    "svr": "SVR",
    "lstsq": "Least squares",
    "asymmetric": "Asymmetric least squares",
}
FIRST_SOLVERS = (PAPER, PAPER_TEXTS, LOGISTIC)
"""Those whose accuracies the table of statistics has."""


@dataclass(frozen=True)
class Accuracies:
    """Kernel regression by one solver, fractions; ``constant`` is what a constant answer scores."""

    train: float | None
    test: float | None
    constant: float | None


@dataclass(frozen=True)
class KernelStatistics:
    """Statistics of one NC x NC kernel; ``singular_values`` are divided by the largest."""

    rank: float | None
    rank_tolerance: float | None
    frobenius_norm: float | None
    trace: float | None
    largest_singular_value: float | None
    singular_values: NDArray[np.float64]
    regression: Mapping[str, Accuracies]

    def same_matrix(self, other: "KernelStatistics") -> bool:
        """Whether both can be of one matrix: all but the regression agrees, up to rounding."""
        pairs = (
            (self.rank, other.rank),
            (self.frobenius_norm, other.frobenius_norm),
            (self.trace, other.trace),
            (self.largest_singular_value, other.largest_singular_value),
        )
        return all(
            one == two or (one is not None and two is not None and isclose(one, two, rel_tol=1e-9))
            for one, two in pairs
        )


@dataclass(frozen=True)
class Share:
    """What a layer, or a kind of parameter, adds to F."""

    trace: float | None
    frobenius_norm: float | None


@dataclass(frozen=True)
class MethodKernels:
    """The kernels of one method; ``heat_maps`` [N, N] are in the order of the data.

    ``parameter_set`` is what F is over: everything, an adapter's factors, or nothing.
    """

    method: str
    head_start: str | None
    head_rank: float | None
    head_norm: float | None
    parameters: float | None
    ft_ratio: float | None
    kernels: Mapping[str, KernelStatistics]
    layers: Mapping[str, Share]
    kinds: Mapping[str, Share]
    certificate: Mapping[str, float]
    products_error: float | None
    heat_maps: Mapping[str, NDArray[np.float64]]
    parameter_set: str | None = None
    dynamics: Dynamics | None = None

    @property
    def name(self) -> str:
        return method_name(self.method)


@dataclass(frozen=True)
class Alignment:
    """CKA of every pair of named kernels; None where one of them does not vary."""

    kernels: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class KernelSummary:
    """One ``kernels.json`` with the heat maps and labels of the files beside it.

    ``problems`` says which of these files could not be used.
    """

    folder: Path
    name: str
    data_name: str
    classes: tuple[str, ...]
    rows: Mapping[str, int]
    eval_split: str | None
    model: str
    rule: str
    dtype: str | None
    seed: float | None
    max_length: float | None
    methods: tuple[MethodKernels, ...]
    alignment: Alignment | None
    config: Record
    plan: Record
    timings: Mapping[str, float]
    environment: Record
    labels: Mapping[str, NDArray[np.int64]]
    problems: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        rule = RULE_NAMES.get(self.rule, self.rule)
        return f"{self.data_name} · {model_name(self.model)} · {rule}"

    @property
    def size(self) -> int | None:
        """NC, the rows of each kernel of training samples."""
        return self.rows["train"] * len(self.classes) if "train" in self.rows else None

    @cached_property
    def pretrain(self) -> tuple[tuple[tuple[MethodKernels, ...], KernelStatistics], ...]:
        """Each different P with the methods that have it: one, where all have a head bias."""
        found: list[tuple[list[MethodKernels], KernelStatistics]] = []
        for method in self.methods:
            statistics = method.kernels.get(PRETRAIN)
            if statistics is None:
                continue
            same = next((owners for owners, s in found if s.same_matrix(statistics)), None)
            if same is None:
                found.append(([method], statistics))
            else:
                same.append(method)
        return tuple((tuple(owners), statistics) for owners, statistics in found)

    def owners_name(self, owners: tuple[MethodKernels, ...]) -> str:
        """``all methods``, or the methods' names."""
        if len(owners) == len(self.methods) > 1:
            return "all methods"
        return ", ".join(method.name for method in owners)

    @property
    def solvers(self) -> tuple[str, ...]:
        """Solvers of kernel regression that some kernel has, the paper's protocol first."""
        found = dict.fromkeys(
            solver
            for method in self.methods
            for statistics in method.kernels.values()
            for solver in statistics.regression
        )
        first = tuple(solver for solver in FIRST_SOLVERS if solver in found)
        return (*first, *(solver for solver in found if solver not in first))

    def commonest_class(self, split: str) -> float | None:
        """The share of a split's samples that training's commonest class has."""
        train, labels = self.labels.get("train"), self.labels.get(split)
        if train is None or labels is None:
            return None
        return float(np.mean(labels == np.bincount(train).argmax()))


def ratio(value: float | None) -> str:
    """An FT ratio with the paper's four decimals, or two digits where these would be lost."""
    small = value is not None and 0 < value < 1e-3
    return significant(value, 2) if small else fixed(value, 4)


def kernel_name(kernel: str) -> str:
    """``P``, ``F``, ``P + F``; one that the paper does not have keeps its own name."""
    return KERNEL_NAMES.get(kernel, kernel.replace("_", " "))


def solver_name(solver: str) -> str:
    """A solver in words."""
    return SOLVER_NAMES.get(solver, solver.replace("_", " ").capitalize())


def aligned_name(name: str) -> str:
    """A kernel of the alignment matrix: ``P``, ``FT: F``."""
    method, separator, kernel = name.rpartition("/")
    return f"{method_name(method)}: {kernel_name(kernel)}" if separator else kernel_name(name)
