"""What the tests of ``lpft ntk`` share: the size of their toy problem, how outcomes are read."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

METHODS = ("ft", "lora", "lp-ft", "lp-lora")
KERNELS = ("pretrain_effective", "ft_effective", "ntk")
TRAIN, EVALUATION, VALIDATION, CLASSES = 12, 8, 6, 2
SEED, RANK, ALPHA = 3, 2, 4.0
MAX_LENGTH = 16


def read(folder: Path) -> dict:
    return json.loads((folder / "kernels.json").read_text(encoding="utf-8"))


def texts_of(data: Path, name: str) -> list[str]:
    return pd.read_csv(data / f"{name}.csv")["text"].tolist()


def assert_refused(outcome, *named: str) -> None:
    assert outcome.status == 2, outcome.out + outcome.err
    assert outcome.out == ""
    *_, last = outcome.err.splitlines()
    assert last.startswith("error:")
    assert outcome.err.count("error:") == 1
    assert "Traceback" not in outcome.err
    for word in named:
        assert word in last


def assert_near(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal up to 1e-5 of the largest entry."""
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
