"""The demo, whole, on a tiny model: five runs, one table, one page."""

import json

import pytest
from tiny_models import save_tiny_model

from lpft.experiments import demo


@pytest.mark.heavy
def test_the_demo_trains_five_methods_and_writes_one_report(lpft, tmp_path, monkeypatch):
    model = save_tiny_model("bert", tmp_path / "model")
    tiny = {**demo._SETTINGS, "model": str(model), "max_length": 32}
    monkeypatch.setattr(demo, "_SETTINGS", tiny)
    monkeypatch.setattr(demo, "_EPOCHS", 1)
    folder = tmp_path / "report"
    outcome = lpft("demo", "--output-dir", folder, "--seed", 3)
    assert outcome.status == 0, outcome.err
    assert (folder / "report.html").is_file()
    assert {path.name for path in (folder / "runs").iterdir()} == set(demo.DEMO_METHODS)
    assert len(demo.DEMO_METHODS) == 5
    header, _, _, *rows = outcome.out.splitlines()
    for name in ("ID", "ood/", "ECE", "feature", "head"):
        assert name in header
    assert [row.split()[0] for row in rows[:5]] == ["LP", "FT", "LP-FT", "LoRA", "LP-LoRA"]
    rates = {}
    for method in demo.DEMO_METHODS:
        record = json.loads((folder / "runs" / method / "run.json").read_text())
        assert record["status"] == "finished"
        assert record["config"]["seed"] == 3
        assert record["data"]["rows"] == {
            "train": 360,
            "validation": 120,
            "test": 120,
            "ood/restaurants": 120,
            "ood/films": 120,
            "ood/posts": 120,
        }
        rates[method] = (record["config"]["learning_rate"], record["config"]["batch_size"])
    assert rates["ft"] == rates["lp-ft"]
    assert rates["lora"] == rates["lp-lora"]

    again = lpft("demo", "--output-dir", folder, "--seed", 3)
    assert again.status == 2
    assert "--overwrite" in again.err
    resumed = lpft("demo", "--output-dir", folder, "--seed", 3, "--resume")
    assert resumed.status == 0
    assert resumed.out == outcome.out
