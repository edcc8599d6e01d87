"""Which rows of a run's predictions answer one question together, as the run kept it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lpft.data.groups import Groups
from lpft.errors import InputError
from lpft.runs.features import split_file

GROUP, CREDIT = "group", "credit_"
"""Columns of ``predictions/<split>.parquet``: the group, and what choosing a row earns."""


def read_groups(folder: Path, split: str, positive: int) -> Groups | None:
    """The groups of a split's rows, None where each row is its own.

    ``positive`` is the index of the class that says that a row answers its question.

    Raises:
        InputError: the split's predictions are missing or damaged.
    """
    path = folder / "predictions" / split_file(split, "parquet")
    try:
        names = [name for name in pq.read_schema(path).names if name.startswith((GROUP, CREDIT))]
        if GROUP not in names:
            return None
        table = pq.read_table(path, columns=names)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"'{path}' cannot be read ({error}): train the run again") from error
    return Groups(
        index=np.asarray(table[GROUP], dtype=np.int64),
        credits={
            name.removeprefix(CREDIT): np.asarray(table[name], dtype=np.float64)
            for name in names
            if name != GROUP
        },
        positive=positive,
    )
