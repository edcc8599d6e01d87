"""The commands that print what there is: tasks, models and methods."""

from argparse import Namespace
from typing import Any

from lpft.cli.console import print_json, print_table


def tasks(options: Namespace) -> None:
    """Print the tasks, or one of them whole."""
    from lpft.data import TASKS, find_task
    from lpft.data.tasks import REFUSED
    from lpft.data.tasks.task import describe_task, format_task
    from lpft.paper import published_size

    rows: list[dict[str, Any]] = []
    for task in TASKS.values() if options.name is None else [find_task(options.name)]:
        size = published_size(task.name)
        splits = ("train", "validation", "test")
        counts = None if size is None else {split: getattr(size, split) for split in splits}
        rows.append({**describe_task(task), "paper_rows": counts})
    if options.json:
        print_json(rows)
    elif options.name is not None:
        print(format_task(rows[0]))
    else:
        print_table(
            ["task", "benchmark", "classes", "metric", "what"],
            [
                [row["name"], row["benchmark"], len(row["classes"]), row["metric"], row["title"]]
                for row in rows
            ],
        )
        for name, reason in REFUSED.items():
            print(f"\nnot supported: {name}, {reason}")


def models(options: Namespace) -> None:
    """Print the models that can be trained."""
    from lpft.model.encoder import TESTED_FAMILIES
    from lpft.model.loading import MINILM, MINILM_DESCRIPTION

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
        [[family.model_type, family.pooling, family.adapted_text] for family in TESTED_FAMILIES],
    )
    print(
        "\nA sentence-transformers folder's own pooling comes before the family's (MiniLM: mean)."
    )


def methods(options: Namespace) -> None:
    """Print the methods and what they do."""
    from lpft.settings import METHODS

    if options.json:
        print_json([vars(method) for method in METHODS.values()])
        return
    print_table(
        ["method", "head starts", "then trains", "in words"],
        [
            [
                method.name,
                "from the LP solution" if method.head_start == "lp" else "random",
                {"head": "nothing", "all": "everything"}.get(
                    method.trained, f"{method.trained} factors, head"
                ),
                method.summary,
            ]
            for method in METHODS.values()
        ],
    )
    print(
        "\nAdapters sit on the query and value projections (see lpft models). In families that "
        "fuse query,\nkey and value into one projection, all of it is adapted, the keys too."
    )
