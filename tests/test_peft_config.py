"""A PEFT configuration as a setting: where it may come from, and what makes two the same."""

import json
from pathlib import Path

import pytest
from peft import IA3Config, LoraConfig

from lpft import TextClassifier
from lpft.errors import InputError
from lpft.settings import TrainingSettings, resolve
from lpft.settings.configs import changed, command_line, identity, make_config, make_kernel_config
from lpft.settings.fields import Decides
from lpft.settings.values import read_peft_config

CONTENT = {"peft_type": "LORA", "r": 4, "target_modules": ["query", "value"]}


def write(path: Path, content) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def config_of(content):
    return make_config({"task": "demo", "method": "lp-peft", "peft_config": content}).flat()


def test_its_content_and_not_its_path_decides_a_run(tmp_path):
    one, other = (write(tmp_path / name, CONTENT) for name in ("one.json", "adapter_config.json"))
    saved = {**CONTENT, "base_model_name_or_path": "x", "inference_mode": True, "revision": None}
    same = [config_of(given) for given in (one, str(other), tmp_path, CONTENT, {**saved, "r": 4})]
    assert all(each["peft_config"] == CONTENT for each in same)
    assert len({identity(each, Decides.RUN) for each in same}) == 1
    different = config_of({**CONTENT, "r": 8})
    assert list(changed(same[0], different, Decides.RUN)) == ["peft_config"]


def test_records_that_are_older_than_the_setting_agree_with_runs_without_it():
    usual = make_config({"task": "demo", "method": "lora"}).flat()
    older = {
        name: value for name, value in usual.items() if name not in ("peft_config", "prefix_length")
    }
    assert changed(older, usual, Decides.RUN | Decides.KERNEL) == {}


def test_objects_of_peft_are_taken_without_what_changes_nothing():
    content = read_peft_config(LoraConfig(r=4, target_modules={"value", "query"}))
    assert (content["peft_type"], content["r"]) == ("LORA", 4)
    assert content["target_modules"] == ["query", "value"]
    assert not {"inference_mode", "task_type", "peft_version"} & content.keys()
    assert json.loads(json.dumps(content)) == content


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "does not exist: expected a file with JSON"),
        ("{", "cannot be read .*: expected JSON"),
        ("\x80", "cannot be read"),
        ([1], "names no peft_type"),
        ({"r": 4}, "names no peft_type: expected JSON of the form"),
        ({**CONTENT, "task_type": "CAUSAL_LM"}, "task_type CAUSAL_LM, .*expected SEQ_CLS"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_in_one_line(lpft, tmp_path, content, says):
    path = tmp_path / "peft.json"
    if isinstance(content, str):
        path.write_bytes(content.encode("latin-1"))
    elif content is not None:
        write(path, content)
    with pytest.raises(InputError, match=says):
        read_peft_config(path)
    options = ("--task", "demo", "--method", "peft", "--peft-config", path)
    outcome = lpft("train", *options, "--output-dir", tmp_path / "run")
    assert outcome.status == 2
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_methods_and_configuration_belong_together():
    with pytest.raises(InputError, match="method lp-peft needs peft_config"):
        resolve(TrainingSettings(method="lp-peft"))
    with pytest.raises(InputError, match="peft_config has no effect with method lora"):
        resolve(TrainingSettings(method="lora", peft_config=CONTENT))
    with pytest.raises(InputError, match="lora_rank has no effect with method ia3"):
        resolve(TrainingSettings(method="ia3", lora_rank=4))
    with pytest.raises(InputError, match="prefix_length has no effect with method lp-bitfit"):
        resolve(TrainingSettings(method="lp-bitfit", prefix_length=4))


def test_kernels_take_the_configuration_for_the_methods_that_need_it():
    config = make_kernel_config({"task": "demo", "methods": "ft,lp-peft", "peft_config": CONTENT})
    assert config.run.training.peft_config == CONTENT
    for values, says in (
        ({"methods": "peft"}, "methods peft needs peft_config"),
        ({"methods": "ft", "peft_config": CONTENT}, "peft_config has no effect on the kernels"),
        ({"methods": "ft", "prefix_length": 4}, "prefix_length has no effect on the kernels"),
    ):
        with pytest.raises(InputError, match=says):
            make_kernel_config({"task": "demo", **values})


def test_kernels_take_a_prefix_of_the_usual_length_or_another():
    config = make_kernel_config({"task": "demo", "methods": "ft,lp-prefix"})
    usual = resolve(TrainingSettings(method="lp-prefix")).prefix_length
    assert config.run.training.prefix_length == usual
    other = make_kernel_config({"task": "demo", "methods": "prefix", "prefix_length": 3})
    assert other.run.training.prefix_length == 3


def test_the_command_of_a_record_names_the_file_that_the_run_has():
    assert " --peft-config adapter_config.json " in command_line(config_of(CONTENT))


def test_an_estimator_remembers_the_content(tiny_bert, tmp_path):
    texts, labels = ["good lamp", "bad film"] * 8, ["yes", "no"] * 8
    settings = {"epochs": 1, "max_length": 16, "device": "cpu"}
    given = IA3Config(target_modules=["key", "output.dense"], feedforward_modules=["output.dense"])
    fitted = TextClassifier(str(tiny_bert), method="lp-peft", peft_config=given, **settings).fit(
        texts, labels, validation=(texts, labels)
    )
    fitted.save(tmp_path / "model")
    loaded = TextClassifier.load(tmp_path / "model")
    assert loaded.peft_config == read_peft_config(given)
    assert (loaded.predict_proba(texts) == fitted.predict_proba(texts)).all()
