"""Numbers as text: digits, signs, spreads over seeds, names that are safe in files."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpft.results.formats import (
    counted,
    decimals_for,
    fixed,
    joined,
    of_100,
    percent,
    points,
    rate,
    scientific,
    seconds,
    shared_digits,
    signed,
    significant,
    slug,
    whole,
    with_sd,
)
from lpft.results.groups import Spread
from lpft.results.schema import number, plain


def test_spread_is_the_sample_mean_and_deviation() -> None:
    assert Spread.of([1.0, 2.0, 4.0, None]) == Spread(7 / 3, pytest.approx(1.527525, abs=1e-6), 3)
    assert Spread.of([3.0]) == Spread(3.0, None, 1)
    assert Spread.of([None]) is None
    # rounding is no spread
    assert Spread.of([0.1 + 0.2, 0.3, 0.1 + 0.2]).sd == 0.0
    assert Spread.of([0.3, 0.3 + 1e-12]).sd > 0.0


@pytest.mark.parametrize(
    ("write", "texts"),
    [
        (fixed, {0.8375: "0.838", -0.5: "−0.500", -0.0001: "0.000", 0.0: "0.000"}),
        (significant, {24.81: "24.8", 0.951: "0.951", 7.39e8: "7.39e8", 81_400.0: "81400"}),
        (significant, {2.26e-4: "2.26e−4", 0.0: "0"}),
        (scientific, {0: "0", 51000: "51000", 210: "210", 22.6: "22.6", -3e-9: "−3.00e−9"}),
        (scientific, {7.25e6: "7.25e6", 1.0: "1.00", 0.5: "0.500"}),
        (percent, {0.915: "91.5 %", 1.0: "100.0 %", 0.9999: "over 99.9 %", 1e-5: "under 0.1 %"}),
        (of_100, {0.915: "92 of 100", 1.0: "100 of 100", 0.999: "over 99 of 100", 0.0: "0 of 100"}),
        (points, {-26.4: "26", 3.46: "3.5", 9.96: "10", 0.0: "0.0"}),
        (signed, {-26.4: "−26", 3.46: "3.5", -0.01: "0.0"}),
        (rate, {5e-6: "5e-6", 2.5e-5: "2.5e-5", 1e-3: "1e-3", 0.0: "0", 1.0: "1e0"}),
    ],
)
def test_numbers_as_text(write: Callable[[float | None], str], texts: dict[float, str]) -> None:
    assert {value: write(value) for value in texts} == texts
    assert write(None) == "–"


@pytest.mark.parametrize(
    "value", [None, True, "1", [], float("nan"), float("inf"), 10**400], ids=str
)
def test_what_is_no_number_stays_a_gap(value: object) -> None:
    assert number(value) is None


@given(st.integers(1, 99), st.integers(-8, 0))
def test_rate_says_the_rate(mantissa: int, exponent: int) -> None:
    value = float(f"{mantissa}e{exponent}")
    assert float(rate(value)) == pytest.approx(value, rel=1e-12)


def test_words() -> None:
    assert joined([]) == ""
    assert joined(["a"]) == "a"
    assert joined(["a", "b", "c"]) == "a, b and c"
    assert (counted(1, "seed"), counted(3, "seed")) == ("1 seed", "3 seeds")
    assert whole(12345) == "12 345"
    assert [seconds(s) for s in (1.25, 61.0, 150.0, None)] == ["1.2 s", "61 s", "2 min 30 s", "–"]
    assert with_sd(Spread(0.5, 0.1, 3), 2) == "0.50 ± 0.10"
    assert with_sd(Spread(0.5, 0.0, 3), 2) == with_sd(Spread(0.5, 0.001, 3), 2) == "0.50"
    assert with_sd(Spread(0.5, None, 1), 2) == "0.50"


def test_larger_numbers_have_fewer_decimals() -> None:
    assert [decimals_for([value, None]) for value in (132.0, 24.8, 3.9, 0.05)] == [1, 2, 3, 4]


@given(st.text())
def test_plain_text_can_be_written_and_parsed(text: str) -> None:
    from xml.etree import ElementTree

    element = ElementTree.Element("t")
    element.text = plain(text)
    parsed = ElementTree.fromstring(ElementTree.tostring(element, encoding="utf-8"))
    assert (parsed.text if parsed.text is not None else "") == plain(text)


@given(st.lists(st.text(max_size=80), max_size=12))
def test_slugs_are_safe_and_differ(texts: list[str]) -> None:
    taken: set[str] = set()
    slugs = [slug(text, taken) for text in texts]
    assert len(set(slugs)) == len(texts)
    assert all(set(s) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") and s for s in slugs)


@pytest.mark.parametrize(
    ("values", "digits"),
    [
        ((0.637, 0.2), 3),
        ((6.5, 7.2), 2),
        ((99.9, None), 1),
        ((120.0,), 0),
        ((0.0041, -0.0002), 5),
        ((3e5,), None),
        ((1e-5,), None),
        ((0.9999,), 2),
        ((99999.0,), None),
        ((0.0, None), 2),
        ((), 2),
    ],
)
def test_numbers_of_one_cell_share_their_decimals(
    values: tuple[float | None, ...], digits: int | None
) -> None:
    assert shared_digits(values) == digits
