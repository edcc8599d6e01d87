"""The pooling that a model's own files name: taken, or refused where lpft does not have it."""

import json
from pathlib import Path

import pytest
from tiny_models import save_tiny_model
from transformers import BertConfig

from lpft.errors import InputError
from lpft.model import build_classifier
from lpft.model.pooling import default_pooling


def write_pooling(folder, settings, modules=()):
    if settings is not None:
        (folder / "1_Pooling").mkdir(parents=True)
        (folder / "1_Pooling/config.json").write_text(json.dumps(settings))
    if modules:
        listed = [
            {"path": f"{index}_{name}" if index else "", "type": f"sentence_transformers.{name}"}
            for index, name in enumerate(modules)
        ]
        (folder / "modules.json").write_text(json.dumps(listed))
    return folder


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "first"),
        ({"pooling_mode_lasttoken": True, "include_prompt": False}, "last"),
        ({"pooling_mode": "mean", "include_prompt": True}, "mean"),
        ({"pooling_mode": ["lasttoken"]}, "last"),
    ],
)
def test_one_known_mode_is_taken(tmp_path, settings, expected):
    folder = write_pooling(tmp_path, settings, ("Transformer", "Pooling", "Normalize"))
    assert default_pooling(str(folder), BertConfig()) == expected


@pytest.mark.parametrize(
    ("settings", "modules", "says"),
    [
        ({"pooling_mode_max_tokens": True}, (), "max_tokens"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, (), "mean_sqrt_len_tokens"),
        ({"pooling_mode_weightedmean_tokens": True}, (), "weightedmean_tokens"),
        (
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
            (),
            r"cls_token \+ mean_tokens",
        ),
        ({"pooling_mode": ["cls", "max"]}, (), r"cls \+ max"),
        ({"pooling_mode_mean_tokens": False}, (), "none"),
        ([1], (), "not a pooling configuration"),
        ({"pooling_mode_mean_tokens": True}, ("Transformer", "Pooling", "Dense"), "Dense"),
        (None, ("Transformer", "Pooling"), "without 1_Pooling"),
    ],
)
def test_what_lpft_does_not_have_is_refused_until_a_pooling_is_given(
    tmp_path, settings, modules, says
):
    folder = write_pooling(save_tiny_model("bert", tmp_path / "model"), settings, modules)
    with pytest.raises(InputError, match=says) as caught:
        build_classifier(str(folder), ("a", "b"), seed=0, max_length=32)
    assert "give pooling first, last or mean" in str(caught.value)
    chosen = build_classifier(str(folder), ("a", "b"), seed=0, max_length=32, pooling="mean")
    assert chosen.model.config.pooling == "mean"


def cached_model(cache: Path) -> Path:
    """A snapshot of org/model in the layout of the Hub's cache, still empty."""
    root, commit = cache / "models--org--model", "a" * 40
    (root / "refs").mkdir(parents=True)
    (root / "refs/main").write_text(commit)
    snapshot = root / "snapshots" / commit
    snapshot.mkdir(parents=True)
    return snapshot


@pytest.fixture
def offline_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return cached_model(tmp_path)


def test_offline_a_pooling_outside_the_cache_is_unknown(offline_cache):
    with pytest.raises(InputError, match=r"not known.*give pooling"):
        default_pooling("org/model", BertConfig())
    write_pooling(offline_cache, {"pooling_mode_mean_tokens": True})
    assert default_pooling("org/model", BertConfig()) == "mean"


def test_offline_the_cache_knows_that_the_hub_has_no_pooling(offline_cache):
    missing = offline_cache.parents[1] / ".no_exist" / offline_cache.name
    (missing / "1_Pooling").mkdir(parents=True)
    (missing / "1_Pooling/config.json").touch()
    (missing / "modules.json").touch()
    assert default_pooling("org/model", BertConfig()) == "first"
