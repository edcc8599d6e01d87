"""Figures 3, 10 and 11: feature change against the scale of the head before fine-tuning."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from lpft.analysis.comparison import effect_over_seeds
from lpft.experiments.recipe import Found, Plan, Recipe, Scope, Shown
from lpft.experiments.recipes.cells import over_seeds
from lpft.experiments.recipes.fine_tuned import fine_tuned_methods
from lpft.experiments.recipes.head_scales import (
    CORRELATIONS,
    SCALES,
    ScaledRuns,
    head_scale_plan,
    rank_correlations,
    scaled_runs,
)
from lpft.experiments.recipes.seed_curves import BANDS, SeedCurve, mean_line
from lpft.report.numbers import fixed, joined, significant
from lpft.results.exhibits import (
    Column,
    Estimate,
    Figure,
    Panel,
    Table,
)
from lpft.results.groups import feature, method_name
from lpft.results.quantities import DRAW_SEED

_CHANGE = "feature_difference"
_NAMES = ("Task", "Set", "Method")
_WITHOUT_PANEL = ("train",)

Scaled = Mapping[str, ScaledRuns]
"""The runs of one task by method."""


def _plan(scope: Scope) -> Plan:
    return head_scale_plan(replace(scope, methods=fine_tuned_methods(scope)))


def _show(found: Found) -> Shown:
    figures: list[Figure] = []
    rows: list[tuple[Estimate | str | None, ...]] = []
    findings: list[str] = []
    for task in found.scope.tasks:
        scaled = {
            method: runs
            for method in fine_tuned_methods(found.scope)
            if (runs := scaled_runs(found, task, method))
        }
        splits = _splits(scaled)
        if not splits:
            continue
        figures.append(_figure(task, splits, scaled))
        for split in splits:
            told = []
            for method, seeds in scaled.items():
                correlation = _correlation(seeds, split)
                changes = _changes(seeds, split)
                rows.append((task, split, method_name(method), correlation, *changes))
                if correlation is not None:
                    told.append(_told(method, correlation, changes))
            if told:
                findings.append(
                    f"Rank correlation of head scale and feature change on {task}, {split}: "
                    f"{joined(told)}."
                )
    if findings:
        findings.append("The paper's claim is that this correlation is negative.")
    tables = [_table(rows)] if rows else []
    return Shown(exhibits=(*figures, *tables), findings=tuple(findings))


def _splits(scaled: Scaled) -> tuple[str, ...]:
    """The test split and the OOD sets, in the order of the records."""
    names = dict.fromkeys(
        split
        for seeds in scaled.values()
        for runs in seeds.values()
        for run in runs.values()
        for split in run.features
    )
    return tuple(name for name in names if name not in _WITHOUT_PANEL)


def _figure(task: str, splits: Sequence[str], scaled: Scaled) -> Figure:
    return Figure(
        name=f"head-scale-{task}",
        title=f"Feature change against head scale: {task}",
        kind="lines",
        panels=tuple(
            Panel(
                title=split,
                x="scale of the head",
                y="feature change",
                series=tuple(
                    mean_line(method, _curves(seeds, split)) for method, seeds in scaled.items()
                ),
                x_scale="log",
            )
            for split in splits
        ),
        caption=(
            "Mean L2 distance of a text's features from their pre-trained values, Diff(F), after "
            "fine-tuning from a head whose weights were multiplied by the scale; the bias was "
            f"not. Each method at its own learning rate and batch size. {BANDS}"
        ),
    )


def _curves(seeds: ScaledRuns, split: str) -> list[SeedCurve]:
    curves = []
    for runs in seeds.values():
        changes = {scale: run.feature(split, _CHANGE) for scale, run in runs.items()}
        known = {scale: change for scale, change in changes.items() if change is not None}
        curves.append(SeedCurve(known, tuple(runs[scale].name for scale in known)))
    return curves


def _table(rows: Sequence[tuple[Estimate | str | None, ...]]) -> Table:
    return Table(
        name="head-scale-correlation",
        title="Rank correlation of head scale and feature change",
        columns=(
            *(Column(name, source="names") for name in _NAMES),
            Column("rank correlation", digits=2),
            *(Column(f"{scale:g}", above="feature change at scale") for scale in SCALES),
        ),
        rows=tuple(rows),
        note=(
            "Spearman's rank correlation over the scales of each seed, then its mean over seeds "
            "with a 95 % bootstrap interval over seeds and texts; at -1 each larger head moved "
            "the features less."
        ),
        headers=len(_NAMES),
    )


def _changes(seeds: ScaledRuns, split: str) -> list[Estimate | None]:
    """Diff(F) at every scale, over seeds."""
    by_scale = (
        {seed: runs[scale] for seed, runs in seeds.items() if scale in runs} for scale in SCALES
    )
    return [over_seeds(runs, feature(split, _CHANGE)) for runs in by_scale]


def _correlation(seeds: ScaledRuns, split: str) -> Estimate | None:
    """The mean over seeds; None where no seed has one."""
    generator = np.random.default_rng(DRAW_SEED)
    correlations = rank_correlations(seeds, split, generator=generator)
    if not correlations:
        return None
    effect = effect_over_seeds(
        list(correlations.values()), generator=generator, bounds=CORRELATIONS
    )
    names = tuple(run.name for seed in correlations for run in seeds[seed].values())
    return Estimate(effect.mean, effect.sd, effect.seeds, effect.low, effect.high, runs=names)


def _told(method: str, correlation: Estimate, changes: Sequence[Estimate | None]) -> str:
    known = [
        (scale, change.value)
        for scale, change in zip(SCALES, changes, strict=True)
        if change is not None
    ]
    (first, small), (last, large) = known[0], known[-1]
    return (
        f"{fixed(correlation.value, 2)} for {method_name(method)} (from {significant(small)} at "
        f"scale {first:g} to {significant(large)} at {last:g})"
    )


def _recipe(name: str, task: str, methods: tuple[str, ...]) -> Recipe:
    return Recipe(
        name=name,
        title="Feature change against the scale of the head",
        source=name.replace("figure", "Figure "),
        tasks=(task,),
        methods=methods,
        plan=_plan,
        show=_show,
    )


_WHOLE = ("ft", "lp-ft")
_WITH_FACTORS = (*_WHOLE, "lora", "lp-lora")

RECIPES = (
    _recipe("figure3", "amazon", _WHOLE),
    _recipe("figure10", "cb", _WITH_FACTORS),
    _recipe("figure11", "rte", _WITH_FACTORS),
)
