"""A small writer of what ``lpft interpolate`` leaves in a folder, with invented numbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lpft.results.schema import (
    DataRecord,
    Fingerprints,
    InterpolationRecord,
    PointRecord,
    Validation,
)


def write_points(
    folder: Path,
    *,
    name: str = "reviews",
    method: str = "lp-ft",
    alphas: Sequence[float] = (0.0, 0.25, 0.5, 1.0),
    ood: Sequence[str] = ("films", "posts"),
    chosen: float = 0.5,
    **fields: Any,
) -> Path:
    """Points whose accuracy out of distribution is highest in the middle."""
    folder.mkdir(parents=True)
    splits = ("validation", "test", *(f"ood/{each}" for each in ood))
    points = [
        PointRecord(
            alpha=alpha,
            temperature=1 + alpha / 4,
            splits={
                split: {
                    "rows": 200,
                    "accuracy": 0.8 + 0.1 * alpha - (alpha - 0.5) ** 2 * place / 10,
                    "nll": 0.6,
                    "ece": 0.2,
                    "calibrated": {"nll": 0.5 - 0.1 * alpha, "ece": 0.1},
                }
                for place, split in enumerate(splits)
            },
            eligible=alpha > 0,
        )
        for alpha in alphas
    ]
    for file in ("metrics.json", "README.md"):
        (folder / file).write_text("{}")
    known = {
        "schema": InterpolationRecord.SCHEMA,
        "run": "run",
        "config": {"model": "minilm", "method": method, "seed": 3, "head_scale": 1.0},
        "data": DataRecord(name=name, classes=["bad", "good"], sources={"train": "train.csv"}),
        "fingerprints": Fingerprints(),
        "validation": Validation(kind="held-out", rows=200),
        "head_scale": 1.0,
        "rule": "the lowest NLL",
        "points": points,
        "chosen": chosen,
        "reason": "lowest NLL of 3 points",
        "optimism": 0.0123,
    }
    InterpolationRecord(**known | fields).write(folder)
    return folder
