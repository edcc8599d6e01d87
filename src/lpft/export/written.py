"""What a format tells of the files that it wrote, and how they are read again."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Batch = dict[str, NDArray[np.int64]]
"""Padded token ids and masks by their names, N x T each."""

Scorer = Callable[[Batch], NDArray[np.float32]]
"""The logits (N x C) of a batch, by what was written alone."""


@dataclass(frozen=True)
class Written:
    """``model`` says in a few words what was written; ``notes`` are sentences on its use."""

    model: str
    notes: tuple[str, ...]
