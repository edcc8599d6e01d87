"""What every benchmark shares: the machine's own rate, its description, and the recorded result."""

import json
import os
import platform
import resource
import statistics
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from lpft.results.schema import environment

RESULTS = Path(os.environ.get("LPFT_BENCHMARK_RECORDS", Path(__file__).parent / "results"))
"""Where records go: beside the scripts, or where ``make bench`` collects them."""

CPU = torch.device("cpu")


def seconds(action: Callable[[], Any], device: torch.device = CPU) -> float:
    """Wall-clock seconds of one call, until the device is done with it."""
    started = perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter() - started


def matmul_rate(device: torch.device = CPU, repeats: int = 7) -> float:
    """Median float32 GFLOP/s of ``torch.matmul`` of two square matrices on this device, now."""
    size = 2048 if device.type == "cpu" else 16384
    left, right = torch.randn(2, size, size, device=device)
    times = [seconds(lambda: left @ right, device) for _ in range(repeats)]
    return 2 * size**3 / statistics.median(times) / 1e9


def peak_bytes() -> int:
    """Bytes of memory that this process took at most."""
    # getrusage's peak of a new process starts at that of the one that started it; Linux's does not.
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def processor() -> str:
    """The processor's name where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def record(name: str, result: dict[str, Any], device: torch.device = CPU) -> None:
    """Write ``<name>.json`` in ``RESULTS`` with the environment, and print it."""
    written = {
        "benchmark": name,
        "processor": processor(),
        "matmul_gflops": round(matmul_rate(device), 1),
        **environment(device),
        "result": result,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps(written, indent=2) + "\n"
    (RESULTS / f"{name}.json").write_text(text)
    print(text)
