"""Sentences on how an experiment differs from the paper's, computed from its plan and its data."""

from collections.abc import Mapping
from typing import Any

from lpft import paper
from lpft.experiments.faults import reference_faults
from lpft.experiments.preparation import Inputs, run_configs, unique_runs
from lpft.experiments.recipe import Plan, Recipe, Scope
from lpft.report.numbers import counted, joined, rate, whole
from lpft.results.groups import method_name, metric_name, model_name
from lpft.results.pairing import SHARED
from lpft.settings import TrainingSettings, get_method

_PAPERS_OWN_NAMES = frozenset({paper.MODEL, "FacebookAI/roberta-base"})
_FIXED = {
    "pooling": ("first", "pooling: {}, in the paper the first token"),
    "epochs": (float(paper.EPOCHS), f"epochs: {{:g}}, in the paper {paper.EPOCHS}"),
    "max_length": (
        paper.MAX_LENGTH,
        f"texts are cut at {{}} tokens, in the paper {paper.MAX_LENGTH}",
    ),
    "weight_decay": (0.0, "weight decay {:g}, in the paper none"),
    "head_bias": (True, "the head has no bias, in the paper it has one"),
    "class_weight": (None, "classes are weighed ({}), in the paper they are not"),
    "template": (0, "input template {}, in the paper 0"),
    "precision": ("float32", "fine-tuning in {}, where float32 is this library's default"),
}
"""Settings that the paper has one value of, with what to say of another one."""

_FACTORS = {"lora_rank": "LoRA rank", "lora_alpha": "LoRA alpha"}
_RATES = {"learning_rate": "learning rate", "batch_size": "batch size", **_FACTORS}


def differences(recipe: Recipe, plan: Plan, inputs: Inputs, scope: Scope) -> tuple[str, ...]:
    """Model, seeds, tasks, rows and settings other than the paper's; faults not repeated."""
    sentences = [
        *_model(scope.model),
        *_seeds(scope.seeds, plan),
        *_left_out("tasks", recipe.tasks, scope.tasks),
        *_left_out("methods", recipe.methods, scope.methods),
        *_protocol(plan),
        *_best_epochs(plan, inputs),
        *_fixed_settings(plan, inputs),
        *_hyperparameters(plan),
        *_rows(plan, inputs),
        *_kernel_samples(plan, scope.kernel_samples),
        *recipe.limits,
    ]
    known = reference_faults(plan, inputs)
    return tuple(dict.fromkeys([*sentences, *(f"Not repeated: {fault}" for fault in known)]))


def _model(model: str) -> list[str]:
    if model in _PAPERS_OWN_NAMES:
        return []
    return [
        f"The model is {model_name(model)}; the published numbers are of {paper.MODEL} and cannot "
        "be met by another."
    ]


def _seeds(asked: tuple[int, ...], plan: Plan) -> list[str]:
    told = []
    if len(asked) != paper.SEEDS:
        told.append(f"{counted(len(asked), 'seed').capitalize()}, in the paper {paper.SEEDS}.")
    planned = {run.seed for run in plan.runs} | {kernels.seed for kernels in plan.kernels}
    used = [str(seed) for seed in asked if seed in planned]
    if len(used) < len(asked):
        told.append(
            f"Of the seeds {joined(list(map(str, asked)))} only {joined(used)} {_are(used)} used."
        )
    return told


def _left_out(what: str, published: tuple[str, ...], chosen: tuple[str, ...]) -> list[str]:
    missing = [name for name in published if name not in chosen]
    added = [name for name in chosen if name not in published]
    sentences = []
    if missing:
        sentences.append(f"Of the paper's {what} {joined(missing)} {_are(missing)} left out.")
    if added:
        sentences.append(f"The paper's experiment does not have the {what} {joined(added)}.")
    return sentences


def _are(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _protocol(plan: Plan) -> list[str]:
    protocols = {config.data.split_protocol for config in run_configs(plan)}
    if protocols <= {"paper"}:
        return []
    return [
        "Validation rows are a tenth of each class (stratified protocol), in the paper the last "
        "tenth of the training rows; learning rates and batch sizes are this library's defaults "
        "unless they were given."
    ]


def _best_epochs(plan: Plan, inputs: Inputs) -> list[str]:
    """Tasks whose best epoch another metric than accuracy chooses."""
    by_metric: dict[str, dict[str, None]] = {}
    for config in unique_runs(plan):
        metric = inputs.data(config).metric
        if metric != "accuracy" and get_method(config.training.method).fine_tunes:
            by_metric.setdefault(metric, {}).setdefault(str(config.data.task))
    return [
        f"The best epoch on {joined(list(tasks))} is the one of the highest {metric_name(metric)} "
        "on validation, in the paper of the highest accuracy."
        for metric, tasks in by_metric.items()
    ]


def _fixed_settings(plan: Plan, inputs: Inputs) -> list[str]:
    found: dict[str, dict[Any, None]] = {name: {} for name in _FIXED}
    for config in unique_runs(plan):
        settings = config.flat() | {"pooling": inputs.pooling(config)}
        for name in _FIXED:
            found[name].setdefault(settings[name])
    for planned in plan.kernels:
        settings = planned.config.flat() | {"pooling": inputs.pooling(planned.config.run)}
        for name in _FIXED.keys() & settings.keys():
            found[name].setdefault(settings[name])
    sentences = []
    for name, (published, text) in _FIXED.items():
        for value in found[name]:
            if value is not None and value != published:
                sentence = text.format(value)
                sentences.append(f"{sentence[0].upper()}{sentence[1:]}.")
    return sentences


def _hyperparameters(plan: Plan) -> list[str]:
    """Learning rate, batch size, rank and alpha at each method's own rates, where not published."""
    told: dict[str, list[str]] = {}
    unpublished: dict[str, None] = {}
    for (task, method), (settings, names) in _chosen(plan).items():
        published = paper.published_hyperparameters(task, method)
        if published is None:
            if "learning_rate" in names and settings.learning_rate is not None:
                unpublished.setdefault(task)
            continue
        where = f"{method_name(method)} on {task}"
        for name, words in names.items():
            value = getattr(settings, name)
            if value is not None and name in published and value != published[name]:
                words = f"{words} {_short(name, value)}"
                told.setdefault(words, []).append(f"{where} ({_short(name, published[name])})")
    sentences = [
        f"{words[0].upper()}{words[1:]} where the paper has its own: {joined(cases)}."
        for words, cases in told.items()
    ]
    if unpublished:
        sentences.append(
            f"The paper has no learning rate and batch size for {joined(list(unpublished))}: these "
            "are this library's defaults, or what was given."
        )
    return sentences


def _chosen(plan: Plan) -> dict[tuple[str, str], tuple[TrainingSettings, Mapping[str, str]]]:
    """By task and method the settings at its own rates, and which of :data:`_RATES` they decide."""
    chosen: dict[tuple[str, str], tuple[TrainingSettings, Mapping[str, str]]] = {}
    for run in plan.runs:
        if run.variant != SHARED:
            chosen.setdefault((run.task, run.method), (run.config.training, _RATES))
    for planned in plan.kernels:
        for method in planned.config.kernels.methods:
            settings = planned.config.run.training
            chosen.setdefault((planned.task, method), (settings, _FACTORS))
    return chosen


def _short(name: str, value: float) -> str:
    return rate(value) if name == "learning_rate" else f"{value:g}"


def _rows(plan: Plan, inputs: Inputs) -> list[str]:
    """Rows of each split beside the published counts where these differ, and the data's notes."""
    sentences: dict[str, None] = {}
    for config in run_configs(plan):
        data, task = inputs.data(config), config.data.task
        assert task is not None, "experiments are of tasks"
        counts = {split: len(examples) for split, examples in data.splits().items()}
        size = paper.published_size(task)
        if size is None:
            sentences.setdefault(f"The paper has no results on {task}.")
        else:
            differing = _differing(counts, size)
            if differing:
                sentences.setdefault(f"{task}: {differing}.")
        for split in counts:
            ood = split.removeprefix("ood/")
            size = paper.published_size(ood) if ood != split else None
            if size is not None and size.test is not None and size.test != counts[split]:
                sentences.setdefault(
                    f"{ood}: {whole(counts[split])} rows, the paper counts {whole(size.test)}."
                )
        for note in data.notes:
            sentences.setdefault(f"{task}: {note}.")
    return list(sentences)


def _differing(counts: Mapping[str, int], size: paper.DatasetSize) -> str:
    published = {"train": size.train, "validation": size.validation, "test": size.test}
    unit = "" if size.unit == "rows" else f" {size.unit}"
    parts = [
        f"{whole(counts[split])} {split} rows, the paper counts {whole(known)}{unit}"
        for split, known in published.items()
        if split in counts and known is not None and counts[split] != known
    ]
    return "; ".join(parts)


def _kernel_samples(plan: Plan, samples: int) -> list[str]:
    if not plan.kernels or samples == paper.KERNEL_SAMPLES:
        return []
    return [
        f"Kernels of {samples} texts at most of each split, in the paper {paper.KERNEL_SAMPLES}."
    ]
