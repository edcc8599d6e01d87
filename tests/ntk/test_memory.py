"""Sizes of memory as people write them, what is free, and what is given back."""

import ctypes
import platform
import subprocess
import sys

import pytest
import torch

from lpft.errors import InputError
from lpft.ntk.control_groups import free_below_limits
from lpft.ntk.devices import same_device
from lpft.ntk.memory import default_budget, give_back_free_memory, parse_size, readable_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (1, 1),
        (6_000_000_000, 6 * 10**9),
        ("512", 512),
        ("1K", 1000),
        ("6GB", 6 * 10**9),
        ("6 gb", 6 * 10**9),
        (" 500 MB ", 500 * 10**6),
        ("1.5T", 15 * 10**11),
        ("1KiB", 1024),
        ("2.5GiB", 5 * 2**29),
        ("3MiB", 3 * 2**20),
        ("1TiB", 2**40),
    ],
)
def test_sizes_in_decimal_and_binary_units(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "0", "0GB", "0.4", "-1GB", "GB", "6 bananas", "1e9", "six", "٣GB", "1.GB", "6GBs"]
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(InputError, match=f"the memory '{text}' is no size"):
        parse_size(text)


def test_a_size_that_no_machine_has_is_refused():
    with pytest.raises(InputError, match="more than any machine has: expected one such as 6GB"):
        parse_size("9" * 400)


VERSION_1 = ("memory/", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
VERSION_2 = ("", "memory.max", "memory.current", "inactive_file")


@pytest.mark.parametrize(
    ("line", "files", "limits", "free"),
    [
        ("0::/jobs/7", VERSION_2, {"jobs/7": 900}, 450),
        ("0::/jobs/7", VERSION_2, {"jobs/7": 900, "jobs": 700}, 250),
        ("0::/elsewhere/outside", VERSION_2, {"": 800}, 350),
        ("4:cpu,memory:/jobs/7", VERSION_1, {"jobs/7": 900}, 450),
        ("0::/jobs/7", VERSION_2, {"jobs/7": "max"}, None),
        ("0::/jobs/7", VERSION_2, {"jobs/7": 300}, 0),
        ("3:cpu:/jobs/7", VERSION_2, {"jobs/7": 900}, None),
        ("", VERSION_2, {}, None),
    ],
)
def test_limits_of_control_groups(tmp_path, line, files, limits, free):
    """Of what is used, 500, files' caches of 50 may go."""
    top, limit, used, cached = files
    for group, size in limits.items():
        folder = tmp_path / top / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / limit).write_text(f"{size}\n")
        (folder / used).write_text("500\n")
        (folder / "memory.stat").write_text(f"anon 450\n{cached} 50\n")
    own = tmp_path / "own"
    own.write_text(f"{line}\n" if line else "")
    assert free_below_limits(own, tmp_path) == free


def test_the_default_budget_keeps_to_limits_of_control_groups(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr("lpft.ntk.memory.memory_in_use", lambda _: 1000)
    monkeypatch.setattr("lpft.ntk.memory.free_below_limits", lambda: 600)
    assert default_budget(cpu) == 1300
    monkeypatch.setattr("lpft.ntk.memory.free_below_limits", lambda: None)
    assert default_budget(cpu) > 10**6


def test_sizes_are_shown_in_decimal_units():
    shown = [readable_size(size) for size in (3_000_000_000, 99_000_000, 100_000_000)]
    assert shown == ["3.0 GB", "99 MB", "0.1 GB"]


def test_a_device_without_a_number_is_the_current_one(monkeypatch):
    """Otherwise a model that is there already would be copied."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    first, second, any_cuda = (torch.device(name) for name in ("cuda:0", "cuda:1", "cuda"))
    assert same_device(second, any_cuda)
    assert not same_device(first, any_cuda)
    assert same_device(first, first)
    assert not same_device(first, second)
    assert same_device(torch.device("cpu"), torch.device("cpu"))
    assert not same_device(torch.device("cpu"), any_cuda)


HOLES = """
import numpy as np
import torch
from lpft.ntk.memory import give_back_free_memory, memory_in_use

np.ones(2_000_000)  # glibc takes what is as large as a piece that was freed from its heap
pieces = [np.ones(2_000_000) for _ in range(20)]
del pieces[::2]
freed = memory_in_use(torch.device("cpu"))
give_back_free_memory()
print(freed - memory_in_use(torch.device("cpu")))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_pieces_between_others_are_given_back():
    run = [sys.executable, "-c", HOLES]
    found = subprocess.run(run, capture_output=True, text=True, check=True, timeout=100)
    assert int(found.stdout) > 0.9 * 10 * 16_000_000


@pytest.mark.parametrize("error", [OSError, TypeError, AttributeError])
def test_a_c_library_that_cannot_give_back_is_left_alone(monkeypatch, error):
    def library(_name):
        raise error("no such function")

    monkeypatch.setattr(ctypes, "CDLL", library)
    give_back_free_memory()
