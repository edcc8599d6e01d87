"""How time and memory grow: kernels with N, C, T and layers; training and prediction with rows.

    python benchmarks/scaling.py [kernels | rows] [--methods ft lora lp predict] [--quick]

Every kernel, and every series of rows, is a process of its own in one thread, in which a small one
of the same kind goes first and is not counted. Exponents are slopes of least squares in logarithms
with their standard errors, of CPU seconds: wall time also counts what else the machine does. Both
are in the record.

``kernels``: the whole kernel of N random texts of T tokens in BERT encoders of MiniLM's width with
random weights and a random head of C classes. Around N = 100, C = 2, T = 32 and 6 layers one number
moves at a time (C at N = 50). Memory is the peak above what the process held before, less the bytes
of the kernel. The slope of the plan's own count of flops stands beside the measured one.

``rows``: the packaged MiniLM on generated texts of 4 to 12 words: one epoch of FT and of LoRA, LP
(features and the choice of its strength by folds), and ``predict_proba``. What does not depend on
the rows, such as checkpoints and 100 validation rows, makes such a slope smaller, so a second one
is of the seconds beyond those of 64 rows, against the rows beyond 64.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter, process_time
from typing import Any

import numpy as np
import psutil
import torch
from common import matmul_rate, peak_bytes, record
from predict_rows import lines
from scipy.stats import linregress

KERNEL = {"samples": 100, "classes": 2, "tokens": 32, "layers": 6}
VARIED: dict[str, tuple[tuple[int, ...], dict[str, int]]] = {
    "samples": ((50, 100, 200, 400), {}),
    "classes": ((2, 3, 6, 12), {"samples": 50}),
    "tokens": ((16, 32, 64, 128), {}),
    "layers": ((2, 4, 6, 12), {}),
}
"""What moves, and what else differs from ``KERNEL`` meanwhile."""
ROWS = (500, 1000, 2000, 4000, 8000)
QUICK = {"samples": (25, 50, 100), "classes": (2, 6), "tokens": (16, 32), "layers": (2, 6)}
QUICK_ROWS = (125, 250, 500)
TARGETS = {
    "samples": {"cpu_seconds": 2.1, "memory_bytes": 1.1},
    "rows": {"cpu_seconds": 1.05, "more_cpu_seconds": 1.05},
}
"""The largest exponents that are acceptable."""
MEMORY = "4GB"
VALIDATION_ROWS = 100
FEW_ROWS = 64
"""Of the first, uncounted job, and of those whose seconds are mostly constant."""
METHODS = ("ft", "lora", "lp", "predict")


class Measured:
    """CPU and wall-clock seconds of a block, and its peak memory above that of its start."""

    def __enter__(self) -> "Measured":
        self._memory = psutil.Process().memory_info().rss
        self._started = process_time(), perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu_seconds = process_time() - self._started[0]
        self.seconds = perf_counter() - self._started[1]
        self.bytes = peak_bytes() - self._memory

    def cell(self, **more: Any) -> dict[str, Any]:
        return {
            **more,
            "cpu_seconds": round(self.cpu_seconds, 3),
            "seconds": round(self.seconds, 3),
        }


def one_kernel(samples: int, classes: int, tokens: int, layers: int) -> dict[str, Any]:
    """The kernel of one cell, in this process."""
    from ntk import SHAPES
    from transformers import BertConfig

    from lpft.data.tokens import Tokens
    from lpft.model.classifier import attach_head
    from lpft.model.encoder import build_encoder
    from lpft.ntk import KernelJob, Options, StudiedModel, request_of

    config = BertConfig(**{**SHAPES["minilm"].to_dict(), "num_hidden_layers": layers})
    torch.manual_seed(0)
    model = attach_head(
        build_encoder(config, torch.float32),
        tuple(f"class {number}" for number in range(classes)),
        pooling="first",
        head_bias=True,
        generator=torch.Generator().manual_seed(0),
    )

    def computed(count: int) -> Any:
        drawn = np.random.default_rng(0).zipf(1.2, size=(count, tokens))
        ids = drawn % (config.vocab_size - 4) + 4
        texts = Tokens.from_lists(
            {"input_ids": ids.tolist(), "attention_mask": [[1] * tokens] * count},
            {"input_ids": 1, "attention_mask": 0},
            "right",
        )
        subject = StudiedModel(model, model.head, None, None)
        options = Options(memory=MEMORY, check_entries=0, check_products=0, device="cpu")
        job = KernelJob(subject, {"ntk": request_of(subject)}, [texts], ((0, 0),), options)
        return job.run()["ntk"][0, 0]

    computed(2)
    with Measured() as measured:
        kernel = computed(samples)
    own = kernel.ft_effective.nbytes + kernel.pretrain_effective.nbytes
    return measured.cell(
        kernel_bytes=own,
        memory_bytes=measured.bytes - own,
        tflop=round(kernel.record["plan"]["flops"]["model"] / 1e12, 5),
        methods=kernel.record["plan"]["methods"],
        tiles=kernel.record["plan"]["tiles"],
    )


def texts_of(rows: int) -> tuple[list[str], list[str]]:
    """So many generated texts, and their classes."""
    columns = [line.strip().split(",") for line in lines(rows, labels=True)][1:]
    return [text for _, text, _ in columns], [label for *_, label in columns]


def jobs(method: str, counts: Sequence[int]) -> list[dict[str, Any]]:
    """One epoch of a method, its linear probe, or predictions, of each number of rows in turn."""
    from lpft import TextClassifier

    def fitted(rows: int) -> TextClassifier:
        settings: dict[str, Any] = {} if method in ("lp", "predict") else {"epochs": 1}
        classifier = TextClassifier(
            "minilm",
            method="lp" if method == "predict" else method,
            max_length=64,
            device="cpu",
            precision="float32",
            **settings,
        )
        first, end = VALIDATION_ROWS, VALIDATION_ROWS + rows
        validation = (texts[:first], labels[:first])
        return classifier.fit(texts[first:end], labels[first:end], validation=validation)

    texts, labels = texts_of(VALIDATION_ROWS + max(counts))
    cells = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LPFT_CACHE_DIR"] = f"{folder}/first"
        classifier = fitted(FEW_ROWS)
        classifier.predict_proba(texts[:FEW_ROWS])
        for rows in counts:
            os.environ["LPFT_CACHE_DIR"] = f"{folder}/{rows}"  # no features of another cell
            with Measured() as measured:
                if method == "predict":
                    classifier.predict_proba(texts[:rows])
                else:
                    fitted(rows)
            cells.append(measured.cell(rows=rows))
            print(method, cells[-1], file=sys.stderr, flush=True)
    return cells


def in_child(*arguments: str) -> Any:
    """What a process of its own measured."""
    run = subprocess.run(
        [sys.executable, __file__, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return json.loads(run.stdout.splitlines()[-1])


def exponent(
    cells: Sequence[dict[str, Any]], along: str, what: str, target: float | None = None
) -> dict[str, Any]:
    """``b`` of ``what = a along^b`` by least squares in logarithms, with its standard error."""
    fit = linregress(*(np.log([cell[name] for cell in cells]) for name in (along, what)))
    found: dict[str, Any] = {"exponent": round(float(fit.slope), 3)}
    if len(cells) > 2:
        found["standard_error"] = round(float(fit.stderr), 3)
    if target is not None:
        found |= {"target": target, "within_target": bool(fit.slope <= target)}
    return found


def kernels(quick: bool) -> dict[str, Any]:
    result: dict[str, Any] = {"base": KERNEL, "memory": MEMORY}
    for along, (values, others) in VARIED.items():
        cells = []
        for value in QUICK[along] if quick else values:
            cell = {**KERNEL, **others, along: value}
            options = [text for name in cell for text in (f"--{name}", str(cell[name]))]
            cells.append({along: value, **in_child("kernel", *options)})
            print(cells[-1], file=sys.stderr, flush=True)
        targets = TARGETS.get(along, {})
        result[along] = {
            "cells": cells,
            "exponents": {
                what: exponent(cells, along, what, targets.get(what))
                for what in ("cpu_seconds", "seconds", "memory_bytes", "tflop")
            },
        }
    return result


def rows(method: str, quick: bool) -> dict[str, Any]:
    counts = [str(count) for count in (FEW_ROWS, *(QUICK_ROWS if quick else ROWS))]
    few, *cells = in_child("jobs", "--method", method, "--rows", *counts)
    for cell in cells:
        cell["more_rows"] = cell["rows"] - FEW_ROWS
        cell["more_cpu_seconds"] = round(cell["cpu_seconds"] - few["cpu_seconds"], 3)
    along = {"more_cpu_seconds": "more_rows"}
    return {
        "few": few,
        "cells": cells,
        "exponents": {
            what: exponent(cells, along.get(what, "rows"), what, TARGETS["rows"].get(what))
            for what in ("cpu_seconds", "more_cpu_seconds", "seconds")
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = ("kernels", "rows", "all", "kernel", "jobs")
    parser.add_argument("part", nargs="?", default="all", choices=parts)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller cells")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="of rows")
    for name, value in KERNEL.items():
        parser.add_argument(f"--{name}", type=int, default=value, help="of part kernel")
    parser.add_argument("--method", choices=METHODS, default="ft", help="of part jobs")
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="of part jobs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.part == "kernel":
        print(json.dumps(one_kernel(**{name: getattr(options, name) for name in KERNEL})))
        return
    if options.part == "jobs":
        print(json.dumps(jobs(options.method, options.rows)))
        return
    wanted: dict[str, Callable[[], dict[str, Any]]] = {}
    if options.part in ("kernels", "all"):
        wanted["scaling_kernels"] = partial(kernels, options.quick)
    if options.part in ("rows", "all"):
        for method in options.methods:
            wanted[f"scaling_{method}"] = partial(rows, method, options.quick)
    for name, measure in wanted.items():
        before = matmul_rate()
        result = measure()
        record(
            name,
            {
                "quick": options.quick,
                "threads": 1,
                "matmul_gflops_before": round(before, 1),
                "load_average": [round(load, 1) for load in os.getloadavg()],
                **result,
            },
        )


if __name__ == "__main__":
    main()
