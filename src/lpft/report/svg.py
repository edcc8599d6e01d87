"""Figures as inline SVG: colours from the page's style sheet, ids that never clash, a title."""

import base64
import io
import re
from hashlib import blake2s
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from lpft.report.compact import SVG, XLINK_HREF, compact
from lpft.report.drawing import saved
from lpft.report.numbers import plain
from lpft.report.palette import TOKENS

_PNG = "data:image/png;base64,"
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}\b")
_TOKENS = {colour.lower(): token for colour, token in TOKENS.items()}

ElementTree.register_namespace("", SVG)


def inline_svg(figure: Figure, name: str, title: str = "", description: str = "") -> Markup:
    """One ``<svg>`` element; ``name`` is unique in the page.

    A colour of the palette becomes ``var(--fig-<token>)``, so that the page's light and dark modes
    choose it. Without a title the drawing is decoration, hidden from screen readers.
    """
    root = ElementTree.fromstring(saved(figure, "svg"))
    _drop(root, "metadata", "style")
    for element in root.iter():
        reference = element.get(XLINK_HREF, "")
        if reference.startswith(_PNG):
            element.set(XLINK_HREF, _PNG + _with_palette(reference.removeprefix(_PNG)))
        style = element.get("style")
        if style is not None:
            element.set("style", _COLOUR.sub(_from_sheet, style))
    # The name itself is long, and stands in every reference.
    compact(root, f"d{blake2s(name.encode(), digest_size=5).hexdigest()}")
    _size(root)
    if title:
        root.set("role", "img")
        root.set("aria-labelledby", f"{name}-title {name}-desc")
        for position, (tag, text) in enumerate((("title", title), ("desc", description))):
            element = ElementTree.Element(f"{{{SVG}}}{tag}", {"id": f"{name}-{tag}"})
            element.text = plain(text)
            root.insert(position, element)
    else:
        root.set("aria-hidden", "true")
    # The serialiser escapes all text, so names from data cannot end the element.
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _drop(root: ElementTree.Element, *tags: str) -> None:
    """Remove elements; matplotlib's style sheet would apply to all of the page."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in {f"{{{SVG}}}{tag}" for tag in tags}:
                parent.remove(child)


def _with_palette(encoded: str) -> str:
    """The same pixels with a palette, a third of the size, where they have at most 256 colours."""
    image = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
    pixels = np.asarray(image)
    colours, places = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    if len(colours) > 256:
        return encoded
    small = Image.fromarray(places.reshape(pixels.shape[:2]).astype(np.uint8))
    small.putpalette(colours.astype(np.uint8).tobytes())
    out = io.BytesIO()
    small.save(out, "png", optimize=True)
    return base64.b64encode(out.getvalue()).decode("ascii")


def _from_sheet(match: re.Match[str]) -> str:
    colour = match.group().lower()
    token = _TOKENS.get(colour)
    return colour if token is None else f"var(--fig-{token})"


def _size(root: ElementTree.Element) -> None:
    """Let the page choose the size; the aspect comes from the view box."""
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
