"""Figures 3, 10 and 11: feature change against the scale of the head before fine-tuning."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from lpft.analysis.comparison import Resampled, Statistic, effect_over_seeds, resample
from lpft.experiments.measures import BANDS, mean_line, over_seeds
from lpft.experiments.plan import (
    ExperimentRuns,
    Plan,
    Recipe,
    Results,
    RunKey,
    Scope,
    planned_runs,
)
from lpft.results.exhibits import Column, Estimate, Figure, Panel, Series, Table
from lpft.results.formats import fixed, joined, significant
from lpft.results.groups import feature, method_name
from lpft.results.quantities import DRAW_SEED, clusters_of, same_samples
from lpft.results.run import Run, read_feature_changes
from lpft.settings.configs import RunConfig

SCALES = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 50.0, 100.0)
"""What the paper multiplies the head's weights with just before fine-tuning."""

CORRELATIONS = (-1.0, 1.0)
"""What a correlation lies between."""

_FEWEST_SCALES = 3  # that a correlation is computed from: two points always rank perfectly
_CHANGE = "feature_difference"

ScaledRuns = Mapping[int, Mapping[float, Run]]
"""Finished runs of one task and method by seed, then by scale, smallest first."""


def head_scale_plan(scope: Scope, scales: Sequence[float] = SCALES) -> Plan:
    """A run of each task, method and seed at some of :data:`SCALES`.

    Scale 1 is the method's usual run, and shares its folder.
    """
    runs: dict[RunKey, RunConfig] = {}
    for scale in scales:
        runs |= planned_runs(scope, variant=_variant(scale), settings={"head_scale": scale})
    return Plan(runs)


def scaled_runs(runs: ExperimentRuns, task: str, method: str) -> ScaledRuns:
    """The finished runs at each scale; a seed without any is absent."""
    by_scale = {scale: runs.by_seed(_variant(scale), task, method) for scale in SCALES}
    scaled = {
        seed: {scale: by_seed[seed] for scale, by_seed in by_scale.items() if seed in by_seed}
        for seed in runs.scope.seeds
    }
    return {seed: at_scales for seed, at_scales in scaled.items() if at_scales}


def _variant(scale: float) -> str:
    return f"head scale {scale:g}"


def rank_correlations(
    scaled: ScaledRuns, split: str, *, generator: np.random.Generator
) -> dict[int, Resampled]:
    """Spearman's correlation of head scale and Diff(F) for each seed, and on draws of the texts.

    -1: each larger head moved the features less. A seed with fewer than three scales, or whose
    features did not move, has none.

    Raises:
        InputError: a run's feature changes cannot be read, or two runs have different texts.
    """
    known = {seed: runs for seed, runs in scaled.items() if len(runs) >= _FEWEST_SCALES}
    every = [run for runs in known.values() for run in runs.values()]
    if not every:
        return {}
    frames = {run.name: read_feature_changes(run.folder, split) for run in every}
    texts = same_samples({name: frame["id"] for name, frame in frames.items()})
    changes = {
        seed: np.stack([frames[run.name][_CHANGE] for run in runs.values()])
        for seed, runs in known.items()
    }
    clusters = (clusters_of(run, split) for run in every)
    return resample(
        {seed: _correlation(table) for seed, table in changes.items() if table.any()},
        texts,
        generator=generator,
        clusters=next((each for each in clusters if each is not None), None),
    )


def _correlation(changes: NDArray[np.float64]) -> Statistic:
    """Of the mean change of some texts at each scale [scales, N], in rising order of scale."""
    scale_ranks = np.arange(len(changes)) - (len(changes) - 1) / 2

    def statistic(rows: NDArray[np.int64]) -> float:
        ranks = rankdata(changes[:, rows].mean(axis=1)) - (len(changes) + 1) / 2
        size = np.linalg.norm(scale_ranks) * np.linalg.norm(ranks)
        return float(scale_ranks @ ranks / size) if size > 0 else 0.0

    return statistic


def _plan(scope: Scope) -> Plan:
    return head_scale_plan(replace(scope, methods=scope.fine_tuned))


def _show(runs: ExperimentRuns) -> Results:
    figures: list[Figure] = []
    rows: list[tuple[Estimate | str | None, ...]] = []
    findings: list[str] = []
    for task in runs.scope.tasks:
        by_method = {
            method: scaled
            for method in runs.scope.fine_tuned
            if (scaled := scaled_runs(runs, task, method))
        }
        every = [r for seeds in by_method.values() for at in seeds.values() for r in at.values()]
        splits = dict.fromkeys(s for run in every for s in run.features if s != "train")
        if not splits:
            continue
        figures.append(_figure(task, list(splits), by_method))
        for split in splits:
            correlations = []
            for method, scaled in by_method.items():
                correlation, changes = _mean_correlation(scaled, split), _changes(scaled, split)
                rows.append((task, split, method_name(method), correlation, *changes))
                if correlation is not None:
                    correlations.append(_correlation_text(method, correlation, changes))
            if correlations:
                findings.append(
                    f"Rank correlation of head scale and feature change on {task}, {split}: "
                    f"{joined(correlations)}."
                )
    if findings:
        findings.append("The paper's claim is that this correlation is negative.")
    table = Table(
        name="head-scale-correlation",
        title="Rank correlation of head scale and feature change",
        columns=(
            *(Column(name, source="names") for name in ("Task", "Set", "Method")),
            Column("rank correlation", digits=2),
            *(Column(f"{scale:g}", above="feature change at scale") for scale in SCALES),
        ),
        rows=tuple(rows),
        note=(
            "Spearman's rank correlation over the scales of each seed, then its mean over seeds "
            "with a 95 % bootstrap interval over seeds and texts; at -1 each larger head moved "
            "the features less."
        ),
        headers=3,
    )
    return Results((*figures, *([table] if rows else [])), findings=tuple(findings))


def _figure(task: str, splits: Sequence[str], by_method: Mapping[str, ScaledRuns]) -> Figure:
    def line(method: str, scaled: ScaledRuns, split: str) -> Series:
        runs = {(seed, scale): run for seed, at in scaled.items() for scale, run in at.items()}
        changes = {key: run.feature(split, _CHANGE) for key, run in runs.items()}
        known = {key: change for key, change in changes.items() if change is not None}
        curves = [
            {scale: change for (of_seed, scale), change in known.items() if of_seed == seed}
            for seed in scaled
        ]
        return mean_line(method, curves, [runs[key] for key in known])

    return Figure(
        name=f"head-scale-{task}",
        title=f"Feature change against head scale: {task}",
        kind="lines",
        panels=tuple(
            Panel(
                title=split,
                x="scale of the head",
                y="feature change",
                series=tuple(line(method, scaled, split) for method, scaled in by_method.items()),
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


def _changes(scaled: ScaledRuns, split: str) -> list[Estimate | None]:
    """Diff(F) at every scale, over seeds."""
    by_scale = (
        {seed: runs[scale] for seed, runs in scaled.items() if scale in runs} for scale in SCALES
    )
    return [over_seeds(runs, feature(split, _CHANGE)) for runs in by_scale]


def _mean_correlation(scaled: ScaledRuns, split: str) -> Estimate | None:
    """The mean over seeds; None where no seed has one."""
    generator = np.random.default_rng(DRAW_SEED)
    correlations = rank_correlations(scaled, split, generator=generator)
    if not correlations:
        return None
    effect = effect_over_seeds(
        list(correlations.values()), generator=generator, bounds=CORRELATIONS
    )
    names = tuple(run.name for seed in correlations for run in scaled[seed].values())
    return Estimate(effect.mean, effect.sd, effect.seeds, effect.low, effect.high, runs=names)


def _correlation_text(
    method: str, correlation: Estimate, changes: Sequence[Estimate | None]
) -> str:
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


def _recipe(number: int, task: str, methods: tuple[str, ...]) -> Recipe:
    return Recipe(
        name=f"figure{number}",
        title="Feature change against the scale of the head",
        source=f"Figure {number}",
        tasks=(task,),
        methods=methods,
        plan=_plan,
        show=_show,
    )


RECIPES = (
    _recipe(3, "amazon", ("ft", "lp-ft")),
    _recipe(10, "cb", ("ft", "lp-ft", "lora", "lp-lora")),
    _recipe(11, "rte", ("ft", "lp-ft", "lora", "lp-lora")),
)
