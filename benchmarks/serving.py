"""Requests per second and latency of ``lpft serve`` with 1, 8 and 50 clients, batched or not.

A process for each way serves the same run; rounds take turns among them, so that what else the
machine does falls on all. Each request has one text of FILE. The clients run on the same machine.

    python benchmarks/serving.py RUN --file FILE [--seconds 10] [--rounds 3]
"""

import argparse
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx2
import numpy as np
import pandas as pd
from common import record

CLIENTS = (1, 8, 50)
SERVICES = {
    "batches of 64, wait 2 ms": ("--batch-texts", "64", "--batch-wait", "2"),
    "batches of 64, no wait": ("--batch-texts", "64", "--batch-wait", "0"),
    "one text at a time": ("--batch-texts", "1", "--batch-wait", "0"),
}


@contextmanager
def serving(run: Path, options: Sequence[str]) -> Iterator[str]:
    """The address of a process of ``lpft serve``."""
    command = [sys.executable, "-m", "lpft", "serve", str(run), "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if line.startswith("serving "))
        try:
            yield line.partition(" at ")[2].split()[0]
        finally:
            process.terminate()


def one_round(
    url: str, texts: Sequence[str], clients: int, seconds: float
) -> tuple[float, list[float]]:
    """Answered requests per second, and the seconds of each."""
    latencies: list[float] = []
    rows, start = count(), threading.Barrier(clients + 1)
    stop = threading.Event()

    def client() -> None:
        with httpx2.Client(timeout=600) as session:
            start.wait()
            while not stop.is_set():
                text = texts[next(rows) % len(texts)]
                asked = perf_counter()
                answer = session.post(f"{url}/predict", json={"text": text})
                latencies.append(perf_counter() - asked)
                assert answer.status_code == 200, answer.text

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    start.wait()
    began = perf_counter()
    stop.wait(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    return len(latencies) / (perf_counter() - began), latencies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument(
        "--file", type=Path, required=True, help="CSV or TSV with a column of texts"
    )
    parser.add_argument("--column", default="text")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    table = pd.read_csv(options.file, sep="\t" if options.file.suffix == ".tsv" else ",", quoting=3)
    texts = table[options.column].tolist()
    measured: dict[str, dict[int, Any]] = {name: {n: [] for n in CLIENTS} for name in SERVICES}
    with ExitStack() as services:
        urls = {
            name: services.enter_context(serving(options.run, arguments))
            for name, arguments in SERVICES.items()
        }
        for url in urls.values():
            one_round(url, texts, 8, 1.0)  # the first batches take longer
        for _ in range(options.rounds):
            for clients in CLIENTS:
                for name, url in urls.items():
                    found = one_round(url, texts, clients, options.seconds)
                    measured[name][clients].append(found)
                    print(f"{clients} clients, {name}: {found[0]:.0f}/s", flush=True)
    rates = {
        name: {n: statistics.median(rate for rate, _ in rounds) for n, rounds in by.items()}
        for name, by in measured.items()
    }
    last = list(SERVICES)[-1]

    def summary(name: str, clients: int) -> dict[str, float]:
        latencies = [one for _, times in measured[name][clients] for one in times]
        p50, p95 = np.quantile(latencies, [0.5, 0.95])
        ratios = [
            rate / single
            for (rate, _), (single, _) in zip(
                measured[name][clients], measured[last][clients], strict=True
            )
        ]
        return {
            "requests_per_second": round(rates[name][clients], 1),
            "latency_ms_p50": round(1000 * p50, 1),
            "latency_ms_p95": round(1000 * p95, 1),
            "rate_over_one_text_at_a_time": round(statistics.median(ratios), 2),
        }

    record(
        "serving",
        {
            "run": options.run.name,
            "texts": {
                "rows": len(texts),
                "words": round(float(np.mean([len(t.split()) for t in texts])), 1),
            },
            "seconds": options.seconds,
            "rounds": options.rounds,
            "services": {name: {str(n): summary(name, n) for n in CLIENTS} for name in SERVICES},
        },
    )


if __name__ == "__main__":
    main()
