"""The folder of an export: it appears whole or not at all, and replaces only another export."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lpft.errors import InputError

RECORD = "export.json"


def check_target(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that holds anything but an export, and that one unless told to replace it.

    Raises:
        InputError: it is so.
    """
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise InputError(f"the output folder '{folder}' is a file: name another with --output-dir")
    there = list(folder.iterdir())
    if not there:
        return
    own = _recorded(folder)
    foreign = sorted(path.name for path in there if path.name not in own or not path.is_file())
    if foreign:
        raise InputError(
            f"'{folder}' holds files that are not an export's ({foreign[0]}): name an empty or "
            "new folder with --output-dir"
        )
    if not overwrite:
        raise InputError(
            f"'{folder}' holds an export: give --overwrite to replace it, or another --output-dir"
        )


@contextmanager
def written_folder(folder: Path) -> Iterator[Path]:
    """A folder beside ``folder`` that takes its place once the block ends without an error.

    Raises:
        InputError: the place cannot be written.
    """
    target = folder.resolve()
    staged = target.with_name(f".{target.name}.{os.getpid()}.partial")
    replaced = staged.with_suffix(".replaced")
    try:
        with _writing(folder):
            staged.mkdir(parents=True)
        yield staged
        with _writing(folder):
            if target.exists():
                target.replace(replaced)
            staged.replace(target)
    finally:
        if replaced.exists() and not target.exists():
            replaced.replace(target)
        for path in (staged, replaced):
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"the output folder '{folder}' cannot be written ({error.strerror}): name another "
            "with --output-dir"
        ) from error


def _recorded(folder: Path) -> set[str]:
    """The files that the folder's record lists; none where it has no record that can be read."""
    try:
        files = json.loads((folder / RECORD).read_text(encoding="utf-8"))["files"]
        return {RECORD, *map(str, files)}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
