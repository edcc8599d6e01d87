"""Fixtures for every part of the tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with real datasets in their release layouts; tests without it are skipped."""
    beside = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("LPFT_TEST_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real datasets: {folder} does not exist (set LPFT_TEST_DATA)")
    return folder
