"""What goes on with what: settings, data and weights; a killed training ends as one left alone."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import nullcontext

import pytest
from tiny_models import save_tiny_model, toy_texts
from transformers import Trainer

from lpft.errors import InputError
from lpft.results.resume import (
    check_same_inputs,
    earlier_parts,
    finished_run,
    read_sweep,
    start_record,
)
from lpft.results.schema import DataRecord, Fingerprints, RunRecord
from lpft.runs.train import train_run
from lpft.settings.configs import make_config
from lpft.training import checkpoints

ROWS, BATCH, EPOCHS = 240, 4, 6
STEPS = ROWS // BATCH * EPOCHS


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("toy")
    folder = save_tiny_model("bert", tmp_path / "model")
    files = {}
    for seed, (name, rows) in enumerate({"train": ROWS, "validation": 40, "test": 40}.items()):
        texts, labels = toy_texts(rows, seed)
        lines = [json.dumps({"text": t, "label": k}) for t, k in zip(texts, labels, strict=True)]
        files[name] = tmp_path / f"{name}.jsonl"
        files[name].write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {
        "model": str(folder),
        "train_file": files["train"],
        "validation_file": files["validation"],
        "test_file": files["test"],
        "max_length": 32,
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "learning_rate": 1e-3,
        "device": "cpu",
    }


@pytest.fixture
def settings(toy):
    return dict(toy)


@pytest.fixture(scope="module")
def of_three_epochs(toy, tmp_path_factory):
    """The metrics of a training of three epochs that nothing interrupts."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    return metrics_of(train_run(make_config(toy | {"epochs": 3}, folder)).folder)


class Steps:
    """Counts the optimisation steps of this process, and may interrupt after some of them."""

    def __init__(self, monkeypatch, interrupt_after=None):
        self.count = 0
        real = Trainer.training_step

        def step(trainer, *arguments, **keywords):
            if self.count == interrupt_after:
                raise KeyboardInterrupt
            self.count += 1
            return real(trainer, *arguments, **keywords)

        monkeypatch.setattr(Trainer, "training_step", step)


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())["splits"]


def assert_same_metrics(found, expected):
    assert found.keys() == expected.keys() == {"validation", "test"}
    for split, values in expected.items():
        assert found[split].pop("per_class") == values["per_class"]
        for name in values.keys() - {"per_class"}:
            close = pytest.approx(values[name], rel=1e-6, abs=1e-6)
            assert found[split][name] == close, (split, name)


def whole_checkpoints(folder):
    return sorted(
        int(marker.parent.name.rpartition("-")[2])
        for marker in folder.glob(".work/checkpoints/checkpoint-*/SHA256SUMS")
    )


@pytest.mark.heavy
@pytest.mark.parametrize("method", ["lp-ft", "lora"])
def test_killed_three_times_and_resumed_is_the_same_as_left_alone(
    settings, method, tmp_path, monkeypatch
):
    settings["method"] = method
    alone = train_run(make_config(settings, tmp_path / "alone"))

    folder = tmp_path / "killed"
    options = [
        f"--{name.replace('_', '-')}={value}" for name, value in settings.items() if name != "ood"
    ]
    command = [sys.executable, "-m", "lpft", "train", *options, f"--output-dir={folder}"]
    moments = random.Random(f"moments of {method}")
    reached = []
    for attempt in range(3):
        process = subprocess.Popen(
            [*command, *(["--resume"] if attempt else [])],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        seen = len(reached) and reached[-1]
        while process.poll() is None and (whole_checkpoints(folder) or [0])[-1] <= seen:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.3))
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, process.stderr.read().decode()
        reached.append(whole_checkpoints(folder)[-1])
        assert json.loads((folder / "run.json").read_text())["status"] == "running"
        for line in (folder / "history.jsonl").read_text().splitlines():
            json.loads(line)
    assert reached == sorted(set(reached))

    steps = Steps(monkeypatch)
    resumed = train_run(make_config(settings, folder), resume=True)
    assert steps.count == STEPS - reached[-1]
    assert_same_metrics(metrics_of(folder), metrics_of(alone.folder))
    assert resumed.metrics["temperature"] == pytest.approx(alone.metrics["temperature"], rel=1e-6)
    assert len(json.loads((folder / "run.json").read_text())["earlier"]) == 3
    left = {path.name for path in folder.rglob("*")}
    assert left == {path.name for path in alone.folder.rglob("*")}
    assert not [name for name in left if name.endswith((".partial", ".pt", ".bin", ".pth"))]


def record_of(config, **changes):
    return RunRecord(
        status="running",
        started="2026-01-01",
        config=config.flat(),
        data=DataRecord(),
        versions={"torch": "2.9"},
        threads=2,
        **changes,
    )


def test_other_versions_of_an_earlier_part_are_recorded_and_logged(settings, caplog):
    first = record_of(make_config(settings))
    begun = {"started": "2026-01-01", "versions": {"torch": "2.9"}, "threads": 2}
    same = earlier_parts(first, {"versions": {"torch": "2.9"}, "threads": 2})
    assert same == [begun]
    assert not caplog.messages
    again = first.updated(started="2026-01-02", earlier=same)
    parts = earlier_parts(again, {"versions": {"torch": "2.13"}, "threads": 2})
    assert [part["started"] for part in parts] == ["2026-01-01", "2026-01-02"]
    (message,) = caplog.messages
    assert "other versions:" in message
    assert "threads" not in message
    assert earlier_parts(None, {"threads": 2}) == []


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ({"learning_rate": 2e-3}, False),
        ({"seed": 1}, False),
        ({"method": "ft"}, False),
        ({"max_train_samples": 20}, False),
        ({"precision": "bfloat16"}, False),
        ({"pooling": "mean"}, False),
        ({"device": "auto", "report_to": "tensorboard", "save_model": False}, True),
        ({"data_name": "renamed", "train_file": "moved.jsonl"}, True),
    ],
    ids=str,
)
def test_a_run_goes_on_only_with_settings_of_the_same_result(settings, tmp_path, other, same):
    record = record_of(make_config(settings | {"pooling": "first"}, tmp_path))
    asked = make_config(settings | other, tmp_path)
    with nullcontext() if same else pytest.raises(InputError, match="cannot be resumed"):
        assert finished_run(asked, record) is None


@pytest.mark.parametrize(
    ("data", "encoder", "what"), [("b", "e", "the data"), ("a", "f", "the model's weights")]
)
def test_a_run_goes_on_only_with_the_same_texts_and_weights(tmp_path, data, encoder, what):
    before = Fingerprints(data={"train": "a"}, encoder="e")
    check_same_inputs(tmp_path, before, Fingerprints(data={"train": "a"}, encoder="e"))
    other = Fingerprints(data={"train": data}, encoder=encoder)
    with pytest.raises(InputError, match=f"{what} changed"):
        check_same_inputs(tmp_path, before, other)
    with pytest.raises(InputError, match="no fingerprint of the data"):
        check_same_inputs(tmp_path, None, other)


def test_a_sweep_of_another_schema_is_refused_by_name(tmp_path):
    assert read_sweep(tmp_path) is None
    start = {"executor": "local", "workers": 1, "resume": False, "overwrite": False}
    start_record(tmp_path, [tmp_path / "runs/0"], **start)
    written = read_sweep(tmp_path)
    assert {name: run.state for name, run in written.runs.items()} == {"runs/0": "waiting"}
    later = written.as_json() | {"schema": 2}
    (tmp_path / "sweep.json").write_text(json.dumps(later))
    with pytest.raises(InputError, match=r"sweep\.json: schema is 2, expected 1"):
        read_sweep(tmp_path)


@pytest.mark.parametrize(
    "interrupted_at",
    [pytest.param(75, marks=pytest.mark.heavy), 119, pytest.param(130, marks=pytest.mark.heavy)],
)
def test_a_checkpoint_in_the_middle_of_an_epoch_is_exact(
    settings, of_three_epochs, interrupted_at, tmp_path, monkeypatch
):
    settings["epochs"] = 3
    monkeypatch.setattr(checkpoints, "MINUTES_BETWEEN_CHECKPOINTS", 0.0)
    folder = tmp_path / "interrupted"
    with monkeypatch.context() as patch:
        Steps(patch, interrupt_after=interrupted_at)
        with pytest.raises(KeyboardInterrupt):
            train_run(make_config(settings, folder))
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    assert whole_checkpoints(folder)[-1] == interrupted_at
    steps = Steps(monkeypatch)
    train_run(make_config(settings, folder), resume=True)
    assert steps.count == 3 * ROWS // BATCH - interrupted_at
    assert_same_metrics(metrics_of(folder), of_three_epochs)


def test_a_half_written_checkpoint_is_never_resumed_from(
    settings, of_three_epochs, tmp_path, monkeypatch
):
    settings["epochs"] = 3
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        Steps(patch, interrupt_after=100)
        with pytest.raises(KeyboardInterrupt):
            train_run(make_config(settings, folder))
    half = folder / ".work/checkpoints/checkpoint-90"
    half.mkdir()
    (half / "trainer_state.json").write_text('{"global_')
    train_run(make_config(settings, folder), resume=True)
    assert_same_metrics(metrics_of(folder), of_three_epochs)


def test_a_run_that_was_moved_goes_on_with_its_best_epoch(
    settings, of_three_epochs, tmp_path, monkeypatch
):
    settings["epochs"] = 3
    with monkeypatch.context() as patch:
        Steps(patch, interrupt_after=150)
        with pytest.raises(KeyboardInterrupt):
            train_run(make_config(settings, tmp_path / "before"))
    (tmp_path / "before").rename(tmp_path / "after")
    train_run(make_config(settings, tmp_path / "after"), resume=True)
    assert_same_metrics(metrics_of(tmp_path / "after"), of_three_epochs)


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(settings, tmp_path):
    settings |= {"epochs": 1, "method": "ft"}
    runs = [
        metrics_of(train_run(make_config(settings | {"seed": seed}, tmp_path / name)).folder)
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    ]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_a_kill_during_an_epochs_evaluation_does_not_skip_it(
    settings, of_three_epochs, tmp_path, monkeypatch
):
    settings["epochs"] = 3
    monkeypatch.setattr(checkpoints, "MINUTES_BETWEEN_CHECKPOINTS", 0.0)
    real = Trainer.evaluate

    def evaluate(trainer, *arguments, **keywords):
        if trainer.state.global_step == 2 * ROWS // BATCH:
            raise KeyboardInterrupt
        return real(trainer, *arguments, **keywords)

    folder = tmp_path / "interrupted"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "evaluate", evaluate)
        with pytest.raises(KeyboardInterrupt):
            train_run(make_config(settings, folder))
    train_run(make_config(settings, folder), resume=True)
    assert_same_metrics(metrics_of(folder), of_three_epochs)
    epochs = [
        row["epoch"]
        for row in map(json.loads, (folder / "history.jsonl").read_text().splitlines())
        if row["event"] == "evaluation"
    ]
    assert epochs == [0, 1, 2, 3]
