"""What a run keeps: weights unless told not to, features if asked; and nothing is claimed else."""

import errno
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import SafetensorError
from safetensors.numpy import save_file
from toy_files import ROWS, toy_data, toy_settings
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

import lpft.model  # noqa: F401  registers the architecture
from lpft.errors import InputError
from lpft.estimator import TextClassifier
from lpft.model.classifier import LinearHeadClassifier
from lpft.results.run import read_feature_changes, read_features
from lpft.runs.train import train_run
from lpft.settings.configs import make_config

WEIGHTS = {
    "config.json",
    "model.safetensors",
    "SHA256SUMS",
    "tokenizer.json",
    "tokenizer_config.json",
}
ADAPTER = {"adapter_config.json", "adapter_model.safetensors"}
SPLITS = ("train", "test", "ood/far")


@pytest.fixture(scope="module")
def settings(tiny_bert, tmp_path_factory):
    return toy_data(tmp_path_factory.mktemp("data")) | toy_settings(tiny_bert, "ft")


@pytest.fixture(scope="module")
def kept(settings, tmp_path_factory) -> Path:
    """A run that keeps everything."""
    folder = tmp_path_factory.mktemp("runs") / "kept"
    return train_run(make_config(settings | {"save_features": True}, folder)).folder


@pytest.fixture(scope="module")
def bare(settings, tmp_path_factory) -> Path:
    """A run of LoRA that keeps no weights."""
    folder = tmp_path_factory.mktemp("runs") / "bare"
    asked = settings | {"method": "lp-lora", "save_model": False}
    return train_run(make_config(asked, folder)).folder


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def record(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def test_features_are_those_of_the_two_models(kept, settings):
    tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    before = AutoModel.from_pretrained(settings["model"]).eval()
    after = AutoModelForSequenceClassification.from_pretrained(kept).eval().encoder
    files = {"train": "train_file", "test": "test_file"}
    paths = {split: settings[name] for split, name in files.items()}
    paths["ood/far"] = settings["ood"]["far"]

    def features(encoder, texts):
        with torch.no_grad():
            tokens = [
                tokenizer(text, truncation=True, max_length=16, return_tensors="pt")
                for text in texts
            ]
            return np.stack([encoder(**each)[0][0, 0].numpy() for each in tokens])

    for split, path in paths.items():
        texts = list(pd.read_csv(path)["text"])
        expected = features(before, texts), features(after, texts)
        found = read_features(kept, split)
        for array, one in ((found.pretrained, expected[0]), (found.features, expected[1])):
            assert array.dtype == np.float32
            np.testing.assert_allclose(array, one, atol=1e-5)
        distances = [
            np.sqrt(sum((a - b) ** 2))
            for a, b in zip(found.features.astype(float), found.pretrained, strict=True)
        ]
        changes = read_feature_changes(kept, split)
        assert list(changes.columns) == ["id", "feature_difference"]
        assert list(changes["id"]) == [str(row) for row in range(len(texts))]
        np.testing.assert_allclose(changes["feature_difference"], distances, rtol=1e-9)
        recorded = json.loads((kept / "features.json").read_text())["splits"][split]
        mean = changes["feature_difference"].mean()
        assert recorded["feature_difference"] == pytest.approx(mean, rel=1e-12)
        assert mean > 0


def test_every_run_keeps_how_far_each_text_moved_and_only_that(bare):
    assert {name for name in names(bare) if name.startswith("features/")} == {
        "features/train.parquet",
        "features/test.parquet",
        "features/ood-far.parquet",
    }
    for split, rows in (("train", ROWS["train"]), ("test", ROWS["test"]), ("ood/far", ROWS["far"])):
        assert len(read_feature_changes(bare, split)) == rows


def test_without_the_model_there_are_no_weights_and_all_numbers(bare, settings, tmp_path):
    whole = train_run(make_config(settings | {"method": "lp-lora"}, tmp_path / "whole")).folder
    assert names(whole) - names(bare) == WEIGHTS | ADAPTER
    assert names(bare) < names(whole)
    for name in ("metrics.json", "features.json", "lp/head.safetensors"):
        assert (bare / name).read_bytes() == (whole / name).read_bytes()
    assert record(bare)["config_hash"] == record(whole)["config_hash"]
    assert record(bare)["config"]["save_model"] is False
    assert record(whole)["config"]["save_model"] is True
    assert "pipeline(" in (whole / "README.md").read_text()
    card = (bare / "README.md").read_text()
    assert "pipeline(" not in card
    assert "not kept" in card


@pytest.mark.parametrize(
    "command",
    [("predict", "--text", "good"), ("evaluate", "--file", "TEST"), ("ntk",)],
    ids=lambda command: command[0],
)
def test_a_run_without_weights_is_refused_with_what_to_do(lpft, bare, settings, command):
    name, *options = (settings["test_file"] if part == "TEST" else part for part in command)
    outcome = lpft(name, bare, *options)
    assert outcome.status == 2
    assert outcome.out == ""
    assert outcome.err.count("\n") == 1
    assert "--no-save-model" in outcome.err
    assert str(bare) in outcome.err


def test_the_estimator_and_training_refuse_it_too(lpft, bare, settings):
    with pytest.raises(InputError, match="contains no trained classifier"):
        TextClassifier.load(bare)
    outcome = lpft("train", "--train-file", settings["train_file"], "--model", bare)
    assert outcome.status == 2
    assert str(bare) in outcome.err


def test_resuming_says_what_a_finished_run_has_not_kept(lpft, bare, kept, settings, caplog):
    again = settings | {"method": "lp-lora"}
    with pytest.raises(InputError, match="weights were not saved"):
        train_run(make_config(again, bare), resume=True)
    asked = again | {"save_model": False, "save_features": True}
    with pytest.raises(InputError, match="features were not saved"):
        train_run(make_config(asked, bare), resume=True)
    # without a word on it, the record's own settings count
    assert lpft("train", "--resume", "--output-dir", bare).status == 0
    before = names(kept)
    with caplog.at_level("INFO"):
        train_run(make_config(settings | {"save_model": False}, kept), resume=True)
    assert "has its weights already" in caplog.text
    assert names(kept) == before


def test_overwriting_without_weights_removes_the_old_ones(settings, tmp_path):
    folder = tmp_path / "run"
    asked = settings | {"method": "lora", "save_features": True}
    train_run(make_config(asked, folder))
    assert names(folder) > WEIGHTS | ADAPTER
    train_run(
        make_config(settings | {"method": "lora", "save_model": False}, folder), overwrite=True
    )
    assert not names(folder) & (WEIGHTS | ADAPTER)
    assert not [name for name in names(folder) if name.startswith("features/") and "safe" in name]


def test_readers_name_the_file_that_is_missing_or_damaged(bare, kept, tmp_path):
    with pytest.raises(InputError, match="save_features"):
        read_features(bare, "test")
    with pytest.raises(InputError, match=r"ood-near\.parquet.*does not exist"):
        read_feature_changes(bare, "ood/near")
    (tmp_path / "features").mkdir()
    for name in ("test.parquet", "test.safetensors"):
        (tmp_path / "features" / name).write_bytes((kept / "features" / name).read_bytes()[:50])
    for read in (read_features, read_feature_changes):
        with pytest.raises(InputError, match="cannot be read"):
            read(tmp_path, "test")
    save_file({"features": np.zeros((1, 1))}, tmp_path / "features/train.safetensors")
    with pytest.raises(InputError, match="cannot be read"):
        read_features(tmp_path, "train")
    pd.DataFrame({"id": ["0"]}).to_parquet(tmp_path / "features/train.parquet")
    with pytest.raises(InputError, match="cannot be read"):
        read_feature_changes(tmp_path, "train")


def test_the_name_of_the_data_is_what_records_call_it(settings, tmp_path):
    named = make_config(settings | {"data_name": "reviews"}, tmp_path / "named")
    assert named.hash() == make_config(settings, tmp_path / "named").hash()
    train_run(named)
    assert record(tmp_path / "named")["data"]["name"] == "reviews"
    for wrong in ({"task": "demo", "data_name": "x"}, settings | {"data_name": " "}):
        with pytest.raises(InputError, match="data_name"):
            make_config(wrong)


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("lpft.training.checkpoints.write_digests", OSError(errno.ENOSPC, "No space left")),
        ("lpft.training.finetuning.save_file", SafetensorError("I/O error: x (os error 13)")),
        ("lpft.runs.record.save_classifier", RuntimeError("PytorchStreamWriter failed writing")),
        ("lpft.runs.train.publish", PermissionError(errno.EACCES, "Permission denied")),
    ],
    ids=["checkpoint", "start", "results", "publishing"],
)
def test_a_full_disk_and_lost_permission_are_one_line_and_resume_goes_on(
    settings, tmp_path, monkeypatch, where, error
):
    config = make_config(settings | {"method": "lp-ft", "epochs": 2}, tmp_path / "run")

    def fails(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(where, fails)
        with pytest.raises(InputError, match=r"run' cannot be written \(.*resume=True") as caught:
            train_run(config)
    assert "\n" not in str(caught.value)
    assert record(tmp_path / "run")["status"] == "failed"
    assert record(tmp_path / "run")["reason"] == str(caught.value)
    resumed = train_run(config, resume=True)
    whole = train_run(replace(config, output_dir=tmp_path / "whole"))
    assert resumed.metrics == whole.metrics


def test_that_memory_ran_out_is_recorded(settings, tmp_path, monkeypatch):
    real = LinearHeadClassifier.forward

    def forward(model, *arguments, **inputs):
        if model.training and len(inputs["input_ids"]) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(model, *arguments, **inputs)

    monkeypatch.setattr(LinearHeadClassifier, "forward", forward)
    changes = {"method": "ft", "epochs": 1, "batch_size": 8}
    run = train_run(make_config(settings | changes, tmp_path / "run")).folder
    assert record(run)["fewer_rows"] == [{"during": "fine-tuning", "rows": 4}]
    assert record(run)["config"]["batch_size"] == 8
