"""The table of formats."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from lpft.errors import InputError
from lpft.export.onnx_format import read_onnx, write_onnx
from lpft.export.transformers_format import read_transformers, write_transformers
from lpft.export.written import Scorer, Written
from lpft.model import Classifier
from lpft.settings import ExportFormat


@dataclass(frozen=True)
class Format:
    """A format: how it is written and read, and the packages of its extra that both need."""

    name: ExportFormat
    write: Callable[[Classifier, Path], Written]
    read: Callable[[Path], Scorer]
    packages: tuple[str, ...] = ()


FORMATS: dict[str, Format] = {
    row.name: row
    for row in (
        Format("transformers", write_transformers, read_transformers),
        Format("onnx", write_onnx, read_onnx, ("onnx", "onnxruntime", "onnxscript")),
    )
}


def get_format(name: str) -> Format:
    """The format of that name.

    Raises:
        InputError: there is none, or its extra is not installed.
    """
    if name not in FORMATS:
        raise InputError(f"--format {name} is unknown: expected one of {', '.join(FORMATS)}")
    found = FORMATS[name]
    missing = [package for package in found.packages if find_spec(package) is None]
    if missing:
        raise InputError(
            f"--format {name} needs the '{name}' extra, which is not installed ({missing[0]} is "
            f"missing): run pip install 'lpft[{name}]', or use another --format"
        )
    return found
