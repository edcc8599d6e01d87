"""Frozen features and linear probes: read again for the same inputs only, and only if whole."""

import errno
import json
import os
from dataclasses import fields

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tiny_models import save_tiny_model, toy_texts

from lpft.data import Examples
from lpft.model import build_classifier
from lpft.model.inference import encoder_fingerprint
from lpft.settings import TrainingSettings
from lpft.training import cache, probing
from lpft.training.cache import (
    SplitInputs,
    cached_out_of_fold_logits,
    cached_probe,
    prepare_split,
)
from lpft.training.probing import LinearProbe, fit_probe

ROWS, WIDTH, CLASSES = 60, 8, 3


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LPFT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def calls(monkeypatch):
    """The names of what was computed, in order; it is computed still."""
    names = []

    def counting(name, real):
        return lambda *arguments, **keywords: names.append(name) or real(*arguments, **keywords)

    for name in ("extract_features", "fit_probe"):
        monkeypatch.setattr(cache, name, counting(name, getattr(cache, name)))
    return names


@pytest.fixture
def classifier(tmp_path):
    folder = save_tiny_model("bert", tmp_path / "model")
    return build_classifier(str(folder), ("bad", "good"), seed=0, max_length=32)


def features_of(classifier, texts=None):
    texts = toy_texts(40)[0] if texts is None else texts
    examples = Examples([str(row) for row in range(40)], texts, np.arange(40) % 2)
    encoder = encoder_fingerprint(classifier.model)
    settings = TrainingSettings(device="cpu")
    return prepare_split(classifier, examples, settings, encoder=encoder, name="x").pretrained


def test_features_are_read_again_and_only_for_the_same_inputs(classifier, calls):
    first = features_of(classifier)
    np.testing.assert_array_equal(features_of(classifier), first)
    assert len(calls) == 1
    classifier.model.encoder.config.layer_norm_eps = 0.5
    features_of(classifier)
    assert len(calls) == 2
    classifier.model.config.pooling = "mean"
    assert not np.array_equal(features_of(classifier), first)
    assert len(calls) == 3
    with torch.no_grad():
        next(classifier.model.encoder.parameters())[5, 5] += 1
    features_of(classifier)
    assert len(calls) == 4
    features_of(classifier, ["good table", *toy_texts(40)[0][1:]])
    assert len(calls) == 5


def test_the_fingerprint_is_the_encoders_alone(classifier):
    before = encoder_fingerprint(classifier.model)
    with torch.no_grad():
        classifier.model.head.weight.add_(1)
    assert encoder_fingerprint(classifier.model) == before


def test_large_features_are_written_to_and_read_from_a_mapped_file(
    classifier, folder, calls, monkeypatch
):
    whole = features_of(classifier)
    (path,) = (folder / "features").iterdir()
    path.unlink()
    monkeypatch.setattr(cache, "_LARGEST_IN_MEMORY", 0)
    for found in (features_of(classifier), features_of(classifier)):
        assert isinstance(found, np.memmap)
        np.testing.assert_array_equal(found, whole)
    assert len(calls) == 2
    np.testing.assert_array_equal(load_file(path)["array"], whole)
    monkeypatch.setattr(cache, "_LARGEST_IN_MEMORY", 1 << 26)
    assert not isinstance(features_of(classifier), np.memmap)
    assert len(calls) == 2


@pytest.mark.parametrize("damage", ["cut off", "one bit", "empty"])
def test_damaged_large_features_are_computed_again(
    classifier, folder, calls, caplog, monkeypatch, damage
):
    monkeypatch.setattr(cache, "_LARGEST_IN_MEMORY", 0)
    first = np.array(features_of(classifier))
    (path,) = (folder / "features").iterdir()
    DAMAGE[damage](path)
    np.testing.assert_array_equal(features_of(classifier), first)
    assert len(calls) == 2
    assert "computing it again" in caplog.text


def test_large_features_that_do_not_fit_on_the_disk_stay_in_memory(
    classifier, folder, caplog, monkeypatch
):
    whole = features_of(classifier)
    (path,) = (folder / "features").iterdir()
    path.unlink()
    monkeypatch.setattr(cache, "_LARGEST_IN_MEMORY", 0)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    np.testing.assert_array_equal(features_of(classifier), whole)
    assert "not cached" in caplog.text
    assert not list((folder / "features").iterdir())


def test_large_features_that_cannot_be_cached_at_the_end_are_computed_once(
    classifier, folder, calls, caplog, monkeypatch
):
    whole = np.array(features_of(classifier))
    (path,) = (folder / "features").iterdir()
    path.unlink()
    monkeypatch.setattr(cache, "_LARGEST_IN_MEMORY", 0)

    def full(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(np.memmap, "flush", full)
    np.testing.assert_array_equal(features_of(classifier), whole)
    assert len(calls) == 2
    assert "not cached" in caplog.text
    assert not list((folder / "features").iterdir())


@pytest.mark.parametrize("damage", ["cut off", "one bit", "empty"])
def test_damaged_features_are_computed_again(classifier, folder, calls, caplog, damage):
    first = features_of(classifier)
    (path,) = (folder / "features").iterdir()
    DAMAGE[damage](path)
    np.testing.assert_array_equal(features_of(classifier), first)
    assert len(calls) == 2
    (line,) = [record.getMessage() for record in caplog.records]
    assert str(path) in line
    assert "computing it again" in line


@pytest.mark.parametrize("damage", ["cut off", "one bit", "empty"])
def test_damaged_out_of_fold_logits_are_computed_again(problem, folder, caplog, damage):
    features, labels = problem
    inputs = SplitInputs(None, labels, features)
    settings = TrainingSettings(method="lp", probe_scoring="accuracy")
    probe = cached_probe(inputs, settings, range(CLASSES))
    arguments = (inputs, settings, probe, range(CLASSES))
    kept = set((folder / "probes").iterdir())
    first = cached_out_of_fold_logits(*arguments)
    (path,) = set((folder / "probes").iterdir()) - kept
    DAMAGE[damage](path)
    np.testing.assert_array_equal(cached_out_of_fold_logits(*arguments), first)
    assert "computing it again" in caplog.text


def test_weights_of_rows_and_of_classes_decide_a_probes_file(problem, folder):
    features, labels = problem

    def probe(weights, class_weight=None):
        settings = TrainingSettings(
            method="lp", probe_scoring="accuracy", class_weight=class_weight
        )
        inputs = SplitInputs(None, labels, features, weights=weights)
        cached_probe(inputs, settings, ("a", "b", "c"))
        return len(list((folder / "probes").iterdir()))

    assert probe(None) == 1
    assert probe(np.ones(ROWS)) == 2
    assert probe(np.linspace(1, 2, ROWS)) == 3
    assert probe(None, {"a": 2.0}) == 4
    assert probe(None, {"b": 2.0}) == 5
    assert probe(None, {"b": 2.0}) == 5


def test_a_cache_that_cannot_be_written_costs_a_warning(classifier, folder, problem, caplog):
    folder.write_text("not a folder")
    assert features_of(classifier).shape == (40, 32)
    assert "file of features is not cached" in caplog.text
    assert_bitwise(cached(*problem), fit_probe(*problem, CLASSES))
    assert "linear probe is not cached" in caplog.text


@pytest.fixture
def problem():
    generator = np.random.default_rng(3)
    labels = generator.integers(CLASSES, size=ROWS)
    features = generator.normal(size=(ROWS, WIDTH)).astype(np.float32)
    features[np.arange(ROWS), labels] += 1
    return features, labels


def cached(features, labels, classes=CLASSES, fit_bias=True, class_weight=None, scoring="accuracy"):
    settings = TrainingSettings(
        method="lp", head_bias=fit_bias, class_weight=class_weight, probe_scoring=scoring
    )
    return cached_probe(SplitInputs(None, labels, features), settings, range(classes))


def assert_bitwise(probe, expected):
    for item in fields(LinearProbe):
        one, other = getattr(probe, item.name), getattr(expected, item.name)
        assert type(one) is type(other), item.name
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype == np.float64
            assert one.tobytes() == other.tobytes(), item.name
        else:
            assert one == other, item.name


@pytest.mark.parametrize("fit_bias", [True, False])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("classes", [CLASSES, CLASSES + 2])
def test_a_kept_probe_is_bitwise_the_fitted_one(problem, calls, fit_bias, class_weight, classes):
    settings = {"fit_bias": fit_bias, "class_weight": class_weight}
    expected = fit_probe(*problem, classes, **settings)
    for _ in range(3):
        assert_bitwise(cached(*problem, classes, **settings), expected)
    assert len(calls) == 1


def test_whatever_decides_a_probe_decides_its_file(problem, folder, calls, monkeypatch):
    features, labels = problem

    def probe(features=features, labels=labels, **settings):
        cached(features, labels, **settings)
        return len(list((folder / "probes").iterdir()))

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
    assert probe(scoring="log-loss") == 7
    assert probe(features=features.reshape(-1, WIDTH // 2)[: len(labels)]) == 8
    changes = {"SOLVER": "lbfgs", "STRENGTHS": 5, "FOLDS": 3}
    changes |= {"SEARCH_TOLERANCE": 1e-3, "FOLD_TOLERANCE": 1e-4, "TOLERANCE": 1e-6}
    changes |= {"MAX_ITERATIONS": 4999}
    for number, (name, value) in enumerate(changes.items()):
        with monkeypatch.context() as patch:
            patch.setattr(probing, name, value)
            assert probe() == 9 + number, name
    assert len(calls) == 15
    probe()
    assert len(calls) == 15


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


def other_strength(_, metadata):
    facts = json.loads(metadata["facts"])
    return metadata | {"facts": json.dumps(facts | {"inverse_strength": 3.0})}


def narrower(tensors, metadata):
    tensors["weight"] = np.ascontiguousarray(tensors["weight"][:, 1:])
    facts = json.loads(metadata["facts"])
    return metadata | {"checksum": cache._digest(tensors, facts)}


DAMAGE = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "one bit": flip,
    "no metadata": rewritten(lambda *_: None),
    "no facts": rewritten(lambda _, metadata: {"checksum": metadata["checksum"]}),
    "other facts": rewritten(other_strength),
    "another shape": rewritten(narrower),
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_probe_is_fitted_again(problem, folder, calls, caplog, damage):
    expected = cached(*problem)
    (path,) = (folder / "probes").iterdir()
    DAMAGE[damage](path)
    assert_bitwise(cached(*problem), expected)
    assert "cannot be read" in caplog.text
    caplog.clear()
    assert_bitwise(cached(*problem), expected)
    assert len(calls) == 2
    assert not caplog.records
