"""Which runs belong together: by data, model, pooling and protocol, by settings, by seed."""

from pathlib import Path
from typing import Any

import pytest

from lpft.results.groups import Group, group_runs, model_name
from lpft.results.run import find_runs

from .run_folders import prints, write_run


def groups_of(folder: Path) -> tuple[Group, ...]:
    return group_runs(find_runs(folder)[0])[0]


def test_runs_are_grouped_by_data_model_pooling_and_protocol(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", data_name="other")
    write_run(tmp_path / "c", model="roberta-base")
    write_run(tmp_path / "d", pooling="first")
    write_run(tmp_path / "e", split_protocol="paper")
    write_run(tmp_path / "f", train_file="mine.csv")
    groups, repeated = group_runs(find_runs(tmp_path)[0])
    assert len({group.slug for group in groups}) == len(groups) == 6
    assert repeated == ()


@pytest.mark.parametrize("other", [{"test": "9"}, {"encoder": "9"}], ids=str)
def test_other_test_texts_or_weights_are_another_group(
    tmp_path: Path, other: dict[str, str]
) -> None:
    write_run(tmp_path / "ft", "ft", fingerprints=prints())
    write_run(tmp_path / "lp-ft", "lp-ft", fingerprints=prints(**other))
    groups = groups_of(tmp_path)
    assert len({group.title for group in groups}) == len({group.slug for group in groups}) == 2
    assert all("texts" in group.title for group in groups)


@pytest.mark.parametrize(
    ("other", "settings"),
    [
        # decided by fingerprints in its place
        ({"model": "/two/other", "train_file": "/two/train.csv"}, 1),
        # decides nothing
        ({"device": "cuda", "report_to": "wandb", "save_model": False}, 1),
        # has no effect on fine-tuning without an adapter
        ({"lora_rank": 4}, 1),
        ({"epochs": 3.0}, 2),
        ({"head_scale": 2.0}, 2),
    ],
    ids=str,
)
def test_a_setting_is_what_decides_the_result(
    tmp_path: Path, other: dict[str, Any], settings: int
) -> None:
    write_run(tmp_path / "a", "ft", seed=0, fingerprints=prints())
    write_run(tmp_path / "b", "ft", seed=1, fingerprints=prints(), **other)
    (group,) = groups_of(tmp_path)
    assert len(group.settings) == settings


def test_runs_trained_on_other_texts_are_another_setting(tmp_path: Path) -> None:
    write_run(tmp_path / "ft", "ft", fingerprints=prints(train="1"))
    write_run(tmp_path / "ft-2", "ft", fingerprints=prints(train="2"))
    write_run(tmp_path / "lp-ft", "lp-ft", fingerprints=prints(train="3"))
    (group,) = groups_of(tmp_path)
    assert [setting.label for setting in group.settings] == [
        "FT (training data 1111111 ddddddd)",
        "FT (training data 2222222 ddddddd)",
        "LP-FT",
    ]


def test_a_repeated_seed_is_not_counted_twice(tmp_path: Path) -> None:
    write_run(tmp_path / "a" / "ft", "ft", seed=0)
    write_run(tmp_path / "b" / "ft", "ft", seed=0)
    (group,), (again,) = group_runs(find_runs(tmp_path)[0])
    assert [run.name for run in group.runs] == ["a/ft"]
    assert (again.name, again.state) == ("b/ft", "repeated")
    assert "a/ft" in again.reason


def test_labels_say_what_differs_and_nothing_else(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "ft", head_scale=1.0)
    write_run(tmp_path / "b", "ft", head_scale=10.0)
    write_run(tmp_path / "c", "ft", head_scale=10.0, learning_rate=1e-4)
    write_run(tmp_path / "d", "lp-ft")
    (group,) = groups_of(tmp_path)
    assert [setting.label for setting in group.settings] == [
        "FT (rate 5e-5, head scale 1.0)",
        "FT (rate 5e-5, head scale 10.0)",
        "FT (rate 1e-4, head scale 10.0)",
        "LP-FT",
    ]
    assert [setting.name for setting in group.settings][:2] == [
        "FT (head scale 1.0)",
        "FT (head scale 10.0)",
    ]
    assert len({setting.slug for setting in group.settings}) == 4


def test_labels_name_the_setting_of_a_weight_and_say_where_there_is_none(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "lp")
    write_run(tmp_path / "b", "lp", class_weight={"good": 3.0, "bad": 0.5})
    (group,) = groups_of(tmp_path)
    assert {setting.label for setting in group.settings} == {
        "LP (no class weight)",
        "LP (class weight good 3.0, bad 0.5)",
    }


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("minilm", "minilm"),
        ("FacebookAI/roberta-base", "FacebookAI/roberta-base"),
        ("/Users/someone/models/mine", "mine"),
        ("../models/mine/", "mine"),
        ("C:\\models\\mine", "mine"),
    ],
)
def test_folders_of_someones_machine_are_not_shown(model: str, name: str) -> None:
    assert model_name(model) == name
