"""Texts to token ids, and the length-grouped batches in which encoders read them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lpft.data.examples import Text
from lpft.data.lengths import TokenCounter
from lpft.data.texts import check_texts
from lpft.errors import InputError, one_line
from lpft.progress import progress

_TOKENIZER_CHUNK = 1000


@dataclass(frozen=True)
class Tokens:
    """Unpadded model inputs of N texts: ``columns[name][i]`` are the ids of text i."""

    columns: dict[str, list[list[int]]]
    pad_values: dict[str, int]
    padding_side: str

    def __len__(self) -> int:
        return len(self.columns["input_ids"])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens per text, special ones counted."""
        return np.array([len(ids) for ids in self.columns["input_ids"]], dtype=np.int64)

    def select(self, rows: Sequence[int] | NDArray[np.int64]) -> "Tokens":
        """Those of these texts, in this order."""
        columns = {name: [ids[row] for row in rows] for name, ids in self.columns.items()}
        return replace(self, columns=columns)

    def batch(
        self, rows: Sequence[int] | NDArray[np.int64], width: int | None = None
    ) -> dict[str, Tensor]:
        """These texts as tensors (rows x T), padded to their longest or to ``width``."""
        longest = max(len(self.columns["input_ids"][row]) for row in rows)
        width = longest if width is None else max(width, longest)

        def padded(ids: list[int], value: int) -> list[int]:
            padding = [value] * (width - len(ids))
            return padding + ids if self.padding_side == "left" else ids + padding

        return {
            name: torch.tensor(
                [padded(column[row], self.pad_values[name]) for row in rows], dtype=torch.long
            )
            for name, column in self.columns.items()
        }

    def fingerprint(self) -> str:
        """SHA-256 over every id of every column."""
        digest = sha256()
        for name in sorted(self.columns):
            digest.update(name.encode())
            for ids in self.columns[name]:
                digest.update(np.array([len(ids), *ids], dtype=np.int32).tobytes())
        return digest.hexdigest()


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
        raise InputError(
            f"the tokenizer of '{source}' cannot be loaded ({one_line(error)}): {expected}"
        ) from error
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise InputError(f"'{source}' has no tokenizer files: {expected}")
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
    columns: dict[str, list[list[int]]] = {}
    for start in progress(range(0, len(texts), _TOKENIZER_CHUNK), "tokenizing", unit="k texts"):
        chunk = texts[start : start + _TOKENIZER_CHUNK]
        encoded = tokenizer(*_arguments(chunk), truncation=True, max_length=max_length)
        for name, values in encoded.items():
            columns.setdefault(name, []).extend(values)
    for position, ids in enumerate(columns["input_ids"]):
        if not ids:
            row = position + 1 if rows is None else rows[position]
            raise InputError(f"text {row} has no token that the model knows: expected some text")
    pad_values = dict.fromkeys(columns, 0) | {"input_ids": tokenizer.pad_token_id}
    if "token_type_ids" in columns:
        pad_values["token_type_ids"] = tokenizer.pad_token_type_id
    return Tokens(columns, pad_values, tokenizer.padding_side)


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


def length_batches(
    lengths: NDArray[np.int64], *, max_rows: int, max_tokens: int
) -> Iterator[NDArray[np.int64]]:
    """Row indices in batches of similar length, longest first, at most ``max_tokens`` padded.

    Longest first, so that running out of memory happens at once and not at the end.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        rows = max(1, min(max_rows, max_tokens // int(lengths[order[start]])))
        yield order[start : start + rows]
        start += rows
