"""The experiment ``claims`` as if it had been computed: answers, changes and norms by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.hand_made import scope_of
from experiments.scored_runs import right_of, write_scored
from report.kernel_folders import write_kernels

from lpft.experiments.claims.recipe import RECIPES
from lpft.experiments.recipe import Found, PlannedRun, Scope
from lpft.experiments.reproduce import collect

ROWS = 100
"""Test texts, and texts of every OOD set."""

(CLAIMS,) = RECIPES
FT_RATIOS = {"ft": 0.2, "lora": 0.0004, "lp-ft": 1.0, "lp-lora": 0.9}

Describe = Callable[[PlannedRun], dict[str, Any] | None]


def claims_scope(folder: Path, **changes: Any) -> Scope:
    return scope_of(CLAIMS, folder, **({"tasks": ("cb", "sst2"), "seeds": range(5)} | changes))


def write_claims(
    folder: Path,
    describe: Describe,
    ft_ratio: Callable[[str, int, str], float] = lambda *key: FT_RATIOS[key[-1]],
    **changes: Any,
) -> Found:
    """Every planned run as ``describe`` says, and kernels with the FT ratios that are given.

    ``describe`` gives ``change`` (of every text), ``wrong`` answers of :data:`ROWS` by split, and
    settings of :func:`report.run_folders.write_run`; None for a run that failed.
    """
    scope = claims_scope(folder, **changes)
    plan = CLAIMS.plan(scope)
    for planned in plan.runs:
        target = planned.config.output_dir
        described = None if target.exists() else describe(planned)
        if described is None:
            continue
        settings = dict(described)
        wrong = {"validation": 10, "test": 10, **settings.pop("wrong", {})}
        change = settings.pop("change", 5.0)
        training = planned.config.training
        moved = [split for split in wrong if split != "validation"]
        write_scored(
            target,
            planned.method,
            planned.seed,
            {split: right_of(ROWS, count) for split, count in wrong.items()},
            changes={split: [change] * ROWS for split in moved},
            **{
                "data_name": planned.task,
                "task": planned.task,
                "learning_rate": training.learning_rate,
                "batch_size": training.batch_size,
                "head_scale": training.head_scale,
                "temperature": 1.0,
                **settings,
            },
        )
    for kernels in plan.kernels:
        target = kernels.config.output_dir
        if target.exists():
            continue
        methods = kernels.config.kernels.methods
        write_kernels(target, methods=methods, samples=6, data_name=kernels.task, seed=kernels.seed)
        record = json.loads((target / "kernels.json").read_text())
        for method in methods:
            record["methods"][method]["ft_ratio"] = ft_ratio(kernels.task, kernels.seed, method)
        (target / "kernels.json").write_text(json.dumps(record))
    return collect(scope, plan)
