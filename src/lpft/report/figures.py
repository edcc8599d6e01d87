"""The figures of runs and of kernels: accuracy, feature change, training, calibration; spectra."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lpft.analysis.calibration import reliability_bins
from lpft.analysis.comparison import wilson
from lpft.data.examples import UNSEEN
from lpft.report.text import say
from lpft.results.differences import Comparison, Match
from lpft.results.exhibits import Figure, FigureKind, Panel, Series, thinned
from lpft.results.formats import decimals_for, fixed, rate, whole
from lpft.results.groups import Group, Setting, method_name, score
from lpft.results.kernels import (
    FT,
    NTK,
    PRETRAIN,
    KernelRecord,
    KernelStatistics,
    MethodRecord,
    block_size,
    heat_map_panels,
    kernel_name,
)
from lpft.results.leaderboard import accuracy_over_coverage as coverage_of
from lpft.results.run import CURVES, Run

TRAINING_CURVES = ("loss", "validation_loss", "validation_accuracy")
"""What tells a practitioner whether training went well."""
_MOST_BINS, _ROWS_OF_BIN = 10, 20  # of a reliability diagram
_MOST_COVERAGES, _FEWEST = 120, 10  # points of a curve, and texts from which it is drawn
_MOST_PIXELS = 256  # a side of a heat map
_FROM_ZERO = ("head_norm", "bias_norm", "logit_norm", "feature_difference")
_BELOW = 1e-2  # how far below the rank tolerance a spectrum goes: further down is rounding
_NO_TOLERANCE = 1e-6


def figure(
    name: str,
    title: str,
    kind: FigureKind,
    panels: Sequence[Panel],
    values_in: str,
    caption: str = "",
    **values: Any,
) -> Figure:
    """A figure whose caption is a sentence of the templates: ``<name>_caption``, or ``caption``."""
    sentence = caption if caption else f"{name.replace('-', '_')}_caption"
    return Figure(name, title, kind, tuple(panels), say(sentence, **values), values_in=values_in)


def accuracy(group: Group) -> Figure:
    """Accuracy of every setting on the ID set and on each OOD set, with an interval each."""
    splits = (group.id_split, *group.ood_splits)
    lines = tuple(_accuracies(setting, splits) for setting in group.settings)
    panel = Panel("", "", "accuracy", lines, ticks=splits)
    title = "Accuracy in and out of distribution"
    return figure("accuracy", title, "points", [panel], "the table of methods", group=group)


def _accuracies(setting: Setting, splits: Sequence[str]) -> Series:
    """Accuracies: with the Wilson interval of one seed's rows, or ± one standard deviation."""
    points: list[tuple[float | None, float | None, float | None]] = []
    for split in splits:
        spread, rows = setting.spread(score(split, "accuracy")), setting.rows(split)
        if spread is None or rows is None:
            points.append((None, None, None))
        elif spread.sd is None:
            points.append((spread.mean, *wilson(spread.mean, rows)))
        else:
            points.append((spread.mean, spread.mean - spread.sd, spread.mean + spread.sd))
    y, low, high = zip(*points, strict=True)
    x = tuple(map(float, range(len(splits))))
    return Series(setting.label, x, y, setting.method, low, high)


def feature_change(comparisons: Sequence[Comparison]) -> Figure | None:
    """Feature change of each matched pair, own rates above shared ones; None without a pair."""
    panels = [
        panel for comparison in comparisons if (panel := _change_panel(comparison)) is not None
    ]
    if not panels:
        return None
    title, values_in = "Feature change of matched pairs", "the tables of feature change"
    return figure("feature-change", title, "points", panels, values_in)


def _change_panel(comparison: Comparison) -> Panel | None:
    rows = [(_rates_of(m), m.change) for m in comparison.matches if m.change is not None]
    if not rows:
        return None
    digits = decimals_for(spread.mean for _, change in rows for spread in change)
    series = []
    for side, method in enumerate(comparison.methods):
        spreads = [change[side] for _, change in rows]
        ends = [(s.mean, 0.0 if s.sd is None else s.sd) for s in spreads]
        series.append(
            Series(
                label=method_name(method),
                method=method,
                x=tuple(map(float, range(len(rows)))),
                y=tuple(spread.mean for spread in spreads),
                low=tuple(mean - sd for mean, sd in ends),
                high=tuple(mean + sd for mean, sd in ends),
                texts=tuple(fixed(spread.mean, digits) for spread in spreads),
            )
        )
    return Panel(
        title=" and ".join(map(method_name, comparison.methods)),
        x="",
        y=f"feature change ({comparison.matches[0].split})",
        ticks=tuple(name for name, _ in rows),
        series=tuple(series),
        from_zero=True,
    )


def _rates_of(match: Match) -> str:
    if not match.shared:
        return "each at its own rate"
    rates = match.rates[0]
    return f"both at rate {rate(rates.learning_rate)},\nbatch {whole(rates.batch_size)}"


def training(group: Group) -> Figure | None:
    """Losses and accuracy along training, a line per run; None where none has two points."""
    return _curves(group, "training", "During training", TRAINING_CURVES)


def norms(group: Group) -> Figure | None:
    """Feature change and norms along training, a line per run; None where none has two points."""
    names = tuple(name for name, *_ in CURVES if name not in TRAINING_CURVES)
    return _curves(group, "norms", "Features and norms during training", names)


def _curves(group: Group, name: str, title: str, quantities: Sequence[str]) -> Figure | None:
    panels = []
    for quantity, _, axis in CURVES:
        if quantity not in quantities:
            continue
        lines = [
            Series(
                label=setting.label,
                method=setting.method,
                x=tuple(epoch for epoch, _ in points),
                y=tuple(value for _, value in points),
            )
            for setting in group.settings
            for points in (run.curve(quantity) for run in setting.runs)
        ]
        if any(len(line.x) > 1 for line in lines):  # a line has two points
            from_zero = quantity in _FROM_ZERO
            panels.append(Panel(axis, "epoch", "", tuple(lines), from_zero=from_zero))
    return figure(name, title, "lines", panels, "history.jsonl of each run") if panels else None


def reliability(run: Run) -> Figure:
    """Accuracy against confidence on every split, in bins of equally many rows with intervals."""
    panels = []
    for split in run.metrics:
        if (run.predictions[split].labels != UNSEEN).any():
            name = split.removeprefix("ood/")
            name = name if name == split else f"{name} (new domain)"
            panels.append(Panel(name, "confidence", "right", (_bins(run, split),)))
    title = f"Reliability of {method_name(run.method)}"
    return figure("reliability", title, "reliability", panels, "predictions of the run")


def _bins(run: Run, split: str) -> Series:
    known = run.predictions[split].known()
    count = max(1, min(_MOST_BINS, len(known.labels) // _ROWS_OF_BIN))
    probabilities = known.probabilities(run.temperature)
    bins = reliability_bins(probabilities, known.labels, count, strategy="count")
    return Series(
        label=method_name(run.method),
        method=run.method,
        x=tuple(bins.confidence.tolist()),
        y=tuple(bins.accuracy.tolist()),
        low=tuple(bins.low.tolist()),
        high=tuple(bins.high.tolist()),
    )


def accuracy_over_coverage(settings: Sequence[Setting], split: str) -> Figure:
    """How right each method is on the share of texts that it is most sure of."""
    lines = []
    for setting in settings:
        if split not in setting.first.predictions:
            continue
        curve_of = coverage_of(setting.first, split)
        indices = thinned(len(curve_of.rows), _MOST_COVERAGES)
        enough = curve_of.rows[indices] >= min(_FEWEST, curve_of.rows[-1])
        lines.append(
            Series(
                label=setting.label,
                method=setting.method,
                x=tuple((100 * curve_of.coverage[indices][enough]).tolist()),
                y=tuple((100 * curve_of.accuracy[indices][enough]).tolist()),
                marked=(),
            )
        )
    panel = Panel("", "most confident texts (%)", "right (%)", tuple(lines))
    title, values_in = "Accuracy of the most confident texts", "the table below"
    return figure("coverage", title, "lines", [panel], values_in, split=split, fewest=_FEWEST)


def spectra(kernels: KernelRecord) -> Figure | None:
    """Singular values over the largest, with P, F on the left and P + F on the right."""
    panels = []
    for kernel in (FT, NTK):
        own = [
            (method.name, method.method, method.kernels[kernel])
            for method in kernels.methods
            if kernel in method.kernels and method.kernels[kernel].singular_values.any()
        ]
        if own:
            panels.append(_spectrum_panel(kernels, kernel, own))
    return figure("spectra", "Spectra", "lines", panels, "kernels.json") if panels else None


def _spectrum_panel(
    kernels: KernelRecord, kernel: str, own: Sequence[tuple[str, str, KernelStatistics]]
) -> Panel:
    shared = [
        (
            "P" if len(kernels.pretrain) == 1 else f"P ({kernels.owners_name(owners)})",
            None,
            spectrum,
        )
        for owners, spectrum in kernels.pretrain
        if spectrum.singular_values.any()
    ]
    lines = [*shared, *own]
    tolerances = [t for *_, spectrum in lines if (t := _relative_tolerance(spectrum)) is not None]
    bottom = _BELOW * (max(tolerances) if tolerances else _NO_TOLERANCE)
    return Panel(
        title=f"Spectra of {kernel_name(kernel)}, with P",
        x="k-th singular value",
        y="over the largest",
        y_scale="log",
        series=tuple(_spectrum(*line, bottom) for line in lines),
        level=(max(tolerances), "rank tolerance") if tolerances else None,
    )


def _spectrum(label: str, method: str | None, kernel: KernelStatistics, bottom: float) -> Series:
    """A line down to ``bottom``, with a marker at the rank."""
    values = kernel.singular_values / kernel.singular_values[0]
    rank = None if kernel.rank is None else int(kernel.rank)
    marked = (rank - 1,) if rank is not None and 0 < rank <= len(values) else ()
    return Series(
        label=label,
        method=method,
        x=tuple(float(place) for place in range(1, len(values) + 1)),
        y=tuple(
            max(float(value), bottom) if value >= bottom or place in marked else None
            for place, value in enumerate(values)
        ),
        marked=marked,
    )


def _relative_tolerance(statistics: KernelStatistics) -> float | None:
    """The rank tolerance over the largest singular value, None where it was not recorded."""
    tolerance, largest = statistics.rank_tolerance, statistics.largest_singular_value
    if tolerance is None or largest is None or not 0 < tolerance < largest:
        return None
    return tolerance / largest


def heat_maps(kernels: KernelRecord) -> Figure | None:
    """Trace norms of every pair of training texts, sorted by class, a strip per kernel."""
    panels = heat_map_panels(kernels, _MOST_PIXELS)
    if not panels:
        return None
    counts = np.bincount(kernels.labels["train"], minlength=len(kernels.classes))
    by_name = dict(zip(kernels.classes, counts, strict=True))
    return figure(
        "heat-maps",
        "Heat maps",
        "heat",
        panels,
        "the tensors beside kernels.json",
        counts=[(name, int(by_name[name])) for name, _ in panels[0].bounds],
        pooled=block_size(int(counts.sum()), _MOST_PIXELS),
    )


def shares(kernels: KernelRecord) -> Figure | None:
    """What each kind of parameter and each layer adds to the trace of F, a panel per method."""
    of_methods = [(method, trace_shares(method)) for method in kernels.methods]
    known = dict.fromkeys(part for _, of_method in of_methods for part in of_method)
    kinds, layers = ([part for part in known if part[0] == by] for by in ("kind", "layer"))
    gap = [("", "")] if kinds and layers else []
    parts = [*kinds, *gap, *layers]
    ticks, positions = tuple(name for _, name in parts), tuple(map(float, range(len(parts))))
    panels = []
    for method, of_method in of_methods:
        if of_method:
            values = tuple(100 * of_method[part] if part in of_method else None for part in parts)
            series = (Series(method.name, positions, values, method=method.method),)
            panels.append(
                Panel(method.name, "", "share of the trace of F (%)", series, ticks=ticks)
            )
    return figure("shares", "What F is made of", "bars", panels, "the table") if panels else None


def trace_shares(method: MethodRecord) -> dict[tuple[str, str], float]:
    """``trace of the part / trace of F`` of each ``("kind", name)`` and ``("layer", name)``."""
    kernel = method.kernels.get(FT)
    if kernel is None or kernel.trace is None or kernel.trace <= 0:
        return {}
    return {
        (by, name): part.trace / kernel.trace
        for by, parts in (("kind", method.kinds), ("layer", method.layers))
        for name, part in parts.items()
        if part.trace is not None
    }


def dynamics(kernels: KernelRecord) -> Figure | None:
    """Left the error of one step's first order, right the loss of both trainings; None without."""
    recorded = [(m, m.dynamics) for m in kernels.methods if m.dynamics is not None]
    if not recorded:
        return None
    errors = tuple(
        Series(
            label=method.name,
            method=method.method,
            x=tuple(step.rate for step in steps.first_order),
            y=tuple(step.logits for step in steps.first_order),
        )
        for method, steps in recorded
        if steps.first_order
    )
    losses = tuple(
        Series(
            label=f"{method.name}, linear model" if linear else method.name,
            method=method.method,
            x=tuple(map(float, steps.steps)),
            y=tuple(trained.linearized if linear else trained.real),
            dashed=linear,
        )
        for method, steps in recorded
        if (trained := steps.trajectories.get("train")) is not None
        for linear in (False, True)
    )
    panels = (
        Panel("Error of the first order", "rate", "relative, of logits", errors, "log", "log"),
        Panel("Training loss", "steps", "NLL (nats)", losses),
    )
    title = "Training compared with the kernel's prediction"
    return figure("dynamics", title, "lines", panels, "the tables")


def path(kernels: KernelRecord) -> Figure | None:
    """Drift, alignment and the error of the linear model against the epoch; None without a path."""
    if kernels.path is None:
        return None
    points, limits = kernels.path.points, kernels.path.limits
    epochs = tuple(point.epoch for point in points)

    def series(label: str, values: Iterable[float | None]) -> Series:
        return Series(label, epochs, tuple(values))

    drifts = tuple(
        series(kernel_name(name), (point.drift.get(name) for point in points))
        for name in (PRETRAIN, FT, NTK)
    )
    alignments = (
        series("with the start", (point.alignment_with_start.get(NTK) for point in points)),
        series("with the labels", (point.alignment_with_labels.get(NTK) for point in points)),
    )
    sets = {"train": "training texts", "eval": f"{kernels.data.eval_split or 'evaluation'} texts"}
    errors = tuple(
        series(label, (point.linearization_error.get(name) for point in points))
        for name, label in sets.items()
    )
    drift_level, error_level = (
        None if (limit := limits.get(name)) is None else (limit, "kernel regime")
        for name in ("drift", "linearization_error")
    )
    drift, error = (
        Panel(title, "epoch", y, series, level=level, from_zero=True)
        for title, y, series, level in (
            ("Drift of the kernel", "over the start", drifts, drift_level),
            ("Error of the linear model", "relative, of logits", errors, error_level),
        )
    )
    panels = (drift, Panel("Alignment of P + F", "epoch", "CKA", alignments), error)
    title, caption = "Kernels along training", "kernel_path_caption"
    return figure("path", title, "lines", panels, "the table", caption)


def path_layers(kernels: KernelRecord) -> Figure | None:
    """Drift of every layer's part of F, at the first, the middle and the last epoch."""
    if kernels.path is None:
        return None
    later = kernels.path.points[1:]
    layers = tuple(dict.fromkeys(name for point in later for name in point.layers))
    if not layers:
        return None
    indices = sorted({0, (len(later) - 1) // 2, len(later) - 1})
    series = tuple(
        Series(
            f"epoch {later[index].epoch:g}",
            tuple(map(float, range(len(layers)))),
            tuple(later[index].layers.get(name) for name in layers),
        )
        for index in indices
    )
    panel = Panel("", "", "drift of F", series, ticks=layers, from_zero=True)
    return figure("path-layers", "Where the kernel drifts", "points", [panel], "the table")
