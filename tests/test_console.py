"""Standard output in processes of their own: any text in any locale, and answers as they come."""

import json
import os
import subprocess
import sys

import pytest
from tiny_classifiers import tiny_classifier

from lpft.model import save_classifier

LPFT = [sys.executable, "-m", "lpft"]


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_any_text_is_written_whatever_the_locale(tmp_path, encoding):
    path = tmp_path / "rows.csv"
    rows = "".join(f"text {row},{label}\n" for row in range(10) for label in ("好", "坏"))
    path.write_text(f"text,label\n{rows}", encoding="utf-8")
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [*LPFT, "check", "--train-file", str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 classes (坏, 好)" in done.stdout.decode("utf-8")


def test_lines_of_a_program_that_goes_on_are_answered(tmp_path):
    """32 lines are enough for 32 answers, though the input does not end."""
    save_classifier(tiny_classifier("bert"), tmp_path / "model")
    command = [*LPFT, "predict", str(tmp_path / "model")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        process.stdin.write("good table\n" * 32)
        process.stdin.flush()
        answers = [json.loads(process.stdout.readline()) for _ in range(32)]
        assert process.poll() is None
        process.stdin.write("one more\n")
        rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert {answer["label"] for answer in answers} == {answers[0]["label"]}
    assert len(rest.splitlines()) == 1
