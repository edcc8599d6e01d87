"""The parser of ``lpft``: a subparser for each command, with an option for each of its settings."""

import sys
from argparse import (
    SUPPRESS,
    Action,
    ArgumentError,
    ArgumentParser,
    BooleanOptionalAction,
    Namespace,
    _SubParsersAction,
)
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin

from lpft import __version__
from lpft.cli import commands, listings
from lpft.cli.console import as_option
from lpft.errors import meant_choice, nearest
from lpft.settings import MINILM, Backend, Device, ExportFormat, Quantization, Venue
from lpft.settings.configs import command_settings

SHELLS = ("bash", "zsh", "fish")
"""Those that can complete lpft's commands."""

_FOLDERS = ("folder", "data_dir", "output_dir")

BAD_INPUT = 2


def parse(arguments: Sequence[str] | None) -> Namespace:
    """The parsed command line; ``run`` is the function of its command.

    Settings that are not on the command line are not attributes. A wrong line ends the process.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    main, names = _parser()
    if arguments and not arguments[0].startswith("-") and arguments[0] not in names:
        hint = _meant(arguments[0], names)
        main.error(f"unknown command '{arguments[0]}'{hint or ': expected ' + ', '.join(names)}")
    options, unknown = main.parse_known_args(arguments)
    if unknown:
        parser: ArgumentParser = options.parser
        options_of = (action.option_strings for action in parser._actions if action.dest != "help")
        choices = [option for names in options_of for option in names]
        hint = _meant(unknown[0].partition("=")[0], choices)
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    return options


def command_parsers() -> Mapping[str, ArgumentParser]:
    """The parser of each command by the command's name, as the reference describes them."""
    return _parser()[1]


def _meant(name: str, choices: Collection[str]) -> str:
    """``, did you mean ...?``, or nothing where no name is close."""
    near = nearest(name, choices)
    return "" if near is None else f", did you mean {near}?"


class _Parser(ArgumentParser):
    """argparse with the same form of errors as everywhere else."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"error: {message}; see {self.prog} --help\n")

    def _check_value(self, action: Action, value: Any) -> None:
        """argparse's check of choices, with a hint at the nearest one."""
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            hint = meant_choice(str(value), choices)
            raise ArgumentError(
                action, f"'{value}' is unknown{hint}: expected one of {', '.join(choices)}"
            )


def _parser() -> tuple[ArgumentParser, Mapping[str, ArgumentParser]]:
    """The parser, and those of the commands by name."""
    parser = _Parser(
        prog="lpft",
        description="Train text classifiers by linear probing, then fine-tuning; calibrate them, "
        "test them out of distribution, and explain them with their kernel.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"lpft {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(run: Callable[[Namespace], int | None], summary: str) -> ArgumentParser:
        name = run.__name__
        added = subparsers.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        added.add_argument("--debug", action="store_true", help="show the traceback of an error")
        added.set_defaults(run=run, parser=added, keys=frozenset())
        return added

    demo = command(commands.demo, "train five methods on the bundled corpus and write a report")
    _add_output_dir(
        demo, "folder for the report and the runs (default: %(default)s)", Path("demo-report")
    )
    demo.add_argument(
        "--seed", type=int, default=0, help="random seed of all methods (default: %(default)s)"
    )
    _add_flags(demo, "resume", "overwrite", "json")

    train = command(commands.train, "train one classifier")
    train.add_argument("--config", type=Path, help="YAML file with 'option: value' lines")
    _add_settings(train, "train")
    _add_output_dir(train, "folder for the run (default: runs/DATA-MODEL-METHOD-seedS)")
    _add_report(train, "the run's folder")
    _add_flags(
        train,
        "resume",
        "overwrite",
        "json",
        distributed="share this training among the processes of accelerate launch or torchrun, "
        "each with its own GPU or cores; a step has the same rows as in one process",
    )

    interpolate = command(
        commands.interpolate,
        "evaluate the classifiers between linear probing and fine-tuning, and keep the best",
    )
    _add_folder(interpolate, "folder of a run that was fine-tuned from linear probing")
    _add_settings(interpolate, "interpolate")
    _add_output_dir(
        interpolate, "folder for the chosen classifier and the record (default: RUN/interpolation)"
    )
    _add_report(interpolate, "the output folder")
    _add_flags(interpolate, "overwrite", "json")

    evaluate = command(commands.evaluate, "evaluate a trained classifier on more labelled data")
    _add_run(evaluate)
    source = evaluate.add_mutually_exclusive_group(required=True)
    source.add_argument("--task", help="name of a task: evaluate on its test split and OOD sets")
    source.add_argument("--file", type=Path, help="labelled texts: CSV, TSV, JSON Lines or Parquet")
    evaluate.add_argument("--data-dir", type=Path, help="folder of the task's release files")
    evaluate.add_argument(
        "--template",
        type=int,
        help="number of the task's input template (default: the run's on its own task, otherwise "
        "0)",
    )
    _add_columns(evaluate)
    evaluate.add_argument(
        "--label-column", help="column with the class names (default: as in training)"
    )
    _add_flags(evaluate, "json")

    predict = command(
        commands.predict, "predict labels and probabilities of new texts, as JSON Lines or CSV"
    )
    _add_run(predict)
    _add_texts(predict)
    predict.add_argument(
        "--output", type=Path, help="output file, .jsonl or .csv (default: standard output)"
    )
    _add_flags(
        predict,
        resume="continue interrupted predictions of --file into --output, which are in the folder "
        "OUTPUT.partial",
        overwrite="replace the output file, or start interrupted predictions again",
    )
    _add_threshold(predict)
    _add_settings(predict, "predict")
    predict.usage = "%(prog)s RUN [--file FILE | --text TEXT [TEXT ...]] [options]"
    predict.epilog = (
        "Without --file and --text, texts are read from standard input, one per line; for a model "
        "of pairs, two per line with a tab between them."
    )

    explain = command(
        commands.explain,
        "name the training rows that predictions rest on, and those whose labels look wrong",
    )
    _add_folder(explain, "folder of a run of lpft train")
    _add_texts(explain)
    _add_output_dir(explain, "folder for the explanations (default: print them)")
    _add_settings(explain, "explain")
    _add_flags(explain, "dry_run", "overwrite", "json")

    serve = command(
        commands.serve,
        "answer requests for predictions over HTTP, with a page to try texts on",
    )
    _add_run(serve)
    _add_threshold(serve)
    _add_settings(serve, "serve")
    serve.epilog = (
        'POST /predict takes {"text": ...} or {"texts": [...]}, GET /health says what is served, '
        "GET / is the page, GET /openapi.json describes them. Ctrl-C and SIGTERM stop the service "
        "once the requests that have arrived are answered."
    )

    ntk = command(
        commands.ntk,
        "compute the exact empirical NTK (P and F), its statistics and kernel regression",
    )
    _add_folder(
        ntk,
        "folder of a trained classifier, to compute its kernel after training (default: kernels at "
        "the start of --methods)",
        nargs="?",
    )
    _add_settings(ntk, "ntk")
    _add_executor(ntk, "number of processes that share each kernel, each with --memory")
    _add_output_dir(ntk, "folder for the kernels (default: kernels/DATA-MODEL-seedS)")
    _add_flags(ntk, "dry_run", "resume", "overwrite", "json")

    theory = command(commands.theory, "check the paper's propositions numerically")
    theory.add_argument(
        "--seed",
        type=int,
        default=0,
        help="random seed of all models and data (default: %(default)s)",
    )
    _add_flags(theory, "json")

    sweep = command(commands.sweep, "train tasks x models x methods x seeds, from a YAML file")
    sweep.add_argument("config", type=Path, metavar="CONFIG", help="YAML file: what to train")
    _add_executor(sweep, "number of runs at a time")
    sweep.add_argument(
        "--cpus-per-run",
        type=float,
        help="threads of each run; with ray a fraction places several runs on one core (default: "
        "an equal share of the cores)",
    )
    sweep.add_argument(
        "--gpus-per-run",
        type=float,
        help="GPUs of each run; 0.5 places two runs on one (default: an equal share, at most 1)",
    )
    _add_output_dir(sweep, "folder for the sweep (default: sweeps/NAME, with the name of CONFIG)")
    _add_flags(sweep, "resume", "overwrite", "json", dry_run="list the runs, and stop")

    reproduce = command(
        commands.reproduce,
        "repeat an experiment of the paper and show the published numbers beside ours",
    )
    reproduce.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        default="list",
        help="an experiment, or all (default: list the experiments)",
    )
    _add_settings(reproduce, "reproduce")
    reproduce.add_argument(
        "--tiny",
        action="store_true",
        help="use a random model and a few texts, offline: shows in seconds that everything runs",
    )
    _add_executor(reproduce, "number of runs at a time")
    _add_output_dir(
        reproduce, "folder for the experiment, or for all of them (default: experiments/NAME-MODEL)"
    )
    _add_flags(reproduce, "dry_run", "resume", "overwrite", "json")

    report = command(
        commands.report, "write a page, tables and figures about everything in a folder"
    )
    _add_folder(report, "folder with runs, kernels or experiments", metavar="DIR")
    report.add_argument("--output", type=Path, help="the page's file (default: DIR/report.html)")
    report.add_argument(
        "--no-texts-in-report",
        action="store_false",
        dest="texts_in_report",
        help="identify misclassified texts by their row numbers only",
    )
    report.add_argument(
        "--venue",
        choices=get_args(Venue),
        help="make the figure files with the width and font of this venue's text or column "
        "(default: as on the page)",
    )
    _add_flags(report, "json", overwrite="also replace files that lpft report did not write")

    export = command(commands.export, "export a trained classifier for programs without lpft")
    _add_folder(export)
    export.add_argument(
        "--format",
        choices=get_args(ExportFormat),
        required=True,
        help="transformers: a stock model of its family; onnx: a graph (needs the onnx extra)",
    )
    _add_output_dir(
        export, "folder for the export (default: exports/NAME-FORMAT, with the run's name)"
    )
    export.add_argument(
        "--quantize",
        choices=get_args(Quantization),
        help="int8: an onnx graph with weights and products in 8 bits, smaller and faster; what "
        "this costs is measured on the run's validation rows, or on those of --file (default: "
        "float32)",
    )
    export.add_argument(
        "--file",
        type=Path,
        help="labelled texts on which to measure --quantize: CSV, TSV, JSON, Parquet",
    )
    _add_columns(export)
    export.add_argument(
        "--label-column", help="column of --file with the class names (default: as in training)"
    )
    _add_flags(export, "json", overwrite="replace an older export")

    check = command(listings.check, "check data before training on it")
    _add_settings(check, "check")
    _add_flags(
        check,
        "json",
        label_errors="also list the rows whose label is probably wrong, judging by linear probes "
        "on the features of --model",
    )

    tasks = command(listings.tasks, "list the tasks that lpft knows by name")
    tasks.add_argument("name", nargs="?", metavar="NAME", help="show everything about one task")
    _add_flags(tasks, "json")
    _add_flags(command(listings.models, "list the model families that can be trained"), "json")
    _add_flags(command(listings.methods, "explain the training methods"), "json")

    def completion(options: Namespace) -> None:
        print(completion_script(parser, options.shell))

    completing = command(completion, "print a script that completes lpft's commands in a shell")
    completing.add_argument("shell", choices=SHELLS, help="the shell that will run the script")
    completing.epilog = (
        "bash: source <(lpft completion bash) in ~/.bashrc. zsh: lpft completion zsh > _lpft in a "
        "folder of $fpath. fish: lpft completion fish > ~/.config/fish/completions/lpft.fish."
    )
    return parser, subparsers.choices


def _add_settings(parser: ArgumentParser, command: str) -> None:
    """A long option for each setting that the command takes, under the headings of its models."""
    groups: dict[str, Any] = {}
    for name, item in command_settings(command).items():
        heading = item.owner.heading
        if heading not in groups:
            groups[heading] = parser.add_argument_group(heading)
        option, shared = as_option(name), {"dest": name, "default": SUPPRESS}
        if item.type is bool:
            groups[heading].add_argument(
                option, action=BooleanOptionalAction, help=item.full_help(), **shared
            )
            continue
        groups[heading].add_argument(
            option,
            action="append" if get_origin(item.type) is dict else "store",
            choices=item.choices,
            metavar=item.form,
            help=item.full_help(),
            **shared,
        )


def _add_folder(
    parser: ArgumentParser,
    text: str = "folder of a trained classifier",
    metavar: str = "RUN",
    **more: Any,
) -> None:
    parser.add_argument("folder", type=Path, metavar=metavar, help=text, **more)


def _add_output_dir(parser: ArgumentParser, text: str, default: Path | None = None) -> None:
    parser.add_argument("--output-dir", type=Path, default=default, help=text)


def _add_report(parser: ArgumentParser, folder: str) -> None:
    parser.add_argument(
        "--report",
        action=BooleanOptionalAction,
        default=True,
        help=f"write the page report.html into {folder}, which takes seconds (default: yes)",
    )


def _add_run(parser: ArgumentParser) -> None:
    _add_folder(parser)
    parser.add_argument(
        "--device",
        choices=get_args(Device),
        default="auto",
        help="device to compute on; auto uses a GPU if there is one (default: %(default)s)",
    )
    parser.add_argument(
        "--backend",
        choices=get_args(Backend),
        help="library that computes: torch, or onnx (ONNX Runtime on the CPU; needs the onnx "
        "extra), which exports RUN once and keeps the export in the cache. RUN may also be a "
        "folder of lpft export --format onnx (default: torch; onnx for such a folder)",
    )


def _add_texts(parser: ArgumentParser) -> None:
    """A file of texts with its columns, or texts on the command line."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--file", type=Path, help="CSV, TSV, JSON or Parquet")
    group.add_argument(
        "--text",
        nargs="+",
        help="texts, after RUN; for a model of pairs, every two texts form a pair (write --text=-x "
        "for one that begins with a dash)",
    )
    _add_columns(parser)


def _add_columns(parser: ArgumentParser) -> None:
    def names(text: str) -> tuple[str, ...]:
        return tuple(name.strip() for name in text.split(","))

    parser.add_argument(
        "--text-columns",
        type=names,
        help="text column, or two for pairs, separated by a comma; in JSON files data.text is "
        "the field text of the object data (default: as in training)",
    )
    parser.add_argument(
        "--column-names",
        type=names,
        help="names of all columns, separated by commas, for a CSV or TSV file without a header "
        "line",
    )
    parser.add_argument(
        "--encoding",
        help="encoding of the input, such as latin-1, cp1252 or utf-16 (default: UTF-8, however "
        "the training files were written)",
    )
    parser.add_argument(
        "--delimiter",
        help="character between the fields of a CSV or TSV file, such as ';', or tab (default: a "
        "comma in .csv files, a tab in .tsv and .txt files, however the training files were "
        "written)",
    )


def _add_threshold(parser: ArgumentParser) -> None:
    for name, text in (
        ("abstain_below", "abstain where the largest probability is below this"),
        ("target_accuracy", "abstain so that accepted predictions are this accurate"),
        ("target_coverage", "abstain so that this share of texts is accepted"),
    ):
        source = "" if name == "abstain_below" else ", judging by the run's validation rows"
        parser.add_argument(
            as_option(name), help=f"{text}{source} (a fraction; default: as in training)"
        )


def _add_executor(parser: ArgumentParser, workers: str) -> None:
    """Where something is computed, and by how many at a time."""
    parser.add_argument(
        "--executor",
        default="local",
        help="where to compute: local (this machine) or ray (the cluster of RAY_ADDRESS, or this "
        "machine) (default: %(default)s)",
    )
    parser.add_argument("--workers", type=int, default=1, help=f"{workers} (default: %(default)s)")


_FLAGS = {
    "dry_run": "print what would be computed, and stop",
    "resume": "continue what is unfinished in the output folder",
    "overwrite": "replace the contents of the output folder",
    "json": "print JSON",
}


def _add_flags(parser: ArgumentParser, *names: str, **texts: str) -> None:
    """Add options without a value: some of :data:`_FLAGS`, and others with their help."""
    for name, text in {**texts, **{name: _FLAGS[name] for name in names}}.items():
        parser.add_argument(as_option(name), action="store_true", help=text)


def completion_script(parser: ArgumentParser, shell: str) -> str:
    """What a shell runs to complete ``lpft``: commands, options, their values, files and folders.

    The script is static: completing starts no Python.
    """
    import shtab

    (subparsers,) = (a for a in parser._actions if isinstance(a, _SubParsersAction))
    for name, subparser in subparsers.choices.items():
        paths = {
            setting.name for setting in command_settings(name).values() if setting.type is Path
        }
        for action in subparser._actions:
            if action.dest in _FOLDERS:
                _complete(action, shtab.DIRECTORY)
            elif action.type is Path or action.dest in (*paths, "file"):
                _complete(action, shtab.FILE)
            elif action.choices is None:
                action.choices = _names(name, action.dest)
                if action.dest == "model":  # or any folder
                    _complete(action, shtab.DIRECTORY)
    return str(shtab.complete(parser, shell))


def _complete(action: Action, completer: dict[str, str]) -> None:
    action.complete = completer  # type: ignore[attr-defined]  # where shtab looks


def _names(command: str, argument: str) -> Sequence[str] | None:
    """The values of an argument that are known by name; None where there are none."""
    from lpft.data import TASKS
    from lpft.executors import EXECUTORS
    from lpft.experiments.catalogue import ALL, EXPERIMENTS
    from lpft.settings.methods import AUTO, METHODS

    return {
        ("tasks", "name"): tuple(TASKS),
        ("reproduce", "name"): (*EXPERIMENTS, ALL, "list"),
        (command, "executor"): tuple(EXECUTORS),
        (command, "method"): (AUTO, *METHODS),
        (command, "model"): (MINILM,),
        (command, "task"): tuple(TASKS),
    }.get((command, argument))
