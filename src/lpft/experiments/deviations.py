"""Sentences that say how an experiment differs from the paper's, from its plan and its data.

They include bugs of the reference implementation that affect the published numbers and that we do
not repeat.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lpft import paper
from lpft.analysis.metrics import metric_name
from lpft.experiments.catalogue import Entry
from lpft.experiments.plan import Plan, Recipe, Scope
from lpft.experiments.prepare import Inputs
from lpft.paper import ATTENTION, FOLDS, HALVED, kernel_bugs
from lpft.results.formats import counted, joined, rate, whole
from lpft.results.groups import method_name, model_name
from lpft.results.pairing import LP_START, RANDOM_START, TUNED
from lpft.settings import TrainingSettings
from lpft.settings.configs import RunConfig
from lpft.settings.methods import get_method

_PAPERS_OWN_NAMES = frozenset({paper.MODEL, "FacebookAI/roberta-base"})
_FIXED = {
    "pooling": ("first", "Pooling: {}; the paper uses the first token."),
    "epochs": (float(paper.EPOCHS), f"Epochs: {{:g}}; the paper has {paper.EPOCHS}."),
    "max_length": (
        paper.MAX_LENGTH,
        f"Texts are cut at {{}} tokens; the paper cuts at {paper.MAX_LENGTH}.",
    ),
    "weight_decay": (0.0, "Weight decay: {:g}; the paper uses none."),
    "head_bias": (True, "The head has no bias; the paper's has one."),
    "probe_scoring": (
        paper.PROBE_SCORING,
        f"The strength of linear probing is chosen by {{}}; the paper's by {paper.PROBE_SCORING}.",
    ),
    "class_weight": (None, "Classes are weighted ({}), in the paper they are not."),
    "template": (0, "Input template {}; the paper uses 0."),
    "precision": ("float32", "Fine-tuning is in {}; the default is float32."),
}
"""Settings that have one value in the paper, with the sentence for another value."""

_FACTORS = {"lora_rank": "LoRA rank", "lora_alpha": "LoRA alpha"}
_RATES = {"learning_rate": "Learning rate", "batch_size": "Batch size", **_FACTORS}


def deviations_from_paper(
    recipe: Recipe, plan: Plan, inputs: Inputs, scope: Scope
) -> tuple[str, ...]:
    """Model, seeds, tasks, rows and settings that differ; bugs that are not repeated."""
    sentences = [
        *_scope(recipe.entry, plan, scope),
        *_best_epochs(plan, inputs),
        *_fixed_settings(plan, inputs),
        *_hyperparameters(plan),
        *_rows(plan, inputs),
        *recipe.limits,
        *(f"Not repeated: {bug}" for bug in reference_bugs(plan, inputs)),
    ]
    return tuple(dict.fromkeys(sentences))


def _scope(entry: Entry, plan: Plan, scope: Scope) -> Iterator[str]:
    """What another model, seeds, tasks, methods, protocol or number of texts stand for."""
    if scope.model not in _PAPERS_OWN_NAMES:
        yield (
            f"The model is {model_name(scope.model)}; the published numbers are for {paper.MODEL}, "
            "and another model need not reproduce them."
        )
    seeds = scope.seeds
    planned = {key.seed for key in plan.runs} | {key.seed for key in plan.kernels}
    if len(seeds) != paper.SEEDS:
        yield f"{counted(len(seeds), 'seed').capitalize()}; the paper has {paper.SEEDS}."
    used = [str(seed) for seed in seeds if seed in planned]
    if len(used) < len(seeds):
        yield f"Of the seeds {joined(map(str, seeds))} only {joined(used)} {_are(used)} used."
    for what, published, chosen in (
        ("tasks", entry.tasks, scope.tasks),
        ("methods", entry.methods, scope.methods),
    ):
        missing = [name for name in published if name not in chosen]
        added = [name for name in chosen if name not in published]
        if missing:
            yield f"Of the paper's {what} {joined(missing)} {_are(missing)} left out."
        if added:
            yield f"The paper's experiment does not have the {what} {joined(added)}."
    if any(config.data.split_protocol != "paper" for config in plan.input_configs):
        yield (
            "Validation rows are a tenth of each class (stratified protocol); the paper takes the "
            "last tenth of the training rows. Learning rates and batch sizes are this library's "
            "defaults unless you set them."
        )
    if plan.kernels and scope.kernel_samples != paper.KERNEL_SAMPLES:
        yield (
            f"Kernels use at most {scope.kernel_samples} texts of each split; the paper uses "
            f"{paper.KERNEL_SAMPLES}."
        )


def _are(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _best_epochs(plan: Plan, inputs: Inputs) -> list[str]:
    """Tasks whose best epoch is chosen by another metric than accuracy."""
    by_metric: dict[str, dict[str, None]] = {}
    for config in plan.run_configs:
        metric = inputs.data(config).metric
        if metric != "accuracy" and get_method(config.training.method).fine_tunes:
            by_metric.setdefault(metric, {}).setdefault(_task(config))
    return [
        f"The best epoch on {joined(tasks)} is the one with the highest "
        f"{metric_name(metric)} on validation; the paper takes the highest accuracy."
        for metric, tasks in by_metric.items()
    ]


def _fixed_settings(plan: Plan, inputs: Inputs) -> list[str]:
    planned = [(config.flat(), config) for config in plan.run_configs]
    planned += [(config.flat(), config.run) for config in plan.kernels.values()]
    values: dict[str, dict[Any, None]] = {name: {} for name in _FIXED}
    for settings, config in planned:
        settings["pooling"] = inputs.pooling(config)
        for name in _FIXED.keys() & settings.keys():
            values[name].setdefault(settings[name])
    return [
        sentence.format(value)
        for name, (published, sentence) in _FIXED.items()
        for value in values[name]
        if value is not None and value != published
    ]


def _hyperparameters(plan: Plan) -> Iterator[str]:
    """Learning rates, batch sizes, ranks and alphas that differ from the published ones."""
    differing: dict[str, list[str]] = {}
    unpublished: dict[str, None] = {}
    for (task, method), (settings, names) in _own_settings(plan).items():
        published = paper.published_hyperparameters(task, method)
        if published is None:
            if "learning_rate" in names and settings.learning_rate is not None:
                unpublished.setdefault(task)
            continue
        for name, words in names.items():
            value = getattr(settings, name)
            if value is not None and name in published and value != published[name]:
                cases = differing.setdefault(f"{words} {_short(name, value)}", [])
                own = _short(name, published[name])
                cases.append(f"{method_name(method)} on {task} ({own})")
    for setting, cases in differing.items():
        yield f"{setting} instead of the published one: {joined(cases)}."
    if unpublished:
        yield (
            f"The paper has no learning rate and batch size for {joined(unpublished)}: these "
            "are this library's defaults unless you set them."
        )


def _own_settings(plan: Plan) -> dict[tuple[str, str], tuple[TrainingSettings, Mapping[str, str]]]:
    """By task and method: its settings at own rates, and the ones of :data:`_RATES` it uses."""
    own: dict[tuple[str, str], tuple[TrainingSettings, Mapping[str, str]]] = {}
    for key, config in plan.runs.items():
        if key.variant not in (LP_START, RANDOM_START, TUNED):
            own.setdefault((key.task, key.method), (config.training, _RATES))
    for (task, _), kernels in plan.kernels.items():
        for method in kernels.kernels.methods:
            own.setdefault((task, method), (kernels.run.training, _FACTORS))
    return own


def _short(name: str, value: float) -> str:
    return rate(value) if name == "learning_rate" else f"{value:g}"


def _rows(plan: Plan, inputs: Inputs) -> Iterator[str]:
    """Numbers of rows that differ from the published counts, and the data's notes."""
    for config in plan.input_configs:
        data, task = inputs.data(config), _task(config)
        counts = {split: len(examples) for split, examples in data.splits().items()}
        size = paper.published_size(task)
        if size is None:
            yield f"The paper has no results on {task}."
        else:
            published = {"train": size.train, "validation": size.validation, "test": size.test}
            unit = "" if size.unit == "rows" else f" {size.unit}"
            differing = [
                f"{whole(counts[split])} {split} rows, the paper counts {whole(rows)}{unit}"
                for split, rows in published.items()
                if split in counts and rows is not None and counts[split] != rows
            ]
            if differing:
                yield f"{task}: {'; '.join(differing)}."
        for split in data.ood:
            size, rows = paper.published_size(split), counts[f"ood/{split}"]
            if size is not None and size.test is not None and size.test != rows:
                yield f"{split}: {whole(rows)} rows, the paper counts {whole(size.test)}."
        for note in data.notes:
            yield f"{task}: {note}."


def reference_bugs(plan: Plan, inputs: Inputs) -> Iterator[str]:
    """Bugs of the reference implementation that affect the published numbers of a plan.

    Tasks without published numbers are left out, but bugs in how the reference computes kernels are
    named for every kernel.
    """
    kernels = plan.kernels.values()
    parts = [(config, config.training.method, False) for config in plan.run_configs]
    parts += [(each.run, method, True) for each in kernels for method in each.kernels.methods]
    parts = [part for part in parts if paper.published_size(_task(part[0])) is not None]
    probed = [part for part in parts if _is_probed(part[1])]
    halved = [part for part in probed if len(inputs.data(part[0]).classes) == 2]
    if halved:
        yield HALVED
    yield from _quartered((config, method) for config, method, of_kernel in halved if of_kernel)
    if probed:
        yield FOLDS
    if any("gpt2" in config.training.model.lower() for config, *_ in parts):
        yield ATTENTION
    if kernels:
        yield from kernel_bugs({config.run.training.model for config in kernels})


def _quartered(halved: Iterable[tuple[RunConfig, str]]) -> Iterator[str]:
    """What a halved head makes of the published kernels: F = V J J^T V^T is quadratic in it."""
    kernels = list(halved)
    if kernels:
        tasks = joined(dict.fromkeys(_task(config) for config, _ in kernels))
        methods = joined(dict.fromkeys(method_name(method) for _, method in kernels))
        yield (
            f"With halved heads the reference's F of {methods} on {tasks} is a quarter of that of "
            "the fitted head: the published Frobenius norms of F and P + F and the published FT "
            "ratios of these are not comparable with ours."
        )


def _is_probed(method: str) -> bool:
    """Whether a method's head comes from linear probing."""
    settings = get_method(method)
    return settings.head_start == "lp" or not settings.fine_tunes


def _task(config: RunConfig) -> str:
    assert config.data.task is not None, "experiments are of tasks"
    return config.data.task
