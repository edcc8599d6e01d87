"""``lpft ntk``: the kernels of several methods' starts, or of a trained run, in one folder."""

import json
import logging
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import torch
from safetensors.numpy import save_file

from lpft.choices import Granularity
from lpft.data import TextData, fingerprint
from lpft.errors import InputError
from lpft.files import replace_when_written, write_json
from lpft.ntk import EmpiricalNTK, KernelJob, Options
from lpft.ntk.memory import readable_size
from lpft.ntk.plan import Plan
from lpft.runs.environment import environment
from lpft.runs.kernel_record import (
    EVALUATION,
    REVERSED,
    TRAIN,
    MethodKernels,
    alignment,
    regressions,
)
from lpft.runs.kernel_settings import DATA_SETTINGS, MODEL_SETTINGS, KernelConfig
from lpft.runs.kernel_starts import (
    KernelTexts,
    Pass,
    Start,
    kernel_texts,
    method_passes,
    trained_pass,
)
from lpft.runs.store import WORK, check_restart, is_inside, locked, read_record
from lpft.runs.train import load_data

logger = logging.getLogger(__name__)

RECORD = "kernels.json"
SCHEMA = 1
_DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class KernelRun:
    """Finished kernels: their folder, and what its ``kernels.json`` holds."""

    folder: Path
    record: dict[str, Any]


def recorded_settings(run: Path | None, given: dict[str, Any]) -> dict[str, Any]:
    """The settings of a trained run's data and model, with those given on top.

    Raises:
        InputError: a setting of the model is given beside a run, which has its own.
    """
    if run is None:
        if given.get("with_start"):
            raise InputError("--with-start belongs to a trained run: name its folder, or leave it")
        return given
    refused = [name for name in MODEL_SETTINGS if name in given and name != "device"]
    if refused or "methods" in given:
        name = (refused or ["methods"])[0].replace("_", "-")
        raise InputError(f"--{name} has no effect with a trained run, which has its own: leave it")
    record = read_record(run)
    if record is None:
        if given.get("with_start"):
            raise InputError(f"'{run}' has no run.json, which --with-start needs: leave it out")
        return given
    names = [name for name in (*DATA_SETTINGS, *MODEL_SETTINGS) if name in record["config"]]
    recorded = {
        name: record["config"][name] for name in names if record["config"][name] is not None
    }
    recorded["methods"] = (record["config"]["method"],)
    if "task" in given or "train_file" in given:
        recorded = {name: value for name, value in recorded.items() if name not in DATA_SETTINGS}
    return {**recorded, **given}


class KernelWork:
    """The kernels that a configuration asks for, planned before anything is computed."""

    def __init__(self, config: KernelConfig, run: Path | None = None) -> None:
        self.config = config
        self._run = run
        training = config.run.training
        self.data: TextData = load_data(config.run.data)
        self.texts: KernelTexts = kernel_texts(self.data, config.kernels.max_samples)
        self.passes: list[Pass] = []
        if run is None or config.kernels.with_start:
            self.passes += method_passes(config.kernels.methods, self.data, training)
        if run is not None:
            self.passes.append(trained_pass(run, self.data, training))
        self.jobs = [self._job(number, each) for number, each in enumerate(self.passes)]

    @property
    def plans(self) -> list[Plan]:
        return [job.plan for job in self.jobs]

    def run(self) -> KernelRun:
        """Compute, describe and write the kernels; what a killed run had finished is taken up."""
        folder = self.config.output_dir
        for plan in self.plans:
            logger.info(
                "kernels of %d texts: about %.0f s, %s of memory at most",
                len(plan.demand.lengths),
                plan.seconds,
                readable_size(plan.memory),
            )
        started = perf_counter()
        found: list[MethodKernels] = []
        seconds = 0.0
        for each, job in zip(self.passes, self.jobs, strict=True):
            kernels = job.run()
            found += [self._method(start, kernels[start.name]) for start in each.starts]
            seconds += next(iter(kernels.values()))[TRAIN].record["seconds"]["total"]
        for kernels_of in found:
            with replace_when_written(folder / f"{kernels_of.start.name}.safetensors") as path:
                save_file(kernels_of.arrays(self.texts), path)
        scores, regression_seconds = regressions(found, self.texts, self.config.kernels.solver)
        _remove_replaced(folder, [each.start.name for each in found])
        record = self._record(found, scores)
        record["timings"] = {
            "kernel_seconds": seconds,
            "regression_seconds": regression_seconds,
            "total_seconds": perf_counter() - started,
        }
        write_json(folder / RECORD, record)
        shutil.rmtree(folder / WORK, ignore_errors=True)
        return KernelRun(folder, record)

    def _job(self, number: int, each: Pass) -> KernelJob:
        settings = self.config.kernels
        blocks: tuple[tuple[int, int], ...] = (TRAIN, EVALUATION)
        if settings.kernel == "asymmetric":
            blocks = (TRAIN, EVALUATION, REVERSED)
        return KernelJob(
            each.subject,
            {start.name: start.request for start in each.starts},
            [self.texts.train.texts, self.texts.evaluation.texts],
            blocks,
            Options(
                method=settings.linear_method,
                kernel=settings.kernel,
                granularity=cast(Sequence[Granularity], settings.granularity),
                products=settings.products,
                dtype=_DTYPES[settings.dtype],
                memory=settings.memory,
                cache_dir=self.config.output_dir / WORK / f"pass-{number}",
                device=self.config.run.training.device,
            ),
        )

    def _method(self, start: Start, blocks: dict[tuple[int, int], EmpiricalNTK]) -> MethodKernels:
        return MethodKernels(start, blocks, len(self.data.classes))

    def _record(
        self, found: Sequence[MethodKernels], scores: dict[str, dict[str, Any]]
    ) -> dict[str, Any]:
        training, kernels = self.config.run.training, self.config.kernels
        rows = {"train": len(self.texts.train), "eval": len(self.texts.evaluation)}
        return {
            "schema": SCHEMA,
            "data": {
                "name": self.data.name,
                "classes": list(self.data.classes),
                "rows": rows,
                "eval_split": self.texts.evaluation_split,
            },
            "model": training.model if self._run is None else str(self._run),
            "kernel": kernels.kernel,
            "dtype": kernels.dtype,
            "seed": training.seed,
            "max_length": training.max_length,
            "config": self.config.flat(),
            "fingerprints": {"data": fingerprint(self.data)},
            "methods": {
                each.start.name: each.record(self.texts, scores[each.start.name]) for each in found
            },
            "alignment": alignment(found),
            "plan": {"passes": [plan.timed_record() for plan in self.plans]},
            "environment": environment(self.plans[0].device),
        }


def finished_kernels(folder: Path) -> KernelRun | None:
    """The finished kernels that a folder holds, or None.

    Raises:
        InputError: their record is damaged.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict) or not isinstance(record.get("methods"), dict):
            raise ValueError("it is no record of kernels")
    except (OSError, ValueError) as error:
        raise InputError(
            f"'{path}' cannot be read ({error}): compute the kernels again with --overwrite"
        ) from error
    return KernelRun(folder, record)


def compute_kernels(
    config: KernelConfig, *, run: Path | None = None, resume: bool = False, overwrite: bool = False
) -> KernelRun:
    """The kernels that ``config`` asks for, in its output folder.

    Raises:
        InputError: data, model, a setting or the folder is not usable, or the folder holds kernels
            that nobody asked to replace or to go on with.
    """
    folder = config.output_dir
    _check_folder(folder, resume=resume, overwrite=overwrite)
    work = KernelWork(config, run)
    with locked(folder):
        if not resume:
            shutil.rmtree(folder / WORK, ignore_errors=True)
        return work.run()


def _remove_replaced(folder: Path, names: Sequence[str]) -> None:
    """Remove the arrays of the kernels that a folder held, but of those in ``names``."""
    with suppress(InputError):  # a damaged record says of no file that it is ours
        before = finished_kernels(folder)
        for name in set() if before is None else set(before.record["methods"]) - set(names):
            if is_inside(f"{name}.safetensors"):
                (folder / f"{name}.safetensors").unlink(missing_ok=True)


def _check_folder(folder: Path, *, resume: bool, overwrite: bool) -> None:
    check_restart(folder, resume=resume, overwrite=overwrite)
    if (folder / RECORD).exists() and not overwrite:
        raise InputError(
            f"'{folder}' holds finished kernels: give --overwrite to replace them, or another "
            "--output-dir"
        )
    if (folder / WORK).exists() and not (resume or overwrite):
        raise InputError(
            f"'{folder}' holds unfinished kernels: give --resume to go on with them, --overwrite "
            "to start again, or another --output-dir"
        )
