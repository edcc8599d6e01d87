"""Every benchmark of speed, one after the other, each in processes of its own: ``make bench``.

    python benchmarks/run_all.py [--quick] [--only NAME ...] [--output-dir bench-report]
        [--data-dir DIR] [--alternatives PYTHON] [--neural-tangents PYTHON]

``BENCHMARKS`` has what is run, with its estimated minutes on two quiet cores: 57, and 10 with
``--quick``. What is not there is skipped, with the reason. A failure does not stop the others; it
is named at the end, and the exit status is 1.

Real data lie in ``--data-dir``, in the folder that ``LPFT_TEST_DATA`` names, or in
``../shared/data``. ``--alternatives`` is the Python of an environment with SetFit,
``--neural-tangents`` that of one with neural-tangents: ``benchmarks/alternatives.py`` and
``benchmarks/ntk_neural_tangents.py`` say how to make them.

The output folder gets ``records/``, ``logs/`` and ``speed.md`` with tables and plots of the
records. Those of ``benchmarks/results`` are not touched.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

ROOT = Path(__file__).resolve().parents[1]
DATA = {
    "SST-2": "glue/SST-2/train.tsv",
    "TREC": "trec",
    "CB": "superglue/CB",
    "IMDb sentences": "uci_sentences/imdb_labelled.txt",
}
"""Where a data set lies below the data folder."""


@dataclass(frozen=True)
class Benchmark:
    """Commands, each a script beside this one and its arguments, and the minutes that they take.

    ``{data}`` is the folder of real data, ``{work}`` an empty one, ``{minilm}`` the packaged
    model's, ``{jax}`` neural-tangents' Python; a command that begins with ``{setfit}`` runs in that
    Python. ``quick`` replaces the commands with ``--quick``: none leaves the benchmark out. A need
    is a key of ``DATA``, ``setfit``, ``neural-tangents``, ``cuda``, or gigabytes of free memory.
    """

    name: str
    minutes: float
    commands: tuple[str, ...]
    quick_minutes: float = 0
    quick: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    gigabytes: int = 2


FEW_ROWS = (
    "auto.py --data-dir {data} --cells {work}/ours --data trec --size 16 --seeds 1"
    " --methods lp,lp-ft",
    "{setfit} alternatives.py --model {minilm} --data-dir {data} --cells {work}/theirs --data trec"
    " --size 16-per-class --seeds 1 --methods st-lr,setfit",
    "alternatives.py --cells {work}/theirs --auto-cells {work}/ours --summary",
)
BENCHMARKS = (
    Benchmark(
        "prediction",  # with start-up
        4,
        ("prediction.py --data-dir {data}",),
        2,
        ("prediction.py --data-dir {data} --rows 50 --rounds 1",),
        needs=("TREC", "IMDb sentences"),
    ),
    Benchmark(
        "linear-probe",
        4,
        ("linear_probe.py --data-dir {data}",),
        0.5,
        ("linear_probe.py --data-dir {data} --rows 200 --rounds 1",),
        needs=("TREC",),
    ),
    Benchmark(
        "fine-tuning",
        4,
        ("fine_tuning.py steps --data-dir {data} --blocks 3 --steps 4",),
        1,
        ("fine_tuning.py steps --data-dir {data} --blocks 1 --steps 2",),
        needs=("SST-2",),
    ),
    Benchmark(
        "length-grouping",
        4,
        ("length_grouping.py --data-dir {data} --rows 4000",),
        needs=("SST-2",),
    ),
    Benchmark("few-rows", 4, FEW_ROWS, needs=("TREC", "setfit")),
    Benchmark(
        "scaling",
        9,
        ("scaling.py",),
        3,
        ("scaling.py kernels --quick", "scaling.py rows --quick --methods ft"),
    ),
    Benchmark(
        "kernels",
        7,
        ("ntk.py full-rank --samples 100", "ntk.py binary-lp --samples 100"),
        0.5,
        ("ntk.py full-rank --samples 16 --shapes minilm",),
        gigabytes=8,
    ),
    Benchmark(
        "neural-tangents",
        6,
        ("ntk_neural_tangents.py --alternative {jax} --texts 64 128 --rounds 2",),
        1,
        ("ntk_neural_tangents.py --alternative {jax} --texts 32 --rounds 1",),
        needs=("neural-tangents",),
        gigabytes=8,
    ),
    Benchmark(
        "operator",
        5,
        ("ntk_operator.py time --data-dir {data}",),
        needs=("SST-2",),
        gigabytes=4,
    ),
    Benchmark("kernels-cb", 3, ("ntk_cb.py --data-dir {data}",), needs=("CB",), gigabytes=6),
    Benchmark("kernels-cuda", 2, ("ntk.py cuda",), needs=("cuda",)),
    Benchmark("symmetric-product", 1, ("symmetric_product.py",)),
    Benchmark("token-batches", 0.5, ("token_batches.py",), 0.5, ("token_batches.py",)),
    Benchmark(
        "large-data",
        1,
        ("large_data.py --rows 10000",),
        0.5,
        ("large_data.py --rows 3000",),
    ),
    Benchmark(
        "predict-rows",
        1.5,
        ("predict_rows.py --rows 100000",),
        0.5,
        ("predict_rows.py --rows 30000",),
    ),
    Benchmark(
        "report",
        1,
        ("report_time.py",),
        0.5,
        ("report_time.py --runs 3 --rows 100 --rounds 1",),
    ),
)  # fmt: skip


def data_folder(given: Path | None) -> Path:
    """The folder of real data, whether it is there or not."""
    named = os.environ.get("LPFT_TEST_DATA")
    return given or (Path(named) if named else ROOT.parent / "shared/data")


def runs(python: str | None, module: str) -> str:
    """Why a Python has no such module, or nothing."""
    if python is None:
        return "its option names no Python"
    if shutil.which(python) is None:
        return f"there is no {python}"
    found = subprocess.run([python, "-c", f"import {module}"], capture_output=True)
    return "" if found.returncode == 0 else f"{python} cannot import {module}"


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def cpu_seconds() -> float:
    """CPU seconds of all processes that have ended so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def free_gigabytes() -> float:
    import psutil

    return psutil.virtual_memory().available / 1e9


def reason_to_skip(benchmark: Benchmark, options: argparse.Namespace) -> str:
    """What is missing, in words; nothing where all is there."""
    if options.quick and not benchmark.quick:
        return "takes too long for --quick"
    for need in benchmark.needs:
        if need in DATA and not (options.data_dir / DATA[need]).exists():
            return (
                f"no {DATA[need]} in {options.data_dir}: --data-dir names the folder of real data"
            )
        if need == "setfit" and (reason := runs(options.alternatives, "setfit")):
            return f"SetFit (--alternatives): {reason}"
        if need == "neural-tangents" and (
            reason := runs(options.neural_tangents, "neural_tangents")
        ):
            return f"neural-tangents (--neural-tangents): {reason}"
        if need == "cuda" and not has_cuda():
            return "no CUDA device"
    if free_gigabytes() < benchmark.gigabytes:
        return f"needs {benchmark.gigabytes} GB of memory, {free_gigabytes():.1f} are free"
    return ""


def command_of(words: str, options: argparse.Namespace, work: str) -> list[str]:
    """The arguments of a process for one of a benchmark's commands."""
    first, *rest = words.split()
    python = sys.executable
    if first == "{setfit}":
        python, (first, *rest) = options.alternatives, rest
    filled = {
        "{data}": str(options.data_dir),
        "{work}": work,
        "{jax}": options.neural_tangents or "",
    }
    if "{minilm}" in words:
        from lpft.model.loading import packaged_minilm

        filled["{minilm}"] = str(packaged_minilm())
    for name, value in filled.items():
        rest = [word.replace(name, value) for word in rest]
    return [python, str(Path(__file__).with_name(first)), *rest]


def run(benchmark: Benchmark, options: argparse.Namespace) -> str:
    """Run the commands; the last line of the one that failed, or nothing."""
    log = options.output_dir / "logs" / f"{benchmark.name}.log"
    with tempfile.TemporaryDirectory() as work, log.open("w") as output:
        environment = {
            **os.environ,
            "LPFT_BENCHMARK_RECORDS": str(options.output_dir / "records"),
            "LPFT_CACHE_DIR": str(Path(work) / "cache"),
            "PYTHONPATH": os.pathsep.join(
                filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH")))
            ),
        }
        for words in benchmark.quick if options.quick else benchmark.commands:
            command = command_of(words, options, work)
            print("$", *command, file=output, flush=True)
            done = subprocess.run(command, stdout=output, stderr=output, env=environment)
            if done.returncode:
                lines = log.read_text(errors="replace").strip().splitlines()
                return f"status {done.returncode}: {lines[-1]} ({log})"
    return ""


def chosen(options: argparse.Namespace) -> list[Benchmark]:
    """The benchmarks that are asked for; an unknown name ends the program."""
    names = [benchmark.name for benchmark in BENCHMARKS]
    unknown = sorted(set(options.only) - set(names))
    if unknown:
        raise SystemExit(f"error: no benchmark {', '.join(unknown)}: there are {', '.join(names)}")
    return [
        benchmark for benchmark in BENCHMARKS if not options.only or benchmark.name in options.only
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer and smaller ones: 10 minutes")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these alone")
    parser.add_argument("--output-dir", type=Path, default=Path("bench-report"))
    parser.add_argument("--data-dir", type=Path, help="folder of the official release files")
    parser.add_argument("--alternatives", metavar="PYTHON", help="of SetFit's environment")
    parser.add_argument("--neural-tangents", metavar="PYTHON", help="of its environment")
    options = parser.parse_args()
    options.data_dir = data_folder(options.data_dir).resolve()
    options.output_dir = options.output_dir.resolve()
    wanted = chosen(options)
    page = options.output_dir / "speed.md"
    if options.output_dir.exists() and any(options.output_dir.iterdir()) and not page.exists():
        raise SystemExit(
            f"error: {options.output_dir} has other files: give an empty folder by --output-dir"
        )
    options.output_dir.mkdir(parents=True, exist_ok=True)
    page.write_text("Not finished yet.\n")
    for folder in ("records", "logs"):
        # Records of an earlier call would stand on the page as if they were of this one.
        shutil.rmtree(options.output_dir / folder, ignore_errors=True)
        (options.output_dir / folder).mkdir(parents=True)
    rows: list[tuple[str, str, str]] = []
    failed = False
    started = perf_counter()
    for position, benchmark in enumerate(wanted, 1):
        minutes = benchmark.quick_minutes if options.quick else benchmark.minutes
        name = f"[{position}/{len(wanted)}] {benchmark.name}"
        if reason := reason_to_skip(benchmark, options):
            print(f"{name}: skipped: {reason}", flush=True)
            rows.append((benchmark.name, "skipped", reason))
            continue
        print(f"{name}: about {minutes:g} min on two quiet cores ...", flush=True)
        began, spent = perf_counter(), cpu_seconds()
        problem = run(benchmark, options)
        taken = f"{(perf_counter() - began) / 60:.1f} min"
        taken += f" ({(cpu_seconds() - spent) / 60:.1f} of CPU)"
        print(f"{name}: {taken}{f', FAILED: {problem}' if problem else ''}", flush=True)
        failed = failed or bool(problem)
        rows.append((benchmark.name, taken, f"FAILED: {problem}" if problem else ""))
    whole = f"{(perf_counter() - started) / 60:.1f} min ({cpu_seconds() / 60:.1f} of CPU)"
    rows.append(("all", whole, ""))
    from speed import table, write_page

    write_page(
        options.output_dir / "records",
        page,
        table(("benchmark", "wall time (CPU time)", "remark"), rows),
    )
    print()
    for benchmark_name, taken, remark in rows:
        print(f"{benchmark_name:20}{taken:>26}  {remark}".rstrip())
    print(f"{page}: tables and plots")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
