"""Texts in tiles, tiles in pairs, pairs in steps; and their counts, on which all costs depend.

    texts of a group, longest first:  | tile 0 | tile 1 | tile 2 |      a block of F is k x k pairs
    pairs of tiles:                   (0,0) (0,1) (0,2) (1,1) (1,2) (2,2)
    steps, which hold two tiles:      {0,1}: (0,0) (0,1) (1,1) -> {0,2}: (0,2) (2,2) -> {1,2}: (1,2)

With k tiles there are of the order of k^2 pairs and steps. A plan is chosen among many layouts, so
its cost is computed in closed form from the texts and tokens of its tiles: no pair is listed before
a kernel is computed.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lpft.ntk.storage import Pair

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Tile:
    """Texts of one group that are held together, in the batches in which they pass.

    ``batches`` are (number, rows) with numbers that no other tile's batches have.
    """

    group: int
    batches: tuple[tuple[int, Integers], ...]

    @cached_property
    def rows(self) -> Integers:
        return np.concatenate([rows for _, rows in self.batches])


class Step(NamedTuple):
    """Tiles to hold at once, and the pairs to contract among them."""

    tiles: tuple[int, ...]
    pairs: tuple[Pair, ...]


class Shape(NamedTuple):
    """Samples n of a tile and the tokens T of each that a weight sees."""

    samples: int
    tokens: float


@dataclass(frozen=True)
class Tiling:
    """How texts are cut into k tiles and B batches: consecutive parts of the rows in one order.

    Attributes:
        rows: of all texts, group by group, the longest of a group first.
        lengths: tokens of each, in that order.
        groups: of the tiles [k], in ascending order.
        starts: the position of each tile's first text, and the number of texts [k + 1].
        batch_starts: those of the batches [B + 1]; a batch is padded to its first text.
    """

    rows: Integers
    lengths: Integers
    groups: Integers
    starts: Integers
    batch_starts: Integers

    def __len__(self) -> int:
        return len(self.groups)

    @cached_property
    def samples(self) -> Integers:
        """Texts of each tile [k]."""
        return np.diff(self.starts)

    @cached_property
    def tokens(self) -> Integers:
        """Tokens of each tile [k], without padding."""
        return np.add.reduceat(self.lengths, self.starts[:-1])

    @cached_property
    def mean_tokens(self) -> NDArray[np.float64]:
        """Mean tokens of each tile's texts [k]."""
        return self.tokens / self.samples

    @cached_property
    def batch_rows(self) -> Integers:
        """Texts of each batch [B]."""
        return np.diff(self.batch_starts)

    @cached_property
    def batch_lengths(self) -> Integers:
        """Tokens to which each batch is padded [B]."""
        return self.lengths[self.batch_starts[:-1]]

    @cached_property
    def padded_tokens(self) -> Integers:
        """Tokens of each tile [k] with the padding of its batches."""
        return np.add.reduceat(self.batch_rows * self.batch_lengths, self._first_batches[:-1])

    @cached_property
    def tiles(self) -> tuple[Tile, ...]:
        """The tiles themselves."""
        ends = self.batch_starts.tolist()
        batches = [
            (number, self.rows[start:end]) for number, (start, end) in enumerate(pairwise(ends))
        ]
        firsts = self._first_batches.tolist()
        return tuple(
            Tile(group, tuple(batches[first:last]))
            for group, first, last in zip(self.groups.tolist(), firsts, firsts[1:], strict=False)
        )

    @cached_property
    def _first_batches(self) -> Integers:
        return np.searchsorted(self.batch_starts, self.starts)


class Tiler:
    """Cuts texts into tilings, each of which is made once.

    Args:
        lengths: tokens of all texts; ``groups`` their groups.
        batched: whether several texts may pass together, up to ``batch_tokens`` padded tokens.
    """

    def __init__(
        self, lengths: Integers, groups: Integers, *, batched: bool, batch_tokens: int
    ) -> None:
        # By group, then longest first, so that the texts of a tile are of similar length.
        self._rows = np.lexsort((-lengths, groups))
        self._lengths = lengths[self._rows]
        self._labels, firsts = np.unique(groups[self._rows], return_index=True)
        self._ends = [*firsts.tolist(), len(lengths)]
        most = np.maximum(1, batch_tokens // self._lengths) if batched else np.ones_like(lengths)
        self._most_rows: list[int] = most.tolist()
        self._made: dict[int, Tiling] = {}

    def cut(self, count: int) -> Tiling:
        """Tiles of about equally many tokens: ``count`` of the group with most, fewer of others."""
        if count not in self._made:
            self._made[count] = self._cut(count)
        return self._made[count]

    def _cut(self, count: int) -> Tiling:
        bounds = list(pairwise(self._ends))
        most = max(int(self._lengths[first:end].sum()) for first, end in bounds)
        tile_starts: list[int] = []
        groups: list[int] = []
        for group, (first, end) in zip(self._labels.tolist(), bounds, strict=True):
            # The cuts are where the running sum of tokens passes each equal part of them.
            tokens = np.cumsum(self._lengths[first:end])
            parts = min(len(tokens), max(1, round(count * int(tokens[-1]) / most)))
            ends = np.linspace(0, tokens[-1], parts + 1)[1:-1]
            cuts = np.clip(np.searchsorted(tokens, ends, "right"), 1, len(tokens) - 1)
            cuts = cuts[np.diff(cuts, prepend=0) > 0]
            tile_starts += [first, *(first + cuts).tolist()]
            groups += [group] * (len(cuts) + 1)
        ends_of_tiles = [*tile_starts[1:], len(self._rows)]
        # Batches fill up from each tile's first text on. That is the longest, to which the batch is
        # padded, so it decides how many rows fit.
        batch_starts = []
        position = 0
        for end in ends_of_tiles:
            while position < end:
                batch_starts.append(position)
                position = min(end, position + self._most_rows[position])
        return Tiling(
            self._rows,
            self._lengths,
            np.array(groups),
            np.array([*tile_starts, len(self._rows)]),
            np.array([*batch_starts, len(self._rows)]),
        )


def tile_pairs(groups: Sequence[int], blocks: Collection[Pair], *, halved: bool) -> list[Pair]:
    """The pairs of tiles to contract for ``blocks`` of groups; ``groups`` are those of the tiles.

    ``halved``: within a group each pair stands for its mirror image too.
    """
    return [
        (i, j)
        for i, left in enumerate(groups)
        for j, right in enumerate(groups)
        if (left, right) in blocks and not (halved and left == right and i > j)
    ]


def make_steps(pairs: Sequence[Pair], *, hold_all: bool) -> tuple[Step, ...]:
    """All pairs, each once, in steps that hold two tiles; with ``hold_all`` in a single step.

    A tile that is not held yet must be passed again, so neighbouring steps share a tile wherever
    they can: tile 0 meets 1, 2, 3; tile 1 meets 3, 2; tile 2 meets 3. Each tile meets its partners
    in turn, the next tile its own in the opposite order.
    """
    if hold_all:
        return (Step(tuple(sorted({tile for pair in pairs for tile in pair})), tuple(pairs)),)
    partners: dict[int, set[int]] = {}
    for pair in pairs:
        partners.setdefault(min(pair), set()).add(max(pair))
    remaining = set(pairs)
    steps = []
    for turn, tile in enumerate(sorted(partners)):
        # Odd turns go through the partners backwards: they begin with the one that is held.
        for partner in sorted(partners[tile], reverse=turn % 2 == 1):
            held = sorted({tile, partner})
            among = tuple(pair for pair in product(held, repeat=2) if pair in remaining)
            # A tile alone is no step: its pair with itself goes along with a partner's.
            if among and (partner != tile or partners[tile] == {tile}):
                steps.append(Step(tuple(held), among))
                remaining -= set(among)
    return tuple(steps)


class PairCounts(NamedTuple):
    """Pairs of texts and tokens, on which a linear weight's cost depends.

    For tiles of n texts and x tokens these are sums over the pairs (i, j), each twice, but a tile
    with itself once unless the kernel is asymmetric: of ``n_i n_j``, ``x_i x_j`` and ``x_i n_j``.
    And ``formed_texts`` and ``formed_tokens``: n and x of the tiles of every step, whose gradients
    are formed for it.
    """

    text_pairs: float
    token_pairs: float
    token_text_pairs: float
    formed_texts: float
    formed_tokens: float

    def plus(self, other: "PairCounts") -> "PairCounts":
        return PairCounts(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    def seen_by_weight(self, tokens_per_token: float, *, pooled: bool) -> "PairCounts":
        """The counts of a weight that sees a part of the tokens, or one per text if ``pooled``."""
        if pooled:
            texts = self.text_pairs
            return PairCounts(texts, texts, texts, self.formed_texts, self.formed_texts)
        return self._replace(
            token_pairs=tokens_per_token**2 * self.token_pairs,
            token_text_pairs=tokens_per_token * self.token_text_pairs,
            formed_tokens=tokens_per_token * self.formed_tokens,
        )


def count_pairs(
    tiles: Mapping[int, Shape], pairs: Iterable[Pair], *, asymmetric: bool = False
) -> PairCounts:
    """The counts of listed pairs, whose tiles are all held at once."""
    pairs = list(pairs)
    text_pairs = token_pairs = token_text_pairs = 0.0
    for i, j in pairs:
        (n, t), (m, s) = tiles[i], tiles[j]
        times = 1 if i == j and not asymmetric else 2
        text_pairs += times * n * m
        token_pairs += times * n * t * m * s
        token_text_pairs += times * n * t * m
    formed = [tiles[tile] for tile in {tile for pair in pairs for tile in pair}]
    return PairCounts(
        text_pairs,
        token_pairs,
        token_text_pairs,
        float(sum(n for n, _ in formed)),
        float(sum(n * t for n, t in formed)),
    )


@dataclass(frozen=True)
class Schedule:
    """The pairs and steps of ``blocks``, counted in closed form.

    The counts are those of the lists that :func:`tile_pairs` and :func:`make_steps` would return.
    """

    tiling: Tiling
    blocks: frozenset[Pair]
    halved: bool
    hold_all: bool

    @cached_property
    def steps_of_tiles(self) -> Integers:
        """In how many steps each tile is held [k]: once with every other tile that it meets."""
        counts = np.zeros(len(self.tiling), dtype=np.int64)
        for group, (first, end) in self._spans.items():
            tiles_met = sum(self._size(partner) for partner in self._partners_of[group])
            meets_itself = group in self._partners_of[group]
            # A tile that meets no other is a step of its own.
            counts[first:end] = max(tiles_met - meets_itself, 1) if tiles_met else 0
        return np.minimum(counts, 1) if self.hold_all else counts

    @property
    def step_count(self) -> int:
        """How many steps there are."""
        if self.hold_all:
            return 1
        # Of two tiles each, but that of a tile which meets itself alone.
        alone = sum(
            partner_groups == {group} and self._size(group) == 1
            for group, partner_groups in self._partners_of.items()
        )
        return (int(self.steps_of_tiles.sum()) + alone) // 2

    @cached_property
    def loads_of_tiles(self) -> Integers:
        """For how many steps each tile passes again [k], as the step before did not hold it."""
        if self.hold_all:
            return self.steps_of_tiles
        loads = np.zeros(len(self.tiling), dtype=np.int64)
        for group, (first, end) in self._spans.items():
            # In the turn of every earlier tile that this one meets it is loaded once.
            partner_groups = self._partners_of[group]
            loads[first:end] = sum(
                self._size(partner) for partner in partner_groups if partner < group
            )
            if group in partner_groups:
                loads[first:end] += np.arange(end - first)
        # In its own turn a tile is loaded unless the step before held it. The first partner of a
        # turn is not loaded again where it was the last of the turn before: `make_steps` goes
        # through the partners in alternating order.
        held: tuple[int, ...] = ()
        turn = 0
        for tile, group in enumerate(self.tiling.groups.tolist()):
            partners = self._partners_of[group]
            spans = [self._spans[partner] for partner in partners]
            later = [(max(first, tile + 1), end) for first, end in spans if end > tile + 1]
            if later:
                # Partners still to come, in the order of this turn: only its ends matter.
                nearest, farthest = min(later)[0], max(later)[1] - 1
                first, last = (nearest, farthest) if turn % 2 == 0 else (farthest, nearest)
                loads[tile] += tile not in held
                loads[first] -= first in held
                held = (tile, last)
            elif partners == {group} and self._size(group) == 1:  # it meets itself alone
                loads[tile] += tile not in held
                held = (tile,)
            turn += bool(later) or group in partners
        return loads

    @property
    def most_held(self) -> int:
        """The most tiles that a step holds."""
        steps = self.steps_of_tiles
        meets_another = any(
            sum(self._size(partner) for partner in partner_groups) > (group in partner_groups)
            for group, partner_groups in self._partners_of.items()
            if partner_groups
        )
        return int((steps > 0).sum()) if self.hold_all else 2 if meets_another else 1

    @cached_property
    def counts(self) -> PairCounts:
        """The counts of all steps, one after the other."""
        return self._count(self.steps_of_tiles)

    @cached_property
    def least_counts(self) -> PairCounts:
        """The counts of all pairs at once, with every tile formed a single time."""
        return self._count(np.minimum(self.steps_of_tiles, 1))

    def _count(self, times: Integers) -> PairCounts:
        text_pairs = token_pairs = token_text_pairs = 0.0
        texts, tokens = self.tiling.samples.astype(float), self.tiling.tokens.astype(float)
        for left, right in self.blocks:
            i, j = slice(*self._spans[left]), slice(*self._spans[right])
            n, m, x, y = texts[i].sum(), texts[j].sum(), tokens[i].sum(), tokens[j].sum()
            if left == right and self.halved:
                # (sum n)^2 has each pair twice and a tile with itself once; of x_i n_j the pairs
                # i <= j alone count, which is not symmetric: through running sums.
                text_pairs += n * n
                token_pairs += x * x
                after = n - np.cumsum(texts[i])
                token_text_pairs += float(tokens[i] @ (2 * after + texts[i]))
            else:
                text_pairs += 2 * n * m
                token_pairs += 2 * x * y
                token_text_pairs += 2 * x * m
        return PairCounts(
            float(text_pairs),
            float(token_pairs),
            float(token_text_pairs),
            float(times @ texts),
            float(times @ tokens),
        )

    @cached_property
    def _spans(self) -> dict[int, tuple[int, int]]:
        """By group its tiles: the first, and the one after the last."""
        labels, firsts = np.unique(self.tiling.groups, return_index=True)
        ends = [*firsts.tolist()[1:], len(self.tiling)]
        return dict(zip(labels.tolist(), zip(firsts.tolist(), ends, strict=True), strict=True))

    @cached_property
    def _partners_of(self) -> dict[int, set[int]]:
        """By group those with which it has a block, either way round."""
        return {
            group: {
                right if left == group else left
                for left, right in self.blocks
                if group in (left, right)
            }
            for group in self._spans
        }

    def _size(self, group: int) -> int:
        first, end = self._spans[group]
        return end - first
