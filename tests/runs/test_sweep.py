"""Sweeps: every run once, failures recorded, killed and resumed to the same result."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from toy_files import toy_data, toy_settings

from lpft import executors
from lpft.errors import InputError
from lpft.report import build_report
from lpft.runs import sweep as sweeps
from lpft.runs.sweep import TimeEstimate, duration, run_sweep
from lpft.runs.train import train_run
from lpft.settings.configs import make_config

DIVERGING = 1e6


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return toy_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def config(data, tiny_bert, tmp_path):
    """A configuration of linear probing, or another method, in a folder below ``sweep/runs``."""

    def make(name, method="lp", sweep="sweep", **changes):
        settings = data | toy_settings(tiny_bert, method) | changes
        return make_config(settings, tmp_path / sweep / "runs" / name)

    return make


@pytest.fixture
def trained(monkeypatch):
    """The folders that train_run was called for, in order."""
    folders = []

    def counted(config, **options):
        folders.append(config.output_dir.name)
        return train_run(config, **options)

    monkeypatch.setattr(sweeps, "train_run", counted)
    return folders


def read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def states(folder: Path) -> dict[str, str]:
    return {name: run["state"] for name, run in read(folder / "sweep.json")["runs"].items()}


def metrics(folder: Path) -> dict[str, dict]:
    return {str(path.parent.name): read(path) for path in folder.rglob("metrics.json")}


@pytest.mark.heavy
def test_every_run_is_trained_as_it_would_be_alone(config, tmp_path):
    asked = {"lp": {}, "lp-ft": {"method": "lp-ft"}, "ft-1": {"method": "ft", "seed": 1}}
    configs = [config(name, **changes) for name, changes in asked.items()]
    result = run_sweep(configs, folder=tmp_path / "sweep")
    assert [outcome.folder for outcome in result.outcomes] == [c.output_dir for c in configs]
    assert {outcome.state for outcome in result.outcomes} == {"finished"}
    assert not result.failed
    for (name, changes), outcome in zip(asked.items(), result.outcomes, strict=True):
        assert outcome.reason is None
        assert outcome.seconds > 0
        alone = train_run(config(name, sweep="alone", **changes)).folder
        for file in ("metrics.json", "features.json"):
            assert (alone / file).read_bytes() == (outcome.folder / file).read_bytes()
    record = read(tmp_path / "sweep/sweep.json")
    assert list(record["runs"]) == ["runs/lp", "runs/lp-ft", "runs/ft-1"]
    assert {run["state"] for run in record["runs"].values()} == {"finished"}
    assert not (tmp_path / "sweep/.lock").exists()


def test_equal_runs_are_trained_once_and_different_ones_need_their_own_folder(
    config, trained, tmp_path
):
    twice = [config("a"), config("b", seed=1), config("a")]
    result = run_sweep(twice, folder=tmp_path / "sweep")
    assert trained == ["a", "b"]
    assert [outcome.folder.name for outcome in result.outcomes] == ["a", "b"]
    clashing = [config("c"), config("c", max_length=12)]
    with pytest.raises(
        InputError, match=r"two runs have the folder.*max-length 16 and one with 12"
    ):
        run_sweep(clashing, folder=tmp_path / "other")
    with pytest.raises(InputError, match="no runs"):
        run_sweep([], folder=tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("methods", [("lp",), ("lp", "lp-ft")])
def test_warnings_about_the_data_are_those_of_all_its_methods(
    config, trained, tmp_path, caplog, methods
):
    """Toy files have few validation rows; only fine-tuning chooses an epoch by them."""
    run_sweep([config(name, method=name) for name in methods], folder=tmp_path / "sweep")
    assert trained == list(methods)
    assert ("best epoch" in caplog.text) == ("lp-ft" in methods)
    assert caplog.text.count("rest on") + caplog.text.count("rests on") == 1


FAILURES = {
    "none.csv": {"train_file": "none.csv"},
    "diverged": {"method": "lp-ft", "learning_rate": DIVERGING, "epochs": 5},
}


@pytest.mark.parametrize("named", FAILURES)
def test_a_run_that_fails_is_recorded_and_the_others_are_done(config, tmp_path, caplog, named):
    configs = [config("first"), config("failing", **FAILURES[named]), config("last", seed=1)]
    result = run_sweep(configs, folder=tmp_path / "sweep")
    assert [outcome.state for outcome in result.outcomes] == ["finished", "failed", "finished"]
    (failed,) = result.failed
    assert named in failed.reason
    assert "\n" not in failed.reason
    entry = read(tmp_path / "sweep/sweep.json")["runs"]["runs/failing"]
    assert (entry["state"], entry["reason"]) == ("failed", failed.reason)
    run = read(failed.folder / "run.json")
    assert (run["status"], run["reason"]) == ("failed", failed.reason)
    assert f"2 of 3: runs/failing failed: {failed.reason}" in caplog.text

    report = build_report(tmp_path / "sweep")
    assert sorted(run.name for run in report.runs) == ["runs/first", "runs/last"]
    assert [(found.name, found.reason) for found in report.unread] == [
        ("runs/failing", failed.reason)
    ]
    assert failed.reason.split("'")[0] in report.page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KeyError("x"), r"unexpected KeyError: 'x' \(test_sweep\.py, line \d+\)"),
        (torch.OutOfMemoryError("much"), "does not fit in memory: lower batch_size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "does not fit in memory"),
        (PermissionError(13, "Permission denied", "/x"), "'/x' cannot be used"),
    ],
    ids=["unexpected", "GPU memory", "memory", "permission"],
)
def test_whatever_goes_wrong_is_a_reason(config, tmp_path, monkeypatch, error, reason):
    def failing(asked, **options):
        if asked.output_dir.name == "failing":
            raise error
        return train_run(asked, **options)

    monkeypatch.setattr(sweeps, "train_run", failing)
    configs = [config("failing"), config("good")]
    result = run_sweep(configs, folder=tmp_path / "sweep")
    assert [outcome.state for outcome in result.outcomes] == ["failed", "finished"]
    assert re.search(reason, result.failed[0].reason)


def test_resuming_leaves_finished_runs_and_tries_failed_ones_again(config, data, tmp_path, trained):
    missing = tmp_path / "later.csv"
    configs = [config("good"), config("late", train_file=str(missing)), config("worse")]
    run_sweep(configs[:2], folder=tmp_path / "sweep")
    assert states(tmp_path / "sweep") == {"runs/good": "finished", "runs/late": "failed"}
    finished = (tmp_path / "sweep/runs/good/run.json").read_bytes()
    missing.write_bytes(Path(data["train_file"]).read_bytes())
    trained.clear()
    result = run_sweep(configs, folder=tmp_path / "sweep", resume=True)
    assert trained == ["late", "worse"]
    assert [outcome.state for outcome in result.outcomes] == ["skipped", "finished", "finished"]
    assert result.outcomes[0].seconds > 0
    assert (tmp_path / "sweep/runs/good/run.json").read_bytes() == finished
    assert set(states(tmp_path / "sweep").values()) == {"finished"}
    found = metrics(tmp_path / "sweep")
    assert found["late"] == found["good"]


def test_a_run_that_never_began_takes_other_settings_when_it_is_resumed(config, tmp_path):
    run_sweep([config("run", train_file="none.csv", max_length=9)], folder=tmp_path / "sweep")
    result = run_sweep([config("run")], folder=tmp_path / "sweep", resume=True)
    assert [outcome.state for outcome in result.outcomes] == ["finished"]
    assert read(tmp_path / "sweep/runs/run/run.json")["config"]["max_length"] == 16


def test_a_sweep_with_other_settings_than_a_begun_run_trains_nothing(config, tmp_path, trained):
    """Otherwise its runs would be of the old settings and of the new ones."""
    run_sweep([config("run")], folder=tmp_path / "sweep")
    before = {path: path.read_bytes() for path in tmp_path.glob("sweep/**/*.json")}
    for changes, says in (
        ({"max_length": 12}, "cannot be resumed: it was started with max_length 16"),
        ({"save_features": True}, "is finished, but its features were not saved"),
    ):
        changed = [config("more", **changes), config("run", **changes)]
        trained.clear()
        with pytest.raises(InputError, match=says):
            run_sweep(changed, folder=tmp_path / "sweep", resume=True)
        assert trained == []
        assert {path: path.read_bytes() for path in tmp_path.glob("sweep/**/*.json")} == before


def test_a_finished_run_on_a_file_that_changed_is_left_and_told(config, data, tmp_path, trained):
    file = tmp_path / "data.csv"
    file.write_bytes(Path(data["train_file"]).read_bytes())
    run = config("run", train_file=str(file))
    run_sweep([run], folder=tmp_path / "sweep")
    file.write_bytes(b"\n".join(file.read_bytes().splitlines()[:-1]))
    trained.clear()
    result = run_sweep([run], folder=tmp_path / "sweep", resume=True)
    assert trained == []
    assert "data changed" in result.failed[0].reason


def test_nothing_is_replaced_unasked(config, tmp_path, trained):
    run_sweep([config("a")], folder=tmp_path / "sweep")
    with pytest.raises(InputError, match="contains a sweep: give resume=True"):
        run_sweep([config("a")], folder=tmp_path / "sweep")
    with pytest.raises(InputError, match="contradict"):
        run_sweep([config("a")], folder=tmp_path / "sweep", resume=True, overwrite=True)
    # a folder in the way stops a new sweep before anything is begun
    with pytest.raises(InputError, match="contains a run that is finished"):
        run_sweep([config("b"), config("a")], folder=tmp_path / "other")
    (tmp_path / "sweep/runs/c").mkdir()
    (tmp_path / "sweep/runs/c/thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"thesis\.tex"):
        run_sweep([config("c")], folder=tmp_path / "sweep", overwrite=True)
    assert trained == ["a"]
    assert not (tmp_path / "other").exists()


def test_overwriting_replaces_the_sweep_and_removes_what_it_has_no_more(config, tmp_path, trained):
    run_sweep([config("a"), config("b")], folder=tmp_path / "sweep")
    (tmp_path / "sweep/runs/b/mine.txt").write_text("mine")
    trained.clear()
    run_sweep([config("a", seed=1)], folder=tmp_path / "sweep", overwrite=True)
    assert trained == ["a"]
    assert states(tmp_path / "sweep") == {"runs/a": "finished"}
    assert read(tmp_path / "sweep/runs/a/run.json")["config"]["seed"] == 1
    assert [path.name for path in (tmp_path / "sweep/runs/b").iterdir()] == ["mine.txt"]


def interrupt_at(monkeypatch, number):
    """Press Ctrl-C when the training of that number begins."""
    calls = []

    def interrupted(asked, **options):
        calls.append(asked.output_dir.name)
        if len(calls) == number:
            raise KeyboardInterrupt
        return train_run(asked, **options)

    monkeypatch.setattr(sweeps, "train_run", interrupted)


def test_ctrl_c_keeps_what_is_finished(config, tmp_path, monkeypatch, trained):
    configs = [config("a"), config("b"), config("c", seed=2)]
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            run_sweep(configs, folder=tmp_path / "sweep")
    expected = {"runs/a": "finished", "runs/b": "waiting", "runs/c": "waiting"}
    assert states(tmp_path / "sweep") == expected
    result = run_sweep(configs, folder=tmp_path / "sweep", resume=True)
    assert trained == ["b", "c"]
    assert [outcome.state for outcome in result.outcomes] == ["skipped", "finished", "finished"]


@pytest.mark.heavy
def test_an_overwriting_sweep_that_was_stopped_goes_on_overwriting(
    config, tmp_path, monkeypatch, trained
):
    configs = [config(name) for name in ("a", "b", "c")]
    run_sweep(configs, folder=tmp_path / "sweep")
    started = {
        name: read(tmp_path / f"sweep/runs/{name}/run.json")["started"] for name in ("a", "b", "c")
    }
    trained.clear()
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            run_sweep(configs, folder=tmp_path / "sweep", overwrite=True)
    time.sleep(1.1)
    result = run_sweep(configs, folder=tmp_path / "sweep", resume=True)
    assert result.failed == ()
    assert set(trained) >= {"b", "c"}
    for name, before in started.items():
        assert read(tmp_path / f"sweep/runs/{name}/run.json")["started"] > before, name


def test_data_is_read_once_in_a_row_and_its_warnings_told_once(
    config, data, tmp_path, monkeypatch, caplog
):
    reads = []
    monkeypatch.setattr(
        sweeps,
        "load_data",
        lambda asked, real=sweeps.load_data: reads.append(asked.train_file) or real(asked),
    )
    other = tmp_path / "other.csv"
    other.write_bytes(Path(data["train_file"]).read_bytes())
    configs = [
        *(config(f"one-{seed}", seed=seed) for seed in range(3)),
        config("two", train_file=str(other)),
    ]
    run_sweep(configs, folder=tmp_path / "sweep")
    assert [path.name for path in reads] == ["train.csv", "other.csv"]
    told = [entry.getMessage() for entry in caplog.records if "validation has" in entry.message]
    assert len(told) == len(set(told)) == 2
    # the files may change between two sweeps
    run_sweep([config("three", train_file=str(other))], folder=tmp_path / "again")
    assert len(reads) == 3


def test_two_sweeps_cannot_have_one_folder_at_a_time(config, tmp_path, monkeypatch):
    def another(asked, **options):
        with pytest.raises(InputError, match="another process is training"):
            run_sweep([config("b")], folder=tmp_path / "sweep", resume=True)
        return train_run(asked, **options)

    monkeypatch.setattr(sweeps, "train_run", another)
    assert not run_sweep([config("a")], folder=tmp_path / "sweep").failed


@pytest.mark.parametrize("text", ["{", "[]", '{"runs": {}}', '{"runs": [], "started": "x"}'])
def test_a_damaged_record_is_refused(config, tmp_path, text):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep/sweep.json").write_text(text)
    for flags in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(InputError, match="contains a sweep that cannot be used"):
            run_sweep([config("a")], folder=tmp_path / "sweep", **flags)
    assert (tmp_path / "sweep/sweep.json").read_text() == text


def test_runs_that_cannot_be_tried_count_as_failed(config, tmp_path, trained):
    configs = [config("a"), config("b")]
    reasons = {configs[1].output_dir: "nothing was found for it"}
    result = run_sweep(configs, folder=tmp_path / "sweep", impossible=reasons)
    assert trained == ["a"]
    assert [outcome.reason for outcome in result.failed] == ["nothing was found for it"]
    run = read(configs[1].output_dir / "run.json")
    assert (run["status"], run["reason"]) == ("failed", "nothing was found for it")


@pytest.mark.heavy
def test_two_workers_give_the_same_results_as_one(config, tmp_path, monkeypatch):
    # one thread each, as this process has: sums over more threads differ in their last digits
    monkeypatch.setattr(executors, "available_cores", lambda: 2)

    def configs(sweep):
        return [
            config("lp-ft", "lp-ft", sweep),
            config("lora", "lora", sweep),
            config("bad", "lp", sweep, train_file="none.csv"),
        ]

    one = run_sweep(configs("sweep"), folder=tmp_path / "sweep")
    two = run_sweep(configs("two"), folder=tmp_path / "two", workers=2)
    assert [o.state for o in two.outcomes] == ["finished", "finished", "failed"]
    assert [o.state for o in one.outcomes] == [o.state for o in two.outcomes]
    assert one.failed[0].reason == two.failed[0].reason
    found = metrics(tmp_path / "two")
    assert found == metrics(tmp_path / "sweep")
    assert len(found) == 2


@pytest.mark.heavy
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_in_the_middle_and_resumed_is_the_same_as_left_alone(
    lpft, data, tiny_bert, tmp_path, workers
):
    settings = toy_settings(tiny_bert)
    described = {
        "tasks": [{"name": "toy", **data}],
        "models": [settings.pop("model")],
        "methods": ["ft", settings.pop("method")],
        "seeds": 2,
        "settings": settings | {"epochs": 6},
    }
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(described))
    assert lpft("sweep", path, "--output-dir", tmp_path / "alone").status == 0

    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "lpft", "sweep", path, f"--output-dir={folder}"]
    process = subprocess.Popen(
        [*command, f"--workers={workers}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=use_two_cores,
    )
    while not (finished(folder) and checkpoints(folder)):
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    left = finished(folder)
    assert 0 < len(left) < 4
    stamps = {run: (run / "run.json").stat().st_mtime_ns for run in left}

    # A worker of the killed sweep may still hold its run's folder: the resumed sweep waits for it.
    outcome = lpft("sweep", path, "--output-dir", folder, "--resume")
    assert outcome.status == 0, outcome.out
    assert len(finished(folder)) == 4
    for run, stamp in stamps.items():
        assert (run / "run.json").stat().st_mtime_ns == stamp
    alone, resumed = metrics(tmp_path / "alone"), metrics(folder)
    assert resumed.keys() == alone.keys()
    assert len(alone) == 4
    for name, values in alone.items():
        for split, expected in values["splits"].items():
            found = resumed[name]["splits"][split]
            calibrated = expected.pop("calibrated")
            assert found.pop("calibrated") == pytest.approx(calibrated, rel=1e-6, abs=1e-6)
            for part in ("per_class", "accuracy_interval"):
                assert found.pop(part) == expected.pop(part)
            assert found == pytest.approx(expected, rel=1e-6, abs=1e-6), (name, split)


def use_two_cores() -> None:
    """One thread for each of two workers, as this process has."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])


def finished(folder: Path) -> list[Path]:
    runs = folder.glob("runs/*/*/run.json")
    return [path.parent for path in runs if read(path)["status"] == "finished"]


def checkpoints(folder: Path) -> list[Path]:
    return list(folder.glob("runs/*/*/.work/checkpoints/checkpoint-*/SHA256SUMS"))


def estimate(workers=1, *timed):
    made = TimeEstimate(workers)
    for run, seconds in timed:
        made.add(run, seconds)
    return made


def of_method(method="ft", **settings):
    return make_config({"task": "cb", "method": method, **settings}, Path("run"))


def test_no_time_is_estimated_for_runs_unlike_any_that_finished():
    assert estimate().describe([of_method()]) == "1 left, too early to say how long they take"
    other = estimate(1, (of_method("lp"), 1))
    assert other.describe([of_method()] * 2) == "2 left, too early to say how long they take"
    assert other.describe([]) == "none left"


@pytest.mark.parametrize(("workers", "minutes"), [(1, 6), (3, 2), (9, 2)])
def test_runs_take_the_mean_of_their_kind_and_workers_share_them(workers, minutes):
    timed = (of_method(seed=0), 100), (of_method(seed=1, learning_rate=1e-3), 140)
    left = [of_method(seed=seed) for seed in (2, 3, 4)]
    assert estimate(workers, *timed).describe(left) == f"about {minutes} min left"


def test_runs_of_another_kind_are_estimated_by_their_method_and_the_clause_says_so():
    left = [of_method(epochs=1, seed=1), of_method(epochs=9), of_method(epochs=9, seed=1)]
    described = estimate(1, (of_method(epochs=1), 30)).describe(left)
    assert described == "perhaps 2 min left (kinds of run not timed yet: 1)"


def test_durations():
    durations = {0.4: "0 s", 89.4: "89 s", 90: "2 min", 5400: "1 h 30 min", 12000: "3 h 20 min"}
    assert {seconds: duration(seconds) for seconds in durations} == durations
