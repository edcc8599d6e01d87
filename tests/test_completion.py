"""Shells that complete lpft's command lines, asked as a user asks them."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LINES = {
    "lpft trai": "lpft train",
    "lpft train --learning-r": "lpft train --learning-rate",
    "lpft train --method contr": "lpft train --method contrastive",
    "lpft train --train-file rev": "lpft train --train-file reviews.csv",
    "lpft train --pooling me": "lpft train --pooling mean",
    "lpft export my": "lpft export my-runs",
    "lpft export --format o": "lpft export --format onnx",
    "lpft reproduce figure1": None,  # figure10 and figure11 too
    "lpft tasks comm": None,  # cb is not written so
    "lpft tasks multi": "lpft tasks multirc",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder, and the scripts as lpft prints them."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "reviews.csv").touch()
    (folder / "my-runs").mkdir()
    (folder / "scripts").mkdir()
    for shell, name in (("bash", "lpft.bash"), ("zsh", "_lpft"), ("fish", "lpft.fish")):
        command = [sys.executable, "-m", "lpft", "completion", shell]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        (folder / "scripts" / name).write_text(text)
    return folder


def completed(shell: list[str], setup: str, folder: Path) -> list[str]:
    """Each of LINES after a press of Tab, as an interactive shell then runs it behind ``echo``."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "PS1": "> "}
    process = subprocess.Popen(
        shell,
        **dict.fromkeys(("stdin", "stdout", "stderr"), theirs),
        cwd=folder,
        env=environment,
        start_new_session=True,
    )
    os.close(theirs)
    screen = b""

    def wait(pattern: bytes) -> bytes:
        nonlocal screen
        while (found := re.search(pattern, screen)) is None:
            assert select.select([ours], [], [], 60)[0], screen
            screen += os.read(ours, 65536)
        screen = screen[found.end() :]
        return found[1]

    try:
        os.write(ours, f"{setup}; echo re''ady\n".encode())
        wait(rb"(ready)")
        lines = []
        for line in LINES:
            # Ctrl-A goes to the start of the line, where echo shows what the line has become.
            os.write(ours, f"{line}\t\x01echo do''ne:\n".encode())
            text = wait(rb"done:([^\r\n]*)\r?\n").decode()
            lines.append(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).strip().rstrip("/"))
        return lines
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_bash_completes(folder: Path) -> None:
    shell = ["bash", "--norc", "--noprofile", "-i"]
    expected = [line if end is None else end for line, end in LINES.items()]
    setup = "bind 'set enable-bracketed-paste off'; source scripts/lpft.bash"
    assert completed(shell, setup, folder) == expected


@pytest.mark.heavy
@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh")
def test_zsh_completes(folder: Path) -> None:
    shell = ["zsh", "--no-rcs", "--interactive"]
    setup = "fpath=($PWD/scripts $fpath); autoload -Uz compinit; compinit -u -D; unsetopt list_beep"
    lines = completed(shell, setup, folder)
    for line, end in zip(lines, LINES.values(), strict=True):
        assert end is None or line == end


@pytest.mark.heavy
@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish")
def test_fish_completes(folder: Path) -> None:
    for line, end in LINES.items():
        command = ["fish", "--no-config", "-c", f"source scripts/lpft.fish; complete -C '{line}'"]
        shown = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        words = [row.partition("\t")[0].rstrip("/") for row in shown.stdout.splitlines()]
        assert end is None or end.rpartition(" ")[2] in words


def test_completion_names_its_shells(lpft) -> None:
    outcome = lpft("completion", "powershell")
    assert outcome.status == 2
    assert "bash, zsh, fish" in outcome.err
