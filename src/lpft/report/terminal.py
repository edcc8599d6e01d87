"""A report in a terminal: experiments, the method table, kernels; and the same as JSON."""

from collections.abc import Iterable, Iterator, Sequence
from textwrap import fill, indent
from typing import Any

import pandas as pd

from lpft.report.build import ReportResult
from lpft.report.experiments import (
    JudgedClaim,
    annotated,
    judged_claims,
    tally,
    timings,
)
from lpft.report.interpolation import format_interpolation
from lpft.report.kernels import (
    first_order,
    linearized,
    path,
    read_certificate,
    read_path,
    regression,
    statistics,
    what_was_computed,
)
from lpft.report.table import TERMINAL_WIDTH, Columns, from_columns, to_text
from lpft.report.text import MARKS, say
from lpft.results.exhibits import Column, Estimate, ExperimentRecord, Figure, Table, Verdict
from lpft.results.formats import decimals_for
from lpft.results.groups import Group, Selector, feature, group_runs, head, model_name, score
from lpft.results.kernels import FIRST_SOLVERS, KernelRecord
from lpft.results.run import Run
from lpft.results.schema import number

_UNDER = "    "  # before what belongs to the line above
_WHERE = ("data", "model", "pooling", "protocol", "remark")
_SIZES = ("feature change", "head norm")


def format_report(report: ReportResult) -> str:
    """What a terminal shows of a report: experiments, then the method table, then kernels."""
    methods = [format_method_table(method_table(report.runs))] if report.runs else []
    between = [format_interpolation(item.record) for item in report.interpolations]
    kernels = [format_kernel_table(item) for item in report.kernels]
    experiments = map(format_experiment, report.experiments)
    return "\n\n".join([*experiments, *methods, *between, *kernels])


def report_record(report: ReportResult) -> dict[str, Any]:
    """A report as JSON: page, method table (a row per setting), experiments, where kernels are.

    Values are those of :func:`method_table`; what a run lacks is None.
    """
    table = method_table(report.runs).astype(object)
    return {
        "page": str(report.page),
        "methods": table.where(pd.notna(table), None).to_dict(orient="records"),
        "experiments": {record.name: record.as_json() for record in report.experiments},
        "interpolations": [str(each.folder) for each in report.interpolations],
        "kernels": [str(each.folder) for each in report.kernels],
        "unread": [
            {"folder": str(each.folder), "state": each.state, "reason": each.reason}
            for each in report.unread
        ],
    }


def method_table(runs: Iterable[Run]) -> pd.DataFrame:
    """One row per setting: accuracy in and out of distribution, ECE, feature change, head norm.

    Columns: ``method``, ``seeds`` (how many), ``ID accuracy``, one ``ood/<name>`` per OOD set
    (accuracy), ``ECE`` and ``ECE with T`` on the ID split, ``feature change`` (Diff), ``head
    norm``. Values are means over seeds, accuracies and ECE as fractions, NaN where a run has
    none; where a setting has two seeds or more, ``<column> sd`` stands beside each. Where the
    runs are of several data sets, models, poolings or protocols, those four columns come first,
    and a ``remark`` where several data sets or models have one name.
    ``frame.attrs`` says which split is the ID split (``id_split``) and which one the features
    are of (``feature_split``).
    """
    groups, _ = group_runs(runs)
    ood = dict.fromkeys(split for group in groups for split in group.ood_splits)
    names: tuple[str, ...] = ()
    if len(groups) > 1:
        names = _WHERE if any(group.remark for group in groups) else _WHERE[:-1]
    records = []
    for group in groups:
        measures = _measures(group, tuple(ood))
        for setting in group.settings:
            where = {name: getattr(group, name) for name in names}
            record: dict[str, Any] = {"method": setting.label, "seeds": len(setting.runs)}
            for name, value in measures.items():
                spread = setting.spread(value)
                mean, sd = (None, None) if spread is None else (spread.mean, spread.sd)
                record[name] = float("nan") if mean is None else mean
                record[f"{name} sd"] = float("nan") if sd is None else sd
            records.append(where | record)
    frame = pd.DataFrame.from_records(records, columns=None if records else ["method", "seeds"])
    empty = [name for name in frame.columns if name.endswith(" sd") and frame[name].isna().all()]
    frame = frame.drop(columns=empty)
    for attribute in ("id_split", "feature_split"):
        splits = dict.fromkeys(getattr(group, attribute) for group in groups)
        frame.attrs[attribute] = " or ".join(splits)
    return frame


def _measures(group: Group, ood: tuple[str, ...]) -> dict[str, Selector]:
    return {
        "ID accuracy": score(group.id_split, "accuracy"),
        **{split: score(split, "accuracy") for split in ood},
        "ECE": score(group.id_split, "ece"),
        "ECE with T": score(group.id_split, "ece", calibrated=True),
        "feature change": feature(group.feature_split, "feature_difference"),
        "head norm": head("norm"),
    }


def format_method_table(frame: pd.DataFrame) -> str:
    """The frame of :func:`method_table` as aligned text of a terminal, with a line on its units."""
    if frame.empty:
        return "no finished runs"
    names = [name for name in _WHERE if name in frame]
    if names:
        parts = [
            f"{' · '.join(str(value) for value in where if value)}\n"
            + _method_rows(part.drop(columns=names))
            for where, part in frame.groupby(names, sort=False)
        ]
    else:
        parts = [_method_rows(frame)]
    units = say(
        "method_table_units",
        id_split=frame.attrs.get("id_split", "test"),
        feature_split=frame.attrs.get("feature_split", "test"),
        several=bool((frame["seeds"] > 1).any()),
    )
    return "\n\n".join([*parts, _wrapped(units)])


def _method_rows(frame: pd.DataFrame) -> str:
    """One group's rows, without the columns that it has nothing in."""
    columns: Columns = [(Column("method"), frame["method"].tolist())]
    if (frame["seeds"] > 1).any():
        columns.append((Column("seeds", format="count"), frame["seeds"].tolist()))
    for name in frame.columns.drop(["method", "seeds"]):
        if name.endswith(" sd") or frame[name].isna().all():
            continue
        means = [number(value) for value in frame[name]]
        known = f"{name} sd" in frame
        deviations = [number(v) for v in frame[f"{name} sd"]] if known else [None] * len(means)
        digits = min(2, decimals_for(means)) if name in _SIZES else 3
        cells = [Estimate(mean, sd) for mean, sd in zip(means, deviations, strict=True)]
        columns.append((_narrow(name, digits), cells))
    return to_text(from_columns("", "", columns, ""))


def _narrow(name: str, digits: int) -> Column:
    """A heading on two lines, so that columns stay as narrow as their numbers."""
    for separator in ("/", " "):
        first, separated, second = name.partition(separator)
        if separated:
            return Column(second, above=first + separated.strip(), digits=digits)
    return Column(name, digits=digits)


def format_kernel_table(kernels: KernelRecord) -> str:
    """Kernels in the layout of the paper's tables 2 and 9.

    P stands once, then F and P + F of every method: rank, Frobenius norm, train and test accuracy
    of kernel regression by the paper's protocol and per text, FT ratio. Above it one line says
    what was computed, below it the units; then all accuracies, where other solvers were asked for,
    and what real training does beside the kernel's prediction, where it was.
    """
    table = statistics(kernels)
    checks = [f"Certificate: {sentence}" for sentence in read_certificate(kernels)]
    what, *notes = map(_wrapped, (what_was_computed(kernels), table.note, *checks))
    further = [path(kernels), first_order(kernels), linearized(kernels)]
    if set(kernels.solvers) - set(FIRST_SOLVERS):
        further.insert(0, regression(kernels))
    tables = (_titled(each) for each in further if each is not None)
    answers = map(_wrapped, read_path(kernels))
    return "\n\n".join([what, to_text(table), "\n".join(notes), *tables, *answers])


def format_experiment(record: ExperimentRecord) -> str:
    """Findings, tables and verdicts of an experiment, with what its numbers are of.

    Figures are named only. Tables that are wider than a terminal are cut into several.
    """
    tables = [exhibit for exhibit in record.exhibits if isinstance(exhibit, Table)]
    figures = [exhibit.title for exhibit in record.exhibits if isinstance(exhibit, Figure)]
    missing = [f"{name}: {reason}" for name, reason in record.failures]
    parts = [
        _wrapped(f"{record.title} ({record.name}, {model_name(record.model)})"),
        _listed("", record.findings),
        *(_titled(annotated(table, record.model)) for table in tables),
        *_verdicts(record.verdicts),
        _listed("Figures on the page:", figures),
        _wrapped(f"Protocol {say('protocol', name=record.protocol)}"),
        _listed("How it differs from the paper's experiment:", record.differences),
        _listed("Missing:", missing),
        f"Time: {timings(record)}." if record.timings else "",
    ]
    return "\n\n".join(part for part in parts if part)


def _titled(table: Table) -> str:
    note = [_wrapped(table.note)] if table.note else []
    return "\n\n".join([table.title, to_text(table, TERMINAL_WIDTH), *note])


def _listed(heading: str, sentences: Sequence[str]) -> str:
    lines = [
        fill(f"- {sentence}", TERMINAL_WIDTH, subsequent_indent="  ", break_on_hyphens=False)
        for sentence in sentences
    ]
    return "\n".join([heading] * bool(heading and lines) + lines)


def _verdicts(verdicts: Sequence[Verdict]) -> Iterator[str]:
    if not verdicts:
        return
    yield f"Verdicts: {tally(verdicts)}"
    for claim in judged_claims(verdicts):
        yield "\n".join(_claim(claim))
    yield _wrapped(say("verdict_note"))


def _claim(claim: JudgedClaim) -> Iterator[str]:
    """The claim, then a line for each comparison with its reason below it."""
    yield _wrapped(f"{claim.number}. {claim.statement}")
    if claim.whole is not None:
        yield _under(f"{_marked(claim.whole)}: {_why(claim.whole)}")
    for verdict in claim.by_rates:
        yield _under(f"{_marked(verdict)} at {verdict.rates} rates: {_why(verdict)}")
    if not claim.comparisons:
        return
    verdicts = claim.comparisons
    columns: Columns = [
        (Column("Comparison"), [verdict.comparison for verdict in verdicts]),
        (Column("Rates"), [verdict.rates for verdict in verdicts]),
        (Column("Effect", format="effect"), [verdict.effect for verdict in verdicts]),
        (Column("Unit"), [verdict.unit for verdict in verdicts]),
        (Column("Detectable"), [verdict.detectable for verdict in verdicts]),
        (Column("Verdict"), [_marked(verdict) for verdict in verdicts]),
    ]
    heading, rule, *lines = to_text(from_columns("", "", columns, "")).splitlines()
    for line in (heading, rule):
        yield indent(line, _UNDER)
    for line, verdict in zip(lines, verdicts, strict=True):
        yield indent(line, _UNDER)
        if _why(verdict):
            yield indent(_under(_why(verdict)), _UNDER)


def _marked(verdict: Verdict) -> str:
    return f"{MARKS[verdict.verdict]} {verdict.verdict}"


def _why(verdict: Verdict) -> str:
    """The reason, and the remark in brackets."""
    return " ".join(filter(None, (verdict.reason, verdict.remark and f"({verdict.remark})")))


def _wrapped(text: str) -> str:
    return fill(text, TERMINAL_WIDTH, break_on_hyphens=False)


def _under(text: str) -> str:
    return fill(
        text,
        TERMINAL_WIDTH - len(_UNDER),
        initial_indent=_UNDER,
        subsequent_indent=_UNDER,
        break_on_hyphens=False,
    )
