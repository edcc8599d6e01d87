"""The table of experiments: every recipe by name. Adding one is adding its module here."""

from difflib import get_close_matches
from typing import Any

from lpft.errors import InputError
from lpft.experiments.claims import recipe as claims
from lpft.experiments.recipe import Recipe
from lpft.experiments.recipes import (
    figures_projection,
    figures_scale,
    figures_training,
    kernels_figures,
    kernels_tables,
    tables_calibration,
    tables_features,
    tables_scores,
)

_MODULES = (
    tables_scores,
    tables_features,
    tables_calibration,
    kernels_tables,
    figures_training,
    figures_scale,
    figures_projection,
    kernels_figures,
    claims,
)


def _order(name: str) -> tuple[str, int]:
    """``table10`` after ``table2``."""
    kind = name.rstrip("0123456789")
    number = name.removeprefix(kind)
    return kind, int(number) if number else 0


RECIPES: dict[str, Recipe] = dict(
    sorted(
        ((recipe.name, recipe) for module in _MODULES for recipe in module.RECIPES),
        key=lambda named: _order(named[0]),
    )
)
"""Every recipe by name."""

ALL = "all"
"""What ``lpft reproduce`` calls every experiment."""

SAME_AS = {"table14": "table3", "table15": "table3"}
"""Tables of the paper that another one's recipe shows as well."""


def listed() -> list[dict[str, Any]]:
    """Name, place in the paper, tasks and title of every recipe, ready for JSON."""
    return [
        {
            "name": recipe.name,
            "source": recipe.source,
            "tasks": list(recipe.tasks),
            "methods": list(recipe.methods),
            "shows": recipe.title,
        }
        for recipe in RECIPES.values()
    ]


def find_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        InputError: there is none; the message lists those that there are.
    """
    known = SAME_AS.get(name, name)
    if known not in RECIPES:
        names = [*RECIPES, *SAME_AS]
        near = get_close_matches(name.lower(), names, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise InputError(
            f"unknown experiment '{name}'{hint}: expected {ALL} or one of {', '.join(names)}"
        )
    return RECIPES[known]
