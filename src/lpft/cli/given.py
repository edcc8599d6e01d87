"""The settings that a command is given: by the command line, by YAML, and by an earlier record."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from lpft.errors import InputError, named
from lpft.results.folder import read_record
from lpft.settings import DataSettings, TrainingSettings
from lpft.settings.configs import read_config, taken_by


def given_settings(options: Namespace, command: str) -> dict[str, Any]:
    """The settings that the command line names."""
    return {name: getattr(options, name) for name in taken_by(command) if hasattr(options, name)}


def collect_settings(options: Namespace) -> tuple[dict[str, Any], Path | None, bool]:
    """Settings of a run by name, its output folder, and whether it is resumed.

    Settings are those of the record of a resumed run, then of YAML, then of the command line.

    Raises:
        InputError: the record or the YAML file cannot be read, or there is nothing to resume.
    """
    given, folder = given_settings(options, "train"), options.output_dir
    from_file = {} if options.config is None else read_config(options.config)
    options.keys = from_file.keys() - given.keys()
    in_file = from_file.pop("output_dir", None)
    if folder is None and in_file is not None:
        if not isinstance(in_file, str):
            raise InputError(f"{named('output_dir')} {in_file!r} must be a path")
        folder = Path(in_file).expanduser()
    resume = from_file.pop("resume", False)
    if not isinstance(resume, bool):
        raise InputError(f"{named('resume')} {resume!r} must be true or false")
    resume = resume or options.resume
    record = None
    if resume and folder is not None:
        record = read_record(folder)
    if record is None and resume and not (from_file or given):
        raise InputError(
            f"'{folder}' holds no run to go on with: name a run's folder with "
            f"{named('output_dir')}, or give the data to begin one"
        )
    recorded = {} if record is None else record.config
    return {**recorded, **from_file, **given}, folder, resume


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
            raise InputError(
                f"{named('with_start')} belongs to a trained run: name its folder, or leave it out"
            )
        return given
    own = (*taken_by("ntk", TrainingSettings), "methods")
    for name in own:
        if name in given and name != "device":
            raise InputError(
                f"{named(name)} has no effect with a trained run, which has its own: leave it out"
            )
    record = read_record(run)
    if record is None:
        if given.get("with_start"):
            raise InputError(
                f"'{run}' has no run.json, which {named('with_start')} needs: leave it out"
            )
        return given
    names = taken_by("ntk", DataSettings, TrainingSettings)
    recorded = {name: v for name, v in record.config.items() if name in names and v is not None}
    recorded["methods"] = (record.config["method"],)
    if "task" in given or "train_file" in given:
        recorded = {
            name: value for name, value in recorded.items() if name not in DataSettings.fields()
        }
    return {**recorded, **given}
