"""The YAML of a sweep: what it means, and what it says of everything that is wrong with it."""

import re
from pathlib import Path

import pytest
import yaml

from lpft.errors import InputError
from lpft.runs.sweep_config import read_sweep_config

GOOD = {"tasks": ["cb", "rte"], "methods": ["lp", "ft"]}


@pytest.fixture
def sweep(tmp_path):
    """Read a sweep from a mapping, or from YAML text."""

    def read(described=None, /, **changes):
        path = tmp_path / "sweep.yaml"
        text = described
        if not isinstance(described, str):
            values = {**({} if described is None else described), **changes}
            text = yaml.safe_dump(values, sort_keys=False)
        path.write_text(text, encoding="utf-8")
        return read_sweep_config(path)

    return read


def by_folder(found, folder=Path("D")):
    return {str(config.output_dir): config for config in found.runs(folder)}


def test_every_task_model_method_and_seed_is_a_run_with_a_folder_of_its_own(sweep):
    found = by_folder(sweep(GOOD, models=["minilm", "org/tiny"], seeds=2))
    assert len(found) == 2 * 2 * 2 * 2
    assert list(found)[:3] == [
        "D/runs/cb/lp-minilm-seed0",
        "D/runs/cb/lp-minilm-seed1",
        "D/runs/cb/ft-minilm-seed0",
    ]
    config = found["D/runs/rte/ft-tiny-seed1"]
    assert (config.data.task, config.training.model) == ("rte", "org/tiny")
    assert (config.training.method, config.training.seed) == ("ft", 1)
    # nothing said, so the paper's own rates
    assert found["D/runs/cb/ft-minilm-seed0"].training.learning_rate == 5e-5


def test_one_model_and_one_seed_are_the_default_and_names_need_no_list(sweep):
    found = sweep("tasks: cb\nmethods: lp-ft\n")
    assert list(by_folder(found)) == ["D/runs/cb/lp-ft-minilm-seed0"]
    assert found.grid is None
    assert sweep(GOOD, seeds=[7, 3]).seeds == (7, 3)


def test_models_that_end_in_the_same_name_are_told_apart(sweep):
    found = sweep(GOOD, models=["one/tiny", "two/tiny"])
    assert {cell.name for cell in found.cells if cell.task == "cb" and cell.method == "lp"} == {
        "cb/lp-one--tiny",
        "cb/lp-two--tiny",
    }


def test_data_of_ones_own_has_its_settings_and_its_name(sweep, tmp_path):
    own = {
        "name": "shops",
        "train-file": str(tmp_path / "a.csv"),
        "ood": {"far": str(tmp_path / "b.csv")},
        "text_columns": "q,a",
        "max_train_samples": 9,
    }
    wic = {"name": "cb-small", "task": "cb", "template": 0, "max_train_samples": 30}
    found = by_folder(sweep(tasks=["cb", own, wic], methods=["lp"], settings={"label_column": "y"}))
    data = found["D/runs/shops/lp-minilm-seed0"].data
    assert data.train_file == tmp_path / "a.csv"
    assert data.ood == {"far": tmp_path / "b.csv"}
    assert (data.text_columns, data.label_column, data.data_name) == (("q", "a"), "y", "shops")
    assert data.split_protocol == "stratified"
    small = found["D/runs/cb-small/lp-minilm-seed0"].data
    assert (small.task, small.max_train_samples, small.data_name) == ("cb", 30, None)
    assert found["D/runs/cb/lp-minilm-seed0"].data.max_train_samples is None


def test_a_setting_is_left_out_where_it_has_no_effect(sweep, tmp_path):
    settings = {
        "lora-rank": 4,
        "epochs": 2,
        "data_dir": str(tmp_path),
        "text_columns": "t",
        "save_model": False,
    }
    tasks = ["cb", "demo", {"name": "own", "train_file": "a.csv"}]
    found = by_folder(sweep(tasks=tasks, methods=["lp", "ft", "lora"], settings=settings))
    assert len(found) == 9
    for name, config in found.items():
        training, data = config.training, config.data
        assert training.lora_rank == (4 if "lora" in name else None)
        assert training.epochs == (None if "/lp-" in name else 2)
        assert data.data_dir == (tmp_path if "/cb/" in name else None)
        assert data.text_columns == (("t",) if "/own/" in name else None)
        assert config.output.save_model is False


def test_overrides_come_on_top_and_later_ones_on_top_of_earlier_ones(sweep):
    overrides = [
        {"match": {"task": "cb"}, "epochs": 3, "max-length": 64},
        {"match": {"task": ["cb", "rte"], "method": "ft"}, "epochs": 4},
        {"match": {"method": ["lp", "lora"]}, "lora_alpha": 2},
    ]
    found = by_folder(
        sweep(
            GOOD,
            methods=["lp", "ft", "lora"],
            settings={"epochs": 1, "max_length": 32},
            overrides=overrides,
        )
    )
    lengths = {name: config.training.max_length for name, config in found.items()}
    epochs = {name: config.training.epochs for name, config in found.items()}
    assert {lengths[name] for name in lengths if "/cb/" in name} == {64}
    assert {lengths[name] for name in lengths if "/rte/" in name} == {32}
    assert epochs == {
        "D/runs/cb/lp-minilm-seed0": None,
        "D/runs/cb/ft-minilm-seed0": 4,
        "D/runs/cb/lora-minilm-seed0": 3,
        "D/runs/rte/lp-minilm-seed0": None,
        "D/runs/rte/ft-minilm-seed0": 4,
        "D/runs/rte/lora-minilm-seed0": 1,
    }
    assert found["D/runs/cb/lora-minilm-seed0"].training.lora_alpha == 2


def test_a_grid_is_every_product_for_the_methods_that_take_it(sweep):
    grid = {"learning-rate": [1e-5, "5e-5"], "batch_size": [8, 16], "seed": 4}
    found = sweep(GOOD, methods=["lp", "ft"], seeds=[1, 2], grid=grid)
    points = found.points(Path("D"))
    assert list(points) == ["cb/ft-minilm", "rte/ft-minilm"]
    tried = [tuple(point.settings.values()) for point in points["cb/ft-minilm"]]
    assert tried == [(1e-5, 8), (1e-5, 16), (5e-5, 8), (5e-5, 16)]
    for (rate, batch), point in zip(tried, points["cb/ft-minilm"], strict=True):
        training = point.config.training
        assert (training.learning_rate, training.batch_size, training.seed) == (rate, batch, 4)
        assert (point.config.output.save_model, point.config.output.save_features) == (False, False)
    folders = [str(point.config.output_dir) for point in points["cb/ft-minilm"]]
    assert folders[0] == "D/search/runs/cb/ft-minilm-learning-rate1e-05-batch-size8-seed4"
    assert len(set(folders)) == 4
    assert sweep(GOOD, seeds=[6, 2], grid={"batch_size": [8]}).grid.seed == 6
    assert sweep(GOOD).points(Path("D")) == {}


def test_the_documented_example_is_a_sweep(sweep):
    guide = Path(__file__).resolve().parents[2] / "docs/how-to/sweeps.md"
    blocks = re.findall(r"^```yaml\n(.*?)^```", guide.read_text(encoding="utf-8"), re.M | re.S)
    (example,) = (block for block in blocks if block.startswith("tasks:"))
    found = sweep(example)
    assert len(by_folder(found)) == 2 * 4 * 3
    assert {len(group) for group in found.points(Path("D")).values()} == {2}
    lengths = {cell.name: cell.config(Path("D"), 0).training.max_length for cell in found.cells}
    assert [name for name, length in lengths.items() if length == 64] == [
        "cb/ft-minilm",
        "cb/lp-ft-minilm",
    ]


def own(**changes):
    return [{"name": "own", "train_file": "a.csv", **changes}]


def override(match, **settings):
    return {"overrides": [{"match": match, **settings}]}


NO_EFFECT = "has no effect with lp, ft on cb, rte: leave it out"
WRONG = {
    "unknown key": ({"method": ["lp"]}, "unknown key 'method' (did you mean methods?)"),
    "no tasks": ({"tasks": None}, "tasks: None must be a task's name, or a mapping"),
    "empty tasks": ({"tasks": []}, "tasks [] must be a list of tasks"),
    "unknown task": ({"tasks": ["cbb"]}, "unknown task 'cbb' (did you mean 'cb'?)"),
    "task in a mapping": ({"tasks": [{"name": "x", "task": 3}]}, "unknown task '3'"),
    "unknown method": ({"methods": ["lpft"]}, "unknown method 'lpft'"),
    "method that is a truth": ({"methods": [True]}, "methods [True] must be a name"),
    "method twice": ({"methods": ["lp", "lp"]}, "methods names lp twice"),
    "no seeds": ({"seeds": 0}, "seeds 0 must be how many seeds"),
    "data without a name": ({"tasks": [{"train_file": "a.csv"}]}, "name None must be a name"),
    "name of a folder outside": ({"tasks": own(name="../x")}, "name '../x' must be a name"),
    "unknown data setting": (
        {"tasks": own(train_fil="b")},
        "unknown setting of the data 'own' 'train_fil' (did you mean train_file?)",
    ),
    "data with two sources": ({"tasks": own(task="cb")}, "task cb brings its own data"),
    "settings that are a list": ({"settings": [1]}, "settings [1] must be a mapping"),
    "unknown setting": (
        {"settings": {"learning_rat": 1}},
        "settings: unknown setting 'learning_rat' (did you mean learning_rate?)",
    ),
    "axis among settings": ({"settings": {"seed": 1}}, "settings: seed is set by seeds"),
    "file among settings": (
        {"settings": {"train_file": "a.csv"}},
        "settings: train_file belongs to one data set: name it in a mapping of tasks",
    ),
    "without effect": ({"settings": {"lora_rank": 4}}, f"settings: lora_rank {NO_EFFECT}"),
    "release files without tasks": (
        {"tasks": own(), "settings": {"data_dir": "d"}},
        "settings: data_dir has no effect",
    ),
    "revision of a packaged model": ({"settings": {"revision": "a"}}, f"revision {NO_EFFECT}"),
    "wrong type": ({"settings": {"epochs": "many"}}, "cb with ft: epochs 'many' must be a number"),
    "override without match": ({"overrides": [{"epochs": 1}]}, "overrides 1: match None must be"),
    "empty match": (override({}, epochs=1), "overrides 1: match {} must be a mapping"),
    "unknown axis": (
        override({"tasks": "cb"}, epochs=1),
        "overrides 1: unknown axis of match 'tasks' (did you mean task?)",
    ),
    "task not in this sweep": (
        override({"task": "rtee"}, epochs=1),
        "unknown task in match 'rtee' (did you mean rte?): expected some of cb, rte",
    ),
    "nothing to match": (override({"task": []}, epochs=1), "match: task is empty"),
    "override without settings": (override({"task": "cb"}), "overrides 1: it has no setting"),
    "override without effect": (
        override({"method": "lp"}, epochs=1),
        "overrides 1: epochs has no effect with lp on cb, rte: leave it out",
    ),
    "empty grid": ({"grid": {}}, "grid: it names no setting"),
    "grid without a list": ({"grid": {"epochs": 1}}, "grid: epochs 1 must be a list"),
    "grid with a value twice": (
        {"grid": {"learning_rate": [1e-5, "1e-5"]}},
        "grid: learning_rate names 1e-05 twice",
    ),
    "grid of text": ({"grid": {"batch_size": ["all"]}}, "grid: batch_size 'all' must be a whole"),
    "grid over data": ({"grid": {"template": [0]}}, "grid: unknown setting to search 'template'"),
    "grid without effect": ({"grid": {"lora_rank": [4, 8]}}, f"grid: lora_rank {NO_EFFECT}"),
    "grid on many seeds": ({"grid": {"epochs": [1], "seed": [1, 2]}}, "grid: seed [1, 2] must be"),
    "searched and set": (
        {"grid": {"epochs": [1, 2]}, "settings": {"epochs": 1}},
        "settings: epochs is searched by grid",
    ),
}


@pytest.mark.parametrize("title", WRONG)
def test_what_is_wrong_is_said_in_one_line_with_its_place(sweep, tmp_path, title):
    changes, expected = WRONG[title]
    with pytest.raises(InputError, match=re.escape(expected)) as caught:
        sweep(GOOD, **changes)
    message = str(caught.value)
    assert message.startswith(f"'{tmp_path / 'sweep.yaml'}': ")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "must hold 'name: value' lines"),
        ("- cb", "must hold 'name: value' lines"),
        ("tasks: [cb", "cannot be read"),
        ("methods: [lp]", "tasks is missing"),
    ],
)
def test_files_that_are_no_sweep(sweep, tmp_path, text, expected):
    with pytest.raises(InputError, match=expected):
        sweep(text)
    with pytest.raises(InputError, match=r"none\.yaml' does not exist"):
        read_sweep_config(tmp_path / "none.yaml")
