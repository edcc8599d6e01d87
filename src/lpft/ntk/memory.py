"""Sizes of memory: what is there, what is taken, and how people write them."""

import ctypes
import re
from decimal import Decimal

import psutil
import torch

from lpft.errors import InputError
from lpft.ntk.control_groups import free_below_limits
from lpft.ntk.devices import PORTIONS

_LARGEST = 1 << 60
"""Bytes: no machine has more."""
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def parse_size(size: str | int) -> int:
    """Bytes of a number of bytes or a text like ``6GB``, ``500 MB`` or ``2.5GiB``.

    Raises:
        InputError: it is neither, less than one byte, or more than any machine has.
    """
    match = re.fullmatch(
        r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?\s*", str(size).upper(), flags=re.ASCII
    )
    base = 1024 if match is not None and match[3] else 1000
    found = 0 if match is None else int(Decimal(match[1]) * base ** _POWERS[match[2]])
    if found > _LARGEST:
        raise InputError("the memory is more than any machine has: expected one such as 6GB")
    if found < 1:
        raise InputError(f"the memory '{size}' is no size: expected one such as 6GB or 500MB")
    return found


def readable_size(size: int) -> str:
    """Bytes as people write them, in decimal units."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def memory_in_use(device: torch.device) -> int:
    """Bytes that this process holds on the device already."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return psutil.Process().memory_info().rss


def default_budget(device: torch.device) -> int:
    """What is in use and a safe share of what is free, in bytes."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = psutil.virtual_memory().available
        below = free_below_limits()
        free = free if below is None else min(free, below)
    return memory_in_use(device) + int(PORTIONS[device.type].share_of_free * free)


def give_back_free_memory() -> None:
    """Give the system what the C library keeps of freed memory, between pieces still in use.

    glibc gives back only what no piece in use lies above; other C libraries are left alone.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return
    trim(0)
