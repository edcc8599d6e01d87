"""Features: those of each text alone, whatever the batches, the mode and what is trained."""

import numpy as np
import pytest
import torch
from tiny_models import save_tiny_model, toy_texts

from lpft.data.tokens import tokenize
from lpft.errors import InputError
from lpft.model import build_classifier
from lpft.model.inference import extract_features, head_logits

CPU = torch.device("cpu")


@pytest.fixture
def classifier(tmp_path):
    folder = save_tiny_model("bert", tmp_path / "model")
    return build_classifier(str(folder), ("bad", "good"), seed=0, max_length=32)


@pytest.fixture
def tokens(classifier):
    return tokenize(classifier.tokenizer, toy_texts(40)[0], 32)


def test_length_grouped_features_are_those_of_each_text_alone(classifier, tokens):
    features = extract_features(classifier.model, tokens, device=CPU)
    with torch.no_grad():
        alone = torch.cat([classifier.model.features(**tokens.batch([k])) for k in range(40)])
    np.testing.assert_allclose(features, alone.numpy(), atol=2e-6)
    assert features.dtype == np.float32


def test_dropout_is_off_and_the_mode_is_left_as_it_was(classifier, tokens):
    classifier.model.train()
    first = extract_features(classifier.model, tokens, device=CPU)
    second = extract_features(classifier.model, tokens, device=CPU)
    np.testing.assert_array_equal(first, second)
    assert classifier.model.training


def test_logits_from_features_are_the_models_own(classifier, tokens):
    features = extract_features(classifier.model, tokens, device=CPU)
    with torch.no_grad():
        logits = classifier.model(**tokens.batch(range(40))).logits
    np.testing.assert_allclose(head_logits(classifier.model, features), logits, atol=1e-6)


def test_parameters_can_still_be_trained_after_being_moved(classifier, tokens):
    move = classifier.model.to

    def moved(device):
        classifier.model._apply(torch.clone)
        return move(device)

    classifier.model.to = moved
    extract_features(classifier.model, tokens, device=torch.device("cpu", 0))  # not the CPU's name
    assert not any(parameter.is_inference() for parameter in classifier.model.parameters())
    classifier.model(**tokens.batch([0, 1])).logits.sum().backward()
    assert classifier.model.head.weight.grad is not None


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("can't allocate memory"),
    ],
)
def test_out_of_memory_halves_what_is_read_at_once_for_good(classifier, monkeypatch, caplog, error):
    tokens = tokenize(classifier.tokenizer, toy_texts(40)[0], 12)  # few enough for one batch
    expected = extract_features(classifier.model, tokens, device=CPU)
    real, read = classifier.model.features, []

    def features(**inputs):
        read.append(len(inputs["input_ids"]))
        if read[-1] > 6:
            raise error
        return real(**inputs)

    monkeypatch.setattr(classifier.model, "features", features)
    found = extract_features(classifier.model, tokens, device=CPU, description="predicting")
    np.testing.assert_allclose(found, expected, atol=2e-6)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "out of memory in predicting with 40 texts at once: now 20"
    assert [line.rpartition(" ")[2] for line in lines] == ["20", "10", "5"]
    read.clear()
    extract_features(classifier.model, tokens, device=CPU)
    assert read == [5] * 8
    monkeypatch.setattr(classifier.model, "features", lambda **_: (_ for _ in ()).throw(error))
    with pytest.raises(InputError, match="does not fit in memory: predicting failed with one text"):
        extract_features(classifier.model, tokens, device=CPU, description="predicting")
