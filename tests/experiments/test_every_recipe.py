"""Every experiment of the paper on a tiny model: all in one command, each looked at by itself."""

import json
import math
from types import SimpleNamespace

import pytest

from lpft.experiments import reproduce as reproduction
from lpft.experiments.registry import RECIPES
from lpft.report.exhibits.checks import check_shapes
from lpft.report.exhibits.record import Estimate, TableExhibit, read_experiment
from lpft.runs.store import read_record

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
    assert set(RECIPES) == TABLES | FIGURES | {"claims"}


@pytest.mark.slow
@pytest.mark.timeout(1200)  # the first of them waits for all experiments
@pytest.mark.parametrize("name", sorted(RECIPES))
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


def is_table(exhibit):
    return isinstance(exhibit, TableExhibit)


def named_by(figure):
    return {run for panel in figure.panels for series in panel.series for run in series.runs}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_several_experiments_need_is_trained_once(everything):
    folder, outcome = everything
    starts = {
        path.relative_to(folder).parts[0]: read_record(path)["started"]
        for path in folder.glob("*/runs/demo/ft-rate5e-3-batch16-seed0")
    }
    of_figures = {f"figure{number}" for number in (1, 3, 4, 5, 10, 11)}
    assert set(starts) == TABLES - {"table2", "table9"} | of_figures | {"claims"}
    # Figure 5 keeps the features of its runs, which those before it did not.
    del starts["figure5"]
    assert len(set(starts.values())) == 1
    assert "are those of experiments before and are copied" in outcome.err
