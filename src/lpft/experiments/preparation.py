"""What is checked before an experiment's first run: folder, data, model, and what is there."""

import json
import logging
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lpft.data import TextData, fingerprint, load_data
from lpft.errors import InputError
from lpft.experiments.kept_results import STEPS
from lpft.experiments.planning import KERNELS, RUNS
from lpft.experiments.recipe import Plan, Recipe
from lpft.model.inference import encoder_fingerprint
from lpft.model.loading import fresh_classifier
from lpft.results.exhibits import RECORD
from lpft.results.folder import WORK, check_restart, clear, read_record
from lpft.results.kernels import KernelRecord
from lpft.results.resume import SweepRecord, check_same_inputs, finished_run
from lpft.results.schema import Fingerprints, RunRecord
from lpft.runs.kernels import check_same_kernels, finished_kernels
from lpft.settings.configs import KernelConfig, RunConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Encoder:
    fingerprint: str
    pooling: str


class Inputs:
    """The data sets and encoders that experiments read, each of them once."""

    def __init__(self) -> None:
        self._data: dict[str, TextData] = {}
        self._prints: dict[str, dict[str, str]] = {}
        self._encoders: dict[tuple[str | None, ...], _Encoder] = {}

    def data(self, config: RunConfig) -> TextData:
        """The data that a run is trained on.

        Raises:
            InputError: it is missing, damaged or not what the settings say.
        """
        key = _key(config)
        if key not in self._data:
            logger.info("reading %s", config.data.task)
            self._data[key] = load_data(config.data)
        return self._data[key]

    def fingerprint(self, config: RunConfig) -> dict[str, str]:
        """That of :meth:`data`, by split.

        Raises:
            InputError: as :meth:`data`.
        """
        key = _key(config)
        if key not in self._prints:
            self._prints[key] = fingerprint(self.data(config))
        return self._prints[key]

    def encoder(self, config: RunConfig) -> str:
        """The fingerprint of the encoder that a run begins with.

        Raises:
            InputError: the model cannot be loaded, or does not fit the settings.
        """
        return self._encoder(config).fingerprint

    def pooling(self, config: RunConfig) -> str:
        """Which token, or average, is a run's feature.

        Raises:
            InputError: as :meth:`encoder`.
        """
        return self._encoder(config).pooling

    def read(self, plan: Plan) -> None:
        """Read everything that a plan needs, so that what is missing fails before any work.

        Raises:
            InputError: as :meth:`data` and :meth:`encoder`.
        """
        for config in run_configs(plan):
            self.data(config)
        for config in run_configs(plan):
            self.encoder(config)

    def _encoder(self, config: RunConfig) -> _Encoder:
        training = config.training
        key = (training.model, training.revision, training.pooling)
        if key not in self._encoders:
            model = fresh_classifier(self.data(config), training).model
            self._encoders[key] = _Encoder(encoder_fingerprint(model), model.config.pooling)
        return self._encoders[key]


def _key(config: RunConfig) -> str:
    return json.dumps(config.data.flat(), sort_keys=True)


def check_folder(recipe: Recipe, folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that holds an experiment which nobody asked to go on with, or other files.

    Raises:
        InputError: it does, or it is a file.
    """
    check_restart(folder, resume=resume, overwrite=overwrite)
    name = _experiment_name(folder)
    if name is None:
        foreign = sorted(path.name for path in folder.glob("[!.]*"))
        if foreign:
            raise InputError(
                f"'{folder}' holds files that are not an experiment's ({foreign[0]}): name an "
                "empty or new folder with --output-dir"
            )
    elif not (resume or overwrite):
        raise InputError(
            f"'{folder}' holds the experiment {name}: give --resume to go on with it, --overwrite "
            "to replace it, or another --output-dir"
        )
    elif name != recipe.name:
        raise InputError(
            f"'{folder}' holds the experiment {name}, not {recipe.name}: name another folder with "
            "--output-dir"
        )


def _experiment_name(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / RECORD).read_text(encoding="utf-8"))["name"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"'{folder / RECORD}' cannot be read ({error}): restore it, or name another folder "
            "with --output-dir"
        ) from error


def check_resumable(plan: Plan, inputs: Inputs) -> None:
    """What is there of a plan's runs and kernels must be what the plan asks for.

    Raises:
        InputError: a run or a kernel has other settings, data or weights.
    """
    for config in unique_runs(plan):
        record = read_record(config.output_dir)
        if record is not None:
            reusable_run(config, record, inputs)
    for planned in plan.kernels:
        matching_kernels(planned.config, inputs)


def reusable_run(config: RunConfig, record: RunRecord, inputs: Inputs) -> bool:
    """Whether the run that ``record`` describes is finished.

    Raises:
        InputError: it has other settings, data or weights than ``config`` asks for.
    """
    if not record.began:
        return False
    finished = finished_run(config, record) is not None
    found = Fingerprints(data=inputs.fingerprint(config), encoder=inputs.encoder(config))
    check_same_inputs(config.output_dir, record, found)
    return finished


def matching_kernels(config: KernelConfig, inputs: Inputs) -> bool:
    """Whether the kernels of ``config`` are finished in its folder.

    Raises:
        InputError: others are, of other settings, data or weights.
    """
    known = finished_kernels(config.output_dir)
    if known is None:
        return False
    prints = known.record.fingerprints
    found = {"data": inputs.fingerprint(config.run), "encoder": inputs.encoder(config.run)}
    if not prints.data or prints.encoder is None:
        raise InputError(
            f"'{config.output_dir}' cannot be resumed: its kernels do not say of which data and "
            "weights they are; remove that folder, and they are computed again"
        )
    check_same_kernels(config, known)
    for name, what in (("data", "data"), ("encoder", "model's weights")):
        if getattr(prints, name) != found[name]:
            raise InputError(
                f"'{config.output_dir}' cannot be resumed: the {what} changed since its kernels "
                "were computed; restore the old state, or start again with --overwrite"
            )
    return True


def clear_experiment(folder: Path) -> None:
    """Remove the runs, the kernels, the steps and the record of an experiment, and nothing else.

    Raises:
        InputError: a run's record is damaged.
    """
    for path in sorted((folder / RUNS).rglob(RunRecord.FILE)):
        clear(path.parent, read_record(path.parent))
    for path in sorted((folder / KERNELS).glob("*/")):
        shutil.rmtree(path / WORK, ignore_errors=True)
        if (path / KernelRecord.FILE).exists():
            for file in (*path.glob("*.safetensors"), path / KernelRecord.FILE):
                file.unlink()
    for path in (folder / STEPS).glob("*.json"):
        path.unlink()
    (folder / RUNS / SweepRecord.FILE).unlink(missing_ok=True)


def check_data(recipe: Recipe, plan: Plan, inputs: Inputs) -> None:
    """Refuse data that were read, but that the experiment cannot be done on.

    Raises:
        InputError: they are such, or cannot be read.
    """
    if recipe.check is not None:
        recipe.check({str(config.data.task): inputs.data(config) for config in run_configs(plan)})


def unique_runs(plan: Plan) -> list[RunConfig]:
    """One configuration for each folder: runs that play two parts are trained once."""
    return list({planned.config.output_dir: planned.config for planned in plan.runs}.values())


def run_configs(plan: Plan) -> Iterable[RunConfig]:
    """Every configuration that a plan takes data and a model from."""
    yield from unique_runs(plan)
    for planned in plan.kernels:
        yield planned.config.run
