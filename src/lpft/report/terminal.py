"""The method table as a data frame and as text for a terminal, with the tables of kernels."""

from collections.abc import Iterable

import pandas as pd

from lpft.report.build import ReportResult
from lpft.report.exhibits.terminal import format_experiment
from lpft.report.kernels.terminal import format_kernel_table
from lpft.report.numbers import Spread, decimals_for, number, with_sd
from lpft.results.groups import Group, Selector, feature, group_runs, head, score
from lpft.results.run import Run

_WHERE = ("data", "model", "pooling", "protocol")
_SIZES = ("feature change", "head norm")


def method_table(runs: Iterable[Run]) -> pd.DataFrame:
    """One row per setting: accuracy in and out of distribution, ECE, feature change, head norm.

    Columns: ``method``, ``seeds`` (how many), ``ID accuracy``, one ``ood/<name>`` per OOD set
    (accuracy), ``ECE`` and ``ECE with T`` on the ID split, ``feature change`` (Diff), ``head
    norm``. Values are means over seeds, accuracies and ECE as fractions, NaN where a run has
    none; where a setting has two seeds or more, ``<column> sd`` stands beside each. Where the
    runs are of several data sets, models, poolings or protocols, those four columns come first.
    ``frame.attrs`` says which split is the ID split (``id_split``) and which one the features
    are of (``feature_split``).
    """
    groups, _ = group_runs(runs)
    ood = dict.fromkeys(split for group in groups for split in group.ood_splits)
    records = []
    for group in groups:
        measures = _measures(group, tuple(ood))
        for setting in group.settings:
            spreads = {name: setting.spread(value) for name, value in measures.items()}
            where = {name: getattr(group, name) for name in _WHERE} if len(groups) > 1 else {}
            records.append(where | _record(setting.label, len(setting.runs), spreads))
    frame = pd.DataFrame.from_records(records, columns=None if records else ["method", "seeds"])
    empty = [name for name in frame.columns if name.endswith(" sd") and frame[name].isna().all()]
    frame = frame.drop(columns=empty)
    for attribute in ("id_split", "feature_split"):
        splits = dict.fromkeys(getattr(group, attribute) for group in groups)
        frame.attrs[attribute] = " or ".join(splits)
    return frame


def format_report(report: ReportResult) -> str:
    """What a terminal shows of a report: experiments, then the method table, then kernels."""
    methods = [format_method_table(method_table(report.runs))] if report.runs else []
    kernels = [format_kernel_table(found) for found in report.kernels]
    return "\n\n".join([*map(format_experiment, report.experiments), *methods, *kernels])


def _measures(group: Group, ood: tuple[str, ...]) -> dict[str, Selector]:
    return {
        "ID accuracy": score(group.id_split, "accuracy"),
        **{split: score(split, "accuracy") for split in ood},
        "ECE": score(group.id_split, "ece"),
        "ECE with T": score(group.id_split, "ece", calibrated=True),
        "feature change": feature(group.feature_split, "feature_difference"),
        "head norm": head("norm"),
    }


def _record(
    label: str, seeds: int, spreads: dict[str, Spread | None]
) -> dict[str, str | int | float]:
    record: dict[str, str | int | float] = {"method": label, "seeds": seeds}
    for name, spread in spreads.items():
        mean, sd = (None, None) if spread is None else (spread.mean, spread.sd)
        record[name] = float("nan") if mean is None else mean
        record[f"{name} sd"] = float("nan") if sd is None else sd
    return record


def format_method_table(frame: pd.DataFrame) -> str:
    """The frame of :func:`method_table` as aligned text of a terminal, with a line on its units."""
    if frame.empty:
        return "no finished runs"
    if "data" in frame:
        parts = [
            f"{' · '.join(map(str, where))}\n{_block(part.drop(columns=list(_WHERE)))}"
            for where, part in frame.groupby(list(_WHERE), sort=False)
        ]
    else:
        parts = [_block(frame)]
    several = "; mean ± standard deviation over seeds" if (frame["seeds"] > 1).any() else ""
    legend = (
        f"ID: {frame.attrs.get('id_split', 'test')} split. ID and ood/...: accuracy. ECE: 15 bins, "
        "on ID, without and with temperature T.\nfeature change: mean L2 distance of the features "
        f"of {frame.attrs.get('feature_split', 'test')} texts from pre-trained ones{several}."
    )
    return "\n\n".join([*parts, legend])


def _block(frame: pd.DataFrame) -> str:
    """One group's rows, without the columns that it has nothing in."""
    names = [n for n in frame.columns if not n.endswith(" sd") and not frame[n].isna().all()]
    if (frame["seeds"] == 1).all():
        names.remove("seeds")
    columns = [[*_heading(name), *_texts(frame, name)] for name in names]
    padded = [
        [f"{text:{'<' if name == 'method' else '>'}{max(map(len, column))}}" for text in column]
        for name, column in zip(names, columns, strict=True)
    ]
    lines = ["  ".join(cells).rstrip() for cells in zip(*padded, strict=True)]
    lines.insert(2, "-" * max(map(len, lines)))
    return "\n".join(lines)


def _heading(name: str) -> tuple[str, str]:
    """A heading on two lines, so that columns stay as narrow as their numbers."""
    for separator in ("/", " "):
        first, found, second = name.partition(separator)
        if found:
            return first + found.strip(), second
    return "", name


def _texts(frame: pd.DataFrame, name: str) -> list[str]:
    values = frame[name].tolist()
    if name in ("method", "seeds"):
        return [str(value) for value in values]
    numbers = [number(value) for value in values]
    deviations = frame[f"{name} sd"].tolist() if f"{name} sd" in frame else [None] * len(values)
    digits = min(2, decimals_for(numbers)) if name in _SIZES else 3
    return [
        with_sd(None if mean is None else Spread(mean, number(deviation), 1), digits)
        for mean, deviation in zip(numbers, deviations, strict=True)
    ]
