"""Going on with a run: what must be as it was, and when a finished one is what is asked for."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lpft.errors import InputError, named
from lpft.settings.configs import RunConfig, changed
from lpft.settings.fields import Decides

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """A finished run: its folder, and what its ``metrics.json`` holds."""

    folder: Path
    metrics: dict[str, Any]


def began(record: dict[str, Any]) -> bool:
    """Whether a run read its data and model; one that failed before has nothing to go on from."""
    return record["status"] != "failed" or "fingerprints" in record


def earlier_parts(record: dict[str, Any] | None, now_in: dict[str, Any]) -> list[dict[str, Any]]:
    """When and where the parts of a run before this one were made; none of a run that begins.

    What differs from the environment ``now_in`` is told: it may change the last digits.
    """
    if record is None:
        return []
    last = {name: record.get(name) for name in ("started", *now_in)}
    changed = [name for name, value in now_in.items() if last[name] != value]
    if changed:
        logger.warning(
            "the run began with other %s: its last digits may differ from those of a run in one "
            "piece",
            " and ".join(changed),
        )
    return [*record.get("earlier", []), last]


def finished_run(config: RunConfig, record: dict[str, Any]) -> RunResult | None:
    """The run that ``record`` describes if it is finished; None where it has to go on.

    Raises:
        InputError: the run is another one, lacks files that ``config`` asks for, or is damaged.
    """
    folder = config.output_dir
    if not began(record):
        return None
    check_same_settings(folder, record, config)
    if record["status"] != "finished":
        return None
    kept = record["config"].get("save_model", True)
    if config.output.save_model and not kept:
        raise InputError(
            f"'{folder}' is finished, but its weights were not kept: give --no-save-model to leave "
            "it as it is, or --overwrite to train it again"
        )
    if config.output.save_features and not record["config"].get("save_features", False):
        raise InputError(
            f"'{folder}' is finished, but its features were not kept: leave out --save-features, "
            "or give --overwrite to train it again"
        )
    if kept and not config.output.save_model:
        logger.info("%s has its weights already: --no-save-model does not remove them", folder)
    return RunResult(folder, read_metrics(folder))


def check_same_settings(folder: Path, record: dict[str, Any], config: RunConfig) -> None:
    """Refuse to go on with other settings than a run began with, those apart that decide nothing.

    Raises:
        InputError: a setting differs.
    """
    for name, (before, now) in changed(record["config"], config.flat(), Decides.RUN).items():
        raise InputError(
            f"'{folder}' cannot be resumed: it was started with {named(name)} {before}, now it is "
            f"{now}; give the same settings, or another {named('output_dir')}"
        )


def check_same_inputs(folder: Path, record: dict[str, Any], found: dict[str, Any]) -> None:
    """Refuse to go on with other data or weights than a run began with.

    Raises:
        InputError: a fingerprint differs from those in ``found``.
    """
    recorded = record.get("fingerprints")
    if recorded != found:
        what = (
            "data" if recorded is None or recorded["data"] != found["data"] else "model's weights"
        )
        raise InputError(
            f"'{folder}' cannot be resumed: the {what} changed since it was started; restore the "
            "old state, or start again with --overwrite"
        )


def read_metrics(folder: Path) -> dict[str, Any]:
    """``metrics.json`` of a finished run.

    Raises:
        InputError: it is missing or damaged.
    """
    path = folder / "metrics.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"'{path}' cannot be read ({error}): the run is damaged; train it again"
        ) from error
