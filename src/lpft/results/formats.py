"""How numbers and names are written: digits, signs, counts, names of files, columns of text."""

import math
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lpft.results.groups import Spread

ABSENT = "–"
MINUS = "−"
_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)


def fixed(value: float | None, digits: int = 3) -> str:
    """A number with a fixed count of decimals, with a true minus sign."""
    if value is None:
        return ABSENT
    text = f"{value:.{digits}f}"
    if float(text) == 0.0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def significant(value: float | None, digits: int = 3) -> str:
    """A number with significant digits; powers of ten below 1e-3 and from 1e5 up."""
    if value is None:
        return ABSENT
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size < -3 or size >= 5:
        return scientific(value, digits - 1)
    return fixed(value, max(0, digits - 1 - size))


def ratio_text(value: float | None) -> str:
    """An FT ratio with the paper's four decimals, or two digits where these would be lost."""
    small = value is not None and 0 < value < 1e-3
    return significant(value, 2) if small else fixed(value, 4)


def scientific(value: float | None, digits: int = 2) -> str:
    """A number with ``digits`` + 1 significant ones; powers of ten where they are needed."""
    if value is None:
        return ABSENT
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        return significant(value, digits + 1)
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    return f"{mantissa}e{int(exponent)}".replace("-", MINUS)


def rate(value: float | None) -> str:
    """A learning rate as people type it: 5e-6, 2.5e-5, 0.1 as 1e-1."""
    if value is None:
        return ABSENT
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    mantissa = value / 10.0**exponent
    return f"{mantissa:.6g}e{exponent}"


def whole(value: float | None) -> str:
    """A count, with thousands set apart by blanks."""
    return ABSENT if value is None else f"{value:,.0f}".replace(",", " ")


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as people say it: 91.5 %, 92 % without decimals; never 100 or 0 by rounding."""
    if value is None:
        return ABSENT
    rounded = round(100 * value, digits)
    if (rounded == 100 and value < 1) or (rounded == 0 and value > 0):
        least = 10.0**-digits
        return f"over {fixed(100 - least, digits)} %" if value > 0.5 else f"under {least:g} %"
    return f"{fixed(rounded, digits)} %"


def of_100(value: float | None) -> str:
    """A fraction as a count of 100: ``92 of 100``."""
    return ABSENT if value is None else f"{percent(value, 0).removesuffix(' %')} of 100"


def points(value: float | None) -> str:
    """The size of a difference in per cent: 26, 3.5, 0.4."""
    return ABSENT if value is None else fixed(abs(value), 0 if abs(value) >= 9.95 else 1)


def signed(value: float | None) -> str:
    """A difference in per cent with its sign: −3, 0.4."""
    if value is None:
        return ABSENT
    return f"{MINUS if float(points(value)) and value < 0 else ''}{points(value)}"


def seconds(value: float | None) -> str:
    """A duration in seconds, or minutes and seconds from two minutes up."""
    if value is None:
        return ABSENT
    whole_seconds = round(value)
    if whole_seconds < 120:
        return f"{value:.1f} s" if value < 10 else f"{whole_seconds} s"
    return f"{whole_seconds // 60} min {whole_seconds % 60} s"


def duration(seconds: float) -> str:
    """``41 s``, ``12 min`` or ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def day(moment: str) -> str:
    """The day of a record's time: ``2026-11-29T15:53:25+00:00`` as 29 November 2026."""
    try:
        date = datetime.fromisoformat(moment)
    except ValueError:
        return ""
    return f"{date.day} {_MONTHS[date.month - 1]} {date.year}"


def decimals_for(values: Iterable[float | None]) -> int:
    """Decimals that suit a column of norms or distances: fewer for larger numbers."""
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    for bound, digits in ((100.0, 1), (10.0, 2), (0.1, 3)):
        if largest >= bound:
            return digits
    return 4


def change_digits(values: Sequence[float]) -> int:
    """Decimals for feature changes in a sentence."""
    return min(2, decimals_for(values)) if max(values, default=0) >= 0.1 else 4


def shared_digits(values: Iterable[float | None]) -> int | None:
    """Decimals that give the largest of some numbers three significant digits.

    None where :func:`significant` would write it with a power of ten.
    """
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    rounded = float(f"{largest:.2e}")  # 0.9999 is shown as 1.00
    size = math.floor(math.log10(rounded)) if rounded else 0
    return max(0, 2 - size) if -3 <= size < 5 else None


def with_sd(spread: "Spread | None", digits: int = 3) -> str:
    """``mean ± sd``; the mean alone of one seed, or where the sd is 0 with these decimals."""
    if spread is None:
        return ABSENT
    if spread.sd is None or not float(f"{spread.sd:.{digits}f}"):
        return fixed(spread.mean, digits)
    return f"{fixed(spread.mean, digits)} ± {fixed(spread.sd, digits)}"


def joined(words: Iterable[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    listed = list(words)
    if len(listed) < 2:
        return "".join(listed)
    return f"{', '.join(listed[:-1])} and {listed[-1]}"


def counted(count: int, noun: str) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def slug(text: str, used: set[str]) -> str:
    """A name safe in files and anchors (a-z, 0-9, hyphen), new among ``used``, added to it."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = "".join(c if c.isalnum() else " " for c in ascii_text).split()
    base = "-".join(words)[:60].strip("-")
    if not base:
        base = "x"
    name, number_of = base, 2
    while name in used:
        name, number_of = f"{base}-{number_of}", number_of + 1
    used.add(name)
    return name


def aligned(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Sequence[bool],
    bands: Sequence[tuple[str, int]] = (),
    *,
    ruled: bool = False,
) -> list[str]:
    """Lines of a table for a terminal, columns two blanks apart.

    ``right`` says which columns stand on the right, ``bands`` are headings over several columns
    each, and ``ruled`` draws a line below the header.
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    above, place = [], 0
    for name, count in bands:
        # The last column of a band makes room for a heading that is longer than its columns.
        width = sum(widths[place : place + count]) + 2 * (count - 1)
        widths[place + count - 1] += max(0, len(name) - width)
        if name and count > 1 and width >= len(name) + 4:
            name = f" {name} ".center(width, "-")  # so that its columns can be seen
        above.append(f"{name:>{width}}")
        place += count
    lines = [
        "  ".join(
            f"{text:{'>' if on_the_right else '<'}{width}}"
            for text, on_the_right, width in zip(row, right, widths, strict=True)
        ).rstrip()
        for row in (header, *rows)
    ]
    if ruled:
        lines.insert(1, "-" * max(map(len, lines)))
    return ["  ".join(above).rstrip(), *lines] if bands else lines
