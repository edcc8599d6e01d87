"""Numbers that figures are made of: curves along training, thinned lines, maps of kernels."""

from collections.abc import Collection, Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lpft.results.exhibits import Panel
from lpft.results.kernels import FT, NTK, PRETRAIN, KernelRecord, kernel_name
from lpft.results.run import Run
from lpft.results.schema import number

MOST_POINTS = 240  # per line: more cannot be seen at this size
_MOST_OF_CURVE = 150

# What history.jsonl records, the event that records it, and its name with unit.
QUANTITIES = (
    ("loss", "training", "Training loss (nats)"),
    ("validation_loss", "evaluation", "Validation loss (nats)"),
    ("validation_accuracy", "evaluation", "Validation accuracy"),
    ("feature_difference", "evaluation", "Feature change"),
    ("head_norm", "evaluation", "Head norm"),
    ("bias_norm", "evaluation", "Bias norm"),
    ("logit_norm", "evaluation", "Logit norm"),
)


def curve(run: Run, quantity: str) -> list[tuple[float, float]]:
    """(epoch, value) of one quantity; long records become means over equal stretches."""
    event = next(event for name, event, _ in QUANTITIES if name == quantity)
    points = []
    for row in run.history:
        epoch, value = number(row.get("epoch")), number(row.get(quantity))
        if row.get("event") == event and epoch is not None and value is not None:
            points.append((epoch, value))
    if len(points) <= _MOST_OF_CURVE:
        return points
    stretches = np.array_split(np.array(points), _MOST_OF_CURVE)
    return [(float(part[:, 0].mean()), float(part[:, 1].mean())) for part in stretches]


def thinned(count: int, most: int) -> NDArray[np.int64]:
    """Indices of at most ``most`` of ``count`` points, evenly spaced, with both ends."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def heat_map_panels(
    kernels: KernelRecord, most: int, shown: Collection[str] = (PRETRAIN, FT, NTK)
) -> tuple[Panel, ...]:
    """Trace norms of P once, then of F and of P + F of every method, samples sorted by class.

    Only kernels in ``shown`` are drawn.

    A map of more than ``most`` samples a side has means over square blocks of :func:`block_size`
    samples, which never mix classes. Maps of one kernel are a strip.
    """
    labels = kernels.labels.get("train")
    if labels is None:
        return ()
    # It may load torch, for which a report of runs alone need not wait.
    from lpft.ntk.statistics import class_order

    order = class_order(labels)
    size = block_size(len(labels), most)
    starts = np.concatenate(
        [np.arange(first, end, size) for first, end in pairwise(order.boundaries)]
    )
    counts = np.diff(np.append(starts, len(labels)))
    firsts = np.searchsorted(starts, order.boundaries[:-1])
    names = [kernels.classes[label] for label in order.classes]
    panels = []
    for kernel, title, values in _maps(kernels):
        if kernel not in shown:
            continue
        in_order = order.sort(values)
        sums = np.add.reduceat(np.add.reduceat(in_order, starts, axis=0), starts, axis=1)
        panels.append(
            Panel(
                title=title,
                x="training text",
                y="training text",
                matrix=tuple(map(tuple, (sums / np.outer(counts, counts)).tolist())),
                bounds=tuple((name, int(first)) for name, first in zip(names, firsts, strict=True)),
                strip=kernel_name(kernel),
            )
        )
    return tuple(panels)


def block_size(samples: int, most: int) -> int:
    """Samples a side of a block, so that a map has about ``most`` blocks a side."""
    return -(-samples // most)


def _maps(kernels: KernelRecord) -> Iterator[tuple[str, str, NDArray[np.float64]]]:
    """Kernel, title and trace norms of every map: P once, then F and P + F of every method."""
    for owners, _ in kernels.pretrain:
        title = "P" if len(kernels.pretrain) == 1 else f"P: {kernels.owners_name(owners)}"
        maps = [method.heat_maps[PRETRAIN] for method in owners if PRETRAIN in method.heat_maps]
        if maps:
            yield PRETRAIN, title, maps[0]
    for method in kernels.methods:
        for kernel in (FT, NTK):
            if kernel in method.heat_maps:
                title = f"{method.name}: {kernel_name(kernel)}"
                yield kernel, title, method.heat_maps[kernel]
