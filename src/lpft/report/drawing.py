"""How figures look and are saved: colours and markers of methods, axes, SVG for the page.

The colours are Okabe and Ito's, which colour-blind readers can tell apart; orange and sky are
darker here, for a contrast of 3 to 1 with white. Methods with a random head are warm, methods with
an LP head cool, so that a pair (FT, LP-FT) reads as one; marker and line style say the same without
colour.
"""

import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from lpft.results.exhibits import Figure, Series
from lpft.results.formats import MINUS
from lpft.results.schema import plain
from lpft.settings import Venue

INK, MUTED, GRID, PAPER = "#1c1d22", "#6a6d78", "#dcdde2", "#ffffff"
TEXT, SMALL = 9.0, 8.0  # points
_SVG = "http://www.w3.org/2000/svg"

SANS, SERIF = ("DejaVu Sans",), ("STIXGeneral", "DejaVu Sans")
"""Fonts that come with matplotlib; STIX is drawn after Times, in which these venues are set."""

VENUES: Mapping[Venue, float] = {
    "neurips": 5.5,
    "icml": 6.75,
    "icml-column": 3.25,
    "acl": 6.3,
    "acl-column": 3.03,
}
"""Widths of the text or of a column in inches, from the venues' LaTeX styles."""

# Text stays text in SVG and PDF; curves and images stay as light as they can be read.
_RC = {
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "axes.unicode_minus": True,
    "mathtext.default": "regular",
    "path.simplify_threshold": 0.5,
    "figure.autolayout": False,
    "figure.constrained_layout.use": False,
}


@dataclass(frozen=True)
class Style:
    """How a series is drawn; ``dashes`` are in points: none for a full line, None for no line."""

    colour: str
    marker: str
    dashes: tuple[float, ...] | None
    filled: bool = True


_METHODS = {
    "lp": Style("#009E73", "^", (1.0, 1.6)),
    "ft": Style("#D55E00", "o", ()),
    "lp-ft": Style("#0072B2", "s", ()),
    "lora": Style("#C58200", "D", (4.5, 1.8)),
    "lp-lora": Style("#3B9BD4", "v", (4.5, 1.8)),
}
_OTHERS = (
    Style("#CC79A7", "P", (6.0, 1.6, 1.0, 1.6)),
    Style("#7A6E00", "X", (2.5, 1.2)),
    Style("#555555", "p", (6.0, 1.6, 1.0, 1.6, 1.0, 1.6)),
)
_MORE_DASHES = ((), (2.2, 1.4), (5.0, 1.4, 1.2, 1.4), (8.0, 2.0), (1.0, 1.2))
# The page's style sheet names the same colours, and has others for its dark mode.
_TOKENS = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    PAPER: "paper",
    "#009e73": "green",
    "#d55e00": "vermilion",
    "#0072b2": "blue",
    "#c58200": "orange",
    "#3b9bd4": "sky",
    "#cc79a7": "purple",
    "#7a6e00": "olive",
    "#555555": "grey",
}


def series_styles(figure: Figure) -> dict[str, Style]:
    """The style of every label of a figure, in the order in which they appear.

    Methods keep their colours; further labels of a method, and dashed ones, are hollow and dashed.
    Beside methods, other series have no method's colour.
    """
    firsts: dict[str, Series] = {}
    for panel in figure.panels:
        for series in panel.series:
            firsts.setdefault(series.label, series)
    by_method: dict[str, list[Series]] = {}
    for series in firsts.values():
        if series.method is not None:
            by_method.setdefault(series.method, []).append(series)
    unknown = [method for method in by_method if method not in _METHODS]
    styles: dict[str, Style] = {}
    for method, own in by_method.items():
        look = _METHODS.get(method)
        if look is None:
            place = unknown.index(method)
            look = _varied(_OTHERS[place % len(_OTHERS)], place // len(_OTHERS))
        own.sort(key=lambda series: series.dashed)
        for position, series in enumerate(own, start=1 if own[0].dashed else 0):
            styles[series.label] = _varied(look, position)
    apart = [_METHODS[method] for method in ("lp-ft", "ft", "lp", "lora", "lp-lora")]
    looks = _OTHERS if by_method else (*apart, *_OTHERS)
    others = [label for label, series in firsts.items() if series.method is None]
    for place, label in enumerate(others):
        styles[label] = _varied(looks[place % len(looks)], place // len(looks))
    return {label: styles[label] for label in firsts}


def _varied(style: Style, position: int) -> Style:
    """The style of a method's first series; further ones are hollow, with other dashes."""
    if not position:
        return style
    dashes = _MORE_DASHES[position % len(_MORE_DASHES)]
    return Style(style.colour, style.marker, dashes, filled=False)


def line_of(style: Style, **more: Any) -> dict[str, Any]:
    """Keywords that draw a line with markers in a style."""
    dashes: Any = "None" if style.dashes is None else "solid"
    return {
        "color": style.colour,
        "marker": style.marker,
        "markersize": 4.2,
        "markerfacecolor": style.colour if style.filled else PAPER,
        "markeredgecolor": style.colour,
        "markeredgewidth": 1.0,
        "linewidth": 1.4,
        "linestyle": (0, style.dashes) if style.dashes else dashes,
        **more,
    }


def new_canvas(width: float, height: float, top: float = 0.0) -> Canvas:
    """An empty canvas of a size in inches, on Agg, known to nothing but its caller.

    Labels find their room by themselves; the part ``top`` of the height is left to a legend.
    """
    canvas = Canvas(figsize=(width, height))
    FigureCanvasAgg(canvas)
    canvas.set_layout_engine(
        "constrained", rect=(0, 0, 1, 1 - top), w_pad=0.06, h_pad=0.06, wspace=0.04, hspace=0.04
    )
    return canvas


def settle(canvas: Canvas, fonts: Sequence[str] = SANS) -> None:
    """Find room for the labels once, so that every format of a drawing has the same layout."""
    engine = canvas.get_layout_engine()
    if engine is not None:
        with settings("lpft", fonts):
            engine.execute(canvas)
            # None, not "none": that leaves a placeholder for which every file is drawn twice.
            canvas.set_layout_engine(None)


def dress(axes: Axes, title: str, x: str, y: str) -> None:
    """Quiet axes: two spines, a faint grid, small muted numbers; labels as plain text."""
    axes.set_facecolor("none")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(MUTED)
        axes.spines[side].set_linewidth(0.6)
    axes.grid(True, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=SMALL, colors=MUTED, labelcolor=MUTED, length=2.5, width=0.6)
    label_axes(axes, title, x, y)


def label_axes(axes: Axes, title: str, x: str, y: str) -> None:
    """The title and labels of axes, never read as mathematics."""
    if title:
        axes.set_title(title, fontsize=TEXT, color=INK, loc="left", weight="bold", parse_math=False)
    axes.set_xlabel(x, fontsize=SMALL, color=MUTED, parse_math=False)
    axes.set_ylabel(y, fontsize=SMALL, color=MUTED, parse_math=False)


def scale(axes: Axes, along: str, kind: str) -> None:
    """A linear or logarithmic axis, its ticks as plain numbers without a factor above it."""
    axis = axes.xaxis if along == "x" else axes.yaxis
    if kind == "log":
        (axes.set_xscale if along == "x" else axes.set_yscale)("log")
        low, high = axes.get_xlim() if along == "x" else axes.get_ylim()
        subs = (1.0,) if high >= 100 * low else (1.0, 2.0, 5.0)
        axis.set_major_locator(LogLocator(subs=subs, numticks=8))
        axis.set_minor_formatter(NullFormatter())
        axis.set_tick_params(which="minor", color=GRID, width=0.5, length=1.5)
    axis.set_major_formatter(FuncFormatter(tick_text))


def tick_text(value: float, _position: int | None = None) -> str:
    """A number beside an axis: 0.001, 250, 5e6."""
    mantissa, _, exponent = f"{value:.6g}".partition("e")
    text = f"{mantissa}e{int(exponent)}" if exponent else mantissa
    return text.replace("-", MINUS)


def shortened(name: str, letters: int = 28) -> str:
    """A name that fits into a figure; the tables have it whole."""
    text = plain(name)
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def legend(canvas: Canvas, styles: Mapping[str, Style], top: float) -> None:
    """A legend along the top edge; ``top`` is the part of the height that it has."""
    names = [shortened(name, 40) for name in styles]
    box = canvas.legend(
        [Line2D([], [], **line_of(style)) for style in styles.values()],
        names,
        loc="upper left",
        bbox_to_anchor=(0.0, 1.0 - top, 1.0, top),
        ncols=_legend_columns(names, canvas.get_figwidth()),
        fontsize=SMALL,
        frameon=False,
        labelcolor=INK,
        handlelength=2.6,
    )
    for text in box.get_texts():
        text.set_parse_math(False)


def legend_height(styles: Mapping[str, Style], width: float) -> float:
    """Inches that :func:`legend` needs at this width."""
    if not styles:
        return 0.0
    names = [shortened(name, 40) for name in styles]
    return 0.1 + 0.2 * math.ceil(len(names) / _legend_columns(names, width))


def _legend_columns(names: Sequence[str], width: float) -> int:
    """Columns of equal width that fit in ``width`` inches, at about 0.07 inches a letter."""
    column = 0.6 + 0.07 * max(map(len, names))
    return max(1, min(len(names), int(width / column)))


def swatch(style: Style) -> Canvas:
    """A style's line and marker alone, for the legends of the page."""
    canvas = new_canvas(0.42, 0.16)
    canvas.set_layout_engine("none")
    axes = canvas.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.plot([0.08, 0.92], [0, 0], **line_of(style, marker="None"))
    axes.plot([0.5], [0], **line_of(style))
    axes.set_xlim(0, 1)
    return canvas


def saved(canvas: Canvas, kind: str, salt: str = "lpft", fonts: Sequence[str] = SANS) -> bytes:
    """The canvas as ``png`` (200 dpi, white), ``pdf`` (white) or ``svg`` (transparent).

    The same drawing gives the same bytes: ids come from ``salt``, and there are no dates.
    """
    out = io.BytesIO()
    unsaid = {
        "png": ("Software",),
        "pdf": ("CreationDate", "Producer", "Creator"),
        "svg": ("Date", "Creator", "Format", "Type"),
    }[kind]
    with settings(salt, fonts):
        canvas.savefig(
            out,
            format=kind,
            dpi=200,
            facecolor="none" if kind == "svg" else PAPER,
            metadata=dict.fromkeys(unsaid),
        )
    return out.getvalue()


@contextmanager
def settings(salt: str = "lpft", fonts: Sequence[str] = SANS) -> Iterator[None]:
    """matplotlib's settings for a drawing: its texts take their fonts when they are made."""
    own = {**_RC, "svg.hashsalt": salt, "font.family": list(fonts)}
    with mpl.rc_context(own), warnings.catch_warnings():
        # Class names may be in any script; the page shows them, whatever this font has.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def inline_svg(canvas: Canvas, name: str, title: str = "", description: str = "") -> Markup:
    """One ``<svg>`` element; ``name`` is unique in the page, and makes its ids unique.

    A colour of the palette becomes ``var(--fig-<token>)``, so that the page's light and dark modes
    choose it. Without a title the drawing is decoration, hidden from screen readers.
    """
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(saved(canvas, "svg", name))
    _strip(root)
    for key in ("width", "height", "version"):  # the page chooses the size
        root.attrib.pop(key, None)
    if title:
        root.set("role", "img")
        root.set("aria-labelledby", f"{name}-title {name}-desc")
        for position, (tag, text) in enumerate((("title", title), ("desc", description))):
            element = ElementTree.Element(f"{{{_SVG}}}{tag}", {"id": f"{name}-{tag}"})
            element.text = plain(text)
            root.insert(position, element)
    else:
        root.set("aria-hidden", "true")
    # The serialiser escapes all text, so names from data cannot end the element.
    return Markup(ElementTree.tostring(root, encoding="unicode"))


_XLINK_HREF = "{http://www.w3.org/1999/xlink}href"
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}\b")
_DECIMALS = re.compile(r"\d+\.\d{3,}")
_NAMED_BY_PLACE = re.compile(r"[A-Za-z][\w.]*_\d{1,4}")  # figure_1, line2d_12
_ROUNDED = ("d", "x", "y", "transform")


def _strip(element: ElementTree.Element) -> None:
    """Keep what a page needs of matplotlib's SVG: no global styles, no repeated ids."""
    for child in list(element):
        if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
            element.remove(child)
        else:
            _strip(child)
    if _XLINK_HREF in element.attrib:
        element.set("href", element.attrib.pop(_XLINK_HREF))
    if _NAMED_BY_PLACE.fullmatch(element.get("id", "")):
        del element.attrib["id"]
    if "style" in element.attrib:
        element.set("style", _COLOUR.sub(_from_sheet, element.attrib["style"]))
    for key in _ROUNDED:
        if key in element.attrib:
            on_one_line = " ".join(element.attrib[key].split())
            element.set(key, _DECIMALS.sub(lambda m: f"{float(m.group()):.2f}", on_one_line))
    element.tail = None if element.tail is None or not element.tail.strip() else element.tail


def _from_sheet(match: re.Match[str]) -> str:
    colour = match.group().lower()
    token = _TOKENS.get(colour)
    return colour if token is None else f"var(--fig-{token})"
