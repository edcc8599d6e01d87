"""How a unit's parameters are shared among stages."""

from dataclasses import replace

import pytest

from lpft.ntk.chain import Chain
from lpft.ntk.stages import most_stages, stages_of_units, widest
from lpft.ntk.structure import Parameter, Structure

SEEDS = 3


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
    )
    return replace(whole, **changes)


def names(stages):
    return [[parameter.name for parameter in stage] for stage in stages]


def test_one_stage_holds_all():
    block, table = stages_of_units(structure(), 1, SEEDS)
    assert names(block) == [[parameter.name for parameter in BLOCK]]
    assert names(table) == [["table"]]
    assert widest(block, SEEDS) == 4 * 32 + 104 + 56


def test_three_stages_of_a_block_by_hand():
    """From the widest on, each to the narrowest: 104, 56 + 32 and 32 + 32 + 32 numbers."""
    block, table = stages_of_units(structure(), 3, SEEDS)
    assert names(block) == [["up"], ["value", "bias", "down"], ["query", "key", "output"]]
    assert widest(block, SEEDS) == 104
    assert names(table) == [["table"]], "what is narrower than a stage is not cut"


@pytest.mark.parametrize("count", range(1, 9))
def test_every_parameter_is_in_one_stage(count):
    block, _ = stages_of_units(structure(), count, SEEDS)
    assert 1 <= len(block) <= count
    found = [parameter.name for stage in block for parameter in stage]
    assert sorted(found) == sorted(parameter.name for parameter in BLOCK)
    assert widest(block, SEEDS) >= 104, "no stage is narrower than one weight"


def test_a_shared_weight_is_as_wide_as_its_uses():
    shared = parameter("shared", 8, 8, positions=(1, 2, 3))
    assert shared.numbers_per_token(SEEDS) == 3 * (8 + 3 * 8)


def test_how_many_stages_are_worth_a_try():
    assert most_stages(structure()) == 6
    assert most_stages(structure(parameters=(TABLE,))) == 1
    assert most_stages(structure(parameters=(parameter("bias", 0, 8, form="vector"),))) == 1
    assert most_stages(structure(chain=None)) == 1
    assert most_stages(structure(unreached=("pooler",))) == 1
    many = tuple(parameter(f"expert {number}", 8, 8) for number in range(40))
    assert most_stages(structure(parameters=many)) == 8
