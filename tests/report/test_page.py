"""The page and the files beside it: complete, escaped, whole, never written over."""

import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pytest
from results.run_folders import write_run

import lpft.report
from lpft.errors import InputError
from lpft.report import ReportResult, build_report
from lpft.report.build import MARK

HOSTILE = "<script>alert(1)</script>"
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Tags with their attributes, and the text outside style sheets, of one page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value if value is not None else "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value if value is not None else "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.text += " "

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

    def of(self, *names: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.tags if tag in names]


@pytest.fixture(scope="module")
def page(report: ReportResult) -> Page:
    return Page(report.page)


def test_the_layout_is_as_documented(report: ReportResult, five_methods: Path) -> None:
    assert report.page == five_methods / "report.html"
    group = "corpus-minilm-mean-stratified"
    tables = ["methods", "feature-change-own", "feature-change-shared", "calibration"]
    tables += ["features", "head"]
    assert {path.name for path in report.tables} == {
        f"{group}-{table}.{ending}" for table in tables for ending in ("csv", "md", "tex")
    }
    figures = ["accuracy", "feature-change", "training", "norms", "coverage", "reliability"]
    assert {path.name for path in report.figures} == {
        f"{group}-{figure}.{kind}" for figure in figures for kind in ("png", "pdf")
    }
    assert {path.parent.name for path in report.tables} == {"report-tables"}
    assert {path.parent.name for path in report.figures} == {"report-figures"}
    written = {path for path in five_methods.rglob("*") if path.is_file()}
    written -= set((five_methods / "runs").rglob("*"))
    assert written == set(report.files)


def test_every_run_can_be_reached_from_the_numbers(page: Page, report: ReportResult) -> None:
    links = Counter(attributes["href"] for attributes in page.of("a"))
    for run in report.runs:
        anchor = f"#run-runs-{run.folder.name}"
        assert links[anchor] >= 4
        assert links[f"runs/{run.folder.name}/metrics.json"] == 1


def test_the_page_is_whole(page: Page, report: ReportResult) -> None:
    check_whole(page, report)
    # The leaderboard, classes of 4 splits, thresholds, balance, findings if any; then 12 tables.
    assert len(page.of("table")) == 1 + 4 + 1 + 1 + 12
    # Accuracy, feature change of two pairs, 4 splits, coverage, 3 and 4 curves; the keys of legends
    # (of methods and of pairs), and the strips of 5 methods and of the baseline.
    assert [len(group) for group in drawings(page)] == [1 + 2 + 4 + 1 + 7, 6 + 4 + 5 + 6 + 6 + 6]


def check_whole(page: Page, result: ReportResult) -> None:
    """Links lead somewhere, headings are in order, tables and drawings are named, all is inside."""
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert [name for name, count in Counter(ids).items() if count > 1] == []
    links = [attributes["href"] for attributes in page.of("a")]
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    files = [unquote(link) for link in links if not link.startswith("#")]
    assert files
    assert all((result.page.parent / file).exists() for file in files)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(page.of("table")) == len(page.of("caption"))
    assert all("scope" in attributes for attributes in page.of("th"))
    assert len(page.of("main")) == len(page.of("nav")) == 1
    named, hidden = drawings(page)
    assert len(named) + len(hidden) == len(page.of("svg"))
    assert not page.of("script", "iframe", "object", "embed", "img", "button")
    assert [link["href"] for link in page.of("link")] == ["data:,"]
    html = result.page.read_text(encoding="utf-8")
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    names_of_formats = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert set(re.findall(r"https?://[^\s\"'<]+", html)) <= names_of_formats
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)
    magic = {".png": b"\x89PNG", ".pdf": b"%PDF"}
    assert all(path.read_bytes().startswith(magic[path.suffix]) for path in result.figures)


def drawings(page: Page) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Drawings with a name, and those that are decoration."""
    drawn = page.of("svg")
    named = [d for d in drawn if d.get("role") == "img" and "aria-labelledby" in d]
    return named, [d for d in drawn if d.get("aria-hidden") == "true"]


def check_files(page: Page, result: ReportResult) -> None:
    """Links lead to files, files have plain names, and no script is in a table."""
    hrefs = [attributes["href"] for attributes in page.of("a")]
    assert not any(href.lower().startswith("javascript") for href in hrefs)
    assert all((result.page.parent / unquote(href)).exists() for href in hrefs if href[0] != "#")
    assert all(re.fullmatch(r"[a-z0-9.-]+", path.name) for path in result.files)
    texts = [path.read_text(encoding="utf-8") for path in result.tables if path.suffix == ".md"]
    assert texts
    assert not any("<script>" in text for text in texts)


def test_text_from_data_is_escaped_everywhere(tmp_path: Path) -> None:
    for method in ("ft", "lp-ft"):
        write_run(
            tmp_path / f"{method} <img src=x onerror=alert(2)>" / '"><b>',
            method,
            classes=(HOSTILE, "$\\frac{1}{0}$", "b & c"),
            data_name=f"data {HOSTILE}",
            splits={"validation": 20, "test": 30, 'ood/"><i>$x_y^z$\u0001': 20},
            notes=(f"note {HOSTILE}", "javascript:alert(3)"),
            model=f"model {HOSTILE}",
            reason=f"reason {HOSTILE}",
            template=HOSTILE,
        )
    damaged = write_run(tmp_path / "<u>damaged", "lp")
    (damaged / "metrics.json").write_text("{")
    failed = write_run(tmp_path / "failed", "lp", status="failed")
    text = (failed / "run.json").read_text()
    (failed / "run.json").write_text(text.replace("{", f'{{"error": "{HOSTILE}",', 1))
    result = build_report(tmp_path)
    page = Page(result.page)
    assert not page.of("script", "img", "b", "i", "u")
    for name in (HOSTILE, "$\\frac{1}{0}$", f"note {HOSTILE}", f"reason {HOSTILE}", "<u>damaged"):
        assert name in page.text
    assert '"><i>$x_y^z$\N{REPLACEMENT CHARACTER}' in page.text
    check_files(page, result)


def test_names_in_any_script_do_not_stop_the_report(tmp_path: Path) -> None:
    write_run(
        tmp_path / "实验 ☃",
        classes=("否定", "नहीं", "لا"),
        data_name="数据",
        splits={"test": 30, "ood/日本語": 20},
    )
    page = Page(build_report(tmp_path).page)
    assert "否定" in page.text
    assert "日本語" in page.text


@pytest.mark.heavy
def test_a_page_of_ones_own_is_made_anew_and_nothing_else_is_replaced(tmp_path: Path) -> None:
    write_run(tmp_path / "ft")
    result = build_report(tmp_path)
    before = {path: path.read_bytes() for path in result.files}
    own = result.tables[0].with_name("own.txt")
    own.write_text("kept")
    # The same runs give the same bytes.
    assert {path: path.read_bytes() for path in build_report(tmp_path).files} == before
    write_run(tmp_path / "lp", "lp")
    assert build_report(tmp_path).page.read_bytes() != before[result.page]
    result.page.write_text(f"<p>mine, about {MARK}</p>".replace("<meta", "&lt;meta"))
    with pytest.raises(
        InputError, match=r"report\.html exists already \(with \d+ more of its files"
    ):
        build_report(tmp_path)
    with pytest.raises(InputError, match="nothing was written"):
        build_report(tmp_path)
    assert result.page.read_text().startswith("<p>mine")
    result.page.unlink()
    with pytest.raises(InputError, match="report-tables"):
        build_report(tmp_path)
    assert not result.page.exists()
    assert build_report(tmp_path, overwrite=True).page.exists()
    assert own.read_text() == "kept"
    assert not list(tmp_path.rglob(".*.partial"))


@pytest.mark.heavy
def test_a_page_whose_writing_was_killed_is_written_anew(tmp_path: Path, monkeypatch) -> None:
    def killed(*_: object, **__: object) -> bytes:
        raise KeyboardInterrupt

    write_run(tmp_path / "ft")
    with monkeypatch.context() as patch:
        patch.setattr("lpft.report.build.saved", killed)
        with pytest.raises(KeyboardInterrupt):
            build_report(tmp_path)
    assert list(tmp_path.glob("report-tables/*.csv"))
    assert "not finished" in (tmp_path / "report.html").read_text()
    page = build_report(tmp_path).page
    assert "not finished" not in page.read_text()


def test_the_page_may_be_elsewhere_and_links_find_the_runs(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "ft")
    out = tmp_path / "out" / "new" / "summary.html"
    result = build_report(tmp_path / "runs", out)
    assert result.page == out
    folders = {path.parent.name for path in result.files}
    assert folders == {"new", "summary-tables", "summary-figures"}
    hrefs = [attributes["href"] for attributes in Page(out).of("a")]
    assert "../../runs/ft/metrics.json" in hrefs
    assert not (tmp_path / "runs" / "report.html").exists()


def test_an_output_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    write_run(tmp_path / "ft")
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.html").mkdir()
    for name, message in (
        ("report.pdf", r"ends in \.html"),
        ("report", r"ends in \.html"),
        ("file/report.html", r"cannot be written \(Not a directory\): name another"),
        ("folder.html", "is a folder"),
    ):
        with pytest.raises(InputError, match=message):
            build_report(tmp_path, tmp_path / name)


def test_unfinished_and_damaged_runs_are_in_the_page(tmp_path: Path) -> None:
    write_run(tmp_path / "ft")
    write_run(tmp_path / "going", "lp", status="running")
    (write_run(tmp_path / "torn", "lora") / "features.json").write_text("")
    write_run(tmp_path / "twice", "ft")
    result = build_report(tmp_path)
    assert [(run.name, run.state) for run in result.unread] == [
        ("going", "running"),
        ("torn", "damaged"),
        ("twice", "repeated"),
    ]
    text = " ".join(Page(result.page).text.split())
    assert "3 run folders below this one are not included in any number here" in text
    assert "features.json is not JSON" in text


def test_the_terminal_says_that_folders_are_left_out(lpft, tmp_path: Path) -> None:
    write_run(tmp_path / "ft")
    assert "not in the numbers" not in lpft("report", tmp_path).err
    (write_run(tmp_path / "torn", "lora") / "features.json").write_text("")
    write_run(tmp_path / "twice", "ft")
    outcome = lpft("report", tmp_path)
    assert outcome.status == 0
    assert "'torn', damaged (features.json is not JSON" in outcome.err
    assert "and 1 more" in outcome.err
    assert "not in the numbers" not in outcome.out


def test_no_two_latex_tables_of_a_report_have_one_label(tmp_path: Path) -> None:
    for data in ("cb", "rte"):
        write_run(tmp_path / data, "ft", data_name=data)
    sources = [path.read_text() for path in build_report(tmp_path).tables if path.suffix == ".tex"]
    labels = [label for text in sources for label in re.findall(r"\\label\{(.*?)\}", text)]
    assert len(labels) > len(sources) / 2
    assert not [label for label, times in Counter(labels).items() if times > 1]


@pytest.mark.heavy
def test_several_groups_have_a_section_each(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "lp-ft", data_name="cb", split_protocol="paper")
    write_run(tmp_path / "b", "lp-ft", data_name="rte", split_protocol="paper", classes=("y", "n"))
    write_run(tmp_path / "c", "lp-ft", data_name="rte", model="gpt2", split_protocol="paper")
    page = Page(build_report(tmp_path).page)
    ids = {attributes.get("id") for attributes in page.of("section")}
    assert {"cb-minilm-mean-paper", "rte-minilm-mean-paper", "rte-gpt2-mean-paper"} <= ids
    text = " ".join(page.text.split())
    assert "half of what was fitted" in text
    assert "scale_attn_by_inverse_layer_idx" in text


def test_faults_of_the_reference_are_left_out_where_they_do_not_bear(page: Page) -> None:
    assert "Bugs of the reference" not in page.text
    assert "published FDR is not comparable" in " ".join(page.text.split())


def test_how_a_run_was_made_is_in_the_page(page: Page) -> None:
    text = " ".join(page.text.split())
    for fact in ("weight_decay", "learning_rate 5e-06", "CC0-1.0", "torch 2.13.0", "400 rows"):
        assert fact in text
    assert "output_dir" not in text


def test_paths_of_someones_machine_stay_in_the_record(tmp_path: Path) -> None:
    write_run(
        tmp_path / "ft",
        train_file="/Users/someone/private/train.csv",
        ood={"books": "/Users/someone/private/books.csv"},
        text_columns=["a", "b"],
        fingerprints={"data": {"train": "0123456789abcdef"}, "encoder": "fedcba9876543210"},
    )
    text = " ".join(Page(build_report(tmp_path).page).text.split())
    assert "someone" not in text
    for fact in ("train_file …/train.csv", "ood books: …/books.csv", "text_columns a, b"):
        assert fact in text
    assert "data/train 0123456789ab" in text
    assert "encoder fedcba987654" in text


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("seeds", "models", "open_results", "open_runs"),
    [(2, 1, True, True), (13, 1, True, False), (3, 4, False, True)],
)
def test_the_answers_of_few_groups_are_open_however_many_their_runs(
    tmp_path: Path, seeds: int, models: int, open_results: bool, open_runs: bool
) -> None:
    splits = {"validation": 12, "test": 12}
    for model in range(models):
        for seed in range(seeds):
            folder = tmp_path / f"m{model}" / f"ft-{seed}"
            write_run(folder, seed=seed, model=f"m{model}", splits=splits, history=False)
    html = build_report(tmp_path).page.read_text(encoding="utf-8")
    folds = re.findall(r'<details class="fold">\s*<summary>([^<]*)', html)
    runs = f"{seeds * models} runs"
    assert (runs not in folds) is open_runs
    chapters = [fold for fold in folds if fold.startswith("corpus")]
    assert (not chapters) is open_results


def test_every_sentence_has_a_name_of_its_own():
    """Of two macros of one name the later would silently stand for both."""
    for path in sorted((Path(lpft.report.__file__).parent / "templates").glob("*.j2")):
        names = re.findall(r"{%-? macro (\w+)", path.read_text(encoding="utf-8"))
        assert len(names) == len(set(names)), path.name
