"""How a user's files are named and written, as far as their endings do not say."""

import codecs
from dataclasses import dataclass
from difflib import get_close_matches
from encodings.aliases import aliases
from os import PathLike
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from lpft.errors import InputError, named


def _absolute(value: Any) -> Path:
    if not isinstance(value, str | PathLike):
        raise ValueError("expected a path")
    return Path(value).expanduser().resolve()


def known_encoding(name: str) -> str:
    """The same name, where Python has a text encoding of it.

    Raises:
        InputError: it has none.
    """
    try:
        if "a\n".encode(name).decode(name) == "a\n":
            codecs.getincrementaldecoder(name)
            return name
    except (LookupError, ValueError):  # ValueError: a null character in it
        pass
    known = {alias.replace("_", "-") for alias in aliases}
    near = get_close_matches(name.lower().replace("_", "-"), known, n=1)
    hint = f"did you mean {near[0]}?" if near else "expected utf-8, utf-16, latin-1, cp1252 or such"
    raise InputError(f"{named('encoding')} {name!r} is unknown: {hint}")


def one_delimiter(text: str) -> str:
    """A delimiter that may be written as ``tab`` or ``\\t``.

    Raises:
        InputError: it is not one character, or one that a field or a line is made of.
    """
    delimiter = "\t" if text in ("tab", "\\t") else text
    if len(delimiter) != 1 or delimiter.isalnum() or delimiter in "\"'\r\n\0\\":
        raise InputError(
            f"{named('delimiter')} {text!r}: expected one character such as ';' or '|', or tab"
        )
    return delimiter


File = Annotated[Path, BeforeValidator(_absolute)]
Encoding = Annotated[str, AfterValidator(known_encoding)]
Delimiter = Annotated[str, AfterValidator(one_delimiter)]


@dataclass(frozen=True)
class Layout:
    """How CSV and TSV files, and of ``encoding`` all text files, are written.

    Raises:
        InputError: an unknown encoding, or no single delimiter.
    """

    column_names: tuple[str, ...] | None = None
    encoding: str | None = None
    delimiter: str | None = None

    def __post_init__(self) -> None:
        if self.encoding is not None:
            known_encoding(self.encoding)
        if self.delimiter is not None:
            object.__setattr__(self, "delimiter", one_delimiter(self.delimiter))


BY_ENDING = Layout()
"""UTF-8 with column names in the first line, and a comma or a tab by the file's ending."""
