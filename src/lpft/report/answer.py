"""The answer to a practitioner: which method to use, how good it is, and what is wrong.

One group of runs has a verdict, warnings, four tiles, a leaderboard, and sections on its errors,
probabilities, data and training. What researchers ask is in :mod:`lpft.report.runs`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from lpft.analysis.errors import confused_pairs, find_errors
from lpft.analysis.metrics import metric_name
from lpft.analysis.selection import complexity
from lpft.data.checks import SMALL_SPLIT
from lpft.data.examples import UNSEEN
from lpft.report import figures
from lpft.report.page import Answer, Block, Cases, Command, Fold, Note, Row, Section, State, Tile
from lpft.report.table import Columns, from_columns
from lpft.report.text import say
from lpft.results.exhibits import Column, Table
from lpft.results.formats import day, of_100, percent, whole
from lpft.results.judging import FEW_SEEDS, Judgement
from lpft.results.leaderboard import (
    MAJORITY,
    Entry,
    Leaderboard,
    accuracy_over_coverage,
    class_scores,
    in_new_domains,
    known_rows,
    trust,
)
from lpft.results.quantities import PER_CENT
from lpft.results.run import Run
from lpft.results.schema import ErrorRow, FindingRecord, number
from lpft.settings.configs import command_line
from lpft.settings.methods import METHODS

_MOST_CASES, _MOST_OF_PAIR = 60, 12
_MOST_ROWS = 40  # numbers of a finding's rows
_MOST_CLASSES = 30  # in a table of every class
_COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.5)
_SURE = 0.9
_FEW_TEXTS = 5  # of a class, below which it is not named as the worst
_LEAKS = ("leakage", "near-leakage")
_WORST_FINDINGS = (*_LEAKS, "conflicting-labels", "near-conflicts")


def answer(board: Leaderboard) -> Answer:
    """The answer of a group."""
    group, run = board.group, board.run
    ends = [end for entry in board.entries for end in entry.accuracy.with_bounds or ()]
    low, high = np.floor(10 * min(ends)) / 10, np.ceil(10 * max(ends)) / 10
    return Answer(
        title=say("title", data=group.data, method=board.chosen.name, alone=_alone(board)),
        subtitle=say(
            "subtitle",
            model=group.model,
            date=day(max(r.record.finished or r.record.started for r in group.runs)),
            runs=len(group.runs),
            remark=group.remark,
        ),
        warnings=tuple(_warnings(board)),
        lead=say("use", method=board.chosen.name),
        explained=METHODS[run.method].summary if run.method in METHODS else "",
        verdict=say("verdict", **_verdict(board)),
        tiles=tuple(_tiles(board)),
        board=board,
        rows=tuple(Row(entry, *_standing(entry, board)) for entry in board.entries),
        scale=(low, max(high, low + 0.1)),
        note=say("leaderboard_note", board=board, group=group),
        sections=tuple(_sections(board)),
    )


def _alone(board: Leaderboard) -> bool:
    """Whether one method alone was trained: the other entries are baselines."""
    return sum(entry.setting is not None for entry in board.entries) == 1


def _stopped_after(run: Run) -> str | None:
    """The last method that ``--method auto`` was allowed to train, where it was told one."""
    selection = run.record.selection if run.selection is None else run.selection
    return None if selection is None else selection.settings.get("stop_after")


def _warnings(board: Leaderboard) -> Iterator[str]:
    run, split = board.run, board.chosen.split
    if split != "test":
        yield say("no_test")
    for finding in run.findings or ():
        if finding.kind in _LEAKS:
            yield say("finding", message=finding.message)
    if run.record.undertrained:
        yield say("undertrained", method=board.chosen.name, reasons=run.record.undertrained)
    rows = _validation_rows(run)
    if rows is not None and rows < SMALL_SPLIT:
        yield say("few_validation", rows=rows, alone=_alone(board))
    low, constant = board.accuracy.low, board.baseline.accuracy.value
    if low is not None and constant is not None and low <= constant:
        yield say("no_better_than_a_constant", share=of_100(constant))


def _validation_rows(run: Run) -> int | None:
    if run.record.validation is not None:
        return run.record.validation.rows
    return known_rows(run, "validation") if "validation" in run.predictions else None


def _verdict(board: Leaderboard) -> dict[str, Any]:
    run, group = board.run, board.group
    standings = _by_standing(board)
    unclear = standings.get("no clear difference", [])
    simpler = [entry for entry in unclear if _is_simpler(board, entry)]
    domains = [split.removeprefix("ood/") for split in group.ood_splits]
    return {
        "accuracy": board.accuracy,
        "split": board.chosen.split,
        "rows": known_rows(run, board.chosen.split),
        "few_rows": _few_rows(board),
        "constant": board.baseline.accuracy.value,
        "new_domains": in_new_domains(run, group.ood_splits),
        "domains": domains,
        "lower": [entry.name for entry in standings.get("lower", [])],
        "higher": [entry.name for entry in standings.get("higher", [])],
        "unclear": [entry.name for entry in unclear if entry not in simpler],
        "simpler": [(entry.name, entry.seconds) for entry in simpler],
        "seeds": len(board.chosen.setting.seeds) if board.chosen.setting else 1,
        "few": FEW_SEEDS,
        "run": run.name,
        "alone": _alone(board),
        "left_out": board.left_out,
        "stopped_after": _stopped_after(run),
        "metric": None if group.metric == "accuracy" else metric_name(group.metric),
        "score": run.score(board.chosen.split, group.metric),
    }


def _few_rows(board: Leaderboard) -> int | None:
    """The rows to count out of, where ``of 100`` would claim more than one seed's few rows show."""
    rows = known_rows(board.run, board.chosen.split)
    one_seed = board.chosen.setting is None or len(board.chosen.setting.seeds) == 1
    return rows if one_seed and rows < 100 else None


def _is_simpler(board: Leaderboard, entry: Entry) -> bool:
    methods = [one.setting.method for one in (entry, board.chosen) if one.setting is not None]
    if len(methods) < 2 or not METHODS.keys() >= set(methods):
        return False
    return complexity(methods[0]) < complexity(methods[1])


def _by_standing(board: Leaderboard) -> dict[str, list[Entry]]:
    """The other methods by how they stand beside the chosen one."""
    by_standing: dict[str, list[Entry]] = {}
    for entry in board.entries[1:]:
        if entry.judgement is not None and entry.judgement.effect.value is not None:
            by_standing.setdefault(standing_of(entry.judgement), []).append(entry)
    return by_standing


def standing_of(judgement: Judgement) -> Literal["lower", "higher", "no clear difference"]:
    """How a method stands beside the chosen one, by the interval of the difference."""
    low, high = judgement.effect.low, judgement.effect.high
    if low is not None and low > 0:
        return "lower"
    return "higher" if high is not None and high < 0 else "no clear difference"


def _standing(entry: Entry, board: Leaderboard) -> tuple[State, str, str]:
    """The class of a row's chip, its words, and the reason beside it."""
    if entry is board.chosen:
        methods = {e.setting.method: e.name for e in board.entries if e.setting is not None}
        why = say("why_chosen", choice=board.choice, names=methods, alone=_alone(board))
        return "good", "use this", why
    if entry.name == MAJORITY:
        return "unknown", "baseline", say("why_baseline")
    if entry.setting is None:
        return "unknown", "for comparison", say("why_probe")
    undertrained = any(run.record.undertrained for run in entry.setting.runs)
    judgement = entry.judgement
    if judgement is None or judgement.effect.value is None:
        return "unknown", "not compared", say("why_not_compared")
    standing = standing_of(judgement)
    sure = judgement.verdict != "cannot tell" and (judgement.effect.count or 0) >= FEW_SEEDS
    state: State = "unknown" if standing == "no clear difference" else "bad" if sure else "doubtful"
    why = say(
        "why",
        effect=replace(
            judgement.effect,
            value=PER_CENT * judgement.effect.value,
            low=PER_CENT * (judgement.effect.low or 0.0),
            high=PER_CENT * (judgement.effect.high or 0.0),
        ),
        standing=standing,
        seeds=judgement.effect.count,
        agree=judgement.verdict != "cannot tell",
        few=FEW_SEEDS,
        sure=sure,
        undertrained=undertrained,
    )
    words = standing if sure or standing == "no clear difference" else f"{standing} so far"
    return state, words, why


def _tiles(board: Leaderboard) -> Iterator[Tile]:
    split, accuracy = board.chosen.split, board.accuracy
    constant = board.baseline.accuracy.value
    state: State = "doubtful"
    if accuracy.low is not None and constant is not None and accuracy.low > constant:
        state = "good"
    yield Tile(
        "How good is it?",
        state,
        say("tile_good", state=state),
        say("right_of", value=accuracy.value, rows=_few_rows(board)),
        say("tile_good_text", split=split, accuracy=accuracy, constant=constant),
        f"#{board.group.slug}-leaderboard",
    )
    yield _trust_tile(board)
    yield _where_it_fails(board)
    yield _data_tile(board)


def _trust_tile(board: Leaderboard) -> Tile:
    """In distribution, and whether it is too sure of itself in new domains."""
    run, split = board.run, board.chosen.split
    question, address = "Can its probabilities be trusted?", f"#{board.group.slug}-probabilities"
    in_domain = trust(run, split)
    if in_domain is None:
        return Tile(question, "unknown", "not known", "–", "", address)
    elsewhere = {name: trust(run, name) for name in run.ood_splits}
    too_sure = {
        name: trusted
        for name, trusted in elsewhere.items()
        if trusted and not trusted.holds and trusted.confidence > trusted.accuracy
    }
    doubtful = too_sure or in_domain.harmed or not in_domain.holds
    return Tile(
        question,
        "doubtful" if doubtful else "good",
        say("tile_trust", in_domain=in_domain, too_sure=len(too_sure)),
        say("tile_trust_number", error=in_domain.error),
        say(
            "tile_trust_text",
            in_domain=in_domain,
            split=split,
            rows=known_rows(run, split),
            too_sure_on=[name.removeprefix("ood/") for name in too_sure],
            claimed=float(np.mean([trusted.confidence for trusted in too_sure.values()] or [0.0])),
            right=float(np.mean([trusted.accuracy for trusted in too_sure.values()] or [0.0])),
        ),
        address,
    )


def _where_it_fails(board: Leaderboard) -> Tile:
    run, split = board.run, board.chosen.split
    question, address = "Where does it fail?", f"#{board.group.slug}-errors"
    scored = [one for one in class_scores(run, split) if one.recall is not None]
    # The share of a class that has few texts says little.
    scored = [one for one in scored if one.support >= _FEW_TEXTS] or scored
    worst = min(scored, key=lambda one: one.recall or 0.0, default=None)
    predictions = run.predictions[split]
    errors = find_errors(predictions.logits, predictions.labels, run.temperature)
    if worst is None or not len(errors):
        return Tile(question, "good", say("tile_no_errors", split=split), "0", "", address)
    pair = confused_pairs(errors)[0]
    label = "a new class" if pair.label == UNSEEN else run.classes[pair.label]
    return Tile(
        question,
        "doubtful" if (worst.recall or 0.0) < 0.5 else "unknown",
        say("tile_fails", name=worst.name),
        f"{round((worst.recall or 0.0) * worst.support)} of {worst.support}",
        say(
            "tile_fails_text",
            label=label,
            called=run.classes[pair.predicted],
            rows=len(pair),
            errors=len(errors),
        ),
        address,
    )


def _data_tile(board: Leaderboard) -> Tile:
    question, address = "Is the data clean?", f"#{board.group.slug}-data"
    findings = board.run.findings
    if findings is None:
        return Tile(question, "unknown", "not checked", "–", say("tile_unchecked"), address)
    faults = sorted(
        (finding for finding in findings if finding.level != "note"),
        key=lambda finding: (finding.level != "error", finding.kind not in _WORST_FINDINGS),
    )
    errors = any(finding.level == "error" for finding in faults)
    state: State = "bad" if errors else "doubtful" if faults else "good"
    return Tile(
        question,
        state,
        say("tile_data", findings=len(faults)),
        say("tile_data_number", findings=len(faults)),
        say("tile_data_text", faults=faults),
        address,
    )


def _sections(board: Leaderboard) -> Iterator[Section]:
    run, slug = board.run, board.group.slug
    yield Section("Errors", tuple(_errors(run, board.chosen.split)), f"{slug}-errors")
    yield Section("Probabilities", tuple(_probabilities(board)), f"{slug}-probabilities")
    yield Section("Data", tuple(_data(run)), f"{slug}-data")
    yield Section("Training", tuple(_training(board)), f"{slug}-training")
    blocks = (say("how_to_repeat"), Command(command_line(run.config)), say("versions", run=run))
    yield Section("How to repeat it", blocks, f"{slug}-repeat")


def _errors(run: Run, split: str) -> Iterator[Block]:
    """Wrong rows by pair of classes, most frequent pairs first; then every class on every split."""
    predictions = run.predictions[split]
    errors = find_errors(predictions.logits, predictions.labels, run.temperature)
    yield say(
        "errors",
        errors=len(errors),
        rows=len(predictions.labels),
        split=split,
        sure=int((errors.confidence > _SURE).sum()),
    )
    confidence = dict(zip(errors.rows.tolist(), errors.confidence.tolist(), strict=True))
    recorded = {row.id: row for row in run.errors if row.split == split}
    ids = predictions.ids.tolist()
    pairs, room = [], _MOST_CASES
    for pair in confused_pairs(errors):
        # Only the most confident errors are recorded, so a pair may have none.
        every = pair.rows.tolist()
        known = [row for row in every if ids[row] in recorded] or every
        row_numbers = known[: min(_MOST_OF_PAIR, room)]
        room -= len(row_numbers)
        if not row_numbers:
            break
        label = "a class that training lacks" if pair.label == UNSEEN else run.classes[pair.label]
        rows = tuple(
            (percent(confidence[row], 0), *_case(recorded.get(ids[row]), ids[row]))
            for row in row_numbers
        )
        pairs.append((label, run.classes[pair.predicted], len(pair), rows))
    if pairs:
        yield Cases(tuple(pairs), _MOST_CASES - room, len(errors))
    tables = {
        name: _class_table(run, name)
        for name in run.predictions
        if name in run.metrics and known_rows(run, name)
    }
    yield tables.pop(split)
    if tables:
        yield Fold(say("other_splits"), tuple(tables.values()))


def _case(recorded: ErrorRow | None, name: str) -> tuple[str, str]:
    """The text of a wrong row, where it is known, and which row it is."""
    if recorded is None:
        return "", f"id {name}"
    text = "" if recorded.text is None else recorded.text
    return text if isinstance(text, str) else " | ".join(text), f"row {recorded.row}"


def _class_table(run: Run, split: str) -> Table:
    """Precision, recall, F1 and support of each class, the lowest F1 first."""
    scored = sorted(
        class_scores(run, split), key=lambda scores: -1 if scores.f1 is None else scores.f1
    )
    listed = scored[:_MOST_CLASSES]
    columns: Columns = [
        (Column("Class"), [scores.name for scores in listed]),
        *(
            (Column(name, digits=2), [getattr(scores, name.lower()) for scores in listed])
            for name in ("Precision", "Recall", "F1")
        ),
        (Column("Rows", format="count"), [float(scores.support) for scores in listed]),
    ]
    title = say("by_class", split=split, shown=len(listed), classes=len(scored))
    return from_columns("", title, columns, "")


def _probabilities(board: Leaderboard) -> Iterator[Block]:
    run, split = board.run, board.chosen.split
    in_domain = trust(run, split)
    if in_domain is not None:
        yield say(
            "probabilities",
            in_domain=in_domain,
            split=split,
            rows=known_rows(run, split),
            calibration=run.record.calibration,
        )
    yield figures.reliability(run)
    yield say("abstaining")
    settings = [entry.setting for entry in board.entries if entry.setting is not None]
    yield figures.accuracy_over_coverage(settings, split)
    curve = accuracy_over_coverage(run, split)
    indices = [int((curve.coverage >= share - 1e-9).argmax()) for share in _COVERAGES]
    columns: Columns = [
        (Column("Texts answered", format="percent", digits=0), curve.coverage[indices].tolist()),
        (Column("Right among them", format="percent", digits=1), curve.accuracy[indices].tolist()),
        (Column("Least confidence", digits=3), curve.thresholds[indices].tolist()),
    ]
    yield from_columns("", say("thresholds", split=split), columns, "", headers=0)
    if run.abstention is not None:
        yield say("stored_threshold", stored=run.abstention)
    shifts = [(split, run.metrics[split]) for split in run.ood_splits]
    if any("confidence_auroc" in values for _, values in shifts):
        yield _shift_table(shifts)


def _shift_table(shifts: Sequence[tuple[str, Any]]) -> Table:
    """How well confidence tells each OOD set, and its unseen classes, from usual texts."""
    aurocs = [number(values.get("confidence_auroc")) for _, values in shifts]
    columns: Columns = [
        (Column("New domain"), [split.removeprefix("ood/") for split, _ in shifts]),
        (Column("AUROC of confidence", digits=2), aurocs),
    ]
    unseen = [values.get("unseen") or {} for _, values in shifts]
    above = "Classes that training lacks"
    for key, column in (
        ("rows", Column("Texts", above, format="count")),
        ("confidence_auroc", Column("AUROC", above, digits=2)),
        ("rejected", Column("Abstained from", above, format="percent")),
    ):
        if any(unseen):
            columns.append((column, [number(values.get(key)) for values in unseen]))
    return from_columns("", say("shift_title"), columns, "")


def _data(run: Run) -> Iterator[Block]:
    """What was found in the data, with row numbers, and how many rows each class has."""
    # Of folds the validation rows are those of training.
    validation, counted_twice = run.record.validation, tuple[str, ...]()
    if validation is not None and validation.kind == "folds" and run.data.train_class_rows:
        counted_twice = ("validation",)
    rows = [
        f"{whole(count)} {split.removeprefix('ood/')}"
        for split, count in run.data.rows.items()
        if split not in counted_twice
    ]
    yield say("data", name=run.data.name, rows=rows, classes=len(run.classes))
    findings = run.findings
    if findings is None:
        yield say("tile_unchecked")
    elif not findings:
        yield say("nothing_found")
    else:
        columns: Columns = [
            (Column("Level"), [finding.level for finding in findings]),
            (Column("What"), [finding.message for finding in findings]),
            (Column("Rows"), [_row_numbers(finding) for finding in findings]),
        ]
        yield from_columns("", say("findings_title"), columns, "", headers=0)
        yield Note(say("findings_note"))
    counts = {}
    if run.data.train_class_rows:
        counts["train"] = np.array(run.data.train_class_rows)
    counts |= {
        split: np.bincount(labels[labels != UNSEEN], minlength=len(run.classes))
        for split in run.predictions
        if split in run.metrics and split not in counted_twice
        if (labels := run.predictions[split].labels) is not None
    }
    order = np.argsort(-sum(counts.values()), kind="stable")[:_MOST_CLASSES]
    balance: Columns = [(Column("Class"), [run.classes[place] for place in order])]
    balance += [
        (Column(split.removeprefix("ood/"), format="count"), of_split[order].astype(float).tolist())
        for split, of_split in counts.items()
    ]
    title = say("balance", shown=len(order), classes=len(run.classes))
    yield from_columns("", title, balance, "")
    if run.data.notes:
        yield Note(say("data_notes", notes=run.data.notes))


def _row_numbers(finding: FindingRecord) -> str:
    parts = []
    for split, rows in finding.rows.items():
        numbers = ", ".join(map(str, rows[:_MOST_ROWS]))
        unlisted = finding.total.get(split, len(rows)) - _MOST_ROWS
        more = f" and {unlisted} more" if unlisted > 0 else ""
        parts.append(f"{split} {numbers}{more}")
    return "; ".join(parts)


def _training(board: Leaderboard) -> Iterator[Block]:
    """Which epoch was kept, what suggests training longer, and the curves."""
    for entry in board.entries:
        runs = () if entry.setting is None else entry.setting.runs
        for run in runs:
            record = run.record
            if record.checkpoint is not None or record.undertrained or record.validation:
                seed = run.seed if len(runs) > 1 else None
                yield say("kept_epoch", name=entry.name, seed=seed, record=record)
    yield figures.training(board.group) or say("no_history")
