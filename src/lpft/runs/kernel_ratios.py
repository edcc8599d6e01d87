"""The FT ratio text by text, from the arrays that ``lpft ntk`` keeps."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from lpft.errors import InputError
from lpft.ntk.statistics import FTRatio, ft_ratio

_ARRAYS = ("pretrain_effective", "ft_effective", "labels", "logits")


def read_ft_ratio(folder: Path, method: str) -> FTRatio:
    """The FT ratio of a method's start among the training texts of a folder of kernels.

    Raises:
        InputError: the method's file is missing or damaged.
    """
    path = folder / f"{method}.safetensors"
    try:
        with safe_open(path, framework="numpy") as tensors:
            arrays = [tensors.get_tensor(f"train/{name}") for name in _ARRAYS]
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"'{path}' cannot be read ({error}): remove '{folder}', and compute its kernels again"
        ) from error
    return ft_ratio(*arrays)
