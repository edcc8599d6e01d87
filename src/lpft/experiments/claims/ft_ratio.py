"""Claim 5: the FT ratio is near 1 for LP-FT, near 0.2 for FT and near 0 for LoRA."""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from lpft.analysis.resampling import without_samples
from lpft.experiments.claims.verdicts import WITHOUT_RATES, Measured, Outcome, Part, judge
from lpft.experiments.planning import planned_kernels
from lpft.experiments.recipe import Found, Plan, Scope
from lpft.experiments.recipes.cells import estimate
from lpft.paper import MODEL, published_kernels
from lpft.report.exhibits.record import Estimate, ExhibitColumn, TableExhibit
from lpft.report.kernels.summary import FT, ratio
from lpft.report.numbers import Spread
from lpft.report.settings import method_name, model_name

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

MOST_SEEDS = 3
"""Whose kernels are computed: the LP head is the same in all, and random heads hardly differ."""

_TABLE_METHODS = ("ft", "lora", "lp-ft", "lp-lora")


def ft_ratio_kernels(scope: Scope) -> Plan:
    """Kernels of every task for the first seeds, without the regression and the parts of F."""
    methods = tuple(method for method in _TABLE_METHODS if method in scope.methods)
    if not methods:
        return Plan()
    return Plan(
        kernels=planned_kernels(
            scope,
            methods=methods,
            seeds=scope.seeds[:MOST_SEEDS],
            settings={"solver": ("none",), "granularity": ("none",)},
        )
    )


def ft_ratio_outcomes(found: Found, generator: np.random.Generator) -> list[Outcome]:
    """Distance of each method's ratio from its number, and that the ratios keep their order.

    A ratio is a mean over the kernel's samples: the intervals are over seeds alone.
    """
    methods = [method for method in EXPECTED if method in found.scope.methods]
    near, order = [], []
    for task in found.scope.tasks:
        ratios = {method: _ratios(found, task, method) for method in methods}
        near += [_near(task, method, ratios[method]) for method in methods]
        order += [
            _larger(task, larger, smaller, ratios[larger], ratios[smaller])
            for larger, smaller in pairwise(methods)
        ]
    return judge([*near, *order], generator=generator)


def ft_ratio_table(found: Found) -> TableExhibit | None:
    """Our FT ratios beside the published ones."""
    rows: list[tuple[Estimate | str | None, ...]] = []
    for task in found.scope.tasks:
        for method in _TABLE_METHODS:
            ours = estimate(dict(_ratios(found, task, method).values()))
            if ours is not None:
                rows.append((task, method_name(method), ours, _published(task, method)))
    if not rows:
        return None
    return TableExhibit(
        name="ft-ratio",
        title="FT ratio at the start of each method",
        columns=(
            ExhibitColumn("Task", source="names"),
            ExhibitColumn("Method", source="names"),
            ExhibitColumn(model_name(found.scope.model), above="FT ratio", digits=4),
            ExhibitColumn(f"{MODEL}, published", above="FT ratio", digits=4, source="published"),
        ),
        rows=tuple(rows),
        note=(
            "The share of the first step's change of logits that comes through the features, by "
            f"norm, of {found.scope.kernel_samples} training samples at most (published: 250). "
            "Mean ± standard deviation over seeds."
        ),
        headers=2,
    )


_Ratios = Mapping[int, tuple[str, float]]
"""By seed: the name of the kernels, and the ratio."""


def _ratios(found: Found, task: str, method: str) -> _Ratios:
    ratios = {}
    for seed in found.scope.seeds:
        kernels = found.kernels.get((task, seed))
        if kernels is None:
            continue
        for known in kernels.methods:
            if known.method == method and known.ft_ratio is not None:
                ratios[seed] = (kernels.name, known.ft_ratio)
    return ratios


def _published(task: str, method: str) -> Estimate | None:
    row = published_kernels(task, method, FT)
    return None if row is None or row.ft_ratio is None else Estimate(row.ft_ratio)


def _near(task: str, method: str, ratios: _Ratios) -> Measured:
    expected, width = EXPECTED[method], WIDTH[method]
    published = _published(task, method)
    beside = "" if published is None else f" (published {ratio(published.value)})"
    return Measured(
        part=NEAR,
        task=task,
        subject=f"{method_name(method)} within {width:g} of {expected:g}",
        rates=WITHOUT_RATES,
        unit=f"of FT ratio, nearer than the {width:g} allowed",
        effects=tuple(
            without_samples(width - abs(value - expected)) for _, value in ratios.values()
        ),
        runs=tuple(name for name, _ in ratios.values()),
        told=f"FT ratio {_spread(ratios)}{beside}",
    )


def _larger(task: str, larger: str, smaller: str, high: _Ratios, low: _Ratios) -> Measured:
    seeds = [seed for seed in high if seed in low]
    return Measured(
        part=ORDER,
        task=task,
        subject=f"{method_name(larger)} above {method_name(smaller)}",
        rates=WITHOUT_RATES,
        unit="of FT ratio",
        effects=tuple(without_samples(high[seed][1] - low[seed][1]) for seed in seeds),
        runs=tuple(high[seed][0] for seed in seeds),
        told=f"{_spread(high)} for {method_name(larger)}, {_spread(low)} for "
        f"{method_name(smaller)}",
    )


def _spread(ratios: _Ratios) -> str:
    spread = Spread.of(value for _, value in ratios.values())
    if spread is None or spread.sd is None:
        return ratio(None if spread is None else spread.mean)
    return f"{ratio(spread.mean)} ± {ratio(spread.sd)}"
