"""Length-grouped batches against batches padded to 128 tokens, on SST-2 sentences and MiniLM.

Frozen features: every block of sentences is read both ways, one after the other. Fine-tuning: the
same Trainer takes the same number of steps both ways in turn. Ratios are medians over blocks.

    python benchmarks/length_grouping.py --data-dir DIR [--rows 20000]
"""

import argparse
import statistics
import tempfile
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from common import CPU, matmul_rate, record, seconds

from lpft.data import load_task
from lpft.data.tokens import Tokens, tokenize
from lpft.model import Classifier, build_classifier
from lpft.model.inference import extract_features
from lpft.settings import TrainingSettings, resolve
from lpft.training import finetuning
from lpft.training.cache import SplitInputs
from lpft.training.history import EpochRule

WIDTH = 128
BLOCKS = 5
BATCH_SIZE = 16
PADDED_BATCH_ROWS = (16, 32, 64)
STEPS = 10


class PaddedTokens(Tokens):
    """Tokens whose every batch is padded to 128."""

    def batch(self, rows: Any, width: int | None = None) -> dict[str, torch.Tensor]:  # noqa: ARG002
        return super().batch(rows, WIDTH)


class StepTimer(finetuning.TrainingReporter):
    """A reporter that keeps the seconds of each step."""

    times: list[float]

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._started = perf_counter()

    def on_step_end(self, *arguments: Any, **keywords: Any) -> None:
        StepTimer.times.append(perf_counter() - self._started)
        super().on_step_end(*arguments, **keywords)


def padded_features(classifier: Classifier, tokens: Tokens, rows_at_once: int) -> None:
    """Features in the given order, padded to 128, as a plain loop would compute them."""
    with torch.inference_mode():
        for start in range(0, len(tokens), rows_at_once):
            rows = range(start, min(start + rows_at_once, len(tokens)))
            classifier.model.features(**tokens.batch(rows, WIDTH))


def benchmark_features(classifier: Classifier, tokens: Tokens) -> dict[str, Any]:
    probe = tokens.select(np.arange(128))
    best = min(
        PADDED_BATCH_ROWS,
        key=lambda rows: seconds(lambda: padded_features(classifier, probe, rows)),
    )
    grouped, padded = [], []
    for rows in np.array_split(np.arange(len(tokens)), BLOCKS):
        block = tokens.select(rows)
        grouped.append(seconds(partial(extract_features, classifier.model, block, device=CPU)))
        padded.append(seconds(partial(padded_features, classifier, block, best)))
        print(f"features: {grouped[-1]:.1f} s grouped, {padded[-1]:.1f} s padded", flush=True)
    return {
        "sentences": len(tokens),
        "mean_tokens": float(tokens.lengths.mean()),
        "grouped_seconds": sum(grouped),
        "padded_seconds": sum(padded),
        "padded_rows_at_once": best,
        "ratio": statistics.median(p / g for p, g in zip(padded, grouped, strict=True)),
        "required_ratio": 5,
    }


def step_seconds(build: Any, tokens: Tokens, labels: np.ndarray, width: int) -> list[float]:
    """Seconds of each step of the product's fine-tuning over ``STEPS`` batches."""
    classifier = build()
    StepTimer.times = []
    inputs = SplitInputs(tokens, labels, np.zeros((len(tokens), width), dtype=np.float32))
    few = tokens.select(np.arange(8))
    validation = SplitInputs(few, labels[:8], np.zeros((8, width), dtype=np.float32))
    with tempfile.TemporaryDirectory() as folder:
        finetuning.finetune(
            classifier.model.train(),
            inputs,
            validation,
            resolve(TrainingSettings(epochs=1, batch_size=BATCH_SIZE, device="cpu")),
            rule=EpochRule("accuracy", start_counts=False),
            folder=Path(folder),
            on_history=lambda rows: None,  # noqa: ARG005
        )
    return StepTimer.times


def benchmark_steps(build: Any, tokens: Tokens, labels: np.ndarray) -> dict[str, Any]:
    finetuning.TrainingReporter = StepTimer  # type: ignore[misc]
    generator = np.random.default_rng(0)
    width = build().model.head.in_features
    grouped, padded, ratios = [], [], []
    for block in range(BLOCKS):
        rows = generator.choice(len(tokens), STEPS * BATCH_SIZE, replace=False)
        chosen = tokens.select(rows)
        fast = step_seconds(build, chosen, labels[rows], width)
        wide = PaddedTokens(chosen.columns, chosen.offsets, chosen.pad_values, chosen.padding_side)
        slow = step_seconds(build, wide, labels[rows], width)
        grouped += fast
        padded += slow
        ratios.append(sum(slow) / sum(fast))
        print(
            f"steps, block {block}: {sum(fast):.1f} s grouped, {sum(slow):.1f} s padded", flush=True
        )
    return {
        "steps": len(grouped),
        "batch_size": BATCH_SIZE,
        "grouped_median_seconds": statistics.median(grouped),
        "padded_median_seconds": statistics.median(padded),
        "ratio": statistics.median(ratios),
        "required_ratio": 4,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="holds glue/SST-2")
    parser.add_argument("--rows", type=int, default=20_000)
    arguments = parser.parse_args()
    data = load_task("sst2", arguments.data_dir)
    rows = np.sort(np.random.default_rng(0).choice(len(data.train), arguments.rows, replace=False))
    train = data.train.select(rows)
    assert train.labels is not None

    def build() -> Classifier:
        return build_classifier("minilm", data.classes, seed=0)

    classifier = build()
    tokens = tokenize(classifier.tokenizer, train.texts, WIDTH)
    before = matmul_rate()
    record(
        "length_grouping",
        {
            "matmul_gflops_before": round(before, 1),
            "frozen_features": benchmark_features(classifier, tokens),
            "fine_tuning_steps": benchmark_steps(build, tokens, train.labels),
        },
    )


if __name__ == "__main__":
    main()
