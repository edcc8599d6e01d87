"""What each command does with its parsed options: run it and print the result."""

import gc
import logging
import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpft import distributed
from lpft.cli.console import (
    next_command,
    parsed_settings,
    print_error,
    print_explanations,
    print_json,
    print_metrics,
    print_plan,
    print_quantization,
    print_run,
    print_table,
    standard_input,
)
from lpft.errors import InputError, named
from lpft.progress import log_to_stderr, visible_progress
from lpft.settings import THRESHOLDS, DataSettings, OutputSettings, TrainingSettings
from lpft.settings.commands import (
    ExperimentSettings,
    ExplanationSettings,
    InterpolationSettings,
    PredictionSettings,
    ServingSettings,
)
from lpft.settings.configs import (
    command_settings,
    default_folder,
    make_config,
    make_kernel_config,
    make_selection,
    read_config,
)
from lpft.settings.values import Layout

if TYPE_CHECKING:
    from lpft.report import ReportResult

logger = logging.getLogger(__name__)


def demo(options: Namespace) -> None:
    """Train the demo's methods, compute its kernels, write and print its report."""
    from lpft.experiments.demo import demo_kernels, run_demo
    from lpft.report import build_report

    replace = options.resume or options.overwrite
    runs, page = options.output_dir / "runs", options.output_dir / "report.html"
    if page.exists() and not replace:
        raise InputError(
            f"'{page}' exists: give {named('overwrite=True')} to replace the demo, or another "
            f"{named('output_dir')}"
        )
    for _ in run_demo(runs, seed=options.seed, resume=options.resume, overwrite=options.overwrite):
        pass
    demo_kernels(
        options.output_dir / "kernels",
        seed=options.seed,
        resume=options.resume,
        overwrite=options.overwrite,
    )
    report = build_report(options.output_dir, page, overwrite=replace)
    _show_report(report, options)


def train(options: Namespace) -> None:
    """Train one classifier, or several and keep one; print its metrics and what to do next."""
    settings, folder, resume = collect_settings(options)
    flags: dict[str, Any] = {"resume": resume, "overwrite": options.overwrite}
    selection = make_selection(settings, folder)
    if selection is not None:
        if options.distributed:
            raise InputError(
                f"{named('distributed')} shares one training: leave out {named('method')} auto, "
                f"{named('seeds')} and {named('tune')}, or run lpft sweep for several trainings"
            )
        from lpft.runs.selection import train_selection

        result = train_selection(selection, **flags)
    else:
        config = make_config(settings, folder)
        if options.distributed:
            distributed.join()
        # This loads torch, which takes seconds: wrong settings are refused before.
        from lpft.runs.train import train_run

        if not distributed.is_main():
            log_to_stderr(logging.ERROR)
            with visible_progress(False):
                train_run(config, **flags)
            return
        result = train_run(config, **flags)
    from lpft.results.folder import read_record

    page = _page_of(result.folder) if options.report else None
    if options.json:
        pages = {} if page is None else {"page": str(page)}
        print_json({"folder": str(result.folder), **pages, **result.metrics})
        return
    record = read_record(result.folder)
    assert record is not None, "the run has finished"
    print_metrics(result.metrics)
    print_run(record, result.metrics)
    print(f"\nrun:  {result.folder}")
    print(f"page: {page}" if page else f"page: lpft report {result.folder} writes it")
    print(f"next: {next_command(record, result.folder)}")


def _page_of(folder: Path) -> Path | None:
    """The page of a run just trained; None where it could not be written, which is logged."""
    from lpft.report import build_report

    try:
        return build_report(folder).page
    except InputError as error:
        # The run is finished: a problem with its page, such as a user's file in its place, is no
        # reason to fail.
        print_error(error, "no page: ")
        return None


def interpolate(options: Namespace) -> None:
    """Evaluate the points between a run's linear probe and its end; print them and the choice."""
    settings = InterpolationSettings.read(parsed_settings(options, "interpolate"))
    _check_folder(options.folder)
    from lpft.results.folder import INTERPOLATION
    from lpft.runs.interpolate import interpolate_run

    folder = options.output_dir
    if folder is None:
        folder = options.folder / INTERPOLATION
    record = interpolate_run(options.folder, settings, folder, overwrite=options.overwrite)
    page = _page_of(folder) if options.report else None
    if options.json:
        pages = {} if page is None else {"page": str(page)}
        print_json({"folder": str(folder), **pages, **record.as_json()})
        return
    from lpft.report import format_interpolation

    print(format_interpolation(record))
    print(f"\nclassifier: {folder}")
    if page is not None:
        print(f"page: {page}")


def evaluate(options: Namespace) -> None:
    """Print a trained classifier's metrics on more data."""
    layout = _layout(options)
    _check_folder(options.folder)
    from lpft.runs.evaluate import evaluate_saved, labelled_sets
    from lpft.runs.predict import open_backend

    saved = open_backend(options.folder, options.backend, options.device)
    sets = labelled_sets(
        saved,
        task=options.task,
        data_dir=options.data_dir,
        template=options.template,
        file=options.file,
        text_columns=options.text_columns,
        label_column=options.label_column,
        layout=layout,
    )
    metrics = evaluate_saved(saved, sets)
    if options.json:
        print_json(metrics)
    else:
        print_metrics(metrics)


def predict(options: Namespace) -> None:
    """Print or save labels and probabilities of new texts."""
    threshold = _threshold(options)
    settings = PredictionSettings.read(parsed_settings(options, "predict"))
    layout = _layout(options)
    _check_prediction_options(options)
    _check_folder(options.folder)
    if options.file is None and options.text is None and sys.stdin.isatty():
        # Before torch is imported and the model loaded, which takes many seconds.
        print("reading texts from the terminal, one per line; --file reads a file", file=sys.stderr)
    from lpft.runs import predict, prediction_job

    if options.output is not None:
        prediction_job.check_prediction_output(
            options.output, options.file, resume=options.resume, overwrite=options.overwrite
        )
    saved = predict.open_backend(options.folder, options.backend, options.device)
    abstain_below = predict.threshold_of(saved, threshold)
    at_once, total, columns = predict.ROWS_AT_ONCE, None, list[str]()
    source: predict.InputFile | Iterable[predict.InputRow]
    if options.file is not None:
        names = () if settings.copied_columns == "all" else settings.copied_columns
        source = predict.InputFile(
            saved,
            options.file,
            options.text_columns,
            layout,
            invalid=settings.invalid_rows,
            columns=names,
        )
        total, columns = source.count, source.names
    elif options.text is not None:
        source = map(predict.InputRow, predict.argument_texts(saved, options.text))
    else:
        lines = standard_input(layout.encoding)
        at_once = 1 if lines.isatty() else predict.LINES_AT_ONCE
        source = predict.line_rows(saved, lines)
    output = prediction_job.OutputRows(
        settings,
        saved.classes,
        columns,
        abstain_below=abstain_below,
        output=options.output,
    )
    if options.output is not None:
        prediction_job.save_predictions(
            saved,
            source,
            at_once,
            output,
            options.output,
            resume=options.resume,
            overwrite=options.overwrite,
        )
        return
    rows = source.rows() if isinstance(source, predict.InputFile) else source
    chunks = prediction_job.predicted_chunks(saved, rows, at_once, output, total=total)
    with visible_progress(not sys.stdout.isatty()):
        prediction_job.print_predictions(chunks, sys.stdout, settings)


def explain(options: Namespace) -> None:
    """Print the training rows that predictions rest on, and those whose labels look wrong."""
    settings = ExplanationSettings.read(parsed_settings(options, "explain"))
    layout = _layout(options)
    _check_file_options(options, ("text_columns", "column_names", "delimiter"))
    if options.file is None and options.text is None and settings.label_errors == 0:
        raise InputError(
            f"there is nothing to explain: give texts with {named('text')} or {named('file')}, or "
            f"{named('label_errors')} for the training rows alone"
        )
    _check_folder(options.folder)
    from lpft.results.saved import open_saved
    from lpft.runs import predict
    from lpft.runs.explain import (
        Explanation,
        check_explanations,
        save_explanations,
        trained_record,
    )

    trained_record(options.folder)
    if options.output_dir is not None:
        check_explanations(options.output_dir, overwrite=options.overwrite)
    saved = open_saved(options.folder, settings.device)
    texts = None
    if options.file is not None:
        rows = predict.InputFile(saved, options.file, options.text_columns, layout).rows()
        texts = [row.text for row in rows if row.text is not None]
    elif options.text is not None:
        texts = predict.argument_texts(saved, options.text)
    job = Explanation(saved, texts, settings)
    if options.dry_run:
        print_json({} if job.plan is None else job.plan.timed_record()) if options.json else print(
            job.cost()
        )
        return
    record = job.run()
    if options.output_dir is not None:
        record = save_explanations(record, options.output_dir, overwrite=options.overwrite)
    if options.json:
        print_json(record.as_json())
        return
    print_explanations(record)
    if options.output_dir is not None:
        print(f"\nexplanations: {options.output_dir}")


def _layout(options: Namespace) -> Layout:
    return Layout(options.column_names, options.encoding, options.delimiter)


def _check_file_options(options: Namespace, names: Sequence[str]) -> None:
    """Refuse file options without a file, and an encoding with texts on the command line."""
    for name in names:
        if getattr(options, name, None) is not None and options.file is None:
            raise InputError(f"{named(name)} has no effect without {named('file')}: leave it out")
    if options.encoding is not None and getattr(options, "text", None) is not None:
        raise InputError(f"{named('encoding')} has no effect with {named('text')}: leave it out")


def _check_prediction_options(options: Namespace) -> None:
    """Refuse options without effect on the input or the output that is named."""
    _check_file_options(options, ("text_columns", "column_names", "delimiter", "keep_columns"))
    for name in ("file", "output"):
        if options.resume and getattr(options, name) is None:
            raise InputError(
                f"{named('resume=True')} is for predictions of a file into a file: give "
                f"{named('file')} and {named('output')}, or leave it out"
            )


def _threshold(options: Namespace) -> OutputSettings:
    return OutputSettings.read({name: getattr(options, name) for name in THRESHOLDS})


def serve(options: Namespace) -> None:
    """Answer requests over HTTP until the process is told to stop."""
    settings = ServingSettings.read(parsed_settings(options, "serve"))
    threshold = _threshold(options)
    _check_folder(options.folder)
    from lpft.serve.server import run_service

    run_service(options.folder, settings, threshold, options.device, options.backend)


def ntk(options: Namespace) -> None:
    """Compute kernels and print their table, or print their plan."""
    from lpft.data import load_data

    settings = recorded_settings(options.folder, parsed_settings(options, "ntk"))
    config = make_kernel_config(settings, options.output_dir)
    data = load_data(config.run.data)
    from lpft.runs.kernels import KernelComputation, compute_kernels  # as in train

    if options.dry_run:
        plans = KernelComputation(config, options.folder, data, **_workers(options)).plans
        if options.json:
            print_json([plan.timed_record() for plan in plans])
            return
        # The passes of a path are alike.
        for _, same_plan in groupby(plans, key=lambda plan: (plan.flops, plan.rows())):
            first, *rest = same_plan
            print_plan(first.timed_record(), first.rows())
            if rest:
                print(f"\nmore passes with the same plan: {len(rest)}")
        return
    record = compute_kernels(
        config,
        run=options.folder,
        data=data,
        resume=options.resume,
        overwrite=options.overwrite,
        **_workers(options),
    )
    if options.json:
        print_json(record.as_json())
        return
    from lpft.report import format_kernel_table

    print(format_kernel_table(record))
    print(f"\nkernels: {config.output_dir}")
    print(f"page: lpft report {config.output_dir} writes it")


def _workers(options: Namespace) -> dict[str, Any]:
    """Where runs or shares of kernels are computed, and how many at a time."""
    names = ("executor", "workers", "cpus_per_run", "gpus_per_run")
    return {name: getattr(options, name) for name in names if hasattr(options, name)}


def theory(options: Namespace) -> None:
    """Print the checks of the paper's propositions."""
    from lpft.experiments.theory import run_theory, theory_json, theory_sentence, theory_table

    checks = run_theory(seed=options.seed)
    if options.json:
        print_json(theory_json(checks, seed=options.seed))
        return
    header, rows = theory_table(checks)
    print_table(list(header), [list(row) for row in rows])
    print(f"\n{theory_sentence(checks)}")


def sweep(options: Namespace) -> int | None:
    """Train or list the runs of a YAML file and print how each ended; 1 if one failed."""
    from lpft.runs.sweep_config import PLANNED, plan_records, read_sweep_config

    config = read_sweep_config(options.config)
    folder = options.output_dir
    if folder is None:
        folder = Path("sweeps") / options.config.stem
    if options.dry_run:
        planned = plan_records(config, folder)
        if options.json:
            print_json(planned)
        else:
            print_table(
                ["run", *(name.replace("_", " ") for name in PLANNED), "so far"],
                [[run[name] for name in ("run", *PLANNED, "state")] for run in planned],
            )
        return None
    from lpft.results.resume import run_name
    from lpft.runs.sweep import describe_choice, duration, read_search, train_sweep

    result = train_sweep(
        config,
        folder,
        **_workers(options),
        resume=options.resume,
        overwrite=options.overwrite,
    )
    search = None if config.grid is None else read_search(folder)
    if options.json:
        print_json({**result.as_json(), "search": search})
    else:
        if search is not None:
            print_table(
                ["task", "model", "method", "chosen on validation"],
                [
                    [*(cell[name] for name in ("task", "model", "method")), describe_choice(cell)]
                    for cell in search["cells"]
                ],
            )
            print()
        print_table(
            ["run", "outcome", "time", "reason"],
            [
                [
                    run_name(result.folder, outcome.folder),
                    "finished before" if outcome.state == "skipped" else outcome.state,
                    None if outcome.seconds is None else duration(outcome.seconds),
                    outcome.reason,
                ]
                for outcome in result.outcomes
            ],
        )
        print(f"\nsweep: {folder} (lpft report {folder} makes its report)")
    if not result.failed:
        return None
    print_error(
        f"{len(result.failed)} of {len(result.outcomes)} runs failed: fix the causes, "
        "then continue with --resume"
    )
    return 1


def reproduce(options: Namespace) -> int | None:
    """List the paper's experiments, or run one or all of them; 1 if any part failed."""
    settings = parsed_settings(options, "reproduce")
    if options.name == "list":
        _list_experiments(options, settings)
        return None
    # Wrong settings and names are refused before the slow imports below.
    from lpft.experiments.catalogue import ALL, find_experiment

    ExperimentSettings.read_own(settings)
    TrainingSettings.read_own(settings)
    if options.name != ALL:
        find_experiment(options.name)
    from lpft.experiments.run import NotReproduced, Session, plan_table
    from lpft.report import format_experiment

    folder = options.output_dir
    if folder is None:
        folder = default_folder(options.name, settings.get("model"), tiny=options.tiny)
    session = Session(
        options.name,
        settings,
        folder,
        tiny=options.tiny,
        **_workers(options),
        resume=options.resume,
        overwrite=options.overwrite,
    )
    if options.dry_run:
        planned = session.planned()
        if options.json:
            print_json(planned)
            return None
        for name, parts in planned.items():
            print(f"{name}:")
            print_table(*plan_table(parts))
        return None
    records = {}
    status = None
    # The modules loaded by now stay loaded. Every run ends with garbage collections, each of which
    # would otherwise look through all of them again.
    gc.freeze()
    for ended in session.run():
        if isinstance(ended, NotReproduced):
            if len(session.experiments) == 1:
                raise ended.error
            print_error(ended.error, f"{ended.name}: ")
            status = 1
            continue
        if ended.record.failures:
            status = 1
        records[ended.record.name] = {"page": str(ended.page), **ended.record.as_json()}
        if not options.json:
            print(f"{format_experiment(ended.record)}\n\nreport: {ended.page}\n")
    if options.json:
        print_json(records)
    return status


def _list_experiments(options: Namespace, settings: dict[str, Any]) -> None:
    from lpft.experiments.catalogue import list_experiments

    if settings or options.tiny or options.dry_run or options.output_dir is not None:
        raise InputError("no experiment: expected all or a name that lpft reproduce lists")
    rows = list_experiments()
    if options.json:
        print_json(rows)
        return
    print_table(
        ["experiment", "in the paper", "tasks", "what it shows"],
        [[row["name"], row["source"], ", ".join(row["tasks"]), row["shows"]] for row in rows],
    )


def report(options: Namespace) -> None:
    """Write the report of a folder and print its tables."""
    _check_folder(options.folder, "one that holds runs, kernels or experiments")
    from lpft.report import build_report

    result = build_report(
        options.folder,
        options.output,
        overwrite=options.overwrite,
        texts_in_report=options.texts_in_report,
        venue=options.venue,
    )
    _show_report(result, options)


def _show_report(report: "ReportResult", options: Namespace) -> None:
    from lpft.report import format_report, report_record

    if options.json:
        print_json(report_record(report))
        return
    _warn_of_unread(report)
    print(format_report(report))
    print(f"\nreport: {report.page}")


def _warn_of_unread(report: "ReportResult") -> None:
    """Say which folders are in no number: tables alone look complete without them."""
    if report.unread:
        first, *others = report.unread
        more = f", and {len(others)} more" if others else ""
        logger.warning(
            "not in the numbers: '%s', %s (%s)%s; the page lists all and why",
            first.name,
            first.state,
            first.reason,
            more,
        )


def export(options: Namespace) -> None:
    """Write a classifier for serving, and print how far its probabilities are from the run's."""
    layout = _layout(options)
    file_options = ("text_columns", "label_column", *vars(layout))
    _check_file_options(options, file_options)
    if options.file is not None and options.quantize is None:
        raise InputError(f"{named('file')} has no effect without {named('quantize')}: leave it out")
    _check_folder(options.folder)
    folder = options.output_dir
    if folder is None:
        kind = "-".join(filter(None, (options.format, options.quantize)))
        folder = Path("exports") / f"{options.folder.resolve().name}-{kind}"
    from lpft.export.onnx_classifier import RECORD
    from lpft.results.folder import check_replaceable

    check_replaceable(folder, RECORD, "an export", overwrite=options.overwrite)
    from lpft.export import export_run  # loads torch

    rows = None
    if options.file is not None:
        from lpft.results.saved import open_saved
        from lpft.runs.evaluate import file_set

        saved = open_saved(options.folder, "cpu")
        columns = options.text_columns, options.label_column
        (rows,) = file_set(saved, options.file, *columns, layout).values()
    result = export_run(
        options.folder,
        folder,
        options.format,
        quantization=options.quantize,
        rows=rows,
        overwrite=options.overwrite,
    )
    if options.json:
        print_json({"folder": str(result.folder), **result.record})
        return
    agreement = result.record["check"]
    print(f"{result.record['model']}.")
    for note in result.record["notes"]:
        print(note)
    print(
        f"Its logits are divided by the temperature {result.record['temperature']:.3f}.\n"
        f"Read back and compared with the run on {agreement['texts']} texts: probabilities differ "
        f"by at most {agreement['largest_difference_of_a_probability']:.1e}, logits by "
        f"{agreement['largest_difference_of_a_logit']:.1e}"
        f"{'' if result.record['quantization'] is None else ' in float32'}."
    )
    if result.record["quantization"] is not None:
        print_quantization(result.record["quantization"])
    print(f"\nexport: {result.folder}")


def collect_settings(options: Namespace) -> tuple[dict[str, Any], Path | None, bool]:
    """Settings of a run by name, its output folder, and whether it is resumed.

    Settings come from a resumed run's record, then YAML, then the command line; the last one wins.

    Raises:
        InputError: the record or the YAML file cannot be read, or there is nothing to resume.
    """
    from_options, folder = parsed_settings(options, "train"), options.output_dir
    from_file = {} if options.config is None else read_config(options.config)
    options.keys = from_file.keys() - from_options.keys()
    folder_in_file = from_file.pop("output_dir", None)
    if folder is None and folder_in_file is not None:
        if not isinstance(folder_in_file, str):
            raise InputError(f"{named('output_dir')} {folder_in_file!r} must be a path")
        folder = Path(folder_in_file).expanduser()
    flags = {"resume": False, "report": True}
    for name, default in flags.items():
        flags[name] = from_file.pop(name, default)
        if not isinstance(flags[name], bool):
            found = "is empty" if flags[name] is None else f"is {flags[name]!r}"
            raise InputError(f"{named(name)} {found}: expected true or false")
    options.report = options.report and flags["report"]
    resume = flags["resume"] or options.resume
    record = None
    if resume and folder is not None:
        from lpft.results.folder import read_record

        record = read_record(folder)
    if record is None and resume and not (from_file or from_options):
        place = "there is" if folder is None else f"'{folder}' contains"
        raise InputError(
            f"{place} no run to continue: give a run's folder with {named('output_dir')}, or give "
            "the data to begin one"
        )
    recorded = {} if record is None else record.config
    if record is not None and record.selection is not None:
        recorded = record.selection.settings
    settings = {**recorded, **from_file, **from_options}
    if "method" in recorded and folder is not None:
        from lpft.results.resume import check_same_settings

        # Checked first: the settings in the record may be some that another method does not take.
        check_same_settings(folder, recorded, {"method": settings["method"]})
    return settings, folder, resume


def recorded_settings(run: Path | None, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a trained run's data and model, overridden by those given.

    Raises:
        InputError: there is no such run, or a setting of the model is given beside one, which has
            its own.
    """
    from lpft.results.folder import read_record, recorded_config

    if run is not None and not (run / "config.json").is_file() and read_record(run) is None:
        raise InputError(
            f"'{run}' contains no trained classifier: expected a folder that lpft train wrote"
        )
    needing_run = [name for name in ("with_start", "path") if settings.get(name)]
    if run is None:
        for name in needing_run:
            raise InputError(f"{named(name)} needs a trained run: give its folder, or leave it out")
        return settings
    fixed = (*command_settings("ntk", TrainingSettings), "methods")
    for name in fixed:
        if name in settings and name != "device":
            raise InputError(
                f"{named(name)} has no effect with a trained run, which has its own: leave it out"
            )
    record, config = read_record(run), recorded_config(run)
    for name in needing_run if record is None else ():
        raise InputError(f"'{run}' has no run.json, which {named(name)} needs: leave it out")
    if config is None:
        return settings
    names = command_settings("ntk", DataSettings, TrainingSettings)
    recorded = {name: v for name, v in config.items() if name in names and v is not None}
    if record is not None:
        recorded["methods"] = (config["method"],)
    if "task" in settings or "train_file" in settings:
        recorded = {
            name: value for name, value in recorded.items() if name not in DataSettings.fields()
        }
    return {**recorded, **settings}


def _check_folder(folder: Path, expected: str = "one that lpft train wrote") -> None:
    """Refuse a folder that does not exist before torch is imported, which takes seconds."""
    if not folder.is_dir():
        raise InputError(f"'{folder}' is not a folder: expected {expected}")
