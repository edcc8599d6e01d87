"""Experiments in the page and in the files beside it: first, traced, escaped, whole."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest
from results.experiment_folders import (
    contrasts_table,
    heat_figure,
    hostile_experiment,
    run_name,
    sample_experiment,
    scores_table,
    write_experiment,
)
from results.kernel_folders import write_kernels
from results.run_folders import write_run

from lpft.report import ReportResult, build_report, format_report
from lpft.report.experiments import MOST_VERDICTS_OPEN
from lpft.results.exhibits import Estimate

from .test_page import HOSTILE, Page, check_files, check_whole, drawings


@pytest.fixture(scope="module")
def page(experiment_report: ReportResult) -> Page:
    return Page(experiment_report.page)


def words(page: Page) -> str:
    return " ".join(page.text.split())


def test_the_files_are_as_documented(experiment_report: ReportResult) -> None:
    tables = ("scores", "features", "contrasts", "head-scale", "verdicts")
    own = {path.name for path in experiment_report.tables if path.name.startswith("sample-")}
    assert own == {
        f"sample-{table}.{ending}" for table in tables for ending in ("csv", "md", "tex")
    }
    figures = ("head-scale-cb", "training", "gains", "tsne", "maps")
    drawn = {path.name for path in experiment_report.figures if path.name.startswith("sample-")}
    assert drawn == {f"sample-{figure}.{kind}" for figure in figures for kind in ("png", "pdf")}
    assert [record.name for record in experiment_report.experiments] == ["sample"]


def test_a_csv_names_the_folders_that_each_number_is_from(
    experiment_report: ReportResult, experiment_folder: Path
) -> None:
    (path,) = [path for path in experiment_report.tables if path.name == "sample-scores.csv"]
    frame = pd.read_csv(path)
    cells = frame.filter(regex=" from$").melt()["value"].dropna()
    names = {name for cell in cells for name in str(cell).split("; ")}
    # One folder per run, not the seeds that the page writes under the name of the setting.
    assert {run_name("cb", "ft", seed) for seed in range(3)} <= names
    there = {name for name in names if (experiment_folder / name / "run.json").is_file()}
    assert len(there) == 6


def test_the_experiment_comes_first_and_runs_are_folded_away(page: Page) -> None:
    text = words(page)
    order = (
        "Test scores and feature change, done again",
        "LP-FT is ahead of FT by 2.1 points on CB",
        "Of 3 claims, 1 holds, 1 does not hold and 1 is undecided.",
        "minilm in place of roberta-base",
        "the last tenth of the official training rows, unshuffled, is validation",
        "Verdicts on the paper’s claims",
        "Test scores, accuracy in per cent",
        "What is missing, and why",
        "training loss is not finite after step 12",
        "Runs and kernels behind the numbers",
        "How each run was made",
        "Bugs of the reference implementation that are not repeated here",
    )
    places = [
        text.index(part, text.index("To the summary") + 200 * bool(i))
        for i, part in enumerate(order)
    ]
    assert places == sorted(places)
    folds = [attributes for attributes in page.of("details") if attributes.get("class") == "fold"]
    assert len(folds) == 2
    assert not any("open" in attributes for attributes in page.of("details"))


def test_the_page_is_whole_and_leads_to_every_file(
    page: Page, experiment_report: ReportResult
) -> None:
    check_whole(page, experiment_report)
    names = {Path(unquote(attributes["href"])).name for attributes in page.of("a")}
    assert "experiment.json" in names
    assert {path.name for path in experiment_report.tables} <= names
    own = {p.name for p in experiment_report.figures if p.name.startswith("sample-")}
    assert own <= names
    drawn = [d for d in drawings(page)[0] if d["aria-labelledby"].startswith("sample-")]
    assert len(drawn) == 1 + 5 + 2 + 3 + 3


def test_numbers_lead_to_their_runs(page: Page, experiment_report: ReportResult) -> None:
    links = Counter(attributes["href"] for attributes in page.of("a"))
    for run in experiment_report.runs:
        anchor = f"#run-runs-cb-{run.folder.name}"
        # A cell of the scores, a contrast, four effects and two series name each run.
        assert links[anchor] >= 6
    # One seed: the number itself is the link.
    assert links["#run-runs-cb-ft-seed0"] > links["#run-runs-cb-ft-seed1"]
    text = words(page)
    assert "cb, LP-FT, seed: 0 , 1 , 2" in text or "cb, LP-FT, seed: 0, 1, 2" in text
    assert "not found below this page: runs/cb/lora-seed0" in text


def test_published_numbers_are_set_apart_in_class_and_heading(page: Page) -> None:
    cells = [attributes.get("class", "") for attributes in page.of("td", "th")]
    # Scores: a heading and ten cells; features: four headings and four rows of four cells.
    assert sum("theirs" in name for name in cells) == 11 + 4 + 16
    assert words(page).count("roberta-base, published") == 5
    assert "roberta-base, published not comparable" in words(page)
    assert "are half of what was fitted" in words(page)


def test_verdicts_have_marks_and_words(page: Page) -> None:
    badges = Counter(
        attributes["class"]
        for attributes in page.of("span")
        if attributes.get("class", "").startswith("verdict ")
    )
    # Once in the summary, once above the comparisons, once for each comparison.
    assert badges == {"verdict holds": 4, "verdict does-not-hold": 3, "verdict cannot-tell": 3}
    text = words(page)
    for mark in ("✓ holds", "✗ does not hold", "? cannot tell"):
        assert mark in text


def test_nothing_is_bold_for_being_largest(experiment_report: ReportResult) -> None:
    html = experiment_report.page.read_text(encoding="utf-8")
    bold = set(re.findall(r"<(?:b|strong)\b[^>]*>([^<]*)<", html))
    assert bold == {"✓", "✗", "?"}
    for path in experiment_report.tables:
        assert "textbf" not in path.read_text(encoding="utf-8")


def test_text_from_an_experiment_is_escaped_everywhere(tmp_path: Path) -> None:
    hostile = f'{HOSTILE}"><i>$\\frac{{1}}{{0}}$\u0001 & __proto__'
    write_experiment(tmp_path / "x", hostile_experiment(hostile))
    result = build_report(tmp_path)
    assert result.unread == ()
    page = Page(result.page)
    assert not page.of("script", "img", "i")
    assert page.text.count(HOSTILE) > 30
    check_files(page, result)
    assert HOSTILE in format_report(result)


def test_an_experiment_without_runs_is_a_page_too(tmp_path: Path) -> None:
    write_experiment(tmp_path, sample_experiment(exhibits=(scores_table(),), verdicts=()))
    result = build_report(tmp_path)
    page = Page(result.page)
    assert (result.runs, result.kernels) == ((), ())
    text = words(page)
    assert "Runs and kernels behind the numbers" not in text
    assert "Verdicts" not in text
    assert "Feature change (Diff)" in text
    assert format_report(result).startswith("Test scores and feature change")


def test_a_table_without_rows_and_a_figure_without_panels_are_shown_as_such(
    tmp_path: Path,
) -> None:
    table, figure = scores_table(), heat_figure()
    exhibits = (replace(table, rows=()), replace(figure, panels=()))
    write_experiment(tmp_path, sample_experiment(exhibits=exhibits))
    result = build_report(tmp_path)
    assert "Nothing to draw: all numbers are missing." in words(Page(result.page))
    assert not [path for path in result.figures if "maps" in path.name]
    assert "Test scores, accuracy in per cent" in format_report(result)


def test_several_experiments_have_a_section_each(tmp_path: Path) -> None:
    first = sample_experiment(exhibits=(scores_table(),))
    write_experiment(tmp_path / "a", first)
    write_experiment(tmp_path / "b", first)
    other = sample_experiment(name="figure2", title="Spectra", exhibits=(heat_figure(),))
    write_experiment(tmp_path / "c", other)
    result = build_report(tmp_path)
    page = Page(result.page)
    sections = [attributes.get("id") for attributes in page.of("section")]
    assert [name for name in sections if name in ("figure2", "sample", "sample-2")] == [
        *("figure2", "sample", "sample-2")
    ]
    names = {path.name for path in result.tables}
    assert {"sample-scores.csv", "sample-2-scores.csv", "figure2-verdicts.csv"} <= names
    text = words(page)
    # Each is folded below a summary that has its first finding.
    opened = [d for d in page.of("details") if d.get("class") == "fold"]
    assert len(opened) >= 3
    assert text.index(first.findings[0]) < text.index("Test scores, accuracy in per cent")
    assert "3 experiments" in text
    assert "Test scores and feature change, done again · b" in text
    check_whole(page, result)


def test_details_and_long_lists_of_verdicts_are_folded(tmp_path: Path) -> None:
    shown, folded = scores_table(), replace(contrasts_table(), folded=True)
    few = sample_experiment(exhibits=(shown, folded))
    many = replace(few, verdicts=few.verdicts * (1 + MOST_VERDICTS_OPEN // len(few.verdicts)))
    for name, record, details in (("few", few, 1), ("many", many, 2)):
        write_experiment(tmp_path / name, record)
        page = Page(build_report(tmp_path / name).page)
        assert len([d for d in page.of("details") if d.get("class") == "fold"]) == details
        assert (tmp_path / name / "report-tables" / f"sample-{folded.name}.csv").is_file()


def test_kernels_behind_an_experiment_are_linked_and_folded(tmp_path: Path) -> None:
    write_kernels(tmp_path / "kernels" / "cb-seed0", samples=9, methods=("ft",))
    table = scores_table()
    rows = (("cb", "FT", Estimate(0.2, runs=("kernels/cb-seed0",)), None),)
    changed = sample_experiment(exhibits=(replace(table, rows=rows),))
    write_experiment(tmp_path, changed)
    page = Page(build_report(tmp_path).page)
    hrefs = [attributes["href"] for attributes in page.of("a")]
    assert hrefs.count("#kernels-cb-minilm-sgd") == 1
    assert [d for d in page.of("details") if d.get("class") == "fold"]
    assert "Rank of F" in words(page)


def test_repeated_and_failed_runs_are_linked_to_their_folders(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "one")
    write_run(tmp_path / "runs" / "two")
    write_run(tmp_path / run_name("rte", "lora", 2), "lora", status="failed")
    rows = (("cb", "FT", Estimate(0.2, runs=("runs/two",)), None),)
    table = replace(scores_table(), rows=rows)
    write_experiment(tmp_path, sample_experiment(exhibits=(table,), verdicts=()))
    hrefs = [attributes["href"] for attributes in Page(build_report(tmp_path).page).of("a")]
    assert {"#unread-runs-two", "#unread-runs-rte-lora-seed2"} <= set(hrefs)
