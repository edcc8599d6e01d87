"""Order runs for comparison: groups of one data set and model, settings within, seeds within."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import Any

import numpy as np

from lpft.results.folder import UnreadFolder
from lpft.results.formats import rate, slug
from lpft.results.run import Run
from lpft.results.schema import number, plain
from lpft.settings import unused_settings
from lpft.settings.configs import CANDIDATES, deciding
from lpft.settings.fields import Decides
from lpft.settings.methods import METHODS

METHOD_NAMES = {
    "lp": "LP",
    "ft": "FT",
    "lp-ft": "LP-FT",
    "lora": "LoRA",
    "lp-lora": "LP-LoRA",
    "dora": "DoRA",
    "lp-dora": "LP-DoRA",
    "bitfit": "BitFit",
    "lp-bitfit": "LP-BitFit",
    "ia3": "IA3",
    "lp-ia3": "LP-IA3",
    "prefix": "Prefix",
    "lp-prefix": "LP-Prefix",
    "peft": "PEFT",
    "lp-peft": "LP-PEFT",
    "contrastive": "Contrastive",
    "prompt": "Prompt",
    "prompt-ft": "Prompt-FT",
    "prompt-lora": "Prompt-LoRA",
    "prompt-bitfit": "Prompt-BitFit",
}

_ROUNDINGS = 8
"""By how many units in the last place equal values may differ."""

Selector = Callable[[Run], float | None]
"""One number of a run, to be averaged over seeds."""

RATE_KEYS = ("learning_rate", "batch_size")
_GROUP_KEYS = frozenset({"model", "pooling", "split_protocol", "task", "train_file"})
_TRAINED_ON = ("data/train", "data/validation")


def method_name(method: str) -> str:
    """A method as the paper writes it; one that the paper does not have keeps its own name."""
    return METHOD_NAMES.get(method, method)


def method_rank(method: str) -> tuple[int, str]:
    """The order of methods everywhere: the paper's five, then others by name."""
    known = list(METHOD_NAMES)
    return (known.index(method) if method in known else len(known), method)


def setting_of(run: Run, without: Collection[str] = ()) -> dict[str, Any]:
    """The settings that decide a run's result, apart from the seed and those in ``without``.

    Data and weights count by their fingerprints where these were recorded (the encoder's is that of
    the group), and settings that the method does not take do not count.
    """
    prints = run.fingerprints
    fingerprinted = {"data/train", "encoder"} <= prints.keys()
    decisive = set(deciding(Decides.RUN, inputs=not fingerprinted)) - {"seed", *without}
    if run.method in METHODS:
        decisive -= set(unused_settings(run.method))
    setting = {name: value for name, value in run.config.items() if name in decisive}
    trained_on = [prints[name][:7] for name in _TRAINED_ON if name in prints]
    return setting | ({"training data": " ".join(trained_on)} if trained_on else {})


def key_of(setting: dict[str, Any]) -> str:
    """A setting as one comparable string."""
    return json.dumps(setting, sort_keys=True, default=str)


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over seeds of one quantity.

    ``sd`` is the sample standard deviation (n - 1), 0 of values that differ by rounding alone, and
    None for fewer than two seeds.
    """

    mean: float
    sd: float | None
    count: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Spread | None":
        """The spread of the values that are there, or None where none is."""
        known = [value for value in values if value is not None]
        if not known:
            return None
        sd = None
        if len(known) > 1:
            rounding = _ROUNDINGS * np.finfo(float).eps * np.max(np.abs(known))
            sd = float(np.std(known, ddof=1)) if np.ptp(known) > rounding else 0.0
        return cls(float(np.mean(known)), sd, len(known))


@dataclass(frozen=True)
class Setting:
    """One method with everything fixed but the seed; ``runs`` has one run per seed.

    Not to be confused with :class:`lpft.settings.fields.Setting`, a single option.

    ``label`` tells it from all others of its group, ``name`` from those with other options than
    learning rate and batch size, for tables that have columns for these.
    """

    label: str
    name: str
    slug: str
    method: str
    position: int  # among the settings of its method in the group
    runs: tuple[Run, ...]

    @property
    def first(self) -> Run:
        return self.runs[0]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.seed for run in self.runs)

    @property
    def folders(self) -> tuple[str, ...]:
        """The absolute folders of its runs."""
        return tuple(str(run.folder.resolve()) for run in self.runs)

    def rows(self, split: str) -> int | None:
        """How many rows of known classes a split has; None where no run was evaluated on it."""
        counts = (
            len(r.predictions[split].known().labels) for r in self.runs if split in r.predictions
        )
        return next(counts, None)

    def spread(self, value: Callable[[Run], float | None]) -> Spread | None:
        """Mean and standard deviation of a run's value over the seeds."""
        return Spread.of(value(run) for run in self.runs)


@dataclass(frozen=True)
class Group:
    """All settings of one data set, model, pooling and split protocol.

    ``remark`` tells groups apart whose names are the same and whose data or weights are not.
    """

    slug: str
    data: str
    model: str
    pooling: str
    protocol: str
    settings: tuple[Setting, ...]
    remark: str = ""

    @property
    def title(self) -> str:
        parts = [self.data, self.model, f"{self.pooling} pooling", f"{self.protocol} split"]
        return " · ".join([*parts, self.remark] if self.remark else parts)

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        return tuple(run for setting in self.settings for run in setting.runs)

    @cached_property
    def splits(self) -> tuple[str, ...]:
        """Every evaluated split: validation, test, then the OOD sets in the runs' order."""
        splits = dict.fromkeys(split for run in self.runs for split in run.metrics)
        return tuple(sorted(splits, key=lambda split: split.startswith("ood/")))

    @property
    def ood_splits(self) -> tuple[str, ...]:
        return tuple(split for split in self.splits if split.startswith("ood/"))

    @cached_property
    def id_split(self) -> str:
        """The in-distribution set that methods are judged on: test, or validation without one."""
        tested = all("test" in run.metrics for run in self.runs)
        return "test" if tested or "validation" not in self.splits else "validation"

    @cached_property
    def feature_split(self) -> str:
        """The split whose feature change is shown: test where all runs have it, else train."""
        tested = all(run.feature("test", "feature_difference") is not None for run in self.runs)
        return "test" if tested else "train"

    @property
    def metric(self) -> str:
        return self.runs[0].metric

    @cached_property
    def chosen_run(self) -> Run | None:
        """The run that ``lpft train`` chose, where the runs are its candidates and no others."""
        parents = {run.folder.resolve().parent for run in self.runs}
        selection = self.runs[0].selection
        if len(parents) > 1 or selection is None:
            return None
        chosen = (r for r in self.runs if selection.chosen == f"{CANDIDATES}/{r.folder.name}")
        return next(chosen, None)


def group_runs(runs: Iterable[Run]) -> tuple[tuple[Group, ...], tuple[UnreadFolder, ...]]:
    """Groups in the order of their titles, and runs that repeat a setting and seed.

    Runs of one group were tested on the same texts, by fingerprint where there is one. A repeated
    seed is not one more seed: it would make a standard deviation look smaller.
    """
    grouped: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in runs:
        grouped[_key_of_group(run)].append(run)
    names = {key: _names(members[0]) for key, members in grouped.items()}
    times = Counter(names.values())

    groups: list[Group] = []
    repeated: list[UnreadFolder] = []
    slugs: set[str] = set()
    for key in sorted(grouped, key=lambda key: (names[key], key)):
        settings, repeats = _settings_of(grouped[key])
        repeated.extend(repeats)
        remark = _remark(grouped[key][0]) if times[names[key]] > 1 else ""
        group_slug = slug(" ".join([*names[key], remark]), slugs)
        groups.append(Group(group_slug, *names[key], settings, remark))
    return tuple(groups), tuple(repeated)


def _names(run: Run) -> tuple[str, str, str, str]:
    pooling, protocol = (
        plain(run.config.get(key, "default")) for key in ("pooling", "split_protocol")
    )
    return run.data.name, model_name(run.model), pooling, protocol


def _key_of_group(run: Run) -> tuple[str, ...]:
    """What makes runs belong to one group."""
    data, _, pooling, protocol = _names(run)
    model = run.fingerprints.get("encoder", run.model)
    train_file = plain(run.config.get("train_file"))
    tested_on = [run.fingerprints.get(f"data/{split}") for split in ("test", "validation")]
    texts = next((text for text in tested_on if text is not None), train_file)
    return data, model, pooling, protocol, texts


def _remark(run: Run) -> str:
    """The beginning of the fingerprints, or the training file's name where there are none."""
    if not run.fingerprints:
        return model_name(plain(run.config.get("train_file")))
    *_, texts = _key_of_group(run)
    encoder = run.fingerprints.get("encoder", "")
    return f"texts {texts[:7]}, encoder {encoder[:7]}"


def model_name(model: str) -> str:
    """A Hub id as it is; of a folder on someone's machine only its last part."""
    local = PurePath(model).is_absolute() or model.startswith((".", "~")) or "\\" in model
    return PurePath(model.replace("\\", "/")).name if local else model


def _settings_of(runs: Sequence[Run]) -> tuple[tuple[Setting, ...], list[UnreadFolder]]:
    """Runs by setting and seed, methods in their order, and those that repeat a seed."""
    by_method: dict[str, dict[str, dict[int, Run]]] = defaultdict(lambda: defaultdict(dict))
    repeated = []
    for run in sorted(runs, key=lambda run: (method_rank(run.method), run.name)):
        seeds = by_method[run.method][key_of(setting_of(run))]
        if seeds.setdefault(run.seed, run) is not run:
            reason = f"same setting and seed as {seeds[run.seed].name}; not counted twice"
            repeated.append(UnreadFolder(run.folder, run.name, "repeated", reason))

    settings: list[Setting] = []
    slugs: set[str] = set()
    for method, variants in by_method.items():
        ordered = [tuple(seeds[seed] for seed in sorted(seeds)) for seeds in variants.values()]
        values = [setting_of(members[0]) for members in ordered]
        differing = _differing(values)
        for position, (members, setting) in enumerate(zip(ordered, values, strict=True)):
            label = _label(method, setting, differing)
            name = _label(method, setting, [key for key in differing if key not in RATE_KEYS])
            settings.append(Setting(label, name, slug(label, slugs), method, position, members))
    return tuple(settings), repeated


def _differing(settings: Sequence[dict[str, Any]]) -> list[str]:
    keys = dict.fromkeys([*RATE_KEYS, *(key for setting in settings for key in setting)])
    return [
        key
        for key in keys
        if key not in _GROUP_KEYS and len({key_of({"": one.get(key)}) for one in settings}) > 1
    ]


def _label(method: str, setting: dict[str, Any], differing: Sequence[str]) -> str:
    parts = []
    for key in differing:
        value, words = setting.get(key), key.replace("_", " ")
        if key == "learning_rate":
            parts.append(f"rate {rate(number(value))}")
        elif value is None:
            parts.append(f"no {words}")
        elif isinstance(value, Mapping):
            inner = [f"{name.replace('_', ' ')} {one}" for name, one in value.items()]
            parts.append(f"{words} {', '.join(inner)}")
        else:
            parts.append(f"{'batch' if key == 'batch_size' else words} {value}")
    name = method_name(method)
    return plain(f"{name} ({', '.join(parts)})" if parts else name)


def score(split: str, metric: str, calibrated: bool = False) -> Selector:
    """Selects a metric of a split, with temperature where ``calibrated``."""
    return lambda run: run.score(split, metric, calibrated=calibrated)


def feature(split: str, statistic: str, pretrained: bool = False) -> Selector:
    """Selects a statistic of a split's features, of the pre-trained ones where asked for."""
    return lambda run: run.feature(split, statistic, pretrained=pretrained)


def head(statistic: str) -> Selector:
    """Selects a norm of the head."""
    return lambda run: run.head_norm(statistic)
