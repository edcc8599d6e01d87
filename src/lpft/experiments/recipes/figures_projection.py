"""Figures 5 and 6: t-SNE of features and the head's rows, before and after training."""

from collections.abc import Sequence

from lpft.analysis.features import PROJECTION
from lpft.experiments.planning import planned_runs
from lpft.experiments.recipe import Found, Plan, Recipe, Scope, Shown
from lpft.experiments.recipes.fine_tuned import fine_tuned_methods
from lpft.experiments.recipes.projections import (
    MOST_TEXTS,
    Places,
    ProjectedSplit,
    keep_projections,
    projected_runs,
    read_projections,
)
from lpft.results.exhibits import Figure, Panel, Series
from lpft.results.groups import method_name

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
            _panel(
                f"{method_name(method)}, {split}, {time}",
                projected.classes,
                places,
                number,
                runs[task, method].name,
            )
            for (own, method), projected in projections.items()
            if own == task
            for split, places in projected.splits.items()
            for number, time in enumerate(_TIMES)
        ]
        if panels:
            figures.append(_figure(task, found.scope.seeds[0], panels))
    return Shown(exhibits=tuple(figures))


def _figure(task: str, seed: int, panels: Sequence[Panel]) -> Figure:
    return Figure(
        name=f"projection-{task}",
        title=f"Features and the head's rows before and after training: {task}",
        kind="scatter",
        panels=tuple(panels),
        caption=(
            "A point is a text, in the colour of its class; a named point is a row of the head, "
            f"before training the random one that every method is given. {PROJECTION} The two "
            "panels of a method and a split are of one t-SNE, others must not be compared by "
            "place; only nearness has a meaning, for the axes have no unit. At most "
            f"{MOST_TEXTS} texts of a split; seed {seed}. Each method at its own learning rate and "
            "batch size."
        ),
    )


def _panel(
    title: str, classes: Sequence[str], places: ProjectedSplit, time: int, run: str
) -> Panel:
    """The texts of each class, and the head's rows, at one of :data:`_TIMES`."""
    texts = places.features[time]
    by_class = [
        [text for text, label in zip(texts, places.labels, strict=True) if label == index]
        for index in range(len(classes))
    ]
    series = [
        _points(name, members) for name, members in zip(classes, by_class, strict=True) if members
    ]
    rows = _points("rows of the head", places.head[time], tuple(classes))
    return Panel(title=title, x="t-SNE 1", y="t-SNE 2", series=(*series, rows), runs=(run,))


def _points(label: str, points: Places, texts: tuple[str, ...] = ()) -> Series:
    return Series(label, x=tuple(x for x, _ in points), y=tuple(y for _, y in points), texts=texts)


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
