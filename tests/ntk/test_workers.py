"""Kernels whose pairs of tiles several workers share: the same bits, each piece computed once."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from tiny_classifiers import tiny_classifier
from tiny_models import toy_texts

from lpft.cli.console import print_plan
from lpft.errors import InputError
from lpft.ntk import KernelJob, Options, empirical_ntk, request_of, studied_model
from lpft.ntk import job as jobs
from lpft.ntk.storage import Layout, TileStore

TEXTS = toy_texts(10)[0]
LAYOUT = Layout(tiles=5, between_blocks="memory", workspace=1 << 22)


def kernel(folder, texts=TEXTS, layout=LAYOUT, model=None, **options):
    """The kernel of a tiny BERT in 5 tiles of 2 texts."""
    folder.mkdir(exist_ok=True)
    if layout is not None and not (folder / "layout.json").exists():
        layout.write(folder)
    classifier = tiny_classifier("bert")
    return empirical_ntk(
        classifier.model if model is None else model,
        texts,
        tokenizer=classifier.tokenizer,
        cache_dir=folder,
        device="cpu",
        check_entries=0,
        check_products=0,
        **options,
    )


def plan_of(blocks=((0, 0),), tiles=None, workers=1):
    """The plan of a tiny BERT, in so many tiles or the cheapest."""
    classifier = tiny_classifier("bert")
    model = studied_model(classifier.model, classifier.tokenizer, None)
    requests = {"ntk": request_of(model)}
    options = Options(device="cpu", workers=workers, cache_dir="nowhere", memory="9GB")
    job = KernelJob(model, requests, [TEXTS * 3, TEXTS[:9]], blocks, options)
    return job.plan if tiles is None else job._make_plan(replace(LAYOUT, tiles=tiles))


def pieces(folder):
    return sorted(path.name for path in folder.glob("unit-*"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The kernel of one process, and its folder."""
    folder = tmp_path_factory.mktemp("alone")
    return kernel(folder), folder


@pytest.fixture
def here(monkeypatch):
    """Workers that compute in this process, one after the other; those of these numbers die."""
    dead, saved = set(), []

    def execute(function, tasks):
        for number, task in enumerate(tasks):
            yield number, None if number in dead else function(task)

    save = TileStore.save

    def noted(self, unit, pair, tensors):
        saved.append((self._session is not None, unit, pair))
        save(self, unit, pair, tensors)

    monkeypatch.setattr(jobs, "get_executor", lambda *_: execute)
    monkeypatch.setattr(TileStore, "save", noted)
    return dead, saved


@pytest.mark.parametrize("workers", [3, pytest.param(5, marks=pytest.mark.heavy)])
def test_workers_compute_every_piece_once_and_the_same_bits(alone, here, tmp_path, workers):
    found = kernel(tmp_path, workers=workers)
    assert torch.equal(found.ft_effective, alone[0].ft_effective)
    assert torch.equal(found.pretrain_effective, alone[0].pretrain_effective)
    _, saved = here
    assert all(by_worker for by_worker, _, _ in saved)
    assert len(saved) == len(set(saved)) == len(pieces(tmp_path))
    assert pieces(tmp_path) == pieces(alone[1])


def test_what_a_dead_worker_leaves_undone_is_done_all_the_same(alone, here, tmp_path, caplog):
    dead, saved = here
    dead.add(1)
    found = kernel(tmp_path, workers=3)
    assert torch.equal(found.ft_effective, alone[0].ft_effective)
    by_this_process = [of for of in saved if not of[0]]
    assert 0 < len(by_this_process) < len(saved) == len(pieces(tmp_path))
    assert "a worker died" in caplog.text


def test_workers_go_on_with_what_is_there_and_leave_a_finished_kernel_alone(alone, here, tmp_path):
    _, saved = here
    kernel(tmp_path, workers=2)
    gone = pieces(tmp_path)[3::4]
    for name in gone:
        (tmp_path / name).unlink()
    saved.clear()
    assert torch.equal(kernel(tmp_path, workers=4).ft_effective, alone[0].ft_effective)
    assert len(saved) == len(gone)
    saved.clear()
    kernel(tmp_path, workers=4)
    assert not saved


@pytest.mark.usefixtures("here")
def test_a_worker_whose_session_is_over_writes_nothing(tmp_path, monkeypatch):
    """As one on a machine that was lost from sight, while another process began again."""
    begin = TileStore.begin_session

    def replaced(self):
        session = begin(self)
        begin(self)
        return session

    monkeypatch.setattr(TileStore, "begin_session", replaced)
    with pytest.raises(InputError, match="another process goes on with the kernel"):
        kernel(tmp_path, workers=2)
    assert not pieces(tmp_path)


@pytest.mark.usefixtures("here")
def test_a_session_that_cannot_be_written_is_not_blamed_on_the_model(tmp_path):
    (tmp_path / "session").mkdir()
    with pytest.raises(InputError, match=r"^the unfinished kernel cannot be written"):
        kernel(tmp_path, workers=2)


@pytest.mark.parametrize("blocks", [((0, 0),), ((0, 0), (1, 0))])
@pytest.mark.parametrize("workers", [1, 2, 3, 7, 500])
def test_shares_are_all_steps_once_and_about_equal(blocks, workers):
    plan = plan_of(blocks, 8, workers)
    shares = plan.divide(plan.steps)
    assert sum(shares, ()) == plan.steps
    assert len(shares) == min(workers, len(plan.steps))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 2 + len(plan.steps) // (5 * workers)
    assert plan.as_record()["steps"] == len(plan.steps)


def test_several_workers_get_more_tiles_and_the_plan_says_so(capsys):
    one, two, four = (plan_of(workers=workers) for workers in (1, 2, 4))
    assert one.layout.tiles == 1
    assert min(two.layout.tiles, four.layout.tiles) >= 3
    assert max(two.cost, four.cost) < one.cost
    print_plan(two.timed_record(), [])
    printed = capsys.readouterr().out
    steps = len(two.steps)
    assert f"workers:     2 share {steps} steps, two tiles at a time\n" in printed
    assert "GB, each worker\n" in printed


def test_workers_need_a_folder_and_a_model_that_can_be_sent(tmp_path):
    for options in ({"workers": 2}, {"executor": "ray"}):
        pytest.importorskip("ray")
        with pytest.raises(InputError, match="name one by cache_dir"):
            empirical_ntk(torch.nn.Linear(3, 2), torch.randn(4, 3), **options)
    for workers in (0, -1, 1.5, True):
        with pytest.raises(InputError, match="workers"):
            kernel(tmp_path / "none", workers=workers)
    with pytest.raises(InputError, match="executor cloud is unknown"):
        kernel(tmp_path / "none", executor="cloud")
    if torch.cuda.is_available():
        with pytest.raises(InputError, match="give cuda"):
            kernel(tmp_path / "none", workers=2, device="cuda:0")

    class Fixed(torch.nn.Linear):
        def __reduce__(self):
            raise TypeError("it has a lock")

        def __deepcopy__(self, memo):
            return self

    with pytest.raises(InputError, match=r"cannot be sent to other processes \(it has a lock"):
        empirical_ntk(Fixed(3, 2), torch.randn(4, 3), workers=2, cache_dir=tmp_path / "fixed")


@pytest.mark.heavy
def test_two_processes_share_a_kernel(tmp_path):
    """From a program, with a model and outputs that only it has."""
    script = tmp_path / "program.py"
    script.write_text(
        "import sys, torch\n"
        "from lpft.ntk import empirical_ntk\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        torch.manual_seed(0)\n"
        "        self.first, self.last = torch.nn.Linear(5, 7), torch.nn.Linear(7, 3)\n"
        "    def forward(self, inputs):\n"
        "        return self.last(torch.tanh(self.first(inputs)))\n"
        "if __name__ == '__main__':\n"
        "    x = torch.randn(20, 5, generator=torch.Generator().manual_seed(1))\n"
        "    outputs = lambda module, batch: 2 * module(batch['inputs'])\n"
        "    shared = empirical_ntk(Net(), x, outputs=outputs, workers=2, cache_dir=sys.argv[1])\n"
        "    assert shared.record['plan']['tiles'] > 2, shared.record\n"
        "    again = empirical_ntk(Net(), x, outputs=outputs)\n"
        "    difference = (shared.ft_effective - again.ft_effective).norm()\n"
        "    assert difference < 1e-5 * again.ft_effective.norm()\n"
        "    print('done')\n"
    )
    search = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, script, tmp_path / "pieces"],
        env=os.environ | {"PYTHONPATH": search},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.stdout == "done\n", done.stderr
