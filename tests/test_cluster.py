"""A Ray cluster of two nodes on this machine: one is killed, or the driver, and nothing changes."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cluster_work
import psutil
import pytest
import torch
import yaml
from tiny_classifiers import tiny_classifier
from tiny_models import toy_texts
from toy_files import toy_data, toy_settings

from lpft.errors import InputError
from lpft.executors import get_executor
from lpft.ntk import empirical_ntk
from lpft.ntk.storage import Layout

ray = pytest.importorskip("ray", reason="the ray extra is not installed")
pytestmark = pytest.mark.heavy

TESTS = Path(__file__).resolve().parent
NODE = {"num_cpus": 1, "object_store_memory": 100_000_000}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster of one node, which is also that of the driver."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), *filter(None, sys.path)]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("LPFT_TEST_PIECES", str(tmp_path_factory.mktemp("pieces")))
        made = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
        yield made
        made.shutdown()


@pytest.fixture
def node(cluster):
    """Another node, for a test that may kill it."""
    added = cluster.add_node(**NODE)
    cluster.wait_for_nodes()
    yield added
    if added in cluster.worker_nodes:
        cluster.remove_node(added, allow_graceful=False)


@pytest.fixture
def driver(cluster):
    """This process is the driver."""
    ray.init(address=cluster.address, log_to_driver=False, logging_level="CRITICAL")
    yield
    ray.shutdown()


def kill_once(cluster, node, ready, then=lambda: None):
    """Kill a node as soon as ``ready()``, in a thread beside the test; ``then()`` it is gone."""

    def wait_and_kill():
        while not ready():
            time.sleep(0.02)
        (raylet,) = node.all_processes["raylet"]
        workers = psutil.Process(raylet.process.pid).children(recursive=True)
        cluster.remove_node(node, allow_graceful=False)
        psutil.wait_procs(workers, timeout=60)
        then()

    thread = threading.Thread(target=wait_and_kill, daemon=True)
    thread.start()
    return thread


@pytest.mark.usefixtures("driver")
def test_a_task_whose_node_is_lost_is_done_again(cluster, node, tmp_path):
    tasks = [(tmp_path, number) for number in range(3)]

    def both_began():
        return len(list(tmp_path.glob("task-*"))) == 2

    kill_once(cluster, node, both_began, (tmp_path / "go").touch)
    done = dict(get_executor("ray", 2)(cluster_work.begin_and_wait, tasks))
    assert [done[number][0] for number in range(3)] == [0, 1, 2]
    began = sorted(path.name.split("-")[1] for path in tmp_path.glob("task-*"))
    assert began in (["0", "0", "1", "2"], ["0", "1", "1", "2"]), "the lost one alone, twice"


@pytest.mark.usefixtures("driver", "node")
def test_what_no_machine_can_hold_is_refused_and_not_waited_for(tmp_path):
    for wanted in ({"cpus": 7}, {"gpus": 1}):
        with pytest.raises(InputError, match="no machine of the Ray cluster has the"):
            list(get_executor("ray", 2, **wanted)(cluster_work.begin_and_wait, [(tmp_path, 0)]))
    (tmp_path / "go").touch()
    halves = get_executor("ray", 4, cpus=0.5)(cluster_work.begin_and_wait, [(tmp_path, 0)])
    assert [number for _, (number, _) in halves] == [0]


@pytest.mark.usefixtures("driver")
def test_a_kernel_of_36_tiles_survives_the_loss_of_a_node(cluster, node, tmp_path):
    pieces = Path(os.environ["LPFT_TEST_PIECES"])

    def kernel(folder, **options):
        Layout(tiles=8, between_blocks="memory", workspace=1 << 22).write(folder)
        classifier = tiny_classifier("bert")
        return empirical_ntk(
            classifier.model,
            toy_texts(24)[0],
            tokenizer=classifier.tokenizer,
            outputs=cluster_work.waiting_logits,
            cache_dir=folder,
            device="cpu",
            **options,
        )

    kill_once(cluster, node, lambda: len(list(pieces.glob("unit-*"))) >= 30, (pieces / "go").touch)
    shared = kernel(pieces, executor="ray", workers=2)
    alone = kernel(tmp_path)
    of_tiles = {path.name.partition("tiles")[2] for path in pieces.glob("unit-*")}
    assert len(of_tiles) == 36
    assert sorted(p.name for p in pieces.glob("unit-*")) == sorted(
        p.name for p in tmp_path.glob("unit-*")
    )
    assert torch.equal(shared.ft_effective, alone.ft_effective)


@pytest.fixture(scope="module")
def sweep(tiny_bert, tmp_path_factory):
    """The file of a sweep of 12 tiny runs."""
    folder = tmp_path_factory.mktemp("sweep")
    settings = toy_settings(tiny_bert)
    described = {
        "tasks": [{"name": "toy", **toy_data(folder / "data")}],
        "models": [settings.pop("model")],
        "methods": ["lp", "ft", settings.pop("method")],
        "seeds": 4,
        "settings": settings,
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump(described))
    return folder / "sweep.yaml"


@pytest.fixture(scope="module")
def alone(lpft, sweep, tmp_path_factory):
    """The metrics of the sweep in this process."""
    folder = tmp_path_factory.mktemp("alone") / "sweep"
    outcome = lpft("sweep", sweep, "--output-dir", folder)
    assert outcome.status == 0, outcome.err
    return metrics(folder)


def metrics(folder):
    return {
        str(path.parent.relative_to(folder)): json.loads(path.read_text())
        for path in folder.glob("runs/*/*/metrics.json")
    }


def finished(folder):
    records = [json.loads(path.read_text()) for path in folder.glob("runs/*/*/run.json")]
    return sum(record["status"] == "finished" for record in records)


@pytest.mark.usefixtures("driver")
def test_a_sweep_of_12_runs_survives_the_loss_of_a_node(
    lpft, cluster, node, sweep, alone, tmp_path
):
    folder = tmp_path / "sweep"
    killing = kill_once(cluster, node, lambda: finished(folder) >= 3)
    outcome = lpft(
        *("sweep", sweep, "--output-dir", folder, "--executor", "ray", "--workers", 2, "--json")
    )
    assert outcome.status == 0, outcome.out + outcome.err
    killing.join()
    assert [run["state"] for run in json.loads(outcome.out)["runs"]] == ["finished"] * 12
    assert metrics(folder) == alone


def test_a_sweep_whose_driver_is_killed_goes_on(lpft, cluster, sweep, alone, tmp_path):
    folder, few = tmp_path / "sweep", tmp_path / "few.yaml"
    few.write_text(yaml.safe_dump(yaml.safe_load(sweep.read_text()) | {"methods": ["ft"]}))
    command = ("sweep", few, "--output-dir", folder, "--executor", "ray", "--workers", 1)
    environment = os.environ | {"RAY_ADDRESS": cluster.address}
    process = subprocess.Popen(
        [sys.executable, "-m", "lpft", *map(str, command)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    while finished(folder) < 1:
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/*/metrics.json")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", cluster.address)
        outcome = lpft(*command, "--resume")
    assert outcome.status == 0, outcome.out + outcome.err
    assert metrics(folder) == {name: of for name, of in alone.items() if name in metrics(folder)}
    assert finished(folder) == 4
    assert before == {path: path.stat().st_mtime_ns for path in before}
