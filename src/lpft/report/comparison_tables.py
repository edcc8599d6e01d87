"""Tables of methods paired by seed: scores, and feature change with and without the LP head."""

from collections.abc import Sequence
from dataclasses import replace

from lpft.report.exhibits.tables import estimate_cell
from lpft.report.grid import (
    Cell,
    Column,
    Table,
    from_columns,
    number_cells,
    ratio_cells,
    text_cells,
)
from lpft.report.numbers import ABSENT, counted, decimals_for, fixed, rate, whole
from lpft.report.tables import PER_SEED, labels
from lpft.results.groups import Group, method_name, metric_name
from lpft.results.judging import FEW_SEEDS, Judgement, chance_note
from lpft.results.pairing import Comparison, Differences, Match, Rates

INTERVALS = (
    "In brackets: 95 % interval of a bootstrap over seeds and texts. Detectable: the smallest "
    "difference that so many seeds could show."
)


def feature_change(comparisons: Sequence[Comparison], *, shared: bool) -> Table | None:
    """Feature change of matched pairs at own rates or at shared ones; None without a pair."""
    rows: list[tuple[Match, float | None]] = []
    for comparison in comparisons:
        if shared:
            rows += [(match, comparison.remaining(match)) for match in comparison.shared]
        elif comparison.own is not None:
            rows.append((comparison.own, None))
    if not rows:
        return None
    matches = [match for match, _ in rows]
    changes = [match.change for match in matches]
    split = matches[0].split
    first = [None if change is None else change[0] for change in changes]
    second = [None if change is None else change[1] for change in changes]
    digits = _change_digits(comparisons)
    names = [f"{method_name(m.methods[0])} and {method_name(m.methods[1])}" for m in matches]
    columns: list[tuple[Column, Sequence[Cell]]] = [
        (Column("Pair", numeric=False), text_cells(names))
    ]
    if shared:
        columns.append((Column("Rate, batch"), text_cells([rates(m.rates[0]) for m in matches])))
    else:
        for side, name in enumerate(("random head", "LP head")):
            texts = text_cells([rates(match.rates[side]) for match in matches])
            columns.append((Column(name, "Rate, batch"), texts))
    columns += [
        (
            Column("Runs", numeric=False, full="seeds", wraps=True),
            [_pair_seeds(match) for match in matches],
        ),
        (Column("random head", f"Feature change ({split})"), number_cells(first, digits)),
        (Column("LP head", f"Feature change ({split})"), number_cells(second, digits)),
        (Column("Difference"), [_difference(match.judgement, digits) for match in matches]),
        (
            Column("Reading", numeric=False, wraps=True),
            [_reading(match.judgement, ("smaller", "larger")) for match in matches],
        ),
        (Column("Detectable"), [_detectable(match.judgement, digits) for match in matches]),
        (Column("Ratio"), ratio_cells([match.ratio for match in matches])),
    ]
    note = (
        "Pairs agree in model, data, seed and every other option. The first of a pair has the "
        "random head. Difference: random head minus LP head; ratio: LP head over random "
        f"head; reading: of the LP head. {PER_SEED} {_interval_note(matches)}"
    )
    if shared:
        remaining = [value for _, value in rows]
        cells = [
            Cell(ABSENT if value is None else f"{100 * value:.0f} %".replace("-", "−"), value)
            for value in remaining
        ]
        columns.append((Column("Remains of own-rate difference"), cells))
    where = "a shared rate and batch size" if shared else "each method's own rate"
    slug = "feature-change-shared" if shared else "feature-change-own"
    return from_columns(slug, f"Feature change at {where}", columns, note=note)


def score_differences(found: Differences, group: Group) -> Table | None:
    """The setting that validation chooses beside the best one of each other method."""
    if found.chosen is None or not found.scores:
        return None
    judgements = [contrast.judgement for contrast in found.scores]
    columns: list[tuple[Column, Sequence[Cell]]] = [
        (Column("On", numeric=False), text_cells([contrast.where for contrast in found.scores])),
        (Column("Against", numeric=False), labels(contrast.other for contrast in found.scores)),
        (Column("Difference"), [_difference(judgement, 3) for judgement in judgements]),
        (
            Column("Reading", numeric=False, wraps=True),
            [_reading(judgement, ("higher", "lower")) for judgement in judgements],
        ),
        (Column("Detectable"), [_detectable(judgement, 3) for judgement in judgements]),
    ]
    told = sum(judgement.effect.value is not None for judgement in judgements)
    chosen, metric = found.chosen.label, metric_name(group.metric)
    chosen_here = ""
    if group.id_split == "validation":
        chosen_here = (
            f"There is no test split: differences on validation, which chose, favour {chosen}. "
        )
    note = (
        f"{metric[0].upper()}{metric[1:]} of {chosen}, which is best on validation, minus that of "
        "each other method at its best on validation, on the same seeds and texts. "
        f"{chosen_here}{INTERVALS} {chance_note(told)}"
    )
    return from_columns(
        "differences",
        f"{chosen} against each other method",
        columns,
        note=note.rstrip(),
        headers=2,
        spanning=True,
    )


def _difference(judgement: Judgement | None, digits: int) -> Cell:
    if judgement is None or judgement.effect.value is None:
        return Cell(ABSENT, None)
    return estimate_cell(replace(judgement.effect, sd=None), digits)


def _detectable(judgement: Judgement | None, digits: int) -> Cell:
    value = None if judgement is None else judgement.detectable
    return Cell(fixed(value, digits), value)


def _reading(judgement: Judgement | None, words: tuple[str, str]) -> Cell:
    if judgement is None or judgement.effect.value is None:
        return Cell(ABSENT, None)
    said = {"holds": words[0], "does not hold": words[1], "cannot tell": "cannot tell"}
    count = judgement.effect.count
    few = "" if count is None or count >= FEW_SEEDS else f" ({counted(count, 'seed')})"
    return Cell(f"{said[judgement.verdict]}{few}", said[judgement.verdict])


def _interval_note(matches: Sequence[Match]) -> str:
    """What the brackets of feature changes are, and how many there are."""
    judged = [match for match in matches if match.judgement is not None]
    return f"{INTERVALS} {chance_note(len(judged))}".rstrip() if judged else ""


def _change_digits(comparisons: Sequence[Comparison]) -> int:
    """The same decimals at own and at shared rates, so that the two tables compare at a glance."""
    matches = [m for c in comparisons for m in (c.own, *c.shared) if m is not None]
    return decimals_for(
        spread.mean for match in matches if match.change is not None for spread in match.change
    )


def rates(value: Rates) -> str:
    return f"{rate(value.learning_rate)}, {whole(value.batch_size)}"


def _pair_seeds(match: Match) -> Cell:
    text = ", ".join(f"seed {pair[0].seed}" for pair in match.runs)
    links = tuple(
        (f"{method_name(run.method)}\u00a0seed\u00a0{run.seed}", run.name)
        for pair in match.runs
        for run in pair
    )
    return Cell(text, text, links=links)
