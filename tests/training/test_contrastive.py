"""Contrastive tuning: its loss, its batches, and the two probes that it lies between."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import save_tiny_model, toy_texts

from lpft.data import Examples
from lpft.errors import InputError
from lpft.model import build_classifier
from lpft.model.inference import encoder_fingerprint, extract_features
from lpft.settings import TrainingSettings, effective_epochs, resolve
from lpft.training.cache import prepare_split
from lpft.training.contrastive import class_order, pair_loss
from lpft.training.finetuning import CheckpointKeeper
from lpft.training.fit import fit_classifier
from lpft.training.probing import fit_probe

CLASSES = ("bad", "good")
SETTINGS = {
    "method": "contrastive",
    "max_length": 32,
    "device": "cpu",
    "epochs": 3,
    "batch_size": 8,
}


def naive_loss(features, labels, weights):
    """The loss pair by pair."""
    terms = {True: [], False: []}
    for i in range(len(labels)):
        for j in range(i):
            cosine = float(features[i] @ features[j] / (features[i].norm() * features[j].norm()))
            same = bool(labels[i] == labels[j])
            terms[same].append((weights[i] * weights[j], (cosine - same) ** 2))
    means = [sum(w * x for w, x in t) / sum(w for w, _ in t) for t in terms.values() if t]
    return sum(means) / len(means)


@pytest.mark.parametrize("labels", [[0, 1, 0, 2, 1, 0], [0, 0, 0], [0, 1, 2]])
def test_the_loss_is_the_mean_over_pairs_of_one_class_and_over_pairs_of_two(labels):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(len(labels), 5, generator=generator)
    rows = torch.rand(len(labels), generator=generator) + 0.5
    classes = torch.tensor([1.0, 2.0, 3.0])
    labels = torch.tensor(labels)
    outputs = SimpleNamespace(features=features)
    weights = (rows * classes[labels]).tolist()
    found = pair_loss(classes)(outputs, labels, None, rows)
    assert float(found) == pytest.approx(naive_loss(features, labels, weights), rel=1e-5)
    half = pair_loss(classes)(outputs, labels, 2 * len(labels), rows)
    assert float(half) == pytest.approx(float(found) / 2)


def test_a_batch_of_one_text_has_a_gradient_of_zero():
    features = torch.ones(1, 3, requires_grad=True)
    loss = pair_loss(torch.ones(2))(SimpleNamespace(features=features), torch.tensor([1]))
    loss.backward()
    assert loss.item() == 0
    assert features.grad.tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("sizes", [(8, 8, 8), (5, 1, 30), (2,) * 20])
def test_an_epoch_has_every_row_once_with_others_of_its_class_beside_it(sizes):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    order = class_order(labels, np.random.default_rng(1))
    assert sorted(order.tolist()) == list(range(len(labels)))
    ordered = labels[order]
    alone = [
        label
        for place, label in enumerate(ordered)
        if label
        not in ordered[max(place - 1, 0) : place].tolist() + ordered[place + 1 : place + 2].tolist()
    ]
    assert alone == [label for label, size in enumerate(sizes) if size == 1]
    assert not np.array_equal(order, class_order(labels, np.random.default_rng(2)))


@pytest.mark.parametrize(("rows", "steps", "epochs"), [(40, 1000, 3.0), (40, 10, 2.0), (7, 2, 2.0)])
def test_epochs_end_where_the_steps_do(rows, steps, epochs):
    settings = resolve(TrainingSettings(**SETTINGS, contrastive_steps=steps))
    assert effective_epochs(settings, rows) == epochs  # 5 steps an epoch of 40 rows, 1 of 7


@pytest.fixture
def classifier(tmp_path):
    folder = save_tiny_model("bert", tmp_path / "model")
    return build_classifier(str(folder), CLASSES, seed=0, pooling="mean", max_length=32)


def inputs(classifier, rows, seed, settings, *, pairs=False):
    texts, labels = toy_texts(rows, seed)
    if pairs:
        texts = [(text, text[::-1]) for text in texts]
    indices = np.array([CLASSES.index(label) for label in labels])
    examples = Examples([str(row) for row in range(rows)], texts, indices)
    encoder = encoder_fingerprint(classifier.model)
    return prepare_split(classifier, examples, settings, encoder=encoder, name="x")


def fit(classifier, folder, kind="file", rows=40, *, pairs=False, **changes):
    settings = resolve(TrainingSettings(**(SETTINGS | changes)))
    train = inputs(classifier, rows, 0, settings, pairs=pairs)
    validation = inputs(classifier, 30, 1, settings, pairs=pairs)
    return train, fit_classifier(
        classifier,
        train,
        None if kind == "folds" else validation,
        settings,
        metric="accuracy",
        folder=folder,
        kind=kind,
    )


@pytest.mark.parametrize("pairs", [False, True])
def test_the_head_is_the_probe_of_the_tuned_features_at_the_strength_of_the_first(
    tmp_path, classifier, pairs
):
    before = classifier.model.encoder.state_dict()["embeddings.word_embeddings.weight"].clone()
    train, result = fit(classifier, tmp_path / "run", "paper", pairs=pairs, learning_rate=1e-3)
    model = result.classifier.model
    after = model.encoder.state_dict()["embeddings.word_embeddings.weight"]
    assert not torch.equal(before, after)
    features = extract_features(model, train.tokens, device=torch.device("cpu"))
    first = fit_probe(train.pretrained, train.labels, 2, scoring="log-loss")
    last = fit_probe(features, train.labels, 2, inverse_strength=first.inverse_strength)
    np.testing.assert_allclose(result.probe.weight, first.weight)
    np.testing.assert_allclose(model.head.weight.detach(), last.weight, rtol=1e-4, atol=1e-6)
    start, *steps, end = result.history
    assert (start["event"], end["event"]) == ("evaluation", "evaluation")
    assert (start["epoch"], end["epoch"]) == (0, 3)
    assert start["head_norm"] == pytest.approx(np.linalg.norm(first.weight))
    assert start["feature_difference"] == 0 < end["feature_difference"]
    assert steps[-1]["step"] == 15  # 5 an epoch
    # rises over 2 of 15 steps, then falls: the rate of step 15 is 1e-3 (15 - 14) / (15 - 2)
    assert steps[-1]["learning_rate"] == pytest.approx(1e-3 / 13)
    assert result.best.epoch == result.best.epochs == 3


def test_tuning_brings_texts_of_one_class_together(tmp_path, classifier):
    train, result = fit(classifier, tmp_path / "run", "paper", learning_rate=1e-3, epochs=10)

    def gap(features):
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
        cosine, same = unit @ unit.T, train.labels[:, None] == train.labels
        return cosine[same].mean() - cosine[~same].mean()

    model = result.classifier.model
    after = extract_features(model, train.tokens, device=torch.device("cpu"))
    assert gap(after) > gap(train.pretrained) + 0.1


@pytest.mark.parametrize("kind", ["file", "folds"])
def test_a_probe_that_tuning_does_not_beat_is_what_is_kept(tmp_path, classifier, kind):
    before = {name: value.clone() for name, value in classifier.model.state_dict().items()}
    _, result = fit(classifier, tmp_path / "run", kind, learning_rate=0.3)
    assert (result.best.epoch, result.best.probe_won) == (0, True)
    assert "contrastive tuning" in result.best.note
    after = result.classifier.model.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"head.weight", "head.bias"}
    np.testing.assert_allclose(after["head.weight"], result.probe.weight, rtol=1e-5, atol=1e-7)


def test_folds_score_each_row_by_an_encoder_that_was_tuned_without_it(
    tmp_path, classifier, monkeypatch
):
    tuned_on = []
    original = CheckpointKeeper.on_step_end

    def spy(self, args, state, control, **others):
        rows = others["train_dataloader"].dataset
        tuned_on.append(tuple(rows[0][0].tokens.fingerprint() for _ in rows[:1]))
        return original(self, args, state, control, **others)

    monkeypatch.setattr(CheckpointKeeper, "on_step_end", spy)
    train, result = fit(classifier, tmp_path / "run", "folds", rows=20, learning_rate=1e-3)
    fold = train.folds()
    expected = {(train.select(np.flatnonzero(fold != k)).tokens.fingerprint(),) for k in range(5)}
    assert expected <= set(tuned_on)
    assert result.validation.rows.tolist() == list(range(20))
    accuracy = (result.validation.logits.argmax(1) == result.validation.labels).mean()
    assert accuracy == pytest.approx(result.best.score)


def without_loss(history):
    return [{name: value for name, value in row.items() if name != "loss"} for row in history]


@pytest.mark.parametrize("kind", ["file", pytest.param("folds", marks=pytest.mark.heavy)])
def test_a_tuning_that_was_stopped_goes_on_to_the_same_result(
    tmp_path, classifier, monkeypatch, kind
):
    monkeypatch.setattr("lpft.training.checkpoints.MINUTES_BETWEEN_CHECKPOINTS", 0.0)
    settings = {"rows": 20, "learning_rate": 1e-3}
    again = build_classifier(
        str(tmp_path / "model"), CLASSES, seed=0, pooling="mean", max_length=32
    )
    _, whole = fit(again, tmp_path / "whole", kind, **settings)
    count = 0

    def stopping(*_, **__):
        nonlocal count
        count += 1
        if count == (5 if kind == "file" else 28):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointKeeper, "on_step_begin", stopping)
        with pytest.raises(KeyboardInterrupt):
            fit(classifier, tmp_path / "run", kind, **settings)
    assert list((tmp_path / "run").rglob("checkpoint-*"))
    again = build_classifier(
        str(tmp_path / "model"), CLASSES, seed=0, pooling="mean", max_length=32
    )
    _, resumed = fit(again, tmp_path / "run", kind, **settings)
    # A loss is the mean since the last row, or since a training went on.
    assert without_loss(resumed.history) == without_loss(whole.history)
    assert resumed.best == whole.best
    np.testing.assert_array_equal(resumed.validation.logits, whole.validation.logits)
    for name, value in whole.classifier.model.state_dict().items():
        assert torch.equal(resumed.classifier.model.state_dict()[name], value), name


def test_without_sentence_transformers_an_error_says_what_to_install(
    tmp_path, classifier, monkeypatch
):
    monkeypatch.setattr("lpft.settings.methods.find_spec", lambda _name: None)
    with pytest.raises(InputError, match=r"pip install 'lpft\[contrastive\]'"):
        fit(classifier, tmp_path / "run")
