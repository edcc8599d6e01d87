"""The wheel and the source distribution: what is in them, and what they say of themselves."""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
import yaml

import lpft

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("src", "tests", "docs", "benchmarks", ".ci", ".github")
MADE = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.pyc", ".DS_Store")


def test_the_version_stands_in_one_place_and_documents_agree() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    releases = re.findall(r"^## \[(\d.*?)\] - (\S+)$", changes, re.MULTILINE)
    assert releases[0][0] == lpft.__version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert (citation["version"], str(citation["date-released"])) == releases[0]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert "version" not in project
    assert project["dynamic"] == ["version"]


def test_the_workflow_tries_every_python_that_the_package_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    prefix = "Programming Language :: Python :: 3."
    named = [c.rpartition(" ")[2] for c in project["classifiers"] if c.startswith(prefix)]
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
    assert workflow["jobs"]["pinned"]["strategy"]["matrix"]["python"] == named
    extras = {row["name"] for row in workflow["jobs"]["wheel"]["strategy"]["matrix"]["extra"]}
    assert extras == project["optional-dependencies"].keys() - {"dev", "docs"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both distributions, built from a copy, so that nothing is written into the clone."""
    for module in ("build", "check_wheel_contents", "twine"):
        pytest.importorskip(module, reason="the dev extra is not installed")
    clone = tmp_path_factory.mktemp("clone")
    for path in ROOT.iterdir():
        if path.is_file() and path.name != ".git":
            shutil.copy(path, clone)
        elif path.name in FOLDERS:
            shutil.copytree(path, clone / path.name, ignore=MADE)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", "."]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return clone


@pytest.mark.heavy
def test_the_wheel_is_the_package_and_its_data(built: Path) -> None:
    (path,) = (built / "dist").glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        (text,) = (wheel.read(name) for name in wheel.namelist() if name.endswith("/METADATA"))
    source = ROOT / "src"
    files = {p for p in (source / "lpft").rglob("*") if p.is_file() and p.suffix != ".pyc"}
    assert names == {file.relative_to(source).as_posix() for file in files}
    metadata = message_from_bytes(text)
    assert metadata["Version"] == lpft.__version__
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"


@pytest.mark.heavy
def test_the_source_distribution_holds_what_the_tests_read(built: Path) -> None:
    (path,) = (built / "dist").glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {
            name.partition("/")[2]
            for name in archive.getnames()
            if archive.getmember(name).isfile()
        }
    made = {"PKG-INFO", "setup.cfg"}
    names = {name for name in names - made if not name.startswith("src/lpft.egg-info/")}
    there = {p.relative_to(built).as_posix() for p in built.rglob("*") if p.is_file()}
    there = {
        name for name in there if not name.startswith(("dist/", "src/lpft.egg-info/", "build/"))
    }
    assert names == there


@pytest.mark.heavy
@pytest.mark.parametrize(
    "checker", [("twine", "check", "--strict"), ("check_wheel_contents", "--no-config")]
)
def test_checkers_of_packages_find_nothing(built: Path, checker: tuple[str, ...]) -> None:
    suffixes = ("*.whl",) if checker[0] == "check_wheel_contents" else ("*.whl", "*.tar.gz")
    files = [str(path) for suffix in suffixes for path in (built / "dist").glob(suffix)]
    command = [sys.executable, "-m", *checker, *files]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.heavy
def test_the_wheel_works_outside_the_clone(built: Path, tmp_path: Path) -> None:
    """A command that reads data and templates of the package: it trains, and writes its page."""
    (wheel,) = (built / "dist").glob("*.whl")
    target = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); "
        "from lpft.cli import main; sys.exit(main())"
    )
    options = ["reproduce", "table8", "--tiny", "--output-dir", str(tmp_path / "table8")]
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(target), *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("table8/**/report.html"))
