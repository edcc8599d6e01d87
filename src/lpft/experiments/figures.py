"""Figures 1 and 3 to 6, 10 and 11: along training, against the head's scale, and t-SNE.

Figures of kernels are in :mod:`lpft.experiments.kernels`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from lpft.analysis.comparison import Resampled, Statistic, effect_over_seeds, resample
from lpft.analysis.features import PROJECTION
from lpft.experiments.measures import (
    NOTE_ON_RATES,
    at_shared_rates,
    over_seeds,
    plan_at_both_rates,
    shared_rates,
)
from lpft.experiments.plan import ExperimentRuns, Plan, Recipe, Results, Scope, planned_runs
from lpft.experiments.steps import (
    MOST_TEXTS,
    PROBING_PATHS,
    PROJECTIONS,
    Points,
    ProbedPath,
    ProjectedSplit,
    probed_runs,
    projected_runs,
)
from lpft.results.exhibits import Column, Estimate, Figure, Panel, Series, Table
from lpft.results.formats import counted, fixed, joined, significant
from lpft.results.groups import Spread, feature, method_name
from lpft.results.pairing import PUBLISHED, SHARED
from lpft.results.quantities import DRAW_SEED, clusters_of, same_samples
from lpft.results.run import Run, read_feature_changes
from lpft.results.series import QUANTITIES, curve
from lpft.settings import get_method

METHODS = ("lp", "ft", "lp-ft", "lora", "lp-lora")

_BANDS = "Lines are means over seeds, bands one standard deviation to either side."


def _mean_line(method: str, curves: Sequence[Mapping[float, float]], runs: Iterable[Run]) -> Series:
    """The mean of the seeds' curves, each by x, and one standard deviation around it."""
    xs = sorted({x for curve in curves for x in curve})
    spreads = [
        spread for x in xs if (spread := Spread.of(curve.get(x) for curve in curves)) is not None
    ]
    return Series(
        label=method_name(method),
        method=method,
        x=tuple(xs),
        y=tuple(spread.mean for spread in spreads),
        low=tuple(None if s.sd is None else s.mean - s.sd for s in spreads),
        high=tuple(None if s.sd is None else s.mean + s.sd for s in spreads),
        runs=tuple(run.name for run in runs),
    )


# Figures 1 and 4: along fine-tuning and along linear probing.

_AXES = {
    "head_norm": "Frobenius norm",
    "bias_norm": "L2 norm",
    "logit_norm": "L2 norm of a text's logits",
    "loss": "cross-entropy (nats)",
    "validation_loss": "cross-entropy (nats)",
    "validation_accuracy": "fraction of texts",
}
"""Each quantity with what stands along its axis."""

_QUANTITY_NAMES = {quantity: name for quantity, _, name in QUANTITIES}

_RunsByMethod = Mapping[str, Sequence[Run]]


def _show_training(runs: ExperimentRuns) -> Results:
    paths, probed, shared = PROBING_PATHS.read(runs), probed_runs(runs), at_shared_rates(runs)
    figures: list[Figure] = []
    findings: list[str] = []
    for task in runs.scope.tasks:
        own = _fine_tuned(runs, PUBLISHED, task)
        if own:
            note = "Each method at its own learning rate and batch size."
            figures.append(
                _along_training(own, f"fine-tuning-{task}", f"Along fine-tuning: {task}", note)
            )
            findings += _head_norms(task, own)
        at_shared = _fine_tuned(shared, SHARED, task)
        if at_shared:
            title = f"Along fine-tuning, at {shared_rates(at_shared)}: {task}"
            figures.append(
                _along_training(at_shared, f"fine-tuning-{task}-shared", title, NOTE_ON_RATES)
            )
        if task in paths:
            figures.append(_along_probing(task, probed[task], paths[task]))
            findings.append(_probing_norms(task, paths[task]))
    return Results(tuple(figures), findings=tuple(findings))


def _fine_tuned(runs: ExperimentRuns, variant: str, task: str) -> _RunsByMethod:
    return {
        method: list(by_seed.values())
        for method in runs.scope.methods
        if get_method(method).fine_tunes and (by_seed := runs.by_seed(variant, task, method))
    }


def _along_training(runs: _RunsByMethod, name: str, title: str, note: str) -> Figure:
    return _training_figure(
        name,
        title,
        "epoch",
        lambda quantity: [
            _mean_line(method, [dict(curve(run, quantity)) for run in seeds], seeds)
            for method, seeds in runs.items()
        ],
        caption=(
            f"{note} Epoch 0 is the start of fine-tuning: a random head, or the one that linear "
            "probing left. Loss of training is the mean over the batches since the point before; "
            "the rest is of validation after each epoch, the logit norm as the mean over texts. "
            f"Norms have no unit. {_BANDS}"
        ),
    )


def _along_probing(task: str, run: Run, path: ProbedPath) -> Figure:
    iterations = tuple(row["iteration"] for row in path.rows)
    return _training_figure(
        f"probing-{task}",
        f"Along linear probing: {task}",
        "iteration of lbfgs",
        lambda quantity: [
            Series(
                label=method_name("lp"),
                method="lp",
                x=iterations,
                y=tuple(row[quantity] for row in path.rows),
                runs=(run.name,),
            )
        ],
        caption=(
            "The head of scikit-learn's logistic regression by lbfgs after k iterations from zero, "
            f"at the inverse strength C = {significant(path.inverse_strength)} that "
            "cross-validation chose; loss is the mean cross-entropy without the penalty, norms "
            "have no unit. The last point meets a tolerance of 1e-8, the paper's 1e-4 is met after "
            f"{counted(path.stop, 'iteration')}. No seed enters."
        ),
    )


def _training_figure(
    name: str, title: str, x: str, lines: Callable[[str], Sequence[Series]], *, caption: str
) -> Figure:
    """A panel for each quantity."""
    panels = tuple(
        Panel(title=_QUANTITY_NAMES[quantity], x=x, y=axis, series=tuple(lines(quantity)))
        for quantity, axis in _AXES.items()
    )
    return Figure(name, title, "lines", panels, caption)


def _head_norms(task: str, runs: _RunsByMethod) -> list[str]:
    changes = []
    for method, seeds in runs.items():
        norms = [[value for _, value in curve(run, "head_norm")] for run in seeds]
        starts = Spread.of(values[0] for values in norms if values)
        ends = Spread.of(values[-1] for values in norms if values)
        if starts is not None and ends is not None:
            changes.append(
                f"from {significant(starts.mean)} to {significant(ends.mean)} for "
                f"{method_name(method)}"
            )
    return [f"Head norm along fine-tuning on {task}: {joined(changes)}."] if changes else []


def _probing_norms(task: str, path: ProbedPath) -> str:
    last = path.rows[-1]
    norm, iterations = last["head_norm"], int(last["iteration"])
    grows = (
        f"Linear probing on {task}: the head's norm goes from 0 to {significant(norm)} in "
        f"{counted(iterations, 'iteration')} of lbfgs"
    )
    if path.stop == iterations:
        return f"{grows}, where the paper's tolerance ends it too."
    at_stop = next(row["head_norm"] for row in path.rows if row["iteration"] == path.stop)
    return f"{grows}; the paper's tolerance ends it after {path.stop}, at {significant(at_stop)}."


# Figures 3, 10 and 11: feature change against the scale of the head before fine-tuning.

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
    return Plan(
        runs=tuple(
            run
            for scale in scales
            for run in planned_runs(scope, variant=_variant(scale), settings={"head_scale": scale})
        )
    )


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


def _plan_scales(scope: Scope) -> Plan:
    return head_scale_plan(replace(scope, methods=scope.fine_tuned))


def _show_scales(runs: ExperimentRuns) -> Results:
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
        figures.append(_scale_figure(task, list(splits), by_method))
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


def _scale_figure(task: str, splits: Sequence[str], by_method: Mapping[str, ScaledRuns]) -> Figure:
    def line(method: str, scaled: ScaledRuns, split: str) -> Series:
        runs = {(seed, scale): run for seed, at in scaled.items() for scale, run in at.items()}
        changes = {key: run.feature(split, _CHANGE) for key, run in runs.items()}
        known = {key: change for key, change in changes.items() if change is not None}
        curves = [
            {scale: change for (of_seed, scale), change in known.items() if of_seed == seed}
            for seed in scaled
        ]
        return _mean_line(method, curves, [runs[key] for key in known])

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
            f"not. Each method at its own learning rate and batch size. {_BANDS}"
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


# Figures 5 and 6: t-SNE of features and the head's rows, before and after training.


def _plan_projections(scope: Scope) -> Plan:
    """One run for each task and method: a picture shows one seed."""
    return Plan(
        runs=planned_runs(
            scope,
            methods=scope.fine_tuned,
            seeds=scope.seeds[:1],
            settings={"save_features": True},
        )
    )


def _show_projections(runs: ExperimentRuns) -> Results:
    projections, projected = PROJECTIONS.read(runs), projected_runs(runs)
    figures = []
    for task in runs.scope.tasks:
        panels = tuple(
            _projection_panel(
                f"{method_name(method)}, {split}, {time}",
                projection.classes,
                points,
                number,
                projected[task, method].name,
            )
            for (of_task, method), projection in projections.items()
            if of_task == task
            for split, points in projection.splits.items()
            for number, time in enumerate(("before", "after"))
        )
        if panels:
            title = f"Features and the head's rows before and after training: {task}"
            caption = (
                "A point is a text, in the colour of its class; a named point is a row of the "
                "head, before training the random one that every method is given. "
                f"{PROJECTION} The two panels of a method and a split are of one t-SNE, others "
                "must not be compared by place; only nearness has a meaning, for the axes have no "
                f"unit. At most {MOST_TEXTS} texts of a split; seed {runs.scope.seeds[0]}. Each "
                "method at its own learning rate and batch size."
            )
            figures.append(Figure(f"projection-{task}", title, "scatter", panels, caption))
    return Results(tuple(figures))


def _projection_panel(
    title: str, classes: Sequence[str], projected: ProjectedSplit, time: int, run: str
) -> Panel:
    """The texts of each class, and the head's rows, before (0) or after (1) training."""

    def points(label: str, points: Points, texts: tuple[str, ...] = ()) -> Series:
        x, y = zip(*points, strict=True)
        return Series(label, x=x, y=y, texts=texts)

    labelled = list(zip(projected.features[time], projected.labels, strict=True))
    by_class = [
        [point for point, label in labelled if label == index] for index in range(len(classes))
    ]
    series = [points(name, of) for name, of in zip(classes, by_class, strict=True) if of]
    rows = points("rows of the head", projected.head[time], tuple(classes))
    return Panel(title=title, x="t-SNE 1", y="t-SNE 2", series=(*series, rows), runs=(run,))


_TRAINING = {
    "title": "Norms, loss and accuracy along training",
    "plan": plan_at_both_rates,
    "show": _show_training,
    "step": PROBING_PATHS,
}
_SCALES = {
    "title": "Feature change against the scale of the head",
    "plan": _plan_scales,
    "show": _show_scales,
}
_PROJECTIONS = {
    "title": "t-SNE of features with the head's rows",
    "plan": _plan_projections,
    "show": _show_projections,
    "step": PROJECTIONS,
}
_FINE_TUNED = ("ft", "lp-ft", "lora", "lp-lora")


def _recipe(number: int, task: str, methods: tuple[str, ...], kind: Mapping[str, Any]) -> Recipe:
    return Recipe(
        name=f"figure{number}", source=f"Figure {number}", tasks=(task,), methods=methods, **kind
    )


RECIPES = (
    _recipe(1, "rte", METHODS, _TRAINING),
    _recipe(4, "cb", METHODS, _TRAINING),
    _recipe(3, "amazon", _FINE_TUNED[:2], _SCALES),
    _recipe(10, "cb", _FINE_TUNED, _SCALES),
    _recipe(11, "rte", _FINE_TUNED, _SCALES),
    _recipe(5, "cb", ("ft", "lp-ft"), _PROJECTIONS),
    _recipe(6, "cb", ("lora", "lp-lora"), _PROJECTIONS),
)
