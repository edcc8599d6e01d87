"""The trained head on disk, beside the features that it reads (``--save-features``)."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import nn

from lpft.errors import InputError
from lpft.runs.features import FOLDER

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
    path = folder / FOLDER / _FILE
    try:
        return load_file(path)["weight"]
    except FileNotFoundError as error:
        raise InputError(
            f"'{path}' is not there: expected a finished run with features kept; train it again "
            "with --save-features"
        ) from error
    except (OSError, SafetensorError, KeyError) as error:
        raise InputError(f"'{path}' cannot be read ({error}): train the run again") from error
