"""The paper's kernel table of CB by one command: all four methods' starts, one pass, on this CPU.

All 225 training and 56 test texts of SuperGLUE's CommitmentBank (the last tenth of the official
training rows validates and chooses the strength), the packaged MiniLM, kernel regression timed
apart. ``lpft ntk`` runs in a process of its own, whose peak memory is the system's number.

    python benchmarks/ntk_cb.py --data-dir DIR

writes ``results/ntk_cb.json``.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from common import record

METHODS = "ft,lora,lp-ft,lp-lora"
ROWS = {"train": 225, "eval": 56}
MOST_SECONDS = 240
"""What the pass may take on two cores."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data-dir", type=Path, required=True, help="folder of SuperGLUE's release files, or CB's"
    )
    data_dir = parser.parse_args().data_dir
    with tempfile.TemporaryDirectory() as folder:
        kernels = Path(folder) / "cb"
        options = ["--task", "cb", "--data-dir", str(data_dir), "--model", "minilm"]
        options += ["--methods", METHODS, "--device", "cpu", "--output-dir", str(kernels)]
        done = subprocess.run(
            [sys.executable, "-m", "lpft", "ntk", *options], stdout=subprocess.PIPE, text=True
        )
        if done.returncode != 0:
            raise SystemExit(done.returncode)
        found = json.loads((kernels / "kernels.json").read_text(encoding="utf-8"))
    passes = len(found["plan"]["passes"])
    if found["data"]["rows"] != ROWS or passes != 1:
        raise SystemExit(f"expected {ROWS} in one pass, found {found['data']['rows']} in {passes}")
    unit = 1 if platform.system() == "Darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    timings = {name: round(value, 1) for name, value in found["timings"].items()}
    record(
        "ntk_cb",
        {
            "command": f"lpft ntk {' '.join(options[:2])} --data-dir DIR {' '.join(options[4:8])}",
            "rows": found["data"]["rows"],
            "validation_rows": found["data"]["validation_rows"],
            "passes": passes,
            "seconds": timings,
            "asked_seconds_of_the_pass": MOST_SECONDS,
            "expected_seconds_of_the_pass": round(
                found["plan"]["passes"][0]["expected_seconds"], 1
            ),
            "peak_gb": round(peak / 1e9, 2),
            "printed": done.stdout.replace(str(kernels), "DIR").splitlines(),
        },
    )


if __name__ == "__main__":
    main()
