"""Tables as files: sources of numbers in CSV, the layout of LaTeX."""

import csv
import io

import pytest
from lpft.report.grid import Cell, Column, Origin, from_columns
from lpft.report.writers import to_csv, to_latex


def test_every_number_of_a_csv_names_the_runs_that_it_comes_from():
    origins = (
        Origin("runs", (("runs/cb/ft-seed0", "#a"), ("runs/cb/ft-seed1", None))),
        Origin("kernels", (("kernels/cb-seed0", None),)),
    )
    cells = [Cell("0.5", 0.5, origins=origins), Cell("–", None)]
    names = [Cell("FT", "FT"), Cell("LP", "LP")]
    table = from_columns(
        "t", "Caption", [(Column("Method", numeric=False), names), (Column("CB"), cells)]
    )
    first, second = csv.DictReader(io.StringIO(to_csv(table)))
    assert list(first) == ["Method", "CB", "CB from"]
    assert first["CB from"] == "runs/cb/ft-seed0; runs/cb/ft-seed1; kernels/cb-seed0"
    assert second["CB from"] == ""


@pytest.mark.parametrize(("columns", "shrunk"), [(3, False), (9, True)])
def test_latex_tables_have_a_label_and_fit_the_text(columns, shrunk):
    names = (Column("Method", numeric=False), [Cell("FT", "FT")])
    wide = (Column("Why", "Verdict", numeric=False, wraps=True), [Cell("so", "so")])
    numbers = [(Column(f"n{place}", "Sizes"), [Cell("1", 1)]) for place in range(columns - 2)]
    latex = to_latex(from_columns("sizes", "Caption", [names, wide, *numbers])).splitlines()
    assert r"\label{tab:sizes}" in latex
    assert rf"\begin{{tabular}}{{lp{{0.80\linewidth}}{'r' * (columns - 2)}}}" in latex
    assert rf"\cmidrule(lr){{2-2}} \cmidrule(lr){{3-{columns}}}" in latex
    assert (r"\resizebox{\linewidth}{!}{%" in latex) is shrunk
    assert (r"\end{tabular}}" in latex) is shrunk
    text = "\n".join(latex)
    assert text.count("{") == text.count("}")
