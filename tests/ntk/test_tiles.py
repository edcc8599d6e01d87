"""Texts in tiles, tiles in pairs, pairs in steps; and sums over them without listing them."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpft.ntk.tiles import (
    PairCounts,
    Schedule,
    Shape,
    Step,
    Tiler,
    count_pairs,
    make_steps,
    tile_pairs,
)

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
    tiles = Tiler(lengths, numbers, batched=batched, batch_tokens=64).cut(count).tiles
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
    tiles = Tiler(lengths, numbers, batched=True, batch_tokens=1000).cut(4).tiles
    assert [tile.group for tile in tiles] == [0, 1, 1, 1, 1]
    assert [int(lengths[tile.rows].sum()) for tile in tiles] == [9, 100, 100, 100, 100]


@pytest.mark.parametrize("halved", [True, False])
@pytest.mark.parametrize(
    "blocks", [((0, 0),), ((0, 1),), ((0, 0), (1, 0)), ((0, 0), (1, 0), (0, 1))]
)
def test_pairs_are_those_of_the_blocks(blocks, halved):
    lengths, numbers = flat([[5] * 6, [5] * 4])
    tiles = Tiler(lengths, numbers, batched=True, batch_tokens=1000).cut(3).tiles
    assert [tile.group for tile in tiles] == [0, 0, 0, 1, 1]
    first, second = range(3), range(3, 5)
    expected = []
    if (0, 0) in blocks:
        expected += [(i, j) for i in first for j in first if i <= j or not halved]
    if (0, 1) in blocks:
        expected += [(i, j) for i in first for j in second]
    if (1, 0) in blocks:
        expected += [(i, j) for i in second for j in first]
    assert sorted(tile_pairs([tile.group for tile in tiles], blocks, halved=halved)) == sorted(
        expected
    )


@properties
@given(pairs=st.sets(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1).map(sorted))
def test_steps_contract_every_pair_once_and_hold_two_tiles(pairs):
    found = make_steps(pairs, hold_all=False)
    assert sorted(pair for step in found for pair in step.pairs) == sorted(pairs)
    for step in found:
        assert 1 <= len(step.tiles) <= 2
        assert {tile for pair in step.pairs for tile in pair} <= set(step.tiles)
    assert make_steps(pairs, hold_all=True) == (
        Step(tuple(sorted({tile for pair in pairs for tile in pair})), tuple(pairs)),
    )


@pytest.mark.parametrize("tiles", [2, 3, 4, 7])
def test_a_symmetric_kernel_loads_one_tile_for_each_step(tiles):
    """n (n - 1) / 2 steps, each after the first with a tile of the one before: none is less."""
    pairs = [(i, j) for i in range(tiles) for j in range(i, tiles)]
    found = make_steps(pairs, hold_all=False)
    assert len(found) == tiles * (tiles - 1) / 2
    assert all(set(one.tiles) & set(other.tiles) for one, other in pairwise(found))


@properties
@given(
    groups=groups_of_lengths,
    count=st.integers(1, 8),
    blocks=st.sets(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1),
    halved=st.booleans(),
    hold_all=st.booleans(),
)
def test_what_is_counted_is_what_would_be_listed(groups, count, blocks, halved, hold_all):
    """Over every pair and step, one after the other, with naive loops."""
    lengths, numbers = flat(groups)
    blocks = {block for block in blocks if max(block) < len(groups)} or {(0, 0)}
    tiling = Tiler(lengths, numbers, batched=True, batch_tokens=64).cut(count)
    schedule = Schedule(tiling, frozenset(blocks), halved=halved, hold_all=hold_all)
    pairs = tile_pairs([tile.group for tile in tiling.tiles], blocks, halved=halved)
    steps = make_steps(pairs, hold_all=hold_all)
    shapes = {
        number: Shape(len(tile.rows), lengths[tile.rows].mean())
        for number, tile in enumerate(tiling.tiles)
    }
    held, loads = set(), [0] * len(tiling)
    total = PairCounts(0, 0, 0, 0, 0)
    for step in steps:
        for tile in set(step.tiles) - held:
            loads[tile] += 1
        held = set(step.tiles)
        total = total.plus(count_pairs(shapes, step.pairs, asymmetric=not halved))
    times = [sum(tile in step.tiles for step in steps) for tile in range(len(tiling))]
    assert schedule.loads_of_tiles.tolist() == loads
    assert schedule.steps_of_tiles.tolist() == times
    assert schedule.most_held == max(len(step.tiles) for step in steps)
    assert schedule.counts == pytest.approx(total)
    assert schedule.least_counts == pytest.approx(count_pairs(shapes, pairs, asymmetric=not halved))


@properties
@given(groups=groups_of_lengths, count=st.integers(1, 12))
def test_sizes_of_tiles_and_batches_are_those_of_their_texts(groups, count):
    lengths, numbers = flat(groups)
    tiling = Tiler(lengths, numbers, batched=True, batch_tokens=64).cut(count)
    batches = [[lengths[rows] for _, rows in tile.batches] for tile in tiling.tiles]
    assert tiling.samples.tolist() == [sum(map(len, of_tile)) for of_tile in batches]
    assert tiling.tokens.tolist() == [sum(b.sum() for b in of_tile) for of_tile in batches]
    padded = [sum(len(b) * b.max() for b in of_tile) for of_tile in batches]
    assert tiling.padded_tokens.tolist() == padded
    assert tiling.batch_rows.tolist() == [len(b) for of_tile in batches for b in of_tile]
    assert tiling.batch_lengths.tolist() == [b.max() for of_tile in batches for b in of_tile]
