"""Docstrings as the site shows them: Griffe reads this file when mkdocstrings collects a module."""

import re
from typing import Any

import griffe


class Plain(griffe.Extension):
    """Turns the few marks of reStructuredText in our docstrings into Markdown's."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        docstring = obj.docstring
        if docstring is not None:
            docstring.value = markdown(docstring.value)

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """Declare attributes that ``fit`` sets: Griffe shows others with the type before them."""
        text = cls.docstring.value if cls.docstring is not None else ""
        _, _, attributes = text.partition("Attributes:\n")
        section = attributes.partition("\n\n")[0]
        for name in re.findall(r"^    (\w+): ", section, flags=re.MULTILINE):
            if name not in cls.all_members:
                cls.set_member(name, griffe.Attribute(name))


def markdown(text: str) -> str:
    """``code`` and :func:`name` as `code`, and the line that introduces a block with one colon."""
    text = re.sub(r":[a-z]+:`~?([^`]+)`", r"`\1`", text)
    text = re.sub(r"``([^`]+)``", r"`\1`", text)
    return re.sub(r"::$", ":", text, flags=re.MULTILINE)
