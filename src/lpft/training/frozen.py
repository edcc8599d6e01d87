"""Features of the frozen encoder, computed once and kept by a fingerprint of all that they are."""

import logging
import os
from hashlib import sha256
from pathlib import Path

import numpy as np
import platformdirs
import torch
import transformers
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from lpft.data.tokens import Tokens
from lpft.files import replace_when_written
from lpft.model.classifier import LinearHeadClassifier
from lpft.model.fingerprint import encoder_fingerprint
from lpft.model.inference import extract_features

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "LPFT_CACHE_DIR"


def default_cache_dir() -> Path:
    """``$LPFT_CACHE_DIR``, or ``lpft`` in the user's cache folder."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else Path(platformdirs.user_cache_dir("lpft"))


def frozen_features(
    model: LinearHeadClassifier,
    tokens: Tokens,
    *,
    device: torch.device,
    encoder: str | None = None,
    cache_dir: Path | None = None,
    description: str = "frozen features",
) -> NDArray[np.float32]:
    """phi_0 of every text (N x h), read from ``cache_dir`` where it was computed before.

    ``encoder`` is the model's :func:`encoder_fingerprint`; the name of the cached file is a hash
    of it, the tokens, the device's kind and the versions of torch and transformers. A damaged file
    is computed again. ``cache_dir=None`` computes without looking or keeping.
    """
    if cache_dir is None:
        return extract_features(model, tokens, device=device, description=description)
    identity = encoder_fingerprint(model) if encoder is None else encoder
    key = sha256(
        f"{identity} {tokens.fingerprint()} {tokens.padding_side} "
        f"{device.type} {torch.__version__} {transformers.__version__}".encode()
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
    features = extract_features(model, tokens, device=device, description=description)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_when_written(path) as temporary:
            save_file({"features": features}, temporary)
    except (OSError, SafetensorError) as error:
        logger.warning("features are not kept: %s cannot be written (%s)", path, error)
    return features
