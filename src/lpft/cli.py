"""The command line: parse, call, print."""

import errno
import os
import sys
import traceback
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, get_args

from lpft import __version__
from lpft.choices import Device
from lpft.console import (
    log_to_stderr,
    print_json,
    print_metrics,
    print_plan,
    print_table,
    quiet_libraries,
    share_the_machine,
    standard_input,
)
from lpft.errors import InputError
from lpft.progress import visible_progress
from lpft.runs.config import DataSettings
from lpft.runs.kernel_settings import KERNEL_OPTIONS, OWNERS, make_kernel_config
from lpft.runs.options import add_setting_options, given_settings

BAD_INPUT, UNEXPECTED, INTERRUPTED = 2, 1, 130
_UNUSABLE_PATHS = (
    errno.EACCES,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
)


class _Parser(ArgumentParser):
    """argparse with errors in the form of all others."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"error: {message}; see {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``lpft`` and give its exit status: 0, 2 for bad input, 1 unexpected, 130 for Ctrl-C."""
    options = _parser().parse_args(arguments)
    share_the_machine()
    quiet_libraries()
    log_to_stderr()
    try:
        with visible_progress():
            options.run(options)
        sys.stdout.flush()
    except InputError as error:
        return _fail(options, str(error), BAD_INPUT)
    except KeyboardInterrupt:
        print("interrupted: what was finished is kept", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output left; the interpreter must not try to flush it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _UNUSABLE_PATHS:
            place = "the output" if error.filename is None else f"'{error.filename}'"
            reason = f"{place} cannot be used ({error.strerror}): make room or name another path"
            return _fail(options, reason, BAD_INPUT)
        if _out_of_memory(error):
            advice = "lower --batch-size, --max-length or --memory, or use a smaller --model"
            return _fail(options, f"the model does not fit in memory: {advice}", BAD_INPUT)
        reason = f"unexpected {type(error).__name__}: {error} (--debug shows where)"
        return _fail(options, reason, UNEXPECTED)
    return 0


def _demo(options: Namespace) -> None:
    from lpft.experiments.demo import run_demo
    from lpft.report import build_report, format_method_table, method_table

    replace = options.resume or options.overwrite
    runs, page = options.output_dir / "runs", options.output_dir / "report.html"
    if page.exists() and not replace:
        raise InputError(
            f"'{page}' exists: give --overwrite to replace the demo, or another --output-dir"
        )
    for _ in run_demo(runs, seed=options.seed, resume=options.resume, overwrite=options.overwrite):
        pass
    report = build_report(runs, page, overwrite=replace)
    print(format_method_table(method_table(report.runs)))
    print(f"\nreport: {report.page}")


def _train(options: Namespace) -> None:
    from lpft.runs.config import collect_settings, make_config

    settings, folder = collect_settings(
        given_settings(options), options.config, options.output_dir, resume=options.resume
    )
    config = make_config(settings, folder)
    from lpft.runs.train import train_run  # loads torch, for which wrong settings need not wait

    result = train_run(config, resume=options.resume, overwrite=options.overwrite)
    if options.json:
        print_json({"folder": str(result.folder), **result.metrics})
        return
    print_metrics(result.metrics)
    print(f"\nrun: {result.folder}")


def _evaluate(options: Namespace) -> None:
    from lpft.runs.evaluation import evaluate_saved, labelled_sets
    from lpft.runs.saved import open_saved

    saved = open_saved(options.folder, options.device)
    sets = labelled_sets(
        saved,
        task=options.task,
        data_dir=options.data_dir,
        template=options.template,
        file=options.file,
        text_columns=options.text_columns,
        label_column=options.label_column,
    )
    metrics = evaluate_saved(saved, sets)
    if options.json:
        print_json(metrics)
    else:
        print_metrics(metrics)


def _predict(options: Namespace) -> None:
    from lpft.runs import predict
    from lpft.runs.saved import open_saved

    if options.output is not None:
        predict.check_prediction_output(options.output, overwrite=options.overwrite)
    if options.text_columns is not None and options.file is None:
        raise InputError("--text-columns has no effect without --file: leave it out")
    saved = open_saved(options.folder, options.device)
    if options.file is not None:
        texts = predict.file_texts(saved, options.file, options.text_columns)
    elif options.text is not None:
        texts = iter(predict.argument_texts(saved, options.text))
    else:
        texts = predict.line_texts(saved, standard_input())
    rows = predict.predict_texts(saved, texts)
    if options.output is None:
        predict.print_predictions(rows, sys.stdout)
    else:
        predict.save_predictions(options.output, rows, saved.classifier.model.config.classes)


def _ntk(options: Namespace) -> None:
    from lpft.runs.kernels import KernelWork, compute_kernels, recorded_settings

    settings = recorded_settings(options.folder, given_settings(options, OWNERS))
    config = make_kernel_config(settings, options.output_dir)
    if options.dry_run:
        plans = KernelWork(config, options.folder).plans
        if options.json:
            print_json([plan.as_record() for plan in plans])
            return
        for plan in plans:
            print_plan(plan.as_record(), plan.rows())
        return
    result = compute_kernels(
        config, run=options.folder, resume=options.resume, overwrite=options.overwrite
    )
    if options.json:
        print_json(result.record)
        return
    from lpft.report.kernels.terminal import format_kernel_table

    print(format_kernel_table(result.record))
    print(f"\nkernels: {result.folder}")


def _theory(options: Namespace) -> None:
    from lpft.experiments.theory import run_theory, theory_json, theory_table

    checks = run_theory(seed=options.seed)
    if options.json:
        print_json(theory_json(checks, seed=options.seed))
        return
    header, rows = theory_table(checks)
    print_table(list(header), [list(row) for row in rows])


def _report(options: Namespace) -> None:
    from lpft.report import build_report, format_method_table, method_table

    report = build_report(options.folder, options.output, overwrite=options.overwrite)
    print(format_method_table(method_table(report.runs)))
    print(f"\nreport: {report.page}")


def _check(options: Namespace) -> None:
    from lpft.data import check_data
    from lpft.runs.config import collect_settings, make_config
    from lpft.runs.train import load_data

    settings, _ = collect_settings(given_settings(options), None, None, resume=False)
    data = load_data(make_config(settings).data)
    findings = check_data(data)
    if options.json:
        print_json(
            {
                "name": data.name,
                "classes": list(data.classes),
                "rows": {split: len(examples) for split, examples in data.splits().items()},
                "findings": [vars(finding) for finding in findings],
            }
        )
        return
    print(f"{data.name}: {len(data.classes)} classes ({', '.join(map(str, data.classes))})")
    print_table(
        ["split", "rows", *map(str, data.classes)],
        [
            [split, len(examples), *examples.class_counts(len(data.classes))]
            for split, examples in data.splits().items()
        ],
    )
    for finding in findings:
        print(f"{finding.level}: {finding.message}")
    if not findings:
        print("nothing to report")


def _tasks(options: Namespace) -> None:
    from lpft.data import TASKS, find_task

    tasks = list(TASKS.values()) if options.name is None else [find_task(options.name)]
    rows: list[dict[str, Any]] = [
        {
            "name": task.name,
            "title": task.title,
            "classes": list(task.classes),
            "metric": task.metric,
            "templates": [template.description for template in task.templates],
            "ood": list(task.ood),
            "hub": None if task.hub is None else task.hub.id,
            "url": task.url,
            "licence": task.licence,
        }
        for task in tasks
    ]
    if options.json:
        print_json(rows)
    elif options.name is None:
        print_table(
            ["task", "classes", "metric", "what"],
            [[row["name"], len(row["classes"]), row["metric"], row["title"]] for row in rows],
        )
    else:
        for name, value in rows[0].items():
            text = ", ".join(map(str, value)) if isinstance(value, list) else value
            print(f"{name + ':':<11}{'-' if text in (None, '') else text}")


def _models(options: Namespace) -> None:
    from lpft.model.families import TESTED_FAMILIES
    from lpft.model.packaged import DESCRIPTION, NAME

    if options.json:
        print_json(
            {
                "packaged": {NAME: DESCRIPTION},
                "families": {
                    family.model_type: {
                        "pooling": family.pooling,
                        "adapted": list(family.adapted),
                        "fused": family.fused,
                    }
                    for family in TESTED_FAMILIES
                },
            }
        )
        return
    print(f"{NAME}: {DESCRIPTION}, comes with the demo extra")
    print("Any other model: a Hugging Face Hub id or a model folder. The tests train these:\n")
    print_table(
        ["family", "default pooling", "LoRA adapts"],
        [[family.model_type, family.pooling, family.adapted_text] for family in TESTED_FAMILIES],
    )
    print(
        "\nA sentence-transformers folder's own pooling comes before the family's (MiniLM: mean)."
    )


def _methods(options: Namespace) -> None:
    from lpft.training.methods import METHODS

    if options.json:
        print_json([vars(method) for method in METHODS.values()])
        return
    print_table(
        ["method", "head starts", "then trains", "in words"],
        [
            [
                method.name,
                "from the LP solution" if method.head_start == "lp" else "random",
                {"head": "nothing", "all": "everything"}.get(
                    method.trained, f"{method.trained} factors, head"
                ),
                method.summary,
            ]
            for method in METHODS.values()
        ],
    )
    print(
        "\nAdapters sit on the query and value projections (see lpft models). In families that "
        "fuse query,\nkey and value into one projection, all of it is adapted, the keys too."
    )


def _parser() -> ArgumentParser:
    parser = _Parser(
        prog="lpft",
        description="Linear probing, then fine-tuning of text classifiers: calibrated, tested "
        "out of distribution, explained.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"lpft {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(run: Callable[[Namespace], None], summary: str) -> ArgumentParser:
        name = run.__name__.removeprefix("_")
        added = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        added.add_argument("--debug", action="store_true", help="show the traceback of an error")
        added.set_defaults(run=run)
        return added

    demo = command(_demo, "train five methods on the embedded corpus and write a report")
    demo.add_argument(
        "--output-dir",
        type=Path,
        default=Path("demo-report"),
        help="folder of the report and the runs (default: %(default)s)",
    )
    demo.add_argument("--seed", type=int, default=0, help="of all methods (default: %(default)s)")
    _add_restart(demo)

    train = command(_train, "train one classifier")
    train.add_argument("--config", type=Path, help="YAML file of 'option: value' lines")
    add_setting_options(train)
    train.add_argument(
        "--output-dir",
        type=Path,
        help="folder of the run (default: runs/DATA-MODEL-METHOD-seedS)",
    )
    _add_restart(train)
    _add_json(train)

    evaluate = command(_evaluate, "metrics of a trained classifier on more labelled data")
    _add_run(evaluate)
    source = evaluate.add_mutually_exclusive_group(required=True)
    source.add_argument("--task", help="a task of lpft tasks: its test split and OOD sets")
    source.add_argument("--file", type=Path, help="labelled texts: CSV, TSV, JSON Lines, Parquet")
    evaluate.add_argument("--data-dir", type=Path, help="folder of the task's release files")
    evaluate.add_argument("--template", type=int, help="of the task (default: 0)")
    _add_columns(evaluate)
    evaluate.add_argument("--label-column", help="(default: as in training)")
    _add_json(evaluate)

    predict = command(_predict, "labels and probabilities of new texts, as JSON lines or CSV")
    _add_run(predict)
    texts = predict.add_mutually_exclusive_group()
    texts.add_argument("--file", type=Path, help="CSV, TSV, JSON Lines or Parquet")
    texts.add_argument("--text", nargs="+", help="texts; for a model of pairs, each two are a pair")
    _add_columns(predict)
    predict.add_argument(
        "--output", type=Path, help="file ending in .jsonl or .csv (default: standard output)"
    )
    predict.add_argument("--overwrite", action="store_true", help="replace the output file")
    predict.epilog = (
        "Without --file and --text, standard input is read: a text per line, or for a model of "
        "pairs two with a tab between them."
    )

    ntk = command(_ntk, "the exact empirical NTK: P, F, their statistics, kernel regression")
    ntk.add_argument(
        "folder",
        nargs="?",
        type=Path,
        metavar="RUN",
        help="a trained classifier, whose kernel is wanted (default: the start of --methods)",
    )
    add_setting_options(ntk, KERNEL_OPTIONS, OWNERS)
    ntk.add_argument(
        "--output-dir", type=Path, help="folder of the kernels (default: kernels/DATA-MODEL-seedS)"
    )
    ntk.add_argument(
        "--dry-run", action="store_true", help="print what would be computed, and stop"
    )
    _add_restart(ntk)
    _add_json(ntk)

    theory = command(_theory, "the paper's propositions, checked numerically")
    theory.add_argument("--seed", type=int, default=0, help="of all draws (default: %(default)s)")
    _add_json(theory)

    report = command(_report, "tables, figures and one page on all runs below a folder")
    report.add_argument("folder", type=Path, metavar="DIR", help="folder that holds runs")
    report.add_argument("--output", type=Path, help="the page (default: DIR/report.html)")
    report.add_argument("--overwrite", action="store_true", help="replace an older report")

    check = command(_check, "look at data before training on it")
    add_setting_options(check, [item.name for item in fields(DataSettings)])
    _add_json(check)

    tasks = command(_tasks, "what data lpft knows by name")
    tasks.add_argument("name", nargs="?", metavar="NAME", help="show one task whole")
    _add_json(tasks)
    _add_json(command(_models, "what models can be trained"))
    _add_json(command(_methods, "what the methods do"))
    return parser


def _add_run(parser: ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="RUN", help="folder of a trained classifier")
    parser.add_argument(
        "--device", choices=get_args(Device), default="auto", help="(default: %(default)s)"
    )


def _add_columns(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--text-columns",
        type=lambda names: tuple(name.strip() for name in names.split(",")),
        help="one column, or two with a comma for pairs (default: as in training)",
    )


def _add_restart(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--resume", action="store_true", help="go on with an unfinished run in the output folder"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace what the output folder holds"
    )


def _add_json(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _fail(options: Namespace, message: str, status: int) -> int:
    if options.debug:
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
    return status


def _out_of_memory(error: Exception) -> bool:
    """Whether torch or NumPy found no memory; torch on CPUs has no exception class for it."""
    name = type(error).__name__
    return name in ("OutOfMemoryError", "MemoryError", "_ArrayMemoryError") or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )


if __name__ == "__main__":
    sys.exit(main())
