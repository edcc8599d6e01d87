"""Where kernels are computed, and in what portions."""

from dataclasses import dataclass

import torch

from lpft.errors import InputError
from lpft.model.inference import resolve_device
from lpft.ntk.stash import Place
from lpft.settings import Device


@dataclass(frozen=True)
class Portions:
    """What a kind of device takes at a time.

    Attributes:
        batch_tokens: padded tokens of a batch at most.
        least_workspace: bytes of the workspace at least, ``most_workspace`` at most.
        overflow: where hidden states wait that do not fit into its memory.
        share_of_free: of the free memory, used by default.
    """

    batch_tokens: int
    least_workspace: int
    most_workspace: int
    overflow: Place
    share_of_free: float


PORTIONS = {
    "cpu": Portions(2048, 64 << 20, 512 << 20, "files", 0.5),
    "cuda": Portions(32768, 64 << 20, 8 << 30, "host", 0.85),
}
"""By type of device: those that have float64, in which kernels are summed up."""


def kernel_device(name: Device) -> torch.device:
    """The device for kernels; ``auto`` is CUDA's where there is one, and the CPU otherwise.

    Raises:
        InputError: this machine has no such device, or the device has no float64.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = resolve_device(name)
    if device.type not in PORTIONS:
        raise InputError(
            f"--device {name} has no float64, in which kernels are summed up: use "
            f"{', '.join(PORTIONS)} or auto"
        )
    return device


def same_device(found: torch.device, wanted: torch.device) -> bool:
    """Whether a tensor's device is the wanted one, whose number may be left to PyTorch."""
    index = wanted.index
    if wanted.type == "cuda" and index is None:
        index = torch.cuda.current_device()
    return found.type == wanted.type and found.index == index
