"""Templates of prompts: where a text and the blank stand in a sentence for a language model."""

import re
from dataclasses import dataclass

from lpft.errors import InputError, named

TEXT, SECOND, MASK = "{text}", "{text_b}", "{mask}"
"""The placeholders of a text (the first of a pair), of the second of a pair, and of the blank."""

_ALIASES = {"{text_a}": TEXT, "[MASK]": MASK, "<mask>": MASK}
_PIECES = re.compile(r"(\{\w*\}|\[MASK\]|<mask>)")


@dataclass(frozen=True)
class Template:
    """A template in pieces, in their order: placeholders and the words between them."""

    source: str
    pieces: tuple[str, ...]

    @property
    def paired(self) -> bool:
        return SECOND in self.pieces

    @property
    def masked(self) -> bool:
        """Whether it has a blank; otherwise the word follows at its end."""
        return MASK in self.pieces


def read_template(source: str) -> Template:
    """The template that ``source`` describes, such as ``{text} It was [MASK].``

    ``{text}`` (or ``{text_a}``) is the text, ``{text_b}`` the second of a pair; ``[MASK]``,
    ``<mask>`` and ``{mask}`` all stand for the model's own mask token.

    Raises:
        InputError: a placeholder is unknown, missing or there twice.
    """
    pieces = tuple(_ALIASES.get(piece, piece) for piece in _PIECES.split(source) if piece)
    for piece in pieces:
        known = (TEXT, SECOND, MASK)
        if re.fullmatch(r"\{\w*\}", piece) and piece not in known:
            raise InputError(
                f"{named('prompt')} '{source}' has an unknown {piece}: expected {TEXT} for the "
                f"text, {TEXT} and {SECOND} for a pair, and [MASK] for the blank"
            )
        if piece in known and pieces.count(piece) > 1:
            raise InputError(f"{named('prompt')} '{source}' has {piece} more than once: expected 1")
    if TEXT not in pieces:
        raise InputError(
            f"{named('prompt')} '{source}' has no place for the text: expected {TEXT} in it, such "
            f"as '{TEXT} It was [MASK].'"
        )
    return Template(source, pieces)
