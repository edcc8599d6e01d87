"""SVG in fewer letters: what matplotlib writes for editors of drawings is taken out of a page's."""

import re
from collections.abc import Iterator
from xml.etree import ElementTree

SVG = "http://www.w3.org/2000/svg"
XLINK_HREF = "{http://www.w3.org/1999/xlink}href"

_GROUP, _PATH = f"{{{SVG}}}g", f"{{{SVG}}}path"
_HOLDERS = (_GROUP, f"{{{SVG}}}defs")
_TEXTS = tuple(f"{{{SVG}}}{tag}" for tag in ("text", "tspan", "title", "desc"))
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_NUMBER = re.compile(r"-?\d+\.\d+")
_AROUND_LETTERS = re.compile(r"\s*([A-Za-z])\s*")
_SMALL = 10.0  # points
_NO_TURN = re.compile(r"rotate\(-?0 [^)]*\)")
# The page's style sheet says these for every drawing.
_OF_THE_PAGE = ("font-family", "stroke-linejoin", "stroke-linecap")
_DEFAULTS = {("stroke-dashoffset", "0")}
_INHERITED = ("fill", "stroke", "stroke-width", "stroke-opacity", "fill-opacity")


def compact(root: ElementTree.Element, name: str) -> None:
    """Shorten a drawing in place, its looks kept to a twentieth of a point.

    Ids that nothing in it refers to go; the others become ``<name>-1``, ``<name>-2``, ...
    """
    for element in root.iter():
        _shorten(element)
    _prune(root)
    used = {target: f"{name}-{place}" for place, target in enumerate(_targets(root), start=1)}
    for element in root.iter():
        _rename(element, used)


def _shorten(element: ElementTree.Element) -> None:
    """The element's own attributes and white space."""
    element.tail = None if element.tail is None or not element.tail.strip() else element.tail
    if element.tag not in _TEXTS:
        element.text = None
    if "d" in element.attrib:
        element.set("d", _AROUND_LETTERS.sub(r"\1", _rounded(element.attrib["d"])).strip())
    if _NO_TURN.fullmatch(element.get("transform", "")):
        del element.attrib["transform"]
    if element.tag == f"{{{SVG}}}use" or element.tag in _TEXTS:
        for key in {"x", "y", "transform"} & element.attrib.keys():
            element.set(key, _rounded(element.attrib[key]))
    if "style" in element.attrib:
        _set_style(element, _style(element))


def _rounded(numbers: str) -> str:
    """Markers, which lie about 0, keep two decimals, places in the drawing one."""

    def short(found: re.Match[str]) -> str:
        value = float(found.group())
        return f"{round(value, 1 if abs(value) >= _SMALL else 2):g}"

    return _NUMBER.sub(short, numbers)


def _style(element: ElementTree.Element) -> dict[str, str]:
    parts = (part.partition(":") for part in element.get("style", "").split(";"))
    found = {name.strip(): value.strip() for name, _, value in parts if value}
    return {
        name: value
        for name, value in found.items()
        if name not in _OF_THE_PAGE and (name, value) not in _DEFAULTS
    }


def _set_style(element: ElementTree.Element, style: dict[str, str]) -> None:
    if style:
        element.set("style", ";".join(f"{name}:{value}" for name, value in style.items()))
    else:
        element.attrib.pop("style", None)


def _prune(element: ElementTree.Element) -> None:
    """Leave out what paints nothing, and give a group the style that all of its parts have."""
    kept: list[ElementTree.Element] = []
    for child in element:
        _prune(child)
        if child.tag == _GROUP and not child.attrib.keys() - {"id"}:
            kept.extend(child)
        elif not _paints_nothing(child):
            kept.append(child)
    element[:] = kept
    styles = {child.get("style", "") for child in element}
    if element.tag == _GROUP and len(element) > 1 and len(styles) == 1:
        _hoist(element)


def _paints_nothing(element: ElementTree.Element) -> bool:
    if element.tag in _HOLDERS:
        return len(element) == 0
    style = _style(element)
    return element.tag == _PATH and style.get("fill") == "none" and "stroke" not in style


def _hoist(group: ElementTree.Element) -> None:
    style = _style(group[0])
    if style and style.keys() <= set(_INHERITED) and "style" not in group.attrib:
        _set_style(group, style)
        for child in group:
            del child.attrib["style"]


def _targets(root: ElementTree.Element) -> Iterator[str]:
    """What elements refer to, each once."""
    found: dict[str, None] = {}
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == XLINK_HREF and value.startswith("#"):
                found[value.removeprefix("#")] = None
            found |= dict.fromkeys(_REFERENCE.findall(value))
    return iter(found)


def _rename(element: ElementTree.Element, names: dict[str, str]) -> None:
    for key, value in list(element.attrib.items()):
        if key == "id":
            if value in names:
                element.set(key, names[value])
            else:
                del element.attrib[key]
        elif key == XLINK_HREF:
            # An image's is its data.
            reference = f"#{names[value[1:]]}" if value.startswith("#") else value
            del element.attrib[key]
            element.set("href", reference)
        elif "url(#" in value:
            element.set(key, _REFERENCE.sub(lambda found: f"url(#{names[found[1]]})", value))
