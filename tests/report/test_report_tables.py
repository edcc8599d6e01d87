"""Tables: every number recomputed from the records by other means."""

import csv
import io
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lpft.report.grid import Cell, Column, from_columns
from lpft.report.tables import calibration, features, head_norms, methods
from lpft.report.writers import to_csv, to_latex, to_markdown
from results.run_folders import SPLITS, write_run
from sklearn.metrics import f1_score, log_loss

from lpft.report import ReportResult, format_method_table, method_table
from lpft.results.groups import group_runs
from lpft.results.run import Run, find_runs

LABELS = [
    "LP",
    "FT (rate 5e-5, batch 16)",
    "FT (rate 5e-6, batch 8)",
    "LP-FT",
    "LoRA",
    "LP-LoRA",
]


def naive_ece(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """15 bins (lo, hi] one by one."""
    top, right = probabilities.max(1), probabilities.argmax(1) == labels
    error = 0.0
    for b in range(15):
        inside = [i for i in range(len(top)) if b / 15 < top[i] <= (b + 1) / 15]
        if inside:
            gap = abs(np.mean(right[inside]) - np.mean(top[inside]))
            error += len(inside) / len(top) * gap
    return error


def recomputed(run: Run, split: str, temperature: float = 1.0) -> dict[str, float]:
    """Metrics from the predictions' file alone."""
    name = split.replace("/", "-")
    frame = pd.read_parquet(run.folder / "predictions" / f"{name}.parquet")
    logits = np.stack([np.asarray(row, dtype=float) for row in frame["logits"]]) / temperature
    powers = np.exp(logits - logits.max(1, keepdims=True))
    probabilities, labels = powers / powers.sum(1, keepdims=True), frame["label"].to_numpy()
    one_hot = np.eye(logits.shape[1])[labels]
    return {
        "accuracy": float((logits.argmax(1) == labels).mean()),
        "macro_f1": f1_score(labels, logits.argmax(1), average="macro"),
        "nll": log_loss(labels, probabilities, labels=range(logits.shape[1])),
        "brier": float(((probabilities - one_hot) ** 2).sum(1).mean()),
        "ece": naive_ece(probabilities, labels),
    }


def test_the_method_table_is_what_the_predictions_say(report: ReportResult) -> None:
    frame = method_table(report.runs)
    assert list(frame["method"]) == LABELS
    assert list(frame.columns) == [
        *("method", "seeds", "ID accuracy", "ood/books", "ood/hotels"),
        *("ECE", "ECE with T", "feature change", "head norm"),
    ]
    assert len(report.runs) == len(frame) == 6
    for (_, row), run in zip(frame.iterrows(), report.runs, strict=True):
        test, scaled = recomputed(run, "test"), recomputed(run, "test", run.temperature)
        assert row["ID accuracy"] == pytest.approx(test["accuracy"], abs=1e-12)
        assert row["ood/books"] == pytest.approx(recomputed(run, "ood/books")["accuracy"])
        assert row["ood/hotels"] == pytest.approx(recomputed(run, "ood/hotels")["accuracy"])
        assert row["ECE"] == pytest.approx(test["ece"], abs=1e-9)
        assert row["ECE with T"] == pytest.approx(scaled["ece"], abs=1e-9)
        assert row["seeds"] == 1
    assert list(frame["feature change"]) == [0.0, 10.4, 4.5, 3.9, 9.1, 4.4]
    assert frame.attrs == {"id_split": "test", "feature_split": "test"}


def test_the_files_hold_the_same_numbers_with_all_digits(report: ReportResult) -> None:
    path = next(path for path in report.tables if path.name.endswith("-methods.csv"))
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 6
    for row, run in zip(rows, report.runs, strict=True):
        test = recomputed(run, "test")
        assert float(row["validation accuracy"]) == recomputed(run, "validation")["accuracy"]
        assert float(row["test accuracy"]) == test["accuracy"]
        for name, metric in (("macro F1", "macro_f1"), ("NLL", "nll"), ("Brier", "brier")):
            assert float(row[f"test {name}"]) == pytest.approx(test[metric], abs=1e-9)
    assert [row["learning rate"] for row in rows[:2]] == ["", "5e-05"]
    assert [row["batch size"] for row in rows[:2]] == ["", "16"]


def test_calibration_has_every_split_before_and_after(report: ReportResult) -> None:
    (group,), _ = group_runs(report.runs)
    rows = list(csv.DictReader(io.StringIO(to_csv(calibration(group)))))
    assert len(rows) == 6 * len(SPLITS)
    for run in report.runs:
        for split in SPLITS:
            row = rows.pop(0)
            before, after = recomputed(run, split), recomputed(run, split, run.temperature)
            for name, metric in (("ECE", "ece"), ("NLL", "nll"), ("Brier", "brier")):
                assert float(row[f"{name}: before"]) == pytest.approx(before[metric], abs=1e-9)
                assert float(row[f"{name}: after"]) == pytest.approx(after[metric], abs=1e-9)
            assert row["Split"] == split
    assert rows == []


def test_feature_and_head_tables_repeat_the_records(tmp_path: Path) -> None:
    write_run(tmp_path / "ft", change=2.0, head_norm=0.75, temperature=1.25)
    (group,), _ = group_runs(find_runs(tmp_path)[0])
    rows = list(csv.DictReader(io.StringIO(to_csv(features(group)))))
    assert [row["Split"] for row in rows] == ["test", "train", "ood/books", "ood/hotels"]
    assert [float(row["Diff"]) for row in rows] == pytest.approx([2.0, 2.1, 2.2, 2.3])
    assert [float(row["FDR: after"]) for row in rows] == [1000.0, 100.0, 10.0, 1.0]
    assert [float(row["CS: pre-trained"]) for row in rows] == [0.3] * 4
    (row,) = csv.DictReader(io.StringIO(to_csv(head_norms(group))))
    assert float(row["Head norm: start"]) == 0.55
    assert float(row["Head norm: end"]) == 0.75
    for row in csv.DictReader(io.StringIO(to_csv(calibration(group)))):
        assert float(row["T"]) == 1.25


def test_several_seeds_are_a_mean_and_a_sample_deviation(tmp_path: Path) -> None:
    for seed, change in ((0, 8.0), (1, 9.0), (2, 13.0)):
        write_run(tmp_path / f"ft-{seed}", seed=seed, change=change)
    write_run(tmp_path / "lp", "lp")
    runs = find_runs(tmp_path)[0]
    frame = method_table(runs).set_index("method")
    scores = [run.score("test", "accuracy") for run in runs if run.method == "ft"]
    assert frame.loc["FT", "ID accuracy"] == pytest.approx(np.mean(scores))
    assert frame.loc["FT", "ID accuracy sd"] == pytest.approx(np.std(scores, ddof=1))
    assert frame.loc["FT", "feature change"] == 10.0
    assert frame.loc["FT", "feature change sd"] == pytest.approx(math.sqrt(7))
    assert math.isnan(frame.loc["LP", "ID accuracy sd"])
    assert list(frame["seeds"]) == [1, 3]
    text = format_method_table(method_table(runs))
    assert "10.00 ± 2.65" in text
    assert "standard deviation over seeds" in text
    (group,), _ = group_runs(runs)
    assert "10.00 ± 2.65" in to_markdown(methods(group))
    (_, row) = csv.DictReader(io.StringIO(to_csv(methods(group))))
    assert float(row["feature change sd"]) == pytest.approx(math.sqrt(7))
    assert row["seeds"] == "seed 0, 1, 2"


def test_another_metric_has_its_own_column(tmp_path: Path) -> None:
    write_run(tmp_path / "ft", metric="matthews_correlation")
    (group,), _ = group_runs(find_runs(tmp_path)[0])
    (row,) = csv.DictReader(io.StringIO(to_csv(methods(group))))
    run = group.runs[0]
    assert float(row["test Matthews correlation"]) == run.score("test", "matthews_correlation")


def test_without_a_test_split_validation_is_shown_and_said(tmp_path: Path) -> None:
    write_run(tmp_path / "ft", splits={"validation": 40, "ood/books": 30})
    runs = find_runs(tmp_path)[0]
    frame = method_table(runs)
    assert frame.attrs["id_split"] == "validation"
    assert frame.loc[0, "ID accuracy"] == runs[0].score("validation", "accuracy")
    assert "ID: validation split" in format_method_table(frame)


def test_groups_are_told_apart_in_the_frame(tmp_path: Path) -> None:
    write_run(tmp_path / "a", model="minilm")
    write_run(tmp_path / "b", model="roberta-base")
    write_run(tmp_path / "c", data_name="cb", split_protocol="paper", splits={"test": 56})
    frame = method_table(find_runs(tmp_path)[0])
    assert list(frame.columns[:6]) == ["data", "model", "pooling", "protocol", "method", "seeds"]
    assert list(frame["data"]) == ["cb", "corpus", "corpus"]
    assert list(frame["model"]) == ["minilm", "minilm", "roberta-base"]
    assert math.isnan(frame.loc[0, "ood/books"])


def test_the_terminal_table_is_aligned_and_rounded(report: ReportResult) -> None:
    frame = method_table(report.runs)
    lines = format_method_table(frame).splitlines()
    assert lines[1].split()[0] == "method"
    body = lines[3:9]
    assert len({len(line) for line in body}) == 1
    for line, (_, row) in zip(body, frame.iterrows(), strict=True):
        assert line.startswith(row["method"])
        numbers = line[len(max(LABELS, key=len)) :].split()
        shown = [f"{row[name]:.3f}" for name in frame.columns[2:7]]
        assert numbers[:5] == shown
        assert numbers[5:] == [f"{row['feature change']:.2f}", f"{row['head norm']:.2f}"]
    assert max(len(line) for line in lines) <= 100


def test_markdown_and_latex_escape_what_they_must() -> None:
    column = Column("a|b_%", numeric=False)
    cell = Cell("<b>|x|</b> 50 % {y} \\z ± 1", "raw")
    table = from_columns("t", "Caption & more", [(column, [cell]), (Column("n"), [Cell("1", 1)])])
    markdown = to_markdown(table)
    assert "&lt;b&gt;\\|x\\|&lt;/b&gt;" in markdown
    assert "Caption &amp; more" in markdown
    # Two columns have three bars that are not escaped, in each of heading, rule and row.
    lines = markdown.splitlines()[2:]
    assert [line.replace("\\|", "").count("|") for line in lines] == [3, 3, 3]
    latex = to_latex(table)
    assert r"a\textbar{}b\_\%" in latex
    assert r"50 \% \{y\} \textbackslash{}z $\pm$ 1 & 1 \\" in latex
    assert r"\caption{Caption \& more}" in latex
