"""What the command line reads and shows: options, standard input; errors, tables and JSON."""

import json
import shlex
import sys
from argparse import Namespace
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Collection, Sequence
from io import TextIOWrapper
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, TextIO

from lpft.errors import InputError
from lpft.results.formats import aligned, duration, significant
from lpft.settings.configs import command_settings

if TYPE_CHECKING:
    from lpft.results.schema import ExplainedText, ExplanationRecord, RunRecord

_MAX_NAMES = 3
"""Parameters whose names the plan of a kernel shows."""


def parsed_settings(options: Namespace, command: str) -> dict[str, Any]:
    """The settings that were given on the command line."""
    return {
        name: getattr(options, name) for name in command_settings(command) if hasattr(options, name)
    }


def standard_input(encoding: str | None = None) -> TextIO:
    """Standard input in an encoding, by default UTF-8 whatever the locale.

    A byte-order mark, as Windows programs write it, is no part of the first text; with that of
    UTF-16 the input is read as UTF-16. Bytes that are not of the encoding stay recognizable, but
    for UTF-16 and UTF-32, which are strict.
    """
    if isinstance(sys.stdin, TextIOWrapper):
        buffer: Any = sys.stdin.buffer
        mark = (buffer.peek(2) if hasattr(buffer, "peek") else buffer.getvalue())[:2]
        if encoding is None:
            encoding = "utf-16" if mark in (BOM_UTF16_LE, BOM_UTF16_BE) else "utf-8-sig"
        wide = encoding.lower().replace("_", "-").startswith(("utf-16", "utf-32"))
        sys.stdin.reconfigure(encoding=encoding, errors="strict" if wide else "surrogateescape")
    return sys.stdin


def write_any_text() -> None:
    """Let output carry any text whatever the locale: UTF-8 in files and pipes, else escapes."""
    if isinstance(sys.stdout, TextIOWrapper):
        if sys.stdout.isatty():
            sys.stdout.reconfigure(errors="backslashreplace")
        else:
            sys.stdout.reconfigure(encoding="utf-8")
    if isinstance(sys.stderr, TextIOWrapper):
        sys.stderr.reconfigure(errors="backslashreplace")


def print_error(error: Exception | str, place: str = "", keys: Collection[str] = ()) -> None:
    """``error: ...`` on standard error, with settings as options.

    Those in ``keys`` stand in a YAML file, where they are called as in Python.
    """

    def spell(setting: str) -> str:
        return setting if setting.partition("=")[0] in keys else as_option(setting)

    text = error.spelled(spell) if isinstance(error, InputError) else str(error)
    print(f"error: {place}{text}", file=sys.stderr)


def as_option(setting: str) -> str:
    """``--learning-rate`` of ``learning_rate``, ``--no-save-model`` of ``save_model=False``."""
    name, _, value = setting.partition("=")
    return f"--{'no-' if value == 'False' else ''}{name.replace('_', '-')}"


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_quantization(result: dict[str, Any]) -> None:
    """What int8 costs in accuracy and gains in speed, from ``export.json``."""
    kinds = {
        "the run, float32": result["before"],
        result["type"]: result["after"],
    }
    print_table(
        ["", "accuracy", "NLL", "ECE"],
        [
            [name, f"{metrics['accuracy']:.3f}", f"{metrics['nll']:.4f}", f"{metrics['ece']:.4f}"]
            for name, metrics in kinds.items()
        ],
    )
    kind, rates, times = result["type"], result["rows_per_second"], result["times_as_fast"]
    sizes = result["megabytes"]
    print(
        f"On {result['rows']} labelled rows {kind} gives {result['same_label']:.1%} the run's "
        f"label; a probability differs by up\nto {result['largest_difference']:.2f}. It reads "
        f"{rates[kind]:.0f} rows per second, {times['as_torch']:.2f} times as many as PyTorch and "
        f"{times['as_float32']:.2f} times\nas many as the graph in float32, and takes "
        f"{sizes['after']:.0f} MB instead of {sizes['before']:.0f}."
    )


def print_metrics(metrics: dict[str, Any]) -> None:
    from lpft.analysis.metrics import CONDITIONAL_METRICS, ORDINARY_METRICS, metric_name

    names = dict.fromkeys(name for m in metrics["splits"].values() for name in m)
    ordinary = (*ORDINARY_METRICS, *CONDITIONAL_METRICS)
    group_metrics = [name for name in names if name not in ordinary]
    group_metrics += [name for name in ("coverage", "accepted_accuracy") if name in names]
    columns = ("accuracy", "macro_f1", "matthews_correlation", *group_metrics)

    def decimals(value: float | None) -> str | None:
        return None if value is None else f"{value:z.3f}"  # z: no "-0.000"

    rows = [
        [
            split,
            m["rows"],
            *map(decimals, (m.get(name) for name in columns)),
            *(decimals(of[name]) for name in ("nll", "ece") for of in (m, m["calibrated"])),
        ]
        for split, m in metrics["splits"].items()
    ]
    headings = ["split", "rows", "accuracy", "macro F1", "MCC", *map(metric_name, group_metrics)]
    print_table([*headings, "NLL", "with T", "ECE", "with T"], rows)
    print(f"temperature T: {metrics['temperature']:.3f}")
    abstention = metrics.get("abstention")
    if abstention is not None and abstention["abstain_below"] is not None:
        below = abstention["abstain_below"]
        never = "never abstains: all validation rows together keep what was asked for"
        print(f"abstains below a confidence of {below:.3f}" if below > 0 else never)
    for split, m in metrics["splits"].items():
        unseen = m.get("unseen")
        if unseen is not None:
            auroc, rejected = map(decimals, (unseen["confidence_auroc"], unseen["rejected"]))
            print(
                f"{split}: {unseen['rows']} row{'s' * (unseen['rows'] != 1)} of classes that "
                "training lacks"
                + ("" if auroc is None else f", AUROC of confidence {auroc}")
                + ("" if rejected is None else f", share rejected {rejected}")
            )


def print_run(record: "RunRecord", metrics: dict[str, Any]) -> None:
    """How a run ended: the epoch that was kept, the time, scores with intervals, the choice."""
    from lpft.analysis.comparison import wilson

    selection = record.selection
    method, checkpoint = record.config["method"], record.checkpoint
    epoch = (
        "" if checkpoint is None else f", epoch {checkpoint.epoch:g} of {checkpoint.epochs:g} kept"
    )
    if checkpoint is not None and checkpoint.probe_won:
        epoch += " (the linear probe)"
    times = [record.timings.get("total")]
    if selection is not None:
        times = [candidate.seconds for candidate in selection.candidates]
    print(f"\n{method}{epoch}, {duration(sum(time or 0.0 for time in times))} in all")
    for split, values in metrics["splits"].items():
        if values["accuracy"] is None:  # none of its classes is known
            continue
        low, high = wilson(values["accuracy"], values["rows"])
        print(
            f"accuracy on {split}: {values['accuracy']:.3f} "
            f"(95 % interval {low:.3f} to {high:.3f}, {values['rows']} rows)"
        )
    if selection is not None:
        if len(selection.candidates) == 1:
            print("no choice was made: no other run was trained")
            return
        scores = ", ".join(
            f"{candidate.folder.rpartition('/')[2]} "
            + ("-" if candidate.score is None else f"{candidate.score:.3f}")
            for candidate in selection.candidates
        )
        print(f"chosen by accuracy on the same validation rows ({scores}): {selection.reason}")


def print_explanations(record: "ExplanationRecord") -> None:
    """Each text with the training rows for and against its class, then the doubtful labels."""
    blocks = [_explained(text) for text in record.texts]
    if record.labels is not None:
        blocks.append(_doubtful(record))
    print("\n\n".join(blocks))


def _explained(text: "ExplainedText") -> str:
    rows = [
        [
            side,
            row.row,
            row.label,
            *(significant(value) for value in (row.score, row.head, row.encoder)),
            _shortened(row.text),
        ]
        for side, of in (("for", text.supporting), ("against", text.opposing))
        for row in of
    ]
    header = ("", "row", "label", "score", "head", "encoder", "training text")
    numeric = [name in header[1:2] + header[3:6] for name in header]
    title = f"{_shortened(text.text)}: {text.label} ({text.probability:.3f})"
    lines = aligned(header, [list(map(str, row)) for row in rows], numeric)
    return "\n".join([title, *lines])


def _doubtful(record: "ExplanationRecord") -> str:
    assert record.labels is not None
    header = ("row", "label", "rather", "margin", "training text")
    rows = [
        [
            str(label.row),
            str(label.label),
            str(label.suggested),
            significant(label.margin),
            _shortened(label.text),
        ]
        for label in record.labels
    ]
    title = (
        f"look at the labels of these {len(rows)} of {record.rows:,} training rows, in this order: "
        "by the kernel, the other rows support these labels least"
    )
    return "\n".join([title, *aligned(header, rows, [True, False, False, True, False])])


def _shortened(text: str | list[str], most: int = 60) -> str:
    joined = " | ".join(text) if isinstance(text, list) else text
    return shorten(joined, most, placeholder=" ...") or joined[:most]


def next_command(record: "RunRecord", folder: Path) -> str:
    """The command that a user would run next: predict."""
    if record.config.get("save_model") is False:
        return f"lpft report {shlex.quote(str(folder))} (its weights were not saved)"
    return f"lpft predict {shlex.quote(str(folder))} --file new.csv --output predictions.csv"


def print_plan(plan: dict[str, Any], weights: Sequence[Sequence[Any]]) -> None:
    """A kernel's plan: what it will take, then a line for alike linear weights."""
    flops = plan["flops"]
    lines = {
        "texts": f"{plan['texts']}, with {plan['tokens']:,} tokens in total, on {plan['device']}",
        "passes": f"1 forward and {plan['backward_passes']} backward, "
        + (
            f"block by block ({plan['blocks']})"
            if plan["blocks"]
            else "the whole encoder at once (no chain of blocks was found)"
        )
        + ("" if plan["batches_of_several_texts"] else ", text by text"),
        "tiles": f"{plan['tiles']}, {plan['tiles_held']} held at once; hidden states in "
        f"{plan['between_blocks']}"
        + (
            f"; {plan['stages']} passes through a block, each for some of its weights"
            if plan["stages"] > 1
            else ""
        ),
        **_of_workers(plan),
        "by autograd": _by_autograd(plan),
        "work": f"{flops['passes'] / 1e12:.2f} TFLOP of passes, {flops['forming'] / 1e12:.2f} to "
        f"form gradients, {flops['contracting'] / 1e12:.2f} to contract them",
        "memory": f"{plan['expected_memory'] / 1e9:.1f} of {plan['memory_budget'] / 1e9:.1f} GB"
        + (", each worker" if plan["workers"] > 1 else ""),
        "time": f"about {plan['expected_seconds']:.0f} s at the {plan['matmul_gflops']:.0f} "
        "GFLOP/s measured here",
    }
    for name, text in lines.items():
        print(f"{name + ':':<13}{text}")
    if weights:
        print()
        header = ["layers", "weights", "count", "size", "tokens", "method", "GFLOP"]
        print_table(header, weights)


def _of_workers(plan: dict[str, Any]) -> dict[str, str]:
    """How many share the steps, where several do."""
    workers, steps = plan["workers"], plan["steps"]
    if workers == 1:
        return {}
    if steps < workers:
        text = f"{steps} of {workers} have work: with more tiles it would take longer"
    else:
        text = f"{workers} share {steps} steps, two tiles at a time"
    return {"workers": text}


def _by_autograd(plan: dict[str, Any]) -> str:
    """The parameters without a rule: their share, their cost, and some of their names."""
    names, autograd, passes = plan["by_autograd"], plan["autograd"], plan["flops"]["passes"]
    if not names:
        return "nothing: every parameter has a rule"
    rest = len(names) - _MAX_NAMES
    return (
        f"{autograd['parameters']} of {autograd['of']} parameters, text by text: "
        f"{autograd['flops'] / 1e12:.2f} TFLOP ({autograd['flops'] / passes:.0%}) of the passes ("
        + ", ".join(names[:_MAX_NAMES])
        + (f" and {rest} more)" if rest > 0 else ")")
    )


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Columns of text left, of numbers right; None is shown as a dash."""
    texts = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    numeric = [
        all(cell == "-" or cell.replace(".", "").replace("-", "").isdigit() for cell in column)
        for column in zip(*texts, strict=True)
    ]
    print("\n".join(aligned(header, texts, numeric or [False] * len(header))))
