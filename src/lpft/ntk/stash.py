"""Hidden states and running gradients between blocks: in memory, in files, or on the host."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from uuid import uuid4

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from lpft.ntk.writing import writing

Place = Literal["memory", "files", "host"]
_WHAT = "hidden states"
_PREFIX = "lpft-ntk-"
Key = tuple[str, int, int]
"""What, where and of which batch: hidden states and gradients by position in the chain, and
gradients at the blocks' further arguments (``extra``) by number."""


class Stash:
    """Lists of tensors by key, kept where ``place`` says; a None in a list stands for zero.

    ``files`` are written below ``folder`` (the system's temporary folder where None) and removed
    by :meth:`close`; ``host`` moves an accelerator's tensors to the CPU's memory. What processes
    that were killed left below ``folder`` is removed.

    Raises:
        InputError: the files cannot be written.
    """

    def __init__(self, place: Place, folder: Path | None = None) -> None:
        self._place = place
        self._kept: dict[Key, list[Tensor | None]] = {}
        self._shapes: dict[Key, list[tuple[torch.Size, torch.dtype] | None]] = {}
        self._folder: Path | None = None
        self._lock: FileLock | None = None
        if folder is not None and folder.is_dir():
            _remove_abandoned(folder)
        if place == "files":
            parent = Path(tempfile.gettempdir()) if folder is None else folder
            with writing(_WHAT, parent):
                parent.stat()
                # Held before there is a folder: one without a holder is abandoned.
                own = parent / f"{_PREFIX}{uuid4().hex}"
                self._lock = _lock_of(own)
                self._lock.acquire(timeout=0)
                own.mkdir(mode=0o700)
                self._folder = own

    def __contains__(self, key: Key) -> bool:
        return key in self._kept or key in self._shapes

    def put(self, key: Key, tensors: Sequence[Tensor | None]) -> None:
        """Keep the tensors, replacing those of the same key."""
        detached = [None if tensor is None else tensor.detach() for tensor in tensors]
        if self._folder is None:
            host = self._place == "host"
            self._kept[key] = [
                tensor.cpu() if host and tensor is not None else tensor for tensor in detached
            ]
            return
        self._shapes[key] = [
            None if tensor is None else (tensor.shape, tensor.dtype) for tensor in detached
        ]
        path = self._path(key)
        with writing(_WHAT, path.parent), path.open("wb") as file:
            for tensor in detached:
                if tensor is not None:
                    tensor.contiguous().numpy().tofile(file)

    def get(self, key: Key, device: torch.device) -> list[Tensor | None]:
        """The tensors of ``key`` on ``device``."""
        if self._folder is None:
            return [
                None if tensor is None else tensor.to(device, non_blocking=True)
                for tensor in self._kept[key]
            ]
        tensors: list[Tensor | None] = []
        with self._path(key).open("rb") as file:
            for kept in self._shapes[key]:
                if kept is None:
                    tensors.append(None)
                    continue
                shape, dtype = kept
                numbers = np.fromfile(
                    file, torch.empty(0, dtype=dtype).numpy().dtype, shape.numel()
                )
                tensors.append(torch.from_numpy(numbers).reshape(shape))
        return tensors

    def drop(self, key: Key) -> None:
        """Forget the tensors of ``key``, if there are any."""
        self._kept.pop(key, None)
        if self._shapes.pop(key, None) is not None:
            self._path(key).unlink()

    def close(self) -> None:
        """Forget everything and remove the files."""
        self._kept.clear()
        self._shapes.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock is not None:
            _release(self._lock)

    def _path(self, key: Key) -> Path:
        assert self._folder is not None
        return self._folder / "-".join(map(str, key))


def _remove_abandoned(folder: Path) -> None:
    """Remove the hidden states of processes that are no more; what cannot be removed stays."""
    for left in folder.glob(f"{_PREFIX}*"):
        if not left.is_dir():
            continue
        lock = _lock_of(left)
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError):
            continue
        shutil.rmtree(left, ignore_errors=True)
        _release(lock)


def _lock_of(folder: Path) -> FileLock:
    return FileLock(folder.with_name(f"{folder.name}.lock"))


def _release(lock: FileLock) -> None:
    # Removed while it is held, as no process locks a folder of this name again.
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()
