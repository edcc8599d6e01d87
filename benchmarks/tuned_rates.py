"""LP, FT, LP-FT, LoRA and LP-LoRA, each at a rate tuned for it, in and out of distribution.

For each data set `lpft sweep` tries the rates of `RATES` with seed 0, takes each method's best one
on validation, and trains every seed with it. What is finished stays in the output folder, so that a
stopped benchmark goes on where it was.

    python benchmarks/tuned_rates.py --data-dir DIR --output-dir DIR [--data cb,sst2] [--workers 2]
"""

import argparse
import csv
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from few_rows import Rows, read_rows, sentiment_rows

METHODS = ("lp", "ft", "lp-ft", "lora", "lp-lora")
RATES = (6e-5, 2e-4, 6e-4, 2e-3)
SETTINGS = {
    "epochs": 5,
    "max_train_samples": 500,
    "max_validation_samples": 500,
    "save_model": False,
}
HELD_OUT = 200
"""Rows of the sets below whose release has no validation rows, or no test rows, for each."""

SETS = ("amazon", "cb", "sst2", "csabstruct", "rte", "cola", "nicta")
"""In the order in which they are trained."""


def write_rows(path: Path, rows: Rows) -> str:
    """A CSV file of texts, or pairs of texts, and labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        pairs = isinstance(rows[0][0], tuple)
        writer.writerow(["text", "other_text", "label"] if pairs else ["text", "label"])
        writer.writerows(
            (*text, label) if isinstance(text, tuple) else (text, label) for text, label in rows
        )
    return str(path)


def shuffled(rows: Rows) -> Rows:
    """The rows in an order that a fixed seed draws."""
    return [rows[row] for row in np.random.default_rng(0).permutation(len(rows))]


def data_options(name: str, data_dir: Path, folder: Path) -> dict[str, Any]:
    """A data set as `lpft sweep` takes it: the name of a task, or files written to ``folder``."""
    if name in ("rte", "sst2", "cola"):
        settings = {"data_dir": str(data_dir), "split_protocol": "stratified"}
        return {"name": name, "task": name, **settings}
    if name == "amazon":
        rows = shuffled(sentiment_rows("amazon_cells", data_dir))
        parts = {"test": rows[:HELD_OUT], "validation": rows[HELD_OUT : 2 * HELD_OUT]}
        parts["train"] = rows[2 * HELD_OUT :]
        ood = {each: sentiment_rows(each, data_dir) for each in ("yelp", "imdb")}
    else:
        train, test = read_rows(name, data_dir)
        rows, held_out = shuffled(train), min(HELD_OUT, len(train) // 5)
        parts = {"train": rows[held_out:], "validation": rows[:held_out], "test": test}
        ood = {}
    files = {f"{part}_file": write_rows(folder / f"{part}.csv", parts[part]) for part in parts}
    pair = {"text_columns": "text,other_text"} if isinstance(rows[0][0], tuple) else {}
    outside = {each: write_rows(folder / f"{each}.csv", ood[each]) for each in ood}
    return {"name": name, **files, **pair, **({"ood": outside} if outside else {})}


def run(command: Iterable[str]) -> None:
    """One of lpft's commands in a process of its own.

    Raises:
        SystemExit: it failed.
    """
    words = [sys.executable, "-m", "lpft", *command]
    print(*words[2:], flush=True)
    ended = subprocess.run(words, check=False)
    if ended.returncode:
        raise SystemExit(ended.returncode)


def train(name: str, data_dir: Path, folder: Path, seeds: int, workers: int) -> None:
    """The search and the runs of a data set, or what of them is unfinished."""
    options = data_options(name, data_dir, folder / "data")
    config = {
        "tasks": [options],
        "methods": [*METHODS],
        "seeds": seeds,
        "settings": SETTINGS,
        "grid": {"learning_rate": [*RATES]},
    }
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    output = ["--output-dir", str(folder / "runs"), "--resume"]
    run(["sweep", str(path), *output, "--workers", str(workers)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--data", default=",".join(SETS), help="which of the data sets")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    for name in options.data.split(","):
        folder = options.output_dir / name
        folder.mkdir(parents=True, exist_ok=True)
        train(name, options.data_dir.resolve(), folder.resolve(), options.seeds, options.workers)


if __name__ == "__main__":
    main()
