"""Figures 5 and 6: t-SNE of features and the head's rows, before and after training."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lpft.analysis.projection import PROJECTION
from lpft.experiments.planning import planned_runs
from lpft.experiments.recipe import Found, Plan, Recipe, Scope, Shown
from lpft.experiments.recipes.fine_tuned import fine_tuned_methods
from lpft.experiments.recipes.kept_results import Result
from lpft.experiments.recipes.projections import (
    MOST_TEXTS,
    keep_projections,
    projected_runs,
    read_projections,
)
from lpft.report.exhibits.record import FigureExhibit, Panel, Series
from lpft.report.settings import method_name

_SETTINGS = {"save_features": True}
_TIMES = ("before", "after")


def _plan(scope: Scope) -> Plan:
    """One run for each task and method: a picture shows one seed."""
    return Plan(
        runs=planned_runs(
            scope,
            methods=fine_tuned_methods(scope),
            seeds=scope.seeds[:1],
            settings=_SETTINGS,
        )
    )


def _show(found: Found) -> Shown:
    projections, runs = read_projections(found), projected_runs(found)
    figures = []
    for task in found.scope.tasks:
        panels = [
            _panel(method, split, time, places, result["classes"], runs[task, method].name)
            for (own, method), result in projections.items()
            if own == task
            for split, places in result["splits"].items()
            for time in _TIMES
        ]
        if panels:
            figures.append(_figure(task, found.scope.seeds[0], panels))
    return Shown(exhibits=tuple(figures))


def _figure(task: str, seed: int, panels: Sequence[Panel]) -> FigureExhibit:
    return FigureExhibit(
        name=f"projection-{task}",
        title=f"Features and the head's rows before and after training: {task}",
        kind="scatter",
        panels=tuple(panels),
        caption=(
            "A point is a text, in the colour of its class; a named point is a row of the head, "
            f"before training the random one that every method is given. {PROJECTION} The two "
            "panels of a method and a split are of one t-SNE, others must not be compared by "
            "place; only nearness has a meaning, for the axes have no unit. At most "
            f"{MOST_TEXTS} texts of a split; seed {seed}."
        ),
    )


def _panel(
    method: str, split: str, time: str, places: Result, classes: Sequence[str], run: str
) -> Panel:
    """The texts of each class, and the head's rows."""
    texts = np.array(places[f"features_{time}"])
    labels = np.array(places["labels"])
    series = [
        _points(name, texts[labels == index], run)
        for index, name in enumerate(classes)
        if (labels == index).any()
    ]
    rows = _points("rows of the head", np.array(places[f"head_{time}"]), run, tuple(classes))
    return Panel(
        title=f"{method_name(method)}, {split}, {time}",
        x="t-SNE 1",
        y="t-SNE 2",
        series=(*series, rows),
    )


def _points(
    label: str, points: NDArray[np.float64], run: str, texts: tuple[str, ...] = ()
) -> Series:
    return Series(
        label=label,
        x=tuple(points[:, 0].tolist()),
        y=tuple(points[:, 1].tolist()),
        texts=texts,
        runs=(run,),
    )


def _recipe(name: str, methods: tuple[str, ...]) -> Recipe:
    return Recipe(
        name=name,
        title="t-SNE of features with the head's rows",
        source=name.replace("figure", "Figure "),
        tasks=("cb",),
        methods=methods,
        plan=_plan,
        show=_show,
        step=keep_projections,
    )


RECIPES = (_recipe("figure5", ("ft", "lp-ft")), _recipe("figure6", ("lora", "lp-lora")))
