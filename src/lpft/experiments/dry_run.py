"""What an experiment would compute, as a table."""

import math
from collections.abc import Sequence
from typing import Any

from lpft.experiments.preparation import Inputs, matching_kernels, unique_runs
from lpft.experiments.recipe import Plan
from lpft.report.numbers import rate
from lpft.results.folder import read_record
from lpft.settings.configs import RunConfig

HEADER = (
    "what",
    "task",
    "rows",
    "method",
    "rate",
    "batch",
    "epochs",
    "head_scale",
    "steps",
    "seeds",
    "finished",
)


def planned_work(plan: Plan, inputs: Inputs) -> list[dict[str, Any]]:
    """The runs by everything but their seed, then the kernels; runs of two parts are listed once.

    ``steps`` are those of one seed's fine-tuning. ``finished`` counts seeds.
    """
    grouped: dict[tuple[Any, ...], list[RunConfig]] = {}
    for config in unique_runs(plan):
        flat = {name: value for name, value in config.flat().items() if name != "seed"}
        grouped.setdefault(tuple(map(str, flat.values())), []).append(config)
    work = [_runs(configs, inputs) for configs in grouped.values()]
    for task in dict.fromkeys(planned.task for planned in plan.kernels):
        configs = [planned.config for planned in plan.kernels if planned.task == task]
        texts = min(configs[0].kernels.max_samples, len(inputs.data(configs[0].run).train))
        work.append(
            {
                "what": "kernels",
                "task": task,
                "rows": texts,
                "method": ",".join(configs[0].kernels.methods),
                "seeds": [config.run.training.seed for config in configs],
                "finished": sum(matching_kernels(config, inputs) for config in configs),
            }
        )
    return work


def format_work(work: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The same as text: a header and a row for each part."""
    written = {"rate": rate, "seeds": lambda seeds: ",".join(map(str, seeds))}
    rows = [
        [
            "-" if part.get(name) is None else str(written.get(name, str)(part[name]))
            for name in HEADER
        ]
        for part in work
    ]
    return [name.replace("_", " ") for name in HEADER], rows


def _runs(configs: Sequence[RunConfig], inputs: Inputs) -> dict[str, Any]:
    training = configs[0].training
    rows = len(inputs.data(configs[0]).train)
    steps = None
    if training.epochs is not None and training.batch_size is not None:
        steps = math.ceil(training.epochs * math.ceil(rows / training.batch_size))
    records = [read_record(config.output_dir) for config in configs]
    return {
        "what": "runs",
        "task": configs[0].data.task,
        "rows": rows,
        "method": training.method,
        "rate": training.learning_rate,
        "batch": training.batch_size,
        "epochs": training.epochs,
        "head_scale": training.head_scale,
        "steps": steps,
        "seeds": [config.training.seed for config in configs],
        "finished": sum(record is not None and record.status == "finished" for record in records),
    }
