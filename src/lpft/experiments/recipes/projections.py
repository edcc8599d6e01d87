"""Projections of one run's features and head onto a plane, computed once and kept as JSON."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lpft.analysis.features import project_with_head
from lpft.data.splits import draw_rows
from lpft.experiments.kept_results import STEPS, keep_result, read_result, run_identity
from lpft.experiments.recipe import Found
from lpft.experiments.recipes.reopening import reopen
from lpft.results.pairing import PUBLISHED
from lpft.results.run import Run, read_features, read_head_rows

logger = logging.getLogger(__name__)

SPLITS = ("train", "test")
MOST_TEXTS = 250
_SEED = 0

Places = list[tuple[float, float]]


@dataclass(frozen=True)
class ProjectedSplit:
    """Class indices of N texts, and the places of a :class:`~lpft.analysis.features.Projection`.

    ``features`` and ``head`` are those before and after training: N and C places each.
    """

    labels: list[int]
    features: tuple[Places, Places]
    head: tuple[Places, Places]


@dataclass(frozen=True)
class ProjectedRun:
    """The projections of one run's splits, and the names of its classes."""

    classes: list[str]
    splits: Mapping[str, ProjectedSplit]


def keep_projections(found: Found) -> None:
    """Project what each of :func:`projected_runs` kept, unless that is there already.

    Raises:
        InputError: a run's features, data or model cannot be read, or changed since.
    """
    for key, run in projected_runs(found).items():
        keep_result(_file(found, *key), run_identity(run), ProjectedRun, partial(_project, run))


def read_projections(found: Found) -> dict[tuple[str, str], ProjectedRun]:
    """The kept projections by task and method; what has none is absent."""
    kept = {
        key: read_result(_file(found, *key), run_identity(run), ProjectedRun)
        for key, run in projected_runs(found).items()
    }
    return {key: projected for key, projected in kept.items() if projected is not None}


def projected_runs(found: Found) -> dict[tuple[str, str], Run]:
    """The finished run of each task and method with the first seed: a picture shows one."""
    return {
        (task, method): run
        for (variant, task, method, seed), run in found.runs.items()
        if variant == PUBLISHED and seed == found.scope.seeds[0]
    }


def _project(run: Run) -> ProjectedRun:
    logger.info("projecting the features of %s", run.name)
    reopened = reopen(run)
    head = reopened.classifier.model.head.weight.detach().numpy(), read_head_rows(run.folder)
    splits: dict[str, ProjectedSplit] = {}
    for split in SPLITS:
        labels = reopened.data.splits()[split].labels
        assert labels is not None
        features = read_features(run.folder, split)
        rows = draw_rows(labels, MOST_TEXTS)
        projection = project_with_head(
            features.pretrained[rows], features.features[rows], *head, seed=_SEED
        )
        splits[split] = ProjectedSplit(
            labels=labels[rows].tolist(),
            features=(_places(projection.features_before), _places(projection.features_after)),
            head=(_places(projection.head_before), _places(projection.head_after)),
        )
    return ProjectedRun([str(name) for name in reopened.data.classes], splits)


def _places(points: NDArray[np.float64]) -> Places:
    return [(round(x, 3), round(y, 3)) for x, y in points.tolist()]


def _file(found: Found, task: str, method: str) -> Path:
    return found.scope.folder / STEPS / f"projection-{task}-{method}.json"
