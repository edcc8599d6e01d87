"""Experiments whose runs and kernels are written by hand, or trained on a tiny model."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from results.kernel_folders import write_kernels
from results.run_folders import SPLITS, write_run
from results.scored_runs import right_of, write_scored
from safetensors.numpy import load_file, save_file

from lpft.experiments.claims import RECIPE
from lpft.experiments.comparisons import CLAIMS
from lpft.experiments.plan import ExperimentRuns, Plan, Recipe, RunKey, Scope
from lpft.experiments.prepare import collect
from lpft.experiments.run import find_recipe
from lpft.experiments.tiny import TINY_SETTINGS, tiny_model
from lpft.results.pairing import LP_START, PUBLISHED, RANDOM_START
from lpft.results.run import write_feature_changes
from lpft.runs.train import train_run
from lpft.settings.configs import RunConfig


def empty_page(folder: Path, **_: Any) -> SimpleNamespace:
    """In place of a page, which takes seconds."""
    page = folder / "report.html"
    page.touch()
    return SimpleNamespace(page=page)


HOLDS, FAILS, UNTOLD = "holds", "does not hold", "cannot tell"

Describe = Callable[[RunKey, RunConfig], dict[str, Any] | None]
"""What a planned run is to hold, as settings of a writer of runs; None for one that failed."""


def scope_of(recipe: Recipe, folder: Path, **changes: Any) -> Scope:
    values = {
        "model": "minilm",
        "tasks": recipe.entry.tasks,
        "methods": recipe.entry.methods,
        "seeds": (0, 1),
        "folder": folder,
    }
    return Scope(**(values | changes))


def runs_of(
    name: str, folder: Path, describe: Describe = lambda *_: {}, **changes: Any
) -> tuple[Recipe, ExperimentRuns]:
    """The recipe of a name, and its plan as if it had been computed.

    Every text of the 12 of a split moved by ``change`` on average.
    """
    recipe = find_recipe(name)
    scope = scope_of(recipe, folder, **changes)
    plan = recipe.plan(scope)

    def write(target: Path, key: RunKey, settings: dict[str, Any]) -> None:
        write_run(target, key.method, seed=key.seed, data_name=key.task, **settings)
        moved = settings.get("change", 8.0) * np.linspace(0.9, 1.1, 12)
        for split in ("train", "test", *(split for split in SPLITS if split.startswith("ood/"))):
            write_feature_changes(target, split, [str(text) for text in range(12)], moved)

    write_plan(plan, describe, write)
    for key, config in plan.kernels.items():
        methods = config.kernels.methods
        write_kernels(config.output_dir, data_name=key.task, methods=methods, seed=key.seed)
    return recipe, collect(scope, plan)[0]


def write_plan(
    plan: Plan, describe: Describe, write: Callable[[Path, RunKey, dict[str, Any]], None]
) -> None:
    """Write every planned run that is not there yet."""
    for key, config in plan.runs.items():
        settings = None if config.output_dir.exists() else describe(key, config)
        if settings is not None:
            write(config.output_dir, key, settings)


def trained_of(name: str, folder: Path, **changes: Any) -> tuple[Recipe, ExperimentRuns]:
    """The recipe of a name, and its plan really trained, on a tiny model and few texts."""
    recipe = find_recipe(name)
    settings = {key: value for key, value in TINY_SETTINGS.items() if key not in _OF_THE_SCOPE}
    tiny = {"model": str(tiny_model()), "tasks": ("demo",), "settings": settings}
    scope = scope_of(recipe, folder, **(tiny | changes))
    plan = recipe.plan(scope)
    for config in plan.run_configs:
        train_run(config)
    runs, _ = collect(scope, plan)
    assert len(runs.runs) == len(plan.runs)
    return recipe, runs


_OF_THE_SCOPE = ("tasks", "seeds", "kernel_samples")


# The experiment ``claims``: answers, changes and norms by hand.

ROWS = 100
"""Test texts, and texts of every OOD set."""

FT_RATIOS = {"ft": 0.2, "lora": 0.0004, "lp-ft": 1.0, "lp-lora": 0.9}


def claims_scope(folder: Path, **changes: Any) -> Scope:
    return scope_of(RECIPE, folder, **({"tasks": ("cb", "sst2"), "seeds": range(5)} | changes))


def write_claims(
    folder: Path,
    describe: Describe,
    ft_ratio: Callable[[str, int, str], float] = lambda *key: FT_RATIOS[key[-1]],
    *,
    rows: int = ROWS,
    **changes: Any,
) -> ExperimentRuns:
    """Every planned run as ``describe`` says, and kernels with such FT ratios.

    ``describe`` gives ``change`` (of every text), ``wrong`` answers of ``rows`` by split, and
    settings of :func:`results.run_folders.write_run`.
    """
    scope = claims_scope(folder, **changes)
    plan = RECIPE.plan(scope)

    def write(target: Path, key: RunKey, settings: dict[str, Any]) -> None:
        settings = dict(settings)
        wrong = {"validation": 10, "test": 10, **settings.pop("wrong", {})}
        change = settings.pop("change", 5.0)
        training = plan.runs[key].training
        write_scored(
            target,
            key.method,
            key.seed,
            {split: right_of(rows, count) for split, count in wrong.items()},
            changes={split: [change] * rows for split in wrong if split != "validation"},
            **{
                "data_name": key.task,
                "task": key.task,
                "learning_rate": training.learning_rate,
                "batch_size": training.batch_size,
                "head_scale": training.head_scale,
                "temperature": 1.0,
                **settings,
            },
        )

    write_plan(plan, describe, write)
    for key, config in plan.kernels.items():
        target, methods = config.output_dir, config.kernels.methods
        if target.exists():
            continue
        write_kernels(target, methods=methods, samples=6, data_name=key.task, seed=key.seed)
        record = json.loads((target / "kernels.json").read_text())
        for method in methods:
            wanted = ft_ratio(key.task, key.seed, method)
            record["methods"][method]["ft_ratio"] = wanted
            _set_ft_ratio(target / f"{method}.safetensors", wanted)
        (target / "kernels.json").write_text(json.dumps(record))
    return collect(scope, plan)[0]


def _set_ft_ratio(path: Path, wanted: float) -> None:
    """Let F be r times and P 1 - r times one kernel K of the texts: every text's ratio is r."""
    tensors = load_file(path)
    kernel = tensors["train/pretrain_effective"]
    classes = np.eye(tensors["train/logits"].shape[1])
    tensors["train/ft_effective"] = wanted * np.einsum("nm,cd->ncmd", kernel, classes)
    tensors["train/pretrain_effective"] = (1 - wanted) * kernel
    save_file({name: np.ascontiguousarray(each) for name, each in tensors.items()}, path)


_CHANGE = {
    (PUBLISHED, "ft"): 10.0,
    (PUBLISHED, "lp-ft"): 4.0,
    (LP_START, "ft"): 4.0,
    (RANDOM_START, "lp-ft"): 11.0,
    (PUBLISHED, "lora"): 3.0,
    (PUBLISHED, "lp-lora"): 5.0,
    (LP_START, "lora"): 6.0,
    (RANDOM_START, "lp-lora"): 2.0,
    ("head scale 0.1", "ft"): 12.0,
    ("head scale 10", "ft"): 6.0,
    ("head scale 100", "ft"): 2.0,
    ("head scale 0.1", "lp-ft"): 3.0,
    ("head scale 10", "lp-ft"): 4.5,
    ("head scale 100", "lp-ft"): 5.0,
}
"""Feature change of seed 0."""

_BY_SEED = (0.0, 0.1, -0.1, 0.2, -0.2)
"""What the random heads' changes of later seeds have on top."""

_WRONG = {"ft": 50, "lp-ft": 40, "lora": 45, "lp-lora": 45}
_OOD_WRONG = {"ft": 40, "lp-ft": 60, "lora": 50, "lp-lora": 50}
_TEMPERATURE = {"ft": 4.0, "lp-ft": 1.0, "lora": 2.0, "lp-lora": 1.0}
_END_NORM = {"cb": 14.7, "sst2": 21.0}
"""Of LP-FT's head, which starts from 14; random ones start from 0.55."""


def known(key: RunKey, _: RunConfig) -> dict[str, Any]:
    """What a planned run holds, from the tables above."""
    method = key.method
    random = not method.startswith("lp")
    return {
        "change": _CHANGE[key.variant, method] + (_BY_SEED[key.seed] if random else 0.0),
        "wrong": {"test": _WRONG[method], "ood/books": _OOD_WRONG[method]},
        "temperature": _TEMPERATURE[method],
        "head_norm": _END_NORM[key.task] if method == "lp-ft" else None,
    }


def ratio(task: str, seed: int, method: str) -> float:
    """The FT ratio of a seed's kernels: LP-FT's is near 1 on one task alone."""
    middle = {"ft": 0.2, "lora": 0.0004, "lp-ft": 1.0 if task == "cb" else 0.5, "lp-lora": 0.9}
    return middle[method] * (1 + 0.01 * seed)


def by_comparison(verdicts):
    """By comparison and rates, the claim as a whole under ``overall``."""
    by_name = {(verdict.comparison, verdict.rates): verdict for verdict in verdicts}
    assert len(by_name) == len(verdicts)
    return by_name


def judged_again(runs, claim, tasks=("cb",), seeds=range(5)):
    """One claim alone, on some tasks and seeds."""
    narrowed = replace(runs, scope=replace(runs.scope, tasks=tasks, seeds=tuple(seeds)))
    return by_comparison(CLAIMS[claim - 1].verdicts(narrowed))
