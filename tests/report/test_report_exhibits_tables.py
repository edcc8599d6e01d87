"""Table exhibits and verdicts: what a cell says, what must be known of it, the files of it."""

import csv
import io

import pytest
from lpft.report.exhibits.cautions import cautions_of
from lpft.report.exhibits.tables import estimate_cell, exhibit_table, verdict_table
from lpft.report.grid import Cell, Column, from_columns
from lpft.report.notes import FDR_NOT_COMPARABLE, HALVED, WORD_EMBEDDINGS
from lpft.report.writers import to_csv, to_latex, to_markdown, to_text

from lpft.report import format_experiment
from lpft.results.exhibits import Column as ExhibitColumn
from lpft.results.exhibits import Estimate
from lpft.results.exhibits import Table as TableExhibit
from lpft.results.formats import shared_digits

from .experiment_folders import (
    contrasts_table,
    features_table,
    long_table,
    sample_experiment,
    scores_table,
)


def rows_of(table: TableExhibit) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(exhibit_table(table, "minilm", "x")))))


@pytest.mark.parametrize(
    ("estimate", "digits", "text"),
    [
        (Estimate(0.81264, sd=0.0131), 3, "0.813 ± 0.013"),
        (Estimate(0.81264, sd=0.0131), None, "0.813 ± 0.013"),
        (Estimate(12.344, sd=0.5), None, "12.3 ± 0.5"),
        (Estimate(-1.4, low=-2.2, high=-0.5), None, "−1.40 [−2.20, −0.50]"),
        (Estimate(2.0, sd=0.5, low=1.0, high=3.0), 1, "2.0 ± 0.5"),
        (Estimate(2.0, low=1.0), 1, "2.0"),
        (Estimate(5.1e4), None, "51000"),
        (Estimate(1.234e7, sd=5.0), None, "1.23e7 ± 5.00"),
        (Estimate(1.0, sd=0.5, count=2), 1, "1.0 ± 0.5 (2 seeds)"),
        (Estimate(1.0, count=1), 1, "1.0 (1 seed)"),
        (Estimate(1.0, count=3), 1, "1.0"),
        (Estimate(None, sd=0.5, count=1, low=0.0, high=1.0), 1, "–"),
        (Estimate(0.0), None, "0.00"),
    ],
)
def test_a_cell_shows_what_is_known(estimate: Estimate, digits: int | None, text: str) -> None:
    cell = estimate_cell(estimate, digits, most=3)
    assert cell.text == text
    assert cell.value == estimate.value
    assert f"{cell.main} {cell.aside}".strip() == cell.text


@pytest.mark.parametrize(
    ("values", "digits"),
    [
        ((0.637, 0.2), 3),
        ((6.5, 7.2), 2),
        ((99.9, None), 1),
        ((120.0,), 0),
        ((0.0041, -0.0002), 5),
        ((3e5,), None),
        ((1e-5,), None),
        ((0.9999,), 2),
        ((99999.0,), None),
        ((0.0, None), 2),
        ((), 2),
    ],
)
def test_numbers_of_one_cell_share_their_decimals(
    values: tuple[float | None, ...], digits: int | None
) -> None:
    assert shared_digits(values) == digits


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
        exhibit_table(table, "minilm", "x").note
        for table in (scores_table(), features_table(), contrasts_table(), long_table())
    ]
    assert notes[0] == (
        "Accuracy on the official validation set. Mean ± standard deviation over 3 seeds, or over "
        "as many as stand beside it. Published: over 5 seeds."
    )
    assert notes[1].startswith("One seed: nothing is known of the spread over seeds.")
    assert notes[2] == "95 % bootstrap intervals over seeds and samples."
    assert notes[3] == "Mean ± standard deviation over 5 seeds."


def test_a_note_that_explains_deviations_is_not_repeated() -> None:
    table = scores_table()
    told = type(table)(**{**vars(table), "note": "Mean and standard deviation."})
    assert exhibit_table(told, "minilm", "x").note == (
        "Mean and standard deviation. Here over 3 seeds, or over as many as stand beside it. "
        "Published: over 5 seeds."
    )


def test_brackets_are_explained_where_the_recipe_does_not() -> None:
    row = ("cb", Estimate(1.0, low=0.0, high=2.0))
    table = TableExhibit("t", "T", (ExhibitColumn("a"), ExhibitColumn("b")), (row,))
    assert exhibit_table(table, "minilm", "x").note == "In brackets: 95 % interval."


def test_published_columns_are_told_apart_and_say_whose_they_are() -> None:
    table = exhibit_table(scores_table(), "some/minilm", "x")
    assert [column.published for column in table.columns] == [False, False, False, True]
    assert [column.numeric for column in table.columns] == [False, False, True, True]
    assert [column.remark for column in table.columns] == ["", "", "some/minilm", ""]
    bare = TableExhibit(
        "t",
        "T",
        (
            ExhibitColumn("Data", source="names"),
            ExhibitColumn("LP-FT"),
            ExhibitColumn("LP-FT", source="published"),
        ),
        (("cb", Estimate(1.0), Estimate(2.0)),),
    )
    shown = exhibit_table(bare, "minilm", "x")
    assert [column.flat for column in shown.columns] == [
        *("Data", "LP-FT (minilm)", "LP-FT (published, roberta-base)")
    ]
    alone = exhibit_table(long_table(), "minilm", "x")
    assert {column.remark for column in alone.columns} == {""}


def test_faults_of_published_numbers_stand_beside_them() -> None:
    table = exhibit_table(features_table(), "minilm", "x")
    remarks = {column.flat: column.remark for column in table.columns if column.published}
    assert remarks == {
        "CS: roberta-base, published": "",
        "Diff: roberta-base, published": "",
        "FDR: roberta-base, published (not comparable)": "not comparable",
        "Norm(C): roberta-base, published (halved for two classes)": "halved for two classes",
    }
    assert FDR_NOT_COMPARABLE in table.note
    assert HALVED in table.note
    assert {column.remark for column in table.columns if not column.published} == {""}
    for text in (to_csv(table), to_markdown(table), to_latex(table)):
        assert "not comparable" in text


def _named(title: str, heading: str, row: str) -> TableExhibit:
    columns = (
        ExhibitColumn("", source="names"),
        ExhibitColumn("here"),
        ExhibitColumn(heading, source="published"),
    )
    return TableExhibit("t", title, columns, ((row, Estimate(1.0), Estimate(2.0)),) * 2)


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
    table: TableExhibit, columns: list[int], rows: list[int], sentences: tuple[str, ...]
) -> None:
    found = cautions_of(table)
    assert (list(found.columns), list(found.rows)) == (columns, rows)
    assert found.sentences == sentences


def test_a_row_of_published_numbers_has_its_caution_in_the_cell() -> None:
    shown = exhibit_table(_named("Statistics", "published", "FDR"), "minilm", "x")
    assert [cell.text for cell in shown.rows[0]] == ["FDR", "1.00", "2.00 not comparable"]
    assert shown.rows[0][2].value == 2.0


def test_where_nothing_is_published_no_caution_is_needed() -> None:
    ours = ExhibitColumn("FDR")
    assert cautions_of(TableExhibit("t", "FDR", (ours,), ())).sentences == ()
    columns = (
        ExhibitColumn("Data", source="names"),
        ours,
        ExhibitColumn("FDR", source="published"),
    )
    empty = TableExhibit("t", "FDR", columns, (("cb", Estimate(1.0), None),))
    assert cautions_of(empty).sentences == ()


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


def test_a_wide_table_is_cut_where_its_headings_are() -> None:
    columns = [
        (Column("row", numeric=False), [Cell("a", "a")]),
        *((Column(f"c{i}", above=f"band {i // 3}"), [Cell("1" * 10, 1)]) for i in range(9)),
    ]
    table = from_columns("t", "T", columns)
    assert len(to_text(table).splitlines()) == 4
    parts = to_text(table, 60).split("\n\n")
    assert [part.splitlines()[1].split() for part in parts] == [
        *(["row", "c0", "c1", "c2"], ["row", "c3", "c4", "c5"], ["row", "c6", "c7", "c8"])
    ]
    assert [part.splitlines()[0].split() for part in parts] == [["band", f"{i}"] for i in range(3)]
    narrow = to_text(table, 30).split("\n\n")
    assert all(max(map(len, part.splitlines())) <= 30 for part in narrow)
    assert [name for part in narrow for name in part.splitlines()[1].split()[1:]] == [
        f"c{i}" for i in range(9)
    ]
    assert len(to_text(table, 5).split("\n\n")) == 9


def test_a_terminal_shows_tables_verdicts_and_what_is_missing() -> None:
    text = format_experiment(sample_experiment())
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    for words in (
        "LP-FT is ahead of FT by 2.1 points on CB",
        "61.11 ± 0.82 (2 seeds)",
        "roberta-base, published (not comparable)",
        "Of 3 claims 1 holds, 1 does not hold and 1 cannot be told with this many seeds.",
        "3. FT ratio: LP-FT near 1, FT near 0.2, LoRA near 0.",
        "    ? cannot tell: One task, 3 seeds.",
        "- minilm in place of roberta-base",
        "- runs/rte/lora-seed2: training loss is not finite after step 12",
        "- t-SNE of features and head",
        "Time: runs 30 min 32 s, kernels 61 s and show 2.4 s.",
    ):
        assert words in text
    place = next(i for i, line in enumerate(lines) if line.startswith("    cb: FT minus LP-FT"))
    assert lines[place].endswith("0.900       ✓ holds")
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
