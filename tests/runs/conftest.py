"""The toy problem of ``lpft ntk``: its files, its options, and runs that were trained on it."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from kernel_commands import ALPHA, EVALUATION, MAX_LENGTH, RANK, SEED, TRAIN, VALIDATION
from tiny_models import toy_texts


@pytest.fixture(scope="session")
def kernel_data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for seed, (name, rows) in enumerate(
        (("train", TRAIN), ("valid", VALIDATION), ("test", EVALUATION))
    ):
        texts, labels = toy_texts(rows, seed)
        pd.DataFrame({"text": texts, "label": labels}).to_csv(folder / f"{name}.csv", index=False)
    return folder


@pytest.fixture(scope="session")
def kernel_files(kernel_data) -> tuple[object, ...]:
    """The options that name the data."""
    return (
        *(
            "--train-file",
            kernel_data / "train.csv",
            "--validation-file",
            kernel_data / "valid.csv",
        ),
        *("--test-file", kernel_data / "test.csv"),
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
