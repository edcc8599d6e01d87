"""``lpft demo``: every method of the paper on the bundled corpus, offline, in one report."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lpft.results.kernels import KernelRecord
from lpft.results.resume import RunResult
from lpft.runs.kernels import compute_kernels
from lpft.runs.train import train_run
from lpft.settings.configs import make_config, make_kernel_config
from lpft.settings.methods import get_method

logger = logging.getLogger(__name__)

DEMO_METHODS = ("lp", "ft", "lp-ft", "lora", "lp-lora")
"""The five methods of the paper."""

_SETTINGS = {"task": "demo", "model": "minilm", "split_protocol": "stratified"}
_EPOCHS = 3
_KERNEL_TEXTS = 30
_RATE_OF_ALL, _RATE_OF_FACTORS = 5e-5, 1e-3


def run_demo(folder: Path, *, seed: int, resume: bool, overwrite: bool) -> Iterator[RunResult]:
    """Train each method into ``folder / method``, one after the other.

    FT and LP-FT share one learning rate and batch size, and so do LoRA and LP-LoRA, so that the
    report may compare them.
    """
    for method in DEMO_METHODS:
        logger.info("training %s", method)
        settings: dict[str, Any] = {**_SETTINGS, "method": method, "seed": seed}
        if get_method(method).fine_tunes:
            whole = get_method(method).adapter is None
            settings["epochs"] = _EPOCHS
            settings["learning_rate"] = _RATE_OF_ALL if whole else _RATE_OF_FACTORS
            # The numbers of the documents, on machines with units for bfloat16 too.
            settings["precision"] = "float32"
        config = make_config(settings, folder / method)
        yield train_run(config, resume=resume, overwrite=overwrite)


def demo_kernels(folder: Path, *, seed: int, resume: bool, overwrite: bool) -> KernelRecord:
    """Compute the kernels at the start of each method, on a few texts, in ``folder``."""
    logger.info("computing the empirical NTK of %d texts", 2 * _KERNEL_TEXTS)
    settings = {**_SETTINGS, "seed": seed, "max_samples": _KERNEL_TEXTS}
    config = make_kernel_config(settings, folder)
    return compute_kernels(config, resume=resume, overwrite=overwrite)
