"""Figures 2, 7, 8 and 9: spectra of kernels, and heat maps of their trace norms."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lpft.experiments.recipe import Found, Recipe, Shown
from lpft.experiments.recipes.kernels_tables import METHODS, KernelRow, kernel_plan, kernel_rows
from lpft.report.drawing import thinned
from lpft.report.kernels.heat_maps import HeatMap, heat_maps
from lpft.report.kernels.spectra import MOST_POINTS
from lpft.report.numbers import counted
from lpft.results.exhibits import Figure, Panel, Series
from lpft.results.groups import method_name
from lpft.results.kernels import FT, NTK, PRETRAIN, KernelStatistics, kernel_name

MOST_BLOCKS = 96
"""Rows of a heat map at most: more cannot be told apart in a page's width."""

_BELOW_TOLERANCE = 1e-2
_DIGITS = 6  # P of a narrow cone of features varies in the third digit


def _show_spectra(found: Found) -> Shown:
    rows = list(kernel_rows(found))
    tasks = dict.fromkeys(row.task for row in rows)
    return Shown(
        exhibits=tuple(_spectra(task, [row for row in rows if row.task == task]) for task in tasks)
    )


def _spectra(task: str, rows: Sequence[KernelRow]) -> Figure:
    return Figure(
        name=f"spectra-{task}",
        title=f"Spectra of the kernels: {task}",
        kind="lines",
        panels=tuple(
            Panel(
                title=f"{kernel_name(kernel)}, with P",
                x="k-th singular value",
                y="over the largest",
                y_scale="log",
                series=tuple(
                    line
                    for row in rows
                    if row.kernel in (PRETRAIN, kernel) and (line := _line(row)) is not None
                ),
            )
            for kernel in (FT, NTK)
        ),
        caption=(
            "Singular values of the kernel among the training texts, divided by the largest: "
            "geometric means over seeds, bands from the lowest to the highest seed. What lies two "
            "decades below the float32 rank tolerance is rounding, and left out."
        ),
    )


def _line(row: KernelRow) -> Series | None:
    """The spectrum of a kernel over seeds; None where no seed has one."""
    found = [
        (kernels.name, statistics)
        for kernels, method in row.found
        if (statistics := method.kernels.get(row.kernel)) is not None
        and statistics.singular_values.any()
    ]
    if not found:
        return None
    shortest = min(len(statistics.singular_values) for _, statistics in found)
    places = thinned(shortest, MOST_POINTS)
    logs = np.stack([_logarithms(statistics)[places] for _, statistics in found])
    several = len(found) > 1
    return Series(
        label=kernel_name(PRETRAIN) if row.method is None else method_name(row.method),
        method=row.method,
        x=tuple(float(place + 1) for place in places),
        y=_powers(logs.mean(axis=0)),
        low=_powers(logs.min(axis=0)) if several else None,
        high=_powers(logs.max(axis=0)) if several else None,
        runs=tuple(name for name, _ in found),
    )


def _logarithms(statistics: KernelStatistics) -> NDArray[np.float64]:
    """Of singular values over the largest; -inf for those that are rounding."""
    values = statistics.singular_values / statistics.singular_values[0]
    tolerance, largest = statistics.rank_tolerance, statistics.largest_singular_value
    bottom = 0.0 if not (tolerance and largest) else _BELOW_TOLERANCE * tolerance / largest
    return np.log(values, out=np.full_like(values, -np.inf), where=values > bottom)


def _powers(logarithms: NDArray[np.float64]) -> tuple[float | None, ...]:
    return tuple(float(np.exp(value)) if np.isfinite(value) else None for value in logarithms)


def _show_heat_maps(found: Found) -> Shown:
    figures = []
    for task in found.scope.tasks:
        seeds = [seed for seed in found.scope.seeds if (task, seed) in found.kernels]
        maps = heat_maps(found.kernels[task, seeds[0]]) if seeds else ()
        if maps:
            figures.append(_heat(task, seeds[0], found.kernels[task, seeds[0]].name, maps))
    return Shown(exhibits=tuple(figures))


def _heat(task: str, seed: int, folder: str, maps: Sequence[HeatMap]) -> Figure:
    pooled = _block_size(maps[0])
    cells = "" if pooled == 1 else f" A cell is the mean over {pooled} x {pooled} pairs of texts."
    return Figure(
        name=f"heat-maps-{task}",
        title=f"Trace norms of the kernels: {task}",
        kind="heat",
        panels=tuple(_panel(heat_map, folder) for heat_map in maps),
        caption=(
            "Trace norm of the C x C block of each pair of training texts, sorted by class, of "
            f"{counted(len(maps[0].values), 'text')} and seed {seed} ({folder}).{cells}"
        ),
    )


def _panel(heat_map: HeatMap, folder: str) -> Panel:
    """The map in blocks that never mix classes."""
    size, values = _block_size(heat_map), heat_map.values
    starts = np.concatenate(
        [np.arange(first, end, size) for first, end in pairwise(heat_map.boundaries)]
    )
    sums = np.add.reduceat(np.add.reduceat(values, starts, axis=0), starts, axis=1)
    counts = np.diff(np.append(starts, len(values)))
    means = sums / np.outer(counts, counts)
    firsts = np.searchsorted(starts, heat_map.boundaries[:-1])
    return Panel(
        title=heat_map.title,
        x="training text",
        y="training text",
        matrix=tuple(tuple(float(f"{value:.{_DIGITS}g}") for value in row) for row in means),
        bounds=tuple(
            (name, int(first)) for name, first in zip(heat_map.classes, firsts, strict=True)
        ),
        runs=(folder,),
    )


def _block_size(heat_map: HeatMap) -> int:
    return -(-len(heat_map.values) // MOST_BLOCKS)


_TASKS = (("cb", "rte"), ("boolq", "wic"))

RECIPES = tuple(
    Recipe(
        name=name,
        title=title,
        source=name.replace("figure", "Figure "),
        tasks=tasks,
        methods=METHODS,
        plan=kernel_plan,
        show=show,
    )
    for names, title, show in (
        (
            ("figure2", "figure7"),
            "Spectra of the kernels at the start of fine-tuning",
            _show_spectra,
        ),
        (("figure8", "figure9"), "Heat maps of the kernels at the start", _show_heat_maps),
    )
    for name, tasks in zip(names, _TASKS, strict=True)
)
