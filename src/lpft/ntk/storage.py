"""Storage for activations between blocks, and for finished pieces of a kernel."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args
from uuid import uuid4

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lpft.errors import InputError, write_failure
from lpft.files import replace_when_written, write_json, write_text

Place = Literal["memory", "files", "host"]
Pair = tuple[int, int]
"""Where a block's rows and its columns come from: two tiles, or two groups of texts."""

_PREFIX = "lpft-ntk-"
_LAYOUT = "layout.json"
_SESSION = "session"


class ActivationStore:
    """Hidden states and running gradients between blocks: lists of tensors, kept in ``place``.

    A key is what (``hidden``, ``gradient`` or ``extra``), its position in the chain or number, and
    the batch. A None in a list stands for zero. ``files`` are written below ``folder`` (default:
    the system's temporary folder) and removed by :meth:`close`; ``host`` moves an accelerator's
    tensors to the CPU's memory. What killed processes left below ``folder`` is removed.
    """

    Key = tuple[str, int, int]

    def __init__(self, place: Place, folder: Path | None = None) -> None:
        self._place = place
        self._tensors: dict[ActivationStore.Key, list[Tensor | None]] = {}
        """Of a key in files the shapes and types, as tensors without contents."""
        self._folder: Path | None = None
        self._lock: FileLock | None = None
        if folder is not None and folder.is_dir():
            _remove_abandoned(folder)
        if place == "files":
            parent = Path(tempfile.gettempdir()) if folder is None else folder
            with _writing("hidden states", parent):
                parent.stat()
                own_folder = parent / f"{_PREFIX}{uuid4().hex}"
                # Locked before the folder exists: a folder whose lock nobody holds is abandoned.
                self._lock = _lock_of(own_folder)
                self._lock.acquire(timeout=0)
                own_folder.mkdir(mode=0o700)
                self._folder = own_folder

    def __contains__(self, key: Key) -> bool:
        return key in self._tensors

    def put(self, key: Key, tensors: Sequence[Tensor | None]) -> None:
        """Keep the tensors, replacing those of the same key."""
        detached = [None if tensor is None else tensor.detach() for tensor in tensors]
        if self._folder is not None:  # raw numbers, one tensor after the other
            path = self._path(key)
            with _writing("hidden states", path.parent), path.open("wb") as file:
                for tensor in detached:
                    if tensor is not None:
                        tensor.contiguous().numpy().tofile(file)
        # Of tensors in files a copy without contents stays, which says how to read them.
        target = "meta" if self._folder is not None else "cpu"
        if self._place != "memory":
            detached = [None if tensor is None else tensor.to(target) for tensor in detached]
        self._tensors[key] = detached

    def get(self, key: Key, device: torch.device) -> list[Tensor | None]:
        """The tensors of ``key`` on ``device``."""
        tensors = self._tensors[key]
        if self._folder is None:
            return [None if t is None else t.to(device, non_blocking=True) for t in tensors]
        with self._path(key).open("rb") as file:
            return [None if like is None else _read(file, like) for like in tensors]

    def drop(self, key: Key) -> None:
        """Forget the tensors of ``key``, if there are any."""
        if self._tensors.pop(key, None) is not None and self._folder is not None:
            self._path(key).unlink()

    def close(self) -> None:
        """Forget everything and remove the files."""
        self._tensors.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock is not None:
            _release(self._lock)

    def _path(self, key: Key) -> Path:
        assert self._folder is not None
        return self._folder / "-".join(map(str, key))


def _read(file: BinaryIO, like: Tensor) -> Tensor:
    numbers = np.fromfile(file, torch.empty(0, dtype=like.dtype).numpy().dtype, like.numel())
    return torch.from_numpy(numbers).reshape(like.shape)


def _remove_abandoned(folder: Path) -> None:
    """Remove the hidden states of dead processes; what cannot be removed stays."""
    for abandoned in folder.glob(f"{_PREFIX}*"):
        if not abandoned.is_dir():
            continue
        lock = _lock_of(abandoned)
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError):  # a living process has it
            continue
        shutil.rmtree(abandoned, ignore_errors=True)
        _release(lock)


def _lock_of(folder: Path) -> FileLock:
    return FileLock(folder.with_name(f"{folder.name}.lock"))


def _release(lock: FileLock) -> None:
    # Removed while it is held, as no process locks a folder of this name again.
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


@dataclass(frozen=True)
class Layout:
    """All that decides the order of sums. A resumed kernel keeps it, to end with the same bits.

    ``tiles`` of the largest group of texts; where hidden states wait ``between_blocks``;
    ``workspace``, how many numbers the buffer of the contractions holds; ``stages`` in which the
    widest unit's parameters are held, each with passes of its own.
    """

    tiles: int
    between_blocks: Place
    workspace: int
    stages: int = 1

    @property
    def hold_all(self) -> bool:
        """Whether all tiles are held at once; otherwise two are."""
        return self.tiles == 1

    @classmethod
    def read(cls, folder: Path) -> "Layout | None":
        """The layout of the kernel that was begun in ``folder``; None where none was."""
        path = folder / _LAYOUT
        if not path.is_file():
            return None
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            tiles, workspace, stages = (
                int(record[key]) for key in ("tiles", "workspace", "stages")
            )
            layout = cls(tiles, record["stash"], workspace, stages)
            if min(tiles, workspace, stages) < 1 or layout.between_blocks not in get_args(Place):
                raise ValueError(layout)
            if record["sha256"] != layout._digest:
                raise ValueError(record)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"'{path}' is damaged: delete the folder '{folder}', and the kernel is computed "
                "from the start"
            ) from error
        return layout

    def write(self, folder: Path) -> None:
        write_json(folder / _LAYOUT, {**self.as_record(), "sha256": self._digest})

    def as_record(self) -> dict[str, int | str]:
        """The layout as JSON; the keys are those of folders that exist."""
        return {
            "tiles": self.tiles,
            "stash": self.between_blocks,
            "workspace": self.workspace,
            "stages": self.stages,
        }

    @property
    def _digest(self) -> str:
        return sha256(" ".join(map(str, self.as_record().values())).encode()).hexdigest()


class TileStore:
    """The finished pieces of one kernel in a folder: a file for each unit and pair of tiles.

    A unit is a run of positions in the encoder. The ``layout`` is kept beside the pieces, unless
    those that are there belong to another kernel. ``fingerprints`` say what the kernel is computed
    from (weights, texts, head, method, precision and so on); a piece of anything else is refused,
    and so is a damaged one.

    Workers belong to the ``session`` of the process that started them. One that outlives it, as on
    a machine that was lost from sight, writes nothing once the next session has begun.
    """

    def __init__(
        self,
        folder: Path,
        layout: Layout,
        fingerprints: Mapping[str, str],
        session: str | None = None,
    ) -> None:
        self._folder = folder
        self._session = session
        self._fingerprints = dict(fingerprints)
        # One piece of another kernel is refused before the layout beside it is overwritten.
        first = min(folder.glob("unit-*.safetensors"), default=None)
        if first is not None:
            self._read(first)
        if session is not None:
            self._check_session()
            return
        with _writing("the unfinished kernel", folder):
            folder.mkdir(parents=True, exist_ok=True)
            layout.write(folder)

    def load(self, unit: int, pair: Pair) -> dict[str, Tensor] | None:
        """The piece, or None where it was not finished."""
        path = self._path(unit, pair)
        return self._read(path) if path.exists() else None

    def begin_session(self) -> str:
        """The name of a new session, which ends all others."""
        session = uuid4().hex
        with _writing("the unfinished kernel", self._folder):
            write_text(self._folder / _SESSION, session)
        return session

    def save(self, unit: int, pair: Pair, tensors: Mapping[str, Tensor]) -> None:
        """Write a finished piece, whole or not at all.

        Raises:
            InputError: it cannot be written, or the session of this worker is over.
        """
        # A worker may have been cut off while another process took over the kernel.
        if self._session is not None:
            self._check_session()
        with _writing("the unfinished kernel", self._folder):
            _write_checked(self._path(unit, pair), tensors, "fingerprints", self._fingerprints)

    def _check_session(self) -> None:
        path = self._folder / _SESSION
        if not path.is_file() or path.read_text(encoding="utf-8") != self._session:
            raise InputError(f"another process goes on with the kernel in '{self._folder}'")

    def _read(self, path: Path) -> dict[str, Tensor]:
        """The piece in a file of this folder, if it is intact and this kernel's."""
        damaged = f"'{path}' is damaged: delete it, and this piece of the kernel is computed again"
        if path.is_dir():
            raise InputError(damaged)
        try:
            tensors, recorded = _read_checked(path, "fingerprints")
        except _DAMAGES as error:
            raise InputError(damaged) from error
        for name, value in self._fingerprints.items():
            if recorded.get(name) != value:
                raise InputError(
                    f"'{path}' was computed from other {name}: it belongs to another kernel; "
                    "delete the file or name another folder"
                )
        return tensors

    def _path(self, unit: int, pair: Pair) -> Path:
        return self._folder / f"unit-{unit:03d}-tiles-{pair[0]:03d}-{pair[1]:03d}.safetensors"


def write_kernel(path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write a kernel with what is known of it to a file, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    with _writing("the kernel", path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_checked(path, tensors, "kernel", record)


def read_kernel(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file of :func:`write_kernel`.

    Raises:
        InputError: there is no file, or it is damaged or of another kind.
    """
    if not path.is_file():
        raise InputError(f"'{path}' is no file: expected one that EmpiricalNTK.save wrote")
    try:
        return _read_checked(path, "kernel")
    except _DAMAGES as error:
        raise InputError(
            f"'{path}' is damaged, or no file that EmpiricalNTK.save wrote: compute the kernel "
            "again, or name another file"
        ) from error


_DAMAGES = (OSError, SafetensorError, KeyError, TypeError, ValueError)


def _write_checked(
    path: Path, tensors: Mapping[str, Tensor], key: str, record: Mapping[str, Any]
) -> None:
    """Tensors in one file, with a record under ``key`` and a digest of both."""
    ready: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        values = tensor.detach().cpu().contiguous()
        # safetensors refuses two names for one piece of memory.
        addresses = {written.untyped_storage().data_ptr() for written in ready.values()}
        shared = values.untyped_storage().data_ptr() in addresses
        ready[name] = values.clone() if shared else values
    metadata = {key: json.dumps(record, sort_keys=True), "sha256": _digest(ready, record)}
    with replace_when_written(path) as temporary:
        save_file(ready, temporary, metadata)


def _read_checked(path: Path, key: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file of :func:`_write_checked`; raises one of ``_DAMAGES`` if it is not intact."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    record = dict(json.loads(metadata[key]))
    if metadata["sha256"] != _digest(tensors, record):
        raise ValueError(path)
    return tensors, record


def _digest(tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> str:
    digest = sha256(json.dumps(record, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)} {tensors[name].dtype}".encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def _writing(what: str, folder: Path) -> Iterator[None]:
    """Within this context ``what`` is written to ``folder``; one line says why it cannot be."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = write_failure(error) or getattr(error, "strerror", None) or error
        raise InputError(
            f"{what} cannot be written to '{folder}' ({reason}): make room there, or name another "
            "folder"
        ) from error
