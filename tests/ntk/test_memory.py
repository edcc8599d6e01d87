"""Sizes of memory, and plans that keep to a budget of it."""

import ctypes
import os
import platform
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_classifiers import tiny_classifier
from tiny_models import toy_texts

from lpft.errors import InputError
from lpft.ntk import KernelJob, Options, request_of, studied_model
from lpft.ntk.memory import (
    PORTIONS,
    default_budget,
    free_below_limits,
    give_back_free_memory,
    make_plan,
    parse_size,
    readable_size,
)
from lpft.ntk.storage import Layout

TEXTS = toy_texts(12, seed=5)[0]
GIGABYTE = 10**9


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (6_000_000_000, 6 * 10**9),
        ("1K", 1000),
        ("6GB", 6 * 10**9),
        (" 500 MB ", 500 * 10**6),
        ("1.5T", 15 * 10**11),
        ("2.5GiB", 5 * 2**29),
    ],
)
def test_sizes_in_decimal_and_binary_units(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "0", "0GB", "0.4", "-1GB", "GB", "6 bananas", "1e9", "six", "٣GB", "1.GB", "6GBs"]
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(InputError, match=f"the memory '{text}' is not a size"):
        parse_size(text)


def test_a_size_that_no_machine_has_is_refused():
    with pytest.raises(InputError, match="more than any machine has: expected one such as 6GB"):
        parse_size("9" * 400)


VERSION_1 = ("memory/", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
VERSION_2 = ("", "memory.max", "memory.current", "inactive_file")


@pytest.mark.parametrize(
    ("line", "files", "limits", "free"),
    [
        ("0::/jobs/7", VERSION_2, {"jobs/7": 900}, 450),
        ("0::/jobs/7", VERSION_2, {"jobs/7": 900, "jobs": 700}, 250),
        ("0::/elsewhere/outside", VERSION_2, {"": 800}, 350),
        ("4:cpu,memory:/jobs/7", VERSION_1, {"jobs/7": 900}, 450),
        ("0::/jobs/7", VERSION_2, {"jobs/7": "max"}, None),
        ("0::/jobs/7", VERSION_2, {"jobs/7": 300}, 0),
        ("3:cpu:/jobs/7", VERSION_2, {"jobs/7": 900}, None),
        ("", VERSION_2, {}, None),
    ],
)
def test_limits_of_control_groups(tmp_path, line, files, limits, free):
    """Of what is used, 500, files' caches of 50 may go."""
    top, limit, used, cached = files
    for group, size in limits.items():
        folder = tmp_path / top / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / limit).write_text(f"{size}\n")
        (folder / used).write_text("500\n")
        (folder / "memory.stat").write_text(f"anon 450\n{cached} 50\n")
    own = tmp_path / "own"
    own.write_text(f"{line}\n" if line else "")
    assert free_below_limits(own, tmp_path) == free


def test_the_default_budget_keeps_to_limits_of_control_groups(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr("lpft.ntk.memory.memory_in_use", lambda _: 1000)
    monkeypatch.setattr("lpft.ntk.memory.free_below_limits", lambda: 600)
    assert default_budget(cpu) == 1300
    monkeypatch.setattr("lpft.ntk.memory.free_below_limits", lambda: None)
    assert default_budget(cpu) > 10**6


def test_sizes_are_shown_in_decimal_units():
    assert [readable_size(size) for size in (3 * 10**9, 99 * 10**6)] == ["3.0 GB", "99 MB"]


HOLES = """
import numpy as np
import torch
from lpft.ntk.memory import give_back_free_memory, memory_in_use

np.ones(2_000_000)  # glibc takes what is as large as a piece that was freed from its heap
pieces = [np.ones(2_000_000) for _ in range(20)]
del pieces[::2]
freed = memory_in_use(torch.device("cpu"))
give_back_free_memory()
print(freed - memory_in_use(torch.device("cpu")))
"""


def run_python(script: str, *arguments: str, timeout: int) -> subprocess.CompletedProcess[str]:
    """A process of its own, which imports what this one does."""
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=True,
        timeout=timeout,
    )


@pytest.mark.heavy
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_pieces_between_others_are_given_back():
    found = run_python(HOLES, timeout=100)
    assert int(found.stdout) > 0.9 * 10 * 16_000_000


@pytest.mark.parametrize("error", [OSError, TypeError, AttributeError])
def test_a_c_library_that_cannot_give_back_is_left_alone(monkeypatch, error):
    def library(_name):
        raise error("no such function")

    monkeypatch.setattr(ctypes, "CDLL", library)
    give_back_free_memory()


@cache
def job(family="bert"):
    classifier = tiny_classifier(family)
    model = studied_model(classifier.model, classifier.tokenizer, None)
    requests = {"ntk": request_of(model)}
    blocks = ((0, 0), (1, 0))
    return KernelJob(model, requests, [TEXTS, TEXTS[:5]], blocks, Options(device="cpu"))


def planned(
    budget,
    *,
    dtype=torch.float32,
    family="bert",
    layout=None,
    checked=0,
    copied=0,
    widen=1,
    times=1,
    used=GIGABYTE,
    structure=None,
    workload=None,
):
    """The plan of a tiny model, of ``times`` as many texts that are ``widen`` times as long.

    ``structure`` and ``workload`` are what is different in the model's own.
    """
    known = job(family).plan
    longer = {
        "lengths": np.tile(known.workload.lengths * widen, times),
        "groups": np.tile(known.workload.groups, times),
    }
    return make_plan(
        replace(known.structure, **structure or {}),
        replace(known.workload, **longer | (workload or {})),
        device=torch.device("cpu"),
        dtype=dtype,
        budget=budget,
        used=used,
        checked=checked,
        copied=copied,
        layout=layout,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_less_memory_means_more_work_and_never_more_than_the_budget(dtype):
    plans = []
    for budget in np.linspace(1.5, 12, 43) * GIGABYTE:
        with suppress(InputError):
            plans.append(planned(int(budget), dtype=dtype, widen=20, times=20))
            assert plans[-1].memory <= plans[-1].budget
            continue
        assert not plans, "more memory cannot be too little"
    assert len(plans) > 10
    assert plans[0].layout.tiles >= 3 or plans[0].layout.stages > 1
    assert plans[-1].layout == replace(plans[-1].layout, tiles=1, stages=1, between_blocks="memory")
    costs = [plan.cost for plan in plans]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > costs[-1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_workspace_is_measured_in_bytes_whatever_the_precision(dtype):
    for budget in (2 * GIGABYTE, 8 * GIGABYTE, 80 * GIGABYTE):
        plan = planned(budget, dtype=dtype)
        size = plan.layout.workspace * dtype.itemsize
        share = 0.06 * budget
        bounds = PORTIONS["cpu"].least_workspace, PORTIONS["cpu"].most_workspace
        assert size == pytest.approx(float(np.clip(share, *bounds)), rel=1e-6)


def test_the_layout_does_not_follow_the_memory_in_use_from_process_to_process():
    layouts = {
        planned(3 * GIGABYTE, used=GIGABYTE + more).layout
        for more in range(0, 50_000_000, 7_654_321)
    }
    assert len(layouts) == 1


def test_plain_autograd_is_in_the_plan():
    without = planned(8 * GIGABYTE)
    some = planned(8 * GIGABYTE, checked=10**6, copied=10**6)
    assert some.memory == without.memory
    symmetric = {"detailed": frozenset({(0, 0)})}
    # Two gradients of 2 GB where rows meet themselves, three where they meet other columns.
    for workload, gigabytes in ((symmetric, 4), (None, 6)):
        many = planned(16 * GIGABYTE, checked=5 * 10**8, workload=workload)
        copied = planned(16 * GIGABYTE, checked=5 * 10**8, copied=5 * 10**8, workload=workload)
        assert many.memory > gigabytes * 10**9 + GIGABYTE
        assert copied.memory - many.memory == 4 * 5 * 10**8
        with pytest.raises(InputError, match=f"at least {gigabytes + 1}"):
            planned(4 * GIGABYTE, checked=5 * 10**8, workload=workload)


def test_gradients_at_further_arguments_of_the_blocks_are_in_the_plan():
    """DeBERTa's relative positions: one gradient for each text and cotangent waits."""
    plan = planned(8 * GIGABYTE, family="deberta-v2")
    rows, width = 2 * 8, 32
    assert plan.structure.extras == rows * width
    lean = planned(8 * GIGABYTE, family="deberta-v2", structure={"extras": 0})
    texts = len(plan.workload.lengths)
    assert plan.memory - lean.memory == 4 * 3 * texts * rows * width


def test_plain_attention_of_long_texts_is_in_the_plan():
    """Each head holds its weights and what comes and goes with them: five times T x T."""
    long = {"lengths": np.array([2048, 9]), "groups": np.array([0, 1])}
    few, many = (
        planned(32 * GIGABYTE, workload=long, structure={"heads": heads}).memory
        for heads in (1, 16)
    )
    assert many - few == 4 * 15 * 5 * 2048**2


def test_a_budget_that_nothing_fits_says_what_is_needed():
    with pytest.raises(InputError, match=r"1\.0 GB are in use .* at least \d"):
        planned(GIGABYTE + 10**6)
    with pytest.raises(InputError, match="started with more memory"):
        planned(2 * GIGABYTE, layout=Layout(1, "memory", 1 << 30))
    with pytest.raises(InputError, match="another kind of device than cpu"):
        planned(2 * GIGABYTE, layout=Layout(1, "host", 1 << 20))


@pytest.mark.parametrize("texts", [1000, 10_000, 100_000])
def test_a_plan_of_many_texts_lists_no_pair_of_tiles(texts):
    """There are of the order of (texts / 10)^2 of them: nobody would wait for that list."""
    times = texts // 17
    kernels = 8 * 2 * (12 + 5) * 12 * times**2 * (9 + 9)
    plan = planned(5 * GIGABYTE + int(1.01 * kernels), times=times, widen=20)
    assert plan.layout.tiles > 1 or texts == 1000
    assert plan.flops["contracting"] > 0
    assert plan.as_record()["tiles"] == len(plan.tiles)
    assert not {"pairs", "steps"} & set(vars(plan))


@pytest.mark.parametrize("times", [600, 6000])
def test_a_refusal_says_how_many_texts_fit_and_how_much_memory_all_need(times):
    budget = 4 * GIGABYTE
    with pytest.raises(InputError, match="too small") as refused:
        planned(budget, times=times)
    message = str(refused.value)
    fewer, needed = (
        float(re.search(pattern, message)[1].replace(",", ""))
        for pattern in (r"at most ([\d,]+) of these texts", r"at least ([\d.]+) GB are needed")
    )
    assert f"{17 * times:,} texts" in message
    assert "NTKOperator" in message
    rows = int(fewer) // 17
    assert planned(budget, times=rows).memory <= budget
    with pytest.raises(InputError):
        planned(budget, times=int(1.3 * rows))
    # A larger budget makes for a larger workspace.
    assert planned(int(needed * GIGABYTE) + 512 * 2**20, times=times).memory > budget


def test_kernels_that_no_memory_holds_are_refused_before_a_text_is_read(monkeypatch):
    """100,000 texts and 3 classes: 16 x 9 x 10^10 bytes; 4 GB hold 5,200 texts at most."""
    model = studied_model(tiny_classifier("bert").model, tiny_classifier("bert").tokenizer, None)
    monkeypatch.setattr("lpft.ntk.memory.memory_in_use", lambda _: 0)
    options = Options(device="cpu", memory="4GB")
    with pytest.raises(InputError, match=r"at least 14.* GB .* at most [45],\d00 of these"):
        KernelJob(model, {"ntk": request_of(model)}, [[None] * 10**5], ((0, 0),), options)


PEAK = """
import sys, threading, time
import numpy as np, psutil, torch
from transformers import BertConfig
from lpft.data.tokens import Tokens
from lpft.model.classifier import attach_head
from lpft.model.encoder import build_encoder
from lpft.ntk import KernelJob, Options, StudiedModel, request_of

dtype, extra, method, texts, length, heads, width = sys.argv[1:]
dtype, extra, texts, length = getattr(torch, dtype), int(extra) * 10**6, int(texts), int(length)
config = BertConfig(
    vocab_size=500, hidden_size=int(width), num_hidden_layers=2, num_attention_heads=int(heads),
    intermediate_size=4 * int(width), max_position_embeddings=2048,
)
model = attach_head(
    build_encoder(config), ("a", "b", "c"), pooling="mean", head_bias=True,
    generator=torch.Generator().manual_seed(0),
).to(dtype)
ids = np.random.default_rng(0).integers(5, 500, (texts, length)).tolist()

class Ready(StudiedModel):
    def tokens(self, texts):
        names = {"input_ids": ids, "attention_mask": [[1] * length for _ in ids]}
        return Tokens.from_lists(names, {"input_ids": 0, "attention_mask": 0}, "right")

process, most, done = psutil.Process(), [0], threading.Event()

def watch():
    while not done.wait(0.005):
        most[0] = max(most[0], process.memory_info().rss)

studied = Ready(model, model.head, None, length)
before = process.memory_info().rss
options = Options(contraction=method, dtype=dtype, memory=before + extra, device="cpu")
thread = threading.Thread(target=watch)
thread.start()
job = KernelJob(
    studied, {"ntk": request_of(studied)}, [["text"] * texts], ((0, 0),), options
)
job.run()
done.set()
thread.join()
print(job.plan.layout.tiles, before, most[0], job.plan.budget)
"""


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("dtype", "extra", "method", "texts", "length", "heads", "width"),
    [
        ("float32", 320, "sandwich", 64, 16, 4, 256),
        ("float64", 450, "materialize", 40, 24, 4, 256),
        ("float32", 2500, "materialize", 2, 2048, 16, 64),
    ],
)
def test_a_process_keeps_to_its_budget(dtype, extra, method, texts, length, heads, width):
    arguments = map(str, (dtype, extra, method, texts, length, heads, width))
    found = run_python(PEAK, *arguments, timeout=250)
    tiles, before, most, budget = map(int, found.stdout.split())
    assert tiles > 1 or length == 2048
    assert before < most <= budget


@pytest.mark.parametrize(("beyond", "expected"), [(0, False), (1, True)])
def test_memory_beyond_the_plan_is_given_back_before_the_next_batch(monkeypatch, beyond, expected):
    plan = job().plan
    between_passes = plan.memory - plan.memory_of_pass
    assert 0 < between_passes < plan.memory
    given_back = []
    monkeypatch.setattr("lpft.ntk.sweep.memory_in_use", lambda _: between_passes + beyond)
    monkeypatch.setattr("lpft.ntk.sweep.give_back_free_memory", lambda: given_back.append(True))
    job().run()
    units, batches = len(plan.structure.units), sum(len(tile.batches) for tile in plan.tiles)
    assert len(given_back) == (units * batches if expected else 0)
