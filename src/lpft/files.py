"""Files that are written whole or not at all, templates, and checks of folders."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpft.errors import InputError

if TYPE_CHECKING:
    from jinja2 import Template


@contextmanager
def replace_when_written(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its name once the block ends without error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text to ``path`` whole or not at all."""
    with replace_when_written(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, refusing NaN, which JSON does not have."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def markdown_template(package: str, name: str, **filters: Callable[..., str]) -> "Template":
    """A file of a package's folder ``templates``, in which an unknown variable is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(package),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters.update(filters)
    return environment.get_template(name)


def check_model_path(model: str) -> None:
    """Refuse a model path that is not a folder; other names belong to the Hugging Face Hub."""
    path = Path(model)
    if not path.is_dir() and (path.exists() or model.startswith((".", "/", "~"))):
        raise InputError(
            f"'{model}' is not a model folder: expected a folder with config.json, "
            "weights and tokenizer files"
        )
