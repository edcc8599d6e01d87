"""Projections of one run's features and head onto a plane, computed once and kept as JSON."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpft.analysis.projection import Projection, project_with_head
from lpft.data.splits import draw_rows
from lpft.experiments.recipe import PUBLISHED, Found
from lpft.experiments.recipes.kept_results import STEPS, Result, keep_result, read_result
from lpft.experiments.recipes.reopening import reopen
from lpft.report.collect import RunSummary
from lpft.runs.features import read_features
from lpft.runs.head import read_head_rows

logger = logging.getLogger(__name__)

SPLITS = ("train", "test")
MOST_TEXTS = 250
_SEED = 0


def keep_projections(found: Found) -> None:
    """Project what each of :func:`projected_runs` kept, unless that is there already.

    Raises:
        InputError: a run's features, data or model cannot be read, or changed since.
    """
    for key, run in projected_runs(found).items():
        keep_result(_file(found, *key), run, _project)


def read_projections(found: Found) -> dict[tuple[str, str], Result]:
    """The kept projections by task and method.

    Each has the names of the ``classes`` and, by split, ``labels`` (N class indices) and the places
    of a :class:`~lpft.analysis.projection.Projection`.
    """
    kept = {key: read_result(_file(found, *key), run) for key, run in projected_runs(found).items()}
    return {key: result for key, result in kept.items() if result is not None}


def projected_runs(found: Found) -> dict[tuple[str, str], RunSummary]:
    """The finished run of each task and method with the first seed: a picture shows one."""
    return {
        (task, method): run
        for (variant, task, method, seed), run in found.runs.items()
        if variant == PUBLISHED and seed == found.scope.seeds[0]
    }


def _project(run: RunSummary) -> Result:
    logger.info("projecting the features of %s", run.name)
    reopened = reopen(run)
    head = reopened.classifier.model.head.weight.detach().numpy(), read_head_rows(run.folder)
    splits: dict[str, Any] = {}
    for split in SPLITS:
        labels = reopened.data.splits()[split].labels
        assert labels is not None
        features = read_features(run.folder, split)
        rows = draw_rows(labels, MOST_TEXTS)
        projection = project_with_head(
            features.pretrained[rows], features.features[rows], *head, seed=_SEED
        )
        splits[split] = {"labels": labels[rows].tolist(), **_places(projection)}
    return {"classes": [str(name) for name in reopened.data.classes], "splits": splits}


def _places(projection: Projection) -> dict[str, list[list[float]]]:
    def listed(places: NDArray[np.float64]) -> list[list[float]]:
        return np.round(places, 3).tolist()

    return {name: listed(places) for name, places in asdict(projection).items()}


def _file(found: Found, task: str, method: str) -> Path:
    return found.scope.folder / STEPS / f"projection-{task}-{method}.json"
