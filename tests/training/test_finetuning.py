"""Fine-tuning against a plain torch loop, hand-made losses and its own history."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import save_tiny_model, toy_texts
from torch.nn.functional import cross_entropy
from transformers import Trainer

from lpft.data.tokens import tokenize
from lpft.errors import InputError
from lpft.memory import recorded_reductions
from lpft.model import build_classifier
from lpft.model.adapters import adapt
from lpft.model.inference import extract_features, head_logits
from lpft.settings import TrainingSettings, resolve
from lpft.settings.methods import get_method
from lpft.training.cache import SplitInputs
from lpft.training.finetuning import _mean_loss, _SeededLengthSampler, check_trackers, finetune
from lpft.training.history import EpochRule

CPU = torch.device("cpu")
CLASSES = ("bad", "good")


@pytest.fixture
def classifier(tmp_path):
    folder = save_tiny_model("bert", tmp_path / "model")
    return build_classifier(str(folder), CLASSES, seed=0, pooling="mean", max_length=32)


def split_of(classifier, rows, seed=0):
    texts, labels = toy_texts(rows, seed)
    tokens = tokenize(classifier.tokenizer, texts, 32)
    indices = np.array([CLASSES.index(label) for label in labels])
    return SplitInputs(tokens, indices, extract_features(classifier.model, tokens, device=CPU))


def run(classifier, train, validation, folder, **changes):
    changes = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3, "device": "cpu"} | changes
    history = []
    finetune(
        classifier.model,
        train,
        validation,
        resolve(TrainingSettings(**changes)),
        rule=EpochRule("accuracy", start_counts=False),
        folder=folder / "checkpoints",
        on_history=lambda rows: history.__setitem__(slice(None), rows),
    )
    return history


def without_dropout(classifier):
    for module in classifier.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout_prob"):
            module.dropout_prob = 0.0
    return classifier


def test_patience_ends_training_so_many_epochs_after_the_best_and_changes_nothing_before(
    classifier, tmp_path
):
    train, validation = split_of(classifier, 24), split_of(classifier, 16, seed=1)
    start = copy.deepcopy(classifier.model.state_dict())
    every = run(classifier, train, validation, tmp_path / "every", epochs=8)
    classifier.model.load_state_dict(start)
    ended = run(classifier, train, validation, tmp_path / "ended", epochs=8, patience=2)
    assert ended == every[: len(ended)]
    # killed after its last epoch, it ends there again
    best = copy.deepcopy(classifier.model.state_dict())
    classifier.model.load_state_dict(start)
    again = run(classifier, train, validation, tmp_path / "ended", epochs=8, patience=2)
    assert again == ended
    for name, value in classifier.model.state_dict().items():
        assert torch.equal(value, best[name]), name

    scores = [row["validation_accuracy"] for row in every if row["event"] == "evaluation"]
    best = 1  # the start is not kept
    for epoch, score in enumerate(scores):
        best = epoch if epoch > 1 and score > scores[best] else best
        if epoch - best == 2:
            break
    assert epoch < 8
    assert len([row for row in ended if row["event"] == "evaluation"]) == epoch + 1


@pytest.mark.parametrize(
    ("class_weight", "by_class"),
    [(None, [1.0, 1.0]), ("balanced", [24 / 32, 24 / 16]), ({"good": 3.0}, [1.0, 3.0])],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_an_epoch_is_that_of_a_plain_loop_of_adamw_with_linear_decay(
    classifier, tmp_path, class_weight, by_class, weighted
):
    without_dropout(classifier)
    train, validation = split_of(classifier, 24), split_of(classifier, 8, seed=1)
    train.labels[:8] = 0  # 16 rows are bad, 8 good
    row_weights = torch.ones(24)
    if weighted:
        row_weights = torch.linspace(0.1, 2, 24)
        if class_weight == "balanced":  # by the sums of the rows' weights
            sums = [row_weights[torch.tensor(train.labels == label)].sum() for label in (0, 1)]
            by_class = [row_weights.sum() / (2 * total) for total in sums]
        train = replace(train, weights=row_weights.double().numpy())
    plain = copy.deepcopy(classifier.model).train()
    changes = {"weight_decay": 0.01, "class_weight": class_weight}
    run(classifier, train, validation, tmp_path, **changes)

    weights = torch.tensor(by_class)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=0.01)
    order = list(_SeededLengthSampler(train.tokens.lengths.tolist(), 8, seed=0))
    assert np.bincount(train.labels).tolist() == [16, 8]
    for step in range(3):
        rows = order[8 * step : 8 * step + 8]
        labels = torch.tensor(train.labels[rows])
        losses = cross_entropy(plain(**train.tokens.batch(rows)).logits, labels, reduction="none")
        optimizer.zero_grad()
        (row_weights[rows] * weights[labels] * losses).mean().backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 - step / 3)
            decayed = group["params"]
        assert len(decayed) == len(list(plain.parameters()))
        optimizer.step()
    for name, parameter in plain.named_parameters():
        trained = classifier.model.get_parameter(name)
        # Trainer leaves biases and layer norms out of the decay; at 1e-5 a step it is 3e-5 at most.
        torch.testing.assert_close(trained, parameter, atol=5e-5, rtol=1e-4, msg=name)


def test_the_model_ends_at_its_best_epoch(classifier, tmp_path):
    train, validation = split_of(classifier, 64), split_of(classifier, 30, seed=1)
    history = run(classifier, train, validation, tmp_path, epochs=6, learning_rate=3e-3)
    evaluations = [row for row in history if row["event"] == "evaluation"]
    assert [row["epoch"] for row in evaluations] == list(range(7))
    best = max(row["validation_accuracy"] for row in evaluations[1:])
    features = extract_features(classifier.model, validation.tokens, device=CPU)
    logits = head_logits(classifier.model, features)
    assert (logits.argmax(1) == validation.labels).mean() == pytest.approx(best)
    drift = np.linalg.norm(features - validation.pretrained, axis=1).mean()
    equals = [row for row in evaluations[1:] if row["validation_accuracy"] == best]
    chosen = min(equals, key=lambda row: row["validation_calibrated_nll"])
    assert chosen["feature_difference"] == pytest.approx(drift, rel=1e-5)
    norm = np.linalg.norm(classifier.model.head.weight.detach().numpy())
    assert chosen["head_norm"] == pytest.approx(norm, rel=1e-6)
    assert evaluations[0]["feature_difference"] == pytest.approx(0, abs=1e-5)
    steps = [row["step"] for row in history if row["event"] == "training"]
    assert steps == sorted(set(steps))


def test_the_order_of_batches_depends_on_seed_and_epoch_alone():
    lengths = np.random.default_rng(0).integers(3, 60, 500).tolist()

    def order(seed, epoch):
        sampler = _SeededLengthSampler(lengths, 8, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    torch.manual_seed(1)
    first = order(3, 2)
    torch.manual_seed(2)
    assert order(3, 2) == first
    assert sorted(first) == list(range(500))
    assert len({tuple(order(seed, epoch)) for seed in (0, 1, 2) for epoch in (0, 1, 2)}) == 9
    spread = [np.ptp([lengths[row] for row in first[k : k + 8]]) for k in range(0, 496, 8)]
    assert np.median(spread) < 5


def test_class_weights_are_averaged_over_rows_not_over_weights():
    class Outputs:
        logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]])

    labels = torch.tensor([0, 0, 1])
    # Of 8 training rows 2 and 6 are of the classes: weights 8 / (2 * 2) and 8 / (2 * 6); class 2
    # has none.
    mean_loss = _mean_loss("balanced", np.array([0, 1, 1, 1, 1, 1, 1, 0]), 3, CPU)
    terms = [2 * np.log(1 + np.exp(-2)), 2 * np.log(1 + np.exp(1)), 2 / 3 * np.log(2)]
    assert mean_loss(Outputs, labels).item() == pytest.approx(np.mean(terms), rel=1e-6)


def test_unknown_trackers_are_refused():
    assert check_trackers("none") == ["none"]
    with pytest.raises(InputError, match="nonsense is unknown"):
        check_trackers("none, nonsense")


def short_of_memory(classifier, monkeypatch, rows, error, *, training=True, after=0):
    """A forward pass of more than ``rows`` texts fails, once so many passes have not."""
    real, passes = classifier.model.forward, []

    def forward(*arguments, **inputs):
        passes.append(len(inputs["input_ids"]))
        if classifier.model.training == training and passes[-1] > rows and len(passes) > after:
            raise error
        return real(*arguments, **inputs)

    monkeypatch.setattr(classifier.model, "forward", forward)
    return passes


CPU_ERROR = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")


@pytest.mark.parametrize(
    ("error", "after"),
    [
        (CPU_ERROR, 7),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), 0),
        (MemoryError(), 0),
    ],
    ids=["cpu, later", "cuda, at once", "python, at once"],
)
def test_out_of_memory_halves_what_is_computed_at_once_and_not_the_batch(
    classifier, tmp_path, monkeypatch, caplog, error, after
):
    without_dropout(classifier)
    train, validation = split_of(classifier, 27), split_of(classifier, 8, seed=1)
    train = replace(train, weights=np.linspace(0.5, 1.5, 27))
    start = copy.deepcopy(classifier.model.state_dict())
    expected = run(classifier, train, validation, tmp_path / "whole", epochs=3)
    trained = copy.deepcopy(classifier.model.state_dict())
    classifier.model.load_state_dict(start)
    with recorded_reductions() as reductions:
        passes = short_of_memory(classifier, monkeypatch, 3, error, after=after)
        history = run(classifier, train, validation, tmp_path / "parts", epochs=3)
    assert [(one.during, one.rows) for one in reductions] == [("fine-tuning", 2)]
    assert max(passes[-30:]) <= 8  # of evaluation
    lines = [record.getMessage() for record in caplog.records if "memory" in record.getMessage()]
    assert len(lines) == 2
    assert "with 8 texts at once: now 4, in 2 parts of each batch, which stays 8" in lines[0]
    assert [row["step"] for row in history] == [row["step"] for row in expected]
    for row, other in zip(history, expected, strict=True):
        assert row.pop("event") == other.pop("event")
        assert row == pytest.approx(other, rel=1e-3, abs=1e-4)
    for name, value in classifier.model.state_dict().items():
        torch.testing.assert_close(value, trained[name], atol=1e-5, rtol=1e-4)


def test_out_of_memory_in_evaluation_halves_its_batches(classifier, tmp_path, monkeypatch):
    train, validation = split_of(classifier, 16), split_of(classifier, 30, seed=1)
    start = copy.deepcopy(classifier.model.state_dict())
    expected = run(classifier, train, validation, tmp_path / "whole")
    classifier.model.load_state_dict(start)
    with recorded_reductions() as reductions:
        short_of_memory(classifier, monkeypatch, 20, CPU_ERROR, training=False)
        history = run(classifier, train, validation, tmp_path / "parts")
    assert [(one.during, one.rows) for one in reductions] == [("evaluation during fine-tuning", 15)]
    for row, other in zip(history, expected, strict=True):
        assert row.pop("event") == other.pop("event")
        assert row == pytest.approx(other, rel=1e-4, abs=1e-5)


def test_a_batch_of_an_odd_size_keeps_it_in_equal_parts(classifier, tmp_path, monkeypatch):
    train, validation = split_of(classifier, 18), split_of(classifier, 8, seed=1)
    passes = short_of_memory(classifier, monkeypatch, 4, CPU_ERROR)
    history = run(classifier, train, validation, tmp_path, batch_size=9)
    assert {rows for rows in passes if rows != 8} == {9, 3}
    assert [row["step"] for row in history if row["event"] == "evaluation"] == [0, 2]


def test_one_text_that_does_not_fit_is_a_clear_error(classifier, tmp_path, monkeypatch):
    train, validation = split_of(classifier, 16), split_of(classifier, 8, seed=1)
    short_of_memory(classifier, monkeypatch, 0, CPU_ERROR)
    with pytest.raises(InputError, match="does not fit in memory: fine-tuning failed with one"):
        run(classifier, train, validation, tmp_path)


def test_other_errors_are_not_taken_for_a_lack_of_memory(classifier, tmp_path, monkeypatch):
    train, validation = split_of(classifier, 16), split_of(classifier, 8, seed=1)
    short_of_memory(classifier, monkeypatch, 0, RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        run(classifier, train, validation, tmp_path)


def test_a_training_in_parts_that_was_stopped_goes_on_in_parts_to_the_same_result(
    classifier, tmp_path, monkeypatch
):
    train, validation = split_of(classifier, 24), split_of(classifier, 8, seed=1)
    start = copy.deepcopy(classifier.model.state_dict())
    short_of_memory(classifier, monkeypatch, 4, CPU_ERROR)
    expected = run(classifier, train, validation, tmp_path / "whole", epochs=3)
    trained = copy.deepcopy(classifier.model.state_dict())
    classifier.model.load_state_dict(start)
    steps, real = [], Trainer.training_step

    def stopped(*arguments, **keywords):
        steps.append(None)
        if len(steps) == 10:
            raise KeyboardInterrupt
        return real(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "training_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(classifier, train, validation, tmp_path / "stopped", epochs=3)
    classifier.model.load_state_dict(start)
    passes = short_of_memory(classifier, monkeypatch, 4, CPU_ERROR)
    with recorded_reductions() as reductions:
        history = run(classifier, train, validation, tmp_path / "stopped", epochs=3)
    assert 8 not in [count for count in passes if count != len(validation.labels)]
    assert [(one.during, one.rows) for one in reductions] == [("fine-tuning", 4)]
    assert history == expected
    for name, value in classifier.model.state_dict().items():
        assert torch.equal(value, trained[name]), name


def trained_weights(classifier, tmp_path, **changes):
    """The weights that two epochs of fine-tuning end with, and the most rows in one pass."""
    train, validation = split_of(classifier, 24), split_of(classifier, 8, seed=1)
    start, real, passes = copy.deepcopy(classifier.model.state_dict()), classifier.model.forward, []

    def forward(*arguments, **inputs):
        if classifier.model.training:
            passes.append(len(inputs["input_ids"]))
        return real(*arguments, **inputs)

    classifier.model.forward = forward
    run(classifier, train, validation, tmp_path, epochs=2, **changes)
    del classifier.model.forward
    weights = copy.deepcopy(classifier.model.state_dict())
    classifier.model.load_state_dict(start)
    return weights, max(passes)


def test_parts_of_a_batch_are_the_whole_batch(classifier, tmp_path):
    without_dropout(classifier)
    whole, most = trained_weights(classifier, tmp_path / "whole")
    assert most == 8
    parts, most = trained_weights(classifier, tmp_path / "parts", gradient_accumulation_steps=4)
    assert most == 2
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, atol=1e-5, rtol=1e-4)
    with pytest.raises(InputError, match="expected a divisor of batch_size 8"):
        resolve(TrainingSettings(batch_size=8, gradient_accumulation_steps=3))


def test_layers_that_are_computed_twice_change_nothing(classifier, tmp_path):
    # with dropout, whose elements must be the same in both
    kept, _ = trained_weights(classifier, tmp_path / "kept")
    layer = type(classifier.model.encoder.encoder.layer[0])
    calls, real = [], layer.feed_forward_chunk

    def counted(*arguments):
        calls.append(torch.is_grad_enabled())
        return real(*arguments)

    layer.feed_forward_chunk = counted
    try:
        twice, _ = trained_weights(classifier, tmp_path / "twice", gradient_checkpointing=True)
    finally:
        layer.feed_forward_chunk = real
    assert sum(calls) == 2 * 2 * 6  # layers, computed twice, in six steps
    for name, value in kept.items():
        assert torch.equal(twice[name], value), name
    assert not classifier.model.is_activation_checkpointing


def test_a_prefix_does_not_train_with_layers_that_are_computed_twice(tmp_path):
    folder = save_tiny_model("gpt2", tmp_path / "model")
    classifier = build_classifier(str(folder), CLASSES, seed=0, max_length=32)
    settings = resolve(TrainingSettings(method="prefix", prefix_length=2, batch_size=8))
    prefixed = adapt(classifier.model, get_method("prefix"), settings)
    changes = {"method": "prefix", "gradient_checkpointing": True}
    rows = split_of(classifier, 16)
    with pytest.raises(InputError, match="gradient_checkpointing does not work here"):
        run(replace(classifier, model=prefixed), rows, rows, tmp_path, **changes)
