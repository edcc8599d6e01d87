"""Several processes train what one does; those that do not meet, or differ, say so."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from tiny_models import save_tiny_model
from toy_files import toy_data

from lpft import distributed
from lpft.errors import InputError
from lpft.files import DIGESTS
from lpft.results.folder import WORK
from lpft.training import probing


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny BERT without dropout, whose elements depend on the process."""
    folder = save_tiny_model("bert", tmp_path_factory.mktemp("model") / "bert")
    config = json.loads((folder / "config.json").read_text())
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config | dropout))
    return folder


@pytest.fixture
def arguments(model, tmp_path):
    """``lpft train`` on toy files, without a folder; three steps of 15, 15 and 10 rows."""
    data = toy_data(tmp_path / "data")
    files = ("train_file", "validation_file", "test_file")
    named = [part for name in files for part in (f"--{name.replace('_', '-')}", data[name])]
    settings = "--epochs 1 --batch-size 15 --max-length 16 --learning-rate 1e-3 --device cpu"
    return ["train", "--model", str(model), *named, *settings.split(), "--no-report"]


def start(folder: Path, number: int, size: int, port: int, arguments) -> subprocess.Popen:
    """One of several processes of ``lpft train``."""
    command = [sys.executable, "-m", "lpft", *arguments, "--distributed"]
    return launched(folder, number, size, port, [*command, "--output-dir", str(folder)])


def launched(folder: Path, number: int, size: int, port: int, command) -> subprocess.Popen:
    """One of several processes, with a cache and a number of threads as on a machine of its own."""
    variables = {
        "RANK": str(number),
        "LOCAL_RANK": str(number),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "LPFT_CACHE_DIR": str(folder.parent / f"cache-{number}"),
        "OMP_NUM_THREADS": str(number + 1),
    }
    return subprocess.Popen(
        command,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def together(folder: Path, size: int, arguments, *others) -> list[tuple[int, str, str]]:
    """Status, output and errors of processes that start together; the last may have ``others``."""
    port = free_port()
    processes = [
        start(folder, number, size, port, [*arguments, *(others if number == size - 1 else ())])
        for number in range(size)
    ]
    ended = [process.communicate() for process in processes]
    return [(p.returncode, *texts) for p, texts in zip(processes, ended, strict=True)]


def difference(one: Path, other: Path) -> float:
    first, second = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def metrics(folder: Path):
    splits = json.loads((folder / "metrics.json").read_text())["splits"]
    return {f"{split} {name}": value for split, of in splits.items() for name, value in of.items()}


_SMALL_GRADIENTS = ["--head-scale", "0.01"]
"""Adam turns an error dg of a gradient into one of up to ``rate / epsilon * dg`` of a weight, which
it is where the gradient's entry is near 0. With a rate of 1e-3 and an epsilon of 1e-8, gradients of
batches of 2 rows, rounded to 3e-10, come to 3e-5 a step: single entries differed by 8e-6, and by
1.1e-5 with a tenth of the head. dg falls with the head's scale: a hundredth leaves 1e-6."""


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("size", "options"),
    [
        (2, ["--method", "lp-ft", "--class-weight", "balanced"]),
        (3, ["--method", "ft", "--batch-size", "2", "--max-train-samples", "5", *_SMALL_GRADIENTS]),
        (2, ["--method", "lp-lora", "--lora-rank", "2"]),
    ],
    ids=["two", "three-of-a-smaller-batch", "lora"],
)
def test_several_processes_train_what_one_does(lpft, tmp_path, arguments, size, options):
    arguments = [*arguments, *options]
    alone = lpft(*arguments, "--output-dir", tmp_path / "one")
    assert alone.status == 0, alone.err
    ended = together(tmp_path / "several", size, arguments)
    assert [status for status, _, _ in ended] == [0] * size, ended
    assert difference(tmp_path / "one", tmp_path / "several") < 1e-5
    numbers = metrics(tmp_path / "one")
    assert {name for name, value in numbers.items() if isinstance(value, float)}
    for name, value in metrics(tmp_path / "several").items():
        if isinstance(value, float):
            assert value == pytest.approx(numbers[name], abs=1e-4), name
    records = [json.loads((tmp_path / of / "run.json").read_text()) for of in ("one", "several")]
    assert [record["processes"] for record in records] == [1, size]
    assert records[0]["probe"] == records[1]["probe"]  # each fits folds of its own
    for _, out, err in ended[1:]:  # they have nothing to say
        assert (out, err) == ("", "")


@pytest.mark.heavy
def test_folds_score_the_same(lpft, tmp_path, arguments):
    place = arguments.index("--validation-file")
    arguments = [*arguments[:place], *arguments[place + 2 :]]
    alone = lpft(*arguments, "--output-dir", tmp_path / "one")
    assert alone.status == 0, alone.err
    ended = together(tmp_path / "several", 2, arguments)
    assert [status for status, _, _ in ended] == [0, 0], ended
    assert difference(tmp_path / "one", tmp_path / "several") < 1e-5


@pytest.mark.heavy
def test_a_training_that_was_killed_goes_on(tmp_path, arguments):
    arguments = [*arguments, "--epochs", "4"]
    whole = together(tmp_path / "whole", 2, arguments)
    assert [status for status, _, _ in whole] == [0, 0], whole
    folder, port = tmp_path / "killed", free_port()
    first = [*arguments, "--precision", "float32"]  # which the run keeps
    processes = [start(folder, number, 2, port, first) for number in (0, 1)]
    while not (folder / WORK / "checkpoints" / "checkpoint-3" / DIGESTS).exists():
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    for process in processes:
        process.kill()
        process.communicate()
    ended = together(folder, 2, [*arguments, "--precision", "auto", "--resume"])
    assert [status for status, _, _ in ended] == [0, 0], ended
    assert "continuing from checkpoint-" in ended[0][2]
    assert difference(tmp_path / "whole", folder) == 0
    again = together(folder, 2, [*arguments, "--resume"])
    assert [status for status, _, _ in again] == [0, 0], again
    assert "is finished already" in again[0][2]


PROBE = """
import json, sys
import numpy as np
from dataclasses import replace
from lpft import distributed
from lpft.training import probing, streaming

distributed.join()
probing.STREAMED_NUMBERS, streaming._CHUNK_NUMBERS = 0, 1 << 12
if distributed.rank() == 1:  # on another machine the coordinates have other last digits and signs
    of = streaming.Coordinates.of
    streaming.Coordinates.of = lambda *given, **options: replace(
        of(*given, **options), directions=-of(*given, **options).directions * (1 + 1e-14)
    )
arrays = np.load(sys.argv[1])
probe = probing.fit_probe(arrays["features"], arrays["labels"], 3)
print(json.dumps([probe.inverse_strength, probe.weight.tolist(), probe.converged]))
distributed.leave()
"""


@pytest.mark.heavy
def test_machines_that_round_differently_fit_one_streamed_probe(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    mixing = generator.normal(size=(32, 32)) * np.logspace(0, -2, 32)
    features = (generator.normal(size=(900, 32)) @ mixing + 3).astype(np.float32)
    labels = (features @ generator.normal(size=(32, 3)) + generator.gumbel(size=(900, 3))).argmax(1)
    np.savez(tmp_path / "rows.npz", features=features, labels=labels)
    one_thread = ["env", "OMP_NUM_THREADS=1"]  # others would wait for a core in every pass
    command, port = (
        [*one_thread, sys.executable, "-c", PROBE, str(tmp_path / "rows.npz")],
        free_port(),
    )
    processes = [launched(tmp_path, number, 2, port, command) for number in (0, 1)]
    ended = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended
    (strength, weight, converged), other = (json.loads(out) for out, _ in ended)
    assert [strength, weight, converged] == other
    assert converged
    monkeypatch.setattr(probing, "STREAMED_NUMBERS", 0)
    alone = probing.fit_probe(features, labels, 3)
    assert strength == pytest.approx(alone.inverse_strength)
    np.testing.assert_allclose(weight, alone.weight, atol=1e-4)


@pytest.mark.heavy
def test_processes_with_other_settings_are_refused(tmp_path, arguments):
    ended = together(tmp_path / "run", 2, arguments, "--learning-rate", "2e-3")
    assert [status for status, _, _ in ended] == [2, 2]
    assert "do not have the same settings" in ended[0][2]


def test_a_process_whose_others_do_not_come_gives_up(monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    with pytest.raises(InputError, match=r"process 1 of 2 did not meet the others within 1 s"):
        distributed.join(seconds=1)
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(InputError, match=r"process 0 of 2 did not meet the others within 1 s"):
        distributed.join(seconds=1)
    assert not distributed.joined()


def test_more_processes_than_gpus_are_refused_there_alone(monkeypatch):
    monkeypatch.setattr(distributed, "_joined", True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    distributed.check_device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "2")
    distributed.check_device("cpu")
    with pytest.raises(InputError, match="at most 2 processes"):
        distributed.check_device("cuda")


def test_what_cannot_be_shared_is_refused_before_any_waiting(lpft, arguments):
    outcome = lpft(*arguments, "--distributed")
    assert outcome.status == 2
    assert "--distributed needs a launcher" in outcome.err
    for option in ("--method auto", "--seeds 2"):
        outcome = lpft(*arguments, *option.split(), "--distributed")
        assert outcome.status == 2
        assert "--distributed shares one training" in outcome.err
