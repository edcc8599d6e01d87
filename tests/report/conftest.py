"""Reports built once for the tests that only read them."""

import json
from pathlib import Path
from typing import Any

import pytest
from results.experiment_folders import sample_experiment, write_behind, write_experiment
from results.kernel_folders import write_kernels
from results.run_folders import write_five_methods

from lpft.report import ReportResult, build_report
from lpft.results.kernels import KernelRecord


@pytest.fixture(scope="session")
def five_methods(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_five_methods(tmp_path_factory.mktemp("five"))


@pytest.fixture(scope="session")
def report(five_methods: Path) -> ReportResult:
    return build_report(five_methods)


@pytest.fixture(scope="session")
def kernel_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds kernels and no run."""
    return write_kernels(tmp_path_factory.mktemp("kernels") / "cb").parent


@pytest.fixture(scope="session")
def kernel_report(kernel_folder: Path) -> ReportResult:
    return build_report(kernel_folder)


@pytest.fixture
def kernels(kernel_report: ReportResult) -> KernelRecord:
    (found,) = kernel_report.kernels
    return found


@pytest.fixture
def record(kernel_folder: Path) -> dict[str, Any]:
    """The record as ``json`` reads it."""
    found: dict[str, Any] = json.loads((kernel_folder / "cb" / "kernels.json").read_text())
    return found


@pytest.fixture(scope="session")
def experiment_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment over six of the runs that its numbers name; the others are not there."""
    folder = tmp_path_factory.mktemp("experiment")
    write_behind(folder, ("cb",), ("ft", "lp-ft"))
    return write_experiment(folder, sample_experiment())


@pytest.fixture(scope="session")
def experiment_report(experiment_folder: Path) -> ReportResult:
    return build_report(experiment_folder)
