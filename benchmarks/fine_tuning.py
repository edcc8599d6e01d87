"""Steps of fine-tuning beside Hugging Face's Trainer, and bfloat16 beside float32.

    python benchmarks/fine_tuning.py steps --data-dir DIR
    python benchmarks/fine_tuning.py accuracy --data-dir DIR --cells DIR
    python benchmarks/fine_tuning.py accuracy --cells DIR --summary
    python benchmarks/fine_tuning.py compiled

``steps``: the packaged MiniLM, batches of 16, one thread. Every block of texts is trained on by
each side in turn; a side's time is that from the end of its first step to the end of its last one,
with collation, logging and clipping, without evaluation and checkpoints. Ratios are medians over
blocks. All take the same batches: of the order in which both we and Trainer group 3,200 texts by
length, some at random. Trainer has its fused AdamW and pads each batch to its longest
(dynamic), or all texts to 128 tokens. ``loop`` is the model's own forward, backward and AdamW: what
lies between it and us is Trainer's machinery.

``accuracy``: trainings on the same rows with the same seeds in both precisions: 500 rows of SST-2,
or all 250 of CB, scored on the official development rows (872 and 56). Each is kept in a file of
its own, so that a stopped benchmark goes on where it was.

``compiled``: the loop's step with `torch.compile` (dynamic shapes) and without, at three widths,
and the CPU seconds of compiling. It needs a C++ compiler.
"""

import argparse
import json
import math
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from common import CPU, matmul_rate, record
from scipy.stats import t as student
from torch.nn.functional import cross_entropy
from torch.utils.data import SequentialSampler
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_pt_utils import get_length_grouped_indices

from lpft.data import load_task
from lpft.data.tokens import tokenize
from lpft.model import Classifier, build_classifier
from lpft.model.loading import packaged_minilm
from lpft.runs.train import train_run
from lpft.settings import TrainingSettings, resolve
from lpft.settings.configs import make_config
from lpft.training import finetuning
from lpft.training.cache import SplitInputs

BATCH_SIZE, WIDTH, GROUPED_TEXTS = 16, 128, 3200
CLASSES = ("negative", "positive")
Texts = tuple[list[str], np.ndarray]

DATA: dict[str, dict[str, Any]] = {
    "sst2": {"max_train_samples": 500, "max_validation_samples": 100},
    "cb": {},
}
PRECISIONS = ("float32", "bfloat16")
MEASURES = ("accuracy", "nll", "ece")


class Clock(TrainerCallback):
    """The wall-clock and CPU seconds of a step, in the mean over all but the first."""

    def __init__(self) -> None:
        self._ends: list[tuple[float, float]] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._ends.append((perf_counter(), process_time()))

    def times(self) -> tuple[float, float]:
        (wall, cpu), (last_wall, last_cpu) = self._ends[0], self._ends[-1]
        steps = len(self._ends) - 1
        return (last_wall - wall) / steps, (last_cpu - cpu) / steps


def inputs_of(classifier: Classifier, texts: Texts, length: int) -> SplitInputs:
    tokens = tokenize(classifier.tokenizer, texts[0], length)
    width = classifier.model.head.in_features
    return SplitInputs(tokens, texts[1], np.zeros((len(texts[0]), width), dtype=np.float32))


def ours(texts: Texts, length: int, precision: Any) -> tuple[float, float]:
    """An epoch of ``lpft train --method ft``."""
    classifier, clock = build_classifier("minilm", CLASSES, seed=0), Clock()
    settings = TrainingSettings(method="ft", epochs=1, batch_size=BATCH_SIZE, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        finetuning.train_steps(
            classifier.model.train(),
            inputs_of(classifier, texts, length),
            resolve(settings.model_copy(update={"precision": precision})),
            folder=Path(folder),
            callbacks=[clock],
            objective=finetuning.Objective(
                finetuning._mean_loss(None, texts[1], len(CLASSES), CPU),
                lambda rows, _: SequentialSampler(range(len(rows.labels))),
            ),
        )
    return clock.times()


def loop(texts: Texts, length: int) -> tuple[float, float]:
    """The model alone: forward, backward, AdamW."""
    classifier, clock = build_classifier("minilm", CLASSES, seed=0), Clock()
    model, inputs = classifier.model.train(), inputs_of(classifier, texts, length)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, fused=True)
    for rows in np.arange(len(texts[0])).reshape(-1, BATCH_SIZE):
        logits = model(**inputs.tokens.batch(rows)).logits
        cross_entropy(logits, torch.tensor(inputs.labels[rows])).backward()
        optimizer.step()
        optimizer.zero_grad()
        clock.on_step_end()
    return clock.times()


def trainer(texts: Texts, length: int, *, padded: bool) -> tuple[float, float]:
    """Trainer with BertForSequenceClassification on the same weights, as its users have it."""
    tokenizer = build_classifier("minilm", CLASSES, seed=0).tokenizer
    model = AutoModelForSequenceClassification.from_pretrained(packaged_minilm(), num_labels=2)
    encoded = tokenizer(texts[0], truncation=True, max_length=length)
    rows = [
        {**{name: values[row] for name, values in encoded.items()}, "labels": int(label)}
        for row, label in enumerate(texts[1])
    ]
    pad = {"padding": "max_length", "max_length": WIDTH} if padded else {}
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            model,
            TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=BATCH_SIZE,
                num_train_epochs=1,
                learning_rate=2e-5,
                optim="adamw_torch_fused",
                use_cpu=True,
                save_strategy="no",
                logging_steps=10,
                report_to="none",
                disable_tqdm=True,
                train_sampling_strategy="sequential",
            ),
            train_dataset=rows,
            data_collator=DataCollatorWithPadding(tokenizer, **pad),
            callbacks=[clock],
        ).train()
    return clock.times()


SIDES: dict[str, Callable[[Texts, int], tuple[float, float]]] = {
    "lpft": lambda texts, length: ours(texts, length, "float32"),
    "lpft bfloat16": lambda texts, length: ours(texts, length, "bfloat16"),
    "loop": loop,
    "Trainer, dynamic": lambda texts, length: trainer(texts, length, padded=False),
    "Trainer, padded to 128": lambda texts, length: trainer(texts, length, padded=True),
}


@contextmanager
def route(name: str) -> Iterator[None]:
    """Products in bfloat16 by autocast, or by oneDNN's own conversion of float32 operands."""
    products: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    if name == "oneDNN":
        products.fp32_precision = "bf16"
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=name == "autocast"):
        yield
    products.fp32_precision = "none"


def routes(width: int, repeats: int = 3) -> dict[str, Any]:
    """CPU seconds of float32 over those of each way to bfloat16, for 16 texts of ``width``."""
    model = build_classifier("minilm", CLASSES, seed=0).model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, fused=True)
    ids = torch.randint(1000, 20000, (BATCH_SIZE, width))
    labels = torch.arange(BATCH_SIZE) % 2
    taken: dict[str, list[float]] = {"float32": [], "autocast": [], "oneDNN": []}
    for _, name in product(range(repeats + 1), taken):
        started = process_time()
        with route(name):
            cross_entropy(model(ids, torch.ones_like(ids)).logits, labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        taken[name].append(process_time() - started)
    base = taken["float32"][1:]
    return {
        name: round(statistics.median(a / b for a, b in zip(base, times[1:], strict=True)), 3)
        for name, times in taken.items()
    }


def steps(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    before = matmul_rate()
    torch.manual_seed(0)
    data = load_task("sst2", options.data_dir)
    tokenizer = build_classifier("minilm", CLASSES, seed=0).tokenizer
    generator = np.random.default_rng(0)
    kinds = {"SST-2 sentences": (1, WIDTH), "texts of 64 tokens": (16, 64)}
    times: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for _, (kind, (joined, length)) in product(range(options.blocks), kinds.items()):
        rows = generator.choice(len(data.train), GROUPED_TEXTS * joined, replace=False)
        sentences = [str(data.train.texts[row]) for row in rows]
        texts = [" ".join(sentences[first::GROUPED_TEXTS]) for first in range(GROUPED_TEXTS)]
        lengths = tokenize(tokenizer, texts, length).lengths.tolist()
        order = np.array(get_length_grouped_indices(lengths, BATCH_SIZE)).reshape(-1, BATCH_SIZE)
        # At random: equal distances would hit one place of every sorted group of 50 batches.
        batches = generator.choice(len(order), options.steps + 1, replace=False)
        chosen = order[batches].ravel()
        assert data.train.labels is not None
        block = [texts[row] for row in chosen], data.train.labels[rows[chosen]]
        for name, side in SIDES.items():
            taken = side(block, length)
            times.setdefault(kind, {}).setdefault(name, []).append(taken)
            print(f"{kind}, {name}: {taken[0]:.2f} s, {taken[1]:.2f} s of CPU", flush=True)

    def ratios(kind: str, which: int) -> dict[str, float]:
        """Seconds of every side over ours."""
        ratio = {
            name: statistics.median(
                other[which] / own[which]
                for other, own in zip(taken, times[kind]["lpft"], strict=True)
            )
            for name, taken in times[kind].items()
        }
        return {name: round(value, 3) for name, value in ratio.items()}

    record(
        "fine_tuning_steps",
        {
            "matmul_gflops_before": round(before, 1),
            "batch_size": BATCH_SIZE,
            "steps": options.steps,
            "blocks": options.blocks,
            "cpu_seconds_over_ours": {kind: ratios(kind, 1) for kind in times},
            "wall_seconds_over_ours": {kind: ratios(kind, 0) for kind in times},
            "median_cpu_seconds": {
                kind: {
                    name: round(statistics.median(cpu for _, cpu in taken), 3)
                    for name, taken in sides.items()
                }
                for kind, sides in times.items()
            },
            "float32_over_bfloat16": {width: routes(width) for width in (16, 64, 128)},
        },
    )


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


def compiled(_options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    # Read when the compiler is first used: all of its work is counted, and none is from before.
    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    taken: dict[str, dict[int, float]] = {}
    first: dict[str, float] = {}
    for name in ("eager", "compiled"):
        model = build_classifier("minilm", CLASSES, seed=0).model.train()
        called = torch.compile(model, dynamic=True) if name == "compiled" else model
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, fused=True)
        times: dict[int, list[float]] = {}
        # Each width twice: the second time nothing is left to compile.
        for width, _repeat in product((17, 64, 128, 17, 64, 128), range(4)):
            ids = torch.randint(1000, 20000, (BATCH_SIZE, width))
            started = cpu_seconds()
            logits = called(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
            cross_entropy(logits, torch.arange(BATCH_SIZE) % 2).backward()
            optimizer.step()
            optimizer.zero_grad()
            times.setdefault(width, []).append(cpu_seconds() - started)
        first[name] = round(times[17][0], 1)
        taken[name] = {width: round(statistics.median(t[4:]), 3) for width, t in times.items()}
    record("fine_tuning_compiled", {"first_step_cpu_seconds": first, "step_cpu_seconds": taken})


def cpu_seconds() -> float:
    """Of this process and of those that it has started, such as a compiler."""
    spent = os.times()
    return sum(spent[:4])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("steps", help="seconds of a step beside Trainer")
    command.add_argument("--data-dir", type=Path, required=True, help="holds glue/SST-2")
    command.add_argument("--blocks", type=int, default=5)
    command.add_argument("--steps", type=int, default=8, help="that are timed, in each block")
    command.set_defaults(action=steps)
    command = commands.add_parser("accuracy", help="bfloat16 beside float32 over seeds")
    command.add_argument("--data-dir", type=Path, help="folder of the official release files")
    command.add_argument("--cells", type=Path, required=True, help="folder of finished trainings")
    command.add_argument("--method", default="lp-ft")
    command.add_argument("--epochs", type=float, default=10.0)
    command.add_argument("--seeds", type=int, default=5)
    command.add_argument("--summary", action="store_true", help="record the table, train nothing")
    command.set_defaults(action=accuracy)
    command = commands.add_parser("compiled", help="a step with torch.compile")
    command.set_defaults(action=compiled)
    options = parser.parse_args()
    options.action(options)


if __name__ == "__main__":
    main()
