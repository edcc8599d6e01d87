"""Features of the frozen encoder, computed once and kept by a fingerprint of all that they are."""

from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from lpft.data.tokens import Tokens
from lpft.model.classifier import LinearHeadClassifier
from lpft.model.fingerprint import encoder_fingerprint
from lpft.model.inference import extract_features
from lpft.training.cache import read_or_compute


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

    def read(path: Path) -> NDArray[np.float32]:
        features = load_file(path)["features"]
        if features.shape[0] != len(tokens):
            raise ValueError(f"{features.shape[0]} rows, expected {len(tokens)}")
        return features

    def compute() -> NDArray[np.float32]:
        return extract_features(model, tokens, device=device, description=description)

    def write(features: NDArray[np.float32], path: Path) -> None:
        save_file({"features": features}, path)

    if cache_dir is None:
        return compute()
    identity = encoder_fingerprint(model) if encoder is None else encoder
    key = sha256(
        f"{identity} {tokens.fingerprint()} {tokens.padding_side} "
        f"{device.type} {torch.__version__} {transformers.__version__}".encode()
    ).hexdigest()
    path = cache_dir / "features" / f"{key}.safetensors"
    return read_or_compute(path, "file of features", read=read, compute=compute, write=write)
