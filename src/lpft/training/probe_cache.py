"""Linear probes, fitted once and kept by a fingerprint of all that decides them."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import sklearn
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

import lpft
from lpft.settings import ClassWeight
from lpft.training import probing
from lpft.training.cache import read_or_compute
from lpft.training.probing import LinearProbe, fit_probe

_TENSORS = ("weight", "bias")
_FACTS = ("inverse_strength", "folds", "solver", "converged", "absent_classes")


def cached_probe(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    *,
    fit_bias: bool = True,
    class_weight: ClassWeight | None = None,
    cache_dir: Path | None = None,
) -> LinearProbe:
    """:func:`~lpft.training.probing.fit_probe`, read from ``cache_dir`` where it was fitted before.

    No seed and no method enters a probe, so all runs on the same rows and features share one. The
    name of the cached file is a hash of everything that goes in, the probing settings, and the
    versions of this package, NumPy, SciPy and scikit-learn; the file holds V and b in float64, so
    the result is bitwise that of the fit. A damaged file is fitted again. ``cache_dir=None`` fits
    without looking or keeping.

    Raises:
        InputError: as ``fit_probe``.
    """

    def read(path: Path) -> LinearProbe:
        probe = _read(path)
        if probe.weight.shape != (classes, features.shape[1]) or probe.bias.shape != (classes,):
            raise ValueError(f"a head of shape {probe.weight.shape}")
        return probe

    def compute() -> LinearProbe:
        return fit_probe(features, labels, classes, fit_bias=fit_bias, class_weight=class_weight)

    if cache_dir is None:
        return compute()
    settings = {
        "classes": classes,
        "fit_bias": fit_bias,
        "class_weight": class_weight,
        "solver": probing.SOLVER,
        "strengths": probing.STRENGTHS,
        "folds": probing.FOLDS,
        "tolerances": (probing.SEARCH_TOLERANCE, probing.TOLERANCE),
        "max_iterations": probing.MAX_ITERATIONS,
        "versions": [module.__version__ for module in (lpft, np, scipy, sklearn)],
    }
    key = _digest({"features": features, "labels": labels}, settings)
    path = cache_dir / "probes" / f"{key}.safetensors"
    return read_or_compute(path, "linear probe", read=read, compute=compute, write=_write)


def _write(probe: LinearProbe, path: Path) -> None:
    tensors = {name: getattr(probe, name) for name in _TENSORS}
    facts = {name: getattr(probe, name) for name in _FACTS}
    save_file(
        tensors, path, metadata={"facts": json.dumps(facts), "checksum": _digest(tensors, facts)}
    )


def _read(path: Path) -> LinearProbe:
    """A probe from its file.

    Raises:
        ValueError, KeyError: its content is not what was written.
    """
    with safe_open(path, framework="numpy") as file:
        metadata: dict[str, str] | None = file.metadata()
        tensors = {name: file.get_tensor(name) for name in _TENSORS}
    if metadata is None:
        raise ValueError("it says nothing of its fit")
    facts = json.loads(metadata["facts"])
    if _digest(tensors, facts) != metadata["checksum"]:
        raise ValueError("its checksum is another one")
    return LinearProbe(**tensors, **facts | {"absent_classes": tuple(facts["absent_classes"])})


def _digest(arrays: dict[str, NDArray[Any]], facts: dict[str, Any]) -> str:
    """SHA-256 of arrays by name, with their types and shapes, and of what JSON can hold."""
    digest = sha256(json.dumps(facts, sort_keys=True).encode())
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
