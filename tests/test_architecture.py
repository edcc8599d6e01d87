"""Rules of the whole tree: what may import what, what is pinned, what must not be named."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import lpft

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src/lpft"
LOWER = ("data", "model", "training", "analysis", "ntk", "theory")
UPPER = ("runs", "export", "experiments", "report", "cli", "commands")


def imports(path):
    """Every module that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources():
    paths = sorted(SOURCE.rglob("*.py"))
    assert len(paths) > 60
    return paths


def importers(*modules):
    return {
        path.relative_to(SOURCE).as_posix()
        for path in sources()
        if any(name == m or name.startswith(f"{m}.") for name in imports(path) for m in modules)
    }


def test_lower_layers_never_import_upper_ones():
    checked = 0
    for path in sources():
        layer = path.relative_to(SOURCE).parts[0]
        if layer in LOWER:
            checked += 1
            wrong = [m for m in imports(path) if m.startswith(tuple(f"lpft.{u}" for u in UPPER))]
            assert not wrong, f"{path} imports {wrong}"
    assert checked > 30


def test_the_heavy_libraries_have_one_owner_each():
    assert importers("peft") == {"model/adapters.py"}
    plotting = importers("matplotlib")
    assert plotting
    assert all(path.startswith("report/") for path in plotting)
    loaders = {
        path.relative_to(SOURCE).as_posix()
        for path in sources()
        if {"transformers.AutoModel", "transformers.MODEL_MAPPING"} & set(imports(path))
    }
    assert loaders == {"model/encoder.py"}


def test_importing_lpft_is_light():
    code = (
        "import sys, time; start = time.perf_counter(); import lpft; "
        "elapsed = time.perf_counter() - start; "
        "heavy = {'torch', 'transformers', 'sklearn', 'pandas', 'numpy'} & set(sys.modules); "
        "sys.exit(f'{heavy} {elapsed}' if heavy or elapsed > 1 else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_the_public_names_are_there():
    assert all(getattr(lpft, name) is not None for name in lpft.__all__)
    assert len(lpft.__all__) == 3


def test_constraints_pin_public_versions_of_everything_declared():
    lines = (ROOT / "constraints.txt").read_text().split()
    pins = dict(line.split("==") for line in lines)
    assert len(pins) == len(lines) > 50
    assert not [version for version in pins.values() if "+" in version]
    assert pins["torch"] == "2.13.0"
    pinned = {re.sub(r"[-_.]+", "-", name).lower() for name in pins}
    project = (ROOT / "pyproject.toml").read_text()
    declared = re.findall(r'^\s+"([A-Za-z0-9_.-]+)[>=]', project, flags=re.MULTILINE)
    assert len(declared) > 20
    missing = {re.sub(r"[-_.]+", "-", name).lower() for name in declared} - pinned
    assert not missing


def test_no_file_names_a_machine_or_a_registry():
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(listed) > 100
    hosts = "|".join(("pypi" + r"\.org", "npmjs" + r"\.com", "deb" + r"ian\.org"))
    paths = "|".join(f"/{folder}/" for folder in ("ho" + "me", "ro" + "ot", "wo" + "rk"))
    forbidden = re.compile(f"{hosts}|(?<![\\w.…])({paths})")
    for name in listed:
        path = ROOT / name
        if path.suffix in (".py", ".md", ".toml", ".j2", ".txt", ".yaml", ".json", "") and (
            path.is_file()
        ):
            found = forbidden.search(path.read_text(encoding="utf-8"))
            assert found is None, f"{name}: {found}"


def test_no_source_file_is_unfinished():
    words = re.compile(
        "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX", "NotImplemented" + "Error"))
    )
    for path in sources():
        assert words.search(path.read_text(encoding="utf-8")) is None, path
