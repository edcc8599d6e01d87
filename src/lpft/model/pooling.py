"""One feature per text from hidden states, and the pooling that a model was made for."""

import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.utils.hub import cached_file

from lpft.errors import InputError, named
from lpft.model.encoder import is_causal
from lpft.settings import Pooling

_SENTENCE_TRANSFORMERS_POOLING: dict[str, Pooling] = {
    "cls": "first",
    "cls_token": "first",
    "mean": "mean",
    "mean_tokens": "mean",
    "lasttoken": "last",
}
_MODULES = "modules.json"
_POOLING_FOLDER = "1_Pooling"
_CHOICE = f"{named('pooling')} first, last or mean"
_HARMLESS_MODULES = ("Transformer", "Pooling", "Normalize", "Dropout")
"""Modules after which the head still sees the pooled states, up to their length."""


def pool(
    states: Tensor, attention_mask: Tensor, pooling: Pooling, blanks: Tensor | None = None
) -> Tensor:
    """One feature per text, N x h, from hidden states (N x T x h) and the mask (N x T).

    ``first`` and ``last`` take the first and last token that is not padding, on whichever side the
    padding is; ``mean`` averages the tokens that are not padding. ``mask`` takes the last of the
    tokens that are ``blanks`` (N x T), or of a text without one the last token.
    """
    states = states.float() if states.dtype in (torch.bfloat16, torch.float16) else states
    mask = attention_mask.to(states.dtype)
    if pooling == "mean":
        return (states * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
    columns = torch.arange(states.shape[1], device=states.device)
    order = -columns if pooling == "first" else columns
    eligible = attention_mask > 0
    if pooling == "mask":
        assert blanks is not None, "a blank has a token"
        eligible = blanks | (eligible & ~blanks.any(1, keepdim=True))
    column = torch.where(eligible, order, order.min() - 1).argmax(1)
    return states[torch.arange(states.shape[0], device=states.device), column]


def default_pooling(source: str, config: PreTrainedConfig, revision: str | None = None) -> Pooling:
    """What the model was made for: its own sentence pooling, or else its family's token.

    A sentence-transformers model names its modules in ``modules.json`` and its pooling in
    ``1_Pooling``. Otherwise encoders take the first token, decoders the last, and the encoder
    halves of sequence-to-sequence models (which have no classification token) the mean.

    Raises:
        InputError: the model has a pooling or a further layer that is not ours, its files are
            damaged, or they are not in the cache and the Hub cannot be reached.
    """
    try:
        modules = _read_modules(source, revision)
    except _UnknownFile:  # a pooling that is in the cache needs no list of modules
        modules = []
    foreign = [kind for kind, _ in modules if kind not in _HARMLESS_MODULES]
    if foreign:
        raise InputError(
            f"'{source}' has sentence-transformers modules that lpft does not run "
            f"({', '.join(foreign)}): give {_CHOICE} to train on the pooled hidden states instead"
        )
    folder = next((path for kind, path in modules if kind == "Pooling"), _POOLING_FOLDER)
    path = _model_file(source, f"{folder}/config.json", revision)
    if path is not None:
        return _sentence_pooling(path, source)
    if modules:
        raise InputError(
            f"the pooling of '{source}' is not known: it is a sentence-transformers model without "
            f"{folder}/config.json; restore that file, or give {_CHOICE}"
        )
    if config.is_encoder_decoder:
        return "mean"
    return "last" if is_causal(config) else "first"


class _UnknownFile(InputError):
    """Whether a model of the Hub has a file cannot be found out without the network."""


def _model_file(source: str, name: str, revision: str | None) -> Path | None:
    """The path of a model's file, or None where the model has no such file.

    Raises:
        _UnknownFile: the cache holds neither the file nor the note that the Hub has none.
    """
    path = cached_file(
        source,
        name,
        revision=revision,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if path is not None:
        return Path(path)
    if (
        not Path(source).is_dir()
        and try_to_load_from_cache(source, name, revision=revision) is None
    ):
        raise _UnknownFile(
            f"the pooling of '{source}' is not known: the cache does not hold its {name}, and the "
            f"Hub cannot be reached; load the model once with the network, or give {_CHOICE}"
        )
    return None


def _read_modules(source: str, revision: str | None) -> list[tuple[str, str]]:
    """Class and folder of each sentence-transformers module, in order; none for other models."""
    path = _model_file(source, _MODULES, revision)
    if path is None:
        return []
    modules = _read_json(path)
    try:
        return [(module["type"].rpartition(".")[2], module["path"]) for module in modules]
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"'{path}' is not a list of sentence-transformers modules: restore it, or give "
            f"{_CHOICE}"
        ) from error


def _sentence_pooling(path: Path, source: str) -> Pooling:
    """The pooling that a sentence-transformers file names, in its older form or its newer one."""
    settings = _read_json(path)
    if not isinstance(settings, dict):
        raise InputError(f"'{path}' is not a pooling configuration: restore it, or give {_CHOICE}")
    prefix = "pooling_mode_"
    named_modes = settings.get("pooling_mode", [])
    modes = [named_modes] if isinstance(named_modes, str) else list(named_modes)
    if not modes:
        modes = [
            key.removeprefix(prefix)
            for key, value in settings.items()
            if key.startswith(prefix) and value is True
        ]
    if len(modes) == 1 and modes[0] in _SENTENCE_TRANSFORMERS_POOLING:
        return _SENTENCE_TRANSFORMERS_POOLING[modes[0]]
    raise InputError(
        f"the pooling of '{source}' is {' + '.join(map(str, modes)) or 'none'} "
        f"({path.parent.name}/{path.name}), which lpft does not have: give {_CHOICE}"
    )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"'{path}' is damaged ({error}): restore it, or give {_CHOICE}") from error
