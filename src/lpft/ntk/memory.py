"""Sizes of memory: what is there, what is taken, and how people write them."""

import re

import psutil
import torch

from lpft.errors import InputError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SHARE_OF_FREE = {"cpu": 0.5, "cuda": 0.85}


def parse_size(size: str | int) -> int:
    """Bytes of a number of bytes or a text like ``6GB``, ``500 MB`` or ``2.5GiB``.

    Raises:
        InputError: it is neither, or not positive.
    """
    match = re.fullmatch(
        r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?\s*", str(size).upper(), flags=re.ASCII
    )
    if match is None or float(match[1]) <= 0:
        raise InputError(f"the memory '{size}' is no size: expected one such as 6GB or 500MB")
    unit = _UNITS[match[2]]
    if match[3]:
        unit = 1024 ** (len(str(unit)) // 3)
    return int(float(match[1]) * unit)


def readable_size(size: int) -> str:
    """Bytes as people write them, in decimal units."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def memory_in_use(device: torch.device) -> int:
    """Bytes that this process holds on the device already."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return psutil.Process().memory_info().rss


def default_budget(device: torch.device) -> int:
    """What is in use and a safe share of what is free."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = psutil.virtual_memory().available
    return memory_in_use(device) + int(_SHARE_OF_FREE.get(device.type, 0.5) * free)
