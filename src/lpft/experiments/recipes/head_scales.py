"""The head-scale experiment: its runs, and the rank correlation of scale and feature change."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from lpft.analysis.comparison import Resampled, Statistic, resample
from lpft.experiments.planning import planned_runs
from lpft.experiments.recipe import Found, Plan, Scope
from lpft.results.quantities import clusters_of, same_samples
from lpft.results.run import Run, read_feature_changes

SCALES = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 50.0, 100.0)
"""What the paper multiplies the head's weights with just before fine-tuning."""

FEWEST_SCALES = 3
"""That a correlation is computed from: two points always rank perfectly."""

CORRELATIONS = (-1.0, 1.0)
"""What a correlation lies between."""

ScaledRuns = Mapping[int, Mapping[float, Run]]
"""Finished runs of one task and method by seed, then by scale, smallest first."""


def head_scale_plan(scope: Scope, scales: Sequence[float] = SCALES) -> Plan:
    """A run of each task, method and seed at some of :data:`SCALES`.

    Scale 1 is the method's usual run, and shares its folder.
    """
    return Plan(
        runs=tuple(
            run
            for scale in scales
            for run in planned_runs(scope, variant=_variant(scale), settings={"head_scale": scale})
        )
    )


def scaled_runs(found: Found, task: str, method: str) -> ScaledRuns:
    """What of the plan is there; a seed without any run is absent."""
    by_scale = {scale: found.seeds(_variant(scale), task, method) for scale in SCALES}
    scaled = {
        seed: {scale: runs[seed] for scale, runs in by_scale.items() if seed in runs}
        for seed in found.scope.seeds
    }
    return {seed: runs for seed, runs in scaled.items() if runs}


def rank_correlations(
    seeds: ScaledRuns, split: str, *, generator: np.random.Generator
) -> dict[int, Resampled]:
    """Spearman's correlation of head scale and Diff(F) for each seed, and on draws of the texts.

    -1: each larger head moved the features less. A seed with fewer than :data:`FEWEST_SCALES`
    scales, or whose features did not move, has none.

    Raises:
        InputError: a run's feature changes cannot be read, or two runs have different texts.
    """
    known = {seed: runs for seed, runs in seeds.items() if len(runs) >= FEWEST_SCALES}
    frames = {
        run.name: read_feature_changes(run.folder, split)
        for runs in known.values()
        for run in runs.values()
    }
    if not frames:
        return {}
    texts = same_samples({name: frame["id"] for name, frame in frames.items()})
    changes = {
        seed: np.stack([frames[run.name]["feature_difference"] for run in runs.values()])
        for seed, runs in known.items()
    }
    return resample(
        {seed: _correlation(table) for seed, table in changes.items() if table.any()},
        texts,
        generator=generator,
        clusters=_clusters(known, split),
    )


def _clusters(seeds: ScaledRuns, split: str) -> NDArray[np.int64] | None:
    """What texts of a split share, as any run has it."""
    of_runs = (clusters_of(run, split) for runs in seeds.values() for run in runs.values())
    return next((clusters for clusters in of_runs if clusters is not None), None)


def _variant(scale: float) -> str:
    return f"head scale {scale:g}"


def _correlation(changes: NDArray[np.float64]) -> Statistic:
    """Of the mean change of some texts at each scale [scales, N], in rising order of scale."""
    scale_ranks = np.arange(len(changes)) - (len(changes) - 1) / 2

    def statistic(rows: NDArray[np.int64]) -> float:
        ranks = rankdata(changes[:, rows].mean(axis=1)) - (len(changes) + 1) / 2
        size = np.linalg.norm(scale_ranks) * np.linalg.norm(ranks)
        return float(scale_ranks @ ranks / size) if size > 0 else 0.0

    return statistic
