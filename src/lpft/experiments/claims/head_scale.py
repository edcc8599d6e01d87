"""Claim 3: the larger the scale of the head before fine-tuning, the less features change."""

from dataclasses import replace

import numpy as np

from lpft.experiments.claims.cases import Case, Outcome, Part, judge_cases
from lpft.experiments.recipe import Found, Plan, Scope
from lpft.experiments.recipes.head_scales import (
    CORRELATIONS,
    head_scale_plan,
    rank_correlations,
    scaled_runs,
)
from lpft.experiments.recipes.head_scales import SCALES as PAPER_SCALES
from lpft.report.numbers import Spread, with_sd
from lpft.results.groups import method_name
from lpft.results.judging import Measured
from lpft.results.pairing import rates_name
from lpft.results.quantities import feature_split

STATEMENT = "The larger the head's scale before fine-tuning, the smaller the feature change."
PARTS = (Part("feature change falls with the scale"),)
UNIT = "rank correlation, negative"

SCALES = (0.1, 1.0, 10.0, 100.0)
"""Fewer than the paper's, and on the first task alone: each is a run of every method and seed."""

LIMIT = (
    f"Claim 3 is tried on the first task alone, at {len(SCALES)} of the paper's "
    f"{len(PAPER_SCALES)} scales and each method's own rates; figures 3, 10 and 11 have all scales."
)
REMARK = "on the first task alone"
_METHODS = ("ft", "lp-ft")


def scaled_plan(scope: Scope) -> Plan:
    """Runs at each scale on the first task, for every seed."""
    narrowed = _narrowed(scope)
    return head_scale_plan(narrowed, SCALES) if narrowed.methods else Plan()


def head_scale_outcomes(found: Found, generator: np.random.Generator) -> list[Outcome]:
    """Minus Spearman's correlation of scale and ``Diff(F)``, over seeds and samples."""
    scope = _narrowed(found.scope)
    cases = []
    for task in scope.tasks:
        for method in scope.methods:
            runs = scaled_runs(found, task, method)
            every = [run for by_scale in runs.values() for run in by_scale.values()]
            at_some_scale = {seed: next(iter(scales.values())) for seed, scales in runs.items()}
            correlations = rank_correlations(runs, feature_split(every), generator=generator)
            spread = Spread.of(correlation.value for correlation in correlations.values())
            cases.append(
                Case(
                    part=PARTS[0],
                    measured=Measured(
                        task=task,
                        subject=f"{method_name(method)} at scales "
                        + ", ".join(f"{scale:g}" for scale in SCALES),
                        rates=rates_name(task, {method: at_some_scale}),
                        effects=tuple(-correlation for correlation in correlations.values()),
                        runs=tuple(
                            run.name for seed in correlations for run in runs[seed].values()
                        ),
                        bounds=CORRELATIONS,
                    ),
                    unit=UNIT,
                    told=f"rank correlation {with_sd(spread, 2)}",
                )
            )
    return judge_cases(cases, generator=generator)


def _narrowed(scope: Scope) -> Scope:
    return replace(
        scope,
        tasks=scope.tasks[:1],
        methods=tuple(method for method in _METHODS if method in scope.methods),
    )
