"""Cost and memory by formula, without computing anything: 10^4 to 10^6 texts, 7 billion parameters.

    python benchmarks/on_paper.py [--tokens 64] [--cpu-gflops 100] [--gpu-tflops 100]

With N texts of T tokens, d parameters in matrix products, width h, C classes, a head of rank r and
b parameters that train (Kaplan et al., 2020: 2 d flops per token forward, as many for gradients of
inputs, as many for those of weights):

    features, prediction   2 d T N flops             4 N h bytes of features, on disk
    LP                     480 N h C K flops         8 N C bytes of logits out of fold
    FT, an epoch           6 d T N flops             16 bytes per parameter, and activations
    LoRA, an epoch         4 d T N flops             4 bytes per parameter, 12 per trained one
    kernel, linear part    2 (1 + r) d T N + 2 r T b N flops
    kernel, product        N^2 r^2 b flops           16 N^2 (C^2 + r^2) bytes
    NTKOperator, product   12 d T N flops            12 bytes per parameter, 8 N C per vector

Kernels and products of large models are those of LoRA's parameters; a product then takes 8 d T N
flops, and 4 bytes per parameter. LP takes about 120 passes of 4 N h C K flops for K = 5 folds, on
the CPU. Activations of a batch come on top of all bytes. ``plans`` are those of the engine for
the packaged MiniLM's shape, made by ``make_plan`` without computing a kernel.
"""

import argparse
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from common import record
from ntk import build, words

from lpft.errors import InputError
from lpft.ntk import KernelJob, Options, StudiedModel, request_of
from lpft.ntk.memory import make_plan

LP_PASSES, FOLDS = 120, 5
TEXTS = (10**4, 10**5, 10**6)


@dataclass(frozen=True)
class Case:
    """A model with a head: ``products`` are its parameters in matrix products (d)."""

    name: str
    parameters: float
    products: float
    width: int
    classes: int
    rank: int
    adapter: float
    """Parameters of LoRA: rank 8 at queries and values."""


def adapter(width: int, layers: int, rank: int = 8) -> float:
    return layers * 2 * rank * 2 * width


CASES = (
    Case("MiniLM, 2 classes", 22.7e6, 12 * 384**2 * 6, 384, 2, 1, adapter(384, 6)),
    Case("MiniLM, 1,000 classes", 22.7e6, 12 * 384**2 * 6, 384, 1000, 384, adapter(384, 6)),
    Case("RoBERTa-base, 2 classes", 124.6e6, 12 * 768**2 * 12, 768, 2, 1, adapter(768, 12)),
    Case("7 billion, 2 classes", 6.6e9, 6.5e9, 4096, 2, 1, adapter(4096, 32)),
    Case("7 billion, 1,000 classes", 6.6e9, 6.5e9, 4096, 1000, 999, adapter(4096, 32)),
)


def costs(case: Case, texts: int, tokens: int) -> dict[str, dict[str, float]]:
    """Flops and bytes of every job."""
    passed = case.products * tokens * texts
    small = case.parameters < 1e9  # kernels of all parameters, or of LoRA's
    trained = case.products if small else case.adapter
    rank = case.rank
    linear = 2 * (1 + rank) * passed + 2 * rank * tokens * trained * texts
    weights = 4 * case.parameters
    return {
        "features": {"flops": 2 * passed, "bytes": 4 * texts * case.width},
        "LP": {
            "flops": 4 * texts * case.width * case.classes * FOLDS * LP_PASSES,
            "bytes": 8 * texts * case.classes,
        },
        "FT": {"flops": 6 * passed, "bytes": 16 * case.parameters},
        "LoRA": {"flops": 4 * passed, "bytes": weights + 12 * case.adapter},
        "kernel": {
            "flops": linear + texts**2 * rank**2 * trained,
            "bytes": 16 * texts**2 * (case.classes**2 + rank**2),
        },
        "operator": {
            "flops": (12 if small else 8) * passed,
            "bytes": (3 if small else 1) * weights + 8 * texts * case.classes,
        },
    }


def plans(budgets: tuple[int, ...] = (16, 64)) -> list[dict[str, Any]]:
    """What the engine would do for kernels of MiniLM's shape, within so many gigabytes."""
    rows = []
    for classes, counts in ((2, (1000, 10_000, 100_000)), (6, (1000, 10_000))):
        model = build("minilm", classes, centred=True)
        subject = StudiedModel(model, model.head, None, None)
        job = KernelJob(
            subject, {"ntk": request_of(subject)}, [words("minilm", 4)], ((0, 0),), Options()
        )
        for count in counts:
            lengths = np.full(count, 64)
            workload = replace(job.plan.workload, lengths=lengths, groups=np.zeros_like(lengths))
            for budget in budgets:
                row: dict[str, Any] = {"texts": count, "classes": classes, "budget_gb": budget}
                try:
                    plan = make_plan(
                        job.plan.structure,
                        workload,
                        device=torch.device("cpu"),
                        dtype=torch.float32,
                        budget=budget * 10**9,
                        used=10**9,
                        checked=0,
                        copied=0,
                    )
                    made = plan.as_record()
                    row |= {
                        "model_tflop": round(made["flops"]["model"] / 1e12, 1),
                        "gigabytes": round(plan.memory / 1e9, 1),
                        "tiles": made["tiles"],
                    }
                except InputError as error:
                    row["refused"] = str(error)
                rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=64, help="per text")
    parser.add_argument("--cpu-gflops", type=float, default=100, help="that a CPU sustains")
    parser.add_argument("--gpu-tflops", type=float, default=100, help="that a GPU sustains")
    options = parser.parse_args()
    record(
        "on_paper",
        {
            "tokens": options.tokens,
            "cpu_gflops": options.cpu_gflops,
            "gpu_tflops": options.gpu_tflops,
            "cases": {
                case.name: {str(texts): costs(case, texts, options.tokens) for texts in TEXTS}
                for case in CASES
            },
            "plans": plans(),
        },
    )


if __name__ == "__main__":
    main()
