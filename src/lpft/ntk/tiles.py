"""Finished pieces of a kernel on disk: whole, named by what they were computed from, checked."""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lpft.errors import InputError
from lpft.files import replace_when_written
from lpft.ntk.layout import Layout, Pair
from lpft.ntk.writing import writing

_WHAT = "the unfinished kernel"


class TileStore:
    """The pieces of one kernel in a folder: one file per unit of positions and pair of tiles.

    The ``layout`` is kept beside them, unless those that are there belong to another kernel.
    ``fingerprints`` say what the kernel is computed from
    (weights, texts, head, method, precision and so on); a piece of anything else is refused, and
    so is a damaged one.

    Raises:
        InputError: the folder cannot be made or written, or its first piece is refused.
    """

    def __init__(self, folder: Path, layout: Layout, fingerprints: Mapping[str, str]) -> None:
        self._folder = folder
        self._fingerprints = dict(fingerprints)
        first = min(folder.glob("unit-*.safetensors"), default=None)
        if first is not None:
            self._read(first)
        with writing(_WHAT, folder):
            folder.mkdir(parents=True, exist_ok=True)
            layout.write(folder)

    def load(self, unit: int, pair: Pair) -> dict[str, Tensor] | None:
        """The piece, or None where it was not finished.

        Raises:
            InputError: the file is damaged, or belongs to another kernel.
        """
        path = self._path(unit, pair)
        return self._read(path) if path.exists() else None

    def save(self, unit: int, pair: Pair, tensors: Mapping[str, Tensor]) -> None:
        """Write a finished piece, whole or not at all.

        Raises:
            InputError: it cannot be written.
        """
        ready = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        metadata = {
            "fingerprints": json.dumps(self._fingerprints, sort_keys=True),
            "sha256": _digest(ready, self._fingerprints),
        }
        with (
            writing(_WHAT, self._folder),
            replace_when_written(self._path(unit, pair)) as temporary,
        ):
            save_file(ready, temporary, metadata)

    def _read(self, path: Path) -> dict[str, Tensor]:
        """The piece in a file of this folder, if it is intact and this kernel's."""
        if path.is_dir():
            raise InputError(_damaged(path))
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            recorded = dict(json.loads(metadata["fingerprints"]))
            intact = metadata["sha256"] == _digest(tensors, recorded)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError(_damaged(path)) from error
        if not intact:
            raise InputError(_damaged(path))
        for name, value in self._fingerprints.items():
            if recorded.get(name) != value:
                raise InputError(
                    f"'{path}' was computed from other {name}: it belongs to another kernel; "
                    "delete the file or name another folder"
                )
        return tensors

    def _path(self, unit: int, pair: Pair) -> Path:
        return self._folder / f"unit-{unit:03d}-tiles-{pair[0]:03d}-{pair[1]:03d}.safetensors"


def _digest(tensors: Mapping[str, Tensor], fingerprints: Mapping[str, str]) -> str:
    digest = sha256(json.dumps(fingerprints, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)} {tensors[name].dtype}".encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()


def _damaged(path: Path) -> str:
    return f"'{path}' is damaged: delete it, and this piece of the kernel is computed again"
