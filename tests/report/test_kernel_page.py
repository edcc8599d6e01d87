"""Kernels in the page and in the files beside it: complete, escaped, linked, beside runs."""

import json
import re
from pathlib import Path

import pytest
from results.kernel_folders import write_kernels
from results.run_folders import edit_json, write_run

from lpft.report import ReportResult, build_report

from .test_page import HOSTILE, Page, check_files, check_whole, drawings

SLUG = "kernels-cb-minilm-sgd"


@pytest.fixture(scope="module")
def page(kernel_report: ReportResult) -> Page:
    return Page(kernel_report.page)


def test_the_layout_is_as_documented(kernel_report: ReportResult) -> None:
    tables = ("statistics", "regression", "alignment", "shares", "certificate")
    assert {path.name for path in kernel_report.tables} == {
        f"{SLUG}-{table}.{ending}" for table in tables for ending in ("csv", "md", "tex")
    }
    assert {path.name for path in kernel_report.figures} == {
        f"{SLUG}-{figure}.{kind}"
        for figure in ("spectra", "heat-maps", "shares")
        for kind in ("png", "pdf")
    }


def test_the_page_of_kernels_alone_is_whole(page: Page, kernel_report: ReportResult) -> None:
    check_whole(page, kernel_report)
    assert "cb/kernels.json" in [attributes["href"] for attributes in page.of("a")]
    assert len(page.of("table")) == 5
    # Two spectra, P and two heat maps of each method, the parts of each method; five keys.
    assert [len(group) for group in drawings(page)] == [2 + 9 + 4, 5]
    text = " ".join(page.text.split())
    assert "Runs" not in text
    assert "How each run was made" not in text
    for words in ("The two protocols answer different questions", "FT ratio", "12 s", "memory 6GB"):
        assert words in text
    assert "Kernels of cb with minilm" in text
    assert "texts 80" in text
    assert "materialize: 36, sandwich: 2" in text
    assert "output_dir" not in text
    assert "filled for 32 of 250 texts" in text


def test_images_are_in_the_page_itself(kernel_report: ReportResult) -> None:
    html = kernel_report.page.read_text(encoding="utf-8")
    images = re.findall(r'<image[^>]*href="([^"]{0,30})', html)
    assert len(images) == 2 * 9  # the map and its colours
    assert all(image.startswith("data:image/png;base64,") for image in images)


@pytest.mark.heavy
def test_runs_and_kernels_share_a_page(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "ft")
    write_kernels(tmp_path / "ntk", samples=9, methods=("ft",))
    write_kernels(tmp_path / "again", samples=9, methods=("ft",))
    write_kernels(tmp_path / "rte", samples=9, data_name="rte", methods=("ft",))
    edit_json(write_kernels(tmp_path / "later", samples=9) / "kernels.json", schema=2)
    (write_run(tmp_path / "torn") / "metrics.json").unlink()
    result = build_report(tmp_path)
    page = Page(result.page)
    text = " ".join(page.text.split())
    assert "How good FT is on “corpus”" in text
    assert (
        "1 run folder and 1 kernel folder below this one are not included in any number here"
        in text
    )
    assert "schema is 2, expected 1" in text
    sections = {attributes.get("id") for attributes in page.of("section")}
    assert {
        *("corpus-minilm-mean-stratified", "kernels-cb-minilm-sgd-again"),
        *("kernels-cb-minilm-sgd-ntk", "kernels-rte-minilm-sgd"),
    } <= sections
    check_whole(page, result)
    assert {folder.holds for folder in result.unread} == {"run", "kernels"}


def test_text_from_a_record_is_escaped_everywhere(tmp_path: Path) -> None:
    folder = write_kernels(
        tmp_path / "<b>k",
        samples=9,
        methods=("ft",),
        data_name=HOSTILE,
        model=f"model {HOSTILE}",
        kernel="<i>rule",
        classes=(HOSTILE, "$\\frac{1}{0}$", '"><u>'),
        environment={HOSTILE: HOSTILE},
        plan={"p": [HOSTILE]},
        alignment={"kernels": [HOSTILE], "values": [[1.0]]},
    )
    (folder / "ft.safetensors").rename(folder / "<s>.safetensors")
    text = (folder / "kernels.json").read_text()
    text = text.replace('"encoder.layer.0"', '"<q>layer$_0$"').replace(
        '"kernel_ridge_regression"', '"<a>s"'
    )
    record = json.loads(text)
    record["methods"] = {"<s>": record["methods"]["ft"] | {"head_start": "<em>x"}}
    (folder / "kernels.json").write_text(json.dumps(record))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "kernels.json").write_text('{"schema": "<script>"}')
    result = build_report(tmp_path)
    page = Page(result.page)
    assert not page.of("script", "b", "i", "u", "s", "em", "q", "img")
    hostile = (HOSTILE, "<i>rule", "<em>x", "<q>layer$_0$", "<a>s", "'<script>'", "$\\frac{1}{0}$")
    for words in hostile:
        assert words.lower() in page.text.lower()
    (kernels,) = result.kernels
    assert kernels.methods[0].heat_maps
    check_files(page, result)


@pytest.mark.heavy
def test_the_same_kernels_give_the_same_bytes(tmp_path: Path) -> None:
    write_kernels(tmp_path / "cb", samples=9, methods=("lp-ft",))
    result = build_report(tmp_path)
    before = {path: path.read_bytes() for path in result.files}
    again = build_report(tmp_path, overwrite=True)
    assert {path: path.read_bytes() for path in again.files} == before
