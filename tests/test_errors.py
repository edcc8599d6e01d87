"""A full disk, whatever library writes, and a lack of memory are one clear line."""

import errno
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from lpft.errors import InputError, explain, one_line, out_of_memory, write_failure
from lpft.files import damaged_file, replace_when_written, write_digests, write_text


def test_a_quoted_message_ends_with_a_whole_sentence_or_word():
    first = "We could not connect to 'https://example.org' to load the files of the model."
    url = f"See 'https://example.org/{'x' * 150}'."
    assert one_line(OSError(f"{first}\n{url}")) == first.removesuffix(".")
    assert one_line(OSError("It failed.")) == "It failed"
    words = one_line(OSError("word " * 100))
    assert set(words.removesuffix(" ...").split()) == {"word"}
    assert len(words) <= 200


FULL = """
import json, resource, signal, sys
import numpy as np, pandas as pd, torch
from safetensors.torch import save_file
from lpft.errors import explain
from lpft.files import write_text
from pathlib import Path

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
folder = Path(sys.argv[1])
array = np.random.default_rng(0).normal(size=90_000)

def without_digests():
    with (folder / "raw").open("wb") as file:
        array.tofile(file)

writers = {
    "text": lambda: write_text(folder / "text", "x" * 90_000),
    "torch": lambda: torch.save(torch.tensor(array), folder / "torch.pt"),
    "safetensors": lambda: save_file({"a": torch.tensor(array)}, folder / "a.safetensors"),
    "numpy": lambda: np.save(folder / "a.npy", array),
    "tofile": without_digests,
    "parquet": lambda: pd.DataFrame({"a": array}).to_parquet(folder / "a.parquet"),
}
said = {}
for name, write in writers.items():
    try:
        write()
        said[name] = "written"
    except Exception as error:
        known = explain(error)
        said[name] = f"not known: {error!r}" if known is None else str(known)
sys.stdout.write(json.dumps(said))
"""


def test_a_full_disk_is_one_line_whatever_library_writes(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True
    )
    said = json.loads(done.stdout)
    assert len(said) == 6
    for name, line in said.items():
        assert "make room or name another path" in line, (name, line)
        assert "\n" not in line
    assert str(tmp_path / "text") in said["text"]
    assert list(tmp_path.glob("*.partial")) == []


def test_a_file_that_cannot_be_written_is_named_by_its_own_name(tmp_path):
    with pytest.raises(OSError, match="No space") as caught, replace_when_written(tmp_path / "x"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "x")
    assert str(tmp_path / "x") in str(explain(caught.value))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("MPS backend out of memory"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_a_lack_of_memory_is_known_by_its_error(error):
    assert out_of_memory(error)
    assert "does not fit in memory" in str(explain(error))


def test_numpys_lack_of_memory_is_known_by_its_error():
    with pytest.raises(MemoryError) as caught:
        np.zeros(2**52)
    assert out_of_memory(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("shapes"), ValueError("x"), OSError(5000, "odd")])
def test_other_errors_are_neither(error):
    assert not out_of_memory(error)
    assert write_failure(error) is None
    assert explain(error) is None
    assert explain(InputError("x")) is not None


def test_digests_tell_which_file_is_damaged(tmp_path):
    assert damaged_file(tmp_path) is None
    for name in ("a", "b"):
        write_text(tmp_path / name, name)
    write_digests(tmp_path)
    assert damaged_file(tmp_path) is None
    write_text(tmp_path / "b", "c")
    assert damaged_file(tmp_path) == "b"
    (tmp_path / "a").unlink()
    assert damaged_file(tmp_path) == "a"
    for content in ("", "no digests", "x  ../../etc/passwd\n"):
        write_text(tmp_path / "SHA256SUMS", content)
        assert damaged_file(tmp_path) == "SHA256SUMS"


def test_a_file_elsewhere_is_not_what_could_not_be_written(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "run/x"))
    assert write_failure(full, tmp_path / "run") == "No space left on device"
    assert write_failure(full, tmp_path / "other") is None
    assert write_failure(OSError(errno.ENOSPC, "No space"), tmp_path / "other") == "No space"
