"""The tokenizer of an export, and the batches that a reader of it makes."""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lpft.data import Text
from lpft.export.written import Batch


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, inputs: Iterable[str], folder: Path) -> None:
    """Write a tokenizer that gives just ``inputs`` and pads on the right, as stock models read."""
    copied = deepcopy(tokenizer)
    copied.model_input_names = [name for name in copied.model_input_names if name in set(inputs)]
    copied.padding_side = "right"
    copied.save_pretrained(folder)


class BatchReader:
    """What a user's program does with texts: the saved tokenizer, padding and truncation."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def __call__(self, texts: Sequence[Text]) -> Batch:
        """Texts, or pairs, as one batch."""
        columns = zip(*((text,) if isinstance(text, str) else text for text in texts), strict=True)
        encoded = self.tokenizer(
            *map(list, columns), padding=True, truncation=True, return_tensors="np"
        )
        return {name: np.asarray(values, dtype=np.int64) for name, values in encoded.items()}
