"""The trained head on disk, beside the features that it reads (``--save-features``)."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import nn

from lpft.runs.features import FOLDER, read_kept

_FILE = "head.safetensors"


def write_head(folder: Path, head: nn.Linear) -> None:
    """``features/head.safetensors`` below a run's folder: ``weight`` (C x h), ``bias`` (C)."""
    tensors = {
        name: parameter.detach().float().cpu().numpy()
        for name, parameter in head.named_parameters()
    }
    save_file(tensors, folder / FOLDER / _FILE)


def read_head_rows(folder: Path) -> NDArray[np.float32]:
    """V (C x h) of a run that kept its features.

    Raises:
        InputError: the file is missing or damaged.
    """
    return read_kept(folder, _FILE, ["weight"])[0]
