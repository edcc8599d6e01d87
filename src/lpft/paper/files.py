"""The published tables as CSV files of this package."""

import csv
from functools import cache
from importlib.resources import files


@cache
def rows_of(name: str) -> tuple[dict[str, str], ...]:
    """The rows of ``name.csv``, each by column; an empty cell is an empty text."""
    with (files("lpft.paper") / f"{name}.csv").open(encoding="utf-8") as file:
        return tuple(csv.DictReader(file))
