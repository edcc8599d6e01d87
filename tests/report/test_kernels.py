"""Kernels: the paper's layout, every number looked up again in the record, and the sentences."""

import copy
import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from results.kernel_folders import LAYERS, METHODS, path_record, write_kernels

from lpft.report import (
    ReportResult,
    build_report,
    figures,
    format_kernel_table,
    format_method_table,
    format_report,
    method_table,
)
from lpft.report import kernels as kernel_page
from lpft.report.kernels import (
    read_certificate,
    read_regression,
    read_statistics,
    what_was_computed,
)
from lpft.report.table import bands, one_line_heading, text_rows, to_csv, to_latex, to_markdown
from lpft.results.exhibits import Table
from lpft.results.formats import scientific
from lpft.results.kernels import KernelRecord, find_kernels

NAMES = ["FT", "LoRA", "LP-FT", "LP-LoRA"]


def rows_of(table: Table) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(table))))


def parsed(record: dict[str, Any]) -> KernelRecord:
    return KernelRecord.model_validate(record)


def test_statistics_have_the_layout_of_the_paper(
    kernels: KernelRecord, record: dict[str, Any]
) -> None:
    rows = rows_of(kernel_page.statistics(kernels))
    layout = [("all methods", "P")] + [(m, k) for m in NAMES for k in ("F", "P + F")]
    assert [(row["Method"], row["Kernel"]) for row in rows] == layout
    keys = [("ft", "pretrain_effective")]
    keys += [(method, kernel) for method in METHODS for kernel in ("ft_effective", "ntk")]
    assert len(keys) == len(rows) == 9
    for row, (method, kernel) in zip(rows, keys, strict=True):
        found = record["methods"][method]["kernels"][kernel]
        assert int(row["Rank"]) == found["rank"]
        assert float(row["Frobenius norm"]) == found["frobenius_norm"]
        for column, solver in (
            ("paper's protocol", "paper"),
            ("kernel logistic regression", "kernel_logistic_regression"),
        ):
            for split in ("train", "test"):
                accuracy = found["regression"][solver][f"{split}_accuracy"]
                assert float(row[f"{column}: {split} accuracy"]) == accuracy
        ft_ratio = record["methods"][method]["ft_ratio"] if kernel == "ft_effective" else None
        assert row["FT ratio"] == ("" if ft_ratio is None else str(ft_ratio))


def test_each_different_pretrain_effective_kernel_has_a_row(record: dict[str, Any]) -> None:
    changed = copy.deepcopy(record)
    for method in ("lp-ft", "lp-lora"):  # such as a head without bias
        changed["methods"][method]["kernels"]["pretrain_effective"]["frobenius_norm"] *= 2
    rows = rows_of(kernel_page.statistics(parsed(changed)))
    heads = [row["Method"] for row in rows if row["Kernel"] == "P"]
    assert heads == ["FT, LoRA", "LP-FT, LP-LoRA"]


def test_regression_on_p_that_depends_on_the_method_is_not_passed_off_as_one(
    record: dict[str, Any],
) -> None:
    changed = copy.deepcopy(record)
    of_lora = changed["methods"]["lora"]["kernels"]["pretrain_effective"]["regression"]
    of_lora["kernel_logistic_regression"]["test_accuracy"] = 0.123
    kernels = parsed(changed)
    table = kernel_page.statistics(kernels)
    texts = [cell.text for cell in text_rows(table)[0]]
    assert texts[0:2] == ["all methods", "P"]
    assert texts.count(kernel_page.VARIES) == 1
    assert "Varies:" in table.note
    regression = kernel_page.regression(kernels)
    assert regression is not None
    rows = rows_of(regression)
    found = {
        row["Method"]: row["Kernel logistic regression: test"]
        for row in rows
        if row["Kernel"] == "P"
    }
    assert found == {"FT, LP-FT, LP-LoRA": "0.7", "LoRA": "0.123"}


def test_regression_stands_beside_constant_answers(
    kernels: KernelRecord, record: dict[str, Any]
) -> None:
    table = kernel_page.regression(kernels)
    assert table is not None
    rows = rows_of(table)
    assert len(rows) == 9
    commonest = np.mean(kernels.labels["eval"] == np.bincount(kernels.labels["train"]).argmax())
    for row in rows:
        assert float(row["Paper's protocol: constant"]) == pytest.approx(2 / 3)
        assert float(row["Kernel logistic regression: constant"]) == commonest
        assert float(row["Kernel ridge regression: constant"]) == commonest
    ridge = record["methods"]["lora"]["kernels"]["ntk"]["regression"]["kernel_ridge_regression"]
    assert float(rows[4]["Kernel ridge regression: train"]) == ridge["train_accuracy"]
    assert [above for above, _ in bands(table) if above] == [
        *("Paper's protocol", "Paper's protocol, per text"),
        *("Kernel logistic regression", "Kernel ridge regression"),
    ]
    paper = record["methods"]["lora"]["kernels"]["ntk"]["regression"]["paper"]
    assert float(rows[4]["Paper's protocol, per text: test"]) == paper["test_text_accuracy"]


def test_without_regression_there_is_no_table_of_it(tmp_path: Path) -> None:
    write_kernels(tmp_path / "k", samples=9, regressed=False, tensors=False)
    (kernels,), _ = find_kernels(tmp_path)
    assert kernel_page.regression(kernels) is None
    assert read_regression(kernels) == []
    columns = [one_line_heading(column) for column in kernel_page.statistics(kernels).columns]
    assert columns == ["Method", "Kernel", "Rank", "Frobenius norm", "FT ratio"]
    assert kernels.commonest_class is None


def test_alignment_is_the_record_with_names(kernels: KernelRecord, record: dict[str, Any]) -> None:
    table = kernel_page.alignment(kernels)
    assert table is not None
    names = ["P"] + [f"{method}: {kernel}" for method in NAMES for kernel in ("F", "P + F")]
    rows = rows_of(table)
    assert [row["Kernel"] for row in rows] == names
    for row, values in zip(rows, record["alignment"]["values"], strict=True):
        assert [float(row[name]) for name in names] == values
    assert all(0 <= cell.shade <= 1 for row in table.rows for cell in row[1:])  # type: ignore[operator, union-attr]
    gap = copy.deepcopy(record)
    gap["alignment"]["values"][0][1] = None
    with_gap = kernel_page.alignment(parsed(gap))
    assert with_gap is not None
    assert text_rows(with_gap)[0][2].text == "–"
    assert kernel_page.alignment(parsed(record | {"alignment": None})) is None


def test_shares_are_parts_of_the_trace_of_f(kernels: KernelRecord, record: dict[str, Any]) -> None:
    table = kernel_page.shares(kernels)
    assert table is not None
    rows = rows_of(table)
    assert [row["By"] for row in rows] == ["kind"] * 5 + ["layer"] * 7
    for row in rows:
        for method, name in zip(METHODS, NAMES, strict=True):
            found = record["methods"][method]
            trace = found["kernels"]["ft_effective"]["trace"]
            part = found[f"{row['By']}s"].get(row["Part"])
            if part is None:
                assert row[name] == ""
            else:
                assert float(row[name]) == pytest.approx(part["trace"] / trace, rel=1e-12)
    ft = [float(row["FT"]) for row in rows if row["By"] == "layer"]
    np.testing.assert_allclose(ft, np.arange(1, 8) / 28)


def test_a_zero_kernel_has_no_shares(record: dict[str, Any]) -> None:
    changed = copy.deepcopy(record)
    changed["methods"]["ft"]["kernels"]["ft_effective"]["trace"] = 0.0
    changed["methods"]["ft"]["kinds"] = {"attention": {"trace": 0.0}}
    changed["methods"]["ft"]["layers"] = {}
    assert figures.trace_shares(parsed(changed).methods[0]) == {}


def test_the_certificate_has_a_row_per_method(
    kernels: KernelRecord, record: dict[str, Any]
) -> None:
    rows = rows_of(kernel_page.certificate(kernels))
    assert [row["Method"] for row in rows] == NAMES
    for row, method in zip(rows, METHODS, strict=True):
        found = record["methods"][method]
        assert float(row["Head: norm"]) == found["head_norm"]
        assert int(row["Head: rank"]) == found["head_rank"]
        assert int(row["Parameters"]) == found["parameters"]
        checks = found["certificate"]
        assert float(row["Certificate: smallest eigenvalue"]) == checks["smallest_eigenvalue"]
        assert int(row["Certificate: entries recomputed"]) == checks["entries_checked"]
        assert int(row["Certificate: products recomputed"]) == checks["products_checked"]
        assert float(row["Certificate: largest relative error"]) == checks["largest_relative_error"]


def test_faster_products_show_their_error(record: dict[str, Any]) -> None:
    names = [one_line_heading(column) for column in kernel_page.certificate(parsed(record)).columns]
    assert "Certificate: error of fast products" not in names
    changed = copy.deepcopy(record)
    changed["methods"]["ft"]["products_error"] = 2e-3
    rows = rows_of(kernel_page.certificate(parsed(changed)))
    assert [row["Certificate: error of fast products"] for row in rows] == ["0.002", "", "", ""]


def test_the_terminal_shows_the_table_aligned(record: dict[str, Any]) -> None:
    text = format_kernel_table(parsed(record))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert "Empirical NTK of minilm on cb (60 training and 20 test texts, 3 classes)" in lines[0]
    start = next(place for place, line in enumerate(lines) if set(line) == {"-"})
    body = lines[start + 1 : start + 10]
    assert body[0].startswith("all methods  P ")
    firsts = [line.split("  ")[0] for line in body]
    assert firsts == ["all methods", "FT", "", "LoRA", "", "LP-FT", "", "LP-LoRA", ""]
    assert len({len(line) for line in body}) == 1
    found = record["methods"]["lp-ft"]
    f = found["kernels"]["ft_effective"]
    assert body[5].split() == [
        *("LP-FT", "F", str(f["rank"]), scientific(f["frobenius_norm"])),
        *("0.924", "0.824", "0.874", "0.724", f"{found['ft_ratio']:.4f}"),
    ]
    assert "a constant answer scores 0.667" in " ".join(lines)
    assert "Certificate: " in text


def test_the_terminal_shows_every_solver_under_its_own_name(record: dict[str, Any]) -> None:
    """Those beside the paper's protocol and kernel logistic regression in a table of their own."""
    text = format_kernel_table(parsed(record))
    assert "Kernel ridge regression" in text
    changed = copy.deepcopy(record)
    names = {
        **{"svc": "SVC", "svr": "SVR", "lstsq": "Least squares"},
        **{"logistic": "Logistic regression on rows", "asymmetric": "Asymmetric least squares"},
    }
    for method in changed["methods"].values():
        for kernel in method["kernels"].values():
            kernel["regression"] = {
                solver: {"train_accuracy": 0.5 + place / 100, "test_accuracy": 0.4 + place / 100}
                for place, solver in enumerate(names)
            }
    text = format_kernel_table(parsed(changed))
    assert max(map(len, text.splitlines())) <= 100
    for place, name in enumerate(names.values()):
        assert name in text
        assert f"{0.4 + place / 100:.3f}" in text
    alone = copy.deepcopy(record)
    for method in alone["methods"].values():
        for kernel in method["kernels"].values():
            del kernel["regression"]["kernel_ridge_regression"]
    assert "Kernel regression" not in format_kernel_table(parsed(alone))


def test_the_certificate_names_the_set_of_parameters(record: dict[str, Any]) -> None:
    changed = copy.deepcopy(record)
    changed["methods"]["lora"]["parameter_set"] = "lora"
    rows = rows_of(kernel_page.certificate(parsed(changed)))
    assert [row["Parameters of F: set"] for row in rows] == ["", "lora", "", ""]


def test_a_report_in_a_terminal_has_runs_and_kernels(
    report: ReportResult, kernel_report: ReportResult
) -> None:
    assert format_report(report).startswith(" ")  # the two-line heading of methods
    assert format_report(kernel_report).startswith("Empirical NTK")
    assert format_method_table(method_table(kernel_report.runs)) == "no finished runs"


def test_markdown_and_latex_are_written(kernels: KernelRecord) -> None:
    table = kernel_page.statistics(kernels)
    assert "| all methods | P |" in to_markdown(table)
    assert r"\multicolumn{2}{c}{Paper: entries}" in to_latex(table)
    assert "$-$" in to_latex(kernel_page.certificate(kernels))


def test_sentences_say_what_the_record_says(kernels: KernelRecord, record: dict[str, Any]) -> None:
    assert what_was_computed(kernels) == (
        "Empirical NTK of minilm on cb (60 training and 20 test texts, 3 classes) for FT, LoRA, "
        "LP-FT and LP-LoRA: SGD kernel in float32, texts of at most 128 tokens, seed 0."
    )
    ratios, ranks, norms = read_statistics(kernels)
    assert f"{record['methods']['lp-ft']['ft_ratio']:.4f} for LP-FT" in ratios
    f = {m: record["methods"][m]["kernels"]["ft_effective"] for m in METHODS}
    assert f"Rank of F of 180: {f['ft']['rank']} for FT" in ranks
    low, high = f["lora"]["frobenius_norm"], f["lp-ft"]["frobenius_norm"]
    assert norms == (
        f"Frobenius norm of F: {scientific(low)} (LoRA) to {scientific(high)} (LP-FT)."
    )
    paper, honest = read_regression(kernels)
    assert "0.806 (FT) to 0.836 (LP-LoRA) of the test entries" in paper
    assert "a constant answer scores 0.667" in paper
    assert "0.706 (FT) to 0.736 (LP-LoRA) of the test texts" in honest
    (certificate,) = read_certificate(kernels)
    assert "3.1e−7 among 32 entries and, of every kernel, a product" in certificate


def test_sentences_leave_out_what_is_not_recorded(record: dict[str, Any]) -> None:
    bare = copy.deepcopy(record)
    bare["data"]["eval_split"] = None
    for method in bare["methods"].values():
        method["ft_ratio"] = None
        method["certificate"] = {}
        for kernel in method["kernels"].values():
            kernel.update(rank=None, frobenius_norm=None)
    kernels = parsed(json.loads(json.dumps(bare)))
    assert read_statistics(kernels) == []
    assert read_regression(kernels) == []
    assert read_certificate(kernels) == []
    regression = kernel_page.regression(kernels)
    assert regression is not None
    assert "There is no evaluation split" in regression.note


STEPS = [0, 1, 5]


def trajectory(shift: float) -> dict[str, Any]:
    return {
        "error": [None, 0.01 + shift, 0.2 + shift],
        "nll": [1.1, 1.0 - shift, 0.7 - shift],
        "linearized_nll": [1.1, 0.99 - shift, 0.6 - shift],
    }


DYNAMICS = {
    "rows": {"train": 4, "eval": 3},
    "largest_stable_rate": 0.02,
    "first_order": [
        {"rate": 0.02, "logits": 0.11, "features": 0.12},
        {"rate": 0.002, "logits": 0.011, "features": None},
    ],
    "linearized": {
        "rate": 0.002,
        "steps": STEPS,
        "train": trajectory(0.0),
        "eval": trajectory(0.05),
    },
}


@pytest.fixture
def trained(record: dict[str, Any]) -> dict[str, Any]:
    """The record with the dynamics of two of its methods."""
    changed = copy.deepcopy(record)
    changed["methods"]["ft"]["dynamics"] = copy.deepcopy(DYNAMICS)
    changed["methods"]["lora"]["dynamics"] = {**copy.deepcopy(DYNAMICS), "linearized": None}
    return changed


def test_the_tables_hold_the_record(trained: dict[str, Any]) -> None:
    kernels = parsed(trained)
    first = kernel_page.first_order(kernels)
    assert first is not None
    rows = rows_of(first)
    assert [row["Method"] for row in rows] == ["FT", "FT", "LoRA", "LoRA"]
    for row, step in zip(rows, 2 * DYNAMICS["first_order"], strict=True):
        assert float(row["Rate"]) == step["rate"]
        assert float(row["Relative error: logits"]) == step["logits"]
        features = row["Relative error: features"]
        assert features == ("" if step["features"] is None else str(step["features"]))
    assert "4 training texts" in first.note
    assert "3 test texts" in first.note
    many = kernel_page.linearized(kernels)
    assert many is not None
    rows = rows_of(many)
    assert [int(row["Steps"]) for row in rows] == STEPS
    assert {row["Method"] for row in rows} == {"FT"}
    for place, row in enumerate(rows):
        for above, split in (("Training texts", "train"), ("Evaluated texts", "eval")):
            found = DYNAMICS["linearized"][split]  # type: ignore[index]
            for name, key in (("error", "error"), ("NLL", "nll"), ("linear NLL", "linearized_nll")):
                value = found[key][place]
                assert row[f"{above}: {name}"] == ("" if value is None else str(value))


def test_without_dynamics_there_is_nothing_of_them(record: dict[str, Any]) -> None:
    kernels = parsed(record)
    assert kernel_page.first_order(kernels) is None
    assert kernel_page.linearized(kernels) is None
    assert figures.dynamics(kernels) is None
    assert "One step" not in format_kernel_table(parsed(record))


def test_the_terminal_and_the_figure_show_them(trained: dict[str, Any]) -> None:
    text = format_kernel_table(parsed(trained))
    assert "One step compared with the first order" in text
    assert "Training compared with the linear model" in text
    assert max(map(len, text.splitlines())) <= 100
    figure = figures.dynamics(parsed(trained))
    assert figure is not None
    errors, losses = figure.panels
    assert [line.label for line in errors.series] == ["FT", "LoRA"]
    assert (errors.series[0].x, errors.series[0].y) == ((0.02, 0.002), (0.11, 0.011))
    real, linear = losses.series
    assert [list(line.y) for line in (real, linear)] == [
        DYNAMICS["linearized"]["train"][key]  # type: ignore[index]
        for key in ("nll", "linearized_nll")
    ]
    assert (real.dashed, linear.dashed) == (False, True)


def test_the_page_has_them_and_files_of_them(tmp_path: Path, trained: dict[str, Any]) -> None:
    folder = write_kernels(tmp_path / "k", samples=60, methods=("ft", "lora"))
    methods = {name: trained["methods"][name] for name in ("ft", "lora")}
    record = json.loads((folder / "kernels.json").read_text()) | {"methods": methods}
    (folder / "kernels.json").write_text(json.dumps(record))
    result = build_report(tmp_path, tmp_path / "report.html")
    page = result.page.read_text(encoding="utf-8")
    assert "Training compared with the kernel" in page
    names = {path.name for path in result.files}
    slug = next(name for name in names if name.endswith("-first-order.csv")).removesuffix(
        "-first-order.csv"
    )
    for name in ("first-order.csv", "linearized.csv", "dynamics.pdf", "dynamics.png"):
        assert f"{slug}-{name}" in names


@pytest.mark.parametrize(
    "change",
    [
        {"first_order": 3},
        {"first_order": [{"logits": 1}]},
        {"linearized": 3},
        {"linearized": {"steps": STEPS, "train": trajectory(0) | {"nll": [1.0]}}},
        {"linearized": {"steps": "0"}},
    ],
)
def test_damaged_dynamics_are_named(
    tmp_path: Path, trained: dict[str, Any], change: dict[str, Any]
) -> None:
    trained["methods"]["ft"]["dynamics"] |= change
    (tmp_path / "kernels.json").write_text(json.dumps(trained))
    _, (unread,) = find_kernels(tmp_path)
    assert "dynamics" in unread.reason


def test_a_path_is_told_in_a_sentence_a_table_and_two_figures(tmp_path: Path) -> None:
    write_kernels(tmp_path / "cb", samples=9, methods=("ft",), path=path_record())
    result = build_report(tmp_path)
    (kernels,) = result.kernels
    assert kernels.path is not None
    (sentence,) = kernel_page.read_path(kernels)
    for words in ("No, it leaves it after epoch 1", "0.24 > 0.1", "0.090 ≤ 0.1"):
        assert words in sentence
    rows = rows_of(kernel_page.path(kernels))
    assert [row["Epoch"] for row in rows] == ["0", "1", "2", "3"]
    for row, point in zip(rows, path_record()["points"], strict=True):
        assert float(row["drift of P + F"]) == point["drift"]["ntk"]
        assert float(row["head norm"]) == point["head_norm"]
    layers = {row["Part"]: row for row in rows_of(kernel_page.path_layers(kernels))}
    assert float(layers[LAYERS[2]]["drift at epoch 3"]) == pytest.approx(0.03)
    drift, alignment, error = figures.path(kernels).panels
    assert [series.label for series in drift.series] == ["P", "F", "P + F"]
    assert drift.series[2].y == tuple(0.08 * epoch for epoch in range(4))
    assert (drift.level[0], error.level[0], alignment.level) == (0.1, 0.1, None)
    page, text = result.page.read_text(encoding="utf-8"), format_kernel_table(kernels)
    for shown in (page, " ".join(text.split())):
        assert "Is this training in the kernel regime?" in shown
    names = {path.name.partition("sgd-")[2] for path in (*result.tables, *result.figures)}
    assert {"path.csv", "path-layers.csv", "path.png", "path-layers.pdf"} <= names


@pytest.mark.parametrize(
    ("answer", "until", "words"),
    [
        ("yes", 3.0, "Yes, to its last epoch"),
        ("no", 0.0, "within its first epoch"),
        ("unknown", 3.0, "P + F not known"),
    ],
)
def test_the_answer_on_the_kernel_regime_in_words(
    record: dict[str, Any], answer: str, until: float, words: str
) -> None:
    largest = {"drift": None if answer == "unknown" else 0.05, "linearization_error": 0.01}
    path = path_record() | {"answer": answer, "until": until, "largest": largest}
    (sentence,) = kernel_page.read_path(parsed(record | {"path": path}))
    assert words in sentence
    assert "0.010 ≤ 0.1" in sentence
