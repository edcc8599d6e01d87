"""What a plan expects of work and memory, and how it keeps to a budget."""

import os
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

from lpft.cli.console import print_plan
from lpft.errors import InputError
from lpft.ntk import KernelJob, Options, empirical_ntk, request_of
from lpft.ntk.cost import METHODS, Shape, cheapest_method, method_cost
from lpft.ntk.devices import PORTIONS
from lpft.ntk.inputs import open_subject
from lpft.ntk.layout import Layout
from lpft.ntk.planner import Sizes, make_plan

CPU = torch.device("cpu")
TEXTS = toy_texts(12, seed=5)[0]
GIGABYTE = 10**9


@cache
def job(family="bert", kernel="sgd", blocks=((0, 0), (1, 0))):
    classifier = tiny_classifier(family)
    subject = open_subject(classifier.model, classifier.tokenizer, None)
    requests = {"ntk": request_of(subject, trainable=False)}
    options = Options(kernel=kernel, device="cpu")
    return KernelJob(subject, requests, [TEXTS, TEXTS[:5]], blocks, options)


def planned(
    budget, *, dtype=torch.float32, family="bert", layout=None, checked=0, widen=1, times=1
):
    """The plan of a tiny model, of ``times`` as many texts that are ``widen`` times as long."""
    known = job(family).plan
    lengths = np.tile(known.demand.lengths * widen, times)
    demand = replace(known.demand, lengths=lengths, groups=np.tile(known.demand.groups, times))
    return make_plan(
        known.structure,
        demand,
        sizes=Sizes(hidden=32, heads=4, layers=2),
        dtype=dtype,
        device=CPU,
        budget=budget,
        used=GIGABYTE,
        accumulators=10**6,
        checked=checked,
        layout=layout,
    )


def test_costs_by_hand():
    """N = 10 texts of T = 3 tokens, weight 5 x 4, one head of rank 2: flops of a product twice."""
    tiles, pairs, sizes = {0: Shape(10, 3)}, [(0, 0)], (4, 5)
    forming, contracting = method_cost("materialize", sizes, tiles, pairs, [2])
    assert forming == 2 * 10 * 2 * 3 * 4 * 5
    assert contracting == (10 * 2) ** 2 * 4 * 5
    halves = {0: Shape(4, 3), 1: Shape(6, 3)}
    split = method_cost("materialize", sizes, halves, [(0, 0), (0, 1), (1, 1)], [2])
    assert split == (forming, contracting)
    assert method_cost("materialize", sizes, tiles, pairs, [2], "asymmetric") == (
        forming,
        2 * contracting,
    )
    across = method_cost("materialize", sizes, halves, [(0, 1)], [1, 1])
    assert across == (forming, 2 * 4 * 6 * (1 + 1) * 4 * 5)


@pytest.mark.parametrize("method", METHODS)
def test_costs_grow_with_texts_squared_and_fall_by_half_with_symmetry(method):
    for n in (3, 30):
        once = sum(method_cost(method, (8, 8), {0: Shape(n, 2)}, [(0, 0)], [3])[1:])
        twice = sum(method_cost(method, (8, 8), {0: Shape(2 * n, 2)}, [(0, 0)], [3])[1:])
        both = {0: Shape(n, 2), 1: Shape(n, 2)}
        across = sum(method_cost(method, (8, 8), both, [(0, 1)], [3])[1:])
        assert twice == pytest.approx(4 * once)
        assert across == pytest.approx(2 * once)


@pytest.mark.parametrize(
    ("tokens", "ranks", "method"),
    [(128, [3], "materialize"), (1, [3], "token_gram"), (24, [24], "sandwich")],
)
def test_the_cheapest_method_depends_on_tokens_and_classes(tokens, ranks, method):
    tiles = {0: Shape(250, tokens)}
    assert cheapest_method((768, 768), tiles, [(0, 0)], ranks) == method
    assert cheapest_method((768, 768), tiles, [(0, 0)], ranks, "signgd") == "materialize"


def test_an_asymmetric_kernel_takes_twice_the_products():
    symmetric, asymmetric = (
        KernelJob(
            job()._subject,
            job()._requests,
            [TEXTS],
            ((0, 0),),
            Options(kernel=kernel, method="materialize", device="cpu"),
        ).plan.flops
        for kernel in ("sgd", "asymmetric")
    )
    assert asymmetric["contracting"] == pytest.approx(2 * symmetric["contracting"])
    assert asymmetric["forming"] == pytest.approx(symmetric["forming"])


def test_flops_of_a_plan_are_those_of_its_units():
    plan = planned(2 * GIGABYTE, layout=Layout(4, "memory", 1 << 20))
    assert len(plan.tiles) > 4
    units = range(len(plan.structure.units))
    contracted = [plan.contraction_flops(plan.structure.of_unit(u), plan.steps) for u in units]
    assert plan.flops["forming"] == pytest.approx(sum(forming for forming, _ in contracted))
    assert plan.flops["contracting"] == pytest.approx(sum(product for _, product in contracted))
    forward = plan.structure.forward_flops * plan.demand.lengths.sum()
    steps = {unit: plan.steps if plan.structure.of_unit(unit) else () for unit in units}
    passes = sum(plan.pass_flops(unit, steps[unit]) for unit in units)
    assert plan.flops["passes"] == pytest.approx(forward + passes)
    whole = planned(2 * GIGABYTE, layout=Layout(1, "memory", 1 << 20))
    # One forward pass, each block rebuilt once, and three seeds; the least is without rebuilding.
    assert whole.flops["passes"] == pytest.approx((1 + 1 + 3) * forward)
    products = whole.flops["forming"] + whole.flops["contracting"]
    assert whole.flops["model"] == pytest.approx((1 + 3) * forward + products)
    assert whole.flops["model"] <= plan.flops["model"] * (1 + 1e-9)


def test_the_machines_rate_is_measured_only_where_it_is_asked_for(monkeypatch):
    def refuse(*_):
        raise AssertionError("nobody asked for the time")

    monkeypatch.setattr("lpft.ntk.plan.matmul_rate", refuse)
    kernel = empirical_ntk(
        tiny_classifier("bert").model, TEXTS[:2], tokenizer=tiny_classifier("bert").tokenizer
    )
    assert "expected_seconds" not in kernel.record["plan"]
    monkeypatch.setattr("lpft.ntk.plan.matmul_rate", lambda *_: 1e12)
    plan = planned(2 * GIGABYTE)
    record = plan.timed_record()
    assert record["matmul_gflops"] == 1000
    assert record["expected_seconds"] == pytest.approx(plan.seconds)
    assert plan.as_record().items() <= record.items()


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
    assert plans[-1].layout == replace(plans[-1].layout, tiles=1, stages=1, stash="memory")
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


@pytest.mark.parametrize("stages", [1, 3])
def test_the_printed_plan_says_how_often_a_block_is_passed(capsys, stages):
    plan = planned(64 * GIGABYTE, layout=Layout(1, "files", 1 << 20, stages))
    assert plan.flops["passes"] > 0
    print_plan(plan.timed_record(), [])
    tiles = next(line for line in capsys.readouterr().out.splitlines() if "tiles:" in line)
    assert tiles.startswith("tiles:       2, 2 held at once; hidden states in files")
    assert tiles.endswith("; 3 passes through a block, each for some of its weights") == (
        stages > 1
    )


@pytest.mark.parametrize(("stages", "times"), [(1, 1), (2, 2), (3, 3)])
def test_passes_of_a_block_are_repeated_in_every_stage(stages, times):
    once = planned(64 * GIGABYTE, layout=Layout(1, "memory", 1 << 20))
    staged = planned(64 * GIGABYTE, layout=Layout(1, "memory", 1 << 20, stages))
    block = next(unit for unit, found in enumerate(staged.stages) if len(found) == stages)
    assert staged.pass_flops(block, staged.steps) == times * once.pass_flops(block, once.steps)
    assert {part: staged.flops[part] for part in ("forming", "contracting", "model")} == {
        part: once.flops[part] for part in ("forming", "contracting", "model")
    }


def test_the_layout_does_not_follow_the_memory_in_use_from_process_to_process():
    known = job().plan
    layouts = {
        make_plan(
            known.structure,
            known.demand,
            sizes=Sizes(hidden=32, heads=4, layers=2),
            dtype=torch.float32,
            device=CPU,
            budget=3 * GIGABYTE,
            used=GIGABYTE + more,
            accumulators=10**6,
            checked=0,
        ).layout
        for more in range(0, 50_000_000, 7_654_321)
    }
    assert len(layouts) == 1


def test_the_check_of_entries_is_in_the_plan():
    without = planned(8 * GIGABYTE)
    some = planned(8 * GIGABYTE, checked=10**6)
    many = planned(8 * GIGABYTE, checked=5 * 10**8)
    assert some.memory == without.memory
    assert many.memory > 2 * 4 * 5 * 10**8
    with pytest.raises(InputError, match="at least 5"):
        planned(4 * GIGABYTE, checked=5 * 10**8)


def test_gradients_at_further_arguments_of_the_blocks_are_in_the_plan():
    """DeBERTa's relative positions: one gradient for each text and seed waits for the start."""
    plan = planned(8 * GIGABYTE, family="deberta-v2")
    table = job("deberta-v2")._subject.classifier.encoder.encoder.rel_embeddings.weight
    assert plan.structure.extras == table.numel()
    lean = replace(plan.structure, extras=0)
    known = job("deberta-v2").plan
    arguments = {
        "sizes": Sizes(hidden=32, heads=4, layers=2),
        "dtype": torch.float32,
        "device": CPU,
        "budget": 8 * GIGABYTE,
        "used": GIGABYTE,
        "accumulators": 10**6,
        "checked": 0,
    }
    difference = plan.memory - make_plan(lean, known.demand, **arguments).memory
    assert difference == 4 * 3 * len(known.demand.lengths) * table.numel()


def test_plain_attention_of_long_texts_is_in_the_plan():
    """Each head holds its weights and what comes and goes with them: five times T x T."""
    known = job().plan
    demand = replace(known.demand, lengths=np.array([2048, 9]), groups=np.array([0, 1]))
    few, many = (
        make_plan(
            known.structure,
            demand,
            sizes=Sizes(hidden=32, heads=heads, layers=2),
            dtype=torch.float32,
            device=CPU,
            budget=32 * GIGABYTE,
            used=GIGABYTE,
            accumulators=0,
            checked=0,
        ).memory
        for heads in (1, 16)
    )
    assert many - few == 4 * 15 * 5 * 2048**2


def test_a_budget_that_nothing_fits_says_what_is_needed():
    with pytest.raises(InputError, match=r"1\.0 GB are in use .* at least \d"):
        planned(GIGABYTE + 10**6)
    with pytest.raises(InputError, match="begun with more memory"):
        planned(2 * GIGABYTE, layout=Layout(1, "memory", 1 << 30))
    with pytest.raises(InputError, match="another kind of device than cpu"):
        planned(2 * GIGABYTE, layout=Layout(1, "host", 1 << 20))


PEAK = """
import sys, threading, time
import numpy as np, psutil, torch
from transformers import BertConfig
from lpft.data.tokens import Tokens
from lpft.model.classifier import attach_head
from lpft.model.encoder import build_encoder
from lpft.ntk import KernelJob, Options, request_of
from lpft.ntk.inputs import Subject

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

class Ready(Subject):
    def tokens(self, texts):
        names = {"input_ids": ids, "attention_mask": [[1] * length for _ in ids]}
        return Tokens(names, {"input_ids": 0, "attention_mask": 0}, "right")

process, most, done = psutil.Process(), [0], threading.Event()

def watch():
    while not done.wait(0.005):
        most[0] = max(most[0], process.memory_info().rss)

subject = Ready(model, model.head, None, length)
before = process.memory_info().rss
options = Options(method=method, dtype=dtype, memory=before + extra, device="cpu")
thread = threading.Thread(target=watch)
thread.start()
job = KernelJob(
    subject, {"ntk": request_of(subject, trainable=False)}, [["text"] * texts], ((0, 0),), options
)
job.run()
done.set()
thread.join()
print(job.plan.layout.tiles, before, most[0], job.plan.budget)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "extra", "method", "texts", "length", "heads", "width"),
    [
        ("float32", 320, "sandwich", 64, 16, 4, 256),
        ("float64", 450, "materialize", 40, 24, 4, 256),
        ("float32", 2500, "materialize", 2, 2048, 16, 64),
    ],
)
def test_a_process_keeps_to_its_budget(dtype, extra, method, texts, length, heads, width):
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            PEAK,
            dtype,
            *map(str, (extra, method, texts, length, heads, width)),
        ],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
        timeout=250,
    )
    tiles, before, most, budget = map(int, found.stdout.split())
    assert tiles > 1 or length == 2048
    assert before < most <= budget


@pytest.mark.parametrize(("beyond", "expected"), [(0, False), (1, True)])
def test_memory_beyond_the_plan_is_given_back_before_the_next_batch(monkeypatch, beyond, expected):
    plan = job().plan
    between_passes = plan.memory - plan.memory_of_pass
    assert 0 < between_passes < plan.memory
    given_back = []
    monkeypatch.setattr("lpft.ntk.engine.memory_in_use", lambda _: between_passes + beyond)
    monkeypatch.setattr("lpft.ntk.engine.give_back_free_memory", lambda: given_back.append(True))
    job().run()
    units, batches = len(plan.structure.units), sum(len(tile.batches) for tile in plan.tiles)
    assert len(given_back) == (units * batches if expected else 0)
