"""Folders of kernels: what is written comes back, and what is wrong with a damaged one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lpft.errors import InputError
from lpft.report import build_report, format_report
from lpft.results.kernels import KernelRecord, find_kernels

from .kernel_folders import METHODS, write_kernels
from .run_folders import edit_json, write_run


def test_every_number_of_the_record_comes_back(
    kernels: KernelRecord, record: dict[str, Any]
) -> None:
    assert kernels.as_json() == record
    assert kernels.name == "cb"
    assert (kernels.rule, kernels.data.eval_split, kernels.size) == ("sgd", "test", 180)
    assert [method.method for method in kernels.methods] == list(METHODS)
    for method in kernels.methods:
        for name, statistics in method.kernels.items():
            written = record["methods"][method.method]["kernels"][name]
            assert statistics.singular_values.tolist() == written["singular_values"]
            paper = written["regression"]["paper"]
            assert statistics.regression["paper"].test == paper["test_accuracy"]
            assert statistics.regression["paper per text"].test == paper["test_text_accuracy"]


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
    assert kernels.commonest_class == np.mean(tensors["eval/labels"] == commonest)


def test_kernels_are_found_at_any_depth_and_inside_runs(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "ft")
    write_kernels(tmp_path / "runs" / "ft" / "ntk", data_name="z", samples=9)
    write_kernels(tmp_path / "deep" / "er", data_name="a", samples=9)
    write_kernels(tmp_path / ".hidden", samples=9)
    found, unread = find_kernels(tmp_path)
    assert [kernels.name for kernels in found] == ["deep/er", "runs/ft/ntk"]
    assert unread == ()


FILES = {
    "cut off": (b'{"schema": 1', "is not JSON"),
    "a list": (b"[1]", "not a JSON object"),
    "not text": (b"\xff\xfe", "cannot be read"),
    "another program's": (b'{"kernels": []}', "schema is None, expected 1"),
    "a later schema": (b'{"schema": 2}', "schema is 2, expected 1"),
}
FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "no model": ({"model": None}, "model"),
    "kernel a number": ({"kernel": 3}, "kernels.json: kernel"),
    "no data": ({"data": {}}, "data/name"),
    "methods a list": ({"methods": ["ft"]}, "methods"),
    "no methods": ({"methods": {}}, "methods"),
    "alignment not square": (
        {"alignment": {"kernels": ["a", "b"], "values": [[1]]}},
        "no value for each pair of its 2 kernels",
    ),
    "alignment a number": ({"alignment": {"kernels": ["a"], "values": 3}}, "alignment/values"),
}
METHOD_FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "no kernels": ({"kernels": {}}, "methods/lora/kernels"),
    "a kernel a number": ({"kernels": {"ntk": 1}}, "methods/lora/kernels/ntk"),
    "no singular values": ({"kernels": {"ntk": {"rank": 2}}}, "ntk/singular_values"),
    "singular values not numbers": (
        {"kernels": {"ntk": {"singular_values": [1.0, "x"]}}},
        "ntk/singular_values",
    ),
    "layers a list": ({"layers": [1]}, "methods/lora/layers"),
    "a layer larger than F": (
        {"layers": {"top": {"trace": 1e9}}},
        "the trace of top is 1e+09, outside 0 and that of F",
    ),
    "a negative layer": ({"layers": {"top": {"trace": -1.0}}}, "the trace of top is -1"),
}


@pytest.mark.parametrize("damage", [*FILES, *FIELDS, *METHOD_FIELDS])
def test_kernels_that_cannot_be_read_are_listed_with_the_reason(
    tmp_path: Path, damage: str
) -> None:
    write_kernels(tmp_path / "good", samples=9)
    path = write_kernels(tmp_path / "bad", samples=9) / "kernels.json"
    if damage in FILES:
        content, reason = FILES[damage]
        path.write_bytes(content)
    else:
        changes, reason = (FIELDS | METHOD_FIELDS)[damage]
        if damage in METHOD_FIELDS:
            methods = json.loads(path.read_text())["methods"]
            changes = {"methods": methods | {"lora": methods["lora"] | changes}}
        edit_json(path, **changes)
    found, (bad,) = find_kernels(tmp_path)
    assert [kernels.name for kernels in found] == ["good"]
    assert (bad.name, bad.holds) == ("bad", "kernels")
    assert bad.state == ("foreign" if "schema is" in reason else "damaged")
    assert reason in bad.reason


TENSORS: dict[str, tuple[dict[str, Any], str]] = {
    "labels outside": (
        {"train/labels": np.full(9, 3)},
        "train/labels does not hold class indices",
    ),
    "labels not whole": ({"eval/labels": np.ones(9)}, "eval/labels does not hold class indices"),
    "map of other size": (
        {"train/heat_map/ntk": np.ones((8, 8))},
        "train/heat_map/ntk is not a finite matrix",
    ),
    "map not finite": (
        {"train/heat_map/ntk": np.full((9, 9), np.nan)},
        "train/heat_map/ntk is not a finite matrix",
    ),
}


@pytest.mark.parametrize("damage", ["not there", "cut off", *TENSORS])
def test_damaged_tensors_cost_heat_maps_and_are_said(tmp_path: Path, damage: str) -> None:
    path = write_kernels(tmp_path / "cb", samples=9) / "lora.safetensors"
    tensors, reason = TENSORS.get(damage, ({}, "lora.safetensors cannot be read"))
    save_file(load_file(path) | tensors, path)
    if damage == "cut off":
        path.write_bytes(path.read_bytes()[:-9])
    if damage == "not there":
        path.unlink()
        reason = "lora.safetensors does not exist, so there is no heat map of it"
    (kernels,), _ = find_kernels(tmp_path)
    (problem,) = kernels.problems
    assert reason in problem
    assert [bool(method.heat_maps) for method in kernels.methods] == [True, False, True, True]
    if damage == "not there":
        assert problem in build_report(tmp_path).page.read_text(encoding="utf-8")


def test_a_method_cannot_name_a_file_elsewhere(tmp_path: Path) -> None:
    folder = write_kernels(tmp_path / "cb", samples=9)
    methods = json.loads((folder / "kernels.json").read_text())["methods"]
    (folder / "ft.safetensors").rename(tmp_path / "ft.safetensors")
    edit_json(folder / "kernels.json", methods={"../ft": methods["ft"]})
    (kernels,), _ = find_kernels(tmp_path)
    assert kernels.methods[0].heat_maps == {}
    assert "not the name of a file beside" in kernels.problems[0]


def test_a_report_may_be_of_kernels_alone_if_some_can_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"run\.json.*lpft train.*kernels\.json, as lpft ntk"):
        build_report(tmp_path)
    (tmp_path / "kernels.json").write_text("{}")
    with pytest.raises(InputError, match=r"no finished run .* or with kernels\.json.*foreign"):
        build_report(tmp_path)
    assert not (tmp_path / "report.html").exists()
    write_kernels(tmp_path / "cb", samples=9)
    report = build_report(tmp_path)
    assert report.runs == ()
    assert "Empirical NTK of minilm on cb" in format_report(report)


def test_a_sparse_record_is_shown_with_gaps(tmp_path: Path) -> None:
    sparse = {
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
    (tmp_path / "kernels.json").write_text(json.dumps(sparse))
    result = build_report(tmp_path)
    (kernels,) = result.kernels
    assert (kernels.size, kernels.alignment, kernels.solvers, kernels.pretrain) == (
        *(None, None, ()),
        (),
    )
    assert {path.stem.removeprefix("kernels-d-m-asymmetric-signgd-") for path in result.tables} == {
        "statistics",
        "certificate",
    }
