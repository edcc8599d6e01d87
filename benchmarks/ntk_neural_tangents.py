"""The engine beside neural-tangents 0.6.5, on a BERT of 6 layers x 384, T = 64, C = 3.

neural-tangents runs in an environment of its own; a Python 3.11 with these versions works:

    python -m venv alternative
    alternative/bin/pip install neural-tangents==0.6.5 jax==0.4.20 jaxlib==0.4.20 tf2jax==0.3.6 \\
        "numpy<2" "scipy<1.13"

Then, in lpft's environment:

    python benchmarks/ntk_neural_tangents.py --alternative alternative/bin/python

Both compute the whole N C x N C kernel over the same encoder's parameters with the same weights in
float32, in turns, each call in a process of its own for its peak memory. neural-tangents starts
from the hidden states after the embeddings, so it is spared those; ours includes the embeddings'
share in the timed call, and leaves it out in the comparison of the numbers. neural-tangents' first
call, which compiles, is not counted, and it takes all texts at once: in batches it compiles for
longer and was slower. The head of rank 3 is random; that of an LP has rows that sum to zero.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from common import matmul_rate, record
from ntk import SHAPES, build, words

from lpft.ntk import KernelJob, Options, StudiedModel, request_of

SHAPE, CLASSES = "minilm", 3
SAMPLES = (64, 128)
ROUNDS = 3
IMPLEMENTATIONS = ("STRUCTURED_DERIVATIVES", "JACOBIAN_CONTRACTION", "NTK_VECTOR_PRODUCTS")
FEW = 16
"""Texts on which neural-tangents' implementations are compared."""
LIMIT = 120.0
"""Seconds that each may take there, compiling included."""


def ours(samples: int, centred: bool, path: Path) -> dict[str, Any]:
    """Our kernel, in this process; F without the embeddings' share goes to ``path``."""
    model, tokens = build(SHAPE, CLASSES, centred=centred), words(SHAPE, samples)
    subject = StudiedModel(model, model.head, None, None)
    started, started_cpu = perf_counter(), process_time()
    options = Options(
        check_entries=0, check_products=0, device="cpu", granularity="layer", memory="6GB"
    )
    job = KernelJob(subject, {"ntk": request_of(subject)}, [tokens], ((0, 0),), options)
    kernel = job.run()["ntk"][0, 0]
    seconds, cpu = perf_counter() - started, process_time() - started_cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    np.save(path, (kernel.ft_effective - kernel.layers["embeddings"]).numpy())
    return {"seconds": [seconds], "cpu": [cpu], "peak_memory_gb": round(peak, 2)}


@torch.no_grad()
def arrays(samples: int, centred: bool) -> dict[str, np.ndarray]:
    """What neural-tangents computes the same kernel from."""
    model, tokens = build(SHAPE, CLASSES, centred=centred), words(SHAPE, samples)
    encoder = model.eval().encoder
    batch = tokens.batch(range(samples))
    blocks = {name: value.numpy() for name, value in encoder.encoder.layer.named_parameters()}
    hidden = encoder.embeddings(input_ids=batch["input_ids"])
    return {"hidden": hidden.numpy(), "head": model.head.weight.numpy(), **blocks}


def run(command: list[str], limit: float | None = None) -> dict[str, Any]:
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=limit)
    return json.loads(done.stdout.splitlines()[-1])


def theirs(
    python: str, source: Path, path: Path, limit: float | None = None, **settings: Any
) -> dict[str, Any]:
    command = [python, str(Path(__file__).with_name("ntk_jax.py")), str(source), str(path)]
    command += ["--heads", str(SHAPES[SHAPE].num_attention_heads), "--repeats", "1"]
    for name, value in settings.items():
        command += [f"--{name}", str(value)]
    return run(command, limit)


def compare(
    python: str, samples: int, centred: bool, implementation: str, times: int
) -> dict[str, Any]:
    """Both in turns, their ratio of medians, and the relative difference of their kernels."""
    rounds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, mine, other = (folder / f for f in ("arrays.npz", "ours.npy", "theirs.npy"))
        np.savez(source, allow_pickle=False, **arrays(samples, centred))
        command = [sys.executable, __file__, "--child", str(mine), "--samples", str(samples)]
        command += ["--centred"] if centred else []
        for _ in range(times):
            found = run(command)
            again = theirs(python, source, other, implementation=implementation)
            rounds.append({"ours": found, "neural_tangents": again})
        left, right = np.load(mine), np.load(other)
        difference = float(np.linalg.norm(left - right) / np.linalg.norm(right))
    sides = ("ours", "neural_tangents")
    seconds, cpu = (
        {side: statistics.median(each[side][what][0] for each in rounds) for side in sides}
        for what in ("seconds", "cpu")
    )
    peaks = {side: max(each[side]["peak_memory_gb"] for each in rounds) for side in sides}
    return {
        "samples": samples,
        "head": "LP, rank 2" if centred else "random, rank 3",
        "seconds": {side: round(value, 2) for side, value in seconds.items()},
        "processor_seconds": {side: round(value, 2) for side, value in cpu.items()},
        "peak_memory_gb": peaks,
        "times_faster": round(seconds["neural_tangents"] / seconds["ours"], 2),
        "times_faster_by_processor": round(cpu["neural_tangents"] / cpu["ours"], 2),
        "share_of_memory": round(peaks["ours"] / peaks["neural_tangents"], 2),
        "relative_difference": difference,
        "rounds": rounds,
    }


def fastest_implementation(python: str) -> tuple[str, dict[str, float | None]]:
    """The fastest of neural-tangents' implementations, and the seconds of each.

    None for one that is not done within the limit, which includes compiling.
    """
    with tempfile.TemporaryDirectory() as name:
        source, path = Path(name) / "arrays.npz", Path(name) / "kernel.npy"
        np.savez(source, allow_pickle=False, **arrays(FEW, centred=False))
        taken: dict[str, float | None] = {}
        for implementation in IMPLEMENTATIONS:
            try:
                found = theirs(python, source, path, LIMIT, implementation=implementation)
                taken[implementation] = round(found["seconds"][0], 2)
            except subprocess.TimeoutExpired:
                taken[implementation] = None
    done = {name: value for name, value in taken.items() if value is not None}
    return min(done, key=lambda name: done[name]), taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--alternative", help="Python of neural-tangents' environment")
    parser.add_argument("--texts", type=int, nargs="+", default=SAMPLES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--child", type=Path)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--centred", action="store_true")
    options = parser.parse_args()
    if options.child is not None:
        print(json.dumps(ours(options.samples, options.centred, options.child)))
        return
    if options.alternative is None:
        parser.error("--alternative is needed: the Python of neural-tangents' environment")
    implementation, taken = fastest_implementation(options.alternative)
    cells = [
        compare(options.alternative, samples, centred, implementation, options.rounds)
        for samples in options.texts
        for centred in (False, True)
    ]
    record(
        "ntk_neural_tangents",
        {
            "shape": "BERT, 6 layers x 384, T = 64, C = 3, float32",
            "torch_threads": torch.get_num_threads(),
            "implementation": implementation,
            f"seconds_of_implementations_at_{FEW}": taken,
            "cells": cells,
            "matmul_gflops_after": round(matmul_rate(), 1),
        },
    )


if __name__ == "__main__":
    main()
