"""Pre-trained encoders: loading them, and turning their hidden states into one feature per text.

This is the only module that loads the models of transformers.
"""

import inspect
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForTextEncoding,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging
from transformers.utils.hub import cached_file

from lpft.errors import InputError, named, one_line
from lpft.files import check_model_path
from lpft.settings import Pooling

LOAD_ERRORS = (OSError, ValueError, KeyError, RuntimeError, SafetensorError)
"""What transformers, PEFT and safetensors raise for missing or damaged weights."""


@dataclass(frozen=True)
class Family:
    """A model family that the tests train: its default pooling, and the modules LoRA adapts."""

    model_type: str
    pooling: Pooling
    adapted: tuple[str, ...]
    fused: bool = False


TESTED_FAMILIES = (
    Family("bert", "first", ("query", "value")),
    Family("roberta", "first", ("query", "value")),
    Family("distilbert", "first", ("q_lin", "v_lin")),
    Family("albert", "first", ("query", "value")),
    Family("deberta-v2", "first", ("query_proj", "value_proj")),
    Family("modernbert", "first", ("Wqkv",), fused=True),
    Family("gpt2", "last", ("c_attn",), fused=True),
    Family("llama", "last", ("q_proj", "v_proj")),
)

_SENTENCE_TRANSFORMERS_POOLING: dict[str, Pooling] = {
    "cls": "first",
    "cls_token": "first",
    "mean": "mean",
    "mean_tokens": "mean",
    "lasttoken": "last",
}


def load_config(source: str, *, revision: str | None = None) -> PreTrainedConfig:
    """The configuration of a Hub id or a model folder.

    Raises:
        InputError: nothing is there, it cannot be reached, or it is not a model.
    """
    check_model_path(source)
    try:
        return AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    except Exception as error:  # each configuration class raises its own kind for a wrong field
        raise InputError(_explain_load_failure(source, error)) from error


def load_encoder(
    source: str, config: PreTrainedConfig, *, revision: str | None = None
) -> PreTrainedModel:
    """The pre-trained encoder in float32 and evaluation mode, without pooler or language head.

    Raises:
        InputError: the weights are missing, damaged, not finite or of another architecture.
    """
    auto_class, keywords = _construction(config)
    try:
        with quiet_transformers():
            encoder, report = auto_class.from_pretrained(
                source,
                config=config,
                revision=revision,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
                **keywords,
            )
    except LOAD_ERRORS as error:
        raise InputError(_explain_load_failure(source, error)) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise InputError(
            f"the weights of '{source}' lack {len(missing)} parameters of a {config.model_type} "
            f"model (for example {missing[0]}): the checkpoint is incomplete or of another "
            "architecture; download it again or name another model"
        )
    check_finite(encoder, source)
    return encoder.eval()


def build_encoder(config: PreTrainedConfig, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The architecture of ``config`` with the library's own random weights."""
    auto_class, keywords = _construction(config)
    if dtype is not None:
        keywords["dtype"] = dtype
    return auto_class.from_config(config, **keywords)


def check_finite(model: nn.Module, source: str) -> None:
    """Refuse weights that hold NaN or infinity.

    Raises:
        InputError: a parameter is not finite; the message names the first.
    """
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise InputError(
                f"the weights of the model '{source}' are not finite (NaN or infinity in {name}): "
                "name an intact model"
            )


def hidden_states(
    encoder: nn.Module, input_ids: Tensor, attention_mask: Tensor, **extra: Tensor
) -> Tensor:
    """The last hidden states, N x T x h, of padded token ids (N x T) under their mask (N x T).

    Padding on the left gives the same states as padding on the right: where the encoder would
    count positions from the first column, the positions of the real tokens are passed instead.
    """
    accepted = inspect.signature(encoder.forward).parameters
    keywords: dict[str, Any] = {name: value for name, value in extra.items() if name in accepted}
    if "use_cache" in accepted:
        keywords["use_cache"] = False
    # Encoders like RoBERTa skip padding by themselves when they count positions.
    if "position_ids" in accepted and _position_padding(encoder) is None:
        padded_left = attention_mask[:, 0] == 0
        # An exported graph cannot branch on its input, so it always gets the positions.
        if torch.compiler.is_exporting() or bool(padded_left.any()):
            keywords["position_ids"] = (attention_mask.long().cumsum(1) - 1).clamp(min=0)
    return encoder(input_ids=input_ids, attention_mask=attention_mask, **keywords).last_hidden_state


def pool(states: Tensor, attention_mask: Tensor, pooling: Pooling) -> Tensor:
    """One feature per text, N x h, from hidden states (N x T x h) and the mask (N x T).

    ``first`` and ``last`` take the first and last token that is not padding, on whichever side the
    padding is; ``mean`` averages the tokens that are not padding.
    """
    states = states.float() if states.dtype in (torch.bfloat16, torch.float16) else states
    mask = attention_mask.to(states.dtype)
    if pooling == "mean":
        return (states * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
    columns = torch.arange(states.shape[1], device=states.device)
    order = columns if pooling == "last" else -columns
    chosen = torch.where(attention_mask > 0, order, order.min() - 1).argmax(1)
    return states[torch.arange(states.shape[0], device=states.device), chosen]


def default_pooling(source: str, config: PreTrainedConfig, revision: str | None = None) -> Pooling:
    """What the model was made for: its own sentence pooling, or else its family's token.

    A sentence-transformers folder names its pooling in ``1_Pooling``. Otherwise encoders take the
    first token, decoders the last, and the encoder halves of sequence-to-sequence models (which
    have no classification token) the mean.
    """
    named = cached_file(
        source,
        "1_Pooling/config.json",
        revision=revision,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if named is not None:
        settings = _read_pooling(Path(named))
        modes = [settings.get("pooling_mode")] + [
            key.removeprefix("pooling_mode_") for key, value in settings.items() if value is True
        ]
        for mode in modes:
            if mode in _SENTENCE_TRANSFORMERS_POOLING:
                return _SENTENCE_TRANSFORMERS_POOLING[mode]
    if config.is_encoder_decoder:
        return "mean"
    kind = type(config)
    is_decoder = kind in MODEL_FOR_CAUSAL_LM_MAPPING and kind not in MODEL_FOR_MASKED_LM_MAPPING
    return "last" if is_decoder else "first"


def position_limit(encoder: PreTrainedModel) -> int | None:
    """The largest number of tokens that the encoder can number, or None without such a limit."""
    limit = getattr(encoder.config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    padding = _position_padding(encoder)
    return limit if padding is None else limit - padding - 1


def feature_size(config: PreTrainedConfig) -> int:
    """The width h of the encoder's last hidden state."""
    return config.get_text_config().hidden_size


def head_dropout(config: PreTrainedConfig) -> float:
    """The dropout that the family puts before its own classification head; 0.1 where unnamed."""
    names = ("classifier_dropout", "classifier_dropout_prob", "seq_classif_dropout")
    for name in (*names, "hidden_dropout_prob", "resid_pdrop", "dropout_rate"):
        value = getattr(config, name, None)
        if value is not None:
            return float(value)
    return 0.1


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide transformers' load reports and bars, whose content we check ourselves, in the block."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python, NumPy and torch within the block, and restore the program's states after it."""
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            torch.manual_seed(seed)  # of every device
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


def _read_pooling(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"'{path}' is damaged ({error}): restore it, or give {named('pooling')}"
        ) from error
    if not isinstance(settings, dict):
        raise InputError(
            f"'{path}' is not a pooling configuration: restore it, or give {named('pooling')}"
        )
    return settings


def _construction(config: PreTrainedConfig) -> tuple[Any, dict[str, Any]]:
    """The Auto class to build with, and the keyword that leaves out a pooler the family has."""
    # The configuration of a saved classifier's encoder half says that it has no decoder.
    if config.is_encoder_decoder or type(config) in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
        return AutoModelForTextEncoding, {}
    model_class = MODEL_MAPPING.get(type(config), None)
    if model_class is None:
        return AutoModel, {}
    arguments = inspect.signature(model_class.__init__).parameters
    return AutoModel, {"add_pooling_layer": False} if "add_pooling_layer" in arguments else {}


def _position_padding(encoder: nn.Module) -> int | None:
    """The padding id of RoBERTa-like position embeddings, which start counting after it."""
    embeddings = getattr(getattr(encoder, "embeddings", None), "position_embeddings", None)
    return getattr(embeddings, "padding_idx", None)


def _explain_load_failure(source: str, error: Exception) -> str:
    if Path(source).is_dir():
        return (
            f"the model folder '{source}' cannot be loaded ({one_line(error)}): name an intact one"
        )
    return (
        f"the model '{source}' is neither a folder here nor could it be loaded from the Hugging "
        f"Face Hub ({one_line(error)}): check the name and the network, or use {named('model')} "
        "minilm"
    )
