"""One training run from its configuration to a finished folder, resumable at any moment."""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

from lpft.data import TextData, check_data, fingerprint, limit_training, load_files, load_task
from lpft.data.splits import SPLIT_SEED
from lpft.errors import InputError
from lpft.files import write_text
from lpft.model import Classifier, build_classifier
from lpft.model.fingerprint import encoder_fingerprint
from lpft.model.inference import check_precision, resolve_device
from lpft.runs.config import DataSettings, RunConfig, deciding_settings
from lpft.runs.environment import environment
from lpft.runs.evaluation import evaluate_split
from lpft.runs.record import describe_probe, history_lines, write_results
from lpft.runs.store import (
    HISTORY,
    WORK,
    check_output,
    clear,
    locked,
    publish,
    remove_leftovers,
    write_record,
)
from lpft.training.finetuning import check_trackers
from lpft.training.fit import fit_classifier
from lpft.training.frozen import default_cache_dir
from lpft.training.inputs import prepare_split
from lpft.training.methods import get_method

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """A finished run: its folder, and what its ``metrics.json`` holds."""

    folder: Path
    metrics: dict[str, Any]


def train_run(config: RunConfig, *, resume: bool = False, overwrite: bool = False) -> RunResult:
    """Train as ``config`` says and fill its output folder; a finished run is returned as it is.

    With ``resume`` an unfinished run goes on from its last checkpoint, to the result that it
    would have had; with ``overwrite`` the folder's run is replaced once data and model are read.

    Raises:
        InputError: the data, the model, a setting or the folder is not usable, the folder's run is
            another one, or training diverges.
    """
    folder = config.output_dir
    record = check_output(folder, resume=resume, overwrite=overwrite)
    if resume and record is not None:
        _check_same_settings(folder, record, config)
        if record["status"] == "finished":
            logger.info("%s is finished already", folder)
            return RunResult(folder, read_metrics(folder))
    started = perf_counter()
    data = load_data(config.data)
    for finding in check_data(data):
        logger.warning("%s", finding.message)
    device = resolve_device(config.training.device)
    check_precision(config.training.precision, device)
    check_trackers(config.training.report_to)
    classifier = build_classifier(
        config.training.model,
        data.classes,
        seed=config.training.seed,
        pooling=config.training.pooling,
        head_bias=config.training.head_bias,
        max_length=config.training.max_length,
        revision=config.training.revision,
        paired=isinstance(data.train.texts[0], tuple),
    )
    training = replace(config.training, pooling=classifier.model.config.pooling)
    config = replace(config, training=training)
    fingerprints = {"data": fingerprint(data), "encoder": encoder_fingerprint(classifier.model)}
    with locked(folder):
        if check_output(folder, resume=resume, overwrite=overwrite) != record:
            raise InputError(f"'{folder}' was changed by another process: start again")
        if resume and record is not None:
            _check_same_inputs(folder, record, fingerprints)
        else:
            clear(folder, record)
        record = {
            "status": "running",
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "config": config.flat(),
            "config_hash": config.hash(),
            "metric": data.metric,
            "data": _describe(data),
            "seeds": {"run": config.training.seed, "split": SPLIT_SEED},
            "fingerprints": fingerprints,
            "files": record["files"] if resume and record is not None else [],
            **environment(device),
        }
        with _recorded(folder, record):
            return _train_locked(config, classifier, data, record, started)


def _train_locked(
    config: RunConfig,
    classifier: Classifier,
    data: TextData,
    record: dict[str, Any],
    started: float,
) -> RunResult:
    """Everything after the folder is this run's: train, evaluate, publish."""
    folder, settings = config.output_dir, config.training
    work = folder / WORK
    read = perf_counter()
    inputs = {
        split: prepare_split(
            classifier,
            examples,
            settings,
            encoder=record["fingerprints"]["encoder"],
            cache_dir=default_cache_dir(),
            name=split,
        )
        for split, examples in data.splits().items()
    }
    features_seconds = perf_counter() - read
    fit = fit_classifier(
        classifier,
        inputs["train"],
        inputs["validation"],
        settings,
        metric=data.metric,
        folder=work,
        on_history=lambda rows: write_text(folder / HISTORY, history_lines(rows)),
    )
    evaluated = perf_counter()
    known = {"validation": fit.validation_features}
    if not get_method(settings.method).fine_tunes:
        known = {split: split_inputs.pretrained for split, split_inputs in inputs.items()}
    results = {
        split: evaluate_split(
            fit.classifier,
            split_inputs,
            known.get(split),
            device=resolve_device(settings.device),
            name=split,
        )
        for split, split_inputs in inputs.items()
    }
    staged = work / "results"
    shutil.rmtree(staged, ignore_errors=True)
    metrics = write_results(staged, fit, data, results, config.flat())
    record |= {
        "calibration": {
            "temperature": fit.temperature.temperature,
            "reason": fit.temperature.reason,
        },
        "probe": None if fit.probe is None else describe_probe(fit.probe, data.classes),
        "files": sorted(
            str(path.relative_to(staged)) for path in staged.rglob("*") if path.is_file()
        ),
        "timings": {
            "features": features_seconds,
            **fit.timings,
            "evaluation": perf_counter() - evaluated,
            "total": perf_counter() - started,
        },
    }
    write_record(folder, record)
    publish(staged, folder)
    record |= {
        "status": "finished",
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_record(folder, record)
    remove_leftovers(folder)
    return RunResult(folder, metrics)


@contextmanager
def _recorded(folder: Path, record: dict[str, Any]) -> Iterator[None]:
    """Keep ``run.json`` true: running, and how it ended if not well."""
    write_record(folder, record)
    try:
        yield
    except KeyboardInterrupt:
        write_record(
            folder, record | {"status": "interrupted", "reason": "interrupted by the user"}
        )
        raise
    except Exception as error:
        write_record(folder, record | {"status": "failed", "reason": str(error)})
        raise


def load_data(settings: DataSettings) -> TextData:
    """The splits that the settings name, training rows limited as asked.

    Raises:
        InputError: the data is missing, damaged or not what the settings say.
    """
    assert settings.split_protocol is not None, "settings must come from make_config"
    if settings.task is not None:
        data = load_task(
            settings.task,
            settings.data_dir,
            protocol=settings.split_protocol,
            template=settings.template,
        )
    else:
        assert settings.train_file is not None
        data = load_files(
            settings.train_file,
            settings.validation_file,
            settings.test_file,
            settings.ood,
            text_columns=settings.text_columns,
            label_column=settings.label_column,
            protocol=settings.split_protocol,
        )
    if settings.max_train_samples is not None:
        data = limit_training(data, settings.max_train_samples)
    return data


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


def _describe(data: TextData) -> dict[str, Any]:
    rows = {split: len(examples) for split, examples in data.splits().items()}
    return {
        "name": data.name,
        "classes": list(data.classes),
        "rows": rows,
        "sources": data.sources,
        "notes": list(data.notes),
        "licence": data.licence,
        "paired": isinstance(data.train.texts[0], tuple),
    }


def _check_same_settings(folder: Path, record: dict[str, Any], config: RunConfig) -> None:
    recorded, asked = record["config"], config.flat()
    for name in deciding_settings():
        open_choice = name == "pooling" and asked[name] is None
        if recorded.get(name) != asked[name] and not open_choice:
            raise InputError(
                f"'{folder}' cannot be resumed: it was started with {name.replace('_', '-')} "
                f"{recorded.get(name)}, now it is {asked[name]}; give the same settings, or "
                "another --output-dir"
            )


def _check_same_inputs(folder: Path, record: dict[str, Any], found: dict[str, Any]) -> None:
    recorded = record.get("fingerprints")
    if recorded != found:
        what = (
            "data" if recorded is None or recorded["data"] != found["data"] else "model's weights"
        )
        raise InputError(
            f"'{folder}' cannot be resumed: the {what} changed since it was started; restore the "
            "old state, or start again with --overwrite"
        )
