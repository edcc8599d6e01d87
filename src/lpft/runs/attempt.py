"""One run of a sweep, tried: whatever is wrong with it comes back as a reason."""

import gc
import json
import logging
import traceback
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from time import perf_counter

from lpft.data import TextData, check_data, load_data
from lpft.errors import explain, unexpected
from lpft.runs.train import train_run
from lpft.settings import DataSettings
from lpft.settings.configs import RunConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attempt:
    """A run to be tried; a run that its folder holds is gone on with, or replaced."""

    config: RunConfig
    replace: bool


@dataclass(frozen=True)
class Ended:
    """How an attempt ended: without a reason, it is finished."""

    reason: str | None
    seconds: float


def attempt(task: Attempt) -> Ended:
    """Train a run; runs in a row that have the same data read it once, and warn of it once."""
    logger.info("training %s", task.config.output_dir)
    started = perf_counter()
    reason = None
    try:
        data = _read_data(_Source.of(task.config.data))
        train_run(task.config, data=data, resume=not task.replace, overwrite=task.replace)
    except Exception as error:
        known = explain(error)
        if known is not None:
            reason = str(known)
        else:
            where = traceback.extract_tb(error.__traceback__)[-1]
            reason = f"{unexpected(error)} ({Path(where.filename).name}, line {where.lineno})"
    gc.collect()
    return Ended(reason, perf_counter() - started)


def forget_data() -> None:
    """Read the data of the next attempt again, as files may have changed."""
    _read_data.cache_clear()


@dataclass(frozen=True)
class _Source:
    """Data settings that can be looked up: they compare by what they name."""

    text: str
    settings: DataSettings = field(compare=False)

    @classmethod
    def of(cls, settings: DataSettings) -> "_Source":
        return cls(json.dumps(settings.flat()), settings)


@lru_cache(maxsize=1)
def _read_data(source: _Source) -> TextData:
    data = load_data(source.settings)
    for finding in check_data(data):
        logger.warning("%s: %s", data.name, finding.message)
    return data
