"""Fixtures for every part of the tests."""

import io
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import pytest

# Before torch is imported, here and in subprocesses: tiny models only lose by a second thread.
os.environ["OMP_NUM_THREADS"] = "1"
# Shells start commands in the background with Ctrl-C ignored; subprocesses would inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)


class Outcome(NamedTuple):
    """What a command left behind: its exit status and the text on both streams."""

    status: int
    out: str
    err: str


@pytest.fixture(scope="session", autouse=True)
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of the tests' own, so that none reads or fills the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("LPFT_CACHE_DIR", str(folder))
        yield folder


@pytest.fixture(scope="session")
def lpft() -> Callable[..., Outcome]:
    """The command line in this process: ``lpft("train", "--seed", 1)``, standard input as bytes.

    What a command changes of its process (environment, logging, warning filters) is changed back.
    A run gets its page, which takes seconds, only where a test asks for it with ``--report``.
    """

    def command(*arguments: object, stdin: bytes = b"") -> Outcome:
        if arguments[:1] == ("train",) and "--help" not in arguments:
            pages = {"--report", "--no-report"} & set(map(str, arguments))
            arguments = arguments if pages else (*arguments, "--no-report")
        from transformers.utils.logging import disable_progress_bar

        from lpft.cli import main

        # As in a process of its own: the command's HF_HUB_DISABLE_PROGRESS_BARS is read at import.
        disable_progress_bar()

        out, err = io.StringIO(), io.StringIO()
        text_in = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
        logger = logging.getLogger("lpft")
        before = logger.handlers[:], logger.propagate, logger.level
        try:
            with (
                patch.dict(os.environ),
                patch.object(sys, "stdin", text_in),
                warnings.catch_warnings(),
                redirect_stdout(out),
                redirect_stderr(err),
            ):
                status = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = int(stop.code or 0)
        finally:
            logger.handlers[:], logger.propagate, logger.level = before
        return Outcome(status, out.getvalue(), err.getvalue())

    return command


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with random weights: two layers, 32 wide, 64 positions."""
    from tiny_models import save_tiny_model

    return save_tiny_model("bert", tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with real datasets in their release layouts; tests without it are skipped."""
    beside = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("LPFT_TEST_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real datasets: {folder} does not exist (set LPFT_TEST_DATA)")
    return folder
