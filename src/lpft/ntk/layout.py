"""Samples in tiles, tiles in pairs, and pairs in steps that hold two tiles at once, or all."""

import json
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from functools import cached_property
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from lpft.data.tokens import length_batches
from lpft.errors import InputError
from lpft.files import write_json
from lpft.ntk.stash import Place

Pair = tuple[int, int]
"""Where a block's rows and its columns come from: two tiles, or two groups of texts."""

_FILE = "layout.json"


@dataclass(frozen=True)
class Tile:
    """Samples that are held together: their rows, and the batches in which they pass.

    ``group`` is the place of their list of texts; ``batches`` are (number, rows) with numbers that
    no other tile's batches have.
    """

    group: int
    batches: tuple[tuple[int, NDArray[np.int64]], ...]

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        return np.concatenate([rows for _, rows in self.batches])


@dataclass(frozen=True)
class Step:
    """Tiles to hold at once, and the pairs to contract among them."""

    tiles: tuple[int, ...]
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Layout:
    """What decides the order of all sums: resumed kernels keep it, so that they end the same.

    ``tiles`` of the largest group, ``stash`` for what lies between blocks, ``workspace``, how many
    numbers the buffer of the contractions holds, and ``stages`` in which the widest unit's
    parameters are held, each with passes of its own.
    """

    tiles: int
    stash: Place
    workspace: int
    stages: int = 1

    @property
    def hold_all(self) -> bool:
        """Whether all tiles are held at once; otherwise two are."""
        return self.tiles == 1

    @classmethod
    def read(cls, folder: Path) -> "Layout | None":
        """The layout that was begun in ``folder``; None where nothing was.

        Raises:
            InputError: the file that holds it is damaged.
        """
        path = folder / _FILE
        if not path.is_file():
            return None
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            numbers = {name: int(kept[name]) for name in ("tiles", "workspace", "stages")}
            layout = cls(stash=kept["stash"], **numbers)
            if min(numbers.values()) < 1 or layout.stash not in get_args(Place):
                raise ValueError(layout)
            if kept["sha256"] != layout._digest:
                raise ValueError(kept)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"'{path}' is damaged: delete the folder '{folder}', and the kernel is computed "
                "from the start"
            ) from error
        return layout

    def write(self, folder: Path) -> None:
        """Keep it in ``folder``."""
        write_json(folder / _FILE, {**asdict(self), "sha256": self._digest})

    @property
    def _digest(self) -> str:
        return sha256(" ".join(map(str, astuple(self))).encode()).hexdigest()


def split(
    lengths: NDArray[np.int64],
    groups: NDArray[np.int64],
    count: int,
    *,
    batched: bool,
    batch_tokens: int,
) -> tuple[Tile, ...]:
    """Tiles of about equally many tokens: ``count`` of the group with most, fewer of others.

    Args:
        lengths: tokens of all texts; ``groups`` their groups.
        batched: whether several texts may pass together, up to ``batch_tokens`` padded tokens.
    """
    tiles = []
    number = 0
    totals = np.bincount(groups, weights=lengths)
    for group in np.unique(groups).tolist():
        rows = np.flatnonzero(groups == group)
        rows = rows[np.argsort(-lengths[rows], kind="stable")]
        tokens = np.cumsum(lengths[rows])
        parts = min(len(rows), max(1, round(count * totals[group] / totals.max())))
        ends = np.linspace(0, tokens[-1], parts + 1)[1:-1]
        cuts = np.unique(np.clip(np.searchsorted(tokens, ends, "right"), 1, len(rows) - 1))
        for part in np.split(rows, cuts):
            batches = []
            for places in length_batches(
                lengths[part], max_rows=len(part) if batched else 1, max_tokens=batch_tokens
            ):
                batches.append((number, part[places]))
                number += 1
            tiles.append(Tile(group, tuple(batches)))
    return tuple(tiles)


def tile_pairs(tiles: Sequence[Tile], blocks: Sequence[Pair], *, halved: bool) -> tuple[Pair, ...]:
    """The pairs of tiles to contract for ``blocks`` of groups.

    ``halved``: within a group each pair stands for its mirror image too.
    """
    return tuple(
        (i, j)
        for i, left in enumerate(tiles)
        for j, right in enumerate(tiles)
        if (left.group, right.group) in blocks
        and not (halved and left.group == right.group and i > j)
    )


def steps(pairs: Sequence[Pair], *, hold_all: bool) -> tuple[Step, ...]:
    """All pairs in an order in which each step holds two tiles, mostly one of them the last one's.

    A tile meets its partners in turn, the next tile its own in the opposite order. With
    ``hold_all`` there is a single step.
    """
    if hold_all:
        return (Step(tuple(sorted({tile for pair in pairs for tile in pair})), tuple(pairs)),)
    partners: dict[int, set[int]] = {}
    for pair in pairs:
        partners.setdefault(min(pair), set()).add(max(pair))
    todo = set(pairs)
    found = []
    for turn, tile in enumerate(sorted(partners)):
        for other in sorted(partners[tile], reverse=turn % 2 == 1):
            held = sorted({tile, other})
            among = tuple(pair for pair in product(held, repeat=2) if pair in todo)
            if among and (other != tile or partners[tile] == {tile}):
                found.append(Step(tuple(held), among))
                todo -= set(among)
    return tuple(found)
