"""One training: where fine-tuning starts, and what each method changes."""

import numpy as np
import pytest
import torch
from tiny_models import save_tiny_model, toy_texts

from lpft.data import Examples
from lpft.model import build_classifier
from lpft.model.inference import encoder_fingerprint
from lpft.settings import TrainingSettings, resolve
from lpft.training.cache import prepare_split
from lpft.training.fit import fit_classifier

CLASSES = ("bad", "good")


@pytest.fixture
def classifier(tmp_path):
    folder = save_tiny_model("bert", tmp_path / "model")
    return build_classifier(str(folder), CLASSES, seed=0, pooling="mean", max_length=32)


def examples_of(rows, seed):
    texts, labels = toy_texts(rows, seed)
    ids = [str(row) for row in range(rows)]
    return Examples(ids, texts, np.array([CLASSES.index(label) for label in labels]))


def fit(classifier, folder, method, **changes):
    settings = resolve(TrainingSettings(method=method, max_length=32, **changes))
    encoder = encoder_fingerprint(classifier.model)
    train, validation = (
        prepare_split(classifier, examples_of(rows, seed), settings, encoder=encoder, name="x")
        for rows, seed in ((60, 0), (30, 1))
    )
    return fit_classifier(classifier, train, validation, settings, metric="accuracy", folder=folder)


def changed(classifier, before):
    """The parameters that differ, by name."""
    state = classifier.model.state_dict()
    return {name for name, value in state.items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("method", ["lp-ft", "lp-lora"])
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_fine_tuning_starts_at_the_scaled_head_of_linear_probing(
    tmp_path, classifier, method, scale
):
    result = fit(classifier, tmp_path / "run", method, epochs=1, head_scale=scale)
    start = result.history[0]
    norm = np.linalg.norm(result.probe.weight)
    assert result.head_norm_at_start == pytest.approx(scale * norm, rel=1e-5)
    assert start["head_norm"] == pytest.approx(scale * norm, rel=1e-5)
    assert start["bias_norm"] == pytest.approx(np.linalg.norm(result.probe.bias), rel=1e-5)


def test_linear_probing_changes_nothing_but_the_head(tmp_path, classifier):
    before = {name: value.clone() for name, value in classifier.model.state_dict().items()}
    result = fit(classifier, tmp_path / "run", "lp")
    assert changed(result.classifier, before) == {"head.weight", "head.bias"}
    assert result.adapter is None
    assert len(result.history) == 1


def test_lora_merges_what_it_trained_into_the_query_and_value_projections_alone(
    tmp_path, classifier
):
    before = {name: value.clone() for name, value in classifier.model.state_dict().items()}
    result = fit(classifier, tmp_path / "run", "lora", epochs=1, learning_rate=1e-2)
    ends = {".".join(name.split(".")[-2:]) for name in changed(result.classifier, before)}
    assert ends == {"query.weight", "value.weight", "head.weight", "head.bias"}
