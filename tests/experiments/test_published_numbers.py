"""Every published number on an experiment's page is the one that the paper has in that place.

The paper's tables are read here by themselves, from the files that every clone has in
``src/lpft/paper``; where the original files lie beside the clone, these are the same.
"""

import csv
from pathlib import Path

import pytest
from experiments.experiment_folders import runs_of

from lpft.experiments import claims
from lpft.experiments.catalogue import EXPERIMENTS
from lpft.results.exhibits import Estimate
from lpft.results.pairing import PUBLISHED

ROOT = Path(__file__).resolve().parents[2]
PACKAGED, ORIGINAL = ROOT / "src/lpft/paper", ROOT.parent / "shared/paper"
METHODS = {
    "pre-trained": "pretrained",
    "LP": "lp",
    "FT": "ft",
    "LP-FT": "lp-ft",
    "LoRA": "lora",
    "LP-LoRA": "lp-lora",
}
OOD = ("dynasent", "semeval", "sst5")


@pytest.mark.skipif(not ORIGINAL.is_dir(), reason="the paper's tables are not beside the clone")
def test_the_packaged_tables_are_the_papers():
    names = {path.name for path in ORIGINAL.glob("*.csv")}
    assert names == {path.name for path in PACKAGED.glob("*.csv")}
    for name in names:
        assert (PACKAGED / name).read_text() == (ORIGINAL / name).read_text(), name


def rows_of(name):
    folder = ORIGINAL if ORIGINAL.is_dir() else PACKAGED
    with (folder / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


FEATURES = {
    "CS(F)": "cosine_similarity",
    "Diff(F)": "feature_difference",
    "FDR(F)": "fisher_ratio",
    "Norm(C)": "head_norm",
}
CALIBRATION = {
    "without T": ("without_ts_mean", "without_ts_std"),
    "with T": ("with_ts_mean", "with_ts_std"),
    "improvement": ("improvement", None),
}


def features(table):
    rows = [row for row in rows_of("table1_11_features") if row["table"] == table]
    return {
        (row["dataset"], row["method"], heading): (float(row[column]), None)
        for row in rows
        for heading, column in FEATURES.items()
        if row[column]
    }


def calibration(metric):
    return {
        (row["dataset"], row["method"], heading): (
            float(row[mean]),
            None if sd is None else float(row[sd]),
        )
        for row in rows_of("table3_14_15_calibration")
        if row["metric"] == metric
        for heading, (mean, sd) in CALIBRATION.items()
    }


def scores(*names):
    return {
        (row["dataset"], row["method"], heading): (float(row["mean"]), float(row["std"]))
        for name in names
        for row in rows_of(name)
        for heading in ("score", "accuracy", "Matthews correlation")
    }


def norms(name, heading):
    return {
        (row["dataset"], method, heading): (float(row[method]), None)
        for row in rows_of(name)
        for method in METHODS.values()
        if row.get(method)
    }


CHANGES = norms("table12_feature_change", "Diff(F)")
NORMS = norms("table13_head_norm", "Norm(C)")
EVERY_SCORE = ("table8_test_results", "table10_boss", "table16_pubmed")
EXPECTED = {
    ("table1", "table1"): features("1"),
    ("table11", "table11"): features("11"),
    ("table3", "table3-ece"): calibration("ece"),
    ("table3", "table3-mce"): calibration("mce"),
    ("table8", "table8"): scores("table8_test_results"),
    ("table10", "table10"): scores("table10_boss"),
    ("table12", "table12"): CHANGES,
    ("table13", "table13"): NORMS,
    ("table16", "table16"): scores("table16_pubmed"),
    ("claims", "feature-change"): CHANGES,
    ("claims", "head-norm"): {(*key[:2], "Norm(C) at the end"): v for key, v in NORMS.items()},
    ("claims", "scores"): scores(*EVERY_SCORE),
    ("claims", "calibration"): {
        (*key[:2], f"ECE {key[2]}"): value
        for key, value in calibration("ece").items()
        if key[2] != "improvement"
    },
}
"""By experiment and table: (data, method, heading) with mean and standard deviation."""


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The tables of an experiment on the paper's own tasks.

    Published numbers stand there without runs; one names the OOD sets. The claims list what ran.
    """
    known = {}

    def tables(name):
        if name not in known:
            describe = every_usual_run if name == "claims" else one_run_with_ood_sets
            recipe, found = runs_of(name, tmp_path_factory.mktemp(name), describe, seeds=(0,))
            exhibits = claims._tables(found) if name == "claims" else recipe.show(found).exhibits
            known[name] = {each.name: each for each in exhibits}
        return known[name]

    return tables


def one_run_with_ood_sets(key, config):
    wanted = (key.variant, key.task, key.method) == (PUBLISHED, "amazon", "ft")
    return every_usual_run(key, config) if wanted else None


def every_usual_run(key, config):
    if key.variant.startswith("head scale"):
        return None
    ood = [f"ood/{name}" for name in OOD] if key.task == "amazon" else []
    return {
        "task": key.task,
        "splits": dict.fromkeys(("validation", "test", *ood), 12),
        "learning_rate": config.training.learning_rate,
        "batch_size": config.training.batch_size,
    }


def published_in(table):
    """(names of the row, heading) with the number of every published cell that has one."""
    return {
        (row[: table.headers], column.above): cell
        for row in table.rows
        for column, cell in zip(table.columns, row, strict=True)
        if column.source == "published" and isinstance(cell, Estimate)
    }


@pytest.mark.parametrize(("name", "table"), EXPECTED, ids=str)
def test_published_numbers_are_those_of_their_table(shown, name, table):
    expected = EXPECTED[name, table]
    cells = published_in(shown(name)[table])
    data = {
        (names[0].rpartition(": ")[2], METHODS[names[1]], heading): (cell.value, cell.sd)
        for (names, heading), cell in cells.items()
    }
    assert data == {key: expected[key] for key in data}
    # On the paper's own tasks and methods every number of the table stands there.
    methods = {*EXPERIMENTS[name].methods, "pretrained"}
    headings = {heading for *_, heading in data}
    wanted = {key for key in expected if key[1] in methods and key[2] in headings}
    if name == "claims":
        wanted = {key for key in wanted if key[1] != "pretrained" and key[0] != "pubmed"}
        wanted -= {key for key in wanted if key[0] in OOD and table != "scores"}
    assert set(data) == wanted


@pytest.mark.parametrize(
    ("name", "tasks"), [("table2", ("cb",)), ("table9", ("rte", "boolq", "wic"))]
)
def test_kernels_stand_beside_the_papers_of_their_table(tmp_path, name, tasks):
    recipe, found = runs_of(name, tmp_path, seeds=(0,))
    assert found.scope.tasks == tasks
    kernels = {"P": "pretrain_effective", "F": "ft_effective", "P + F": "ntk"}
    columns = {
        "rank": "rank",
        "Frobenius norm": "frobenius_norm",
        "FT ratio": "ft_ratio",
        "paper's protocol, per entry: train": "train_accuracy",
        "paper's protocol, per entry: test": "test_accuracy",
    }
    rows = {
        (row["dataset"], row["method"], row["kernel"]): row
        for row in rows_of("table2_9_kernels")
        if row["dataset"] in tasks
    }
    seen = set()
    for table in recipe.show(found).exhibits:
        for (names, heading), cell in published_in(table).items():
            task, method, kernel = names
            row = rows[task, METHODS.get(method, ""), kernels[kernel]]
            assert cell.value == float(row[columns[heading]]), (names, heading)
            seen.add((*names, heading))
    # Nine kernels of each task: two columns of each, and two of regression; four FT ratios.
    assert len(seen) == len(tasks) * (9 * 4 + 4)


@pytest.mark.parametrize(
    ("name", "tasks", "methods"),
    [
        ("figure2", ("cb",), ("ft", "lora", "lp-ft", "lp-lora")),
        ("figure7", ("rte", "boolq", "wic"), ("ft", "lora", "lp-ft", "lp-lora")),
        ("figure8", ("cb", "rte", "boolq", "wic"), ("ft", "lp-ft")),
        ("figure9", ("cb", "rte", "boolq", "wic"), ("lora", "lp-lora")),
        ("figure3", ("amazon",), ("ft", "lp-ft")),
        ("figure10", ("amazon",), ("ft", "lp-ft")),
        ("figure11", ("cb", "rte"), ("ft", "lp-ft", "lora", "lp-lora")),
        ("figure1", ("rte",), ("lp", "ft", "lp-ft", "lora", "lp-lora")),
        ("figure4", ("cb",), ("lp", "ft", "lp-ft", "lora", "lp-lora")),
    ],
)
def test_figures_are_of_the_papers_sets_and_methods(name, tasks, methods):
    assert (EXPERIMENTS[name].tasks, EXPERIMENTS[name].methods) == (tasks, methods)
