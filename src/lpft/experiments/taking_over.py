"""Finished runs and kernels of other experiments, copied where they are what a plan asks for."""

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from lpft.errors import InputError
from lpft.experiments.preparation import Inputs, matching_kernels, reusable_run, unique_runs
from lpft.experiments.recipe import Plan
from lpft.results.folder import read_record
from lpft.settings.configs import KernelConfig, RunConfig

logger = logging.getLogger(__name__)


def take_over(plan: Plan, folder: Path, siblings: Sequence[Path], inputs: Inputs) -> None:
    """Copy into ``folder`` what ``siblings`` have finished of a plan whose folders lie below it."""
    taken = 0
    for config in unique_runs(plan):
        is_asked_for: Callable[[Path], bool] = partial(_is_run, config, inputs)
        taken += _copied(config.output_dir, folder, siblings, is_asked_for)
    for planned in plan.kernels:
        is_asked_for = partial(_are_kernels, planned.config, inputs)
        taken += _copied(planned.config.output_dir, folder, siblings, is_asked_for)
    if taken:
        logger.info("%d results are those of experiments before and are copied", taken)


def _is_run(config: RunConfig, inputs: Inputs, own: Path) -> bool:
    record = read_record(own)
    return record is not None and reusable_run(replace(config, output_dir=own), record, inputs)


def _are_kernels(config: KernelConfig, inputs: Inputs, own: Path) -> bool:
    return matching_kernels(replace(config, output_dir=own), inputs)


def _copied(
    target: Path, folder: Path, siblings: Sequence[Path], is_asked_for: Callable[[Path], bool]
) -> bool:
    """Whether the first sibling that has the result filled the target, which was empty."""
    if target.is_dir() and any(target.iterdir()):
        return False
    for sibling in siblings:
        source = sibling / target.relative_to(folder)
        try:
            usable = is_asked_for(source)
        except InputError:
            usable = False
        if usable:
            beside = target.with_name(f".{target.name}.partial")
            shutil.rmtree(beside, ignore_errors=True)
            shutil.copytree(source, beside)
            beside.replace(target)
            return True
    return False
