"""The symmetric product of the NTK's contractions, alone and between the formings of its columns.

J (S N x columns, float32) is formed text by text as the engine forms it, ``g^T x`` of T tokens, and
multiplied by its own transpose: by the engine's product, by NumPy's with its BLAS's own threads,
and by strips of ``torch.matmul``. GFLOP/s count half of the product.

    python benchmarks/symmetric_product.py
"""

import statistics
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import torch
from common import matmul_rate, record
from torch import Tensor

from lpft.ntk.contract import symmetric_product

SEEDS, TOKENS, WIDTH, AT_ONCE = 3, 128, 768, 187
TEXTS = (85, 250)
STRIPS = 6
REPEATS = 7


def by_blas_threads(rows: Tensor) -> Tensor:
    return torch.from_numpy(np.dot(rows.numpy(), rows.numpy().T))


def by_strips(rows: Tensor) -> Tensor:
    step = -(-rows.shape[0] // STRIPS)
    result = torch.empty(rows.shape[0], rows.shape[0])
    for start in range(0, rows.shape[0], step):
        strip = rows[start : start + step] @ rows[: start + step].T
        result[start : start + step, : start + step] = strip
    return result.tril() + result.tril(-1).T


PRODUCTS: dict[str, Callable[[Tensor], Tensor]] = {
    "columns shared among threads": lambda rows: symmetric_product(rows, "exact"),
    "BLAS's own threads": by_blas_threads,
    "strips of torch.matmul": by_strips,
}


def rates(texts: int, multiply: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """Median GFLOP/s of forming J, of multiplying it, and of both, one after the other."""
    inputs = torch.randn(texts, TOKENS, WIDTH)
    gradients = torch.randn(SEEDS, texts, TOKENS, AT_ONCE)
    jacobian = torch.empty(SEEDS, texts, AT_ONCE, WIDTH)
    times = []
    for _ in range(REPEATS + 1):
        started = perf_counter()
        for seed in range(SEEDS):
            torch.bmm(gradients[seed].transpose(1, 2), inputs, out=jacobian[seed])
        formed = perf_counter()
        multiply(jacobian.view(SEEDS * texts, AT_ONCE * WIDTH))
        times.append((formed - started, perf_counter() - formed))
    forming, multiplying = (statistics.median(part) for part in zip(*times[1:], strict=True))
    columns = AT_ONCE * WIDTH
    flops = 2 * SEEDS * texts * TOKENS * columns, (SEEDS * texts) ** 2 * columns
    return {
        "forming": round(flops[0] / forming / 1e9, 1),
        "multiplying": round(flops[1] / multiplying / 1e9, 1),
        "both": round(sum(flops) / (forming + multiplying) / 1e9, 1),
    }


def main() -> None:
    result: dict[str, Any] = {"matmul_gflops": round(matmul_rate(), 1)}
    for texts in TEXTS:
        result[f"{texts} texts"] = {name: rates(texts, by) for name, by in PRODUCTS.items()}
    record("symmetric_product", result)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
