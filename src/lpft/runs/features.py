"""A run's features on disk: how far each text's moved, and the features themselves where kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from lpft.errors import InputError

FOLDER = "features"
_COLUMNS = ("id", "feature_difference")


@dataclass(frozen=True)
class SplitFeatures:
    """phi and phi_0 of a split's texts in their order: N x h, float32."""

    features: NDArray[np.float32]
    pretrained: NDArray[np.float32]


def split_file(split: str, ending: str) -> str:
    """The name of a split's file: ``ood/far`` is in ``ood-far.parquet``."""
    return f"{split.replace('/', '-')}.{ending}"


def write_feature_changes(
    folder: Path, split: str, ids: Sequence[str], differences: NDArray[np.float64]
) -> None:
    """``features/<split>.parquet`` below a run's folder: each text's id and ``||phi - phi_0||``."""
    (folder / FOLDER).mkdir(exist_ok=True)
    frame = pd.DataFrame(dict(zip(_COLUMNS, (ids, differences), strict=True)))
    frame.to_parquet(folder / FOLDER / split_file(split, "parquet"), index=False)


def write_features(folder: Path, split: str, features: SplitFeatures) -> None:
    """``features/<split>.safetensors`` below a run's folder."""
    (folder / FOLDER).mkdir(exist_ok=True)
    save_file(
        {
            name: np.ascontiguousarray(getattr(features, name), dtype=np.float32)
            for name in ("features", "pretrained")
        },
        folder / FOLDER / split_file(split, "safetensors"),
    )


def read_feature_changes(folder: Path, split: str) -> pd.DataFrame:
    """Columns ``id`` and ``feature_difference`` of a run's split, one row for each text.

    The difference is ``||phi(x) - phi_0(x)||_2``; its mean is Diff(F) of ``features.json``.
    Splits are ``train``, ``test`` and ``ood/<name>``.

    Raises:
        InputError: the file is missing or damaged.
    """
    path = folder / FOLDER / split_file(split, "parquet")
    try:
        return pd.read_parquet(path, columns=list(_COLUMNS))
    except FileNotFoundError as error:
        raise InputError(
            f"'{path}' is not there: expected a finished run with a {split} split; name another, "
            "or train it again"
        ) from error
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"'{path}' cannot be read ({error}): train the run again") from error


def keeps_feature_changes(folder: Path, split: str) -> bool:
    """Whether a run kept how far each text of a split moved, for :func:`read_feature_changes`."""
    return (folder / FOLDER / split_file(split, "parquet")).is_file()


def read_features(folder: Path, split: str) -> SplitFeatures:
    """phi and phi_0 of every text of a split, of a run that kept them (``--save-features``).

    Raises:
        InputError: the file is missing or damaged.
    """
    names = ("features", "pretrained")
    return SplitFeatures(*read_kept(folder, split_file(split, "safetensors"), names))


def read_kept(folder: Path, file: str, names: Sequence[str]) -> list[NDArray[np.float32]]:
    """The named tensors of a file below ``features/``, of a run that kept its features.

    Raises:
        InputError: the file is missing or damaged.
    """
    path = folder / FOLDER / file
    try:
        tensors = load_file(path)
        return [tensors[name] for name in names]
    except FileNotFoundError as error:
        raise InputError(
            f"'{path}' is not there: expected a finished run of which the features were kept; "
            "train it again with --save-features"
        ) from error
    except (OSError, SafetensorError, KeyError) as error:
        raise InputError(f"'{path}' cannot be read ({error}): train the run again") from error
