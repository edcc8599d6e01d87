"""Experiments: what must be known of a table's numbers, verdicts by claim, where all is from."""

import csv
import io
from pathlib import Path

import pytest
from results.experiment_folders import (
    contrasts_table,
    features_table,
    long_table,
    sample_experiment,
    scores_table,
    write_experiment,
)

from lpft.paper import FDR_NOT_COMPARABLE, HALVED, WORD_EMBEDDINGS
from lpft.report import build_report, format_experiment
from lpft.report.experiments import (
    Place,
    annotated,
    cautions_of,
    judged_claims,
    tally,
    tracer,
    verdict_table,
)
from lpft.report.table import (
    Origin,
    is_numeric,
    one_line_heading,
    text_rows,
    to_csv,
    to_latex,
    to_markdown,
)
from lpft.report.text import say
from lpft.results.exhibits import OVERALL, Column, Estimate, Table, Verdict


def rows_of(table: Table) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(annotated(table, "minilm")))))


def test_the_csv_has_every_digit_and_what_is_known_beside_it() -> None:
    rows = rows_of(scores_table())
    assert len(rows) == 10
    assert list(rows[0]) == [
        *("Data", "Method"),
        *("accuracy (%): minilm", "accuracy (%): minilm sd", "accuracy (%): minilm seeds"),
        *(f"accuracy (%): roberta-base, published{what}" for what in ("", " sd", " seeds")),
    ]
    for row, cells in zip(rows, scores_table().rows, strict=True):
        assert (row["Data"], row["Method"]) == cells[:2]
        ours, published = cells[2:]
        expected = "" if ours is None else str(ours.value)  # type: ignore[union-attr]
        assert row["accuracy (%): minilm"] == expected
        assert isinstance(published, Estimate)
        assert float(row["accuracy (%): roberta-base, published"]) == published.value
    assert rows[8]["accuracy (%): minilm seeds"] == "2"
    first, second = rows_of(contrasts_table())
    assert (first["Difference low"], first["Difference high"]) == ("0.4", "3.9")
    assert (second["Detectable"], second["Reading"]) == ("", "cannot tell")


def test_notes_say_how_many_seeds_a_number_is_of() -> None:
    notes = [
        annotated(table, "minilm").note
        for table in (scores_table(), features_table(), contrasts_table(), long_table())
    ]
    assert notes[0] == (
        "Accuracy on the official validation set. Mean ± standard deviation over 3 seeds, or over "
        "the number beside a value. Published: over 5 seeds."
    )
    assert notes[1].startswith("One seed: the spread over seeds is unknown.")
    assert notes[2] == "95 % bootstrap intervals over seeds and samples."
    assert notes[3] == "Mean ± standard deviation over 5 seeds."


def test_a_note_that_explains_deviations_is_not_repeated() -> None:
    table = scores_table()
    told = type(table)(**{**vars(table), "note": "Mean and standard deviation."})
    assert annotated(told, "minilm").note == (
        "Mean and standard deviation. Here over 3 seeds, or over the number beside a value. "
        "Published: over 5 seeds."
    )


def test_brackets_are_explained_where_the_recipe_does_not() -> None:
    row = ("cb", Estimate(1.0, low=0.0, high=2.0))
    table = Table("t", "T", (Column("a"), Column("b")), (row,))
    assert annotated(table, "minilm").note == "In brackets: 95 % interval."


def test_published_columns_are_told_apart_and_say_whose_they_are() -> None:
    table = annotated(scores_table(), "some/minilm")
    assert [column.source == "published" for column in table.columns] == [False] * 3 + [True]
    assert [is_numeric(table, place) for place in range(4)] == [False, False, True, True]
    assert [column.remark for column in table.columns] == ["", "", "some/minilm", ""]
    bare = Table(
        "t",
        "T",
        (
            Column("Data", source="names"),
            Column("LP-FT"),
            Column("LP-FT", source="published"),
        ),
        (("cb", Estimate(1.0), Estimate(2.0)),),
    )
    shown = annotated(bare, "minilm")
    assert [one_line_heading(column) for column in shown.columns] == [
        *("Data", "LP-FT (minilm)", "LP-FT (published, roberta-base)")
    ]
    alone = annotated(long_table(), "minilm")
    assert {column.remark for column in alone.columns} == {""}


def test_faults_of_published_numbers_stand_beside_them() -> None:
    table = annotated(features_table(), "minilm")
    remarks = {
        one_line_heading(column): column.remark
        for column in table.columns
        if column.source == "published"
    }
    assert remarks == {
        "CS: roberta-base, published": "",
        "Diff: roberta-base, published": "",
        "FDR: roberta-base, published (not comparable)": "not comparable",
        "Norm(C): roberta-base, published (halved for two classes)": "halved for two classes",
    }
    assert FDR_NOT_COMPARABLE in table.note
    assert HALVED in table.note
    assert {column.remark for column in table.columns if column.source != "published"} == {""}
    for text in (to_csv(table), to_markdown(table), to_latex(table)):
        assert "not comparable" in text


def _named(title: str, heading: str, row: str) -> Table:
    columns = (
        Column("", source="names"),
        Column("here"),
        Column(heading, source="published"),
    )
    return Table("t", title, columns, ((row, Estimate(1.0), Estimate(2.0)),) * 2)


@pytest.mark.parametrize(
    ("table", "columns", "rows", "sentences"),
    [
        (_named("", "head norm", ""), [2], [], (HALVED,)),
        (_named("Norm of the head", "LP", "cb"), [2], [], (HALVED,)),
        (_named("Statistics", "published", "FDR"), [], [0, 1], (FDR_NOT_COMPARABLE,)),
        (_named("FT ratio of kernels", "published", "cb"), [2], [], (WORD_EMBEDDINGS,)),
        (_named("Accuracy", "published", "LoRA rank 8"), [], [], ()),
    ],
)
def test_cautions_are_found_by_heading_row_or_title(
    table: Table, columns: list[int], rows: list[int], sentences: tuple[str, ...]
) -> None:
    by_column, by_row = cautions_of(table)
    assert (list(by_column), list(by_row)) == (columns, rows)
    found = {caution.sentence for caution in (*by_column.values(), *by_row.values())}
    assert found == set(sentences)


def test_a_row_of_published_numbers_has_its_caution_in_the_cell() -> None:
    shown = annotated(_named("Statistics", "published", "FDR"), "minilm")
    assert [cell.text for cell in text_rows(shown)[0]] == ["FDR", "1.00", "2.00 not comparable"]
    row, _ = csv.DictReader(io.StringIO(to_csv(shown)))
    assert row["published (roberta-base)"] == "2.0"


def test_where_nothing_is_published_no_caution_is_needed() -> None:
    ours = Column("FDR")
    assert cautions_of(Table("t", "FDR", (ours,), ())) == ({}, {})
    columns = (
        Column("Data", source="names"),
        ours,
        Column("FDR", source="published"),
    )
    empty = Table("t", "FDR", columns, (("cb", Estimate(1.0), None),))
    assert cautions_of(empty) == ({}, {})


def test_the_verdict_table_has_every_verdict() -> None:
    record = sample_experiment()
    rows = list(csv.DictReader(io.StringIO(to_csv(verdict_table(record)))))
    assert len(rows) == len(record.verdicts) == 7
    for row, verdict in zip(rows, record.verdicts, strict=True):
        assert int(row["Claim"]) == verdict.claim
        assert (row["Verdict"], row["Reason"]) == (verdict.verdict, verdict.reason)
        for name in ("value", "sd", "low", "high"):
            key = "Effect" if name == "value" else f"Effect {name}"
            value = getattr(verdict.effect, name)
            assert row[key] == ("" if value is None else str(value))
    assert rows[1]["Detectable"] == "0.9"
    assert r"6.50 [5.90, 7.20]" in to_latex(verdict_table(record))


def test_a_terminal_shows_tables_verdicts_and_what_is_missing() -> None:
    text = format_experiment(sample_experiment())
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    for words in (
        "LP-FT is ahead of FT by 2.1 points on CB",
        "61.11 ± 0.82 (2 seeds)",
        "roberta-base, published (not comparable)",
        "Of 3 claims, 1 holds, 1 does not hold and 1 is undecided.",
        "3. FT ratio: LP-FT near 1, FT near 0.2, LoRA near 0.",
        "    ? cannot tell: One task, 3 seeds.",
        "- minilm in place of roberta-base",
        "- runs/rte/lora-seed2: training loss is not finite after step 12",
        "- t-SNE of features and head",
        "Time: runs 30 min 32 s, kernels 61 s and show 2.4 s.",
    ):
        assert words in text
    place = next(i for i, line in enumerate(lines) if line.startswith("    cb: FT minus LP-FT"))
    assert lines[place].endswith("0.900  ✓ holds")
    assert "6.50 [5.90, 7.20]" in lines[place]
    assert lines[place + 1] == "        the interval is above 0 in all seeds"


def test_a_terminal_shows_an_experiment_without_anything() -> None:
    empty = sample_experiment(
        exhibits=(), verdicts=(), findings=(), differences=(), failures=(), timings={}
    )
    text = format_experiment(empty)
    assert text.startswith(
        "Test scores and feature change, done again (sample, minilm)\n\nProtocol"
    )
    assert "Verdicts" not in text


HOSTILE = "<script>alert(1)</script> beside"


def verdict(comparison: str, rates: str, name: str, remark: str = "") -> Verdict:
    told = f"because at {rates}" if rates else "because"
    return Verdict(1, "It holds.", comparison, rates, Estimate(None), "", name, told, None, remark)  # type: ignore[arg-type]


JUDGED = (
    verdict(OVERALL, "", "does not hold", "of the whole"),
    verdict(OVERALL, "published", "holds"),
    verdict(OVERALL, "shared", "does not hold"),
    verdict("cb", "published", "holds", HOSTILE),
    verdict("cb", "shared", "does not hold"),
)


def test_verdicts_at_each_rates_are_apart_from_the_whole_and_from_comparisons() -> None:
    (claim,) = judged_claims(JUDGED)
    assert claim.whole is not None
    assert (claim.whole.rates, claim.whole.remark) == ("", "of the whole")
    assert [(verdict.rates, verdict.verdict) for verdict in claim.by_rates] == [
        ("published", "holds"),
        ("shared", "does not hold"),
    ]
    assert [(verdict.comparison, verdict.rates) for verdict in claim.comparisons] == [
        ("cb", "published"),
        ("cb", "shared"),
    ]
    assert tally(JUDGED) == "Of 1 claim, 1 does not hold."


def test_the_page_and_the_terminal_show_them_with_their_remarks(tmp_path: Path) -> None:
    record = sample_experiment(exhibits=(), verdicts=JUDGED)
    write_experiment(tmp_path, record)
    page = build_report(tmp_path).page.read_text(encoding="utf-8")
    for text in ("at published rates: because at published", "at shared rates: because at shared"):
        assert text in page
    assert "of the whole" in page
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; beside" in page
    told = format_experiment(record)
    assert "✓ holds at published rates: because at published" in told
    assert "✗ does not hold at shared rates: because at shared" in told
    assert "✗ does not hold: because (of the whole)" in told
    assert f"because at published ({HOSTILE})" in told


def test_origins_are_found_inside_the_experiment_alone(tmp_path: Path) -> None:
    experiment = tmp_path / "out" / "table8"
    (experiment / "paths" / "cb").mkdir(parents=True)
    (tmp_path / "out" / "secret").mkdir()
    places = {
        experiment / "runs" / "a": Place("cb, FT, seed", "0", "#run-a", "table8/runs/a"),
        tmp_path / "out" / "shared" / "b": Place("cb, FT, seed", "1", "#run-b", "shared/b"),
    }
    trace = tracer(experiment, tmp_path / "out", places)
    assert trace(()) == ()
    assert trace(("runs/a", "../shared/b", "runs/a")) == (
        Origin("cb, FT, seed", (("0", "#run-a"), ("1", "#run-b")), ("table8/runs/a", "shared/b")),
    )
    assert trace(("paths/cb",)) == (
        Origin("files", (("paths/cb", "table8/paths/cb"),), ("paths/cb",)),
    )
    missing = ("runs/none", "../secret", "/etc", str(tmp_path / "out" / "secret"))
    assert trace(missing) == (
        Origin("not found below this page", tuple((name, None) for name in missing), missing),
    )


def _verdict(value: float | None, low: float | None, high: float | None, unit: str) -> Verdict:
    return Verdict(1, "s", "c", "", Estimate(value, low=low, high=high), unit, "holds", "r")


def test_effects_of_one_claim_and_unit_share_their_scale() -> None:
    (claim,) = judged_claims(
        [
            _verdict(2.0, 1.0, 4.0, "points"),
            _verdict(-1.0, None, None, "points"),
            _verdict(0.1, -0.2, 0.2, "ratio"),
            _verdict(None, None, None, "ratio"),
            _verdict(0.0, 0.0, 0.0, "none"),
        ]
    )
    assert [claim.drawn(verdict) for verdict in claim.comparisons] == [
        (73.0, 61.5, 96.0),
        (38.5, 38.5, 38.5),
        (73.0, 4.0, 96.0),
        None,
        None,
    ]
    assert claim.whole is None


def test_claims_are_counted_where_they_were_judged_and_comparisons_otherwise() -> None:
    def verdict(claim: int, comparison: str, verdict: str) -> Verdict:
        return Verdict(claim, "s", comparison, "", Estimate(None), "", verdict, "r")  # type: ignore[arg-type]

    comparisons = [verdict(1, "a", "holds"), verdict(1, "b", "holds"), verdict(2, "a", "holds")]
    assert tally(comparisons) == "Of 3 comparisons, 3 hold."
    judged = [*comparisons, verdict(1, OVERALL, "does not hold"), verdict(2, OVERALL, "holds")]
    assert tally(judged) == "Of 2 claims, 1 holds and 1 does not hold."
    assert tally(comparisons[:1]) == "Of 1 comparison, 1 holds."


def test_protocols_are_explained_and_unknown_ones_named() -> None:
    meaning = say("protocol", name="stratified")
    assert "A tenth of the training rows of every class" in meaning
    assert say("protocol", name="other") == "“other”"
