"""Tiles, pairs and steps: every pair is contracted once, holding two tiles at once."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpft.ntk.layout import Step, split, steps, tile_pairs

groups_of_lengths = st.lists(
    st.lists(st.integers(1, 60), min_size=1, max_size=30), min_size=1, max_size=3
)
properties = settings(max_examples=60, deadline=None, derandomize=True)


def flat(groups):
    lengths = np.array([length for group in groups for length in group])
    return lengths, np.repeat(np.arange(len(groups)), [len(group) for group in groups])


@properties
@given(groups=groups_of_lengths, count=st.integers(1, 12), batched=st.booleans())
def test_tiles_hold_every_text_once_in_batches_of_their_own(groups, count, batched):
    lengths, numbers = flat(groups)
    tiles = split(lengths, numbers, count, batched=batched, batch_tokens=64)
    rows = np.concatenate([tile.rows for tile in tiles])
    assert sorted(rows) == list(range(len(lengths)))
    batches = [batch for tile in tiles for batch in tile.batches]
    assert [number for number, _ in batches] == list(range(len(batches)))
    for tile in tiles:
        assert set(numbers[tile.rows]) == {tile.group}
    for _, rows in batches:
        assert len(rows) == 1 or (batched and len(rows) * lengths[rows].max() <= 64)
    assert max(sum(tile.group == g for tile in tiles) for g in range(len(groups))) <= count


def test_tiles_have_about_equally_many_tokens_whichever_group_is_large():
    lengths, numbers = flat([[9], [5] * 40 + [10] * 20])
    tiles = split(lengths, numbers, 4, batched=True, batch_tokens=1000)
    assert [tile.group for tile in tiles] == [0, 1, 1, 1, 1]
    assert [int(lengths[tile.rows].sum()) for tile in tiles] == [9, 100, 100, 100, 100]


def test_one_tile_is_one_for_each_group():
    lengths, numbers = flat([[3] * 50, [4] * 3])
    assert len(split(lengths, numbers, 1, batched=True, batch_tokens=8)) == 2


@pytest.mark.parametrize("halved", [True, False])
@pytest.mark.parametrize(
    "blocks", [((0, 0),), ((0, 1),), ((0, 0), (1, 0)), ((0, 0), (1, 0), (0, 1))]
)
def test_pairs_are_those_of_the_blocks(blocks, halved):
    lengths, numbers = flat([[5] * 6, [5] * 4])
    tiles = split(lengths, numbers, 3, batched=True, batch_tokens=1000)
    assert [tile.group for tile in tiles] == [0, 0, 0, 1, 1]
    first, second = range(3), range(3, 5)
    expected = []
    if (0, 0) in blocks:
        expected += [(i, j) for i in first for j in first if i <= j or not halved]
    if (0, 1) in blocks:
        expected += [(i, j) for i in first for j in second]
    if (1, 0) in blocks:
        expected += [(i, j) for i in second for j in first]
    assert sorted(tile_pairs(tiles, blocks, halved=halved)) == sorted(expected)


@properties
@given(
    pairs=st.sets(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1).map(sorted),
)
def test_steps_contract_every_pair_once_and_hold_two_tiles(pairs):
    found = steps(pairs, hold_all=False)
    assert sorted(pair for step in found for pair in step.pairs) == sorted(pairs)
    for step in found:
        assert 1 <= len(step.tiles) <= 2
        assert {tile for pair in step.pairs for tile in pair} <= set(step.tiles)
    assert steps(pairs, hold_all=True) == (
        Step(tuple(sorted({tile for pair in pairs for tile in pair})), tuple(pairs)),
    )


@pytest.mark.parametrize("tiles", [2, 3, 4, 7])
def test_a_symmetric_kernel_loads_one_tile_for_each_step(tiles):
    """n (n - 1) / 2 steps, each after the first with a tile of the one before: none is less."""
    pairs = [(i, j) for i in range(tiles) for j in range(i, tiles)]
    found = steps(pairs, hold_all=False)
    assert len(found) == tiles * (tiles - 1) / 2
    assert all(set(one.tiles) & set(other.tiles) for one, other in pairwise(found))
