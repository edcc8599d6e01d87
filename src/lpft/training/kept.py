"""What a saved classifier remembers of its training beside the weights."""

import json
from dataclasses import asdict, dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from lpft.errors import InputError
from lpft.files import write_text

FILE = "text_classifier.json"
RUN_RECORD = "run.json"
"""The record of ``lpft train``, whose ``config`` has the settings of the training."""


@dataclass(frozen=True)
class KeptTraining:
    """The constructor's parameters by name, whether training was on pairs, and the history.

    ``paired`` is None where nothing was trained, ``history`` where it was not kept.
    """

    parameters: dict[str, Any]
    paired: bool | None
    history: list[dict[str, Any]] | None


def write_kept(folder: Path, kept: KeptTraining) -> None:
    """Write them as ``text_classifier.json``."""
    write_text(folder / FILE, json.dumps(asdict(kept), indent=2, default=_plain) + "\n")


def read_kept(folder: Path, *, paired: bool) -> KeptTraining | None:
    """Read them back, of a run of ``lpft train`` its settings; None where there is neither.

    Args:
        paired: whether the model was trained on pairs, which a run's settings do not say.

    Raises:
        InputError: the file is damaged.
    """
    kept = _object(folder / FILE)
    if kept is not None:
        expected: dict[str, tuple[type, ...]] = {
            "parameters": (dict,),
            "paired": (bool, type(None)),
            "history": (list, type(None)),
        }
        if not all(isinstance(kept.get(name, ...), kinds) for name, kinds in expected.items()):
            raise InputError(
                f"'{folder / FILE}' is damaged: expected {', '.join(expected)}; save the "
                "classifier again, or remove the file to load without its parameters"
            )
        return KeptTraining(**{name: kept[name] for name in expected})
    record = _object(folder / RUN_RECORD)
    if record is None or not isinstance(record.get("config"), dict):
        return None
    return KeptTraining(record["config"], paired, None)


def _object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file, or None where there is no file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"'{path}' cannot be read ({reason}): restore it, or remove it to load the classifier "
            "without its parameters"
        ) from error
    return value if isinstance(value, dict) else {}


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's, and paths as text, for JSON."""
    return fspath(value) if isinstance(value, PathLike) else value.item()
