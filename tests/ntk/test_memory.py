"""Sizes of memory as people write them."""

import pytest

from lpft.errors import InputError
from lpft.ntk.memory import parse_size, readable_size


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


def test_sizes_are_shown_in_decimal_units():
    shown = [readable_size(size) for size in (3_000_000_000, 99_000_000, 100_000_000)]
    assert shown == ["3.0 GB", "99 MB", "0.1 GB"]
