"""The cache of what is computed once: frozen features, linear probes, logits along a path.

They lie in the user's cache folder and are named by a hash of all that decides their content.
"""

import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import scipy
import sklearn
import torch
import transformers
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

import lpft
from lpft import distributed
from lpft.data.duplicates import find_repetitions
from lpft.data.examples import Examples, Groups, Label, TextData
from lpft.data.labels import class_weights
from lpft.data.splits import ValidationKind, fold_numbers, labelled_rows, validation_kind
from lpft.data.tokens import Tokens, tokenize
from lpft.files import default_cache_dir, replace_when_written
from lpft.model.classifier import LinearHeadClassifier
from lpft.model.inference import extract_features, head_logits, resolve_device
from lpft.model.loading import Classifier
from lpft.settings import TrainingSettings
from lpft.settings.methods import get_method
from lpft.training import probing
from lpft.training.probing import LinearProbe, fit_probe, out_of_fold_logits

logger = logging.getLogger(__name__)

Cached = TypeVar("Cached")

_LARGEST_IN_MEMORY = 1 << 26
"""Cached arrays of more than 64 MB are read from their files as they are used."""

_DTYPES = {"F32": np.float32, "F64": np.float64}
"""Types of such arrays by their names in safetensors files."""

_TENSORS = ("weight", "bias")
_FACTS = ("inverse_strength", "folds", "solver", "converged", "absent_classes")


@dataclass(frozen=True)
class SplitInputs:
    """Tokens and labels of N texts, and phi_0 (N x h) by the encoder before training.

    ``groups`` are those of :class:`~lpft.data.examples.Examples`; ``repeats`` (N) are numbers,
    equal for rows that repeat one another, where rows are to be divided into folds; ``weights`` (N)
    those of rows in training, None where each weighs 1. ``at_start`` are the features (N x h) that
    fine-tuning starts from, where its method moves them at once.
    """

    tokens: Tokens
    labels: NDArray[np.int64]
    pretrained: NDArray[np.float32]
    groups: Groups | None = None
    repeats: NDArray[np.int64] | None = None
    weights: NDArray[np.float64] | None = None
    at_start: NDArray[np.float32] | None = None

    @property
    def probed(self) -> NDArray[np.float32]:
        """The features (N x h) that the linear probe is fitted on."""
        return self.pretrained if self.at_start is None else self.at_start

    def select(self, rows: NDArray[np.int64]) -> "SplitInputs":
        """The inputs of these texts, in this order; the same object where nothing changes."""
        if np.array_equal(rows, np.arange(len(self.labels))):
            return self
        return SplitInputs(
            self.tokens.select(rows),
            self.labels[rows],
            self.pretrained[rows],
            None if self.groups is None else self.groups.select(rows),
            None if self.repeats is None else self.repeats[rows],
            None if self.weights is None else self.weights[rows],
            None if self.at_start is None else self.at_start[rows],
        )

    def folds(self) -> NDArray[np.int64]:
        """The fold of each row: rows of one group, or that repeat one another, share one."""
        together = self.repeats if self.groups is None else self.groups.index
        return fold_numbers(self.labels, together)


def prepare_splits(
    classifier: Classifier, data: TextData, settings: TrainingSettings, *, encoder: str
) -> tuple[ValidationKind, dict[str, SplitInputs]]:
    """The kind of rows that score a training on ``data``, and :func:`prepare_split` of each split.

    With folds there is no validation split, and the training split has all labelled rows.
    """
    kind = validation_kind(data, fine_tunes=get_method(settings.method).fine_tunes)
    splits = data.splits()
    if kind == "folds":
        splits["train"] = labelled_rows(data)
        del splits["validation"]
    inputs = {
        name: prepare_split(classifier, examples, settings, encoder=encoder, name=name)
        for name, examples in splits.items()
    }
    if kind == "folds" and inputs["train"].groups is None:
        repeats = find_repetitions(splits["train"].texts).near
        inputs["train"] = replace(inputs["train"], repeats=repeats)
    return kind, inputs


def prepare_split(
    classifier: Classifier,
    examples: Examples,
    settings: TrainingSettings,
    *,
    encoder: str,
    name: str,
) -> SplitInputs:
    """Tokenize a labelled split and get its :func:`cached_features`, phi_0.

    ``name`` is the split's, for the progress bar.
    """
    assert examples.labels is not None, f"{name} has no labels"
    tokens = tokenize(
        classifier.tokenizer, examples.texts, classifier.max_length, rows=examples.rows
    )
    features = cached_features(
        classifier.model,
        tokens,
        encoder=encoder,
        device=settings.device,
        description=f"frozen features, {name}",
    )
    return SplitInputs(tokens, examples.labels, features, examples.groups, weights=examples.weights)


def cached_features(
    model: LinearHeadClassifier,
    tokens: Tokens,
    *,
    encoder: str,
    device: str | torch.device,
    description: str,
) -> NDArray[np.float32]:
    """Features (N x h) by the encoder as it is now, computed or read.

    ``encoder`` is its :func:`~lpft.model.inference.encoder_fingerprint`. The file's name is a hash
    of it, of the tokens, the kind of device and the versions of torch and transformers.
    """
    device = resolve_device(device)

    def compute(out: NDArray[np.float32]) -> None:
        extract_features(model, tokens, device=device, description=description, out=out)

    key = sha256(
        f"with checksum {encoder} {tokens.fingerprint()} {tokens.padding_side} "
        f"{device.type} {torch.__version__} {transformers.__version__}".encode()
    ).hexdigest()
    path = default_cache_dir() / "features" / f"{key}.safetensors"
    return _cached_features(path, (len(tokens), model.head.in_features), compute)


def cached_probe(
    train: SplitInputs,
    settings: TrainingSettings,
    classes: Sequence[Label],
    inverse_strength: float | None = None,
) -> LinearProbe:
    """The linear probe of a training, read from its file where it was fitted before.

    A probe depends on no seed and no method, so all runs on the same rows and features share one.
    The file's name is a hash of everything that goes in, the probing settings, and the versions of
    this package, NumPy, SciPy and scikit-learn; the file holds V and b in float64, so the result is
    bitwise that of the fit.

    Raises:
        InputError: as :func:`~lpft.training.probing.fit_probe`.
    """
    features, labels, weights = train.probed, train.labels, train.weights
    choices: dict[str, Any] = {
        "fit_bias": settings.head_bias,
        "class_weight": class_weights(settings.class_weight, classes),
    }
    if inverse_strength is None:
        assert settings.probe_scoring is not None, "settings must be resolved"
        choices["scoring"] = settings.probe_scoring
    else:
        choices["inverse_strength"] = inverse_strength

    def compute() -> LinearProbe:
        return fit_probe(features, labels, len(classes), sample_weight=weights, **choices)

    def read(path: Path) -> LinearProbe:
        probe = _read_probe(path)
        shapes = (len(classes), features.shape[1]), (len(classes),)
        if (probe.weight.shape, probe.bias.shape) != shapes:
            raise ValueError(f"a head of shape {probe.weight.shape}")
        return probe

    decisive = {
        **choices,
        **_probing_facts(features, len(classes)),
    }
    key = _digest(_deciding_rows(train), decisive)
    path = default_cache_dir() / "probes" / f"{key}.safetensors"
    return _read_or_compute(path, "linear probe", compute, read, _write_probe)


def _deciding_rows(train: SplitInputs) -> dict[str, NDArray[Any]]:
    """The rows' arrays on which a probe depends."""
    rows: dict[str, NDArray[Any]] = {"features": train.probed, "labels": train.labels}
    return rows if train.weights is None else rows | {"weights": train.weights}


def _probing_facts(features: NDArray[np.float32], classes: int) -> dict[str, Any]:
    """All else on which a probe depends, beside its rows and options."""
    return {
        "classes": classes,
        "solver": probing.solver_of(features),
        "strengths": probing.STRENGTHS,
        "folds": probing.FOLDS,
        "tolerances": (probing.SEARCH_TOLERANCE, probing.FOLD_TOLERANCE, probing.TOLERANCE),
        "max_iterations": probing.MAX_ITERATIONS,
        "versions": [module.__version__ for module in (lpft, np, scipy, sklearn)],
    }


def cached_out_of_fold_logits(
    train: SplitInputs, settings: TrainingSettings, probe: LinearProbe, classes: Sequence[Label]
) -> NDArray[np.float64]:
    """:func:`~lpft.training.probing.out_of_fold_logits` at the strength of ``probe``.

    They are cached as probes are.
    """
    features, labels, fold = train.pretrained, train.labels, train.folds()
    choices: dict[str, Any] = {
        "inverse_strength": probe.inverse_strength,
        "fit_bias": settings.head_bias,
        "class_weight": class_weights(settings.class_weight, classes),
    }

    def compute() -> NDArray[np.float64]:
        return out_of_fold_logits(
            features, labels, len(classes), fold=fold, sample_weight=train.weights, **choices
        )

    key = _digest(
        {**_deciding_rows(train), "fold": fold},
        {"out of fold, with checksum": choices, **_probing_facts(features, len(classes))},
    )
    path = default_cache_dir() / "probes" / f"{key}.safetensors"
    return _cached_array(path, "out-of-fold logits", compute, len(labels), len(classes))


def cached_logits(
    classifier: Classifier, tokens: Tokens, weights: str, device: torch.device, name: str
) -> NDArray[np.float32]:
    """The logits (N x C) of texts by a trained classifier, before its temperature.

    ``weights`` stands for everything that decides them in the model; ``name`` is the split's, for
    the progress bar.
    """
    model = classifier.model

    def compute() -> NDArray[np.float32]:
        features = extract_features(model, tokens, device=device, description=f"evaluating, {name}")
        return head_logits(model, features)

    key = sha256(
        f"with checksum {weights} {tokens.fingerprint()} {tokens.padding_side} "
        f"{device.type} {torch.__version__} {transformers.__version__}".encode()
    ).hexdigest()
    path = default_cache_dir() / "logits" / f"{key}.safetensors"
    return _cached_array(path, "file of logits", compute, len(tokens), model.config.num_labels)


def _cached_array(
    path: Path,
    what: str,
    compute: Callable[[], NDArray[Any]],
    rows: int,
    columns: int | None = None,
) -> NDArray[Any]:
    """:func:`_read_or_compute` of one array of ``rows`` x ``columns`` (None: any number)."""

    def read(path: Path) -> NDArray[Any]:
        array = _read(path, mapped=True)[0]["array"]
        if array.ndim != 2 or len(array) != rows or columns not in (None, array.shape[1]):
            raise ValueError(f"an array of shape {array.shape}")
        return array

    def write(array: NDArray[Any], path: Path) -> None:
        _write({"array": array}, {}, path)

    return _read_or_compute(path, what, compute, read, write)


def _cached_features(
    path: Path, shape: tuple[int, int], compute: Callable[[NDArray[np.float32]], None]
) -> NDArray[np.float32]:
    """:func:`_cached_array` of features (N x h), which ``compute`` writes into the array it gets.

    Large ones are written into the mapped file itself, so that memory never holds them.
    """

    def in_memory() -> NDArray[np.float32]:
        array = np.empty(shape, dtype=np.float32)
        compute(array)
        return array

    def in_file() -> NDArray[np.float32]:
        computed = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replace_when_written(path) as temporary:
                array = _allocate(temporary, shape)
                compute(array)
                computed = array
                _seal(temporary, array)
        except OSError as error:
            logger.warning("file of features is not cached: %s cannot be written (%s)", path, error)
            # Never a second time: other processes, which compute with this one, do it once too.
            return in_memory() if computed is None else np.array(computed)
        return array

    if np.prod(shape) * 4 <= _LARGEST_IN_MEMORY:
        return _cached_array(path, "file of features", in_memory, *shape)

    def read(path: Path) -> NDArray[np.float32]:
        array = _read(path, mapped=True)[0]["array"]
        if array.shape != shape:
            raise ValueError(f"an array of shape {array.shape}")
        return array

    return _read_or_compute(path, "file of features", in_file, read, None)


def _allocate(path: Path, shape: tuple[int, int]) -> NDArray[np.float32]:
    """A new file of one float32 array, as :func:`_write` writes it, mapped and still empty.

    Its space is reserved: writing to a mapped file on a full disk would kill the process.
    """
    # The checksum is written last. It is as long as these zeros, so the array's offset stays.
    header = _header(shape, "0" * 64)
    with path.open("wb") as file:
        file.write(header)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), len(header), 4 * shape[0] * shape[1])
    return np.memmap(path, np.float32, mode="r+", offset=len(header), shape=shape)


def _seal(path: Path, array: NDArray[np.float32]) -> None:
    """Write an allocated array and its checksum to the disk."""
    assert isinstance(array, np.memmap)
    array.flush()
    with path.open("r+b") as file:
        file.write(_header(array.shape, _digest({"array": array}, {})))


def _header(shape: tuple[int, ...], checksum: str) -> bytes:
    """The beginning of a safetensors file of one float32 array: its length, then JSON."""
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * int(np.prod(shape))]}
    metadata = {"facts": "{}", "checksum": checksum}
    text = json.dumps({"__metadata__": metadata, "array": entry}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _read_or_compute(
    path: Path,
    what: str,
    compute: Callable[[], Cached],
    read: Callable[[Path], Cached],
    write: Callable[[Cached, Path], None] | None,
) -> Cached:
    """The content of ``path``, or else what ``compute`` returns, which ``write`` then keeps there.

    Without ``write`` that is for ``compute`` to do.

    A file that cannot be read, or whose content ``read`` refuses (``ValueError``, ``KeyError``), is
    computed again; one that cannot be written costs a warning. ``what`` names the content in both.
    """
    # Read, and only where that fails compute: the name of the file says what it must hold.
    content = None
    try:
        content = read(path)
    except FileNotFoundError:
        pass
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        logger.warning("cached %s %s cannot be read (%s): computing it again", what, path, error)
    # Several processes compute together or not at all.
    if distributed.every(content is not None):
        assert content is not None
        return content
    computed = compute()
    if write is None or not distributed.is_main():
        return computed
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_when_written(path) as temporary:
            write(computed, temporary)
    except (OSError, SafetensorError) as error:
        logger.warning("%s is not cached: %s cannot be written (%s)", what, path, error)
    return computed


def _write_probe(probe: LinearProbe, path: Path) -> None:
    _write(
        {name: getattr(probe, name) for name in _TENSORS},
        {name: getattr(probe, name) for name in _FACTS},
        path,
    )


def _read_probe(path: Path) -> LinearProbe:
    tensors, facts = _read(path)
    values: dict[str, Any] = tensors | facts
    return LinearProbe(**values | {"absent_classes": tuple(facts["absent_classes"])})


def _write(tensors: dict[str, NDArray[Any]], facts: dict[str, Any], path: Path) -> None:
    """Write arrays and what JSON can hold, with a checksum over both."""
    checksum = _digest(tensors, facts)
    save_file(tensors, path, metadata={"facts": json.dumps(facts), "checksum": checksum})


def _read(path: Path, *, mapped: bool = False) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read a file of :func:`_write`; with ``mapped``, large ones are mapped into memory.

    Raises:
        ValueError, KeyError, SafetensorError: the file's content is something else.
    """
    with safe_open(path, framework="numpy") as file:
        metadata: dict[str, str] | None = file.metadata()
        if mapped and path.stat().st_size > _LARGEST_IN_MEMORY:
            tensors = _mapped(path)
        else:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if metadata is None:
        raise ValueError("it has no checksum")
    facts = dict(json.loads(metadata["facts"]))
    if _digest(tensors, facts) != metadata["checksum"]:
        raise ValueError("its checksum differs")
    return tensors, facts


def _mapped(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a safetensors file, each a view of the file that is read when it is used.

    The file begins with the length of its header, which has the place of each tensor in the rest.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return {
        name: np.memmap(
            path,
            dtype=_DTYPES[entry["dtype"]],
            mode="c",
            offset=8 + length + entry["data_offsets"][0],
            shape=tuple(entry["shape"]),
        )
        for name, entry in header.items()
    }


def _digest(arrays: dict[str, NDArray[Any]], facts: dict[str, Any]) -> str:
    """SHA-256 of arrays by name, with their types and shapes, and of what JSON can hold."""
    digest = sha256(json.dumps(facts, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
