"""Benchmarks that are run together, their page, and tables of the documents from records."""

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.usefixtures("scripts")


@pytest.fixture
def scripts(monkeypatch):
    """Scripts import their neighbours by name."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(
            str(ROOT / "benchmarks")
        ):
            del sys.modules[name]


@pytest.mark.parametrize("document", ["speed", "scale"])
def test_tables_of_a_document_are_those_of_its_records(document, tmp_path):
    import speed

    path = ROOT / f"docs/{document}.md"
    text = path.read_text(encoding="utf-8")
    assert "<!-- end of " in text
    assert speed.renewed(path, speed.RESULTS, tmp_path / document) == text


def test_an_exponent_of_a_power_has_no_error():
    import scaling

    cells = [{"n": n, "s": 3.0 * n**1.7} for n in (50, 100, 200, 400)]
    found = scaling.exponent(cells, "n", "s", target=1.5)
    assert found["exponent"] == pytest.approx(1.7)
    assert found["standard_error"] == pytest.approx(0, abs=1e-6)
    assert not found["within_target"]


def test_the_standard_error_of_an_exponent_is_that_of_least_squares():
    import scaling

    n, noise = np.array([50, 100, 200, 400, 800]), np.array([0.1, -0.2, 0.05, 0.1, -0.1])
    cells = [{"n": a, "s": b} for a, b in zip(n, n**2 * np.exp(noise), strict=True)]
    x = np.column_stack([np.ones(5), np.log(n)])
    y = 2 * np.log(n) + noise
    beta, (rest,), *_ = np.linalg.lstsq(x, y, rcond=None)
    error = np.sqrt(rest / 3 * np.linalg.inv(x.T @ x)[1, 1])
    found = scaling.exponent(cells, "n", "s")
    assert found["exponent"] == pytest.approx(beta[1], abs=5e-4)
    assert found["standard_error"] == pytest.approx(error, abs=5e-4)


def test_a_failure_is_named_and_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    import run_all

    fails, absent = ("no_such_script.py",), ("no_script_either.py {data}",)
    monkeypatch.setattr(
        run_all,
        "BENCHMARKS",
        (
            run_all.Benchmark("broken", 1, fails, 1, fails),
            run_all.Benchmark("without-data", 1, absent, 1, absent, needs=("SST-2",)),
            run_all.Benchmark("long", 1, fails),
        ),
    )
    output = tmp_path / "report"
    command = ["run_all.py", "--quick", "--data-dir", str(tmp_path), "--output-dir", str(output)]
    monkeypatch.setattr(sys, "argv", command)
    assert run_all.main() == 1
    said = capsys.readouterr().out
    assert "FAILED" in said
    assert "without-data: skipped: no glue/SST-2" in said
    assert "long: skipped" in said
    page = (output / "speed.md").read_text()
    assert all(name in page for name in ("broken", "without-data", "long"))


def test_a_folder_with_other_files_is_refused(tmp_path, monkeypatch):
    import run_all

    (tmp_path / "thesis.tex").write_text("chapter one")
    monkeypatch.setattr(sys, "argv", ["run_all.py", "--output-dir", str(tmp_path)])
    with pytest.raises(SystemExit, match="other files"):
        run_all.main()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_every_benchmark_that_is_listed_is_there():
    import run_all

    for benchmark in run_all.BENCHMARKS:
        for words in (*benchmark.commands, *benchmark.quick):
            script = next(word for word in words.split() if word.endswith(".py"))
            assert (ROOT / "benchmarks" / script).is_file(), script
    assert sum(benchmark.minutes for benchmark in run_all.BENCHMARKS) <= 60
    assert sum(benchmark.quick_minutes for benchmark in run_all.BENCHMARKS) <= 10
