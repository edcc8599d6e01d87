"""``lpft predict`` as a job: a million rows in constant memory, killed and resumed.

A one-layer BERT with random weights is probed on 300 short texts. Then processes of their own
predict a file of ten thousand and one of a million rows (4 to 12 words); the second is killed by
SIGKILL half-way and resumed, and its file compared with that of the job that was left alone.

    python benchmarks/predict_rows.py [--rows 1000000]
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from hashlib import file_digest
from pathlib import Path
from typing import Any

import torch
from common import record
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import AutoModel, BertConfig, PreTrainedTokenizerFast

FEW = 10_000
ALLOWED_MEGABYTES = 200
_WORDS = """
the a it was is not very good bad fine great poor table chair lamp film meal train i we they
bought saw ate took and but then again never always quickly slowly yes no
"""
WORDS = _WORDS.split()
SPECIAL = ["<pad>", "<unk>", "<cls>", "<sep>"]
LPFT = [sys.executable, "-m", "lpft"]


def save_model(folder: Path) -> None:
    """One layer, 64 wide, and a token for each word."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *WORDS])}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(
        single="<cls> $A <sep>", special_tokens=[("<cls>", 2), ("<sep>", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", pad_token="<pad>", model_max_length=64
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=64,
    )
    AutoModel.from_config(config).save_pretrained(folder)


def lines(count: int, *, labels: bool) -> Iterator[str]:
    """A CSV file of random texts, the first word of which is the label."""
    generator = random.Random(0)
    yield "id,text,label\n" if labels else "id,text\n"
    for row in range(count):
        label = generator.choice(("good", "bad"))
        words = [label, *generator.choices(WORDS, k=generator.randint(3, 11))]
        yield f"{row},{' '.join(words)}{f',{label}' if labels else ''}\n"


def write(path: Path, count: int, *, labels: bool = False) -> Path:
    with path.open("w") as file:
        file.writelines(lines(count, labels=labels))
    return path


def predict(run: Path, file: Path, output: Path, *options: str) -> subprocess.Popen[str]:
    command = [*LPFT, "predict", str(run), "--file", str(file), "--output", str(output)]
    command += ["--keep-columns", "id", *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def measured(process: subprocess.Popen[str], started: float) -> dict[str, Any]:
    """What a process took; its last line says its own rate."""
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise RuntimeError(said)
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_megabytes": round(usage.ru_maxrss / 1024, 1),
        "said": said.strip().splitlines()[-1],
    }


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def killed_half_way(run: Path, file: Path, output: Path, rows: int) -> int:
    """Kill a job once its record has half of the rows; how many it has then."""
    job = output.with_name(f"{output.name}.partial") / "job.json"
    process = predict(run, file, output)
    kept = 0
    while kept < rows // 2 and process.poll() is None:
        time.sleep(0.05)
        if job.exists():
            kept = json.loads(job.read_text())["counts"]["rows"]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not output.exists(), "it was not killed in time"
    return int(json.loads(job.read_text())["counts"]["rows"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(folder / "model")
        train = ["train", "--train-file", str(write(folder / "train.csv", 300, labels=True))]
        train += ["--text-columns", "text", "--model", str(folder / "model"), "--method", "lp"]
        run = folder / "run"
        subprocess.run([*LPFT, *train, "--no-report", "--output-dir", str(run)], check=True)
        few, many = (write(folder / f"{count}.csv", count) for count in (FEW, rows))
        results = {}
        for count, file in ((FEW, few), (rows, many)):
            started = time.perf_counter()
            output = folder / f"{count}.out.csv"
            results[f"{count}_rows"] = measured(predict(run, file, output), started)
            print(count, results[f"{count}_rows"], flush=True)
        resumed = folder / "resumed.csv"
        kept = killed_half_way(run, many, resumed, rows)
        started = time.perf_counter()
        results["resumed"] = measured(predict(run, many, resumed, "--resume"), started)
        peaks = [results[f"{count}_rows"]["peak_megabytes"] for count in (FEW, rows)]
        record(
            "predict_rows",
            {
                "load_average": [round(load, 1) for load in os.getloadavg()],
                **results,
                "megabytes_above_those_of_ten_thousand": round(peaks[1] - peaks[0], 1),
                "allowed_megabytes": ALLOWED_MEGABYTES,
                "rows_recorded_when_killed": kept,
                "bytes": resumed.stat().st_size,
                "same_bytes_when_resumed": digest(resumed) == digest(folder / f"{rows}.out.csv"),
            },
        )


if __name__ == "__main__":
    main()
