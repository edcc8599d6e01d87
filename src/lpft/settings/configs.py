"""Configurations of runs and kernels from settings by name, and what makes two of them the same."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path, PurePath
from typing import Any

import yaml

from lpft.errors import InputError, named, one_line
from lpft.paper import MAX_LENGTH, MODEL, PRECISION, PROBE_SCORING, published_hyperparameters
from lpft.settings import (
    MINILM,
    DataSettings,
    OutputSettings,
    SelectionSettings,
    TrainingSettings,
    default_value,
    resolve,
)
from lpft.settings.commands import (
    ExperimentSettings,
    ExplanationSettings,
    InterpolationSettings,
    PredictionSettings,
    ServingSettings,
)
from lpft.settings.fields import Decides, Setting, Settings, unknown_setting
from lpft.settings.kernels import KernelSettings, RegressionSettings
from lpft.settings.methods import AUTO, METHODS
from lpft.settings.values import PEFT_FILE, read_peft_config

_RUN_MODELS = (DataSettings, TrainingSettings, OutputSettings)
_MODELS = (*_RUN_MODELS, SelectionSettings, KernelSettings, RegressionSettings)
_COMMAND_MODELS = (
    ExperimentSettings,
    InterpolationSettings,
    ExplanationSettings,
    PredictionSettings,
    ServingSettings,
)

SEARCHED = ("learning_rate", "epochs")
"""What ``--tune`` searches, beside the method."""

AUTO_METHODS = ("lp", "contrastive", "lp-ft", "lora", "ft")
"""What ``--method auto`` may train, in this order."""


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


def command_line(config: Mapping[str, Any]) -> str:
    """The ``lpft train`` command with the settings of a record that differ from the defaults.

    Of absolute paths it has the last part only: a command is made to be passed on.
    """
    words = ["lpft", "train"]
    method, model = METHODS.get(str(config.get("method"))), str(config.get("model", MINILM))
    published = config.get("split_protocol") == "paper"
    for name, item in command_settings("train").items():
        if method is not None and not method.takes(item):
            continue  # as a record of an earlier version may have it
        value, default = config.get(name), item.default
        if default is None and method is not None and name in TrainingSettings.fields():
            default = None if published else default_value(name, method.name, model)
        if value is None or value in (default, {}, []):
            continue
        option = f"--{name.replace('_', '-')}"
        write = _last_part if item.type is Path or name in ("model", "ood") else str
        if isinstance(value, bool):
            words.append(option if value else f"--no-{option.removeprefix('--')}")
        elif name == "peft_config":
            words += [option, PEFT_FILE]  # which the run's folder has
        elif isinstance(value, Mapping):
            for part, inner in value.items():
                words += [option, f"{part}={write(inner)}"]
        elif isinstance(value, list | tuple):
            words += [option, ",".join(map(str, value))]
        else:
            # A search finds rates of many digits.
            words += [option, write(value).removesuffix(".0" if isinstance(value, float) else "")]
    return shlex.join(words)


def _last_part(value: object) -> str:
    path = PurePath(str(value))
    return path.name if path.is_absolute() else str(value)


def make_config(values: Mapping[str, Any], output_dir: Path | None = None) -> RunConfig:
    """A resolved configuration from settings by name; what is not named takes its default.

    Values may be text, as on a command line, or typed, as in YAML. The output folder is
    ``runs/<data>-<model>-<method>-seed<seed>`` where none is named.

    Raises:
        InputError: an unknown name, a value of a wrong type or out of range, settings that
            contradict each other, or no data named.
    """
    _check_names(values)
    SelectionSettings.read_own(values).refuse("a single run")
    training = TrainingSettings.read_own(values)
    data = _data_settings(values)
    training = _resolved(data, training)
    output = OutputSettings.read_own(values)
    _check_checkpoints(output, [training.method])
    if output_dir is None:
        method_and_seed = f"{training.method}-seed{training.seed}"
        output_dir = Path("runs") / f"{_data_and_model(data, training)}-{method_and_seed}"
    return RunConfig(data, training, output, output_dir)


def _check_checkpoints(output: OutputSettings, methods: Sequence[str]) -> None:
    """Refuse to keep checkpoints where nothing would have any, or could use them.

    Raises:
        InputError: no method fine-tunes the head, or the model is not saved.
    """
    if not output.keep_checkpoints:
        return
    if not any(_keeps_checkpoints(method) for method in methods):
        raise InputError(
            f"{named('keep_checkpoints')} has no effect with {named('method')} "
            f"{', '.join(methods)}, which has no epochs of fine-tuning: leave it out or choose "
            "another method"
        )
    if not output.save_model:
        raise InputError(
            f"{named('keep_checkpoints')} and {named('save_model=False')} exclude each other: "
            "checkpoints have only what trains, so leave one of them out"
        )


def _keeps_checkpoints(method: str) -> bool:
    return METHODS[method].takes(OutputSettings.fields()["keep_checkpoints"])


@dataclass(frozen=True)
class SelectionConfig:
    """Several runs on the same data, of which one is kept in ``output_dir``.

    ``training`` is as asked: its method may be ``auto``, and None stands for each method's default.
    """

    data: DataSettings
    training: TrainingSettings
    output: OutputSettings
    selection: SelectionSettings
    output_dir: Path

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that may be trained, in this order."""
        last = self.selection.stop_after
        if self.training.method != AUTO:
            return (self.training.method,)
        return AUTO_METHODS[: None if last is None else AUTO_METHODS.index(last) + 1]

    @property
    def seeds(self) -> tuple[int, ...]:
        first = self.training.seed
        return tuple(range(first, first + self.selection.seeds))

    def flat(self) -> dict[str, Any]:
        """All settings by name, ready for JSON; the output folder is left out."""
        models = (self.data, self.training, self.output, self.selection)
        return {name: value for model in models for name, value in model.flat().items()}

    def run(self, name: str, method: str, **changes: Any) -> RunConfig:
        """The run in ``candidates/<name>``, with those of the settings that its method takes."""
        training = training_of(self.training, method, **changes)
        folder = self.output_dir / CANDIDATES / name
        keeps = self.output.keep_checkpoints and _keeps_checkpoints(method)
        output = self.output.model_copy(update={"keep_checkpoints": keeps})
        return RunConfig(self.data, _resolved(self.data, training), output, folder)


CANDIDATES = "candidates"
"""The folder of the runs from which the one above it was chosen."""


def training_of(training: TrainingSettings, method: str, **changes: Any) -> TrainingSettings:
    """The settings that apply to one of several methods, not yet resolved."""
    values = {
        name: getattr(training, name)
        for name, item in TrainingSettings.fields().items()
        if METHODS[method].takes(item)
    }
    return TrainingSettings.read(values | changes | {"method": method})


def make_selection(
    values: Mapping[str, Any], output_dir: Path | None = None
) -> SelectionConfig | None:
    """Several runs from settings by name, or None where they describe a single one.

    Raises:
        InputError: as :func:`make_config`, or a setting has no effect with any of the methods.
    """
    _check_names(values)
    selection = SelectionSettings.read_own(values)
    training = TrainingSettings.read_own(values)
    auto = training.method == AUTO
    if selection.stop_after is not None and not auto:
        raise InputError(
            f"{named('stop_after')} has no effect with {named('method')} {training.method}: it is "
            f"for {named('method')} auto"
        )
    if not auto and selection.seeds == 1 and selection.tune == 0:
        return None
    if selection.tune > 0 and training.method == "lp":
        raise InputError(
            f"{named('tune')} has no effect with {named('method')} lp, which has no learning rate: "
            "leave it out or choose another method"
        )
    if selection.tune > 0 and not auto and all(getattr(training, name) for name in SEARCHED):
        raise InputError(
            f"{named('tune')} has nothing to search: {' and '.join(map(named, SEARCHED))} are "
            "given; leave out one of them"
        )
    data = _data_settings(values)
    config = SelectionConfig(
        data, _local_model(training), OutputSettings.read_own(values), selection, Path()
    )
    check_effective(training, config.methods)
    _check_checkpoints(config.output, config.methods)
    if output_dir is None:
        end = "-tuned" if selection.tune > 0 else ""
        end = f"-{selection.seeds}seeds" if selection.seeds > 1 else end
        kind = f"{training.method}-seed{training.seed}{end}"
        output_dir = Path("runs") / f"{_data_and_model(data, training)}-{kind}"
    config = replace(config, output_dir=output_dir)
    for method in config.methods:
        for seed in {config.seeds[0], config.seeds[-1]}:
            config.run(method, method, seed=seed)  # refuse now what a later run would refuse
    return config


def check_effective(training: TrainingSettings, methods: Sequence[str]) -> None:
    """Refuse a setting that none of the methods takes.

    Raises:
        InputError: there is one.
    """
    for name, item in TrainingSettings.fields().items():
        if getattr(training, name) != item.default and not any(
            METHODS[method].takes(item) for method in methods
        ):
            raise InputError(
                f"{named(name)} has no effect with {', '.join(methods)}, and no other method would "
                "be trained: leave it out"
            )


def _check_names(values: Mapping[str, Any]) -> None:
    settings = command_settings("train")
    for name in values:
        if name not in settings:
            raise unknown_setting(name, settings)


def _data_settings(values: Mapping[str, Any]) -> DataSettings:
    data = DataSettings.read_own(values)
    if data.split_protocol is None:
        protocol = "stratified" if data.task is None else "paper"
        data = data.model_copy(update={"split_protocol": protocol})
    return data


def _resolved(data: DataSettings, training: TrainingSettings) -> TrainingSettings:
    """The settings with every default of the task, the method and the data filled in."""
    published: dict[str, Any] = {}
    if data.split_protocol == "paper":
        known = None if data.task is None else published_hyperparameters(data.task, training.method)
        published = {"max_length": MAX_LENGTH, "probe_scoring": PROBE_SCORING}
        published |= {} if known is None else known
    resolved = _local_model(resolve(training, published))
    fine_tunes = METHODS[training.method].fine_tunes
    if data.split_protocol == "paper" and fine_tunes and training.precision == "auto":
        return resolved.model_copy(update={"precision": PRECISION})
    return resolved


def _local_model(training: TrainingSettings) -> TrainingSettings:
    """The settings with the absolute path of a model folder."""
    if Path(training.model).is_dir():
        return training.model_copy(update={"model": str(Path(training.model).resolve())})
    return training


def _data_and_model(data: DataSettings, training: TrainingSettings) -> str:
    """The names of data and model, with which folder names begin."""
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
    def needs_validation(self) -> bool:
        """Whether kernel regression chooses a strength on validation texts."""
        return self.regression.needs_validation(self.kernels.solver)

    def flat(self) -> dict[str, Any]:
        """All settings by name, ready for JSON."""
        values = self.run.flat() | self.kernels.flat() | self.regression.flat()
        return {name: values[name] for name in command_settings("ntk")}


def make_kernel_config(values: Mapping[str, Any], output_dir: Path | None = None) -> KernelConfig:
    """A resolved configuration from settings by name.

    Raises:
        InputError: as :func:`make_config`, an unknown method, solver or part, or an option of
            kernel regression that no chosen solver takes.
    """
    kernels = KernelSettings.read_own(values)
    regression = RegressionSettings.read_own(values)
    regression.check(kernels.solver, kernels.kernel)
    kernel_fields = KernelSettings.fields() | RegressionSettings.fields()
    run_values = {name: value for name, value in values.items() if name not in kernel_fields}
    # The settings of every method's start at once: a scaled head, and an adapter's factors.
    content = read_peft_config(run_values.pop("peft_config", None))
    length = run_values.pop("prefix_length", None)
    word_names = run_values.keys() & {"label_words", "first_token"}
    words = {name: run_values.pop(name) for name in word_names}
    run = make_config({**run_values, "method": "lp-lora"})
    prefixes = any(METHODS[name].trained == "prefix" for name in kernels.methods)
    if length is not None and not prefixes:
        raise InputError(
            f"{named('prefix_length')} has no effect on the kernels of "
            f"{', '.join(kernels.methods)}: leave it out, or add prefix or lp-prefix"
        )
    prefix = resolve(TrainingSettings(method="prefix", prefix_length=length)).prefix_length
    changes = {"peft_config": content, "prefix_length": prefix if prefixes else None}
    changes |= _label_words(words, kernels.methods, run.training)
    run = replace(run, training=run.training.model_copy(update=changes))
    peft = [name for name in kernels.methods if METHODS[name].trained == "peft"]
    if peft and content is None:
        raise InputError(f"{named('methods')} {peft[0]} needs {named('peft_config')}: give a file")
    if content is not None and not peft:
        raise InputError(
            f"{named('peft_config')} has no effect on the kernels of {', '.join(kernels.methods)}: "
            "leave it out, or add peft or lp-peft"
        )
    if output_dir is None:
        name = f"{_data_and_model(run.data, run.training)}-seed{run.training.seed}"
        output_dir = Path("kernels") / name
    return KernelConfig(run, kernels, regression, output_dir)


def _label_words(
    values: Mapping[str, Any], methods: Sequence[str], training: TrainingSettings
) -> dict[str, Any]:
    """The settings of a head that starts at label words, for kernels of several methods.

    Raises:
        InputError: a method needs them and they are not there, or the other way round.
    """
    prompt = {"prompt": training.prompt, **values}
    for method in methods:
        if METHODS[method].head_start == "words":
            checked = resolve(TrainingSettings.read_own(prompt | {"method": method}))
            return {name: getattr(checked, name) for name in ("label_words", "first_token")}
    for name, value in values.items():
        if value != TrainingSettings.fields()[name].default:
            raise InputError(
                f"{named(name)} has no effect on the kernels of {', '.join(methods)}: leave it "
                "out, or add prompt-ft or another method that starts at label words"
            )
    return {}


def command_settings(command: str, *models: type[Settings]) -> dict[str, Setting]:
    """The settings that a command takes, by name: all of them, or those of ``models``."""
    return {
        name: item
        for model in models or (*_MODELS, *_COMMAND_MODELS)
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
    recorded: Mapping[str, Any], requested: Mapping[str, Any], what: Decides
) -> dict[str, tuple[Any, Any]]:
    """The deciding settings that differ: their recorded and requested values.

    A record that is older than a setting counts as one with its default, or with what the setting
    says that such records stand for.
    """
    fields = {name: item for model in _MODELS for name, item in model.fields().items()}
    differing = {}
    for name in deciding(what):
        filled_later = fields[name].set_by_model or fields[name].set_by_data
        if name not in requested or (requested[name] is None and filled_later):
            continue
        if requested[name] is not None and requested[name] == fields[name].placeholder:
            continue
        if name not in recorded and requested[name] == fields[name].in_old_records:
            continue
        before = recorded.get(name, fields[name].default)
        if before != requested[name]:
            differing[name] = (before, requested[name])
    return differing


class _Loader(yaml.SafeLoader):
    """YAML in which a name that stands twice is an error: PyYAML takes its last value."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> Any:
    names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise yaml.constructor.ConstructorError(
            None, None, f"'{twice[0]}' stands there twice: name it once", None
        )
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_config(path: Path) -> dict[str, Any]:
    """The settings that a YAML file names.

    Dashes and underscores in names are the same, and ``no-head-bias: true`` is
    ``head-bias: false``.

    Raises:
        InputError: the file is missing, no YAML, no mapping, or names what is no setting.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_Loader)
    except FileNotFoundError as error:
        raise InputError(
            f"the configuration file '{path}' does not exist: expected a YAML file"
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else one_line(error)
        if isinstance(error, UnicodeDecodeError):
            reason = "it is not UTF-8"
        raise InputError(
            f"the configuration file '{path}' cannot be read ({reason}): expected YAML lines such "
            "as 'method: lp-ft'"
        ) from error
    if not isinstance(values, dict):
        raise InputError(f"'{path}' must hold 'name: value' lines, such as 'method: lp-ft'")
    settings = {str(name).replace("-", "_"): value for name, value in values.items()}
    if len(settings) < len(values):
        spelled = [str(name).replace("-", "_") for name in values]
        twice = next(name for name in settings if spelled.count(name) > 1)
        raise InputError(f"'{path}' names {twice} twice, with '-' and with '_': name it once")
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
    """``experiments/<name>-<model>``, or ``<name>-tiny`` for a tiny experiment without a model."""
    if model is None:
        model = "tiny" if tiny else MODEL
    return Path("experiments") / f"{name}-{model.rstrip('/').rpartition('/')[2]}"
