"""Predictions of a run's split as a table: what is written, and what it says of its rows."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from lpft.data.examples import Examples
from lpft.data.groups import Groups

GROUP, POSITIVE, CREDIT, CLUSTER = "group", "positive", "credit_", "cluster"
"""Columns of ``predictions/<split>.parquet`` beside id, label and logits, where data has them."""


def predictions_frame(examples: Examples, logits: np.ndarray) -> pd.DataFrame:
    """Columns id, label (the class index) and logits (C float32, before the temperature).

    Rows that answer a question together have their ``group`` too, the class index ``positive`` that
    says that a row answers, and what choosing a row earns by a metric as ``credit_<metric>``. Rows
    that are not independent share a ``cluster``.
    """
    columns: dict[str, Any] = {
        "id": examples.ids,
        "label": examples.labels,
        "logits": list(np.asarray(logits, dtype=np.float32)),
    }
    if examples.groups is not None:
        columns[GROUP] = examples.groups.index
        columns[POSITIVE] = examples.groups.positive
        columns |= {f"{CREDIT}{name}": credit for name, credit in examples.groups.credits.items()}
    if examples.clusters is not None:
        columns[CLUSTER] = examples.clusters
    return pd.DataFrame(columns)


def groups_of(table: pa.Table) -> Groups | None:
    """Which of a table's rows answer one question together, None where it does not say."""
    if not {GROUP, POSITIVE} <= set(table.column_names) or not len(table):
        return None
    return Groups(
        index=_integers(table, GROUP),
        credits={
            name.removeprefix(CREDIT): np.asarray(table[name], dtype=np.float64)
            for name in table.column_names
            if name.startswith(CREDIT)
        },
        positive=int(_integers(table, POSITIVE)[0]),
    )


def clusters_of(table: pa.Table) -> NDArray[np.int64] | None:
    """Numbers that rows share where they are not independent: a cluster's, or else a group's."""
    for name in (CLUSTER, GROUP):
        if name in table.column_names:
            return _integers(table, name)
    return None


def _integers(table: pa.Table, name: str) -> NDArray[np.int64]:
    return np.asarray(table[name], dtype=np.int64)
