"""What is computed once and kept: files in the user's cache folder, named by what they hold."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import platformdirs
from safetensors import SafetensorError

from lpft.files import replace_when_written

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "LPFT_CACHE_DIR"

Kept = TypeVar("Kept")


def default_cache_dir() -> Path:
    """``$LPFT_CACHE_DIR``, or ``lpft`` in the user's cache folder."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else Path(platformdirs.user_cache_dir("lpft"))


def read_or_compute(
    path: Path,
    what: str,
    *,
    read: Callable[[Path], Kept],
    compute: Callable[[], Kept],
    write: Callable[[Kept, Path], None],
) -> Kept:
    """What ``read`` finds in ``path``, or else what ``compute`` gives, which ``write`` then keeps.

    A file that cannot be read, or in which ``read`` finds something wrong (``ValueError``,
    ``KeyError``), is computed again; one that cannot be written costs a warning. ``what`` names
    the content in both.
    """
    try:
        return read(path)
    except FileNotFoundError:
        pass
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        logger.warning("cached %s %s cannot be read (%s): computing it again", what, path, error)
    found = compute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_when_written(path) as temporary:
            write(found, temporary)
    except (OSError, SafetensorError) as error:
        logger.warning("%s is not kept: %s cannot be written (%s)", what, path, error)
    return found
