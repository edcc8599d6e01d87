"""What each command does with its parsed options: call, and print what came of it."""

import sys
from argparse import Namespace
from typing import Any

from lpft.console import print_json, print_metrics, print_plan, print_table, standard_input
from lpft.errors import InputError
from lpft.runs.kernel_settings import OWNERS, make_kernel_config
from lpft.runs.options import given_settings


def demo(options: Namespace) -> None:
    """Train the demo's methods, compute its kernels, write and print its report."""
    from lpft.experiments.demo import demo_kernels, run_demo
    from lpft.report import build_report, format_report

    replace = options.resume or options.overwrite
    runs, page = options.output_dir / "runs", options.output_dir / "report.html"
    if page.exists() and not replace:
        raise InputError(
            f"'{page}' exists: give --overwrite to replace the demo, or another --output-dir"
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
    print(format_report(report))
    print(f"\nreport: {report.page}")


def train(options: Namespace) -> None:
    """Train one classifier and print its metrics."""
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


def evaluate(options: Namespace) -> None:
    """Print a trained classifier's metrics on more data."""
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


def predict(options: Namespace) -> None:
    """Print or save labels and probabilities of new texts."""
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


def ntk(options: Namespace) -> None:
    """Compute kernels and print their table, or print their plan."""
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


def theory(options: Namespace) -> None:
    """Print the paper's propositions, measured beside what they promise."""
    from lpft.experiments.theory import run_theory, theory_json, theory_table

    checks = run_theory(seed=options.seed)
    if options.json:
        print_json(theory_json(checks, seed=options.seed))
        return
    header, rows = theory_table(checks)
    print_table(list(header), [list(row) for row in rows])


def report(options: Namespace) -> None:
    """Write the report of a folder and print its tables."""
    from lpft.report import build_report, format_report

    report = build_report(options.folder, options.output, overwrite=options.overwrite)
    print(format_report(report))
    print(f"\nreport: {report.page}")


def check(options: Namespace) -> None:
    """Print what is to be known of data before anyone trains on it."""
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


def tasks(options: Namespace) -> None:
    """Print the tasks, or one of them whole."""
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


def models(options: Namespace) -> None:
    """Print the models that can be trained."""
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


def methods(options: Namespace) -> None:
    """Print the methods and what they do."""
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
