"""Colours, markers and line styles of methods, the same in every figure and legend.

The colours are Okabe and Ito's, told apart by colour-blind readers; orange and sky are darker here,
for a contrast of 3 to 1 with white. Methods with a random head
are warm, methods with an LP head cool, so that a pair (FT, LP-FT) reads as one; marker and line
style say the same without colour.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lpft.results.groups import Setting

INK = "#1c1d22"
MUTED = "#6a6d78"
GRID = "#dcdde2"
PAPER = "#ffffff"


@dataclass(frozen=True)
class Style:
    """How one setting is drawn; ``token`` names its colour in the page's style sheet.

    ``dashes`` are in points: none for a full line, None for points without a line.
    """

    colour: str
    token: str
    marker: str
    dashes: tuple[float, ...] | None
    filled: bool


# Colour, its token, marker, dashes in points (none: a full line).
_METHODS: dict[str, tuple[str, str, str, tuple[float, ...]]] = {
    "lp": ("#009E73", "green", "^", (1.0, 1.6)),
    "ft": ("#D55E00", "vermilion", "o", ()),
    "lp-ft": ("#0072B2", "blue", "s", ()),
    "lora": ("#C58200", "orange", "D", (4.5, 1.8)),
    "lp-lora": ("#3B9BD4", "sky", "v", (4.5, 1.8)),
}
_OTHERS = (
    ("#CC79A7", "purple", "P", (6.0, 1.6, 1.0, 1.6)),
    ("#7A6E00", "olive", "X", (2.5, 1.2)),
    ("#555555", "grey", "p", (6.0, 1.6, 1.0, 1.6, 1.0, 1.6)),
)
_MORE_DASHES = ((), (2.2, 1.4), (5.0, 1.4, 1.2, 1.4), (8.0, 2.0), (1.0, 1.2))

# Colours of matplotlib's output and the style sheet's names for them.
TOKENS = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    PAPER: "paper",
    **{colour: token for colour, token, *_ in (*_METHODS.values(), *_OTHERS)},
}


def style_of(setting: Setting, others: tuple[str, ...] = ()) -> Style:
    """The style of a setting; ``others`` lists the group's methods that the paper does not have.

    Further settings of a method keep its colour and marker, hollow and with other dashes.
    """
    return varied_style(setting.method, setting.position, others)


def varied_style(method: str, position: int, others: tuple[str, ...] = ()) -> Style:
    """The style of a method's series at ``position``: 0 its own, then hollow and dashed ones."""
    if method in _METHODS:
        colour, token, marker, dashes = _METHODS[method]
    else:
        place = others.index(method) if method in others else 0
        colour, token, marker, dashes = _OTHERS[place % len(_OTHERS)]
    return _styled((colour, token, marker, dashes), position)


def _styled(look: tuple[str, str, str, tuple[float, ...]], position: int) -> Style:
    colour, token, marker, dashes = look
    if position:
        dashes = _MORE_DASHES[position % len(_MORE_DASHES)]
    return Style(colour, token, marker, dashes, filled=position == 0)


def styles(settings: tuple[Setting, ...]) -> dict[str, Style]:
    """The style of each setting of a group, by its label."""
    methods = dict.fromkeys(setting.method for setting in settings)
    others = tuple(method for method in methods if method not in _METHODS)
    return {setting.label: style_of(setting, others) for setting in settings}


def method_styles(methods: Sequence[str]) -> dict[str, Style]:
    """The style of each of some methods, by the method."""
    others = tuple(method for method in methods if method not in _METHODS)
    return {method: varied_style(method, 0, others) for method in methods}


def plain_styles(labels: Sequence[str], *, beside_methods: bool) -> dict[str, Style]:
    """The styles of what is no method, such as classes, with no method's colour beside methods.

    From the second round through the colours on they are hollow.
    """
    apart = [_METHODS[method] for method in ("lp-ft", "ft", "lp", "lora", "lp-lora")]
    looks = _OTHERS if beside_methods else (*apart, *_OTHERS)
    return {
        label: _styled(looks[place % len(looks)], place // len(looks))
        for place, label in enumerate(labels)
    }


REFERENCE = Style(INK, TOKENS[INK], "*", (1.0, 1.2), filled=True)
"""What methods are compared with, such as the kernel P that they share."""
