"""Linear probes that are kept: bitwise those of the fit, for all that decides them, if whole."""

import json
from dataclasses import fields

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from lpft.training import probe_cache, probing
from lpft.training.probe_cache import cached_probe
from lpft.training.probing import LinearProbe, fit_probe

ROWS, WIDTH, CLASSES = 60, 8, 3


@pytest.fixture
def problem():
    generator = np.random.default_rng(3)
    labels = generator.integers(CLASSES, size=ROWS)
    features = generator.normal(size=(ROWS, WIDTH)).astype(np.float32)
    features[np.arange(ROWS), labels] += 1
    return features, labels


@pytest.fixture
def fits(monkeypatch):
    """The calls of fit_probe, which still fits."""
    calls = []

    def counted(*arguments, **settings):
        calls.append(settings)
        return fit_probe(*arguments, **settings)

    monkeypatch.setattr(probe_cache, "fit_probe", counted)
    return calls


def assert_bitwise(found, expected):
    for item in fields(LinearProbe):
        one, other = getattr(found, item.name), getattr(expected, item.name)
        assert type(one) is type(other), item.name
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype == np.float64
            assert one.tobytes() == other.tobytes(), item.name
        else:
            assert one == other, item.name


@pytest.mark.parametrize("fit_bias", [True, False])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("classes", [CLASSES, CLASSES + 2])
def test_a_kept_probe_is_bitwise_the_fitted_one(
    problem, fits, tmp_path, fit_bias, class_weight, classes
):
    settings = {"fit_bias": fit_bias, "class_weight": class_weight}
    expected = fit_probe(*problem, classes, **settings)
    for _ in range(3):
        found = cached_probe(*problem, classes, **settings, cache_dir=tmp_path)
        assert_bitwise(found, expected)
    assert len(fits) == 1


def test_without_a_folder_nothing_is_kept(problem, fits):
    for _ in range(2):
        assert_bitwise(cached_probe(*problem, CLASSES), fit_probe(*problem, CLASSES))
    assert len(fits) == 2


def test_whatever_decides_a_probe_decides_its_file(problem, fits, tmp_path, monkeypatch):
    features, labels = problem

    def probe(features=features, labels=labels, classes=CLASSES, **settings):
        cached_probe(features, labels, classes, **settings, cache_dir=tmp_path)
        return len(list((tmp_path / "probes").iterdir()))

    assert probe() == 1
    moved = features.copy()
    moved[7, 3] = np.nextafter(moved[7, 3], np.float32(9))
    assert probe(features=moved) == 2
    relabelled = labels.copy()
    relabelled[5] = (labels[5] + 1) % CLASSES
    assert probe(labels=relabelled) == 3
    assert probe(classes=CLASSES + 1) == 4
    assert probe(fit_bias=False) == 5
    assert probe(class_weight="balanced") == 6
    assert probe(features=features.reshape(-1, WIDTH // 2)[: len(labels)]) == 7
    for number, (name, value) in enumerate(
        {
            "SOLVER": "lbfgs",
            "STRENGTHS": 5,
            "FOLDS": 3,
            "SEARCH_TOLERANCE": 1e-3,
            "TOLERANCE": 1e-6,
            "MAX_ITERATIONS": 4999,
        }.items()
    ):
        with monkeypatch.context() as patch:
            patch.setattr(probing, name, value)
            assert probe() == 8 + number, name
    assert len(fits) == 13
    probe()
    assert len(fits) == 13


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def rewritten(change):
    """Write the file again with other tensors or metadata."""

    def damage(path):
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in ("weight", "bias")}
        save_file(tensors, path, metadata=change(tensors, metadata))

    return damage


def without_metadata(*_):
    return None


def without_facts(_, metadata):
    return {"checksum": metadata["checksum"]}


def other_strength(_, metadata):
    facts = json.loads(metadata["facts"])
    return metadata | {"facts": json.dumps(facts | {"inverse_strength": 3.0})}


def narrower(tensors, metadata):
    tensors["weight"] = np.ascontiguousarray(tensors["weight"][:, 1:])
    facts = json.loads(metadata["facts"])
    return metadata | {"checksum": probe_cache._digest(tensors, facts)}


DAMAGE = {
    "cut off": cut,
    "one bit": flip,
    "no metadata": rewritten(without_metadata),
    "no facts": rewritten(without_facts),
    "other facts": rewritten(other_strength),
    "another shape": rewritten(narrower),
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_fitted_again(problem, fits, tmp_path, caplog, damage):
    expected = cached_probe(*problem, CLASSES, cache_dir=tmp_path)
    (path,) = (tmp_path / "probes").iterdir()
    DAMAGE[damage](path)
    assert_bitwise(cached_probe(*problem, CLASSES, cache_dir=tmp_path), expected)
    assert "cannot be read" in caplog.text
    caplog.clear()
    assert_bitwise(cached_probe(*problem, CLASSES, cache_dir=tmp_path), expected)
    assert len(fits) == 2
    assert not caplog.records


def test_a_cache_that_cannot_be_written_costs_a_warning(problem, tmp_path, caplog):
    (tmp_path / "file").write_text("no folder")
    found = cached_probe(*problem, CLASSES, cache_dir=tmp_path / "file")
    assert_bitwise(found, fit_probe(*problem, CLASSES))
    assert "linear probe is not kept" in caplog.text
