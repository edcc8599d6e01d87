"""What a text holds that no writer meant: nothing, markup, or characters that were decoded wrongly.

Each check says so of one text; of a pair where it holds for either part.
"""

import re
from collections.abc import Callable

from lpft.data.examples import Text

# What spreadsheets, databases and programs write for a missing value, in any case.
_PLACEHOLDERS = frozenset(
    [
        *("n/a", "na", "n.a", "nan", "nat", "null", "none", "nil", "undefined", "tbd"),
        *("#n/a", "#ref", "#value", "#name", "#div/0", "#null", "#num", "#error", "#spill"),
        *(
            f"{left}{word}{right}"
            for left, right in ("<>", "()", "[]")
            for word in (
                "na",
                "n/a",
                "null",
                "none",
                "empty",
                "blank",
                "missing",
                "deleted",
                "removed",
            )
        ),
        *("not available", "not applicable", "no text", "no data"),
    ]
)
_NOTHING = re.compile(r"[\s\-\u2010-\u2015\u2026_.,;!?/\\|*#~'\"\u00b7\u2022\u200b\ufeff]*")

_TAGS = (
    "a abbr article b blockquote body br center cite code dd del div dl dt em font footer form h1 "
    "h2 h3 h4 h5 h6 head header hr html i iframe img input ins li link mark meta nav ol p pre q "
    "s script section small span strike strong style sub sup svg table tbody td tfoot th thead "
    "title tr tt u ul video xml"
).replace(" ", "|")
_MARKUP = re.compile(
    rf"</?(?:{_TAGS})(?:\s[^<>]*)?/?>|<!--|<!doctype|<\?xml"  # HTML
    r"|&(?:[a-z]{2,8}|\#[0-9]{2,6}|\#x[0-9a-f]{2,6});"  # its entities
    r"|!\[[^\[\]\n]*\]\([^()\s]+\)"  # images of Markdown
    r"|\[[^\[\]\n]+\]\((?:https?://|www\.|/|mailto:)[^()\s]+\)"  # its links
    r"|\[/(?:b|i|u|url|img|quote|code)\]",  # BBCode
    re.IGNORECASE,
)

# UTF-8 that was read as Windows-1252 or Latin-1. A character of two to four bytes then shows as
# that many: first one of \u00c2 to \u00f0, then bytes from 0x80 to 0xbf, which show as these:
_LATER = (
    "\u0080-\u00bf\u20ac\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u017d"
    "\u2018\u2019\u201c\u201d\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\u017e\u0178"
)
# Where writers set such characters side by side (\u00e9, a hard space and \u00bb end a quotation in
# French), the bytes must be of a script's usual range, or there must be two characters in a row.
_DAMAGE = re.compile(
    "\ufffd"  # what could not be decoded at all
    "|[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]"  # control characters
    f"|\u00c2[{_LATER}]"
    "|\u00c3[\u0080-\u00bf\u20ac\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u017d"
    "\u2122\u0161\u203a\u0153\u017e\u0178\u02dc\u2014]"
    f"|\u00e2[\u20ac\u201a\u201e\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u201c\u0153][{_LATER}]"
    f"|\u00e3[\u201a\u0192][{_LATER}]"
    f"|(?:[\u00e4-\u00ed][{_LATER}]{{2}}){{2}}"
    f"|\u00ef(?:\u00bf\u00bd|\u00bb\u00bf|\u00bc[{_LATER}])"
    f"|\u00f0[{_LATER}]{{3}}"
    f"|(?:[\u00c4\u00c5\u00ce-\u00d1\u00d7-\u00d9][{_LATER}]){{2}}"
)


def is_empty_like(text: Text) -> bool:
    """Whether it stands for no text: ``N/A``, ``#REF!``, ``null``, or punctuation alone."""
    return _either(_stands_for_nothing, text)


def _stands_for_nothing(part: str) -> bool:
    bare = " ".join(part.split()).casefold().strip(".!?'\"")
    return bare in _PLACEHOLDERS or _NOTHING.fullmatch(part) is not None


def has_markup(text: Text) -> bool:
    """Whether it has tags or entities of HTML, links of Markdown, or BBCode."""
    return _either(lambda part: _MARKUP.search(part) is not None, text)


def is_damaged(text: Text) -> bool:
    """Whether it has replacement or control characters, or UTF-8 that was read as Windows-1252."""
    return _either(lambda part: _DAMAGE.search(part) is not None, text)


def _either(holds: Callable[[str], bool], text: Text) -> bool:
    return holds(text) if isinstance(text, str) else any(holds(part) for part in text)
