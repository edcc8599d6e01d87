"""A group of runs: every number recomputed from the records, and what the sentences say of them."""

import csv
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from results.run_folders import SPLITS, prints, write_run
from sklearn.metrics import f1_score, log_loss

from lpft.report import ReportResult, format_method_table, method_table
from lpft.report.runs import (
    calibration,
    confusion,
    confusion_counts,
    features,
    head_norms,
    methods,
    read_head,
    what_was_run,
)
from lpft.report.table import to_csv, to_markdown
from lpft.report.text import read_feature_change, read_unpaired, summarise_feature_change
from lpft.results.differences import compare, judge_groups
from lpft.results.exhibits import Estimate
from lpft.results.groups import Group, group_runs
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


def test_data_of_one_name_with_other_texts_stands_apart_in_frame_and_terminal(
    tmp_path: Path,
) -> None:
    for name, text in (("a", "1"), ("b", "2")):
        write_run(tmp_path / name, "lp", fingerprints=prints(test=text))
    frame = method_table(find_runs(tmp_path)[0])
    assert ["texts 1111111" in remark for remark in frame["remark"]] == [True, False]
    above = [line for line in format_method_table(frame).splitlines() if "corpus" in line]
    assert ["texts 1111111" in line for line in above] == [True, False]
    assert "texts 2222222" in above[1]


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


HIGH: dict[str, Any] = {"learning_rate": 5e-5, "batch_size": 16}
LOW: dict[str, Any] = {"learning_rate": 5e-6, "batch_size": 8}


def group(folder: Path) -> Group:
    (found,), _ = group_runs(find_runs(folder)[0])
    return found


def said(folder: Path) -> tuple[str, str]:
    """The long and the short text on FT and LP-FT."""
    found = group(folder)
    (comparison,) = judge_groups([found])[found.slug].comparisons
    return (
        " ".join(read_feature_change(comparison)),
        " ".join(summarise_feature_change(comparison)),
    )


def own_rates(
    folder: Path, ft: float = 10.4, lp_ft: float = 3.9, seed: int = 0, **config: Any
) -> None:
    write_run(folder / f"ft-{seed}", "ft", **HIGH, change=ft, seed=seed, **config)
    write_run(folder / f"lp-ft-{seed}", "lp-ft", **LOW, change=lp_ft, seed=seed, **config)


def test_own_rates_alone_allow_no_statement_about_the_head(tmp_path: Path) -> None:
    own_rates(tmp_path)
    for text in said(tmp_path):
        assert "No FT and LP-FT runs here share a learning rate and batch size" in text
        assert "it is unknown how much" in text
        assert "remains" not in text
    long, short = said(tmp_path)
    assert "FT rate 5e-5, batch 16; LP-FT rate 5e-6, batch 8" in long
    assert "10.40 under FT and 3.90 under LP-FT (ratio 0.38)" in long
    assert short.startswith("LP-FT moves features 0.38 times as far as FT at their own rates.")


def test_a_difference_that_vanishes_is_not_credited(tmp_path: Path) -> None:
    own_rates(tmp_path)
    write_run(tmp_path / "ft-low", "ft", **LOW, change=4.5)
    long, short = said(tmp_path)
    assert "At a shared rate 5e-6, batch 8: 4.50 under FT and 3.90 under LP-FT" in long
    assert "almost disappears: 9 % remains." in long
    for text in (long, short):
        assert "LP-FT gets no credit for that part" in text
        assert "This is one seed" in text


def test_a_reversed_difference_is_said_to_be_reversed(tmp_path: Path) -> None:
    own_rates(tmp_path)
    write_run(tmp_path / "lp-ft-high", "lp-ft", **HIGH, change=11.3)
    long, short = said(tmp_path)
    assert "10.40 under FT and 11.30 under LP-FT (ratio 1.09)" in long
    assert "None of the difference at own rates remains: the order is reversed." in long
    assert "LP-FT gets no credit for that part" in short
    assert "1.09 times at a shared rate 5e-5, batch 16" in short


def test_the_numbers_known_from_cb(tmp_path: Path) -> None:
    """Both shared rates at once: one leaves 9 %, the other turns the order around."""
    own_rates(tmp_path, task="cb")
    write_run(tmp_path / "ft-low", "ft", **LOW, change=4.5, task="cb")
    write_run(tmp_path / "lp-ft-high", "lp-ft", **HIGH, change=11.3, task="cb")
    long, short = said(tmp_path)
    assert "the published rates and batch sizes of cb" in long
    assert "9 % remains" in long
    assert "the order is reversed" in long
    assert "LP-FT gets no credit for that part" in short


def test_a_difference_that_stays_is_said_to_stay(tmp_path: Path) -> None:
    own_rates(tmp_path, ft=10.0, lp_ft=4.0)
    write_run(tmp_path / "ft-low", "ft", **LOW, change=8.5)
    long, short = said(tmp_path)
    assert "75 % of the difference at own rates remains." in long
    assert "at least half of the difference at own rates remains at a shared rate" in short
    assert "no credit" not in long + short
    assert "This is one seed" in short


def test_a_larger_difference_at_a_shared_rate(tmp_path: Path) -> None:
    own_rates(tmp_path, ft=10.0, lp_ft=4.0)
    write_run(tmp_path / "ft-low", "ft", **LOW, change=16.0)
    assert "The difference is 200 % of that at own rates." in said(tmp_path)[0]


def test_what_remains_may_depend_on_the_rate(tmp_path: Path) -> None:
    own_rates(tmp_path, ft=10.0, lp_ft=4.0, task="cb")
    write_run(tmp_path / "ft-low", "ft", **LOW, change=9.4, task="cb")
    write_run(tmp_path / "lp-ft-high", "lp-ft", **HIGH, change=9.4, task="cb")
    short = said(tmp_path)[1]
    assert "So how much remains depends on the shared rate: from 10 % to 90 %." in short
    assert "credit" not in short


def test_lp_ft_that_moves_features_more_is_said_to(tmp_path: Path) -> None:
    own_rates(tmp_path, ft=3.0, lp_ft=5.0)
    write_run(tmp_path / "ft-low", "ft", **LOW, change=2.0)
    long, short = said(tmp_path)
    assert "LP-FT does not move them less, or by less than 1 %." in long
    assert "remain" not in long
    assert "credit" not in long + short


def test_a_difference_too_small_to_divide_is_not_divided(tmp_path: Path) -> None:
    own_rates(tmp_path, ft=4.501, lp_ft=4.5)
    write_run(tmp_path / "ft-low", "ft", **LOW, change=6.0)
    long, short = said(tmp_path)
    assert "LP-FT does not move them less, or by less than 1 %." in long
    assert "%" not in short


def test_nothing_remaining_is_not_called_reversed(tmp_path: Path) -> None:
    own_rates(tmp_path)
    write_run(tmp_path / "ft-low", "ft", **LOW, change=3.9)
    long, _ = said(tmp_path)
    assert "almost disappears: 0 % remains." in long
    assert "reversed" not in long


def test_shared_rates_alone_say_so(tmp_path: Path) -> None:
    write_run(tmp_path / "ft", "ft", **LOW, change=4.5)
    write_run(tmp_path / "lp-ft", "lp-ft", **LOW, change=3.9)
    long, short = said(tmp_path)
    assert "ran at shared rates only" in long
    assert "own rates" not in short
    assert "0.87 times as far as FT at a shared rate 5e-6, batch 8" in short


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([(5.0, 4.0), (6.0, 5.1), (5.5, 4.4)], "Over only 3 seeds: at rate 5e-6, batch 8 LP-FT "
         "moves features less than FT (FT minus LP-FT: 1.00, 95 % interval 0."),
        ([(5.0, 4.0), (4.0, 6.0), (5.5, 5.0)], "LP-FT shows no clear difference from FT (FT minus "
         "LP-FT: −0.17, 95 % interval −"),
        # One sign in all seeds, and an interval that contains 0.
        ([(5.0, 4.9), (9.0, 4.0)], "LP-FT shows no clear difference from FT"),
        ([(4.0, 5.0), (4.0, 5.1)], "LP-FT moves features more than FT (FT minus LP-FT: −1.05"),
        ([(5.0, 4.0)] * 5, "Over 5 seeds: at rate 5e-6, batch 8 LP-FT moves features less "
         "than FT (FT minus LP-FT: "
         "1.00, 95 % interval 1.00 to 1.00)."),
    ],
)  # fmt: skip
def test_several_seeds(tmp_path: Path, changes: list[tuple[float, float]], expected: str) -> None:
    for seed, (ft, lp_ft) in enumerate(changes):
        write_run(tmp_path / f"ft-{seed}", "ft", **LOW, change=ft, seed=seed)
        write_run(tmp_path / f"lp-ft-{seed}", "lp-ft", **LOW, change=lp_ft, seed=seed)
    for text in said(tmp_path):
        assert expected in text
        assert "one seed" not in text


def test_without_a_judgement_nothing_is_said_of_seeds(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path / f"ft-{seed}", "ft", **LOW, change=5.0, seed=seed)
        write_run(tmp_path / f"lp-ft-{seed}", "lp-ft", **LOW, change=4.0, seed=seed)
    (comparison,) = compare(group(tmp_path))
    assert "seed" not in " ".join(summarise_feature_change(comparison))


def test_several_seeds_are_shown_as_mean_and_deviation(tmp_path: Path) -> None:
    own_rates(tmp_path, ft=10.0, lp_ft=4.0, seed=0)
    own_rates(tmp_path, ft=12.0, lp_ft=5.0, seed=1)
    assert "11.00 ± 1.41 under FT and 4.50 ± 0.71 under LP-FT (ratio 0.41)" in said(tmp_path)[0]


def test_methods_that_cannot_be_compared_are_named(tmp_path: Path) -> None:
    write_run(tmp_path / "ft", "ft", epochs=3.0)
    write_run(tmp_path / "lp-ft", "lp-ft", epochs=10.0)
    found = group(tmp_path)
    (sentence,) = read_unpaired(found, compare(found))
    assert sentence.startswith("FT and LP-FT are not compared: no two of their runs")
    write_run(tmp_path / "ft-10", "ft", epochs=10.0)
    found = group(tmp_path)
    assert read_unpaired(found, compare(found)) == []


def test_what_was_run_names_methods_data_and_seeds(tmp_path: Path) -> None:
    write_run(tmp_path / "lp", "lp")
    write_run(tmp_path / "ft", "ft")
    assert what_was_run(group(tmp_path)) == (
        "2 finished runs of LP and FT on corpus (400 training, 60 validation and 80 test texts; "
        "3 classes; out of distribution: books and hotels) with minilm, mean pooling and the "
        "stratified split; seed 0."
    )


def test_head_norms_are_given_by_their_start(tmp_path: Path) -> None:
    write_run(tmp_path / "lp", "lp")
    write_run(tmp_path / "ft", "ft", head_norm=0.75)
    write_run(tmp_path / "lp-ft", "lp-ft", head_norm=15.0)
    assert read_head(group(tmp_path)) == (
        "Norm of the head's weights: random heads start at 0.550 and end at 0.750; heads from "
        "linear probing start at 14.0 and end at 15.0."
    )


def test_the_confusion_matrix_counts_rows(report: ReportResult) -> None:
    (found,), _ = group_runs(report.runs)
    setting = found.settings[0]
    predictions = setting.first.predictions["test"]
    naive = np.zeros((3, 3), dtype=int)
    for label, logits in zip(predictions.labels, predictions.logits, strict=True):
        naive[label, list(logits).index(max(logits))] += 1
    np.testing.assert_array_equal(confusion_counts(setting, "test"), naive)
    _, entailment, _ = confusion(setting, found).rows
    name, *cells, recall = entailment
    assert name == "entailment"
    assert [cell.value for cell in cells if isinstance(cell, Estimate)] == list(naive[1])
    # What is right is shaded apart from what is wrong, each by its share of the class.
    shades = [cell.shade for cell in cells if isinstance(cell, Estimate)]
    signs = np.where(np.arange(3) == 1, 1, -1)
    np.testing.assert_allclose(shades, signs * naive[1] / naive[1].sum())
    assert isinstance(recall, Estimate)
    assert recall.value == naive[1, 1] / naive[1].sum()


def test_many_classes_are_listed_by_their_commonest_confusions(tmp_path: Path) -> None:
    write_run(tmp_path / "ft", classes=tuple(f"class {i}" for i in range(20)))
    table = confusion(group(tmp_path).settings[0], group(tmp_path))
    assert [column.name for column in table.columns] == ["True", "Predicted", "Rows"]
    counts = [row[2].value for row in table.rows if isinstance(row[2], Estimate)]
    assert counts == sorted(counts, reverse=True)  # type: ignore[type-var]
    assert 0 < len(counts) <= 15
