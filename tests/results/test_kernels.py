"""Reading folders of kernels: what counts as one, and what is wrong with a damaged one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lpft.errors import InputError
from lpft.report import build_report, format_report
from lpft.results.formats import ratio_text
from lpft.results.kernels import KernelRecord, aligned_name, find_kernels, kernel_name, solver_name

from .kernel_folders import METHODS, write_kernels
from .run_folders import edit_json, write_run


def test_every_number_of_the_record_is_there(kernels: KernelRecord, record: dict[str, Any]) -> None:
    assert kernels.name == "cb"
    assert (kernels.data_name, kernels.model, kernels.rule, kernels.dtype) == (
        *("cb", "minilm", "sgd"),
        "float32",
    )
    assert (kernels.rows, kernels.eval_split) == ({"train": 60, "eval": 20}, "test")
    assert kernels.size == 180
    assert [method.method for method in kernels.methods] == list(METHODS)
    checked = 0
    for method in kernels.methods:
        found = record["methods"][method.method]
        assert method.ft_ratio == found["ft_ratio"]
        assert method.parameters == found["parameters"]
        assert dict(method.certificate) == found["certificate"]
        assert {name: share.trace for name, share in method.layers.items()} == {
            name: share["trace"] for name, share in found["layers"].items()
        }
        for name, statistics in method.kernels.items():
            numbers = found["kernels"][name]
            for key in ("rank", "rank_tolerance", "frobenius_norm", "trace"):
                assert getattr(statistics, key) == numbers[key]
            assert statistics.singular_values.tolist() == numbers["singular_values"]
            assert (
                statistics.regression["paper"].test
                == (numbers["regression"]["paper"]["test_accuracy"])
            )
            checked += 1
    assert checked == 12
    assert kernels.alignment is not None
    assert kernels.alignment.values[1][0] == record["alignment"]["values"][1][0]


def test_heat_maps_and_labels_come_from_the_tensors(
    kernels: KernelRecord, kernel_folder: Path
) -> None:
    for method in kernels.methods:
        tensors = load_file(kernel_folder / "cb" / f"{method.method}.safetensors")
        assert set(method.heat_maps) == {"pretrain_effective", "ft_effective", "ntk"}
        for name, values in method.heat_maps.items():
            np.testing.assert_array_equal(values, tensors[f"train/heat_map/{name}"])
    np.testing.assert_array_equal(kernels.labels["train"], tensors["train/labels"])
    commonest = np.bincount(tensors["train/labels"]).argmax()
    expected = sum(label == commonest for label in tensors["eval/labels"]) / 20
    assert kernels.commonest_class("eval") == expected


def test_kernels_are_found_at_any_depth_and_inside_runs(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "ft")
    write_kernels(tmp_path / "runs" / "ft" / "ntk", data_name="z", samples=9)
    write_kernels(tmp_path / "deep" / "er", data_name="a", samples=9)
    write_kernels(tmp_path / ".hidden", samples=9)
    found, unread = find_kernels(tmp_path)
    assert [kernels.name for kernels in found] == ["deep/er", "runs/ft/ntk"]
    assert unread == ()


def test_a_folder_without_runs_is_a_report(tmp_path: Path) -> None:
    write_kernels(tmp_path / "cb", samples=9)
    kernel_report = build_report(tmp_path)
    assert kernel_report.runs == ()
    assert kernel_report.page.is_file()
    assert "Empirical NTK of minilm on cb" in format_report(kernel_report)


def _edit_method(folder: Path, **changes: Any) -> None:
    methods = json.loads((folder / "kernels.json").read_text())["methods"]
    methods["lora"].update(changes)
    edit_json(folder / "kernels.json", methods=methods)


FOREIGN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "another program's": (
        lambda f: (f / "kernels.json").write_text('{"kernels": []}'),
        "schema is None, expected 1",
    ),
    "a later schema": (lambda f: edit_json(f / "kernels.json", schema=2), "schema is 2"),
}
DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut off": (lambda f: (f / "kernels.json").write_text('{"schema": 1'), "is not JSON"),
    "a list": (lambda f: (f / "kernels.json").write_text("[1]"), "not a JSON object"),
    "not text": (lambda f: (f / "kernels.json").write_bytes(b"\xff\xfe"), "cannot be read"),
    "no model": (lambda f: edit_json(f / "kernels.json", model=None), "model"),
    "kernel a number": (lambda f: edit_json(f / "kernels.json", kernel=3), "kernels.json: kernel"),
    "no data": (lambda f: edit_json(f / "kernels.json", data={}), "data/name"),
    "methods a list": (
        lambda f: edit_json(f / "kernels.json", methods=["ft"]),
        "methods",
    ),
    "no methods": (lambda f: edit_json(f / "kernels.json", methods={}), "methods"),
    "no kernels": (lambda f: _edit_method(f, kernels={}), "methods/lora/kernels"),
    "a kernel a number": (
        lambda f: _edit_method(f, kernels={"ntk": 1}),
        "methods/lora/kernels/ntk",
    ),
    "no singular values": (
        lambda f: _edit_method(f, kernels={"ntk": {"rank": 2}}),
        "lora/kernels/ntk/singular_values",
    ),
    "singular values not numbers": (
        lambda f: _edit_method(f, kernels={"ntk": {"singular_values": [1.0, "x"]}}),
        "lora/kernels/ntk/singular_values",
    ),
    "layers a list": (lambda f: _edit_method(f, layers=[1]), "methods/lora/layers"),
    "a layer larger than F": (
        lambda f: _edit_method(f, layers={"top": {"trace": 1e9}}),
        "the trace of top is 1e+09, outside 0 and that of F",
    ),
    "a negative layer": (
        lambda f: _edit_method(f, layers={"top": {"trace": -1.0}}),
        "the trace of top is -1",
    ),
    "alignment not square": (
        lambda f: edit_json(f / "kernels.json", alignment={"kernels": ["a", "b"], "values": [[1]]}),
        "no value for each pair of its 2 kernels",
    ),
    "alignment without values": (
        lambda f: edit_json(f / "kernels.json", alignment={"kernels": ["a"], "values": 3}),
        "alignment/values",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES | FOREIGN)
def test_kernels_that_cannot_be_read_are_listed_with_the_reason(
    tmp_path: Path, damage: str
) -> None:
    write_kernels(tmp_path / "good", samples=9)
    act, reason = (DAMAGES | FOREIGN)[damage]
    act(write_kernels(tmp_path / "bad", samples=9))
    found, (bad,) = find_kernels(tmp_path)
    assert [kernels.name for kernels in found] == ["good"]
    assert (bad.name, bad.holds) == ("bad", "kernels")
    assert bad.state == ("foreign" if damage in FOREIGN else "damaged")
    assert reason in bad.reason


def _tensors(folder: Path, **changes: Any) -> None:
    path = folder / "lora.safetensors"
    save_file(load_file(path) | changes, path)


TORN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "not there": (lambda f: (f / "lora.safetensors").unlink(), "is not there"),
    "not safetensors": (
        lambda f: (f / "lora.safetensors").write_text("tensors"),
        "lora.safetensors cannot be read",
    ),
    "cut off": (
        lambda f: (f / "lora.safetensors").write_bytes((f / "lora.safetensors").read_bytes()[:-9]),
        "lora.safetensors cannot be read",
    ),
    "labels outside": (
        lambda f: _tensors(f, **{"train/labels": np.full(9, 3)}),
        "train/labels does not hold class indices",
    ),
    "labels not whole": (
        lambda f: _tensors(f, **{"eval/labels": np.ones(9)}),
        "eval/labels does not hold class indices",
    ),
    "map of other size": (
        lambda f: _tensors(f, **{"train/heat_map/ntk": np.ones((8, 8))}),
        "train/heat_map/ntk is not a finite matrix",
    ),
    "map not finite": (
        lambda f: _tensors(f, **{"train/heat_map/ntk": np.full((9, 9), np.nan)}),
        "train/heat_map/ntk is not a finite matrix",
    ),
}


@pytest.mark.parametrize("damage", TORN)
def test_damaged_tensors_cost_heat_maps_and_are_said(tmp_path: Path, damage: str) -> None:
    act, reason = TORN[damage]
    act(write_kernels(tmp_path / "cb", samples=9))
    (kernels,), _ = find_kernels(tmp_path)
    (problem,) = kernels.problems
    assert reason in problem
    assert [bool(method.heat_maps) for method in kernels.methods] == [True, False, True, True]


def test_missing_heat_maps_are_said_in_the_page(tmp_path: Path) -> None:
    write_kernels(tmp_path / "cb", samples=9, methods=("ft",), tensors=False)
    result = build_report(tmp_path)
    text = result.page.read_text(encoding="utf-8")
    assert "ft.safetensors is not there, so there is no heat map of it" in text
    assert not any("heat-maps" in path.name for path in result.figures)


def test_a_method_cannot_name_a_file_elsewhere(tmp_path: Path) -> None:
    folder = write_kernels(tmp_path / "cb", samples=9)
    methods = json.loads((folder / "kernels.json").read_text())["methods"]
    (folder / "ft.safetensors").rename(tmp_path / "ft.safetensors")
    edit_json(folder / "kernels.json", methods={"../ft": methods["ft"]})
    (kernels,), _ = find_kernels(tmp_path)
    assert kernels.methods[0].heat_maps == {}
    assert "not the name of a file beside" in kernels.problems[0]


def test_only_unreadable_kernels_are_no_report(tmp_path: Path) -> None:
    (tmp_path / "kernels.json").write_text("{}")
    with pytest.raises(InputError, match=r"no finished run .* or with kernels\.json.*foreign"):
        build_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_an_empty_folder_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"run\.json.*lpft train.*kernels\.json, as lpft ntk"):
        build_report(tmp_path)


def test_a_sparse_record_is_shown_with_gaps(tmp_path: Path) -> None:
    (tmp_path / "kernels.json").write_text(
        json.dumps(
            {
                "schema": 1,
                "data": {"name": "d", "classes": ["a", "b"]},
                "model": "m",
                "kernel": "asymmetric",
                "methods": {
                    "ft": {
                        "ft_ratio": None,
                        "kernels": {"ft_effective": {"singular_values": [], "regression": None}},
                        "certificate": {"smallest_eigenvalue": None, "asymmetry": 0.25},
                    }
                },
            }
        )
    )
    result = build_report(tmp_path)
    (kernels,) = result.kernels
    assert (kernels.size, kernels.alignment, kernels.solvers, kernels.pretrain) == (
        *(None, None, ()),
        (),
    )
    assert {path.name.removeprefix("kernels-d-m-asymmetric-signgd-") for path in result.tables} == {
        f"{name}.{ending}"
        for name in ("statistics", "certificate")
        for ending in ("csv", "md", "tex")
    }


def test_names_of_kernels_and_solvers() -> None:
    assert [kernel_name(name) for name in ("pretrain_effective", "ntk", "some_other")] == [
        *("P", "P + F"),
        "some other",
    ]
    assert aligned_name("lp-ft/ft_effective") == "LP-FT: F"
    assert aligned_name("pretrain_effective") == "P"
    assert aligned_name("step 10/ntk") == "step 10: P + F"
    assert solver_name("kernel_ridge_regression") == "Kernel ridge regression"
    assert [ratio_text(value) for value in (None, 0.0, 4e-4, 0.19874, 1.0137)] == [
        *("–", "0.0000", "4.0e−4"),
        *("0.1987", "1.0137"),
    ]
