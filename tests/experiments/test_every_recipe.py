"""Every experiment of the paper on a tiny model: all in one command, each looked at by itself."""

import json
import math
from statistics import mean
from types import SimpleNamespace

import pytest
from data.release_files import case_of

from lpft.experiments import run as reproduction
from lpft.experiments.catalogue import EXPERIMENTS
from lpft.results.exhibits import Estimate, Table, check_shapes, read_experiment
from lpft.results.folder import read_record

TABLES = {f"table{number}" for number in (1, 2, 3, *range(8, 14), 16)}
FIGURES = {f"figure{number}" for number in range(1, 12)}


@pytest.fixture(scope="module")
def everything(lpft, tmp_path_factory):
    """The folder of ``lpft reproduce all --tiny``, without pages: those take minutes."""
    folder = tmp_path_factory.mktemp("experiments") / "all"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            reproduction,
            "build_report",
            lambda folder, **_: SimpleNamespace(page=folder / "report.html"),
        )
        options = ("--tiny", "--epochs", "1", "--output-dir", folder)
        outcome = lpft("reproduce", "all", *options)
    assert outcome.status == 0, outcome.err
    return folder, outcome


def test_every_table_and_figure_of_the_paper_and_its_claims_have_a_recipe():
    assert set(EXPERIMENTS) == TABLES | FIGURES | {"claims"}


@pytest.mark.heavy
@pytest.mark.timeout(1200)  # the first of them waits for all experiments
@pytest.mark.parametrize("name", sorted(EXPERIMENTS))
def test_the_recipe_runs_on_a_tiny_model(everything, name):
    folder, outcome = everything
    record = read_experiment(json.loads((folder / name / "experiment.json").read_text()))
    assert record.failures == ()
    assert record.exhibits
    assert f"({name}, tiny-bert" in outcome.out
    assert "nothing but that the chain works" in record.differences[0]
    check_shapes(record)
    there = [path for kind in ("runs", "kernels") for path in (folder / name).glob(f"{kind}/*")]
    assert there
    for exhibit in record.exhibits:
        cells = [cell for row in exhibit.rows for cell in row] if is_table(exhibit) else []
        numbers = [cell for cell in cells if isinstance(cell, Estimate)]
        assert bool(numbers) == is_table(exhibit)
        named = {run for number in numbers for run in number.runs}
        runs = named if is_table(exhibit) else named_by(exhibit)
        assert all((folder / name / run).is_dir() for run in runs)
    for verdict in record.verdicts:
        assert verdict.effect.value is None or math.isfinite(verdict.effect.value)


@pytest.mark.heavy
def test_numbers_of_a_binary_task_stand_beside_the_published_ones(lpft, tmp_path, monkeypatch):
    """RTE from files in its layout, whose LP heads the reference halved."""
    monkeypatch.setattr(
        reproduction, "build_report", lambda folder, **_: SimpleNamespace(page=folder)
    )
    case_of("rte", "SuperGLUE jsonl").write(tmp_path / "data")
    options = ("--tasks", "rte", "--methods", "lp,ft,lp-ft", "--seeds", "2", "--epochs", "1")
    places = ("--data-dir", tmp_path / "data", "--output-dir", tmp_path / "t")
    outcome = lpft("reproduce", "table13", "--tiny", *options, *places)
    assert outcome.status == 0, outcome.err
    record = read_experiment(json.loads((tmp_path / "t/experiment.json").read_text()))
    # --tiny has one rate; batch sizes are those published for RTE: 16 for FT and 8 for LP-FT.
    own, at_lp_start, at_random_start = record.exhibits
    assert [row[1] for row in own.rows] == ["pre-trained", "LP", "FT", "LP-FT"]
    published = {row[1]: row[3].value for row in own.rows}
    assert published == {"pre-trained": 0.795, "LP": 28.6, "FT": 0.805, "LP-FT": 28.6}
    for table in (at_lp_start, at_random_start):
        assert [row[1] for row in table.rows] == ["FT", "LP-FT"]
        assert {column.source for column in table.columns} == {"names", "ours"}
    batches = {
        "own": {"LP": None, "FT": 16, "LP-FT": 8},
        "LP-start": {"FT": 8, "LP-FT": 8},
        "random-start": {"FT": 16, "LP-FT": 16},
    }
    tables = (own.rows[1:], at_lp_start.rows, at_random_start.rows)
    for rows, expected in zip(tables, batches.values(), strict=True):
        for row in rows:
            folders = [tmp_path / "t" / run for run in row[2].runs]
            heads = [json.loads((f / "features.json").read_text())["head"] for f in folders]
            assert len(heads) == 2
            assert row[2].value == pytest.approx(mean(head["norm"] for head in heads))
            batch = expected[row[1]]
            assert batch is None or f"batch{batch}-" in row[2].runs[0]
    assert "halved: rte" in own.note
    assert any("installs half of the weights" in line for line in record.differences)


def is_table(exhibit):
    return isinstance(exhibit, Table)


def named_by(figure):
    return {run for panel in figure.panels for series in panel.series for run in series.runs}


@pytest.mark.heavy
@pytest.mark.timeout(1200)
def test_what_several_experiments_need_is_trained_once(everything):
    folder, outcome = everything
    starts = {
        path.relative_to(folder).parts[0]: read_record(path).started
        for path in folder.glob("*/runs/demo/ft-rate5e-3-batch16-seed0")
    }
    of_figures = {f"figure{number}" for number in (1, 3, 4, 5, 10, 11)}
    assert set(starts) == TABLES - {"table2", "table9"} | of_figures | {"claims"}
    # Figure 5 keeps the features of its runs, which those before it did not.
    del starts["figure5"]
    assert len(set(starts.values())) == 1
    assert "results of earlier experiments are copied" in outcome.err
