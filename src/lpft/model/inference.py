"""Features of texts by the encoder in evaluation mode, and the hash of all that decides them."""

import json
from collections.abc import Callable
from hashlib import sha256
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lpft import distributed
from lpft.data.lengths import length_batches
from lpft.data.tokens import Tokens
from lpft.errors import InputError, named, out_of_memory
from lpft.memory import fewer_rows
from lpft.model.classifier import LinearHeadClassifier
from lpft.model.loading import Classifier
from lpft.progress import progress
from lpft.settings import Precision

_MAX_ROWS = 256
_MAX_TOKENS = {"cuda": 65536, "mps": 16384}
"""The largest batch of each kind of device, padding included."""
_MAX_TOKENS_PER_THREAD, _MAX_TOKENS_OF_CPU = 512, 4096
"""On a CPU, what each layer gives must fit in the caches of the cores."""

_parts: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
"""In how many parts a model reads each batch, where memory ran out before."""

_PROVENANCE = ("_name_or_path", "transformers_version", "architectures", "id2label", "label2id")
"""Entries of a configuration that say where a model is from, not what it computes."""


@torch.no_grad()
def extract_features(
    model: LinearHeadClassifier,
    tokens: Tokens,
    *,
    device: torch.device,
    description: str = "reading texts",
    done: Callable[[int], object] | None = None,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """phi of every text, N x h, in float32 and the order of ``tokens``, in ``out`` if one is given.

    Texts are read in batches of similar length, each in parts where memory does not suffice for a
    whole one; the parts stay as small for later calls with the model. ``done`` is called with the
    number of texts of each. The model is moved to ``device`` and stays there, in the mode that it
    was in. (What is made under ``torch.inference_mode`` could never be trained again: hence
    ``no_grad``.)
    """
    was_training = model.training
    # Walking through all modules takes as long as two layers take for a text, so only if need be.
    any_training = any(module.training for module in model.modules())
    if any_training:
        model.eval()
    if any(tensor.device != device for tensor in (*model.parameters(), *model.buffers())):
        model.to(device)
    result = out
    # Processes with other numbers of threads would share out batches of other rows.
    most = distributed.agreed(lambda: _most_tokens(device))
    batches = list(length_batches(tokens.lengths, max_rows=_MAX_ROWS, max_tokens=most))
    if distributed.size() > 1:
        # The rows of other processes are zero here, and all add up below.
        batches = batches[distributed.rank() :: distributed.size()]
        if result is None:
            result = np.empty((len(tokens), model.head.in_features), dtype=np.float32)
        result.fill(0)
    with progress(description=description, total=sum(map(len, batches)), unit="texts") as bar:
        for rows in batches:
            remaining = rows
            while len(remaining):
                part = remaining[: -(-len(rows) // _parts.get(model, 1))]
                try:
                    batch = {name: ids.to(device) for name, ids in tokens.batch(part).items()}
                    features = model.features(**batch).cpu().numpy()
                except Exception as error:
                    if not out_of_memory(error):
                        raise
                    _parts[model] = -(-len(rows) // fewer_rows(description, len(part)))
                    continue
                if result is None:
                    result = np.empty((len(tokens), features.shape[1]), dtype=np.float32)
                result[part] = features
                remaining = remaining[len(part) :]
                bar.update(len(part))
                if done is not None:
                    done(len(part))
    if any_training:
        model.train(was_training)
    assert result is not None, "tokenize refuses an empty list of texts"
    return distributed.summed(result)


def _most_tokens(device: torch.device) -> int:
    if device.type == "cpu":
        return min(_MAX_TOKENS_PER_THREAD * torch.get_num_threads(), _MAX_TOKENS_OF_CPU)
    return _MAX_TOKENS[device.type]


def head_logits(model: LinearHeadClassifier, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """``V phi + b``, N x C, before the temperature, from features (N x h)."""
    weight = model.head.weight.detach().float().cpu().numpy()
    logits = features @ weight.T
    if model.head.bias is not None:
        logits = logits + model.head.bias.detach().float().cpu().numpy()
    return logits


def encoder_fingerprint(model: LinearHeadClassifier) -> str:
    """SHA-256 over all that decides phi: configuration, attention, parameters, buffers, pooling."""
    config = model.encoder.config
    settings = {name: value for name, value in config.to_dict().items() if name not in _PROVENANCE}
    digest = sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    padding = "" if model.config.safe_padding == "both" else f" {model.config.safe_padding}"
    digest.update(f"{config._attn_implementation} {model.config.pooling}{padding}".encode())
    tensors = dict(model.encoder.named_parameters()) | dict(model.encoder.named_buffers())
    if model.virtual_tokens is not None:
        digest.update(json.dumps(model.config.virtual_tokens, sort_keys=True).encode())
        tensors |= {f"virtual {name}": p for name, p in model.virtual_tokens.named_parameters()}
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def classifier_fingerprint(classifier: Classifier) -> str:
    """SHA-256 over all that decides a prediction: the encoder, the head, the tokenizer."""
    model, tokenizer = classifier.model, classifier.tokenizer
    digest = sha256(encoder_fingerprint(model).encode())
    for name, tensor in sorted(model.head.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    backend = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else tokenizer.get_vocab()
    config = model.config
    rest = (config.temperature, config.classes, classifier.max_length, config.paired, backend)
    digest.update(json.dumps(rest, sort_keys=True).encode())
    return digest.hexdigest()


def resolve_device(name: str | torch.device) -> torch.device:
    """The device of a name such as ``cpu`` or ``cuda:1``; ``auto`` is the accelerator, if any.

    Raises:
        InputError: this machine has no such device.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"{named('device')} {name!r} is unknown: expected auto, cpu, cuda, mps, or one of "
            "several such as cuda:1"
        ) from error
    if not available.get(device.type, False):
        raise InputError(f"{named('device')} {name}: this machine has none: use auto or cpu")
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if device.index is not None and device.index >= count:
        raise InputError(
            f"{named('device')} {name}: expected a number below {count}, as many as this machine "
            f"has of {device.type}"
        )
    return device


def resolve_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """float32 or float64, by name too.

    Raises:
        InputError: it is neither.
    """
    named_dtypes = {"float32": torch.float32, "float64": torch.float64}
    resolved = (
        named_dtypes.get(dtype.removeprefix("torch."), dtype) if isinstance(dtype, str) else dtype
    )
    if resolved not in named_dtypes.values():
        raise InputError(f"dtype={dtype!r}: expected float32 or float64")
    assert isinstance(resolved, torch.dtype)
    return resolved


def check_precision(precision: Precision, device: torch.device) -> None:
    """Refuse to fine-tune in float16 without hardware for it.

    Raises:
        InputError: float16 on a CPU.
    """
    if precision == "float16" and device.type == "cpu":
        raise InputError(
            f"{named('precision')} float16 needs an accelerator: use bfloat16 or float32 here"
        )
