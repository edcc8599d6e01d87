"""The texts of ``lpft ntk``: to train on, to predict, and to choose a strength on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lpft.data import Examples, TextData
from lpft.data.examples import Text
from lpft.data.splits import draw_rows

Block = tuple[int, int]

TRAIN, EVALUATION, REVERSED, VALIDATION = (0, 0), (1, 0), (0, 1), (2, 0)
"""Blocks of a kernel: among training texts, from evaluated to training texts and back, and from
validation to training texts."""


@dataclass(frozen=True)
class KernelTexts:
    """The labelled texts of a kernel: N for training, M to predict, and the split of the latter.

    ``validation`` are those that choose the strength of kernel regression, None where nothing does
    or where they are predicted.
    """

    train: Examples
    evaluation: Examples
    evaluation_split: str
    validation: Examples | None

    @property
    def groups(self) -> list[Sequence[Text]]:
        """The lists of texts whose numbers the blocks are pairs of."""
        every = (self.train, self.evaluation, self.validation)
        return [examples.texts for examples in every if examples is not None]

    @property
    def validation_rows(self) -> int | None:
        return None if self.validation is None else len(self.validation)


def kernel_texts(data: TextData, most: int, *, validation: bool) -> KernelTexts:
    """At most ``most`` texts of the training split, and of the test split or else validation.

    ``validation``: of the validation split too, unless it is that which is predicted.
    """
    split = "validation" if data.test is None else "test"
    chooses = validation and split != "validation"
    return KernelTexts(
        train=_some(data.train, most),
        evaluation=_some(data.splits()[split], most),
        evaluation_split=split,
        validation=_some(data.validation, most) if chooses else None,
    )


def labels_of(examples: Examples) -> NDArray[np.int64]:
    """The class indices of labelled texts."""
    assert examples.labels is not None
    return examples.labels


def _some(examples: Examples, most: int) -> Examples:
    return examples.select(draw_rows(labels_of(examples), most))
