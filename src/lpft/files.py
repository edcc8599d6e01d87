"""Files that are written whole or not at all, templates, and checks of folders."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from lpft.errors import InputError

if TYPE_CHECKING:
    from jinja2 import Template

EXPORT_RECORD = "export.json"
"""The file by which a folder of ``lpft export`` is known."""


def readable_size(size: int) -> str:
    """Bytes as people write them, in decimal units."""
    if size >= 1e8:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def default_cache_dir() -> Path:
    """``$LPFT_CACHE_DIR``, or ``lpft`` in the user's cache folder."""
    import platformdirs

    folder = os.environ.get("LPFT_CACHE_DIR")
    return Path(folder) if folder else Path(platformdirs.user_cache_dir("lpft"))


@contextmanager
def replace_when_written(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its name once the block ends without error."""
    # Threads of a process, and machines that share a disk, may write one file of a cache at a time.
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if error.filename in (None, str(temporary)):  # a full disk names no file
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def lfs_pointer(folder: Path) -> Path | None:
    """A file of a folder that was cloned without Git LFS: a few lines in place of its content."""
    for path in sorted(folder.iterdir()):
        if path.is_file():
            with path.open("rb") as file:
                if file.read(24) == b"version https://git-lfs.":
                    return path
    return None


DIGESTS = "SHA256SUMS"
"""A file of SHA-256 digests of other files in its folder, as ``sha256sum --check`` reads it."""


def write_digests(folder: Path, pattern: str = "*") -> None:
    """Write the digests of the files in a folder that match ``pattern``."""
    paths = sorted(path for path in folder.glob(pattern) if path.is_file() and path.name != DIGESTS)
    write_text(folder / DIGESTS, "".join(f"{_sha256(path)}  {path.name}\n" for path in paths))


def add_digest(path: Path) -> None:
    """Write the digest of one file beside those of the others in its folder."""
    digests, lines = path.parent / DIGESTS, {path.name: f"{_sha256(path)}  {path.name}\n"}
    if digests.exists():
        existing = digests.read_text(encoding="utf-8").splitlines(keepends=True)
        lines = {line.strip().partition("  ")[2]: line for line in existing} | lines
    write_text(digests, "".join(lines[name] for name in sorted(lines)))


def damaged_file(folder: Path) -> str | None:
    """The first file of a folder whose digest is not the recorded one.

    None where all are intact, or where no digests were recorded.
    """
    try:
        lines = (folder / DIGESTS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return DIGESTS
    for line in lines:
        digest, separator, name = line.partition("  ")
        if not separator or "/" in name:
            return DIGESTS
        path = folder / name
        if not path.is_file() or _sha256(path) != digest:
            return name
    return None if lines else DIGESTS


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def link_or_copy(source: Path, target: Path) -> None:
    """A second name for a file, or a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text to ``path`` whole or not at all."""
    with replace_when_written(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, refusing NaN, which JSON does not have."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def markdown_template(package: str, name: str, **filters: Callable[..., str]) -> "Template":
    """A file of a package's folder ``templates``, in which an unknown variable is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(package),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters.update(filters)
    return environment.get_template(name)


def check_model_path(model: str) -> None:
    """Refuse a model path that is not a folder; other names belong to the Hugging Face Hub."""
    path = Path(model)
    if not path.is_dir() and (path.exists() or model.startswith((".", "/", "~"))):
        raise InputError(
            f"'{model}' is not a model folder: expected a folder with config.json, "
            "weights and tokenizer files"
        )
