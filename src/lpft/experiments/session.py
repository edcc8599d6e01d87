"""One experiment or all of them, planned first; runs that several need are trained once."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lpft.errors import InputError, explain, unexpected
from lpft.experiments.preparation import Inputs, check_data, check_folder, check_resumable
from lpft.experiments.recipe import Plan, Recipe, Scope
from lpft.experiments.registry import ALL, RECIPES, find_recipe
from lpft.experiments.reproduce import Reproduction, reproduce
from lpft.experiments.scopes import make_scope
from lpft.experiments.unused_options import refuse_unused
from lpft.runs.executors import get_executor

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlannedExperiment:
    """An experiment that can be done, with what it plans."""

    recipe: Recipe
    scope: Scope
    plan: Plan


@dataclass(frozen=True)
class NotReproduced:
    """An experiment that gave no page, and why."""

    name: str
    error: Exception


def plan_experiments(
    name: str, given: Mapping[str, Any], folder: Path, *, tiny: bool
) -> list[PlannedExperiment]:
    """The experiment of that name in ``folder``, or for ``all`` each one in a folder of its own.

    Of all, those that do not suit what is given are told and left out.

    Raises:
        InputError: the name is unknown, or no experiment suits what is given.
    """
    if name != ALL:
        recipe = find_recipe(name)
        return [_planned(recipe, given, folder, tiny=tiny)]
    planned: list[PlannedExperiment] = []
    refusals: list[NotReproduced] = []
    for recipe in RECIPES.values():
        try:
            planned.append(_planned(recipe, given, folder / recipe.name, tiny=tiny))
        except InputError as error:
            refusals.append(NotReproduced(recipe.name, error))
    if not planned:
        raise refusals[0].error
    for refusal in refusals:
        logger.warning("%s is left out: %s", refusal.name, refusal.error)
    return planned


def check_experiments(
    planned: Sequence[PlannedExperiment],
    given: Mapping[str, Any],
    *,
    executor: str,
    workers: int,
    resume: bool,
    overwrite: bool,
) -> Inputs:
    """Look at every folder, data set and model before the first of the experiments begins.

    Raises:
        InputError: one of these, or the executor, cannot be used, or an option that is ``given``
            decides nothing.
    """
    get_executor(executor, workers)
    plans = [each.plan for each in planned]
    what = planned[0].recipe.name if len(planned) == 1 else "these experiments"
    refuse_unused(given, plans, what, executor=executor, workers=workers)
    inputs = Inputs()
    for each in planned:
        check_folder(each.recipe, each.scope.folder, resume=resume, overwrite=overwrite)
    for each in planned:
        inputs.read(each.plan)
        _check_data(each, inputs, alone=len(planned) == 1)
        if resume:
            check_resumable(each.plan, inputs)
    return inputs


def run_experiments(
    planned: Sequence[PlannedExperiment],
    inputs: Inputs,
    *,
    executor: str,
    workers: int,
    resume: bool,
    overwrite: bool,
    remarks: Sequence[str],
) -> Iterator[Reproduction | NotReproduced]:
    """Each experiment once it has ended; what one has finished is copied into the next.

    Of several, one that ends in an error does not keep those after it from being done.
    """
    done: list[Path] = []
    for number, each in enumerate(planned, start=1):
        logger.info("experiment %d of %d: %s", number, len(planned), each.recipe.name)
        try:
            yield reproduce(
                each.recipe,
                each.scope,
                executor=executor,
                workers=workers,
                resume=resume,
                overwrite=overwrite,
                remarks=remarks,
                inputs=inputs,
                siblings=done,
            )
        except InputError as error:
            yield NotReproduced(each.recipe.name, error)
        except Exception as error:
            if len(planned) == 1:
                raise
            logger.debug("%s failed", each.recipe.name, exc_info=True)
            yield NotReproduced(each.recipe.name, _in_words(error))
        done.append(each.scope.folder)


def _check_data(each: PlannedExperiment, inputs: Inputs, *, alone: bool) -> None:
    """Of several experiments the one that data do not suit is told now, and not done later.

    Raises:
        InputError: it is the only one.
    """
    try:
        check_data(each.recipe, each.plan, inputs)
    except InputError as error:
        if alone:
            raise
        logger.warning("%s will not be done: %s", each.recipe.name, error)


def _in_words(error: Exception) -> Exception:
    """The error with a message that stands by itself."""
    known = explain(error)
    told = RuntimeError(unexpected(error)) if known is None else known
    told.__cause__ = error
    return told


def _planned(
    recipe: Recipe, given: Mapping[str, Any], folder: Path, *, tiny: bool
) -> PlannedExperiment:
    scope = make_scope(recipe, given, folder, tiny=tiny)
    return PlannedExperiment(recipe, scope, recipe.plan(scope))
