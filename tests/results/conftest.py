"""Kernels written once for the tests that only read them."""

import json
from pathlib import Path
from typing import Any

import pytest

from lpft.results.kernels import KernelRecord, find_kernels

from .kernel_folders import write_kernels


@pytest.fixture(scope="session")
def kernel_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds kernels and no run."""
    return write_kernels(tmp_path_factory.mktemp("kernels") / "cb").parent


@pytest.fixture
def kernels(kernel_folder: Path) -> KernelRecord:
    (found,), _ = find_kernels(kernel_folder)
    return found


@pytest.fixture
def record(kernel_folder: Path) -> dict[str, Any]:
    """The record as ``json`` reads it."""
    found: dict[str, Any] = json.loads((kernel_folder / "cb" / "kernels.json").read_text())
    return found
