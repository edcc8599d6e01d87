"""Tables 2 and 9, figures 2, 7, 8 and 9: kernels at the start of fine-tuning."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from lpft.experiments.catalogue import EXPERIMENTS
from lpft.experiments.measures import Measure, estimate, measured_table
from lpft.experiments.plan import ExperimentRuns, Plan, Recipe, Results, Scope, planned_kernels
from lpft.paper import published_kernels
from lpft.results.exhibits import MOST_POINTS, Estimate, Figure, Panel, Series, thinned
from lpft.results.formats import counted, joined, significant
from lpft.results.groups import method_name
from lpft.results.kernels import (
    FT,
    LOGISTIC,
    NTK,
    PAPER,
    PAPER_TEXTS,
    PRETRAIN,
    KernelRecord,
    KernelStatistics,
    MethodRecord,
    block_size,
    heat_map_panels,
    kernel_name,
)
from lpft.results.quantities import PER_CENT

MOST_BLOCKS = 96
"""Rows of a heat map at most: a page's width has no room for more."""

_BELOW_TOLERANCE = 1e-2
_DIGITS = 6  # P of a narrow cone of features varies in the third digit


@dataclass(frozen=True)
class KernelRow:
    """One kernel over seeds: P, which no method changes (``method`` None), F or P + F."""

    task: str
    method: str | None
    kernel: str
    by_seed: tuple[tuple[KernelRecord, MethodRecord], ...]

    @property
    def labels(self) -> tuple[str, str, str]:
        method = "all" if self.method is None else method_name(self.method)
        return (self.task, method, kernel_name(self.kernel))

    @property
    def ft_ratio(self) -> Estimate | None:
        """The share of F in the first step, which stands with F alone."""
        if self.kernel != FT:
            return None
        return estimate({kernels.name: method.ft_ratio for kernels, method in self.by_seed})

    def statistic(
        self, value: Callable[[KernelStatistics], float | None], factor: float = 1.0
    ) -> Estimate | None:
        """Mean and standard deviation over seeds; None where no seed has the number."""
        return estimate(
            {
                kernels.name: None if statistics is None else value(statistics)
                for kernels, method in self.by_seed
                for statistics in (method.kernels.get(self.kernel),)
            },
            factor,
        )

    def published(self, name: str) -> Estimate | None:
        """A number of the paper's row of the kernel."""
        row = published_kernels(self.task, self.method, self.kernel)
        value = None if row is None else getattr(row, name)
        return None if value is None else Estimate(value)


def kernel_rows(runs: ExperimentRuns) -> Iterator[KernelRow]:
    """P once for each task, then F and P + F of every method, as the paper lists them."""
    for task in runs.scope.tasks:
        summaries = tuple(runs.kernels_by_seed(task).values())
        if not summaries:
            continue
        first = tuple((kernels, kernels.methods[0]) for kernels in summaries)
        yield KernelRow(task, None, PRETRAIN, first)
        for name in runs.scope.fine_tuned:
            by_seed = tuple(
                (kernels, method)
                for kernels in summaries
                for method in kernels.methods
                if method.method == name
            )
            yield KernelRow(task, name, FT, by_seed)
            yield KernelRow(task, name, NTK, by_seed)


def _plan(scope: Scope) -> Plan:
    """The kernels at the start of each method that fine-tunes, for each task and seed."""
    return Plan(kernels=planned_kernels(replace(scope, methods=scope.fine_tuned)))


# Tables 2 and 9.


def _statistic(heading: str, name: str, digits: int | None = None) -> Measure[KernelRow]:
    return Measure(
        heading,
        lambda row: row.statistic(lambda statistics: getattr(statistics, name)),
        lambda row: row.published(name),
        digits,
    )


def _accuracy(
    heading: str, solver: str, split: str, published: str = "", column: str = ""
) -> Measure[KernelRow]:
    """Kernel regression by a solver, in per cent."""

    def value(statistics: KernelStatistics) -> float | None:
        accuracies = statistics.regression.get(solver)
        return None if accuracies is None else getattr(accuracies, split)

    return Measure(
        heading,
        lambda row: row.statistic(value, PER_CENT),
        (lambda row: row.published(published)) if published else None,
        digits=2,
        column=column,
    )


FT_RATIO: Measure[KernelRow] = Measure(
    "FT ratio", lambda row: row.ft_ratio, lambda row: row.published("ft_ratio"), digits=4
)
_ENTRIES, _TEXTS = "paper's protocol, per entry: ", "per text, test"


def _show_tables(runs: ExperimentRuns) -> Results:
    rows = list(kernel_rows(runs))
    if not rows:
        return Results()
    labelled = [(row.labels, row) for row in rows]
    names = ("Task", "Method", "Kernel")
    statistics = measured_table(
        "kernel-statistics",
        "Rank, norm and FT ratio of the kernels",
        runs.scope.model,
        names,
        labelled,
        (
            _statistic("rank", "rank", digits=0),
            _statistic("Frobenius norm", "frobenius_norm"),
            FT_RATIO,
        ),
        "P is the same for all methods that share a model. Ranks are at the float32 tolerance; "
        "the FT ratio is the share of the first step's change of logits that comes through "
        "the features, by norm.",
    )
    regression = measured_table(
        "kernel-regression",
        "Kernel regression, accuracy in per cent",
        runs.scope.model,
        names,
        labelled,
        (
            _accuracy(f"{_ENTRIES}train", PAPER, "train", published="train_accuracy"),
            _accuracy(f"{_ENTRIES}test", PAPER, "test", published="test_accuracy"),
            _accuracy(f"{_ENTRIES}test", PAPER, "constant", column="constant answer"),
            _accuracy(_TEXTS, PAPER_TEXTS, "test", column="paper's protocol"),
            _accuracy(_TEXTS, LOGISTIC, "test", column="kernel logistic regression"),
        ),
        "Per entry, each number of the one-hot labels is right or wrong on its own, so that a "
        "constant no is right for all but one of a text's classes; folds split the entries of "
        "a text. Per text, the predicted class is right or wrong once. The two must not be "
        "compared with each other.",
    )
    return Results((statistics, regression), findings=_ft_ratios(rows))


def _ft_ratios(rows: Sequence[KernelRow]) -> tuple[str, ...]:
    """The FT ratio by method for each task, beside the published one."""
    by_task: dict[str, list[str]] = {}
    for row in rows:
        ratio, published = row.ft_ratio, row.published("ft_ratio")
        if ratio is not None:
            published_ratio = (
                "" if published is None else f" (published {significant(published.value)})"
            )
            ratios = by_task.setdefault(row.task, [])
            ratios.append(f"{significant(ratio.value)}{published_ratio} for {row.labels[1]}")
    return tuple(f"FT ratio on {task}: {joined(ratios)}." for task, ratios in by_task.items())


# Figures 2 and 7.


def _show_spectra(runs: ExperimentRuns) -> Results:
    by_task: dict[str, list[KernelRow]] = {}
    for row in kernel_rows(runs):
        by_task.setdefault(row.task, []).append(row)
    return Results(tuple(_spectra(task, rows) for task, rows in by_task.items()))


def _spectra(task: str, rows: Sequence[KernelRow]) -> Figure:
    panels = (
        Panel(
            title=f"{kernel_name(kernel)}, with P",
            x="k-th singular value",
            y="over the largest",
            y_scale="log",
            series=tuple(
                line
                for row in rows
                if row.kernel in (PRETRAIN, kernel) and (line := _spectrum(row)) is not None
            ),
        )
        for kernel in (FT, NTK)
    )
    return Figure(
        name=f"spectra-{task}",
        title=f"Spectra of the kernels: {task}",
        kind="lines",
        panels=tuple(panels),
        caption=(
            "Singular values of the kernel among the training texts, divided by the largest: "
            "geometric means over seeds, bands from the lowest to the highest seed. What lies two "
            "decades below the float32 rank tolerance is rounding, and left out."
        ),
    )


def _spectrum(row: KernelRow) -> Series | None:
    """The spectrum of a kernel over seeds; None where no seed has one."""
    known = [
        (kernels.name, statistics)
        for kernels, method in row.by_seed
        if (statistics := method.kernels.get(row.kernel)) is not None
        and statistics.singular_values.any()
    ]
    if not known:
        return None
    shortest = min(len(statistics.singular_values) for _, statistics in known)
    ranks = thinned(shortest, MOST_POINTS)
    logs = np.stack([_logarithms(statistics)[ranks] for _, statistics in known])
    several = len(known) > 1
    return Series(
        label=kernel_name(PRETRAIN) if row.method is None else method_name(row.method),
        method=row.method,
        x=tuple(float(rank + 1) for rank in ranks),
        y=_powers(logs.mean(axis=0)),
        low=_powers(logs.min(axis=0)) if several else None,
        high=_powers(logs.max(axis=0)) if several else None,
        runs=tuple(name for name, _ in known),
    )


def _logarithms(statistics: KernelStatistics) -> NDArray[np.float64]:
    """Logarithms of singular values over the largest; -inf for those that are rounding."""
    values = statistics.singular_values / statistics.singular_values[0]
    tolerance, largest = statistics.rank_tolerance, statistics.largest_singular_value
    bottom = 0.0 if not (tolerance and largest) else _BELOW_TOLERANCE * tolerance / largest
    return np.log(values, out=np.full_like(values, -np.inf), where=values > bottom)


def _powers(logarithms: NDArray[np.float64]) -> tuple[float | None, ...]:
    return tuple(float(np.exp(value)) if np.isfinite(value) else None for value in logarithms)


# Figures 8 and 9.


def _plan_heat_maps(scope: Scope) -> Plan:
    """The kernels of each task's first seed, which is drawn, without regression and parts of F."""
    first_seed = replace(scope, methods=scope.fine_tuned, seeds=scope.seeds[:1])
    return Plan(
        kernels=planned_kernels(first_seed, {"solver": ("none",), "granularity": ("none",)})
    )


def _show_heat_maps(runs: ExperimentRuns, names: Sequence[str]) -> Results:
    """The heat maps of the kernels ``names``, of each task's first seed."""
    figures = []
    for task in runs.scope.tasks:
        seed, kernels = next(iter(runs.kernels_by_seed(task).items()), (0, None))
        panels = () if kernels is None else heat_map_panels(kernels, MOST_BLOCKS, names)
        if kernels is None or not panels:
            continue
        texts = len(kernels.labels["train"])
        pooled = block_size(texts, MOST_BLOCKS)
        mean = f" A cell is the mean over {pooled} x {pooled} pairs of texts." if pooled > 1 else ""
        figures.append(
            Figure(
                name=f"heat-maps-{task}",
                title=f"Trace norms of the kernels: {task}",
                kind="heat",
                panels=tuple(
                    replace(panel, matrix=_rounded(panel), runs=(kernels.name,)) for panel in panels
                ),
                caption=(
                    "Trace norm of the C x C block of each pair of training texts, sorted by "
                    f"class, of {counted(texts, 'text')} and seed {seed} ({kernels.name}).{mean}"
                ),
            )
        )
    return Results(tuple(figures))


def _rounded(panel: Panel) -> tuple[tuple[float, ...], ...]:
    assert panel.matrix is not None, "a heat map has a matrix"
    return tuple(tuple(float(f"{value:.{_DIGITS}g}") for value in row) for row in panel.matrix)


_KINDS: tuple[tuple[tuple[str, ...], partial[Recipe]], ...] = (
    (("table2", "table9"), partial(Recipe, plan=_plan, show=_show_tables)),
    (("figure2", "figure7"), partial(Recipe, plan=_plan, show=_show_spectra)),
    (
        ("figure8",),
        partial(Recipe, plan=_plan_heat_maps, show=partial(_show_heat_maps, names=(PRETRAIN, FT))),
    ),
    (
        ("figure9",),
        partial(Recipe, plan=_plan_heat_maps, show=partial(_show_heat_maps, names=(FT,))),
    ),
)

RECIPES = {name: recipe(EXPERIMENTS[name]) for names, recipe in _KINDS for name in names}
