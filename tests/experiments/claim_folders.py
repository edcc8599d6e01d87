"""The experiment ``claims`` as if it had been computed: answers, changes and norms by hand."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from experiments.hand_made import scope_of
from experiments.scored_runs import right_of, write_scored
from results.kernel_folders import write_kernels
from safetensors.numpy import load_file, save_file

from lpft.experiments.claims import CLAIMS as CLAIM_TABLE
from lpft.experiments.claims import RECIPE as CLAIMS
from lpft.experiments.plan import ExperimentRuns, PlannedRun, Scope
from lpft.experiments.prepare import collect
from lpft.results.pairing import PUBLISHED, SHARED

ROWS = 100
"""Test texts, and texts of every OOD set."""

FT_RATIOS = {"ft": 0.2, "lora": 0.0004, "lp-ft": 1.0, "lp-lora": 0.9}

Describe = Callable[[PlannedRun], dict[str, Any] | None]


def claims_scope(folder: Path, **changes: Any) -> Scope:
    return scope_of(CLAIMS, folder, **({"tasks": ("cb", "sst2"), "seeds": range(5)} | changes))


def write_claims(
    folder: Path,
    describe: Describe,
    ft_ratio: Callable[[str, int, str], float] = lambda *key: FT_RATIOS[key[-1]],
    **changes: Any,
) -> ExperimentRuns:
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
            wanted = ft_ratio(kernels.task, kernels.seed, method)
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


HOLDS, FAILS, UNTOLD = "holds", "does not hold", "cannot tell"

CHANGE = {
    (PUBLISHED, "ft"): 10.0,
    (PUBLISHED, "lp-ft"): 4.0,
    (SHARED, "ft"): 4.0,
    (PUBLISHED, "lora"): 3.0,
    (PUBLISHED, "lp-lora"): 5.0,
    (SHARED, "lora"): 6.0,
    ("head scale 0.1", "ft"): 12.0,
    ("head scale 10", "ft"): 6.0,
    ("head scale 100", "ft"): 2.0,
    ("head scale 0.1", "lp-ft"): 3.0,
    ("head scale 10", "lp-ft"): 4.5,
    ("head scale 100", "lp-ft"): 5.0,
}
"""Feature change of seed 0."""

BY_SEED = (0.0, 0.1, -0.1, 0.2, -0.2)
"""What the random heads' changes of later seeds have on top."""

WRONG = {"ft": 50, "lp-ft": 40, "lora": 45, "lp-lora": 45}
OOD_WRONG = {"ft": 40, "lp-ft": 60, "lora": 50, "lp-lora": 50}
TEMPERATURE = {"ft": 4.0, "lp-ft": 1.0, "lora": 2.0, "lp-lora": 1.0}
END_NORM = {"cb": 14.7, "sst2": 21.0}
"""Of LP-FT's head, which starts from 14; random ones start from 0.55."""


def known(planned):
    """What a planned run found, from the tables above."""
    method = planned.method
    random = not method.startswith("lp")
    return {
        "change": CHANGE[planned.variant, method] + (BY_SEED[planned.seed] if random else 0.0),
        "wrong": {"test": WRONG[method], "ood/books": OOD_WRONG[method]},
        "temperature": TEMPERATURE[method],
        "head_norm": END_NORM[planned.task] if method == "lp-ft" else None,
    }


def ratio(task, seed, method):
    """The FT ratio of a seed's kernels: LP-FT's is near 1 on one task alone."""
    middle = {"ft": 0.2, "lora": 0.0004, "lp-ft": 1.0 if task == "cb" else 0.5, "lp-lora": 0.9}
    return middle[method] * (1 + 0.01 * seed)


def by_comparison(verdicts):
    """By comparison and rates, the claim as a whole under ``overall``."""
    found = {(verdict.comparison, verdict.rates): verdict for verdict in verdicts}
    assert len(found) == len(verdicts)
    return found


def judged_again(found, claim, tasks=("cb",), seeds=range(5)):
    """One claim alone, on some tasks and seeds."""
    narrowed = replace(found, scope=replace(found.scope, tasks=tasks, seeds=tuple(seeds)))
    return by_comparison(CLAIM_TABLE[claim - 1].verdicts(narrowed))
