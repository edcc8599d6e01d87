"""``lpft interpolate``: the classifiers between a run's linear probe and its fine-tuned weights.

A method that starts from linear probing (LP) has two classifiers: the one that fine-tuning began
with, and the one that it ended with. Those between them,

    theta(alpha) = (1 - alpha) theta_LP + alpha theta_FT,    0 <= alpha <= 1,

cost no training, and are often better out of distribution than either end (WiSE-FT: Wortsman et
al., Robust fine-tuning of zero-shot models, CVPR 2022).
"""

from dataclasses import replace
from pathlib import Path
from time import perf_counter

from lpft.analysis.selection import POINT_RULE
from lpft.data import Examples, TextData, check_data, fingerprint, read_examples
from lpft.data.checks import log_findings
from lpft.data.loading import check_ood_name
from lpft.data.splits import ValidationKind, validation_kind
from lpft.errors import InputError, named
from lpft.files import markdown_template
from lpft.results.folder import (
    INTERPOLATION,
    check_interpolation,
    now,
    read_record,
    written_folder,
)
from lpft.results.formats import counted
from lpft.results.resume import recorded_data
from lpft.results.run import LP_HEAD, Predictions
from lpft.results.schema import (
    DataRecord,
    Fingerprints,
    InterpolationRecord,
    RunMetrics,
    RunRecord,
    Validation,
)
from lpft.settings import DataSettings, OutputSettings
from lpft.settings.commands import InterpolationSettings
from lpft.settings.methods import METHODS, with_lp_head


def interpolate_run(
    run: Path,
    settings: InterpolationSettings | None = None,
    folder: Path | None = None,
    *,
    overwrite: bool = False,
) -> InterpolationRecord:
    """Evaluate the points between a run's start and its end, and keep the one that is chosen.

    ``theta_LP`` are the weights that fine-tuning began with: the pre-trained encoder with the head
    of linear probing times the run's ``head_scale``. ``theta_FT`` are the run's own,
    into which an adapter is merged; with LoRA ``alpha`` is then a factor on the product of its
    factors. Every point is scored on the run's validation, test and OOD sets, with a temperature
    of its own; the choice is :func:`lpft.analysis.selection.choose_point` on validation alone.

    ``folder``, by default ``interpolation`` in the run's, gets the record, and the chosen point as
    a classifier that can be used as a run's is. Logits are cached, so that a repeated or an
    interrupted call computes no point twice.

    Raises:
        InputError: the run is none that can be interpolated, its data or base model changed or is
            not at hand, or the folder holds something else; nothing is written then.
    """
    settings = InterpolationSettings() if settings is None else settings
    folder = run / INTERPOLATION if folder is None else folder
    check_interpolation(folder, overwrite=overwrite)
    record = _usable_run(run)
    started = perf_counter()
    data = recorded_data(run, record, data_dir=settings.data_dir)
    kind = _validation_kind(run, data, settings)
    data = _with_files(data, record, settings)

    # These load torch, for which what is refused above need not wait.
    from lpft.model import save_classifier
    from lpft.results.saved import open_saved
    from lpft.results.schema import environment
    from lpft.runs.weight_path import WeightPath, check_end, choose, score_points

    saved = open_saved(run, settings.device)
    path = WeightPath(run, record, data, saved)
    sets = {name: examples for name, examples in data.splits().items() if name != "train"}
    threshold = OutputSettings.read_own(record.config).threshold
    scored = score_points(path, sets, kind, settings.alphas, threshold)
    if settings.validation_file is None:
        check_end(run, scored[-1])
    choice = choose(scored, data.validation)
    chosen = scored[choice.chosen]
    points = [
        point.record.model_copy(
            update={
                "difference": standing.difference,
                "standard_error": standing.standard_error,
                "eligible": standing.eligible,
            }
        )
        for point, standing in zip(scored, choice.standings, strict=True)
    ]
    result = InterpolationRecord(
        schema=InterpolationRecord.SCHEMA,
        run=run.resolve().name,
        config_hash=record.config_hash,
        config=record.config,
        data=DataRecord(
            name=record.data.name,
            classes=record.data.classes,
            rows={name: len(examples) for name, examples in data.splits().items()},
            sources=data.sources,
            licence=record.data.licence,
            paired=record.data.paired,
        ),
        fingerprints=Fingerprints(data=fingerprint(data), **path.encoders),
        validation=Validation(kind=kind, rows=len(data.validation)),
        own_validation=settings.validation_file is None,
        head_scale=path.head_scale,
        rule=POINT_RULE,
        points=points,
        chosen=chosen.record.alpha,
        reason=choice.reason,
        optimism=choice.optimism,
        finished=now(),
        seconds=perf_counter() - started,
        **environment(saved.device),
    )
    with written_folder(folder) as staged:
        path.go_to(chosen)
        save_classifier(saved.classifier, staged)
        for split, examples in sets.items():
            Predictions.write(staged, split, examples, chosen.logits[split])
        RunMetrics(
            temperature=chosen.record.temperature,
            splits=chosen.record.splits,
            **({} if chosen.abstention is None else {"abstention": chosen.abstention.as_json()}),
        ).write(staged)
        (staged / "README.md").write_text(_card(result), encoding="utf-8")
        files = (path for path in staged.rglob("*") if path.is_file())
        result = result.model_copy(
            update={"files": sorted(path.relative_to(staged).as_posix() for path in files)}
        )
        result.write(staged)
        permissions = (staged / result.FILE).stat().st_mode  # safetensors: the owner's alone
        for name in result.files:
            (staged / name).chmod(permissions)
        check_interpolation(folder, overwrite=overwrite)  # another process may have been faster
    return result


def _usable_run(run: Path) -> RunRecord:
    """The record of a finished run that has two different ends.

    Raises:
        InputError: it is none; the message says what to do.
    """
    record = read_record(run)
    if record is None:
        raise InputError(
            f"'{run}' has no {RunRecord.FILE}: interpolation needs the folder of a run of lpft "
            "train, which has the linear probe and the data of its training"
        )
    if record.status != "finished":
        raise InputError(
            f"the run in '{run}' is {record.status}, not finished: continue it with lpft train "
            f"--resume --output-dir {run}"
        )
    name = str(record.config.get("method"))
    method = METHODS.get(name)
    if method is None or method.head_start != "lp" or not method.fine_tunes:
        partner = with_lp_head(name) or "lp-ft"
        summary = "" if method is None else f" ({method.summary})"
        raise InputError(
            f"'{run}' was trained by {name}{summary}: interpolation needs a run that was "
            f"fine-tuned from linear probing; train one with {named('method')} {partner}"
        )
    if method.moves_features:
        raise InputError(
            f"'{run}' was trained by {name}: what it trains beside the head may have begun at "
            "random values that are not kept, so that one end is missing; train one with "
            f"{named('method')} lp-ft or lp-lora"
        )
    if record.checkpoint is not None and record.checkpoint.probe_won:
        raise InputError(
            f"the run in '{run}' kept its linear probe, because no epoch of fine-tuning was "
            "better: there is nothing between the two; train it for more epochs, or use it as it is"
        )
    if not (run / LP_HEAD).is_file():
        raise InputError(f"'{run / LP_HEAD}' does not exist: restore it, or train the run again")
    return record


def _validation_kind(run: Path, data: TextData, settings: InterpolationSettings) -> ValidationKind:
    """What chooses the point.

    Raises:
        InputError: every row trained the end that would have to be chosen by it.
    """
    if settings.validation_file is not None:
        return "file"
    kind = validation_kind(data, fine_tunes=True)
    if kind == "folds":
        raise InputError(
            f"the run in '{run}' was scored by folds and then trained on all of its "
            f"{counted(len(data.train) + len(data.validation), 'labelled row')}, so that no row "
            f"is left to choose a point by: give {named('validation_file')}, labelled texts that "
            f"it was not trained on, or train it with {named('validation_file')}"
        )
    return kind


def _with_files(data: TextData, record: RunRecord, settings: InterpolationSettings) -> TextData:
    """The data with the validation rows and the OOD sets of the settings.

    Raises:
        InputError: a file cannot be read as the run's were, or a name is taken.
    """

    columns = DataSettings.read_own(record.config)

    def read(path: Path, *, unseen_allowed: bool) -> Examples:
        return read_examples(
            path,
            data.classes,
            trained_columns=data.text_columns,
            label_column=columns.label_column,
            layout=columns.layout,
            unseen_allowed=unseen_allowed,
        )

    sources, ood = dict(data.sources), dict(data.ood)
    for name, path in settings.ood.items():
        check_ood_name(name)
        if name in ood:
            raise InputError(
                f"{named('ood')} names '{name}', which the run has already: give another name"
            )
        ood[name] = read(path, unseen_allowed=True)
        sources[f"ood/{name}"] = str(path)
    data = replace(data, ood=ood, sources=sources)
    if settings.validation_file is not None:
        validation = read(settings.validation_file, unseen_allowed=False)
        sources["validation"] = str(settings.validation_file)
        # all rows that the run may have trained on, so that those among them are found
        labelled = data.train.join(data.validation) if data.held_out else data.train
        data = replace(data, train=labelled, validation=validation, held_out=False)
        findings = check_data(data)
        log_findings(
            [finding for finding in findings if finding.kind in ("leakage", "near-leakage")]
        )
    return data


def _card(record: InterpolationRecord) -> str:
    """The model card of the chosen point."""
    from lpft.runs.record import markdown_cell, three_decimals, without_folders

    template = markdown_template(
        "lpft.runs", "point.md.j2", cell=markdown_cell, number=three_decimals
    )
    return template.render(
        record=record,
        model=without_folders(record.config.get("model")),
        splits=list(record.points[0].splits),
    )
