"""A hash of everything that decides an encoder's features."""

import json
from hashlib import sha256

import torch

from lpft.model.classifier import LinearHeadClassifier

_PROVENANCE = ("_name_or_path", "transformers_version", "architectures", "id2label", "label2id")
"""Entries of a configuration that say where a model is from, not what it computes."""


def encoder_fingerprint(model: LinearHeadClassifier) -> str:
    """SHA-256 over all that decides phi: configuration, attention, parameters, buffers, pooling."""
    config = model.encoder.config
    settings = {name: value for name, value in config.to_dict().items() if name not in _PROVENANCE}
    digest = sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    digest.update(f"{config._attn_implementation} {model.config.pooling}".encode())
    tensors = dict(model.encoder.named_parameters()) | dict(model.encoder.named_buffers())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
