"""What will be computed: stages and contractions, and the flops that they take."""

from dataclasses import replace
from functools import cache
from typing import NamedTuple

import pytest
from tiny_classifiers import tiny_adapted, tiny_classifier
from tiny_models import toy_texts

from lpft.cli.console import print_plan
from lpft.ntk import KernelJob, Options, empirical_ntk, request_of, studied_model
from lpft.ntk.memory import make_plan
from lpft.ntk.passes import Chain
from lpft.ntk.plan import (
    METHODS,
    RemainingWork,
    cheapest_method,
    method_cost,
    most_stages,
    stages_of_units,
    widest,
)
from lpft.ntk.storage import Layout
from lpft.ntk.structure import Parameter, Structure
from lpft.ntk.tiles import Shape, count_pairs

TEXTS = toy_texts(12, seed=5)[0]

COTANGENTS = 3


def parameter(name, a, b, *, positions=(1,), form="outer"):
    return Parameter(
        name=name,
        positions=positions,
        layer="layer 0",
        kind="attention",
        form=form,
        sizes=(a, b),
        tokens_per_token=1.0,
        pooled=False,
        fallback=False,
    )


BLOCK = (
    *(parameter(name, 8, 8) for name in ("query", "key", "value", "output")),
    parameter("bias", 0, 8, form="vector"),
    parameter("up", 8, 32),
    parameter("down", 32, 8),
)
"""A transformer block of width 8: per token 4 x 32, 104 and 56 numbers with three seeds."""
TABLE = parameter("table", 0, 8, positions=(0,), form="rows")
CHAIN = Chain(names=("block",), modules=(), hidden=0, extras=(), tuples=())


def structure(parameters=(*BLOCK, TABLE), **changes):
    whole = Structure(
        chain=CHAIN,
        batched=True,
        modules={},
        direct=(),
        parameters=parameters,
        unreached=(),
        units=(range(1, 2), range(1)),
        widths=((0, 8), (48, 80)),
        extras=0,
        forward_flops=1.0,
        hidden=8,
        heads=1,
        layers=1,
        length=12,
    )
    return replace(whole, **changes)


def names(stages):
    return [[parameter.name for parameter in stage] for stage in stages]


def test_one_stage_holds_all():
    block, table = stages_of_units(structure(), 1, COTANGENTS)
    assert names(block) == [[parameter.name for parameter in BLOCK]]
    assert names(table) == [["table"]]
    assert widest(block, COTANGENTS) == 4 * 32 + 104 + 56


def test_three_stages_of_a_block_by_hand():
    """From the widest on, each to the narrowest: 104, 56 + 32 and 32 + 32 + 32 numbers."""
    block, table = stages_of_units(structure(), 3, COTANGENTS)
    assert names(block) == [["up"], ["value", "bias", "down"], ["query", "key", "output"]]
    assert widest(block, COTANGENTS) == 104
    assert names(table) == [["table"]], "what is narrower than a stage is not cut"


@pytest.mark.parametrize("count", range(1, 9))
def test_every_parameter_is_in_one_stage(count):
    block, _ = stages_of_units(structure(), count, COTANGENTS)
    assert 1 <= len(block) <= count
    found = [parameter.name for stage in block for parameter in stage]
    assert sorted(found) == sorted(parameter.name for parameter in BLOCK)
    assert widest(block, COTANGENTS) >= 104, "no stage is narrower than one weight"


def test_a_shared_weight_is_as_wide_as_its_uses():
    shared = parameter("shared", 8, 8, positions=(1, 2, 3))
    assert shared.numbers_per_token(COTANGENTS) == 3 * (8 + 3 * 8)


def test_how_many_stages_are_worth_a_try():
    assert most_stages(structure()) == 6
    assert most_stages(structure(parameters=(TABLE,))) == 1
    assert most_stages(structure(parameters=(parameter("bias", 0, 8, form="vector"),))) == 1
    assert most_stages(structure(chain=None)) == 1
    assert most_stages(structure(unreached=("pooler",))) == 1
    many = tuple(parameter(f"expert {number}", 8, 8) for number in range(40))
    assert most_stages(structure(parameters=many)) == 8


def pairs_of(tiles, pairs, kernel="sgd"):
    return count_pairs(tiles, pairs, asymmetric=kernel == "asymmetric")


def test_costs_by_hand():
    """N = 10 texts of T = 3 tokens, weight 5 x 4, one head of rank 2: flops of a product twice."""
    tiles, pairs, sizes = {0: Shape(10, 3)}, [(0, 0)], (4, 5)
    forming, contracting = method_cost("materialize", sizes, pairs_of(tiles, pairs), [2])
    assert forming == 2 * 10 * 2 * 3 * 4 * 5
    assert contracting == (10 * 2) ** 2 * 4 * 5
    halves = {0: Shape(4, 3), 1: Shape(6, 3)}
    split = method_cost("materialize", sizes, pairs_of(halves, [(0, 0), (0, 1), (1, 1)]), [2])
    assert split == (forming, contracting)
    assert method_cost("materialize", sizes, pairs_of(tiles, pairs, "asymmetric"), [2]) == (
        forming,
        2 * contracting,
    )
    across = method_cost("materialize", sizes, pairs_of(halves, [(0, 1)]), [1, 1])
    assert across == (forming, 2 * 4 * 6 * (1 + 1) * 4 * 5)


@pytest.mark.parametrize("method", METHODS)
def test_costs_grow_with_texts_squared_and_fall_by_half_with_symmetry(method):
    for n in (3, 30):
        once = sum(method_cost(method, (8, 8), pairs_of({0: Shape(n, 2)}, [(0, 0)]), [3])[1:])
        twice = sum(method_cost(method, (8, 8), pairs_of({0: Shape(2 * n, 2)}, [(0, 0)]), [3])[1:])
        both = {0: Shape(n, 2), 1: Shape(n, 2)}
        across = sum(method_cost(method, (8, 8), pairs_of(both, [(0, 1)]), [3])[1:])
        assert twice == pytest.approx(4 * once)
        assert across == pytest.approx(2 * once)


@pytest.mark.parametrize(
    ("tokens", "ranks", "method"),
    [(128, [3], "materialize"), (1, [3], "token_gram"), (24, [24], "sandwich")],
)
def test_the_cheapest_method_depends_on_tokens_and_classes(tokens, ranks, method):
    counts = pairs_of({0: Shape(250, tokens)}, [(0, 0)])
    assert cheapest_method((768, 768), counts, ranks) == method
    assert cheapest_method((768, 768), counts, ranks, "signgd") == "materialize"


@cache
def job_of(kernel="sgd", method="auto", blocks=((0, 0), (1, 0))):
    classifier = tiny_classifier("bert")
    model = studied_model(classifier.model, classifier.tokenizer, None)
    requests = {"ntk": request_of(model)}
    options = Options(update=kernel, contraction=method, device="cpu")
    return KernelJob(model, requests, [TEXTS, TEXTS[:5]], blocks, options)


def planned(*layout, known=None):
    """The plan of a tiny BERT in a layout: tiles, place, workspace, stages."""
    known = job_of().plan if known is None else known
    return make_plan(
        known.structure,
        known.workload,
        device=known.device,
        dtype=known.dtype,
        budget=64 * 10**9,
        used=10**9,
        checked=0,
        copied=0,
        layout=Layout(*layout),
    )


def test_an_asymmetric_kernel_takes_twice_the_products():
    symmetric, asymmetric = (
        job_of(kernel, "materialize", ((0, 0),)).plan.flops for kernel in ("sgd", "asymmetric")
    )
    assert asymmetric["contracting"] == pytest.approx(2 * symmetric["contracting"])
    assert asymmetric["forming"] == pytest.approx(symmetric["forming"])


@pytest.mark.parametrize("kernel", ["sgd", "asymmetric"])
@pytest.mark.parametrize("blocks", [((0, 0),), ((0, 0), (1, 0))])
@pytest.mark.parametrize("tiles", [1, 4])
def test_flops_of_a_plan_are_those_of_its_listed_steps(kernel, blocks, tiles):
    plan = planned(tiles, "memory", 1 << 20, known=job_of(kernel, blocks=blocks).plan)
    assert (len(plan.tiles) > 3) == (tiles > 1)
    units = range(len(plan.structure.units))
    shapes = {
        number: Shape(len(tile.rows), float(plan.workload.lengths[tile.rows].mean()))
        for number, tile in enumerate(plan.tiles)
    }
    forming = contracting = 0.0
    for parameter in plan.structure.parameters:
        if parameter.linear:
            seen = {
                number: Shape(n, 1.0 if parameter.pooled else parameter.tokens_per_token * mean)
                for number, (n, mean) in shapes.items()
            }
            least = pairs_of(seen, plan.pairs)
            method = cheapest_method(parameter.sizes, least, [3], kernel)
            for step in plan.steps:
                counts = pairs_of(seen, step.pairs, kernel)
                of_step = method_cost(method, parameter.sizes, counts, [3])
                forming, contracting = forming + of_step[0], contracting + of_step[1]
    assert plan.flops["forming"] == pytest.approx(forming)
    assert plan.flops["contracting"] == pytest.approx(contracting)
    forward = plan.structure.forward_flops * plan.workload.lengths.sum()
    steps = {unit: plan.steps if plan.structure.of_unit(unit) else () for unit in units}
    passes = sum(plan.pass_flops(unit, steps[unit]) for unit in units)
    assert plan.flops["passes"] == pytest.approx(forward + passes)
    assert plan.as_record()["tiles_held"] == max(len(step.tiles) for step in plan.steps)
    last = frozenset((unit, pair) for unit in units for pair in plan.steps[-1].pairs)
    finished = RemainingWork(plan, last)
    nothing_finished = RemainingWork(plan, frozenset({(99, plan.pairs[0])}))
    assert nothing_finished.flops == pytest.approx(RemainingWork(plan).flops)
    assert finished.flops["contracting"] < plan.flops["contracting"]


def test_flops_of_one_pass_by_hand():
    forward = planned(1, "memory", 1 << 20).structure.forward_flops * sum(
        planned(1, "memory", 1 << 20).workload.lengths
    )
    plan = planned(4, "memory", 1 << 20)
    whole = planned(1, "memory", 1 << 20)
    # One forward pass, each block rebuilt once, and three cotangents; the least is without
    # rebuilding.
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
    plan = planned(1, "memory", 1 << 20)
    record = plan.timed_record()
    assert record["matmul_gflops"] == 1000
    assert record["expected_seconds"] == pytest.approx(plan.seconds)
    assert plan.as_record().items() <= record.items()


@pytest.mark.parametrize("stages", [1, 3])
def test_the_printed_plan_says_how_often_a_block_is_passed(capsys, stages):
    plan = planned(1, "files", 1 << 20, stages)
    assert plan.flops["passes"] > 0
    print_plan(plan.timed_record(), [])
    tiles = next(line for line in capsys.readouterr().out.splitlines() if "tiles:" in line)
    assert tiles.startswith("tiles:       2, 2 held at once; hidden states in files")
    assert tiles.endswith("; 3 passes through a block, each for some of its weights") == (
        stages > 1
    )


@pytest.mark.parametrize(("stages", "times"), [(1, 1), (2, 2), (3, 3)])
def test_passes_of_a_block_are_repeated_in_every_stage(stages, times):
    once = planned(1, "memory", 1 << 20)
    staged = planned(1, "memory", 1 << 20, stages)
    block = next(unit for unit, found in enumerate(staged.stages) if len(found) == stages)
    assert staged.pass_flops(block, staged.steps) == times * once.pass_flops(block, once.steps)
    assert {part: staged.flops[part] for part in ("forming", "contracting", "model")} == {
        part: once.flops[part] for part in ("forming", "contracting", "model")
    }


class Listed(NamedTuple):
    layers: str
    weights: str
    count: int
    size: str


def test_alike_weights_are_one_row():
    rows = [Listed(*row[:4]) for row in planned(1, "memory", 1 << 20).rows()]
    assert sum(row.count for row in rows) == 2 * 6, "two layers of six linear weights"
    sizes = {row.size: row for row in rows}
    assert set(sizes) == {"32 x 32", "64 x 32", "32 x 64"}
    assert len(rows) <= 6
    whole = next(row for row in rows if "attention.self.key" in row.weights)
    assert "attention.self.value" in whole.weights
    assert whole.layers in ("layers 0-1", "layer 0, layer 1")


def test_what_autograd_treats_and_its_passes_stand_in_the_plan():
    model, tokenizer = tiny_adapted("bert", "dora")
    studied = studied_model(model, tokenizer, None)
    requests = {"ntk": request_of(studied, "trainable")}
    plan = KernelJob(studied, requests, [TEXTS], ((0, 0),), Options(device="cpu")).plan
    treated = plan.as_record()["autograd"]
    assert treated["parameters"] == len(plan.structure.direct) > 0
    assert treated["of"] == len(plan.structure.parameters)
    assert 0 < treated["flops"] < plan.flops["passes"]
    assert planned(1, "memory", 1 << 20).as_record()["autograd"]["flops"] == 0
