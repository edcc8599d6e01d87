"""The report's tables, built from runs: methods, calibration, features, norms of the head."""

from collections.abc import Iterable, Sequence

from lpft.report.grid import (
    Cell,
    Column,
    Table,
    from_columns,
    number_cells,
    text_cells,
)
from lpft.report.numbers import Spread, decimals_for, rate, whole
from lpft.results.groups import Group, Selector, Setting, feature, head, metric_name, score

PER_SEED = "With several seeds: mean ± standard deviation over seeds."


def _spreads(settings: Iterable[Setting], value: Selector) -> list[Spread | None]:
    return [setting.spread(value) for setting in settings]


def _sized(spreads: Sequence[Spread | None]) -> list[Cell]:
    digits = decimals_for(None if spread is None else spread.mean for spread in spreads)
    return number_cells(spreads, digits)


def _seeds(setting: Setting) -> Cell:
    """The seeds of a setting, each with a link to how its run was made."""
    links = _runs(setting)
    text = ", ".join(seed for seed, _ in links)
    return Cell(text, text, links=links)


def _runs(setting: Setting) -> tuple[tuple[str, str], ...]:
    """The seeds of a setting with the names of their runs."""
    first, *others = setting.runs
    return ((f"seed {first.seed}", first.name), *((str(run.seed), run.name) for run in others))


def _rates(settings: Iterable[Setting]) -> list[Cell]:
    values = [setting.first.learning_rate for setting in settings]
    return [Cell(rate(value), value) for value in values]


def _batches(settings: Iterable[Setting]) -> list[Cell]:
    values = [setting.first.batch_size for setting in settings]
    return [Cell(whole(value), None if value is None else int(value)) for value in values]


def labels(settings: Iterable[Setting]) -> list[Cell]:
    """Labels of settings, which lead to how their runs were made."""
    return [
        Cell(s.label, s.label, links=((s.label, s.first.name),))
        if len(s.runs) == 1
        else Cell(s.label, s.label, links=_runs(s), folded=True)
        for s in settings
    ]


def methods(group: Group) -> Table:
    """The main table: every setting's scores in and out of distribution."""
    settings, split = group.settings, group.id_split
    columns: list[tuple[Column, Sequence[Cell]]] = [
        (Column("Method", numeric=False), text_cells([s.name for s in settings])),
        (Column("rate", "Training", full="learning rate"), _rates(settings)),
        (Column("batch", "Training", full="batch size"), _batches(settings)),
        (
            Column("runs", "Training", numeric=False, full="seeds"),
            [_seeds(s) for s in settings],
        ),
    ]
    scored = dict.fromkeys(["validation", split]) if "validation" in group.splits else [split]
    for name in scored:
        column = Column(name, "Accuracy", full=f"{name} accuracy")
        columns.append((column, number_cells(_spreads(settings, score(name, "accuracy")))))
    for name in group.ood_splits:
        column = Column(name.removeprefix("ood/"), "OOD accuracy", full=f"{name} accuracy")
        columns.append((column, number_cells(_spreads(settings, score(name, "accuracy")))))
    measures = [("macro_f1", "macro F1", False)]
    if group.metric not in ("accuracy", "macro_f1"):
        measures.insert(0, (group.metric, metric_name(group.metric), False))
    measures += [("nll", "NLL", False), ("brier", "Brier", False)]
    measures += [("ece", "ECE", False), ("ece", "ECE with T", True)]
    for metric, name, calibrated in measures:
        column = Column(name, f"On {split}", full=f"{split} {name}")
        values = _spreads(settings, score(split, metric, calibrated))
        columns.append((column, number_cells(values)))
    change = _spreads(settings, feature(group.feature_split, "feature_difference"))
    columns.append((Column("feature change", "Model", full="feature change"), _sized(change)))
    norms = _spreads(settings, head("norm"))
    columns.append((Column("head norm", "Model", full="head norm"), _sized(norms)))
    note = (
        f"NLL, Brier (summed over classes) and ECE are on {split}, before temperature scaling; "
        "“ECE with T” is after it. Feature change is the mean L2 distance of the features of "
        f"{group.feature_split} texts from their pre-trained values (Diff). Head norm is the "
        f"Frobenius norm of the head's weights after training. {PER_SEED}"
    )
    return from_columns("methods", f"Methods on {group.title}", columns, note=note)


def calibration(group: Group) -> Table:
    """Every split's calibration before and after its one temperature."""
    rows = [(s, split) for s in group.settings for split in group.splits]
    columns: list[tuple[Column, Sequence[Cell]]] = [
        (Column("Method", numeric=False), labels(s for s, _ in rows)),
        (Column("Split", numeric=False), text_cells([split for _, split in rows])),
        (Column("T"), number_cells(_spreads((s for s, _ in rows), lambda run: run.temperature))),
    ]
    for metric, name in (
        ("ece", "ECE"),
        ("mce", "MCE"),
        ("nll", "NLL"),
        ("brier", "Brier"),
        ("confidence", "Mean confidence"),
    ):
        for calibrated, when in ((False, "before"), (True, "after")):
            values = [s.spread(score(split, metric, calibrated)) for s, split in rows]
            columns.append((Column(when, name), number_cells(values)))
    note = (
        "Before: the model's own probabilities; after: logits divided by the temperature T, one "
        "number per run, fitted on validation only. ECE and MCE use 15 equal-width bins (lo, hi] "
        f"of the top probability; Brier is summed over classes. {PER_SEED}"
    )
    return from_columns(
        "calibration",
        "Calibration before and after temperature scaling",
        columns,
        note=note,
        headers=2,
        spanning=True,
    )


def features(group: Group) -> Table:
    """CS, Diff and FDR of every split, beside their pre-trained values."""
    found = dict.fromkeys(split for run in group.runs for split in run.features)
    rows = [(s, split) for s in group.settings for split in found]
    change = [s.spread(feature(split, "feature_difference")) for s, split in rows]

    def statistic(key: str, digits: int | None, pretrained: bool = False) -> list[Cell]:
        values = [s.spread(feature(split, key, pretrained)) for s, split in rows]
        return number_cells(values, digits)

    columns: list[tuple[Column, Sequence[Cell]]] = [
        (Column("Method", numeric=False), labels(s for s, _ in rows)),
        (Column("Split", numeric=False), text_cells([split for _, split in rows])),
        (Column("pre-trained", "CS"), statistic("cosine_similarity", 3, pretrained=True)),
        (Column("after", "CS"), statistic("cosine_similarity", 3)),
        (Column("Diff"), _sized(change)),
        (Column("pre-trained", "FDR"), statistic("fisher_ratio", None, pretrained=True)),
        (Column("after", "FDR"), statistic("fisher_ratio", None)),
    ]
    note = (
        "CS: mean cosine similarity over pairs of texts. Diff: mean L2 distance of features from "
        "their pre-trained values. FDR: Fisher's discriminant ratio, trace(S_W⁺ S_B). The paper "
        "gives no formula for it, and its values cannot be met by this one: published FDR is not "
        f"comparable. {PER_SEED}"
    )
    return from_columns(
        "features", "Features by split", columns, note=note, headers=2, spanning=True
    )


def head_norms(group: Group) -> Table:
    """The head's norm at the start and the end of training, and its bias."""
    settings = group.settings
    start, end, bias = (
        _spreads(settings, head(name)) for name in ("norm_at_start", "norm", "bias_norm")
    )
    digits = decimals_for(s.mean for s in [*start, *end] if s is not None)
    columns: list[tuple[Column, Sequence[Cell]]] = [
        (Column("Method", numeric=False), labels(settings)),
        (Column("start", "Head norm"), number_cells(start, digits)),
        (Column("end", "Head norm"), number_cells(end, digits)),
        (Column("Bias norm"), _sized(bias)),
    ]
    note = (
        "Frobenius norm of the head's weights and L2 norm of its bias. The start is the head that "
        "fine-tuning began with, random or fitted by linear probing; for LP the random head that "
        f"it replaced. {PER_SEED}"
    )
    return from_columns("head", "Norms of the head", columns, note=note)
