"""Figures 1, 4, 5 and 6: along fine-tuning and linear probing, and t-SNE of features.

Each has a step: the path of a linear probe, and the projection of a run's features. Figures of
kernels are in :mod:`lpft.experiments.kernels`, of head scales in
:mod:`lpft.experiments.head_scales`.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lpft.analysis.features import PROJECTION, project_with_head
from lpft.data import TextData, fingerprint, load_data
from lpft.data.splits import draw_rows
from lpft.errors import InputError
from lpft.experiments.measures import (
    BANDS,
    NOTE_ON_RATES,
    at_shared_rates,
    mean_line,
    plan_at_both_rates,
    shared_rates,
)
from lpft.experiments.plan import (
    ExperimentRuns,
    Job,
    Plan,
    Recipe,
    Result,
    Results,
    Scope,
    Step,
    planned_runs,
)
from lpft.model import Classifier
from lpft.model.inference import encoder_fingerprint
from lpft.model.loading import fresh_classifier
from lpft.results.exhibits import Figure, Panel, Series
from lpft.results.formats import counted, joined, significant
from lpft.results.groups import Spread, method_name
from lpft.results.pairing import PUBLISHED, SHARED
from lpft.results.run import Run, read_features, read_head_rows
from lpft.results.schema import number
from lpft.results.series import QUANTITIES, curve
from lpft.settings import get_method
from lpft.settings.configs import RunConfig, make_config
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
    config, data, classifier, encoder = _reopen(run)
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
        class_weight=settings.class_weight,
    )
    rows = path_rows(
        path, (train.pretrained, train.labels), (validation.pretrained, validation.labels)
    )
    return ProbedPath(strength, path.stop, rows)


PROBING_PATHS: Step[str, ProbedPath] = Step(
    ProbedPath,
    lambda runs: {
        task: _job(f"probing-{task}.json", run, _follow_probe)
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
            mean_line(method, [dict(curve(run, quantity)) for run in seeds], seeds)
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
    _, data, classifier, _ = _reopen(run)
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
        (task, method): _job(f"projection-{task}-{method}.json", run, _project)
        for (task, method), run in projected_runs(runs).items()
    },
)
"""By task and method, the features and the head of one run on a plane."""


def _plan_projections(scope: Scope) -> Plan:
    """One run for each task and method: a picture shows one seed."""
    return Plan(
        planned_runs(
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


# What steps look into.


def _job(file: str, run: Run, compute: Callable[[Run], Result]) -> Job[Result]:
    """The job of one run, whose settings, data and encoder decide the result."""
    hashes = {"config_hash": run.record.config_hash, "fingerprints": dict(run.fingerprints)}
    return Job(file, hashes, partial(compute, run))


def _reopen(run: Run) -> tuple[RunConfig, TextData, Classifier, str]:
    """A run's settings and data, its classifier before any training, and the encoder's hash.

    Raises:
        InputError: data or model cannot be read, or are no longer those of the run.
    """
    config = make_config(run.config, Path(run.folder))
    data = load_data(config.data)
    classifier = fresh_classifier(data, config.training)
    encoder = encoder_fingerprint(classifier.model)
    current = {"encoder": encoder, **{f"data/{k}": v for k, v in fingerprint(data).items()}}
    changed = [name for name, value in run.fingerprints.items() if current.get(name) != value]
    if changed:
        raise InputError(
            f"the {changed[0].replace('data/', 'data of ')} changed since '{run.folder}' was "
            "trained: restore it, or start the experiment again in another folder"
        )
    return config, data, classifier, encoder


def _recipe(number: int, task: str, methods: tuple[str, ...]) -> Recipe:
    along_training = number in (1, 4)
    return Recipe(
        name=f"figure{number}",
        title=(
            "Norms, loss and accuracy along training"
            if along_training
            else "t-SNE of features with the head's rows"
        ),
        source=f"Figure {number}",
        tasks=(task,),
        methods=methods,
        plan=plan_at_both_rates if along_training else _plan_projections,
        show=_show_training if along_training else _show_projections,
        step=PROBING_PATHS if along_training else PROJECTIONS,
    )


RECIPES = (
    _recipe(1, "rte", ("lp", "ft", "lp-ft", "lora", "lp-lora")),
    _recipe(4, "cb", ("lp", "ft", "lp-ft", "lora", "lp-lora")),
    _recipe(5, "cb", ("ft", "lp-ft")),
    _recipe(6, "cb", ("lora", "lp-lora")),
)
