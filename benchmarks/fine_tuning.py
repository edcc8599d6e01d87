"""Fine-tuning: the accuracy of bfloat16 beside float32, on the same rows with the same seeds.

    python benchmarks/fine_tuning.py accuracy --data-dir DIR --cells DIR
    python benchmarks/fine_tuning.py accuracy --cells DIR --summary

A training takes 500 rows of SST-2, or all 250 of CB, and is scored on the official development rows
(872 and 56). Each is kept in a file of its own, so that a stopped benchmark goes on where it was.
"""

import argparse
import json
import math
import statistics
import tempfile
from itertools import product
from pathlib import Path
from time import process_time
from typing import Any

from common import record
from scipy.stats import t as student

from lpft.runs.train import train_run
from lpft.settings.configs import make_config

DATA: dict[str, dict[str, Any]] = {
    "sst2": {"max_train_samples": 500, "max_validation_samples": 100},
    "cb": {},
}
PRECISIONS = ("float32", "bfloat16")
MEASURES = ("accuracy", "nll", "ece")


def trained(
    data: str, precision: str, seed: int, method: str, epochs: float, data_dir: Path
) -> dict[str, Any]:
    """Scores on the test rows, calibrated where they depend on it, and the CPU seconds taken."""
    values = {
        "task": data,
        "data_dir": str(data_dir),
        "split_protocol": "stratified",
        "method": method,
        "epochs": epochs,
        "seed": seed,
        "precision": precision,
        "device": "cpu",
        "save_model": False,
        **DATA[data],
    }
    with tempfile.TemporaryDirectory() as folder:
        started = process_time()
        metrics = train_run(make_config(values, Path(folder) / "run")).metrics
        seconds = process_time() - started
    test = metrics["splits"]["test"]
    calibrated = test["calibrated"]
    return {
        "accuracy": test["accuracy"],
        "nll": calibrated["nll"],
        "ece": calibrated["ece"],
        "rows": test["rows"],
        "epochs": epochs,
        "cpu_seconds": round(seconds, 1),
    }


def interval(differences: list[float]) -> dict[str, Any]:
    """The mean of paired differences with its 95 % interval by Student's t."""
    mean, count = statistics.fmean(differences), len(differences)
    if count < 2:
        return {"mean": mean, "interval": None}
    half = student.ppf(0.975, count - 1) * statistics.stdev(differences) / math.sqrt(count)
    return {"mean": mean, "interval": [mean - half, mean + half]}


def accuracy_summary(cells: Path) -> dict[str, Any]:
    """bfloat16 less float32 over the seeds that have both, for each set and method."""
    table: dict[str, Any] = {}
    found = {tuple(path.stem.split("_")): json.loads(path.read_text()) for path in cells.glob("*")}
    for data, method in sorted({(stem[0], stem[1]) for stem in found}):
        pairs = {
            seed: [found[data, method, precision, seed] for precision in PRECISIONS]
            for seed in sorted({stem[3] for stem in found})
            if all((data, method, precision, seed) in found for precision in PRECISIONS)
        }
        if not pairs:
            continue
        seconds = [[each["cpu_seconds"] for each in pair] for pair in pairs.values()]
        table[f"{data} {method}"] = {
            "seeds": len(pairs),
            "differences": {
                name: interval([half[name] - full[name] for full, half in pairs.values()])
                for name in MEASURES
            },
            "cpu_seconds_ratio": statistics.median(full / half for full, half in seconds),
            "each": {
                seed: dict(zip(PRECISIONS, pair, strict=True)) for seed, pair in pairs.items()
            },
        }
    return table


def accuracy(options: argparse.Namespace) -> None:
    options.cells.mkdir(parents=True, exist_ok=True)
    if options.summary:
        record("fine_tuning_accuracy", accuracy_summary(options.cells))
        return
    for seed, data, precision in product(range(options.seeds), DATA, PRECISIONS):
        path = options.cells / f"{data}_{options.method}_{precision}_{seed}"
        if not path.is_file():
            result = trained(
                data, precision, seed, options.method, options.epochs, options.data_dir
            )
            path.write_text(json.dumps(result))
            print(path.name, result, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("accuracy", help="bfloat16 beside float32 over seeds")
    command.add_argument("--data-dir", type=Path, help="folder of the official release files")
    command.add_argument("--cells", type=Path, required=True, help="folder of finished trainings")
    command.add_argument("--method", default="lp-ft")
    command.add_argument("--epochs", type=float, default=10.0)
    command.add_argument("--seeds", type=int, default=5)
    command.add_argument("--summary", action="store_true", help="record the table, train nothing")
    command.set_defaults(action=accuracy)
    options = parser.parse_args()
    options.action(options)


if __name__ == "__main__":
    main()
