"""What of a plan is finished, as recipes read it; what is damaged is left out, with its reason."""

from math import isclose
from pathlib import Path

from lpft.errors import InputError
from lpft.experiments.recipe import Found, Plan, Scope
from lpft.results.folder import read_record
from lpft.results.kernels import KernelRecord, find_kernels
from lpft.results.run import FEATURES, Run, find_runs, read_feature_changes, split_path

Failures = list[tuple[str, str]]
"""What has no numbers, and why."""

_ROUNDING = 1e-6
_ADVICE = "remove its folder, and go on with --resume to have it again"


def collect(scope: Scope, plan: Plan) -> tuple[Found, Failures]:
    """The finished runs and kernels of a plan below the scope's folder, and those not readable."""
    all_runs, unread_runs = find_runs(scope.folder)
    all_kernels, unread_kernels = find_kernels(scope.folder)
    asked = {run.config.output_dir for run in plan.runs}
    asked |= {kernels.config.output_dir for kernels in plan.kernels}
    unread = [part for part in (*unread_runs, *unread_kernels) if part.folder in asked]
    failures = [
        (part.name, f"{part.reason}; {_ADVICE}" if part.state == "damaged" else part.reason)
        for part in unread
    ]
    runs: dict[Path, Run] = {}
    for run in all_runs:
        damage = _damage(run) if run.folder in asked else None
        if damage is None:
            runs[run.folder] = run
        else:
            failures.append((run.name, f"{damage}; {_ADVICE}"))
    kernels: dict[Path, KernelRecord] = {}
    for found in all_kernels:
        if found.problems and found.folder in asked:
            failures.append((found.name, f"{'; '.join(found.problems)}; {_ADVICE}"))
        else:
            kernels[found.folder] = found
    return Found(
        scope=scope,
        runs={
            (planned.variant, planned.task, planned.method, planned.seed): runs[folder]
            for planned in plan.runs
            if (folder := planned.config.output_dir) in runs
        },
        kernels={
            (planned.task, planned.seed): kernels[folder]
            for planned in plan.kernels
            if (folder := planned.config.output_dir) in kernels
        },
    ), failures


def _damage(run: Run) -> str | None:
    """Why the feature changes of a run's texts cannot be used; None where they can.

    Their mean must be the one that ``features.json`` has.
    """
    try:
        record = read_record(run.folder)
        files = () if record is None else record.files
        for split in run.features:
            if split_path(Path(), FEATURES, split, "parquet").as_posix() not in files:
                continue
            mean = float(read_feature_changes(run.folder, split)["feature_difference"].mean())
            recorded = run.feature(split, "feature_difference")
            if recorded is None or not isclose(
                mean, recorded, rel_tol=_ROUNDING, abs_tol=_ROUNDING
            ):
                return (
                    f"features.json: the feature change of {split} is {recorded}, but its texts "
                    f"give {mean:.6g}"
                )
    except InputError as error:
        return str(error)
    return None
