"""A PEFT configuration as a setting: from a file, a folder, a mapping, or PEFT's own object.

Its content decides whether two runs are the same, not the path of its file. PEFT, which takes
seconds to load, checks what is in it once a model is there.
"""

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from lpft.errors import InputError, named

FILE = "adapter_config.json"
"""The name that PEFT gives its configurations."""

_PROVENANCE = (
    *("base_model_name_or_path", "revision", "auto_mapping", "peft_version"),
    *("inference_mode", "runtime_config"),
)
"""Entries that say where a configuration is from or how it is run, not what is trained."""

_TASK_TYPES = (None, "SEQ_CLS")
_FORM = (
    f"JSON of the form of PEFT's {FILE}, such as "
    '{"peft_type": "LORA", "r": 4, "target_modules": ["query"]}'
)


def read_peft_config(value: Any) -> dict[str, Any] | None:
    """The content of a configuration, ready for JSON, without what changes nothing.

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
        path = path / FILE if path.is_dir() else path
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
    """PEFT's sets of names."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} is not of JSON")
