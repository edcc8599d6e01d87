"""Executors: every task once, a share of the cores each, no process that outlives its parent."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sweep_work

from lpft import executors
from lpft.errors import InputError
from lpft.executors import available_cores, get_executor, run_local

TESTS = Path(__file__).resolve().parent


def children():
    return {child.pid for child in multiprocessing.active_children()}


def test_one_worker_is_this_process_and_keeps_the_order():
    done = list(run_local(lambda task: (task, os.getpid()), "abc", 1))
    assert done == [(0, ("a", os.getpid())), (1, ("b", os.getpid())), (2, ("c", os.getpid()))]


@pytest.mark.heavy
def test_workers_are_processes_with_a_share_of_the_cores_each():
    before = children()
    done = dict(run_local(sweep_work.describe, ["a", "b", "c", "d", "e"], 2))
    assert {place: found[0] for place, found in done.items()} == dict(enumerate("abcde"))
    processes = {process for _, process, _, _ in done.values()}
    assert len(processes) == 2
    assert os.getpid() not in processes
    threads = max(1, available_cores() // 2)
    for _, _, variables, used in done.values():
        assert set(variables.values()) == {str(threads)}
        assert used == threads
    assert children() == before


@pytest.mark.heavy
def test_workers_work_at_the_same_time(tmp_path):
    assert [met for _, met in run_local(sweep_work.meet, [(tmp_path, 2)] * 2, 2)] == [True, True]


@pytest.mark.heavy
def test_a_worker_that_dies_takes_no_other_task_with_it():
    done = dict(run_local(sweep_work.die_if_told, ["a", "die", "b", "die", "c"], 2))
    assert done == {0: "a", 1: None, 2: "b", 3: None, 4: "c"}


@pytest.mark.heavy
@pytest.mark.parametrize("interrupts", [True, False], ids=["as Python", "as other libraries"])
def test_an_interrupted_parent_interrupts_its_workers_and_waits_for_them(tmp_path, interrupts):
    """Libraries such as polars install a handler after which system calls go on waiting."""
    path = tmp_path / "state"
    before = children()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.siginterrupt(signal.SIGINT, interrupts)
    sweep_work.interrupt_once_begun(path, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        list(run_local(sweep_work.wait_for_interruption, [path, tmp_path / "other"], 2))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert path.read_text().startswith("interrupted")
    assert children() == before


@pytest.mark.heavy
def test_workers_of_a_parent_that_is_killed_end_by_themselves(tmp_path):
    path = tmp_path / "state"
    script = tmp_path / "main.py"
    script.write_text(
        "import sys, sweep_work\n"
        "from pathlib import Path\n"
        "from lpft.executors import run_local\n"
        "if __name__ == '__main__':\n"
        "    paths = [Path(name) for name in sys.argv[1:]]\n"
        "    list(run_local(sweep_work.wait_for_interruption, paths, 2))\n"
    )
    search = os.pathsep.join([str(TESTS), *sys.path])
    parent = subprocess.Popen(
        [sys.executable, script, path, tmp_path / "other"],
        env=os.environ | {"PYTHONPATH": search},
        stderr=subprocess.DEVNULL,
    )
    while not (path.exists() and path.read_text().startswith("began")):
        assert parent.poll() is None
        time.sleep(0.01)
    worker = int(path.read_text().split()[1])
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while is_alive(worker):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert path.read_text() == f"interrupted {worker}"


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize(
    ("gpus", "workers", "each", "expected"),
    [
        ("", 2, None, [None, None]),
        ("0,1", 2, None, ["0", "1"]),
        ("3,5", 4, None, ["3", "5", "3", "5"]),
        ("0,1,2,3", 2, None, ["0", "1"]),
        ("0,1,2,3", 2, 2, ["0,1", "2,3"]),
        ("0", 2, 0.5, ["0", "0"]),
        ("0", 2, 0, ["", ""]),
    ],
)
def test_local_workers_have_gpus_of_their_own(monkeypatch, gpus, workers, each, expected):
    monkeypatch.setattr(executors, "visible_gpus", lambda: gpus.split(",") if gpus else [])
    found = executors._devices(workers, each)
    assert [environment.get("CUDA_VISIBLE_DEVICES") for environment in found] == expected


def test_more_gpus_than_there_are_and_numbers_out_of_range_are_refused(monkeypatch):
    for gpus, each in (("", 1), ("0", 1), ("0,1", 2), ("", 0.5)):
        monkeypatch.setattr(
            executors, "visible_gpus", lambda gpus=gpus: gpus.split(",") if gpus else []
        )
        with pytest.raises(InputError, match="more GPUs than"):
            executors._devices(3, each)
    for wrong in ({"cpus": 0}, {"cpus": -1.0}, {"cpus": float("nan")}):
        with pytest.raises(InputError, match=r"cpus_per_run .* must be a number above 0"):
            get_executor("local", 2, **wrong)
    for gpus in (-1, -0.5, 1.5, float("nan"), float("inf")):
        with pytest.raises(InputError, match=r"gpus_per_run .* must be a fraction"):
            get_executor("local", 2, gpus=gpus)


def test_unknown_executors_and_missing_packages_are_named(monkeypatch):
    with pytest.raises(InputError, match="executor cluster is unknown: expected one of local, ray"):
        get_executor("cluster", 1)
    for workers in (0, -1):
        with pytest.raises(InputError, match=f"workers {workers} must be at least 1"):
            get_executor("local", workers)
    monkeypatch.setattr(executors, "find_spec", {"ray": None}.get)
    with pytest.raises(InputError, match=r"'ray' extra.*pip install 'lpft\[ray\]'"):
        get_executor("ray", 1)


def test_a_cluster_that_does_not_answer_is_named_at_once(monkeypatch):
    pytest.importorskip("ray", reason="the ray extra is not installed")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(InputError, match=r"no Ray cluster to connect to \(.*refused.*RAY_ADDRESS"):
        list(get_executor("ray", 1)(sweep_work.die_if_told, ["a"]))


@pytest.mark.heavy
def test_ray_does_every_task_and_survives_one_that_dies(monkeypatch):
    pytest.importorskip("ray", reason="the ray extra is not installed")
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    tasks = ["a", "die", "b", "c"]
    done = dict(get_executor("ray", 2)(sweep_work.die_if_told, tasks))
    assert done == {0: "a", 1: None, 2: "b", 3: "c"}
