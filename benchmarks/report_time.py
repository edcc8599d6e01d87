"""CPU seconds of writing the pages of one run and of several runs, each by a process of its own.

The runs are linear probes of the packaged MiniLM on generated texts, whose sizes and class weights
differ; a page shows all of them. A page is written by ``lpft report``; its first, uncounted call
also fills matplotlib's font cache.

    python benchmarks/report_time.py [--runs 8] [--rows 300] [--rounds 3]
"""

import argparse
import os
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from common import record
from predict_rows import write
from prediction import LPFT, cpu_seconds


def pages(folder: Path, count: int, rows: int, rounds: int) -> dict[str, Any]:
    """Medians of the CPU seconds of a page of one run and of all."""
    file = write(folder / "rows.csv", rows, labels=True)
    runs = folder / "runs"
    for number in range(count):
        command = [*LPFT, "train", "--train-file", str(file), "--text-columns", "text"]
        command += ["--method", "lp", "--no-report", "--output-dir", str(runs / f"run-{number}")]
        command += ["--max-train-samples", str(rows // 2 + 8 * number)]
        environment = {**os.environ, "LPFT_CACHE_DIR": str(folder / "cache")}
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    found: dict[str, Any] = {"rows": rows}
    for name, target in (("one run", runs / "run-0"), (f"{count} runs", runs)):
        page = folder / "page" / "report.html"
        command = [*LPFT, "report", str(target), "--output", str(page)]
        times = [cpu_seconds(command, folder / "cache") for _ in range(rounds + 1)][1:]
        found[name] = {
            "cpu_seconds": round(statistics.median(times), 2),
            "page_kilobytes": round(page.stat().st_size / 1000),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = pages(Path(folder), options.runs, options.rows, options.rounds)
    load = [round(load, 1) for load in os.getloadavg()]
    record("report_time", {"rounds": options.rounds, "load_average": load, "pages": found})


if __name__ == "__main__":
    main()
