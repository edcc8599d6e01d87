"""Rules of the whole tree: what may import what, what is pinned, what must not be named."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import lpft

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src/lpft"
BELOW = {
    "cli": ("experiments", "report", "runs", "serve", "export"),
    "experiments": ("report", "runs", "export", "theory"),
    "report": ("results",),
    "serve": ("runs",),
    "runs": ("results", "export"),
    "export": ("results",),
    "results": ("ntk", "training", "analysis"),
    "theory": ("ntk",),
    "estimator": ("training", "ntk"),
    "ntk": ("model", "analysis"),
    "training": ("model", "analysis"),
    "analysis": ("data",),
    "model": ("data",),
    "data": ("settings",),
    "settings": ("paper",),
    "paper": (),
}
"""What each part may import, directly or by way of another; everything may import ANYWHERE."""

ANYWHERE = ("distributed", "errors", "executors", "files", "memory", "progress")


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


def reachable(part):
    return {part}.union(*(reachable(below) for below in BELOW[part]))


def test_imports_point_down():
    parts = {path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in sources()}
    assert parts - {"__init__", "__main__", *ANYWHERE} == set(BELOW)
    for path in sources():
        part = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        below = reachable(part) if part in BELOW else set()
        imported = {name.split(".")[1] for name in imports(path) if name.startswith("lpft.")}
        allowed = {*below, *ANYWHERE, "__version__"}
        assert part in ("__init__", "__main__") or imported <= allowed, path


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


def run_python(code, *arguments):
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_lpft_is_light_and_changes_nothing():
    code = """
import logging, os, sys, warnings
before = dict(os.environ), list(warnings.filters), logging.getLogger().handlers[:]
import lpft
assert before == (dict(os.environ), list(warnings.filters), logging.getLogger().handlers[:])
import lpft.settings.configs
print(sorted({"torch", "transformers", "sklearn", "pandas", "scipy", "numpy"} & set(sys.modules)))
"""
    assert run_python(code) == "[]\n"


def test_help_checks_and_wrong_input_are_answered_without_torch(tmp_path):
    """Importing torch and transformers takes seconds, for which a wrong path need not wait."""
    table = tmp_path / "rows.csv"
    table.write_text("text,label\n" + "".join(f"text {row},{row % 2}\n" for row in range(40)))
    commands = {
        "train --help": 0,
        "methods": 0,
        f"check --train-file {table}": 0,
        "train --train-file nope.csv": 2,
        f"train --train-file {table} --label-column nope": 2,
        f"train --train-file {table} --epochs none": 2,
        f"ntk --train-file {table} --solver svm": 2,
        "ntk --train-file nope.csv": 2,
        "sweep nope.yaml": 2,
        "evaluate nope --task cb": 2,
        "predict nope --text good": 2,
        "serve --help": 0,
        "serve nope": 2,
        f"serve {tmp_path} --port 99999": 2,
        f"serve {tmp_path} --host nowhere.invalid": 2,
        "report nope": 2,
        f"report {tmp_path}": 2,
        "interpolate nope": 2,
        f"interpolate {tmp_path}": 2,
        f"interpolate {tmp_path} --alphas 2": 2,
        "reproduce list": 0,
        "reproduce table8 --seeds none": 2,
        "reproduce table88 --tiny": 2,
    }
    code = """
import contextlib, io, json, sys
from lpft.cli import main
for command, status in json.loads(sys.argv[1]).items():
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            found = main(command.split())
        except SystemExit as stop:
            found = stop.code
    heavy = {"torch", "transformers"} & set(sys.modules)
    assert (found, heavy) == (status, set()), (command, found, heavy)
"""
    run_python(code, json.dumps(commands))


def test_help_and_lists_load_no_library_of_data_or_models():
    """What there is must not wait for them."""
    names = (
        "demo train interpolate evaluate predict explain serve ntk theory sweep reproduce report"
    )
    commands = ["--help", *(f"{name} --help" for name in [*names.split(), "export", "check"])]
    commands += ["tasks", "tasks cb", "models", "methods", "reproduce list"]
    code = """
import contextlib, io, json, sys
from lpft.cli import main
libraries = {"torch", "transformers", "tokenizers", "datasets", "accelerate", "peft", "sklearn",
             "scipy", "pandas", "pyarrow", "matplotlib", "onnxruntime"}
for command in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            status = main(command.split())
        except SystemExit as stop:
            status = stop.code
    assert not status, (command, status)
    assert not libraries & set(sys.modules), (command, libraries & set(sys.modules))
"""
    run_python(code, json.dumps(commands))


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
