"""Figures 1 and 3 to 6, 10 and 11: along training, t-SNE of features, and head scales.

The first two kinds have a step: the path of a linear probe, and the projection of a run's features.
Figures of kernels are in :mod:`lpft.experiments.kernels`.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from lpft.analysis.comparison import Resampled, Statistic, effect_over_seeds, resample
from lpft.analysis.features import PROJECTION, project_with_head
from lpft.data.labels import class_weights
from lpft.data.splits import draw_rows
from lpft.errors import InputError
from lpft.experiments.catalogue import EXPERIMENTS
from lpft.experiments.measures import (
    BANDS,
    at_rates,
    estimate,
    mean_line,
    note_on_rates,
    plan_at_every_rate,
    rates_in_words,
)
from lpft.experiments.plan import (
    ExperimentRuns,
    Plan,
    Recipe,
    Results,
    RunKey,
    Scope,
    Step,
    job_of_run,
    planned_runs,
)
from lpft.experiments.prepare import reopen
from lpft.results.exhibits import Column, Estimate, Figure, Panel, Series, Table
from lpft.results.formats import counted, fixed, joined, significant
from lpft.results.groups import Spread, feature, method_name
from lpft.results.pairing import PUBLISHED
from lpft.results.quantities import DRAW_SEED, clusters_of, same_samples
from lpft.results.run import CURVES, Run, read_feature_changes, read_features, read_head_rows
from lpft.results.schema import number
from lpft.settings.configs import RunConfig
from lpft.settings.methods import get_method
from lpft.training.cache import SplitInputs, prepare_split
from lpft.training.history import path_rows
from lpft.training.probing import probing_path

logger = logging.getLogger(__name__)

# Figures 1 and 4: along fine-tuning and along linear probing.


@dataclass(frozen=True)
class ProbedPath:
    """Rows of :func:`~lpft.training.history.path_rows`, and what was fitted.

    ``inverse_strength`` is the one that the run's cross-validation chose; ``stop`` is the iteration
    at which the paper's tolerance ends the fit.
    """

    inverse_strength: float
    stop: int
    rows: list[dict[str, float]]


def probed_runs(runs: ExperimentRuns) -> dict[str, Run]:
    """One run of each task whose head came from linear probing.

    Neither rows nor folds depend on the seed, so that one run of a task stands for all.
    """
    probed: dict[str, Run] = {}
    for key, run in runs.runs.items():
        if run.record.probe:
            probed.setdefault(key.task, run)
    return {task: probed[task] for task in runs.scope.tasks if task in probed}


def _follow_probe(run: Run) -> ProbedPath:
    strength = number((run.record.probe or {}).get("inverse_strength"))
    if strength is None:
        raise InputError(
            f"run.json of '{run.folder}' lacks the strength of its linear probe: train it again"
        )
    logger.info("following the linear probe of %s", run.name)
    config, data, classifier, encoder = reopen(run)
    settings = config.training

    def frozen(split: str) -> SplitInputs:
        """Labels and phi_0 of a split, from the cache of frozen features."""
        examples = data.splits()[split]
        return prepare_split(classifier, examples, settings, encoder=encoder, name=split)

    train, validation = frozen("train"), frozen("validation")
    path = probing_path(
        train.pretrained,
        train.labels,
        len(data.classes),
        inverse_strength=strength,
        fit_bias=settings.head_bias,
        class_weight=class_weights(settings.class_weight, data.classes),
    )
    rows = path_rows(
        path, (train.pretrained, train.labels), (validation.pretrained, validation.labels)
    )
    return ProbedPath(strength, path.stop, rows)


PROBING_PATHS: Step[str, ProbedPath] = Step(
    ProbedPath,
    lambda runs: {
        task: job_of_run(f"probing-{task}.json", run, _follow_probe)
        for task, run in probed_runs(runs).items()
    },
)
"""By task, the path of its linear probe, computed from the frozen features."""

_AXES = {
    "head_norm": "Frobenius norm",
    "bias_norm": "L2 norm",
    "logit_norm": "L2 norm of a text's logits",
    "loss": "cross-entropy (nats)",
    "validation_loss": "cross-entropy (nats)",
    "validation_accuracy": "fraction of texts",
}
"""Each quantity with what stands along its axis."""

_QUANTITY_NAMES = {quantity: name for quantity, _, name in CURVES}

_RunsByMethod = Mapping[str, Sequence[Run]]


def _show_training(runs: ExperimentRuns) -> Results:
    paths, probed = PROBING_PATHS.read(runs), probed_runs(runs)
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
        for rates in runs.rates:
            others = _fine_tuned(at_rates(runs, rates), rates, task)
            if others:
                name = f"fine-tuning-{task}-{rates.lower()}"
                title = f"Along fine-tuning, at {rates_in_words(rates, others)}: {task}"
                figure = _along_training(others, name, title, note_on_rates((rates,)))
                figures.append(replace(figure, folded=True))
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
            mean_line(method, [dict(run.curve(quantity)) for run in seeds], seeds)
            for method, seeds in runs.items()
        ],
        caption=(
            f"{note} Epoch 0 is the start of fine-tuning: a random head, or the one that linear "
            "probing left. Loss of training is the mean over the batches since the point before; "
            "the rest is of validation after each epoch, the logit norm as the mean over texts. "
            f"Norms have no unit. {BANDS}"
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
    panels = tuple(
        Panel(title=_QUANTITY_NAMES[quantity], x=x, y=axis, series=tuple(lines(quantity)))
        for quantity, axis in _AXES.items()
    )
    return Figure(name, title, "lines", panels, caption)


def _head_norms(task: str, runs: _RunsByMethod) -> list[str]:
    changes = []
    for method, seeds in runs.items():
        norms = [[value for _, value in run.curve("head_norm")] for run in seeds]
        at_start = Spread.of(values[0] for values in norms if values)
        at_end = Spread.of(values[-1] for values in norms if values)
        if at_start is not None and at_end is not None:
            changes.append(
                f"from {significant(at_start.mean)} to {significant(at_end.mean)} for "
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


# Figures 5 and 6: t-SNE of features and the head's rows, before and after training.

MOST_TEXTS = 250
"""Texts of a split whose features are projected."""

_PROJECTED_SPLITS = ("train", "test")
_PROJECTION_SEED = 0

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class ProjectedSplit:
    """Class indices of N texts, and points of a :class:`~lpft.analysis.features.Projection`.

    ``features`` and ``head`` are those before and after training: N and C points each.
    """

    labels: list[int]
    features: tuple[Points, Points]
    head: tuple[Points, Points]


@dataclass(frozen=True)
class ProjectedRun:
    """The projections of one run's splits, and the names of its classes."""

    classes: list[str]
    splits: Mapping[str, ProjectedSplit]


def projected_runs(runs: ExperimentRuns) -> dict[tuple[str, str], Run]:
    """The run of each task and method with the first seed: a picture shows one."""
    return {
        (key.task, key.method): run
        for key, run in runs.runs.items()
        if key.variant == PUBLISHED and key.seed == runs.scope.seeds[0]
    }


def _project(run: Run) -> ProjectedRun:
    logger.info("projecting the features of %s", run.name)
    _, data, classifier, _ = reopen(run)
    head = classifier.model.head.weight.detach().numpy(), read_head_rows(run.folder)
    splits: dict[str, ProjectedSplit] = {}
    for split in _PROJECTED_SPLITS:
        labels = data.splits()[split].labels
        assert labels is not None
        features = read_features(run.folder, split)
        rows = draw_rows(labels, MOST_TEXTS)
        projection = project_with_head(
            features.pretrained[rows], features.features[rows], *head, seed=_PROJECTION_SEED
        )
        splits[split] = ProjectedSplit(
            labels=labels[rows].tolist(),
            features=(_rounded(projection.features_before), _rounded(projection.features_after)),
            head=(_rounded(projection.head_before), _rounded(projection.head_after)),
        )
    return ProjectedRun([str(name) for name in data.classes], splits)


def _rounded(points: NDArray[np.float64]) -> Points:
    return [(round(x, 3), round(y, 3)) for x, y in points.tolist()]


PROJECTIONS: Step[tuple[str, str], ProjectedRun] = Step(
    ProjectedRun,
    lambda runs: {
        (task, method): job_of_run(f"projection-{task}-{method}.json", run, _project)
        for (task, method), run in projected_runs(runs).items()
    },
)
"""By task and method, the features and the head of one run on a plane."""


def _plan_projections(scope: Scope) -> Plan:
    """One run for each task and method: a picture shows one seed."""
    first_seed = replace(scope, methods=scope.fine_tuned, seeds=scope.seeds[:1])
    return Plan(planned_runs(first_seed, settings={"save_features": True}))


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


# Figures 3, 10 and 11: feature change against the scale of the head before fine-tuning.

SCALES = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 50.0, 100.0)
"""What the paper multiplies the head with just before fine-tuning."""

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
    all_runs = [run for runs in known.values() for run in runs.values()]
    if not all_runs:
        return {}
    frames = {run.name: read_feature_changes(run.folder, split) for run in all_runs}
    texts = same_samples({name: frame["id"] for name, frame in frames.items()})
    changes = {
        seed: np.stack([frames[run.name][_CHANGE] for run in runs.values()])
        for seed, runs in known.items()
    }
    clusters = (clusters_of(run, split) for run in all_runs)
    return resample(
        {seed: _correlation(table) for seed, table in changes.items() if table.any()},
        texts,
        generator=generator,
        clusters=next((each for each in clusters if each is not None), None),
    )


def _correlation(changes: NDArray[np.float64]) -> Statistic:
    """The correlation of scale and mean change of some texts; rows of ``changes`` are scales."""
    scale_ranks = np.arange(len(changes)) - (len(changes) - 1) / 2

    def statistic(rows: NDArray[np.int64]) -> float:
        ranks = rankdata(changes[:, rows].mean(axis=1)) - (len(changes) + 1) / 2
        size = np.linalg.norm(scale_ranks) * np.linalg.norm(ranks)
        return float(scale_ranks @ ranks / size) if size > 0 else 0.0

    return statistic


def _plan_scales(scope: Scope) -> Plan:
    return head_scale_plan(replace(scope, methods=scope.fine_tuned))


def _show_scales(runs: ExperimentRuns, *, ood: bool = True) -> Results:
    """A line of each method on each set, without ``ood`` on the test set alone."""
    figures: list[Figure] = []
    rows: list[tuple[Estimate | str | None, ...]] = []
    findings: list[str] = []
    for task in runs.scope.tasks:
        by_method = {
            method: scaled
            for method in runs.scope.fine_tuned
            if (scaled := scaled_runs(runs, task, method))
        }
        splits = _moved_splits(by_method, ood=ood)
        if splits:
            figures.append(_scale_figure(task, splits, by_method))
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
    exhibits: list[Table | Figure] = [*figures, *([_correlation_table(rows)] if rows else [])]
    return Results(tuple(exhibits), findings=tuple(findings))


def _moved_splits(by_method: Mapping[str, ScaledRuns], *, ood: bool) -> list[str]:
    """The splits whose features were measured, but for the training texts."""
    runs = [r for seeds in by_method.values() for at in seeds.values() for r in at.values()]
    splits = dict.fromkeys(split for run in runs for split in run.features)
    return [split for split in splits if split == "test" or (ood and split != "train")]


def _correlation_table(rows: Sequence[tuple[Estimate | str | None, ...]]) -> Table:
    return Table(
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


def _scale_figure(task: str, splits: Sequence[str], by_method: Mapping[str, ScaledRuns]) -> Figure:
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
            "fine-tuning from a head whose weights and biases were multiplied by the scale. Each "
            f"method at its own learning rate and batch size. {BANDS}"
        ),
    )


def _changes(scaled: ScaledRuns, split: str) -> list[Estimate | None]:
    """Diff(F) at every scale, over seeds."""
    by_scale = (
        {seed: runs[scale] for seed, runs in scaled.items() if scale in runs} for scale in SCALES
    )
    change = feature(split, _CHANGE)
    return [estimate({run.name: change(run) for run in runs.values()}) for runs in by_scale]


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


_KINDS: tuple[tuple[tuple[str, ...], partial[Recipe]], ...] = (
    (
        ("figure1", "figure4"),
        partial(Recipe, plan=plan_at_every_rate, show=_show_training, step=PROBING_PATHS),
    ),
    (("figure3",), partial(Recipe, plan=_plan_scales, show=partial(_show_scales, ood=False))),
    (("figure10", "figure11"), partial(Recipe, plan=_plan_scales, show=_show_scales)),
    (
        ("figure5", "figure6"),
        partial(Recipe, plan=_plan_projections, show=_show_projections, step=PROJECTIONS),
    ),
)

RECIPES = {name: recipe(EXPERIMENTS[name]) for names, recipe in _KINDS for name in names}
