"""Padded batches and memory of token ids: flat arrays against lists of lists and Transformers.

    python benchmarks/token_batches.py

Texts of 5 to 64 tokens with the columns of BERT's tokenizer. Each block of batches is made in turn
by ``Tokens.batch``, by padding Python lists and calling ``torch.tensor``, and by
``DataCollatorWithPadding`` with a fast tokenizer; all three make equal tensors. The record has the
median over blocks of the microseconds per batch, and the bytes per text of arrays and of lists.
"""

import statistics
import sys
from typing import Any

import numpy as np
import torch
from common import record, seconds
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import DataCollatorWithPadding, PreTrainedTokenizerFast

from lpft.data.tokens import Tokens

TEXTS, VOCABULARY = 20_000, 30_000
BATCH_ROWS = (16, 256)
BLOCKS, BATCHES = 15, 20

Columns = dict[str, list[list[int]]]
PAD_VALUES = {"input_ids": 0, "token_type_ids": 0, "attention_mask": 0}


def random_columns() -> Columns:
    generator = np.random.default_rng(0)
    lengths = generator.integers(5, 65, TEXTS)
    ids = [generator.integers(1, VOCABULARY, length).tolist() for length in lengths]
    return {
        "input_ids": ids,
        "token_type_ids": [[0] * length for length in lengths],
        "attention_mask": [[1] * length for length in lengths],
    }


def from_lists(columns: Columns, rows: list[int]) -> dict[str, torch.Tensor]:
    width = max(len(columns["input_ids"][row]) for row in rows)
    return {
        name: torch.tensor([ids[row] + [0] * (width - len(ids[row])) for row in rows])
        for name, ids in columns.items()
    }


def with_collator(
    collator: DataCollatorWithPadding, columns: Columns, rows: list[int]
) -> dict[str, torch.Tensor]:
    texts = [{name: ids[row] for name, ids in columns.items()} for row in rows]
    return dict(collator(texts))


def bytes_of_lists(columns: Columns) -> int:
    """Lists and their pointers; of the numbers those above 256, which are objects of their own."""
    size = 0
    for lists in columns.values():
        size += sys.getsizeof(lists) + sum(map(sys.getsizeof, lists))
        size += sum(sys.getsizeof(value) for ids in lists for value in ids if value > 256)
    return size


def bytes_of_arrays(tokens: Tokens) -> int:
    """Bytes that are stored: a view of one number counts as one number."""
    stored = sum(a.nbytes if a.strides != (0,) else a.itemsize for a in tokens.columns.values())
    return stored + tokens.offsets.nbytes + tokens.lengths.nbytes


def main() -> None:
    columns = random_columns()
    tokens = Tokens.from_lists(columns, PAD_VALUES, "right")
    words = {"[PAD]": 0, "[UNK]": 1}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="[UNK]")), pad_token="[PAD]"
    )
    collator = DataCollatorWithPadding(tokenizer)
    makers: dict[str, Any] = {
        "arrays": tokens.batch,
        "lists": lambda rows: from_lists(columns, rows),
        "DataCollatorWithPadding": lambda rows: with_collator(collator, columns, rows),
    }
    generator = np.random.default_rng(1)
    result: dict[str, Any] = {
        "texts": TEXTS,
        "bytes_per_text": {
            "arrays": bytes_of_arrays(tokens) / TEXTS,
            "lists": bytes_of_lists(columns) / TEXTS,
        },
    }
    for size in BATCH_ROWS:
        times: dict[str, list[float]] = {name: [] for name in makers}
        for _ in range(BLOCKS):
            batches = [generator.integers(0, TEXTS, size).tolist() for _ in range(BATCHES)]
            made = [make(batches[0]) for make in makers.values()]
            assert all(torch.equal(one[name], made[0][name]) for one in made for name in PAD_VALUES)
            for name, make in makers.items():
                times[name].append(seconds(lambda: [make(rows) for rows in batches]) / BATCHES)  # noqa: B023
        medians = {name: 1e6 * statistics.median(block) for name, block in times.items()}
        ratios = {
            name: statistics.median(o / a for o, a in zip(block, times["arrays"], strict=True))
            for name, block in times.items()
            if name != "arrays"
        }
        result[f"{size}_rows"] = {"microseconds": medians, "times_slower_than_arrays": ratios}
    record("token_batches", result)


if __name__ == "__main__":
    main()
