"""The toy problem of ``lpft ntk``: its files, its options, and runs that were trained on it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from kernel_commands import ALPHA, EVALUATION, MAX_LENGTH, RANK, SEED, TRAIN, VALIDATION
from toy_files import write_toy_file


@pytest.fixture(scope="session")
def kernel_data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for seed, (name, rows) in enumerate(
        {"train": TRAIN, "valid": VALIDATION, "test": EVALUATION}.items()
    ):
        write_toy_file(folder / f"{name}.csv", rows, seed)
    return folder


@pytest.fixture(scope="session")
def kernel_files(kernel_data) -> tuple[object, ...]:
    """The options that name the data."""
    names = {"train": "train", "validation": "valid", "test": "test"}
    return tuple(
        part
        for option, name in names.items()
        for part in (f"--{option}-file", kernel_data / f"{name}.csv")
    )


@pytest.fixture(scope="session")
def kernel_base(tiny_bert, kernel_files) -> tuple[object, ...]:
    """The options of data, model and start."""
    return (
        *kernel_files,
        *("--model", tiny_bert, "--max-length", MAX_LENGTH, "--seed", SEED, "--device", "cpu"),
        *("--lora-rank", RANK, "--lora-alpha", ALPHA),
    )


@pytest.fixture(scope="session")
def trained_runs(lpft, tiny_bert, kernel_files, tmp_path_factory) -> Callable[..., Path]:
    """The folder of a run of a method, trained when it is first asked for."""
    folders: dict[str, Path] = {}

    def trained(method: str) -> Path:
        if method not in folders:
            folder = folders[method] = tmp_path_factory.mktemp("runs") / method
            rank = ("--lora-rank", RANK, "--lora-alpha", ALPHA) if "lora" in method else ()
            tuned = ("--epochs", 1, "--batch-size", 4, "--learning-rate", 1e-2)
            outcome = lpft(
                *("train", *kernel_files, "--model", tiny_bert, "--max-length", MAX_LENGTH),
                *("--seed", SEED, "--method", method, *rank, *(() if method == "lp" else tuned)),
                *("--device", "cpu", "--output-dir", folder),
            )
            assert outcome.status == 0, outcome.err
        return folders[method]

    return trained
