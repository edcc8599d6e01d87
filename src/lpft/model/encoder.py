"""Pre-trained encoders: loading them, and the hidden states that they give for texts.

This is the only module that loads the models of transformers.
"""

import inspect
import json
import pickle
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForTextEncoding,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging
from transformers.utils.peft_utils import find_adapter_config_file

from lpft.errors import InputError, named, one_line
from lpft.files import check_model_path, lfs_pointer

NO_ADAPTER = "no-adapter"
"""A folder that no checkpoint has, where transformers is sent to look for an adapter.

It would add an adapter that lies beside complete weights, which mostly have it merged already."""

LOAD_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    RuntimeError,
    TypeError,
    AssertionError,
    SafetensorError,
    EOFError,
    pickle.UnpicklingError,
)
"""What transformers, PEFT and safetensors raise for missing or damaged weights."""


def load_config(source: str, *, revision: str | None = None) -> PreTrainedConfig:
    """The configuration of a Hub id or a model folder.

    Raises:
        InputError: nothing is there, it cannot be reached, or it is not a model.
    """
    check_model_path(source)
    try:
        return AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    except Exception as error:  # each configuration class raises its own kind for a wrong field
        raise InputError(_explain_load_failure(source, error, revision)) from error


def load_encoder(
    source: str, config: PreTrainedConfig, *, revision: str | None = None
) -> PreTrainedModel:
    """The pre-trained encoder in float32 and evaluation mode, without pooler or language head.

    Raises:
        InputError: the weights are missing, damaged, not finite or of another architecture.
    """
    auto_class, keywords = _construction(config)
    no_encoder = (
        f"'{source}' is a {config.model_type} model, an encoder-decoder whose encoder Transformers "
        "does not load alone, so it is not supported: name an encoder, a decoder or a T5"
    )
    separate = auto_class is AutoModelForTextEncoding
    if separate and type(config) not in MODEL_FOR_TEXT_ENCODING_MAPPING:
        raise InputError(no_encoder)
    _check_quantization(source, config)
    try:
        encoder, missing, unexpected = _load(auto_class, source, config, revision, **keywords)
    except InputError:
        raise
    except (*LOAD_ERRORS, ImportError) as error:
        if separate and "encoder-only" in str(error):  # as T5Gemma says
            raise InputError(no_encoder) from error
        raise InputError(_explain_load_failure(source, error, revision)) from error
    _check_complete(encoder, source, missing, unexpected)
    _check_types(encoder, source)
    check_finite(encoder, source)
    return encoder.eval()


def is_causal(config: PreTrainedConfig) -> bool:
    """Whether the family predicts the next token and has no mask."""
    kind = type(config)
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING and kind not in MODEL_FOR_MASKED_LM_MAPPING


def load_language_model(
    source: str, config: PreTrainedConfig, name: str, *, revision: str | None = None
) -> PreTrainedModel:
    """The masked or causal language model around the encoder of :func:`load_encoder`.

    ``name`` is what the user calls it.

    Raises:
        InputError: as there, or the family has no such model, or the weights no such head.
    """
    causal = is_causal(config)
    _, keywords = _construction(config)
    mapping = MODEL_FOR_CAUSAL_LM_MAPPING if causal else MODEL_FOR_MASKED_LM_MAPPING
    if type(config) not in mapping:
        raise InputError(
            f"'{name}' is a {config.model_type} model, of which Transformers has no language "
            f"model, so {named('prompt')} has no effect: name a BERT, RoBERTa, GPT-2 or so"
        )
    auto_class = AutoModelForCausalLM if causal else AutoModelForMaskedLM
    _check_quantization(source, config)
    try:
        model, missing, unexpected = _load(auto_class, source, config, revision)
    except InputError:
        raise
    except (*LOAD_ERRORS, ImportError) as error:
        raise InputError(_explain_load_failure(source, error, revision)) from error
    prefix = f"{model.base_model_prefix}."
    headless = [name for name in missing if not name.startswith(prefix)]
    if headless:
        raise InputError(
            f"'{name}' has no language model head, which {named('prompt')} needs: its weights "
            f"lack {headless[0]}{f' and {len(headless) - 1} more' if headless[1:] else ''}; name "
            "the language model that it was made from"
        )
    encoder = model.base_model
    expected = MODEL_MAPPING.get(type(config), None)
    pooled = "add_pooling_layer" in keywords and getattr(encoder, "pooler", None) is not None
    if pooled or not isinstance(encoder, expected or ()):
        raise InputError(
            f"the language model of '{name}' ({type(model).__name__}) is not built on a model "
            f"that lpft reads texts with, so {named('prompt')} has no effect: name another model"
        )
    _check_complete(encoder, source, missing, unexpected)
    _check_types(encoder, source)
    check_finite(model, source)
    return model.eval()


def _check_quantization(source: str, config: PreTrainedConfig) -> None:
    quantization = getattr(config, "quantization_config", None)
    if quantization is not None:
        settings = quantization if isinstance(quantization, dict) else quantization.to_dict()
        kind = settings.get("quant_method", "bitsandbytes")  # which alone may leave it out
        raise _quantized(source, getattr(kind, "value", kind))


def _check_types(encoder: PreTrainedModel, source: str) -> None:
    """Refuse a folder's weights that are integers or numbers of 8 bits, whatever its config says.

    Transformers would read them as they stand, without the scales that belong to them.
    """
    parameters = dict(encoder.named_parameters())
    for path in sorted(Path(source).glob("*.safetensors")) if Path(source).is_dir() else []:
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118
                kind = file.get_slice(key).get_dtype()
                ours = key.removeprefix(f"{encoder.base_model_prefix}.") in parameters
                if ours and kind.startswith(("I", "U", "F8", "F4", "BOOL")):
                    raise _quantized(source, f"{key} has the type {kind}")


def _quantized(source: str, how: object) -> InputError:
    return InputError(
        f"the weights of '{source}' are quantised ({how}), which can be neither trained nor read "
        "in float32 as they are: name the model in float32, float16 or bfloat16 that they were "
        "made from"
    )


def _load(
    auto_class: Any,
    source: str,
    config: PreTrainedConfig,
    revision: str | None,
    **keywords: Any,
) -> tuple[PreTrainedModel, list[str], list[str]]:
    """A model in float32, and the names of weights that it lacks and has no place for."""
    with quiet_transformers():
        model, report = auto_class.from_pretrained(
            source,
            config=config,
            revision=revision,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused here, by their names
            adapter_kwargs={"subfolder": NO_ADAPTER},
            **keywords,
        )
    for key, saved, expected in sorted(report["mismatched_keys"]):
        raise InputError(
            f"the weights of '{source}' do not fit the {config.model_type} model of its "
            f"config.json: {key} is {_shape(saved)}, expected {_shape(expected)}; restore the "
            "files that belong together, or name another model"
        )
    return model, sorted(report["missing_keys"]), sorted(report["unexpected_keys"])


def _shape(sizes: Iterable[int]) -> str:
    return " x ".join(map(str, sizes))


def _check_complete(
    encoder: PreTrainedModel, source: str, missing: list[str], unexpected: list[str]
) -> None:
    """Refuse weights that lack some of the encoder's, or hold some that it has no place for."""
    lost = _lost(encoder, unexpected)
    if missing or lost:
        wrong = (
            f"lack {len(missing)} parameters of it (for example {missing[0]})"
            if missing
            else f"hold {len(lost)} parameters that it has no place for (for example {lost[0]})"
        )
        raise InputError(
            f"the weights of '{source}' do not fit the {encoder.config.model_type} model of its "
            f"config.json: they {wrong}; {_remedy(unexpected)}"
        )


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
                "name another model, or weights that are whole"
            )


def hidden_states(
    encoder: nn.Module, input_ids: Tensor, attention_mask: Tensor, **extra: Tensor
) -> Tensor:
    """The last hidden states, N x T x h, of padded token ids (N x T) under their mask (N x T).

    Padding on the left gives the same states as padding on the right: where the encoder would
    count positions from the first column, the positions of the real tokens are passed instead.
    """
    accepted = _inputs_of(encoder)
    keywords = accepted_inputs(encoder, **extra)
    # Encoders like RoBERTa skip padding by themselves when they count positions.
    if "position_ids" in accepted and _position_padding(encoder) is None:
        padded_left = attention_mask[:, 0] == 0
        # An exported graph cannot branch on its input, so it always gets the positions.
        if torch.compiler.is_exporting() or bool(padded_left.any()):
            keywords["position_ids"] = real_positions(encoder, attention_mask)
    return encoder(input_ids=input_ids, attention_mask=attention_mask, **keywords).last_hidden_state


def accepted_inputs(encoder: nn.Module, **extra: Tensor) -> dict[str, Any]:
    """Those of a tokenizer's further inputs that the encoder has a use for, and no cache."""
    accepted = _inputs_of(encoder)
    keywords: dict[str, Any] = {name: value for name, value in extra.items() if name in accepted}
    # The tokenizer may tell the two texts of a pair apart where the model does not.
    if getattr(encoder.config, "type_vocab_size", None) in (0, 1):
        keywords.pop("token_type_ids", None)
    if "use_cache" in accepted:
        keywords["use_cache"] = False
    return keywords


def _inputs_of(encoder: nn.Module) -> frozenset[str]:
    """The names of what ``forward`` takes."""
    return _names_of(getattr(encoder.forward, "__func__", encoder.forward))


@cache
def _names_of(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def real_positions(encoder: nn.Module, attention_mask: Tensor) -> Tensor:
    """The positions, N x T, of the tokens that the mask (N x T) does not hide, from the first one.

    RoBERTa and its relatives count from behind the id of their padding, which padding itself has.
    """
    padding = _position_padding(encoder)
    counted = attention_mask.long().cumsum(1)
    if padding is None:
        return (counted - 1).clamp(min=0)
    return counted * attention_mask.long() + padding


def position_limit(encoder: PreTrainedModel) -> int | None:
    """The largest number of tokens that the encoder can number, or None without such a limit."""
    limit = getattr(encoder.config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    padding = _position_padding(encoder)
    return limit if padding is None else limit - padding - 1


def feature_size(config: PreTrainedConfig) -> int:
    """The width h of the last hidden state of most families, as their configuration says it."""
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


def _construction(config: PreTrainedConfig) -> tuple[Any, dict[str, Any]]:
    """The Auto class to build with, and the keyword that leaves out a pooler the family has.

    Where ``config`` has an attention that depends on what was read before, it is changed.
    """
    if getattr(config, "attention_type", None) == "block_sparse":
        # BigBird turns to full attention for good once it has read a short batch: what a long text
        # gives would depend on what was read before.
        config.attention_type = "original_full"
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


def _lost(encoder: PreTrainedModel, unexpected: Iterable[str]) -> list[str]:
    """Those of a file's unexpected weights that belong to the encoder, not to a head on it.

    They are of layers beyond the last one, or of layers that are there in another form (quantised,
    with a bias, with an adapter's factors).
    """
    lost = []
    for key in sorted(unexpected):
        module: nn.Module = encoder
        *path, _ = key.removeprefix(f"{encoder.base_model_prefix}.").split(".")
        name = ""
        for name in path:
            inner = getattr(module, name, None)
            if not isinstance(inner, nn.Module):
                break
            module = inner
        beyond = isinstance(module, nn.ModuleList) and name.isdigit()
        inside = module is not encoder and any(True for _ in module.parameters(recurse=False))
        if beyond or inside:
            lost.append(key)
    return lost


def _remedy(keys: Iterable[str]) -> str:
    """What to do about weights that do not fit, by the names of those that have no place."""
    names = {part for key in keys for part in key.split(".")}
    if any(name.startswith(("lora_", "base_layer")) for name in names):
        return "a PEFT adapter is in them: merge it with merge_and_unload() and save the result"
    if names & {"qweight", "qzeros", "absmax", "SCB", "weight_scale", "weight_packed"}:
        return "they are quantised: name the model that they were made from"
    return "restore the files that belong together, or name another model"


def _explain_load_failure(source: str, error: Exception, revision: str | None) -> str:
    adapted = None
    with suppress(OSError, ValueError):  # a name that no model of the Hub can have
        adapted = find_adapter_config_file(source, revision=revision)
    if adapted is not None:
        try:
            base = json.loads(Path(adapted).read_text(encoding="utf-8"))["base_model_name_or_path"]
        except (ValueError, KeyError, TypeError):
            base = "a model that it does not name"
        return (
            f"'{source}' contains a PEFT adapter of {base}, but not a whole model: merge the two "
            "with PEFT's merge_and_unload(), save the result with its tokenizer and name its "
            "folder"
        )
    folder = Path(source)
    pointer = lfs_pointer(folder) if folder.is_dir() else None
    if pointer is not None:
        return (
            f"'{pointer}' is a pointer of Git LFS, not the file itself: run 'git lfs pull' in its "
            "folder, or download the model again"
        )
    if folder.is_dir() and not (folder / "config.json").is_file() and not _inner_models(folder):
        return (
            f"the model folder '{source}' has no config.json: expected the files of a model of "
            "Transformers; restore it, or name another model"
        )
    if isinstance(error, ImportError):
        return f"the model '{source}' needs a package that is not installed: {one_line(error)}"
    if "trust_remote_code" in str(error):
        return (
            f"the model '{source}' brings Python code of its own, which lpft does not run: name a "
            "model of a family that Transformers has"
        )
    if isinstance(error, EOFError | pickle.UnpicklingError):
        return (
            f"the weights of the model '{source}' are a pickle that is damaged or holds more than "
            "tensors, and lpft runs no code of a model: name a model with weights in safetensors"
        )
    if folder.is_dir():
        inner = _inner_models(folder)
        remedy = (
            f"name its folder {inner[0]} and give {named('pooling')}"
            if inner
            else "check its files, or name another model"
        )
        return f"the model folder '{source}' cannot be loaded ({one_line(error)}): {remedy}"
    return (
        f"the model '{source}' is neither a folder here nor could it be loaded from the Hugging "
        f"Face Hub ({one_line(error)}): check the name and the network, or use {named('model')} "
        "minilm"
    )


def _inner_models(folder: Path) -> list[str]:
    """The names of folders in which sentence-transformers of old keeps the model itself."""
    return sorted(path.parent.name for path in folder.glob("*_Transformer/config.json"))
