"""Results that are computed once and kept as JSON beside the runs that they are of."""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from lpft.files import write_json
from lpft.results.run import Run

logger = logging.getLogger(__name__)

STEPS = "steps"
"""The folder of an experiment that holds such results."""

Identity = Mapping[str, Any]
"""All that decides a result, as JSON has it."""

Result = TypeVar("Result")


def keep_result(
    path: Path, identity: Identity, kind: type[Result], compute: Callable[[], Result]
) -> None:
    """Write ``compute()``, of the type ``kind``, unless ``path`` holds the result of that identity.

    Raises:
        InputError: as ``compute``.
    """
    if read_result(path, identity, kind) is None:
        result = TypeAdapter(kind).dump_python(compute(), mode="json")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"identity": identity, "result": result})


def read_result(path: Path, identity: Identity, kind: type[Result]) -> Result | None:
    """The kept result; None where there is none, a damaged one, or that of another identity."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept.get("identity") != identity:
            return None
        return TypeAdapter(kind).validate_python(kept["result"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, AttributeError) as error:
        logger.warning("'%s' cannot be read (%s): computing it again", path, error)
        return None


def run_identity(run: Run) -> Identity:
    """What decides all that can be computed from a run: its settings, data and encoder, hashed."""
    return {"config_hash": run.record.config_hash, "fingerprints": dict(run.fingerprints)}
