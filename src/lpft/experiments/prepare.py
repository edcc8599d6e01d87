"""What an experiment begins with: its folder, its data and models, and results that are there.

Everything is checked here, once, before the first run.
"""

import json
import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import isclose
from pathlib import Path
from typing import TypeVar

from lpft.data import TextData, fingerprint, load_data
from lpft.errors import InputError, named
from lpft.experiments.plan import KERNELS, RUNS, STEPS, ExperimentRuns, Plan, Scope
from lpft.model import Classifier
from lpft.model.inference import encoder_fingerprint
from lpft.model.loading import fresh_classifier
from lpft.results.exhibits import RECORD
from lpft.results.folder import (
    SEARCH_RECORD,
    WORK,
    check_restart,
    clear,
    foreign_files,
    read_record,
    results_found,
)
from lpft.results.formats import joined
from lpft.results.kernels import KernelRecord, find_kernels
from lpft.results.resume import SweepRecord, check_same_inputs, finished_run
from lpft.results.run import FEATURES, Run, find_runs, read_feature_changes, split_path
from lpft.results.schema import Fingerprints, RunRecord
from lpft.runs.kernels import check_same_kernels, finished_kernels
from lpft.runs.sweep_config import SEARCH
from lpft.settings.configs import KernelConfig, RunConfig, make_config

logger = logging.getLogger(__name__)

Failures = list[tuple[str, str]]
"""Runs, kernels and steps without numbers, each with the reason."""

Result = TypeVar("Result", Run, KernelRecord)

_ROUNDING = 1e-6
_ADVICE = "remove its folder, and continue with --resume to compute it again"


class Inputs:
    """The data sets and encoders of experiments, each read once.

    Every method raises :class:`~lpft.errors.InputError` where data are missing, damaged or not
    what the settings say, or where a model cannot be loaded or does not fit the settings.
    """

    def __init__(self) -> None:
        self._data: dict[str, TextData] = {}
        self._fingerprints: dict[str, dict[str, str]] = {}
        self._encoders: dict[tuple[str | None, ...], tuple[str, str]] = {}

    def read(self, plan: Plan) -> None:
        """Read everything that a plan needs, so that missing data fails before any training."""
        for config in plan.input_configs:
            self.data(config)
        for config in plan.input_configs:
            self._encoder(config)

    def data(self, config: RunConfig) -> TextData:
        """The data that a run is trained on."""
        key = _data_key(config)
        if key not in self._data:
            logger.info("reading %s", config.data.task)
            self._data[key] = load_data(config.data)
        return self._data[key]

    def fingerprints(self, config: RunConfig) -> Fingerprints:
        """Fingerprints of data and encoder, as records of runs and kernels have them."""
        key = _data_key(config)
        if key not in self._fingerprints:
            self._fingerprints[key] = fingerprint(self.data(config))
        encoder, _ = self._encoder(config)
        return Fingerprints(data=self._fingerprints[key], encoder=encoder)

    def pooling(self, config: RunConfig) -> str:
        """The token, or the average, that is a run's feature."""
        return self._encoder(config)[1]

    def _encoder(self, config: RunConfig) -> tuple[str, str]:
        """Fingerprint and pooling."""
        training = config.training
        key = (training.model, training.revision, training.pooling)
        if key not in self._encoders:
            model = fresh_classifier(self.data(config), training).model
            self._encoders[key] = encoder_fingerprint(model), model.config.pooling
        return self._encoders[key]


def _data_key(config: RunConfig) -> str:
    return json.dumps(config.data.flat(), sort_keys=True)


def check_folder(
    experiment: str, tasks: Sequence[str], folder: Path, *, resume: bool, overwrite: bool
) -> None:
    """Refuse a folder with other files, or with an experiment that is not to be resumed.

    One that was on none of ``tasks`` is not: its runs would be left beside others.

    Raises:
        InputError: it holds such, or is a file.
    """
    check_restart(folder, resume=resume, overwrite=overwrite)
    name, recorded = _experiment_in(folder)
    if name is None:
        foreign = sorted(path.name for path in folder.glob("[!.]*"))
        if foreign:
            raise foreign_files(folder, "an experiment's", foreign[0])
    elif not (resume or overwrite):
        raise results_found(folder, f"the experiment {name}")
    elif name != experiment:
        raise InputError(
            f"'{folder}' contains the experiment {name}, not {experiment}: name another folder "
            f"with {named('output_dir')}"
        )
    elif resume and recorded and set(recorded).isdisjoint(tasks):
        raise InputError(
            f"'{folder}' contains {name} on {joined(recorded)}, found {joined(tasks)}: "
            f"continue it with {named('tasks')} {','.join(recorded)}, or name another folder with "
            f"{named('output_dir')}"
        )


def _experiment_in(folder: Path) -> tuple[str | None, list[str]]:
    """The name and the tasks of the experiment in a folder, if there is one."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return str(record["name"]), list(map(str, record.get("settings", {}).get("tasks", [])))
    except (FileNotFoundError, NotADirectoryError):
        return None, []
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"'{folder / RECORD}' cannot be read ({error}): restore it, or name another folder "
            f"with {named('output_dir')}"
        ) from error


def is_finished(config: RunConfig | KernelConfig, inputs: Inputs) -> bool:
    """Whether the run or the kernels of ``config`` are finished in its folder.

    Raises:
        InputError: what is there is of other settings, data or weights.
    """
    if isinstance(config, KernelConfig):
        known = finished_kernels(config.output_dir)
        if known is not None:
            check_same_kernels(known, config, inputs.fingerprints(config.run))
        return known is not None
    record = read_record(config.output_dir)
    if record is None or not record.began:
        return False
    finished = finished_run(config, record) is not None
    check_same_inputs(config.output_dir, record.fingerprints, inputs.fingerprints(config))
    return finished


def clear_experiment(folder: Path) -> None:
    """Remove the runs, searches, kernels and steps of an experiment, and nothing else.

    Raises:
        InputError: a run's record is damaged.
    """
    for runs in (folder / RUNS, folder / SEARCH):
        for path in sorted(runs.rglob(RunRecord.FILE)):
            clear(path.parent, read_record(path.parent))
        (runs / SweepRecord.FILE).unlink(missing_ok=True)
    (folder / SEARCH / SEARCH_RECORD).unlink(missing_ok=True)
    for path in sorted((folder / KERNELS).glob("*/")):
        shutil.rmtree(path / WORK, ignore_errors=True)
        if (path / KernelRecord.FILE).exists():
            for file in (*path.glob("*.safetensors"), path / KernelRecord.FILE):
                file.unlink()
    for path in (folder / STEPS).glob("*.json"):
        path.unlink()


def reuse_results(plan: Plan, folder: Path, siblings: Sequence[Path], inputs: Inputs) -> None:
    """Copy into ``folder`` those runs and kernels of a plan that other experiments have finished.

    The plan's folders lie below ``folder``; ``siblings`` have the same layout.
    """
    copied = 0
    for config in plan.configs:
        target = config.output_dir
        if target.is_dir() and any(target.iterdir()):
            continue
        for sibling in siblings:
            source = sibling / target.relative_to(folder)
            try:
                usable = is_finished(replace(config, output_dir=source), inputs)
            except InputError:  # of other settings, data or weights
                usable = False
            if usable:
                partial_copy = target.with_name(f".{target.name}.partial")
                shutil.rmtree(partial_copy, ignore_errors=True)
                shutil.copytree(source, partial_copy)
                partial_copy.replace(target)
                copied += 1
                break
    if copied:
        logger.info("%d results of earlier experiments are copied", copied)


def collect(scope: Scope, plan: Plan) -> tuple[ExperimentRuns, Failures]:
    """The finished runs and kernels of a plan, and those that cannot be read, with the reason."""
    all_runs, unread_runs = find_runs(scope.folder)
    all_kernels, unread_kernels = find_kernels(scope.folder)
    planned = {config.output_dir for config in plan.configs}
    failures = [
        (part.name, f"{part.reason}; {_ADVICE}" if part.state == "damaged" else part.reason)
        for part in (*unread_runs, *unread_kernels)
        if part.folder in planned
    ]

    def usable(results: Iterable[Result], damage: Callable[[Result], str]) -> dict[Path, Result]:
        """The planned results by their folders; damaged ones are failures."""
        by_folder = {result.folder: result for result in results if result.folder in planned}
        damages = {folder: damage(result) for folder, result in by_folder.items()}
        failures.extend(
            (by_folder[folder].name, f"{reason}; {_ADVICE}")
            for folder, reason in damages.items()
            if reason
        )
        return {folder: result for folder, result in by_folder.items() if not damages[folder]}

    runs = usable(all_runs, _damage)
    kernels = usable(all_kernels, lambda record: "; ".join(record.problems))
    return ExperimentRuns(
        scope,
        {part: runs[c.output_dir] for part, c in plan.runs.items() if c.output_dir in runs},
        {p: kernels[c.output_dir] for p, c in plan.kernels.items() if c.output_dir in kernels},
    ), failures


def _damage(run: Run) -> str:
    """Why the feature changes of a run's texts cannot be used; empty where they can.

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
    return ""


def reopen(run: Run) -> tuple[RunConfig, TextData, Classifier, str]:
    """A run's settings and data, its classifier before any training, and the encoder's hash.

    Raises:
        InputError: data or model cannot be read, or are no longer those of the run.
    """
    config = make_config(run.config, Path(run.folder))
    data = load_data(config.data)
    classifier = fresh_classifier(data, config.training)
    encoder = encoder_fingerprint(classifier.model)
    current = {"encoder": encoder, **{f"data/{k}": v for k, v in fingerprint(data).items()}}
    changed = [name for name, value in run.fingerprints.items() if current.get(name) != value]
    if changed:
        raise InputError(
            f"the {changed[0].replace('data/', 'data of ')} changed since '{run.folder}' was "
            "trained: restore it, or start the experiment again in another folder"
        )
    return config, data, classifier, encoder
