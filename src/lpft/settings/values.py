"""Values of settings that are more than a word or a number.

Paths of files and the layout of their text, templates of prompts, and PEFT configurations. Two runs
are the same if the contents of their PEFT configurations are, whatever the paths. Here these are
only read: PEFT, which takes seconds to import, checks their entries when a model is loaded.
"""

import codecs
import json
import re
from collections.abc import Mapping
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
    """The name, if Python has a text encoding of that name.

    Raises:
        InputError: it has none.
    """
    try:
        if "a\n".encode(name).decode(name) == "a\n":
            codecs.getincrementaldecoder(name)
            return name
    except (LookupError, ValueError):  # ValueError: a null character in it
        pass
    names = {alias.replace("_", "-") for alias in aliases} - {name.lower().replace("_", "-")}
    near = get_close_matches(name.lower().replace("_", "-"), names, n=1)
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
        placeholders = (TEXT, SECOND, MASK)
        if re.fullmatch(r"\{\w*\}", piece) and piece not in placeholders:
            raise InputError(
                f"{named('prompt')} '{source}' has an unknown {piece}: expected {TEXT} for the "
                f"text, {TEXT} and {SECOND} for a pair, and [MASK] for the blank"
            )
        if piece in placeholders and pieces.count(piece) > 1:
            raise InputError(f"{named('prompt')} '{source}' has {piece} more than once: expected 1")
    if TEXT not in pieces:
        raise InputError(
            f"{named('prompt')} '{source}' has no place for the text: expected {TEXT} in it, such "
            f"as '{TEXT} It was [MASK].'"
        )
    return Template(source, pieces)


PEFT_FILE = "adapter_config.json"
"""The name that PEFT gives its configurations."""

_PROVENANCE = (
    *("base_model_name_or_path", "revision", "auto_mapping", "peft_version"),
    *("inference_mode", "runtime_config"),
)
"""Entries that say where a configuration is from or how it is run, not what is trained."""

_TASK_TYPES = (None, "SEQ_CLS")
_FORM = (
    f"JSON of the form of PEFT's {PEFT_FILE}, such as "
    '{"peft_type": "LORA", "r": 4, "target_modules": ["query"]}'
)


def read_peft_config(value: Any) -> dict[str, Any] | None:
    """The content of a configuration, ready for JSON, without entries that change nothing.

    ``value`` is the path of a JSON file or of a folder with an ``adapter_config.json``, a mapping,
    or a ``peft.PeftConfig``.

    Raises:
        InputError: it cannot be read, names no ``peft_type``, or is for another task.
    """
    if value is None:
        return None
    source = f"{named('peft_config')}"
    if isinstance(value, str | PathLike):
        path = Path(value)
        path = path / PEFT_FILE if path.is_dir() else path
        source = f"the PEFT configuration '{path}'"
        content = _file_content(path, source)
    else:
        content = value.to_dict() if hasattr(value, "to_dict") else value
    if not isinstance(content, Mapping) or not isinstance(content.get("peft_type"), str):
        raise InputError(f"{source} names no peft_type: expected {_FORM}")
    try:
        plain = json.loads(json.dumps(dict(content), default=_as_list, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"{source} cannot be kept as JSON ({error}): expected {_FORM}") from error
    if plain.pop("task_type", None) not in _TASK_TYPES:
        raise InputError(
            f"{source} has task_type {content['task_type']}, which is not the classification of "
            "texts: expected SEQ_CLS, or none"
        )
    plain["peft_type"] = plain["peft_type"].upper()
    return {name: item for name, item in sorted(plain.items()) if name not in _PROVENANCE}


def _file_content(path: Path, source: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{source} does not exist: expected a file with {_FORM}, or a folder with one"
        ) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{source} cannot be read ({reason}): expected {_FORM}") from error


def _as_list(value: Any) -> Any:
    """PEFT's sets of names as lists."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} is not of JSON")
