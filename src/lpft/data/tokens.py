"""Texts to token ids, and the length-grouped batches in which encoders read them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from lpft.data.examples import Text
from lpft.data.lengths import TokenCounter
from lpft.data.texts import check_texts
from lpft.errors import InputError, one_line
from lpft.files import lfs_pointer
from lpft.progress import progress

_TOKENIZER_CHUNK = 1000
_ROWS_AT_ONCE = 65536


@dataclass(frozen=True, eq=False)
class Tokens:
    """Unpadded model inputs of N texts, each column one flat array over all their tokens.

    The ids of text i are ``columns[name][offsets[i] : offsets[i + 1]]``, in the smallest unsigned
    type that holds them. A column with one value throughout, such as an attention mask of ones, is
    a view of stride 0 and takes no memory.
    """

    columns: dict[str, NDArray[np.integer]]
    offsets: NDArray[np.int64]
    pad_values: dict[str, int]
    padding_side: str

    @classmethod
    def from_lists(
        cls,
        columns: Mapping[str, Sequence[Sequence[int]]],
        pad_values: dict[str, int],
        padding_side: str,
    ) -> "Tokens":
        """Tokens of ``columns[name][i]``, the ids of text i.

        Raises:
            ValueError: the columns differ in the lengths of texts.
        """
        lengths = {name: [len(ids) for ids in lists] for name, lists in columns.items()}
        first = next(iter(lengths.values()))
        if any(other != first for other in lengths.values()):
            raise ValueError(f"the columns {', '.join(columns)} differ in the lengths of texts")
        offsets = _offsets(np.array(first, dtype=np.int64))
        flat = {
            name: _compact(np.fromiter(chain.from_iterable(lists), np.int64, int(offsets[-1])))
            for name, lists in columns.items()
        }
        return cls(flat, offsets, pad_values, padding_side)

    @classmethod
    def concatenate(cls, parts: "Sequence[Tokens]") -> "Tokens":
        """The texts of several tokens with the same columns and padding, one after another."""
        first = parts[0]
        columns = {name: _joined([part.columns[name] for part in parts]) for name in first.columns}
        offsets = _offsets(np.concatenate([part.lengths for part in parts]))
        return replace(first, columns=columns, offsets=offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens per text, special ones counted."""
        return np.diff(self.offsets)

    def lists(self, name: str = "input_ids") -> list[list[int]]:
        """The ids of a column, text by text."""
        ends = pairwise(self.offsets.tolist())
        return [self.columns[name][start:end].tolist() for start, end in ends]

    def select(self, rows: Sequence[int] | NDArray[np.int64]) -> "Tokens":
        """Those of these texts, in this order."""
        rows = np.asarray(rows, dtype=np.int64)
        starts, lengths = self.offsets[:-1][rows], self.lengths[rows]
        columns = {}
        for name, values in self.columns.items():
            total = int(lengths.sum())
            if _is_constant(values):
                columns[name] = np.broadcast_to(values[:1], total)
                continue
            columns[name] = np.empty(total, values.dtype)
            end = 0
            # The index of every token takes 8 bytes, more than the token: a part at a time.
            for part in np.array_split(np.arange(len(rows)), len(rows) // _ROWS_AT_ONCE + 1):
                start, end = end, end + int(lengths[part].sum())
                before = _offsets(lengths[part])[:-1]
                index = np.repeat(starts[part] - before, lengths[part]) + np.arange(end - start)
                columns[name][start:end] = values[index]
        return replace(self, columns=columns, offsets=_offsets(lengths))

    def batch(
        self, rows: Sequence[int] | NDArray[np.int64], width: int | None = None
    ) -> dict[str, Tensor]:
        """These texts as tensors (rows x T), padded to their longest or to ``width``."""
        rows = np.asarray(rows, dtype=np.int64)
        lengths = self.lengths[rows, None]
        longest = int(lengths.max())
        width = longest if width is None else max(width, longest)
        place = np.arange(width)
        # Where in the flat array position 0 of each text's row in the batch would be.
        if self.padding_side == "left":
            inside, first = place >= width - lengths, self.offsets[1:][rows, None] - width
        else:
            inside, first = place < lengths, self.offsets[:-1][rows, None]
        index = (first + place)[inside]
        batch = {}
        for name, values in self.columns.items():
            padded = np.full((len(rows), width), self.pad_values[name], dtype=np.int64)
            padded[inside] = values[0] if _is_constant(values) else values[index]
            batch[name] = torch.from_numpy(padded)
        return batch

    def fingerprint(self) -> str:
        """SHA-256 over every id of every column."""
        digest = sha256()
        for name in sorted(self.columns):
            digest.update(name.encode())
            for first in range(0, len(self), _ROWS_AT_ONCE):
                # Of each text its length, then its ids.
                offsets = self.offsets[first : first + _ROWS_AT_ONCE + 1]
                ids = self.columns[name][offsets[0] : offsets[-1]].astype(np.int32)
                before = offsets[:-1] - offsets[0]
                digest.update(np.insert(ids, before, np.diff(offsets)).data)
        return digest.hexdigest()


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each text begins, and the last one ends (N + 1)."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _compact(values: NDArray[np.int64]) -> NDArray[np.integer]:
    """The same numbers in the smallest type, or a view of one where all are equal."""
    if not len(values):
        return values
    low, high = values.min(), values.max()
    smallest = np.result_type(np.min_scalar_type(low), np.min_scalar_type(high))
    if low == high:
        return np.broadcast_to(low.astype(smallest), len(values))
    return values.astype(smallest)


def _joined(parts: list[NDArray[np.integer]]) -> NDArray[np.integer]:
    """The parts of a column as one array, or a view of one number where all are equal."""
    full = [part for part in parts if len(part)] or parts
    if all(_is_constant(part) and part[0] == full[0][0] for part in full):
        return np.broadcast_to(full[0][:1], sum(map(len, full)))
    return np.concatenate(full)


def _is_constant(values: NDArray[np.integer]) -> bool:
    """Whether an array is a view of one number."""
    return len(values) > 0 and values.strides == (0,)


def load_tokenizer(source: str, *, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The model's tokenizer, without a fixed padding or truncation, and with a padding token.

    A tokenizer without a padding token borrows an existing one: the attention mask keeps padding
    out of every output, so no embedding is added and no output changes.

    Raises:
        InputError: the tokenizer files are missing or damaged.
    """
    expected = "expected tokenizer.json or the vocabulary files of the model beside its weights"
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source, revision=revision, trust_remote_code=False
        )
    except Exception as error:  # tokenizers raises bare Exception for a damaged file
        if isinstance(error, ImportError):
            expected = "install the package that it names"
        elif Path(source).is_dir() and (pointer := lfs_pointer(Path(source))) is not None:
            expected = f"'{pointer}' is a pointer of Git LFS: run 'git lfs pull' in its folder"
        raise InputError(
            f"the tokenizer of '{source}' cannot be loaded ({one_line(error)}): {expected}"
        ) from error
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise InputError(f"'{source}' has no tokenizer files: {expected}")
    if not isinstance(tokenizer.model_max_length, int | float):
        tokenizer.model_max_length = VERY_LARGE_INTEGER  # the training's takes its place
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.backend_tokenizer.no_truncation()
    if tokenizer.pad_token is None:
        special = (tokenizer.eos_token, tokenizer.sep_token, tokenizer.unk_token)
        first = tokenizer.convert_ids_to_tokens(0)
        tokenizer.pad_token = next(token for token in (*special, first) if token is not None)
    return tokenizer


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[Text],
    max_length: int,
    *,
    rows: Sequence[int] | NDArray[np.int64] | None = None,
) -> Tokens:
    """Token ids of texts or pairs, truncated to ``max_length`` tokens, the longer text first.

    ``rows`` are the texts' numbers for messages (N), 1 to N by default.

    Raises:
        InputError: a text is empty or no string, has no token at all, or texts and pairs are mixed.
    """
    if not len(texts):
        raise InputError("there is no text to read: expected at least one")
    check_texts(texts, rows=rows)
    parts = []
    for start in progress(range(0, len(texts), _TOKENIZER_CHUNK), "tokenizing", unit="k texts"):
        chunk = texts[start : start + _TOKENIZER_CHUNK]
        encoded = tokenizer(*_arguments(chunk), truncation=True, max_length=max_length)
        pad_values = dict.fromkeys(encoded, 0) | {"input_ids": tokenizer.pad_token_id}
        if "token_type_ids" in encoded:
            pad_values["token_type_ids"] = tokenizer.pad_token_type_id
        parts.append(Tokens.from_lists(encoded, pad_values, tokenizer.padding_side))
    tokens = Tokens.concatenate(parts)
    for position in np.flatnonzero(tokens.lengths == 0)[:1].tolist():
        row = position + 1 if rows is None else rows[position]
        raise InputError(f"text {row} has no token that the model knows: expected some text")
    return tokens


def counter_of(tokenizer: PreTrainedTokenizerBase, limit: int | None, model: str) -> TokenCounter:
    """What counts tokens by ``tokenizer`` for a model that reads at most ``limit`` of them."""

    def count(texts: Sequence[Text]) -> NDArray[np.int64]:
        lengths: list[int] = []
        for start in range(0, len(texts), _TOKENIZER_CHUNK):
            chunk = list(texts[start : start + _TOKENIZER_CHUNK])
            encoded = tokenizer(*_arguments(chunk), truncation=False, verbose=False)
            lengths += [len(ids) for ids in encoded["input_ids"]]
        return np.array(lengths, dtype=np.int64)

    return TokenCounter(model, count, tokenizer.num_special_tokens_to_add() + 1, limit)


def _arguments(chunk: Sequence[Text]) -> list[Any]:
    """Texts as a tokenizer takes them: one list, or two for pairs."""
    if isinstance(chunk[0], tuple):
        return [list(part) for part in zip(*chunk, strict=True)]
    return [list(chunk)]
