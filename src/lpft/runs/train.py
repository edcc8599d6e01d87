"""One training run from its configuration to a finished folder, resumable at any moment.

Whatever needs torch and transformers, which take seconds to load, is imported inside functions: a
wrong path or column is reported before that.
"""

import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING

from lpft import distributed
from lpft.data import Finding, TextData, check_data, fingerprint, load_data
from lpft.data.checks import count_scoring_rows, log_findings
from lpft.data.lengths import check_lengths
from lpft.data.splits import SPLIT_SEED, with_folds
from lpft.distributed import check_environment
from lpft.errors import InputError, named, write_failure
from lpft.files import check_model_path
from lpft.memory import FewerRows, recorded_reductions
from lpft.results.folder import WORK, check_output, clear, locked, now, publish, remove_leftovers
from lpft.results.resume import (
    RunResult,
    check_inputs_of_finished,
    check_same_inputs,
    earlier_parts,
    finished_run,
)
from lpft.results.schema import (
    Calibration,
    Checkpoint,
    DataRecord,
    FewerRowsRecord,
    FindingRecord,
    Fingerprints,
    PrecisionRecord,
    RunRecord,
    UnusableRecord,
    Validation,
    write_history,
)
from lpft.settings import MINILM
from lpft.settings.configs import RunConfig
from lpft.settings.methods import check_installed, get_method

if TYPE_CHECKING:
    from lpft.model import Classifier
    from lpft.training.history import BestEpoch

logger = logging.getLogger(__name__)


def train_run(
    config: RunConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    data: TextData | None = None,
    log_label_errors: bool = True,
) -> RunResult:
    """Train as ``config`` says and fill its output folder; a finished run is returned as it is.

    With ``resume`` an unfinished run goes on from its last checkpoint, to the result that it
    would have had; with ``overwrite`` the folder's run is replaced once data and model are read.
    ``data`` is that of :func:`~lpft.data.load_data`, checked, where the caller has read it already.
    Without ``log_label_errors`` probable label errors are recorded and not logged, for callers that
    train on the same rows several times.

    Of several processes (:mod:`lpft.distributed`) the main one fills the folder; the others, which
    only help, leave no file.

    Raises:
        InputError: the data, the model, a setting or the folder is not usable, the folder's run is
            another one, or training diverges.
    """
    if distributed.is_main():
        how = {"resume": resume, "overwrite": overwrite, "log_label_errors": log_label_errors}
        return _train(config, data, **how)
    with TemporaryDirectory(prefix="lpft-") as folder:
        return _train(replace(config, output_dir=Path(folder) / "run"), data)


def _train(
    config: RunConfig,
    data: TextData | None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    log_label_errors: bool = False,
) -> RunResult:
    """:func:`train_run` in this process."""
    check_environment()
    folder = config.output_dir
    record = check_output(folder, resume=resume, overwrite=overwrite)
    if resume and record is not None and record.selection is not None:
        raise InputError(
            f"'{folder}' contains a run that was chosen among several: continue with the settings "
            f"that it was started with, or name another {named('output_dir')}"
        )
    finished = distributed.agreed(
        lambda: _finished(config, record, data) if resume and record is not None else None
    )
    if finished is not None:
        logger.info("%s is finished already", folder)
        return finished
    started, began = perf_counter(), now()
    method = get_method(config.training.method)
    check_installed(method)
    if distributed.size() > 1 and method.contrastive:
        raise InputError(
            f"{named('distributed')} and {named('method')} {method.name} exclude each other: its "
            "pairs are of one process; leave one of them out"
        )
    config, data, classifier, findings = _prepare(config, data)
    from lpft.model.inference import encoder_fingerprint, resolve_device
    from lpft.results.schema import environment

    device = resolve_device(config.training.device)
    encoder = encoder_fingerprint(classifier.model)
    fingerprints = Fingerprints(data=fingerprint(data), encoder=encoder)
    distributed.require_same({"settings": config.hash(), **fingerprints.flat})
    with locked(folder):
        # Data and model took their time to read: another process may have been here meanwhile.
        if check_output(folder, resume=resume, overwrite=overwrite) != record:
            raise InputError(f"'{folder}' was changed by another process: start again")
        going_on = record if resume and record is not None and record.began else None
        if going_on is None:
            clear(folder, record)
        else:
            check_same_inputs(folder, going_on.fingerprints, fingerprints)
        if config.training.precision == "auto":
            # A run that goes on keeps its precision, whatever it was.
            before = {} if going_on is None else {"precision": "float32", **going_on.config}
            precision = distributed.agreed(partial(before.get, "precision", "auto"))
            training = config.training.model_copy(update={"precision": precision})
            config = replace(config, training=training)
        surroundings = environment(device)
        record = RunRecord(
            status="running",
            started=began,
            earlier=earlier_parts(going_on, surroundings),
            config=config.flat(),
            config_hash=config.hash(),
            metric=data.metric,
            data=describe_data(data),
            seeds={"run": config.training.seed, "split": SPLIT_SEED},
            fingerprints=fingerprints,
            findings=_recorded(findings),
            files=[] if going_on is None else going_on.files,
            processes=distributed.size(),
            **surroundings,
        )
        with status_recorded(folder, record), recorded_reductions() as reductions:
            return _train_locked(
                config, classifier, data, record, encoder, started, log_label_errors, reductions
            )


def _prepare(
    config: RunConfig, data: TextData | None
) -> tuple[RunConfig, TextData, "Classifier", list[Finding]]:
    """Read and check the data and the model, and log what a user should know of them.

    The settings that come back have what the data and the model decide. Data that is given was
    checked before, so nothing is logged of it.

    Raises:
        InputError: the data, the model, the device or a tracker cannot be used.
    """
    model = config.training.model
    if model != MINILM:
        check_model_path(model)
    checked_before = data is not None
    if data is None:
        data = load_data(config.data)
    if model != MINILM and not Path(model).is_dir():
        from lpft.model.encoder import load_config

        # A name that the Hub does not have, before all that is said about the data.
        load_config(model, revision=config.training.revision)
    fine_tunes = get_method(config.training.method).fine_tunes
    count_scoring_rows(data, fine_tunes=fine_tunes)  # refuses rows that cannot
    findings = check_data(data, fine_tunes=fine_tunes)
    if not checked_before:
        log_findings(findings)
    from lpft.model.inference import check_precision, resolve_device
    from lpft.model.loading import fresh_classifier
    from lpft.training.finetuning import check_trackers

    device = resolve_device(config.training.device)
    distributed.check_device(device.type)
    check_precision(config.training.precision, device)
    check_trackers(config.training.report_to)
    classifier = fresh_classifier(data, config.training)
    filled = {"pooling": classifier.model.config.pooling, "max_length": classifier.max_length}
    training = config.training.model_copy(update=filled)
    chosen = config.data.model_copy(update={"text_columns": data.text_columns})
    config = replace(config, data=chosen, training=training)
    cut = check_lengths(data, classifier.token_counter, classifier.max_length)
    classifier = replace(classifier, counter=None)  # a million lengths are not kept in memory
    findings += cut
    if not checked_before:
        log_findings(cut)
    return config, data, classifier, findings


def _finished(config: RunConfig, record: RunRecord, data: TextData | None) -> RunResult | None:
    finished = finished_run(config, record)
    if finished is not None:
        read = load_data if data is None else lambda _: data
        check_inputs_of_finished(config.output_dir, record, config.data, config.training, read)
    return finished


def _train_locked(
    config: RunConfig,
    classifier: "Classifier",
    data: TextData,
    record: RunRecord,
    encoder: str,
    started: float,
    log_label_errors: bool,
    reductions: Sequence[FewerRows],
) -> RunResult:
    """Train, evaluate and publish, once the folder is locked for this run."""
    from lpft.model.inference import resolve_device
    from lpft.runs.evaluate import SplitResult, evaluate_split
    from lpft.runs.record import describe_probe, write_results
    from lpft.training.cache import prepare_splits
    from lpft.training.fit import fit_classifier
    from lpft.training.label_errors import label_error_finding

    folder, settings = config.output_dir, config.training
    work_folder = folder / WORK
    read = perf_counter()
    kind, inputs = prepare_splits(classifier, data, settings, encoder=encoder)
    features_seconds = perf_counter() - read
    if data.protocol != "paper":
        doubtful = label_error_finding(data, inputs, settings)
        if log_label_errors:
            log_findings(doubtful)
        record = record.updated(findings=[*record.findings, *_recorded(doubtful)])
    fit = fit_classifier(
        classifier,
        inputs["train"],
        inputs.get("validation"),
        settings,
        metric=data.metric,
        folder=work_folder,
        kind=kind,
        on_history=lambda rows: write_history(folder, rows),
        keep_checkpoints=config.output.keep_checkpoints,
    )
    if fit.precision is not None:
        # A record and its hash have what was computed: on another machine it may be another one.
        training = settings.model_copy(update={"precision": fit.precision.used})
        config = replace(config, training=training)
        record = record.updated(
            config=config.flat(),
            config_hash=config.hash(),
            precision=PrecisionRecord(**asdict(fit.precision)),
        )
    evaluated = perf_counter()
    known = {"validation": fit.validation.features}
    if not get_method(settings.method).fine_tunes:
        known = {split: split_inputs.pretrained for split, split_inputs in inputs.items()}
    if kind == "folds":
        data = with_folds(data, fit.validation.rows, fit.validation.folds)
        record = record.updated(data=describe_data(data))
    results = {
        split: evaluate_split(
            fit.classifier,
            split_inputs,
            known.get(split),
            device=resolve_device(settings.device),
            name=split,
            keep_features=config.output.save_features,
        )
        for split, split_inputs in inputs.items()
    }
    if kind == "folds":
        results["validation"] = SplitResult(fit.validation.logits)
    staged = work_folder / "results"
    shutil.rmtree(staged, ignore_errors=True)
    metrics = write_results(staged, fit, data, results, config, record.findings)
    record = record.updated(
        calibration=Calibration(
            temperature=fit.calibration.temperature, reason=fit.calibration.reason
        ),
        checkpoint=None if fit.best is None else _checkpoint(fit.best),
        undertrained=list(fit.undertrained),
        validation=Validation(kind=kind, rows=len(fit.validation.rows), folds=fit.validation.folds),
        probe=None if fit.probe is None else describe_probe(fit.probe, data.classes),
        **_fewer_rows(reductions),
        files=sorted(str(path.relative_to(staged)) for path in staged.rglob("*") if path.is_file()),
        timings={
            "features": features_seconds,
            **fit.timings,
            "evaluation": perf_counter() - evaluated,
            "total": perf_counter() - started,
        },
    )
    # The record lists the files before they are moved, and says that the run is finished after: a
    # process that is killed in between leaves nothing that the next one would not remove.
    record.write(folder)
    publish(staged, folder)
    record.updated(status="finished", finished=now()).write(folder)
    remove_leftovers(folder)
    return RunResult(folder, metrics)


@contextmanager
def status_recorded(folder: Path, record: RunRecord) -> Iterator[None]:
    """``run.json`` says ``running``; after Ctrl-C ``interrupted``, after an error ``failed``."""

    def ended(status: str, reason: str) -> None:
        # Read again: on disk it may list files by now, of which some are published already. Where
        # the disk is full it goes on saying that the run is running.
        with suppress(OSError, UnusableRecord):
            RunRecord.read(folder).updated(status=status, reason=reason).write(folder)

    record.write(folder)
    try:
        yield
    except KeyboardInterrupt:
        ended("interrupted", "interrupted by the user")
        raise
    except Exception as error:
        failure = write_failure(error, folder)
        if failure is None:
            ended("failed", str(error))
            raise
        unwritten = InputError(
            f"the run in '{folder}' cannot be written ({failure}): make room there, or give "
            f"permission, and continue it with {named('resume=True')}"
        )
        ended("failed", str(unwritten))
        raise unwritten from error


def _fewer_rows(reductions: Sequence[FewerRows]) -> dict[str, list[FewerRowsRecord]]:
    """What ``run.json`` says where memory ran out."""
    return (
        {"fewer_rows": [FewerRowsRecord(**asdict(one)) for one in reductions]} if reductions else {}
    )


def _checkpoint(best: "BestEpoch") -> Checkpoint:
    return Checkpoint(**{name: getattr(best, name) for name in Checkpoint.model_fields})


def describe_data(data: TextData) -> DataRecord:
    """What ``run.json`` says of the data."""
    return DataRecord(
        name=data.name,
        classes=list(data.classes),
        rows={split: len(examples) for split, examples in data.splits().items()},
        train_class_rows=data.train.class_counts(len(data.classes)),
        sources=data.sources,
        notes=list(data.notes),
        licence=data.licence,
        paired=isinstance(data.train.texts[0], tuple),
    )


def _recorded(findings: Iterable[Finding]) -> list[FindingRecord]:
    return [FindingRecord(**finding.as_json()) for finding in findings]
