"""The points between linear probing and fine-tuning on the page, in files and in a terminal."""

import json
import shutil
from pathlib import Path

import pytest
from results.interpolation_folders import write_points
from results.run_folders import edit_json, write_run

from lpft.report import build_report, format_interpolation, format_report, report_record
from lpft.report.interpolation import along_the_path, in_and_out
from lpft.results.schema import InterpolationRecord

from .test_page import HOSTILE, Page, check_files, check_whole, drawings

SLUG = "between-reviews-lp-ft-seed-3"


@pytest.fixture
def record(tmp_path: Path) -> InterpolationRecord:
    return InterpolationRecord.read(write_points(tmp_path / "points"))


def test_points_alone_make_a_whole_page(tmp_path: Path) -> None:
    write_points(tmp_path / "points")
    report = build_report(tmp_path)
    page = Page(report.page)
    check_whole(page, report)
    assert {path.name for path in report.files[1:]} == {
        *(f"{SLUG}-points.{ending}" for ending in ("csv", "md", "tex")),
        *(f"{SLUG}-{name}.{kind}" for name in ("path", "id-ood") for kind in ("png", "pdf")),
    }
    # accuracy, NLL and ECE; a curve for each OOD set; the keys of four sets and of four marks
    assert [len(group) for group in drawings(page)] == [3 + 2, 4 + 4]
    text = " ".join(page.text.split())
    assert "Between linear probing and fine-tuning: reviews · LP-FT, seed 3" in text
    assert "Alpha 0.5 was chosen, on 200 validation rows alone: lowest NLL of 3 points." in text
    assert "too high by about 1.2 percentage points" in text
    assert "These rows also chose the epoch of fine-tuning" in text
    assert "points/interpolation.json" in [link["href"] for link in page.of("a")]


@pytest.mark.heavy
def test_a_report_of_runs_shows_points_beside_them_and_each_copy_once(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "lp-ft")
    write_points(run / "interpolation")
    shutil.copytree(run / "interpolation", tmp_path / "copied")
    report = build_report(tmp_path)
    check_whole(Page(report.page), report)
    assert len(report.runs) == len(report.interpolations) == 1
    assert report_record(report)["interpolations"] == [str(tmp_path / "copied")]
    assert report.page.read_text().count("Points of the path</span>") == 1
    assert "0.5 (chosen)" in format_report(report)


def test_text_from_data_is_escaped(tmp_path: Path) -> None:
    config = {"model": HOSTILE, "method": HOSTILE, "seed": HOSTILE}
    write_points(tmp_path / "points", name=HOSTILE, ood=(HOSTILE,), config=config)
    report = build_report(tmp_path)
    page = Page(report.page)
    check_whole(page, report)
    check_files(page, report)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"chosen": 0.3}, "none of its points is the chosen one"),
        ({"schema": 9}, "schema is 9"),
        ({"points": []}, "points"),
        ({"files": ["../x"]}, "outside"),
    ],
)
def test_a_damaged_record_is_listed_with_its_reason(tmp_path: Path, change, reason) -> None:
    write_points(tmp_path / "good")
    folder = write_points(tmp_path / "bad")
    edit_json(folder / "interpolation.json", **change)
    report = build_report(tmp_path)
    check_whole(Page(report.page), report)
    (unread,) = report.unread
    assert (unread.name, unread.holds) == ("bad", "interpolation")
    assert reason in unread.reason


def test_the_figures_have_the_records_numbers(record: InterpolationRecord) -> None:
    accuracy, nll, _ = along_the_path(record).panels
    assert [line.label for line in accuracy.series] == [
        *("validation", "test", "ood/films", "ood/posts")
    ]
    assert accuracy.series[0].y == pytest.approx([0.8, 0.825, 0.85, 0.9])
    assert nll.series[1].y == pytest.approx([0.5, 0.475, 0.45, 0.4])  # with T
    assert accuracy.series[0].marked == (2,)
    figure = in_and_out(record)
    assert figure is not None
    path, *ends = figure.panels[0].series
    assert path.x == pytest.approx([0.775, 0.825 - 0.00625, 0.85, 0.875])
    assert path.y == pytest.approx([0.75, 0.825 - 0.0125, 0.85, 0.85])
    assert path.texts == ("0", "0.25", "0.5", "1")
    assert [(end.label, end.x) for end in ends] == [
        *(("LP", path.x[:1]), ("chosen", path.x[2:3]), ("LP-FT", path.x[3:]))
    ]


def test_a_choice_that_costs_nothing_is_not_called_a_negative_cost(tmp_path: Path) -> None:
    record = InterpolationRecord.read(write_points(tmp_path / "points", optimism=-0.002))
    text = " ".join(format_interpolation(record).split())
    assert "on validation no higher (bootstrap of the rows)" in text


def test_rows_of_ones_own_and_a_scaled_head_are_named(tmp_path: Path) -> None:
    folder = write_points(tmp_path / "points", own_validation=False, head_scale=2.0, ood=())
    record = InterpolationRecord.read(folder)
    text = " ".join(format_interpolation(record).split())
    assert "head of linear probing times 2" in text
    assert "the epoch" not in text
    assert in_and_out(record) is None


def test_unknown_keys_of_a_record_are_preserved(tmp_path: Path) -> None:
    folder = write_points(tmp_path / "points", later="kept")
    assert InterpolationRecord.read(folder).as_json()["later"] == "kept"
    assert json.loads((folder / "interpolation.json").read_text())["later"] == "kept"
