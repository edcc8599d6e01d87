"""Ten thousand to a million rows through ``lpft train --method lp``: memory, time and the head.

    python benchmarks/large_data.py --rows 1000000 [--width 64]

A one-layer BERT with random weights, ``width`` wide, is probed on generated texts of 6 to 15 words
of a vocabulary of 5,000, in four classes; one word in four is of the class's own, and 2 % of the
labels are wrong. The training is a process of its own in one thread with an empty cache; its record
has its wall and CPU time, the seconds of each phase, and its peak memory (``ru_maxrss``, which
counts pages of mapped files). ``head`` compares the streaming solver with scikit-learn's on the
features of the first 10,000 rows, at the strength that the folds chose: the largest difference of a
probability, and the CPU seconds of both.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import record
from safetensors.numpy import load_file
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import AutoModel, BertConfig, PreTrainedTokenizerFast

from lpft.training import probing

CLASSES = ("business", "science", "sport", "world")
VOCABULARY, OWN_WORDS = 5000, 200
SPECIAL = ["<pad>", "<unk>", "<cls>", "<sep>"]
SYLLABLES = (
    "ba",
    "ce",
    "di",
    "fo",
    "gu",
    "ha",
    "je",
    "ki",
    "lo",
    "mu",
    "na",
    "pe",
    "ro",
    "su",
    "ta",
)
COMPARED = 10_000
BLOCK = 10_000


def vocabulary() -> list[str]:
    """Made-up words, all different."""
    generator, words = np.random.default_rng(0), dict[str, None]()
    while len(words) < VOCABULARY:
        drawn = generator.integers(0, len(SYLLABLES), generator.integers(2, 5))
        words["".join(SYLLABLES[index] for index in drawn)] = None
    return list(words)


def write_rows(path: Path, rows: int) -> Path:
    """A CSV file of so many texts with their labels; the first rows of any two files are equal."""
    generator, words = np.random.default_rng(1), np.array(vocabulary(), dtype=object)
    with path.open("w") as file:
        file.write("id,text,label\n")
        for start in range(0, rows, BLOCK):
            labels = generator.integers(0, len(CLASSES), BLOCK)
            lengths = generator.integers(6, 16, BLOCK)
            topic = np.repeat(labels, lengths)
            usual = generator.zipf(1.3, len(topic)) % VOCABULARY
            own = len(CLASSES) * generator.integers(0, OWN_WORDS, len(topic)) + topic
            drawn = words[np.where(generator.random(len(topic)) < 0.25, own, usual)]
            wrong = generator.random(BLOCK) < 0.02
            given = np.where(wrong, (labels + 1) % len(CLASSES), labels)
            ends = np.cumsum(lengths)
            for row in range(min(BLOCK, rows - start)):
                text = " ".join(drawn[ends[row] - lengths[row] : ends[row]])
                file.write(f"{start + row},{text},{CLASSES[given[row]]}\n")
    return path


def save_model(folder: Path, width: int) -> None:
    """One layer, and a token for each word."""
    tokens = {token: index for index, token in enumerate([*SPECIAL, *vocabulary()])}
    words = Tokenizer(WordLevel(tokens, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(
        single="<cls> $A <sep>", special_tokens=[("<cls>", 2), ("<sep>", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", pad_token="<pad>", model_max_length=64
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokens),
        hidden_size=width,
        num_hidden_layers=1,
        num_attention_heads=width // 32,
        intermediate_size=width,
        max_position_embeddings=64,
    )
    AutoModel.from_config(config).save_pretrained(folder)


def train(folder: Path, rows: int) -> dict[str, Any]:
    """What a training of its own process took."""
    run, cache = folder / f"run-{rows}", folder / f"cache-{rows}"
    command = [sys.executable, "-m", "lpft", "train", "--method", "lp", "--max-length", "64"]
    command += ["--model", str(folder / "model"), "--output-dir", str(run)]
    command += ["--train-file", str(folder / f"{rows}.csv")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LPFT_CACHE_DIR": str(cache)}
    started = time.perf_counter()
    with (folder / f"log-{rows}").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise RuntimeError((folder / f"log-{rows}").read_text())
    seconds = time.perf_counter() - started
    said = json.loads((run / "run.json").read_text())
    metrics = json.loads((run / "metrics.json").read_text())["splits"]["validation"]
    timings = said["timings"]
    known = sum(timings[name] for name in ("features", "probing", "evaluation"))
    return {
        "rows": rows,
        "wall_seconds": round(seconds, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_gigabytes": round(usage.ru_maxrss / 1e6 * 1.024, 2),
        "phases_in_wall_seconds": {
            **{name: round(timings[name], 1) for name in sorted(timings)},
            "page": round(seconds - timings["total"], 1),
            "other": round(timings["total"] - known, 1),
        },
        "solver": said["probe"]["solver"],
        "inverse_strength": said["probe"]["inverse_strength"],
        "accuracy": metrics["accuracy"],
        "calibrated_nll": metrics["calibrated"]["nll"],
    }


def compare(folder: Path, rows: int, strength: float) -> dict[str, Any]:
    """The streaming solver beside scikit-learn's on features that both can hold."""
    (path,) = (folder / f"cache-{rows}" / "features").glob("*.safetensors")
    features = load_file(path)["array"][:COMPARED]
    with (folder / f"{rows}.csv").open() as file:
        names = [line.strip().rpartition(",")[2] for line in file][1 : len(features) + 1]
    labels = np.array([CLASSES.index(name) for name in names])
    started = time.process_time()
    model = LogisticRegression(
        C=strength,
        solver=probing.SOLVER,
        tol=probing.TOLERANCE,
        max_iter=probing.MAX_ITERATIONS,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(features.astype(np.float64), labels)
    by_scikit = time.process_time() - started
    probing.STREAMED_NUMBERS = 0
    started = time.process_time()
    probe = probing.fit_probe(features, labels, len(CLASSES), inverse_strength=strength)
    streamed = time.process_time() - started
    found = softmax(features.astype(np.float64) @ probe.weight.T + probe.bias, axis=1)
    return {
        "rows": len(features),
        "inverse_strength": strength,
        "largest_difference_of_a_probability": float(
            np.abs(found - model.predict_proba(features.astype(np.float64))).max()
        ),
        "scikit_learn_cpu_seconds": round(by_scikit, 2),
        "streaming_cpu_seconds": round(streamed, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=64)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(folder / "model", arguments.width)
        write_rows(folder / f"{arguments.rows}.csv", arguments.rows)
        run = train(folder, arguments.rows)
        print(json.dumps(run), flush=True)
        head = compare(folder, arguments.rows, run["inverse_strength"])
    record(f"large_data_{arguments.rows}", {"width": arguments.width, "run": run, "head": head})


if __name__ == "__main__":
    main()
