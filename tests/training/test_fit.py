"""One training: where fine-tuning starts, and what each method changes."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.metrics import log_loss
from tiny_models import save_tiny_model, toy_texts

from lpft.data import Examples
from lpft.data.splits import fold_numbers
from lpft.data.tokens import tokenize
from lpft.model import build_classifier
from lpft.model.adapters import adapt
from lpft.model.encoder import seeded
from lpft.model.inference import encoder_fingerprint
from lpft.settings import TrainingSettings, resolve
from lpft.settings.methods import get_method
from lpft.training.cache import prepare_split
from lpft.training.finetuning import finetune_for, finetune_scored
from lpft.training.fit import fit_classifier
from lpft.training.probing import fit_probe, out_of_fold_logits

CLASSES = ("bad", "good")


@pytest.fixture
def classifier(tmp_path):
    folder = save_tiny_model("bert", tmp_path / "model")
    return build_classifier(str(folder), CLASSES, seed=0, pooling="mean", max_length=32)


def examples_of(rows, seed):
    texts, labels = toy_texts(rows, seed)
    ids = [str(row) for row in range(rows)]
    return Examples(ids, texts, np.array([CLASSES.index(label) for label in labels]))


def fit(classifier, folder, method, kind="file", rows=60, **changes):
    settings = resolve(TrainingSettings(method=method, max_length=32, device="cpu", **changes))
    encoder = encoder_fingerprint(classifier.model)
    train, validation = (
        prepare_split(classifier, examples_of(count, seed), settings, encoder=encoder, name="x")
        for count, seed in ((rows, 0), (30, 1))
    )
    return fit_classifier(
        classifier,
        train,
        None if kind == "folds" else validation,
        settings,
        metric="accuracy",
        folder=folder,
        kind=kind,
    )


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
    assert start["bias_norm"] == pytest.approx(scale * np.linalg.norm(result.probe.bias), rel=1e-5)


P_TUNING = {"peft_type": "P_TUNING", "num_virtual_tokens": 3, "encoder_hidden_size": 8}
RANDOM_LORA = {"peft_type": "LORA", "init_lora_weights": False, "target_modules": ["query"]}
STARTS = (
    *(("lp-bitfit", {}), ("lp-ia3", {}), ("lp-prefix", {"prefix_length": 4})),
    *(("lp-peft", {"peft_config": content}) for content in (P_TUNING, RANDOM_LORA)),
)


@pytest.mark.parametrize(("method", "changes"), STARTS)
def test_fine_tuning_starts_at_a_probe_of_the_features_that_it_starts_from(
    tmp_path, classifier, method, changes
):
    """Where virtual tokens or a configuration move the features at once, the probe is theirs."""
    model = copy.deepcopy(classifier.model)
    settings = resolve(TrainingSettings(method=method, device="cpu", **changes))
    with seeded(0):
        adapted = adapt(model, get_method(method), settings).eval()
    network = getattr(adapted, "base_model", adapted)
    network = getattr(network, "model", network)
    features, labels = {}, {}
    for name, (rows, seed) in {"train": (60, 0), "validation": (30, 1)}.items():
        examples = examples_of(rows, seed)
        tokens = tokenize(classifier.tokenizer, examples.texts, 32)
        with torch.no_grad():
            features[name] = network.features(**tokens.batch(np.arange(rows))).numpy()
        labels[name] = examples.labels
    moved = np.abs(features["train"] - plain_features(classifier)).max() > 1e-4
    assert moved == (method in ("lp-prefix", "lp-peft"))

    result = fit(classifier, tmp_path / "run", method, epochs=1, **changes)
    expected = fit_probe(features["train"], labels["train"], 2, scoring="log-loss")
    # last digits of the features, by how texts are batched, reach further digits of the fit
    np.testing.assert_allclose(result.probe.weight, expected.weight, rtol=0.1, atol=0.05)
    logits = features["validation"] @ result.probe.weight.T + result.probe.bias
    start = result.history[0]
    assert start["epoch"] == 0
    entropy = log_loss(labels["validation"], softmax(logits, axis=1))
    assert start["validation_loss"] == pytest.approx(entropy, rel=1e-3)
    right = (logits.argmax(axis=1) == labels["validation"]).mean()
    assert start["validation_accuracy"] == pytest.approx(right)


def plain_features(classifier):
    tokens = tokenize(classifier.tokenizer, examples_of(60, 0).texts, 32)
    with torch.no_grad():
        return classifier.model.features(**tokens.batch(np.arange(60))).numpy()


def test_folds_start_from_one_prefix_too(tmp_path, classifier):
    result = fit(classifier, tmp_path / "run", "lp-prefix", kind="folds", epochs=1)
    assert result.validation.kind == "folds"
    assert result.classifier.model.virtual_tokens.table.shape == (16, 2 * 2 * 32)
    assert result.adapter is None


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


RUINOUS = {"epochs": 2, "learning_rate": 0.3}


def state_of(classifier):
    return {name: value.clone() for name, value in classifier.model.state_dict().items()}


@pytest.mark.parametrize("method", ["lp-ft", "lp-lora"])
@pytest.mark.parametrize("kind", ["file", "folds"])
def test_a_probe_that_no_epoch_beats_is_what_is_kept(tmp_path, classifier, method, kind):
    before = state_of(classifier)
    result = fit(classifier, tmp_path / "run", method, kind, **RUINOUS)
    assert (result.best.epoch, result.best.epochs, result.best.probe_won) == (0, 2, True)
    assert "probe was kept" in result.best.note
    after = result.classifier.model.state_dict()
    assert changed(result.classifier, before) == {"head.weight", "head.bias"}
    weight = resolve(TrainingSettings(method=method)).head_scale * result.probe.weight
    np.testing.assert_allclose(after["head.weight"], weight, rtol=1e-5, atol=1e-7)
    if method == "lp-lora":
        assert (result.adapter / "adapter_model.safetensors").is_file()


def test_a_random_head_is_never_what_is_kept(tmp_path, classifier):
    result = fit(classifier, tmp_path / "run", "ft", **RUINOUS)
    assert result.best.epoch > 0
    assert not result.best.probe_won
    assert result.undertrained  # always the same class


def test_the_papers_rule_keeps_an_epoch_of_fine_tuning_and_says_that_the_probe_was_better(
    tmp_path, classifier
):
    result = fit(classifier, tmp_path / "run", "lp-ft", "paper", **RUINOUS)
    scores = [row["validation_accuracy"] for row in result.history if row["event"] == "evaluation"]
    assert scores[0] > max(scores[1:])
    assert result.best.epoch == 1 + int(np.argmax(scores[1:]))
    assert result.best.score == max(scores[1:])
    assert "better on validation" in result.best.note


def test_probing_by_folds_trains_on_every_row_and_is_scored_by_models_without_it(
    tmp_path, classifier
):
    result = fit(classifier, tmp_path / "run", "lp", "folds", rows=23)
    features = result.validation.rows
    assert features.tolist() == list(range(23))
    assert (result.validation.kind, result.validation.folds) == ("folds", 5)
    encoder = encoder_fingerprint(classifier.model)
    settings = resolve(TrainingSettings(method="lp", max_length=32))
    train = prepare_split(classifier, examples_of(23, 0), settings, encoder=encoder, name="x")
    whole = fit_probe(train.pretrained, train.labels, 2, scoring="log-loss")
    np.testing.assert_array_equal(result.probe.weight, whole.weight)
    expected = out_of_fold_logits(
        train.pretrained, train.labels, 2, inverse_strength=whole.inverse_strength
    )
    np.testing.assert_allclose(result.validation.logits, expected, rtol=1e-6)
    (row,) = result.history
    right = (expected.argmax(1) == train.labels).mean()
    assert row["validation_accuracy"] == pytest.approx(right)


def test_the_last_training_after_folds_starts_at_the_folds_usual_strength(tmp_path, classifier):
    result = fit(classifier, tmp_path / "run", "lp-ft", "folds", rows=30, **RUINOUS)
    settings = resolve(TrainingSettings(method="lp", max_length=32))
    encoder = encoder_fingerprint(classifier.model)
    train = prepare_split(classifier, examples_of(30, 0), settings, encoder=encoder, name="x")
    fold = fold_numbers(train.labels)
    strengths = [
        fit_probe(
            train.pretrained[fold != k], train.labels[fold != k], 2, scoring="log-loss"
        ).inverse_strength
        for k in range(5)
    ]
    assert result.probe.inverse_strength == np.median(strengths)
    assert len(result.probe.weight) == 2


def test_folds_choose_the_epoch_and_all_rows_train_for_as_long(tmp_path, classifier, monkeypatch):
    trained = []
    monkeypatch.setattr(
        "lpft.training.fit.finetune_for",
        lambda _model, train, _settings, **options: trained.append(
            (len(train.labels), options["epochs"])
        ),
    )
    result = fit(classifier, tmp_path / "run", "ft", "folds", rows=24, epochs=3, learning_rate=3e-3)
    scored = [row for row in result.history if row["event"] == "evaluation"]
    assert [row["epoch"] for row in scored] == [0, 1, 2, 3]
    accuracy = (result.validation.logits.argmax(1) == result.validation.labels).mean()
    assert accuracy == pytest.approx(max(row["validation_accuracy"] for row in scored[1:]))
    last = result.best.epoch == 3
    assert trained == [(24, math.inf if last else result.best.epoch)]


@pytest.mark.parametrize("epochs", [1.0, 2.0])
def test_a_training_that_stops_early_has_taken_the_first_steps_of_the_whole_one(
    tmp_path, classifier, epochs
):
    settings = resolve(
        TrainingSettings(method="ft", max_length=32, epochs=3, learning_rate=1e-3, device="cpu")
    )
    encoder = encoder_fingerprint(classifier.model)
    train = prepare_split(classifier, examples_of(40, 0), settings, encoder=encoder, name="x")
    rows = []
    finetune_for(
        classifier.model,
        train,
        settings,
        epochs=epochs,
        folder=tmp_path / "run",
        on_history=lambda history: rows.__setitem__(slice(None), history),
    )
    # 3 steps an epoch of 9 in all: the rate after step k is 1e-3 (1 - (k - 1) / 9)
    assert [row["step"] for row in rows] == [3, 6][: int(epochs)]
    for row in rows:
        assert row["learning_rate"] == pytest.approx(1e-3 * (1 - (row["step"] - 1) / 9), rel=1e-6)


@pytest.mark.heavy
def test_a_training_by_folds_that_was_stopped_goes_on_to_the_same_result(
    tmp_path, classifier, monkeypatch
):
    start = copy.deepcopy(classifier)
    changes = {"rows": 20, "epochs": 2, "learning_rate": 1e-3}
    whole = fit(classifier, tmp_path / "whole", "lp-ft", "folds", **changes)
    calls = []

    def stopped(*arguments, **options):
        calls.append(options["name"])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return finetune_scored(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr("lpft.training.fit.finetune_scored", stopped)
        with pytest.raises(KeyboardInterrupt):
            fit(copy.deepcopy(start), tmp_path / "run", "lp-ft", "folds", **changes)
    resumed = fit(start, tmp_path / "run", "lp-ft", "folds", **changes)
    assert resumed.best == whole.best
    assert resumed.history == whole.history
    np.testing.assert_array_equal(resumed.validation.logits, whole.validation.logits)
    for name, value in whole.classifier.model.state_dict().items():
        assert torch.equal(resumed.classifier.model.state_dict()[name], value), name
