"""Results that only one experiment needs, computed once from its runs and stored as JSON.

They are the path of a linear probe (figures 1 and 4) and the projection of a run's features
(figures 5 and 6); the claims' numerical checks are a step too.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from lpft.analysis.features import project_with_head
from lpft.data import TextData, fingerprint, load_data
from lpft.data.splits import draw_rows
from lpft.errors import InputError
from lpft.experiments.plan import ExperimentRuns
from lpft.files import write_json
from lpft.model import Classifier
from lpft.model.inference import encoder_fingerprint
from lpft.model.loading import fresh_classifier
from lpft.results.pairing import PUBLISHED
from lpft.results.run import Run, read_features, read_head_rows
from lpft.results.schema import number
from lpft.settings.configs import RunConfig, make_config
from lpft.training.cache import SplitInputs, prepare_split
from lpft.training.history import path_rows
from lpft.training.probing import probing_path

logger = logging.getLogger(__name__)

STEPS = "steps"
"""The folder of an experiment that holds such results."""

Key = TypeVar("Key")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Job(Generic[Result]):
    """One result of a step: its file, all that decides it as JSON has it, and how it is made."""

    file: str
    identity: Mapping[str, Any]
    compute: Callable[[], Result]


@dataclass(frozen=True)
class Step(Generic[Key, Result]):
    """Results of one kind, one for each of ``jobs``."""

    kind: type[Result]
    jobs: Callable[[ExperimentRuns], dict[Key, Job[Result]]]

    def __call__(self, runs: ExperimentRuns) -> None:
        """Compute and store what is not there yet.

        Raises:
            InputError: as the jobs.
        """
        for job in self.jobs(runs).values():
            path = runs.scope.folder / STEPS / job.file
            if self._read(path, job) is None:
                result = TypeAdapter(self.kind).dump_python(job.compute(), mode="json")
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, {"identity": job.identity, "result": result})

    def read(self, runs: ExperimentRuns) -> dict[Key, Result]:
        """The stored results; what is missing, damaged or of another identity is absent."""
        results = {
            key: self._read(runs.scope.folder / STEPS / job.file, job)
            for key, job in self.jobs(runs).items()
        }
        return {key: result for key, result in results.items() if result is not None}

    def _read(self, path: Path, job: Job[Result]) -> Result | None:
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record.get("identity") != job.identity:
                return None
            return TypeAdapter(self.kind).validate_python(record["result"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, AttributeError) as error:
            logger.warning("'%s' cannot be read (%s): computing it again", path, error)
            return None


def _job(file: str, run: Run, compute: Callable[[Run], Result]) -> Job[Result]:
    """The job of one run, whose settings, data and encoder decide the result."""
    hashes = {"config_hash": run.record.config_hash, "fingerprints": dict(run.fingerprints)}
    return Job(file, hashes, partial(compute, run))


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
    for (_, task, _, _), run in runs.runs.items():
        if run.record.probe:
            probed.setdefault(task, run)
    return {task: probed[task] for task in runs.scope.tasks if task in probed}


def _follow_probe(run: Run) -> ProbedPath:
    strength = number((run.record.probe or {}).get("inverse_strength"))
    if strength is None:
        raise InputError(
            f"run.json of '{run.folder}' lacks the strength of its linear probe: train it again"
        )
    logger.info("following the linear probe of %s", run.name)
    reopened = _reopen(run)
    train, validation = (reopened.inputs(split) for split in ("train", "validation"))
    settings = reopened.config.training
    path = probing_path(
        train.pretrained,
        train.labels,
        len(reopened.data.classes),
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
        (task, method): run
        for (variant, task, method, seed), run in runs.runs.items()
        if variant == PUBLISHED and seed == runs.scope.seeds[0]
    }


def _project(run: Run) -> ProjectedRun:
    logger.info("projecting the features of %s", run.name)
    reopened = _reopen(run)
    head = reopened.classifier.model.head.weight.detach().numpy(), read_head_rows(run.folder)
    splits: dict[str, ProjectedSplit] = {}
    for split in _PROJECTED_SPLITS:
        labels = reopened.data.splits()[split].labels
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
    return ProjectedRun([str(name) for name in reopened.data.classes], splits)


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


@dataclass(frozen=True)
class _ReopenedRun:
    """A run's settings, its data, and its classifier as it was before any training."""

    config: RunConfig
    data: TextData
    classifier: Classifier
    encoder: str

    def inputs(self, split: str) -> SplitInputs:
        """Tokens, labels and phi_0 of a split, from the cache of frozen features."""
        return prepare_split(
            self.classifier,
            self.data.splits()[split],
            self.config.training,
            encoder=self.encoder,
            name=split,
        )


def _reopen(run: Run) -> _ReopenedRun:
    """Read the data and the model of a run again.

    Raises:
        InputError: they cannot be read, or are no longer those of the run.
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
    return _ReopenedRun(config, data, classifier, encoder)
