"""Frozen features: unchanged by batching and probing, kept by what they are, and only then."""

import numpy as np
import pytest
import torch
from tiny_models import save_tiny_model, toy_texts

from lpft.data.tokens import tokenize
from lpft.model import build_classifier
from lpft.model.fingerprint import encoder_fingerprint
from lpft.model.inference import extract_features, head_logits
from lpft.training import frozen
from lpft.training.frozen import frozen_features
from lpft.training.probing import fit_probe, install_probe

CPU = torch.device("cpu")


@pytest.fixture
def classifier(tmp_path):
    folder = save_tiny_model("bert", tmp_path / "model")
    return build_classifier(str(folder), ("bad", "good"), seed=0, max_length=32)


@pytest.fixture
def tokens(classifier):
    return tokenize(classifier.tokenizer, toy_texts(40)[0], 32)


def test_length_grouped_features_are_those_of_each_text_alone(classifier, tokens):
    found = extract_features(classifier.model, tokens, device=CPU)
    with torch.no_grad():
        alone = torch.cat([classifier.model.features(**tokens.batch([k])) for k in range(40)])
    np.testing.assert_allclose(found, alone.numpy(), atol=2e-6)
    assert found.dtype == np.float32


def test_dropout_is_off_and_the_mode_is_left_as_it_was(classifier, tokens):
    classifier.model.train()
    first = extract_features(classifier.model, tokens, device=CPU)
    second = extract_features(classifier.model, tokens, device=CPU)
    np.testing.assert_array_equal(first, second)
    assert classifier.model.training


def test_probing_leaves_the_features_bitwise_as_they_were(classifier, tokens):
    before = extract_features(classifier.model, tokens, device=CPU)
    labels = np.arange(40) % 2
    install_probe(classifier.model, fit_probe(before, labels, 2))
    np.testing.assert_array_equal(extract_features(classifier.model, tokens, device=CPU), before)


def test_logits_from_features_are_the_models_own(classifier, tokens):
    features = extract_features(classifier.model, tokens, device=CPU)
    with torch.no_grad():
        logits = classifier.model(**tokens.batch(range(40))).logits
    np.testing.assert_allclose(head_logits(classifier.model, features), logits, atol=1e-6)


class Counter:
    """Stands in for extract_features and counts its calls."""

    def __init__(self, monkeypatch):
        self.calls = 0
        self.real = frozen.extract_features
        monkeypatch.setattr(frozen, "extract_features", self)

    def __call__(self, *arguments, **settings):
        self.calls += 1
        return self.real(*arguments, **settings)


def test_cached_features_are_read_again_and_only_for_the_same_inputs(
    classifier, tokens, tmp_path, monkeypatch
):
    counter = Counter(monkeypatch)

    def features(**changes):
        return frozen_features(classifier.model, tokens, device=CPU, cache_dir=tmp_path, **changes)

    first = features()
    np.testing.assert_array_equal(features(), first)
    assert counter.calls == 1
    classifier.model.encoder.config.layer_norm_eps = 0.5
    features()
    assert counter.calls == 2
    classifier.model.config.pooling = "mean"
    assert not np.array_equal(features(), first)
    assert counter.calls == 3
    with torch.no_grad():
        next(classifier.model.encoder.parameters())[5, 5] += 1
    features()
    assert counter.calls == 4
    tokens.columns["input_ids"][0][1] += 1
    features()
    assert counter.calls == 5


def test_a_damaged_cache_is_computed_again(classifier, tokens, tmp_path, monkeypatch, caplog):
    counter = Counter(monkeypatch)
    first = frozen_features(classifier.model, tokens, device=CPU, cache_dir=tmp_path)
    (path,) = (tmp_path / "features").iterdir()
    path.write_bytes(path.read_bytes()[:100])
    again = frozen_features(classifier.model, tokens, device=CPU, cache_dir=tmp_path)
    np.testing.assert_array_equal(again, first)
    assert counter.calls == 2
    assert "cannot be read" in caplog.text


def test_a_cache_that_cannot_be_written_costs_nothing_but_a_warning(
    classifier, tokens, tmp_path, caplog
):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    features = frozen_features(classifier.model, tokens, device=CPU, cache_dir=blocked)
    assert features.shape == (40, 32)
    assert "not kept" in caplog.text


def test_the_fingerprint_is_the_encoders_alone(classifier):
    before = encoder_fingerprint(classifier.model)
    with torch.no_grad():
        classifier.model.head.weight.add_(1)
    assert encoder_fingerprint(classifier.model) == before


def test_parameters_can_still_be_trained_after_being_moved(classifier, tokens):
    move = classifier.model.to

    def moved(device):
        classifier.model._apply(torch.clone)
        return move(device)

    classifier.model.to = moved
    extract_features(classifier.model, tokens, device=CPU)
    assert not any(parameter.is_inference() for parameter in classifier.model.parameters())
    classifier.model(**tokens.batch([0, 1])).logits.sum().backward()
    assert classifier.model.head.weight.grad is not None
