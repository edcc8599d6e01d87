"""Training beside what the kernel predicts: every number looked up again, drawn, and refused."""

import copy
import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from lpft.report.kernels.dynamics_figure import dynamics_figure
from lpft.report.writers import to_csv
from results.kernel_folders import write_kernels

from lpft.report import build_report, format_kernel_table
from lpft.report.kernels import dynamics_tables
from lpft.results.kernels import KernelRecord
from lpft.results.schema import UnusableRecord

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


def rows_of(table: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(table))))


def test_the_tables_hold_the_record(trained: dict[str, Any]) -> None:
    kernels = KernelRecord.model_validate(trained)
    first = dynamics_tables.first_order(kernels)
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
    many = dynamics_tables.linearized(kernels)
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
    kernels = KernelRecord.model_validate(record)
    assert dynamics_tables.first_order(kernels) is None
    assert dynamics_tables.linearized(kernels) is None
    assert dynamics_figure(kernels) is None
    assert "One step" not in format_kernel_table(record)


def test_the_terminal_and_the_figure_show_them(trained: dict[str, Any]) -> None:
    text = format_kernel_table(trained)
    assert "One step beside its first order" in text
    assert "Training beside the linear model" in text
    assert max(map(len, text.splitlines())) <= 100
    figure = dynamics_figure(KernelRecord.model_validate(trained), with_legend=True)
    assert figure is not None
    errors, losses = figure.axes[:2]
    assert len(errors.lines) == 2  # FT and LoRA
    assert errors.lines[0].get_xdata().tolist() == [0.02, 0.002]
    assert errors.lines[0].get_ydata().tolist() == [0.11, 0.011]
    assert [line.get_ydata().tolist() for line in losses.lines] == [
        DYNAMICS["linearized"]["train"][key]  # type: ignore[index]
        for key in ("nll", "linearized_nll")
    ]


def test_the_page_has_them_and_files_of_them(tmp_path: Path, trained: dict[str, Any]) -> None:
    folder = write_kernels(tmp_path / "k", samples=60, methods=("ft", "lora"))
    methods = {name: trained["methods"][name] for name in ("ft", "lora")}
    record = json.loads((folder / "kernels.json").read_text()) | {"methods": methods}
    (folder / "kernels.json").write_text(json.dumps(record))
    result = build_report(tmp_path, tmp_path / "report.html")
    page = result.page.read_text(encoding="utf-8")
    assert "Training beside what the kernel predicts" in page
    names = {path.name for path in result.files}
    slug = next(name for name in names if name.endswith("-first-order.csv")).removesuffix(
        "-first-order.csv"
    )
    for name in ("first-order.csv", "linearized.csv", "dynamics.pdf", "dynamics.png"):
        assert f"{slug}-{name}" in names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first_order": 3}, "first_order is not a list of steps with rates"),
        ({"first_order": [{"logits": 1}]}, "first_order is not a list of steps with rates"),
        ({"linearized": 3}, "linearized is not an object"),
        (
            {"linearized": {"steps": STEPS, "train": trajectory(0) | {"nll": [1.0]}}},
            "ft/dynamics/train does not have a value for each of 3 steps",
        ),
        ({"linearized": {"steps": "0"}}, "steps is not a list"),
    ],
)
def test_damaged_dynamics_are_named(
    trained: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    trained["methods"]["ft"]["dynamics"] |= change
    with pytest.raises(UnusableRecord, match=message):
        KernelRecord.model_validate(trained)
