"""Prediction beside sentence-transformers' ``encode`` and ONNX Runtime by hand, and start-up.

MiniLM is probed on TREC questions and on IMDb sentences. Everything then reads the same other texts
in one process and one thread, cut at the same length, in turns. ``encode`` gives embeddings at its
best of several batch sizes (it sorts by length itself); "by hand" is the exported graph with
Transformers' tokenizer in sorted batches of 32. Rates are texts per second of CPU time, which the
rest of a busy machine changes less than wall time; ratios are medians over rounds.

    python benchmarks/prediction.py --data-dir DIR [--rows 200] [--rounds 3]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from common import record
from few_rows import read_pool

from lpft import TextClassifier
from lpft.data import Examples
from lpft.export import export_run, open_onnx
from lpft.model.loading import packaged_minilm
from lpft.results.saved import open_saved

TRAINING_ROWS = 300
BATCH_SIZES = (8, 16, 32)
BY_HAND = 32
MAX_LENGTH = 128
ONE = "How far is it from Denver to Aspen ?"
LPFT = (sys.executable, "-m", "lpft")
ENCODE_ONE = (
    "import sys; from sentence_transformers import SentenceTransformer; "
    "print(SentenceTransformer(sys.argv[1], device='cpu').encode([sys.argv[2]]).shape)"
)

Texts = tuple[list[str], np.ndarray]


def trec(folder: Path) -> Texts:
    pool = read_pool("trec", folder)
    return [str(text) for text in pool.texts], pool.labels


def imdb(folder: Path) -> Texts:
    lines = (folder / "uci_sentences/imdb_labelled.txt").read_text(encoding="utf-8").split("\n")
    rows = [line.rpartition("\t") for line in lines if line.strip()]
    order = np.random.default_rng(0).permutation(len(rows))
    return [rows[row][0].strip() for row in order], np.array([int(rows[row][2]) for row in order])


class ByHand:
    """What a user of ONNX Runtime writes: sort by length, pad, run."""

    def __init__(self, export: Path) -> None:
        from onnxruntime import InferenceSession, SessionOptions
        from transformers import AutoTokenizer

        options = SessionOptions()
        options.intra_op_num_threads = 1
        self.tokenizer = AutoTokenizer.from_pretrained(export)
        self.session = InferenceSession(export / "model.onnx", options)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        order = np.argsort([-len(text) for text in texts], kind="stable")
        result = []
        for start in range(0, len(texts), BY_HAND):
            batch = [texts[row] for row in order[start : start + BY_HAND]]
            tokens = self.tokenizer(batch, padding=True, truncation=True, return_tensors="np")
            result.append(self.session.run(["probabilities"], dict(tokens))[0])
        return np.concatenate(result)[np.argsort(order)]


def in_turns(actions: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each action in each round, after a first that is not counted."""
    spent: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(rounds + 1):
        for name, action in actions.items():
            started = process_time()
            action()
            if number:
                spent[name].append(process_time() - started)
    return spent


def median_ratio(ours: list[float], theirs: list[float]) -> float:
    """How many times as fast ours is."""
    return round(statistics.median(b / a for a, b in zip(ours, theirs, strict=True)), 2)


def measure(name: str, data: Texts, rows: int, rounds: int, encoder: Any, folder: Path) -> Any:
    texts, labels = data
    run = folder / name
    classifier = TextClassifier("minilm", method="lp", max_length=MAX_LENGTH, device="cpu")
    classifier.fit(texts[:TRAINING_ROWS], labels[:TRAINING_ROWS]).save(run)
    chosen = slice(TRAINING_ROWS, TRAINING_ROWS + rows)
    texts, labels = texts[chosen], labels[chosen]
    exact = export_run(run, folder / f"{name}-onnx", "onnx").folder
    examples = Examples([str(row) for row in range(len(texts))], list(texts), labels)
    int8 = export_run(run, folder / f"{name}-int8", "onnx", quantization="int8", rows=examples)
    saved, by_onnx, by_int8 = open_saved(run, "cpu"), open_onnx(exact), open_onnx(int8.folder)
    hand = ByHand(exact)
    actions: dict[str, Callable[[], Any]] = {
        f"encode, batch size {size}": partial(encoder.encode, texts, batch_size=size)
        for size in BATCH_SIZES
    }
    actions |= {
        "features": lambda: classifier.features(texts),
        "predict_proba": lambda: classifier.predict_proba(texts),
        "backend onnx": lambda: by_onnx.predict_proba(texts),
        "int8": lambda: by_int8.predict_proba(texts),
        "ONNX Runtime by hand": lambda: hand(texts),
    }
    spent = in_turns(actions, rounds)
    sizes = [f"encode, batch size {size}" for size in BATCH_SIZES]
    best = min(sizes, key=lambda size: statistics.median(spent[size]))
    one = in_turns(
        {
            "encode": lambda: [encoder.encode([text]) for text in texts[:20]],
            "TextClassifier.predict_proba": lambda: [
                classifier.predict_proba([text]) for text in texts[:20]
            ],
            "backend onnx": lambda: [by_onnx.predict_proba([text]) for text in texts[:20]],
            "int8": lambda: [by_int8.predict_proba([text]) for text in texts[:20]],
            "ONNX Runtime by hand": lambda: [hand([text]) for text in texts[:20]],
        },
        rounds,
    )
    expected = saved.predict_proba(texts)
    ours = ("features", "predict_proba", "backend onnx", "int8")
    found = {
        "texts": len(texts),
        "mean_words": round(float(np.mean([len(text.split()) for text in texts])), 1),
        "rows_per_cpu_second": {
            action: round(len(texts) / statistics.median(times), 1)
            for action, times in spent.items()
        },
        "best_encode": best,
        "times_as_fast_as_encode": {one: median_ratio(spent[one], spent[best]) for one in ours},
        "times_as_fast_as_onnx_by_hand": median_ratio(
            spent["backend onnx"], spent["ONNX Runtime by hand"]
        ),
        "largest_difference_of_a_probability_from_torch": {
            "backend onnx": float(np.abs(by_onnx.predict_proba(texts) - expected).max()),
            "int8": float(np.abs(by_int8.predict_proba(texts) - expected).max()),
        },
        "cpu_ms_of_one_text": {
            action: round(1000 * statistics.median(times) / 20, 2) for action, times in one.items()
        },
        "int8": int8.record["quantization"],
    }
    print(name, found, flush=True)
    return found


def cpu_seconds(command: Sequence[str], cache: Path) -> float:
    """CPU seconds of a process from its start to its end."""
    environment = {**os.environ, "LPFT_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise RuntimeError(f"{command} ended with status {status}")
    return usage.ru_utime + usage.ru_stime


def start_up(folder: Path, rounds: int) -> dict[str, float]:
    """CPU seconds of whole processes: medians over rounds, in turns, after a first one."""
    python = (sys.executable, "-c")
    predict = (*LPFT, "predict", str(folder / "trec"))
    table = folder / "rows.csv"
    table.write_text("text,label\n" + "".join(f"a text {n},{n % 2}\n" for n in range(40)))
    commands = {
        "import lpft": (*python, "import lpft"),
        **{
            f"lpft {arguments}": (*LPFT, *arguments.split())
            for arguments in ("--help", "predict --help", "tasks", "models", "methods")
        },
        "lpft check of 40 rows": (*LPFT, "check", "--train-file", str(table)),
        "lpft predict of one text, by torch": (*predict, "--text", ONE),
        "lpft predict of one text, by onnx": (*predict, "--backend", "onnx", "--text", ONE),
        "sentence-transformers encode of one text": (
            *python,
            ENCODE_ONE,
            str(packaged_minilm()),
            ONE,
        ),
        "import torch": (*python, "import torch"),
        "from transformers import PreTrainedModel": (
            *python,
            "from transformers import PreTrainedModel",
        ),
    }
    spent: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            seconds = cpu_seconds(command, folder / "cache")
            if number:
                spent[name].append(seconds)
    return {name: round(statistics.median(times), 2) for name, times in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(packaged_minilm()), device="cpu")
    encoder.max_seq_length = MAX_LENGTH
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measured = {
            name: measure(
                name, read(options.data_dir), options.rows, options.rounds, encoder, folder
            )
            for name, read in (("trec", trec), ("imdb", imdb))
        }
        record(
            "prediction",
            {
                "threads": 1,
                "max_length": MAX_LENGTH,
                "rounds": options.rounds,
                "load_average": [round(load, 1) for load in os.getloadavg()],
                **measured,
                "start_up_cpu_seconds": start_up(folder, options.rounds),
            },
        )


if __name__ == "__main__":
    main()
