"""Features of the frozen encoder, computed once and kept by a fingerprint of all that they are."""

import logging
import os
from hashlib import sha256
from pathlib import Path

import numpy as np
import platformdirs
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from lpft.choices import Precision
from lpft.data.tokens import Tokens
from lpft.files import replace_when_written
from lpft.model.classifier import LinearHeadClassifier
from lpft.model.inference import extract_features

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "LPFT_CACHE_DIR"


def default_cache_dir() -> Path:
    """``$LPFT_CACHE_DIR``, or ``lpft`` in the user's cache folder."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else Path(platformdirs.user_cache_dir("lpft"))


def encoder_fingerprint(model: LinearHeadClassifier) -> str:
    """SHA-256 over the encoder's configuration, every parameter and buffer, and the pooling."""
    digest = sha256(model.config.pooling.encode())
    digest.update(model.encoder.config.model_type.encode())
    for name, tensor in sorted(model.encoder.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def frozen_features(
    model: LinearHeadClassifier,
    tokens: Tokens,
    *,
    device: torch.device,
    precision: Precision = "float32",
    encoder: str | None = None,
    cache_dir: Path | None = None,
    description: str = "frozen features",
) -> NDArray[np.float32]:
    """phi_0 of every text (N x h), read from ``cache_dir`` where it was computed before.

    ``encoder`` is the model's :func:`encoder_fingerprint`; the name of the cached file is a hash
    of it, the tokens, the device's kind, the precision and the version of torch. A damaged file
    is computed again. ``cache_dir=None`` computes without looking or keeping.
    """
    if cache_dir is None:
        return extract_features(
            model, tokens, device=device, precision=precision, description=description
        )
    identity = encoder_fingerprint(model) if encoder is None else encoder
    key = sha256(
        f"{identity} {tokens.fingerprint()} {tokens.padding_side} "
        f"{device.type} {precision} {torch.__version__}".encode()
    ).hexdigest()
    path = cache_dir / "features" / f"{key}.safetensors"
    try:
        cached = load_file(path)["features"]
        if cached.shape[0] == len(tokens):
            return cached
    except FileNotFoundError:
        pass
    except (OSError, SafetensorError, KeyError) as error:
        logger.warning("cached features %s cannot be read (%s): computing them again", path, error)
    features = extract_features(
        model, tokens, device=device, precision=precision, description=description
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_when_written(path) as temporary:
            save_file({"features": features}, temporary)
    except OSError as error:
        logger.warning("features are not kept: %s cannot be written (%s)", path, error.strerror)
    return features
