"""The NTK as an operator: time and memory as N grows, and eigenpairs beside the whole kernel's.

Sentences of SST-2's training file drawn at random, the packaged MiniLM, a random binary head whose
rows sum to zero as linear probing's do, all parameters, P + F, one thread. Every part runs in a
process of its own, whose peak memory is the system's number.

    python benchmarks/ntk_operator.py accuracy | time | eigenpairs --data-dir DIR

``accuracy`` compares 20 eigenpairs of 300 sentences, in float32 and float64, with those of the
kernel that ``empirical_ntk`` forms in float64. ``time`` takes products of 250 to 2,000 sentences,
with activations recomputed for every product and stored in files, and fits the exponent of N.
``eigenpairs`` are the 20 leading ones of 2,000 sentences within 4 GB.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from common import matmul_rate, peak_bytes, record

from lpft.ntk import NTKOperator, empirical_ntk, leading_eigenpairs

COUNT, COMPARED, LARGE = 20, 300, 2000
SIZES = (250, 500, 1000, 2000)
MEMORY = "4GB"
MAX_LENGTH = 128
REPEATS = 1


def sentences(data_dir: Path, count: int) -> list[str]:
    """The first ``count`` of 2,000 drawn sentences."""
    path = next(iter(sorted(data_dir.rglob("SST-2/train.tsv"))), data_dir / "train.tsv")
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    chosen = np.random.default_rng(0).choice(len(lines), LARGE, replace=False)
    return [lines[line].split("\t")[0] for line in chosen[:count]]


def classifier() -> Any:
    from lpft.model import build_classifier

    built = build_classifier("minilm", ("negative", "positive"), seed=0)
    with torch.no_grad():
        built.model.head.weight.sub_(built.model.head.weight.mean(0))
    return built


def arguments(built: Any, dtype: str) -> dict[str, Any]:
    return {
        "tokenizer": built.tokenizer,
        "max_length": MAX_LENGTH,
        "device": "cpu",
        "dtype": getattr(torch, dtype),
    }


def peak_gb() -> float:
    return round(peak_bytes() / 1e9, 2)


def prepared_operator(options: argparse.Namespace, dtype: str) -> tuple[NTKOperator, float]:
    """The operator of the sentences, and the seconds of its preparation."""
    built, texts = classifier(), sentences(options.data_dir, options.samples)
    started = perf_counter()
    operator = NTKOperator(
        built.model,
        texts,
        memory=MEMORY,
        activations=options.activations,
        **arguments(built, dtype),
    )
    return operator, perf_counter() - started


def token_count(operator: NTKOperator) -> int:
    lengths = operator.inputs.lengths
    assert lengths is not None
    return int(lengths.sum())


def time_products(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a product, after those of the preparation."""
    operator, prepared = prepared_operator(options, "float32")
    drawn = np.random.default_rng(0)
    times, processor_times = [], []
    for _ in range(REPEATS):
        vector = drawn.standard_normal(operator.shape[1])
        started, processor_started = perf_counter(), process_time()
        operator.matvec(vector)
        times.append(perf_counter() - started)
        processor_times.append(process_time() - processor_started)
    operator.close()
    return {
        "samples": len(operator.inputs),
        "tokens": token_count(operator),
        "preparation_seconds": round(prepared, 2),
        "product_seconds": [round(t, 2) for t in times],
        "product_processor_seconds": [round(t, 2) for t in processor_times],
        "peak_gb": peak_gb(),
        "matmul_gflops": round(matmul_rate(), 1),
    }


def eigenpairs(options: argparse.Namespace) -> dict[str, Any]:
    """The leading eigenpairs, with what they took and how far they are from exact."""
    operator, prepared = prepared_operator(options, options.dtype)
    started = perf_counter()
    pairs = leading_eigenpairs(operator, COUNT)
    taken = prepared + perf_counter() - started
    operator.close()
    if options.vectors is not None:
        np.savez(options.vectors, values=pairs.values, vectors=pairs.vectors)
    assert pairs.error is not None
    return {
        "samples": len(operator.inputs),
        "tokens": token_count(operator),
        "dtype": options.dtype,
        "seconds": round(taken, 1),
        "preparation_seconds": round(prepared, 1),
        "processor_seconds": round(process_time(), 1),
        "products": pairs.products,
        "peak_gb": peak_gb(),
        "eigenvalues": pairs.values.tolist(),
        "residuals_over_eigenvalues": (pairs.residuals / pairs.values).tolist(),
        "error_of_exact_entries": pairs.error.relative_error,
        "record": operator.record,
    }


def exact(options: argparse.Namespace) -> dict[str, Any]:
    """Form the kernel in float64 and save all its eigenpairs."""
    built, texts = classifier(), sentences(options.data_dir, options.samples)
    started = perf_counter()
    kernel = empirical_ntk(built.model, texts, memory=MEMORY, **arguments(built, "float64"))
    taken = perf_counter() - started
    matrix = kernel.total().numpy().reshape(2 * len(texts), -1)
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    np.savez(options.vectors, values=values[::-1], vectors=vectors[:, ::-1])
    return {
        "seconds": round(taken, 1),
        "peak_gb": peak_gb(),
        "certificate": kernel.certificate.largest_relative_error,
    }


CHILDREN = {"time": time_products, "eigenpairs": eigenpairs, "exact": exact}


def child(part: str, data_dir: Path, samples: int, **options: Any) -> dict[str, Any]:
    """One part in a process of its own."""
    command = [sys.executable, __file__, "child", "--child", part, "--data-dir", str(data_dir)]
    command += ["--samples", str(samples)]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    print(json.dumps(answer), file=sys.stderr, flush=True)
    return answer


def accuracy(data_dir: Path, folder: Path) -> dict[str, Any]:
    """Eigenvalues and the leading subspace beside those of the whole kernel."""
    whole = folder / "exact.npz"
    result: dict[str, Any] = {"exact": child("exact", data_dir, COMPARED, vectors=whole)}
    expected = np.load(whole)
    values, vectors = expected["values"][:COUNT], expected["vectors"]
    for dtype in ("float32", "float64"):
        path = folder / f"{dtype}.npz"
        found = child(
            "eigenpairs", data_dir, COMPARED, vectors=path, dtype=dtype, activations="files"
        )
        pairs = np.load(path)
        overlap = np.abs((vectors[:, :COUNT] * pairs["vectors"]).sum(0))
        outside = pairs["vectors"] - vectors[:, :COUNT] * (
            (vectors[:, :COUNT] * pairs["vectors"]).sum(0)
        )
        found["largest_relative_error_of_an_eigenvalue"] = float(
            np.abs(pairs["values"] / values - 1).max()
        )
        found["sine_of_the_subspaces_largest_angle"] = float(
            np.linalg.norm(vectors[:, COUNT:].T @ pairs["vectors"], 2)
        )
        found["sine_of_an_eigenvectors_largest_angle"] = float(
            np.linalg.norm(outside, axis=0).max()
        )
        found["smallest_overlap"] = float(overlap.min())
        result[dtype] = found
    result["gap_after_the_last"] = float(1 - expected["values"][COUNT] / values[-1])
    return result


def exponent(of_sizes: list[dict[str, Any]]) -> float:
    """The slope of log processor seconds of a product over log N, one thread.

    Wall-clock seconds also count what other processes of the machine took.
    """
    sizes = [of["samples"] for of in of_sizes]
    times = [min(of["product_processor_seconds"]) for of in of_sizes]
    return round(float(np.polyfit(np.log(sizes), np.log(times), 1)[0]), 3)


def times(data_dir: Path) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for activations in ("files", "recomputed"):
        of_sizes = [child("time", data_dir, n, activations=activations) for n in SIZES]
        result[activations] = {"products": of_sizes, "exponent_of_n": exponent(of_sizes)}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["accuracy", "time", "eigenpairs", "child"])
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of GLUE or SST-2")
    parser.add_argument("--child", choices=CHILDREN)
    parser.add_argument("--samples", type=int, default=LARGE)
    parser.add_argument("--activations", default="files")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--vectors", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.part == "child":
        print(json.dumps(CHILDREN[options.child](options)))
    elif options.part == "accuracy":
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            record("ntk_operator_accuracy", accuracy(options.data_dir, Path(folder)))
    elif options.part == "time":
        record("ntk_operator_time", times(options.data_dir))
    else:
        record(
            "ntk_operator_eigenpairs",
            child("eigenpairs", options.data_dir, options.samples, activations="files"),
        )


if __name__ == "__main__":
    main()
