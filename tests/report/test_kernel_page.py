"""Kernels in the page and in the files beside it: complete, escaped, linked, beside runs."""

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pytest
from results.kernel_folders import write_kernels
from results.run_folders import edit_json, write_run

from lpft.report import ReportResult, build_report

from .test_page import HOSTILE, Page

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
    magic = {".png": b"\x89PNG", ".pdf": b"%PDF"}
    assert all(path.read_bytes().startswith(magic[path.suffix]) for path in kernel_report.figures)


def test_the_page_of_kernels_alone_is_whole(page: Page, kernel_report: ReportResult) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert [name for name, count in Counter(ids).items() if count > 1] == []
    links = [attributes["href"] for attributes in page.of("a")]
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    files = [unquote(link) for link in links if not link.startswith("#")]
    assert "cb/kernels.json" in files
    assert all((kernel_report.page.parent / file).exists() for file in files)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(page.of("table")) == len(page.of("caption")) == 5
    assert all("scope" in attributes for attributes in page.of("th"))
    # Two spectra, P and two heat maps of each method, the parts of each method; five keys.
    named = [d for d in page.of("svg") if d.get("role") == "img"]
    hidden = [d for d in page.of("svg") if d.get("aria-hidden") == "true"]
    assert (len(named), len(hidden)) == (2 + 9 + 4, 5)
    assert not page.of("script", "iframe", "object", "embed", "img")
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
    assert "1 run on corpus with minilm and kernels of cb and rte with minilm" in text
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
    ids = Counter(attributes["id"] for _, attributes in page.tags if "id" in attributes)
    assert max(ids.values()) == 1
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
    for words in (
        HOSTILE,
        "<i>rule",
        "<em>x",
        "<q>layer$_0$",
        "<a>s",
        "'<script>'",
        "$\\frac{1}{0}$",
    ):
        assert words.lower() in page.text.lower()
    (kernels,) = result.kernels
    assert kernels.methods[0].heat_maps
    assert all(re.fullmatch(r"[a-z0-9.-]+", path.name) for path in result.files)
    for path in result.tables:
        if path.suffix == ".md":
            assert "<script>" not in path.read_text(encoding="utf-8")
    hrefs = [attributes["href"] for attributes in page.of("a") if attributes["href"][0] != "#"]
    assert all((tmp_path / unquote(href)).exists() for href in hrefs)


def test_the_same_kernels_give_the_same_bytes(tmp_path: Path) -> None:
    write_kernels(tmp_path / "cb", samples=9, methods=("lp-ft",))
    result = build_report(tmp_path)
    before = {path: path.read_bytes() for path in result.files}
    again = build_report(tmp_path, overwrite=True)
    assert {path: path.read_bytes() for path in again.files} == before
