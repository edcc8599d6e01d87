"""Claim 5: the FT ratio is near 1 for LP-FT, near 0.2 for FT and near 0 for LoRA."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lpft.analysis.comparison import Resampled, Statistic, resample
from lpft.experiments.claims.cases import WITHOUT_RATES, Case, Outcome, Part, judge_cases
from lpft.experiments.claims.published import PublishedCase, published_sentence
from lpft.experiments.planning import planned_kernels
from lpft.experiments.recipe import Found, Plan, Scope
from lpft.experiments.recipes.cells import estimate
from lpft.paper import MODEL, published_datasets, published_kernels
from lpft.report.numbers import Spread, ratio_text
from lpft.results.exhibits import Column, Estimate, Table
from lpft.results.groups import method_name, model_name
from lpft.results.judging import Measured
from lpft.results.kernels import FT, KernelRecord, read_ft_ratio
from lpft.results.quantities import same_samples

STATEMENT = "The FT ratio is near 1 for LP-FT, near 0.2 for FT and near 0 for LoRA."
NEAR, ORDER = Part("near its number"), Part("in this order")
PARTS = (NEAR, ORDER)

EXPECTED = {"lp-ft": 1.0, "ft": 0.2, "lora": 0.0}
"""The claimed ratios, largest first."""

WIDTH = {"lp-ft": 0.25, "ft": 0.1, "lora": 0.05}
"""How far from it still counts as near; the bands do not meet, so their order follows."""

SAMPLES = 60
"""Texts of a split whose kernel is computed; the paper's 250 take several times as long, for a
ratio that is a mean over texts."""

_TABLE = 2
_TABLE_METHODS = ("ft", "lora", "lp-ft", "lp-lora")

_Ratios = Mapping[int, tuple[str, Resampled]]
"""By seed: the name of the kernels, and the ratio."""


def ft_ratio_kernels(scope: Scope) -> Plan:
    """Kernels of every task and seed, without the regression and the parts of F."""
    methods = tuple(method for method in _TABLE_METHODS if method in scope.methods)
    if not methods:
        return Plan()
    return Plan(
        kernels=planned_kernels(
            scope,
            methods=methods,
            settings={"solver": ("none",), "granularity": ("none",)},
        )
    )


def ft_ratio_outcomes(found: Found, generator: np.random.Generator) -> list[Outcome]:
    """Distance of each method's ratio from its number, and that the ratios keep their order.

    The texts that the ratio is a mean over are drawn; those in its inner sums are not.
    """
    methods = [method for method in EXPECTED if method in found.scope.methods]
    near, order = [], []
    for task in found.scope.tasks:
        ratios = _on_draws(found, task, methods, generator)
        near += [_near(task, method, ratios[method]) for method in methods]
        order += [
            _larger(task, larger, smaller, ratios[larger], ratios[smaller])
            for larger, smaller in pairwise(methods)
        ]
    return judge_cases([*near, *order], generator=generator)


def published_ft_ratio() -> str:
    """On how many of the paper's sets each method's ratio is near its number, and in order."""
    near: list[PublishedCase] = []
    order: list[PublishedCase] = []
    for dataset in published_datasets(_TABLE):
        estimates = {method: _published(dataset, method) for method in EXPECTED}
        ratios = {
            method: known.value
            for method, known in estimates.items()
            if known is not None and known.value is not None
        }
        near += [
            PublishedCase(
                _near_question(method), dataset, abs(ratio - EXPECTED[method]) < WIDTH[method]
            )
            for method, ratio in ratios.items()
        ]
        order += [
            PublishedCase(
                _order_question(larger, smaller), dataset, ratios[larger] > ratios[smaller]
            )
            for larger, smaller in pairwise(ratios)
        ]
    return published_sentence("Tables 2 and 9", [*near, *order], every=True)


def ft_ratio_table(found: Found) -> Table | None:
    """Our FT ratios beside the published ones."""
    rows: list[tuple[Estimate | str | None, ...]] = []
    for task in found.scope.tasks:
        for method in _TABLE_METHODS:
            kernels = _kernels(found, task, method).values()
            ours = estimate({each.name: _recorded(each, method) for each in kernels})
            if ours is not None:
                rows.append((task, method_name(method), ours, _published(task, method)))
    if not rows:
        return None
    return Table(
        name="ft-ratio",
        title="FT ratio at the start of each method",
        columns=(
            Column("Task", source="names"),
            Column("Method", source="names"),
            Column(model_name(found.scope.model), above="FT ratio", digits=4),
            Column(f"{MODEL}, published", above="FT ratio", digits=4, source="published"),
        ),
        rows=tuple(rows),
        note=(
            "The share of the first step's change of logits that comes through the features, by "
            f"norm, of {found.scope.kernel_samples} training samples at most (published: 250). "
            "Mean ± standard deviation over seeds."
        ),
        headers=2,
    )


def _kernels(found: Found, task: str, method: str) -> dict[int, KernelRecord]:
    """By seed: the kernels that have an FT ratio of the method."""
    return {
        seed: kernels
        for seed in found.scope.seeds
        if (kernels := found.kernels.get((task, seed))) is not None
        and any(one.method == method and one.ft_ratio is not None for one in kernels.methods)
    }


def _on_draws(
    found: Found, task: str, methods: Sequence[str], generator: np.random.Generator
) -> dict[str, _Ratios]:
    """The ratios of every method and seed, on the same draws of the texts."""
    known = {method: _kernels(found, task, method) for method in methods}
    quotients = {
        (method, seed): ratio.numerator / ratio.denominator
        for method, by_seed in known.items()
        for seed, kernels in by_seed.items()
        for ratio in (read_ft_ratio(kernels.folder, method),)
    }
    if not quotients:
        return {method: {} for method in methods}
    texts = same_samples(
        {
            kernels.name: kernels.labels["train"]
            for by_seed in known.values()
            for kernels in by_seed.values()
        }
    )
    resampled = resample(
        {key: _mean(values) for key, values in quotients.items()}, texts, generator=generator
    )
    return {
        method: {seed: (kernels.name, resampled[method, seed]) for seed, kernels in by_seed.items()}
        for method, by_seed in known.items()
    }


def _mean(values: NDArray[np.float64]) -> Statistic:
    return lambda rows: float(values[rows].mean())


def _published(task: str, method: str) -> Estimate | None:
    row = published_kernels(task, method, FT)
    return None if row is None or row.ft_ratio is None else Estimate(row.ft_ratio)


def _recorded(kernels: KernelRecord, method: str) -> float | None:
    return next(one.ft_ratio for one in kernels.methods if one.method == method)


def _near_question(method: str) -> str:
    return f"{method_name(method)} within {WIDTH[method]:g} of {EXPECTED[method]:g}"


def _order_question(larger: str, smaller: str) -> str:
    return f"{method_name(larger)} above {method_name(smaller)}"


def _near(task: str, method: str, ratios: _Ratios) -> Case:
    expected, width = EXPECTED[method], WIDTH[method]
    published = _published(task, method)
    beside = "" if published is None else f" (published {ratio_text(published.value)})"
    return Case(
        part=NEAR,
        measured=Measured(
            task=task,
            subject=_near_question(method),
            rates=WITHOUT_RATES,
            effects=tuple(-abs(value + -expected) + width for _, value in ratios.values()),
            runs=tuple(name for name, _ in ratios.values()),
            bounds=(-math.inf, width),
        ),
        unit=f"of FT ratio, nearer than the {width:g} allowed",
        told=f"FT ratio {_spread(ratios)}{beside}",
    )


def _larger(task: str, larger: str, smaller: str, high: _Ratios, low: _Ratios) -> Case:
    seeds = [seed for seed in high if seed in low]
    return Case(
        part=ORDER,
        measured=Measured(
            task=task,
            subject=_order_question(larger, smaller),
            rates=WITHOUT_RATES,
            effects=tuple(high[seed][1] - low[seed][1] for seed in seeds),
            runs=tuple(high[seed][0] for seed in seeds),
        ),
        unit="of FT ratio",
        told=f"{_spread(high)} for {method_name(larger)}, {_spread(low)} for "
        f"{method_name(smaller)}",
    )


def _spread(ratios: _Ratios) -> str:
    spread = Spread.of(resampled.value for _, resampled in ratios.values())
    if spread is None or spread.sd is None:
        return ratio_text(None if spread is None else spread.mean)
    return f"{ratio_text(spread.mean)} ± {ratio_text(spread.sd)}"
