"""Tables as text and as files: what a cell says, the layout in a terminal, CSV and LaTeX."""

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lpft.report.table import (
    Origin,
    from_columns,
    is_numeric,
    text_rows,
    to_csv,
    to_latex,
    to_markdown,
    to_text,
)
from lpft.results.exhibits import Column, Estimate, Format, Table, Text


def cell_of(estimate: Estimate, digits: int | None = None, form: Format = "number") -> str:
    """An estimate in a table whose best other number is of three seeds."""
    column = Column("a", digits=digits, format=form)
    table = Table("t", "T", (Column("m"), column), (("x", estimate), ("y", Estimate(1, count=3))))
    shown = text_rows(table)[0][1]
    assert f"{shown.main} {shown.aside}".strip() == shown.text
    return shown.text


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
        (Estimate(0.0), None, "0"),
        (Estimate(2.0, remark="not comparable"), 1, "2.0 not comparable"),
        (Estimate(None, remark="varies"), 1, "varies"),
    ],
)
def test_a_cell_shows_what_is_known(estimate: Estimate, digits: int | None, text: str) -> None:
    assert cell_of(estimate, digits) == text


@pytest.mark.parametrize(
    ("value", "form", "digits", "text"),
    [
        (16.0, "count", None, "16"),
        (12345.0, "count", None, "12 345"),
        (5e-5, "rate", None, "5e-5"),
        (0.0912, "percent", 0, "9 %"),
        (-0.0912, "percent", 1, "−9.1 %"),
        (512_340.0, "scientific", None, "5.12e5"),
        (0.1987, "ratio", None, "0.1987"),
        (0.000_012, "ratio", None, "1.2e−5"),
    ],
)
def test_a_column_says_how_its_numbers_are_written(
    value: float, form: Format, digits: int | None, text: str
) -> None:
    assert cell_of(Estimate(value), digits, form) == text


def test_an_effect_shows_its_interval_and_keeps_its_deviation_for_files() -> None:
    effect = Estimate(6.5, sd=0.7, low=5.9, high=7.2)
    assert cell_of(effect, form="effect") == "6.50 [5.90, 7.20]"
    table = from_columns("t", "T", [(Column("Effect", format="effect"), [effect])], "", headers=0)
    (row,) = csv.DictReader(io.StringIO(to_csv(table)))
    assert (row["Effect sd"], row["Effect low"]) == ("0.7", "5.9")


def test_every_number_of_a_csv_names_the_runs_that_it_comes_from() -> None:
    places = {"a": ("runs", "runs/cb/ft-seed0"), "b": ("kernels", "kernels/cb-seed0")}

    def trace(runs):
        return tuple(Origin(places[run][0], (("0", None),), (places[run][1],)) for run in runs)

    cells = [Estimate(0.5, runs=("a", "b")), None]
    table = from_columns("t", "T", [(Column("Method"), ["FT", "LP"]), (Column("CB"), cells)], "")
    first, second = csv.DictReader(io.StringIO(to_csv(table, trace)))
    assert list(first) == ["Method", "CB", "CB from"]
    assert first["CB from"] == "runs/cb/ft-seed0; kernels/cb-seed0"
    assert (second["CB"], second["CB from"]) == ("", "")


def test_a_csv_has_every_digit_whole_counts_and_the_values_of_words() -> None:
    columns = [
        (Column("Method"), [Text("LP-FT (2 seeds)", value="LP-FT", runs=("a",))]),
        (Column("batch", format="count", full="batch size"), [Estimate(16.0)]),
        (Column("loss", digits=1), [Estimate(0.1 + 0.2)]),
    ]
    (row,) = csv.DictReader(io.StringIO(to_csv(from_columns("t", "T", columns, ""))))
    assert row == {"Method": "LP-FT", "batch size": "16", "loss": "0.30000000000000004"}


def test_a_column_with_words_is_no_column_of_numbers() -> None:
    row = ("cb", Estimate(1.0), "so", None)
    columns = (Column("m"), Column("n"), Column("w"), Column("gap"))
    table = Table("t", "T", columns, (row,))
    assert [is_numeric(table, place) for place in range(4)] == [False, True, False, True]


def test_text_tables_make_room_for_long_upper_headings() -> None:
    columns = [
        (Column("m"), ["a", "a", "bb"]),
        (Column("k"), ["P", "F", "P"]),
        (Column("x", "a long heading", format="count"), [Estimate(n) for n in (1, 22, 3)]),
        (Column("y", "a long heading", format="count"), [Estimate(n) for n in (4, 5, 6)]),
    ]
    assert to_text(from_columns("t", "c", columns, "", headers=2)).splitlines() == [
        "       a long heading",
        "m   k   x           y",
        "---------------------",
        "a   P   1           4",
        "    F  22           5",
        "bb  P   3           6",
    ]


def test_a_wide_table_is_cut_where_its_headings_are() -> None:
    columns = [
        (Column("row"), ["a"]),
        *((Column(f"c{i}", f"band {i // 3}"), [Estimate(1.11e-10)]) for i in range(9)),
    ]
    table = from_columns("t", "T", columns, "")
    assert len(to_text(table).splitlines()) == 4
    parts = to_text(table, 40).split("\n\n")
    assert [part.splitlines()[1].split() for part in parts] == [
        *(["row", "c0", "c1", "c2"], ["row", "c3", "c4", "c5"], ["row", "c6", "c7", "c8"])
    ]
    narrow = to_text(table, 25).split("\n\n")
    assert all(max(map(len, part.splitlines())) <= 25 for part in narrow)
    assert [name for part in narrow for name in part.splitlines()[1].split()[1:]] == [
        f"c{i}" for i in range(9)
    ]
    assert len(to_text(table, 5).split("\n\n")) == 9


def test_markdown_and_latex_escape_what_they_must() -> None:
    columns = [
        (Column("a|b_%"), ["<b>|x|</b> 50 % {y} \\z ± 1"]),
        (Column("n", format="count"), [Estimate(1)]),
    ]
    table = from_columns("t", "Caption & more", columns, "")
    markdown = to_markdown(table)
    assert "&lt;b&gt;\\|x\\|&lt;/b&gt;" in markdown
    assert "Caption &amp; more" in markdown
    # Two columns have three bars that are not escaped, in each of heading, rule and row.
    lines = markdown.splitlines()[2:]
    assert [line.replace("\\|", "").count("|") for line in lines] == [3, 3, 3]
    latex = to_latex(table)
    assert r"a\textbar{}b\_\%" in latex
    assert r"50 \% \{y\} \textbackslash{}z $\pm$ 1 & 1 \\" in latex
    assert r"\caption{Caption \& more}" in latex


@pytest.mark.parametrize(("columns", "shrunk"), [(3, False), (25, True)])
def test_latex_tables_have_a_label_and_fit_the_text(columns: int, shrunk: bool) -> None:
    why = "a reason of so many letters that its lines must break"
    named = [(Column("Method"), ["FT"]), (Column("Why", "Verdict"), [why])]
    numbers = [(Column(f"n{place}", "Sizes"), [Estimate(1)]) for place in range(columns - 2)]
    text = to_latex(from_columns("sizes", "Caption", [*named, *numbers], "A note."))
    assert r"\label{tab:sizes}" in text
    (share,) = re.findall(
        rf"\\begin{{tabular}}{{lp{{([\d.]+)\\linewidth}}{'r' * (columns - 2)}}}", text
    )
    assert 0.25 < float(share) <= 0.8
    assert rf"\cmidrule(lr){{2-2}} \cmidrule(lr){{3-{columns}}}" in text
    assert (r"\resizebox{\linewidth}{!}{" in text) is shrunk
    assert (r"\end{tabular}}" in text) is shrunk
    assert text.index("A note.") < text.index(r"\end{table}")
    assert text.count("{") == text.count("}")


NAMES = (
    "a_b & c% #1",
    r"{x} ~ ^ \ $",
    "−0.5 < x > y|",
    "[bracket] *star",
    "naïve “Ø” – ½ …",
    "± ≈ ≤ ×",
)


@pytest.mark.heavy
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX")
def test_latex_compiles_and_fits(tmp_path: Path) -> None:
    why = "a reason of so many letters that its lines must break & go on"
    loss = Estimate(-1.5, sd=0.2), Estimate(-0.001, low=-0.1, high=0.2), Estimate(None)
    special = [
        (Column("Method_%"), NAMES),
        *((Column(f"n_{i}", "Sizes & more"), [number] * 6) for i, number in enumerate(loss)),
        (Column("Why"), [why] * 6),
    ]
    rows = [f"row_{i}" for i in range(95)]
    tiny = Estimate(-1.1e-10, sd=1e-11)
    tables = [
        from_columns("special", "Caption & 50 % {more} ± −1", special, "A note: ≥ · ∓ ⊗ ⁺ ’"),
        from_columns("long", "Long", [(Column("Row"), rows), (Column("x"), [tiny] * 95)], ""),
        from_columns(
            "wide",
            "Wide and long",
            [
                (Column("Row"), rows),
                *((Column(f"c{i}", f"{i // 4}"), [tiny] * 95) for i in range(12)),
            ],
            "A note.",
            headers=1,
        ),
    ]
    packages = r"\usepackage{booktabs}\usepackage{graphicx}\usepackage[T1]{fontenc}"
    body = "\n".join(map(to_latex, tables))
    document = rf"\documentclass{{article}}{packages}\begin{{document}}{body}\end{{document}}"
    (tmp_path / "tables.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "Overfull" not in done.stdout
    assert "Float too large" not in done.stdout
    if shutil.which("pdftotext") is not None:
        subprocess.run(["pdftotext", "-layout", "tables.pdf"], cwd=tmp_path, check=True)
        text = (tmp_path / "tables.txt").read_text("utf-8")
        assert "a_b & c% #1" in text
        assert all(name in text for name in rows)
