"""LP, FT, LP-FT, LoRA and LP-LoRA, each at a rate tuned for it, in and out of distribution.

For each data set `lpft sweep` tries the rates of `RATES` with seed 0, takes each method's best one
on validation, and trains every seed with it; `lpft ntk` computes the kernels at the start. What is
finished stays in the output folder, so that a stopped benchmark goes on where it was.

    python benchmarks/tuned_rates.py --data-dir DIR --output-dir DIR [--data cb,sst2] [--workers 2]
    python benchmarks/tuned_rates.py --output-dir DIR --record

``--record`` writes, for each data set of ``--data`` that is finished, a record of the means over
the seeds, and of differences of accuracy with 95 % intervals over seeds and texts.
"""

import argparse
import csv
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from common import record
from few_rows import Rows, read_rows, sentiment_rows

from lpft.analysis.comparison import effect_over_seeds, resample
from lpft.results.kernels import KernelRecord
from lpft.results.resume import read_sweep
from lpft.results.run import Run, find_runs
from lpft.runs.sweep import read_search

METHODS = ("lp", "ft", "lp-ft", "lora", "lp-lora")
RATES = (6e-5, 2e-4, 6e-4, 2e-3)
SETTINGS = {
    "epochs": 5,
    "max_train_samples": 500,
    "max_validation_samples": 500,
    "save_model": False,
}
KERNEL_TEXTS = 60
HELD_OUT = 200
"""Rows of the sets below whose release has no validation rows, or no test rows, for each."""

SCORES = ("accuracy", "matthews_correlation", "nll", "ece")
CALIBRATED = ("nll", "ece")
PAIRS = (("lp", "lp-ft"), ("ft", "lp-ft"), ("lora", "lp-lora"), ("lp", "ft"))

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
    """The search and the runs of a data set, and its kernels, or what of them is unfinished."""
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
    data = {key: value for key, value in options.items() if key not in ("name", "ood")}
    data |= {"max_train_samples": SETTINGS["max_train_samples"], "max_samples": KERNEL_TEXTS}
    words = [word for key, value in data.items() for word in (f"--{key.replace('_', '-')}", value)]
    output = ["--output-dir", str(folder / "kernels"), "--resume"]
    run(["ntk", *map(str, words), "--methods", ",".join(METHODS[1:]), *output])


def finished(folder: Path) -> bool:
    """Whether a sweep has ended, with every run, and the kernels are there."""
    swept = read_sweep(folder)
    ended = swept is not None and all(
        run.state in ("finished", "skipped") for run in swept.runs.values()
    )
    return ended and (folder.parent / "kernels" / KernelRecord.FILE).is_file()


def spread(values: Iterable[float | None]) -> dict[str, float] | None:
    """Mean and standard deviation over seeds; None where a run has no value."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {"mean": statistics.fmean(known), "sd": statistics.stdev(known)}


def differences(runs: Mapping[str, Mapping[int, Run]], split: str) -> dict[str, Any]:
    """Accuracy of the second of each pair of methods less that of the first."""
    generator = np.random.default_rng(0)
    predictions = {
        (method, seed): run.predictions[split].known()
        for method, by_seed in runs.items()
        for seed, run in by_seed.items()
    }
    right = {key: p.logits.argmax(1) == p.labels for key, p in predictions.items()}
    rows = {len(each) for each in right.values()}
    assert len(rows) == 1, f"{split}: runs on {rows} rows"
    measured = {key: lambda chosen, each=each: each[chosen].mean() for key, each in right.items()}
    drawn = resample(measured, rows.pop(), generator=generator)
    table = {}
    for first, second in PAIRS:
        by_seed = [drawn[second, seed] - drawn[first, seed] for seed in runs[first]]
        effect = effect_over_seeds(by_seed, generator=generator)
        table[f"{second} less {first}"] = {
            "mean": effect.mean,
            "interval": [effect.low, effect.high],
        }
    return table


def summary(folder: Path) -> dict[str, Any]:
    """What a data set's runs show over the seeds of each method, and the kernels at the start."""
    ratios = {
        method.method: method.ft_ratio
        for method in KernelRecord.read(folder.parent / "kernels").methods
    }
    found, unread = find_runs(folder)
    assert not unread, unread
    runs: dict[str, dict[int, Run]] = {}
    for run in found:
        runs.setdefault(run.method, {})[run.seed] = run
    one = found[0]
    search = read_search(folder)
    assert search is not None
    splits = ["test", *one.ood_splits]
    methods = {}
    for method in METHODS:
        seeds = runs[method].values()
        methods[method] = {
            "learning_rate": next(iter(seeds)).learning_rate,
            "scores": {
                split: {
                    name: spread(
                        run.score(split, name, calibrated=name in CALIBRATED) for run in seeds
                    )
                    for name in SCORES
                }
                for split in splits
            },
            "ft_ratio": ratios.get(method),
            "feature_change": spread(run.feature("test", "feature_difference") for run in seeds),
            "head_norm_at_start": spread(run.head_norm("norm_at_start") for run in seeds),
            "head_norm": spread(run.head_norm("norm") for run in seeds),
        }
    return {
        "rows": {split: len(one.predictions[split].labels) for split in one.predictions},
        "seeds": len(runs["ft"]),
        "methods": methods,
        "search": [
            {
                "method": cell["method"],
                "points": [
                    {"learning_rate": point["settings"]["learning_rate"], "score": point["score"]}
                    for point in cell["points"]
                ],
            }
            for cell in search["cells"]
        ],
        "differences": {split: differences(runs, split) for split in splits},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--data", default=",".join(SETS), help="which of the data sets")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--record", action="store_true", help="write the record, train nothing")
    options = parser.parse_args()
    names = options.data.split(",")
    if options.record:
        for name in names:
            folder = options.output_dir / name / "runs"
            if finished(folder):
                result = {"settings": SETTINGS, "rates": RATES, **summary(folder)}
                record(f"tuned_rates_{name}", result)
        return
    if options.data_dir is None:
        parser.error("--data-dir is needed")
    for name in names:
        folder = options.output_dir / name
        folder.mkdir(parents=True, exist_ok=True)
        train(name, options.data_dir.resolve(), folder.resolve(), options.seeds, options.workers)


if __name__ == "__main__":
    main()
