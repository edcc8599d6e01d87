"""Commands that only show something: check examines data, the others list what lpft knows."""

from argparse import Namespace
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lpft.cli.console import parsed_settings, print_json, print_table
from lpft.errors import InputError
from lpft.settings import MINILM, Pooling
from lpft.settings.configs import make_config

if TYPE_CHECKING:
    from lpft.data import Task

_MANY_CLASSES = 10
"""More than these have a line each."""


def check(options: Namespace) -> None:
    """Print a check of data before training on it."""
    from lpft.data import check_data, load_data
    from lpft.data.lengths import check_lengths, describe_lengths, quick_counter, quick_length

    config = make_config(parsed_settings(options, "check"))
    settings = config.training
    data = load_data(config.data)
    findings = check_data(data)
    lengths, note = None, ""
    try:
        counter = quick_counter(settings.model, settings.revision)
    except InputError as error:
        if hasattr(options, "model") or options.label_errors:
            raise
        note = f"texts are not counted in tokens: {error}"
    else:
        most = quick_length(data, settings, counter)
        lengths = describe_lengths(data, counter, most)
        findings += check_lengths(data, counter, most)
    if options.label_errors:
        from lpft.training.label_errors import check_labels  # loads torch, as training does

        probable = check_labels(data, settings)
        findings += probable
        if not probable:
            note = (
                "no row is named for its label: none looks wrong to linear probes, or they read "
                "these texts too poorly to judge"
            )
    counts = {
        split: examples.class_counts(len(data.classes)) for split, examples in data.splits().items()
    }
    if options.json:
        print_json(
            {
                "name": data.name,
                "classes": list(data.classes),
                "rows": {split: len(examples) for split, examples in data.splits().items()},
                "class_rows": {
                    split: dict(zip(map(str, data.classes), rows, strict=True))
                    for split, rows in counts.items()
                },
                "lengths": lengths,
                "notes": [*data.notes, *([note] if note else [])],
                "findings": [finding.as_json() for finding in findings],
            }
        )
        return
    sizes = {split: len(examples) for split, examples in data.splits().items()}
    if len(data.classes) <= _MANY_CLASSES:
        print(f"{data.name}: {len(data.classes)} classes ({', '.join(map(str, data.classes))})")
        print_table(
            ["split", "rows", *map(str, data.classes)],
            [[split, sizes[split], *rows] for split, rows in counts.items()],
        )
    else:  # a line for each class: a column for each would be wider than any terminal
        print(f"{data.name}: {len(data.classes)} classes")
        rows_by_class = zip(data.classes, *counts.values(), strict=True)
        print_table(["class", *counts], [["all classes", *sizes.values()], *rows_by_class])
    print(_balance(dict(zip(data.classes, counts["train"], strict=True))))
    if data.text_columns is not None:
        texts = " and ".join(f"'{name}'" for name in data.text_columns)
        print(f"texts: column {texts}; labels: column '{config.data.label_column}'")
    if lengths is not None:
        print(
            "tokens of a training text: {median} in the median, {most_of_95} at most for 95 %, "
            "{longest} the longest; training on {model} cuts at {max_length}".format(**lengths)
        )
    for line in (*data.notes, *([note] if note else [])):
        print(f"note: {line}")
    for finding in findings:
        print(f"{finding.level}: {finding.line()}")
        for example in finding.examples:
            print(f"    {example}")
    if not findings:
        print("nothing to report")


def _balance(counts: dict[Any, int]) -> str:
    """The share of each class, or where there are many of the largest and the smallest one."""
    ordered = sorted(counts, key=lambda name: -counts[name])
    names = ordered if len(ordered) <= _MANY_CLASSES else [ordered[0], ordered[-1]]
    shares = ", ".join(f"{name} {counts[name] / sum(counts.values()):.1%}" for name in names)
    return f"share of train: {shares}" + ("" if names == ordered else " (largest and smallest)")


def tasks(options: Namespace) -> None:
    """Print the tasks, or everything about one of them."""
    from lpft.data import TASKS, find_task
    from lpft.data.tasks import REFUSED

    chosen = list(TASKS.values()) if options.name is None else [find_task(options.name)]
    if options.json:
        print_json([_describe_task(task) for task in chosen])
    elif options.name is not None:
        print(_format_task(chosen[0]))
    else:
        print_table(
            ["task", "benchmark", "classes", "metric", "what"],
            [
                [task.name, task.benchmark, len(task.classes), task.metric, task.title]
                for task in chosen
            ],
        )
        for name, reason in REFUSED.items():
            print(f"\nnot supported: {name}, {reason}")


def _paper_rows(task: "Task") -> dict[str, int | None] | None:
    """The rows of each split as the paper counts them; None where it does not use the task."""
    from lpft.paper import published_size

    size = published_size(task.name)
    if size is None:
        return None
    return {split: getattr(size, split) for split in ("train", "validation", "test")}


def _describe_task(task: "Task") -> dict[str, Any]:
    """What a task is, ready for JSON.

    ``files`` has the layouts of its official files: names of the benchmark's folder, of the task's
    folder in it, and the paths in that by split.
    """
    hub = task.hub
    return {
        "name": task.name,
        "title": task.title,
        "benchmark": task.benchmark,
        "classes": list(task.classes),
        "metric": task.metric,
        "templates": [template.description for template in task.templates],
        "grouped_by": None if task.grouping is None else task.grouping.noun,
        "ood": list(task.ood),
        "files": [
            {
                "layout": release.layout,
                "benchmark_folders": list(release.benchmarks),
                "folders": list(release.folders),
                "paths": dict(release.files),
                "url": release.url,
                "notes": list(release.notes),
            }
            for release in task.releases
        ],
        "hub": None if hub is None else hub.id,
        "hub_config": None if hub is None else hub.config,
        "hub_revision": None if hub is None else hub.revision,
        "hub_notes": [] if hub is None else list(hub.notes),
        "url": task.url,
        "licence": task.licence,
        "notes": list(task.notes),
        "paper_rows": _paper_rows(task),
    }


def _format_task(task: "Task") -> str:
    """The same as text, one line per fact."""
    releases, hub = task.releases, task.hub
    counts = {split: n for split, n in (_paper_rows(task) or {}).items() if n is not None}
    grouped = "" if task.grouping is None else f" (rows are grouped by {task.grouping.noun})"
    facts: dict[str, list[str]] = {
        "name": [task.name],
        "title": [task.title],
        "benchmark": [task.benchmark],
        "classes": [", ".join(task.classes)],
        "metric": [f"{task.metric}{grouped}"],
        "templates": [f"{n}: {item.description}" for n, item in enumerate(task.templates)],
        "ood": [", ".join(task.ood)] if task.ood else [],
        "files": [
            f"{release.layout}: {release.benchmarks[0]}/{release.folders[0]}/ with "
            + ", ".join(release.files.values())
            for release in releases
        ],
        "from": list(dict.fromkeys(release.url for release in releases)),
        "hub": [] if hub is None else [f"{hub.id} ({hub.config}) at {hub.revision}"],
        "url": [task.url],
        "licence": [task.licence],
        "paper": [f"published counts: {', '.join(f'{split} {n}' for split, n in counts.items())}"]
        if counts
        else [],
        "notes": [
            *task.notes,
            *(note for release in releases for note in release.notes),
            *(f"on the Hub: {note}" for note in (() if hub is None else hub.notes)),
        ],
    }
    lines = []
    for name, values in facts.items():
        first, *rest = values if values else ["-"]
        lines += [f"{name + ':':<11}{first}", *(" " * 11 + line for line in rest)]
    return "\n".join(lines)


def models(options: Namespace) -> None:
    """Print the models that can be trained."""
    if options.json:
        print_json(
            {
                "packaged": {MINILM: MINILM_DESCRIPTION},
                "families": {
                    family.model_type: {
                        "pooling": family.pooling,
                        "adapted": list(family.adapted),
                        "fused": family.fused,
                    }
                    for family in TESTED_FAMILIES
                },
            }
        )
        return
    print(f"{MINILM}: {MINILM_DESCRIPTION}, comes with the demo extra")
    print("Any other model: a Hugging Face Hub id or a model folder. The tests train these:\n")
    print_table(
        ["family", "default pooling", "LoRA adapts"],
        [
            [
                family.model_type,
                family.pooling,
                ", ".join(family.adapted)
                + (" (fused: query, key and value are all adapted)" if family.fused else ""),
            ]
            for family in TESTED_FAMILIES
        ],
    )
    print(
        "\nA sentence-transformers folder's own pooling comes before the family's (MiniLM: mean)."
    )


_TRAINED = {
    "head": "nothing",
    "nothing": "nothing",
    "all": "everything",
    "encoder": "the encoder, then the head by LP",
    "bias": "bias terms, head",
    "lora": "low-rank factors, head",
    "dora": "low-rank factors, head",
    "ia3": "scaling factors, head",
    "prefix": "keys and values, head",
    "peft": "as configured, head",
}

_STARTS = {"random": "random", "lp": "from the LP solution", "words": "at the label words"}


def methods(options: Namespace) -> None:
    """Print the methods and what they do."""
    from lpft.settings.methods import METHODS

    if options.json:
        print_json([vars(method) for method in METHODS.values()])
        return
    print_table(
        ["method", "head starts", "then trains", "in words"],
        [
            [
                method.name,
                _STARTS[method.head_start],
                _TRAINED[method.trained],
                method.summary,
            ]
            for method in METHODS.values()
        ],
    )
    print(
        "\nauto trains lp, then with few rows contrastive, then lp-ft, lora and ft where they can "
        "still win,\nand keeps the simplest within one standard error of the best on validation."
        "\nLoRA and DoRA sit on the query and value projections (see lpft models). In families "
        "that fuse\nquery, key and value into one projection, all of it is adapted, the keys too."
        "\npeft and lp-peft take any PEFT configuration: --peft-config FILE."
    )


MINILM_DESCRIPTION = "sentence-transformers/all-MiniLM-L6-v2 (BERT, 6 layers, 384 wide, Apache-2.0)"


@dataclass(frozen=True)
class Family:
    """A model family that the tests train: its default pooling, and the modules LoRA adapts."""

    model_type: str
    pooling: Pooling
    adapted: tuple[str, ...]
    fused: bool = False


TESTED_FAMILIES = (
    Family("bert", "first", ("query", "value")),
    Family("roberta", "first", ("query", "value")),
    Family("distilbert", "first", ("q_lin", "v_lin")),
    Family("albert", "first", ("query", "value")),
    Family("deberta-v2", "first", ("query_proj", "value_proj")),
    Family("modernbert", "first", ("Wqkv",), fused=True),
    Family("gpt2", "last", ("c_attn",), fused=True),
    Family("llama", "last", ("q_proj", "v_proj")),
)
