"""``lpft ntk``: the kernels at the start of several methods, or of a trained run, in one folder."""

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import torch

from lpft.data import TextData, fingerprint, load_data
from lpft.errors import InputError, named
from lpft.executors import get_executor
from lpft.files import readable_size, write_json
from lpft.model.inference import encoder_fingerprint
from lpft.model.loading import fresh_classifier
from lpft.ntk import KernelJob, Options
from lpft.ntk.job import Kernels
from lpft.ntk.plan import Plan
from lpft.progress import timed
from lpft.results.folder import (
    WORK,
    check_restart,
    foreign_files,
    locked,
    read_if_there,
    results_found,
)
from lpft.results.kernels import Alignment, KernelData, KernelRecord
from lpft.results.resume import check_same_inputs, check_same_settings
from lpft.results.saved import open_saved
from lpft.results.schema import (
    Fingerprints,
    RunRecord,
    environment,
    is_inside,
)
from lpft.runs import kernel_passes
from lpft.runs.kernel_passes import Block
from lpft.runs.kernel_statistics import KernelResults, MethodKernels, PathResults, path_checkpoints
from lpft.settings.configs import KernelConfig, deciding
from lpft.settings.fields import Decides
from lpft.settings.kernels import Granularity
from lpft.settings.methods import METHODS, get_method

logger = logging.getLogger(__name__)

_ARRAYS = tuple(f"{name}.safetensors" for name in (*METHODS, kernel_passes.TRAINED))
_DTYPES = {"float32": torch.float32, "float64": torch.float64}


def compute_kernels(
    config: KernelConfig,
    *,
    run: Path | None = None,
    data: TextData | None = None,
    resume: bool = False,
    overwrite: bool = False,
    executor: str = "local",
    workers: int = 1,
) -> KernelRecord:
    """The kernels that ``config`` asks for, in its output folder; finished ones are not repeated.

    ``data`` are those of the configuration, where the caller has read them already. A computation
    that Ctrl-C or a crash ends leaves its finished pieces in the folder; with ``resume`` it goes on
    from them. ``workers`` of ``executor`` share the pieces, as in :func:`lpft.ntk.empirical_ntk`.

    Raises:
        InputError: data, model, a setting or the folder is not usable, or the folder holds kernels
            that the call does not replace or resume.
    """
    folder = config.output_dir
    _check_folder(folder, resume=resume, overwrite=overwrite)
    finished = finished_kernels(folder) if resume else None
    if finished is not None:
        data = load_data(config.run.data) if data is None else data
        if run is None:
            name, model = "encoder", fresh_classifier(data, config.run.training).model
        else:
            name, model = "trained_encoder", open_saved(run, "cpu").classifier.model
        current = {"data": fingerprint(data), name: encoder_fingerprint(model)}
        check_same_kernels(finished, config, Fingerprints.model_validate(current), run)
        logger.info("%s is finished already", folder)
        return finished
    computation = KernelComputation(config, run, data, executor=executor, workers=workers)
    with locked(folder):
        if not resume:
            shutil.rmtree(folder / WORK, ignore_errors=True)
        record = computation.run()  # finished passes and tiles lie in WORK, and are not repeated
        _remove_replaced(folder, list(record.by_name))
        # Removed first: a record never lies beside arrays that are not its own.
        (folder / record.FILE).unlink(missing_ok=True)
        for name in record.by_name:
            (folder / WORK / f"{name}.safetensors").replace(folder / f"{name}.safetensors")
        record.write(folder)
        shutil.rmtree(folder / WORK, ignore_errors=True)
        return record


class KernelComputation:
    """The kernels that a configuration asks for, pass by pass.

    Each pass is prepared and planned when it begins, with the memory that is free then; of the pass
    before it only the arrays on disk and the record are kept.
    """

    def __init__(
        self,
        config: KernelConfig,
        run: Path | None = None,
        data: TextData | None = None,
        *,
        executor: str = "local",
        workers: int = 1,
    ) -> None:
        get_executor(executor, workers)
        self._executor, self._workers = executor, workers
        if run is None:
            _refuse_contrastive(config.kernels.methods)
        self.config = config
        self._run = run
        self.data = load_data(config.run.data) if data is None else data
        settings, classes = config.kernels, len(self.data.classes)
        if config.regression.single_logit and classes != 2:
            raise InputError(
                f"{named('single_logit')} takes the difference of 2 logits, {self.data.name} has "
                f"{classes} classes: leave it out"
            )
        self.texts = kernel_passes.kernel_texts(
            self.data, settings.max_samples, validation=config.needs_validation
        )
        self._of_starts = run is None or settings.with_start
        methods = settings.methods if self._of_starts else ()
        self._passes_in_all = (len(kernel_passes.adapters_of(methods)) if methods else 0) + (
            run is not None
        )
        self._methods_in_all = len(methods) + (run is not None)
        if settings.path:
            self._passes_in_all += len(path_checkpoints(run))

    @property
    def plans(self) -> list[Plan]:
        """The plan of every pass, made with no other pass in memory."""
        folder = self.config.output_dir
        if self._of_starts and any(
            get_method(name).head_start == "lp" for name in self.config.kernels.methods
        ):
            logger.info("LP heads are fitted first: their rank decides the cost")
        if (folder / WORK).exists():
            logger.info(
                "'%s' contains unfinished kernels: --resume continues in their own tiles, whatever "
                "this plan says",
                folder,
            )
        plans = [
            self._job(number, kernel_pass).plan for number, kernel_pass in enumerate(self._passes())
        ]
        for number, (_, _, kernel_pass) in enumerate(self._path_passes(), start=len(plans)):
            plans.append(self._job(number, kernel_pass, (kernel_passes.TRAIN,)).plan)
        return plans

    def run(self) -> KernelRecord:
        """Compute the kernels and their record; the arrays stay in the folder's unfinished part.

        Pieces that a killed computation had finished are used again.

        Raises:
            InputError: the unfinished pieces belong to other kernels, or are damaged.
        """
        folder = self.config.output_dir
        started = perf_counter()
        results = KernelResults(self.config, folder / WORK, self._methods_in_all)
        plans: list[Plan] = []
        pooling, max_length = "", None
        data = fingerprint(self.data)
        encoders: dict[str, str] = {}
        for number, kernel_pass in enumerate(self._passes()):
            of_run = kernel_pass.starting_points[0].name == kernel_passes.TRAINED
            encoders["trained_encoder" if of_run else "encoder"] = kernel_pass.encoder
            plan, kernels = self._compute(number, kernel_pass, self._blocks(), data, results)
            plans.append(plan)
            pooling = kernel_pass.subject.classifier.config.pooling
            max_length = kernel_pass.subject.max_length
            for point in kernel_pass.starting_points:
                blocks = kernels.pop(point.name)  # freed before the next method's are used
                method = MethodKernels(point, blocks, self.texts, len(self.data.classes))
                results.add(method, kernel_pass.subject, kernel_pass.encoder, plan.device)
                del blocks, method
            del kernel_pass
        path = None
        for number, (epoch, weights, kernel_pass) in enumerate(
            self._path_passes(), start=len(plans)
        ):
            plan, kernels = self._compute(
                number, kernel_pass, (kernel_passes.TRAIN,), data, results
            )
            plans.append(plan)
            with timed(results.timings, "path_seconds"):
                if path is None:
                    path = PathResults(self.texts, plan.device)
                (point,) = kernel_pass.starting_points
                kernel = kernels.pop(point.name)[kernel_passes.TRAIN]
                path.add(epoch, weights, point, kernel, kernel_pass.subject)
                del kernel
        prints = Fingerprints(data=data, **encoders)
        record = self._record(results, prints, pooling, max_length, plans)
        if path is not None:
            assert self._run is not None
            record = record.model_copy(update={"path": path.record(self._run)})
        timings = {**record.timings, "total_seconds": perf_counter() - started}
        return record.model_copy(update={"timings": timings})

    def _passes(self) -> Iterator[kernel_passes.Pass]:
        """The passes, each prepared on demand."""
        training = self.config.run.training
        if self._of_starts:
            yield from kernel_passes.method_passes(
                self.config.kernels.methods, self.data, training, of_run=self._run is not None
            )
        if self._run is not None:
            yield kernel_passes.trained_pass(self._run, self.data, training)

    def _path_passes(self) -> Iterator[tuple[float, dict[str, torch.Tensor], kernel_passes.Pass]]:
        """The start and every epoch of the run, where its path is asked for."""
        if self.config.kernels.path:
            assert self._run is not None
            yield from kernel_passes.path_passes(self._run, self.data, self.config.run.training)

    def _blocks(self) -> tuple[Block, ...]:
        """The blocks of methods' kernels; a path has only those of the training texts."""
        settings = self.config.kernels
        blocks = [kernel_passes.TRAIN, kernel_passes.EVALUATION]
        if settings.kernel == "asymmetric" and "asymmetric" in settings.solver:
            blocks.append(kernel_passes.REVERSED)
        if self.texts.validation is not None:
            blocks.append(kernel_passes.VALIDATION)
        return tuple(blocks)

    def _compute(
        self,
        number: int,
        kernel_pass: kernel_passes.Pass,
        blocks: tuple[Block, ...],
        data: dict[str, str],
        results: KernelResults,
    ) -> tuple[Plan, Kernels]:
        """The kernels of one pass, whose finished pieces are used again, and how it was planned."""
        folder = self.config.output_dir
        job = self._job(number, kernel_pass, blocks)
        key = _resume_key(self.config, self.texts, data, kernel_pass.encoder, job.plan.device)
        _check_resume_key(folder, folder / WORK / f"pass-{number}.json", key)
        logger.info(
            "pass %d of %d, %s: kernels of %s, about %.0f s, %s of memory at most",
            number + 1,
            self._passes_in_all,
            ", ".join(point.name for point in kernel_pass.starting_points),
            self.texts.counted(job.plan.workload.groups),
            job.plan.seconds,
            readable_size(job.plan.memory),
        )
        kernels = job.run()
        seconds = next(iter(kernels.values()))[kernel_passes.TRAIN].record["seconds"]["total"]
        logger.info("pass %d took %.0f s", number + 1, seconds)
        results.timings["kernel_seconds"] += seconds
        return job.plan, kernels

    def _job(
        self, number: int, kernel_pass: kernel_passes.Pass, blocks: tuple[Block, ...] | None = None
    ) -> KernelJob:
        settings = self.config.kernels
        groups = self.texts.groups
        if blocks == (kernel_passes.TRAIN,):
            groups = groups[:1]
        return KernelJob(
            kernel_pass.subject,
            {point.name: point.request for point in kernel_pass.starting_points},
            groups,
            self._blocks() if blocks is None else blocks,
            Options(
                contraction=settings.linear_method,
                update=settings.kernel,
                granularity=cast(Sequence[Granularity], settings.granularity),
                products=settings.products,
                dtype=_DTYPES[settings.dtype],
                memory=settings.memory,
                cache_dir=self.config.output_dir / WORK / f"pass-{number}",
                device=self.config.run.training.device,
                executor=self._executor,
                workers=self._workers,
            ),
            detailed=(kernel_passes.TRAIN,),
        )

    def _record(
        self,
        results: KernelResults,
        prints: Fingerprints,
        pooling: str,
        max_length: int | None,
        plans: Sequence[Plan],
    ) -> KernelRecord:
        training, kernels = self.config.run.training, self.config.kernels
        return KernelRecord(
            schema=KernelRecord.SCHEMA,
            data=KernelData(
                name=self.data.name,
                classes=list(self.data.classes),
                rows={"train": len(self.texts.train), "eval": len(self.texts.evaluation)},
                validation_rows=self.texts.validation_rows,
                eval_split=self.texts.evaluation_split,
            ),
            model=training.model if self._run is None else str(self._run),
            pooling=pooling,
            kernel=kernels.kernel,
            dtype=kernels.dtype,
            seed=training.seed,
            max_length=max_length,
            config=self.config.flat() | {"max_length": max_length},
            fingerprints=prints,
            methods=results.methods,
            alignment=Alignment(**results.alignment()),
            plan={"passes": [plan.timed_record() for plan in plans]},
            timings=results.timings,
            environment=environment(plans[0].device),
        )


def _refuse_contrastive(methods: Sequence[str]) -> None:
    """Refuse a kernel at the start of contrastive tuning: its loss is not one of the logits.

    Raises:
        InputError: such a method is among ``methods``.
    """
    for name in methods:
        if get_method(name).contrastive:
            raise InputError(
                f"{named('methods')} {name}: its steps follow pairs of features and not logits, so "
                "that the kernel says nothing of them; name lp-ft, which has the same start, or a "
                "trained run"
            )


def _resume_key(
    config: KernelConfig,
    texts: kernel_passes.KernelTexts,
    data: dict[str, str],
    encoder: str,
    device: Any,
) -> dict[str, Any]:
    """Everything that the pieces of one pass depend on, ready for JSON."""
    settings = config.flat()
    return {
        "settings": {name: settings[name] for name in deciding(Decides.KERNEL | Decides.ROUNDING)},
        "validation texts": texts.validation_rows,
        "data": data,
        "encoder": encoder,
        "device": device.type,
        "versions": environment(device)["versions"],
    }


def _check_resume_key(folder: Path, path: Path, key: dict[str, Any]) -> None:
    """Write the key of a pass to ``path``, or refuse to go on with pieces of another key.

    Raises:
        InputError: the message names what differs.
    """
    try:
        begun = json.loads(path.read_text(encoding="utf-8"))
        settings = dict(begun["settings"])
        then, now = (Fingerprints(data=of["data"], encoder=of["encoder"]) for of in (begun, key))
    except FileNotFoundError:
        path.parent.mkdir(exist_ok=True)
        write_json(path, key)
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"'{path}' is damaged ({error}), so '{folder}' cannot be resumed: start again with "
            f"{named('overwrite=True')}"
        ) from error
    check_same_settings(folder, settings, key["settings"], Decides.KERNEL | Decides.ROUNDING)
    check_same_inputs(folder, then, now)
    for name in ("validation texts", "device", "versions"):
        if begun.get(name) != key[name]:
            raise InputError(
                f"'{folder}' cannot be resumed: it was started with {name} {begun.get(name)}, now "
                f"it is {key[name]}; give the same, or start again with {named('overwrite=True')}"
            )


def finished_kernels(folder: Path) -> KernelRecord | None:
    """The record of the finished kernels that a folder holds, or None.

    Raises:
        InputError: the record is damaged.
    """
    advice = f"compute them again with {named('overwrite=True')}"
    return read_if_there(KernelRecord, folder, "kernels", advice)


def check_same_kernels(
    finished: KernelRecord, config: KernelConfig, current: Fingerprints, run: Path | None = None
) -> None:
    """Refuse finished kernels in place of those of ``config`` unless they are the same.

    ``current`` are the fingerprints of the data and of the encoder, or of the ``trained_encoder``
    of ``run``, as they are now.

    Raises:
        InputError: the run, a setting, the data or the weights differ, or the record has no
            fingerprint of them.
    """
    folder = config.output_dir
    decides = Decides.KERNEL | Decides.STATISTICS
    check_same_settings(folder, finished.config, config.flat(), decides)
    if run is not None and finished.model != str(run):
        raise InputError(
            f"'{folder}' cannot be resumed: its kernels are of {finished.model}, now those of "
            f"'{run}' are requested; name another {named('output_dir')}"
        )
    check_same_inputs(folder, finished.fingerprints, current)


def _remove_replaced(folder: Path, names: Sequence[str]) -> None:
    """Remove the arrays of the folder's earlier kernels, except those in ``names``."""
    with suppress(InputError):  # a damaged record does not say which files are ours
        before = finished_kernels(folder)
        for name in set() if before is None else set(before.by_name) - set(names):
            if is_inside(f"{name}.safetensors"):
                (folder / f"{name}.safetensors").unlink(missing_ok=True)


def _check_folder(folder: Path, *, resume: bool, overwrite: bool) -> None:
    check_restart(folder, resume=resume, overwrite=overwrite)
    if (folder / RunRecord.FILE).exists():
        raise InputError(
            f"'{folder}' contains a trained run: name another folder with {named('output_dir')}"
        )
    if not ((folder / KernelRecord.FILE).exists() or (folder / WORK).exists()):
        foreign = [name for name in _ARRAYS if (folder / name).exists()]
        if foreign:
            raise foreign_files(folder, "recorded as a kernel's", foreign[0])
    if (folder / KernelRecord.FILE).exists() and not (resume or overwrite):
        raise results_found(folder, "a finished set of kernels", unfinished=False)
    if (folder / WORK).exists() and not (resume or overwrite):
        raise results_found(folder, "an unfinished set of kernels")
