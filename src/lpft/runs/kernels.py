"""``lpft ntk``: the kernels of several methods' starts, or of a trained run, in one folder."""

import json
import logging
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lpft.data import fingerprint
from lpft.errors import InputError
from lpft.files import write_json
from lpft.model.fingerprint import encoder_fingerprint
from lpft.results.folder import RECORD as RUN_RECORD
from lpft.results.folder import WORK, check_restart, is_inside, locked, read_record
from lpft.runs.kernel_work import KernelWork
from lpft.runs.saved import open_saved
from lpft.runs.train import load_data
from lpft.settings import DATA_SETTINGS, METHODS, MODEL_SETTINGS, KernelConfig
from lpft.training.inputs import fresh_classifier

logger = logging.getLogger(__name__)

RECORD = "kernels.json"

_ARRAYS = tuple(f"{name}.safetensors" for name in (*METHODS, "trained"))
_NO_PART_OF_A_KERNEL = frozenset({"data_dir", "device", "memory", "linear_method"})


@dataclass(frozen=True)
class KernelRun:
    """Finished kernels: their folder, and what its ``kernels.json`` holds."""

    folder: Path
    record: dict[str, Any]


def recorded_settings(run: Path | None, given: dict[str, Any]) -> dict[str, Any]:
    """The settings of a trained run's data and model, with those given on top.

    Raises:
        InputError: there is no such run, or a setting of the model is given beside one, which has
            its own.
    """
    if run is not None and not (run / "config.json").is_file() and read_record(run) is None:
        raise InputError(
            f"'{run}' holds no trained classifier: expected a folder that lpft train wrote"
        )
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


def check_same_kernels(config: KernelConfig, finished: KernelRun) -> None:
    """Refuse finished kernels for those of ``config`` if their settings differ.

    Raises:
        InputError: the message names the setting.
    """
    recorded = finished.record.get("config", {})
    for name, asked in config.flat().items():
        if name not in _NO_PART_OF_A_KERNEL and recorded.get(name) != asked:
            raise InputError(
                f"'{finished.folder}' cannot be resumed: its kernels are of "
                f"{name.replace('_', '-')} {recorded.get(name)}, now it is {asked}; give the same "
                "settings, --overwrite to replace them, or another --output-dir"
            )


def compute_kernels(
    config: KernelConfig, *, run: Path | None = None, resume: bool = False, overwrite: bool = False
) -> KernelRun:
    """The kernels that ``config`` asks for, in its output folder; finished ones are not repeated.

    Raises:
        InputError: data, model, a setting or the folder is not usable, or the folder holds kernels
            that nobody asked to replace or to go on with.
    """
    folder = config.output_dir
    _check_folder(folder, resume=resume, overwrite=overwrite)
    finished = finished_kernels(folder) if resume else None
    if finished is not None:
        check_same_kernels(config, finished)
        _check_same_run(run, finished)
        _check_same_inputs(config, run, finished)
        logger.info("%s is finished already", folder)
        return finished
    work = KernelWork(config, run)
    with locked(folder):
        if not resume:
            shutil.rmtree(folder / WORK, ignore_errors=True)
        record = work.run()
        _remove_replaced(folder, list(record["methods"]))
        (folder / RECORD).unlink(missing_ok=True)  # never beside arrays that are not its own
        for name in record["methods"]:
            (folder / WORK / f"{name}.safetensors").replace(folder / f"{name}.safetensors")
        write_json(folder / RECORD, record)
        shutil.rmtree(folder / WORK, ignore_errors=True)
        return KernelRun(folder, record)


def _check_same_run(run: Path | None, finished: KernelRun) -> None:
    if run is not None and finished.record.get("model") != str(run):
        raise InputError(
            f"'{finished.folder}' cannot be resumed: its kernels are of "
            f"{finished.record.get('model')}, now they are asked of '{run}'; name another "
            "--output-dir"
        )


def _check_same_inputs(config: KernelConfig, run: Path | None, finished: KernelRun) -> None:
    """Refuse finished kernels of other data or weights, or that do not say of which they are."""
    data = load_data(config.run.data)
    if run is None:
        name, model = "encoder", fresh_classifier(data, config.run.training).model
    else:
        name, model = "trained_encoder", open_saved(run, "cpu").classifier.model
    found = {"data": fingerprint(data), name: encoder_fingerprint(model)}
    recorded = finished.record.get("fingerprints", {})
    for which, what in (("data", "data"), (name, "model's weights")):
        if recorded.get(which) != found[which]:
            raise InputError(
                f"'{finished.folder}' cannot be resumed: the {what} changed since its kernels were "
                "computed, or they do not say of which they are; restore the old state, or start "
                "again with --overwrite"
            )


def _remove_replaced(folder: Path, names: Sequence[str]) -> None:
    """Remove the arrays of the kernels that a folder held, but of those in ``names``."""
    with suppress(InputError):  # a damaged record says of no file that it is ours
        before = finished_kernels(folder)
        for name in set() if before is None else set(before.record["methods"]) - set(names):
            if is_inside(f"{name}.safetensors"):
                (folder / f"{name}.safetensors").unlink(missing_ok=True)


def _check_folder(folder: Path, *, resume: bool, overwrite: bool) -> None:
    check_restart(folder, resume=resume, overwrite=overwrite)
    if (folder / RUN_RECORD).exists():
        raise InputError(f"'{folder}' holds a trained run: name another folder with --output-dir")
    if not ((folder / RECORD).exists() or (folder / WORK).exists()):
        foreign = [name for name in _ARRAYS if (folder / name).exists()]
        if foreign:
            raise InputError(
                f"'{folder}' holds {foreign[0]}, which no record says is a kernel's: name an empty "
                "or new folder with --output-dir"
            )
    if (folder / RECORD).exists() and not (resume or overwrite):
        raise InputError(
            f"'{folder}' holds finished kernels: give --overwrite to replace them, or another "
            "--output-dir"
        )
    if (folder / WORK).exists() and not (resume or overwrite):
        raise InputError(
            f"'{folder}' holds unfinished kernels: give --resume to go on with them, --overwrite "
            "to start again, or another --output-dir"
        )
