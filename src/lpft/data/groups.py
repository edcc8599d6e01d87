"""Rows that answer one question together, and what choosing one of them is worth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

ANSWER_METRICS = ("answer_f1", "exact_match")
"""Metrics of groups in which every row is answered by itself."""


@dataclass(frozen=True)
class Groups:
    """The group (a question with its candidate answers) that each of N rows belongs to.

    Attributes:
        index: N group numbers; rows of one group share theirs.
        noun: what a group is (``question``), for notes and messages.
        credits: where one row of a group is chosen: what choosing each row earns, by metric, N
            numbers in [0, 1] each. Empty where every row is answered by itself.
        positive: index of the class that says that a row answers its question.
    """

    index: NDArray[np.int64]
    noun: str = "question"
    credits: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    positive: int = 1

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics that these groups give."""
        return tuple(self.credits) if self.credits else ANSWER_METRICS

    def select(self, rows: Sequence[int] | NDArray[np.int64]) -> "Groups":
        """The groups of the given rows, in the given order."""
        chosen = np.asarray(rows, dtype=np.int64)
        credits = {name: earned[chosen] for name, earned in self.credits.items()}
        return Groups(self.index[chosen], self.noun, credits, self.positive)
