"""Results that one run alone decides, computed once and kept as JSON beside the runs."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lpft.files import write_json
from lpft.report.collect import RunSummary

logger = logging.getLogger(__name__)

STEPS = "steps"
"""The folder of an experiment that holds such results."""

Result = dict[str, Any]


def keep_result(path: Path, run: RunSummary, compute: Callable[[RunSummary], Result]) -> None:
    """Write ``compute(run)`` to ``path``, unless that holds the result of this very run.

    Raises:
        InputError: as ``compute``.
    """
    if read_result(path, run) is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"run": _identity(run), "result": compute(run)})


def read_result(path: Path, run: RunSummary) -> Result | None:
    """The kept result of a run; None where there is none, a damaged one, or another run's."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return kept["result"] if kept["run"] == _identity(run) else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        logger.warning("'%s' cannot be read (%s): computing it again", path, error)
        return None


def _identity(run: RunSummary) -> Result:
    """Hashes of the settings, the data and the encoder."""
    return {"config_hash": run.config_hash, "fingerprints": dict(run.fingerprints)}
