"""The work of ``lpft ntk``: pass by pass, from texts and starts to the record."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import torch

from lpft.data import TextData, fingerprint
from lpft.errors import InputError
from lpft.ntk import KernelJob, Options
from lpft.ntk.memory import readable_size
from lpft.ntk.plan import Plan
from lpft.progress import said_progress
from lpft.results.folder import WORK
from lpft.runs.environment import environment
from lpft.runs.kernel_description import Description
from lpft.runs.kernel_record import MethodKernels
from lpft.runs.kernel_resume import beginnings, check_beginnings
from lpft.runs.kernel_starts import Pass, adapters_of, method_passes
from lpft.runs.kernel_texts import (
    EVALUATION,
    REVERSED,
    TRAIN,
    VALIDATION,
    KernelTexts,
    kernel_texts,
)
from lpft.runs.kernel_trained import TRAINED, trained_pass
from lpft.runs.train import load_data
from lpft.settings import Granularity, KernelConfig, get_method

logger = logging.getLogger(__name__)

SCHEMA = 1
_DTYPES = {"float32": torch.float32, "float64": torch.float64}


class KernelWork:
    """The kernels that a configuration asks for, pass by pass.

    Each pass is prepared and planned when it begins, so that it counts with the memory that there
    is then, and nothing but what goes on disk and into the record is kept of the one before.
    """

    def __init__(self, config: KernelConfig, run: Path | None = None) -> None:
        self.config = config
        self._run = run
        self.data: TextData = load_data(config.run.data)
        settings, classes = config.kernels, len(self.data.classes)
        if config.regression.single_logit and classes != 2:
            raise InputError(
                f"--single-logit takes the difference of 2 logits, {self.data.name} has {classes} "
                "classes: leave it out"
            )
        self.texts: KernelTexts = kernel_texts(
            self.data, settings.max_samples, validation=config.wants_validation
        )
        self._of_starts = run is None or settings.with_start
        methods = settings.methods if self._of_starts else ()
        self._passes_in_all = (len(adapters_of(methods)) if methods else 0) + (run is not None)
        self._methods_in_all = len(methods) + (run is not None)

    @property
    def plans(self) -> list[Plan]:
        """The plans of all passes as they are now, with nothing of another pass in memory."""
        folder = self.config.output_dir
        if self._of_starts and any(
            get_method(name).head_start == "lp" for name in self.config.kernels.methods
        ):
            logger.info("LP heads are fitted first: their rank decides the work")
        if (folder / WORK).exists():
            logger.info(
                "'%s' holds unfinished kernels: --resume goes on in their own tiles, whatever "
                "this plan says",
                folder,
            )
        return [self._job(number, each).plan for number, each in enumerate(self._passes())]

    def run(self) -> dict[str, Any]:
        """Compute and describe the kernels: the record, with arrays among what is unfinished.

        What a killed run had finished is taken up.

        Raises:
            InputError: what is unfinished is of other kernels, or damaged.
        """
        folder = self.config.output_dir
        started = perf_counter()
        described = Description(self.config, self._methods_in_all)
        plans: list[Plan] = []
        pooling = ""
        prints: dict[str, Any] = {"data": fingerprint(self.data)}
        for number, each in enumerate(self._passes()):
            job = self._job(number, each)
            of_run = each.starts[0].name == TRAINED
            prints["trained_encoder" if of_run else "encoder"] = each.encoder
            asked = beginnings(
                self.config, self.texts, prints["data"], each.encoder, job.plan.device
            )
            check_beginnings(folder, folder / WORK / f"pass-{number}.json", asked)
            logger.info(
                "pass %d of %d, %s: kernels of %d texts, about %.0f s, %s of memory at most",
                number + 1,
                self._passes_in_all,
                ", ".join(start.name for start in each.starts),
                len(job.plan.demand.lengths),
                job.plan.seconds,
                readable_size(job.plan.memory),
            )
            with said_progress():
                found = job.run()
            plans.append(job.plan)
            del job
            seconds = next(iter(found.values()))[TRAIN].record["seconds"]["total"]
            logger.info("pass %d took %.0f s", number + 1, seconds)
            described.timings["kernel_seconds"] += seconds
            pooling = each.subject.classifier.config.pooling
            for start in each.starts:
                described.add(
                    MethodKernels(start, found.pop(start.name), self.texts, len(self.data.classes)),
                    each.subject,
                    each.encoder,
                    plans[-1].device,
                )
            del each
        record = self._record(described, prints, pooling, plans)
        record["timings"]["total_seconds"] = perf_counter() - started
        return record

    def _passes(self) -> Iterator[Pass]:
        """The passes, each prepared when it is asked for."""
        training = self.config.run.training
        if self._of_starts:
            yield from method_passes(
                self.config.kernels.methods, self.data, training, of_run=self._run is not None
            )
        if self._run is not None:
            yield trained_pass(self._run, self.data, training)

    def _job(self, number: int, each: Pass) -> KernelJob:
        settings = self.config.kernels
        blocks = [TRAIN, EVALUATION]
        if settings.kernel == "asymmetric" and "asymmetric" in settings.solver:
            blocks.append(REVERSED)
        if self.texts.validation is not None:
            blocks.append(VALIDATION)
        return KernelJob(
            each.subject,
            {start.name: start.request for start in each.starts},
            self.texts.groups,
            tuple(blocks),
            Options(
                method=settings.linear_method,
                kernel=settings.kernel,
                granularity=cast(Sequence[Granularity], settings.granularity),
                products=settings.products,
                dtype=_DTYPES[settings.dtype],
                memory=settings.memory,
                cache_dir=self.config.output_dir / WORK / f"pass-{number}",
                device=self.config.run.training.device,
            ),
            detailed=(TRAIN,),
        )

    def _record(
        self, described: Description, prints: dict[str, str], pooling: str, plans: Sequence[Plan]
    ) -> dict[str, Any]:
        training, kernels = self.config.run.training, self.config.kernels
        return {
            "schema": SCHEMA,
            "data": {
                "name": self.data.name,
                "classes": list(self.data.classes),
                "rows": {"train": len(self.texts.train), "eval": len(self.texts.evaluation)},
                "validation_rows": self.texts.validation_rows,
                "eval_split": self.texts.evaluation_split,
            },
            "model": training.model if self._run is None else str(self._run),
            "pooling": pooling,
            "kernel": kernels.kernel,
            "dtype": kernels.dtype,
            "seed": training.seed,
            "max_length": training.max_length,
            "config": self.config.flat(),
            "fingerprints": prints,
            "methods": described.methods,
            "alignment": described.alignment(),
            "plan": {"passes": [plan.timed_record() for plan in plans]},
            "timings": described.timings,
            "environment": environment(plans[0].device),
        }
