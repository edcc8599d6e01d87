"""Configurations of runs and kernels from settings by name, and what makes two of them the same."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from lpft.errors import InputError
from lpft.paper import MODEL, published_hyperparameters
from lpft.settings import (
    DataSettings,
    ExperimentSettings,
    KernelSettings,
    OutputSettings,
    RegressionSettings,
    TrainingSettings,
    resolve,
)
from lpft.settings.fields import Decides, Setting, Settings, unknown_setting

_MODELS = (DataSettings, TrainingSettings, OutputSettings, KernelSettings, RegressionSettings)


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run's result, with the folder that it goes to."""

    data: DataSettings
    training: TrainingSettings
    output: OutputSettings
    output_dir: Path

    def flat(self) -> dict[str, Any]:
        """All settings by name, ready for JSON; the output folder is left out."""
        return self.data.flat() | self.training.flat() | self.output.flat()

    def hash(self) -> str:
        """The run's :func:`identity`, for records; resuming compares settings one by one."""
        return identity(self.flat(), Decides.RUN)


def make_config(values: Mapping[str, Any], output_dir: Path | None = None) -> RunConfig:
    """A resolved configuration from settings by name; what is not named takes its default.

    Values may be text, as on a command line, or typed, as in YAML. The output folder is
    ``runs/<data>-<model>-<method>-seed<seed>`` where none is named.

    Raises:
        InputError: an unknown name, a value of a wrong type or out of range, settings that
            contradict each other, or no data named.
    """
    known = taken_by("train")
    for name in values:
        if name not in known:
            raise unknown_setting(name, known)
    training = TrainingSettings.read_own(values)
    data = DataSettings.read_own(values)
    if data.split_protocol is None:
        protocol = "stratified" if data.task is None else "paper"
        data = data.model_copy(update={"split_protocol": protocol})
    published = None
    if data.task is not None and data.split_protocol == "paper":
        published = published_hyperparameters(data.task, training.method)
    training = resolve(training, published)
    if Path(training.model).is_dir():
        training = training.model_copy(update={"model": str(Path(training.model).resolve())})
    if output_dir is None:
        method_and_seed = f"{training.method}-seed{training.seed}"
        output_dir = Path("runs") / f"{_data_and_model(data, training)}-{method_and_seed}"
    return RunConfig(data, training, OutputSettings.read_own(values), output_dir)


def _data_and_model(data: DataSettings, training: TrainingSettings) -> str:
    """The data's and the model's name, with which names of folders begin."""
    source = data.task
    if source is None:
        assert data.train_file is not None
        source = data.train_file.name.partition(".")[0]
    return f"{source}-{training.model.rstrip('/').rpartition('/')[2]}"


@dataclass(frozen=True)
class KernelConfig:
    """Everything that decides the kernels of ``lpft ntk``, with the folder that they go to."""

    run: RunConfig
    kernels: KernelSettings
    regression: RegressionSettings
    output_dir: Path

    @property
    def wants_validation(self) -> bool:
        """Whether kernel regression chooses a strength on validation texts."""
        return self.regression.wants_validation(self.kernels.solver)

    def flat(self) -> dict[str, Any]:
        """All settings by name, ready for JSON."""
        every = self.run.flat() | self.kernels.flat() | self.regression.flat()
        return {name: every[name] for name in taken_by("ntk")}


def make_kernel_config(values: Mapping[str, Any], output_dir: Path | None = None) -> KernelConfig:
    """A resolved configuration from settings by name.

    Raises:
        InputError: as :func:`make_config`, an unknown method, solver or part, or an option of
            kernel regression that no chosen solver takes.
    """
    kernels = KernelSettings.read_own(values)
    regression = RegressionSettings.read_own(values)
    regression.check(kernels.solver, kernels.kernel)
    own = KernelSettings.fields() | RegressionSettings.fields()
    others = {name: value for name, value in values.items() if name not in own}
    # The settings of every method's start at once: a scaled head, and an adapter's factors.
    run = make_config({**others, "method": "lp-lora"})
    if output_dir is None:
        name = f"{_data_and_model(run.data, run.training)}-seed{run.training.seed}"
        output_dir = Path("kernels") / name
    return KernelConfig(run, kernels, regression, output_dir)


def taken_by(command: str, *models: type[Settings]) -> dict[str, Setting]:
    """The settings that a command takes, by name: all of them, or those of ``models``."""
    return {
        name: item
        for model in models or (*_MODELS, ExperimentSettings)
        for name, item in model.fields().items()
        if command in item.commands
    }


def deciding(what: Decides, *, inputs: bool = False) -> list[str]:
    """The names of the settings on which a run or kernel depends.

    Whatever asks whether two are the same starts here: :func:`changed` on resuming,
    :func:`identity`, and in reports :func:`lpft.results.groups.setting_of`.

    Data and weights are compared by their fingerprints, which stay when a file is moved and change
    when it is edited, not by the settings that say where they are. With ``inputs`` these settings
    count too, for records without fingerprints.
    """
    return [
        item.name
        for model in _MODELS
        for item in model.fields().values()
        if item.decides & (what if inputs else what & ~item.fingerprinted)
    ]


def identity(values: Mapping[str, Any], what: Decides) -> str:
    """SHA-256 of the settings, ready for JSON, on which a run or kernel depends.

    Data and weights are not in it: records have their fingerprints beside it.
    """
    decisive = {name: values[name] for name in deciding(what) if name in values}
    return sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def changed(
    recorded: Mapping[str, Any], asked: Mapping[str, Any], what: Decides
) -> dict[str, tuple[Any, Any]]:
    """The settings that decide two runs or kernels and differ: their recorded and asked values.

    A record that is older than a setting counts as one with its default.
    """
    fields = {name: item for model in _MODELS for name, item in model.fields().items()}
    differing = {}
    for name in deciding(what):
        if name not in asked or (asked[name] is None and fields[name].filled_by_model):
            continue
        before = recorded.get(name, fields[name].default)
        if before != asked[name]:
            differing[name] = (before, asked[name])
    return differing


def read_config(path: Path) -> dict[str, Any]:
    """The settings that a YAML file names.

    Dashes and underscores in names are the same, and ``no-head-bias: true`` is
    ``head-bias: false``.

    Raises:
        InputError: the file is missing, no YAML, no mapping, or names what is no setting.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"the configuration file '{path}' does not exist: expected a YAML file"
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"the configuration file '{path}' cannot be read ({reason}): expected YAML lines such "
            "as 'method: lp-ft'"
        ) from error
    if not isinstance(values, dict):
        raise InputError(f"'{path}' must hold 'name: value' lines, such as 'method: lp-ft'")
    settings = {str(name).replace("-", "_"): value for name, value in values.items()}
    for name in _ONLY_OPTIONS & settings.keys():
        raise InputError(
            f"'{path}': {name} is not a setting of a run: give --{name} on the command line"
        )
    for name in [name for name in settings if name.startswith("no_")]:
        if isinstance(settings[name], bool) and name[3:] not in settings:
            settings[name[3:]] = not settings.pop(name)
    return settings


_ONLY_OPTIONS = frozenset({"overwrite", "json", "config", "debug"})


def default_folder(name: str, model: str | None, *, tiny: bool) -> Path:
    """``experiments/<name>-<model>``; of a tiny model that is not named, ``<name>-tiny``."""
    if model is None:
        model = "tiny" if tiny else MODEL
    return Path("experiments") / f"{name}-{model.rstrip('/').rpartition('/')[2]}"
