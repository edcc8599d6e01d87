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
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from time import perf_counter

import httpx2
import numpy as np
import pandas as pd
import psutil
from common import record

CLIENTS = (1, 8, 50)
ALONE = "one text at a time"
SERVICES = {
    "batches of 64, wait 2 ms": ("--batch-texts", "64", "--batch-wait", "2"),
    "batches of 64, no wait": ("--batch-texts", "64", "--batch-wait", "0"),
    ALONE: ("--batch-texts", "1", "--batch-wait", "0"),
}


@dataclass(frozen=True)
class Round:
    """Answered requests per second, the server's processor seconds for one, the seconds of each."""

    rate: float
    processor: float
    latencies: list[float]


@contextmanager
def serving(run: Path, options: Sequence[str]) -> Iterator[tuple[str, psutil.Process]]:
    """The address of a process of ``lpft serve``, and the process."""
    command = [sys.executable, "-m", "lpft", "serve", str(run), "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if line.startswith("serving "))
        try:
            yield line.partition(" at ")[2].split()[0], psutil.Process(process.pid)
        finally:
            process.terminate()


def one_round(
    url: str, server: psutil.Process, texts: Sequence[str], clients: int, seconds: float
) -> Round:
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
    began, used = perf_counter(), sum(server.cpu_times()[:2])
    stop.wait(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    used = sum(server.cpu_times()[:2]) - used
    return Round(len(latencies) / (perf_counter() - began), used / len(latencies), latencies)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--file", type=Path, required=True, help="CSV or TSV with a text column")
    parser.add_argument("--column", default="text")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    table = pd.read_csv(options.file, sep="\t" if options.file.suffix == ".tsv" else ",", quoting=3)
    texts = table[options.column].tolist()
    measured: dict[str, dict[int, list[Round]]] = {
        name: {n: [] for n in CLIENTS} for name in SERVICES
    }
    with ExitStack() as services:
        running = {
            name: services.enter_context(serving(options.run, arguments))
            for name, arguments in SERVICES.items()
        }
        for url, server in running.values():
            one_round(url, server, texts, 8, 1.0)  # the first batches take longer
        for _ in range(options.rounds):
            for clients in CLIENTS:
                for name, (url, server) in running.items():
                    found = one_round(url, server, texts, clients, options.seconds)
                    measured[name][clients].append(found)
                    print(
                        f"{clients} clients, {name}: {found.rate:.0f}/s, "
                        f"{1000 * found.processor:.1f} ms of processor time each",
                        flush=True,
                    )

    def summary(name: str, clients: int) -> dict[str, float]:
        rounds, single = measured[name][clients], measured[ALONE][clients]
        p50, p95 = np.quantile([one for each in rounds for one in each.latencies], [0.5, 0.95])
        ratios = [each.rate / other.rate for each, other in zip(rounds, single, strict=True)]
        return {
            "requests_per_second": round(statistics.median(each.rate for each in rounds), 1),
            "latency_ms_p50": round(1000 * p50, 1),
            "latency_ms_p95": round(1000 * p95, 1),
            "processor_ms_per_request": round(
                1000 * statistics.median(each.processor for each in rounds), 1
            ),
            "rate_over_one_text_at_a_time": round(statistics.median(ratios), 2),
        }

    words = float(np.mean([len(text.split()) for text in texts]))
    record(
        "serving",
        {
            "run": options.run.name,
            "texts": {"rows": len(texts), "mean_words": round(words, 1)},
            "seconds": options.seconds,
            "rounds": options.rounds,
            "services": {name: {str(n): summary(name, n) for n in CLIENTS} for name in SERVICES},
        },
    )


if __name__ == "__main__":
    main()
