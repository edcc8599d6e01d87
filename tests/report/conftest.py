"""A report built once for the tests that only read it."""

from pathlib import Path

import pytest

from lpft.report import ReportResult, build_report

from .run_folders import write_five_methods


@pytest.fixture(scope="session")
def five_methods(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_five_methods(tmp_path_factory.mktemp("five"))


@pytest.fixture(scope="session")
def report(five_methods: Path) -> ReportResult:
    return build_report(five_methods)
